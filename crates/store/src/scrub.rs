//! Reads blocks again in the background, so that damage is found while its second copy is still good.
//!
//! Owns: the file `scrub`, which says when each block was last found whole.
//! Invariants: 1. one pass at a time; 2. it reads at most so many bytes a second, unless somebody waits for it; 3. it
//! holds up nobody: no lock is held while it reads.
//! Limits: [`FINDINGS_MAX`] findings are kept for the report, all are counted and logged.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use sys::Fs;

use crate::blocks::{Verified, parse_folder_name, scrub_block};
use crate::coding::{Cursor, Malformed, open_sealed, put_bytes, put_signed, put_varint, write_sealed};
use crate::store::Store;

/// A block is read again this long after it was last found whole: twice a week.
const EVERY_MS: i64 = 3 * 86_400_000 + 43_200_000;
/// How often it is looked whether a block is due.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How often the pace is checked, as a share of a second's bytes.
const PACE_SHARE: u64 = 20;
/// Findings that are kept.
pub const FINDINGS_MAX: usize = 100;
const FILE: &str = "scrub";

/// What the scrubber has done and found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScrubState {
    /// A pass is under way.
    pub running: bool,
    /// Blocks read since the start.
    pub blocks: u64,
    /// Files read since the start.
    pub files: u64,
    /// Bytes read since the start.
    pub bytes: u64,
    /// Stretches found damaged since the start.
    pub stretches_damaged: u64,
    /// Files made whole again since the start.
    pub files_repaired: u64,
    /// When the last pass was done; milliseconds since 1970.
    pub finished_ms: Option<i64>,
    /// The block that has waited longest was last found whole then; `None` when one never was, or there is none.
    pub oldest_ms: Option<i64>,
    /// The latest findings, whole sentences, oldest first.
    pub findings: VecDeque<String>,
}

/// The scrubber of one store.
#[derive(Default)]
pub struct Scrubber {
    state: Mutex<ScrubState>,
    busy: AtomicBool,
    stop: Arc<Stop>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    /// Sleeps; `false` when it is time to end.
    fn sleep(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut stopped = self.stopped.lock();
        while !*stopped {
            if self.changed.wait_until(&mut stopped, deadline).timed_out() {
                return !*stopped;
            }
        }
        false
    }
}

/// When blocks were last found whole, by the name of their folder.
type Verdicts = BTreeMap<String, i64>;

impl Scrubber {
    /// Starts the thread; does nothing for 0 bytes a second.
    pub fn start(&self, store: &Arc<Store>, bytes_per_second: u64) -> io::Result<()> {
        if bytes_per_second == 0 {
            return Ok(());
        }
        let (store, stop) = (Arc::downgrade(store), self.stop.clone());
        let run = move || work(&store, &stop, bytes_per_second);
        *self.thread.lock() = Some(thread::Builder::new().name("store-scrub".into()).spawn(run)?);
        Ok(())
    }

    /// Ends the thread and any pass.
    pub fn stop(&self) {
        *self.stop.stopped.lock() = true;
        self.stop.changed.notify_all();
        let Some(thread) = self.thread.lock().take() else { return };
        // The last owner of the store may be the scrubber itself.
        if thread.thread().id() != thread::current().id() && thread.join().is_err() {
            tracing::error!("the scrubber panicked");
        }
    }

    /// Gives what was done and found.
    pub fn state(&self) -> ScrubState {
        self.state.lock().clone()
    }

    fn note(&self, verified: &Verified) {
        let mut state = self.state.lock();
        state.blocks += 1;
        state.files += verified.files;
        state.bytes += verified.bytes;
        state.stretches_damaged += verified.stretches_damaged;
        state.files_repaired += verified.repaired;
        for finding in &verified.findings {
            if state.findings.len() >= FINDINGS_MAX {
                state.findings.pop_front();
            }
            state.findings.push_back(finding.clone());
        }
    }
}

/// Looks every minute; the store is held only while something is read.
fn work(store: &Weak<Store>, stop: &Stop, bytes_per_second: u64) {
    while stop.sleep(LOOK_EVERY) {
        let Some(store) = store.upgrade() else { return };
        if let Err(error) = store.scrub_due(bytes_per_second) {
            tracing::warn!(%error, "the scrubber could not do its work; it is tried again");
        }
    }
}

impl Store {
    /// Reads all blocks now, as fast as the disk gives them.
    ///
    /// **Gives** what was found; `None` when a pass is under way.
    pub fn scrub(&self) -> io::Result<Option<ScrubState>> {
        self.pass(i64::MAX, 0)
    }

    /// Gives what the scrubber has done and found.
    pub fn scrub_state(&self) -> ScrubState {
        self.scrubber.state()
    }

