//! From the labels of a body to the labels of the store: the target's labels, relabeling, limits.

use model::filter::{Acts, Outcome};
use model::{LABEL_NAME, LabelsBuf, MetricType, is_legacy_label_name, is_legacy_metric_name, relabel};

use crate::target::{ScrapeLimits, TargetSpec};

const EXPORTED: &str = "exported_";

/// What the rules say about a series.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Mapped {
    /// It is stored under the labels that the buffer now holds, sorted.
    Kept,
    /// Its samples are added to those of others, by the filter at this place; the buffer holds the labels of the sum, sorted.
    Aggregated(usize),
    /// A relabel rule or a filter took it out.
    Dropped,
    /// It breaks a label limit; the text is Prometheus'.
    OverLimit(String),
    /// Relabeling left something that is no series; the text is Prometheus'.
    Invalid(String),
}

/// A label name that stands twice, before any rule was applied.
pub(crate) type Twice = model::DuplicateLabel;

/// Applies all rules of a target to the labels of one series.
///
/// **Takes** labels as they stand in the body, empty values among them.
/// **Errors** when a name stands twice.
pub(crate) fn map_labels(spec: &TargetSpec, metric_type: MetricType, labels: &mut LabelsBuf) -> Result<Mapped, Twice> {
    map_labels_noting(spec, metric_type, labels, None, &mut Acts::default())
}

/// The same; the labels that the filters got are noted, and which filters acted.
pub(crate) fn map_labels_noting(
    spec: &TargetSpec,
    metric_type: MetricType,
    labels: &mut LabelsBuf,
    unfiltered: Option<&mut LabelsBuf>,
    acts: &mut Acts,
) -> Result<Mapped, Twice> {
    if !map_before_filters(spec, labels)? {
        return Ok(Mapped::Dropped);
    }
    if spec.filters.is_empty() {
        return Ok(judge(spec, labels));
    }
    if let Some(unfiltered) = unfiltered {
        unfiltered.clone_from(labels);
    }
    let outcome;
    (outcome, *acts) = spec.filters.apply_noting(labels, metric_type);
    let Outcome::Kept { aggregate, .. } = outcome else { return Ok(Mapped::Dropped) };
    labels.sort()?;
    Ok(match (judge(spec, labels), aggregate) {
        (Mapped::Kept, Some(filter)) => Mapped::Aggregated(filter),
        (judged, _) => judged,
    })
}

/// Applies the rules that come before the filters; tells whether they keep the series.
pub(crate) fn map_before_filters(spec: &TargetSpec, labels: &mut LabelsBuf) -> Result<bool, Twice> {
    // An empty label is no label, but with honor_labels it keeps the target's away: the Pushgateway relies on it.
    let empty: Vec<String> = if spec.honor_labels {
        labels.iter().filter(|(_, value)| value.is_empty()).map(|(name, _)| name.to_owned()).collect()
    } else {
        Vec::new()
    };
    labels.sort()?;
    if spec.honor_labels {
        attach_honoring(spec, labels, &empty);
    } else {
        attach_renaming(spec, labels);
    }
    if !relabel::apply(&spec.metric_relabel, labels) {
        return Ok(false);
    }
    labels.sort()?;
    Ok(true)
}

fn attach_honoring(spec: &TargetSpec, labels: &mut LabelsBuf, empty: &[String]) {
    for (name, value) in spec.labels.iter() {
        if labels.get(name).is_none() && !empty.iter().any(|e| e == name) {
            labels.push(name, value);
        }
    }
}

/// The target's label wins; the scraped one becomes `exported_*`, with as many `exported_` as it takes.
fn attach_renaming(spec: &TargetSpec, labels: &mut LabelsBuf) {
    let mut conflicts: Vec<(&str, String)> = Vec::new();
    for (name, value) in spec.labels.iter() {
        match labels.get(name).map(str::to_owned) {
            Some(scraped) => {
                conflicts.push((name, scraped));
                labels.set(name, value);
            }
            None => labels.push(name, value),
        }
    }
    // Short names first, as in Prometheus: the order decides who gets which name in a chain.
    conflicts.sort_by_key(|(name, _)| name.len());
    for (name, scraped) in conflicts {
        let mut exported = format!("{EXPORTED}{name}");
        while labels.get(&exported).is_some() {
            exported.insert_str(0, EXPORTED);
        }
        labels.push(&exported, &scraped);
    }
}

