//! `Idempotency-Key`: the first answer to a key is the answer to all requests with it, for a day.
//!
//! Invariants: 1. a key is claimed durably before the work starts, with the time of the claim; a retry after a crash
//! gets the same time, so that samples stamped with it are duplicates of themselves; 2. a key in use by a request that
//! is still running is never given out twice.

use sqlx::Row;

use crate::{Catalog, CatalogError, IDEMPOTENCY_MS, time};

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
        let claim = self.claim_durably(key, request_hash as i64, now_ms).await;
        if !matches!(claim, Ok(Claim::Fresh { .. })) {
            self.claims_in_flight.lock().remove(key);
        }
        claim
    }

    async fn claim_durably(&self, key: &str, request_hash: i64, now_ms: i64) -> Result<Claim, CatalogError> {
        let mut writer = self.database.write().await;
        sqlx::query("DELETE FROM idempotency_keys WHERE idempotency_key = $1 AND claimed_at < $2")
            .bind(key)
            .bind(time::to_text(now_ms.saturating_sub(IDEMPOTENCY_MS)))
            .execute(&mut *writer)
            .await?;
        let fresh = sqlx::query(
            "INSERT INTO idempotency_keys (idempotency_key, request_hash, claimed_at) VALUES ($1, $2, $3) \
             ON CONFLICT (idempotency_key) DO NOTHING",
        )
        .bind(key)
        .bind(request_hash)
        .bind(time::to_text(now_ms))
        .execute(&mut *writer)
        .await?;
        if fresh.rows_affected() == 1 {
            return Ok(Claim::Fresh { claimed_at_ms: now_ms });
        }
        let row = sqlx::query(
            "SELECT request_hash, claimed_at, response_status, response_head, response_body \
             FROM idempotency_keys WHERE idempotency_key = $1",
        )
        .bind(key)
        .fetch_one(&mut *writer)
        .await?;
        if row.try_get::<i64, _>("request_hash")? != request_hash {
            return Ok(Claim::OtherRequest);
        }
        Ok(match row.try_get::<Option<i64>, _>("response_status")? {
            Some(status) => Claim::Done(StoredResponse {
                status: u16::try_from(status).unwrap_or(500),
                head: row.try_get::<Option<String>, _>("response_head")?.unwrap_or_default(),
                body: row.try_get::<Option<String>, _>("response_body")?.unwrap_or_default(),
            }),
            None => {
                let text: String = row.try_get("claimed_at")?;
                Claim::Fresh { claimed_at_ms: time::from_text(&text).unwrap_or(now_ms) }
            }
        })
    }

    /// Keeps the answer to a claimed key.
    pub async fn finish_key(&self, key: &str, response: &StoredResponse) -> Result<(), CatalogError> {
        let result = sqlx::query(
            "UPDATE idempotency_keys SET response_status = $1, response_head = $2, response_body = $3 \
             WHERE idempotency_key = $4",
        )
        .bind(i64::from(response.status))
        .bind(&response.head)
        .bind(&response.body)
        .bind(key)
        .execute(&mut *self.database.write().await)
        .await;
        self.claims_in_flight.lock().remove(key);
        Ok(result.map(drop)?)
    }

    /// Gives a claimed key up without an answer, so that it can be tried again at once; the time of the claim stays.
    pub fn release_key(&self, key: &str) {
        self.claims_in_flight.lock().remove(key);
    }

    pub(crate) async fn prune_claims(&self, now_ms: i64) -> Result<(), CatalogError> {
        sqlx::query("DELETE FROM idempotency_keys WHERE claimed_at < $1")
            .bind(time::to_text(now_ms.saturating_sub(IDEMPOTENCY_MS)))
            .execute(&mut *self.database.write().await)
            .await?;
        Ok(())
    }
}
