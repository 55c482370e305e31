//! Row 5, on a small file system of its own.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::kill::{self, Progress};
use crate::support::{self, Program, now_ms, wait_until};

/// A larger file system is not filled: others may need it.
const SHARED_BYTES_MAX: u64 = 512 << 20;

/// Unmounted when dropped.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // Lazily: a server of a test that failed may still be ending.
        let done = Command::new("umount").arg("-l").arg(self.0).status();
        assert!(std::thread::panicking() || done.is_ok_and(|s| s.success()), "{} stays mounted", self.0.display());
    }
}

/// Mounts a tmpfs of a few megabytes; `None` without the right to.
fn small_file_system(place: &Path) -> Option<Mounted<'_>> {
    std::fs::create_dir_all(place).expect("a folder");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(place).output();
    mounted.is_ok_and(|out| out.status.success()).then_some(Mounted(place))
}

/// Takes all room but so many bytes.
fn fill(place: &Path, room: u64) {
    let mut file = std::fs::File::create(place.join("filler")).expect("a file");
    let (block, mut written) = (vec![0u8; 1 << 16], 0u64);
    while file.write_all(&block).is_ok() {
        written += block.len() as u64;
    }
    file.set_len(written.saturating_sub(room)).expect("it is cut");
}

/// The status of the next batch; what is acknowledged is noted.
fn send(server: &Program, base_ms: i64, at: &mut Progress) -> (u16, String) {
    let (status, body) = kill::write_once(&server.client, 0, base_ms, at).expect("the server is there");
    (status, body)
}

/// Gives the size of the file system of a folder, if there is one.
fn size_of(folder: &str) -> Option<u64> {
    let told = Command::new("df").args(["--output=size", "-B1", folder]).output().ok()?;
    String::from_utf8_lossy(&told.stdout).lines().nth(1)?.trim().parse().ok()
}

/// Says what nobody may overlook: the test harness keeps what is printed by a test that passes, but not this.
fn say(text: &str) {
    // Nobody listens: then nobody can be told.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Runs on a small file system: one of its own, or else the shared memory of the machine where that is small, as in containers.
/// Where there is neither, it says so; with QUIVER_ALL_PROMISES set, that is a failure.
pub fn cycles(count: u64) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = dir.path().join("small");
    if let Some(_mounted) = small_file_system(&place) {
        return cycles_in(&place, count);
    }
    let shared = "/dev/shm";
    if size_of(shared).is_some_and(|bytes| (16 << 20..=SHARED_BYTES_MAX).contains(&bytes))
        && let Ok(dir) = tempfile::tempdir_in(shared)
    {
        return cycles_in(dir.path(), count);
    }
    let why = "row 5 (a full disk) NOT RUN: this user may not mount a tmpfs, and /dev/shm is absent or too large to be filled; \
               crates/store/tests/crash.rs has it simulated. Run it as root.\n";
    assert!(std::env::var_os("QUIVER_ALL_PROMISES").is_none(), "{why}");
    say(why);
}

fn cycles_in(place: &Path, count: u64) {
    let base_ms = now_ms() - 3_600_000;
    let mut progress = [Progress::default()];
    let server = support::quiver(place, &[]);
    for cycle in 0..count {
        fill(place, 40_000 * cycle);
        let at = &mut progress[0];
        let told = loop {
            let before = at.acked;
            let (status, body) = send(&server, base_ms, at);
            if status != 204 && status != 200 {
                assert_eq!(at.acked, before);
                break (status, body);
            }
            assert!(at.acked < 200_000, "the disk is never full");
        };
        assert!([503, 507].contains(&told.0) && told.1.contains("space"), "cycle {cycle}: {told:?}");
        let shown = server.client.number("max(count_over_time(load[1d]))");
        assert!(shown >= at.acked as f64, "cycle {cycle}: reading goes on: {shown} of {}", at.acked);
        std::fs::remove_file(place.join("filler")).expect("room is made");
        wait_until("the server accepts again", || [200, 204].contains(&send(&server, base_ms, at).0));
    }
    kill::check(&server, base_ms, &progress);
    server.kill();
    let server = support::quiver(place, &[]);
    kill::check(&server, base_ms, &progress);
    assert_eq!(send(&server, base_ms, &mut progress[0]).0, 204, "it goes on");
    assert_eq!(server.terminate(), Some(0));
}
