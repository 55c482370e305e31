//! `MetricCollectionRequest`: from JSON to a checked registration, and from there to a target to scrape.
//!
//! Invariant: two requests mean the same exactly when their normal forms ([`Registration::normal`]) are equal.

use std::collections::BTreeMap;
use std::sync::Arc;

use catalog::NewTarget;
use collect::{AddressPolicy, HttpOptions, HttpSettings, OnExceed, ScrapeLimits, TargetSpec, TlsOptions};
use model::{CollectionMethod, Labels, format_duration_ms, is_legacy_label_name};
use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::xxh3_64;

use super::address::{self, ScrapeUrl, UrlParts};
use super::auth_config::{AuthConfig, is_secret_header};
use super::fields::{Fields, Issues, Severity, join, whole};
use super::filters::Filters;
use super::problem::Problem;
use super::protocols::Formats;
use super::push_targets::{self, PushSettings};
use super::retention::Policy;
use crate::access::vault::Vault;

/// Characters of a source or target id.
pub const ID_CHARS_MAX: usize = 100;
/// Characters of a URL.
pub const URL_CHARS_MAX: usize = 500;
/// Labels of one target.
const LABELS_MAX: usize = 64;
/// Characters of a label's name.
const LABEL_NAME_CHARS_MAX: usize = 200;
/// Characters of a label's value.
const LABEL_VALUE_CHARS_MAX: usize = 2_048;
const INTERVAL_MS_DEFAULT: u64 = 15_000;
const TIMEOUT_MS_DEFAULT: u64 = 10_000;
const INTERVAL_MS_MIN: u64 = 10;
const INTERVAL_MS_MAX: u64 = 7 * 86_400_000;
const BODY_BYTES_MAX: u64 = 256 << 20;

/// The specification's MetricSource.
pub const SOURCES: [(&str, &str); 5] = [
    ("APPLICATION", "APPLICATION"),
    ("INFRASTRUCTURE", "INFRASTRUCTURE"),
    ("KUBERNETES", "KUBERNETES"),
    ("CLOUD_PROVIDER", "CLOUD_PROVIDER"),
    ("CUSTOM_EXPORTER", "CUSTOM_EXPORTER"),
];

const METHODS: [(&str, CollectionMethod); 4] = [
    ("PULL_SCRAPING", CollectionMethod::PullScraping),
    ("PUSH_GATEWAY", CollectionMethod::PushGateway),
    ("STREAMING", CollectionMethod::Streaming),
    ("BATCH_UPLOAD", CollectionMethod::BatchUpload),
];

/// A checked registration.
#[derive(Clone, Debug, PartialEq)]
pub struct Registration {
    /// Given or derived.
    pub target_id: String,
    /// Who the samples are attributed to; label `job`.
    pub source_id: String,
    /// MetricSource.
    pub source_type: String,
    /// How samples come.
    pub method: CollectionMethod,
    /// Labels of all series.
    pub labels: BTreeMap<String, String>,
    /// How to scrape; `None` when the source pushes.
    pub scrape: Option<ScrapeSettings>,
    /// How a source pushes that is not scraped.
    pub push: PushSettings,
    /// Which series are kept, with which labels.
    pub filters: Filters,
    /// Limits of one scrape.
    pub limits: Limits,
    /// How long samples are kept.
    pub retention: Option<Policy>,
    /// Whether to collect.
    pub enabled: bool,
}

/// How to scrape.
#[derive(Clone, Debug, PartialEq)]
pub struct ScrapeSettings {
    /// As it was given.
    pub target_url: String,
    /// What comes out of URL, scheme and path.
    pub url: ScrapeUrl,
    /// From one scrape to the next.
    pub interval_ms: u64,
    /// Longest time for one scrape.
    pub timeout_ms: u64,
    /// Labels of the exporter win.
    pub honor_labels: bool,
    /// Timestamps of the exporter are used.
    pub honor_timestamps: bool,
    /// Redirects are followed.
    pub follow_redirects: bool,
    /// Bytes of the body after inflating; 0 is the default.
    pub body_size_limit: u64,
    /// More headers.
    pub headers: BTreeMap<String, String>,
    /// How the target is shown who asks.
    pub auth: AuthConfig,
    /// TLS without secrets.
    pub tls: Tls,
    /// Protocols and histograms.
    pub formats: Formats,
}

