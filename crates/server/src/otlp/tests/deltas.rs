//! Points of delta temporality as a sender sees them: added once, whatever happens to requests, answers and the server.

use model::histogram::Histogram;
use wire::otlp::Deltas;

use super::*;

const DELTA: u8 = 1;
/// The times of the tests: seconds before now.
const T: [i64; 5] = [NOW - 50_000, NOW - 40_000, NOW - 30_000, NOW - 20_000, NOW - 10_000];

fn options() -> Options {
    Options { deltas: Deltas::Mark, target_info: false, ..Options::default() }
}

fn world() -> World {
    World::with_options(WriteLimits::default(), options())
}

impl World {
    /// Starts a server anew over what is stored.
    fn restarted(self) -> World {
        World::over(self.memory, WriteLimits::default(), options())
    }

    async fn push(&self, metrics: &[Value]) -> Option<(i64, String)> {
        self.json(&request(&[("service.name", "shop")], metrics)).await.success()
    }

    /// Gives the kept samples, times as places in [`T`].
    fn runs(&self) -> Vec<String> {
        let place = |ts_ms: i64| T.iter().position(|t| *t == ts_ms).map_or(ts_ms - NOW, |at| at as i64);
        let kept = self.memory.samples.lock();
        kept.iter().map(|((labels, ts_ms), v)| format!("{} {v} @{}", labels.metric_name(), place(*ts_ms))).collect()
    }

    fn figure(&self, outcome: &str) -> String {
        let mut page = Exposition::default();
        self.otlp.render(&mut page);
        let page = page.finish();
        let line = format!("quiver_otlp_delta_samples_total{{outcome=\"{outcome}\"}} ");
        page.lines().find_map(|l| l.strip_prefix(&line)).unwrap_or_else(|| panic!("{page}")).to_owned()
    }
}

fn between(start_ms: i64, ts_ms: i64, value: f64) -> Value {
    json!({"startTimeUnixNano": nanos(start_ms), "timeUnixNano": nanos(ts_ms), "asDouble": value})
}

fn steps(points: &[Value]) -> Value {
    sum("steps", DELTA, points)
}

#[tokio::test(flavor = "multi_thread")]
async fn points_are_added_up_and_one_that_comes_again_is_not() {
    let world = world();
    let (first, second) = ([steps(&[between(T[0], T[1], 3.0)])], [steps(&[between(T[1], T[2], 4.0)])]);
    for points in [&first, &first, &second, &second, &first] {
        assert_eq!(world.push(points).await, None);
    }
    let wanted = ["steps_total 0 @0", "steps_total 3 @1", "steps_total 7 @2"];
    assert_eq!(world.runs(), wanted);
    assert_eq!([world.figure("first"), world.figure("next"), world.figure("repeated")], ["1", "1", "3"]);

    let world = world.restarted();
    // The answer to the last batch got lost.
    assert_eq!(world.push(&second).await, None);
    assert_eq!(world.runs(), wanted);
    assert_eq!(world.push(&[steps(&[between(T[2], T[3], 5.0)])]).await, None);
    assert_eq!(world.runs()[3], "steps_total 12 @3");
    let world = world.restarted();
    assert_eq!(world.push(&[steps(&[between(T[3], T[4], 1.0)])]).await, None);
    assert_eq!(world.push(&first).await, None);
    assert_eq!(world.runs().len(), 5);
    assert_eq!(world.runs()[4], "steps_total 13 @4");
}

