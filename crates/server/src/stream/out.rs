//! Samples going out: first those of the past, then those that come.
//!
//! Invariants: 1. listening begins before the past is read, so that no sample falls between; 2. a sample that was stored while the
//! past was read is given once, unless it is older than [`SEAM_MS`]; 3. a slow reader holds up nobody: what it misses is counted and
//! told in its place.
//! Limits: [`LISTENERS_MAX`] listeners, [`SERIES_MAX`] series of the past, [`KEYS_MAX`] samples at the seam.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use model::{Labels, Matcher, Samples, Select, SeriesId, SeriesReader, TimeRange, is_stale};
use tokio::sync::{mpsc, watch};

use super::http::{ANSWERS_MAX, Streams};
use super::tap::{Listening, Stored};
use crate::prom::params::{Params, parse_time_ms};
use crate::prom::{histogram_json, json};
use crate::rest::problem::Problem;

/// Listeners at a time.
const LISTENERS_MAX: usize = 200;
/// Selectors of one listener.
const SELECTORS_MAX: usize = 50;
/// Series of the past of one listener.
const SERIES_MAX: usize = 200_000;
/// Series read at a time.
const READ_SERIES: usize = 16;
/// Samples of a line.
const LINE_SAMPLES_MAX: usize = 5_000;
/// Samples that are stored while the past is read and are older than this may come twice.
const SEAM_MS: i64 = 120_000;
/// Samples that are remembered for the seam.
const KEYS_MAX: usize = 2_000_000;
/// Who comes back with a token gets the samples since it, and those that came up to so much late before it.
const LATE_MS: i64 = 60_000;
/// Longest silence.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// A reader that takes nothing for so long is gone.
const READER_MAX: Duration = Duration::from_secs(120);
/// Series whose labels are remembered for one listener.
const KNOWN_MAX: usize = 1_000_000;

type Values = Vec<(i64, Stored)>;

/// Begins to send; the lines come out of the receiver.
///
/// **Errors** when the request is wrong or there are too many listeners.
pub fn begin(streams: &Streams, params: &Params) -> Result<mpsc::Receiver<String>, Problem> {
    let texts: Vec<&str> = params.all("match").chain(params.all("match[]")).collect();
    if texts.is_empty() {
        let detail = "match is missing: name the series, such as match=up";
        return Err(Problem::at(StatusCode::BAD_REQUEST, "missing_field", "?match", detail));
    }
    if texts.len() > SELECTORS_MAX {
        return Err(Problem::parameter("match", format!("at most {SELECTORS_MAX} selectors")));
    }
    let sets = promql::parse_selectors(&texts).map_err(|e| Problem::parameter("match", e.to_string()))?;
    let now_ms = (streams.parts().rest.now)();
    let from_ms = from_ms(params, now_ms)?;
    let seat = Seat::take(streams.listeners()).ok_or_else(|| {
        let detail = format!("{LISTENERS_MAX} listeners are here already");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_listeners", detail).retry_after_ms(10_000)
    })?;
    let (lines, receiver) = mpsc::channel(ANSWERS_MAX);
    let listening = streams.parts().tap.listen();
    let sender = Sender {
        streams: streams.clone(),
        sets: Arc::new(sets),
        listening,
        lines,
        known: HashMap::new(),
        seam: HashSet::new(),
        begun_ms: now_ms,
        _seat: seat,
    };
    tokio::spawn(sender.run(from_ms));
    Ok(receiver)
}

/// Gives where the past begins; `None` when none is wanted.
fn from_ms(params: &Params, now_ms: i64) -> Result<Option<i64>, Problem> {
    if let Some(token) = params.all("after").next().filter(|t| !t.is_empty()) {
        let ms = token.strip_prefix("t_").and_then(|ms| ms.parse::<i64>().ok());
        let ms = ms.ok_or_else(|| Problem::parameter("after", "that is no token of ours"))?;
        return Ok(Some(ms.saturating_sub(LATE_MS)));
    }
    let text = params.get("from");
    if text.is_empty() {
        return Ok(None);
    }
    since_ms(text, now_ms).map(Some).map_err(|e| Problem::parameter("from", e))
}

