//! A write request of remote write 1.0 into a batch.

use model::{Batch, LabelsBuf, MetricType, NO_FAMILY, NoRecall, Recall, SeriesIndex, Verdict};

use super::intake::{Fault, Intake, push_exemplar_label};
use super::limits::{DecodeStats, Limits};
use super::plain;
use crate::proto::{Field, Message, WireError};

/// Reads an uncompressed `prometheus.WriteRequest` and appends all of it to the batch.
///
/// Labels may come in any order. A series whose labels are not valid keeps its samples, decided as refused, and so does a
/// native histogram that does not fit together: one bad series or histogram never costs another. A stale histogram becomes a
/// stale marker. Fields that are not known are jumped over.
///
/// **Errors** when the bytes are no such message or hold too much; then the batch holds a part: clear it.
/// **Cost** no allocation per label or sample once the batch has grown.
/// **Source** Prometheus Remote-Write 1.0.
pub fn decode_v1(body: &[u8], batch: &mut Batch, limits: &Limits) -> Result<DecodeStats, WireError> {
    decode_v1_recalling(body, batch, limits, &mut NoRecall)
}

/// [`decode_v1`] for a sender whose series may be known: labels that are written as they were last time are not read.
///
/// **Takes** what knows them, with the batch begun. A series that is known has no labels in the batch, but its id.
pub fn decode_v1_recalling<R: Recall + ?Sized>(
    body: &[u8],
    batch: &mut Batch,
    limits: &Limits,
    recall: &mut R,
) -> Result<DecodeStats, WireError> {
    let mut decoder = Decoder { intake: Intake::new(batch, limits), recall };
    let mut request = Message::new(body);
    while let Some(field) = request.next_field()? {
        match field.number {
            1 => decoder.read_series(field.message()?)?,
            3 => decoder.read_family(field.message()?)?,
            _ => {}
        }
    }
    Ok(decoder.intake.stats)
}

struct Decoder<'b, R: ?Sized> {
    intake: Intake<'b>,
    recall: &'b mut R,
}

impl<R: Recall + ?Sized> Decoder<'_, R> {
    /// Labels may come after samples, so the labels are read first and the rest in a second walk from where they ended.
    fn read_series(&mut self, message: Message<'_>) -> Result<(), WireError> {
        let written = plain::written_labels(message.rest());
        let rest = message.after(written.len());
        let lone = plain::lone_sample(rest.rest());
        let values = lone.is_some() || plain::has_only_values(rest);
        let known = if values { self.recall.by_written(written) } else { None };
        if let Some(id) = known {
            let series = self.intake.batch.push_known(id, NO_FAMILY);
            self.read_plain_values(rest, lone, series)?;
        } else if values && let Some(series) = self.read_plain_labels(written) {
            self.read_plain_values(rest, lone, series)?;
        } else {
            let (fault, rest, has_values) = self.read_labels(message)?;
            if has_values {
                let (series, verdict) = self.intake.push_series(fault);
                self.read_values(rest, series, verdict)?;
            }
        }
        self.intake.index += 1;
        Ok(())
    }

    fn read_plain_values(
        &mut self,
        rest: Message<'_>,
        lone: Option<(i64, f64)>,
        series: SeriesIndex,
    ) -> Result<(), WireError> {
        self.intake.stats.series += 1;
        match lone {
            Some((ts_ms, value)) => self.intake.push_sample(series, ts_ms, value, Verdict::Pending),
            None => self.read_values(rest, series, Verdict::Pending),
        }
    }

    fn read_values(&mut self, mut rest: Message<'_>, series: SeriesIndex, verdict: Verdict) -> Result<(), WireError> {
        while let Some(field) = rest.next_field()? {
            match field.number {
                // The start times that the readers give are of 2.0 only.
                2 => drop(self.intake.read_sample(field.message()?, series, verdict)?),
                3 => self.read_exemplar(field.message()?, series, verdict)?,
                4 => drop(self.intake.read_histogram(field.message()?, series, verdict)?),
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads the labels in the shape that nearly all senders write: first in the message, short, sorted, ASCII, valid.
    fn read_plain_labels(&mut self, written: &[u8]) -> Option<SeriesIndex> {
        let limits = self.intake.limits;
        let series = self.intake.batch.push_encoded(NO_FAMILY, |out| plain::copy_labels(written, limits, out))?;
        if let Some(id) = self.recall.by_labels(self.intake.batch.label_bytes(series)) {
            self.intake.batch.set_id(series, id);
        }
        Some(series)
    }

    /// Reads the labels; gives what is wrong with them, the fields from the first other one on, and whether there are any
    /// samples, exemplars or histograms.
    fn read_labels<'m>(&mut self, mut message: Message<'m>) -> Result<(Option<Fault>, Message<'m>, bool), WireError> {
        self.intake.labels.clear();
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
            if fault.is_none() || self.intake.labels.len() < self.intake.limits.labels_max {
                let checked = self.intake.push_label(name, value);
                fault = fault.or(checked.err());
            }
        }
        let fault = fault.or_else(|| self.intake.check_labels(sorted).err());
        Ok((fault, rest.unwrap_or(message), rest.is_some()))
    }

    fn read_exemplar(
        &mut self,
        mut message: Message<'_>,
        series: SeriesIndex,
        verdict: Verdict,
    ) -> Result<(), WireError> {
        let (mut value, mut ts_ms) = (0.0, 0);
        let mut labels: Option<LabelsBuf> = self.intake.exemplar_labels(verdict);
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
        self.intake.push_exemplar(series, labels, ts_ms, value);
        Ok(())
    }

    fn read_family(&mut self, mut message: Message<'_>) -> Result<(), WireError> {
        let (mut metric_type, mut name, mut help, mut unit) = (MetricType::Unknown, &[][..], &[][..], &[][..]);
        while let Some(field) = message.next_field()? {
            match field.number {
                1 => metric_type = super::metric_type(field.varint()?),
                2 => name = field.bytes()?,
                4 => help = field.bytes()?,
                5 => unit = field.bytes()?,
                _ => {}
            }
        }
        self.intake.push_family(metric_type, name, help, unit);
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
