//! Streams: metrics in and out over connections that stay open.
//!
//! In: `POST /api/v1/metrics/stream` takes NDJSON, one frame a line, and answers one line for each; a WebSocket on the same path
//! does the same. A frame's way: `lines.rs` joins what arrives → `session.rs` gathers the frames that are there → `frame.rs` makes
//! rows → one batch, whose WAL record says how far the stream has come → answers. `positions.rs` knows how far each stream is,
//! over restarts too. Out: `GET` on the same path gives samples of the past, then those that come; see `tap.rs` and `out.rs`.

mod frame;
mod http;
mod lines;
mod out;
mod positions;
mod session;
mod stats;
mod tap;
mod websocket;

pub use frame::{join as join_frames, read_rows as read_frame};
pub use http::{__path_from_here, __path_to_here, StreamParts, Streams, from_here, router, selects, to_here};
pub use out::since_ms;
pub use positions::Positions;
pub use tap::{Tap, Tapped};
pub use websocket::{Upgrade, from_here as lines_out};
