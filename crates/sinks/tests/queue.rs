//! The queue in front of the sinks: each sink reads every record once and in order, after kills, power cuts and damage.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use model::{Follow, Followed, Labels, MetricType, Origin, Sample, SeriesId, SeriesLookUp};
use sinks::{Place, Queue, QueueSettings, Reader, Window};
use sys::{Fault, Fs, Random, SimFs};

const DIR: &str = "/data/sinks";

fn labels(id: u64) -> Labels {
    Labels::from_pairs([("__name__", "m".to_owned()), ("id", id.to_string()), ("pad", "x".repeat(id as usize % 90))])
}

struct Names;

impl SeriesLookUp for Names {
    fn visit(&self, ids: &[SeriesId], act: &mut dyn FnMut(SeriesId, &Labels, MetricType)) {
        ids.iter().for_each(|id| act(*id, &labels(id.0), MetricType::Gauge));
    }
}

/// The store: every record is durable here until it was secured with the queue.
struct Log {
    records: Vec<(u64, Vec<(SeriesId, Sample)>)>,
    secured: u64,
    seq: u64,
}

impl Log {
    fn append(&mut self, queue: &Queue, random: &mut Random) {
        self.seq += 1 + random.below(2);
        let count = random.below(20);
        let rows = (0..count).map(|i| {
            let sample =
                Sample { ts_ms: (self.seq * 100 + random.below(3)) as i64, value: f64::from_bits(self.seq << 32 | i) };
            (SeriesId(1 + random.below(2_000) * random.below(70)), sample)
        });
        self.records.push((self.seq, rows.collect()));
        show(queue, self.records.last().unwrap());
    }

    fn secure(&mut self, queue: &Queue) {
        if queue.secure(self.seq).is_ok() {
            self.secured = self.seq;
        }
    }

    /// What a start does: shows what the queue does not have.
    fn replay(&self, queue: &Queue) -> u64 {
        let has = queue.open(self.secured).unwrap();
        self.records.iter().filter(|(seq, _)| *seq > has).for_each(|record| show(queue, record));
        queue.passed(self.seq);
        has
    }
}

fn show(queue: &Queue, (seq, samples): &(u64, Vec<(SeriesId, Sample)>)) {
    let origin = Origin { source_id: format!("s{}", seq % 3), target_id: "t".into(), ..Origin::default() };
    queue.record(&Followed { seq: *seq, origin: &origin, samples, histograms: &[], exemplars: &[], series: &Names });
}

fn open(fs: &SimFs, settings: QueueSettings, log: &Log) -> (Arc<Queue>, Vec<Arc<Place>>) {
    let queue = Queue::new(Arc::new(fs.clone()), Path::new(DIR), settings);
    queue.activate(true);
    let has = log.replay(&queue);
    let places = queue.places(&["a".to_owned(), "b".to_owned()]).unwrap();
    let passed = places.iter().all(|place| place.seq() >= log.secured);
    assert!(has >= log.secured || passed, "{has} of {} secured", log.secured);
    (queue, places)
}

type Rows = Vec<(Labels, String, i64, u64)>;

fn rows_of(window: &Window) -> Rows {
    let row = |row: &sinks::Row| {
        let source = window.origins[row.origin as usize].0.clone();
        (window.series[row.series as usize].labels.clone(), source, row.ts_ms, row.value.to_bits())
    };
    window.rows.iter().map(row).collect()
}

fn wanted(log: &Log, from: u64, to: u64) -> Rows {
    let records = log.records.iter().filter(|(seq, _)| *seq > from && *seq <= to);
    records
        .flat_map(|(seq, rows)| {
            rows.iter().map(move |(id, s)| (labels(id.0), format!("s{}", seq % 3), s.ts_ms, s.value.to_bits()))
        })
        .collect()
}

/// Reads a window as a sink does: its end is durable before it goes out.
async fn deliver(fs: &SimFs, (reader, window): &mut (Reader, Window), place: &Place, log: &Log) {
    let before = place.seq();
    window.clear_rows();
    tokio::time::timeout(std::time::Duration::from_secs(20), reader.wait()).await.unwrap();
    reader.fill(window, 50).unwrap();
    assert_eq!(rows_of(window), wanted(log, before, window.last_seq));
    place.begin(window.last_seq);
    if place.store(fs).is_ok() {
        place.advance(window.last_seq);
    }
}

