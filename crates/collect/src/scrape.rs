//! One scrape of one target, from the request to the store's answer.
//!
//! Invariants: 1. whoever scrapes holds the target's scraper; 2. a scrape is one batch: samples, stale markers, report series
//! and the report together; 3. the cache moves on only when the store has taken the batch; 4. a scrape that was cancelled
//! writes nothing.
//! Limits: [`crate::gates`].

use std::sync::Arc;
use std::time::Duration;

use model::{
    Append, AppendError, Appended, Batch, CollectionMethod, CollectionReport, Health, LedgerPosition, MetricType,
    Origin, Refusal, ScrapeSlot, SlotOutcome, Verdict,
};
use sys::Clock;
use sys::spans::{self, Kind, Span};
use tokio::sync::{OwnedMutexGuard, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wire::Format;

use crate::draft::Draft;
use crate::gates::Gates;
use crate::gather::Gather;
use crate::http::{Fetch, FetchTrace, Fetched, body_limit, format_of, inflate};
use crate::intake::{Failure, Intake, Taken};
use crate::outcome::{LabelCardinality, Observe, ScrapeError, ScrapeErrorKind, ScrapeOutcome};
use crate::report::{BatchIds, event_id};
use crate::report_series::{Facts, ReportSeries};
use crate::schedule::{Tick, follow_drift, snap};
use crate::slot::{Scraper, Slot};
use crate::spare::Spare;
use crate::sums::Sums;
use crate::target::TargetSpec;

/// Labels listed by their number of values.
const TOP_LABELS: usize = 10;
/// Past this part of its timeout a scrape is slow.
const SLOW_PERCENT: u64 = 80;
/// A scrape this soon after another gets the next free millisecond.
const CLOSE_MS: i64 = 1_000;
/// A body up to this size, of a target whose series are known, is read on the thread that fetched it: it takes less than
/// waking another thread twice.
const INLINE_BYTES_MAX: usize = 512 << 10;
/// Taking over what a scrape saw is done off the async threads from this many series on.
const COMMIT_INLINE_MAX: usize = 20_000;

/// What all scrapes share.
pub(crate) struct Shop {
    pub(crate) append: Arc<dyn Append>,
    pub(crate) observer: Arc<dyn Observe>,
    pub(crate) ids: Arc<BatchIds>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) gates: Gates,
    pub(crate) spare: Spare,
    pub(crate) sums: Arc<Sums>,
    /// Ends every running scrape.
    pub(crate) abort: CancellationToken,
}

/// Why a scrape runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Occasion {
    /// It is time.
    Tick(Tick),
    /// Somebody wants to know.
    Asked,
}

/// What one scrape works with.
struct Run {
    shop: Arc<Shop>,
    spec: Arc<TargetSpec>,
    started: Instant,
    /// When the last byte of the body was there, or the fetch failed.
    fetched_at: Instant,
    asked: bool,
    /// Nothing is stored: what filters add up begins anew.
    dry: bool,
    /// The place in the schedule, for a scrape that has one.
    place: Option<ScrapeSlot>,
    outcome: ScrapeOutcome,
    /// Where in which trace it is.
    span: Option<spans::Context>,
}

/// A batch that is ready, and what it means for the cache.
struct Built {
    batch: Batch,
    draft: Draft,
    outcome: ScrapeOutcome,
}

type Answer = (Batch, Result<Appended, AppendError>);
type Scraping = OwnedMutexGuard<Scraper>;

