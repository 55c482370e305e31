//! A configuration printed anew, as `/api/v1/status/config` shows it.
//!
//! Invariant: no secret is in it. A key that may hold one is masked whatever it holds, as is the environment of a program; of a
//! webhook's URL only the host is shown, because tokens stand in paths there.

use model::secret_url::{is_secret_parameter, without_password};

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
                } else if let (Some(hides), Kind::Map(parameters)) = (hidden_below(&entry.key), &entry.value.kind)
                    && !parameters.is_empty()
                {
                    out.push('\n');
                    for parameter in parameters {
                        pad(indent + 2, out);
                        out.push_str(&format!("{}:", scalar(&parameter.key)));
                        match hides(&parameter.key) && parameter.value.holds_something() {
                            true => out.push_str(&format!(" {MASK}\n")),
                            false => value(&parameter.value, indent + 4, paths, out),
                        }
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

/// Says which names below a key have secret values: all of a program's environment, and parameters and headers that are
/// called so.
fn hidden_below(key: &str) -> Option<fn(&str) -> bool> {
    match key {
        "env" => Some(|_| true),
        "params" | "headers" => Some(is_secret_parameter),
        _ => None,
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
    fn environments_parameters_and_headers_that_hold_secrets_are_masked() {
        let text = "quiver: {collectors: [{name: a, labels: {env: prod}, exec: {command: [/x], env: {PGPASS: hunter2, B: c}}}]}\n\
                    scrape_configs: [{params: {api_key: [hunter2], module: [http]}}]\n\
                    remote_write: [{headers: {X-Api-Key: hunter2, X-Scope-OrgID: acme}}]";
        let printed = without_secrets(&yaml::parse(text).unwrap());
        assert!(!printed.contains("hunter2") && printed.contains("PGPASS: <secret>"), "{printed}");
        for shown in ["env: prod", "api_key: <secret>", "- http\n", "X-Api-Key: <secret>", "X-Scope-OrgID: acme"] {
            assert!(printed.contains(shown), "{shown}: {printed}");
        }
        assert_eq!(without_secrets(&yaml::parse(&printed).unwrap()), printed);
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
