//! The uploads of a server: their files, and who works on them.
//!
//! Owns: `uploads/<id>.json` and `uploads/<id>.body`. Invariants: 1. what an answer says is fsynced before it is given; 2. one request
//! at a time adds bytes to an upload; 3. batches are numbered by the bytes alone, so that a restart makes the same ones.
//! Limits: [`UPLOAD_BYTES_MAX`] bytes each, [`OPEN_MAX`] that are not done, [`KEPT_MAX`] in all; forgotten after [`KEPT_MS`].

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use model::{Counts, StreamMark};
use parking_lot::Mutex;
use sys::{File, Fs};
use tokio::sync::Notify;

use super::meta::{Meta, State};
use crate::rest::Rest;

/// Bytes of one upload.
pub const UPLOAD_BYTES_MAX: u64 = 1 << 30;
/// Uploads that are not done.
pub const OPEN_MAX: usize = 64;
/// Uploads that are remembered.
const KEPT_MAX: usize = 1_000;
/// How long an upload is remembered, and how long one may rest half sent.
const KEPT_MS: i64 = 86_400_000;
/// Clean-ups that are looked at while their requests wait.
const CHECKS_MAX: usize = 2;
/// What the marks of uploads begin with.
pub const MARK_PREFIX: &str = "upload/";

/// What uploads work with.
pub struct UploadsParts {
    /// Takes samples in.
    pub rest: Rest,
    /// The disk.
    pub fs: Arc<dyn Fs>,
    /// Their folder.
    pub dir: PathBuf,
    /// The program `quiver-analytics`; without it it is looked for.
    pub analytics: Option<PathBuf>,
    /// What the store's log knows of them.
    pub marks: Vec<(StreamMark, Counts)>,
}

/// The uploads. Cheap to clone.
#[derive(Clone)]
pub struct Uploads(pub(super) Arc<Inner>);

/// What stands behind [`Uploads`].
pub struct Inner {
    pub rest: Rest,
    pub fs: Arc<dyn Fs>,
    pub dir: PathBuf,
    pub analytics: Option<PathBuf>,
    /// Processes that look at the steps of a request.
    pub checks: tokio::sync::Semaphore,
    pub all: Mutex<BTreeMap<String, Arc<Upload>>>,
    /// Batches that the log has, by upload and number.
    pub recovered: Mutex<HashMap<String, BTreeMap<u64, Counts>>>,
    pub news: Notify,
    pub stats: UploadStats,
}

/// The figures of all uploads.
#[derive(Default)]
pub struct UploadStats {
    pub created: AtomicU64,
    pub done: AtomicU64,
    pub failed: AtomicU64,
    pub bytes: AtomicU64,
    pub bad_rows: AtomicU64,
    pub left_out: AtomicU64,
    pub cleaners_gone: AtomicU64,
}

/// One upload.
pub struct Upload {
    pub meta: Mutex<Meta>,
    /// Bytes that are durable.
    pub offset: AtomicU64,
    /// Held by the request that adds bytes.
    pub adding: tokio::sync::Mutex<()>,
}

impl Upload {
    /// Starts on what is known.
    pub fn new(meta: Meta, offset: u64) -> Upload {
        Upload { meta: Mutex::new(meta), offset: AtomicU64::new(offset), adding: tokio::sync::Mutex::default() }
    }
}

impl Uploads {
    /// Reads the folder. Blocks.
    ///
    /// **Gives** sentences on what is damaged, too.
    pub fn open(parts: UploadsParts) -> io::Result<(Uploads, Vec<String>)> {
        parts.fs.create_dir_all(&parts.dir)?;
        let mut all = BTreeMap::new();
        let mut damaged = Vec::new();
        for name in parts.fs.list(&parts.dir)? {
            let Some(id) = name.strip_suffix(".json") else { continue };
            let path = parts.dir.join(&name);
            match Meta::from_bytes(&parts.fs.read(&path)?) {
                Some(mut meta) if meta.upload_id == id => {
                    let body = parts.dir.join(format!("{id}.body"));
                    let offset = if parts.fs.exists(&body) { parts.fs.open(&body)?.len()? } else { 0 };
                    if meta.state == State::Processing {
                        meta.state = State::Queued;
                    }
                    all.insert(id.to_owned(), Arc::new(Upload::new(meta, offset)));
                }
                _ => damaged.push(format!("{}: it is damaged; its upload must be sent again", path.display())),
            }
        }
        let mut recovered: HashMap<String, BTreeMap<u64, Counts>> = HashMap::new();
        for (mark, counts) in parts.marks {
            if let Some(id) = mark.stream_id.strip_prefix(MARK_PREFIX) {
                recovered.entry(id.to_owned()).or_default().insert(mark.seq, counts);
            }
        }
        let uploads = Uploads(Arc::new(Inner {
            rest: parts.rest,
            fs: parts.fs,
            dir: parts.dir,
            analytics: parts.analytics,
            checks: tokio::sync::Semaphore::new(CHECKS_MAX),
            all: Mutex::new(all),
            recovered: Mutex::new(recovered),
            news: Notify::new(),
            stats: UploadStats::default(),
        }));
        Ok((uploads, damaged))
    }

