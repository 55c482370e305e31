//! From the body of a push to its families.
//!
//! Limits: the body's bytes are bounded by whoever read it, what it becomes by [`CONTENT_BYTES_MAX`]; labels of a series and
//! their lengths by the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::{Family, LABEL_NAME, Labels, LabelsBuf, MetricType, TypeCounts};
use wire::points::{PointCounter, Role, role_of};
use wire::scrape::{Item, Reading, Value as Read, key_name};
use wire::{BodyParser, Format};

use super::content::{Content, PushedFamily, PushedSeries, Value};
use super::group::OWN_FAMILIES;
use super::key::GroupKey;

/// What the series of one body may take: a few bytes of text become a hundred.
const CONTENT_BYTES_MAX: usize = 16 << 20;
/// What a series takes beside its labels, about.
const SERIES_BYTES: usize = 96;
/// What a family takes beside its texts, about: its name stands twice, and its list of series begins with room for four.
const FAMILY_BYTES: usize = 384;
/// What an exemplar takes beside its labels, about.
const EXEMPLAR_BYTES: usize = 96;
/// What a native histogram takes beside its buckets, about.
const HISTOGRAM_BYTES: usize = 256;

/// An exemplar and the series that it belongs to.
#[derive(Clone, PartialEq, Debug)]
pub struct PushedExemplar {
    /// The labels of the series.
    pub series: Labels,
    /// Its own labels.
    pub labels: Labels,
    /// Its value.
    pub value: f64,
    /// Its time, if it gives one; milliseconds since 1970.
    pub ts_ms: Option<i64>,
}

/// What a body held.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Body {
    /// Its families.
    pub content: Content,
    /// Its exemplars.
    pub exemplars: Vec<PushedExemplar>,
    /// Its metric points.
    pub points: TypeCounts,
}

/// Reads a body and puts the labels of the key over those of its series. A histogram that is native and classic is kept as both.
///
/// **Errors** with a sentence when the body does not follow its format, or has what a push must not have: timestamps, and
/// the two families that the gateway makes itself.
pub fn read(format: Format, bytes: &[u8], key: &GroupKey) -> Result<Body, String> {
    let mut reader = Reader::new(key);
    let mut parser = BodyParser::new(format, bytes, true);
    let mut text = Vec::new();
    while let Some(item) = parser.next() {
        reader.take(0)?;
        match item.map_err(|e| e.to_string())? {
            Item::Sample { key, reading } => {
                text.clear();
                text.extend_from_slice(key);
                reader.sample(format, &text, reading, &parser)?;
            }
            Item::Type { name, metric_type } => {
                reader.family(name).metric_type = metric_type;
                reader.metric_type = metric_type;
                reader.points.start_family(metric_type);
            }
            Item::Help { name, help } => {
                reader.take(help.len())?;
                reader.family(name).help = help.into_owned();
            }
            Item::Unit { name, unit } => unit.clone_into(&mut reader.family(name).unit),
            Item::Nothing => {}
        }
    }
    reader.finish()
}

struct Reader<'k> {
    key: &'k GroupKey,
    families: BTreeMap<String, PushedFamily>,
    /// The family that was named last, and its type.
    open: String,
    metric_type: MetricType,
    points: PointCounter,
    exemplars: Vec<PushedExemplar>,
    labels: LabelsBuf,
    bytes: usize,
}