/// Scrapes a target as a normal collection.
///
/// **Gives** `None` when the target is switched off or gone.
pub(crate) async fn collect(
    shop: Arc<Shop>,
    slot: Arc<Slot>,
    mut scraping: Scraping,
    occasion: Occasion,
) -> Option<ScrapeOutcome> {
    let (spec, cancel) = {
        let shared = slot.shared.lock();
        if !shared.is_active() {
            return None;
        }
        (shared.spec.clone(), shared.cancel.clone())
    };
    let memory = shop.gates.memory_for(scraping.body_bytes);
    let _memory = tokio::select! {
        memory = memory => memory.ok()?,
        () = cancel.cancelled() => return Some(cancelled(ScrapeOutcome::default())),
        () = shop.abort.cancelled() => return Some(cancelled(ScrapeOutcome::default())),
    };
    scraping.follow(&spec);
    let started = Instant::now();
    let (scrape_ms, place) = scrape_time(&shop, &slot, &mut scraping, occasion);
    let asked = matches!(occasion, Occasion::Asked);
    let outcome = ScrapeOutcome { scrape_ms, ..ScrapeOutcome::default() };
    let mut span = Span::root("scrape", Kind::Client);
    note_target(&mut span, &spec);
    let context = span.context();
    let mut run = Run {
        shop: shop.clone(),
        spec,
        started,
        fetched_at: started,
        asked,
        dry: false,
        place,
        outcome,
        span: context,
    };
    let fetched = tokio::select! {
        fetched = run.fetch(&mut scraping) => fetched,
        () = cancel.cancelled() => return Some(cancelled(run.outcome)),
        () = shop.abort.cancelled() => return Some(cancelled(run.outcome)),
    };
    let outcome = run.outcome.clone();
    let outcome = run.store(&slot, scraping, fetched).await.unwrap_or_else(|| cancelled(outcome));
    note_outcome(&mut span, &outcome);
    Some(outcome)
}

fn note_target(span: &mut Span, spec: &TargetSpec) {
    if span.context().is_some() {
        span.note("quiver.target_id", spec.target_id.as_str());
        span.note("quiver.source_id", spec.source_id.as_str());
        span.note("server.address", spec.url.host_str().unwrap_or(""));
        span.note("url.path", spec.url.path());
    }
}

fn note_outcome(span: &mut Span, outcome: &ScrapeOutcome) {
    if span.context().is_none() {
        return;
    }
    if let Some(status) = outcome.http_status {
        span.note("http.response.status_code", u64::from(status));
    }
    for (key, n) in [
        ("quiver.samples", outcome.samples),
        ("quiver.wait_ms", outcome.scrape_wait_ms),
        ("quiver.ingest_ms", outcome.scrape_ingest_ms),
    ] {
        span.note(key, n);
    }
    if let Some(error) = &outcome.error {
        span.note("error.type", error.kind.as_str());
        span.fail(&error.message);
    }
}

/// Scrapes without storing anything.
pub(crate) async fn dry_run(shop: Arc<Shop>, spec: TargetSpec) -> ScrapeOutcome {
    let spec = Arc::new(spec);
    let started = Instant::now();
    let outcome = ScrapeOutcome { scrape_ms: shop.clock.now_ms(), ..ScrapeOutcome::default() };
    let mut scraper = Scraper::default();
    let Ok(_memory) = shop.gates.memory_for(0).await else { return cancelled(outcome) };
    let mut run = Run {
        shop: shop.clone(),
        spec,
        started,
        fetched_at: started,
        asked: true,
        dry: true,
        place: None,
        outcome,
        span: None,
    };
    let fetched = tokio::select! {
        fetched = run.fetch(&mut scraper) => fetched,
        () = shop.abort.cancelled() => return cancelled(run.outcome),
    };
    let outcome = run.outcome.clone();
    let Ok(_body) = shop.gates.bodies.acquire().await else { return cancelled(outcome) };
    let built = tokio::task::spawn_blocking(move || run.build(&mut scraper, fetched)).await;
    let Ok(Built { mut outcome, mut batch, .. }) = built else { return cancelled(outcome) };
    if !outcome.ok {
        return outcome;
    }
    // The report series stand at the end; the balance is about what the body held.
    batch.verdicts.truncate((outcome.samples as usize).saturating_sub(batch.histograms.len()));
    let histograms = batch.histograms.iter_mut().map(|h| &mut h.verdict);
    for verdict in batch.verdicts.iter_mut().chain(histograms).filter(|v| **v == Verdict::Pending) {
        *verdict = Verdict::Stored;
    }
    outcome.counts = batch.counts();
    outcome
}

