//! Formats of lines: NDJSON, CSV, and the text of OpenMetrics.
//!
//! Limits: a line has at most [`LINE_BYTES_MAX`] bytes, an exposition is read in pieces of about [`PIECE_BYTES`].

use std::io::{self, BufRead, BufReader, Read};

use model::{LABEL_NAME, LabelsBuf, MetricType, NO_FAMILY, Origin};
use wire::csv::{self, Plan, Role, TimeKind};
use wire::scrape::{Item, Value as Reading};
use wire::{BodyParser, Format as Wire};

use super::rows::{Failure, Rows, Sink};
use crate::stream::{join_frames, read_frame};

const LINE_BYTES_MAX: u64 = 8 << 20;
const PIECE_BYTES: usize = 1 << 20;
/// Labels that one cell may name.
const CELL_LABELS_MAX: usize = 1_000;
/// Bytes of the series that one row makes.
const ROW_BYTES_MAX: usize = 8 << 20;

/// Lines of a file with their numbers.
pub(super) struct Lines {
    reader: BufReader<Box<dyn Read + Send>>,
    pub(super) line: Vec<u8>,
    pub(super) number: u64,
}

impl Lines {
    pub(super) fn new(reader: Box<dyn Read + Send>) -> Lines {
        Lines { reader: BufReader::with_capacity(64 << 10, reader), line: Vec::new(), number: 0 }
    }

    /// Reads the next line, its end included; `false` at the end.
    pub(super) fn next(&mut self) -> Result<bool, Failure> {
        self.line.clear();
        let read = (&mut self.reader).take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut self.line).map_err(failure)?;
        self.number += 1;
        if read as u64 > LINE_BYTES_MAX {
            return Err(Failure::Content(format!("line {}: it is longer than {LINE_BYTES_MAX} bytes", self.number)));
        }
        Ok(read > 0)
    }

    /// Cuts the line into fields of CSV.
    pub(super) fn fields(&self, out: &mut Vec<String>) -> Result<(), String> {
        let text = std::str::from_utf8(&self.line).map_err(|_| "it is not UTF-8".to_owned())?;
        let text = if self.number == 1 { text.trim_start_matches('\u{feff}') } else { text };
        csv::fields(text, ',', out).map_err(|(column, why)| format!("column {column}: {why}"))
    }
}

/// What a decoder says of the bytes is the sender's; the rest is the disk's.
fn failure(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            Failure::Content(format!("it cannot be inflated: {error}"))
        }
        _ => Failure::Disk(error),
    }
}

/// A Metric, or `{"metrics": [...]}`, on each line.
pub struct Ndjson {
    lines: Lines,
}

impl Ndjson {
    /// Starts on a file.
    pub fn new(reader: Box<dyn Read + Send>) -> Ndjson {
        Ndjson { lines: Lines::new(reader) }
    }
}

impl Rows for Ndjson {
    fn fill(&mut self, sink: &mut Sink<'_>) -> Result<bool, Failure> {
        while !sink.is_full() {
            if !self.lines.next()? {
                return Ok(false);
            }
            if self.lines.line.trim_ascii().is_empty() {
                continue;
            }
            let origin = Origin { source_id: sink.source_id.to_owned(), ..Origin::default() };
            match read_frame(&self.lines.line, &origin, sink.now_ms) {
                Ok(rows) => drop(join_frames(sink.batch, sink.points, rows)),
                Err(detail) => sink.bad(self.lines.number, detail),
            }
        }
        Ok(true)
    }
}

/// Columns of text; the first line is the head.
pub struct Csv {
    lines: Lines,
    columns: String,
    plan: Option<Plan>,
    fields: Vec<String>,
    labels: LabelsBuf,
}

impl Csv {
    /// Starts on a file.
    pub fn new(reader: Box<dyn Read + Send>, columns: &str) -> Csv {
        let columns = columns.to_owned();
        Csv { lines: Lines::new(reader), columns, plan: None, fields: Vec::new(), labels: LabelsBuf::default() }
    }

