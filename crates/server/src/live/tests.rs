//! Live queries over a real store: what was sent last of each step is what a range query gives, whatever came late or went.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use ::http::HeaderMap;
use model::{Append, Batch, Labels, Matcher, NO_FAMILY, TimeRange};
use serde_json::Value;
use store::{Doomed, Store, StoreConfig};
use sys::{RealClock, RealFs};
use tokio::sync::mpsc;

use super::session::{Closing, Event};
use super::*;
use crate::prom::QueryLimits;
use crate::prom::params::Params;

const STEP_MS: i64 = 15_000;
const QUERY: &str = "sum by (job) (rate(a_total[1m])) or g * 2";
/// Longer than any machine takes.
const PATIENCE: Duration = Duration::from_secs(60);

struct Bed {
    live: Live,
    store: Arc<Store>,
    queries: QueryService,
    now_ms: Arc<AtomicI64>,
    _stop: watch::Sender<bool>,
    _dir: tempfile::TempDir,
}

/// A store with a clock that the test moves.
fn bed(limits: LiveLimits) -> Bed {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { dir: dir.path().to_owned(), maintain_every_ms: 0, ..StoreConfig::default() };
    let (store, _) = Store::open(Arc::new(RealFs), Arc::new(RealClock::default()), config).unwrap();
    let wall_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    let now_ms = Arc::new(AtomicI64::new((wall_ms - 3 * 3_600_000) / 60_000 * 60_000));
    let now: Arc<dyn Fn() -> i64 + Send + Sync> = {
        let now_ms = now_ms.clone();
        Arc::new(move || now_ms.load(Ordering::SeqCst))
    };
    let queries = QueryService::new(store.clone(), QueryLimits::default(), now.clone());
    let (stop_sender, stop) = watch::channel(false);
    let live = Live::new(LiveParts { queries: queries.clone(), select: store.clone(), now, stop, limits });
    Bed { live, store, queries, now_ms, _stop: stop_sender, _dir: dir }
}

fn quick() -> LiveLimits {
    LiveLimits { look: Duration::from_millis(2), ..LiveLimits::default() }
}

impl Bed {
    fn begin(&self, query: &str, id: Option<&str>) -> Reader {
        let mut headers = HeaderMap::new();
        if let Some(id) = id {
            headers.insert("last-event-id", id.parse().unwrap());
        }
        let (events, closing) = self.live.begin(&headers, &Params::parse(query)).map_err(|p| p.detail.clone()).unwrap();
        Reader { events, _closing: closing, seen: BTreeMap::new(), token: None, steps: Vec::new(), corrected: 0 }
    }

    fn now(&self) -> i64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    fn write(&self, samples: &[(&str, &str, i64, f64)]) {
        let mut batch = Batch::default();
        for (name, job, ts_ms, value) in samples {
            let series = batch.push_labels(&Labels::from_pairs([("__name__", *name), ("job", *job)]), NO_FAMILY);
            batch.push_sample(series, *ts_ms, *value);
        }
        self.store.append(batch).1.unwrap();
    }

    /// Asks a range query for all steps that a reader has seen.
    async fn range(&self, seen: &BTreeMap<i64, Value>) -> BTreeMap<i64, Value> {
        let (first, last) = (*seen.keys().next().unwrap(), *seen.keys().next_back().unwrap());
        let text = format!(
            "query={}&start={}&end={}&step=15&nocache=1",
            url::form_urlencoded::byte_serialize(QUERY.as_bytes()).collect::<String>(),
            first as f64 / 1e3,
            last as f64 / 1e3
        );
        let response = self.queries.range(&Params::parse(&text)).await.unwrap();
        let body = axum::body::to_bytes(response.into_body(), 10 << 20).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let mut out: BTreeMap<i64, Value> =
            (first..=last).step_by(STEP_MS as usize).map(|at| (at, Value::Array(Vec::new()))).collect();
        for series in body["data"]["result"].as_array().unwrap() {
            for point in series["values"].as_array().unwrap() {
                let at = (point[0].as_f64().unwrap() * 1e3) as i64;
                let row = serde_json::json!({"metric": series["metric"], "value": point});
                out.get_mut(&at).unwrap().as_array_mut().unwrap().push(row);
            }
        }
        out
    }
}

struct Reader {
    events: mpsc::Receiver<Event>,
    _closing: Closing,
    /// What came last of each step.
    seen: BTreeMap<i64, Value>,
    token: Option<String>,
    steps: Vec<i64>,
    corrected: usize,
}

impl Reader {
    async fn one(&mut self) -> Value {
        let event =
            tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("an event comes").expect("it goes on");
        let Event::Object { id, json } = event else { return Value::Null };
        let event: Value = serde_json::from_str(&json).unwrap();
        self.token = id.or(self.token.take());
        let at_ms = (event["time"].as_f64().unwrap_or(0.0) * 1e3) as i64;
        match event["event"].as_str().unwrap() {
            "step" => self.steps.push(at_ms),
            "corrected" => self.corrected += 1,
            _ => return event,
        }
        self.seen.insert(at_ms, event["result"].clone());
        event
    }

