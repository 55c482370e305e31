//! Against servers that answer on the wire as the providers' documentation says it.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, Method};
use parking_lot::Mutex;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use serde_json::{Value, json};
use url::Url;

use super::*;
use crate::address::AddressPolicy;
use crate::http::settings::Secret;

const WAIT: Duration = Duration::from_secs(20);
const ID: &str = "00000000-0000-4000-8000-000000000001";

/// A request as it came: first line, headers in lower case, body.
#[derive(Clone, Debug)]
struct Asked {
    line: String,
    headers: HashMap<String, String>,
    body: String,
}

impl Asked {
    fn form(&self) -> HashMap<String, String> {
        url::form_urlencoded::parse(self.body.as_bytes()).into_owned().collect()
    }

    fn query(&self) -> HashMap<String, String> {
        let target = self.line.split(' ').nth(1).unwrap_or("");
        Url::parse(&format!("http://x{target}")).unwrap().query_pairs().into_owned().collect()
    }

    fn has(&self, name: &str, value: &str) -> bool {
        self.headers.get(name).is_some_and(|found| found == value)
    }
}

type Answer = (u16, &'static str, String);

/// A server that remembers what it was asked.
struct Provider {
    host: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Provider {
    fn start(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Provider {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (heard, answer) = (asked.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (heard, answer) = (heard.clone(), answer.clone());
                std::thread::spawn(move || while serve(&stream, &heard, &*answer).is_some() {});
            }
        });
        Provider { host, asked }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.host)
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().clone()
    }
}

fn serve(stream: &TcpStream, heard: &Mutex<Vec<Asked>>, answer: &dyn Fn(&Asked) -> Answer) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    let mut next = |reader: &mut BufReader<&TcpStream>| {
        line.clear();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        Some(line.trim_end().to_owned())
    };
    let first = next(&mut reader)?;
    let mut headers = HashMap::new();
    while let Some(line) = next(&mut reader).filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let mut body = vec![0; headers.get("content-length").and_then(|n| n.parse().ok()).unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    let asked = Asked { line: first, headers, body: String::from_utf8(body).ok()? };
    heard.lock().push(asked.clone());
    let (status, more, text) = answer(&asked);
    let head = format!("HTTP/1.1 {status} X\r\n{more}Content-Length: {}\r\n\r\n", text.len());
    (&mut &*stream).write_all((head + &text).as_bytes()).ok()
}

fn environment(pairs: &[(&str, String)]) -> Environment {
    let pairs: HashMap<String, String> = pairs.iter().map(|(n, v)| ((*n).to_owned(), v.clone())).collect();
    Environment::of(move |name| pairs.get(name).cloned())
}

/// Signs a request and gives its headers.
async fn signed(aws: &Aws) -> Result<HeaderMap, crate::outcome::ScrapeError> {
    let (mut url, mut headers) = (Url::parse("http://target/metrics").unwrap(), HeaderMap::new());
    aws.sign(WAIT, &Method::GET, &mut url, &mut headers, b"").await.map(|()| headers)
}

fn in_an_hour() -> String {
    (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1)).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn keys_json(id: &str) -> String {
    json!({"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": id, "SecretAccessKey": "s", "Token": "session",
        "Expiration": in_an_hour()})
    .to_string()
}

#[tokio::test]
async fn a_machine_of_aws_gives_the_keys_of_its_role_once() {
    let provider = Provider::start(|asked| match asked.line.as_str() {
        "PUT /latest/api/token HTTP/1.1" if asked.has("x-aws-ec2-metadata-token-ttl-seconds", "21600") => {
            (200, "", "v2-session".to_owned())
        }
        _ if !asked.has("x-aws-ec2-metadata-token", "v2-session") => (401, "", String::new()),
        "GET /latest/meta-data/iam/security-credentials/ HTTP/1.1" => (200, "", "my-role".to_owned()),
        "GET /latest/meta-data/iam/security-credentials/my-role HTTP/1.1" => (200, "", keys_json("ASIAMACHINE")),
        _ => (404, "", String::new()),
    });
    let variables = environment(&[
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", provider.url("/")),
        ("AWS_REGION", "eu-west-1".to_owned()),
    ]);
    let aws = Aws::new(&Sigv4Options::default(), &variables).unwrap();
    for _ in 0..3 {
        let headers = signed(&aws).await.unwrap();
        let said = headers["authorization"].to_str().unwrap();
        assert!(said.contains("Credential=ASIAMACHINE/") && said.contains("/eu-west-1/aps/aws4_request"), "{said}");
        assert_eq!(headers["x-amz-security-token"], "session");
    }
    assert_eq!(provider.asked().len(), 3, "keys are kept");
    aws.forget();
    signed(&aws).await.unwrap();
    assert_eq!(provider.asked().len(), 6, "keys that were not accepted are fetched anew");
}

