//! Ends this process when nobody waits for its answer any more: a server that was killed cannot say so.

use std::io;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

const STACK_BYTES: usize = 64 << 10;

/// Watches, on a thread of its own, whether the other end of the standard output is there.
pub fn end_with_the_reader() -> io::Result<()> {
    std::thread::Builder::new().name("watch".to_owned()).stack_size(STACK_BYTES).spawn(|| {
        wait_until_gone();
        // Whatever the query is doing, it is for nobody; nothing is to be tidied up.
        std::process::abort();
    })?;
    Ok(())
}

fn wait_until_gone() {
    let stdout = io::stdout();
    loop {
        let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
        match poll(&mut watched, None) {
            Ok(_) if watched.iter().any(|fd| !fd.revents().is_empty()) => return,
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
