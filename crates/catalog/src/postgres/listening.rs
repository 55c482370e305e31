//! Hearing of what other servers change.
//!
//! Invariant: whoever opens a listener and then reads all rows misses nothing, as long as the listener gives no error.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::time::timeout;

use super::connections::{CONNECT_TIMEOUT, Connections, PostgresPlace};
use crate::CatalogError;

/// The channel that the triggers of the schema speak on.
const CHANNEL: &str = "quiver_targets";
/// After so much silence the connection is asked whether it still stands.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// News that come so shortly after each other are taken together.
const GATHER: Duration = Duration::from_millis(2);
/// Names taken at a time; more of them come with the next call.
const NAMES_MAX: usize = 500;

/// What was heard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// Nothing; the connection stands.
    Nothing,
    /// These targets changed.
    Targets(Vec<String>),
    /// All of them may have changed.
    All,
}

/// A connection that listens.
pub struct Listener {
    listener: PgListener,
    place: PostgresPlace,
    /// How often the driver connected. It does so again by itself, and says nothing of it.
    connects: Arc<AtomicU64>,
    /// What came while news were gathered, and is told with the next call.
    broke: Option<CatalogError>,
}

impl Listener {
    pub(super) async fn open(connections: &Connections) -> Result<Listener, CatalogError> {
        let place = connections.place.clone();
        let options = place.options()?;
        let connects = Arc::new(AtomicU64::new(0));
        let counter = connects.clone();
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(CONNECT_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .after_connect(move |_, _| {
                counter.fetch_add(1, Ordering::SeqCst);
                Box::pin(async { Ok(()) })
            })
            .connect_lazy_with(options);
        let open = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.eager_reconnect(false);
            listener.listen(CHANNEL).await?;
            Ok(listener)
        };
        match timeout(2 * CONNECT_TIMEOUT, open).await {
            Ok(Ok(listener)) => Ok(Listener { listener, place, connects, broke: None }),
            Ok(Err(error)) => Err(place.explain(error)),
            Err(_) => Err(place.away("no answer to LISTEN")),
        }
    }

    /// Waits for the next news, or until the silence becomes suspicious and the database answers that it is there.
    ///
    /// **Errors** mean that news may have been missed: open a new one.
    pub async fn next(&mut self) -> Result<Heard, CatalogError> {
        if let Some(error) = self.broke.take() {
            return Err(error);
        }
        let heard = match self.hear(SILENCE_MAX).await? {
            Some(first) => self.gather(first).await,
            None => {
                let asked = sqlx::query("SELECT 1").execute(&mut self.listener);
                match timeout(CONNECT_TIMEOUT, asked).await {
                    Ok(Ok(_)) => Heard::Nothing,
                    Ok(Err(error)) => return Err(self.place.explain(error)),
                    Err(_) => return Err(self.place.away("the connection that listens does not answer")),
                }
            }
        };
        // Last, because anything above may have connected anew.
        match self.connects.load(Ordering::SeqCst) {
            1 => Ok(heard),
            _ => Err(self.place.away("the connection that listens was another one")),
        }
    }

    /// Waits for a name; `None` when none comes in time.
    async fn hear(&mut self, limit: Duration) -> Result<Option<String>, CatalogError> {
        match timeout(limit, self.listener.try_recv()).await {
            Ok(Ok(Some(news))) => Ok(Some(news.payload().to_owned())),
            Ok(Ok(None)) => Err(self.place.away("the connection that listens was closed")),
            Ok(Err(error)) => Err(self.place.explain(error)),
            Err(_) => Ok(None),
        }
    }

    /// Takes the names that follow: whoever registers many does it in one go.
    async fn gather(&mut self, first: String) -> Heard {
        let mut names = vec![first];
        while names.len() < NAMES_MAX {
            match self.hear(GATHER).await {
                Ok(Some(name)) => names.push(name),
                Ok(None) => break,
                Err(error) => {
                    self.broke = Some(error);
                    break;
                }
            }
        }
        if names.iter().any(|name| name == "*") {
            return Heard::All;
        }
        names.sort_unstable();
        names.dedup();
        Heard::Targets(names)
    }
}
