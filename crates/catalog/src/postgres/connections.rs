//! Connections to PostgreSQL: a few, each used by one at a time, given up at the first doubt.
//!
//! Invariants: 1. nothing waits longer than its time; 2. a connection on which anything broke off is closed, never used
//! again; 3. while the database does not answer, one caller at a time tries it, [`RETRY_EVERY`] after the last one at the
//! earliest; all others are told at once what is known, so that whoever queued up behind a dead database is out again soon.
//! Limits: [`CONNECTIONS_MAX`] connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::CatalogError;

/// Connections at a time; the one that listens comes on top.
const CONNECTIONS_MAX: usize = 4;
/// For connecting, TLS and password included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection that rested so long is asked whether it still stands.
const PROBE_AFTER: Duration = Duration::from_secs(1);
/// While the database is away it is tried so often.
const RETRY_EVERY: Duration = Duration::from_millis(500);

/// Gives the password at the time of connecting, so that a rotated one is found; the error is a sentence.
pub type Password = Arc<dyn Fn() -> Result<String, String> + Send + Sync>;

/// Where the database is.
#[derive(Clone)]
pub struct PostgresPlace {
    options: PgConnectOptions,
    password: Option<Password>,
    shown: String,
}

impl PostgresPlace {
    /// Reads `postgres://user@host:5432/database?sslmode=verify-full&sslrootcert=/ca.pem`.
    ///
    /// **Takes** `password`: asked at each connect, wins over the one in the URL.
    /// **Errors** name what is wrong, never the password.
    pub fn parse(url: &str, password: Option<Password>) -> Result<PostgresPlace, String> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err("it must begin with postgres://".to_owned());
        }
        if url.split_once('?').is_some_and(|(_, query)| query.contains("password=")) {
            return Err("a password does not belong into the parameters, which are shown".to_owned());
        }
        let options: PgConnectOptions = url.parse().map_err(|e: sqlx::Error| match e {
            sqlx::Error::Configuration(reason) => reason.to_string(),
            other => other.to_string(),
        })?;
        let options = options.application_name("quiver").disable_statement_logging();
        let user = options.get_username();
        let database = options.get_database().unwrap_or(user);
        let shown = match options.get_socket() {
            Some(socket) => format!("postgres://{user}@{}/{database}", socket.display()),
            None => format!("postgres://{user}@{}:{}/{database}", options.get_host(), options.get_port()),
        };
        Ok(PostgresPlace { options, password, shown })
    }

    /// Gives the place without the password.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Gives what to connect with now.
    pub(super) fn options(&self) -> Result<PgConnectOptions, CatalogError> {
        match &self.password {
            None => Ok(self.options.clone()),
            Some(password) => {
                let password = password().map_err(|e| self.refused(format!("the password cannot be read: {e}")))?;
                Ok(self.options.clone().password(&password))
            }
        }
    }

    pub(super) fn away(&self, reason: impl std::fmt::Display) -> CatalogError {
        CatalogError::Away(format!("{}: {reason}", self.shown))
    }

    fn refused(&self, reason: impl std::fmt::Display) -> CatalogError {
        CatalogError::Refused(format!("{}: {reason}", self.shown))
    }

    /// Says what an error means to who runs the server.
    pub(super) fn explain(&self, error: sqlx::Error) -> CatalogError {
        match &error {
            sqlx::Error::Database(e) => {
                let (text, code) = (e.message().to_owned(), e.code().unwrap_or_default().into_owned());
                let user = self.options.get_username();
                match code.as_str() {
                    "28P01" | "28000" => self.refused(format!("{text}; check user and password of the catalog")),
                    "3D000" => self.refused(format!("{text}; create it: CREATE DATABASE ... OWNER \"{user}\"")),
                    "42501" => self.refused(format!(
                        "{text}; the user needs rights: GRANT CREATE, USAGE ON SCHEMA public TO \"{user}\""
                    )),
                    // Shutting down, starting, too many connections, a standby: it may be over in a moment.
                    "25006" => self.away(text),
                    _ if ["08", "40", "53", "57"].iter().any(|class| code.starts_with(class)) => self.away(text),
                    _ => CatalogError::Database(error),
                }
            }
            sqlx::Error::Tls(reason) => self.refused(format!("TLS: {reason}")),
            // Another authority's certificate, or one for another name: waiting does not heal it.
            sqlx::Error::Io(reason) if reason.to_string().contains("certificate") => {
                self.refused(format!("TLS: {reason}"))
            }
            sqlx::Error::Io(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => self.away(error),
            _ => CatalogError::Database(error),
        }
    }
}

