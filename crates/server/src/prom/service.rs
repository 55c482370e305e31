//! Runs queries: on threads that may block, a bounded number at a time, each with a deadline, and only while somebody waits.
//!
//! Owns: the seats of running queries and their figures.
//! Invariants: 1. a seat is held until its thread is done, also when the client has gone; 2. dropping the future of a
//! query cancels it; 3. active + done = started.
//! Limits: [`QueryLimits`]; who finds no seat until the deadline gets Prometheus' timeout.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::response::Response;
use http::StatusCode;
use model::Select;
use promql::ast::{Expr, ValueType};
use promql::{EvalError, ParseOptions, QueryMemory, QueryOptions, QueryResult};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::busy::busy;
use super::elsewhere::{self, Elsewhere};
use super::error::{ApiError, ErrorKind, json_response};
use super::noting::Noting;
use super::params::{Params, parse_duration_ms};
use super::result_cache::{Asked, ResultCache};
use super::value_json::{self, Timings};
use crate::rest::query::{Answer, Ask};
use crate::telemetry::{Exposition, Histogram, trace};

/// Points of one series that a range query may have.
const POINTS_MAX: i64 = 11_000;
/// Characters of a query that the log repeats.
const LOGGED_CHARS_MAX: usize = 500;

/// How much queries may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueryLimits {
    /// Queries at a time; also look-ups of labels and series at a time, which are counted apart.
    pub concurrency: usize,
    /// Longest time for one query, waiting for its turn included.
    pub timeout: Duration,
    /// Samples that one query may hold in memory.
    pub samples_max: u64,
    /// How far back a sample counts as current.
    pub lookback_ms: i64,
    /// The step of subqueries that name none.
    pub default_step_ms: i64,
    /// Queries that take longer are logged.
    pub slow: Duration,
    /// Whether experimental functions and syntax are understood.
    pub experimental: bool,
    /// Bytes of answers to range queries that are kept; 0 keeps none.
    pub cache_bytes_max: usize,
}

/// The memory of an answer while it is written.
struct Written<'a>(Option<&'a QueryMemory>, u64);

impl<'a> Written<'a> {
    fn take(memory: Option<&'a QueryMemory>, bytes: u64) -> Result<Written<'a>, EvalError> {
        memory.map_or(Ok(()), |memory| memory.take(bytes))?;
        Ok(Written(memory, bytes))
    }
}

impl Drop for Written<'_> {
    fn drop(&mut self) {
        if let Some(memory) = self.0 {
            memory.give(self.1);
        }
    }
}

impl Default for QueryLimits {
    /// Prometheus' defaults.
    fn default() -> QueryLimits {
        QueryLimits {
            concurrency: 20,
            timeout: Duration::from_secs(120),
            samples_max: 50_000_000,
            lookback_ms: 300_000,
            default_step_ms: 60_000,
            slow: Duration::from_secs(10),
            experimental: false,
            cache_bytes_max: 64 << 20,
        }
    }
}

/// What queries cost and were.
#[derive(Default, Debug)]
pub struct QueryStats {
    active: AtomicU64,
    waiting: AtomicU64,
    slow: AtomicU64,
    samples: AtomicU64,
    outcomes: [AtomicU64; Outcome::ALL.len()],
    seconds: Histogram,
}

/// How a query ended.
#[derive(Clone, Copy)]
enum Outcome {
    Success,
    Failed,
    Canceled,
    Timeout,
}

