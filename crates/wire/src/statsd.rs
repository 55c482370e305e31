//! StatsD and DogStatsD: `name:value|type|@rate|#tag:value`.
//!
//! Values may be several (`name:1:2:3|ms`); tags may stand in DogStatsD's way, or behind the name as Influx (`name,a=b`) and
//! Graphite (`name;a=b`) have them. Events and service checks are no metrics and are told apart.

use crate::line_error::LineError;
use crate::number::float_prefix;

/// Values of one line.
const VALUES_MAX: usize = 1_000;
/// Tags of one line.
const TAGS_MAX: usize = 100;

/// What a line does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `c`: adds.
    Counter,
    /// `g`: sets, or with a sign adds.
    Gauge,
    /// `ms`: a duration in milliseconds.
    Timer,
    /// `h` and `d`: a value to be distributed.
    Distribution,
    /// `s`: a member of a set.
    Set,
}

/// One metric line.
#[derive(Clone, PartialEq, Debug)]
pub struct Metric<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it does.
    pub kind: Kind,
    /// Its values as they stand; numbers, unless it is a set.
    pub values: Vec<&'a str>,
    /// From 0 (exclusive) to 1: which share of the events was sent.
    pub rate: f64,
    /// Tags; a tag without a value has the value `true`.
    pub tags: Vec<(&'a str, &'a str)>,
    /// `T`: seconds since 1970, in milliseconds here.
    pub ts_ms: Option<i64>,
}

/// What a line is.
#[derive(Clone, PartialEq, Debug)]
pub enum Line<'a> {
    /// A metric.
    Metric(Metric<'a>),
    /// An event or a service check of DogStatsD.
    Other,
}

/// Reads a number of a metric line.
pub fn number(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    float_prefix(unsigned.as_bytes()).filter(|(n, len)| *len == unsigned.len() && n.is_finite()).map(|(n, _)| n)
}

/// Reads one line of a datagram; `None` when it is empty.
///
/// **Errors** name the place; `line` is where the line stands in the datagram, counted from 1.
pub fn parse(bytes: &[u8], line: u32) -> Option<Result<Line<'_>, LineError>> {
    let bytes = bytes.trim_ascii();
    if bytes.is_empty() {
        return None;
    }
    if bytes.starts_with(b"_e{") || bytes.starts_with(b"_sc|") {
        return Some(Ok(Line::Other));
    }
    let read = read(bytes).map(Line::Metric);
    Some(read.map_err(|(at, message)| LineError::new(line, at, message, bytes)))
}

type Fault = (usize, &'static str);

fn read(bytes: &[u8]) -> Result<Metric<'_>, Fault> {
    let text = std::str::from_utf8(bytes).map_err(|e| (e.valid_up_to(), "it is not UTF-8"))?;
    let bar = text.find('|').ok_or((text.len(), "there is no type"))?;
    // The values begin at the first colon. Behind tags in the name there is one value only, for their values may hold colons.
    let first = text[..bar].find(':').ok_or((bar, "there is no value"))?;
    let tagged = text[..first].contains([',', ';']);
    let colon = if tagged { text[..bar].rfind(':').unwrap_or(first) } else { first };
    let (head, values) = (&text[..colon], &text[colon + 1..bar]);
    let mut metric =
        Metric { name: head, kind: Kind::Counter, values: Vec::new(), rate: 1.0, tags: Vec::new(), ts_ms: None };
    if let Some(split) = head.find([',', ';']) {
        metric.name = &head[..split];
        let separator = if head.as_bytes()[split] == b',' { ',' } else { ';' };
        for tag in head[split + 1..].split(separator).filter(|tag| !tag.is_empty()) {
            let pair = tag.split_once('=').filter(|(name, _)| !name.is_empty());
            push_tag(&mut metric.tags, pair.ok_or((split, "a tag is not name=value"))?, split)?;
        }
    }
    if metric.name.is_empty() {
        return Err((0, "the name is empty"));
    }
    let mut parts = text[bar + 1..].split('|');
    let word = parts.next().unwrap_or_default();
    metric.kind = match word {
        "c" => Kind::Counter,
        "g" => Kind::Gauge,
        "ms" => Kind::Timer,
        "h" | "d" => Kind::Distribution,
        "s" => Kind::Set,
        _ => return Err((bar + 1, "the type is none of c, g, ms, h, d, s")),
    };
    let mut at = bar + 1 + word.len();
    for part in parts {
        option(&mut metric, part, at + 1)?;
        at += 1 + part.len();
    }
    read_values(&mut metric, values, colon + 1)?;
    Ok(metric)
}

