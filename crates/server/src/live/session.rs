//! One live query: the steps of the past, then each step when it is final, and again those that turn out otherwise.
//!
//! Invariant: what changed since a moment is asked before the steps are computed that this moment stands for, so that what comes
//! meanwhile is looked at later.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use http::StatusCode;
use promql::{EvalError, Value};
use tokio::sync::mpsc;

use super::kept::{Kept, Token};
use super::stats::LiveStats;
use super::steps::{Steps, failed};
use super::{Live, Seat};
use crate::prom::error::ApiError;
use crate::rest::problem::Problem;

/// Steps computed at a time.
const STEPS_AT_ONCE: i64 = 50;
/// Points that are held while a reader takes his time; more are computed step by step.
const HELD_POINTS_MAX: usize = 500_000;
/// What a series takes beside its points, as points.
const SERIES_POINTS: usize = 16;
/// How often what failed for want of time or room is tried again.
const TRIES: u32 = 5;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The expression.
    pub query: String,
    /// From step to step; steps lie at its multiples.
    pub step_ms: i64,
    /// A step is computed when it is so old.
    pub delay_ms: i64,
    /// Steps are looked at again for so long.
    pub correct_ms: i64,
    /// A hash of all this.
    pub question: u32,
}

/// What is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// One object, and the token that it brings.
    Object {
        /// Where the reader goes on who has got it; none leaves his as it is.
        id: Option<String>,
        /// As JSON.
        json: String,
    },
    /// Nothing, to show that somebody is there.
    Heartbeat,
}

impl Event {
    /// Gives it as JSON.
    pub fn json(self) -> String {
        match self {
            Event::Object { json, .. } => json,
            Event::Heartbeat => "{\"event\":\"heartbeat\"}".to_owned(),
        }
    }
}

/// Why it ends, for who reads to the end; set before the last event is taken.
pub type Closing = Arc<OnceLock<String>>;

/// One live query.
pub struct Session {
    live: Live,
    asked: Asked,
    events: mpsc::Sender<Event>,
    closing: Closing,
    kept: Kept,
    /// The step that is sent next.
    next_ms: i64,
    moment: u64,
    looked: Instant,
    spoken: Instant,
    _seat: Seat,
}

/// What became of an evaluation.
type Asking = Result<Result<Value, EvalError>, ApiError>;

/// Why it does not go on.
enum End {
    Gone,
    Slow,
    Stopping,
    Broken(String),
}

impl Session {
    /// Begins one.
    ///
    /// **Takes** the first step to send.
    pub fn new(live: Live, asked: Asked, next_ms: i64, seat: Seat) -> (Session, mpsc::Receiver<Event>, Closing) {
        // One waits while one is on its way; a reader who is behind gets the others when they are asked for.
        let (events, receiver) = mpsc::channel(1);
        let (closing, kept) = (Closing::default(), Kept::new(asked.step_ms, asked.correct_ms));
        let moment = live.0.parts.select.changes(0).moment;
        let now = Instant::now();
        LiveStats::add(&live.0.stats.opened, 1);
        let session = Session {
            live,
            asked,
            events,
            closing: closing.clone(),
            kept,
            next_ms,
            moment,
            looked: now,
            spoken: now,
            _seat: seat,
        };
        (session, receiver, closing)
    }