    /// Reads until all steps up to a time are seen.
    async fn until(&mut self, last_ms: i64) {
        let begun = Instant::now();
        while self.seen.keys().next_back().is_none_or(|at| *at < last_ms) {
            assert!(begun.elapsed() < PATIENCE, "no step {last_ms}: {:?}", self.seen);
            self.one().await;
        }
    }

    /// Reads until it has what a range query gives.
    async fn settled(&mut self, bed: &Bed) {
        let begun = Instant::now();
        loop {
            while let Ok(event) = tokio::time::timeout(Duration::from_millis(20), self.one()).await {
                drop(event);
            }
            let wanted = bed.range(&self.seen).await;
            if self.seen == wanted {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{:?}\n{wanted:?}", self.seen);
        }
    }

    fn has_each_step_once(&self) {
        assert!(self.steps.windows(2).all(|pair| pair[1] - pair[0] == STEP_MS), "{:?}", self.steps);
    }
}

fn asked(more: &str) -> String {
    let query: String = url::form_urlencoded::byte_serialize(QUERY.as_bytes()).collect();
    format!("query={query}&step=15s&delay=0{more}")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_last_is_what_a_range_query_gives() {
    let bed = bed(quick());
    let base_ms = bed.now() - 600_000;
    // A counter that is reset now and then, over the past and the present.
    let counter = |at_ms: i64| ((at_ms - base_ms) / 5_000 % 37) as f64;
    let fill = |from_ms: i64, to_ms: i64| {
        let times = (from_ms..to_ms).step_by(5_000);
        let all: Vec<_> =
            times.flat_map(|at| [("a_total", "x", at, counter(at)), ("g", "y", at, at as f64 / 7.0)]).collect();
        bed.write(&all);
    };
    fill(base_ms, bed.now());
    let mut reader = bed.begin(&asked("&from=5m"), None);
    for round in 0..12 {
        // Read before anything comes late: it may be told before the newest step is.
        let before = reader.corrected;
        bed.now_ms.fetch_add(STEP_MS, Ordering::SeqCst);
        fill(bed.now() - STEP_MS, bed.now());
        match round {
            // Late samples that change old steps, of a series there was and of a new one; then some are deleted.
            3 => bed.write(&[("a_total", "x", bed.now() - 62_001, 1_000.0), ("g", "late", bed.now() - 100_000, 1.0)]),
            7 => {
                let range = TimeRange { start_ms: bed.now() - 90_000, end_ms: bed.now() - 60_000 };
                bed.store.delete_series(&[Doomed::Matching(vec![Matcher::equal("__name__", "g")])], range).unwrap();
            }
            _ => {}
        }
        reader.until(bed.now()).await;
        if matches!(round, 3 | 7) {
            let begun = Instant::now();
            while reader.corrected == before {
                reader.one().await;
                assert!(begun.elapsed() < PATIENCE, "round {round}: what came late is not told");
            }
        }
    }
    reader.settled(&bed).await;
    reader.has_each_step_once();
    assert_eq!(reader.steps.len(), 20 + 1 + 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_gets_what_he_missed_and_what_has_changed_since() {
    let bed = bed(quick());
    let base_ms = bed.now() - 600_000;
    let fill = |from_ms: i64, to_ms: i64| {
        let all: Vec<_> = (from_ms..to_ms).step_by(5_000).map(|at| ("g", "y", at, (at - base_ms) as f64)).collect();
        bed.write(&all);
    };
    fill(base_ms, bed.now());
    let mut first = bed.begin(&asked("&from=5m"), None);
    first.until(bed.now()).await;
    first.settled(&bed).await;
    let (token, last_ms) = (first.token.clone().unwrap(), bed.now());
    let mut seen = first.seen.clone();
    drop(first);
    // Nothing has changed of what he has.
    bed.now_ms.fetch_add(4 * STEP_MS, Ordering::SeqCst);
    fill(last_ms + 1, bed.now());
    let mut second = bed.begin(&asked(""), Some(&token));
    second.until(bed.now()).await;
    second.has_each_step_once();
    assert_eq!(second.steps.first(), Some(&(last_ms + STEP_MS)));
    seen.extend(std::mem::take(&mut second.seen));
    drop(second);
    // Something has.
    bed.write(&[("g", "late", last_ms - 200_000, 5.0)]);
    let mut third = bed.begin(&asked(&format!("&from={token}")), None);
    third.until(bed.now()).await;
    third.has_each_step_once();
    assert!(third.corrected >= 20, "all steps that he has are told again: {}", third.corrected);
    seen.extend(std::mem::take(&mut third.seen));
    assert_eq!(seen, bed.range(&seen).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_takes_nothing_is_told_and_left() {
    let bed = bed(LiveLimits { reader: Duration::from_millis(30), ..quick() });
    bed.write(&[("g", "y", bed.now(), 1.0)]);
    let reader = bed.begin(&asked("&from=5m"), None);
    let begun = Instant::now();
    while bed.live.0.stats.slow.load(Ordering::Relaxed) == 0 {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let Reader { mut events, _closing: closing, .. } = reader;
    assert!(events.recv().await.is_some() && events.recv().await.is_none(), "one was on its way");
    let told: Value = serde_json::from_str(closing.get().unwrap()).unwrap();
    assert_eq!((&told["event"], &told["error"]["code"]), (&Value::from("closed"), &Value::from("slow_reader")));
    while !bed.live.0.readers.lock().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "its place is not free");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_kept_up_to_date_is_refused_and_places_are_counted() {
    let bed = bed(LiveLimits { all: 3, of_one: 2, ..quick() });
    let refused = |query: &str| bed.live.begin(&HeaderMap::new(), &Params::parse(query)).map(|_| ()).unwrap_err();
    for (query, status, code) in [
        ("step=15s", 400, "missing_field"),
        ("query=up", 400, "missing_field"),
        ("query=up&step=0.5", 400, "invalid_parameter"),
        ("query=up&step=2d", 400, "invalid_parameter"),
        ("query=up&step=15s&delay=2h", 400, "invalid_parameter"),
        ("query=up(&step=15s", 400, "invalid_query"),
        ("query=up%5B5m%5D&step=15s", 400, "invalid_query"),
        ("query=up+%40+5&step=15s", 422, "not_live"),
        ("query=up+offset+-5m&step=15s", 422, "not_live"),
        ("query=up&step=1s&from=4h", 422, "too_many_steps"),
    ] {
        let problem = refused(query);
        assert_eq!((problem.status, problem.code.as_str()), (status, code), "{query}: {}", problem.detail);
    }
    let seats: Vec<Seat> = (0..2).map(|_| bed.live.seat(Some("token:a")).unwrap()).collect();
    assert!(bed.live.seat(Some("token:a")).is_none() && bed.live.seat(None).is_some(), "others have room");
    let last = bed.live.seat(Some("token:b"));
    assert!(last.is_some() && bed.live.seat(None).is_none());
    let problem = refused("query=up&step=15s");
    assert_eq!((problem.status, problem.code.as_str()), (429, "too_many_live_queries"));
    drop((seats, last));
    assert_eq!(bed.live.0.readers.lock().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_without_an_answer_says_why_and_the_others_go_on() {
    let bed = bed(quick());
    let at_ms = bed.now();
    bed.write(&[("g", "y", at_ms - 30_000, 1.0), ("g", "y", at_ms - 15_000, 1.0), ("g", "y", at_ms, 1.0)]);
    // For one step there are two series on both sides.
    let mut batch = Batch::default();
    for (name, more) in [("g", "1"), ("h", "1"), ("h", "2")] {
        let labels = Labels::from_pairs([("__name__", name), ("job", "y"), ("more", more)]);
        let series = batch.push_labels(&labels, NO_FAMILY);
        batch.push_sample(series, at_ms - 15_000, 2.0);
        batch.push_sample(series, at_ms - 14_000, f64::from_bits(model::STALE_NAN_BITS));
    }
    bed.store.append(batch).1.unwrap();
    let mut reader = bed.begin("query=g+*+on(job)+h&step=15s&delay=0&from=30s", None);
    reader.until(at_ms).await;
    let mut all = bed.begin("query=g+*+on(job)+h&step=15s&delay=0&from=30s", None);
    let mut errors = Vec::new();
    for _ in 0..3 {
        let event = all.one().await;
        errors.push(event["error"].as_str().map(str::to_owned));
    }
    assert!(errors[0].is_none() && errors[2].is_none(), "{errors:?}");
    assert!(errors[1].as_ref().is_some_and(|text| text.contains("many-to-many")), "{errors:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_is_too_large_says_so() {
    let bed = bed(LiveLimits { step_bytes: 150, ..quick() });
    bed.write(&[("one", "y", bed.now(), f64::NAN), ("many", "a", bed.now(), 1.0), ("many", "b", bed.now(), 1.0)]);
    let one = bed.begin("query=one&step=15s&delay=0", None).one().await;
    let expected =
        serde_json::json!([{"metric": {"__name__": "one", "job": "y"}, "value": [bed.now() / 1_000, "NaN"]}]);
    assert_eq!(one["result"], expected);
    let many = bed.begin("query=many&step=15s&delay=0", None).one().await;
    assert!(many["error"].as_str().is_some_and(|text| text.contains("more than 150 bytes")), "{many}");
    let none = bed.begin("query=none&step=15s&delay=0", None).one().await;
    assert_eq!((&none["resultType"], &none["result"]), (&Value::from("vector"), &serde_json::json!([])));
}
