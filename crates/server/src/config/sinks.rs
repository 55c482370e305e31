//! Where samples go to as well: Prometheus' `remote_write`, and `quiver.sinks` for InfluxDB and PostgreSQL.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use collect::{HttpOptions, HttpSettings, Secret};
use sinks::{Layout, RemoteWriteSettings};
use sqlx::postgres::PgConnectOptions;
use url::Url;
use xxhash_rust::xxh3::xxh3_64;

use super::fields::{Fields, Problems};
use super::sink_queries::{self, Queries};
use super::yaml::{Kind, Node};
use super::{http_client, remote_write};

/// What Prometheus has for `remote_timeout`.
const TIMEOUT_MS: i64 = 30_000;
/// Samples of a request that can be asked for.
pub(super) const SAMPLES_MAX: u64 = 1_000_000;

/// All sinks.
#[derive(Clone, Debug, Default)]
pub struct Sinks {
    /// `quiver.sinks.queue_size`
    pub queue_bytes_max: Option<u64>,
    /// One by one; their names differ.
    pub all: Vec<SinkConfig>,
    /// Who answers queries for what is no longer here.
    pub queries: Option<Queries>,
}

/// One sink. Equal ones go on over a reload.
#[derive(Clone, PartialEq, Debug)]
pub struct SinkConfig {
    /// Names its place in the queue: made from kind and name, or kind and address where there is no name.
    pub id: String,
    /// For people.
    pub name: String,
    /// What it is.
    pub kind: SinkKind,
}

/// How a sink is reached over HTTP.
#[derive(Clone, Debug)]
pub struct Http {
    /// Where bodies go.
    pub url: Url,
    /// TLS, authentication, headers.
    pub client: Arc<HttpSettings>,
    /// For one request.
    pub timeout: Duration,
}

impl PartialEq for Http {
    fn eq(&self, other: &Http) -> bool {
        (&self.url, self.timeout) == (&other.url, other.timeout) && self.client.options() == other.client.options()
    }
}

/// What a sink is.
#[derive(Clone, PartialEq, Debug)]
pub enum SinkKind {
    /// `remote_write`
    RemoteWrite(Http, Box<RemoteWriteSettings>),
    /// `quiver.sinks.influxdb`
    Influx(Http, sinks::HttpSettings),
    /// `quiver.sinks.postgres`
    Postgres(Box<Database>),
}

/// A PostgreSQL.
#[derive(Clone)]
pub struct Database {
    /// Where, as whom, over TLS or not.
    pub connect: PgConnectOptions,
    /// Tells one URL from another.
    pub url_hash: u64,
    /// The password, where it does not stand in the URL.
    pub password: Option<Password>,
    /// How samples lie there.
    pub layout: Layout,
    /// Samples of a transaction.
    pub samples_max: usize,
    /// How long samples wait for others.
    pub gather: Duration,
    /// How long samples are kept there.
    pub retention: Option<Duration>,
}

impl PartialEq for Database {
    fn eq(&self, other: &Database) -> bool {
        let all = |d: &Database| (d.url_hash, d.layout, d.samples_max, d.gather, d.retention);
        all(self) == all(other) && self.password == other.password
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on {}, {:?}", self.connect.get_database().unwrap_or("?"), self.connect.get_host(), self.layout)
    }
}

/// Where a password comes from; it is read before each connection.
#[derive(Clone, PartialEq, Debug)]
pub enum Password {
    /// Given, or from a file.
    Secret(Secret),
    /// From a variable of the environment.
    Env(String),
}

impl SinkKind {
    /// Gives the word for the metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            SinkKind::RemoteWrite(..) => "remote_write",
            SinkKind::Influx(..) => "influxdb",
            SinkKind::Postgres(_) => "postgres",
        }
    }
}

/// Reads `remote_write` at the top of a configuration.
pub fn read_remote_write(fields: &mut Fields<'_>, dir: &Path, sinks: &mut Sinks, problems: &mut Problems) {
    for node in fields.list("remote_write", problems).unwrap_or_default() {
        let mut fields = Fields::open(node, "remote_write", problems);
        let found = remote_write::read(&mut fields, dir, problems);
        fields.finish(problems);
        sinks.add(found, node, problems);
    }
}

