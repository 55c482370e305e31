//! `events`: who gets `metrics_collected`, besides those who listen.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use collect::HttpSettings;
use url::Url;

use super::backing::{SecretFrom, SecretUrl};
use super::fields::{Fields, Problems};
use super::http_client;
use super::yaml::Node;
use crate::announce::{Format, Wants};

/// Sinks of either kind.
const SINKS_MAX: usize = 100;
/// Events in one delivery, unless told otherwise.
const BATCH_DEFAULT: u64 = 100;
const BATCH_MAX: u64 = 10_000;
const ATTEMPTS_DEFAULT: u64 = 20;
const TIMEOUT_MS_DEFAULT: i64 = 10_000;

/// The section.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct EventSettings {
    /// `webhooks`
    pub webhooks: Vec<WebhookSettings>,
    /// `nats`
    pub nats: Vec<NatsSettings>,
}

impl EventSettings {
    /// Tells whether nobody wants events.
    pub fn is_empty(&self) -> bool {
        self.webhooks.is_empty() && self.nats.is_empty()
    }
}

/// One webhook.
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    /// Which events, and how.
    pub wants: Wants,
    /// Where to post.
    pub url: PostUrl,
    /// Signs each delivery.
    pub secret: Option<SecretFrom>,
    /// For one delivery.
    pub timeout_ms: i64,
    /// TLS, authentication, headers.
    pub http: Arc<HttpSettings>,
    /// What `http` was made from, to tell changes.
    options: collect::HttpOptions,
}

impl PartialEq for WebhookSettings {
    fn eq(&self, other: &WebhookSettings) -> bool {
        let rest = |s: &WebhookSettings| (s.wants.clone(), s.url.clone(), s.secret.clone(), s.timeout_ms);
        rest(self) == rest(other) && self.options == other.options
    }
}

/// A URL that may carry a token, also in its path: only the host is shown.
#[derive(Clone, PartialEq, Eq)]
pub struct PostUrl(pub Url);

impl std::fmt::Debug for PostUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}/<secret>", self.0.scheme(), self.0.host_str().unwrap_or_default())
    }
}

/// One stream of NATS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NatsSettings {
    /// Which events, and how.
    pub wants: Wants,
    /// `nats://host:4222`, or `tls://`.
    pub url: SecretUrl,
    /// What subjects begin with; the source is added.
    pub subject: String,
    /// The stream's name: of the one that is made, and of the only one that may take the messages. Any one when left out.
    pub stream: Option<String>,
    /// Makes the stream if there is none.
    pub create_stream: bool,
    /// Who we are.
    pub user: Option<String>,
    /// With what password.
    pub password: Option<SecretFrom>,
    /// Or with what token.
    pub token: Option<SecretFrom>,
    /// Or with what file of credentials.
    pub credentials_file: Option<PathBuf>,
    /// Certificates to trust; asks for TLS.
    pub ca_file: Option<PathBuf>,
}

/// Reads the section.
pub fn read(node: &Node, dir: &Path, problems: &mut Problems) -> EventSettings {
    let mut fields = Fields::open(node, "quiver.events", problems);
    let mut settings = EventSettings::default();
    for node in fields.list("webhooks", problems).unwrap_or_default() {
        settings.webhooks.extend(read_webhook(node, dir, problems));
    }
    for node in fields.list("nats", problems).unwrap_or_default() {
        settings.nats.extend(read_nats(node, dir, problems));
    }
    let at = fields.at();
    fields.finish(problems);
    let names: Vec<&str> = settings
        .webhooks
        .iter()
        .map(|w| &w.wants)
        .chain(settings.nats.iter().map(|n| &n.wants))
        .map(|w| w.name.as_str())
        .collect();
    let mut seen = HashSet::new();
    for name in &names {
        if !seen.insert(*name) {
            problems.error(at, format!("two receivers of events are called {name:?}"));
        }
    }
    if names.len() > SINKS_MAX {
        problems.error(at, format!("{} receivers of events; {SINKS_MAX} are allowed", names.len()));
    }
    settings
}

fn read_wants(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Wants> {
    let name = fields.parsed("name", problems, |name| {
        let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        match !name.is_empty() && name.len() <= 40 && name.chars().all(good) {
            true => Ok(name.to_owned()),
            false => Err(format!("{name:?} is not a name: 1 to 40 letters, digits, dashes or underscores")),
        }
    });
    let sources = fields.strings("sources", problems).unwrap_or_default();
    let format = fields.parsed("format", problems, Format::parse).unwrap_or_default();
    let batch_max = fields.uint("batch_max", problems).unwrap_or(BATCH_DEFAULT).clamp(1, BATCH_MAX);
    let attempts_max = fields.uint("attempts_max", problems).unwrap_or(ATTEMPTS_DEFAULT).max(1);
    let Some(name) = name else {
        problems
            .error(fields.at(), format!("{} needs a name, under which it is remembered how far it is", fields.what()));
        return None;
    };
    Some(Wants {
        name,
        sources,
        format,
        batch_max: usize::try_from(batch_max).unwrap_or(1),
        attempts_max: u32::try_from(attempts_max).unwrap_or(u32::MAX),
    })
}

fn read_webhook(node: &Node, dir: &Path, problems: &mut Problems) -> Option<WebhookSettings> {
    let mut fields = Fields::open(node, "a webhook", problems);
    let wants = read_wants(&mut fields, problems);
    let url = fields.parsed("url", problems, |text| match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(PostUrl(url)),
        _ => Err("it must begin with http:// or https:// and name a host".to_owned()),
    });
    let secret = SecretFrom::read(&mut fields, ["secret", "secret_env", "secret_file"], dir, problems);
    let timeout_ms = fields.duration_ms("timeout", problems).filter(|ms| *ms > 0).unwrap_or(TIMEOUT_MS_DEFAULT);
    let options = http_client::read(&mut fields, dir, problems);
    let http =
        HttpSettings::new(options.clone()).map_err(|e| problems.error(fields.at(), format!("{e} for a webhook")));
    if url.is_none() {
        problems.error(fields.at(), "a webhook needs a url");
    }
    fields.finish(problems);
    Some(WebhookSettings { wants: wants?, url: url?, secret, timeout_ms, http: Arc::new(http.ok()?), options })
}