    fn scrub_due(&self, bytes_per_second: u64) -> io::Result<()> {
        let due_ms = self.core.clock.now_ms().saturating_sub(EVERY_MS);
        self.pass(due_ms, bytes_per_second).map(drop)
    }

    /// Reads the blocks that were last found whole before a time.
    fn pass(&self, before_ms: i64, bytes_per_second: u64) -> io::Result<Option<ScrubState>> {
        if self.scrubber.busy.swap(true, Ordering::AcqRel) {
            return Ok(None);
        }
        self.scrubber.state.lock().running = true;
        let done = self.read_blocks(before_ms, bytes_per_second);
        let mut state = self.scrubber.state.lock();
        state.running = false;
        state.finished_ms = Some(self.core.clock.now_ms());
        self.scrubber.busy.store(false, Ordering::Release);
        done.map(|()| Some(state.clone()))
    }

    fn read_blocks(&self, before_ms: i64, bytes_per_second: u64) -> io::Result<()> {
        let (fs, dir) = (&self.core.fs, &self.core.config.dir);
        let blocks = dir.join("blocks");
        let mut verdicts = load(&**fs, dir)?;
        let names: Vec<String> = match fs.exists(&blocks) {
            true => fs.list(&blocks)?.into_iter().filter(|n| parse_folder_name(n).is_some()).collect(),
            false => Vec::new(),
        };
        let known = verdicts.len();
        verdicts.retain(|name, _| names.binary_search(name).is_ok());
        let mut changed = verdicts.len() != known;
        let mut due: Vec<&String> =
            names.iter().filter(|n| verdicts.get(*n).is_none_or(|at| *at < before_ms)).collect();
        due.sort_by_key(|name| verdicts.get(*name).copied().unwrap_or(i64::MIN));
        let mut pace = Pace { stop: &self.scrubber.stop, bytes_per_second, read: 0 };
        for name in due {
            let verified = scrub_block(fs, &blocks.join(name), &dir.join("damaged"), &mut |bytes| pace.go_on(bytes));
            self.settle(&verified);
            if verified.unfinished && *self.scrubber.stop.stopped.lock() {
                break;
            }
            // One with damage is looked at again only when its time has come: the finding does not go away.
            if !verified.unfinished {
                verdicts.insert(name.clone(), self.core.clock.now_ms());
                changed = true;
            }
        }
        let oldest = if verdicts.len() < names.len() { None } else { verdicts.values().min().copied() };
        self.scrubber.state.lock().oldest_ms = oldest;
        if changed { write_sealed(&**fs, &dir.join(FILE), &encode(&verdicts)) } else { Ok(()) }
    }

    fn settle(&self, verified: &Verified) {
        for finding in &verified.findings {
            tracing::error!("scrub: {finding}");
        }
        self.scrubber.note(verified);
        if verified.stretches_damaged > 0 {
            let durability = &mut self.core.applied.lock().accounts.durability;
            durability.stretches_damaged += verified.stretches_damaged;
            durability.files_repaired += verified.repaired;
        }
    }
}

/// Holds reading to so many bytes a second; 0 is as fast as it goes.
struct Pace<'a> {
    stop: &'a Stop,
    bytes_per_second: u64,
    /// Since the last pause.
    read: u64,
}

impl Pace<'_> {
    fn go_on(&mut self, bytes: u64) -> bool {
        self.read += bytes;
        if self.bytes_per_second == 0 {
            return !*self.stop.stopped.lock();
        }
        if self.read * PACE_SHARE < self.bytes_per_second {
            return true;
        }
        let pause = Duration::from_secs_f64(self.read as f64 / self.bytes_per_second as f64);
        self.read = 0;
        self.stop.sleep(pause)
    }
}

/// Reads when blocks were last found whole; a damaged file only means that they are read again.
fn load(fs: &dyn Fs, dir: &Path) -> io::Result<Verdicts> {
    let path = dir.join(FILE);
    if !fs.exists(&path) {
        return Ok(Verdicts::new());
    }
    Ok(open_sealed(&fs.read(&path)?).and_then(|body| decode(body).ok()).unwrap_or_default())
}

fn encode(verdicts: &Verdicts) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, verdicts.len() as u64);
    for (name, at_ms) in verdicts {
        put_bytes(&mut out, name.as_bytes());
        put_signed(&mut out, *at_ms);
    }
    out
}

fn decode(body: &[u8]) -> Result<Verdicts, Malformed> {
    let mut cursor = Cursor::new(body);
    let count = cursor.count()?;
    (0..count).map(|_| Ok((cursor.string()?, cursor.signed()?))).collect()
}
