//! Who we are at the cloud providers: their servers are played as they answer on the wire, and botocore judges our signatures.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::{Program, free_port, wait_until};

/// A request as it came; names of headers in lower case.
#[derive(Clone, Debug)]
struct Asked {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Asked {
    fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    /// Gives a case for `sigv4_vectors.py`.
    fn case(&self, secret_key: &str) -> Value {
        let authorization = self.header("authorization");
        let part = |from: &str, to: &str| -> String {
            let behind = authorization.split_once(from).map_or("", |(_, behind)| behind);
            behind.split(to).next().unwrap_or("").to_owned()
        };
        let scope: Vec<String> = part("Credential=", ",").split('/').map(str::to_owned).collect();
        let names = part("SignedHeaders=", ",");
        let signed = self.headers.iter().filter(|(name, _)| names.split(';').any(|n| n == name));
        let headers: Vec<Value> = signed.map(|(name, value)| json!([name, value])).collect();
        let time = self.header("x-amz-date");
        let time = format!(
            "{}-{}-{}T{}:{}:{}Z",
            &time[..4],
            &time[4..6],
            &time[6..8],
            &time[9..11],
            &time[11..13],
            &time[13..15]
        );
        let hex: String = self.body.iter().map(|b| format!("{b:02x}")).collect();
        let token = Some(self.header("x-amz-security-token")).filter(|token| !token.is_empty());
        json!({"name": self.target, "method": self.method, "url": format!("http://{}{}", self.header("host"), self.target),
            "headers": headers, "body_hex": hex, "time": time, "access_key": scope[0], "region": scope[2], "service": scope[3],
            "secret_key": secret_key, "token": token, "authorization": authorization})
    }
}

/// All providers, a target and a store in one.
struct Cloud {
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Cloud {
    fn start(elsewhere: u16) -> Cloud {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let heard = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let heard = heard.clone();
                std::thread::spawn(move || while serve(&stream, &heard, elsewhere).is_some() {});
            }
        });
        Cloud { port, asked }
    }

    fn asked(&self, part: &str) -> Vec<Asked> {
        self.asked.lock().expect("a lock").iter().filter(|asked| asked.target.contains(part)).cloned().collect()
    }
}

fn serve(stream: &TcpStream, heard: &Mutex<Vec<Asked>>, elsewhere: u16) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut next = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        Some(line.trim_end().to_owned())
    };
    let first = next()?;
    let mut headers = Vec::new();
    while let Some(line) = next().filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let mut words = first.split(' ').map(str::to_owned);
    let mut asked = Asked { method: words.next()?, target: words.next()?, headers, body: Vec::new() };
    asked.body = vec![0; asked.header("content-length").parse().unwrap_or(0)];
    reader.read_exact(&mut asked.body).ok()?;
    heard.lock().expect("a lock").push(asked.clone());
    let (status, head, body) = answer(&asked, elsewhere);
    let head = format!("HTTP/1.1 {status} X\r\n{head}Content-Length: {}\r\n\r\n", body.len());
    (&mut &*stream).write_all((head + &body).as_bytes()).ok()
}

fn answer(asked: &Asked, elsewhere: u16) -> (u16, String, String) {
    let plain = |body: &str| (200, String::new(), body.to_owned());
    let token =
        |text: &str| plain(&json!({"access_token": text, "expires_in": 3600, "token_type": "Bearer"}).to_string());
    let keys = "<AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>role+secret/</SecretAccessKey><SessionToken>session=\
                </SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration>";
    match asked.target.split('?').next().unwrap_or("") {
        "/sts/" => plain(&format!(
            "<AssumeRoleResponse><AssumeRoleResult><Credentials>{keys}</Credentials></AssumeRoleResult></AssumeRoleResponse>"
        )),
        "/metadata/identity/oauth2/token" => token("azure-token"),
        "/computeMetadata/v1/instance/service-accounts/default/token" => {
            let (status, _, body) = token("google-token");
            (status, "Metadata-Flavor: Google\r\n".to_owned(), body)
        }
        "/moved" => (302, format!("Location: http://127.0.0.1:{elsewhere}/metrics\r\n"), String::new()),
        _ => (200, "Content-Type: text/plain\r\n".to_owned(), "a 1\n".to_owned()),
    }
}

fn python() -> PathBuf {
    let cache = std::env::var_os("QUIVER_CACHE").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/quiver");
    cache.unwrap_or_else(home).join("venv/bin/python")
}

