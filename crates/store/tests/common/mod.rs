//! A store on a simulated disk, plain blocks, and a book of what was acknowledged.

#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a test's own helper")]

pub mod book;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use model::histogram::{BucketSpan, CUSTOM_SCHEMA, Histogram, ResetHint};
use model::{
    Append, AppendError, Appended, Batch, Labels, Matcher, NO_FAMILY, Origin, Samples, Select, SelectError,
    SeriesReader, TimeRange, Verdict,
};
use parking_lot::Mutex;
use store::{BlockInput, BlockSet, BlockTotals, OpenError, Recovery, Store, StoreConfig};
use sys::{Fs, SimClock, SimFs};

/// 2023-11-14 22:00:00 UTC, the edge of a window.
pub const START_MS: i64 = 1_699_999_200_000;
pub const WINDOW_MS: i64 = 3_600_000;

pub fn clock() -> Arc<SimClock> {
    Arc::new(SimClock::at(START_MS))
}

pub fn config() -> StoreConfig {
    StoreConfig {
        dir: PathBuf::from("/data"),
        segment_bytes_max: 4096,
        checkpoint_bytes: 2048,
        maintain_every_ms: 0,
        ..StoreConfig::default()
    }
}

/// Opens with the store's own blocks.
pub fn open(fs: &SimFs, clock: &Arc<SimClock>, config: StoreConfig) -> Result<(Arc<Store>, Recovery), OpenError> {
    Store::open(Arc::new(fs.clone()), clock.clone(), config)
}

/// Opens with the stand-in, which is faster to write.
pub fn open_plain(fs: &SimFs, clock: &Arc<SimClock>, config: StoreConfig) -> Result<(Arc<Store>, Recovery), OpenError> {
    Store::open_with(Arc::new(fs.clone()), clock.clone(), config, PlainBlocks::open)
}

pub fn labels(n: u64) -> Labels {
    Labels::from_pairs([("__name__", "m".to_owned()), ("n", n.to_string())])
}

/// Makes a batch; where a value stands for a native histogram (see [`stand_in`]) that is sent.
pub fn batch(samples: &[(u64, i64, f64)]) -> Batch {
    let mut batch = Batch::new(Origin { target_id: "t".into(), source_id: "s".into(), ..Origin::default() });
    for (series, ts_ms, value) in samples {
        let series = batch.push_labels(&labels(*series), NO_FAMILY);
        match histogram_of(value.to_bits()) {
            Some(histogram) => batch.push_histogram(series, *ts_ms, histogram),
            None => batch.push_sample(series, *ts_ms, *value),
        }
    }
    batch
}

/// Gives the verdicts in the order of the rows that [`batch`] was given.
pub fn verdicts(batch: &Batch, rows: &[(u64, i64, f64)]) -> Vec<Verdict> {
    let (mut doubles, mut histograms) = (batch.verdicts.iter(), batch.histograms.iter().map(|h| &h.verdict));
    let is_histogram = |row: &(u64, i64, f64)| histogram_of(row.2.to_bits()).is_some();
    rows.iter().map(|r| if is_histogram(r) { histograms.next() } else { doubles.next() }).map(|v| *v.unwrap()).collect()
}

/// How many different histograms the tests send.
pub const HISTOGRAMS: usize = 6;

/// Makes a histogram; each has something that a careless reader or writer changes.
pub fn histogram(n: usize) -> Arc<Histogram> {
    let span = |offset, length| BucketSpan { offset, length };
    let plain = Histogram {
        schema: 3,
        zero_threshold: 1e-128,
        zero_count: 2.0,
        count: 12.0,
        sum: 18.4,
        positive_spans: vec![span(-2, 2), span(1, 2)],
        positive: vec![1.0, 2.0, 3.0, 4.0],
        ..Histogram::default()
    };
    Arc::new(match n {
        0 => plain,
        1 => Histogram { reset_hint: ResetHint::Gauge, ..plain },
        2 => Histogram { sum: model::stale_nan(), ..Histogram::default() },
        3 => Histogram {
            negative_spans: vec![span(0, 2)],
            negative: vec![0.25, f64::from_bits(0x7ff8_0000_0000_0099)],
            sum: -0.0,
            ..plain
        },
        4 => Histogram {
            schema: CUSTOM_SCHEMA,
            positive_spans: vec![span(0, 3)],
            positive: vec![1.0, 0.0, 5.0],
            custom_bounds: vec![0.1, 0.3],
            count: 6.0,
            ..Histogram::default()
        },
        _ => Histogram { positive_spans: vec![span(-50, 100)], positive: vec![(1u64 << 52) as f64; 100], ..plain },
    })
}