#[tokio::test]
async fn every_sink_reads_every_record_after_power_cuts() {
    let settings = QueueSettings { segment_bytes_max: 8_000, bytes_max: 1 << 30, buffer_bytes_max: 1 << 20 };
    for seed in 0..20 {
        let (fs, mut random) = (SimFs::seeded(seed), Random::seeded(seed));
        let mut log = Log { records: Vec::new(), secured: 0, seq: 0 };
        // The store makes its own folder durable before it opens the queue.
        fs.create_dir_all(Path::new("/data")).and_then(|()| fs.sync_dir(Path::new("/"))).unwrap();
        let (mut delivered, mut first) = ([0u64; 2], true);
        for _ in 0..5 {
            let (queue, places) = open(&fs, settings, &log);
            for (place, delivered) in places.iter().zip(&mut delivered) {
                assert!(place.seq() <= *delivered || first, "a place is never ahead");
                // What was under way goes out again, to the same end.
                if let Some(begun) = place.begun() {
                    let (mut window, mut reader) = (Window::default(), queue.reader(place));
                    reader.wait().await;
                    // The queue's thread may not have written all that was shown again.
                    while !reader.fill(&mut window, 1).unwrap() {
                        reader.wait().await;
                    }
                    assert_eq!((window.last_seq, rows_of(&window)), (begun, wanted(&log, place.seq(), begun)));
                    place.advance(begun);
                }
                *delivered = place.seq();
            }
            first = false;
            let mut readers: Vec<(Reader, Window)> =
                places.iter().map(|place| (queue.reader(place), Window::default())).collect();
            for _ in 0..60 {
                log.append(&queue, &mut random);
                if random.below(10) == 0 {
                    log.secure(&queue);
                }
                if random.below(8) == 0 {
                    let at = random.below(2) as usize;
                    if places[at].seq() < log.seq {
                        deliver(&fs, &mut readers[at], &places[at], &log).await;
                        delivered[at] = places[at].seq();
                    }
                    queue.release();
                }
            }
            if random.coin() {
                drop(readers);
                queue.close();
                fs.kill();
            } else {
                // The queue's thread goes with the power.
                fs.inject(Fault::PowerCut { after: 0 });
                queue.close();
                fs.crash();
            }
        }
        let (queue, places) = open(&fs, settings, &log);
        for place in &places {
            let (from, mut window, mut reader) = (place.seq(), Window::default(), queue.reader(place));
            while reader_is_behind(&queue, &window, place) {
                reader.wait().await;
                reader.fill(&mut window, usize::MAX).unwrap();
                // A window that was begun ends where it ended; only then comes the rest.
                place.advance(window.last_seq);
            }
            assert_eq!(rows_of(&window), wanted(&log, from, log.seq), "seed {seed}");
        }
    }
}

fn reader_is_behind(queue: &Queue, window: &Window, place: &Place) -> bool {
    window.last_seq.max(place.seq()) < queue.end()
}

#[tokio::test]
async fn a_full_queue_gives_up_its_oldest_part_and_counts_it() {
    let settings = QueueSettings { segment_bytes_max: 4_000, bytes_max: 20_000, buffer_bytes_max: 1 << 20 };
    let (fs, mut random) = (SimFs::seeded(1), Random::seeded(1));
    let mut log = Log { records: Vec::new(), secured: 0, seq: 0 };
    let (queue, places) = open(&fs, settings, &log);
    for _ in 0..400 {
        log.append(&queue, &mut random);
    }
    log.secure(&queue);
    queue.release();
    assert!(queue.load().0 <= 24_500, "{:?}", queue.load());
    let (mut window, mut reader) = (Window::default(), queue.reader(&places[0]));
    reader.wait().await;
    reader.fill(&mut window, usize::MAX).unwrap();
    let total = wanted(&log, 0, log.seq).len() as u64;
    assert_eq!(places[0].lost() + window.len() as u64, total);
    assert!(places[0].lost() > 0 && places[0].lost() == places[1].lost());
}

#[tokio::test]
async fn a_damaged_entry_costs_itself() {
    let settings = QueueSettings::default();
    for seed in 0..30 {
        let (fs, mut random) = (SimFs::seeded(seed), Random::seeded(seed));
        let mut log = Log { records: Vec::new(), secured: 0, seq: 0 };
        let (queue, places) = open(&fs, settings, &log);
        (0..50).for_each(|_| log.append(&queue, &mut random));
        log.secure(&queue);
        let file = fs.files().into_iter().find(|f| f.extension().is_some_and(|e| e == "queue")).unwrap();
        let len = fs.read(&file).unwrap().len();
        fs.damage(&file, |bytes| bytes[len / 2 + random.below(len as u64 / 4) as usize] ^= 0x10).unwrap();
        let (mut window, mut reader) = (Window::default(), queue.reader(&places[0]));
        reader.wait().await;
        reader.fill(&mut window, usize::MAX).unwrap();
        let (found, all) = (rows_of(&window), wanted(&log, 0, log.seq));
        assert!(found.iter().all(|row| all.contains(row)), "seed {seed}: nothing is made up");
        assert!(found.len() + 60 >= all.len(), "seed {seed}: {} of {}", found.len(), all.len());
        assert_eq!(window.last_seq, log.seq, "seed {seed}");
    }
}

