//! `sigv4`, `azuread` and `google_iam`: who we are at the cloud providers, in Prometheus' words.
//!
//! Prometheus has them under `remote_write`, and `sigv4` under `alertmanagers`; here they stand wherever HTTP is configured, with
//! `service` of `sigv4`, and `scopes` and `audience` of `google_iam`, for targets that are not Prometheus' kind of store.

use std::path::{Path, PathBuf};

use collect::{Auth, AzureCloud, AzureOptions, AzureWay, GoogleOptions, Secret, Sigv4Options};

use super::fields::{Fields, Problems};
use super::http_client::secret;
use super::yaml::Node;

const WORKLOAD_TOKEN: &str = "/var/run/secrets/azure/tokens/azure-identity-token";

/// Reads whichever of them is there.
///
/// **Takes** whether another way to say who we are is configured beside.
pub fn read(fields: &mut Fields<'_>, dir: &Path, other: bool, problems: &mut Problems) -> Option<Auth> {
    let nodes = (fields.get("sigv4"), fields.get("azuread"), fields.get("google_iam"));
    let count = [nodes.0, nodes.1, nodes.2].iter().flatten().count() + usize::from(other);
    if count > 1 {
        let text = "at most one of basic_auth, authorization, oauth2, sigv4, azuread or google_iam must be configured";
        problems.error(fields.at(), text);
    }
    match nodes {
        (Some(node), _, _) => Some(Auth::Sigv4(Box::new(read_sigv4(node, dir, problems)))),
        (_, Some(node), _) => read_azuread(node, dir, problems).map(|azure| Auth::Azure(Box::new(azure))),
        (_, _, Some(node)) => Some(Auth::Google(Box::new(read_google(node, dir, problems)))),
        _ => None,
    }
}

fn text(fields: &mut Fields<'_>, key: &'static str, problems: &mut Problems) -> Option<String> {
    fields.string(key, problems).filter(|text| !text.is_empty())
}

fn read_sigv4(node: &Node, dir: &Path, problems: &mut Problems) -> Sigv4Options {
    let mut fields = Fields::open(node, "sigv4", problems);
    let (inline, file) = (text(&mut fields, "secret_key", problems), text(&mut fields, "secret_key_file", problems));
    if inline.is_some() && file.is_some() {
        problems.error(node.at, "at most one of sigv4 secret_key & secret_key_file must be configured");
    }
    let options = Sigv4Options {
        region: text(&mut fields, "region", problems),
        service: text(&mut fields, "service", problems)
            .or(text(&mut fields, "service_name", problems))
            .unwrap_or_else(|| Sigv4Options::default().service),
        access_key: text(&mut fields, "access_key", problems),
        secret_key: secret(inline, file, dir),
        profile: text(&mut fields, "profile", problems),
        role_arn: text(&mut fields, "role_arn", problems),
        external_id: text(&mut fields, "external_id", problems),
        use_fips_sts_endpoint: fields.bool("use_fips_sts_endpoint", problems).unwrap_or(false),
    };
    fields.finish(problems);
    options
}

fn read_google(node: &Node, dir: &Path, problems: &mut Problems) -> GoogleOptions {
    let mut fields = Fields::open(node, "google_iam", problems);
    let file = text(&mut fields, "credentials_file", problems);
    let options = GoogleOptions {
        credentials: file.map(|file| Secret::File(dir.join(file))),
        audience: text(&mut fields, "audience", problems),
        scopes: fields.strings("scopes", problems).unwrap_or_default(),
    };
    fields.finish(problems);
    options
}

fn read_azuread(node: &Node, dir: &Path, problems: &mut Problems) -> Option<AzureOptions> {
    let mut fields = Fields::open(node, "azuread", problems);
    let cloud = match text(&mut fields, "cloud", problems) {
        None => AzureCloud::Public,
        Some(word) => AzureCloud::parse(&word).unwrap_or_else(|| {
            let text = "cloud must be AzurePublic, AzureChina or AzureGovernment: an Azure cloud is unknown";
            problems.error(fields.place_of("cloud"), text);
            AzureCloud::Public
        }),
    };
    let scope = text(&mut fields, "scope", problems);
    let keys = ["managed_identity", "oauth", "workload_identity", "sdk"];
    let nodes: Vec<_> = keys.iter().filter_map(|key| Some((*key, fields.get(key)?))).collect();
    fields.finish(problems);
    let [(kind, way)] = nodes[..] else {
        let text = "exactly one of managed_identity, oauth, workload_identity or sdk must be configured for azuread";
        problems.error(node.at, text);
        return None;
    };
    let way = read_azure_way(kind, way, dir, problems)?;
    Some(AzureOptions { cloud, way, scope })
}