/// TLS of the connection to a target.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tls {
    /// Certificates to trust.
    pub ca: Option<String>,
    /// Name to expect.
    pub server_name: Option<String>,
    /// Trusts whatever comes.
    pub insecure_skip_verify: bool,
}

/// Limits of one scrape; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Series of the target.
    pub max_series: u64,
    /// Samples of one scrape.
    pub max_samples_per_scrape: u64,
    /// Fails the scrape instead of keeping what is in.
    pub fail: bool,
}

impl Limits {
    /// Gives the smaller of the limits that are set; 0 when none is.
    pub fn samples(&self) -> u64 {
        [self.max_series, self.max_samples_per_scrape].into_iter().filter(|n| *n > 0).min().unwrap_or(0)
    }
}

impl Registration {
    /// Reads and checks a request.
    pub fn read(body: &Value, strict: bool, policy: &AddressPolicy) -> Result<Registration, Problem> {
        let mut issues = Issues::new(strict);
        let registration = read_request(body, &mut issues, policy);
        issues.into_result()?;
        registration.ok_or_else(|| Problem::new(http::StatusCode::BAD_REQUEST, "malformed", "not a registration"))
    }

    /// Gives the normal form: every field with its value, in one spelling.
    pub fn normal(&self) -> Value {
        let mut normal = json!({
            "source_id": self.source_id,
            "target_id": self.target_id,
            "collection_method": self.method.as_str(),
            "source_type": self.source_type,
            "labels": self.labels,
            "scrape_config": self.scrape.as_ref().map_or(Value::Null, ScrapeSettings::normal),
            "filters": self.filters.normal(),
            "retention_policy": self.retention.as_ref().map_or(Value::Null, Policy::to_value),
            "limits": self.limits_json(),
            "enabled": self.enabled,
        });
        if self.scrape.is_none() {
            normal["push_config"] = self.push.normal();
        }
        normal
    }

    /// Gives where a source that is not scraped sends to: a path on this server.
    pub fn push_path(&self) -> Option<String> {
        self.scrape.is_none().then(|| push_targets::path_of(self.method, &self.source_id, &self.labels))
    }

    fn limits_json(&self) -> Value {
        json!({
            "max_series": self.limits.max_series,
            "max_samples_per_scrape": self.limits.max_samples_per_scrape,
            "on_exceed": if self.limits.fail { "FAIL" } else { "KEEP_EXISTING" },
        })
    }

    /// Gives the row for the catalog.
    pub fn to_new_target(&self) -> NewTarget {
        let normal = self.normal();
        NewTarget {
            target_id: self.target_id.clone(),
            target_url: match (&self.scrape, self.push_path()) {
                (Some(scrape), _) => scrape.target_url.clone(),
                (None, path) => path.unwrap_or_default(),
            },
            source_type: self.source_type.clone(),
            scrape_config: normal["scrape_config"].clone(),
            labels: self.labels.clone(),
            enabled: self.enabled,
            source_id: self.source_id.clone(),
            collection_method: self.method,
            origin: "api".to_owned(),
            filters: normal["filters"].clone(),
            retention_policy: normal["retention_policy"].clone(),
            limits: normal["limits"].clone(),
            request: normal,
        }
    }

