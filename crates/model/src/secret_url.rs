//! URLs as they may be shown: passwords and secret parameters masked.

/// Parts of the names of parameters whose values are secrets.
const SECRET_PARTS: [&str; 8] = ["passw", "secret", "token", "apikey", "api_key", "api-key", "credential", "signature"];
/// Whole names of others.
const SECRET_NAMES: [&str; 13] = [
    "access_key",
    "account_key",
    "auth",
    "authorization",
    "bcrypt",
    "consumer_key",
    "key",
    "p",
    "pass",
    "pwd",
    "routing_key",
    "service_key",
    "sig",
];

/// Masks the password of a URL, and what its parameters say in secret.
pub fn without_password(text: &str) -> String {
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
        Some((name, value)) if !value.is_empty() && is_secret_parameter(name.trim_start_matches('?')) => {
            format!("{name}=xxxxx")
        }
        _ => parameter.to_owned(),
    }
}

/// Tells whether the value of a URL's parameter or of a header is a secret, by its name.
pub fn is_secret_parameter(name: &str) -> bool {
    let lower = name.to_lowercase();
    SECRET_PARTS.iter().any(|part| lower.contains(part)) || SECRET_NAMES.contains(&lower.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
