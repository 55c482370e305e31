//! A write request into a batch.

use std::borrow::Cow;

use model::{
    Batch, BatchExemplar, Family, LABEL_NAME, Labels, LabelsBuf, MetricType, NO_FAMILY, Refusal, SeriesIndex, Verdict,
};

use super::proto::{Field, Message, WireError};
use super::{METRIC_TYPES, plain};

/// Label of the stand-in for a series that has no readable label at all, so that its samples can be counted as refused.
const UNREADABLE: &str = "__unreadable__";

/// How much one request may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Samples and native histograms of the request. Each costs memory far beyond its two bytes on the wire.
    pub samples_max: usize,
    /// Exemplars of the request; further ones are dropped and counted.
    pub exemplars_max: usize,
    /// Families of the request; further ones are dropped and counted.
    pub families_max: usize,
    /// Labels of a series, the name included; a series with more is refused.
    pub labels_max: usize,
    /// Bytes of a label name; a series with a longer one is refused.
    pub name_bytes_max: usize,
    /// Bytes of a label value; a series with a longer one is refused.
    pub value_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            samples_max: 2_000_000,
            exemplars_max: 100_000,
            families_max: 20_000,
            labels_max: 200,
            name_bytes_max: 1024,
            value_bytes_max: 64 << 10,
        }
    }
}

/// What a request held.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DecodeStats {
    /// Series with at least one sample, histogram or exemplar.
    pub series: usize,
    /// Float samples, refused ones included.
    pub samples: usize,
    /// Native histograms: refused as `invalid_value`, since there is no room for them yet.
    pub histograms: usize,
    /// Exemplars taken.
    pub exemplars: usize,
    /// Exemplars dropped: too many, or of a series or with labels that are refused.
    pub exemplars_dropped: usize,
    /// Families taken.
    pub families: usize,
    /// Families dropped: too many, or not UTF-8.
    pub families_dropped: usize,
    /// The first series that is refused.
    pub first_refused: Option<RefusedSeries>,
}

/// A series whose samples are all refused, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefusedSeries {
    /// Its place among the `timeseries` of the request, counted from 0.
    pub index: usize,
    /// The reason counted.
    pub reason: Refusal,
    /// The reason in words.
    pub text: String,
}

/// Reads an uncompressed `prometheus.WriteRequest` and appends all of it to the batch.
///
/// Labels may come in any order. A series whose labels are not valid keeps its samples, decided as refused: one bad series
/// never costs another. Fields that are not known are jumped over.
///
/// **Errors** when the bytes are no such message or hold too many samples; then the batch holds a part: clear it.
/// **Cost** no allocation per label or sample once the batch has grown.
/// **Source** Prometheus Remote-Write 1.0.
pub fn decode_v1(body: &[u8], batch: &mut Batch, limits: &Limits) -> Result<DecodeStats, WireError> {
    let mut decoder =
        Decoder { batch, limits, stats: DecodeStats::default(), labels: LabelsBuf::default(), index: 0, values: 0 };
    let mut request = Message::new(body);
    while let Some(field) = request.next_field()? {
        match field.number {
            1 => decoder.read_series(field.message()?)?,
            3 => decoder.read_family(field.message()?)?,
            _ => {}
        }
    }
    Ok(decoder.stats)
}

struct Decoder<'b> {
    batch: &'b mut Batch,
    limits: &'b Limits,
    stats: DecodeStats,
    /// The labels of the series being read.
    labels: LabelsBuf,
    /// The place of the series being read.
    index: usize,
    /// Samples and histograms so far.
    values: usize,
}

/// Why a series is refused.
struct Fault {
    reason: Refusal,
    text: Cow<'static, str>,
}

impl Fault {
    fn name(text: impl Into<Cow<'static, str>>) -> Fault {
        Fault { reason: Refusal::InvalidName, text: text.into() }
    }

    fn limit(text: impl Into<Cow<'static, str>>) -> Fault {
        Fault { reason: Refusal::LabelLimit, text: text.into() }
    }
}