    /// Gives the target for the collector; `None` when the source pushes.
    ///
    /// **Errors** when TLS settings, headers or secrets cannot be used.
    pub fn to_spec(&self, policy: &AddressPolicy, vault: &Vault) -> Result<Option<TargetSpec>, Problem> {
        let Some(s) = &self.scrape else { return Ok(None) };
        let mut tls = TlsOptions {
            ca_pem: s.tls.ca.clone(),
            server_name: s.tls.server_name.clone(),
            insecure_skip_verify: s.tls.insecure_skip_verify,
            ..TlsOptions::default()
        };
        let auth = s.auth.open(vault, &mut tls)?;
        let options = HttpOptions {
            tls,
            auth,
            headers: s.headers.iter().map(|(n, v)| (n.clone(), v.clone())).collect(),
            follow_redirects: s.follow_redirects,
            ..HttpOptions::default()
        };
        let http = HttpSettings::new(options).map_err(|e| {
            let status = http::StatusCode::UNPROCESSABLE_ENTITY;
            Problem::at(status, "invalid_http_settings", "/scrape_config", e.to_string())
        })?;
        let mut labels = self.labels.clone();
        labels.entry("job".to_owned()).or_insert_with(|| self.source_id.clone());
        labels.entry("instance".to_owned()).or_insert_with(|| s.url.address.clone());
        let labels = Labels::from_pairs(labels.iter());
        let mut spec = TargetSpec::new(self.target_id.clone(), s.url.url.clone(), labels);
        spec.source_id.clone_from(&self.source_id);
        spec.interval_ms = s.interval_ms;
        spec.timeout_ms = s.timeout_ms;
        spec.honor_labels = s.honor_labels;
        spec.honor_timestamps = s.honor_timestamps;
        spec.filters = self.filters.set();
        spec.limits = self.scrape_limits(s);
        spec.http = Arc::new(http);
        spec.enabled = self.enabled;
        spec.address_policy = policy.clone();
        s.formats.apply(&mut spec);
        Ok(Some(spec))
    }

    fn scrape_limits(&self, scrape: &ScrapeSettings) -> ScrapeLimits {
        let mut limits = ScrapeLimits {
            sample: self.limits.samples(),
            on_exceed: if self.limits.fail { OnExceed::Fail } else { OnExceed::KeepExisting },
            ..ScrapeLimits::default()
        };
        if scrape.body_size_limit > 0 {
            limits.body_bytes = scrape.body_size_limit;
        }
        limits
    }
}

impl ScrapeSettings {
    /// Gives the normal form.
    fn normal(&self) -> Value {
        let s = self;
        let mut scrape = json!({
            "target_url": s.target_url,
            "scheme": s.url.scheme(),
            "metrics_path": s.url.path(),
            "params": s.url.params,
            "scrape_interval": format_duration_ms(s.interval_ms as i64),
            "scrape_timeout": format_duration_ms(s.timeout_ms as i64),
            "honor_labels": s.honor_labels,
            "honor_timestamps": s.honor_timestamps,
            "follow_redirects": s.follow_redirects,
            "body_size_limit": s.body_size_limit,
            "headers": s.headers,
            "authentication": s.auth.normal(),
        });
        if s.tls != Tls::default() {
            scrape["tls"] = json!({
                "ca": s.tls.ca, "server_name": s.tls.server_name, "insecure_skip_verify": s.tls.insecure_skip_verify,
            });
        }
        if let Some(scrape) = scrape.as_object_mut() {
            s.formats.write(scrape);
        }
        scrape
    }
}

