//! The URL of a target: put together from its parts, refused when they contradict each other or lead where nobody may
//! go.
//!
//! Names are checked again when they are resolved, at connect time; here only what is written as an address.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use collect::AddressPolicy;
use url::{Host, Url};

/// Host names that clouds give to their metadata services.
const METADATA_NAMES: [&str; 4] =
    ["metadata.google.internal", "metadata.goog", "metadata", "instance-data.ec2.internal"];

/// What stands beside the URL.
#[derive(Clone, Debug, Default)]
pub struct UrlParts {
    /// `scheme`.
    pub scheme: Option<String>,
    /// `metrics_path`.
    pub metrics_path: Option<String>,
    /// `params`.
    pub params: BTreeMap<String, Vec<String>>,
}

/// Where to scrape.
#[derive(Clone, Debug, PartialEq)]
pub struct ScrapeUrl {
    /// All together, parameters included.
    pub url: Url,
    /// Host and port as they were written: the label `instance`.
    pub address: String,
    /// Parameters, those of the URL included.
    pub params: BTreeMap<String, Vec<String>>,
}

impl ScrapeUrl {
    /// Gives a URL that stands for one that is refused anyway.
    pub(super) fn placeholder() -> Option<ScrapeUrl> {
        let url = Url::parse("http://invalid.invalid/metrics").ok()?;
        Some(ScrapeUrl { url, address: String::new(), params: BTreeMap::new() })
    }

    /// Gives `http` or `https`.
    pub fn scheme(&self) -> &str {
        self.url.scheme()
    }

    /// Gives the path.
    pub fn path(&self) -> &str {
        self.url.path()
    }
}

/// Why a URL is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UrlError {
    /// Which field of `scrape_config`.
    pub field: &'static str,
    /// Stable word.
    pub reason: &'static str,
    /// Sentence.
    pub detail: String,
}

fn error<T>(field: &'static str, reason: &'static str, detail: impl Into<String>) -> Result<T, UrlError> {
    Err(UrlError { field, reason, detail: detail.into() })
}

/// Puts a URL together and checks where it leads.
pub fn resolve(target_url: &str, parts: &UrlParts, policy: &AddressPolicy) -> Result<ScrapeUrl, UrlError> {
    let scheme = match parts.scheme.as_deref().map(str::to_ascii_lowercase) {
        Some(s) if s != "http" && s != "https" => {
            return error("scheme", "unknown_value", format!("scheme {s:?} is neither http nor https"));
        }
        scheme => scheme,
    };
    let text = target_url.trim();
    if text.chars().any(|c| c.is_control() || c == '\\' || c.is_whitespace()) {
        return error("target_url", "invalid_url", "target_url holds white space, control characters or backslashes");
    }
    let (given_scheme, rest) = match text.split_once("://") {
        Some((given, rest)) => (Some(given.to_ascii_lowercase()), rest),
        None => (None, text),
    };
    if let Some(given) = &given_scheme {
        if given != "http" && given != "https" {
            return error("target_url", "invalid_url", format!("{given}: targets are asked over http or https"));
        }
        if scheme.as_ref().is_some_and(|s| s != given) {
            return error("scheme", "conflicting_url", format!("scheme contradicts target_url, which says {given}"));
        }
    }
    if given_scheme.is_none() && rest.split('/').next().is_some_and(|authority| authority.ends_with(':')) {
        // `file:/etc/passwd` is not a host without a port.
        return error(
            "target_url",
            "invalid_url",
            "target_url is host:port, or a URL that begins with http:// or https://",
        );
    }
    let scheme = given_scheme.or(scheme).unwrap_or_else(|| "http".to_owned());
    let mut url = match Url::parse(&format!("{scheme}://{rest}")) {
        Ok(url) => url,
        Err(e) => return error("target_url", "invalid_url", format!("target_url: {e}")),
    };
    check_shape(&url)?;
    set_path(&mut url, parts.metrics_path.as_deref())?;
    let params = set_params(&mut url, &parts.params)?;
    check_address(&url, policy)?;
    if url.as_str().len() > 4_096 {
        return error("target_url", "too_long", "URL and parameters together are longer than 4096 bytes");
    }
    let address = rest.split(['/', '?', '#']).next().unwrap_or_default().to_owned();
    Ok(ScrapeUrl { url, address, params })
}

fn check_shape(url: &Url) -> Result<(), UrlError> {
    if url.host().is_none() {
        return error("target_url", "invalid_url", "target_url names no host");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return error("target_url", "credentials_in_url", "credentials belong into authentication, not into the URL");
    }
    if url.fragment().is_some() {
        return error("target_url", "invalid_url", "target_url has a fragment");
    }
    if url.port() == Some(0) {
        return error("target_url", "invalid_url", "port 0 cannot be scraped");
    }
    Ok(())
}

