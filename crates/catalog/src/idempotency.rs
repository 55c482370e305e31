//! `Idempotency-Key`: the first answer to a key is the answer to all requests with it, for a day.
//!
//! Invariants: 1. a key is claimed durably before the work starts, with the time of the claim; a retry after a crash
//! gets the same time, so that samples stamped with it are duplicates of themselves; 2. a key in use by a request that
//! is still running is never given out twice; one that another server works on is taken over when that has not answered for
//! a minute.

use crate::rows::Asked;
use crate::{Catalog, CatalogError, IDEMPOTENCY_MS};

/// An answer that was given before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredResponse {
    /// HTTP status.
    pub status: u16,
    /// Header that must come back, such as `Location`; free text of the caller.
    pub head: String,
    /// The body.
    pub body: String,
}

/// What became of a claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Claim {
    /// The caller does the work, then calls [`Catalog::finish_key`] or [`Catalog::release_key`].
    Fresh {
        /// The time that the work must use as "now"; that of the first attempt when that one never finished.
        claimed_at_ms: i64,
    },
    /// The work was done; this was the answer.
    Done(StoredResponse),
    /// The same key was used for another request.
    OtherRequest,
    /// A request with this key is running.
    InProgress,
}

impl Catalog {
    /// Claims a key for a request.
    ///
    /// **Takes** the hash of everything that makes the request what it is.
    pub async fn claim_key(&self, key: &str, request_hash: u64, now_ms: i64) -> Result<Claim, CatalogError> {
        if !self.claims_in_flight.lock().insert(key.to_owned()) {
            return Ok(Claim::InProgress);
        }
        let asked = Asked {
            key,
            request_hash: request_hash as i64,
            now_ms,
            valid_from_ms: now_ms.saturating_sub(IDEMPOTENCY_MS),
        };
        let claim = self.database.claim(&asked).await;
        if !matches!(claim, Ok(Claim::Fresh { .. })) {
            self.claims_in_flight.lock().remove(key);
        }
        claim
    }

    /// Keeps the answer to a claimed key.
    pub async fn finish_key(&self, key: &str, response: &StoredResponse) -> Result<(), CatalogError> {
        let result = self.database.finish(key, response).await;
        self.claims_in_flight.lock().remove(key);
        result
    }

    /// Gives a claimed key up without an answer, so that it can be tried again at once, here or at another server; the time
    /// of the claim stays.
    pub async fn release_key(&self, key: &str) {
        if let Err(error) = self.database.release(key).await {
            tracing::warn!("an idempotency key is free for other servers in a minute: {error}");
        }
        self.claims_in_flight.lock().remove(key);
    }

    /// Takes a key for not in use here; for others it is in a minute.
    pub fn abandon_key(&self, key: &str) {
        self.claims_in_flight.lock().remove(key);
    }

    pub(crate) async fn prune_claims(&self, now_ms: i64) -> Result<(), CatalogError> {
        self.database.prune_claims(now_ms.saturating_sub(IDEMPOTENCY_MS)).await
    }
}