    fn cut(&mut self) -> Result<(), String> {
        self.lines.fields(&mut self.fields)
    }

    /// Reads the head. A first line of numbers only is data, and there is no head.
    fn head(&mut self) -> Result<bool, Failure> {
        self.cut().map_err(|why| Failure::Content(format!("line 1: {why}")))?;
        let headless = !self.columns.is_empty() && self.fields.iter().any(|f| csv::number(f).is_some());
        let names = if headless { vec![String::new(); self.fields.len()] } else { self.fields.clone() };
        let plan = Plan::new(&self.columns, &names).map_err(|why| Failure::Content(format!("columns: {why}")))?;
        self.plan = Some(plan);
        Ok(headless)
    }
}

impl Rows for Csv {
    fn fill(&mut self, sink: &mut Sink<'_>) -> Result<bool, Failure> {
        while !sink.is_full() {
            if !self.lines.next()? {
                return Ok(false);
            }
            if self.lines.line.trim_ascii().is_empty() {
                continue;
            }
            if self.plan.is_none() && !self.head()? {
                continue;
            }
            if let Err(why) = self.cut() {
                sink.bad(self.lines.number, why);
                continue;
            }
            let plan = self.plan.take().unwrap_or_default();
            let fields = std::mem::take(&mut self.fields);
            let cells = plan.roles.iter().zip(&fields).map(|(role, text)| (role, Cell::Text(text)));
            if let Err(why) = add_row(cells, &mut self.labels, sink) {
                sink.bad(self.lines.number, why);
            }
            (self.plan, self.fields) = (Some(plan), fields);
        }
        Ok(true)
    }
}

/// One value of a row.
pub enum Cell<'a> {
    /// Text.
    Text(&'a str),
    /// A number.
    Number(f64),
    /// A time in milliseconds.
    Time(i64),
    /// Labels.
    Pairs(&'a [(String, String)]),
}

impl Cell<'_> {
    fn number(&self) -> Option<f64> {
        match self {
            Cell::Text(text) => csv::number(text),
            Cell::Number(n) => Some(*n),
            _ => None,
        }
    }

    fn time(&self, kind: TimeKind) -> Option<i64> {
        match self {
            Cell::Time(ms) => Some(*ms),
            Cell::Number(n) if n.fract() == 0.0 && n.abs() < 9e18 => csv::unix_ms(&(*n as i64).to_string(), kind),
            Cell::Number(n) => csv::unix_ms(&n.to_string(), kind),
            Cell::Text(text) => csv::unix_ms(text, kind).or_else(|| match kind {
                TimeKind::Rfc3339 | TimeKind::Any => crate::prom::params::parse_time_ms(text.trim()).ok(),
                _ => None,
            }),
            Cell::Pairs(_) => None,
        }
    }
}