pub(crate) fn judge(spec: &TargetSpec, labels: &LabelsBuf) -> Mapped {
    if labels.is_empty() {
        return Mapped::Dropped;
    }
    let Some(metric) = labels.get(LABEL_NAME) else {
        return Mapped::Invalid("missing metric name (__name__ label)".to_owned());
    };
    if spec.legacy_names {
        let bad = labels.iter().find(|(name, _)| !is_legacy_label_name(name)).map(|(name, _)| name);
        if let Some(bad) = bad.or(Some(metric).filter(|metric| !is_legacy_metric_name(metric))) {
            return Mapped::Invalid(format!("invalid metric name or label names: {bad:?}"));
        }
    }
    over_limit(&spec.limits, metric, labels).map_or(Mapped::Kept, Mapped::OverLimit)
}

fn over_limit(limits: &ScrapeLimits, metric: &str, labels: &LabelsBuf) -> Option<String> {
    let beyond = |len: usize, limit: u64| limit > 0 && len as u64 > limit;
    let metric = first_50(metric);
    if beyond(labels.len(), limits.label) {
        let (count, limit) = (labels.len(), limits.label);
        return Some(format!("label_limit exceeded (metric: {metric}, number of labels: {count}, limit: {limit})"));
    }
    for (name, value) in labels.iter() {
        let (label, length) = (first_50(name), name.len());
        if beyond(length, limits.label_name_len) {
            let limit = limits.label_name_len;
            return Some(format!(
                "label_name_length_limit exceeded (metric: {metric}, label name: {label}, length: {length}, limit: {limit})"
            ));
        }
        if beyond(value.len(), limits.label_value_len) {
            let (shown, length, limit) = (first_50(value), value.len(), limits.label_value_len);
            return Some(format!(
                "label_value_length_limit exceeded (metric: {metric}, label name: {label}, value: {shown:?}, length: {length}, limit: {limit})"
            ));
        }
    }
    None
}