fn read_nats(node: &Node, dir: &Path, problems: &mut Problems) -> Option<NatsSettings> {
    let mut fields = Fields::open(node, "nats", problems);
    let wants = read_wants(&mut fields, problems);
    let url = fields.parsed("url", problems, |text| match Url::parse(text) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            Err("who we are does not belong into the url: user with password_file, token_file or credentials_file"
                .to_owned())
        }
        Ok(url) if matches!(url.scheme(), "nats" | "tls") && url.has_host() => Ok(SecretUrl(text.to_owned())),
        _ => Err("it must begin with nats:// or tls:// and name a host".to_owned()),
    });
    let subject = fields.parsed("subject", problems, |text| {
        let good =
            |token: &str| !token.is_empty() && token.chars().all(|c| c.is_ascii_graphic() && c != '*' && c != '>');
        match text.split('.').all(good) {
            true => Ok(text.to_owned()),
            false => Err(format!("{text:?} is not a subject: words separated by dots, without * and >")),
        }
    });
    let stream = fields.parsed("stream", problems, |text| {
        let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        match !text.is_empty() && text.chars().all(good) {
            true => Ok(text.to_owned()),
            false => Err(format!("{text:?} is not a name of a stream: letters, digits, dashes and underscores")),
        }
    });
    let create_stream = fields.bool("create_stream", problems).unwrap_or(false);
    let settings = NatsSettings {
        wants: wants.clone().unwrap_or_else(|| Wants {
            name: String::new(),
            sources: Vec::new(),
            format: Format::Plain,
            batch_max: 1,
            attempts_max: 1,
        }),
        url: url.clone().unwrap_or_else(|| SecretUrl(String::new())),
        subject: subject.unwrap_or_else(|| "metrics.collected".to_owned()),
        stream: stream.or_else(|| create_stream.then(|| "METRICS".to_owned())),
        create_stream,
        user: fields.string("user", problems),
        password: SecretFrom::read(&mut fields, ["password", "password_env", "password_file"], dir, problems),
        token: SecretFrom::read(&mut fields, ["token", "token_env", "token_file"], dir, problems),
        credentials_file: fields.string("credentials_file", problems).map(|path| dir.join(path)),
        ca_file: fields.string("ca_file", problems).map(|path| dir.join(path)),
    };
    if url.is_none() {
        problems.error(fields.at(), "nats needs a url");
    }
    fields.finish(problems);
    (wants.is_some() && url.is_some()).then_some(settings)
}

#[cfg(test)]
mod tests {
    use super::super::yaml;
    use super::*;

    fn read_text(text: &str) -> (EventSettings, Vec<String>) {
        let mut problems = Problems::default();
        let settings = read(&yaml::parse(text).unwrap(), Path::new("/etc/quiver"), &mut problems);
        (settings, problems.0.into_iter().map(|p| p.text).collect())
    }

    #[test]
    fn receivers_are_read_with_their_defaults() {
        let (settings, problems) = read_text(
            "webhooks:\n- {name: audit, url: 'https://h/hidden?t=hidden', secret_file: s, format: cloudevents, sources: [a], \
             basic_auth: {username: u, password: p}}\n\
             nats:\n- {name: bus, url: 'nats://h:4222', user: u, password: hidden, create_stream: true, ca_file: ca.pem}\n",
        );
        assert!(problems.is_empty(), "{problems:?}");
        let (webhook, nats) = (&settings.webhooks[0], &settings.nats[0]);
        assert_eq!(
            (webhook.wants.format, webhook.wants.batch_max, webhook.timeout_ms),
            (Format::CloudEvents, 100, 10_000)
        );
        assert_eq!(
            (nats.subject.as_str(), nats.stream.as_deref(), nats.create_stream),
            ("metrics.collected", Some("METRICS"), true)
        );
        assert_eq!(nats.ca_file.as_deref(), Some(Path::new("/etc/quiver/ca.pem")));
        let shown = format!("{settings:?}");
        assert!(!shown.contains("hidden"), "{shown}");
        assert_eq!(settings.clone(), settings);
    }

    #[test]
    fn wrong_receivers_are_said() {
        for (text, expected) in [
            ("webhooks: [{url: 'http://h'}]", "needs a name"),
            ("webhooks: [{name: a}]", "needs a url"),
            ("webhooks: [{name: a, url: 'ftp://h'}]", "http://"),
            ("webhooks: [{name: a/b, url: 'http://h'}]", "not a name"),
            ("webhooks: [{name: a, url: 'http://h', format: xml}]", "plain nor cloudevents"),
            ("nats: [{name: a, url: 'http://h'}]", "nats://"),
            ("nats: [{name: a, url: 'nats://u:p@h'}]", "password_file"),
            ("nats: [{name: a, url: 'nats://h', subject: 'a..b'}]", "not a subject"),
            ("nats: [{name: a, url: 'nats://h', stream: 'a.b'}]", "name of a stream"),
            ("{nats: [{name: a, url: 'nats://h'}], webhooks: [{name: a, url: 'http://h'}]}", "are called"),
            ("kafka: []", "unknown key"),
        ] {
            let (_, problems) = read_text(text);
            assert!(problems.iter().any(|p| p.contains(expected)), "{text}: {problems:?}");
        }
    }
}
