//! PostgreSQL and TimescaleDB: binary COPY, and the place in the queue in the same transaction.
//!
//! Invariants: 1. a window and the place behind it are committed together, so that each sample is there exactly once,
//! whoever is killed; 2. values keep their bits: nothing goes as text; 3. rows that the columns cannot hold are counted as
//! unwritable, never cut short.
//! Fails how: anything that the database says or does not say rolls the window back and is tried again with a new
//! connection.

mod copy;
mod schema;
mod write;

use std::sync::Arc;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Row as _};
use tokio::time::{Duration, timeout};

use crate::run::{Again, Sink};
use crate::{Later, SinkStats, Window};

/// Where one transaction must have come to its end.
const WINDOW_TIMEOUT: Duration = Duration::from_secs(120);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

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
}

struct Session {
    connection: PgConnection,
    writer: write::Writer,
}

/// A PostgreSQL.
pub struct Postgres {
    settings: PostgresSettings,
    stats: Arc<SinkStats>,
    session: Option<Session>,
    told: bool,
}

impl Postgres {
    /// Makes one; nothing is connected yet.
    pub fn new(settings: PostgresSettings, stats: Arc<SinkStats>) -> Postgres {
        Postgres { settings, stats, session: None, told: false }
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
        let found = schema::prepare(&mut connection, self.settings.layout).await.map_err(said)?;
        if !std::mem::replace(&mut self.told, true) {
            tracing::info!(sink = self.settings.name, "{}", found.message(self.settings.layout));
        }
        Ok(Session { connection, writer: write::Writer::new(self.settings.layout, found) })
    }

    async fn place(&mut self) -> Result<Option<u64>, String> {
        let key = self.key();
        let session = self.session().await?;
        let query = sqlx::query("SELECT seq FROM quiver_sink_places WHERE queue = $1");
        let row = query.bind(key).fetch_optional(&mut session.connection).await.map_err(said)?;
        Ok(row.and_then(|row| u64::try_from(row.get::<i64, _>(0)).ok()))
    }

    fn key(&self) -> String {
        format!("{}/{}", self.settings.queue_id, self.settings.name)
    }

    async fn bring(&mut self, window: &Window) -> Result<(), String> {
        let key = self.key();
        let stats = self.stats.clone();
        let session = self.session().await?;
        let written = async {
            let mut transaction = session.connection.begin().await.map_err(said)?;
            let written = session.writer.write(&mut transaction, window).await.map_err(said)?;
            let seq = i64::try_from(window.last_seq).unwrap_or(i64::MAX);
            sqlx::query(
                "INSERT INTO quiver_sink_places AS p (queue, seq) VALUES ($1, $2) \
                 ON CONFLICT (queue) DO UPDATE SET seq = greatest(p.seq, excluded.seq), updated_at = now()",
            )
            .bind(key)
            .bind(seq)
            .execute(&mut *transaction)
            .await
            .map_err(said)?;
            transaction.commit().await.map_err(said)?;
            Ok::<_, String>(written)
        };
        let written = timeout(WINDOW_TIMEOUT, written).await.map_err(|_| "no answer within 120 s".to_owned())??;
        session.writer.commit();
        SinkStats::add(&stats.sent, written.stored);
        SinkStats::add(&stats.duplicates, written.duplicates);
        SinkStats::add(&stats.unwritable, written.unwritable);
        SinkStats::add(&stats.bytes, written.bytes);
        Ok(())
    }
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
                self.session = None;
                Again(text)
            })
        })
    }

    fn deliver<'a>(&'a mut self, window: &'a Window) -> Later<'a, Result<(), Again>> {
        Box::pin(async move {
            // A window that was broken off may be committed: the database knows.
            if self.session.is_none() && self.place().await.map_err(Again)?.is_some_and(|seq| seq >= window.last_seq) {
                return Ok(());
            }
            let brought = self.bring(window).await;
            brought.map_err(|text| {
                self.session = None;
                Again(text)
            })
        })
    }
}