/// Adds the samples of a row.
///
/// **Errors** with a sentence; then nothing of the row is added.
pub fn add_row<'a>(
    cells: impl Iterator<Item = (&'a Role, Cell<'a>)>,
    labels: &mut LabelsBuf,
    sink: &mut Sink<'_>,
) -> Result<(), String> {
    labels.clear();
    let mut ts_ms = sink.now_ms;
    let mut named: Option<String> = None;
    let mut values: Vec<(Option<&str>, f64)> = Vec::new();
    for (role, cell) in cells {
        match role {
            Role::Skip => {}
            Role::Time(kind) => match &cell {
                Cell::Text("") => {}
                cell => ts_ms = cell.time(*kind).ok_or("the time is not understood")?,
            },
            Role::Label(name) => match &cell {
                Cell::Pairs(pairs) => {
                    few(pairs.len())?;
                    pairs.iter().for_each(|(name, value)| labels.set(name, value));
                }
                Cell::Text(text) if name == "labels" && text.starts_with('{') => {
                    let map: std::collections::BTreeMap<String, String> =
                        serde_json::from_str(text).map_err(|e| format!("labels: {e}"))?;
                    few(map.len())?;
                    map.iter().for_each(|(name, value)| labels.set(name, value));
                }
                Cell::Text(text) => labels.set(name, text),
                Cell::Number(n) => labels.set(name, &n.to_string()),
                Cell::Time(ms) => labels.set(name, &ms.to_string()),
            },
            Role::Name => match cell {
                Cell::Text(text) if !text.trim().is_empty() => named = Some(text.trim().to_owned()),
                _ => return Err("the metric's name is missing".to_owned()),
            },
            Role::Metric(name) => {
                // An empty field means that there is no sample.
                if !matches!(cell, Cell::Text(text) if text.trim().is_empty()) {
                    values.push((Some(name), cell.number().ok_or_else(|| format!("{name}: not a number"))?));
                }
            }
            Role::Value => values.push((None, cell.number().ok_or("the value is not a number")?)),
        }
    }
    if let Some(bad) = labels.iter().map(|(n, _)| n).find(|n| n.is_empty() || n.starts_with("__")) {
        return Err(format!("{bad:?} cannot be the name of a label"));
    }
    if labels.get("job").is_none() {
        labels.set("job", sink.source_id);
    }
    let bytes: usize = labels.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes.saturating_mul(values.len()) > ROW_BYTES_MAX {
        return Err(format!("its labels, once for each of its values, take more than {ROW_BYTES_MAX} bytes"));
    }
    for (name, value) in values {
        let name = name.or(named.as_deref()).ok_or("the metric's name is missing")?;
        labels.set(LABEL_NAME, name);
        labels.sort().map_err(|e| e.to_string())?;
        let series = sink.batch.push_series(labels, NO_FAMILY);
        sink.batch.push_sample(series, ts_ms, value);
        sink.points.others += 1;
    }
    Ok(())
}

/// OpenMetrics or Prometheus text.
pub struct Exposition {
    lines: Lines,
    /// The last lines of metadata, which speak for the samples of the next piece, too.
    metadata: Vec<u8>,
    ended: bool,
}

impl Exposition {
    /// Starts on a file.
    pub fn new(reader: Box<dyn Read + Send>) -> Exposition {
        Exposition { lines: Lines::new(reader), metadata: Vec::new(), ended: false }
    }

    /// Joins lines to a piece that a parser can read for itself; gives the number of lines of metadata before it and of its first line.
    fn piece(&mut self, piece: &mut Vec<u8>) -> Result<(u64, u64), Failure> {
        piece.clone_from(&self.metadata);
        let before = memchr::memchr_iter(b'\n', piece).count() as u64;
        let first = self.lines.number + 1;
        let start = piece.len();
        while piece.len() - start < PIECE_BYTES && !self.ended {
            if !self.lines.next()? {
                self.ended = true;
                break;
            }
            let line = self.lines.line.trim_ascii_end();
            if line == b"# EOF" {
                self.ended = true;
                break;
            }
            piece.extend_from_slice(line);
            piece.push(b'\n');
            if line.starts_with(b"# TYPE ") {
                self.metadata.clear();
                self.metadata.extend_from_slice(line);
                self.metadata.push(b'\n');
            }
        }
        piece.extend_from_slice(b"# EOF\n");
        Ok((before, first))
    }
}

impl Rows for Exposition {
    fn fill(&mut self, sink: &mut Sink<'_>) -> Result<bool, Failure> {
        let mut piece = Vec::new();
        while !sink.is_full() && !self.ended {
            let (before, first) = self.piece(&mut piece)?;
            read_exposition(&piece, sink).map_err(|error| {
                let line = (u64::from(error.0) + first).saturating_sub(before + 1);
                Failure::Content(format!("line {line}: {}", error.1))
            })?;
        }
        Ok(!self.ended)
    }
}

