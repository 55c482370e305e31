//! PostgreSQL and TimescaleDB: binary COPY, and the place in the queue in the same transaction.
//!
//! Invariants: 1. a window and the place behind it are committed together, so that each sample is there exactly once,
//! whoever is killed; 2. values keep their bits: nothing goes as text; 3. rows that the columns cannot hold are counted as
//! unwritable, never cut short.
//! Fails how: anything that the database says or does not say rolls the window back and is tried again with a new
//! connection, after the old one was ended at the server: it may hold locks there. When it is the rows that are refused,
//! twice, the window is written part by part: those that are refused alone are counted and said, the others stay.

mod copy;
mod schema;
mod write;

use std::sync::Arc;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Row as _};
use tokio::time::{Duration, Instant, timeout};
use write::{Part, Writer, Written};

use crate::run::{Again, Sink};
use crate::{Later, SinkStats, Window};

/// Where one transaction must have come to its end.
const WINDOW_TIMEOUT: Duration = Duration::from_secs(120);
/// For a connection, and for a question that touches one row.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const NO_ANSWER: &str = "no answer within 10 s";
/// Old rows are dropped so often.
const DROP_EVERY: Duration = Duration::from_secs(600);
/// So many refused parts in a row say that splitting does not help.
const REFUSALS_MAX: usize = 64;

/// How samples lie in the database.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Layout {
    /// The table `metrics_ts` exactly as the specification has it.
    Spec,
    /// Series apart from samples; `metrics_ts` is a view of both with the specification's columns.
    #[default]
    Tuned,
}

/// Settings of a sink.
#[derive(Clone)]
pub struct PostgresSettings {
    /// The sink's name.
    pub name: String,
    /// Where, as whom, over TLS or not.
    pub connect: PgConnectOptions,
    /// How samples lie there.
    pub layout: Layout,
    /// Reads the password before each connection; `None` when there is none.
    pub password: Arc<dyn Fn() -> Result<Option<String>, String> + Send + Sync>,
    /// Whose places these are: the queue's name.
    pub queue_id: String,
    /// How long samples are kept there; for ever when there is none.
    pub retention: Option<Duration>,
    /// Milliseconds since 1970.
    pub now_ms: Arc<dyn Fn() -> i64 + Send + Sync>,
}

struct Session {
    connection: PgConnection,
    writer: Writer,
    backend: Backend,
}

/// The process at the server that serves a connection; no other one ever is the same.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Backend {
    pid: i32,
    started: String,
}

/// Why a window was not brought.
struct Failed {
    text: String,
    /// The database refuses rows, not us.
    rows: bool,
}

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Failed {
        Failed { rows: is_of_rows(&error), text: said(error) }
    }
}

/// A PostgreSQL.
pub struct Postgres {
    settings: PostgresSettings,
    stats: Arc<SinkStats>,
    session: Option<Session>,
    /// Of the connection that failed last.
    left: Option<Backend>,
    /// How often in a row the database has refused the rows of this window.
    refusals: u32,
    dropped_at: Option<Instant>,
    told: bool,
}

impl Postgres {
    /// Makes one; nothing is connected yet.
    pub fn new(settings: PostgresSettings, stats: Arc<SinkStats>) -> Postgres {
        Postgres { settings, stats, session: None, left: None, refusals: 0, dropped_at: None, told: false }
    }

    async fn session(&mut self) -> Result<&mut Session, String> {
        let session = match self.session.take() {
            Some(session) => session,
            None => match timeout(CONNECT_TIMEOUT, self.connect()).await {
                Ok(opened) => opened?,
                Err(_) => return Err("no connection within 10 s".to_owned()),
            },
        };
        Ok(self.session.insert(session))
    }

    async fn connect(&mut self) -> Result<Session, String> {
        let mut options = self.settings.connect.clone();
        if let Some(password) = (self.settings.password)()? {
            options = options.password(&password);
        }
        let mut connection = options.disable_statement_logging().connect().await.map_err(said)?;
        if let Some(left) = self.left.clone() {
            end_backend(&mut connection, &left).await.map_err(said)?;
            self.left = None;
        }
        let found = schema::prepare(&mut connection, self.settings.layout).await?;
        if !std::mem::replace(&mut self.told, true) {
            tracing::info!(sink = self.settings.name, "{}", found.message(self.settings.layout));
        }
        let backend = backend_of(&mut connection).await.map_err(said)?;
        Ok(Session { connection, writer: Writer::new(self.settings.layout, found), backend })
    }

