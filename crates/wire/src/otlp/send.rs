//! OpenTelemetry's messages, out: spans and metrics of our own, as `ExportTraceServiceRequest` and `ExportMetricsServiceRequest`.

use model::coding::put_varint;

/// Sums and histograms count since their start.
const CUMULATIVE: u64 = 2;
const STATUS_ERROR: u64 = 2;

/// Who speaks: attributes of the resource, then name and version of the scope.
#[derive(Clone, Copy, Debug)]
pub struct Speaker<'a> {
    /// Such as `service.name`.
    pub resource: &'a [(&'a str, &'a str)],
    /// What made the spans or metrics.
    pub scope: &'a str,
    /// Its version.
    pub version: &'a str,
}

/// A value of an attribute.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum AttributeValue<'a> {
    /// A text.
    Text(&'a str),
    /// A number.
    Number(i64),
}

/// A span.
#[derive(Clone, Debug)]
pub struct Span<'a> {
    /// The trace.
    pub trace_id: u128,
    /// The span.
    pub span_id: u64,
    /// The span above.
    pub parent: Option<u64>,
    /// What was done.
    pub name: &'a str,
    /// As the protocol numbers them: 1 internal, 2 server, 3 client.
    pub kind: u64,
    /// Nanoseconds since 1970.
    pub start_ns: u64,
    /// Nanoseconds since 1970.
    pub end_ns: u64,
    /// What is known of it.
    pub attributes: Vec<(&'a str, AttributeValue<'a>)>,
    /// Why it failed.
    pub failure: Option<&'a str>,
}

/// A metric with its points.
#[derive(Clone, PartialEq, Debug)]
pub struct Metric {
    /// Its name.
    pub name: String,
    /// What it is.
    pub description: String,
    /// Its points.
    pub points: Points,
}

/// Points of one kind.
#[derive(Clone, PartialEq, Debug)]
pub enum Points {
    /// As they are now.
    Gauge(Vec<Number>),
    /// Counted since the start, never less.
    Sum(Vec<Number>),
    /// Counted since the start.
    Histogram(Vec<Buckets>),
}

/// A number.
#[derive(Clone, PartialEq, Debug)]
pub struct Number {
    /// Its labels.
    pub attributes: Vec<(String, String)>,
    /// The number.
    pub value: f64,
}

/// A histogram with bounds.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Buckets {
    /// Its labels.
    pub attributes: Vec<(String, String)>,
    /// The sum of what was observed.
    pub sum: f64,
    /// Upper bounds; above the last one is one bucket more.
    pub bounds: Vec<f64>,
    /// Observations of each bucket.
    pub counts: Vec<u64>,
}

/// Writes spans as a request.
pub fn encode_spans<'a>(speaker: Speaker<'_>, spans: impl IntoIterator<Item = Span<'a>>) -> Vec<u8> {
    let mut scope = speaker.scope();
    let mut one = Vec::new();
    for span in spans {
        one.clear();
        put_span(&mut one, &span);
        put_bytes(&mut scope, 2, &one);
    }
    speaker.request(&scope)
}

/// Writes metrics as a request.
///
/// **Takes** since when sums and histograms count, and the time of all points; nanoseconds since 1970.
pub fn encode_metrics(speaker: Speaker<'_>, metrics: &[Metric], start_ns: u64, time_ns: u64) -> Vec<u8> {
    let mut scope = speaker.scope();
    for metric in metrics {
        let mut one = Vec::new();
        put_text(&mut one, 1, &metric.name);
        put_text(&mut one, 2, &metric.description);
        let mut data = Vec::new();
        let number = match &metric.points {
            Points::Gauge(points) => {
                points.iter().for_each(|point| put_bytes(&mut data, 1, &number_point(point, None, time_ns)));
                5
            }
            Points::Sum(points) => {
                points.iter().for_each(|point| put_bytes(&mut data, 1, &number_point(point, Some(start_ns), time_ns)));
                put_number(&mut data, 2, CUMULATIVE);
                put_number(&mut data, 3, 1);
                7
            }
            Points::Histogram(points) => {
                points.iter().for_each(|point| put_bytes(&mut data, 1, &histogram_point(point, start_ns, time_ns)));
                put_number(&mut data, 2, CUMULATIVE);
                9
            }
        };
        put_bytes(&mut one, number, &data);
        put_bytes(&mut scope, 2, &one);
    }
    speaker.request(&scope)
}