fn first_50(text: &str) -> &str {
    text.char_indices().nth(50).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::Labels;
    use model::relabel::{Action, Pattern, Rule};
    use url::Url;

    use super::*;

    fn spec(labels: &[(&str, &str)]) -> TargetSpec {
        let url = Url::parse("http://h/metrics").unwrap_or_else(|e| panic!("{e}"));
        TargetSpec::new("t", url, Labels::from_pairs(labels.iter().copied()))
    }

    fn mapped(spec: &TargetSpec, labels: &[(&str, &str)]) -> (Mapped, String) {
        let mut buf = LabelsBuf::default();
        buf.push("__name__", "m");
        for (name, value) in labels {
            buf.push(name, value);
        }
        let result = map_labels(spec, MetricType::Unknown, &mut buf).unwrap_or_else(|e| panic!("{e}"));
        (result, buf.to_labels().to_string())
    }

    fn kept(spec: &TargetSpec, labels: &[(&str, &str)]) -> String {
        let (result, text) = mapped(spec, labels);
        assert_eq!(result, Mapped::Kept);
        text
    }

    #[test]
    fn conflicts_are_renamed_or_honored() {
        let mut target = spec(&[("job", "j"), ("instance", "i")]);
        assert_eq!(kept(&target, &[("a", "1")]), r#"m{a="1", instance="i", job="j"}"#);
        assert_eq!(kept(&target, &[("job", "x")]), r#"m{exported_job="x", instance="i", job="j"}"#);
        assert_eq!(
            kept(&target, &[("job", "x"), ("exported_job", "y")]),
            r#"m{exported_exported_job="x", exported_job="y", instance="i", job="j"}"#
        );
        assert_eq!(kept(&target, &[("job", "")]), r#"m{instance="i", job="j"}"#);
        target.honor_labels = true;
        assert_eq!(kept(&target, &[("job", "x")]), r#"m{instance="i", job="x"}"#);
        assert_eq!(kept(&target, &[("job", "x"), ("instance", "")]), r#"m{job="x"}"#);
    }

    #[test]
    fn a_chain_of_exported_labels_is_resolved_by_length() {
        let target = spec(&[("foo", "1"), ("exported_foo", "2"), ("exported_exported_foo", "3")]);
        assert_eq!(
            kept(&target, &[("foo", "a"), ("exported_foo", "b"), ("exported_exported_foo", "c")]),
            r#"m{exported_exported_exported_exported_exported_foo="c", exported_exported_exported_exported_foo="b", exported_exported_exported_foo="a", exported_exported_foo="3", exported_foo="2", foo="1"}"#
        );
    }

    #[test]
    fn legacy_names_are_all_where_nothing_else_is_allowed() {
        let mut target = spec(&[("job", "j")]);
        assert_eq!(mapped(&target, &[("a.b", "1")]).0, Mapped::Kept);
        target.legacy_names = true;
        assert_eq!(mapped(&target, &[("a_b", "1")]).0, Mapped::Kept);
        assert_eq!(
            mapped(&target, &[("a.b", "1")]).0,
            Mapped::Invalid("invalid metric name or label names: \"a.b\"".into())
        );
    }

    #[test]
    fn names_that_stand_twice_are_refused() {
        let mut buf = LabelsBuf::default();
        buf.push("a", "1");
        buf.push("a", "");
        assert!(map_labels(&spec(&[]), MetricType::Unknown, &mut buf).is_err());
    }

    #[test]
    fn relabeling_drops_and_may_leave_no_name() {
        let pattern = |text| Pattern::new(text).unwrap_or_else(|e| panic!("{e}"));
        let mut target = spec(&[("job", "j")]);
        let drop =
            Rule { source_labels: vec!["a".into()], regex: pattern("1"), action: Action::Drop, ..Rule::default() };
        target.metric_relabel = Arc::from([drop]);
        assert_eq!(mapped(&target, &[("a", "1")]).0, Mapped::Dropped);
        assert_eq!(mapped(&target, &[("a", "2")]).0, Mapped::Kept);
        let nameless = Rule { regex: pattern("__name__"), action: Action::LabelDrop, ..Rule::default() };
        target.metric_relabel = Arc::from([nameless]);
        assert_eq!(mapped(&target, &[]).0, Mapped::Invalid("missing metric name (__name__ label)".into()));
        target.metric_relabel =
            Arc::from([Rule { regex: pattern(".*"), action: Action::LabelDrop, ..Rule::default() }]);
        assert_eq!(mapped(&target, &[]).0, Mapped::Dropped);
    }

    #[test]
    fn label_limits_speak_as_prometheus_does() {
        let mut target = spec(&[("job", "j")]);
        let limited = |target: &TargetSpec| match mapped(target, &[("abc", "12345")]).0 {
            Mapped::OverLimit(text) => text,
            other => panic!("{other:?}"),
        };
        target.limits.label = 2;
        assert_eq!(limited(&target), "label_limit exceeded (metric: m, number of labels: 3, limit: 2)");
        target.limits = ScrapeLimits { label_value_len: 4, ..ScrapeLimits::default() };
        assert_eq!(
            limited(&target),
            "label_value_length_limit exceeded (metric: m, label name: abc, value: \"12345\", length: 5, limit: 4)"
        );
        target.limits = ScrapeLimits { label_name_len: 7, ..ScrapeLimits::default() };
        assert_eq!(
            limited(&target),
            "label_name_length_limit exceeded (metric: m, label name: __name__, length: 8, limit: 7)"
        );
    }
}