fn read_exposition(piece: &[u8], sink: &mut Sink<'_>) -> Result<(), (u32, String)> {
    let mut parser = BodyParser::new(Wire::OpenMetrics, piece, false);
    let mut labels = LabelsBuf::default();
    let (mut family, mut open) = (NO_FAMILY, None);
    loop {
        let (reading, ts_ms) = match parser.next() {
            None => return Ok(()),
            Some(Err(error)) => return Err((error.line, format!("{} in {:?}", error.message, error.text))),
            Some(Ok(Item::Sample { reading, .. })) => (reading.value, reading.ts_ms),
            Some(Ok(Item::Type { name, metric_type })) => {
                // Kept when it has a sample: a body may hold a million that have none.
                open = Some((name.to_owned(), metric_type));
                continue;
            }
            Some(Ok(_)) => continue,
        };
        let Reading::Float(value) = reading else { continue };
        labels.clear();
        parser.labels(&mut labels).map_err(|e| (e.line, e.message))?;
        if labels.get("job").is_none() {
            labels.set("job", sink.source_id);
        }
        labels.sort().map_err(|e| (parser.fault("").line, e.to_string()))?;
        if let Some((name, metric_type)) = open.take() {
            family = push_family(sink, name, metric_type);
        }
        let series = sink.batch.push_series(&labels, family);
        sink.batch.push_sample(series, ts_ms.unwrap_or(sink.now_ms), value);
        sink.points.others += 1;
    }
}

/// Each label is looked for among those before it.
fn few(labels: usize) -> Result<(), String> {
    match labels > CELL_LABELS_MAX {
        true => Err(format!("a cell names {labels} labels, more than {CELL_LABELS_MAX}")),
        false => Ok(()),
    }
}