fn start(folder: &Path, cloud: u16, config: &str) -> Program {
    let file = folder.join("quiver.yml");
    std::fs::write(&file, config).expect("the configuration is written");
    let port = free_port();
    let base = format!("http://127.0.0.1:{cloud}");
    let args = [
        format!("AWS_ENDPOINT_URL_STS={base}/sts/"),
        "AWS_ACCESS_KEY_ID=AKIAENV".to_owned(),
        "AWS_SECRET_ACCESS_KEY=env/secret".to_owned(),
        format!("GCE_METADATA_HOST=127.0.0.1:{cloud}"),
        format!("AZURE_POD_IDENTITY_AUTHORITY_HOST={base}"),
        env!("CARGO_BIN_EXE_quiver").to_owned(),
        "serve".to_owned(),
        format!("--listen=127.0.0.1:{port}"),
        format!("--data-dir={}", folder.join("data").display()),
        format!("--config={}", file.display()),
    ];
    Program::start(Path::new("/usr/bin/env"), &args, port, "/-/ready", &folder.join("quiver.log"))
}

#[test]
fn scrapes_and_sinks_say_who_they_are_and_nobody_else_hears_it() {
    let elsewhere = Cloud::start(0);
    let cloud = Cloud::start(elsewhere.port);
    let folder = tempfile::tempdir().expect("a folder");
    let p = cloud.port;
    let sigv4 = "sigv4: {region: eu-west-1, role_arn: 'arn:aws:iam::1:role/r'}";
    let scrape = |name: &str, path: &str, auth: &str| {
        format!(
            "- {{job_name: {name}, metrics_path: {path}, {auth}, scrape_interval: 1s, params: {{'match[]': ['{{a=\"b c\"}}', up]}}, static_configs: [{{targets: ['127.0.0.1:{p}']}}]}}\n"
        )
    };
    let sink = |name: &str, auth: &str| {
        format!(
            "- {{name: {name}, url: 'http://127.0.0.1:{p}/write/{name}', {auth}, queue_config: {{batch_send_deadline: 100ms}}}}\n"
        )
    };
    let config = [
        "scrape_configs:\n".to_owned(),
        scrape("aws", "/aws//metrics", sigv4),
        scrape("moved", "/moved", sigv4),
        scrape("google", "/google", "google_iam: {}"),
        scrape("gone", "/moved", "google_iam: {}"),
        "remote_write:\n".to_owned(),
        sink("aws", "sigv4: {region: us-east-2, access_key: AKIASINK, secret_key: sink/secret}"),
        sink("azure", "azuread: {managed_identity: {client_id: 00000000-0000-4000-8000-000000000001}}"),
        sink("google", "google_iam: {}"),
    ]
    .concat();
    let server = start(folder.path(), p, &config);
    for part in ["/aws/metrics", "/google", "/write/aws", "/write/azure", "/write/google"] {
        wait_until(part, || cloud.asked(part).len() >= 3);
    }
    wait_until("the redirects are followed", || elsewhere.asked("/metrics").len() >= 4);
    let mut cases = Vec::new();
    for asked in cloud.asked("/sts/") {
        assert!(asked.header("authorization").contains("Credential=AKIAENV/"), "{asked:?}");
        cases.push(asked.case("env/secret"));
    }
    for asked in cloud.asked("/aws/metrics").iter().chain(&cloud.asked("/moved")) {
        if asked.header("authorization").starts_with("AWS4") {
            assert_eq!(asked.header("x-amz-security-token"), "session=");
            cases.push(asked.case("role+secret/"));
        }
    }
    for asked in cloud.asked("/write/aws") {
        assert!(asked.header("authorization").contains("SignedHeaders=content-type;host;x-amz-date"), "{asked:?}");
        cases.push(asked.case("sink/secret"));
    }
    assert!(cases.len() >= 8, "{cases:?}");
    let file = folder.path().join("cases.json");
    std::fs::write(&file, Value::from(cases).to_string()).expect("it is written");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/compat/sigv4_vectors.py");
    let out = Command::new(python()).arg(script).arg(&file).output().expect("python runs: scripts/setup test");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    for (part, want) in [
        ("/google", "Bearer google-token"),
        ("/write/azure", "Bearer azure-token"),
        ("/write/google", "Bearer google-token"),
    ] {
        assert!(cloud.asked(part).iter().all(|asked| asked.header("authorization") == want), "{part}");
    }
    let azure = cloud.asked("/metadata/identity");
    assert!(
        azure.len() == 1 && azure[0].target.contains("client_id=00000000-0000-4000-8000-000000000001"),
        "{azure:?}"
    );
    assert!(cloud.asked("/computeMetadata").len() <= 3, "a token for each client, and no more");
    for asked in elsewhere.asked("/") {
        let bare = asked.headers.iter().all(|(name, _)| name != "authorization" && !name.starts_with("x-amz"));
        assert!(bare, "{asked:?}");
    }
    let pages =
        [server.client.get("/metrics").body, server.client.get("/api/v1/status/config").body, server.log_text()]
            .concat();
    for secret in ["env/secret", "role+secret", "sink/secret", "google-token", "azure-token", "session="] {
        assert!(!pages.contains(secret), "{secret}");
    }
}
