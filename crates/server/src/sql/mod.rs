//! SQL over all samples, answered by DuckDB in a process apart: `quiver-analytics`, one process for each query.
//!
//! A query's way: `http.rs` takes it → `process.rs` starts the process, which locks itself in and says what the statement
//! needs → `material.rs` gathers it (blocks as files, the head as a table, PromQL evaluated here) → the process answers
//! and ends. `docs/sql.md` is for users, `docs/decisions` has the sandbox.
//!
//! Invariants: 1. no statement is read in this process; 2. whatever a query does ends with its process, at the latest
//! when its time is over; 3. the server stands and collects without the program.
//! Limits: [`SqlLimits`].

mod http;
mod material;
mod process;
pub mod program;
mod stats;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::http::StatusCode;
use store::Store;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use self::http::{__path_ask, SqlRequest, ask, by_parameter, router};
use self::material::Needs;
use self::process::{Fault, Process};
use self::stats::SqlStats;
use crate::prom::QueryService;
use crate::rest::Rest;
use crate::rest::problem::Problem;
use crate::telemetry::Exposition;

/// Characters of a statement.
pub const SQL_CHARS_MAX: usize = 100_000;

/// How much SQL may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlLimits {
    /// Longest time for one query, waiting for its turn included.
    pub timeout: Duration,
    /// Memory of one query.
    pub memory_bytes: u64,
    /// Queries at a time.
    pub concurrency: usize,
    /// Bytes of samples of the head that one query may need.
    pub head_bytes_max: u64,
    /// Bytes of one answer.
    pub answer_bytes_max: usize,
    /// Rows of one answer.
    pub rows_max: u64,
}

impl Default for SqlLimits {
    fn default() -> SqlLimits {
        SqlLimits {
            timeout: Duration::from_secs(30),
            memory_bytes: 512 << 20,
            concurrency: 2,
            head_bytes_max: 64 << 20,
            answer_bytes_max: 64 << 20,
            rows_max: 1_000_000,
        }
    }
}

/// What the command line says of SQL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SqlOptions {
    /// The program `quiver-analytics`; without it it is looked for.
    pub program: Option<PathBuf>,
    /// See [`SqlLimits::timeout`].
    pub timeout: Option<Duration>,
    /// See [`SqlLimits::memory_bytes`].
    pub memory_bytes: Option<u64>,
}

/// What SQL works with.
pub struct SqlParts {
    /// The samples.
    pub store: Arc<Store>,
    /// Evaluates `promql(...)`.
    pub queries: QueryService,
    /// Knows the targets.
    pub rest: Rest,
    /// The blocks' folder.
    pub blocks: PathBuf,
    /// What the command line says.
    pub options: SqlOptions,
    /// Gives the time, in milliseconds since 1970.
    pub now: Arc<dyn Fn() -> i64 + Send + Sync>,
}

/// Answers SQL. Cheap to clone.
#[derive(Clone)]
pub struct Sql(Arc<Inner>);

struct Inner {
    parts: SqlParts,
    limits: SqlLimits,
    seats: Arc<Semaphore>,
    stats: SqlStats,
}

/// A query's place among those that run: free again when the last thread that works for it is done, also when nobody waits any more.
struct Turn {
    _seat: OwnedSemaphorePermit,
    over: AtomicBool,
}

/// Says that nobody waits any more when it is dropped.
struct OverOnDrop(Arc<Turn>);

impl Drop for OverOnDrop {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

/// The shape of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// `{"columns": ..., "rows": ...}`
    Json,
    /// A stream of Arrow IPC.
    Arrow,
    /// Lines with commas.
    Csv,
    /// A Parquet file.
    Parquet,
}

impl Format {
    /// Gives the word that the process knows; Parquet is made of Arrow here.
    fn word(self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::Arrow | Format::Parquet => "arrow",
            Format::Csv => "csv",
        }
    }
}

impl Sql {
    /// Makes the service.
    pub fn new(parts: SqlParts) -> Sql {
        let defaults = SqlLimits::default();
        let limits = SqlLimits {
            timeout: parts.options.timeout.unwrap_or(defaults.timeout),
            memory_bytes: parts.options.memory_bytes.unwrap_or(defaults.memory_bytes),
            ..defaults
        };
        let seats = Arc::new(Semaphore::new(limits.concurrency));
        Sql(Arc::new(Inner { parts, limits, seats, stats: SqlStats::default() }))
    }

    /// Writes the figures.
    pub fn render(&self, page: &mut Exposition) {
        self.0.stats.render(page);
    }