/// Gives what stands for a histogram where the tests speak of doubles: a hash of its bytes.
pub fn stand_in(n: usize) -> f64 {
    f64::from_bits(histogram_bits(&histogram(n)))
}

pub fn histogram_bits(histogram: &Histogram) -> u64 {
    let mut bytes = Vec::new();
    histogram.encode(&mut bytes);
    xxhash_rust::xxh3::xxh3_64(&bytes)
}

/// Gives the histogram that a double stands for.
pub fn histogram_of(bits: u64) -> Option<Arc<Histogram>> {
    static ALL: LazyLock<BTreeMap<u64, Arc<Histogram>>> =
        LazyLock::new(|| (0..HISTOGRAMS).map(|n| (histogram_bits(&histogram(n)), histogram(n))).collect());
    ALL.get(&bits).cloned()
}

/// Makes the samples that rows of bits stand for.
pub fn samples_of<'a>(rows: impl IntoIterator<Item = (&'a i64, &'a u64)>) -> Samples {
    let mut out = Samples::default();
    for (ts_ms, bits) in rows {
        match histogram_of(*bits) {
            Some(histogram) => out.histograms.push((*ts_ms, histogram)),
            None => out.push(*ts_ms, f64::from_bits(*bits)),
        }
    }
    out
}

/// The other way round; panics when times do not rise or a time comes twice.
pub fn rows_of(samples: &Samples) -> BTreeMap<i64, u64> {
    assert!(samples.ts_ms.windows(2).all(|w| w[0] < w[1]), "times rise strictly");
    assert!(samples.histograms.windows(2).all(|w| w[0].0 < w[1].0), "times rise strictly");
    let mut rows: BTreeMap<i64, u64> =
        samples.ts_ms.iter().copied().zip(samples.values.iter().map(|v| v.to_bits())).collect();
    for (ts_ms, histogram) in &samples.histograms {
        assert!(rows.insert(*ts_ms, histogram_bits(histogram)).is_none(), "a double and a histogram at {ts_ms}");
    }
    rows
}

pub fn append(store: &Store, samples: &[(u64, i64, f64)]) -> (Batch, Result<Appended, AppendError>) {
    store.append(batch(samples))
}

pub type Contents = BTreeMap<Labels, BTreeMap<i64, u64>>;

/// Reads everything; panics when a label set or a time comes twice.
pub fn contents(store: &Store) -> Contents {
    let mut out = Contents::new();
    for reader in store.select(&[], TimeRange::ALL).unwrap() {
        let mut samples = Samples::default();
        reader.read(TimeRange::ALL, &mut samples).unwrap();
        assert!(out.insert(reader.labels().clone(), rows_of(&samples)).is_none(), "a label set came twice");
    }
    out.retain(|_, rows: &mut BTreeMap<_, _>| !rows.is_empty());
    out
}

/// Blocks as one plain file each: a stand-in that keeps its promises on the simulated disk.
pub struct PlainBlocks {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    next: Mutex<u64>,
}

/// Times and the bits of doubles, or those that stand for a histogram: this blocks know the tests' histograms.
type Row = (Labels, Vec<(i64, u64)>);

impl PlainBlocks {
    pub fn open(fs: Arc<dyn Fs>, dir: &Path) -> Result<(Box<dyn BlockSet>, Vec<String>), String> {
        let text = |e: std::io::Error| e.to_string();
        if !fs.exists(dir) {
            fs.create_dir_all(dir).map_err(text)?;
            fs.sync_dir(dir.parent().unwrap()).map_err(text)?;
        }
        let last = fs.list(dir).map_err(text)?.iter().filter_map(|n| n.strip_suffix(".block")?.parse().ok()).max();
        let next = Mutex::new(last.unwrap_or(0) + 1);
        Ok((Box::new(PlainBlocks { fs, dir: dir.to_path_buf(), next }), Vec::new()))
    }

    fn rows(&self) -> Vec<Row> {
        let mut out = Vec::new();
        for name in self.fs.list(&self.dir).unwrap().iter().filter(|n| n.ends_with(".block")) {
            let bytes = self.fs.read(&self.dir.join(name)).unwrap();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let labels_len = take_u64(&mut rest) as usize;
                let (head, tail) = rest.split_at(labels_len);
                rest = tail;
                let count = take_u64(&mut rest);
                let row = (0..count).map(|_| (take_u64(&mut rest) as i64, take_u64(&mut rest))).collect();
                out.push((Labels::from_bytes(head).unwrap(), row));
            }
        }
        out
    }

    fn matching(&self, matchers: &[Matcher], range: TimeRange) -> Contents {
        let mut out: Contents = BTreeMap::new();
        for (labels, row) in self.rows() {
            if matchers.iter().all(|m| m.matches(labels.get(m.name()).unwrap_or(""))) {
                for (ts, bits) in row.into_iter().filter(|s| range.contains(s.0)) {
                    out.entry(labels.clone()).or_default().entry(ts).or_insert(bits);
                }
            }
        }
        out
    }
}