/// Reads `quiver.sinks`.
pub fn read(node: &Node, dir: &Path, sinks: &mut Sinks, problems: &mut Problems) {
    let mut fields = Fields::open(node, "quiver.sinks", problems);
    sinks.queue_bytes_max = fields.size_bytes("queue_size", problems);
    if sinks.queue_bytes_max.is_some_and(|bytes| bytes < 64 << 20) {
        problems.error(fields.place_of("queue_size"), "queue_size must be at least 64MiB");
    }
    for node in fields.list("influxdb", problems).unwrap_or_default() {
        let mut fields = Fields::open(node, "quiver.sinks.influxdb", problems);
        let found = read_influx(&mut fields, dir, problems);
        fields.finish(problems);
        sinks.add(found, node, problems);
    }
    for node in fields.list("postgres", problems).unwrap_or_default() {
        let mut fields = Fields::open(node, "quiver.sinks.postgres", problems);
        let found = read_postgres(&mut fields, dir, problems);
        fields.finish(problems);
        sinks.add(found, node, problems);
    }
    if let Some(node) = fields.get("queries") {
        sinks.queries = sink_queries::read(node, dir, sinks, problems);
    }
    fields.finish(problems);
}

impl Sinks {
    fn add(&mut self, found: Option<SinkConfig>, node: &Node, problems: &mut Problems) {
        let Some(found) = found else { return };
        if self.all.iter().any(|sink| sink.id == found.id) {
            let text = format!(
                "found multiple {} configs with name {:?}: each needs a name of its own",
                found.kind.as_str(),
                found.name
            );
            return problems.error(node.at, text);
        }
        self.all.push(found);
    }
}

pub(super) fn sink(name: Option<String>, address: &str, kind: SinkKind) -> SinkConfig {
    let word = kind.as_str();
    let known_by = name.as_deref().unwrap_or(address);
    let id = format!("{word}-{:08x}", xxh3_64(known_by.as_bytes()) >> 32);
    SinkConfig { name: name.unwrap_or_else(|| id.clone()), id, kind }
}

/// Gives a URL without who asks: another password is no other place, and no name shows a trace of it.
pub(super) fn address(url: &Url) -> String {
    let mut plain = url.clone();
    // An HTTP URL can be without both.
    let _ = (plain.set_username(""), plain.set_password(None));
    plain.into()
}

