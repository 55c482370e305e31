//! Names of OpenTelemetry as names of Prometheus.
//!
//! **Source** the rules of `prometheus/otlptranslator` and of the OpenTelemetry specification's page on Prometheus.

/// How names are translated; the words are Prometheus' (`otlp.translation_strategy`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Strategy {
    /// Odd characters become underscores; unit and `_total` are appended.
    #[default]
    UnderscoreEscapingWithSuffixes,
    /// Odd characters become underscores; nothing is appended.
    UnderscoreEscapingWithoutSuffixes,
    /// Names stay as they are; unit and `_total` are appended.
    NoUtf8EscapingWithSuffixes,
    /// Names stay as they are.
    NoTranslation,
}

impl Strategy {
    /// All strategies.
    pub const ALL: [Strategy; 4] = [
        Strategy::UnderscoreEscapingWithSuffixes,
        Strategy::UnderscoreEscapingWithoutSuffixes,
        Strategy::NoUtf8EscapingWithSuffixes,
        Strategy::NoTranslation,
    ];

    /// Gives the word of the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Strategy::UnderscoreEscapingWithSuffixes => "UnderscoreEscapingWithSuffixes",
            Strategy::UnderscoreEscapingWithoutSuffixes => "UnderscoreEscapingWithoutSuffixes",
            Strategy::NoUtf8EscapingWithSuffixes => "NoUTF8EscapingWithSuffixes",
            Strategy::NoTranslation => "NoTranslation",
        }
    }

    /// Reads the word of the configuration.
    pub fn parse(word: &str) -> Option<Strategy> {
        Strategy::ALL.into_iter().find(|s| s.as_str() == word)
    }

    pub(super) fn escapes(self) -> bool {
        matches!(self, Strategy::UnderscoreEscapingWithSuffixes | Strategy::UnderscoreEscapingWithoutSuffixes)
    }

    fn has_suffixes(self) -> bool {
        matches!(self, Strategy::UnderscoreEscapingWithSuffixes | Strategy::NoUtf8EscapingWithSuffixes)
    }
}

/// What the name of a metric depends on besides its name and unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NameKind {
    MonotonicSum,
    Gauge,
    Other,
}

const UNITS: [(&str, &str); 26] = [
    ("d", "days"),
    ("h", "hours"),
    ("min", "minutes"),
    ("s", "seconds"),
    ("ms", "milliseconds"),
    ("us", "microseconds"),
    ("ns", "nanoseconds"),
    ("By", "bytes"),
    ("KiBy", "kibibytes"),
    ("MiBy", "mebibytes"),
    ("GiBy", "gibibytes"),
    ("TiBy", "tibibytes"),
    ("KBy", "kilobytes"),
    ("MBy", "megabytes"),
    ("GBy", "gigabytes"),
    ("TBy", "terabytes"),
    ("m", "meters"),
    ("V", "volts"),
    ("A", "amperes"),
    ("J", "joules"),
    ("W", "watts"),
    ("g", "grams"),
    ("Cel", "celsius"),
    ("Hz", "hertz"),
    ("1", ""),
    ("%", "percent"),
];

const PER_UNITS: [(&str, &str); 7] =
    [("s", "second"), ("m", "minute"), ("h", "hour"), ("d", "day"), ("w", "week"), ("mo", "month"), ("y", "year")];

fn look_up<'u>(table: &[(&'u str, &'u str)], unit: &'u str) -> &'u str {
    table.iter().find(|(from, _)| *from == unit).map_or(unit, |(_, to)| to)
}

/// Gives what stands for a unit: the unit itself and `per_...`, each possibly empty.
fn unit_parts(unit: &str) -> (String, String) {
    let (main, per) = unit.split_once('/').unwrap_or((unit, ""));
    let usable = |part: &str| !part.is_empty() && !part.contains(['{', '}']);
    let (main, per) = (main.trim(), per.trim());
    let main = if usable(main) { look_up(&UNITS, main).to_owned() } else { String::new() };
    let per = if usable(per) { look_up(&PER_UNITS, per) } else { "" };
    (main, if per.is_empty() { String::new() } else { format!("per_{per}") })
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == ':'
}

