//! What evaluation does with label sets.

use model::{LABEL_NAME, Labels, LabelsBuf, is_legacy_label_name};

use crate::go_text::quote;

/// Tells whether a label says what the metric is, rather than what it measures.
pub(super) fn is_metadata(name: &str) -> bool {
    matches!(name, LABEL_NAME | "__type__" | "__unit__")
}

/// Gives the labels without name, type and unit.
pub(super) fn without_metadata(labels: &Labels) -> Labels {
    filtered(labels, |name| !is_metadata(name))
}

/// Gives the labels whose names are wanted.
pub(super) fn filtered(labels: &Labels, wanted: impl Fn(&str) -> bool) -> Labels {
    if labels.iter().all(|(name, _)| wanted(name)) {
        return labels.clone();
    }
    let mut buf = LabelsBuf::default();
    for (name, value) in labels.iter().filter(|(name, _)| wanted(name)) {
        buf.push(name, value);
    }
    buf.to_labels()
}

/// Gives the labels by which series of two sides match.
pub(super) fn match_labels(labels: &Labels, on: bool, names: &[String]) -> Labels {
    let listed = |name: &str| names.iter().any(|n| n == name);
    match on {
        true => filtered(labels, listed),
        false => filtered(labels, |name| !is_metadata(name) && !listed(name)),
    }
}

/// Sets one label; an empty value removes it.
pub(super) fn with_label(labels: &Labels, name: &str, value: &str) -> Labels {
    let mut buf = LabelsBuf::from_labels(labels);
    buf.set(name, value);
    buf.to_labels()
}

/// Prints labels as Prometheus prints them in errors: the name among the others.
pub(super) fn go_string(labels: &Labels) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|(name, value)| {
            let name = if is_legacy_label_name(name) { name.to_owned() } else { quote(name) };
            format!("{name}={}", quote(value))
        })
        .collect();
    format!("{{{}}}", pairs.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_match_with_and_without() {
        let labels = Labels::from_pairs([("__name__", "x"), ("a", "1"), ("b.c", "2")]);
        assert_eq!(go_string(&labels), r#"{__name__="x", a="1", "b.c"="2"}"#);
        assert_eq!(match_labels(&labels, true, &["a".into()]).to_string(), r#"{a="1"}"#);
        assert_eq!(go_string(&match_labels(&labels, false, &["a".into()])), r#"{"b.c"="2"}"#);
        assert_eq!(without_metadata(&with_label(&labels, "b.c", "")).to_string(), r#"{a="1"}"#);
    }
}
