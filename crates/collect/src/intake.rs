//! From a body to a batch: finds each line's series in the cache, or reads its labels and asks the rules.
//!
//! Invariants: 1. every sample of the body is in the batch, undecided or with its verdict; 2. a sample that is decided here
//! belongs to the batch's first series, which is always `up`: so no series comes to be for what is not stored.
//! Cost: a known series at its place costs one comparison of text; see `examples/scrape_cost.rs`.

use model::{
    Batch, BatchExemplar, Family, LABEL_NAME, LabelsBuf, MetricType, NO_FAMILY, Refusal, SeriesIndex, TypeCounts,
    Verdict,
};
use wire::points::{PointCounter, Role, role_of};
use wire::{Entry, Format, ParseError, Parser, RawExemplar, openmetrics, series_name};

use crate::cache::{Kind, SeriesCache};
use crate::draft::Draft;
use crate::outcome::{ScrapeError, ScrapeErrorKind};
use crate::rules::{Mapped, map_labels};
use crate::target::{OnExceed, TargetSpec};

/// Families ahead in the last scrape that are compared with the present one.
const FAMILIES_AHEAD: usize = 8;
/// The series that decided samples belong to.
const UP: SeriesIndex = SeriesIndex(0);
const TYPES: usize = 8;

/// Why a body is refused as a whole.
#[derive(Debug)]
pub(crate) enum Failure {
    Syntax(ParseError),
    Rule(ScrapeError),
}

/// What a body held.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taken {
    pub(crate) samples: u64,
    /// Left after relabeling and limits.
    pub(crate) kept: u64,
    pub(crate) series: u64,
    pub(crate) added: u64,
    /// Samples refused by a limit.
    pub(crate) refused: u64,
    pub(crate) series_by_type: [u64; TYPES],
    pub(crate) points: TypeCounts,
}

/// Reads one body.
pub(crate) struct Intake<'a> {
    spec: &'a TargetSpec,
    cache: &'a mut SeriesCache,
    draft: &'a mut Draft,
    batch: &'a mut Batch,
    scrape_ms: i64,
    taken: Taken,
    points: PointCounter,
    /// How many samples of new series, or more samples of known ones, may still come in.
    room: u64,
    /// The family that stands above, by its place in the batch.
    family: u32,
    /// Its place in the last scrape.
    family_before: u32,
    /// Where in the last scrape the next family is expected.
    family_line: usize,
    family_is_settled: bool,
    metric_type: MetricType,
    /// The point that a `_created` line may belong to.
    point: Option<(SeriesIndex, u32)>,
    buf: LabelsBuf,
    encoded: Vec<u8>,
}

