//! Sending a body until it was taken or refused for good.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use crate::{MakePost, Post, SinkStats};

/// The longest pause that a place can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
/// So many refusals in a row say that splitting does not help.
const REFUSALS_MAX: usize = 64;
/// Of an answer's text so much goes to the log.
const TEXT_SHOWN_MAX: usize = 500;

/// How requests are made up and sent; Prometheus' `queue_config`.
#[derive(Clone, PartialEq, Debug)]
pub struct HttpSettings {
    /// The sink's name, for the log.
    pub name: String,
    /// Requests at once: at least, at most.
    pub shards: (usize, usize),
    /// Samples of one request.
    pub samples_max: usize,
    /// How long samples wait for others.
    pub gather: Duration,
    /// First pause after a failure, and the longest.
    pub backoff: (Duration, Duration),
    /// Whether 429 is tried again.
    pub retry_on_429: bool,
    /// Whether 401, 403 and 404 are tried again: a wrong token or a database that is not made yet says nothing of samples.
    /// Remote write forbids it.
    pub retry_on_access: bool,
}

impl Default for HttpSettings {
    fn default() -> HttpSettings {
        HttpSettings {
            name: String::new(),
            shards: (1, 50),
            samples_max: 2_000,
            gather: Duration::from_secs(5),
            backoff: (Duration::from_millis(30), Duration::from_secs(5)),
            retry_on_429: true,
            retry_on_access: false,
        }
    }
}

/// What became of a body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    /// It was taken.
    Taken {
        /// How many samples were written, when the answer says so.
        written: Option<u64>,
    },
    /// It was refused for good.
    Refused {
        /// HTTP status.
        status: u16,
        /// The beginning of the answer.
        text: String,
        /// How many samples were written all the same, when the answer says so.
        written: Option<u64>,
    },
}

/// Senders with a connection each.
pub struct Courier {
    pub settings: HttpSettings,
    pub stats: Arc<SinkStats>,
    make: MakePost,
    posts: Vec<Box<dyn Post>>,
}

impl Courier {
    pub fn new(settings: HttpSettings, make: MakePost, stats: Arc<SinkStats>) -> Courier {
        Courier { settings, stats, make, posts: Vec::new() }
    }

    /// Chooses how many requests go at once for so many samples, and connects as many senders.
    pub fn shards_for(&mut self, samples: usize) -> usize {
        let (min, max) = self.settings.shards;
        let shards = samples.div_ceil(self.settings.samples_max.max(1)).clamp(min.max(1), max.max(min).max(1));
        while self.posts.len() < shards {
            self.posts.push((self.make)());
        }
        self.stats.shards.store(shards as u64, Ordering::Relaxed);
        shards
    }