fn push_family(sink: &mut Sink<'_>, name: String, metric_type: MetricType) -> u32 {
    sink.batch.families.push(model::Family { name, metric_type, ..model::Family::default() });
    sink.batch.families.len() as u32 - 1
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use model::{Batch, SeriesIndex, TypeCounts};

    /// What was read, what was bad, and why it ended.
    type All = (Vec<(String, i64, f64)>, Vec<(u64, String)>, Option<String>);

    fn all(mut rows: impl Rows) -> All {
        let (mut batch, mut points, mut bad) = (Batch::default(), TypeCounts::default(), Vec::new());
        let (mut failure, mut read, mut left_out) = (None, Vec::new(), BTreeMap::new());
        let mut take = |batch: &mut Batch| {
            let labels = |s: SeriesIndex| batch.labels(s).unwrap_or_default().to_string();
            read.extend(batch.samples.iter().map(|s| (labels(s.series), s.ts_ms, s.value)));
            batch.clear();
        };
        loop {
            let mut sink = Sink {
                batch: &mut batch,
                points: &mut points,
                bad: &mut bad,
                left_out: &mut left_out,
                source_id: "up",
                now_ms: 9,
            };
            match rows.fill(&mut sink) {
                Ok(true) => take(&mut batch),
                Ok(false) => break,
                Err(Failure::Content(text)) => {
                    failure = Some(text);
                    break;
                }
                Err(Failure::Disk(e)) => panic!("{e}"),
            }
        }
        take(&mut batch);
        (read, bad, failure)
    }

    fn file(text: &str) -> Box<dyn Read + Send> {
        Box::new(io::Cursor::new(text.as_bytes().to_vec()))
    }

    #[test]
    fn labels_are_counted_before_they_are_multiplied() {
        let map = |n: usize, value: &str| {
            let pairs: Vec<String> = (0..n).map(|i| format!("\"\"l{i}\"\":\"\"{value}\"\"")).collect();
            format!("\"{{{}}}\"", pairs.join(","))
        };
        let many = format!("timestamp,metric_name,value,labels\n1700000000,a,1,{}\n", map(100_000, "v"));
        let (rows, bad, _) = all(Csv::new(file(&many), ""));
        assert!(rows.is_empty() && bad[0].1.contains("100000 labels"), "{bad:?}");
        let columns: Vec<String> = (0..100).map(|i| format!("{}:metric:m{i}", i + 2)).collect();
        let plan = format!("1:label:labels,{}", columns.join(","));
        let head = format!("labels,{}\n", vec!["m"; 100].join(","));
        let wide = format!("{head}{},{}\n", map(1, &"v".repeat(100_000)), vec!["1"; 100].join(","));
        let (rows, bad, _) = all(Csv::new(file(&wide), &plan));
        assert!(rows.is_empty() && bad[0].1.contains("more than 8388608 bytes"), "{bad:?}");
    }

    #[test]
    fn a_filledis_full_by_its_bytes_too() {
        let row = format!(
            "{{\"name\":\"a\",\"metric_type\":\"GAUGE\",\"value\":1,\"labels\":{{\"l\":\"{}\"}}}}\n",
            "v".repeat(1 << 20)
        );
        let (mut batch, mut points, mut bad) = (Batch::default(), TypeCounts::default(), Vec::new());
        let mut left_out = BTreeMap::new();
        let (filled, left_out) = (&mut batch, &mut left_out);
        let mut sink = Sink { batch: filled, points: &mut points, bad: &mut bad, left_out, source_id: "up", now_ms: 9 };
        assert!(matches!(Ndjson::new(file(&row.repeat(40))).fill(&mut sink), Ok(true)));
        assert!(batch.samples.len() < 20, "{}", batch.samples.len());
    }

    #[test]
    fn columns_of_text_become_samples() {
        let text = "timestamp,metric_name,value,host,labels\n1700000000,cpu,1.5,a,\"{\"\"x\"\":\"\"y\"\"}\"\nsoon,cpu,1,a,\n2023-11-14T22:13:21Z,mem,NaN,,\n1700000000,,1,,\n";
        let (rows, bad, failure) = all(Csv::new(file(text), ""));
        assert_eq!(rows[0], (r#"cpu{host="a", job="up", x="y"}"#.into(), 1_700_000_000_000, 1.5));
        assert_eq!((rows[1].0.as_str(), rows[1].1), (r#"mem{job="up"}"#, 1_700_000_001_000));
        assert_eq!((bad.iter().map(|b| b.0).collect::<Vec<_>>(), failure), (vec![3, 5], None));
        let wide = "1700000000000,20.5,,kitchen\n";
        let (rows, _, _) = all(Csv::new(file(wide), "1:time:unix_ms,2:metric:t,3:metric:h,4:label:room"));
        assert_eq!(rows, [(r#"t{job="up", room="kitchen"}"#.into(), 1_700_000_000_000, 20.5)]);
        assert!(all(Csv::new(file("a,b\n1,2\n"), "")).2.is_some(), "there is no value column");
    }

    #[test]
    fn lines_of_json_become_samples() {
        let text = "{\"name\":\"a\",\"metric_type\":\"GAUGE\",\"value\":1,\"timestamp\":5}\n\nx\n{\"metrics\":[{\"name\":\"b\",\"metric_type\":\"COUNTER\",\"value\":2}]}";
        let (rows, bad, _) = all(Ndjson::new(file(text)));
        assert_eq!(rows.iter().map(|r| (r.1, r.2)).collect::<Vec<_>>(), [(5_000, 1.0), (9, 2.0)]);
        assert_eq!(bad[0].0, 3);
    }

    #[test]
    fn expositions_are_read_in_pieces() {
        let mut text = "# TYPE a counter\n".to_owned();
        for i in 0..60_000 {
            text.push_str(&format!("a_total{{i=\"{}\"}} {i} {}.5\n", i % 10, 1_700_000_000 + i));
        }
        let (rows, _, failure) = all(Exposition::new(file(&(text.clone() + "# EOF\nafter the end"))));
        assert_eq!((rows.len(), failure), (60_000, None));
        assert_eq!(rows[59_999].1, 1_700_059_999_500);
        let (rows, _, failure) = all(Exposition::new(file(&(text + "bad line here{\nb 1\n"))));
        assert!(rows.len() >= 40_000 && failure.unwrap().starts_with("line 60002:"));
    }
}