fn read_request(body: &Value, issues: &mut Issues, policy: &AddressPolicy) -> Option<Registration> {
    let mut f = Fields::open(body, "", issues)?;
    let source_id = f.string_max("source_id", ID_CHARS_MAX);
    let source_id = f.require("source_id", source_id);
    if let Some(id) = source_id {
        check_source_id(&mut f, id);
    }
    let target_id = f.string_max("target_id", ID_CHARS_MAX);
    if let Some(id) = target_id.filter(|id| !is_target_id(id)) {
        f.issue(Severity::Refused, "target_id", "invalid_id", format!("{id:?} is not [A-Za-z0-9._:-]{{1,100}}"));
    }
    let method = f.word("collection_method", &METHODS);
    let method = f.require("collection_method", method);
    let source_type = f.word("source_type", &SOURCES).unwrap_or("APPLICATION");
    let labels = f.strings("labels").unwrap_or_default();
    let labels = check_labels(&mut f, labels);
    let filters = Filters::read(&mut f, &labels);
    let limits = read_limits(&mut f);
    let retention = Policy::read(&mut f);
    let enabled = f.boolean("enabled").unwrap_or(true);
    let config = f.value("scrape_config");
    let push = f.value("push_config");
    match method {
        Some(CollectionMethod::PullScraping) => {
            f.require("scrape_config", config);
            if push.is_some() {
                let detail = "push_config goes with the methods that push";
                f.issue(Severity::Refused, "push_config", "not_applicable", detail);
            }
        }
        Some(method) if config.is_some() => {
            let detail = format!("scrape_config must be absent for {}", method.as_str());
            f.issue(Severity::Refused, "scrape_config", "not_applicable", detail);
        }
        _ => {}
    }
    let push = PushSettings::read(&mut f);
    f.finish();
    let scrape = match method? {
        CollectionMethod::PullScraping => Some(read_scrape_config(config?, issues, policy)?),
        _ => None,
    };
    let source_id = source_id?.to_owned();
    let mut registration = Registration {
        target_id: target_id.unwrap_or_default().to_owned(),
        source_id,
        source_type: source_type.to_owned(),
        method: method?,
        labels,
        scrape,
        push,
        filters,
        limits,
        retention,
        enabled,
    };
    if target_id.is_none() {
        registration.target_id = derived_id(&registration);
    }
    if registration.push_path().is_some_and(|path| path.chars().count() > URL_CHARS_MAX) {
        let detail = format!("source_id and labels make a push URL of more than {URL_CHARS_MAX} characters");
        issues.add(Severity::Refused, "/labels", "too_long", detail);
    }
    Some(registration)
}

fn check_source_id(f: &mut Fields, id: &str) {
    if id.is_empty() || id.chars().any(char::is_control) {
        f.issue(Severity::Refused, "source_id", "invalid_id", "source_id is empty or holds control characters");
    }
}

/// Tells whether a text is `[A-Za-z0-9._:-]{1,100}`.
pub fn is_target_id(id: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
    (1..=ID_CHARS_MAX).contains(&id.len()) && id.bytes().all(good)
}

/// Makes `<source_id>-<8 hex>` out of what makes the target what it is.
fn derived_id(r: &Registration) -> String {
    let identity = match &r.scrape {
        Some(scrape) => json!([r.method.as_str(), scrape.url.url.as_str(), scrape.url.params, r.labels]),
        None => json!([r.method.as_str(), r.source_id, r.labels]),
    };
    let hash = xxh3_64(identity.to_string().as_bytes()) as u32;
    let good = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-') { c } else { '_' };
    let source: String = r.source_id.chars().take(ID_CHARS_MAX - 9).map(good).collect();
    format!("{source}-{hash:08x}")
}

/// Drops empty values; notes names and values that cannot be labels.
fn check_labels(f: &mut Fields, mut labels: BTreeMap<String, String>) -> BTreeMap<String, String> {
    if labels.len() > LABELS_MAX {
        let detail = format!("{} labels, {LABELS_MAX} are allowed", labels.len());
        f.issue(Severity::Refused, "labels", "label_limit", detail);
    }
    for (name, value) in &labels {
        let pointer = join(&f.at("labels"), name);
        if !is_legacy_label_name(name) || name.starts_with("__") {
            let detail = "a label name is [a-zA-Z_][a-zA-Z0-9_]* and does not start with two underscores";
            f.issues.add(Severity::Refused, pointer, "invalid_label_name", detail);
        } else if name.chars().count() > LABEL_NAME_CHARS_MAX || value.chars().count() > LABEL_VALUE_CHARS_MAX {
            let detail =
                format!("a label name has at most {LABEL_NAME_CHARS_MAX}, a value {LABEL_VALUE_CHARS_MAX} characters");
            f.issues.add(Severity::Refused, pointer, "too_long", detail);
        }
    }
    labels.retain(|_, value| !value.is_empty());
    labels
}

