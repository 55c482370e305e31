//! A store on a simulated disk, plain blocks, and a book of what was acknowledged.

#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a test's own helper")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{
    Append, AppendError, Appended, Batch, Labels, Matcher, NO_FAMILY, Origin, Samples, Select, SelectError,
    SeriesReader, TimeRange,
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
    StoreConfig { dir: PathBuf::from("/data"), segment_bytes_max: 4096, maintain_every_ms: 0, ..StoreConfig::default() }
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

pub fn batch(samples: &[(u64, i64, f64)]) -> Batch {
    let mut batch = Batch::new(Origin { target_id: "t".into(), source_id: "s".into(), ..Origin::default() });
    for (series, ts_ms, value) in samples {
        let series = batch.push_labels(&labels(*series), NO_FAMILY);
        batch.push_sample(series, *ts_ms, *value);
    }
    batch
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
        assert!(samples.ts_ms.windows(2).all(|w| w[0] < w[1]), "times rise strictly");
        let rows = samples.ts_ms.iter().copied().zip(samples.values.iter().map(|v| v.to_bits())).collect();
        assert!(out.insert(reader.labels().clone(), rows).is_none(), "a label set came twice");
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

type Row = (Labels, Vec<(i64, f64)>);

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
                let row =
                    (0..count).map(|_| (take_u64(&mut rest) as i64, f64::from_bits(take_u64(&mut rest)))).collect();
                out.push((Labels::from_bytes(head).unwrap(), row));
            }
        }
        out
    }

    fn matching(&self, matchers: &[Matcher], range: TimeRange) -> BTreeMap<Labels, BTreeMap<i64, f64>> {
        let mut out: BTreeMap<Labels, BTreeMap<i64, f64>> = BTreeMap::new();
        for (labels, row) in self.rows() {
            if matchers.iter().all(|m| m.matches(labels.get(m.name()).unwrap_or(""))) {
                for (ts, value) in row.into_iter().filter(|s| range.contains(s.0)) {
                    out.entry(labels.clone()).or_default().entry(ts).or_insert(value);
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

struct PlainReader(Labels, BTreeMap<i64, f64>);

impl SeriesReader for PlainReader {
    fn labels(&self) -> &Labels {
        &self.0
    }

    fn read(&self, range: TimeRange, out: &mut Samples) -> Result<(), SelectError> {
        self.1.iter().filter(|s| range.contains(*s.0)).for_each(|(ts, value)| out.push(*ts, *value));
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
            assert!(input.samples.ts_ms.iter().all(|ts| window.contains(*ts)));
            bytes.extend_from_slice(&(input.labels.as_bytes().len() as u64).to_le_bytes());
            bytes.extend_from_slice(input.labels.as_bytes());
            bytes.extend_from_slice(&(input.samples.len() as u64).to_le_bytes());
            for (ts, value) in input.samples.ts_ms.iter().zip(&input.samples.values) {
                bytes.extend_from_slice(&(*ts as u64).to_le_bytes());
                bytes.extend_from_slice(&value.to_bits().to_le_bytes());
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