/// Reads everything that a place does not have.
async fn read_all(queue: &Queue, place: &Arc<Place>) -> Window {
    let (mut window, mut reader) = (Window::default(), queue.reader(place));
    while reader_is_behind(queue, &window, place) {
        tokio::time::timeout(std::time::Duration::from_secs(20), reader.wait()).await.unwrap();
        reader.fill(&mut window, usize::MAX).unwrap();
    }
    window
}

#[tokio::test]
async fn a_sync_that_failed_secures_nothing_until_the_next_start() {
    let settings = QueueSettings { segment_bytes_max: 4_000, ..QueueSettings::default() };
    for seed in 0..4 {
        let (fs, mut random) = (SimFs::seeded(seed), Random::seeded(seed));
        fs.create_dir_all(Path::new("/data")).and_then(|()| fs.sync_dir(Path::new("/"))).unwrap();
        let mut log = Log { records: Vec::new(), secured: 0, seq: 0 };
        let (queue, places) = open(&fs, settings, &log);
        (0..5).for_each(|_| log.append(&queue, &mut random));
        log.secure(&queue);
        let secured = log.seq;
        assert_eq!(log.secured, secured);
        fs.inject(Fault::Sync { after: 0 });
        (0..40).for_each(|_| log.append(&queue, &mut random));
        log.secure(&queue);
        // A second sync would go well, and would say nothing of the bytes of the first.
        (0..40).for_each(|_| log.append(&queue, &mut random));
        log.secure(&queue);
        assert_eq!(log.secured, secured, "seed {seed}");
        assert!(queue.load().2.is_some(), "seed {seed}: it is seen");
        let found = rows_of(&read_all(&queue, &places[0]).await);
        assert!(found == wanted(&log, 0, log.seq), "seed {seed}: the sinks go on");
        queue.close();
        // A start reads well what is not on disk; then the power goes.
        if seed % 2 == 0 {
            fs.kill();
            let (queue, _) = open(&fs, settings, &log);
            log.secure(&queue);
            assert_eq!(log.secured, log.seq, "seed {seed}");
            queue.close();
        }
        fs.crash();
        let (queue, places) = open(&fs, settings, &log);
        let from = places[1].seq();
        let same = rows_of(&read_all(&queue, &places[1]).await) == wanted(&log, from, log.seq);
        assert!(same && from <= secured, "seed {seed}");
    }
}

#[tokio::test]
async fn damage_among_what_was_secured_costs_itself_at_the_next_start_too() {
    let settings = QueueSettings::default();
    for seed in 0..30 {
        let (fs, mut random) = (SimFs::seeded(seed), Random::seeded(seed));
        fs.create_dir_all(Path::new("/data")).and_then(|()| fs.sync_dir(Path::new("/"))).unwrap();
        let mut log = Log { records: Vec::new(), secured: 0, seq: 0 };
        let (queue, _) = open(&fs, settings, &log);
        (0..50).for_each(|_| log.append(&queue, &mut random));
        log.secure(&queue);
        queue.close();
        fs.kill();
        let file = fs.files().into_iter().find(|f| f.extension().is_some_and(|e| e == "queue")).unwrap();
        let len = fs.read(&file).unwrap().len();
        fs.damage(&file, |bytes| bytes[len / 3 + random.below(len as u64 / 2) as usize] ^= 0x04).unwrap();
        // The store has let go of everything that was secured.
        let all = wanted(&log, 0, log.seq);
        log.records.clear();
        let (queue, places) = open(&fs, settings, &log);
        let found = rows_of(&read_all(&queue, &places[0]).await);
        assert!(found.iter().all(|row| all.contains(row)), "seed {seed}: nothing is made up");
        assert!(
            found.len() + 60 >= all.len() && found.len() < all.len(),
            "seed {seed}: {} of {}",
            found.len(),
            all.len()
        );
    }
}