/// Hands a batch to the store from a thread that may wait, and waits for the answer.
pub(crate) async fn submit(shop: &Arc<Shop>, batch: Batch) -> Option<Answer> {
    let _body = shop.gates.bodies.acquire().await.ok()?;
    let append = shop.append.clone();
    let answer = tokio::task::spawn_blocking(move || hand_over(&*append, batch)).await.ok()?;
    answer.await.ok()
}

fn hand_over(append: &dyn Append, batch: Batch) -> oneshot::Receiver<Answer> {
    let (tx, rx) = oneshot::channel();
    append.submit(batch, Box::new(move |batch, result| drop(tx.send((batch, result)))));
    rx
}

/// Hands a batch over without waiting for room; without it the answer is `Busy`.
fn hand_over_now(append: &dyn Append, batch: Batch) -> oneshot::Receiver<Answer> {
    let (tx, rx) = oneshot::channel();
    append.submit_now(batch, Box::new(move |batch, result| drop(tx.send((batch, result)))));
    rx
}

fn cancelled(outcome: ScrapeOutcome) -> ScrapeOutcome {
    let error = ScrapeError::new(ScrapeErrorKind::Cancelled, "the target was removed or changed, or the server stops");
    ScrapeOutcome { ok: false, error: Some(error), ..outcome }
}

pub(crate) fn origin(spec: &TargetSpec, received_at_ms: i64) -> Origin {
    Origin {
        target_id: spec.target_id.clone(),
        source_id: spec.source_id.clone(),
        method: CollectionMethod::PullScraping,
        received_at_ms,
    }
}

/// Decides which time the samples get, and says which place in the schedule the scrape takes.
fn scrape_time(shop: &Shop, slot: &Slot, scraper: &mut Scraper, occasion: Occasion) -> (i64, Option<ScrapeSlot>) {
    let now_ms = shop.clock.now_ms();
    let (mut at_ms, mut place) = (now_ms, None);
    if let Occasion::Tick(tick) = occasion {
        let late_ms = tick.due.elapsed().as_millis() as i64;
        let mut shared = slot.shared.lock();
        let (snapped, drift_ms) = snap(now_ms, late_ms, tick.planned_ms, shared.spec.interval_ms);
        at_ms = snapped;
        if drift_ms != 0 {
            follow_drift(&mut shared, tick.epoch, drift_ms);
        }
        scraper.missed_now = shared.status.missed_ticks;
        let skipped = scraper.missed_now.saturating_sub(scraper.missed_told);
        place = Some(ScrapeSlot {
            planned_ms: tick.planned_ms.saturating_add(drift_ms),
            interval_ms: shared.spec.interval_ms,
            outcome: SlotOutcome::Stored,
            skipped: u32::try_from(skipped).unwrap_or(u32::MAX),
            refused: scraper.refused,
        });
    }
    match scraper.last_ms {
        Some(last) if at_ms <= last && last - at_ms < CLOSE_MS => (last + 1, place),
        _ => (at_ms, place),
    }
}

