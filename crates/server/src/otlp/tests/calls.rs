//! OTLP over gRPC as a sender sees it: frames, compression, trailers, what is hostile.

use std::time::Duration;

use http_body_util::BodyExt;

use super::super::grpc::{self, PATH};
use super::*;

const GRPC: &str = "application/grpc";

/// Puts a message behind its flag and length.
fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let mut body = vec![flag];
    body.extend((message.len() as u32).to_be_bytes());
    body.extend(message);
    body
}

/// Status and reason of an answer; with status 0 the message, too.
struct Called {
    http: u16,
    code: i64,
    text: String,
    message: Vec<u8>,
}

async fn call(world: &World, headers: &[(&'static str, &str)], body: impl Into<Body>) -> Called {
    call_at(world, PATH, headers, body).await
}

async fn call_at(world: &World, path: &str, headers: &[(&'static str, &str)], body: impl Into<Body>) -> Called {
    let mut request = Request::builder().method("POST").uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = grpc::router(world.otlp.clone()).oneshot(request.body(body.into()).unwrap()).await.unwrap();
    let (head, mut body) = response.into_parts();
    let (mut bytes, mut trailers) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        match frame.unwrap().into_data() {
            Ok(data) => bytes.extend(data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    let all = trailers.unwrap_or_else(|| head.headers.clone());
    let text = |name: &str| all.get(name).map(|v| v.to_str().unwrap().to_owned());
    let code = text("grpc-status").map_or(-1, |code| code.parse().unwrap());
    if code >= 0 {
        assert_eq!(head.headers["content-type"], GRPC);
    }
    let message = if code == 0 { bytes[5..].to_vec() } else { Vec::new() };
    if code == 0 {
        assert_eq!(bytes[..5], framed(0, &message)[..5]);
    }
    Called { http: head.status.as_u16(), code, text: text("grpc-message").unwrap_or_default(), message }
}

#[track_caller]
fn assert_failed(called: &Called, code: i64, text: &str) {
    assert_eq!((called.http, called.code), (200, code), "{}", called.text);
    assert!(called.text.contains(text), "{}", called.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_plain_and_compressed_store_the_same_and_twice_is_once() {
    let whole = binary(&usual());
    let bodies = [
        ("", framed(0, &whole)),
        ("gzip", framed(0, &whole)),
        ("gzip", framed(1, &gzip(&whole))),
        ("deflate", framed(1, &deflate(&whole))),
        ("zstd", framed(1, &zstd(&whole))),
        ("zstd", framed(1, &zstd_stream(&whole))),
    ];
    for (encoding, body) in bodies {
        let world = World::new();
        for content_type in [GRPC, "application/grpc+proto"] {
            let headers = [("content-type", content_type), ("grpc-encoding", encoding), ("grpc-timeout", "30S")];
            let called = call(&world, &headers, body.clone()).await;
            assert_eq!((called.code, called.message), (0, Vec::new()), "{encoding} {}", called.text);
        }
        assert_eq!(world.kept(), USUAL, "{encoding}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_refused_stands_in_the_message() {
    let world = World::new();
    let wrong = gauge("temp", &[json!({"timeUnixNano": nanos(NOW)})]);
    let body = framed(0, &binary(&request(&[], &[wrong, gauge("good", &[point(NOW, 1.0)])])));
    let called = call(&world, &[("content-type", GRPC)], body).await;
    assert_eq!(called.code, 0);
    // ExportMetricsServiceResponse.partial_success.rejected_data_points
    assert_eq!(called.message[0], 0x0a);
    assert_eq!(called.message[2..4], [0x08, 1]);
    assert!(String::from_utf8_lossy(&called.message).contains("has no value"));
    assert_eq!(world.kept(), ["good 1 @0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_answered_with_its_code() {
    let world = World::new();
    let whole = binary(&usual());
    let plain = [("content-type", GRPC)];
    let gzipped = [("content-type", GRPC), ("grpc-encoding", "gzip")];
    assert_failed(&call(&world, &plain, Vec::new()).await, 3, "no message");
    assert_failed(&call(&world, &plain, vec![0, 0, 0]).await, 3, "no message");
    // Lengths that lie.
    let mut long = framed(0, &whole);
    long[1] = 0xff;
    assert_failed(&call(&world, &plain, long).await, 3, "is cut short");
    let two = [framed(0, &whole), framed(0, &whole)].concat();
    assert_failed(&call(&world, &plain, two).await, 3, "is not the only one");
    assert_failed(&call(&world, &plain, framed(2, &whole)).await, 3, "neither 0 nor 1");
    assert_failed(&call(&world, &plain, framed(1, &whole)).await, 3, "does not say how");
    assert_failed(&call(&world, &gzipped, framed(1, &whole)).await, 3, "gzip");
    assert_failed(&call(&world, &plain, framed(0, &[0x0a, 0x7f, 1])).await, 3, "malformed protobuf");
    let snappy = [("content-type", GRPC), ("grpc-encoding", "snappy")];
    assert_failed(&call(&world, &snappy, framed(1, &whole)).await, 12, "gzip,deflate,zstd are");
    let traces = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    assert_failed(&call_at(&world, traces, &plain, framed(0, &whole)).await, 12, PATH);
    for headers in [&[][..], &[("content-type", PROTOBUF)][..]] {
        let called = call(&world, headers, framed(0, &whole)).await;
        assert_eq!((called.http, called.code), (415, -1));
    }
    assert_eq!(world.kept(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_endless_bodies_and_slow_ones_end() {
    let limits = WriteLimits { body_bytes_max: 4_000, inflated_bytes_max: 100_000, ..WriteLimits::default() };
    let world = World::with(limits);
    let zeros = vec![0; 1 << 20];
    for (encoding, bomb) in [("gzip", gzip(&zeros)), ("zstd", zstd(&zeros)), ("zstd", zstd_stream(&zeros))] {
        let headers = [("content-type", GRPC), ("grpc-encoding", encoding)];
        assert_failed(&call(&world, &headers, framed(1, &bomb)).await, 8, "inflates to more than the 100000 bytes");
    }
    let endless =
        futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(axum::body::Bytes::from_static(&[0; 64])));
    let plain = [("content-type", GRPC)];
    assert_failed(&call(&world, &plain, Body::from_stream(endless)).await, 8, "larger than 4000 bytes");
    let silent = || Body::from_stream(futures_util::stream::pending::<Result<axum::body::Bytes, std::io::Error>>());
    let hurried = [("content-type", GRPC), ("grpc-timeout", "50m")];
    assert_failed(&call(&world, &hurried, silent()).await, 4, "grpc-timeout");
    // Nothing of all that holds room.
    let called =
        tokio::time::timeout(Duration::from_secs(60), call(&world, &plain, framed(0, &binary(&usual())))).await;
    assert_eq!(called.unwrap().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_unavailable() {
    let world = World::new();
    let body = framed(0, &binary(&usual()));
    let cases = [
        (AppendError::NoSpace("full".into()), 14),
        (AppendError::Busy { retry_after_ms: 5 }, 14),
        (AppendError::Failed("broken".into()), 14),
        (AppendError::TooLarge { bytes: 2, limit: 1 }, 8),
    ];
    for (error, code) in cases {
        *world.memory.fail.lock() = Some(error);
        assert_failed(&call(&world, &[("content-type", GRPC)], body.clone()).await, code, "");
    }
}
