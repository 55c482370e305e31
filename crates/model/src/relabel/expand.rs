//! Templates such as `foo-${1}`, expanded the way Go's `regexp.Expand` does it.

use regex::Captures;

/// Appends the template with its references replaced; what a reference does not find is empty, a malformed one is text.
pub(super) fn expand(template: &str, captures: &Captures<'_>, out: &mut String) {
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        rest = after;
        if let Some(tail) = rest.strip_prefix('$') {
            out.push('$');
            rest = tail;
            continue;
        }
        let Some((name, tail)) = reference(rest) else {
            out.push('$');
            continue;
        };
        rest = tail;
        let found = match group_number(name) {
            Some(number) => captures.get(number),
            None => captures.name(name),
        };
        out.push_str(found.map_or("", |m| m.as_str()));
    }
    out.push_str(rest);
}

/// Splits `{name}tail` or `nametail` into name and tail.
fn reference(text: &str) -> Option<(&str, &str)> {
    let (body, braced) = match text.strip_prefix('{') {
        Some(body) => (body, true),
        None => (text, false),
    };
    let end = body.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(body.len());
    if end == 0 {
        return None;
    }
    let (name, tail) = body.split_at(end);
    let tail = if braced { tail.strip_prefix('}')? } else { tail };
    Some((name, tail))
}

/// Reads a name that is a number; leading zeros and numbers beyond any group make it a name.
fn group_number(name: &str) -> Option<usize> {
    if name.len() > 9 || (name.len() > 1 && name.starts_with('0')) || !name.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    name.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_expand_as_in_go() {
        let regex = regex::Regex::new("^(?P<first>a+)-(b+)(c)?$").unwrap_or_else(|e| panic!("{e}"));
        let captures = regex.captures("aa-bbb").unwrap_or_else(|| panic!("no match"));
        for (template, want) in [
            ("$1", "aa"),
            ("${1}x", "aax"),
            ("$1x", ""),
            ("$first", "aa"),
            ("${first}_$2", "aa_bbb"),
            ("$3|$4|$99999999999", "||"),
            ("$0", "aa-bbb"),
            ("$01", ""),
            ("$$1", "$1"),
            ("$", "$"),
            ("${", "${"),
            ("${1", "${1"),
            ("${}", "${}"),
            ("a$-b", "a$-b"),
            ("é$2é", "é"),
            ("é${2}é", "ébbbé"),
        ] {
            let mut out = String::new();
            expand(template, &captures, &mut out);
            assert_eq!(out, want, "{template}");
        }
    }
}
