//! Keys of AWS, and requests signed with them.
//!
//! Where keys come from, in this order: the configuration, its profile, the environment, a web identity (EKS), the shared files, the
//! container (ECS, EKS pod identity), the metadata service of the machine (version 2). With a role they are exchanged for its keys.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};
use jiff::Timestamp;
use serde_json::Value;
use url::Url;

use super::environment::Environment;
use super::issuer::{FORM, Issuer, file, form};
use super::profile::{self, Profile};
use super::sigv4::{Keys, Scope, sign, tidy};
use crate::address::AddressPolicy;
use crate::http::fetch::secret;
use crate::http::kept::Kept;
use crate::http::post::Posted;
use crate::http::settings::{HttpSettings, HttpSettingsError, Secret};
use crate::http::token_answer::{failed, life};
use crate::outcome::ScrapeError;

const STS: &str = "AWS STS";
/// Keys that do not end are looked up again now and then: files change.
const STAYING: Duration = Duration::from_secs(600);
/// How long keys of a role are asked for.
const ROLE_S: &str = "3600";
const SESSION: &str = "quiver";

/// How AWS is shown who asks; Prometheus' `sigv4`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sigv4Options {
    /// The region; that of the environment or profile when absent.
    pub region: Option<String>,
    /// What is asked: `aps` is the managed Prometheus.
    pub service: String,
    /// Our key's id.
    pub access_key: Option<String>,
    /// Our key.
    pub secret_key: Option<Secret>,
    /// A profile of the shared files.
    pub profile: Option<String>,
    /// A role that is assumed.
    pub role_arn: Option<String>,
    /// What the role's owner wants to hear.
    pub external_id: Option<String>,
    /// Roles are assumed at an endpoint that is FIPS 140-2 validated.
    pub use_fips_sts_endpoint: bool,
}

impl Default for Sigv4Options {
    fn default() -> Sigv4Options {
        Sigv4Options {
            region: None,
            service: "aps".to_owned(),
            access_key: None,
            secret_key: None,
            profile: None,
            role_arn: None,
            external_id: None,
            use_fips_sts_endpoint: false,
        }
    }
}

/// Signs requests.
pub(crate) struct Aws {
    options: Sigv4Options,
    region: String,
    environment: Environment,
    http: Arc<HttpSettings>,
    kept: Kept<Keys>,
}

type Lasting = (Keys, Duration);

