//! The full disk: a small file system of its own that is filled and emptied under load, then kill -9.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::book::Book;
use crate::load::write_once;
use crate::report::Summary;
use crate::server::Server;
use crate::{Dice, Options};

const SIZE: &str = "48m";
/// A server that takes nothing for so long after room was made has not come back.
const BACK_WITHIN: Duration = Duration::from_secs(20);
/// Kill -9 and a check after so many cycles.
const CYCLES_PER_LIFE: u64 = 10;

/// Unmounted when dropped.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let done = Command::new("umount").arg("-l").arg(self.0).status();
        if !done.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.0.display());
        }
    }
}

pub fn run(options: &Options, until: Instant, dice: &mut Dice, summary: &mut Summary) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let place = folder.path().join("small");
    std::fs::create_dir(&place).map_err(|e| e.to_string())?;
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={SIZE}"), "tmpfs"]).arg(&place).status();
    if !mounted.is_ok_and(|status| status.success()) {
        summary
            .notes
            .push("No cycles on a full disk: a small file system could not be mounted (that needs root).".to_owned());
        return Ok(());
    }
    let _mounted = Mounted(&place);
    let data = place.join("data");
    let mut book = Book::new(crate::server::now_ms() - 2 * 3_600_000);
    let mut cycle = 0;
    while cycle < options.full && (Instant::now() < until || cycle < CYCLES_PER_LIFE) {
        let server = Server::start(&options.quiver, &data, None)?;
        book.check_new(&server, summary)?;
        for _ in 0..CYCLES_PER_LIFE {
            one_cycle(&server, &place, &mut book, dice, summary)?;
            cycle += 1;
        }
        summary.note_end(false, &server.end(false));
        eprintln!(
            "disk full: {cycle} cycles, slowest return {:.0} ms",
            summary.back_ms.iter().fold(0.0, |a: f64, b| a.max(*b))
        );
    }
    let server = Server::start(&options.quiver, &data, None)?;
    let (acknowledged, found) = (summary.acknowledged, summary.found);
    book.check_all(&server, summary)?;
    (summary.acknowledged, summary.found) = (acknowledged + summary.acknowledged, found + summary.found);
    summary.note_end(true, &server.end(true));
    Ok(())
}

/// Fills the file system, writes until it is told that there is no room, asks a question, makes room, writes again.
fn one_cycle(
    server: &Server,
    place: &Path,
    book: &mut Book,
    dice: &mut Dice,
    summary: &mut Summary,
) -> Result<(), String> {
    let filler = place.join("filler");
    fill(&filler, dice.below(200_000)).map_err(|e| format!("{}: {e}", filler.display()))?;
    let base_ms = book.base_ms;
    let mut told = false;
    for _ in 0..5_000 {
        let number = dice.below(book.writers.len() as u64);
        let (status, text) = write_once(server, number, base_ms, &mut book.writers[number as usize])?;
        match status {
            200 | 204 => {}
            503 | 507 if !text.is_empty() => {
                told = true;
                break;
            }
            _ => return Err(format!("on a full disk: {status} {text}")),
        }
    }
    if !told {
        summary.complain("a full disk was never told".to_owned());
    }
    if server.number("count(count_over_time(soak[1d]))").is_none() {
        summary.complain("on a full disk a question was not answered".to_owned());
    }
    std::thread::sleep(Duration::from_millis(dice.below(300)));
    std::fs::remove_file(&filler).map_err(|e| format!("{}: {e}", filler.display()))?;
    let begin = Instant::now();
    loop {
        let (status, text) = write_once(server, 0, base_ms, &mut book.writers[0])?;
        if matches!(status, 200 | 204) {
            break;
        }
        if begin.elapsed() > BACK_WITHIN {
            summary.complain(format!("not back after {BACK_WITHIN:?}: {status} {text}"));
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    summary.back_ms.push(begin.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

/// Takes all room but so many bytes.
fn fill(path: &Path, room: u64) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    let (block, mut written) = (vec![0u8; 1 << 16], 0);
    // Full is what it should be in the end.
    while file.write_all(&block).is_ok() {
        written += block.len() as u64;
    }
    file.set_len(written.saturating_sub(room))
}