impl Run {
    async fn fetch(&mut self, scraper: &mut Scraper) -> Result<Fetched, ScrapeError> {
        if let Some(gather) = self.spec.gather.clone()
            && let Some(gathering) = gather.gather()
        {
            let limit = Duration::from_millis(self.spec.timeout_ms);
            let gathered = tokio::time::timeout(limit, gathering).await;
            self.fetched_at = Instant::now();
            self.outcome.scrape_wait_ms = ms_between(self.started, self.fetched_at);
            return match gathered {
                Ok(Ok(wire)) => Ok(Fetched { wire, gzip: false }),
                Ok(Err(text)) => Err(ScrapeError::new(ScrapeErrorKind::Collector, text)),
                Err(_) => Err(ScrapeError::new(ScrapeErrorKind::Timeout, "context deadline exceeded")),
            };
        }
        let mut trace = FetchTrace { span: self.span, ..FetchTrace::default() };
        let buffer = self.shop.spare.body();
        let fetched = Fetch::new(&self.spec, &mut scraper.connection, &mut trace, buffer).run().await;
        self.fetched_at = Instant::now();
        let outcome = &mut self.outcome;
        outcome.scrape_wait_ms = ms_between(self.started, self.fetched_at);
        outcome.http_status = trace.http_status;
        outcome.content_type = trace.content_type;
        outcome.address = trace.address;
        outcome.peer = trace.peer;
        outcome.redirects = trace.redirects;
        outcome.connection_reused = trace.reused;
        outcome.bytes_wire = trace.bytes_wire;
        fetched
    }

    /// Builds the batch, hands it to the store, and settles what the answer means.
    async fn store(
        self,
        slot: &Slot,
        scraping: Scraping,
        fetched: Result<Fetched, ScrapeError>,
    ) -> Option<ScrapeOutcome> {
        let (shop, spec, fetched_at) = (self.shop.clone(), self.spec.clone(), self.fetched_at);
        let (run, mut scraping, mut draft, (mut batch, mut result)) = self.hand_in(scraping, fetched).await?;
        let mut outcome = run.outcome.clone();
        if result == Err(AppendError::StaleIds) {
            let own = ReportSeries::labels(&spec.labels);
            scraping.cache.restate(&draft, &mut batch, &own);
            batch.generation = shop.append.generation();
            (batch, result) = submit(&shop, batch).await?;
        }
        if let Err(error @ AppendError::TooLarge { .. }) = &result {
            // The body is lost, but that it was must be seen in `up`.
            let error = ScrapeError::new(ScrapeErrorKind::Store, format!("the store took nothing: {error}"));
            scraping.cache.roll_back(&draft);
            let again;
            (again, scraping, draft, (batch, result)) = run.hand_in(scraping, Err(error)).await?;
            outcome = again.outcome;
        }
        outcome.scrape_ingest_ms = ms_between(fetched_at, Instant::now());
        let report = batch.report.take().unwrap_or_default();
        if batch.series.len() > COMMIT_INLINE_MAX {
            let spec = spec.clone();
            let stored = result.is_ok();
            let moved = tokio::task::spawn_blocking(move || {
                settle_scraper(&mut scraping, &spec, &mut draft, &mut batch, stored, outcome.scrape_ms);
                (scraping, outcome)
            });
            (scraping, outcome) = moved.await.ok()?;
        } else {
            settle_scraper(&mut scraping, &spec, &mut draft, &mut batch, result.is_ok(), outcome.scrape_ms);
            shop.spare.give_draft(draft);
            shop.spare.give_batch(batch);
        }
        let acted = scraping.cache.take_acted();
        if !acted.is_empty() {
            shop.sums.counts().add(&spec.source_id, &spec.filters, &acted);
        }
        settle(&shop, slot, &spec, report, &mut outcome, result);
        drop(scraping);
        Some(outcome)
    }

    /// Builds the batch and hands it to the store on a thread that may wait; waits for the answer without one.
    async fn hand_in(
        mut self,
        mut scraping: Scraping,
        fetched: Result<Fetched, ScrapeError>,
    ) -> Option<(Run, Scraping, Draft, Answer)> {
        let shop = self.shop.clone();
        let body = shop.gates.bodies.acquire().await.ok()?;
        if is_quick(&scraping, &fetched) {
            let Built { batch, draft, .. } = self.build(&mut scraping, fetched);
            let answer = hand_over_now(&*shop.append, batch);
            drop(body);
            let answer = match lost(answer.await) {
                (batch, Err(AppendError::Busy { .. })) => submit(&shop, batch).await?,
                answer => answer,
            };
            return Some((self, scraping, draft, answer));
        }
        let work = tokio::task::spawn_blocking(move || {
            let Built { batch, draft, .. } = self.build(&mut scraping, fetched);
            let answer = hand_over(&*self.shop.append, batch);
            (self, scraping, draft, answer)
        });
        let (run, scraping, draft, answer) = work.await.ok()?;
        drop(body);
        Some((run, scraping, draft, lost(answer.await)))
    }