pub(super) fn read_name(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<String> {
    fields.string("name", problems).filter(|name| !name.is_empty())
}

pub(super) fn read_url(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Url> {
    let Some(text) = fields.string("url", problems).filter(|text| !text.is_empty()) else {
        problems.error(fields.at(), format!("url for {} is empty", fields.what()));
        return None;
    };
    match Url::parse(&text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Some(url),
        Ok(url) => {
            let text = format!("{:?} is not the scheme of an HTTP URL, in {}", url.scheme(), fields.what());
            problems.error(fields.place_of("url"), text);
            None
        }
        Err(error) => {
            problems.error(fields.place_of("url"), format!("url for {}: {error}", fields.what()));
            None
        }
    }
}

pub(super) fn read_http(
    fields: &mut Fields<'_>,
    dir: &Path,
    url: Option<Url>,
    more_headers: Vec<(String, String)>,
    problems: &mut Problems,
) -> Option<Http> {
    let ms = fields.duration_ms("remote_timeout", problems).filter(|ms| *ms > 0).unwrap_or(TIMEOUT_MS);
    let mut options: HttpOptions = http_client::read(fields, dir, problems);
    options.headers.extend(more_headers);
    match HttpSettings::new(options) {
        Ok(client) => {
            Some(Http { url: url?, client: Arc::new(client), timeout: Duration::from_millis(ms.unsigned_abs()) })
        }
        Err(error) => {
            problems.error(fields.at(), format!("{error} for {}", fields.what()));
            None
        }
    }
}

fn read_influx(fields: &mut Fields<'_>, dir: &Path, problems: &mut Problems) -> Option<SinkConfig> {
    let url = read_url(fields, problems);
    let name = read_name(fields, problems);
    let mut text = |key| fields.string(key, problems).filter(|text| !text.is_empty());
    let (database, policy) = (text("database"), text("retention_policy"));
    let (bucket, organization) = (text("bucket"), text("org"));
    let (token, token_file) = (text("token"), text("token_file"));
    let mut queue = sinks::HttpSettings {
        shards: (1, 4),
        samples_max: 5_000,
        retry_on_access: true,
        ..sinks::HttpSettings::default()
    };
    read_batching(fields, &mut queue.samples_max, &mut queue.gather, problems);
    if database.is_some() && organization.is_some() {
        problems.error(fields.place_of("org"), "org is of InfluxDB 2, database of InfluxDB 1");
    }
    if bucket.is_some() && policy.is_some() {
        problems.error(fields.place_of("retention_policy"), "retention_policy is of InfluxDB 1, bucket of InfluxDB 2");
    }
    let mut params = vec![("precision", "ms".to_owned())];
    let path = match (database, bucket) {
        (Some(database), None) => {
            params.push(("db", database));
            params.extend(policy.map(|policy| ("rp", policy)));
            "write"
        }
        (None, Some(bucket)) => {
            params.push(("bucket", bucket));
            params.extend(organization.map(|org| ("org", org)));
            "api/v2/write"
        }
        _ => {
            problems
                .error(fields.at(), "either database (InfluxDB 1) or bucket (InfluxDB 2) must be given for influxdb");
            return None;
        }
    };
    let url = url.map(|mut url| {
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/{path}"));
        url.query_pairs_mut().extend_pairs(params.iter().map(|(n, v)| (*n, v.as_str())));
        url
    });
    let mut http = read_http(fields, dir, url, Vec::new(), problems)?;
    if token.is_some() || token_file.is_some() {
        let token = match (token, token_file) {
            (Some(_), Some(_)) => {
                problems.error(fields.at(), "at most one of token & token_file must be configured");
                return None;
            }
            (Some(token), None) => Secret::Inline(token),
            (None, file) => Secret::File(dir.join(file.unwrap_or_default())),
        };
        let mut options = http.client.options().clone();
        if options.auth != collect::Auth::None {
            problems.error(
                fields.at(),
                "at most one of token, token_file, basic_auth, authorization & oauth2 must be configured",
            );
        }
        options.auth = collect::Auth::Bearer { kind: "Token".to_owned(), token };
        match HttpSettings::new(options) {
            Ok(client) => http.client = Arc::new(client),
            Err(error) => problems.error(fields.at(), format!("{error} for influxdb")),
        }
    }
    let address = address(&http.url);
    let mut found = sink(name, &address, SinkKind::Influx(http, queue));
    if let SinkKind::Influx(_, queue) = &mut found.kind {
        queue.name.clone_from(&found.name);
    }
    Some(found)
}

fn read_batching(fields: &mut Fields<'_>, samples_max: &mut usize, gather: &mut Duration, problems: &mut Problems) {
    if let Some(n) = fields.uint("max_samples_per_send", problems) {
        *samples_max = n.clamp(1, SAMPLES_MAX) as usize;
    }
    if let Some(ms) = fields.duration_ms("batch_send_deadline", problems) {
        *gather = Duration::from_millis(ms.unsigned_abs());
    }
}

fn read_postgres(fields: &mut Fields<'_>, dir: &Path, problems: &mut Problems) -> Option<SinkConfig> {
    let name = read_name(fields, problems);
    let url = fields.string("url", problems).unwrap_or_default();
    let layout = match fields.string("layout", problems).as_deref() {
        None | Some("" | "tuned") => Layout::Tuned,
        Some("spec") => Layout::Spec,
        Some(other) => {
            problems.error(fields.place_of("layout"), format!("layout must be tuned or spec, not {other:?}"));
            Layout::Tuned
        }
    };
    let mut text = |key| fields.string(key, problems).filter(|text| !text.is_empty());
    let given = [
        text("password").map(|p| Password::Secret(Secret::Inline(p))),
        text("password_file").map(|p| Password::Secret(Secret::File(dir.join(p)))),
        text("password_env").map(Password::Env),
    ];
    if given.iter().flatten().count() > 1 {
        problems.error(fields.at(), "at most one of password, password_file & password_env must be configured");
    }
    let (mut samples_max, mut gather) = (50_000, Duration::from_secs(1));
    read_batching(fields, &mut samples_max, &mut gather, problems);
    let retention = fields.duration_ms("retention", problems).filter(|ms| *ms != 0);
    if retention.is_some_and(|ms| ms < 86_400_000) {
        problems.error(fields.place_of("retention"), "retention must be at least 1d, or 0 to keep everything");
    }
    let retention = retention.map(|ms| Duration::from_millis(ms.unsigned_abs()));
    let connect = match PgConnectOptions::from_str(&url) {
        Ok(connect) if url.starts_with("postgres") => connect.application_name("quiver"),
        Ok(_) => {
            let text = "url for postgres must begin with postgres://";
            problems.error(fields.place_of("url"), text);
            return None;
        }
        Err(error) => {
            // The URL itself may hold a password.
            problems.error(fields.place_of("url"), format!("url for postgres: {error}"));
            return None;
        }
    };
    let address = format!("{}:{}/{}", connect.get_host(), connect.get_port(), connect.get_database().unwrap_or(""));
    let password = given.into_iter().flatten().next();
    let url_hash = xxh3_64(url.as_bytes());
    let database = Database { connect, url_hash, password, layout, samples_max, gather, retention };
    Some(sink(name, &address, SinkKind::Postgres(Box::new(database))))
}

/// Finds `quiver.sinks` in the tree.
pub fn find(root: &Node) -> Option<&Node> {
    let Kind::Map(top) = &root.kind else { return None };
    let Kind::Map(own) = &top.iter().find(|entry| entry.key == "quiver")?.value.kind else { return None };
    own.iter().find(|entry| entry.key == "sinks").map(|entry| &*entry.value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, LoadError, load_text};

    fn load(text: &str) -> Result<Config, LoadError> {
        load_text(text, Path::new("c.yml"), false)
    }

    #[test]
    fn ours_are_read_and_secrets_are_not_shown() {
        let text = "quiver:
  sinks:
    queue_size: 1GiB
    influxdb:
    - {url: 'http://i:8086/base/', database: d, retention_policy: r, basic_auth: {username: u, password: planted1}}
    - {name: v2, url: 'http://i', bucket: b, org: o, token: planted2}
    postgres:
    - {url: 'postgres://u:planted3@h:1/d?sslmode=require', layout: spec}
    - {name: t, url: 'postgres://u@h:1/d', password: planted4}
";
        let config = load(text).unwrap();
        let shown = format!("{:?} {}", config.sinks, config.printed);
        assert!(!shown.contains("planted"), "{shown}");
        let sinks = config.sinks;
        assert_eq!((sinks.queue_bytes_max, sinks.all.len()), (Some(1 << 30), 4));
        let SinkKind::Influx(http, _) = &sinks.all[0].kind else { panic!() };
        assert_eq!(http.url.as_str(), "http://i:8086/base/write?precision=ms&db=d&rp=r");
        let SinkKind::Influx(http, _) = &sinks.all[1].kind else { panic!() };
        assert_eq!(http.url.as_str(), "http://i/api/v2/write?precision=ms&bucket=b&org=o");
        let SinkKind::Postgres(database) = &sinks.all[2].kind else { panic!() };
        assert_eq!(database.layout, Layout::Spec);
    }

    #[test]
    fn what_is_wrong_has_its_place() {
        for (text, wanted) in [
            ("remote_write: [{name: x}]", "url for remote_write is empty"),
            ("remote_write: [{url: 'ftp://h/'}]", "\"ftp\" is not the scheme of an HTTP URL"),
            ("remote_write: [{url: 'http://h', protobuf_message: x}]", "unknown remote write protobuf message x"),
            (
                "remote_write: [{url: 'http://h', proxy_url: 'http://p'}]",
                "\"proxy_url\" in remote_write is not supported yet",
            ),
            ("remote_write: [{url: 'http://h', headers: {User-Agent: x}}]", "User-Agent is a reserved header"),
            ("remote_write: [{url: 'http://h', headers: {Content-Type: x}}]", "Content-Type"),
            ("quiver: {sinks: {influxdb: [{url: 'http://h', database: d, org: o}]}}", "org is of InfluxDB 2"),
            (
                "quiver: {sinks: {influxdb: [{url: 'http://h', bucket: b, retention_policy: r}]}}",
                "retention_policy is of InfluxDB 1",
            ),
            (
                "quiver: {sinks: {influxdb: [{url: 'http://h', bucket: b, token: t, basic_auth: {username: u}}]}}",
                "at most one of token",
            ),
            ("remote_write: [{url: 'http://h', queue_config: {max_shard: 1}}]", "did you mean \"max_shards\"?"),
            ("remote_write: [{url: 'http://h'}, {url: 'http://h'}]", "each needs a name of its own"),
            ("quiver: {sinks: {postgres: [{url: 'mysql://h'}]}}", "must begin with postgres://"),
            ("quiver: {sinks: {postgres: [{url: 'postgres://h', layout: flat}]}}", "layout must be tuned or spec"),
            ("quiver: {sinks: {influxdb: [{url: 'http://h'}]}}", "either database (InfluxDB 1) or bucket"),
            ("quiver: {sinks: {queue_size: 1MiB}}", "queue_size must be at least 64MiB"),
            ("quiver: {sinks: {kafka: []}}", "unknown key \"kafka\" in quiver.sinks"),
            ("quiver: {sinks: {postgres: [{url: 'postgres://h', retention: 1h}]}}", "retention must be at least 1d"),
            ("quiver: {sinks: {queries: {url: 'http://h', when: never}}}", "when must be older"),
            ("quiver: {sinks: {queries: {url: 'http://h', sink: x}}}", "there is no remote_write with name \"x\""),
            (
                "{remote_write: [{url: 'http://h/w', name: x}], quiver: {sinks: {queries: {url: 'http://g', sink: x}}}}",
                "whose credentials it would get",
            ),
        ] {
            let error = load(text).unwrap_err().to_string();
            assert!(error.contains(wanted) && error.starts_with("c.yml:1:"), "{text}: {error}");
        }
    }
}
