//! Samples in CSV: one line at a time, with a plan of what each column is.
//!
//! A plan is `column:kind[:name],...`, where a column is its number from 1 on or its name in the head, and a kind is one of
//! `time:unix_s`, `time:unix_ms`, `time:unix_us`, `time:unix_ns`, `time:rfc3339`, `label:NAME`, `metric:NAME` (the column holds
//! values of that metric), `name` (the column holds metric names) and `value`.

/// Columns of one line.
const COLUMNS_MAX: usize = 1_000;

/// How a column writes times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeKind {
    /// Seconds, with decimals.
    Seconds,
    /// Milliseconds.
    Millis,
    /// Microseconds.
    Micros,
    /// Nanoseconds.
    Nanos,
    /// `2025-06-21T10:00:00Z`.
    Rfc3339,
    /// Whatever fits: RFC 3339, else a number that is seconds, milliseconds, microseconds or nanoseconds by its size.
    Any,
}

/// What a column is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Role {
    /// Not looked at.
    Skip,
    /// The time.
    Time(TimeKind),
    /// A label of that name.
    Label(String),
    /// Values of the metric of that name.
    Metric(String),
    /// The metric's name.
    Name,
    /// The value of the metric that the line names.
    Value,
}

/// What each column is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// By their places.
    pub roles: Vec<Role>,
}

impl Plan {
    /// Makes a plan of its text and the head's names; without a text the names decide: `time` or `timestamp`, `name` or `metric` or
    /// `metric_name`, `value`, and a label for each other column.
    ///
    /// **Errors** with a sentence when a part is not understood, or there is nothing to store.
    pub fn new(text: &str, head: &[String]) -> Result<Plan, String> {
        if head.len() > COLUMNS_MAX {
            return Err(format!("there are more than {COLUMNS_MAX} columns"));
        }
        let roles = if text.is_empty() { by_names(head) } else { by_text(text, head)? };
        let has = |wanted: fn(&Role) -> bool| roles.iter().any(wanted);
        let values = has(|r| matches!(r, Role::Value));
        if values != has(|r| matches!(r, Role::Name)) {
            return Err("a column of values and a column of names need each other".to_owned());
        }
        if !values && !has(|r| matches!(r, Role::Metric(_))) {
            return Err("no column holds values: give columns such as 2:metric:temperature".to_owned());
        }
        if roles.iter().filter(|r| matches!(r, Role::Time(_))).count() > 1 {
            return Err("more than one column is the time".to_owned());
        }
        Ok(Plan { roles })
    }
}

fn by_names(head: &[String]) -> Vec<Role> {
    let role = |name: &String| match name.trim().to_ascii_lowercase().as_str() {
        "time" | "timestamp" | "ts" => Role::Time(TimeKind::Any),
        "name" | "metric" | "metric_name" | "__name__" => Role::Name,
        "value" => Role::Value,
        "" => Role::Skip,
        _ => Role::Label(name.trim().to_owned()),
    };
    head.iter().map(role).collect()
}

fn by_text(text: &str, head: &[String]) -> Result<Vec<Role>, String> {
    let mut roles = vec![Role::Skip; head.len()];
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let mut words = part.splitn(3, ':');
        let column = words.next().unwrap_or_default();
        let place = match column.parse::<usize>() {
            Ok(n @ 1..) => n - 1,
            Ok(0) => return Err("columns are counted from 1".to_owned()),
            Err(_) => head
                .iter()
                .position(|name| name.trim() == column)
                .ok_or_else(|| format!("there is no column {column:?} in the head"))?,
        };
        if place >= COLUMNS_MAX {
            return Err(format!("there are at most {COLUMNS_MAX} columns"));
        }
        if roles.len() <= place {
            roles.resize(place + 1, Role::Skip);
        }
        roles[place] = role(part, words.next().unwrap_or_default(), words.next().unwrap_or_default())?;
    }
    Ok(roles)
}

fn role(part: &str, kind: &str, name: &str) -> Result<Role, String> {
    let named = |make: fn(String) -> Role| match name {
        "" => Err(format!("{part:?} needs a name, such as {part}:host")),
        name => Ok(make(name.to_owned())),
    };
    match kind {
        "time" => Ok(Role::Time(match name {
            "" => TimeKind::Any,
            "unix_s" => TimeKind::Seconds,
            "unix_ms" => TimeKind::Millis,
            "unix_us" => TimeKind::Micros,
            "unix_ns" => TimeKind::Nanos,
            "rfc3339" => TimeKind::Rfc3339,
            _ => return Err(format!("{part:?}: a time is unix_s, unix_ms, unix_us, unix_ns or rfc3339")),
        })),
        "label" => named(Role::Label),
        "metric" => named(Role::Metric),
        "name" => Ok(Role::Name),
        "value" => Ok(Role::Value),
        _ => Err(format!("{part:?}: a column is time, label, metric, name or value")),
    }
}

