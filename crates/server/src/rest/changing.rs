//! What all changes of targets have in common: they queue up for one lock, and read what is registered in one way; and the
//! answer to a request that names an `Idempotency-Key` is kept.
//!
//! Limits: [`CHANGES_MAX`] changes wait or are under way; others are told to come again.

use axum::response::Response;
use catalog::{Claim, StoredResponse};
use collect::TargetSpec;
use http::StatusCode;
use serde_json::Value;
use tokio::sync::{MutexGuard, SemaphorePermit};

use super::Rest;
use super::custom::{in_progress, other_request, replay};
use super::problem::Problem;
use super::registration::Registration;

/// Changes of targets that wait or are under way.
pub const CHANGES_MAX: usize = 1_000;
/// How often a change is decided anew because another server was faster.
pub const TRIES_MAX: usize = 50;

/// The right to change targets; whoever holds it is the only one on this node.
pub struct Changing<'a> {
    _one: MutexGuard<'a, ()>,
    _room: SemaphorePermit<'a>,
}

impl Rest {
    /// Waits for the right to change targets.
    ///
    /// **Errors** with 503 when too many wait already.
    pub async fn begin_change(&self) -> Result<Changing<'_>, Problem> {
        let Ok(room) = self.changes.try_acquire() else {
            let detail = format!("{CHANGES_MAX} changes of targets wait for the catalog already");
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "catalog_busy", detail);
            return Err(problem.retry_after_ms(5_000));
        };
        Ok(Changing { _one: self.changing.lock().await, _room: room })
    }

    /// Reads what was registered; there is nothing to scrape where a source pushes.
    pub fn read_registered(&self, request: &Value) -> Result<(Registration, Option<TargetSpec>), Problem> {
        let registration = Registration::read(request, false, &self.address_policy)?;
        let spec = registration.to_spec(&self.address_policy, &self.vault)?;
        Ok((registration, spec))
    }
}

/// Others changed a target all the time.
pub fn never_first(target_id: &str) -> Problem {
    let detail = format!("target {target_id:?} is being changed by others all the time");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "catalog_busy", detail).retry_after_ms(1_000)
}

/// A request with a key: to be worked on, or answered already.
pub enum Once {
    /// Work on it, taking this time for now.
    Work(Claimed, i64),
    /// This was the answer.
    Answered(Response),
}

/// A key in use; dropped without an answer, it can be used again at once.
pub struct Claimed {
    rest: Rest,
    key: String,
    is_held: bool,
}

impl Once {
    /// Claims a key for a request, known by the hash of what makes it what it is.
    pub async fn claim(rest: &Rest, key: String, hash: u64, now_ms: i64) -> Result<Once, Problem> {
        match rest.catalog.claim_key(&key, hash, now_ms).await? {
            Claim::Done(response) => Ok(Once::Answered(replay(&response))),
            Claim::OtherRequest => Err(other_request()),
            Claim::InProgress => Err(in_progress()),
            Claim::Fresh { claimed_at_ms } => {
                Ok(Once::Work(Claimed { rest: rest.clone(), key, is_held: true }, claimed_at_ms))
            }
        }
    }
}

impl Claimed {
    /// Keeps the answer.
    pub async fn finish(mut self, response: &StoredResponse) -> Result<(), Problem> {
        let kept = self.rest.catalog.finish_key(&self.key, response).await;
        self.is_held = false;
        Ok(kept?)
    }

    /// Gives the key up, for other servers as well.
    pub async fn release(mut self) {
        self.rest.catalog.release_key(&self.key).await;
        self.is_held = false;
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        // Work that broke off must not hold the key until the next start; one that was given up may be somebody else's.
        if self.is_held {
            self.rest.catalog.abandon_key(&self.key);
        }
    }
}