impl Decoder<'_> {
    /// Labels may come after samples, so the labels are read first and the rest in a second walk from where they ended.
    fn read_series(&mut self, message: Message<'_>) -> Result<(), WireError> {
        let index = self.index;
        self.index += 1;
        if let Some((series, rest)) = self.read_plain_labels(message) {
            self.stats.series += 1;
            return self.read_values(rest, series, Verdict::Pending);
        }
        let (fault, rest, has_values) = self.read_labels(message)?;
        if !has_values {
            return Ok(());
        }
        let verdict = fault.as_ref().map_or(Verdict::Pending, |fault| Verdict::Refused(fault.reason));
        let series = self.batch.push_series(&self.labels, NO_FAMILY);
        self.stats.series += 1;
        if let (Some(fault), None) = (fault, &self.stats.first_refused) {
            self.stats.first_refused =
                Some(RefusedSeries { index, reason: fault.reason, text: fault.text.into_owned() });
        }
        self.read_values(rest, series, verdict)
    }

    fn read_values(&mut self, mut rest: Message<'_>, series: SeriesIndex, verdict: Verdict) -> Result<(), WireError> {
        while let Some(field) = rest.next_field()? {
            match field.number {
                2 => self.read_sample(field.message()?, series, verdict)?,
                3 => self.read_exemplar(field.message()?, series, verdict)?,
                4 => self.read_histogram(field.message()?, series)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads the labels in the shape that nearly all senders write: first in the message, short, sorted, ASCII, valid.
    fn read_plain_labels<'m>(&mut self, message: Message<'m>) -> Option<(SeriesIndex, Message<'m>)> {
        let mut rest = None;
        let limits = self.limits;
        let series = self.batch.push_encoded(NO_FAMILY, |out| {
            rest = plain::copy_labels(message, limits, out);
            rest.is_some()
        });
        series.zip(rest)
    }

    /// Reads the labels; gives what is wrong with them, the fields from the first other one on, and whether there are any
    /// samples, exemplars or histograms.
    fn read_labels<'m>(&mut self, mut message: Message<'m>) -> Result<(Option<Fault>, Message<'m>, bool), WireError> {
        self.labels.clear();
        let mut fault = None;
        let mut sorted = true;
        let mut last_name: &[u8] = &[];
        let mut rest = None;
        loop {
            let here = message;
            let Some(field) = message.next_field()? else { break };
            if field.number != 1 {
                if matches!(field.number, 2..=4) {
                    rest.get_or_insert(here);
                }
                continue;
            }
            let (name, value) = read_label(field)?;
            sorted &= last_name < name && !value.is_empty();
            last_name = name;
            let checked = self.push_label(name, value);
            fault = fault.or(checked.err());
        }
        if !sorted {
            fault = fault.or(self.labels.sort().err().map(|e| Fault::name(e.to_string())));
        }
        if fault.is_none() && self.labels.get(LABEL_NAME).is_none() {
            fault = Some(Fault::name("the series has no metric name"));
        }
        if fault.is_some() {
            self.make_readable();
        }
        Ok((fault, rest.unwrap_or(message), rest.is_some()))
    }

    #[inline]
    fn push_label(&mut self, name: &[u8], value: &[u8]) -> Result<(), Fault> {
        if self.labels.len() >= self.limits.labels_max {
            return Err(Fault::limit(format!("the series has more than {} labels", self.limits.labels_max)));
        }
        if name.len() > self.limits.name_bytes_max || value.len() > self.limits.value_bytes_max {
            return Err(Fault::limit("a label name or value is too long"));
        }
        match (std::str::from_utf8(name), std::str::from_utf8(value)) {
            (Ok(""), _) => Err(Fault::name("a label name is empty")),
            (Ok(name), Ok(value)) => {
                self.labels.push(name, value);
                Ok(())
            }
            _ => {
                self.labels.push(&String::from_utf8_lossy(name), &String::from_utf8_lossy(value));
                Err(Fault::name("a label is not UTF-8"))
            }
        }
    }

    /// Makes a label set of what can be read of a refused series: the batch needs one, and so does whoever reports it.
    fn make_readable(&mut self) {
        let readable = self.labels.to_labels();
        self.labels = LabelsBuf::from_labels(&readable);
        if self.labels.is_empty() {
            self.labels.push(UNREADABLE, "true");
        }
    }

    fn read_sample(
        &mut self,
        mut message: Message<'_>,
        series: SeriesIndex,
        verdict: Verdict,
    ) -> Result<(), WireError> {
        let (mut value, mut ts_ms) = (0.0, 0);
        while let Some(field) = message.next_field()? {
            match field.number {
                1 => value = field.double()?,
                2 => ts_ms = field.varint()? as i64,
                _ => {}
            }
        }
        self.count_value()?;
        self.stats.samples += 1;
        self.batch.push_decided(series, ts_ms, value, verdict);
        Ok(())
    }

    fn read_histogram(&mut self, mut message: Message<'_>, series: SeriesIndex) -> Result<(), WireError> {
        let mut ts_ms = 0;
        while let Some(field) = message.next_field()? {
            if field.number == 15 {
                ts_ms = field.varint()? as i64;
            }
        }
        self.count_value()?;
        self.stats.histograms += 1;
        self.batch.push_decided(series, ts_ms, f64::NAN, Verdict::Refused(Refusal::InvalidValue));
        Ok(())
    }

    fn count_value(&mut self) -> Result<(), WireError> {
        self.values += 1;
        let max = self.limits.samples_max;
        if self.values > max { Err(WireError::TooManySamples { max }) } else { Ok(()) }
    }

    fn read_exemplar(
        &mut self,
        mut message: Message<'_>,
        series: SeriesIndex,
        verdict: Verdict,
    ) -> Result<(), WireError> {
        let (mut value, mut ts_ms) = (0.0, 0);
        let wanted = verdict == Verdict::Pending && self.stats.exemplars < self.limits.exemplars_max;
        let mut labels = wanted.then(LabelsBuf::default);
        while let Some(field) = message.next_field()? {
            match field.number {
                1 => {
                    let (name, value) = read_label(field)?;
                    labels = labels.and_then(|labels| push_exemplar_label(labels, name, value));
                }
                2 => value = field.double()?,
                3 => ts_ms = field.varint()? as i64,
                _ => {}
            }
        }
        match labels.and_then(sorted_labels) {
            Some(labels) => {
                self.stats.exemplars += 1;
                self.batch.exemplars.push(BatchExemplar { series, labels, ts_ms, value });
            }
            None => self.stats.exemplars_dropped += 1,
        }
        Ok(())
    }

    fn read_family(&mut self, mut message: Message<'_>) -> Result<(), WireError> {
        let (mut metric_type, mut name, mut help, mut unit) = (MetricType::Unknown, &[][..], &[][..], &[][..]);
        while let Some(field) = message.next_field()? {
            match field.number {
                1 => {
                    let number = usize::try_from(field.varint()?).unwrap_or(usize::MAX);
                    metric_type = METRIC_TYPES.get(number).copied().unwrap_or_default();
                }
                2 => name = field.bytes()?,
                4 => help = field.bytes()?,
                5 => unit = field.bytes()?,
                _ => {}
            }
        }
        let texts = [name, help, unit].map(std::str::from_utf8);
        match texts {
            [Ok(name), Ok(help), Ok(unit)] if !name.is_empty() && self.stats.families < self.limits.families_max => {
                self.stats.families += 1;
                let (name, help, unit) = (name.to_owned(), help.to_owned(), unit.to_owned());
                self.batch.families.push(Family { name, metric_type, help, unit });
            }
            _ => self.stats.families_dropped += 1,
        }
        Ok(())
    }
}

/// Reads a `Label`; of a field that stands twice the last counts, as protobuf has it.
#[inline]
fn read_label(field: Field<'_>) -> Result<(&[u8], &[u8]), WireError> {
    let mut message = field.message()?;
    let (mut name, mut value) = (&[][..], &[][..]);
    while let Some(field) = message.next_field()? {
        match field.number {
            1 => name = field.bytes()?,
            2 => value = field.bytes()?,
            _ => {}
        }
    }
    Ok((name, value))
}

fn push_exemplar_label(mut labels: LabelsBuf, name: &[u8], value: &[u8]) -> Option<LabelsBuf> {
    let (name, value) = (std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?);
    if name.is_empty() {
        return None;
    }
    labels.push(name, value);
    Some(labels)
}

fn sorted_labels(mut labels: LabelsBuf) -> Option<Labels> {
    labels.sort().ok()?;
    Some(labels.to_labels())
}