fn read_limits(f: &mut Fields) -> Limits {
    let pointer = f.at("limits");
    let Some(value) = f.value("limits") else { return Limits::default() };
    let Some(mut f) = Fields::open(value, pointer, f.issues) else { return Limits::default() };
    let limits = Limits {
        max_series: f.whole("max_series").unwrap_or(0),
        max_samples_per_scrape: f.whole("max_samples_per_scrape").unwrap_or(0),
        fail: f.word("on_exceed", &[("KEEP_EXISTING", false), ("FAIL", true)]).unwrap_or(false),
    };
    f.finish();
    limits
}

fn read_scrape_config(value: &Value, issues: &mut Issues, policy: &AddressPolicy) -> Option<ScrapeSettings> {
    let mut f = Fields::open(value, "/scrape_config", issues)?;
    let target_url = f.string_max("target_url", URL_CHARS_MAX);
    let target_url = f.require("target_url", target_url);
    let parts = UrlParts {
        scheme: f.string("scheme").map(str::to_owned),
        metrics_path: f.string_max("metrics_path", URL_CHARS_MAX).map(str::to_owned),
        params: read_params(&mut f),
    };
    let (interval_ms, timeout_ms) = read_times(&mut f);
    f.not_yet("proxy_url", "proxies are");
    let mut settings = ScrapeSettings {
        target_url: target_url.unwrap_or_default().to_owned(),
        url: ScrapeUrl::placeholder()?,
        interval_ms,
        timeout_ms,
        honor_labels: f.boolean("honor_labels").unwrap_or(false),
        honor_timestamps: f.boolean("honor_timestamps").unwrap_or(true),
        follow_redirects: f.boolean("follow_redirects").unwrap_or(true),
        body_size_limit: read_size(&mut f, "body_size_limit"),
        headers: read_headers(&mut f),
        auth: AuthConfig::read(&mut f),
        tls: read_tls(&mut f),
        formats: Formats::read(&mut f),
    };
    if let Some(text) = target_url {
        match address::resolve(text, &parts, policy) {
            Ok(url) => settings.url = url,
            Err(e) => {
                let severity = if e.reason == "invalid_url" { Severity::Malformed } else { Severity::Refused };
                f.issue(severity, e.field, e.reason, e.detail);
            }
        }
    }
    f.finish();
    Some(settings)
}

fn read_times(f: &mut Fields) -> (u64, u64) {
    let interval = f.duration_ms("scrape_interval", "scrape_interval_ms");
    let timeout = f.duration_ms("scrape_timeout", "scrape_timeout_ms");
    let interval_ms = interval.unwrap_or(INTERVAL_MS_DEFAULT);
    if !(INTERVAL_MS_MIN..=INTERVAL_MS_MAX).contains(&interval_ms) {
        f.issue(Severity::Refused, "scrape_interval", "out_of_range", "scrape_interval must be from 10ms to 7d");
    }
    let timeout_ms = timeout.unwrap_or(TIMEOUT_MS_DEFAULT.min(interval_ms));
    if timeout_ms == 0 {
        f.issue(Severity::Refused, "scrape_timeout", "out_of_range", "scrape_timeout must be more than 0");
    }
    if timeout_ms > interval_ms {
        let detail = format!(
            "scrape_timeout {} is greater than scrape_interval {}",
            format_duration_ms(i64::try_from(timeout_ms).unwrap_or(i64::MAX)),
            format_duration_ms(i64::try_from(interval_ms).unwrap_or(i64::MAX)),
        );
        f.issue(Severity::Refused, "scrape_timeout", "timeout_exceeds_interval", detail);
    }
    (interval_ms, timeout_ms)
}

/// Reads headers; secrets among them would be shown to everybody who may read.
fn read_headers(f: &mut Fields) -> BTreeMap<String, String> {
    let headers = f.strings("headers").unwrap_or_default();
    for name in headers.keys().filter(|name| is_secret_header(name)) {
        let pointer = join(&f.at("headers"), name);
        let detail =
            "a header that holds a secret belongs into authentication: {\"type\": \"API_KEY\", \"header\", \"value\"}";
        f.issues.add(Severity::Refused, pointer, "secret_in_headers", detail);
    }
    headers
}