    /// Sends until the reader goes, is too slow, or the server stops.
    ///
    /// **Takes** the token of one who comes back.
    pub async fn run(mut self, token: Option<Token>) {
        let Err(end) = self.all(token).await;
        let stats = &self.live.0.stats;
        let problem = match end {
            End::Gone => return,
            End::Stopping => {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the server stops; come back with the token")
            }
            End::Slow => {
                LiveStats::add(&stats.slow, 1);
                let detail = "the reader took nothing for too long; come back with the last token that was read";
                Problem::new(StatusCode::REQUEST_TIMEOUT, "slow_reader", detail)
            }
            End::Broken(error) => {
                LiveStats::add(&stats.broken, 1);
                tracing::warn!(query = self.asked.query, error, "a live query ends");
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "query_failed", error)
            }
        };
        let error = serde_json::to_value(&problem).unwrap_or_default();
        // Nobody else sets it.
        let _ = self.closing.set(serde_json::json!({"event": "closed", "error": error}).to_string());
    }

    async fn all(&mut self, token: Option<Token>) -> Result<std::convert::Infallible, End> {
        if let Some(token) = token {
            self.take_up(token).await?;
        }
        let mut is_live = false;
        loop {
            self.correct().await?;
            self.advance().await?;
            if !std::mem::replace(&mut is_live, true) {
                let token = self.kept.token(self.asked.question, self.next_ms - self.asked.step_ms).to_string();
                let json = format!("{{\"event\":\"live\",\"token\":\"{token}\"}}");
                self.say(Event::Object { id: None, json }).await?;
            }
            if self.spoken.elapsed() >= self.live.0.parts.limits.heartbeat {
                self.say(Event::Heartbeat).await?;
            }
            self.wait().await?;
        }
    }

    /// Waits until there may be something to do.
    async fn wait(&self) -> Result<(), End> {
        let parts = &self.live.0.parts;
        let due_ms = self.next_ms.saturating_add(self.asked.delay_ms).saturating_sub((parts.now)());
        let due = std::time::Duration::from_millis(due_ms.max(1) as u64);
        let mut stop = parts.stop.clone();
        tokio::select! {
            () = tokio::time::sleep(due.min(parts.limits.look)) => Ok(()),
            _ = stop.wait_for(|stopped| *stopped) => Err(End::Stopping),
            () = self.events.closed() => Err(End::Gone),
        }
    }

    /// Sends the steps that are due.
    async fn advance(&mut self) -> Result<(), End> {
        loop {
            let final_ms = (self.live.0.parts.now)().saturating_sub(self.asked.delay_ms);
            let to_ms = self.at_or_before(final_ms).min(self.last_of(self.next_ms));
            if self.next_ms > to_ms {
                return Ok(());
            }
            let (mut at_ms, mut answers) = (self.next_ms, self.answers(self.next_ms, to_ms).await?);
            while at_ms <= to_ms {
                let answer = answers.at(at_ms, self).await?;
                self.kept.add(at_ms, &answer);
                self.next_ms = at_ms + self.asked.step_ms;
                LiveStats::add(&self.live.0.stats.steps, 1);
                let token = self.kept.token(self.asked.question, at_ms);
                self.tell("step", at_ms, &answer, Some(token)).await?;
                at_ms = self.next_ms;
            }
        }
    }

    /// Sends steps again that are not what they were.
    async fn correct(&mut self) -> Result<(), End> {
        let parts = &self.live.0.parts;
        if self.looked.elapsed() < parts.limits.look {
            return Ok(());
        }
        let changed = parts.select.changes(self.moment);
        if let Some((first_ms, last_ms)) = self.kept.span() {
            let from_ms = self.at_or_after(changed.from_ms.max(first_ms));
            let change = &mut |kept: &mut Kept, at_ms, answer: &[u8]| kept.change(at_ms, answer);
            self.again((from_ms, last_ms), i64::MIN, change).await?;
        }
        self.moment = changed.moment;
        self.looked = Instant::now();
        Ok(())
    }

    /// Computes steps again and sends those for which `differs` says so, with a token from one of them on.
    async fn again(
        &mut self,
        (from_ms, last_ms): (i64, i64),
        token_from_ms: i64,
        differs: &mut (dyn FnMut(&mut Kept, i64, &[u8]) -> bool + Send),
    ) -> Result<(), End> {
        let mut at_ms = from_ms;
        while at_ms <= last_ms {
            let to_ms = last_ms.min(self.last_of(at_ms));
            let mut answers = self.answers(at_ms, to_ms).await?;
            while at_ms <= to_ms {
                let answer = answers.at(at_ms, self).await?;
                if differs(&mut self.kept, at_ms, &answer) {
                    LiveStats::add(&self.live.0.stats.corrections, 1);
                    let token = (at_ms >= token_from_ms).then(|| self.kept.token(self.asked.question, last_ms));
                    self.tell("corrected", at_ms, &answer, token).await?;
                }
                at_ms += self.asked.step_ms;
            }
        }
        Ok(())
    }

    /// Goes on behind a token: when steps that were sent are not what they were, all that may be concerned are sent again.
    async fn take_up(&mut self, token: Token) -> Result<(), End> {
        let steps_ms = (i64::from(token.steps) - 1).saturating_mul(self.asked.step_ms);
        let sent = (token.last_ms.saturating_sub(steps_ms), token.last_ms);
        let look = &mut |kept: &mut Kept, at_ms, answer: &[u8]| {
            kept.add(at_ms, answer);
            false
        };
        self.again(sent, i64::MIN, look).await?;
        if self.kept.token(token.question, token.last_ms) == token {
            return Ok(());
        }
        let send = &mut |kept: &mut Kept, at_ms, answer: &[u8]| {
            kept.change(at_ms, answer);
            true
        };
        // Who goes away before the last of them comes back with the token that he had.
        self.again(sent, token.last_ms, send).await
    }

    /// Gives the last step that is computed together with one.
    fn last_of(&self, from_ms: i64) -> i64 {
        from_ms.saturating_add((STEPS_AT_ONCE - 1).saturating_mul(self.asked.step_ms))
    }

    fn at_or_before(&self, ts_ms: i64) -> i64 {
        ts_ms.div_euclid(self.asked.step_ms).saturating_mul(self.asked.step_ms)
    }

    fn at_or_after(&self, ts_ms: i64) -> i64 {
        let down_ms = self.at_or_before(ts_ms);
        if down_ms < ts_ms { down_ms.saturating_add(self.asked.step_ms) } else { down_ms }
    }

    /// Computes steps; what cannot be computed together is computed one by one, when its turn comes.
    async fn answers(&mut self, from_ms: i64, to_ms: i64) -> Result<Answers, End> {
        match self.evaluate(from_ms, to_ms).await? {
            Ok(steps) => Ok(Answers::All(steps)),
            Err(_) => Ok(Answers::OneByOne),
        }
    }

    /// Computes steps. What fails for want of time, memory or a readable store is tried again if it is one step.
    ///
    /// **Errors** of the inner kind are the same whenever it is tried.
    async fn evaluate(&mut self, from_ms: i64, to_ms: i64) -> Result<Result<Steps, EvalError>, End> {
        let limits = self.live.0.parts.limits;
        let mut tried = 0;
        loop {
            let error = match self.ask(from_ms, to_ms).await? {
                Ok(Ok(Value::Matrix(series))) => {
                    let points: usize = series.iter().map(|s| SERIES_POINTS + s.samples.len()).sum();
                    if from_ms < to_ms && points > HELD_POINTS_MAX {
                        return Ok(Err(EvalError::Execution("too much to hold: step by step".to_owned())));
                    }
                    let steps = (to_ms - from_ms) / self.asked.step_ms + 1;
                    LiveStats::add(&self.live.0.stats.evaluated, steps as u64);
                    return Ok(Ok(Steps::new(series, limits.step_bytes)));
                }
                Ok(Ok(_)) => return Err(End::Broken("the answer is no matrix".to_owned())),
                Ok(Err(error @ (EvalError::Execution(_) | EvalError::TooManySamples(_)))) => return Ok(Err(error)),
                Ok(Err(error)) if from_ms < to_ms => return Ok(Err(error)),
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.text,
            };
            tried += 1;
            if tried >= TRIES {
                return Err(End::Broken(error));
            }
            tracing::debug!(error, "a live query tries again");
            let mut stop = self.live.0.parts.stop.clone();
            tokio::select! {
                () = tokio::time::sleep(limits.look) => {}
                _ = stop.wait_for(|stopped| *stopped) => return Err(End::Stopping),
                () = self.events.closed() => return Err(End::Gone),
            }
        }
    }

    /// Evaluates steps once; who waits for that hears a heartbeat.
    async fn ask(&mut self, from_ms: i64, to_ms: i64) -> Result<Asking, End> {
        let (live, query, events) = (self.live.clone(), self.asked.query.clone(), self.events.clone());
        let range = Some((from_ms, to_ms, self.asked.step_ms));
        let mut asking = std::pin::pin!(live.0.parts.queries.try_value(&query, from_ms, range));
        loop {
            let due = self.spoken + live.0.parts.limits.heartbeat;
            tokio::select! {
                value = asking.as_mut() => return Ok(value),
                () = events.closed() => return Err(End::Gone),
                () = tokio::time::sleep_until(due.into()) => self.say(Event::Heartbeat).await?,
            }
        }
    }

    async fn tell(&mut self, word: &str, at_ms: i64, answer: &[u8], token: Option<Token>) -> Result<(), End> {
        let mut out = format!("{{\"event\":\"{word}\",\"time\":").into_bytes();
        crate::prom::json::timestamp(&mut out, at_ms);
        out.push(b',');
        out.extend_from_slice(answer);
        let id = token.map(|token| token.to_string());
        if let Some(id) = &id {
            out.extend_from_slice(format!(",\"token\":\"{id}\"").as_bytes());
        }
        out.push(b'}');
        self.say(Event::Object { id, json: String::from_utf8(out).unwrap_or_default() }).await
    }

    async fn say(&mut self, event: Event) -> Result<(), End> {
        let parts = &self.live.0.parts;
        let mut stop = parts.stop.clone();
        let sent = tokio::select! {
            sent = tokio::time::timeout(parts.limits.reader, self.events.send(event)) => sent,
            _ = stop.wait_for(|stopped| *stopped) => return Err(End::Stopping),
        };
        self.spoken = Instant::now();
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(End::Slow),
        }
    }
}

/// Steps that were computed, or are when their turn comes.
enum Answers {
    All(Steps),
    OneByOne,
}

impl Answers {
    async fn at(&mut self, at_ms: i64, session: &mut Session) -> Result<Vec<u8>, End> {
        match self {
            Answers::All(steps) => Ok(steps.at(at_ms)),
            Answers::OneByOne => match session.evaluate(at_ms, at_ms).await? {
                Ok(mut steps) => Ok(steps.at(at_ms)),
                Err(error) => {
                    LiveStats::add(&session.live.0.stats.failed_steps, 1);
                    Ok(failed(&error.to_string()))
                }
            },
        }
    }
}