fn read_values<'a>(metric: &mut Metric<'a>, values: &'a str, at: usize) -> Result<(), Fault> {
    if metric.kind == Kind::Set {
        metric.values.push(values);
        return Ok(());
    }
    for value in values.split(':') {
        if number(value).is_none() {
            return Err((at, "a value is not a number"));
        }
        if metric.values.len() >= VALUES_MAX {
            return Err((at, "there are more than 1000 values"));
        }
        metric.values.push(value);
    }
    Ok(())
}

fn option<'a>(metric: &mut Metric<'a>, part: &'a str, at: usize) -> Result<(), Fault> {
    match part.as_bytes().first() {
        Some(b'@') => {
            let rate = number(&part[1..]).filter(|rate| *rate > 0.0 && *rate <= 1.0);
            metric.rate = rate.ok_or((at, "the sample rate is not from 0 to 1"))?;
        }
        Some(b'#') => {
            for tag in part[1..].split(',').filter(|tag| !tag.is_empty()) {
                let pair = tag.split_once(':').unwrap_or((tag, "true"));
                if pair.0.is_empty() {
                    return Err((at, "a tag has no name"));
                }
                push_tag(&mut metric.tags, pair, at)?;
            }
        }
        Some(b'T') => {
            let seconds = part[1..].parse::<i64>().ok().and_then(|s| s.checked_mul(1000)).filter(|ms| *ms > 0);
            metric.ts_ms = Some(seconds.ok_or((at, "the time is not a number of seconds"))?);
        }
        // Container ids, external data, cardinality: whatever else Datadog adds is not ours to judge.
        _ => {}
    }
    Ok(())
}

fn push_tag<'a>(tags: &mut Vec<(&'a str, &'a str)>, tag: (&'a str, &'a str), at: usize) -> Result<(), Fault> {
    if tags.len() >= TAGS_MAX {
        return Err((at, "there are more than 100 tags"));
    }
    tags.push(tag);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(line: &str) -> Result<Metric<'_>, String> {
        match parse(line.as_bytes(), 1).expect("a line") {
            Ok(Line::Metric(metric)) => Ok(metric),
            Ok(Line::Other) => panic!("no metric: {line}"),
            Err(e) => Err(e.to_string()),
        }
    }

    #[test]
    fn metrics_are_read_in_every_dress() {
        let metric = one("page.views:1|c|@0.1|#env:prod,canary|c:abc|T1700000000").unwrap();
        assert_eq!((metric.name, metric.kind, metric.rate), ("page.views", Kind::Counter, 0.1));
        assert_eq!(metric.tags, [("env", "prod"), ("canary", "true")]);
        assert_eq!((metric.values.as_slice(), metric.ts_ms), (&["1"][..], Some(1_700_000_000_000)));
        assert_eq!(one("t:1:2.5:3|ms").unwrap().values, ["1", "2.5", "3"]);
        assert_eq!(one("g:-4|g").unwrap().values, ["-4"]);
        assert_eq!(number("+4"), Some(4.0));
        assert_eq!(one("u:alice:x|s").unwrap().values, ["alice:x"]);
        assert_eq!(one("x,a=b,c=d:1|d").unwrap().tags, [("a", "b"), ("c", "d")]);
        assert_eq!(one("x;a=b:1|h").unwrap().tags, [("a", "b")]);
        assert_eq!(parse(b"_e{5,4}:title|text", 1).map(|r| r.unwrap()), Some(Line::Other));
        assert!(parse(b"\r", 1).is_none());
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, wanted) in [
            ("a", "there is no type"),
            ("a|c", "there is no value"),
            (":1|c", "the name is empty"),
            ("a:x|c", "a value is not a number"),
            ("a:nan|g", "a value is not a number"),
            ("a:1|q", "the type is none of"),
            ("a:1|c|@0", "the sample rate"),
            ("a:1|c|@1.5", "the sample rate"),
            ("a:1|c|#:x", "a tag has no name"),
            ("a:1|g|Tx", "the time is not"),
            ("a,b:1|c", "a tag is not name=value"),
        ] {
            let error = one(line).unwrap_err();
            assert!(error.contains(wanted), "{line}: {error}");
        }
        assert!(one(&format!("a:{}1|d", "1:".repeat(1000))).is_err());
        assert!(one(&format!("a:1|c|#{}", "x,".repeat(101))).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..100), text in r"[a:|@#,;=c0-9g.T-]{0,40}") {
            let _ = parse(&bytes, 1);
            if let Some(Ok(Line::Metric(metric))) = parse(text.as_bytes(), 1) {
                prop_assert!(!metric.name.is_empty() && !metric.values.is_empty());
                prop_assert!(metric.rate > 0.0 && metric.rate <= 1.0);
            }
        }
    }
}