/// What can be said about the connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ConnectionStats {
    /// Connections made.
    pub connected: u64,
    /// Calls that the database did not answer in time or in order.
    pub failed: u64,
}

/// The connections to one database.
pub struct Connections {
    pub place: PostgresPlace,
    idle: Mutex<Vec<(PgConnection, Instant)>>,
    room: Semaphore,
    trouble: Mutex<Option<Trouble>>,
    connected: AtomicU64,
    failed: AtomicU64,
}

/// Why the database is away.
struct Trouble {
    reason: String,
    /// When a call last failed.
    failed_at: Option<Instant>,
    /// Somebody is finding out whether it is back.
    is_tried: bool,
}

/// Finding out whether the database is back; ends on drop, also when it is broken off.
struct Trial<'a>(&'a Connections);

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if let Some(trouble) = &mut *self.0.trouble.lock() {
            trouble.is_tried = false;
        }
    }
}

/// A connection in use; it is closed on drop unless it was given back.
pub struct Lease<'a> {
    connections: &'a Connections,
    connection: PgConnection,
    _room: SemaphorePermit<'a>,
}

impl Lease<'_> {
    /// Gives the connection to work with.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// All went well: the connection may serve again.
    pub fn give_back(self) {
        self.connections.idle.lock().push((self.connection, Instant::now()));
    }
}

impl Connections {
    /// Makes none yet.
    pub fn new(place: PostgresPlace) -> Connections {
        Connections {
            place,
            idle: Mutex::default(),
            room: Semaphore::new(CONNECTIONS_MAX),
            trouble: Mutex::default(),
            connected: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// Gives a connection that stands.
    pub async fn lease(&self) -> Result<Lease<'_>, CatalogError> {
        let room = self.room.acquire().await.map_err(|e| self.place.away(e))?;
        let rested = self.idle.lock().pop();
        if let Some((mut connection, since)) = rested {
            let fresh = since.elapsed() < PROBE_AFTER;
            if fresh || matches!(timeout(CONNECT_TIMEOUT, connection.ping()).await, Ok(Ok(()))) {
                return Ok(Lease { connections: self, connection, _room: room });
            }
            // What rested beside it is as old or older.
            self.idle.lock().clear();
        }
        let connection = self.connect().await?;
        // It answered: nobody has to wait until this one's work is done.
        self.answers();
        Ok(Lease { connections: self, connection, _room: room })
    }

    async fn connect(&self) -> Result<PgConnection, CatalogError> {
        let options = self.place.options()?;
        let connection = match timeout(CONNECT_TIMEOUT, options.connect()).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(self.place.explain(error)),
            Err(_) => return Err(self.place.away(format!("no answer within {CONNECT_TIMEOUT:?}"))),
        };
        self.connected.fetch_add(1, Ordering::Relaxed);
        Ok(connection)
    }