    /// Makes the batch: of the body, or of its failure.
    fn build(&mut self, scraper: &mut Scraper, fetched: Result<Fetched, ScrapeError>) -> Built {
        let spec = self.spec.clone();
        let body = fetched.and_then(|fetched| self.body(fetched));
        let mut batch = self.shop.spare.batch(origin(&spec, self.shop.clock.now_ms()));
        batch.generation = self.shop.append.generation();
        let outdated = scraper.report.outdated(&spec);
        let format = body.as_ref().ok().map(|b| b.0);
        scraper.cache.sums = spec.filters.aggregates().then(|| match self.dry {
            true => Sums::default().of(&spec.target_id),
            false => self.shop.sums.of(&spec.target_id),
        });
        let mut draft = scraper.cache.begin_in(self.shop.spare.draft(), &spec, format, batch.generation);
        for labels in outdated {
            scraper.cache.add_orphan(labels);
        }
        scraper.report.push_series(&spec, &mut batch);
        let own_series = batch.series.len();
        batch.essential = own_series as u32;
        let mut taken = Taken::default();
        let error = match body {
            Ok((format, text)) => {
                let failure;
                (taken, failure) =
                    Intake::new(&spec, &mut scraper.cache, &mut draft, &mut batch, self.outcome.scrape_ms)
                        .run(format, &text);
                self.shop.spare.give_body(text);
                failure.map(|failure| self.refused(failure))
            }
            Err(error) => Some(error),
        };
        self.note(&taken, &batch);
        if error.is_some() {
            scraper.cache.fail(&mut draft);
            batch.clear();
            scraper.report.push_series(&spec, &mut batch);
            batch.essential = own_series as u32;
            debug_assert_eq!(batch.series.len(), own_series);
        } else if self.asked {
            let top = scraper.cache.cardinalities(TOP_LABELS).into_iter();
            if !spec.filters.is_empty() {
                self.outcome.filters = scraper.cache.filter_effects(&spec);
                let collided = batch.examples.iter().filter(|(reason, _)| *reason == Refusal::LabelCollision);
                self.outcome.collisions = collided.map(|(_, labels)| labels.clone()).collect();
            }
            self.outcome.advice.clone_from(&batch.advice);
            self.outcome.top_labels = top.map(|(name, values)| LabelCardinality { name, values }).collect();
        }
        scraper.cache.push_stale(&mut draft, &mut batch, self.outcome.scrape_ms);
        self.close(&mut batch, &taken, error);
        scraper.body_bytes = self.outcome.bytes_wire.max(self.outcome.bytes_body);
        Built { batch, draft, outcome: self.outcome.clone() }
    }

    /// Gives the inflated body and its format.
    fn body(&mut self, fetched: Fetched) -> Result<(Format, Vec<u8>), ScrapeError> {
        if let Some(gather) = self.spec.gather.clone() {
            return self.gathered(&*gather, fetched);
        }
        let negotiated = format_of(self.outcome.content_type.as_deref(), self.spec.fallback_protocol)
            .map_err(|text| ScrapeError::new(ScrapeErrorKind::ContentType, text))?;
        self.outcome.format = Some(negotiated.name);
        let limit = body_limit(self.spec.limits.body_bytes);
        let body = match fetched.gzip {
            true => {
                let inflated = inflate(&fetched.wire, limit);
                self.shop.spare.give_body(fetched.wire);
                inflated?
            }
            false => fetched.wire,
        };
        self.outcome.bytes_body = body.len() as u64;
        if negotiated.is_openmetrics_2 {
            let families = wire::openmetrics::v2::to_families(&body);
            return families.map(|body| (negotiated.format, body)).map_err(|e| self.refused(Failure::Syntax(e)));
        }
        Ok((negotiated.format, body))
    }

