//! The section `global`, with Prometheus' defaults and checks.

use collect::Protocol;
use wire::Escaping;

use super::fields::{Fields, Problems};
use super::rule_file::Inherited;
use super::yaml::Node;

/// What scrape jobs inherit.
#[derive(Clone, PartialEq, Debug)]
pub struct Global {
    /// `scrape_interval`
    pub scrape_interval_ms: i64,
    /// `scrape_timeout`
    pub scrape_timeout_ms: i64,
    /// `scrape_protocols`; `None` when not given.
    pub protocols: Option<Vec<Protocol>>,
    /// Which histograms are taken.
    pub histograms: Histograms,
    /// The limits.
    pub limits: Limits,
    /// `external_labels`, variables expanded.
    pub external_labels: Vec<(String, String)>,
    /// `evaluation_interval`
    pub evaluation_interval_ms: i64,
    /// `rule_query_offset`
    pub rule_query_offset_ms: i64,
}

/// Options of histograms and of names that `global` and `scrape_configs` share.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Histograms {
    /// `scrape_native_histograms`
    pub native: bool,
    /// `always_scrape_classic_histograms`
    pub always_classic: bool,
    /// `metric_name_validation_scheme: legacy`
    pub legacy_names: bool,
    /// `metric_name_escaping_scheme`; `None` follows from the validation.
    pub escaping: Option<Escaping>,
}

/// Limits that `global` and `scrape_configs` share; 0 means none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// `body_size_limit`
    pub body_bytes: u64,
    /// `sample_limit`
    pub sample: u64,
    /// `target_limit`
    pub target: u64,
    /// `label_limit`
    pub label: u64,
    /// `label_name_length_limit`
    pub label_name_len: u64,
    /// `label_value_length_limit`
    pub label_value_len: u64,
    /// `keep_dropped_targets`
    pub keep_dropped: u64,
}

impl Default for Global {
    fn default() -> Global {
        Global {
            scrape_interval_ms: 60_000,
            scrape_timeout_ms: 10_000,
            protocols: None,
            histograms: Histograms::default(),
            limits: Limits::default(),
            external_labels: Vec::new(),
            evaluation_interval_ms: 60_000,
            rule_query_offset_ms: 0,
        }
    }
}

impl Global {
    /// Gives what groups of rules inherit.
    pub fn inherited(&self) -> Inherited {
        Inherited { interval_ms: self.evaluation_interval_ms, query_offset_ms: self.rule_query_offset_ms }
    }
}

/// Reads `global`.
pub fn read(node: &Node, problems: &mut Problems) -> Global {
    let mut fields = Fields::open(node, "global", problems);
    let defaults = Global::default();
    let nonzero = |ms: Option<i64>| ms.filter(|ms| *ms != 0);
    let interval = nonzero(fields.duration_ms("scrape_interval", problems)).unwrap_or(defaults.scrape_interval_ms);
    let given_timeout = nonzero(fields.duration_ms("scrape_timeout", problems));
    if given_timeout.is_some_and(|t| t > interval) {
        problems.error(fields.place_of("scrape_timeout"), "global scrape timeout greater than scrape interval");
    }
    let global = Global {
        scrape_interval_ms: interval,
        scrape_timeout_ms: given_timeout.unwrap_or(defaults.scrape_timeout_ms.min(interval)),
        protocols: read_protocols(&mut fields, " for global config", problems),
        histograms: read_histogram_and_name_options(&mut fields, Histograms::default(), problems),
        limits: read_limits(&mut fields, Limits::default(), problems),
        external_labels: read_external_labels(&mut fields, problems),
        evaluation_interval_ms: nonzero(fields.duration_ms("evaluation_interval", problems))
            .unwrap_or(defaults.evaluation_interval_ms),
        rule_query_offset_ms: fields.duration_ms("rule_query_offset", problems).unwrap_or(0),
    };
    fields.not_yet(&["query_log_file", "scrape_failure_log_file"], problems);
    fields.finish(problems);
    global
}

/// Reads the limits; 0 and absent mean what `inherited` says.
pub fn read_limits(fields: &mut Fields<'_>, inherited: Limits, problems: &mut Problems) -> Limits {
    let or = |own: Option<u64>, inherited: u64| own.filter(|n| *n != 0).unwrap_or(inherited);
    Limits {
        body_bytes: or(fields.size_bytes("body_size_limit", problems), inherited.body_bytes),
        sample: or(fields.uint("sample_limit", problems), inherited.sample),
        target: or(fields.uint("target_limit", problems), inherited.target),
        label: or(fields.uint("label_limit", problems), inherited.label),
        label_name_len: or(fields.uint("label_name_length_limit", problems), inherited.label_name_len),
        label_value_len: or(fields.uint("label_value_length_limit", problems), inherited.label_value_len),
        keep_dropped: or(fields.uint("keep_dropped_targets", problems), inherited.keep_dropped),
    }
}