impl Outcome {
    const ALL: [(Outcome, &'static str); 4] = [
        (Outcome::Success, "success"),
        (Outcome::Failed, "failed"),
        (Outcome::Canceled, "canceled"),
        (Outcome::Timeout, "timeout"),
    ];
}

impl QueryStats {
    fn count(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Gives how many queries are running.
    pub fn active(&self) -> u64 {
        self.active.load(Ordering::Relaxed)
    }

    /// Writes the figures.
    pub fn render(&self, page: &mut Exposition) {
        page.gauge("quiver_queries_active", "Queries that are running.", self.active() as f64);
        let waiting = self.waiting.load(Ordering::Relaxed);
        page.gauge("quiver_queries_waiting", "Queries that wait for their turn.", waiting as f64);
        page.family("quiver_queries_total", "counter", "Queries answered, by how they ended.");
        for (outcome, word) in Outcome::ALL {
            page.sample(&[("outcome", word)], self.outcomes[outcome as usize].load(Ordering::Relaxed) as f64);
        }
        let (slow, samples) = (self.slow.load(Ordering::Relaxed), self.samples.load(Ordering::Relaxed));
        page.counter("quiver_queries_slow_total", "Queries that were logged as slow.", slow);
        page.counter("quiver_query_samples_total", "Samples that queries looked at.", samples);
        page.family("quiver_query_duration_seconds", "histogram", "Time to compute and write an answer.");
        page.histogram(&[], &self.seconds);
    }
}

/// Answers PromQL. Cheap to clone.
#[derive(Clone)]
pub struct QueryService {
    select: Arc<dyn Select>,
    limits: QueryLimits,
    memory: Option<Arc<QueryMemory>>,
    now: Arc<dyn Fn() -> i64 + Send + Sync>,
    seats: Arc<Semaphore>,
    lookup_seats: Arc<Semaphore>,
    stats: Arc<QueryStats>,
    cache: Arc<ResultCache>,
    elsewhere: Elsewhere,
}

/// What is asked, apart from the expression.
#[derive(Clone, Copy)]
enum Times {
    At(i64),
    Range { start_ms: i64, end_ms: i64, step_ms: i64 },
}

/// What stands in the parameters beside query and times.
struct Settings {
    limit: Option<usize>,
    timeout: Duration,
    lookback_ms: i64,
    with_stats: bool,
    /// Whether kept answers may be used, and this one kept.
    may_keep: bool,
}

/// Says "nobody waits any more" when it is dropped.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Counts up, and down again when it is dropped.
struct Gauge(Arc<QueryStats>, fn(&QueryStats) -> &AtomicU64);

impl Gauge {
    fn up(stats: &Arc<QueryStats>, which: fn(&QueryStats) -> &AtomicU64) -> Gauge {
        which(stats).fetch_add(1, Ordering::Relaxed);
        Gauge(Arc::clone(stats), which)
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        (self.1)(&self.0).fetch_sub(1, Ordering::Relaxed);
    }
}

impl QueryService {
    /// Makes a service; `now` gives milliseconds since 1970.
    pub fn new(select: Arc<dyn Select>, limits: QueryLimits, now: Arc<dyn Fn() -> i64 + Send + Sync>) -> QueryService {
        let seats = || Arc::new(Semaphore::new(limits.concurrency.max(1)));
        let (seats, lookup_seats, stats) = (seats(), seats(), Arc::default());
        let cache = Arc::new(ResultCache::new(limits.cache_bytes_max));
        let elsewhere = Elsewhere::default();
        QueryService { select, limits, memory: None, now, seats, lookup_seats, stats, cache, elsewhere }
    }

    /// Lets all queries share so much memory.
    pub fn with_memory(self, memory: Arc<QueryMemory>) -> QueryService {
        QueryService { memory: Some(memory), ..self }
    }

    /// Says who answers what is not here.
    pub fn with_elsewhere(self, elsewhere: Elsewhere) -> QueryService {
        QueryService { elsewhere, ..self }
    }

    /// Gives who answers what is not here.
    pub fn elsewhere(&self) -> &Elsewhere {
        &self.elsewhere
    }

    /// Answers a look-up elsewhere, if that is where it is answered.
    pub async fn look_up_elsewhere(&self, path: &str, params: &Params) -> Result<Option<Response>, ApiError> {
        let start_ms = if params.get("start").is_empty() { None } else { Some(params.time_ms("start")?) };
        let answer = self.elsewhere.answer(path, params, start_ms, ((self.now)(), self.deadline())).await;
        answer.transpose()
    }

    /// Answers a query elsewhere, if that is where it is answered.
    async fn ask_elsewhere(
        &self,
        path: &str,
        params: &Params,
        expr: &Expr,
        (start_ms, end_ms): (i64, i64),
        settings: &Settings,
    ) -> Option<Result<Response, ApiError>> {
        let default_step_ms = self.limits.default_step_ms;
        let earliest_ms = elsewhere::earliest_ms(expr, (start_ms, end_ms), settings.lookback_ms, default_step_ms);
        let deadline = Instant::now() + settings.timeout;
        self.elsewhere.answer(path, params, Some(earliest_ms), ((self.now)(), deadline)).await
    }

    /// Gives the figures.
    pub fn stats(&self) -> &QueryStats {
        &self.stats
    }

