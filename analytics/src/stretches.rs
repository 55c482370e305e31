//! Samples that come in stretches of time, each a frame with a stream of Arrow IPC.

use std::io::{Cursor, Read};

use polars::prelude::{DataFrame, IpcStreamReader, SerReader};

use crate::frames;

/// Hands every stretch on, with the name of what it is, until the sender says that it was the last.
pub fn each(input: &mut impl Read, mut take: impl FnMut(&str, DataFrame) -> Result<(), String>) -> Result<(), String> {
    loop {
        match frames::read(input).map_err(|e| format!("the samples break off: {e}"))? {
            (b'T', bytes) => {
                let (name, stream) = frames::named(&bytes).ok_or("a stretch without a name")?;
                let table = IpcStreamReader::new(Cursor::new(stream)).finish().map_err(|e| e.to_string())?;
                if table.height() > 0 {
                    take(name, table)?;
                }
            }
            (b'G', _) => return Ok(()),
            (kind, _) => return Err(format!("an unknown frame {kind:?}")),
        }
    }
}
