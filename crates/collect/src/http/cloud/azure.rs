//! Tokens of Microsoft Entra ID (Azure AD): for a secret, for a workload's own token, or of a managed identity.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::environment::Environment;
use super::issuer::{Issuer, form};
use crate::address::AddressPolicy;
use crate::http::fetch::secret;
use crate::http::kept::Kept;
use crate::http::settings::{HttpSettings, HttpSettingsError, Secret};
use crate::http::token_answer::read;
use crate::outcome::ScrapeError;

const WHO: &str = "azure";
const METADATA: &str = "http://169.254.169.254";

/// One of Microsoft's clouds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AzureCloud {
    /// Everybody's.
    #[default]
    Public,
    /// China's.
    China,
    /// That of the government of the United States.
    Government,
}

impl AzureCloud {
    /// Reads Prometheus' word, whatever its case.
    pub fn parse(word: &str) -> Option<AzureCloud> {
        match word.to_ascii_lowercase().as_str() {
            "azurepublic" => Some(AzureCloud::Public),
            "azurechina" => Some(AzureCloud::China),
            "azuregovernment" => Some(AzureCloud::Government),
            _ => None,
        }
    }

    /// Gives Prometheus' word.
    pub fn as_str(self) -> &'static str {
        match self {
            AzureCloud::Public => "AzurePublic",
            AzureCloud::China => "AzureChina",
            AzureCloud::Government => "AzureGovernment",
        }
    }

    fn authority(self) -> &'static str {
        match self {
            AzureCloud::Public => "https://login.microsoftonline.com",
            AzureCloud::China => "https://login.chinacloudapi.cn",
            AzureCloud::Government => "https://login.microsoftonline.us",
        }
    }

    /// What Prometheus asks for, the double slash included: the ingestion of metrics.
    fn scope(self) -> &'static str {
        match self {
            AzureCloud::Public => "https://monitor.azure.com//.default",
            AzureCloud::China => "https://monitor.azure.cn//.default",
            AzureCloud::Government => "https://monitor.azure.us//.default",
        }
    }
}

/// How a token is come by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AzureWay {
    /// The identity that the machine was given; the one of this client id where it has several.
    Managed {
        /// The identity's client id.
        client_id: Option<String>,
    },
    /// An application's own secret.
    Secret {
        /// The application.
        client_id: String,
        /// Its secret.
        client_secret: Secret,
        /// Where it is known.
        tenant_id: String,
    },
    /// A token that Kubernetes gave to the workload.
    Workload {
        /// The application.
        client_id: String,
        /// Where it is known.
        tenant_id: String,
        /// Where the token lies.
        token_file: PathBuf,
    },
    /// What the variables of the environment say: secret, workload, or else the machine's identity.
    Environment {
        /// In the place of `AZURE_TENANT_ID`.
        tenant_id: Option<String>,
    },
}

/// How Azure is shown who asks; Prometheus' `azuread`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AzureOptions {
    /// Which cloud.
    pub cloud: AzureCloud,
    /// How.
    pub way: AzureWay,
    /// What for; ingestion of metrics when absent.
    pub scope: Option<String>,
}

/// Gets tokens and keeps the last one.
pub(crate) struct Azure {
    options: AzureOptions,
    environment: Environment,
    http: Arc<HttpSettings>,
    kept: Kept<String>,
}

impl Azure {
    /// **Errors** when an id is none.
    pub(crate) fn new(options: &AzureOptions, environment: &Environment) -> Result<Azure, HttpSettingsError> {
        let (client, tenant) = match &options.way {
            AzureWay::Managed { client_id } => (client_id.as_deref(), None),
            AzureWay::Secret { client_id, tenant_id, .. } | AzureWay::Workload { client_id, tenant_id, .. } => {
                (Some(client_id.as_str()), Some(tenant_id.as_str()))
            }
            AzureWay::Environment { tenant_id } => (None, tenant_id.as_deref()),
        };
        let bad = |what: &str| HttpSettingsError::Cloud(format!("the provided Azure {what} is invalid"));
        if client.is_some_and(|id| uuid::Uuid::parse_str(id).is_err()) {
            return Err(bad("client_id"));
        }
        // It becomes a part of a path.
        if tenant.is_some_and(|id| !is_tenant(id)) {
            return Err(bad("tenant_id"));
        }
        let http = Arc::new(HttpSettings::default());
        Ok(Azure { options: options.clone(), environment: environment.clone(), http, kept: Kept::default() })
    }

