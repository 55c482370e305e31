//! From a body to a batch: finds each sample's series in the cache, or reads its labels and asks the rules.
//!
//! Invariants: 1. every sample of the body is in the batch, undecided or with its verdict, a native histogram that is decided
//! here as a sample without a number; 2. a sample that is decided here
//! belongs to the batch's first series, which is always `up`, or to one that has no other samples: so no series comes to be for
//! what is not stored.
//! Cost: a known series at its place costs one comparison of its key; see `examples/scrape_cost.rs`.

mod collide;
mod family;
mod room;
mod sums;

use std::sync::Arc;

use model::filter::Acts;
use model::histogram::Histogram;
use model::{
    Batch, BatchExemplar, LABEL_NAME, LabelsBuf, MetricType, NO_FAMILY, Refusal, SeriesIndex, TypeCounts, Verdict,
};
use wire::points::{PointCounter, Role};
use wire::protobuf::ProtobufParser;
use wire::scrape::{Item, Reading, Value};
use wire::{BodyParser, Format, ParseError};

use crate::cache::{Kind, SeriesCache};
use crate::draft::Draft;
use crate::outcome::{ScrapeError, ScrapeErrorKind};
use crate::rules::{Mapped, map_labels_noting};
use crate::target::{OnExceed, TargetSpec};
use collide::Collisions;
use room::Room;

/// The series that decided samples belong to.
const UP: SeriesIndex = SeriesIndex(0);
const TYPES: usize = 8;
/// Memory that the native histograms of one body may take: a few bytes of the body can make hundreds.
const HISTOGRAM_BYTES_MAX: usize = 256 << 20;
/// Samples of one body: a few bytes make one of 25, and more would not fit into a record of the log anyway.
const SAMPLES_MAX: u64 = 4_000_000;
/// Bytes of a family's help and unit that are kept.
const WORDS_BYTES_MAX: usize = 4 << 10;
/// Exemplars taken of one body.
const EXEMPLARS_MAX: usize = 1 << 17;

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
    /// Samples refused: by a limit, or as histograms that do not fit together.
    pub(crate) refused: u64,
    pub(crate) series_by_type: [u64; TYPES],
    pub(crate) points: TypeCounts,
}

/// Where a sample belongs.
struct Placed {
    series: SeriesIndex,
    ts_ms: i64,
    /// Pending if the sample is to be stored.
    verdict: Verdict,
    /// Its value is the start time of the point before.
    created: bool,
}

