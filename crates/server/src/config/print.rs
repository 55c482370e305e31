//! A configuration printed anew, as `/api/v1/status/config` shows it.
//!
//! Invariant: no secret is in it. A key that may hold one is masked whatever it holds, as is the environment of a program; of a
//! webhook's URL only the host is shown, because tokens stand in paths there.

use super::yaml::{Kind, Node};

const MASK: &str = "<secret>";
/// Keys whose values are secrets, wherever they stand.
const SECRET_KEYS: [&str; 21] = [
    "access_key",
    "access_token",
    "account_key",
    "api_token",
    "application_credential_secret",
    "auth_token",
    "bcrypt",
    "bearer_token",
    "client_secret",
    "consumer_key",
    "credentials",
    "key",
    "password",
    "routing_key",
    "secret",
    "secret_key",
    "secrets",
    "service_key",
    "session_token",
    "slack_api_url",
    "token",
];

/// Parts of the names of URL parameters whose values are secrets.
const SECRET_PARAMETERS: [&str; 8] =
    ["passw", "secret", "token", "apikey", "api_key", "api-key", "credential", "signature"];

/// Below this key the paths of URLs are secret, too.
const SECRET_PATHS_BELOW: &str = "webhooks";

/// How much of URLs is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Paths {
    Shown,
    Hidden,
}

/// Prints a tree as YAML, secrets masked.
pub fn without_secrets(root: &Node) -> String {
    let mut out = String::new();
    match &root.kind {
        Kind::Null => {}
        Kind::Scalar(text) => out.push_str(&scalar(text)),
        Kind::List(_) | Kind::Map(_) => block(root, 0, Paths::Shown, &mut out),
    }
    out
}

fn block(node: &Node, indent: usize, paths: Paths, out: &mut String) {
    match &node.kind {
        Kind::List(items) => {
            for item in items {
                pad(indent, out);
                out.push('-');
                // The first line of an inner block follows the dash.
                let start = out.len();
                value(item, indent + 2, paths, out);
                if matches!(&item.kind, Kind::Map(e) if !e.is_empty())
                    || matches!(&item.kind, Kind::List(i) if !i.is_empty())
                {
                    out.replace_range(start..start + 1 + indent + 2, " ");
                }
            }
        }
        Kind::Map(entries) => {
            for entry in entries {
                pad(indent, out);
                out.push_str(&scalar(&entry.key));
                out.push(':');
                if SECRET_KEYS.contains(&entry.key.as_str()) && entry.value.holds_something() {
                    out.push_str(&format!(" {MASK}\n"));
                } else if let ("env", Kind::Map(variables)) = (entry.key.as_str(), &entry.value.kind)
                    && !variables.is_empty()
                {
                    out.push('\n');
                    for variable in variables {
                        pad(indent + 2, out);
                        out.push_str(&format!("{}: {MASK}\n", scalar(&variable.key)));
                    }
                } else {
                    let below = if entry.key == SECRET_PATHS_BELOW { Paths::Hidden } else { paths };
                    value(&entry.value, indent + 2, below, out);
                }
            }
        }
        Kind::Null | Kind::Scalar(_) => {}
    }
}

/// Prints what follows a key or a dash.
fn value(node: &Node, indent: usize, paths: Paths, out: &mut String) {
    match &node.kind {
        Kind::Null => out.push_str(" null\n"),
        Kind::Scalar(text) => out.push_str(&format!(" {}\n", scalar(&shown(text, paths)))),
        Kind::List(items) if items.is_empty() => out.push_str(" []\n"),
        Kind::Map(entries) if entries.is_empty() => out.push_str(" {}\n"),
        Kind::List(_) | Kind::Map(_) => {
            out.push('\n');
            block(node, indent, paths, out);
        }
    }
}

fn pad(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn shown(text: &str, paths: Paths) -> String {
    let text = without_password(text);
    match text.split_once("://") {
        Some((scheme, rest)) if paths == Paths::Hidden => {
            let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
            let path = if path.len() > 1 { format!("/{MASK}") } else { path.to_owned() };
            format!("{scheme}://{host}{path}")
        }
        _ => text,
    }
}

/// Masks the password of a URL, and what its parameters say in secret.
pub(crate) fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let (before, fragment) = rest.split_at(rest.find('#').unwrap_or(rest.len()));
    let (before, query) = before.split_at(before.find('?').unwrap_or(before.len()));
    // A password may hold an `@`, and one that nobody escaped a slash.
    let login_end = before.rfind('@').filter(|at| before.get(..*at).is_some_and(is_login));
    let before = match login_end.map(|at| before.split_at(at)) {
        Some((login, host)) => format!("{}:xxxxx{host}", login.split(':').next().unwrap_or_default()),
        None => before.to_owned(),
    };
    let parameters: Vec<String> = query.split('&').map(without_value).collect();
    format!("{scheme}://{before}{}{fragment}", parameters.join("&"))
}

/// Tells whether the text before an `@` is a user with a password, and not a host with a path.
fn is_login(text: &str) -> bool {
    let Some((_, password)) = text.split_once(':') else { return false };
    let is_port = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let slash = password.find('/');
    // `host:9090/path@x` has a port there.
    !text.split(':').next().unwrap_or_default().contains('/') && !slash.is_some_and(|at| is_port(&password[..at]))
}