impl Aws {
    /// **Errors** when there is no region, when half a key is given, or when something can be no part of a host's name.
    pub(crate) fn new(options: &Sigv4Options, environment: &Environment) -> Result<Aws, HttpSettingsError> {
        let bad = |text: &str| Err(HttpSettingsError::Cloud(text.to_owned()));
        if options.access_key.is_some() != options.secret_key.is_some() {
            return bad(
                "must provide a AWS SigV4 Access key and Secret Key if credentials are specified in the SigV4 config",
            );
        }
        let named = options.profile.clone().unwrap_or_else(|| profile::default_name(environment));
        let region = options.region.clone();
        let region = region.or_else(|| environment.get("AWS_REGION")).or_else(|| environment.get("AWS_DEFAULT_REGION"));
        let Some(region) = region.or_else(|| profile::read(&named, environment)?.region) else {
            return bad("region not configured in sigv4 or in default credentials chain");
        };
        let is_word = |text: &str| {
            (1..=64).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if !is_word(&region) {
            return bad("the region of sigv4 is none: lower-case letters, digits and dashes");
        }
        if !is_word(&options.service) || options.service == "s3" {
            return bad(
                "the service of sigv4 is lower-case letters, digits and dashes, and not s3, which is signed otherwise",
            );
        }
        let http = Arc::new(HttpSettings::default());
        Ok(Aws { options: options.clone(), region, environment: environment.clone(), http, kept: Kept::default() })
    }

    /// Signs a request; its URL is brought into the form that is signed.
    pub(crate) async fn sign(
        &self,
        timeout: Duration,
        method: &Method,
        url: &mut Url,
        headers: &mut HeaderMap,
        body: &[u8],
    ) -> Result<(), ScrapeError> {
        let keys = self.kept.get(|| self.fetch(timeout)).await?;
        tidy(url);
        let scope = Scope { region: &self.region, service: &self.options.service, at: Timestamp::now() };
        sign(&keys, scope, method.as_str(), url, headers, body)
            .map_err(|_| failed("aws: the keys are no header values"))
    }

    pub(crate) fn forget(&self) {
        self.kept.forget();
    }

    async fn fetch(&self, timeout: Duration) -> Result<Lasting, ScrapeError> {
        let own = self.own(timeout).await?;
        match &self.options.role_arn {
            Some(role) => self.assume(&own.0, role, self.options.external_id.as_deref(), timeout).await,
            None => Ok(own),
        }
    }

    /// Gives the keys before a role is assumed.
    async fn own(&self, timeout: Duration) -> Result<Lasting, ScrapeError> {
        if let (Some(access_key), Some(secret_key)) = (&self.options.access_key, &self.options.secret_key) {
            let secret_key = secret(secret_key).await?;
            return Ok((Keys { access_key: access_key.clone(), secret_key, session_token: None }, STAYING));
        }
        if let Some(name) = &self.options.profile {
            let profile = profile::read(name, &self.environment);
            let profile = profile.ok_or_else(|| failed(format!("aws: the shared files have no profile {name:?}")))?;
            let found = self.of_profile(profile, timeout).await?;
            return found.ok_or_else(|| failed(format!("aws: the profile {name:?} has no keys and no role")));
        }
        let variable = |name: &str| self.environment.get(name);
        if let (Some(access_key), Some(secret_key)) = (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY"))
        {
            return Ok((Keys { access_key, secret_key, session_token: variable("AWS_SESSION_TOKEN") }, STAYING));
        }
        if let (Some(path), Some(role)) = (variable("AWS_WEB_IDENTITY_TOKEN_FILE"), variable("AWS_ROLE_ARN")) {
            return self.by_web_identity(&path, &role, timeout).await;
        }
        if let Some(profile) = profile::read(&profile::default_name(&self.environment), &self.environment)
            && let Some(found) = self.of_profile(profile, timeout).await?
        {
            return Ok(found);
        }
        let (full, relative) =
            (variable("AWS_CONTAINER_CREDENTIALS_FULL_URI"), variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"));
        if let Some(url) = relative.map(|path| format!("http://169.254.170.2{path}")).or(full) {
            return self.of_container(&url, timeout).await;
        }
        let nothing = "aws: no keys in the configuration, the environment or the shared files";
        if variable("AWS_EC2_METADATA_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
            return Err(failed(nothing));
        }
        self.of_machine(timeout).await.map_err(|e| failed(format!("{nothing}; {}", e.message)))
    }

    async fn of_profile(&self, profile: Profile, timeout: Duration) -> Result<Option<Lasting>, ScrapeError> {
        let keys = |profile: Profile| match (profile.access_key, profile.secret_key) {
            (Some(access_key), Some(secret_key)) => {
                Some(Keys { access_key, secret_key, session_token: profile.session_token })
            }
            _ => None,
        };
        if let Some(role) = profile.role_arn.clone() {
            let source = profile.source_profile.clone();
            let source =
                source.and_then(|name| keys(profile::read(&name, &self.environment)?)).or(keys(profile.clone()));
            let source =
                source.ok_or_else(|| failed("aws: the profile has a role, and its source_profile has no keys"))?;
            return self.assume(&source, &role, profile.external_id.as_deref(), timeout).await.map(Some);
        }
        if let (None, Some(way)) = (&profile.access_key, profile.unserved) {
            return Err(failed(format!("aws: the profile wants {way}, which is not supported")));
        }
        Ok(keys(profile).map(|keys| (keys, STAYING)))
    }

    /// Exchanges keys for those of a role.
    async fn assume(
        &self,
        keys: &Keys,
        role: &str,
        external_id: Option<&str>,
        timeout: Duration,
    ) -> Result<Lasting, ScrapeError> {
        let mut pairs = vec![("Action", "AssumeRole"), ("Version", "2011-06-15"), ("RoleArn", role)];
        pairs.extend([("RoleSessionName", SESSION), ("DurationSeconds", ROLE_S)]);
        pairs.extend(external_id.map(|id| ("ExternalId", id)));
        let (body, sts) = (form(&pairs), self.sts(timeout)?);
        let mut headers = HeaderMap::new();
        headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(FORM));
        let mut url = sts.url().clone();
        tidy(&mut url);
        let scope = Scope { region: &self.region, service: "sts", at: Timestamp::now() };
        sign(keys, scope, "POST", &url, &mut headers, body.as_bytes())
            .map_err(|_| failed("aws: the keys are no header values"))?;
        of_sts(&sts.send(Method::POST, headers, FORM, body).await?)
    }

    async fn by_web_identity(&self, path: &str, role: &str, timeout: Duration) -> Result<Lasting, ScrapeError> {
        let token = file(path).await?;
        let session = self.environment.get("AWS_ROLE_SESSION_NAME");
        let body = form(&[
            ("Action", "AssumeRoleWithWebIdentity"),
            ("Version", "2011-06-15"),
            ("RoleArn", role),
            ("RoleSessionName", session.as_deref().unwrap_or(SESSION)),
            ("WebIdentityToken", &token),
        ]);
        of_sts(&self.sts(timeout)?.post_form(body).await?)
    }

    fn sts(&self, timeout: Duration) -> Result<Issuer, ScrapeError> {
        let end = if self.region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        let host = if self.options.use_fips_sts_endpoint { "sts-fips" } else { "sts" };
        let own = || format!("https://{host}.{}.{end}/", self.region);
        let url = self.environment.get("AWS_ENDPOINT_URL_STS").unwrap_or_else(own);
        Issuer::new(STS, &url, (&self.http, AddressPolicy::allow_all(), timeout))
    }

    async fn of_container(&self, url: &str, timeout: Duration) -> Result<Lasting, ScrapeError> {
        let token = match self.environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
            Some(path) => Some(file(&path).await?),
            None => self.environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN"),
        };
        let header = token.as_deref().map(|token| ("authorization", token));
        let issuer = Issuer::next_door("the container's credentials", url, &self.http, timeout)?;
        of_json(&issuer.get(header.as_slice()).await?)
    }

    async fn of_machine(&self, timeout: Duration) -> Result<Lasting, ScrapeError> {
        let base = self.environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT");
        let base = base.unwrap_or_else(|| "http://169.254.169.254".to_owned());
        let at = |path: &str| {
            let url = format!("{}/latest/{path}", base.trim_end_matches('/'));
            Issuer::next_door("the metadata service of AWS", &url, &self.http, timeout)
        };
        let life = [("x-aws-ec2-metadata-token-ttl-seconds", "21600")];
        let session = at("api/token")?.ask(Method::PUT, &life, "", String::new()).await?;
        let session = good(&session, "the metadata service of AWS gives no session")?;
        let session = [("x-aws-ec2-metadata-token", session)];
        let roles = at("meta-data/iam/security-credentials/")?.get(&session).await?;
        let role = good(&roles, "the machine has no role")?.lines().next().unwrap_or_default().trim().to_owned();
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b);
        if role.is_empty() || role.len() > 128 || !role.bytes().all(is_name) {
            return Err(failed("aws: the machine's role is no name"));
        }
        of_json(&at(&format!("meta-data/iam/security-credentials/{role}"))?.get(&session).await?)
    }
}