/// Reads a time: RFC 3339, Unix seconds, or a duration before now.
pub fn since_ms(text: &str, now_ms: i64) -> Result<i64, String> {
    let ago =
        model::parse_duration_ms(text.trim_start_matches('-')).ok().filter(|_| text.ends_with(char::is_alphabetic));
    match (ago, parse_time_ms(text)) {
        (Some(ago), _) if !text.contains('T') => Ok(now_ms.saturating_sub(ago)),
        (_, read) => read,
    }
}

/// A place among the listeners; given back on drop.
struct Seat(Arc<AtomicUsize>);

impl Seat {
    fn take(seats: &Arc<AtomicUsize>) -> Option<Seat> {
        let taken = seats.fetch_add(1, Ordering::Relaxed);
        let seat = Seat(seats.clone());
        (taken < LISTENERS_MAX).then_some(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Sender {
    streams: Streams,
    sets: Arc<Vec<Vec<Matcher>>>,
    listening: Listening,
    lines: mpsc::Sender<String>,
    /// The labels of series that are wanted; `None` for those that are not.
    known: HashMap<SeriesId, Option<Labels>>,
    /// Samples of the past that may come again: fingerprint and time.
    seam: HashSet<(u64, i64)>,
    begun_ms: i64,
    _seat: Seat,
}

/// The reader is gone, or the store cannot be read.
struct Gone;

impl Sender {
    async fn run(mut self, from_ms: Option<i64>) {
        let _ = self.all(from_ms).await;
    }

    async fn all(&mut self, from_ms: Option<i64>) -> Result<(), Gone> {
        if let Some(from_ms) = from_ms {
            self.past(from_ms).await?;
        }
        self.say(format!("{{\"live\":true,\"token\":\"t_{}\"}}", self.begun_ms)).await?;
        let mut stop = self.streams.parts().rest.stop.clone();
        loop {
            let silent = tokio::select! {
                () = self.listening.news() => false,
                _ = tokio::time::sleep(HEARTBEAT) => true,
                () = stopped(&mut stop) => return self.say("{\"closed\":\"stopping\"}".to_owned()).await,
                () = self.lines.closed() => return Err(Gone),
            };
            let token_ms = self.now_ms();
            if silent {
                self.say(format!("{{\"heartbeat\":true,\"token\":\"t_{token_ms}\"}}")).await?;
            }
            self.live(token_ms).await?;
        }
    }

    fn now_ms(&self) -> i64 {
        (self.streams.parts().rest.now)()
    }

    async fn say(&self, line: String) -> Result<(), Gone> {
        match tokio::time::timeout(READER_MAX, self.lines.send(line)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Gone),
        }
    }

    async fn fail(&self, detail: String) -> Gone {
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", detail);
        let error = serde_json::to_value(&problem).unwrap_or_default();
        let _ = self.say(serde_json::json!({"closed": "failed", "error": error}).to_string()).await;
        Gone
    }

    /// Sends the past, series by series.
    async fn past(&mut self, from_ms: i64) -> Result<(), Gone> {
        let range = TimeRange { start_ms: from_ms, end_ms: i64::MAX };
        let (select, sets) = (self.streams.parts().select.clone(), self.sets.clone());
        let found = tokio::task::spawn_blocking(move || find(&*select, &sets, range)).await;
        let mut readers = match found {
            Ok(Ok(readers)) => readers,
            Ok(Err(text)) => return Err(self.fail(text).await),
            Err(_) => return Err(self.fail("the past could not be read".to_owned()).await),
        };
        while !readers.is_empty() {
            let rest = readers.split_off(readers.len().min(READ_SERIES));
            let now = std::mem::replace(&mut readers, rest);
            let read = tokio::task::spawn_blocking(move || read(&now, range)).await;
            let series = match read {
                Ok(Ok(series)) => series,
                Ok(Err(text)) => return Err(self.fail(text).await),
                Err(_) => return Err(self.fail("the past could not be read".to_owned()).await),
            };
            for (labels, values) in series {
                self.remember(&labels, &values);
                self.send(&labels, &values, None).await?;
            }
        }
        Ok(())
    }

    fn remember(&mut self, labels: &Labels, values: &Values) {
        let fingerprint = labels.fingerprint().0;
        let seam_ms = self.begun_ms - SEAM_MS;
        for (ts_ms, _) in values.iter().rev().take_while(|(ts_ms, _)| *ts_ms >= seam_ms) {
            if self.seam.len() >= KEYS_MAX {
                return;
            }
            self.seam.insert((fingerprint, *ts_ms));
        }
    }

    /// Sends what has come.
    async fn live(&mut self, token_ms: i64) -> Result<(), Gone> {
        let (deliveries, missed) = self.listening.take();
        let stats = self.streams.stats();
        if missed > 0 {
            stats.missed.fetch_add(missed, Ordering::Relaxed);
        }
        let mut ids: Vec<SeriesId> = deliveries.iter().flat_map(|d| d.samples.iter().map(|s| s.0)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.retain(|id| !self.known.contains_key(id));
        self.learn(ids).await;
        let mut series: HashMap<SeriesId, Values> = HashMap::new();
        for (id, ts_ms, stored) in deliveries.iter().flat_map(|d| d.samples.iter()) {
            if self.known.get(id).is_some_and(Option::is_some) {
                series.entry(*id).or_default().push((*ts_ms, stored.clone()));
            }
        }
        for (id, mut values) in series {
            let Some(labels) = self.known.get(&id).cloned().flatten() else { continue };
            if !self.seam.is_empty() {
                let fingerprint = labels.fingerprint().0;
                values.retain(|(ts_ms, _)| !self.seam.remove(&(fingerprint, *ts_ms)));
            }
            self.send(&labels, &values, Some(token_ms)).await?;
        }
        if token_ms - self.begun_ms > SEAM_MS {
            self.seam = HashSet::new();
        }
        if missed > 0 {
            self.say(format!("{{\"missed\":{missed},\"token\":\"t_{token_ms}\"}}")).await?;
        }
        Ok(())
    }

    /// Asks for the labels of series that are new here.
    async fn learn(&mut self, ids: Vec<SeriesId>) {
        if ids.is_empty() {
            return;
        }
        if self.known.len() + ids.len() > KNOWN_MAX {
            self.known.clear();
        }
        let (tap_labels, asked) = (self.streams.parts().labels.clone(), ids.clone());
        let found = tokio::task::spawn_blocking(move || tap_labels(&asked)).await.unwrap_or_default();
        for (id, labels) in found {
            let wanted = self.sets.iter().any(|set| set.iter().all(|m| m.matches(labels.get(m.name()).unwrap_or(""))));
            self.known.insert(id, wanted.then_some(labels));
        }
        for id in ids {
            // Its series is gone already.
            self.known.entry(id).or_insert(None);
        }
    }

    async fn send(&self, labels: &Labels, values: &Values, token_ms: Option<i64>) -> Result<(), Gone> {
        for part in values.chunks(LINE_SAMPLES_MAX) {
            self.say(line(labels, part, token_ms)).await?;
            self.streams.stats().sent.fetch_add(part.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Waits for the server to stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stopped| *stopped).await;
}

/// Finds the series of all selectors, each once.
fn find(select: &dyn Select, sets: &[Vec<Matcher>], range: TimeRange) -> Result<Vec<Box<dyn SeriesReader>>, String> {
    let mut readers: Vec<Box<dyn SeriesReader>> = Vec::new();
    let mut seen = HashSet::new();
    for set in sets {
        for reader in select.select(set, range).map_err(|e| e.to_string())? {
            if sets.len() == 1 || seen.insert(reader.labels().clone()) {
                readers.push(reader);
            }
        }
        if readers.len() > SERIES_MAX {
            return Err(format!("the past of more than {SERIES_MAX} series is asked for; name fewer"));
        }
    }
    Ok(readers)
}

fn read(readers: &[Box<dyn SeriesReader>], range: TimeRange) -> Result<Vec<(Labels, Values)>, String> {
    let mut out = Vec::new();
    for reader in readers {
        let mut samples = Samples::default();
        reader.read(range, &mut samples).map_err(|e| e.to_string())?;
        let doubles = samples.ts_ms.iter().zip(&samples.values).map(|(ts, v)| (*ts, Stored::Value(*v)));
        let histograms = samples.histograms.iter().map(|(ts, h)| (*ts, Stored::Histogram(h.clone())));
        let mut values: Values = doubles.chain(histograms).collect();
        values.sort_by_key(|(ts, _)| *ts);
        if !values.is_empty() {
            out.push((reader.labels().clone(), values));
        }
    }
    Ok(out)
}

/// Writes a line: an element of a matrix as the query API has it, the ends of the series apart.
fn line(labels: &Labels, values: &[(i64, Stored)], token_ms: Option<i64>) -> String {
    let mut out = b"{\"metric\":".to_vec();
    json::labels(&mut out, labels);
    let doubles = |(ts, v): &(i64, Stored)| match v {
        Stored::Value(v) if !is_stale(*v) => Some((*ts, *v)),
        _ => None,
    };
    let ends = |(ts, v): &(i64, Stored)| matches!(v, Stored::Value(v) if is_stale(*v)).then_some(*ts);
    let histograms = |(ts, v): &(i64, Stored)| match v {
        Stored::Histogram(h) => Some((*ts, h.clone())),
        Stored::Value(_) => None,
    };
    if values.iter().any(|v| doubles(v).is_some()) {
        out.extend_from_slice(b",\"values\":");
        json::list(&mut out, values.iter().filter_map(doubles), |out, (ts, value)| {
            out.push(b'[');
            json::timestamp(out, ts);
            out.push(b',');
            json::value(out, value);
            out.push(b']');
        });
    }
    if values.iter().any(|v| histograms(v).is_some()) {
        out.extend_from_slice(b",\"histograms\":");
        json::list(&mut out, values.iter().filter_map(histograms), |out, (ts, h)| histogram_json::point(out, ts, &h));
    }
    if values.iter().any(|v| ends(v).is_some()) {
        out.extend_from_slice(b",\"stale\":");
        json::list(&mut out, values.iter().filter_map(ends), json::timestamp);
    }
    if let Some(token_ms) = token_ms {
        out.extend_from_slice(format!(",\"token\":\"t_{token_ms}\"").as_bytes());
    }
    out.push(b'}');
    String::from_utf8(out).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_shape_of_the_query_api() {
        let labels = Labels::from_pairs([("__name__", "a"), ("x", "\"")]);
        let values =
            [(1_500, Stored::Value(1.5)), (2_000, Stored::Value(model::stale_nan())), (3_000, Stored::Value(f64::NAN))];
        let shown: serde_json::Value = serde_json::from_str(&line(&labels, &values, Some(7))).unwrap();
        assert_eq!(
            shown,
            serde_json::json!({"metric": {"__name__": "a", "x": "\""}, "values": [[1.5, "1.5"], [3, "NaN"]], "stale": [2], "token": "t_7"})
        );
    }

    #[test]
    fn the_past_begins_where_it_is_asked_for() {
        let from = |query: &str| from_ms(&Params::parse(query), 1_000_000).map_err(|p| p.code.clone());
        assert_eq!(from(""), Ok(None));
        assert_eq!(from("from=5m"), Ok(Some(700_000)));
        assert_eq!(from("from=-5m"), Ok(Some(700_000)));
        assert_eq!(from("from=900"), Ok(Some(900_000)));
        assert_eq!(from("from=1970-01-01T00:00:10Z"), Ok(Some(10_000)));
        assert_eq!(from("after=t_500000&from=1"), Ok(Some(440_000)));
        assert!(from("after=500").is_err() && from("from=soon").is_err());
    }
}