    /// Sends a body by one of the senders; comes back when it was taken or refused for good.
    pub async fn send(&self, shard: usize, headers: &[(&'static str, String)], body: Vec<u8>) -> Said {
        let body = Bytes::from(body);
        let mut pause = self.settings.backoff.0;
        loop {
            let Some(post) = self.posts.get(shard) else {
                return Said::Refused { status: 0, text: "no sender".to_owned(), written: None };
            };
            let (text, after) = match post.post(headers, body.clone()).await {
                Ok(answer) if (200..300).contains(&answer.status) => {
                    SinkStats::add(&self.stats.bytes, body.len());
                    if self.stats.trouble(None) {
                        tracing::info!(sink = self.settings.name, "the sink takes samples again");
                    }
                    return Said::Taken { written: answer.written };
                }
                Ok(answer) if self.is_passing(answer.status) => {
                    let after = answer.retry_after_s.map(Duration::from_secs);
                    (format!("status {}: {}", answer.status, shown(&answer.text)), after)
                }
                Ok(answer) => {
                    return Said::Refused { status: answer.status, text: shown(&answer.text), written: answer.written };
                }
                Err(text) => (text, None),
            };
            if self.stats.trouble(Some(&text)) {
                tracing::warn!(sink = self.settings.name, "the sink takes nothing: {text}; it is tried again");
            }
            self.stats.retries.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(after.map_or(pause, |after| after.min(RETRY_AFTER_MAX).max(pause))).await;
            pause = (pause * 2).min(self.settings.backoff.1);
        }
    }

    /// Sends a body once, by the first of the senders; tells whether it was taken.
    pub async fn try_once(&self, headers: &[(&'static str, String)], body: Vec<u8>) -> Result<(), String> {
        let Some(post) = self.posts.first() else { return Err("no sender".to_owned()) };
        let answer = post.post(headers, Bytes::from(body)).await?;
        if (200..300).contains(&answer.status) { Ok(()) } else { Err(shown(&answer.text)) }
    }

    fn is_passing(&self, status: u16) -> bool {
        match status {
            429 => self.settings.retry_on_429,
            401 | 403 | 404 => self.settings.retry_on_access,
            // A place that is elsewhere, or a page to log in, says nothing of samples; 408 and 425 say it themselves.
            _ => status < 200 || (300..400).contains(&status) || status >= 500 || matches!(status, 408 | 425),
        }
    }

    /// Counts and tells samples that were refused for good.
    pub fn refused(&self, samples: usize, status: u16, text: &str) {
        SinkStats::add(&self.stats.failed, samples);
        tracing::error!(sink = self.settings.name, status, samples, "the sink refused samples for good: {text}");
    }
}

/// What requests of one sink are made of.
pub trait Parcel<T>: Sync {
    /// Writes a request.
    fn encode(&self, items: &[T]) -> Result<Vec<u8>, String>;
    /// Its headers.
    fn headers(&self) -> Vec<(&'static str, String)>;
    /// Tells whether a refusal concerns the request as a whole, so that its halves may fare better.
    fn is_whole(&self, said: &Said) -> bool;
    /// Counts what was taken; tells whether the answer is that of a place that understood nothing.
    fn taken(&self, items: &[T], written: Option<u64>) -> Result<(), Misunderstood>;
    /// Tells whether a refusal says that the place does not know such requests.
    fn is_foreign(&self, _said: &Said) -> bool {
        false
    }
    /// Counts what was refused for good.
    fn refused(&self, items: &[T], said: &Said);
}

/// The place does not know requests of this kind: nothing of them counts, neither as taken nor as refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Misunderstood;

impl Courier {
    /// Sends items in one request, and those of a refused request in two halves, and so on, in order: one bad sample must
    /// not cost the others. While so many refusals follow each other without anything being taken, parts are given up whole.
    ///
    /// **Gives** where it ended when the place does not know such requests: the items behind have not been sent.
    pub async fn deliver<T: Sync>(
        &self,
        shard: usize,
        items: &[T],
        parcel: &impl Parcel<T>,
    ) -> Result<(), (usize, Misunderstood)> {
        let mut done = 0;
        let headers = parcel.headers();
        let mut waiting = vec![items];
        let mut in_a_row = 0;
        while let Some(part) = waiting.pop() {
            let said = match parcel.encode(part) {
                Ok(body) => self.send(shard, &headers, body).await,
                Err(text) => Said::Refused { status: 0, text, written: None },
            };
            if let Said::Taken { written } = said {
                in_a_row = 0;
                parcel.taken(part, written).map_err(|misunderstood| (done, misunderstood))?;
                done += part.len();
                continue;
            }
            if parcel.is_foreign(&said) {
                return Err((done, Misunderstood));
            }
            in_a_row += 1;
            if part.len() > 1 && in_a_row < REFUSALS_MAX && parcel.is_whole(&said) {
                let (first, second) = part.split_at(part.len() / 2);
                waiting.extend([second, first]);
            } else {
                parcel.refused(part, &said);
                done += part.len();
            }
        }
        Ok(())
    }
}

fn shown(text: &str) -> String {
    text.trim().chars().take(TEXT_SHOWN_MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use parking_lot::Mutex;

    use super::*;
    use crate::{Answer, Later};

    /// Takes and refuses numbers, four bytes each.
    struct Picky {
        bad: fn(u32) -> bool,
        requests: Arc<AtomicUsize>,
        /// Answers first what passes by itself.
        passing: AtomicUsize,
    }

    impl Post for Picky {
        fn post<'a>(&'a self, _: &'a [(&'static str, String)], body: Bytes) -> Later<'a, Result<Answer, String>> {
            self.requests.fetch_add(1, Ordering::Relaxed);
            let passing = self.passing.fetch_add(1, Ordering::Relaxed);
            let bad = body.chunks(4).any(|four| (self.bad)(u32::from_le_bytes(four.try_into().unwrap())));
            let status = if bad { 400 } else { 204 };
            Box::pin(async move {
                match passing {
                    0 => Err("connection refused".to_owned()),
                    1 => Ok(Answer { status: 503, ..Answer::default() }),
                    2 => Ok(Answer { status: 429, retry_after_s: Some(0), ..Answer::default() }),
                    _ => Ok(Answer { status, ..Answer::default() }),
                }
            })
        }
    }

    #[derive(Default)]
    struct Numbers {
        taken: Mutex<Vec<u32>>,
        refused: Mutex<Vec<u32>>,
    }

    impl Parcel<u32> for Numbers {
        fn encode(&self, items: &[u32]) -> Result<Vec<u8>, String> {
            Ok(items.iter().flat_map(|n| n.to_le_bytes()).collect())
        }

        fn headers(&self) -> Vec<(&'static str, String)> {
            Vec::new()
        }

        fn is_whole(&self, said: &Said) -> bool {
            matches!(said, Said::Refused { status: 400, .. })
        }

        fn taken(&self, items: &[u32], _: Option<u64>) -> Result<(), Misunderstood> {
            self.taken.lock().extend_from_slice(items);
            Ok(())
        }

        fn refused(&self, items: &[u32], _: &Said) {
            self.refused.lock().extend_from_slice(items);
        }
    }

    /// Gives what was taken, what was given up, and the requests.
    async fn outcome(count: u32, bad: fn(u32) -> bool) -> (Vec<u32>, Vec<u32>, usize) {
        let (requests, stats) = (Arc::new(AtomicUsize::new(0)), Arc::new(SinkStats::default()));
        let counted = requests.clone();
        let make: MakePost =
            Box::new(move || Box::new(Picky { bad, requests: counted.clone(), passing: AtomicUsize::new(0) }));
        let pause = Duration::from_millis(1);
        let settings = HttpSettings { backoff: (pause, pause), ..HttpSettings::default() };
        let mut courier = Courier::new(settings, make, stats.clone());
        assert_eq!(courier.shards_for(1), 1);
        let (items, numbers) = ((0..count).collect::<Vec<_>>(), Numbers::default());
        courier.deliver(0, &items, &numbers).await.unwrap();
        assert_eq!(stats.retries.load(Ordering::Relaxed), 3, "no answer, 503 and 429 are tried again");
        (numbers.taken.into_inner(), numbers.refused.into_inner(), requests.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn bad_samples_cost_themselves_and_the_rest_goes_in_order() {
        let (taken, given_up, _) = outcome(2_000, |n| n % 97 == 3).await;
        assert_eq!(given_up.len(), 21, "{given_up:?}");
        assert!(given_up.iter().all(|n| n % 97 == 3) && taken.is_sorted());
        assert_eq!(taken.len() + given_up.len(), 2_000);
        let (taken, given_up, requests) = outcome(2_000, |n| n < 1_000).await;
        assert_eq!((taken.len(), given_up.len()), (1_000, 1_000));
        assert!(requests < 100, "{requests}");
    }

    #[tokio::test]
    async fn a_place_that_refuses_everything_is_not_asked_for_each_sample() {
        let (taken, given_up, requests) = outcome(100_000, |_| true).await;
        assert_eq!((taken.len(), given_up.len()), (0, 100_000));
        assert!(requests < 100, "{requests}");
    }

    #[test]
    fn requests_at_once_follow_the_work() {
        let make: MakePost = Box::new(|| {
            let (requests, passing) = (Arc::default(), AtomicUsize::new(0));
            Box::new(Picky { bad: |_| false, requests, passing })
        });
        let settings = HttpSettings { shards: (2, 5), samples_max: 100, ..HttpSettings::default() };
        let mut courier = Courier::new(settings, make, Arc::default());
        assert_eq!([1, 250, 9_999].map(|n| courier.shards_for(n)), [2, 3, 5]);
    }
}
