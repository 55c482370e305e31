//! A request of remote write 2.0 into a batch.
//!
//! Symbols may stand anywhere, so they are gathered first and the series are read in a second walk.

use std::collections::HashMap;

use model::{Batch, LABEL_NAME, LabelsBuf, MetricType, NO_FAMILY, SeriesIndex, Verdict};

use super::intake::{Fault, Intake, push_exemplar_label};
use super::limits::{DecodeStats, Limits};
use super::symbols::Symbols;
use crate::proto::{Field, Message, WireError};

/// Reads an uncompressed `io.prometheus.write.v2.Request` and appends all of it to the batch.
///
/// Start timestamps are read where rc.3 has them (the series) and where rc.4 has them (the sample). The metadata of a series
/// becomes a family, once per family name. A series with bad references or labels keeps its samples, decided as refused; so
/// does a native histogram that does not fit together.
///
/// **Errors** when the bytes are no such message or hold too much; then the batch holds a part: clear it.
/// **Cost** no allocation per label or sample once the batch has grown.
/// **Source** Prometheus Remote-Write 2.0, release candidates 3 and 4.
pub fn decode_v2(body: &[u8], batch: &mut Batch, limits: &Limits) -> Result<DecodeStats, WireError> {
    let mut symbols = Symbols::new(body);
    let mut request = Message::new(body);
    while let Some(field) = request.next_field()? {
        if field.number == 4 {
            symbols.push(field, limits)?;
        }
    }
    let intake = Intake::new(batch, limits);
    let mut decoder = Decoder { intake, symbols, families: HashMap::new(), last_family: None };
    let mut request = Message::new(body);
    while let Some(field) = request.next_field()? {
        if field.number == 5 {
            decoder.read_series(field.message()?)?;
        }
    }
    Ok(decoder.intake.stats)
}

struct Decoder<'a, 'b> {
    intake: Intake<'b>,
    symbols: Symbols<'a>,
    /// Places of families in the batch, by name.
    families: HashMap<&'a [u8], u32>,
    /// What the last series said of its family, and which it was: the next one mostly says the same.
    last_family: Option<(FamilyRefs, u32)>,
}

/// What a series says of its family.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FamilyRefs {
    name: u32,
    metric_type: MetricType,
    help: u32,
    unit: u32,
}

/// What a series message holds besides its samples.
#[derive(Default)]
struct Shape<'a> {
    refs: Option<Field<'a>>,
    refs_fields: usize,
    has_values: bool,
    metadata: Option<Message<'a>>,
    /// rc.3's start time; 0 when not given.
    start_ms: i64,
}