    /// Does a piece of work within a time, and notes whether the database is there.
    pub async fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, CatalogError>>,
    ) -> Result<T, CatalogError> {
        let _trial = self.admit()?;
        let result = match timeout(limit, work).await {
            Ok(result) => result,
            Err(_) => Err(self.place.away(format!("no answer within {limit:?}"))),
        };
        match &result {
            Err(CatalogError::Away(reason) | CatalogError::Refused(reason)) => {
                self.failed(reason, Some(Instant::now()))
            }
            // An answer, if not the wanted one.
            _ => self.answers(),
        }
        result
    }

    /// Lets a call through, unless the database is away and somebody else finds out whether it is back.
    fn admit(&self) -> Result<Option<Trial<'_>>, CatalogError> {
        let mut trouble = self.trouble.lock();
        let Some(trouble) = &mut *trouble else { return Ok(None) };
        if trouble.is_tried || trouble.failed_at.is_some_and(|at| at.elapsed() < RETRY_EVERY) {
            return Err(CatalogError::Away(trouble.reason.clone()));
        }
        trouble.is_tried = true;
        Ok(Some(Trial(self)))
    }

    fn answers(&self) {
        if self.trouble.lock().take().is_some() {
            tracing::info!("the catalog's database answers again");
        }
    }

    /// Notes that the connection that listens broke; the others may stand, so the next call tries at once.
    pub fn listener_broke(&self, error: &CatalogError) {
        self.failed(&error.to_string(), None);
    }

    fn failed(&self, reason: &str, failed_at: Option<Instant>) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.idle.lock().clear();
        let mut trouble = self.trouble.lock();
        match &mut *trouble {
            Some(trouble) => {
                trouble.failed_at = failed_at.or(trouble.failed_at);
                // What a call found out is more than that nobody listens.
                if failed_at.is_some() {
                    reason.clone_into(&mut trouble.reason);
                }
            }
            none => {
                tracing::error!("the catalog's database is away, collection goes on: {reason}");
                *none = Some(Trouble { reason: reason.to_owned(), failed_at, is_tried: false });
            }
        }
    }

    /// Says why the database is away; `None` while it answers.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().as_ref().map(|t| t.reason.clone())
    }

    /// Gives the figures.
    pub fn stats(&self) -> ConnectionStats {
        ConnectionStats {
            connected: self.connected.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_tries_and_the_others_hear_what_is_known() {
        let place = PostgresPlace::parse("postgres://me@db/cat", None).unwrap();
        let connections = Connections::new(place);
        let fails = || async { Err::<(), _>(CatalogError::Refused("the wrong password".to_owned())) };
        let forever = || std::future::pending::<Result<(), CatalogError>>();
        assert!(matches!(connections.within(CONNECT_TIMEOUT, fails()).await, Err(CatalogError::Refused(_))));
        // Just tried: told at once, and neither counted nor taken for news.
        for _ in 0..10 {
            let told = connections.within(CONNECT_TIMEOUT, forever()).await;
            assert!(matches!(told, Err(CatalogError::Away(reason)) if reason.contains("password")));
        }
        connections.listener_broke(&CatalogError::Away("nobody listens".into()));
        assert_eq!(connections.trouble().as_deref(), Some("the wrong password"));
        assert_eq!(connections.stats().failed, 2);

        connections.trouble.lock().as_mut().unwrap().failed_at = None;
        let mut trial = Box::pin(connections.within(CONNECT_TIMEOUT, forever()));
        assert!(timeout(Duration::from_millis(1), trial.as_mut()).await.is_err(), "it is under way");
        let told = connections.within(CONNECT_TIMEOUT, forever()).await;
        assert!(matches!(told, Err(CatalogError::Away(_))), "one tries");
        drop(trial);
        connections.within(CONNECT_TIMEOUT, async { Ok(()) }).await.unwrap();
        assert_eq!(connections.trouble(), None, "one that was broken off holds nobody up");
    }

    #[test]
    fn places_are_read_and_shown_without_the_password() {
        let place = PostgresPlace::parse("postgres://me:s3cret@db:6543/cat?sslmode=require", None).unwrap();
        assert_eq!(place.shown(), "postgres://me@db:6543/cat");
        assert!(PostgresPlace::parse("mysql://h/d", None).is_err());
        let Err(error) = PostgresPlace::parse("postgres://me:s3cret@db/cat?sslmode=sometimes", None) else {
            panic!("there is no such mode");
        };
        assert!(error.contains("sometimes") && !error.contains("s3cret"), "{error}");
    }
}
