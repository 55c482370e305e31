//! The rules within one metric family.

use std::collections::HashSet;

use model::{LABEL_NAME, LabelsBuf, MetricType};

use super::counter::CounterCheck;
use super::histogram::HistogramCheck;
use crate::number::{Nanos, parse_go_float};
use crate::parser::RawExemplar;

/// The most characters (code points) that the labels of one exemplar may have together.
const EXEMPLAR_CHARS_MAX: usize = 128;

/// A family under inspection.
pub(super) struct Family {
    name: String,
    metric_type: Option<MetricType>,
    has_help: bool,
    unit: Option<String>,
    has_samples: bool,
    groups: Groups,
    counter: CounterCheck,
    histogram: HistogramCheck,
}

/// One sample with its name divided.
pub(super) struct Member<'a> {
    pub(super) suffix: &'a str,
    pub(super) labels: &'a LabelsBuf,
    pub(super) value: f64,
}

impl Family {
    pub(super) fn new(name: &str) -> Family {
        Family {
            name: name.to_owned(),
            metric_type: None,
            has_help: false,
            unit: None,
            has_samples: false,
            groups: Groups::default(),
            counter: CounterCheck::default(),
            histogram: HistogramCheck::default(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn metric_type(&self) -> MetricType {
        self.metric_type.unwrap_or_default()
    }

    /// Tells whether a sample of this name belongs here.
    pub(super) fn owns(&self, sample: &str) -> bool {
        sample.strip_prefix(&self.name).is_some_and(|suffix| suffixes(self.metric_type()).contains(&suffix))
    }

    /// Gives the sample names that no other family may use.
    pub(super) fn reserved_names(&self) -> impl Iterator<Item = String> {
        let own = suffixes(self.metric_type()).iter().filter(|s| !s.is_empty());
        [""].iter().chain(own).map(|suffix| format!("{}{suffix}", self.name))
    }

    pub(super) fn set_type(&mut self, metric_type: MetricType) -> Result<(), String> {
        self.before_samples("TYPE")?;
        self.metric_type.replace(metric_type).map_or(Ok(()), |_| self.second("TYPE"))
    }

    pub(super) fn set_help(&mut self) -> Result<(), String> {
        self.before_samples("HELP")?;
        if std::mem::replace(&mut self.has_help, true) { self.second("HELP") } else { Ok(()) }
    }

    pub(super) fn set_unit(&mut self, unit: &str) -> Result<(), String> {
        self.before_samples("UNIT")?;
        self.unit.replace(unit.to_owned()).map_or(Ok(()), |_| self.second("UNIT"))
    }

    fn before_samples(&self, what: &str) -> Result<(), String> {
        if self.has_samples { Err(format!("the {what} of {} comes after its samples", self.name)) } else { Ok(()) }
    }

    fn second(&self, what: &str) -> Result<(), String> {
        Err(format!("the {what} of {} is given twice", self.name))
    }

    /// Checks one more sample of this family. Its labels are sorted.
    pub(super) fn add_sample(
        &mut self,
        sample: &str,
        labels: &mut LabelsBuf,
        value: f64,
        at: Option<Nanos>,
        exemplar: Option<&RawExemplar<'_>>,
    ) -> Result<(), String> {
        self.has_samples = true;
        let series = encode(labels);
        labels.remove(LABEL_NAME);
        let suffix = sample.strip_prefix(&self.name).unwrap_or_default();
        let member = Member { suffix, labels, value };
        check_names(labels)?;
        self.check_labels(&member)?;
        self.check_value(&member)?;
        exemplar.map_or(Ok(()), |exemplar| self.check_exemplar(&member, exemplar))?;
        let group = self.group_of(&member);
        let truncated = self.groups.enter(&group, series, at, self.metric_type() == MetricType::Info)?;
        if self.is_histogram() && !truncated {
            self.histogram.add(&self.name, &group, at, &member)?;
        }
        if self.metric_type() == MetricType::Counter {
            self.counter.add(&self.name, &group, at, suffix)?;
        }
        Ok(())
    }

    /// Checks what only the end of the family shows.
    pub(super) fn finish(self) -> Result<(), String> {
        let unitless = matches!(self.metric_type(), MetricType::Info | MetricType::StateSet);
        if unitless && self.unit.as_deref().is_some_and(|unit| !unit.is_empty()) {
            return Err(format!("{} has a unit, which its type must not have", self.name));
        }
        self.counter.finish(&self.name)?;
        self.histogram.finish(&self.name)
    }

    fn is_histogram(&self) -> bool {
        matches!(self.metric_type(), MetricType::Histogram | MetricType::GaugeHistogram)
    }

    fn check_labels(&self, member: &Member<'_>) -> Result<(), String> {
        match (self.metric_type(), member.suffix) {
            (MetricType::StateSet, _) if member.labels.get(&self.name).is_none() => {
                Err(format!("a state needs the label {}", self.name))
            }
            (MetricType::Histogram | MetricType::GaugeHistogram, "_bucket") => check_le(member.labels),
            (MetricType::Summary, "") => check_quantile(member.labels),
            (MetricType::Histogram | MetricType::GaugeHistogram, _) => self.check_absent("le", member),
            (MetricType::Summary, _) => self.check_absent("quantile", member),
            _ => Ok(()),
        }
    }

    /// The label that divides a point into samples is no label of the metric itself.
    fn check_absent(&self, dividing: &str, member: &Member<'_>) -> Result<(), String> {
        match member.labels.get(dividing) {
            Some(_) => Err(format!("{}{} must not have the label {dividing}", self.name, member.suffix)),
            None => Ok(()),
        }
    }

    fn check_value(&self, member: &Member<'_>) -> Result<(), String> {
        let value = member.value;
        let counts = matches!(member.suffix, "_bucket" | "_count" | "_gcount");
        let counter_like = counts || matches!(member.suffix, "_total" | "_sum");
        let wrong = match (self.metric_type(), member.suffix) {
            (MetricType::StateSet, _) => (value != 0.0 && value != 1.0).then_some("a state is 0 or 1"),
            (MetricType::Info, _) => (value != 1.0).then_some("the value of an info is 1"),
            (MetricType::Summary, "") => (value < 0.0).then_some("a quantile is not negative"),
            (_, "_gsum") => value.is_nan().then_some("this value is not NaN"),
            (_, "_created") => (!value.is_finite()).then_some("a start time is a finite number of seconds"),
            _ if counts && !(value.is_finite() && value.fract() == 0.0) => Some("a count is a whole number"),
            _ if counter_like && value.is_nan() => Some("a value that only rises is not NaN"),
            _ if counter_like && value < 0.0 => Some("a value that only rises is not negative"),
            _ => None,
        };
        wrong.map_or(Ok(()), |wrong| Err(format!("{}{}: {wrong}", self.name, member.suffix)))
    }

    fn check_exemplar(&self, member: &Member<'_>, exemplar: &RawExemplar<'_>) -> Result<(), String> {
        let allowed = matches!(
            (self.metric_type(), member.suffix),
            (MetricType::Counter, "_total") | (MetricType::Histogram | MetricType::GaugeHistogram, "_bucket")
        );
        if !allowed {
            return Err("only buckets and the totals of counters have exemplars".to_owned());
        }
        if exemplar.labels.ends_with(",}") {
            return Err("a comma stands before the closing brace of the exemplar".to_owned());
        }
        let bound = member.labels.get("le").filter(|_| self.is_histogram()).and_then(parse_go_float);
        if bound.is_some_and(|bound| exemplar.value > bound) {
            return Err("the exemplar's value is beyond the bound of its bucket".to_owned());
        }
        let mut labels = LabelsBuf::default();
        exemplar.read_labels(&mut labels);
        let chars: usize = labels.iter().map(|(name, value)| name.chars().count() + value.chars().count()).sum();
        if chars > EXEMPLAR_CHARS_MAX {
            return Err(format!("the exemplar's labels have {chars} characters, more than {EXEMPLAR_CHARS_MAX}"));
        }
        check_names(&labels)
            .and_then(|()| labels.sort().map_err(|e| e.to_string()))
            .map_err(|e| format!("exemplar: {e}"))
    }

    /// Gives what tells one metric of the family from another: its labels without the one that divides a point.
    fn group_of(&self, member: &Member<'_>) -> Vec<u8> {
        let dividing = match (self.metric_type(), member.suffix) {
            // The labels of an info are its value; its metrics cannot be told apart.
            (MetricType::Info, _) => return Vec::new(),
            (MetricType::Summary, "") => "quantile",
            (MetricType::StateSet, _) => self.name.as_str(),
            (MetricType::Histogram | MetricType::GaugeHistogram, "_bucket") => "le",
            _ => return encode(member.labels),
        };
        let mut labels = member.labels.clone();
        labels.remove(dividing);
        encode(&labels)
    }
}

/// Gives the suffixes that a family's samples may have.
fn suffixes(metric_type: MetricType) -> &'static [&'static str] {
    match metric_type {
        MetricType::Counter => &["_total", "_created"],
        MetricType::Summary => &["", "_count", "_sum", "_created"],
        MetricType::Histogram => &["_count", "_sum", "_bucket", "_created"],
        MetricType::GaugeHistogram => &["_gcount", "_gsum", "_bucket"],
        MetricType::Info => &["_info"],
        MetricType::Gauge | MetricType::StateSet | MetricType::Unknown => &[""],
    }
}

fn encode(labels: &LabelsBuf) -> Vec<u8> {
    let mut out = Vec::new();
    labels.encode_into(&mut out);
    out
}

fn check_names(labels: &LabelsBuf) -> Result<(), String> {
    match labels.iter().find(|(name, _)| name.starts_with('_')) {
        Some((name, _)) => Err(format!("the label name {name} is reserved: it starts with an underscore")),
        None => Ok(()),
    }
}

fn check_le(labels: &LabelsBuf) -> Result<(), String> {
    let text = labels.get("le").unwrap_or_default();
    match parse_go_float(text) {
        None => Err(format!("a bucket needs a number in the label le, not {text:?}")),
        Some(le) if le.is_nan() => Err("the bound of a bucket is not NaN".to_owned()),
        Some(le) if le == f64::INFINITY && text != "+Inf" => Err(format!("infinity is written +Inf, not {text}")),
        Some(_) => Ok(()),
    }
}

fn check_quantile(labels: &LabelsBuf) -> Result<(), String> {
    let text = labels.get("quantile").unwrap_or_default();
    match parse_go_float(text) {
        Some(quantile) if (0.0..=1.0).contains(&quantile) => Ok(()),
        _ => Err(format!("a summary needs a number from 0 to 1 in the label quantile, not {text:?}")),
    }
}

/// The metrics of a family: each in one piece, each with its timestamps in order.
#[derive(Default)]
struct Groups {
    seen: HashSet<Vec<u8>>,
    open: Option<Vec<u8>>,
    at: Option<Nanos>,
    /// The series that stood at this time already.
    at_this_time: HashSet<Vec<u8>>,
}

impl Groups {
    /// Takes the next sample's group, series and time.
    ///
    /// **Gives** whether the series stood at the same time already, which only cut timestamps excuse.
    fn enter(&mut self, group: &[u8], series: Vec<u8>, at: Option<Nanos>, unordered: bool) -> Result<bool, String> {
        if self.open.as_deref() != Some(group) {
            if !self.seen.insert(group.to_vec()) {
                return Err("the samples of one metric do not stand together".to_owned());
            }
            self.open = Some(group.to_vec());
            self.at_this_time.clear();
        } else if self.at.is_some() != at.is_some() {
            return Err("some samples of one metric have timestamps and some have none".to_owned());
        } else if !unordered && self.at > at {
            return Err("the timestamps of one metric go backwards".to_owned());
        } else if self.at != at {
            self.at_this_time.clear();
        }
        self.at = at;
        let again = !self.at_this_time.insert(series);
        if again && at.is_none() {
            return Err("the series stands twice".to_owned());
        }
        Ok(again)
    }
}