#[tokio::test(flavor = "multi_thread")]
async fn gaps_begin_anew_and_overlaps_and_late_points_are_refused() {
    let world = world();
    assert_eq!(world.push(&[steps(&[between(T[0], T[1], 3.0)])]).await, None);
    let (count, text) = world.push(&[steps(&[between(T[0], T[2], 9.0)])]).await.unwrap();
    assert_eq!(count, 1);
    assert!(text.contains("\"steps_total\": duplicate_conflict") && text.contains("overlaps"), "{text}");
    assert_eq!(world.push(&[steps(&[between(T[2], T[3], 5.0)])]).await, None);
    let (count, text) = world.push(&[steps(&[between(T[1], T[2], 9.0)])]).await.unwrap();
    assert_eq!(count, 1);
    // At its end there is the zero that the run after the gap began with.
    assert!(text.contains("duplicate_conflict"), "{text}");
    let wanted = ["steps_total 0 @0", "steps_total 3 @1", "steps_total 0 @2", "steps_total 5 @3"];
    assert_eq!(world.runs(), wanted);
    assert_eq!(world.figure("after_gap"), "1");
    // The same rules hold after a restart.
    let world = world.restarted();
    assert_eq!(world.push(&[steps(&[between(T[2], T[4], 9.0)])]).await.unwrap().0, 1);
    assert_eq!(world.push(&[steps(&[between(T[0] + 1, T[1] + 1, 9.0)])]).await.unwrap().0, 1);
    assert_eq!(world.runs(), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn points_of_one_request_may_come_in_any_order() {
    let world = world();
    let points = [between(T[1], T[2], 4.0), between(T[0], T[1], 3.0), between(T[2], T[3], 5.0)];
    assert_eq!(world.push(&[steps(&points), gauge("g", &[point(T[1], 1.0)])]).await, None);
    assert_eq!(
        world.runs(),
        ["g 1 @1", "steps_total 0 @0", "steps_total 3 @1", "steps_total 7 @2", "steps_total 12 @3"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_stored_is_not_added() {
    let world = world();
    let second = [steps(&[between(T[1], T[2], 4.0)])];
    assert_eq!(world.push(&[steps(&[between(T[0], T[1], 3.0)])]).await, None);
    *world.memory.fail.lock() = Some(AppendError::NoSpace("full".into()));
    for _ in 0..2 {
        world.json(&request(&[("service.name", "shop")], &second)).await.error(503, 14, "");
    }
    *world.memory.fail.lock() = None;
    assert_eq!(world.push(&second).await, None);
    assert_eq!(world.runs()[2], "steps_total 7 @2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_request_many_times_at_once_counts_once() {
    let world = Arc::new(world());
    assert_eq!(world.push(&[steps(&[between(T[0], T[1], 3.0)])]).await, None);
    let tries: Vec<_> = (0..20)
        .map(|_| {
            let world = world.clone();
            tokio::spawn(async move { world.push(&[steps(&[between(T[1], T[2], 4.0)])]).await })
        })
        .collect();
    for one in tries {
        assert_eq!(one.await.unwrap(), None);
    }
    assert_eq!(world.runs(), ["steps_total 0 @0", "steps_total 3 @1", "steps_total 7 @2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_kept_and_what_follows_begins_anew() {
    let world = world();
    assert_eq!(world.push(&[steps(&[between(T[0], T[1], 3.0)])]).await, None);
    let end = json!({"startTimeUnixNano": nanos(T[1]), "timeUnixNano": nanos(T[2]), "flags": 1});
    assert_eq!(world.push(&[steps(std::slice::from_ref(&end))]).await, None);
    let world = world.restarted();
    assert_eq!(world.push(&[steps(&[end])]).await, None);
    assert_eq!(world.push(&[steps(&[between(T[2], T[3], 5.0)])]).await, None);
    let samples = world.memory.samples.lock();
    let values: Vec<(i64, f64)> = samples.iter().map(|(at, v)| (at.1, *v)).collect();
    assert!(model::is_stale(values[2].1), "{values:?}");
    assert_eq!(values[3..], [(T[2] + 1, 0.0), (T[3], 5.0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_histogram_is_added_up_series_by_series() {
    let world = world();
    let histogram = |start_ms: i64, ts_ms: i64, counts: [u64; 3], sum: f64| {
        let counts: Vec<String> = counts.iter().map(u64::to_string).collect();
        let point = json!({"startTimeUnixNano": nanos(start_ms), "timeUnixNano": nanos(ts_ms), "count": "6", "sum": sum,
            "bucketCounts": counts, "explicitBounds": [1.0, 2.0]});
        json!({"name": "h", "histogram": {"aggregationTemporality": DELTA, "dataPoints": [point]}})
    };
    assert_eq!(world.push(&[histogram(T[0], T[1], [1, 2, 3], 10.0)]).await, None);
    assert_eq!(world.push(&[histogram(T[1], T[2], [3, 2, 1], 5.0)]).await, None);
    assert_eq!(world.push(&[histogram(T[1], T[2], [3, 2, 1], 5.0)]).await, None);
    assert_eq!(world.push(&[histogram(T[0], T[2], [3, 2, 1], 5.0)]).await.unwrap().0, 1, "its end is known, it is not");
    let last: Vec<String> = world.runs().into_iter().filter(|line| line.ends_with("@2")).collect();
    assert_eq!(last, ["h_bucket 12 @2", "h_bucket 4 @2", "h_bucket 8 @2", "h_count 12 @2", "h_sum 15 @2"]);
    let (count, _) = world.push(&[histogram(T[0], T[3], [3, 2, 1], 5.0)]).await.unwrap();
    assert_eq!(count, 1, "one point, though five series of it are refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn exponential_histograms_are_added_up_across_scales_and_restarts() {
    let exponential = |start_ms: i64, ts_ms: i64, scale: i32, counts: &[u64]| {
        let total: u64 = counts.iter().sum();
        let counts: Vec<String> = counts.iter().map(u64::to_string).collect();
        let point = json!({"startTimeUnixNano": nanos(start_ms), "timeUnixNano": nanos(ts_ms), "count": total.to_string(),
            "sum": 1.5, "scale": scale, "zeroCount": "0", "positive": {"offset": 0, "bucketCounts": counts}});
        json!({"name": "e", "exponentialHistogram": {"aggregationTemporality": DELTA, "dataPoints": [point]}})
    };
    let world = world();
    assert_eq!(world.push(&[exponential(T[0], T[1], 1, &[1, 2, 4, 8])]).await, None);
    let world = world.restarted();
    for _ in 0..2 {
        assert_eq!(world.push(&[exponential(T[1], T[2], 0, &[16])]).await, None);
    }
    let kept = world.memory.histograms.lock();
    let all: Vec<(i64, &Histogram)> = kept.iter().map(|(at, h)| (at.1, &**h)).collect();
    assert_eq!(all.iter().map(|(at, h)| (*at, h.count)).collect::<Vec<_>>(), [(T[0], 0.0), (T[1], 15.0), (T[2], 31.0)]);
    let sum = all[2].1;
    let buckets: Vec<_> = Histogram::buckets(&sum.positive_spans, &sum.positive).collect();
    assert_eq!((sum.schema, sum.sum, buckets), (0, 3.0, vec![(1, 19.0), (2, 12.0)]));
}
