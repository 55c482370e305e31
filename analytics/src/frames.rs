//! What goes over the pipes between the server and this process: frames of a kind, a length and so many bytes.
//!
//! From the server: one `Q` (what is asked), then `B` (which files) and any number of `T` (tables), then `G` (go).
//! To the server: one `P` (what the statement needs), any number of `D` (the answer), then `Z` (its end); or `E` (an
//! error) at any time, after which nothing comes.

use std::io::{self, Read, Write};

/// No frame is larger; a table of the server is many batches in one frame.
pub const FRAME_BYTES_MAX: u32 = 512 << 20;

/// Reads a frame.
///
/// **Errors** when the pipe ends within it or the frame is larger than [`FRAME_BYTES_MAX`].
pub fn read(from: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    from.read_exact(&mut head)?;
    let [kind, a, b, c, d] = head;
    let len = u32::from_le_bytes([a, b, c, d]);
    if len > FRAME_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {len} bytes")));
    }
    let mut bytes = Vec::new();
    from.take(u64::from(len)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == u64::from(len) { Ok((kind, bytes)) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Writes a frame.
pub fn write(to: &mut impl Write, kind: u8, bytes: &[u8]) -> io::Result<()> {
    let too_large = |_| io::Error::new(io::ErrorKind::InvalidInput, "a frame that is too large");
    let len = u32::try_from(bytes.len()).map_err(too_large)?;
    to.write_all(&[kind])?;
    to.write_all(&len.to_le_bytes())?;
    to.write_all(bytes)?;
    to.flush()
}

/// Takes the name off the front of a table's frame: a length byte, the name, the stream of Arrow IPC.
pub fn named(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (len, rest) = bytes.split_first()?;
    let (name, stream) = rest.split_at_checked(usize::from(*len))?;
    Some((std::str::from_utf8(name).ok()?, stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_and_cut_ones_are_errors() {
        let mut pipe = Vec::new();
        write(&mut pipe, b'T', b"\x01ndata").unwrap();
        let (kind, bytes) = read(&mut &pipe[..]).unwrap();
        assert_eq!((kind, named(&bytes)), (b'T', Some(("n", &b"data"[..]))));
        for cut in 0..pipe.len() {
            assert!(read(&mut &pipe[..cut]).is_err(), "{cut}");
        }
        assert!(read(&mut &b"T\xff\xff\xff\xff"[..]).is_err());
        assert_eq!((named(b""), named(b"\x05abc")), (None, None));
    }
}