/// Cuts a line into fields (RFC 4180: quotes, doubled within). A field may not hold a line end.
///
/// **Errors** with the column, counted from 1, and the reason.
pub fn fields(line: &str, separator: char, out: &mut Vec<String>) -> Result<(), (usize, &'static str)> {
    out.clear();
    let line = line.trim_end_matches(['\n', '\r']);
    let mut chars = line.char_indices().peekable();
    loop {
        if out.len() >= COLUMNS_MAX {
            return Err((line.len(), "there are too many columns"));
        }
        let mut field = String::new();
        if chars.next_if(|(_, c)| *c == '"').is_some() {
            loop {
                match chars.next() {
                    None => return Err((line.len(), "a quote is not closed")),
                    Some((_, '"')) if chars.next_if(|(_, c)| *c == '"').is_some() => field.push('"'),
                    Some((_, '"')) => break,
                    Some((_, c)) => field.push(c),
                }
            }
        } else {
            while let Some((_, c)) = chars.next_if(|(_, c)| *c != separator) {
                field.push(c);
            }
        }
        out.push(field);
        match chars.next() {
            None => return Ok(()),
            Some((_, c)) if c == separator => {}
            Some((at, _)) => return Err((at + 1, "something follows a closing quote")),
        }
    }
}

/// Reads a number of a whole column.
pub fn number(text: &str) -> Option<f64> {
    crate::parse_go_float(text.trim())
}

/// Reads a time that is a number; RFC 3339 is the caller's.
pub fn unix_ms(text: &str, kind: TimeKind) -> Option<i64> {
    let text = text.trim();
    // Tools that know no whole numbers write `1700000000000.0`.
    let plain = text.split_once('.').filter(|(_, zeros)| zeros.bytes().all(|b| b == b'0')).map_or(text, |(n, _)| n);
    let whole = plain.parse::<i64>().ok();
    let scaled = |per_ms: i64| whole.map(|n| n.div_euclid(per_ms));
    match kind {
        TimeKind::Rfc3339 => None,
        TimeKind::Millis => scaled(1),
        TimeKind::Micros => scaled(1_000),
        TimeKind::Nanos => scaled(1_000_000),
        TimeKind::Seconds => {
            let ms = (number(text)? * 1000.0).round();
            (ms.abs() < 9e15).then_some(ms as i64)
        }
        TimeKind::Any => unix_ms(
            text,
            match whole.map_or(0, i64::unsigned_abs) {
                0..100_000_000_000 => TimeKind::Seconds,
                100_000_000_000..100_000_000_000_000 => TimeKind::Millis,
                100_000_000_000_000..100_000_000_000_000_000 => TimeKind::Micros,
                _ => TimeKind::Nanos,
            },
        ),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(text: &str) -> Vec<String> {
        let mut out = Vec::new();
        fields(text, ',', &mut out).unwrap();
        out
    }

    #[test]
    fn times_keep_their_size_when_a_tool_writes_them_as_doubles() {
        for (text, kind, ms) in [
            ("1700000000000.0", TimeKind::Any, Some(1_700_000_000_000)),
            ("1700000000.000", TimeKind::Any, Some(1_700_000_000_000)),
            ("1700000000000.0", TimeKind::Millis, Some(1_700_000_000_000)),
            ("1700000000000.5", TimeKind::Millis, None),
            ("1700000000.25", TimeKind::Any, Some(1_700_000_000_250)),
        ] {
            assert_eq!(unix_ms(text, kind), ms, "{text}");
        }
    }

    #[test]
    fn plans_are_made_of_words_or_names() {
        let plan = Plan::new("", &head("timestamp,metric,value,host")).unwrap();
        assert_eq!(plan.roles, [Role::Time(TimeKind::Any), Role::Name, Role::Value, Role::Label("host".into())]);
        let plan = Plan::new("1:time:unix_ms, temp:metric:t_celsius,4:label:room", &head("a,temp,c")).unwrap();
        assert_eq!(
            plan.roles,
            [Role::Time(TimeKind::Millis), Role::Metric("t_celsius".into()), Role::Skip, Role::Label("room".into())]
        );
        for bad in
            ["", "0:value", "x:label:y", "1:label", "1:time:days", "1:colour", "1:value", "1:time,2:time,3:metric:x"]
        {
            assert!(Plan::new(bad, &head("a,b,c")).is_err(), "{bad}");
        }
    }

    #[test]
    fn fields_are_cut_as_rfc_4180_has_it() {
        assert_eq!(head("a,\"b,\"\"c\"\"\",,d\r\n"), ["a", "b,\"c\"", "", "d"]);
        assert_eq!(head(""), [""]);
        let mut out = Vec::new();
        assert!(fields("\"a", ',', &mut out).is_err() && fields("\"a\"b", ',', &mut out).is_err());
        assert!(fields(&",".repeat(2000), ',', &mut out).is_err());
    }

    #[test]
    fn times_say_by_their_size_what_they_count() {
        for text in ["1700000000", "1700000000000", "1700000000000000", "1700000000000000000"] {
            assert_eq!(unix_ms(text, TimeKind::Any), Some(1_700_000_000_000), "{text}");
        }
        assert_eq!(unix_ms("1700000000.25", TimeKind::Any), Some(1_700_000_000_250));
        assert_eq!(unix_ms("x", TimeKind::Any), None);
    }

    proptest! {
        #[test]
        fn any_line_ends(line in "\\PC{0,60}", plan in "[0-9a-z:,_]{0,40}") {
            let mut out = Vec::new();
            let _ = fields(&line, ',', &mut out);
            let _ = Plan::new(&plan, &out);
            let _ = unix_ms(&line, TimeKind::Any);
        }
    }
}