fn good<'a>(posted: &'a Posted, what: &str) -> Result<&'a str, ScrapeError> {
    if posted.status == 200 {
        Ok(posted.text.trim())
    } else {
        Err(failed(format!("aws: {what}: status {}", posted.status)))
    }
}

fn left(until: &str) -> Option<Duration> {
    let until: Timestamp = until.parse().ok()?;
    Some(life(until.duration_since(Timestamp::now()).as_secs_f64()))
}

/// Reads what the metadata services answer.
fn of_json(posted: &Posted) -> Result<Lasting, ScrapeError> {
    let answer: Value = serde_json::from_str(good(posted, "no keys")?).unwrap_or_default();
    let text = |name: &str| answer[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    match (text("AccessKeyId"), text("SecretAccessKey"), text("Expiration").and_then(|at| left(&at))) {
        (Some(access_key), Some(secret_key), Some(life)) => {
            Ok((Keys { access_key, secret_key, session_token: text("Token") }, life))
        }
        _ => Err(failed("aws: the answer of the metadata service holds no keys that last")),
    }
}

/// Reads what STS answers. Of an error only its code is told.
fn of_sts(posted: &Posted) -> Result<Lasting, ScrapeError> {
    let element = |name: &str| {
        let (_, behind) = posted.text.split_once(&format!("<{name}>"))?;
        let (inside, _) = behind.split_once(&format!("</{name}>"))?;
        Some(inside.trim().replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&"))
    };
    if posted.status != 200 {
        let is_code = |code: &String| code.len() <= 50 && code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.');
        let code = element("Code").filter(is_code).map(|code| format!(": {code}")).unwrap_or_default();
        return Err(failed(format!("{STS} gives no keys of the role: status {}{code}", posted.status)));
    }
    match (element("AccessKeyId"), element("SecretAccessKey"), element("Expiration").and_then(|at| left(&at))) {
        (Some(access_key), Some(secret_key), Some(life)) => {
            Ok((Keys { access_key, secret_key, session_token: element("SessionToken") }, life))
        }
        _ => Err(failed(format!("{STS} answers without keys that last"))),
    }
}