fn set_path(url: &mut Url, metrics_path: Option<&str>) -> Result<(), UrlError> {
    if let Some(path) = metrics_path
        && (!path.starts_with('/') || path.contains(['?', '#']) || path.chars().any(char::is_control))
    {
        return error("metrics_path", "invalid_url", "metrics_path starts with / and holds no ? or #");
    }
    if url.path().is_empty() || url.path() == "/" {
        url.set_path(metrics_path.unwrap_or("/metrics"));
        return Ok(());
    }
    let mut other = url.clone();
    if let Some(path) = metrics_path {
        other.set_path(path);
    }
    if other.path() != url.path() {
        let detail = format!("metrics_path contradicts target_url, whose path is {}", url.path());
        return error("metrics_path", "conflicting_url", detail);
    }
    Ok(())
}

/// Joins the parameters of the URL and of `params`.
fn set_params(url: &mut Url, given: &BTreeMap<String, Vec<String>>) -> Result<BTreeMap<String, Vec<String>>, UrlError> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in url.query_pairs() {
        all.entry(name.into_owned()).or_default().push(value.into_owned());
    }
    for (name, values) in given {
        if all.get(name).is_some_and(|v| v != values) {
            return error("params", "conflicting_url", format!("parameter {name:?} stands in target_url already"));
        }
        all.insert(name.clone(), values.clone());
    }
    url.set_query(None);
    if all.values().any(|values| !values.is_empty()) {
        let mut pairs = url.query_pairs_mut();
        for (name, value) in all.iter().flat_map(|(n, values)| values.iter().map(move |v| (n, v))) {
            pairs.append_pair(name, value);
        }
    }
    Ok(all)
}

/// Checks addresses, in every spelling that a URL parser knows, and the well-known names of metadata services.
fn check_address(url: &Url, policy: &AddressPolicy) -> Result<(), UrlError> {
    let ip = match url.host() {
        Some(Host::Ipv4(ip)) => IpAddr::V4(ip),
        Some(Host::Ipv6(ip)) => IpAddr::V6(ip),
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            if METADATA_NAMES.contains(&name.as_str()) {
                return error("target_url", "forbidden_address", format!("{name} is a cloud metadata service"));
            }
            match name.as_str() {
                "localhost" => IpAddr::from([127, 0, 0, 1]),
                _ => return Ok(()),
            }
        }
        None => return Ok(()),
    };
    let port = url.port_or_known_default().unwrap_or(0);
    match policy.check(SocketAddr::new(ip, port)) {
        Ok(()) => Ok(()),
        Err(e) => error("target_url", "forbidden_address", e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Result<ScrapeUrl, &'static str> {
        resolve(text, &UrlParts::default(), &AddressPolicy::strict(true)).map_err(|e| e.reason)
    }

    #[test]
    fn hosts_and_urls_are_completed() {
        for (text, full, address) in [
            ("h:9100", "http://h:9100/metrics", "h:9100"),
            ("http://h:9100", "http://h:9100/metrics", "h:9100"),
            ("http://h:9100/", "http://h:9100/metrics", "h:9100"),
            ("HTTPS://h/x", "https://h/x", "h"),
            ("h:80/x?b=2&a=1", "http://h/x?a=1&b=2", "h:80"),
            ("[2001:db8::1]:9100", "http://[2001:db8::1]:9100/metrics", "[2001:db8::1]:9100"),
        ] {
            let got = url(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!((got.url.as_str(), got.address.as_str()), (full, address));
        }
        let parts = UrlParts { metrics_path: Some("/metrics".into()), ..UrlParts::default() };
        assert!(resolve("http://h:9100/", &parts, &AddressPolicy::strict(true)).is_ok());
    }

    #[test]
    fn forbidden_addresses_in_every_spelling() {
        for text in [
            "http://169.254.169.254/latest",
            "169.254.1.1:80",
            "http://2852039166/",
            "http://0xa9fea9fe/",
            "http://0xA9.0xFE.0xA9.0xFE/",
            "http://0251.0376.0251.0376/",
            "http://169.254.43518/",
            "http://[::ffff:169.254.169.254]/",
            "http://[::ffff:a9fe:a9fe]/",
            "http://[64:ff9b::a9fe:a9fe]/",
            "http://[64:ff9b:1::a9fe:a9fe]/",
            "http://[::ffff:0:169.254.169.254]/",
            "http://[fe80::1]/",
            "http://[fd00:ec2::254]/",
            "http://0.0.0.0:80/",
            "http://[::]/",
            "http://metadata.google.internal/",
            "http://METADATA.google.internal./",
            "http://１６９.254.169.254/",
        ] {
            assert_eq!(url(text), Err("forbidden_address"), "{text}");
        }
        assert!(url("http://127.0.0.1:1").is_ok() && url("http://localhost:1").is_ok());
        let closed = AddressPolicy::strict(false);
        for text in ["http://127.0.0.1:1", "http://localhost:1", "http://2130706433/", "http://[::1]:1"] {
            let got = resolve(text, &UrlParts::default(), &closed).map_err(|e| e.reason);
            assert_eq!(got, Err("forbidden_address"), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "http://",
            "file:///etc/passwd",
            "FILE:/etc/passwd",
            "h:",
            "gopher://h",
            "http://h:99999",
            "http://h:0",
            "a b",
            "http://h\\@x",
            "http://h#x",
        ] {
            assert_eq!(url(text), Err("invalid_url"), "{text}");
        }
        assert_eq!(url("http://u:p@h/"), Err("credentials_in_url"));
    }
}