impl Speaker<'_> {
    /// Begins the message of the scope.
    fn scope(&self) -> Vec<u8> {
        let (mut out, mut scope) = (Vec::new(), Vec::new());
        put_text(&mut scope, 1, self.scope);
        put_text(&mut scope, 2, self.version);
        put_bytes(&mut out, 1, &scope);
        out
    }

    fn request(&self, scope: &[u8]) -> Vec<u8> {
        let (mut out, mut whole, mut resource) = (Vec::new(), Vec::new(), Vec::new());
        for (key, value) in self.resource {
            put_attribute(&mut resource, 1, key, AttributeValue::Text(value));
        }
        put_bytes(&mut whole, 1, &resource);
        put_bytes(&mut whole, 2, scope);
        put_bytes(&mut out, 1, &whole);
        out
    }
}

fn put_span(out: &mut Vec<u8>, span: &Span<'_>) {
    put_bytes(out, 1, &span.trace_id.to_be_bytes());
    put_bytes(out, 2, &span.span_id.to_be_bytes());
    if let Some(parent) = span.parent {
        put_bytes(out, 4, &parent.to_be_bytes());
    }
    put_text(out, 5, span.name);
    put_number(out, 6, span.kind);
    put_fixed(out, 7, span.start_ns);
    put_fixed(out, 8, span.end_ns);
    for (key, value) in &span.attributes {
        put_attribute(out, 9, key, *value);
    }
    if let Some(why) = span.failure {
        let mut status = Vec::new();
        put_text(&mut status, 2, why);
        put_number(&mut status, 3, STATUS_ERROR);
        put_bytes(out, 15, &status);
    }
}

fn number_point(point: &Number, start_ns: Option<u64>, time_ns: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_fixed(&mut out, 2, start_ns.unwrap_or(0));
    put_fixed(&mut out, 3, time_ns);
    // One of several kinds of numbers: it is written even when it is 0.
    put_varint(&mut out, 4 << 3 | 1);
    out.extend_from_slice(&point.value.to_le_bytes());
    for (key, value) in &point.attributes {
        put_attribute(&mut out, 7, key, AttributeValue::Text(value));
    }
    out
}

fn histogram_point(point: &Buckets, start_ns: u64, time_ns: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_fixed(&mut out, 2, start_ns);
    put_fixed(&mut out, 3, time_ns);
    put_fixed(&mut out, 4, point.counts.iter().sum());
    put_varint(&mut out, 5 << 3 | 1);
    out.extend_from_slice(&point.sum.to_le_bytes());
    let packed: Vec<u8> = point.counts.iter().flat_map(|n| n.to_le_bytes()).collect();
    put_bytes(&mut out, 6, &packed);
    let packed: Vec<u8> = point.bounds.iter().flat_map(|bound| bound.to_le_bytes()).collect();
    put_bytes(&mut out, 7, &packed);
    for (key, value) in &point.attributes {
        put_attribute(&mut out, 9, key, AttributeValue::Text(value));
    }
    out
}

fn put_attribute(out: &mut Vec<u8>, number: u64, key: &str, value: AttributeValue<'_>) {
    let (mut pair, mut any) = (Vec::new(), Vec::new());
    put_text(&mut pair, 1, key);
    // One of several kinds of values: it is written even when it is empty.
    match value {
        AttributeValue::Text(text) => put_bytes(&mut any, 1, text.as_bytes()),
        AttributeValue::Number(n) => {
            put_varint(&mut any, 3 << 3);
            put_varint(&mut any, n as u64);
        }
    }
    put_bytes(&mut pair, 2, &any);
    put_bytes(out, number, &pair);
}