    /// Answers one statement.
    pub async fn answer(&self, sql: &str, format: Format) -> Result<Vec<u8>, Problem> {
        if sql.chars().count() > SQL_CHARS_MAX {
            let detail = format!("a statement has at most {SQL_CHARS_MAX} characters");
            return Err(Problem::at(StatusCode::UNPROCESSABLE_ENTITY, "too_long", "/query", detail));
        }
        let started = Instant::now();
        let answered = tokio::time::timeout(self.0.limits.timeout, self.work(sql, format)).await;
        let result = answered.unwrap_or_else(|_| Err(self.out_of_time()));
        self.0.stats.count(started.elapsed(), result.as_ref().err().map(|p| p.code.as_str()));
        result
    }

    fn out_of_time(&self) -> Problem {
        let text = model::format_duration_ms(self.0.limits.timeout.as_millis() as i64);
        let detail = format!("the query was ended after {text}, the longest that one may take (--sql.timeout)");
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "sql_timeout", detail)
    }

    async fn work(&self, sql: &str, format: Format) -> Result<Vec<u8>, Problem> {
        let program = program::find(self.0.parts.options.program.as_deref())
            .map_err(|detail| Problem::new(StatusCode::NOT_IMPLEMENTED, "analytics_missing", detail))?;
        let seat = self.0.seats.clone().acquire_owned().await.map_err(|_| stopped())?;
        let turn = Arc::new(Turn { _seat: seat, over: AtomicBool::new(false) });
        let _over = OverOnDrop(turn.clone());
        let _active = self.0.stats.begin();
        let mut process = Process::start(&program, &self.0.parts.blocks, &self.0.limits).map_err(|e| {
            let detail = format!("{} cannot be started: {e}", program.display());
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "analytics_unavailable", detail).retry_after_ms(5_000)
        })?;
        self.0.stats.started.fetch_add(1, Ordering::Relaxed);
        match self.converse(&mut process, sql, format, &turn).await {
            Ok(answer) => {
                process.end().await;
                self.shape(answer, format, turn).await
            }
            Err(fault) => Err(self.problem(fault, process).await),
        }
    }

    async fn converse(
        &self,
        process: &mut Process,
        sql: &str,
        format: Format,
        turn: &Arc<Turn>,
    ) -> Result<Vec<u8>, Fault> {
        let limits = &self.0.limits;
        let question = serde_json::json!({
            "sql": sql, "format": format.word(), "rows_max": limits.rows_max, "bytes_max": limits.answer_bytes_max,
        });
        process.write(b'Q', &[question.to_string().as_bytes()]).await?;
        let plan = process.expect(b'P').await?;
        let needs: Needs = serde_json::from_slice(&plan).map_err(|e| Fault::Broken(format!("its plan: {e}")))?;
        let material = self.gather(needs, turn).await.map_err(Fault::Refused)?;
        process.write(b'B', &[material.files.to_string().as_bytes()]).await?;
        for (name, table) in &material.tables {
            let len = [name.len() as u8];
            process.write(b'T', &[&len, name.as_bytes(), table]).await?;
        }
        drop(material);
        process.write(b'G', &[]).await?;
        process.answer(limits.answer_bytes_max).await
    }

    /// Brings an answer into a shape that the process does not write.
    async fn shape(&self, answer: Vec<u8>, format: Format, turn: Arc<Turn>) -> Result<Vec<u8>, Problem> {
        if format != Format::Parquet {
            return Ok(answer);
        }
        let bytes_max = self.0.limits.answer_bytes_max;
        let made = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            columns::ipc_to_parquet(&answer, bytes_max)
        });
        let made = made.await;
        let made =
            made.map_err(|_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the answer failed"))?;
        made.map_err(|e| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "sql_too_large", e.to_string()))
    }

    /// Says what went wrong, as the process told it or as it ended.
    async fn problem(&self, fault: Fault, process: Process) -> Problem {
        match fault {
            Fault::Refused(problem) => *problem,
            Fault::Told(told) => told.problem(),
            Fault::Gone(_) | Fault::Broken(_) => {
                let limits = &self.0.limits;
                let how = process.obituary(limits, matches!(fault, Fault::Broken(_))).await;
                let status =
                    if how.by_limit { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::SERVICE_UNAVAILABLE };
                let code = if how.by_limit { "sql_limit" } else { "analytics_unavailable" };
                if !how.by_limit {
                    tracing::error!(%fault, "analytics process: {}", how.text);
                }
                self.0.stats.died.fetch_add(1, Ordering::Relaxed);
                Problem::new(status, code, how.text)
            }
        }
    }
}

fn stopped() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the server stops").retry_after_ms(5_000)
}