    /// Gives the exposition that a custom collector makes of what it gathered.
    fn gathered(&mut self, gather: &dyn Gather, fetched: Fetched) -> Result<(Format, Vec<u8>), ScrapeError> {
        let limit = body_limit(self.spec.limits.body_bytes);
        let body = if fetched.gzip { inflate(&fetched.wire, limit)? } else { fetched.wire };
        self.outcome.bytes_body = body.len() as u64;
        let read = gather.read(body, self.outcome.scrape_ms);
        read.map_err(|text| ScrapeError::new(ScrapeErrorKind::Collector, text))
    }

    fn refused(&mut self, failure: Failure) -> ScrapeError {
        match failure {
            Failure::Rule(error) => error,
            Failure::Syntax(error) => {
                let text = error.to_string();
                self.outcome.parse_error = Some(error);
                ScrapeError::new(ScrapeErrorKind::Parse, text)
            }
        }
    }

    fn note(&mut self, taken: &Taken, batch: &Batch) {
        let outcome = &mut self.outcome;
        outcome.samples = taken.samples;
        outcome.samples_post_relabeling = taken.kept;
        outcome.series = taken.series;
        outcome.series_added = taken.added;
        let mut families = [0u64; 8];
        for family in &batch.families {
            families[family.metric_type as usize % 8] += 1;
        }
        outcome.families_by_type = by_type(&families);
        outcome.series_by_type = by_type(&taken.series_by_type);
        outcome.points = taken.points;
    }

    /// Adds report series and report. The duration ends here.
    fn close(&mut self, batch: &mut Batch, taken: &Taken, error: Option<ScrapeError>) {
        let elapsed = self.started.elapsed();
        let outcome = &mut self.outcome;
        outcome.duration_ms = elapsed.as_millis() as u64;
        outcome.ok = error.is_none();
        let facts = Facts {
            up: outcome.ok,
            duration_s: elapsed.as_secs_f64(),
            samples: taken.samples,
            kept: taken.kept,
            added: taken.added,
        };
        ReportSeries::push_samples(batch, outcome.scrape_ms, &facts);
        let slow = elapsed * 100 > Duration::from_millis(self.spec.timeout_ms.saturating_mul(SLOW_PERCENT));
        let health = match &error {
            Some(_) => Health::Unhealthy,
            None if slow || taken.refused > 0 => Health::Degraded,
            None => Health::Healthy,
        };
        batch.slot = self.place.map(|place| ScrapeSlot { outcome: slot_outcome(error.as_ref()), ..place });
        let finished_at_ms = self.shop.clock.now_ms();
        batch.report = Some(CollectionReport {
            event_id: event_id(finished_at_ms),
            batch_id: self.shop.ids.next(finished_at_ms),
            finished_at_ms,
            origin: batch.origin.clone(),
            duration_ms: outcome.duration_ms,
            health,
            summary: if outcome.ok { taken.points } else { Default::default() },
            samples_count: if outcome.ok { taken.samples } else { 0 },
            counts: Default::default(),
            error: error.as_ref().map(|e| e.message.clone()),
        });
        outcome.error = error;
    }
}

fn slot_outcome(error: Option<&ScrapeError>) -> SlotOutcome {
    use ScrapeErrorKind::{BodyTooLarge, LabelLimit, SampleLimit, Store};
    match error.map(|e| e.kind) {
        None => SlotOutcome::Stored,
        // `Store` stands here for a body that was too large for it.
        Some(BodyTooLarge | LabelLimit | SampleLimit | Store) => SlotOutcome::Limit,
        Some(_) => SlotOutcome::TargetDown,
    }
}

