//! Remote write 1.0 from the sender's side, by an encoder that shares nothing with the server's reader.

use prost::Message;

use crate::support::{Answer, Client};

#[derive(Clone, PartialEq, Message)]
pub struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    pub timeseries: Vec<TimeSeries>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    pub labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    pub samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Label {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Sample {
    /// Optional, so that negative zero, which equals what is left out, is sent, too.
    #[prost(double, optional, tag = "1")]
    pub value: Option<f64>,
    #[prost(int64, tag = "2")]
    pub timestamp: i64,
}

/// Builds one series; labels may come in any order.
pub fn series(labels: &[(&str, &str)], samples: impl IntoIterator<Item = (i64, f64)>) -> TimeSeries {
    let mut labels: Vec<Label> =
        labels.iter().map(|(n, v)| Label { name: (*n).to_owned(), value: (*v).to_owned() }).collect();
    labels.sort_by(|a, b| a.name.cmp(&b.name));
    let sample = |(timestamp, value)| Sample { value: Some(value), timestamp };
    TimeSeries { labels, samples: samples.into_iter().map(sample).collect() }
}

pub fn body(timeseries: Vec<TimeSeries>) -> Vec<u8> {
    let bytes = WriteRequest { timeseries }.encode_to_vec();
    snap::raw::Encoder::new().compress_vec(&bytes).expect("a request fits into one snappy block")
}

pub const HEADERS: [(&str, &str); 3] = [
    ("content-type", "application/x-protobuf"),
    ("content-encoding", "snappy"),
    ("x-prometheus-remote-write-version", "0.1.0"),
];

pub fn write(client: &Client, timeseries: Vec<TimeSeries>) -> Answer {
    client.send("POST", "/api/v1/write", &HEADERS, &body(timeseries))
}
