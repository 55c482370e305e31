//! A query of PostgreSQL or SQLite: each row is a sample of each metric.
//!
//! Invariants: 1. nothing can be changed: PostgreSQL runs the query in a transaction that only reads, SQLite opens the file so; 2.
//! nothing goes on when the time is up: both databases are told when to stop.
//! Limits: [`ROWS_MAX`] rows.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use collect::{Gather, Gathering};
use futures_util::TryStreamExt;
use serde_json::{Map, Value};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Column, Connection, Row};
use wire::Format;

use super::HttpJson;

const ROWS_MAX: usize = 100_000;
/// SQLite looks at the clock after so many of its steps.
const STEPS: i32 = 10_000;

/// Where a query goes.
#[derive(Clone, Debug)]
pub enum Database {
    /// With the password of the options, or that of a file that is read each time.
    Postgres {
        /// How to connect.
        options: Box<PgConnectOptions>,
        /// Holds the password.
        password_file: Option<PathBuf>,
    },
    /// A file.
    Sqlite(PathBuf),
}

/// A query and what its columns are.
#[derive(Clone, Debug)]
pub struct Sql {
    /// Where it goes.
    pub database: Database,
    /// One statement that gives rows.
    pub query: String,
    /// What the rows are; each is an object of its columns.
    pub rows: HttpJson,
    /// How long it may take.
    pub timeout: Duration,
}

impl Sql {
    async fn run(&self) -> Result<Vec<u8>, String> {
        let rows = match &self.database {
            Database::Postgres { options, password_file } => self.postgres(options, password_file.as_ref()).await?,
            Database::Sqlite(path) => self.sqlite(path).await?,
        };
        serde_json::to_vec(&rows).map_err(|e| e.to_string())
    }

    async fn postgres(&self, options: &PgConnectOptions, file: Option<&PathBuf>) -> Result<Vec<Value>, String> {
        let mut options = options.clone();
        if let Some(file) = file {
            let text = tokio::fs::read_to_string(file).await.map_err(|e| format!("{}: {e}", file.display()))?;
            options = options.password(text.trim_end_matches(['\r', '\n']));
        }
        let mut connection = PgConnection::connect_with(&options).await.map_err(said)?;
        let timeout = format!("SET statement_timeout = {}", self.timeout.as_millis().max(1));
        for statement in ["SET default_transaction_read_only = on", timeout.as_str()] {
            sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&mut connection).await.map_err(said)?;
        }
        let mut transaction = connection.begin().await.map_err(said)?;
        // As an object each row has whatever types it likes; and a subquery can be nothing but a query.
        let statement =
            format!("SELECT row_to_json(q)::text FROM ({}\n) AS q", self.query.trim().trim_end_matches(';'));
        let mut found = Vec::new();
        {
            let mut rows = sqlx::query_scalar::<_, Option<String>>(AssertSqlSafe(statement)).fetch(&mut *transaction);
            while let Some(row) = rows.try_next().await.map_err(said)? {
                found.push(serde_json::from_str(&row.unwrap_or_default()).map_err(|e| e.to_string())?);
                bounded(found.len())?;
            }
        }
        transaction.rollback().await.map_err(said)?;
        // Whether it hears of it changes nothing.
        let _ = connection.close().await;
        Ok(found)
    }

    async fn sqlite(&self, path: &PathBuf) -> Result<Vec<Value>, String> {
        let options = SqliteConnectOptions::new().filename(path).read_only(true).create_if_missing(false);
        let mut connection = SqliteConnection::connect_with(&options).await.map_err(said)?;
        let deadline = Instant::now() + self.timeout;
        connection.lock_handle().await.map_err(said)?.set_progress_handler(STEPS, move || Instant::now() < deadline);
        let statement = format!("SELECT * FROM ({}\n)", self.query.trim().trim_end_matches(';'));
        let mut found = Vec::new();
        {
            let mut rows = sqlx::query(AssertSqlSafe(statement)).fetch(&mut connection);
            while let Some(row) = rows.try_next().await.map_err(said)? {
                let mut object = Map::new();
                for column in row.columns() {
                    // SQLite writes every type as a text; what is a number is read again from it.
                    let text: Option<String> = row.try_get_unchecked(column.ordinal()).map_err(said)?;
                    object.insert(column.name().to_owned(), text.map_or(Value::Null, Value::String));
                }
                found.push(Value::Object(object));
                bounded(found.len())?;
            }
        }
        let _ = connection.close().await;
        Ok(found)
    }
}

fn bounded(rows: usize) -> Result<(), String> {
    if rows > ROWS_MAX { Err(format!("the query gives more than {ROWS_MAX} rows")) } else { Ok(()) }
}

/// Says what a database said; its errors hold no passwords.
fn said(error: sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        other => other.to_string(),
    }
}

impl Gather for Sql {
    fn gather(&self) -> Option<Gathering<'_>> {
        Some(Box::pin(self.run()))
    }

    fn read(&self, body: Vec<u8>, scrape_ms: i64) -> Result<(Format, Vec<u8>), String> {
        self.rows.read(body, scrape_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::{Mapping, Pick};
    use model::MetricType;

    fn sql(path: PathBuf, query: &str) -> Sql {
        let metric = Mapping {
            name: "orders".into(),
            metric_type: MetricType::Gauge,
            help: String::new(),
            items: "/*".into(),
            value: "/n".into(),
            labels: vec![("state".into(), Pick::At("/state".into()))],
        };
        let rows = HttpJson { metrics: vec![metric] };
        Sql { database: Database::Sqlite(path), query: query.into(), rows, timeout: Duration::from_millis(200) }
    }

    #[tokio::test]
    async fn rows_become_samples_and_nothing_can_be_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shop.db");
        let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
        for statement in
            ["CREATE TABLE o (state TEXT, n)", "INSERT INTO o VALUES ('open', 3), ('done', 4.5), ('odd', NULL)"]
        {
            sqlx::query(statement).execute(&mut connection).await.unwrap();
        }
        connection.close().await.unwrap();
        let good = sql(path.clone(), "SELECT state, n FROM o ORDER BY n DESC;");
        let (_, text) = good.read(good.run().await.unwrap(), 0).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "# TYPE orders gauge\norders{state=\"done\"} 4.5\norders{state=\"open\"} 3\n"
        );
        for bad in ["DELETE FROM o", "SELECT 1); DELETE FROM o; --", "SELECT nothing FROM o"] {
            assert!(sql(path.clone(), bad).run().await.is_err(), "{bad}");
        }
        let endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) AS n FROM c";
        assert!(sql(path.clone(), endless).run().await.is_err_and(|e| e.contains("interrupt")));
        assert!(sql(dir.path().join("none.db"), "SELECT 1 AS n").run().await.is_err());
        assert_eq!(good.run().await.map(|rows| rows.len() > 20), Ok(true));
    }
}