    /// Gives the kept answers.
    pub(super) fn cache(&self) -> &ResultCache {
        &self.cache
    }

    /// Tells whether experimental functions and syntax are understood.
    pub fn is_experimental(&self) -> bool {
        self.limits.experimental
    }

    /// Parses a query as this service understands it.
    pub fn parse(&self, query: &str) -> Result<Expr, String> {
        let on = self.limits.experimental;
        let options = ParseOptions {
            experimental_functions: on,
            // Stable in Prometheus since 3.14 and 3.16.
            duration_expr: true,
            extended_range_selectors: true,
            fill_modifiers: on,
        };
        busy(query.len(), || promql::parse_with(query, &options)).map_err(|e| e.to_string())
    }

    /// Answers as `/api/v1/query`.
    pub async fn instant(&self, params: &Params) -> Result<Response, ApiError> {
        let limit = params.limit()?;
        let ts_ms = params.time_ms_or("time", (self.now)())?;
        let settings = self.settings(params, limit)?;
        let expr = self.parse(params.get("query")).map_err(|e| ApiError::invalid_parameter("query", e))?;
        if let Some(answer) = self.ask_elsewhere("/api/v1/query", params, &expr, (ts_ms, ts_ms), &settings).await {
            return answer;
        }
        self.answer(params.get("query"), expr, Times::At(ts_ms), settings).await
    }

    /// Answers as `/api/v1/query_range`.
    pub async fn range(&self, params: &Params) -> Result<Response, ApiError> {
        let limit = params.limit()?;
        let start_ms = params.time_ms("start")?;
        let end_ms = params.time_ms("end")?;
        if end_ms < start_ms {
            return Err(ApiError::invalid_parameter("end", "end timestamp must not be before start time"));
        }
        let step_ms = read_step(params.get("step"))?;
        if (end_ms - start_ms) / step_ms > POINTS_MAX {
            return Err(ApiError::bad_data(
                "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)",
            ));
        }
        let settings = self.settings(params, limit)?;
        let expr = self.parse(params.get("query")).map_err(|e| ApiError::invalid_parameter("query", e))?;
        let kind = promql::value_type(&expr);
        if !matches!(kind, ValueType::Scalar | ValueType::Vector) {
            let kind = kind.as_str();
            let text = format!("invalid expression type {kind:?} for range query, must be Scalar or instant Vector");
            return Err(ApiError::invalid_parameter("query", text));
        }
        let whole = (start_ms, end_ms);
        if let Some(answer) = self.ask_elsewhere("/api/v1/query_range", params, &expr, whole, &settings).await {
            return answer;
        }
        self.answer(params.get("query"), expr, Times::Range { start_ms, end_ms, step_ms }, settings).await
    }

    fn settings(&self, params: &Params, limit: Option<usize>) -> Result<Settings, ApiError> {
        let mut timeout = self.limits.timeout;
        if !params.get("timeout").is_empty() {
            let ms = parse_duration_ms(params.get("timeout")).map_err(|e| ApiError::invalid_parameter("timeout", e))?;
            timeout = timeout.min(Duration::from_secs_f64((ms / 1000.0).clamp(0.0, 1e9)));
        }
        let mut lookback_ms = self.limits.lookback_ms;
        if !params.get("lookback_delta").is_empty() {
            let ms = parse_duration_ms(params.get("lookback_delta"))
                .map_err(|e| ApiError::bad_data(format!("error parsing lookback delta duration: {e}")))?;
            // As in Prometheus, what is not positive means the default.
            if ms >= 1.0 {
                lookback_ms = ms as i64;
            }
        }
        let with_stats = !params.get("stats").is_empty();
        // `nocache` is VictoriaMetrics' word. What a query costs is shown of one that is computed.
        let may_keep = !with_stats && !matches!(params.get("nocache"), "1" | "true");
        Ok(Settings { limit, timeout, lookback_ms, with_stats, may_keep })
    }

    fn options(&self, lookback_ms: i64, deadline: Instant, cancel: Arc<AtomicBool>) -> QueryOptions {
        QueryOptions {
            lookback_ms,
            samples_max: self.limits.samples_max,
            memory: self.memory.clone(),
            points_max: POINTS_MAX as u64 + 1,
            default_step_ms: self.limits.default_step_ms,
            experimental: self.limits.experimental,
            deadline: Some(deadline),
            cancel,
        }
    }