fn read_azure_way(kind: &str, node: &Node, dir: &Path, problems: &mut Problems) -> Option<AzureWay> {
    let mut fields = Fields::open(node, format!("azuread: {kind}"), problems);
    let mut read = |key| text(&mut fields, key, problems);
    let way = match kind {
        "managed_identity" => Ok(AzureWay::Managed { client_id: read("client_id") }),
        "sdk" => Ok(AzureWay::Environment { tenant_id: read("tenant_id") }),
        "oauth" => {
            let (client_id, tenant_id) = (read("client_id"), read("tenant_id"));
            match (client_id, secret(read("client_secret"), read("client_secret_file"), dir), tenant_id) {
                (Some(client_id), Some(client_secret), Some(tenant_id)) => {
                    Ok(AzureWay::Secret { client_id, client_secret, tenant_id })
                }
                _ => Err("client_id, client_secret and tenant_id"),
            }
        }
        _ => {
            let file = read("token_file_path").map_or_else(|| PathBuf::from(WORKLOAD_TOKEN), |path| dir.join(path));
            match (read("client_id"), read("tenant_id")) {
                (Some(client_id), Some(tenant_id)) => Ok(AzureWay::Workload { client_id, tenant_id, token_file: file }),
                _ => Err("client_id and tenant_id"),
            }
        }
    };
    let way = way.map_err(|needs| problems.error(node.at, format!("azuread {kind} needs {needs}")));
    fields.finish(problems);
    way.ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::load_text;
    use crate::config::sinks::SinkKind;

    const ID: &str = "00000000-0000-4000-8000-000000000001";

    fn auth_of(section: &str) -> Result<Auth, String> {
        let text = format!("remote_write:\n- url: http://h/w\n  {section}\n");
        let sinks = load_text(&text, Path::new("/etc/q/c.yml"), false).map_err(|e| e.to_string())?.sinks.all;
        let SinkKind::RemoteWrite(http, _) = &sinks[0].kind else { return Err(format!("{sinks:?}")) };
        Ok(http.client.options().auth.clone())
    }

    #[test]
    fn prometheus_sections_are_read() {
        let section = "sigv4: {region: eu-west-1, access_key: a, secret_key: hunter2, role_arn: r, external_id: x, \
                       use_fips_sts_endpoint: true}";
        let Ok(Auth::Sigv4(aws)) = auth_of(section) else { panic!("{:?}", auth_of(section)) };
        assert!(!format!("{aws:?}").contains("hunter2") && aws.use_fips_sts_endpoint);
        let texts = (aws.region.as_deref(), aws.service.as_str(), aws.role_arn.as_deref(), aws.external_id.as_deref());
        assert_eq!(texts, (Some("eu-west-1"), "aps", Some("r"), Some("x")));
        let Ok(Auth::Google(google)) = auth_of("google_iam: {credentials_file: g.json}") else { panic!() };
        assert_eq!(google.credentials, Some(Secret::File("/etc/q/g.json".into())));
        let azure = |way: &str| match auth_of(&format!("azuread: {{cloud: AzureChina, {way}}}")) {
            Ok(Auth::Azure(azure)) => Ok((azure.cloud.as_str(), azure.way)),
            Ok(other) => Err(format!("{other:?}")),
            Err(text) => Err(text),
        };
        let managed = AzureWay::Managed { client_id: Some(ID.to_owned()) };
        assert_eq!(azure(&format!("managed_identity: {{client_id: {ID}}}")), Ok(("AzureChina", managed)));
        assert!(azure(&format!("oauth: {{client_id: {ID}, client_secret: s, tenant_id: t}}")).is_ok());
        let workload = azure(&format!("workload_identity: {{client_id: {ID}, tenant_id: t}}")).unwrap().1;
        assert!(format!("{workload:?}").contains(WORKLOAD_TOKEN));
        assert_eq!(azure("sdk: {}"), Ok(("AzureChina", AzureWay::Environment { tenant_id: None })));
    }

    #[test]
    fn what_cannot_work_stops_the_start() {
        let why = |section: &str| auth_of(section).err().unwrap_or_default();
        for (section, reason) in [
            ("sigv4: {region: r}\n  basic_auth: {username: u}", "at most one of basic_auth"),
            ("google_iam: {}\n  azuread: {sdk: {}}", "at most one of basic_auth"),
            ("sigv4: {region: r, access_key: a}", "must provide a AWS SigV4 Access key and Secret Key"),
            ("sigv4: {region: r, profil: a}", "did you mean \"profile\"?"),
            ("azuread: {cloud: Mars, sdk: {}}", "an Azure cloud is unknown"),
            ("azuread: {}", "exactly one of managed_identity"),
            ("azuread: {managed_identity: {client_id: x}}", "the provided Azure client_id is invalid"),
            (
                &format!("azuread: {{oauth: {{client_id: {ID}, tenant_id: t}}}}"),
                "azuread oauth needs client_id, client_secret",
            ),
        ] {
            assert!(why(section).contains(reason), "{section}: {}", why(section));
        }
    }
}