/// Makes a unit's word one that may stand in a name: odd characters become underscores, several in a row one, none first.
fn clean(word: &str) -> String {
    let mut out = String::with_capacity(word.len());
    for c in word.chars() {
        match is_plain(c) {
            true => out.push(c),
            false if out.is_empty() || out.ends_with('_') => {}
            false => out.push('_'),
        }
    }
    out
}

/// Gives the unit as Prometheus' metadata has it.
pub(super) fn unit_name(strategy: Strategy, unit: &str) -> String {
    let (mut main, mut per) = unit_parts(unit);
    if strategy.escapes() {
        (main, per) = (clean(&main), clean(&per));
    }
    let joined = if main.is_empty() || per.is_empty() { main + &per } else { format!("{main}_{per}") };
    joined.trim_matches('_').to_owned()
}

/// Gives the name of a metric; `None` when nothing usable is left of it.
pub(super) fn metric_name(strategy: Strategy, name: &str, unit: &str, kind: NameKind) -> Option<String> {
    let built = match (strategy.escapes(), strategy.has_suffixes()) {
        (true, true) => escaped_with_suffixes(name, unit, kind),
        (true, false) => {
            let parts = name.split(|c: char| !is_plain(c) && c != '_').filter(|part| !part.is_empty());
            not_digit_first(parts.collect::<Vec<_>>().join("_"))
        }
        (false, true) => suffixed(name, unit, kind),
        (false, false) => name.to_owned(),
    };
    let usable = !built.is_empty() && (built == name || built.contains(|c| c != '_'));
    usable.then_some(built)
}

fn escaped_with_suffixes(name: &str, unit: &str, kind: NameKind) -> String {
    let mut tokens: Vec<&str> = name.split(|c| !is_plain(c)).filter(|token| !token.is_empty()).collect();
    let (main, per) = unit_parts(unit);
    let (mut main, per) = (clean(&main), clean(&per));
    if tokens.contains(&main.as_str()) {
        main.clear();
    }
    let mut per = if per == "per_" { "" } else { per.strip_suffix('_').unwrap_or(&per) };
    if tokens.contains(&per) {
        per = "";
    }
    let main = if per.is_empty() { main.as_str() } else { main.strip_suffix('_').unwrap_or(&main) };
    tokens.extend([main, per].into_iter().filter(|token| !token.is_empty()));
    let ending = match kind {
        NameKind::MonotonicSum => Some("total"),
        NameKind::Gauge if unit == "1" => Some("ratio"),
        _ => None,
    };
    if let Some(ending) = ending {
        tokens.retain(|token| *token != ending);
        tokens.push(ending);
    }
    not_digit_first(tokens.join("_"))
}

fn suffixed(name: &str, unit: &str, kind: NameKind) -> String {
    let (main, per) = unit_parts(unit);
    let ending = match kind {
        NameKind::MonotonicSum => "total",
        NameKind::Gauge if unit == "1" => "ratio",
        _ => "",
    };
    let mut out = without_suffix(without_suffix(name, ending), &per).to_owned();
    if !main.is_empty() && !out.ends_with(&main) {
        out = out + "_" + &main;
    }
    for suffix in [per.as_str(), ending] {
        if !suffix.is_empty() {
            out = out + "_" + suffix;
        }
    }
    out
}

/// Takes off a suffix and the character before it.
fn without_suffix<'n>(name: &'n str, suffix: &str) -> &'n str {
    let stem = if suffix.is_empty() { None } else { name.strip_suffix(suffix) };
    let mut chars = stem.unwrap_or_default().chars();
    match (chars.next_back(), chars.as_str()) {
        (Some(_), rest) if !rest.is_empty() => rest,
        _ => name,
    }
}

fn not_digit_first(name: String) -> String {
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("_{name}") } else { name }
}

/// How keys of attributes become names of labels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LabelStyle {
    /// Odd characters become underscores.
    pub(super) escapes: bool,
    /// `key` comes before a name that begins with one underscore.
    pub(super) sanitizes_underscore: bool,
    /// Underscores in a row stay.
    pub(super) keeps_underscores: bool,
}