    /// Gives the connection up; what it left at the server is ended by the next one.
    fn give_up(&mut self) {
        if let Some(session) = self.session.take() {
            self.left = Some(session.backend);
        }
    }

    async fn place(&mut self) -> Result<Option<u64>, String> {
        let key = self.key();
        let session = self.session().await?;
        let query = sqlx::query("SELECT seq FROM quiver_sink_places WHERE queue = $1");
        let asking = query.bind(key).fetch_optional(&mut session.connection);
        let row = timeout(CONNECT_TIMEOUT, asking).await.map_err(|_| NO_ANSWER)?.map_err(said)?;
        Ok(row.and_then(|row| u64::try_from(row.get::<i64, _>(0)).ok()))
    }

    fn key(&self) -> String {
        format!("{}/{}", self.settings.queue_id, self.settings.name)
    }

    async fn bring(&mut self, window: &Window) -> Result<(), Failed> {
        let (key, name, careful) = (self.key(), self.settings.name.clone(), self.refusals > 1);
        let oldest_ms = self.oldest_ms();
        let session = self.session().await.map_err(|text| Failed { text, rows: false })?;
        let written = async {
            session.writer.begin(&mut session.connection, window, oldest_ms).await?;
            let mut transaction = session.connection.begin().await?;
            let written = match careful {
                false => session.writer.write(&mut transaction, Part::of(window)).await?,
                true => write_carefully(&mut session.writer, &mut transaction, window, &name).await?,
            };
            let seq = i64::try_from(window.last_seq).unwrap_or(i64::MAX);
            // The lock of the row decides: a connection that was left may have brought the window and be about to end.
            let moved = sqlx::query(
                "INSERT INTO quiver_sink_places AS p (queue, seq) VALUES ($1, $2) ON CONFLICT (queue) DO UPDATE \
                 SET seq = excluded.seq, updated_at = now() WHERE p.seq < excluded.seq",
            );
            if moved.bind(key).bind(seq).execute(&mut *transaction).await?.rows_affected() == 0 {
                // Rolled back; the next try asks for the place, and finds it behind this window.
                return Err(sqlx::Error::Protocol("the window is there already".into()));
            }
            transaction.commit().await?;
            Ok::<_, sqlx::Error>(written)
        };
        let late = || Failed { text: "no answer within 120 s".to_owned(), rows: false };
        let written = timeout(WINDOW_TIMEOUT, written).await.map_err(|_| late())??;
        let stats = &self.stats;
        SinkStats::add(&stats.sent, written.stored);
        SinkStats::add(&stats.duplicates, written.duplicates);
        SinkStats::add(&stats.unwritable, written.unwritable);
        SinkStats::add(&stats.filtered, written.filtered);
        SinkStats::add(&stats.failed, written.failed);
        SinkStats::add(&stats.bytes, written.bytes);
        Ok(())
    }

    /// Gives the time in front of which nothing is kept there.
    fn oldest_ms(&self) -> i64 {
        let kept_ms = self.settings.retention.map(|kept| i64::try_from(kept.as_millis()).unwrap_or(i64::MAX));
        kept_ms.map_or(i64::MIN, |kept_ms| (self.settings.now_ms)().saturating_sub(kept_ms))
    }

    /// Drops what is older than what is kept, now and then.
    async fn drop_old(&mut self) {
        if self.settings.retention.is_none() || self.dropped_at.is_some_and(|at| at.elapsed() < DROP_EVERY) {
            return;
        }
        self.dropped_at = Some(Instant::now());
        let (oldest_ms, name) = (self.oldest_ms(), self.settings.name.clone());
        let Some(session) = &mut self.session else { return };
        let dropping = session.writer.drop_old(&mut session.connection, oldest_ms);
        match timeout(WINDOW_TIMEOUT, dropping).await {
            Ok(Ok(0)) => {}
            Ok(Ok(count)) => tracing::info!(sink = name, partitions = count, "old samples are dropped"),
            Ok(Err(error)) => tracing::warn!(sink = name, "old samples cannot be dropped: {}", said(error)),
            Err(_) => {
                tracing::warn!(sink = name, "old samples cannot be dropped within 120 s");
                self.give_up();
            }
        }
    }
}

