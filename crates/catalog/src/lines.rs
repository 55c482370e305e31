//! Files of checksummed lines: the second copy of the targets, and rows that wait for the database.
//!
//! Layout: per line 16 hexadecimal digits of the XXH3-64 of what follows the space, a space, a value as JSON, a line feed.
//! Invariants: 1. what was appended is on disk, the file's name in its folder included; 2. a line that broke off, by a crash
//! or a full disk, costs itself: the next one begins on a line of its own; 3. a line that does not check is nobody's.
//! Limits: whoever reads says how long a line may be; a longer one is damage.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Take, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::xxh3_64;

/// One such file.
pub struct LineFile {
    path: PathBuf,
    open: Option<Open>,
}

struct Open {
    file: File,
    end: u64,
    /// The last line broke off.
    torn: bool,
}

impl LineFile {
    /// Names a file; nothing is made before the first line.
    pub fn at(path: PathBuf) -> LineFile {
        LineFile { path, open: None }
    }

    /// Gives the file's name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells whether there is such a file.
    pub fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Gives the length of the file; 0 when there is none.
    pub fn bytes(&self) -> io::Result<u64> {
        match fs::metadata(&self.path) {
            Ok(found) => Ok(found.len()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(e) => Err(e),
        }
    }

    /// Appends lines; they are on disk when this returns. Gives where they end.
    ///
    /// **Errors** leave the file as it was, or with a last line that does not check.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<u64> {
        let open = self.open()?;
        let begin = if open.torn { b"\n".as_slice() } else { b"" };
        let written = open.file.write_all(&[begin, lines].concat()).and_then(|()| open.file.sync_data());
        if let Err(error) = written {
            // What came through of it is cut off again, if that is possible.
            let _ = open.file.set_len(open.end);
            self.open = None;
            return Err(error);
        }
        open.end += (begin.len() + lines.len()) as u64;
        open.torn = false;
        Ok(open.end)
    }

    /// Puts other lines in the place of all, atomically.
    pub fn replace(&mut self, lines: impl Iterator<Item = Vec<u8>>) -> io::Result<()> {
        let mut temporary = self.path.clone().into_os_string();
        temporary.push(".tmp");
        let mut out = io::BufWriter::new(File::create(&temporary)?);
        for line in lines {
            out.write_all(&line)?;
        }
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        self.open = None;
        fs::rename(&temporary, &self.path)?;
        sync_parent(&self.path)
    }

    /// Takes all lines out.
    pub fn clear(&mut self) -> io::Result<()> {
        let open = self.open()?;
        open.file.set_len(0)?;
        (open.end, open.torn) = (0, false);
        open.file.sync_data()
    }

    /// Reads the lines between two places; a file that is not there has none.
    pub fn read(&self, from: u64, to: u64, line_bytes_max: u64) -> io::Result<Lines> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Lines { reader: None, line_bytes_max }),
            Err(e) => return Err(e),
        };
        file.seek(SeekFrom::Start(from))?;
        Ok(Lines { reader: Some(BufReader::new(file.take(to.saturating_sub(from)))), line_bytes_max })
    }

    fn open(&mut self) -> io::Result<&mut Open> {
        match &mut self.open {
            Some(open) => Ok(open),
            none => {
                let mut file = OpenOptions::new().create(true).read(true).append(true).open(&self.path)?;
                sync_parent(&self.path)?;
                let end = file.metadata()?.len();
                let mut last = [b'\n'];
                if end > 0 {
                    file.seek(SeekFrom::Start(end - 1))?;
                    file.read_exact(&mut last)?;
                }
                Ok(none.insert(Open { file, end, torn: last != *b"\n" }))
            }
        }
    }
}

/// Lines on their way from a file.
pub struct Lines {
    reader: Option<BufReader<Take<File>>>,
    line_bytes_max: u64,
}

impl Lines {
    /// Gives the next line's value, `None` in place of one that does not check, and how many bytes it takes; `None` at the
    /// end.
    pub fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<(Option<T>, u64)>> {
        let Some(reader) = &mut self.reader else { return Ok(None) };
        let mut line = Vec::new();
        let read = reader.take(self.line_bytes_max).read_until(b'\n', &mut line)?;
        Ok((read > 0).then(|| (parse(&line), read as u64)))
    }
}

/// Writes a value as a line.
pub fn line(value: &impl Serialize) -> Vec<u8> {
    let json = serde_json::to_vec(value).unwrap_or_default();
    let mut out = format!("{:016x} ", xxh3_64(&json)).into_bytes();
    out.extend_from_slice(&json);
    out.push(b'\n');
    out
}

fn parse<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    let (sum, json) = line.strip_suffix(b"\n")?.split_at_checked(17)?;
    // The exact spelling: a flipped bit that turns `f` into `F` is damage too.
    if sum != format!("{:016x} ", xxh3_64(json)).as_bytes() {
        return None;
    }
    serde_json::from_slice(json).ok()
}

/// Fsyncs the directory of a file.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(file: &LineFile, line_bytes_max: u64) -> Vec<Option<u64>> {
        let mut lines = file.read(0, u64::MAX, line_bytes_max).unwrap();
        let mut out = Vec::new();
        while let Some((value, _)) = lines.next().unwrap() {
            out.push(value);
        }
        out
    }

    #[test]
    fn a_line_that_broke_off_costs_itself_alone() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("lines");
        let whole = line(&1u64);
        // One that lacks its end alone is whole as soon as that comes.
        for (cut, second) in (1..whole.len()).map(|cut| (cut, (cut == whole.len() - 1).then_some(2))) {
            fs::write(&path, [whole.as_slice(), &line(&2u64)[..cut]].concat()).unwrap();
            let mut file = LineFile::at(path.clone());
            let end = file.append(&line(&3u64)).unwrap();
            assert_eq!((end, all(&file, 100)), (file.bytes().unwrap(), vec![Some(1), second, Some(3)]), "{cut}");
        }
        let file = LineFile::at(path.clone());
        assert!(all(&file, 5).iter().all(Option::is_none), "a line longer than allowed is damage");
        assert_eq!(all(&LineFile::at(dir.path().join("none")), 100), []);
    }

    #[test]
    fn lines_are_replaced_and_cleared() {
        let dir = tempfile::TempDir::new().unwrap();
        let mut file = LineFile::at(dir.path().join("lines"));
        file.append(&line(&1u64)).unwrap();
        file.replace([line(&2u64), line(&3u64)].into_iter()).unwrap();
        file.append(&line(&4u64)).unwrap();
        assert_eq!(all(&file, 100), [Some(2), Some(3), Some(4)]);
        file.clear().unwrap();
        file.append(&line(&5u64)).unwrap();
        assert_eq!(all(&file, 100), [Some(5)]);
    }
}