#[tokio::test]
async fn a_role_is_assumed_with_keys_of_the_environment_and_its_refusal_is_told() {
    let expiration = in_an_hour();
    let provider = Provider::start(move |asked| match asked.form().get("RoleArn").map(String::as_str) {
        Some("arn:aws:iam::1:role/good") => (
            200,
            "Content-Type: text/xml\r\n",
            format!(
                "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
             <AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>a&amp;b</SecretAccessKey><SessionToken>tok</SessionToken>\
             <Expiration>{expiration}</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
            ),
        ),
        _ => (
            403,
            "",
            "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>User: arn Hunter2\
             </Message></Error></ErrorResponse>"
                .to_owned(),
        ),
    });
    let variables = environment(&[
        ("AWS_ENDPOINT_URL_STS", provider.url("")),
        ("AWS_ACCESS_KEY_ID", "AKIAENV".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "hunter2".to_owned()),
    ]);
    let with = |role: &str| Sigv4Options {
        region: Some("eu-west-1".to_owned()),
        role_arn: Some(role.to_owned()),
        external_id: Some("x id".to_owned()),
        ..Sigv4Options::default()
    };
    let headers = signed(&Aws::new(&with("arn:aws:iam::1:role/good"), &variables).unwrap()).await.unwrap();
    assert!(headers["authorization"].to_str().unwrap().contains("Credential=ASIAROLE/"));
    let asked = provider.asked().remove(0);
    assert!(asked.line.starts_with("POST / "), "{asked:?}");
    let form = asked.form();
    assert_eq!((form["Action"].as_str(), form["ExternalId"].as_str()), ("AssumeRole", "x id"));
    let said = &asked.headers["authorization"];
    assert!(said.contains("Credential=AKIAENV/") && said.contains("/eu-west-1/sts/aws4_request"), "{said}");
    let error = signed(&Aws::new(&with("arn:aws:iam::1:role/bad"), &variables).unwrap()).await.unwrap_err();
    assert_eq!(error.message, "AWS STS gives no keys of the role: status 403: AccessDenied");
}

#[tokio::test]
async fn other_places_of_keys_and_what_is_wrong_with_them() {
    let provider = Provider::start(|asked| {
        let is_it = asked.line.starts_with("GET /creds ") && asked.has("authorization", "pod-token");
        if is_it { (200, "", keys_json("ASIAPOD")) } else { (403, "", String::new()) }
    });
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "pod-token\n").unwrap();
    let region = || ("AWS_REGION", "r-1".to_owned());
    let pod = environment(&[
        region(),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", provider.url("/creds")),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.display().to_string()),
    ]);
    let headers = signed(&Aws::new(&Sigv4Options::default(), &pod).unwrap()).await.unwrap();
    assert!(headers["authorization"].to_str().unwrap().contains("Credential=ASIAPOD/"));
    let nowhere = environment(&[region(), ("AWS_EC2_METADATA_DISABLED", "true".to_owned())]);
    let error = signed(&Aws::new(&Sigv4Options::default(), &nowhere).unwrap()).await.unwrap_err();
    assert_eq!(error.message, "aws: no keys in the configuration, the environment or the shared files");
    let why = |options: Sigv4Options, variables: &Environment| {
        Aws::new(&options, variables).err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert!(why(Sigv4Options::default(), &environment(&[])).starts_with("region not configured"));
    let with = |change: fn(&mut Sigv4Options)| {
        let mut options = Sigv4Options { region: Some("r-1".into()), ..Sigv4Options::default() };
        change(&mut options);
        options
    };
    assert!(why(with(|o| o.region = Some("evil.example/x".into())), &nowhere).contains("region"));
    assert!(why(with(|o| o.service = "s3".into()), &nowhere).contains("s3"));
    assert!(why(with(|o| o.access_key = Some("a".into())), &nowhere).contains("must provide"));
}

