//! The JSON form of OTLP, turned into the binary form as it is read: one reader of points for both.
//!
//! As OTLP has it: names in lowerCamelCase, ids in hexadecimal, 64-bit numbers as text or number, enums as number or name; what
//! is not known is jumped over. Limits: nesting of 128 (serde_json's); the output is a small multiple of the input.

use std::fmt;

use model::Batch;
use model::coding::put_varint;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Options, Stats};
use crate::number::parse_go_float;
use crate::proto::WireError;
use crate::remote_write::Limits;

/// Room for the length of a message, which is known when it is written: a number of five bytes.
const LEN_BYTES: usize = 5;

/// Why a JSON request cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// Not JSON, or not that of a request.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// It holds too much.
    #[error("{0}")]
    Wire(#[from] WireError),
}

/// Reads a JSON `ExportMetricsServiceRequest` like [`super::decode`] reads a binary one.
///
/// **Errors** when it is none or holds too much; then the batch holds a part: clear it.
pub fn decode_json(body: &[u8], batch: &mut Batch, options: &Options, limits: &Limits) -> Result<Stats, JsonError> {
    let binary = json_to_protobuf(body)?;
    Ok(super::decode(&binary, batch, options, limits)?)
}

/// Turns a JSON request into a binary one.
///
/// **Errors** when it is no JSON, or a value has another type than the schema says.
pub fn json_to_protobuf(body: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    let mut out = Vec::with_capacity(body.len() / 2);
    let mut json = serde_json::Deserializer::from_slice(body);
    Fields { schema: REQUEST, out: &mut out }.deserialize(&mut json)?;
    json.end()?;
    Ok(out)
}

