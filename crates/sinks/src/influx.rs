//! InfluxDB: line protocol over HTTP, versions 1 and 2.
//!
//! Measurement = metric name; tags = labels, `source` and `target_id`; one field, `value`. A point that is written again
//! replaces itself, so that what goes out twice is there once.
//! What the protocol has no form for is counted and left out, never altered: NaN and infinities (stale markers among them),
//! native histograms, texts with a line break or a backslash at their end, names with a backslash in front of what is escaped.
//! Cost: all of a line but value and time is written once for each series, source and target.

use std::sync::Arc;

use futures_util::future::join_all;
use hashbrown::HashMap;
use model::{LABEL_NAME, Labels};

use crate::http::{Courier, HttpSettings, Misunderstood, Parcel, Said};
use crate::queue::Row;
use crate::run::{Again, Sink};
use crate::{Later, MakePost, SinkStats, Window};

/// Tag keys that InfluxDB keeps for itself, and those that we add: a label of that name becomes `exported_...`.
const RESERVED: [&str; 6] = ["time", "_field", "_measurement", "_time", "source", "target_id"];
const FIELD: &str = " value=";

/// Settings of a sink.
#[derive(Clone, PartialEq, Debug)]
pub struct InfluxSettings {
    /// Requests.
    pub http: HttpSettings,
}

/// An InfluxDB.
pub struct Influx {
    courier: Courier,
    epoch: u64,
    /// By series and origin: the line up to the value; `None` where there is no form for it.
    prefixes: HashMap<(u32, u32), Option<Box<[u8]>>>,
}

impl Influx {
    /// Makes one; nothing is connected yet.
    pub fn new(settings: InfluxSettings, make: MakePost, stats: Arc<SinkStats>) -> Influx {
        Influx { courier: Courier::new(settings.http, make, stats), epoch: 0, prefixes: HashMap::new() }
    }

    fn prepare(&mut self, window: &Window) {
        if self.epoch != window.epoch {
            self.epoch = window.epoch;
            self.prefixes.clear();
        }
        for row in &window.rows {
            self.prefixes.entry((row.series, row.origin)).or_insert_with(|| {
                let series = window.series.get(row.series as usize)?;
                let (source, target) = window.origins.get(row.origin as usize)?;
                prefix(&series.labels, source, target)
            });
        }
    }

    fn lines(&self, rows: &[Row]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut number = ryu::Buffer::new();
        for row in rows {
            let Some(Some(prefix)) = self.prefixes.get(&(row.series, row.origin)) else { continue };
            out.extend_from_slice(prefix);
            out.extend_from_slice(number.format_finite(row.value).as_bytes());
            out.push(b' ');
            out.extend_from_slice(row.ts_ms.to_string().as_bytes());
            out.push(b'\n');
        }
        out
    }

    /// Deals out what there is a form for.
    fn deal(&self, window: &Window, shards: usize) -> Vec<Vec<Row>> {
        let mut dealt: Vec<Vec<Row>> = (0..shards).map(|_| Vec::new()).collect();
        let mut unwritable = window.histograms.len();
        for row in &window.rows {
            let written =
                row.value.is_finite() && self.prefixes.get(&(row.series, row.origin)).is_some_and(Option::is_some);
            match dealt.get_mut(window.shard_of(row.series, shards)) {
                Some(shard) if written => shard.push(*row),
                _ => unwritable += 1,
            }
        }
        SinkStats::add(&self.courier.stats.unwritable, unwritable);
        dealt
    }

    async fn send_shard(&self, shard: usize, rows: Vec<Row>) {
        for chunk in rows.chunks(self.courier.settings.samples_max.max(1)) {
            // There is one kind of request only.
            let _ = self.courier.deliver(shard, chunk, self).await;
        }
    }
}

impl Parcel<Row> for Influx {
    fn encode(&self, rows: &[Row]) -> Result<Vec<u8>, String> {
        Ok(self.lines(rows))
    }

    fn headers(&self) -> Vec<(&'static str, String)> {
        vec![("content-type", "text/plain; charset=utf-8".to_owned())]
    }

    fn is_whole(&self, said: &Said) -> bool {
        match said {
            Said::Refused { status: 413, .. } => true,
            Said::Refused { status: 400 | 422, text, .. } => dropped(text).is_none(),
            _ => false,
        }
    }

    fn taken(&self, rows: &[Row], _: Option<u64>) -> Result<(), Misunderstood> {
        SinkStats::add(&self.courier.stats.sent, rows.len());
        Ok(())
    }

    fn refused(&self, rows: &[Row], said: &Said) {
        if let Said::Refused { status, text, .. } = said {
            let dropped = dropped(text).unwrap_or(rows.len()).min(rows.len());
            SinkStats::add(&self.courier.stats.sent, rows.len() - dropped);
            self.courier.refused(dropped, *status, text);
        }
    }
}

impl Sink for Influx {
    fn deliver<'a>(&'a mut self, window: &'a Window) -> Later<'a, Result<(), Again>> {
        Box::pin(async move {
            self.prepare(window);
            let shards = self.courier.shards_for(window.rows.len());
            let dealt = self.deal(window, shards);
            let this = &*self;
            let busy = dealt.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty());
            join_all(busy.map(|(shard, rows)| this.send_shard(shard, rows))).await;
            Ok(())
        })
    }
}