#[tokio::test]
async fn google_gives_access_and_id_tokens_to_a_machine() {
    let end = jiff::Timestamp::now().as_second() + 3_600;
    let id_token = format!("h.{}.s", URL_SAFE_NO_PAD.encode(json!({"exp": end}).to_string()));
    let given = id_token.clone();
    let provider = Provider::start(move |asked| {
        let flavor = "Metadata-Flavor: Google\r\n";
        let base = "GET /computeMetadata/v1/instance/service-accounts/default";
        if !asked.has("metadata-flavor", "Google") {
            (403, "", String::new())
        } else if asked.line.starts_with(&format!("{base}/token")) {
            let scopes = asked.query().get("scopes").cloned().unwrap_or_default();
            (
                200,
                flavor,
                json!({"access_token": format!("ya29.{scopes}"), "expires_in": 3599, "token_type": "Bearer"})
                    .to_string(),
            )
        } else if asked.line.starts_with(&format!("{base}/identity?")) && asked.query()["audience"] == "https://run" {
            (200, flavor, given.clone())
        } else {
            (404, flavor, String::new())
        }
    });
    let variables = environment(&[("GCE_METADATA_HOST", provider.host.clone())]);
    let nowhere = AddressPolicy::nowhere("metadata servers are not the targets' business");
    let token = async |options: GoogleOptions| {
        let google = Google::new(&options, &variables).unwrap();
        (google.token(&nowhere, WAIT).await, google.token(&nowhere, WAIT).await)
    };
    let scopes = vec!["a".to_owned(), "b".to_owned()];
    let got = token(GoogleOptions { scopes, ..GoogleOptions::default() }).await;
    assert_eq!(got, (Ok("ya29.a,b".to_owned()), Ok("ya29.a,b".to_owned())));
    assert_eq!(provider.asked().len(), 1, "a token is kept");
    let audience = Some("https://run".to_owned());
    assert_eq!(token(GoogleOptions { audience, ..GoogleOptions::default() }).await.0, Ok(id_token));
    let plain = Provider::start(|_| (200, "", json!({"access_token": "stray"}).to_string()));
    let variables = environment(&[("GCE_METADATA_HOST", plain.host.clone())]);
    let error = Google::new(&GoogleOptions::default(), &variables).unwrap().token(&nowhere, WAIT).await.unwrap_err();
    assert!(error.message.contains("is no metadata server"), "{error}");
}

#[tokio::test]
async fn a_service_account_of_google_signs_who_it_is() {
    let key: Value = serde_json::from_str(include_str!("testdata/rsa_key.json")).unwrap();
    let provider = Provider::start(|asked| {
        let is_it = asked.form()["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer";
        let answer = json!({"access_token": "ya29.sa", "expires_in": 3599});
        if is_it { (200, "", answer.to_string()) } else { (400, "", r#"{"error": "invalid_grant"}"#.to_owned()) }
    });
    let account = json!({"type": "service_account", "client_email": "q@p.iam", "private_key_id": "kid",
        "private_key": key["private_key"], "token_uri": provider.url("/token")});
    let with = |credentials: &Value| GoogleOptions {
        credentials: Some(Secret::Inline(credentials.to_string())),
        ..GoogleOptions::default()
    };
    let google = Google::new(&with(&account), &environment(&[])).unwrap();
    let forbidden = google.token(&AddressPolicy::strict(false), WAIT).await.unwrap_err();
    assert!(forbidden.message.contains("loopback is not scraped from here"), "{forbidden}");
    let google = Google::new(&with(&account), &environment(&[])).unwrap();
    assert_eq!(google.token(&AddressPolicy::allow_all(), WAIT).await, Ok("ya29.sa".to_owned()));
    let assertion = provider.asked()[0].form()["assertion"].clone();
    let (text, signature) = assertion.rsplit_once('.').unwrap();
    let public = STANDARD.decode(key["public_key_pkcs1"].as_str().unwrap()).unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public).verify(text.as_bytes(), &signature).unwrap();
    let claims = URL_SAFE_NO_PAD.decode(text.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!("q@p.iam"), &json!(provider.url("/token"))));
    assert_eq!(claims["scope"], "https://www.googleapis.com/auth/cloud-platform");
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 3_600);
    let user = json!({"type": "authorized_user", "client_id": "c", "client_secret": "hunter2", "refresh_token": "r",
        "token_uri": provider.url("/token")});
    for (bad, want) in [
        (user, "google: no token in an answer of status 400: invalid_grant"),
        (json!({"type": "external_account"}), "google: credentials are of type service_account or authorized_user"),
        (json!({"type": "service_account"}), "google: the credentials have no client_email"),
        (
            json!({"type": "service_account", "client_email": "a", "private_key": "b"}),
            "google: private_key is no RSA key in PEM",
        ),
    ] {
        let google = Google::new(&with(&bad), &environment(&[])).unwrap();
        assert_eq!(google.token(&AddressPolicy::allow_all(), WAIT).await.unwrap_err().message, want);
    }
}