    async fn answer(&self, text: &str, expr: Expr, times: Times, settings: Settings) -> Result<Response, ApiError> {
        let queued_at = Instant::now();
        let deadline = queued_at + settings.timeout;
        let cancel = Arc::new(AtomicBool::new(false));
        let guard = CancelOnDrop(Arc::clone(&cancel));
        let seat = self.seat(&self.seats, deadline).await?;
        let options = self.options(settings.lookback_ms, deadline, cancel);
        let (service, text) = (self.clone(), text.to_owned());
        let mut span = trace::child("query");
        span.note("db.query.text", text.as_str());
        let task = tokio::task::spawn_blocking(move || {
            let _seat = seat;
            let queued = queued_at.elapsed();
            span.note("quiver.queued_ms", queued.as_millis() as u64);
            let answer = service.run(&text, &expr, times, &settings, &options, queued);
            match &answer {
                Ok(body) => span.note("quiver.answer_bytes", body.len() as u64),
                Err(error) => span.fail(&error.text),
            }
            answer
        });
        let answer = task.await;
        drop(guard);
        let body = answer.map_err(|_| ApiError::new(ErrorKind::Internal, "the query failed unexpectedly"))??;
        Ok(json_response(StatusCode::OK, body))
    }

    /// Evaluates an expression at a time, or over start, end and step, and gives the value itself.
    pub async fn value(
        &self,
        query: &str,
        at_ms: i64,
        range: Option<(i64, i64, i64)>,
    ) -> Result<promql::Value, ApiError> {
        self.try_value(query, at_ms, range).await?.map_err(|e| api_error(&e))
    }

    /// As [`QueryService::value`], with the evaluation's own error.
    pub async fn try_value(
        &self,
        query: &str,
        at_ms: i64,
        range: Option<(i64, i64, i64)>,
    ) -> Result<Result<promql::Value, EvalError>, ApiError> {
        let expr = self.parse(query).map_err(|e| ApiError::invalid_parameter("query", e))?;
        if let Some((start_ms, end_ms, step_ms)) = range
            && (end_ms < start_ms || step_ms <= 0 || end_ms.saturating_sub(start_ms) / step_ms > POINTS_MAX)
        {
            let text = format!("a range goes from start to end in at most {POINTS_MAX} steps");
            return Err(ApiError::bad_data(text));
        }
        let deadline = self.deadline();
        let cancel = Arc::new(AtomicBool::new(false));
        let _guard = CancelOnDrop(Arc::clone(&cancel));
        let seat = self.seat(&self.seats, deadline).await?;
        let options = self.options(self.limits.lookback_ms, deadline, cancel);
        let service = self.clone();
        let task = tokio::task::spawn_blocking(move || {
            let _seat = seat;
            let _active = Gauge::up(&service.stats, |stats| &stats.active);
            let result = match range {
                Some((start_ms, end_ms, step_ms)) => {
                    promql::range(&*service.select, &expr, start_ms, end_ms, step_ms, &options)
                }
                None => promql::instant(&*service.select, &expr, at_ms, &options),
            };
            result.map(|result| result.value)
        });
        task.await.map_err(|_| ApiError::new(ErrorKind::Internal, "the query failed unexpectedly"))
    }

    /// Gives the limits.
    pub fn limits(&self) -> &QueryLimits {
        &self.limits
    }

    /// Waits for a seat until the deadline.
    async fn seat(&self, seats: &Arc<Semaphore>, deadline: Instant) -> Result<OwnedSemaphorePermit, ApiError> {
        let _waiting = Gauge::up(&self.stats, |stats| &stats.waiting);
        let seat = tokio::time::timeout_at(deadline.into(), Arc::clone(seats).acquire_owned()).await;
        let in_time = Instant::now() < deadline;
        seat.ok().and_then(Result::ok).filter(|_| in_time).ok_or_else(|| {
            self.stats.count(Outcome::Timeout);
            ApiError::new(ErrorKind::Timeout, "query timed out in query queue")
        })
    }

