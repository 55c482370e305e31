//! Something that was fetched and is good for a while: a token, or keys that end.
//!
//! Invariants: 1. one fetch at a time, however many ask; 2. what is still good is used while the next one is fetched, and when
//! that fails; 3. a failure is told to everybody for a moment, so that a dead issuer is not asked by each target of a job.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::outcome::ScrapeError;

/// What is left of a life when the next one is fetched, unless half of the life is shorter.
const RENEW: Duration = Duration::from_secs(300);
/// In the last moments of its life a thing is not used.
const MARGIN: Duration = Duration::from_secs(10);
/// So long a failure is the answer.
const FAILED: Duration = Duration::from_secs(2);

/// Keeps one thing, and fetches the next one in time.
pub(crate) struct Kept<T> {
    held: Mutex<Held<T>>,
    fetching: tokio::sync::Mutex<()>,
}

struct Held<T> {
    good: Option<Good<T>>,
    failed: Option<(ScrapeError, Instant)>,
}

struct Good<T> {
    thing: T,
    renew: Instant,
    until: Instant,
}

enum Found<T> {
    Fresh(T),
    Aging(T),
    Failed(ScrapeError),
    Nothing,
}

impl<T> Default for Kept<T> {
    fn default() -> Kept<T> {
        Kept { held: Mutex::new(Held { good: None, failed: None }), fetching: tokio::sync::Mutex::default() }
    }
}

impl<T: Clone> Kept<T> {
    /// Gives what is still good, or what is fetched now.
    ///
    /// **Takes** what fetches the thing and its life. **Errors** are those of the fetch.
    pub(crate) async fn get<F>(&self, fetch: impl FnOnce() -> F) -> Result<T, ScrapeError>
    where
        F: Future<Output = Result<(T, Duration), ScrapeError>>,
    {
        match self.look(Instant::now()) {
            Found::Fresh(thing) => return Ok(thing),
            Found::Failed(error) => return Err(error),
            Found::Aging(thing) => {
                let Ok(_one) = self.fetching.try_lock() else { return Ok(thing) };
                return Ok(self.keep(fetch().await).unwrap_or(thing));
            }
            Found::Nothing => {}
        }
        let _one = self.fetching.lock().await;
        match self.look(Instant::now()) {
            Found::Fresh(thing) | Found::Aging(thing) => Ok(thing),
            Found::Failed(error) => Err(error),
            Found::Nothing => self.keep(fetch().await),
        }
    }

    /// Forgets a thing that was not accepted.
    pub(crate) fn forget(&self) {
        self.held.lock().good = None;
    }

    fn look(&self, now: Instant) -> Found<T> {
        let held = self.held.lock();
        let failed = held.failed.as_ref().filter(|(_, at)| now.saturating_duration_since(*at) < FAILED);
        match (&held.good, failed) {
            (Some(good), failed) if now < good.until => {
                let fresh = now < good.renew || failed.is_some();
                if fresh { Found::Fresh(good.thing.clone()) } else { Found::Aging(good.thing.clone()) }
            }
            (_, Some((error, _))) => Found::Failed(error.clone()),
            _ => Found::Nothing,
        }
    }

    fn keep(&self, fetched: Result<(T, Duration), ScrapeError>) -> Result<T, ScrapeError> {
        let mut held = self.held.lock();
        let now = Instant::now();
        match fetched {
            Ok((thing, life)) => {
                let renew = now + (life / 2).max(life.saturating_sub(RENEW));
                let until = now + life.saturating_sub(MARGIN);
                *held = Held { good: Some(Good { thing: thing.clone(), renew, until }), failed: None };
                Ok(thing)
            }
            Err(error) => {
                held.failed = Some((error.clone(), now));
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::outcome::ScrapeErrorKind;

    fn failure() -> Result<(u32, Duration), ScrapeError> {
        Err(ScrapeError::new(ScrapeErrorKind::Credentials, "away"))
    }

    #[tokio::test]
    async fn many_who_ask_share_one_fetch() {
        let (kept, fetched) = (Kept::default(), AtomicU32::new(0));
        let ask = || {
            kept.get(|| async {
                tokio::task::yield_now().await;
                Ok((fetched.fetch_add(1, Ordering::Relaxed), Duration::from_secs(3_600)))
            })
        };
        let all = futures_util::future::join_all((0..50).map(|_| ask())).await;
        assert!(all.iter().all(|got| got == &Ok(0)), "{all:?}");
        kept.forget();
        assert_eq!(ask().await, Ok(1));
    }

    #[tokio::test]
    async fn what_is_still_good_is_used_when_the_next_one_cannot_be_had() {
        let kept = Kept::default();
        assert_eq!(kept.get(|| async { Ok((1, Duration::from_secs(3_600))) }).await, Ok(1));
        let age = |kept: &Kept<u32>| {
            if let Some(good) = &mut kept.held.lock().good {
                good.renew = Instant::now();
            }
        };
        age(&kept);
        assert_eq!(kept.get(|| async { failure() }).await, Ok(1));
        assert_eq!(kept.get(|| async { Ok((2, Duration::ZERO)) }).await, Ok(1), "it was asked a moment ago");
        kept.held.lock().failed = None;
        assert_eq!(kept.get(|| async { Ok((2, Duration::from_secs(3_600))) }).await, Ok(2));
    }

    #[tokio::test]
    async fn a_failure_is_told_to_all_for_a_moment_and_a_short_life_is_no_life() {
        let kept = Kept::default();
        assert!(kept.get(|| async { failure() }).await.is_err());
        assert!(kept.get(|| async { Ok((1, Duration::from_secs(60))) }).await.is_err(), "nobody asks again at once");
        kept.held.lock().failed = None;
        assert_eq!(kept.get(|| async { Ok((1, Duration::from_secs(5))) }).await, Ok(1));
        assert_eq!(kept.get(|| async { Ok((2, Duration::from_secs(60))) }).await, Ok(2));
    }
}