fn put_bytes(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put_varint(out, number << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_text(out: &mut Vec<u8>, number: u64, text: &str) {
    if !text.is_empty() {
        put_bytes(out, number, text.as_bytes());
    }
}

fn put_number(out: &mut Vec<u8>, number: u64, n: u64) {
    if n != 0 {
        put_varint(out, number << 3);
        put_varint(out, n);
    }
}

fn put_fixed(out: &mut Vec<u8>, number: u64, n: u64) {
    if n != 0 {
        put_varint(out, number << 3 | 1);
        out.extend_from_slice(&n.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::super::messages::Request;
    use super::*;

    const SPEAKER: Speaker<'_> =
        Speaker { resource: &[("service.name", "quiver"), ("empty", "")], scope: "quiver", version: "1" };

    #[test]
    fn metrics_are_read_by_a_reader_of_protobuf() {
        let attributes = vec![("code".to_owned(), "200".to_owned()), ("empty".to_owned(), String::new())];
        let number = |value| Number { attributes: attributes.clone(), value };
        let buckets =
            Buckets { attributes: attributes.clone(), sum: 2.5, bounds: vec![0.1, 1.0], counts: vec![3, 0, 1] };
        let metric = |name: &str, points| Metric { name: name.into(), description: "What.".into(), points };
        let metrics = [
            metric("g", Points::Gauge(vec![number(0.0), number(-1.5)])),
            metric("c_total", Points::Sum(vec![number(7.0)])),
            metric("h", Points::Histogram(vec![buckets])),
        ];
        let request = Request::decode(&encode_metrics(SPEAKER, &metrics, 5, 9)[..]).unwrap();
        let resource = &request.resource_metrics[0];
        assert_eq!(resource.resource.as_ref().unwrap().attributes.len(), 2);
        let scope = &resource.scope_metrics[0];
        assert_eq!(scope.scope.as_ref().map(|s| (s.name.as_str(), s.version.as_str())), Some(("quiver", "1")));
        let [gauge, sum, histogram] = &scope.metrics[..] else { panic!("{scope:?}") };
        let points = &gauge.gauge.as_ref().unwrap().points;
        assert_eq!((points[0].as_double, points[1].as_double, points[0].time), (Some(0.0), Some(-1.5), 9));
        assert_eq!((points[0].attributes.len(), points[0].start), (2, 0));
        let sum = sum.sum.as_ref().unwrap();
        assert_eq!((sum.temporality, sum.monotonic, sum.points[0].start), (2, true, 5));
        let point = &histogram.histogram.as_ref().unwrap().points[0];
        assert_eq!(
            (point.count, point.sum, &point.counts[..], &point.bounds[..]),
            (4, Some(2.5), &[3, 0, 1][..], &[0.1, 1.0][..])
        );
    }

    /// The parts of `opentelemetry.proto.trace.v1` that are written.
    mod traces {
        #[derive(Clone, PartialEq, prost::Message)]
        pub struct Request {
            #[prost(message, repeated, tag = "1")]
            pub resource_spans: Vec<ResourceSpans>,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub struct ResourceSpans {
            #[prost(message, repeated, tag = "2")]
            pub scope_spans: Vec<ScopeSpans>,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub struct ScopeSpans {
            #[prost(message, repeated, tag = "2")]
            pub spans: Vec<Span>,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub struct Span {
            #[prost(bytes = "vec", tag = "1")]
            pub trace_id: Vec<u8>,
            #[prost(bytes = "vec", tag = "2")]
            pub span_id: Vec<u8>,
            #[prost(bytes = "vec", tag = "4")]
            pub parent_span_id: Vec<u8>,
            #[prost(string, tag = "5")]
            pub name: String,
            #[prost(int32, tag = "6")]
            pub kind: i32,
            #[prost(fixed64, tag = "7")]
            pub start: u64,
            #[prost(fixed64, tag = "8")]
            pub end: u64,
            #[prost(message, optional, tag = "15")]
            pub status: Option<Status>,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub struct Status {
            #[prost(string, tag = "2")]
            pub message: String,
            #[prost(int32, tag = "3")]
            pub code: i32,
        }
    }

    #[test]
    fn spans_are_read_by_a_reader_of_protobuf() {
        let span = |parent, failure| Span {
            trace_id: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
            span_id: 1,
            parent,
            name: "scrape",
            kind: 3,
            start_ns: 10,
            end_ns: 12,
            attributes: vec![("a", AttributeValue::Text("b")), ("n", AttributeValue::Number(-1))],
            failure,
        };
        let bytes = encode_spans(SPEAKER, [span(None, None), span(Some(2), Some("it broke"))]);
        let request = traces::Request::decode(&bytes[..]).unwrap();
        let [first, second] = &request.resource_spans[0].scope_spans[0].spans[..] else { panic!("{request:?}") };
        assert_eq!(
            first.trace_id,
            [0x0a, 0xf7, 0x65, 0x19, 0x16, 0xcd, 0x43, 0xdd, 0x84, 0x48, 0xeb, 0x21, 0x1c, 0x80, 0x31, 0x9c]
        );
        assert_eq!((&first.span_id[..], first.parent_span_id.len()), (&[0, 0, 0, 0, 0, 0, 0, 1][..], 0));
        assert_eq!((first.kind, first.start, first.end, first.status.is_none()), (3, 10, 12, true));
        assert_eq!(second.parent_span_id, [0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(second.status.as_ref().map(|s| (s.message.as_str(), s.code)), Some(("it broke", 2)));
    }
}