/// Tells whether a body is read within a fraction of a millisecond. What a compressed one grows to is judged by the last.
fn is_quick(scraper: &Scraper, fetched: &Result<Fetched, ScrapeError>) -> bool {
    let Ok(fetched) = fetched else { return scraper.cache.len() <= COMMIT_INLINE_MAX };
    let bytes = if fetched.gzip { scraper.body_bytes } else { fetched.wire.len() as u64 };
    let usual = scraper.cache.len() > 0 && bytes <= scraper.body_bytes.saturating_mul(2);
    let growth_fits = !fetched.gzip || fetched.wire.len() as u64 <= scraper.body_bytes;
    usual && growth_fits && bytes <= INLINE_BYTES_MAX as u64
}

fn by_type(counts: &[u64; 8]) -> Vec<(MetricType, u64)> {
    (0u8..).zip(counts).filter(|(_, n)| **n > 0).map(|(t, n)| (MetricType::from_u8(t), *n)).collect()
}

fn ms_between(from: Instant, to: Instant) -> u64 {
    to.duration_since(from).as_millis() as u64
}

/// A store that forgets to answer has failed.
fn lost(answer: Result<Answer, oneshot::error::RecvError>) -> Answer {
    answer.unwrap_or_else(|_| (Batch::default(), Err(AppendError::Closed)))
}

fn settle_scraper(
    scraper: &mut Scraper,
    spec: &TargetSpec,
    draft: &mut Draft,
    batch: &mut Batch,
    stored: bool,
    scrape_ms: i64,
) {
    if stored {
        scraper.report.commit(spec, batch);
        scraper.cache.commit(draft, batch);
        scraper.last_ms = Some(scrape_ms);
        if batch.slot.is_some() {
            (scraper.missed_told, scraper.refused) = (scraper.missed_now, 0);
        }
    } else {
        scraper.refused = scraper.refused.saturating_add(u32::from(batch.slot.is_some()));
        scraper.cache.roll_back(draft);
    }
}

/// Writes the answer into outcome, status and report, and tells the observer.
fn settle(
    shop: &Shop,
    slot: &Slot,
    spec: &TargetSpec,
    mut report: CollectionReport,
    outcome: &mut ScrapeOutcome,
    result: Result<Appended, AppendError>,
) {
    let mut ledger = LedgerPosition::default();
    match result {
        Ok(appended) => {
            ledger = appended.ledger;
            report.counts = appended.counts;
            outcome.counts = appended.counts;
            outcome.new_series = appended.new_series;
            let limits = [Refusal::SeriesLimit, Refusal::LabelLimit, Refusal::SampleLimit];
            if report.health == Health::Healthy && limits.iter().any(|l| appended.counts.refused[*l as usize] > 0) {
                report.health = Health::Degraded;
            }
        }
        Err(error) => {
            let message = format!("the store took nothing: {error}");
            tracing::warn!(target_id = spec.target_id, %error, "a scrape could not be stored");
            report.health = Health::Unhealthy;
            report.error = Some(message.clone());
            report.summary = Default::default();
            report.samples_count = 0;
            outcome.ok = false;
            outcome.error = Some(ScrapeError::new(ScrapeErrorKind::Store, message));
        }
    }
    let status = {
        let mut shared = slot.shared.lock();
        let active = shared.is_active();
        let status = &mut shared.status;
        status.scrapes += 1;
        status.last_scrape_ms = Some(outcome.scrape_ms);
        status.scrape_duration_ms = outcome.duration_ms;
        status.samples_scraped = outcome.samples;
        status.consecutive_failures = if outcome.ok { 0 } else { status.consecutive_failures + 1 };
        status.last_error = outcome.error.clone();
        if outcome.ok {
            status.series_current = outcome.series;
        }
        if active {
            shared.set_health(report.health, report.finished_at_ms);
        }
        shared.status.clone()
    };
    shop.observer.collected(report, status, ledger);
}
