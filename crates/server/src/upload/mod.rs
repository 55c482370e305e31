//! Batch uploads: files of samples, of any age within the retention.
//!
//! An upload's way: `api.rs` takes its bytes into a file, in one piece or many → 202 when they are fsynced → the worker
//! (`work.rs`) reads the file in bounded pieces (`rows.rs` and one reader for each format) and stores batch after batch, each with a
//! mark that says which one it is → the result is kept for a day. A restart goes on where the marks end. With a clean-up the rows of a
//! table go through the analytics process first (`clean.rs`, `cleaner.rs`).

mod api;
mod clean;
mod cleaner;
mod folder;
mod lines;
mod meta;
mod rows;
mod table;
mod text_table;
mod work;

pub use api::{
    __path_append, __path_cancel, __path_create, __path_list, __path_show, append, cancel, create, list, router, show,
};
pub use folder::{MARK_PREFIX, Uploads, UploadsParts};
pub use meta::UploadStatus;