fn read_params(f: &mut Fields) -> BTreeMap<String, Vec<String>> {
    let pointer = f.at("params");
    let mut out = BTreeMap::new();
    let Some(value) = f.value("params") else { return out };
    let Some(map) = value.as_object() else {
        f.issue(Severity::Malformed, "params", "wrong_type", "params: expected an object");
        return out;
    };
    for (name, value) in map {
        let values: Option<Vec<String>> = match value {
            Value::String(text) => Some(vec![text.clone()]),
            Value::Array(list) => list.iter().map(|v| v.as_str().map(str::to_owned)).collect(),
            _ => None,
        };
        match values {
            Some(values) => drop(out.insert(name.clone(), values)),
            None => {
                let detail = "expected a string or a list of strings";
                f.issues.add(Severity::Malformed, join(&pointer, name), "wrong_type", detail);
            }
        }
    }
    out
}

/// Reads bytes: a number, or a number with B, KB, MB, GB, KiB, MiB, GiB (1024 each, as in Prometheus).
fn read_size(f: &mut Fields, name: &'static str) -> u64 {
    let Some(value) = f.value(name) else { return 0 };
    let bytes = whole(value).or_else(|| value.as_str().and_then(size_of));
    match bytes {
        None => f.issue(Severity::Malformed, name, "wrong_type", format!("{name}: expected bytes, such as \"10MB\"")),
        Some(n) if n > BODY_BYTES_MAX => {
            f.issue(Severity::Refused, name, "out_of_range", format!("{name}: at most {BODY_BYTES_MAX} bytes"));
        }
        Some(n) => return n,
    }
    0
}

