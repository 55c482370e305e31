//! Hearing of what other servers change.
//!
//! Invariant: whoever opens a listener and then reads all rows misses nothing, as long as the listener gives no error.

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
}

impl Listener {
    pub(super) async fn open(connections: &Connections) -> Result<Listener, CatalogError> {
        let place = connections.place.clone();
        let options = place.options()?;
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(CONNECT_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(options);
        let open = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.eager_reconnect(false);
            listener.listen(CHANNEL).await?;
            Ok(listener)
        };
        match timeout(2 * CONNECT_TIMEOUT, open).await {
            Ok(Ok(listener)) => Ok(Listener { listener, place }),
            Ok(Err(error)) => Err(place.explain(error)),
            Err(_) => Err(place.away("no answer to LISTEN")),
        }
    }

    /// Waits for the next news, or until the silence becomes suspicious and the database answers that it is there.
    ///
    /// **Errors** mean that news may have been missed: open a new one.
    pub async fn next(&mut self) -> Result<Heard, CatalogError> {
        let first = match timeout(SILENCE_MAX, self.listener.try_recv()).await {
            Ok(Ok(Some(first))) => first,
            Ok(Ok(None)) => return Err(self.place.away("the connection that listens was closed")),
            Ok(Err(error)) => return Err(self.place.explain(error)),
            Err(_) => {
                let asked = sqlx::query("SELECT 1").execute(&mut self.listener);
                return match timeout(CONNECT_TIMEOUT, asked).await {
                    Ok(Ok(_)) => Ok(Heard::Nothing),
                    Ok(Err(error)) => Err(self.place.explain(error)),
                    Err(_) => Err(self.place.away("the connection that listens does not answer")),
                };
            }
        };
        let mut names = vec![first.payload().to_owned()];
        // Whoever registers many does it in one go; an error comes again with the next call.
        while names.len() < NAMES_MAX
            && let Ok(Ok(Some(next))) = timeout(GATHER, self.listener.try_recv()).await
        {
            names.push(next.payload().to_owned());
        }
        if names.iter().any(|name| name == "*") {
            return Ok(Heard::All);
        }
        names.sort_unstable();
        names.dedup();
        Ok(Heard::Targets(names))
    }
}