/// Writes a window part by part, each behind a savepoint, so that rows which the database refuses cost themselves.
async fn write_carefully(
    writer: &mut Writer,
    transaction: &mut sqlx::Transaction<'_, sqlx::Postgres>,
    window: &Window,
    sink: &str,
) -> Result<Written, sqlx::Error> {
    let (mut all, mut in_a_row, mut waiting) = (Written::default(), 0, vec![Part::of(window)]);
    // Behind half of the time parts are not divided any more, so that the window comes to an end.
    let began = Instant::now();
    let may_divide = |in_a_row: usize| in_a_row < REFUSALS_MAX && began.elapsed() < WINDOW_TIMEOUT / 2;
    while let Some(part) = waiting.pop() {
        let mut savepoint = transaction.begin().await?;
        match writer.write(&mut savepoint, part).await {
            Ok(written) => {
                savepoint.commit().await?;
                all.add(written);
                in_a_row = 0;
            }
            Err(error) if is_of_rows(&error) => {
                savepoint.rollback().await?;
                writer.undo();
                in_a_row += 1;
                match part.halves().filter(|_| may_divide(in_a_row)) {
                    Some((first, second)) => waiting.extend([second, first]),
                    None => {
                        let text = said(error);
                        tracing::error!(sink, samples = part.len(), "the database refused samples for good: {text}");
                        all.failed += part.len();
                    }
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// Tells whether an error concerns the rows: their data, a constraint, a limit of the program, or what a trigger says.
fn is_of_rows(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| ["21", "22", "23", "54", "P0"].iter().any(|class| code.starts_with(class)))
}

async fn backend_of(connection: &mut PgConnection) -> Result<Backend, sqlx::Error> {
    let query = "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()";
    let row = sqlx::query(query).fetch_one(connection).await?;
    Ok(Backend { pid: row.get(0), started: row.get(1) })
}

/// Ends a process of ours at the server, if it is still there: nobody hears it any more, and what it locks waits for it.
async fn end_backend(connection: &mut PgConnection, backend: &Backend) -> Result<(), sqlx::Error> {
    let query = sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start::text = $2 \
         AND application_name = current_setting('application_name') AND pid <> pg_backend_pid()",
    );
    query.bind(backend.pid).bind(&backend.started).execute(connection).await.map(|_| ())
}

/// Says what is wrong, without what was sent.
fn said(error: sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => match error.code() {
            Some(code) => format!("{} (SQLSTATE {code})", error.message()),
            None => error.message().to_owned(),
        },
        other => other.to_string(),
    }
}

impl Sink for Postgres {
    fn resume(&mut self) -> Later<'_, Result<Option<u64>, Again>> {
        Box::pin(async move {
            let place = self.place().await;
            place.map_err(|text| {
                self.give_up();
                Again(text)
            })
        })
    }

    fn rewind(&mut self, seq: u64) -> Later<'_, Result<(), Again>> {
        Box::pin(async move {
            let key = self.key();
            let set = async {
                let session = self.session().await?;
                let query = sqlx::query("UPDATE quiver_sink_places SET seq = $2, updated_at = now() WHERE queue = $1");
                let query = query.bind(key).bind(i64::try_from(seq).unwrap_or(i64::MAX));
                let setting = query.execute(&mut session.connection);
                timeout(CONNECT_TIMEOUT, setting).await.map_err(|_| NO_ANSWER)?.map(|_| ()).map_err(said)
            };
            set.await.map_err(|text| {
                self.give_up();
                Again(text)
            })
        })
    }

    fn deliver<'a>(&'a mut self, window: &'a Window) -> Later<'a, Result<(), Again>> {
        Box::pin(async move {
            // A window that was broken off may be committed: the database knows.
            if self.session.is_none() {
                let place = self.place().await.map_err(|text| {
                    self.give_up();
                    Again(text)
                });
                if place?.is_some_and(|seq| seq >= window.last_seq) {
                    SinkStats::add(&self.stats.sent, window.len());
                    return Ok(());
                }
            }
            let brought = self.bring(window).await;
            self.refusals = if brought.as_ref().is_err_and(|failed| failed.rows) { self.refusals + 1 } else { 0 };
            brought.map_err(|failed| {
                self.give_up();
                Again(failed.text)
            })?;
            self.drop_old().await;
            Ok(())
        })
    }
}