fn size_of(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" | "KIB" => 1 << 10,
        "MB" | "MIB" => 1 << 20,
        "GB" | "GIB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

fn read_tls(f: &mut Fields) -> Tls {
    let pointer = f.at("tls");
    let Some(value) = f.value("tls") else { return Tls::default() };
    let Some(mut f) = Fields::open(value, pointer, f.issues) else { return Tls::default() };
    f.not_yet("cert", "client certificates are");
    f.not_yet("key", "client certificates are");
    f.not_yet("min_version", "choosing a TLS version is");
    let tls = Tls {
        ca: f.string_max("ca", 200_000).map(str::to_owned),
        server_name: f.string_max("server_name", 253).map(str::to_owned),
        insecure_skip_verify: f.boolean("insecure_skip_verify").unwrap_or(false),
    };
    f.finish();
    tls
}

/// Applies a merge patch (RFC 7396), to a bounded depth.
pub fn merge(target: &mut Value, patch: &Value, depth: usize) {
    let (Value::Object(patch), true) = (patch, depth > 0) else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            map.remove(name);
        } else {
            merge(map.entry(name.clone()).or_insert(Value::Null), value, depth - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault() -> Vault {
        Vault::of(&[7; 32], Default::default()).expect("a key")
    }

    fn base() -> Value {
        json!({
            "source_id": "payments", "collection_method": "pull_scraping",
            "scrape_config": {"target_url": "10.0.0.1:9100"}
        })
    }

    fn read(change: impl FnOnce(&mut Value)) -> Result<Registration, Problem> {
        let mut body = base();
        change(&mut body);
        Registration::read(&body, true, &AddressPolicy::strict(true))
    }

    fn pull(r: &Registration) -> &ScrapeSettings {
        r.scrape.as_ref().expect("it is scraped")
    }

    #[track_caller]
    fn refused(status: u16, code: &str, pointer: &str, change: impl FnOnce(&mut Value)) {
        let problem = read(change).expect_err("it is refused");
        assert_eq!((problem.status, problem.code.as_str()), (status, code), "{problem:?}");
        assert!(problem.errors.iter().any(|e| e.pointer == pointer), "{problem:?}");
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let r = read(|_| ()).expect("it is fine");
        assert_eq!(pull(&r).url.url.as_str(), "http://10.0.0.1:9100/metrics");
        assert_eq!((pull(&r).interval_ms, pull(&r).timeout_ms), (15_000, 10_000));
        assert_eq!(r.source_type, "APPLICATION");
        assert!(r.target_id.starts_with("payments-") && is_target_id(&r.target_id), "{}", r.target_id);
        let spec = r.to_spec(&AddressPolicy::strict(true), &vault()).expect("usable").expect("it is scraped");
        assert_eq!(spec.labels.to_string(), r#"{instance="10.0.0.1:9100", job="payments"}"#);
        let short = read(|b| b["scrape_config"]["scrape_interval"] = json!("5s")).expect("it is fine");
        assert_eq!(pull(&short).timeout_ms, 5_000);
    }

    #[test]
    fn the_same_request_in_other_words_is_the_same() {
        let a = read(|b| b["scrape_config"] = json!({"target_url": "10.0.0.1:9100", "scrape_interval_ms": 90_000}))
            .expect("fine");
        let b = read(|b| {
            b["collection_method"] = json!("PULL_SCRAPING");
            b["scrape_config"] =
                json!({"target_url": "10.0.0.1:9100", "scrape_interval": "1m30s", "metrics_path": "/metrics"});
            b["labels"] = json!({"empty": ""});
        })
        .expect("fine");
        assert_eq!(a.normal(), b.normal());
        let c = read(|b| b["labels"] = json!({"env": "prod"})).expect("fine");
        assert_ne!(a.target_id, c.target_id);
    }

    #[test]
    fn the_normal_form_reads_back_as_itself() {
        let policy = AddressPolicy::strict(true);
        let r = read(|b| {
            b["scrape_config"]["target_url"] = json!("http://10.0.0.1:9100/m?a=1");
            b["scrape_config"]["tls"] = json!({"insecure_skip_verify": true});
            b["retention_policy"] =
                json!({"raw": "30d", "match": [{"selector": "up", "raw_ms": 1000}], "on_delete": "PURGE"});
            b["limits"] = json!({"max_series": 10, "on_exceed": "fail"});
            b["filters"] = json!([{"action": "drop", "match": "up"}, {"action": "HASH_LABEL", "labels": ["a"]}]);
        })
        .expect("fine");
        assert_eq!(Registration::read(&r.normal(), true, &policy).expect("reads back"), r);
    }

    #[test]
    fn mistakes_are_refused_with_a_pointer() {
        refused(400, "unknown_field", "/colour", |b| b["colour"] = json!("red"));
        refused(400, "unknown_field", "/scrape_config/colour", |b| b["scrape_config"]["colour"] = json!(1));
        refused(400, "missing_field", "/source_id", |b| drop(b.as_object_mut().map(|m| m.remove("source_id"))));
        refused(400, "missing_field", "/scrape_config", |b| b["scrape_config"] = Value::Null);
        refused(400, "missing_field", "/scrape_config/target_url", |b| b["scrape_config"] = json!({}));
        refused(400, "wrong_type", "/source_id", |b| b["source_id"] = json!(7));
        refused(400, "unknown_value", "/collection_method", |b| b["collection_method"] = json!("TELEPATHY"));
        refused(422, "too_long", "/source_id", |b| b["source_id"] = json!("x".repeat(101)));
        refused(422, "too_long", "/target_id", |b| b["target_id"] = json!("x".repeat(101)));
        refused(422, "invalid_id", "/target_id", |b| b["target_id"] = json!("a/b"));
        refused(422, "invalid_id", "/target_id", |b| b["target_id"] = json!(""));
        let long = format!("http://10.0.0.1/{}", "x".repeat(500));
        refused(422, "too_long", "/scrape_config/target_url", |b| b["scrape_config"]["target_url"] = json!(long));
        refused(422, "timeout_exceeds_interval", "/scrape_config/scrape_timeout", |b| {
            b["scrape_config"]["scrape_timeout"] = json!("1m")
        });
        refused(400, "invalid_duration", "/scrape_config/scrape_interval", |b| {
            b["scrape_config"]["scrape_interval"] = json!("soon")
        });
        refused(422, "out_of_range", "/scrape_config/scrape_interval", |b| {
            b["scrape_config"]["scrape_interval"] = json!("0")
        });
        refused(422, "invalid_label_name", "/labels/__name__", |b| b["labels"] = json!({"__name__": "x"}));
        refused(422, "forbidden_address", "/scrape_config/target_url", |b| {
            b["scrape_config"]["target_url"] = json!("http://169.254.169.254/")
        });
        refused(422, "conflicting_url", "/scrape_config/metrics_path", |b| {
            b["scrape_config"] = json!({"target_url": "http://10.0.0.1/other", "metrics_path": "/metrics"})
        });
        refused(422, "conflicting_url", "/scrape_config/scheme", |b| {
            b["scrape_config"] = json!({"target_url": "http://10.0.0.1", "scheme": "https"})
        });
    }

    #[test]
    fn what_is_not_built_is_said_with_its_pointer() {
        refused(400, "missing_field", "/retention_policy/rollups/0/after", |b| {
            b["retention_policy"] = json!({"rollups": [{"resolution": "5m", "keep": "90d"}]})
        });
        refused(422, "invalid_selector", "/retention_policy/match/0/selector", |b| {
            b["retention_policy"] = json!({"match": [{"selector": "{", "raw": "1d"}]})
        });
        refused(501, "not_yet", "/scrape_config/authentication/min_version", |b| {
            let held = json!({"ref": "env:X"});
            b["scrape_config"]["authentication"] =
                json!({"type": "MTLS", "cert": held, "key": held, "min_version": "1.3"})
        });
        refused(422, "secret_in_headers", "/scrape_config/headers/X-Api-Key", |b| {
            b["scrape_config"]["headers"] = json!({"X-Api-Key": "k"})
        });
        let fine = read(|b| {
            b["filters"] = json!([]);
            b["scrape_config"]["authentication"] = json!({"type": "NONE"});
        });
        assert!(fine.is_ok(), "{fine:?}");
    }

    #[test]
    fn sources_that_push_have_no_scrape_config() {
        for method in ["PUSH_GATEWAY", "STREAMING", "BATCH_UPLOAD"] {
            let push = json!({"source_id": "s", "collection_method": method, "scrape_config": null,
                              "push_config": {"expected_interval": "1m"}});
            let r = read(|b| *b = push.clone()).expect("it is fine");
            assert!(r.to_spec(&AddressPolicy::strict(true), &vault()).expect("usable").is_none());
            assert_eq!(r.push, PushSettings { expected_interval_ms: 60_000, ttl_ms: 300_000 });
            assert_eq!(read(|b| *b = r.normal()).expect("reads back"), r);
            refused(422, "not_applicable", "/scrape_config", |b| {
                *b = push.clone();
                b["scrape_config"] = json!({"target_url": "h:1"});
            });
        }
        refused(422, "not_applicable", "/push_config", |b| b["push_config"] = json!({"ttl": "1m"}));
        refused(422, "out_of_range", "/push_config/ttl", |b| {
            *b = json!({"source_id": "s", "collection_method": "STREAMING", "push_config": {"ttl": "9000d"}})
        });
        refused(422, "too_long", "/labels", |b| {
            *b = json!({"source_id": "s", "collection_method": "PUSH_GATEWAY", "labels": {"l": "x".repeat(600)}})
        });
    }

    #[test]
    fn lenient_requests_may_hold_unknown_fields() {
        let mut body = base();
        body["colour"] = json!("red");
        assert!(Registration::read(&body, false, &AddressPolicy::strict(true)).is_ok());
    }

    #[test]
    fn merge_patches_as_rfc_7396() {
        let mut target = json!({"a": {"b": 1, "c": 2}, "d": 3});
        merge(&mut target, &json!({"a": {"b": null, "e": 4}, "d": [1]}), 10);
        assert_eq!(target, json!({"a": {"c": 2, "e": 4}, "d": [1]}));
    }
}