    fn run(
        &self,
        text: &str,
        expr: &Expr,
        times: Times,
        settings: &Settings,
        options: &QueryOptions,
        queued: Duration,
    ) -> Result<Vec<u8>, ApiError> {
        let _active = Gauge::up(&self.stats, |stats| &stats.active);
        let started = Instant::now();
        let noting = Noting::new(&*self.select);
        let result = match times {
            Times::At(ts_ms) => promql::instant(&noting, expr, ts_ms, options),
            Times::Range { start_ms, end_ms, step_ms } => {
                let evaluate = |from_ms, to_ms| promql::range(&noting, expr, from_ms, to_ms, step_ms, options);
                let (lookback_ms, default_step_ms) = (options.lookback_ms, options.default_step_ms);
                let keeps = self.cache.is_on() && settings.may_keep;
                match promql::reach_ms(expr, lookback_ms, default_step_ms).filter(|_| keeps) {
                    Some(reach_ms) => {
                        let asked = Asked { query: text, start_ms, end_ms, step_ms, lookback_ms, reach_ms };
                        self.cache.range(&noting, &asked, &evaluate)
                    }
                    None => evaluate(start_ms, end_ms),
                }
            }
        };
        let timings = Timings { queued, evaluated: started.elapsed() };
        let placed = result.map(|mut result| {
            result.place(text);
            result.infos.extend(noting.notes());
            result
        });
        let body = self.finish(placed, settings, timings);
        let took = started.elapsed();
        self.stats.seconds.observe(took.as_secs_f64());
        if took >= self.limits.slow {
            self.stats.slow.fetch_add(1, Ordering::Relaxed);
            let query: String = text.chars().take(LOGGED_CHARS_MAX).collect();
            let outcome = body.as_ref().map_or_else(|e| e.text.as_str(), |_| "success");
            tracing::warn!(query, outcome, duration_ms = took.as_millis() as u64, "slow query");
        }
        body
    }

    fn finish(
        &self,
        result: Result<QueryResult, EvalError>,
        settings: &Settings,
        timings: Timings,
    ) -> Result<Vec<u8>, ApiError> {
        // The answer is written into one piece of memory and closed in another.
        let size = result.as_ref().map_or(0, |result| 2 * value_json::size_of_value(&result.value) as u64);
        let written = Written::take(self.memory.as_deref(), size);
        match result.and_then(|result| written.map(|written| (result, written))) {
            Ok((result, _written)) => {
                self.stats.count(Outcome::Success);
                self.stats.samples.fetch_add(result.stats.total_queryable_samples, Ordering::Relaxed);
                Ok(value_json::success(result, settings.limit, settings.with_stats.then_some(timings)))
            }
            Err(error) => {
                self.stats.count(match &error {
                    EvalError::Canceled => Outcome::Canceled,
                    EvalError::Timeout => Outcome::Timeout,
                    _ => Outcome::Failed,
                });
                Err(api_error(&error))
            }
        }
    }

    /// Gives the time by which what begins now must be done.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.limits.timeout
    }

    /// Runs a look-up (labels, series, metadata) where it may block.
    ///
    /// **Errors** when there is no seat within the time of a query.
    pub async fn look_up<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Select) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let seat = self.seat(&self.lookup_seats, Instant::now() + self.limits.timeout).await?;
        let select = Arc::clone(&self.select);
        let task = tokio::task::spawn_blocking(move || {
            let _seat = seat;
            work(&*select)
        });
        task.await.map_err(|_| ApiError::new(ErrorKind::Internal, "the request failed unexpectedly"))?
    }
}

fn read_step(text: &str) -> Result<i64, ApiError> {
    let ms = parse_duration_ms(text).map_err(|e| ApiError::invalid_parameter("step", e))?;
    if ms <= 0.0 {
        let text = "zero or negative query resolution step widths are not accepted. Try a positive integer";
        return Err(ApiError::invalid_parameter("step", text));
    }
    // Our times are milliseconds; a finer step would stand still.
    Ok((ms as i64).max(1))
}

fn api_error(error: &EvalError) -> ApiError {
    let kind = match error {
        EvalError::Canceled => ErrorKind::Canceled,
        EvalError::Timeout => ErrorKind::Timeout,
        EvalError::Storage(_) => ErrorKind::Internal,
        _ => ErrorKind::Execution,
    };
    ApiError::new(kind, error.to_string())
}

impl Ask for QueryService {
    fn instant(&self, params: Params) -> Answer {
        let service = self.clone();
        Box::pin(async move { QueryService::instant(&service, &params).await })
    }

    fn range(&self, params: Params) -> Answer {
        let service = self.clone();
        Box::pin(async move { QueryService::range(&service, &params).await })
    }
}