/// A field: its JSON name, its number, what it holds, and whether it is a list.
struct Def(&'static str, u32, Kind, bool);

#[derive(Clone, Copy)]
enum Kind {
    Text,
    /// An id in hexadecimal.
    Hex,
    Base64,
    Bool,
    /// A whole number of any length on the wire.
    Varint,
    /// One whose sign is folded into the lowest bit.
    Folded,
    Fixed,
    Double,
    Temporality,
    Message(&'static [Def]),
}

const REQUEST: &[Def] = &[Def("resourceMetrics", 1, Kind::Message(RESOURCE_METRICS), true)];
const RESOURCE_METRICS: &[Def] = &[
    Def("resource", 1, Kind::Message(&[Def("attributes", 1, Kind::Message(&KEY_VALUE), true)]), false),
    Def("scopeMetrics", 2, Kind::Message(SCOPE_METRICS), true),
];
const SCOPE_METRICS: &[Def] = &[
    Def("scope", 1, Kind::Message(SCOPE), false),
    Def("metrics", 2, Kind::Message(METRIC), true),
    Def("schemaUrl", 3, Kind::Text, false),
];
const SCOPE: &[Def] = &[
    Def("name", 1, Kind::Text, false),
    Def("version", 2, Kind::Text, false),
    Def("attributes", 3, Kind::Message(&KEY_VALUE), true),
];
const METRIC: &[Def] = &[
    Def("name", 1, Kind::Text, false),
    Def("description", 2, Kind::Text, false),
    Def("unit", 3, Kind::Text, false),
    Def("gauge", 5, Kind::Message(&[Def("dataPoints", 1, Kind::Message(NUMBER), true)]), false),
    Def("sum", 7, Kind::Message(SUM), false),
    Def("histogram", 9, Kind::Message(HISTOGRAM), false),
    Def("exponentialHistogram", 10, Kind::Message(EXPONENTIAL), false),
    Def("summary", 11, Kind::Message(&[Def("dataPoints", 1, Kind::Message(SUMMARY_POINT), true)]), false),
];
const SUM: &[Def] = &[
    Def("dataPoints", 1, Kind::Message(NUMBER), true),
    Def("aggregationTemporality", 2, Kind::Temporality, false),
    Def("isMonotonic", 3, Kind::Bool, false),
];
const HISTOGRAM: &[Def] = &[
    Def("dataPoints", 1, Kind::Message(HISTOGRAM_POINT), true),
    Def("aggregationTemporality", 2, Kind::Temporality, false),
];
const EXPONENTIAL: &[Def] = &[
    Def("dataPoints", 1, Kind::Message(EXPONENTIAL_POINT), true),
    Def("aggregationTemporality", 2, Kind::Temporality, false),
];
const NUMBER: &[Def] = &[
    Def("attributes", 7, Kind::Message(&KEY_VALUE), true),
    Def("startTimeUnixNano", 2, Kind::Fixed, false),
    Def("timeUnixNano", 3, Kind::Fixed, false),
    Def("asDouble", 4, Kind::Double, false),
    Def("asInt", 6, Kind::Fixed, false),
    Def("exemplars", 5, Kind::Message(EXEMPLAR), true),
    Def("flags", 8, Kind::Varint, false),
];
const HISTOGRAM_POINT: &[Def] = &[
    Def("attributes", 9, Kind::Message(&KEY_VALUE), true),
    Def("startTimeUnixNano", 2, Kind::Fixed, false),
    Def("timeUnixNano", 3, Kind::Fixed, false),
    Def("count", 4, Kind::Fixed, false),
    Def("sum", 5, Kind::Double, false),
    Def("bucketCounts", 6, Kind::Fixed, true),
    Def("explicitBounds", 7, Kind::Double, true),
    Def("exemplars", 8, Kind::Message(EXEMPLAR), true),
    Def("flags", 10, Kind::Varint, false),
];
const EXPONENTIAL_POINT: &[Def] = &[
    Def("attributes", 1, Kind::Message(&KEY_VALUE), true),
    Def("startTimeUnixNano", 2, Kind::Fixed, false),
    Def("timeUnixNano", 3, Kind::Fixed, false),
    Def("count", 4, Kind::Fixed, false),
    Def("sum", 5, Kind::Double, false),
    Def("scale", 6, Kind::Folded, false),
    Def("zeroCount", 7, Kind::Fixed, false),
    Def("positive", 8, Kind::Message(BUCKETS), false),
    Def("negative", 9, Kind::Message(BUCKETS), false),
    Def("flags", 10, Kind::Varint, false),
    Def("exemplars", 11, Kind::Message(EXEMPLAR), true),
    Def("zeroThreshold", 14, Kind::Double, false),
];
const BUCKETS: &[Def] = &[Def("offset", 1, Kind::Folded, false), Def("bucketCounts", 2, Kind::Varint, true)];
const SUMMARY_POINT: &[Def] = &[
    Def("attributes", 7, Kind::Message(&KEY_VALUE), true),
    Def("startTimeUnixNano", 2, Kind::Fixed, false),
    Def("timeUnixNano", 3, Kind::Fixed, false),
    Def("count", 4, Kind::Fixed, false),
    Def("sum", 5, Kind::Double, false),
    Def("quantileValues", 6, Kind::Message(QUANTILE), true),
    Def("flags", 8, Kind::Varint, false),
];
const QUANTILE: &[Def] = &[Def("quantile", 1, Kind::Double, false), Def("value", 2, Kind::Double, false)];
const EXEMPLAR: &[Def] = &[
    Def("filteredAttributes", 7, Kind::Message(&KEY_VALUE), true),
    Def("timeUnixNano", 2, Kind::Fixed, false),
    Def("asDouble", 3, Kind::Double, false),
    Def("asInt", 6, Kind::Fixed, false),
    Def("spanId", 4, Kind::Hex, false),
    Def("traceId", 5, Kind::Hex, false),
];
// These two hold each other, so that they must be places in memory.
static KEY_VALUE: [Def; 2] = [Def("key", 1, Kind::Text, false), Def("value", 2, Kind::Message(&ANY_VALUE), false)];
static ANY_VALUE: [Def; 7] = [
    Def("stringValue", 1, Kind::Text, false),
    Def("boolValue", 2, Kind::Bool, false),
    Def("intValue", 3, Kind::Varint, false),
    Def("doubleValue", 4, Kind::Double, false),
    Def("arrayValue", 5, Kind::Message(&ARRAY), false),
    Def("kvlistValue", 6, Kind::Message(&MAP), false),
    Def("bytesValue", 7, Kind::Base64, false),
];
static ARRAY: [Def; 1] = [Def("values", 1, Kind::Message(&ANY_VALUE), true)];
static MAP: [Def; 1] = [Def("values", 1, Kind::Message(&KEY_VALUE), true)];

/// Reads an object as the fields of a message.
struct Fields<'o> {
    schema: &'static [Def],
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(number) = map.next_key_seed(Name(self.schema))? {
            match number {
                Some(def) => map.next_value_seed(Field { def, list: def.3, out: &mut *self.out })?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// Finds a field by its name.
struct Name(&'static [Def]);

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Option<&'static Def>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Option<&'static Def>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().find(|def| def.0 == name))
    }
}

/// Reads the value of a field, or one element of a list.
struct Field<'o> {
    def: &'static Def,
    list: bool,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Field<'_> {
    fn put_tag(&mut self, wire_type: u32) {
        put_varint(self.out, u64::from(self.def.1 << 3 | wire_type));
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        self.put_tag(2);
        put_varint(self.out, bytes.len() as u64);
        self.out.extend_from_slice(bytes);
    }

    /// Writes a whole number of 64 bits; which sign it has is the schema's business.
    fn put_whole<E: serde::de::Error>(&mut self, value: u64) -> Result<(), E> {
        match self.def.2 {
            Kind::Varint | Kind::Temporality => {
                self.put_tag(0);
                put_varint(self.out, value);
            }
            Kind::Folded => {
                let value = value as i64;
                self.put_tag(0);
                put_varint(self.out, ((value << 1) ^ (value >> 63)) as u64);
            }
            Kind::Fixed => {
                self.put_tag(1);
                self.out.extend_from_slice(&value.to_le_bytes());
            }
            Kind::Double => self.put_double(value as i64 as f64),
            _ => return Err(self.wrong_type("a number")),
        }
        Ok(())
    }

    fn put_double(&mut self, value: f64) {
        self.put_tag(1);
        self.out.extend_from_slice(&value.to_bits().to_le_bytes());
    }

    fn wrong_type<E: serde::de::Error>(&self, got: &str) -> E {
        E::custom(format!("{:?} cannot be {got}", self.def.0))
    }

    fn put_text<E: serde::de::Error>(&mut self, text: &str) -> Result<(), E> {
        match self.def.2 {
            Kind::Text => self.put_bytes(text.as_bytes()),
            Kind::Hex => {
                let bytes = from_hex(text).ok_or_else(|| self.wrong_type("this text: it is no hexadecimal id"))?;
                self.put_bytes(&bytes);
            }
            Kind::Base64 => {
                let bytes = from_base64(text).ok_or_else(|| self.wrong_type("this text: it is no base64"))?;
                self.put_bytes(&bytes);
            }
            Kind::Double => {
                let value = match text {
                    "Infinity" => Some(f64::INFINITY),
                    "-Infinity" => Some(f64::NEG_INFINITY),
                    text => parse_go_float(text),
                };
                let value = value.ok_or_else(|| self.wrong_type("this text: it is no number"))?;
                self.put_double(value);
            }
            Kind::Varint | Kind::Folded | Kind::Fixed => {
                let whole = text.parse::<u64>().or_else(|_| text.parse::<i64>().map(|n| n as u64));
                let whole = whole.map_err(|_| self.wrong_type("this text: it is no whole number"))?;
                self.put_whole(whole)?;
            }
            Kind::Temporality => self.put_whole(match text {
                "AGGREGATION_TEMPORALITY_DELTA" => 1,
                "AGGREGATION_TEMPORALITY_CUMULATIVE" => 2,
                _ => 0,
            })?,
            Kind::Bool | Kind::Message(_) => return Err(self.wrong_type("a text")),
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value for {:?}", self.def.0)
    }

    /// `null` means that the field is not given.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: serde::de::Error>(mut self, value: bool) -> Result<(), E> {
        if !matches!(self.def.2, Kind::Bool) {
            return Err(self.wrong_type("true or false"));
        }
        self.put_tag(0);
        self.out.push(u8::from(value));
        Ok(())
    }

    fn visit_u64<E: serde::de::Error>(mut self, value: u64) -> Result<(), E> {
        match self.def.2 {
            Kind::Double => self.put_double(value as f64),
            _ => return self.put_whole(value),
        }
        Ok(())
    }

    fn visit_i64<E: serde::de::Error>(mut self, value: i64) -> Result<(), E> {
        self.put_whole(value as u64)
    }

    fn visit_f64<E: serde::de::Error>(mut self, value: f64) -> Result<(), E> {
        match self.def.2 {
            Kind::Double => {
                self.put_double(value);
                Ok(())
            }
            // `1e3` and `2.0` are whole numbers, too; beyond 2^53 a float says nothing certain.
            Kind::Varint | Kind::Folded | Kind::Fixed if value.fract() == 0.0 && value.abs() <= 9e15 => {
                self.put_whole(value as i64 as u64)
            }
            _ => Err(self.wrong_type("such a number")),
        }
    }

    fn visit_str<E: serde::de::Error>(mut self, text: &str) -> Result<(), E> {
        self.put_text(text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if !self.list {
            return Err(self.wrong_type("a list"));
        }
        let def = self.def;
        while list.next_element_seed(Field { def, list: false, out: &mut *self.out })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, map: A) -> Result<(), A::Error> {
        let Kind::Message(schema) = self.def.2 else { return Err(self.wrong_type("an object")) };
        if self.list {
            return Err(self.wrong_type("an object: it is a list"));
        }
        self.put_tag(2);
        let start = self.out.len();
        self.out.extend_from_slice(&[0; LEN_BYTES]);
        Fields { schema, out: &mut *self.out }.visit_map(map)?;
        let len = self.out.len() - start - LEN_BYTES;
        if u32::try_from(len).is_err() {
            return Err(A::Error::custom("a message is larger than 4 GiB"));
        }
        for (at, byte) in self.out[start..start + LEN_BYTES].iter_mut().enumerate() {
            let more = if at + 1 < LEN_BYTES { 0x80 } else { 0 };
            *byte = (len >> (7 * at)) as u8 & 0x7f | more;
        }
        Ok(())
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    if rest.is_empty() { bytes } else { None }
}

/// Reads base64 of either alphabet, with or without padding.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Some(out)
}
