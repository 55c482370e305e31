//! Remote read, with messages that prost builds and reads.

use prost::Message as _;

use super::super::xor_chunk;
use super::*;

#[derive(Clone, PartialEq, prost::Message)]
struct ReadRequest {
    #[prost(message, repeated, tag = "1")]
    queries: Vec<OneQuery>,
    #[prost(int32, repeated, tag = "2")]
    accepted: Vec<i32>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OneQuery {
    #[prost(int64, tag = "1")]
    start: i64,
    #[prost(int64, tag = "2")]
    end: i64,
    #[prost(message, repeated, tag = "3")]
    matchers: Vec<OneMatcher>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OneMatcher {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    value: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ReadResponse {
    #[prost(message, repeated, tag = "1")]
    results: Vec<QueryResult>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct QueryResult {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ChunkedReadResponse {
    #[prost(message, repeated, tag = "1")]
    series: Vec<ChunkedSeries>,
    #[prost(int64, tag = "2")]
    query_index: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ChunkedSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    chunks: Vec<Chunk>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Chunk {
    #[prost(int64, tag = "1")]
    min: i64,
    #[prost(int64, tag = "2")]
    max: i64,
    #[prost(int32, tag = "3")]
    kind: i32,
    #[prost(bytes = "vec", tag = "4")]
    data: Vec<u8>,
}

/// All labels and samples that an answer holds, query by query.
type Read = Vec<(i64, String, Vec<(i64, u64)>)>;

fn show(labels: &[Label]) -> String {
    labels.iter().map(|l| format!("{}={};", l.name, l.value)).collect()
}

fn query(start: i64, end: i64, matchers: &[(i32, &str, &str)]) -> OneQuery {
    let matcher = |(kind, name, value): &(i32, &str, &str)| OneMatcher {
        kind: *kind,
        name: (*name).into(),
        value: (*value).into(),
    };
    OneQuery { start, end, matchers: matchers.iter().map(matcher).collect() }
}

impl World {
    async fn read(&self, queries: Vec<OneQuery>, accepted: &[i32]) -> Answered {
        let bytes = ReadRequest { queries, accepted: accepted.to_vec() }.encode_to_vec();
        let body = wire::snappy::encode_block(&bytes).unwrap();
        self.send("POST", "/api/v1/read", &[("content-encoding", "snappy")], body).await
    }
}

fn samples_of(answer: &Answered) -> Read {
    assert_eq!(
        (answer.status, &answer.headers["content-encoding"]),
        (200, &"snappy".parse().unwrap()),
        "{}",
        answer.text
    );
    let bytes = wire::snappy::decode_block(&answer.bytes, 10 << 20).unwrap();
    let response = ReadResponse::decode(&*bytes).unwrap();
    let mut out = Vec::new();
    for (index, result) in response.results.iter().enumerate() {
        for series in &result.timeseries {
            let samples = series.samples.iter().map(|s| (s.timestamp, s.value.to_bits())).collect();
            out.push((index as i64, show(&series.labels), samples));
        }
    }
    out
}

fn chunks_of(answer: &Answered) -> Read {
    assert_eq!(answer.status, 200, "{}", answer.text);
    let content_type = "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse";
    assert_eq!(answer.headers["content-type"], content_type);
    let (mut rest, mut out): (&[u8], Read) = (&answer.bytes, Vec::new());
    while !rest.is_empty() {
        let len = prost::encoding::decode_varint(&mut rest).unwrap() as usize;
        let (message, after) = rest[4..].split_at(len);
        rest = after;
        let response = ChunkedReadResponse::decode(message).unwrap();
        for series in response.series {
            let mut samples = Vec::new();
            for chunk in &series.chunks {
                let read = xor_chunk::tests::decode(&chunk.data);
                assert_eq!((chunk.kind, chunk.min, chunk.max), (1, read[0].0, read[read.len() - 1].0));
                samples.extend(read.iter().map(|(ts, v)| (*ts, v.to_bits())));
            }
            let labels = show(&series.labels);
            match out.last_mut() {
                Some(last) if last.0 == response.query_index && last.1 == labels => last.2.extend(samples),
                _ => out.push((response.query_index, labels, samples)),
            }
        }
    }
    out
}

fn filled() -> World {
    let world = World::new();
    let many: Vec<(i64, f64)> = (0..500).map(|i| (NOW - 500_000 + i * 1_000, (i as f64).sin())).collect();
    world.memory.put(&[("__name__", "a"), ("zone", "own")], &many);
    world.memory.put(&[("__name__", "a"), ("job", "x")], &[(NOW, f64::from_bits(model::STALE_NAN_BITS))]);
    world.memory.put(&[("__name__", "b")], &[(NOW, 1.0)]);
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn both_forms_hold_the_same_samples_bit_for_bit() {
    let world = filled();
    let queries = || {
        vec![
            query(NOW - 400_000, NOW, &[(0, "__name__", "a"), (0, "foo", "baz")]),
            query(0, NOW, &[(2, "__name__", "b|c"), (1, "job", "x"), (3, "job", "y.*")]),
            query(0, 1, &[(0, "__name__", "a")]),
        ]
    };
    let samples = samples_of(&world.read(queries(), &[]).await);
    let labels: Vec<_> = samples.iter().map(|(index, labels, s)| (*index, labels.as_str(), s.len())).collect();
    // External labels stand on series that have none of their own, and asking for them filters nothing.
    let expected = [
        (0, "__name__=a;foo=baz;job=x;zone=ie;", 1),
        (0, "__name__=a;foo=baz;zone=own;", 400),
        (1, "__name__=b;foo=baz;zone=ie;", 1),
    ];
    assert_eq!(labels, expected);
    assert_eq!(samples[0].2, [(NOW, model::STALE_NAN_BITS)]);
    assert_eq!(chunks_of(&world.read(queries(), &[1, 0]).await), samples);
    assert_eq!(chunks_of(&world.read(queries(), &[1]).await), samples);
    assert_eq!(samples_of(&world.read(queries(), &[0, 1]).await), samples);
    assert_eq!(samples_of(&world.read(vec![query(0, 1, &[(0, "__name__", "none")])], &[0]).await), []);
    assert!(world.read(vec![query(0, 1, &[(0, "__name__", "none")])], &[1]).await.bytes.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn large_series_are_cut_into_frames() {
    let world = World::new();
    let value = |i: i64| f64::from_bits((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 2);
    let many: Vec<(i64, f64)> = (0..200_000).map(|i| (i * 7_001, value(i))).collect();
    world.memory.put(&[("__name__", "a")], &many);
    let answer = world.read(vec![query(0, NOW, &[(0, "__name__", "a")])], &[1]).await;
    let read = chunks_of(&answer);
    let expected: Vec<_> = many.iter().map(|(ts, v)| (*ts, v.to_bits())).collect();
    assert!(read.len() == 1 && read[0].2 == expected);
    let first = prost::encoding::decode_varint(&mut &*answer.bytes).unwrap();
    assert!(first <= (1 << 20) + 64 && answer.bytes.len() > 1 << 20, "{first}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_an_error_in_both_forms() {
    let world = filled();
    let ask = || vec![query(0, NOW, &[(0, "__name__", "a")])];
    world.read(vec![query(0, 1, &[(2, "a", "(")])], &[]).await.expect(400, "");
    world.read(ask(), &[7]).await.expect(400, "none of the response types");
    world.send("POST", "/api/v1/read", &[], vec![0xff; 50]).await.expect(400, "snappy");
    world.send("POST", "/api/v1/read", &[("content-encoding", "gzip")], Body::empty()).await.expect(400, "only snappy");
    world.send("POST", "/api/v1/read", &[], vec![0; (1 << 20) + 1]).await.expect(400, "cannot be read");
    assert_eq!(world.send("GET", "/api/v1/read", &[], Body::empty()).await.status, 405);
    for accepted in [[0], [1]] {
        world.memory.broken.store(true, Ordering::SeqCst);
        world.read(ask(), &accepted).await.expect(500, "block 7 is damaged");
        world.memory.broken.store(false, Ordering::SeqCst);
    }
    let few = World::with(QueryLimits { samples_max: 100, ..QueryLimits::default() }, WriteLimits::default());
    few.memory.put(&[("__name__", "a")], &(0..101).map(|i| (i, 1.0)).collect::<Vec<_>>());
    for accepted in [[0], [1]] {
        few.read(ask(), &accepted).await.expect(400, "exceeded sample limit (100)");
    }
}