impl<'a> Intake<'a> {
    /// Starts. The batch holds the report series already, `up` first.
    pub(crate) fn new(
        spec: &'a TargetSpec,
        cache: &'a mut SeriesCache,
        draft: &'a mut Draft,
        batch: &'a mut Batch,
        scrape_ms: i64,
    ) -> Intake<'a> {
        let keeps = spec.limits.sample > 0 && spec.limits.on_exceed == OnExceed::KeepExisting;
        let room = if keeps { spec.limits.sample.saturating_sub(cache.kept()) } else { u64::MAX };
        let expected = cache.len() + cache.len() / 8 + 16;
        batch.series.reserve(expected);
        batch.samples.reserve(expected);
        batch.verdicts.reserve(expected);
        Intake {
            spec,
            cache,
            draft,
            batch,
            scrape_ms,
            taken: Taken::default(),
            points: PointCounter::default(),
            room,
            family: NO_FAMILY,
            family_before: NO_FAMILY,
            family_line: 0,
            family_is_settled: true,
            metric_type: MetricType::Unknown,
            point: None,
            buf: LabelsBuf::default(),
            encoded: Vec::new(),
        }
    }

    /// Reads the whole body.
    ///
    /// **Gives** what it held, as far as it was read, and why it must be refused, if it must.
    pub(crate) fn run(mut self, format: Format, body: &[u8]) -> (Taken, Option<Failure>) {
        let failure = self.read(format, body).err().or_else(|| self.over_sample_limit());
        self.taken.points = self.points.finish();
        (self.taken, failure)
    }

    fn read(&mut self, format: Format, body: &[u8]) -> Result<(), Failure> {
        let mut parser = Parser::new(format, body);
        self.cache.expect(body.len());
        let mut line = 0;
        loop {
            while let Some((entry, text)) = self.cache.at_line(line)
                && let Some((ts_ms, value)) = parser.next_known(text)
            {
                line += 1;
                self.take(entry, ts_ms, value, false);
            }
            match parser.next() {
                None => return Ok(()),
                Some(entry) => self.take_entry(entry.map_err(Failure::Syntax)?, &parser, &mut line)?,
            }
        }
    }

    fn take_entry(&mut self, entry: Entry<'_>, parser: &Parser<'_>, line: &mut usize) -> Result<(), Failure> {
        match entry {
            Entry::Sample { series, ts_ms, value, exemplar, .. } => {
                let taken = match self.cache.find(series, line) {
                    Some(entry) => Some(self.take(entry, ts_ms, value, false)),
                    None => self.admit(series, ts_ms, value, parser)?,
                };
                if let (Some(exemplar), Some(series)) = (exemplar, taken)
                    && series != UP
                {
                    self.take_exemplar(series, &exemplar, ts_ms);
                }
            }
            Entry::Type { name, metric_type } => {
                self.family_named(name).metric_type = metric_type;
            }
            Entry::Help { name, help } => {
                let family = self.family_named(name);
                family.help.clear();
                family.help.push_str(&help);
            }
            Entry::Unit { name, unit } => {
                let family = self.family_named(name);
                family.unit.clear();
                family.unit.push_str(unit);
            }
            Entry::Comment | Entry::Eof => {}
        }
        Ok(())
    }

    /// Takes one sample of a known series; `fresh` says that its labels stand in `encoded`.
    #[inline]
    fn take(&mut self, entry: u32, ts_ms: Option<i64>, value: f64, fresh: bool) -> SeriesIndex {
        if !self.family_is_settled {
            self.settle_family();
        }
        if self.cache.entry(entry).family != self.family_before || self.family_before != self.family {
            self.find_role(entry);
        }
        let cached = self.cache.entry(entry);
        let (role, kind, created) = (cached.role, cached.kind, cached.created);
        self.points.add(role);
        self.taken.samples += 1;
        let (ts_ms, tracked) = match ts_ms {
            Some(ts_ms) if self.spec.honor_timestamps => (ts_ms, self.spec.track_timestamps_staleness),
            _ => (self.scrape_ms, true),
        };
        let seen = self.draft.series(entry);
        let series = match seen {
            Some(series) => series,
            None => self.first_sample(entry, role, kind, fresh),
        };
        self.draft.see(entry, series, tracked && kind == Kind::Kept);
        match kind {
            Kind::Kept if seen.is_some() && !self.has_room() => self.refuse(ts_ms, value, Refusal::SampleLimit),
            // Cannot be, as the rules are those that kept it; but nothing may ever be written into `up`.
            Kind::Kept if series == UP => self.refuse(ts_ms, value, Refusal::InvalidName),
            Kind::Kept => {
                self.taken.kept += 1;
                self.batch.push_sample(series, ts_ms, value);
                if created {
                    self.take_start(entry, value);
                } else if role == Role::Point {
                    self.point = Some((series, entry));
                }
            }
            Kind::Dropped => self.batch.push_decided(UP, ts_ms, value, Verdict::Filtered),
            Kind::Refused => self.refuse(ts_ms, value, Refusal::LabelLimit),
        }
        series
    }

    /// Gives an entry its place in the batch.
    #[inline]
    fn first_sample(&mut self, entry: u32, role: Role, kind: Kind, fresh: bool) -> SeriesIndex {
        if kind != Kind::Kept {
            return UP;
        }
        let stranger = role == Role::Stranger;
        let family = if stranger { NO_FAMILY } else { self.family };
        let metric_type = if stranger { MetricType::Unknown } else { self.metric_type };
        self.taken.series += 1;
        self.taken.series_by_type[metric_type as usize % TYPES] += 1;
        if fresh {
            let encoded = &self.encoded;
            let pushed = self.batch.push_encoded(family, |arena| {
                arena.extend_from_slice(encoded);
                true
            });
            return pushed.unwrap_or(UP);
        }
        // The text was read without fault before and the rules are the same, so that there is always a series.
        self.cache.push_series(entry, family, self.batch, &mut self.buf).unwrap_or(UP)
    }

    fn has_room(&mut self) -> bool {
        let has = self.room > 0;
        self.room = self.room.saturating_sub(1);
        has
    }

    fn refuse(&mut self, ts_ms: i64, value: f64, why: Refusal) {
        self.taken.refused += 1;
        self.batch.push_decided(UP, ts_ms, value, Verdict::Refused(why));
    }

    /// Takes a sample of a series that the cache does not know.
    fn admit(
        &mut self,
        series: &str,
        ts_ms: Option<i64>,
        value: f64,
        parser: &Parser<'_>,
    ) -> Result<Option<SeriesIndex>, Failure> {
        self.buf.clear();
        parser.labels(&mut self.buf).map_err(Failure::Syntax)?;
        if self.buf.get(LABEL_NAME).unwrap_or("").is_empty() {
            return Err(Failure::Syntax(parser.fault("the metric name is empty")));
        }
        let mapped =
            map_labels(self.spec, &mut self.buf).map_err(|twice| Failure::Syntax(parser.fault(twice.to_string())))?;
        let kind = match mapped {
            Mapped::Kept => Kind::Kept,
            Mapped::Dropped => Kind::Dropped,
            Mapped::OverLimit(text) if self.spec.limits.on_exceed == OnExceed::Fail => {
                return Err(Failure::Rule(ScrapeError::new(ScrapeErrorKind::LabelLimit, text)));
            }
            Mapped::OverLimit(_) => Kind::Refused,
            Mapped::Invalid(text) => return Err(Failure::Rule(ScrapeError::new(ScrapeErrorKind::Parse, text))),
        };
        if kind == Kind::Kept && !self.has_room() {
            self.taken.samples += 1;
            self.refuse(ts_ms.unwrap_or(self.scrape_ms), value, Refusal::SampleLimit);
            return Ok(None);
        }
        let mut fingerprint = 0;
        if kind == Kind::Kept {
            self.encoded.clear();
            self.buf.encode_into(&mut self.encoded);
            fingerprint = xxhash_rust::xxh3::xxh3_64(&self.encoded);
            self.taken.added += 1;
        }
        let entry = self.cache.add(self.draft, series, kind, fingerprint, parser.metric_type());
        Ok(Some(self.take(entry, ts_ms, value, kind == Kind::Kept)))
    }

    fn over_sample_limit(&self) -> Option<Failure> {
        let limits = &self.spec.limits;
        let over = limits.on_exceed == OnExceed::Fail && limits.sample > 0 && self.taken.kept > limits.sample;
        over.then(|| Failure::Rule(ScrapeError::new(ScrapeErrorKind::SampleLimit, "sample limit exceeded")))
    }

    fn take_exemplar(&mut self, series: SeriesIndex, exemplar: &RawExemplar<'_>, ts_ms: Option<i64>) {
        self.buf.clear();
        exemplar.read_labels(&mut self.buf);
        let ts_ms = exemplar.ts_ms.or(ts_ms).unwrap_or(self.scrape_ms);
        let labels = self.buf.to_labels();
        self.batch.exemplars.push(BatchExemplar { series, labels, ts_ms, value: exemplar.value });
    }

    /// Gives the point before a `_created` line its start, if both have the same labels.
    fn take_start(&mut self, entry: u32, value: f64) {
        let Some((point, point_entry)) = self.point else { return };
        let (created, point_text) = (self.cache.text(entry), self.cache.text(point_entry));
        let braces = |text: &str| text.len() - text.find('{').unwrap_or(text.len());
        let same = created[created.len() - braces(created)..] == point_text[point_text.len() - braces(point_text)..];
        if let (true, Some(start_ms)) = (same, openmetrics::created_ms(value)) {
            self.batch.start_timestamps.push((point, start_ms));
        }
    }

    /// Gives the family of a metadata line: the one that is open, or a new one.
    fn family_named(&mut self, name: &str) -> &mut Family {
        let families = &mut self.batch.families;
        if families.get(self.family as usize).is_none_or(|open| open.name != name) {
            self.family = families.len() as u32;
            families.push(Family { name: name.to_owned(), ..Family::default() });
        }
        self.family_is_settled = false;
        &mut families[self.family as usize]
    }

    /// The metadata of a family is complete when its first sample comes: looks for it in the last scrape.
    #[cold]
    fn settle_family(&mut self) {
        self.family_is_settled = true;
        self.point = None;
        let Some(open) = self.batch.families.get(self.family as usize) else { return };
        self.metric_type = open.metric_type;
        self.points.start_family(open.metric_type);
        let ahead = self.cache.families.iter().skip(self.family_line).take(FAMILIES_AHEAD);
        let found =
            ahead.zip(self.family_line..).find(|(f, _)| f.name == open.name && f.metric_type == open.metric_type);
        self.family_before = match found {
            Some((_, at)) => {
                self.family_line = at + 1;
                at as u32
            }
            // No entry has it, so that every role is found anew.
            None => NO_FAMILY - 2,
        };
    }

    /// Finds what an entry is to the family above it.
    #[cold]
    fn find_role(&mut self, entry: u32) {
        let text = self.cache.text(entry);
        let name = series_name(text);
        let (mut role, mut created) = (Role::Stranger, false);
        if let Some(open) = self.batch.families.get(self.family as usize) {
            role = role_of(open.metric_type, &open.name, text, name);
            created = openmetrics::is_created_of(name, &open.name, open.metric_type);
        }
        let family = self.family;
        let cached = self.cache.entry_mut(entry);
        (cached.role, cached.created, cached.family) = (role, created, family);
    }
}