#[tokio::test]
async fn azure_gives_tokens_to_machines_apps_secrets_and_workloads() {
    let provider = Provider::start(|asked| {
        let (query, form) = (asked.query(), asked.form());
        let resource = query.get("resource").map(String::as_str) == Some("https://monitor.azure.com/");
        let token = |text: &str| {
            (200, "", json!({"access_token": text, "expires_in": "3599", "token_type": "Bearer"}).to_string())
        };
        let tenant = "POST /my-tenant/oauth2/v2.0/token ";
        let scope = form.get("scope").map(String::as_str) == Some("https://monitor.azure.com//.default");
        if asked.line.starts_with("GET /metadata/identity/oauth2/token?") && resource && asked.has("metadata", "true") {
            token(&format!("machine {}", query.get("client_id").map_or("", String::as_str)))
        } else if asked.line.starts_with("GET /msi?") && resource && asked.has("x-identity-header", "key") {
            token("app")
        } else if asked.line.starts_with(tenant) && scope && form.get("client_secret").is_some_and(|s| s == "hunter2") {
            token("secret")
        } else if asked.line.starts_with(tenant) && form.get("client_assertion").is_some_and(|s| s == "k8s-token") {
            token("workload")
        } else {
            (401, "", json!({"error": "invalid_client", "error_description": "AADSTS7000215: hunter2"}).to_string())
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, "k8s-token").unwrap();
    let hosts = [("AZURE_POD_IDENTITY_AUTHORITY_HOST", provider.url("")), ("AZURE_AUTHORITY_HOST", provider.url("/"))];
    let token = async |way: AzureWay, more: &[(&'static str, String)]| {
        let variables = environment(&[&hosts[..], more].concat());
        let options = AzureOptions { cloud: AzureCloud::Public, way, scope: None };
        Azure::new(&options, &variables).unwrap().token(WAIT).await.map_err(|e| e.message)
    };
    let managed = || AzureWay::Managed { client_id: Some(ID.to_owned()) };
    assert_eq!(token(managed(), &[]).await, Ok(format!("machine {ID}")));
    let beside = [("IDENTITY_ENDPOINT", provider.url("/msi")), ("IDENTITY_HEADER", "key".to_owned())];
    assert_eq!(token(managed(), &beside).await, Ok("app".to_owned()));
    let of_secret = |text: &str| AzureWay::Secret {
        client_id: ID.to_owned(),
        client_secret: Secret::Inline(text.to_owned()),
        tenant_id: "my-tenant".to_owned(),
    };
    assert_eq!(token(of_secret("hunter2"), &[]).await, Ok("secret".to_owned()));
    let refused = token(of_secret("wrong"), &[]).await.unwrap_err();
    assert_eq!(refused, "azure: no token in an answer of status 401: invalid_client (AADSTS7000215)");
    let way =
        AzureWay::Workload { client_id: ID.into(), tenant_id: "my-tenant".into(), token_file: token_file.clone() };
    assert_eq!(token(way, &[]).await, Ok("workload".to_owned()));
    let by_environment = || AzureWay::Environment { tenant_id: None };
    let file = ("AZURE_FEDERATED_TOKEN_FILE", token_file.display().to_string());
    let names = [("AZURE_CLIENT_ID", ID.to_owned()), ("AZURE_TENANT_ID", "my-tenant".to_owned()), file];
    assert_eq!(token(by_environment(), &names).await, Ok("workload".to_owned()));
    assert_eq!(token(by_environment(), &[]).await, Ok("machine ".to_owned()));
    let bad =
        |way| Azure::new(&AzureOptions { cloud: AzureCloud::Public, way, scope: None }, &environment(&[])).is_err();
    assert!(bad(AzureWay::Managed { client_id: Some("no-uuid".into()) }));
    assert!(bad(AzureWay::Environment { tenant_id: Some("../x".into()) }));
}