fn take_u64(rest: &mut &[u8]) -> u64 {
    let (head, tail) = rest.split_first_chunk().unwrap();
    *rest = tail;
    u64::from_le_bytes(*head)
}

struct PlainReader(Labels, BTreeMap<i64, u64>);

impl SeriesReader for PlainReader {
    fn labels(&self) -> &Labels {
        &self.0
    }

    fn read(&self, range: TimeRange, out: &mut Samples) -> Result<(), SelectError> {
        let samples = samples_of(self.1.iter().filter(|s| range.contains(*s.0)));
        out.ts_ms.extend(samples.ts_ms);
        out.values.extend(samples.values);
        out.histograms.extend(samples.histograms);
        Ok(())
    }
}

impl BlockSet for PlainBlocks {
    fn write(&self, window: TimeRange, series: &mut dyn Iterator<Item = BlockInput>) -> Result<(), String> {
        let mut bytes = Vec::new();
        let mut last: Option<Labels> = None;
        for input in series {
            assert!(last.is_none_or(|l| l < input.labels), "series come sorted");
            last = Some(input.labels.clone());
            let rows = rows_of(&input.samples);
            assert!(rows.keys().all(|ts| window.contains(*ts)));
            bytes.extend_from_slice(&(input.labels.as_bytes().len() as u64).to_le_bytes());
            bytes.extend_from_slice(input.labels.as_bytes());
            bytes.extend_from_slice(&(rows.len() as u64).to_le_bytes());
            for (ts, bits) in rows {
                bytes.extend_from_slice(&(ts as u64).to_le_bytes());
                bytes.extend_from_slice(&bits.to_le_bytes());
            }
        }
        let mut next = self.next.lock();
        let name = format!("{:06}", *next);
        let (temporary, path) = (self.dir.join(format!("{name}.tmp")), self.dir.join(format!("{name}.block")));
        let write = || {
            let file = self.fs.create(&temporary)?;
            file.append(&bytes)?;
            file.sync_data()?;
            self.fs.rename(&temporary, &path)?;
            self.fs.sync_dir(&self.dir)
        };
        write().map_err(|e| e.to_string())?;
        *next += 1;
        Ok(())
    }

    fn select(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<Box<dyn SeriesReader>>, SelectError> {
        let found = self.matching(matchers, range).into_iter();
        Ok(found.map(|(labels, rows)| Box::new(PlainReader(labels, rows)) as Box<dyn SeriesReader>).collect())
    }

    fn label_names(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>, SelectError> {
        let found = self.matching(matchers, range);
        Ok(found.keys().flat_map(|l| l.iter().map(|p| p.0.to_owned()).collect::<Vec<_>>()).collect())
    }

    fn label_values(&self, name: &str, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>, SelectError> {
        Ok(self.matching(matchers, range).keys().filter_map(|l| l.get(name).map(str::to_owned)).collect())
    }

    fn drop_before(&self, ts_ms: i64) -> Result<u64, String> {
        let mut dropped = 0;
        let text = |e: std::io::Error| e.to_string();
        for name in self.fs.list(&self.dir).map_err(text)?.iter().filter(|n| n.ends_with(".block")) {
            let path = self.dir.join(name);
            if latest_ms(&self.fs.read(&path).map_err(text)?) < ts_ms {
                self.fs.remove_file(&path).map_err(text)?;
                dropped += 1;
            }
        }
        Ok(dropped)
    }

    fn totals(&self) -> BlockTotals {
        let samples = self.rows().iter().map(|r| r.1.len() as u64).sum();
        let blocks = self.fs.list(&self.dir).unwrap().iter().filter(|n| n.ends_with(".block")).count() as u64;
        BlockTotals { blocks, samples, ..BlockTotals::default() }
    }
}

fn latest_ms(bytes: &[u8]) -> i64 {
    let (mut rest, mut latest) = (bytes, i64::MIN);
    while !rest.is_empty() {
        let labels_len = take_u64(&mut rest) as usize;
        rest = &rest[labels_len..];
        for _ in 0..take_u64(&mut rest) {
            latest = latest.max(take_u64(&mut rest) as i64);
            take_u64(&mut rest);
        }
    }
    latest
}