impl<'a> Decoder<'a, '_> {
    fn read_series(&mut self, message: Message<'a>) -> Result<(), WireError> {
        let shape = read_shape(message)?;
        let plain = if shape.has_values && shape.refs_fields == 1 { self.plain_labels(&shape) } else { None };
        let (pushed, name) = match plain {
            Some((series, name)) => {
                self.intake.stats.series += 1;
                (Some((series, Verdict::Pending)), Some(name))
            }
            None => {
                let (fault, name) = self.read_labels(message)?;
                let name = name.filter(|_| fault.is_none());
                (shape.has_values.then(|| self.intake.push_series(fault)), name)
            }
        };
        let family = match (name, shape.metadata) {
            (Some(name), Some(metadata)) => self.read_metadata(metadata, name)?,
            _ => NO_FAMILY,
        };
        if let Some((series, verdict)) = pushed {
            self.intake.batch.series[series.0 as usize].family = family;
            self.intake.spend(self.intake.batch.label_bytes(series).len())?;
            self.read_values(message, series, verdict, shape.start_ms)?;
        }
        self.intake.index += 1;
        Ok(())
    }

    fn plain_labels(&mut self, shape: &Shape<'a>) -> Option<(SeriesIndex, u32)> {
        let refs = shape.refs?.bytes().ok()?;
        let (symbols, labels_max) = (&self.symbols, self.intake.limits.labels_max);
        let mut name = None;
        let series = self.intake.batch.push_encoded(NO_FAMILY, |out| {
            name = symbols.copy_labels(refs, labels_max, out);
            name.is_some()
        });
        series.zip(name)
    }

    /// Reads labels of any shape; gives what is wrong with them and the symbol that is the metric name.
    fn read_labels(&mut self, message: Message<'_>) -> Result<(Option<Fault>, Option<u32>), WireError> {
        self.intake.labels.clear();
        let (intake, symbols) = (&mut self.intake, &self.symbols);
        let mut fault = None;
        let mut metric_name = None;
        let odd = each_pair(message, |name_ref, value_ref| {
            if fault.is_some() && intake.labels.len() >= intake.limits.labels_max {
                return;
            }
            let checked = match (symbols.get(name_ref), symbols.get(value_ref)) {
                (Some(name), Some(value)) => {
                    if name == LABEL_NAME.as_bytes() {
                        metric_name = Some(value_ref);
                    }
                    intake.push_label(name, value)
                }
                _ => Err(Fault::name("a label refers to a symbol that is not there")),
            };
            if fault.is_none() {
                fault = checked.err();
            }
        })?;
        if odd {
            fault = fault.or(Some(Fault::name("the number of label references is odd")));
        }
        let fault = fault.or_else(|| self.intake.check_labels(false).err());
        Ok((fault, metric_name))
    }

    fn read_values(
        &mut self,
        mut message: Message<'a>,
        series: SeriesIndex,
        verdict: Verdict,
        series_start_ms: i64,
    ) -> Result<(), WireError> {
        let mut last_start_ms = 0;
        let mut note_start = |intake: &mut Intake<'_>, start_ms: i64| {
            if start_ms != 0 && start_ms != last_start_ms && verdict == Verdict::Pending {
                intake.batch.start_timestamps.push((series, start_ms));
                last_start_ms = start_ms;
            }
        };
        note_start(&mut self.intake, series_start_ms);
        while let Some(field) = message.next_field()? {
            let start_ms = match field.number {
                2 => self.intake.read_sample(field.message()?, series, verdict)?,
                3 => self.intake.read_histogram(field.message()?, series, verdict)?,
                4 => {
                    self.read_exemplar(field.message()?, series, verdict)?;
                    0
                }
                _ => 0,
            };
            note_start(&mut self.intake, start_ms);
        }
        Ok(())
    }

    fn read_exemplar(&mut self, message: Message<'_>, series: SeriesIndex, verdict: Verdict) -> Result<(), WireError> {
        let (mut value, mut ts_ms) = (0.0, 0);
        let mut fields = message;
        while let Some(field) = fields.next_field()? {
            match field.number {
                2 => value = field.double()?,
                3 => ts_ms = field.varint()? as i64,
                _ => {}
            }
        }
        let mut labels: Option<LabelsBuf> = self.intake.exemplar_labels(verdict);
        let mut bytes = 0;
        let (symbols, room) = (&self.symbols, self.intake.text_room());
        let odd = each_pair(message, |name_ref, value_ref| {
            labels = labels.take().and_then(|labels| {
                let (name, value) = (symbols.get(name_ref)?, symbols.get(value_ref)?);
                bytes += name.len() + value.len();
                if bytes > room { None } else { push_exemplar_label(labels, name, value) }
            });
        })?;
        self.intake.spend(bytes)?;
        self.intake.push_exemplar(series, labels.filter(|_| !odd), ts_ms, value);
        Ok(())
    }

    /// Reads the metadata of a series; gives the place of its family in the batch.
    fn read_metadata(&mut self, mut message: Message<'_>, name: u32) -> Result<u32, WireError> {
        let mut refs = FamilyRefs { name, metric_type: MetricType::Unknown, help: 0, unit: 0 };
        while let Some(field) = message.next_field()? {
            match field.number {
                1 => refs.metric_type = super::metric_type(field.varint()?),
                3 => refs.help = u32::try_from(field.varint()?).unwrap_or(u32::MAX),
                4 => refs.unit = u32::try_from(field.varint()?).unwrap_or(u32::MAX),
                _ => {}
            }
        }
        if refs.metric_type == MetricType::Unknown && refs.help == 0 && refs.unit == 0 {
            return Ok(NO_FAMILY);
        }
        if let Some((_, family)) = self.last_family.filter(|(last, _)| *last == refs) {
            return Ok(family);
        }
        let family = self.push_family(refs)?;
        self.last_family = Some((refs, family));
        Ok(family)
    }

    fn push_family(&mut self, refs: FamilyRefs) -> Result<u32, WireError> {
        let name = family_name(self.symbols.get(refs.name).unwrap_or_default(), refs.metric_type);
        if let Some(family) = self.families.get(name) {
            return Ok(*family);
        }
        // The first symbol is the empty text by definition: reference 0 says "none".
        let text = |number: u32| if number == 0 { Some(&[][..]) } else { self.symbols.get(number) };
        let (Some(help), Some(unit)) = (text(refs.help), text(refs.unit)) else {
            self.intake.stats.families_dropped += 1;
            return Ok(NO_FAMILY);
        };
        self.intake.spend(name.len() + help.len() + unit.len())?;
        let Some(family) = self.intake.push_family(refs.metric_type, name, help, unit) else { return Ok(NO_FAMILY) };
        self.families.insert(name, family);
        Ok(family)
    }
}

#[inline]
fn read_shape(mut message: Message<'_>) -> Result<Shape<'_>, WireError> {
    let mut shape = Shape::default();
    while let Some(field) = message.next_field()? {
        match field.number {
            1 => {
                shape.refs = Some(field);
                shape.refs_fields += 1;
            }
            2..=4 => shape.has_values = true,
            5 => shape.metadata = Some(field.message()?),
            6 => shape.start_ms = field.varint()? as i64,
            _ => {}
        }
    }
    Ok(shape)
}

/// Hands the label references of a series or exemplar to `sink`, two by two; tells whether one is left over.
fn each_pair(mut message: Message<'_>, mut sink: impl FnMut(u32, u32)) -> Result<bool, WireError> {
    let mut first = None;
    while let Some(field) = message.next_field()? {
        if field.number == 1 {
            field.varints(|number| {
                // A number beyond 32 bits refers to nothing, like the largest one within.
                let number = u32::try_from(number).unwrap_or(u32::MAX);
                match first.take() {
                    Some(name) => sink(name, number),
                    None => first = Some(number),
                }
            })?;
        }
    }
    Ok(first.is_some())
}

/// Gives the family's name for the name of one of its series.
fn family_name(series: &[u8], metric_type: MetricType) -> &[u8] {
    let suffixes: &[&[u8]] = match metric_type {
        MetricType::Histogram => &[b"_bucket", b"_sum", b"_count"],
        MetricType::GaugeHistogram => &[b"_bucket", b"_gsum", b"_gcount", b"_sum", b"_count"],
        MetricType::Summary => &[b"_sum", b"_count"],
        _ => &[],
    };
    let stem = suffixes.iter().find_map(|suffix| series.strip_suffix(*suffix));
    stem.filter(|stem| !stem.is_empty()).unwrap_or(series)
}