/// Gives the name of a label for the key of an attribute.
pub(super) fn label_name(style: LabelStyle, key: &str) -> String {
    if !style.escapes || key.is_empty() {
        return key.to_owned();
    }
    let mut escaped = String::with_capacity(key.len());
    for c in key.chars() {
        match c.is_ascii_alphanumeric() {
            true => escaped.push(c),
            false if !style.keeps_underscores && escaped.ends_with('_') => {}
            false => escaped.push('_'),
        }
    }
    if escaped.starts_with(|c: char| c.is_ascii_digit()) {
        format!("key_{escaped}")
    } else if style.sanitizes_underscore && escaped.starts_with('_') && !escaped.starts_with("__") {
        format!("key{escaped}")
    } else {
        escaped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_translator() {
        use NameKind::{Gauge, MonotonicSum, Other};
        // The cases of otlptranslator's own table.
        let cases = [
            ("requests", "", MonotonicSum, "requests_total"),
            ("cpu_usage", "1", Gauge, "cpu_usage_ratio"),
            ("items", "1", MonotonicSum, "items_total"),
            ("response_time", "ms", Gauge, "response_time_milliseconds"),
            ("requests", "1/s", Gauge, "requests_per_second"),
            ("throughput", "By/s", Gauge, "throughput_bytes_per_second"),
            ("custom_metric", "custom_unit", Gauge, "custom_metric_custom_unit"),
            ("custom_metric", "{custom}", Gauge, "custom_metric"),
            ("custom_metric", "By/{custom}", Gauge, "custom_metric_bytes"),
            ("requests_total", "", MonotonicSum, "requests_total"),
            ("response_time_seconds", "s", Gauge, "response_time_seconds"),
            (
                "metric__with__multiple__underscores",
                "unit__multiple__underscores",
                Gauge,
                "metric_with_multiple_underscores_unit_multiple_underscores",
            ),
            ("custom_metric", "unit@with#special/chars", Gauge, "custom_metric_unit_with_special_per_chars"),
            ("http.server.request.duration", "s", Other, "http_server_request_duration_seconds"),
            ("123metric", "", Gauge, "_123metric"),
        ];
        for (name, unit, kind, wanted) in cases {
            let built = metric_name(Strategy::UnderscoreEscapingWithSuffixes, name, unit, kind);
            assert_eq!(built.as_deref(), Some(wanted), "{name} {unit}");
        }
        let plain = |name| metric_name(Strategy::UnderscoreEscapingWithoutSuffixes, name, "s", MonotonicSum);
        assert_eq!(plain("metric@@##$$name").as_deref(), Some("metric_name"));
        assert_eq!(plain("@#$%"), None);
        let utf8 = |name, unit, kind| metric_name(Strategy::NoUtf8EscapingWithSuffixes, name, unit, kind).unwrap();
        assert_eq!(utf8("requêsts", "1/s", MonotonicSum), "requêsts_per_second_total");
        assert_eq!(utf8("cpu_usagé", "1", Gauge), "cpu_usagé_ratio");
        assert_eq!(utf8("@#$%", "", MonotonicSum), "@#$%_total");
        assert_eq!(utf8("a.total", "", MonotonicSum), "a_total");
        assert_eq!(metric_name(Strategy::NoTranslation, "a.b", "s", MonotonicSum).as_deref(), Some("a.b"));
        assert_eq!(metric_name(Strategy::NoTranslation, "", "s", MonotonicSum), None);
    }

    #[test]
    fn labels_and_units_are_those_of_the_translator() {
        let style = LabelStyle { escapes: true, sanitizes_underscore: true, keeps_underscores: true };
        let label = |key| label_name(style, key);
        assert_eq!(label("http.method"), "http_method");
        assert_eq!(label("123invalid"), "key_123invalid");
        assert_eq!(label("_private"), "key_private");
        assert_eq!(label("__reserved__"), "__reserved__");
        assert_eq!(label_name(LabelStyle { escapes: false, ..style }, "http.method"), "http.method");
        let collapsed = |key| label_name(LabelStyle { keeps_underscores: false, ..style }, key);
        assert_eq!([collapsed("a..b__c"), collapsed("__x")], ["a_b_c", "key_x"]);
        assert_eq!(label_name(LabelStyle { sanitizes_underscore: false, ..style }, "_private"), "_private");
        let unit = |unit| unit_name(Strategy::UnderscoreEscapingWithSuffixes, unit);
        assert_eq!(
            [unit("s"), unit("By/s"), unit("1"), unit("{x}/s")],
            ["seconds", "bytes_per_second", "", "per_second"]
        );
    }
}