/// Reads `scrape_protocols`.
pub fn read_protocols(fields: &mut Fields<'_>, of: &str, problems: &mut Problems) -> Option<Vec<Protocol>> {
    let words = fields.strings("scrape_protocols", problems)?;
    let at = fields.place_of("scrape_protocols");
    if words.is_empty() {
        problems.error(at, format!("scrape_protocols cannot be empty{of}"));
    }
    let mut protocols = Vec::new();
    for (i, word) in words.iter().enumerate() {
        if words[..i].iter().any(|w| w.eq_ignore_ascii_case(word)) {
            problems.error(at, format!("duplicated protocol in scrape_protocols, got [{}]{of}", words.join(" ")));
            return None;
        }
        match Protocol::parse(word) {
            Some(protocol) => protocols.push(protocol),
            None => problems.error(at, format!("scrape_protocols: {}{of}", unknown_protocol(word))),
        }
    }
    Some(protocols)
}

/// Prometheus' text for a protocol that does not exist.
pub fn unknown_protocol(word: &str) -> String {
    format!(
        "unknown scrape protocol {word}, supported: [OpenMetricsText0.0.1 OpenMetricsText1.0.0 OpenMetricsText2.0.0 PrometheusProto \
         PrometheusText0.0.4 PrometheusText1.0.0]"
    )
}

/// Reads options of histograms and of metric names, which `global` and `scrape_configs` share; what is absent is inherited.
pub fn read_histogram_and_name_options(
    fields: &mut Fields<'_>,
    inherited: Histograms,
    problems: &mut Problems,
) -> Histograms {
    for key in ["convert_classic_histograms_to_nhcb", "extra_scrape_metrics"] {
        if fields.bool(key, problems) == Some(true) {
            problems.not_yet(fields.place_of(key), key, fields.what());
        }
    }
    let legacy = fields.parsed("metric_name_validation_scheme", problems, |word| match word {
        "" => Ok(None),
        "utf8" => Ok(Some(false)),
        "legacy" => Ok(Some(true)),
        _ => Err(format!("unknown scheme {word:?}, must be one of utf8, legacy")),
    });
    let escaping = fields.parsed("metric_name_escaping_scheme", problems, |word| match word {
        "" => Ok(None),
        _ => Escaping::parse(word).map(Some).ok_or_else(|| {
            let all: Vec<&str> = Escaping::ALL.into_iter().map(Escaping::as_str).collect();
            format!("unknown scheme {word:?}, must be one of {}", all.join(", "))
        }),
    });
    let legacy_names = legacy.flatten().unwrap_or(inherited.legacy_names);
    let escaping = escaping.flatten().or(inherited.escaping);
    if legacy_names && escaping == Some(Escaping::AllowUtf8) {
        let text = "metric_name_escaping_scheme: allow-utf-8 does not go with metric_name_validation_scheme: legacy";
        problems.error(fields.place_of("metric_name_escaping_scheme"), text);
    }
    Histograms {
        native: fields.bool("scrape_native_histograms", problems).unwrap_or(inherited.native),
        always_classic: fields.bool("always_scrape_classic_histograms", problems).unwrap_or(inherited.always_classic),
        legacy_names,
        escaping,
    }
}

fn read_external_labels(fields: &mut Fields<'_>, problems: &mut Problems) -> Vec<(String, String)> {
    let labels = fields.string_map("external_labels", problems).unwrap_or_default();
    for (name, _) in &labels {
        if name.is_empty() {
            problems.error(fields.place_of("external_labels"), format!("{name:?} is not a valid label name"));
        }
    }
    labels.into_iter().map(|(name, value)| (name, expand(&value, |var| std::env::var(var).ok()))).collect()
}

/// Replaces `$var` and `${var}` as Go's `os.Expand` does; `$$` is a dollar sign, an unset variable is nothing.
fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(tail) = rest.strip_prefix('$') {
            out.push('$');
            rest = tail;
            continue;
        }
        let (name, tail) = match rest.strip_prefix('{') {
            Some(inner) => match inner.split_once('}') {
                Some((name, tail)) => (name, tail),
                None => ("", rest),
            },
            None => rest.split_at(rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count()),
        };
        if name == "$" {
            out.push('$');
        } else if !name.is_empty() {
            out.push_str(&lookup(name).unwrap_or_default());
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_expand_as_in_go() {
        let lookup = |name: &str| (name == "TEST").then(|| "TestValue".to_owned());
        for (text, expected) in [
            ("foo", "foo"),
            ("foo${TEST}", "fooTestValue"),
            ("foo$TEST", "fooTestValue"),
            ("foo$TEST-x", "fooTestValue-x"),
            ("foo$$bar", "foo$bar"),
            ("foo${NOPE}bar", "foobar"),
            ("${$}x", "$x"),
        ] {
            assert_eq!(expand(text, lookup), expected, "{text}");
        }
    }
}