/// Reads from the answer to a partial write how many points were left out; the others were written. The number stands last:
/// the text in front may repeat a line of ours. 0 says that lines were no points at all, not how many.
fn dropped(text: &str) -> Option<usize> {
    let at = text.find("partial write")?;
    let (_, number) = text[at..].rsplit_once("dropped=")?;
    let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..digits].parse().ok().filter(|n| *n > 0)
}

/// Writes a line up to its value; `None` when a text has no form in the protocol.
fn prefix(labels: &Labels, source: &str, target: &str) -> Option<Box<[u8]>> {
    let mut out = Vec::new();
    put(&mut out, labels.metric_name(), Part::Measurement)?;
    let mut tags: Vec<(String, &str)> = Vec::new();
    for (name, value) in labels.iter().filter(|(name, _)| *name != LABEL_NAME) {
        let name = if RESERVED.contains(&name) { format!("exported_{name}") } else { name.to_owned() };
        tags.push((name, value));
    }
    let own = [("source", source), ("target_id", target)];
    tags.extend(own.into_iter().filter(|(_, v)| !v.is_empty()).map(|(n, v)| (n.to_owned(), v)));
    // InfluxDB likes them sorted.
    tags.sort();
    for (name, value) in tags {
        out.push(b',');
        put(&mut out, &name, Part::Key)?;
        out.push(b'=');
        put(&mut out, value, Part::Value)?;
    }
    out.extend_from_slice(FIELD.as_bytes());
    Some(out.into())
}

/// Which part of a line a text is.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Measurement,
    Key,
    Value,
}

/// Writes a part of a line.
fn put(out: &mut Vec<u8>, text: &str, part: Part) -> Option<()> {
    let is_special = |c: char| c == ',' || c == ' ' || c == '=' && part != Part::Measurement;
    // A name's backslash in front of an escape is taken for a part of it; a value's is kept.
    let swallowed = || text.match_indices('\\').any(|(at, _)| text[at + 1..].starts_with(is_special));
    if text.is_empty()
        || text.contains(['\n', '\r', '\0'])
        || text.ends_with('\\')
        || (part == Part::Measurement && text.starts_with('#'))
        || (part != Part::Value && swallowed())
    {
        return None;
    }
    for byte in text.bytes() {
        if is_special(char::from(byte)) {
            out.push(b'\\');
        }
        out.push(byte);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(labels: &[(&str, &str)], source: &str, target: &str) -> Option<String> {
        let bytes = prefix(&Labels::from_pairs(labels.iter().copied()), source, target)?;
        Some(String::from_utf8(bytes.into_vec()).unwrap())
    }

    #[test]
    fn texts_are_escaped_or_have_no_form() {
        let labels = [("__name__", "a,b c=d"), ("k=e y", "v,a=l ue\\x"), ("time", "t"), ("source", "own")];
        assert_eq!(
            line(&labels, "s 1", "").unwrap(),
            "a\\,b\\ c=d,exported_source=own,exported_time=t,k\\=e\\ y=v\\,a\\=l\\ ue\\x,source=s\\ 1 value="
        );
        for bad in ["a\nb", "ends with \\", "c\rd"] {
            assert_eq!(line(&[("__name__", "a"), ("l", bad)], "s", "t"), None, "{bad:?}");
        }
        assert_eq!(line(&[("l", "v")], "s", "t"), None, "no metric name");
        assert_eq!(line(&[("__name__", "a\\,b")], "s", "t"), None, "InfluxDB 1.6 loses the backslash");
        assert_eq!(line(&[("__name__", "a"), ("b\\=", "c")], "s", "t"), None);
        assert!(line(&[("__name__", "a"), ("b", "c\\,d")], "s", "t").is_some_and(|l| l.contains("b=c\\\\,d")));
    }

    #[test]
    fn a_line_has_its_value_and_time_behind_the_prefix() {
        let labels = Labels::from_pairs([("__name__", "a b"), ("x", "y=,z \\w")]);
        let mut text = prefix(&labels, "src", "tgt").unwrap().into_vec();
        text.extend_from_slice(b"-0.5 1700000000000\n");
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text, "a\\ b,source=src,target_id=tgt,x=y\\=\\,z\\ \\w value=-0.5 1700000000000\n");
    }

    #[test]
    fn partial_writes_say_how_many_were_left_out() {
        let one = r#"{"error":"partial write: field type conflict: input field \"value\" on m dropped=3"}"#;
        assert_eq!(dropped(one), Some(3));
        assert_eq!(dropped("unable to parse 'x': missing fields"), None);
        assert_eq!(dropped("partial write"), None);
        let unreadable = r#"partial write: unable to parse 'a,b=dropped\=900 value=1 9': bad timestamp dropped=0"#;
        assert_eq!(dropped(unreadable), None, "which lines is found by dividing");
        assert_eq!(dropped("partial write: points beyond retention policy b=dropped=900 dropped=2"), Some(2));
    }
}
