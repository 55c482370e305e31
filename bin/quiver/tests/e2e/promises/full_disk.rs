//! Row 5, on a small file system of its own.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::kill::{self, Progress};
use crate::support::{self, Program, now_ms, wait_until};

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

pub fn cycles(count: u64) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = dir.path().join("small");
    let Some(_mounted) = small_file_system(&place) else {
        println!("not run: mounting a small file system needs root; crates/store/tests/crash.rs has it simulated");
        return;
    };
    let base_ms = now_ms() - 3_600_000;
    let mut progress = [Progress::default()];
    let server = support::quiver(&place, &[]);
    for cycle in 0..count {
        fill(&place, 40_000 * cycle);
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
    let server = support::quiver(&place, &[]);
    kill::check(&server, base_ms, &progress);
    assert_eq!(send(&server, base_ms, &mut progress[0]).0, 204, "it goes on");
    assert_eq!(server.terminate(), Some(0));
}