/// Gives the beginning of a text that is kept for every family, by every scrape, in memory.
fn shortened(text: &str) -> &str {
    let mut end = text.len().min(WORDS_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
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
    /// For samples of new series, and more samples of known ones.
    room: Room,
    /// For series that filters made the same as others.
    collisions: Collisions,
    /// The families of the sums that have samples, in order.
    sum_families: Vec<u32>,
    /// The family that stands above, by its place in the batch.
    family: u32,
    /// Its place in the last scrape.
    family_before: u32,
    /// Where in the last scrape the next family is expected.
    family_line: usize,
    family_is_settled: bool,
    /// Families that had no sample.
    idle_families: u32,
    metric_type: MetricType,
    /// The point that a `_created` line may belong to.
    point: Option<(SeriesIndex, u32)>,
    /// Memory taken by native histograms so far.
    histogram_bytes: usize,
    buf: LabelsBuf,
    /// The labels of the series read last before the filters, where these may change them.
    unfiltered: LabelsBuf,
    /// The filters that acted on it.
    acts: Acts,
    encoded: Vec<u8>,
    key: Vec<u8>,
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
        let left = keeps.then(|| spec.limits.sample.saturating_sub(cache.kept()));
        let expected = cache.len() + cache.len() / 8 + 16;
        if let Some(sums) = &cache.sums {
            sums.lock().next_step(scrape_ms);
        }
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
            room: Room::new(left),
            collisions: Collisions::default(),
            sum_families: Vec::new(),
            family: NO_FAMILY,
            family_before: NO_FAMILY,
            family_line: 0,
            family_is_settled: true,
            idle_families: 0,
            metric_type: MetricType::Unknown,
            point: None,
            histogram_bytes: 0,
            buf: LabelsBuf::default(),
            unfiltered: LabelsBuf::default(),
            acts: Acts::default(),
            encoded: Vec::new(),
            key: Vec::new(),
        }
    }

    /// Reads the whole body.
    ///
    /// **Gives** what it held, as far as it was read, and why it must be refused, if it must.
    pub(crate) fn run(mut self, format: Format, body: &[u8]) -> (Taken, Option<Failure>) {
        let mut parser = match format {
            Format::Text | Format::OpenMetrics => BodyParser::new(format, body, false),
            Format::Protobuf => {
                let parser = ProtobufParser::new(body).with_native(self.spec.native_histograms);
                BodyParser::Protobuf(Box::new(parser.with_classic(self.spec.always_classic_histograms)))
            }
        };
        self.cache.expect(body.len());
        let mut failure = self.read(&mut parser).err();
        if failure.is_none() {
            self.settle_collisions();
            self.finish_sums();
            failure = self.over_limit();
        }
        self.taken.points = self.points.finish();
        (self.taken, failure)
    }

    fn read(&mut self, parser: &mut BodyParser<'_>) -> Result<(), Failure> {
        let mut line = 0;
        loop {
            while let Some((entry, key)) = self.cache.at_line(line)
                && let Some(reading) = parser.next_known(key)
            {
                line += 1;
                self.take(entry, reading, parser, false);
            }
            if self.taken.samples > SAMPLES_MAX {
                let text = format!("more than {SAMPLES_MAX} samples");
                return Err(Failure::Rule(ScrapeError::new(ScrapeErrorKind::BodyTooLarge, text)));
            }
            let Some(item) = parser.next() else { return Ok(()) };
            let (known, reading) = match item.map_err(Failure::Syntax)? {
                Item::Sample { key, reading } => {
                    let known = self.cache.find(key, &mut line);
                    if known.is_none() {
                        self.key.clear();
                        self.key.extend_from_slice(key);
                    }
                    (known, reading)
                }
                metadata => {
                    self.take_metadata(metadata);
                    continue;
                }
            };
            let series = match known {
                Some(entry) => self.take(entry, reading, parser, false),
                None => self.admit(reading, parser)?,
            };
            if series != UP {
                self.take_exemplars(series, reading.ts_ms, parser);
            }
        }
    }

    fn take_metadata(&mut self, item: Item<'_>) {
        match item {
            Item::Type { name, metric_type } => self.family_named(name).metric_type = metric_type,
            Item::Help { name, help } => {
                let family = self.family_named(name);
                family.help.clear();
                family.help.push_str(shortened(&help));
            }
            Item::Unit { name, unit } => {
                let family = self.family_named(name);
                family.unit.clear();
                family.unit.push_str(shortened(unit));
            }
            Item::Sample { .. } | Item::Nothing => {}
        }
    }

    /// Takes the sample that the parser gave last, of a known series; `fresh` says that its labels stand in `encoded`.
    #[inline]
    fn take(&mut self, entry: u32, reading: Reading, parser: &BodyParser<'_>, fresh: bool) -> SeriesIndex {
        match reading.value {
            Value::Float(value) => self.take_float(entry, &reading, value, fresh),
            Value::Histogram => self.take_native(entry, &reading, parser),
        }
    }

    #[inline]
    fn take_float(&mut self, entry: u32, reading: &Reading, value: f64, fresh: bool) -> SeriesIndex {
        let placed = self.place(entry, reading, fresh);
        if placed.verdict != Verdict::Pending {
            if self.cache.entry(entry).kind == Kind::Aggregated {
                self.add_up(entry, placed.ts_ms, value);
            } else {
                self.decide(placed.ts_ms, value, placed.verdict);
            }
            return placed.series;
        }
        self.batch.push_sample(placed.series, placed.ts_ms, value);
        if placed.created {
            self.take_start(entry, value);
        }
        placed.series
    }

    /// Takes a native histogram of a known series.
    fn take_native(&mut self, entry: u32, reading: &Reading, parser: &BodyParser<'_>) -> SeriesIndex {
        if !matches!(self.cache.entry(entry).kind, Kind::Kept | Kind::Aggregated) {
            // What is not kept need not be read.
            return self.take_float(entry, reading, f64::NAN, false);
        }
        match self.read_histogram(reading, parser) {
            Some(histogram) => self.take_histogram(entry, reading, histogram, false),
            None => UP,
        }
    }

    fn take_histogram(&mut self, entry: u32, reading: &Reading, histogram: Histogram, fresh: bool) -> SeriesIndex {
        let placed = self.place(entry, reading, fresh);
        if placed.verdict == Verdict::Pending {
            self.batch.push_histogram(placed.series, placed.ts_ms, Arc::new(histogram));
        } else if self.cache.entry(entry).kind == Kind::Aggregated {
            self.add_up_histogram(entry, placed.ts_ms, histogram);
        } else {
            self.decide(placed.ts_ms, f64::NAN, placed.verdict);
        }
        placed.series
    }

    /// Reads a native histogram; one that does not fit together is refused alone, and its series counts as not seen.
    fn read_histogram(&mut self, reading: &Reading, parser: &BodyParser<'_>) -> Option<Histogram> {
        if self.histogram_bytes > HISTOGRAM_BYTES_MAX {
            return None;
        }
        match parser.histogram() {
            Ok(histogram) => {
                self.histogram_bytes += memory_of(&histogram);
                Some(histogram)
            }
            Err(text) => {
                tracing::debug!(target_id = self.spec.target_id, error = text, "a native histogram is refused");
                if !self.family_is_settled {
                    self.settle_family();
                }
                self.points.add(reading.role.unwrap_or(Role::Point));
                self.taken.samples += 1;
                let (ts_ms, _) = self.time_of(reading);
                self.decide(ts_ms, f64::NAN, Verdict::Refused(Refusal::InvalidValue));
                None
            }
        }
    }

    /// Gives the time that a sample is stored under, and whether its end is to be marked.
    #[inline]
    fn time_of(&self, reading: &Reading) -> (i64, bool) {
        match reading.ts_ms {
            Some(ts_ms) if self.spec.honor_timestamps => (ts_ms, self.spec.track_timestamps_staleness),
            _ => (self.scrape_ms, true),
        }
    }

    /// Counts a sample of a known series and gives it its place.
    #[inline]
    fn place(&mut self, entry: u32, reading: &Reading, fresh: bool) -> Placed {
        if !self.family_is_settled {
            self.settle_family();
        }
        if reading.role.is_none()
            && (self.cache.entry(entry).family != self.family_before || self.family_before != self.family)
        {
            self.find_role(entry);
        }
        let cached = self.cache.entry(entry);
        let (role, kind, created) = (reading.role.unwrap_or(cached.role), cached.kind, cached.created);
        self.points.add(role);
        self.taken.samples += 1;
        let (ts_ms, tracked) = self.time_of(reading);
        let seen = self.draft.series(entry);
        if kind == Kind::Kept && seen.is_none() && !fresh && self.is_withdrawn(entry) {
            return Placed { series: UP, ts_ms, verdict: Verdict::Refused(Refusal::SampleLimit), created };
        }
        let series = match seen {
            Some(series) => series,
            None => self.first_sample(entry, role, kind, fresh),
        };
        self.draft.see(entry, series, tracked && kind == Kind::Kept);
        let verdict = match kind {
            Kind::Kept if seen.is_some() && !self.has_room() => Verdict::Refused(Refusal::SampleLimit),
            // Cannot be, as the rules are those that kept it; but nothing may ever be written into `up`.
            Kind::Kept if series == UP => Verdict::Refused(Refusal::InvalidName),
            Kind::Kept => {
                self.taken.kept += 1;
                if let Some(start_ms) = reading.start_ms {
                    self.batch.start_timestamps.push((series, start_ms));
                }
                if role == Role::Point && !created {
                    self.point = Some((series, entry));
                }
                Verdict::Pending
            }
            Kind::Dropped | Kind::Aggregated => Verdict::Filtered,
            Kind::Refused => Verdict::Refused(Refusal::LabelLimit),
        };
        Placed { series, ts_ms, verdict, created }
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

    /// Counts a sample that is not stored.
    fn decide(&mut self, ts_ms: i64, value: f64, verdict: Verdict) {
        self.taken.refused += u64::from(matches!(verdict, Verdict::Refused(_)));
        self.batch.push_decided(UP, ts_ms, value, verdict);
    }

    /// Takes a sample of a series that the cache does not know; its key stands in `key`.
    fn admit(&mut self, reading: Reading, parser: &BodyParser<'_>) -> Result<SeriesIndex, Failure> {
        let (kind, judged) = self.read_labels(&reading, parser)?;
        let histogram = match reading.value {
            Value::Histogram if matches!(kind, Kind::Kept | Kind::Aggregated) => {
                match self.read_histogram(&reading, parser) {
                    None => return Ok(UP),
                    histogram => histogram,
                }
            }
            _ => None,
        };
        let value = if let Value::Float(value) = reading.value { value } else { f64::NAN };
        let mut fingerprint = 0;
        if kind == Kind::Kept {
            self.encoded.clear();
            self.buf.encode_into(&mut self.encoded);
            fingerprint = xxhash_rust::xxh3::xxh3_64(&self.encoded);
        }
        let refusal = match kind {
            Kind::Kept if self.collides(fingerprint) => Some(Refusal::LabelCollision),
            Kind::Kept if !self.has_room_for_new() => Some(Refusal::SampleLimit),
            Kind::Aggregated => match self.child(judged, histogram.is_some()) {
                Ok(child) => {
                    fingerprint = u64::from(child.0);
                    None
                }
                Err(reason) => Some(reason),
            },
            _ => None,
        };
        if let Some(reason) = refusal {
            self.taken.samples += 1;
            let (ts_ms, _) = self.time_of(&reading);
            self.decide(ts_ms, value, Verdict::Refused(reason));
            return Ok(UP);
        }
        self.taken.added += u64::from(kind == Kind::Kept);
        let entry = self.cache.add(self.draft, &self.key, kind, fingerprint, parser.metric_type());
        let acts = self.cache.acts_number(self.acts);
        let cached = self.cache.entry_mut(entry);
        (cached.judged, cached.acts) = (judged, acts);
        self.note_stored_as(entry, fingerprint, kind);
        let fresh = kind == Kind::Kept;
        if fresh {
            self.note_fresh(entry);
        }
        Ok(match histogram {
            Some(histogram) => self.take_histogram(entry, &reading, histogram, fresh),
            None => self.take_float(entry, &reading, value, fresh),
        })
    }

    /// Reads the labels of the sample given last into `buf` and asks the rules.
    fn read_labels(&mut self, reading: &Reading, parser: &BodyParser<'_>) -> Result<(Kind, MetricType), Failure> {
        self.buf.clear();
        parser.labels(&mut self.buf).map_err(Failure::Syntax)?;
        if self.buf.get(LABEL_NAME).unwrap_or("").is_empty() {
            return Err(Failure::Syntax(parser.fault("the metric name is empty")));
        }
        let judged = if self.spec.filters.asks_types() { self.type_of(reading) } else { parser.metric_type() };
        let unfiltered = self.spec.filters.transforms().then_some(&mut self.unfiltered);
        self.acts = Acts::default();
        let mapped = map_labels_noting(self.spec, judged, &mut self.buf, unfiltered, &mut self.acts)
            .map_err(|twice| Failure::Syntax(parser.fault(twice.to_string())))?;
        let kind = match mapped {
            Mapped::Kept => Ok(Kind::Kept),
            Mapped::Aggregated(filter) => {
                self.collisions.aggregate = filter;
                Ok(Kind::Aggregated)
            }
            Mapped::Dropped => Ok(Kind::Dropped),
            Mapped::OverLimit(text) if self.spec.limits.on_exceed == OnExceed::Fail => {
                Err(Failure::Rule(ScrapeError::new(ScrapeErrorKind::LabelLimit, text)))
            }
            Mapped::OverLimit(_) => Ok(Kind::Refused),
            Mapped::Invalid(text) => Err(Failure::Rule(ScrapeError::new(ScrapeErrorKind::Parse, text))),
        };
        kind.map(|kind| (kind, judged))
    }

    /// Looks at the limits that a body can only break as a whole.
    fn over_limit(&self) -> Option<Failure> {
        let limits = &self.spec.limits;
        let error = if limits.on_exceed == OnExceed::Fail && limits.sample > 0 && self.taken.kept > limits.sample {
            ScrapeError::new(ScrapeErrorKind::SampleLimit, "sample limit exceeded")
        } else if self.histogram_bytes > HISTOGRAM_BYTES_MAX {
            let text = format!("the native histograms take more than {HISTOGRAM_BYTES_MAX} bytes of memory");
            ScrapeError::new(ScrapeErrorKind::BodyTooLarge, text)
        } else {
            return None;
        };
        Some(Failure::Rule(error))
    }

    /// Takes the exemplars of the sample given last; more than a body can sensibly have are left out.
    #[inline]
    fn take_exemplars(&mut self, series: SeriesIndex, ts_ms: Option<i64>, parser: &BodyParser<'_>) {
        let at_ms = ts_ms.unwrap_or(self.scrape_ms);
        let exemplars = &mut self.batch.exemplars;
        parser.exemplars(|labels, value, ts_ms| {
            if exemplars.len() < EXEMPLARS_MAX {
                let (labels, ts_ms) = (labels.to_labels(), ts_ms.unwrap_or(at_ms));
                exemplars.push(BatchExemplar { series, labels, ts_ms, value });
            }
        });
    }
}

/// Gives the memory that a histogram takes, roughly.
fn memory_of(histogram: &Histogram) -> usize {
    let spans = histogram.positive_spans.len() + histogram.negative_spans.len();
    let counts = histogram.positive.len() + histogram.negative.len() + histogram.custom_bounds.len();
    size_of::<Histogram>() + 8 * (spans + counts)
}