    /// Finds an upload.
    pub fn get(&self, upload_id: &str) -> Option<Arc<Upload>> {
        self.0.all.lock().get(upload_id).cloned()
    }

    /// Finds the upload that was begun with a key.
    pub fn with_key(&self, key: &str) -> Option<Arc<Upload>> {
        self.0.all.lock().values().find(|u| u.meta.lock().key.as_deref() == Some(key)).cloned()
    }

    /// Adds an upload.
    ///
    /// **Errors** with a sentence when there are too many.
    pub fn insert(&self, meta: Meta) -> Result<Arc<Upload>, String> {
        let mut all = self.0.all.lock();
        if all.values().filter(|u| !u.meta.lock().state.is_final()).count() >= OPEN_MAX {
            return Err(format!("{OPEN_MAX} uploads are not done yet"));
        }
        if all.len() >= KEPT_MAX {
            return Err(format!("{KEPT_MAX} uploads are remembered; the oldest are forgotten after a day"));
        }
        let id = meta.upload_id.clone();
        let upload = Arc::new(Upload::new(meta, 0));
        all.insert(id, upload.clone());
        Ok(upload)
    }

    /// Writes what is known of an upload. Blocks.
    pub fn save(&self, upload: &Upload) -> io::Result<()> {
        let (id, bytes) = {
            let meta = upload.meta.lock();
            (meta.upload_id.clone(), meta.to_bytes())
        };
        let inner = &self.0;
        let temporary = inner.dir.join(format!("{id}.tmp"));
        let file = inner.fs.create(&temporary)?;
        file.append(&bytes)?;
        file.sync_data()?;
        drop(file);
        inner.fs.rename(&temporary, &inner.dir.join(format!("{id}.json")))?;
        inner.fs.sync_dir(&inner.dir)
    }

    /// Writes what is known of all uploads that are at work. Blocks. The store's log must not be cut before.
    pub fn save_all(&self) -> io::Result<()> {
        let open: Vec<_> =
            self.0.all.lock().values().filter(|u| u.meta.lock().state == State::Processing).cloned().collect();
        open.iter().try_for_each(|upload| self.save(upload))
    }

    /// Opens the file of an upload's bytes.
    pub fn body(&self, upload_id: &str) -> io::Result<Box<dyn File>> {
        let path = self.0.dir.join(format!("{upload_id}.body"));
        if self.0.fs.exists(&path) { self.0.fs.open(&path) } else { self.0.fs.create(&path) }
    }

    /// Removes the bytes of an upload that needs them no more. Blocks.
    pub fn remove_body(&self, upload_id: &str) -> io::Result<()> {
        let path = self.0.dir.join(format!("{upload_id}.body"));
        if self.0.fs.exists(&path) { self.0.fs.remove_file(&path) } else { Ok(()) }
    }

    /// Forgets uploads of yesterday. Blocks.
    pub fn prune(&self, now_ms: i64) {
        let old: Vec<_> = {
            let mut all = self.0.all.lock();
            let is_old = |u: &Arc<Upload>| {
                let meta = u.meta.lock();
                let rests = meta.state.is_final() || meta.state == State::Receiving;
                rests && now_ms - meta.finished_ms.unwrap_or(meta.created_ms) > KEPT_MS
            };
            let ids: Vec<String> = all.iter().filter(|(_, u)| is_old(u)).map(|(id, _)| id.clone()).collect();
            ids.iter().for_each(|id| drop(all.remove(id)));
            ids
        };
        for id in old {
            let removed =
                self.remove_body(&id).and_then(|()| self.0.fs.remove_file(&self.0.dir.join(format!("{id}.json"))));
            if let Err(error) = removed {
                tracing::warn!("upload {id} of yesterday: {error}");
            }
        }
    }
}