impl<'k> Reader<'k> {
    fn new(key: &'k GroupKey) -> Reader<'k> {
        Reader {
            key,
            families: BTreeMap::new(),
            open: String::new(),
            metric_type: MetricType::Unknown,
            points: PointCounter::default(),
            exemplars: Vec::new(),
            labels: LabelsBuf::default(),
            bytes: 0,
        }
    }

    fn family(&mut self, name: &str) -> &mut Family {
        if self.open != name {
            name.clone_into(&mut self.open);
            self.metric_type = MetricType::Unknown;
            self.points.start_family(MetricType::Unknown);
        }
        &mut self.entry(name).family
    }

    fn entry(&mut self, name: &str) -> &mut PushedFamily {
        if !self.families.contains_key(name) {
            self.bytes += FAMILY_BYTES + 2 * name.len();
        }
        self.families.entry(name.to_owned()).or_insert_with(|| PushedFamily {
            family: Family { name: name.to_owned(), ..Family::default() },
            series: Vec::new(),
        })
    }

    fn sample(&mut self, format: Format, key: &[u8], reading: Reading, parser: &BodyParser<'_>) -> Result<(), String> {
        let name = key_name(format, key);
        if reading.ts_ms.is_some() {
            return Err(format!("pushed metrics must not have timestamps: {name} has one"));
        }
        let series_text = std::str::from_utf8(key).unwrap_or_default();
        let role = reading.role.unwrap_or_else(|| role_of(self.metric_type, &self.open, series_text, &name));
        self.points.add(role);
        let labels = self.labels(parser)?;
        self.take(SERIES_BYTES + labels.as_bytes().len())?;
        let value = match reading.value {
            Read::Float(value) => Value::Float(value),
            Read::Histogram => {
                let histogram = parser.histogram()?;
                let h = &histogram;
                let buckets = h.positive.len() + h.negative.len() + h.custom_bounds.len();
                let buckets = buckets + h.positive_spans.len() + h.negative_spans.len();
                self.take(HISTOGRAM_BYTES + 8 * buckets)?;
                Value::Histogram(Arc::new(histogram))
            }
        };
        let exemplars = &mut self.exemplars;
        let before = exemplars.len();
        parser.exemplars(|own, value, ts_ms| {
            exemplars.push(PushedExemplar { series: labels.clone(), labels: own.to_labels(), value, ts_ms });
        });
        let more = self.exemplars.iter().skip(before).map(|e| EXEMPLAR_BYTES + e.labels.as_bytes().len()).sum();
        self.take(more)?;
        let family = if role == Role::Stranger { name.into_owned() } else { self.open.clone() };
        self.entry(&family).series.push(PushedSeries { labels, value });
        Ok(())
    }

    /// Counts what the content takes.
    fn take(&mut self, bytes: usize) -> Result<(), String> {
        self.bytes += bytes;
        match self.bytes > CONTENT_BYTES_MAX {
            true => Err(format!("the metrics would take more than {CONTENT_BYTES_MAX} bytes; push fewer at a time")),
            false => Ok(()),
        }
    }

    fn labels(&mut self, parser: &BodyParser<'_>) -> Result<Labels, String> {
        self.labels.clear();
        parser.labels(&mut self.labels).map_err(|e| e.to_string())?;
        self.labels.sort().map_err(|e| e.to_string())?;
        if self.labels.get(LABEL_NAME).is_none() {
            return Err("a metric has no name".to_owned());
        }
        self.key.label(&mut self.labels);
        Ok(self.labels.to_labels())
    }

    fn finish(mut self) -> Result<Body, String> {
        self.families.retain(|_, family| !family.series.is_empty());
        if let Some(own) = OWN_FAMILIES.iter().find(|own| self.families.contains_key(**own)) {
            return Err(format!("{own} is a metric of the gateway itself and cannot be pushed"));
        }
        let families = self.families.into_iter().map(|(name, family)| (name, Arc::new(family)));
        Ok(Body { content: Content(families.collect()), exemplars: self.exemplars, points: self.points.finish() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> GroupKey {
        GroupKey::from_pairs([("job".to_owned(), "j".to_owned()), ("instance".to_owned(), String::new())])
    }

    fn text(body: &str) -> Result<Body, String> {
        read(Format::Text, body.as_bytes(), &key())
    }

    #[test]
    fn families_keep_their_metadata_and_the_key_s_labels_win() {
        let body = "# HELP c Things.\n# TYPE c counter\nc{job=\"other\",instance=\"x\",a=\"b\"} 3\n\
                    # TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 1.5\nh_count 2\nstray 1\n\
                    # TYPE empty gauge\n";
        let body = text(body).unwrap_or_else(|e| panic!("{e}"));
        let names: Vec<_> = body.content.0.keys().map(String::as_str).collect();
        assert_eq!(names, ["c", "h", "stray"]);
        let counter = &body.content.0["c"];
        assert_eq!((counter.family.metric_type, counter.family.help.as_str()), (MetricType::Counter, "Things."));
        let expected = Labels::from_pairs([("__name__", "c"), ("job", "j"), ("a", "b")]);
        assert_eq!(counter.series, [PushedSeries { labels: expected, value: Value::Float(3.0) }]);
        assert_eq!(body.content.0["h"].series.len(), 4);
        assert_eq!(body.content.0["stray"].family.metric_type, MetricType::Unknown);
        assert_eq!((body.points.counters, body.points.histograms, body.points.others), (1, 1, 1));
    }

    #[test]
    fn what_may_not_be_pushed_is_refused() {
        let bad = [
            ("a 1 1700000000000\n", "must not have timestamps"),
            ("push_time_seconds 1\n", "cannot be pushed"),
            ("a{x=\"1\",x=\"2\"} 1\n", "not unique"),
            ("a 1", ""),
            ("a b\n", "line 1"),
        ];
        for (body, expected) in bad.iter().filter(|(_, text)| !text.is_empty()) {
            let error = text(body).err().unwrap_or_default();
            assert!(error.contains(expected), "{body}: {error}");
        }
        assert_eq!(text("").map(|b| b.content.len()), Ok(0));
    }

    #[test]
    fn openmetrics_brings_its_exemplars() {
        let body = "# TYPE c counter\nc_total 1 # {trace_id=\"t\"} 0.5\nc_created 1.5\n# EOF\n";
        let body = read(Format::OpenMetrics, body.as_bytes(), &key()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(body.content.0["c"].series.len(), 2);
        assert_eq!((body.exemplars.len(), body.exemplars[0].value), (1, 0.5));
        assert_eq!(body.exemplars[0].series.metric_name(), "c_total");
    }
}