    /// Gives a token that is still good.
    pub(crate) async fn token(&self, timeout: Duration) -> Result<String, ScrapeError> {
        self.kept.get(|| self.fetch(timeout)).await
    }

    pub(crate) fn forget(&self) {
        self.kept.forget();
    }

    async fn fetch(&self, timeout: Duration) -> Result<(String, Duration), ScrapeError> {
        match self.way() {
            AzureWay::Managed { client_id } => self.of_machine(client_id.as_deref(), timeout).await,
            AzureWay::Secret { client_id, client_secret, tenant_id } => {
                let secret = secret(&client_secret).await?;
                self.of_tenant(&tenant_id, &client_id, &[("client_secret", &secret)], timeout).await
            }
            AzureWay::Workload { client_id, tenant_id, token_file } => {
                let token = secret(&Secret::File(token_file)).await?;
                let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
                let proof = [("client_assertion_type", kind), ("client_assertion", token.as_str())];
                self.of_tenant(&tenant_id, &client_id, &proof, timeout).await
            }
            AzureWay::Environment { .. } => self.of_machine(None, timeout).await,
        }
    }

    /// Gives the way; what is left to the environment is looked up there.
    fn way(&self) -> AzureWay {
        let AzureWay::Environment { tenant_id } = &self.options.way else { return self.options.way.clone() };
        let variable = |name: &str| self.environment.get(name);
        let tenant_id = tenant_id.clone().or_else(|| variable("AZURE_TENANT_ID")).filter(|id| is_tenant(id));
        let client_id = variable("AZURE_CLIENT_ID");
        if let (Some(client_id), Some(tenant_id)) = (&client_id, tenant_id) {
            let (client_id, tenant_id) = (client_id.clone(), tenant_id);
            if let Some(text) = variable("AZURE_CLIENT_SECRET") {
                return AzureWay::Secret { client_id, client_secret: Secret::Inline(text), tenant_id };
            }
            if let Some(path) = variable("AZURE_FEDERATED_TOKEN_FILE") {
                return AzureWay::Workload { client_id, tenant_id, token_file: path.into() };
            }
        }
        AzureWay::Managed { client_id }
    }

    fn scope(&self) -> &str {
        self.options.scope.as_deref().unwrap_or(self.options.cloud.scope())
    }

    async fn of_tenant(
        &self,
        tenant_id: &str,
        client_id: &str,
        proof: &[(&str, &str)],
        timeout: Duration,
    ) -> Result<(String, Duration), ScrapeError> {
        let authority = self.environment.get("AZURE_AUTHORITY_HOST");
        let authority = authority.unwrap_or_else(|| self.options.cloud.authority().to_owned());
        let url = format!("{}/{tenant_id}/oauth2/v2.0/token", authority.trim_end_matches('/'));
        let mut pairs = vec![("grant_type", "client_credentials"), ("client_id", client_id), ("scope", self.scope())];
        pairs.extend_from_slice(proof);
        let issuer = Issuer::new(WHO, &url, (&self.http, AddressPolicy::allow_all(), timeout))?;
        read(&issuer.post_form(form(&pairs)).await?, WHO, "access_token")
    }

    /// Asks the service beside an app, where there is one, or else the metadata service of the machine.
    async fn of_machine(&self, client_id: Option<&str>, timeout: Duration) -> Result<(String, Duration), ScrapeError> {
        // The metadata services know resources, not scopes.
        let resource = self.scope().strip_suffix("/.default").unwrap_or(self.scope());
        let variable = |name: &str| self.environment.get(name);
        let beside = variable("IDENTITY_ENDPOINT").zip(variable("IDENTITY_HEADER"));
        let (endpoint, version, header) = match &beside {
            Some((url, key)) => (url.clone(), "2019-08-01", ("x-identity-header", key.as_str())),
            None => {
                let host = variable("AZURE_POD_IDENTITY_AUTHORITY_HOST").unwrap_or_else(|| METADATA.to_owned());
                let url = format!("{}/metadata/identity/oauth2/token", host.trim_end_matches('/'));
                (url, "2018-02-01", ("metadata", "true"))
            }
        };
        let mut pairs = vec![("api-version", version), ("resource", resource)];
        pairs.extend(client_id.map(|id| ("client_id", id)));
        let url = format!("{endpoint}?{}", form(&pairs));
        let issuer = Issuer::next_door("the metadata service of Azure", &url, &self.http, timeout)?;
        read(&issuer.get(&[header]).await?, WHO, "access_token")
    }
}

fn is_tenant(id: &str) -> bool {
    (1..=100).contains(&id.len())
        && !id.starts_with('.')
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
}
