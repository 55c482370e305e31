//! From InfluxDB lines to a batch.
//!
//! A field becomes the series `measurement_field`, tags become labels, the database the label `db`: the names that VictoriaMetrics
//! gives, in the characters that Prometheus has.

use model::Batch;
use wire::LineError;
use wire::influx::{Field, Lines};

use super::rows::SeriesMaker;

/// Bad lines that an answer repeats.
const SHOWN_MAX: usize = 10;
/// Bytes of the series of one request.
const BATCH_BYTES_MAX: usize = 32 << 20;

/// What a sender's numbers count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Precision {
    Nanoseconds,
    Microseconds,
    Milliseconds,
    Seconds,
    Minutes,
    Hours,
}

impl Precision {
    /// Reads `precision=`; both versions' words.
    pub fn read(text: &str) -> Option<Precision> {
        Some(match text {
            "" | "ns" | "n" => Precision::Nanoseconds,
            "us" | "u" | "µ" => Precision::Microseconds,
            "ms" => Precision::Milliseconds,
            "s" => Precision::Seconds,
            "m" => Precision::Minutes,
            "h" => Precision::Hours,
            _ => return None,
        })
    }

    fn to_ms(self, time: i64) -> i64 {
        match self {
            Precision::Nanoseconds => time.div_euclid(1_000_000),
            Precision::Microseconds => time.div_euclid(1_000),
            Precision::Milliseconds => time,
            Precision::Seconds => time.saturating_mul(1_000),
            Precision::Minutes => time.saturating_mul(60_000),
            Precision::Hours => time.saturating_mul(3_600_000),
        }
    }
}

/// What a body held.
#[derive(Default, Debug)]
pub struct Read {
    /// Lines with a point.
    pub points: u64,
    /// Text fields, which are not kept.
    pub texts: u64,
    /// Lines not understood.
    pub bad: u64,
    /// The first of them.
    pub errors: Vec<LineError>,
}

/// Reads a body into a batch.
///
/// **Takes** what the sender says of it, and the time for lines without one.
/// **Errors** when it holds more than `samples_max` numbers, or becomes more than [`BATCH_BYTES_MAX`]; lines that are not understood are counted instead.
pub fn read(
    body: &[u8],
    db: &str,
    precision: Precision,
    now_ms: i64,
    samples_max: usize,
    batch: &mut Batch,
) -> Result<Read, String> {
    let mut read = Read::default();
    let mut maker = SeriesMaker::default();
    let mut name = String::new();
    for line in Lines::new(body) {
        let point = match line {
            Ok(point) => point,
            Err(error) => {
                read.bad += 1;
                if read.errors.len() < SHOWN_MAX {
                    read.errors.push(error);
                }
                continue;
            }
        };
        read.points += 1;
        let ts_ms = point.timestamp.map_or(now_ms, |time| precision.to_ms(time));
        maker.begin(&point.measurement);
        for (tag, value) in &point.tags {
            maker.label(tag, value);
        }
        if !db.is_empty() {
            maker.default_label("db", db);
        }
        for (field, value) in &point.fields {
            let Field::Number(value) = *value else {
                read.texts += 1;
                continue;
            };
            if batch.samples.len() >= samples_max {
                return Err(format!("the request holds more than {samples_max} values"));
            }
            if batch.bytes() > BATCH_BYTES_MAX {
                return Err(format!(
                    "the request becomes more than {BATCH_BYTES_MAX} bytes, the tags of a line counted for each of its fields"
                ));
            }
            name.clear();
            name.push_str(&point.measurement);
            name.push('_');
            name.push_str(field);
            maker.rename(&name);
            maker.push(batch, ts_ms, value);
        }
    }
    Ok(read)
}

/// Reads lines that must all be right, with times in nanoseconds.
pub fn influx_to_batch(body: &[u8], now_ms: i64, samples_max: usize) -> Result<Batch, String> {
    let mut batch = Batch::default();
    let found = read(body, "", Precision::Nanoseconds, now_ms, samples_max, &mut batch)?;
    match found.errors.first() {
        Some(error) => Err(format!("line protocol: {error}")),
        None => Ok(batch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::SeriesIndex;

    #[test]
    fn names_labels_and_times_are_those_of_the_contract() {
        let body = b"disk.io,host=a,db-x=1 read=1i,note=\"x\",write=2 1700000000500\nbad\nmem free=3\n";
        let mut batch = Batch::default();
        let read = read(body, "telegraf", Precision::Milliseconds, 42, 100, &mut batch).unwrap();
        assert_eq!((read.points, read.texts, read.bad, read.errors[0].line), (2, 1, 1, 2));
        let shown: Vec<String> = (0..3).map(|i| batch.labels(SeriesIndex(i)).unwrap_or_default().to_string()).collect();
        assert_eq!(
            shown,
            [
                r#"disk_io_read{db="telegraf", db_x="1", host="a"}"#,
                r#"disk_io_write{db="telegraf", db_x="1", host="a"}"#,
                r#"mem_free{db="telegraf"}"#
            ]
        );
        let times: Vec<_> = batch.samples.iter().map(|s| (s.ts_ms, s.value)).collect();
        assert_eq!(times, [(1_700_000_000_500, 1.0), (1_700_000_000_500, 2.0), (42, 3.0)]);
    }

    #[test]
    fn a_body_has_an_end_and_reserved_names_are_refused() {
        let mut batch = Batch::default();
        assert!(read(b"a x=1,y=2,z=3", "", Precision::Seconds, 0, 2, &mut batch).is_err());
        let mut batch = Batch::default();
        read(b"a,__name__=b x=1", "", Precision::Hours, 0, 2, &mut batch).unwrap();
        assert_eq!(batch.counts().refused[model::Refusal::InvalidName as usize], 1);
    }

    #[test]
    fn tags_cost_what_they_are_and_not_their_square_or_more() {
        let tags: String = (0..200_000).map(|i| format!(",t{i}=v")).collect();
        let mut batch = Batch::default();
        read(format!("m{tags} f=1").as_bytes(), "", Precision::Seconds, 0, 10, &mut batch).unwrap();
        assert_eq!(batch.counts().refused[model::Refusal::LabelLimit as usize], 1);
        let (tag, fields) = ("v".repeat(50_000), vec!["f=1"; 2_000].join(","));
        let error = read(format!("m,t={tag} {fields}").as_bytes(), "", Precision::Seconds, 0, 10_000, &mut batch);
        assert!(error.is_err_and(|e| e.contains("bytes")));
        assert!(batch.bytes() < BATCH_BYTES_MAX + (1 << 20));
    }

    #[test]
    fn precisions_are_those_of_both_versions() {
        for (text, ms) in [("", 7), ("ns", 7), ("u", 7_000), ("us", 7_000), ("ms", 7_000_000)] {
            assert_eq!(Precision::read(text).unwrap().to_ms(7_000_000), ms, "{text}");
        }
        assert_eq!(Precision::read("h").unwrap().to_ms(2), 7_200_000);
        assert_eq!(Precision::read("days"), None);
        assert_eq!(Precision::Hours.to_ms(i64::MAX), i64::MAX);
    }
}