/// Masks the value of a parameter that may be a secret.
fn without_value(parameter: &str) -> String {
    match parameter.split_once('=') {
        Some((name, value)) if !value.is_empty() => {
            let lower = name.trim_start_matches('?').to_lowercase();
            let is_secret = SECRET_PARAMETERS.iter().any(|part| lower.contains(part))
                || SECRET_KEYS.contains(&lower.as_str())
                || matches!(lower.as_str(), "pass" | "pwd" | "auth" | "sig" | "p");
            if is_secret { format!("{name}=xxxxx") } else { parameter.to_owned() }
        }
        _ => parameter.to_owned(),
    }
}

/// Quotes a text unless it reads the same without quotes.
fn scalar(text: &str) -> String {
    let first = text.chars().next().unwrap_or(' ');
    let plain = !matches!(text, "" | "~" | "null" | "Null" | "NULL" | "<<")
        && (first.is_alphanumeric() || matches!(first, '_' | '/' | '.' | '(' | '$' | '<'))
        && text.chars().all(|c| !c.is_control() && c != '\u{feff}')
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.ends_with([':', ' '])
        && !text.contains(['[', ']', '{', '}', ',']);
    if plain { text.to_owned() } else { serde_json::to_string(text).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::super::yaml;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_print_reads_back_and_holds_no_secret() {
        let text = "global: {scrape_interval: 15s}\nscrape_configs:\n- job_name: a\n  basic_auth: {username: u, password: \
                    hunter2}\n  http_headers:\n    X: {secrets: [hunter2]}\n  proxy_url: http://u:hunter2@p:1/\n  \
                    params: {m: [a, 'b: c'], n: [[], {}, [[1]]]}\n  x: ~\n";
        let printed = without_secrets(&yaml::parse(text).unwrap());
        assert!(!printed.contains("hunter2"), "{printed}");
        assert!(printed.contains("    password: <secret>\n"), "{printed}");
        assert!(
            printed.starts_with("global:\n  scrape_interval: 15s\nscrape_configs:\n  - job_name: a\n"),
            "{printed}"
        );
        let again = without_secrets(&yaml::parse(&printed).unwrap_or_else(|e| panic!("{e}\n{printed}")));
        assert_eq!(again, printed);
    }

    #[test]
    fn passwords_of_urls_are_masked_wherever_they_stand() {
        for (text, shown) in [
            ("http://u:hunter2@h/x?a=1", "http://u:xxxxx@h/x?a=1"),
            ("postgres://u:hunt@er2@h:5432/db", "postgres://u:xxxxx@h:5432/db"),
            ("postgres://u:hunt/er2@h/db", "postgres://u:xxxxx@h/db"),
            ("http://h/write?u=a&password=hunter2&db=x#f", "http://h/write?u=a&password=xxxxx&db=x#f"),
            ("https://h/?X-Api-Key=1&sslmode=require", "https://h/?X-Api-Key=xxxxx&sslmode=require"),
            ("http://h:9090/a@b", "http://h:9090/a@b"),
            ("http://user@h/", "http://user@h/"),
            ("http://h/?mail=a:b@c", "http://h/?mail=a:b@c"),
            ("no url: a@b", "no url: a@b"),
        ] {
            assert_eq!(without_password(text), shown);
        }
        let text = "quiver: {collectors: [{name: a, labels: {env: prod}, exec: {command: [/x], env: {PGPASS: hunter2, B: c}}}]}";
        let printed = without_secrets(&yaml::parse(text).unwrap());
        assert!(!printed.contains("hunter2") && printed.contains("PGPASS: <secret>"), "{printed}");
        assert!(printed.contains("env: prod"), "{printed}");
    }

    #[test]
    fn of_a_webhook_only_the_host_is_shown() {
        let text = "quiver:\n  events:\n    webhooks:\n    - {name: a, url: 'https://hooks.example/services/T0/hunter2?x=hunter2'}\n\
                    \u{20}   - {name: b, url: 'http://hooks.example'}\n  url: http://h/services\n";
        let printed = without_secrets(&yaml::parse(text).unwrap());
        assert!(!printed.contains("hunter2") && printed.contains("url: https://hooks.example/<secret>\n"), "{printed}");
        assert!(printed.contains("url: http://hooks.example\n") && printed.contains("http://h/services"), "{printed}");
    }

    fn tree() -> impl Strategy<Value = String> {
        // JSON is YAML: any value, printed as JSON, is a text to read.
        let leaf = prop_oneof![Just("null".to_owned()), "[ -~é\n\t]{0,12}".prop_map(|s| format!("{s:?}"))];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|v| format!("[{}]", v.join(","))),
                prop::collection::btree_map("[a-z :#-]{1,6}", inner, 0..4).prop_map(|m| {
                    let pairs: Vec<String> = m.iter().map(|(k, v)| format!("{k:?}: {v}")).collect();
                    format!("{{{}}}", pairs.join(","))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn printing_is_stable(text in tree()) {
            if let Ok(root) = yaml::parse(&text) {
                let printed = without_secrets(&root);
                let again = yaml::parse(&printed).map_err(|e| TestCaseError::fail(format!("{e}: {printed:?}")))?;
                prop_assert_eq!(without_secrets(&again), printed);
            }
        }
    }
}
