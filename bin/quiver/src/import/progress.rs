//! A bar on standard error that shows how far a long command is; nothing where nobody looks.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const WIDTH: u64 = 40;
const EVERY: Duration = Duration::from_millis(100);

/// A bar at work.
pub struct Progress {
    what: &'static str,
    total: u64,
    shown: Option<Instant>,
    visible: bool,
}

impl Progress {
    /// Starts at zero of a total.
    pub fn new(what: &'static str, total: u64) -> Progress {
        Progress { what, total, shown: None, visible: std::io::stderr().is_terminal() }
    }

    /// Shows how much is done.
    pub fn at(&mut self, done: u64) {
        if !self.visible || self.shown.is_some_and(|shown| shown.elapsed() < EVERY) {
            return;
        }
        self.shown = Some(Instant::now());
        eprint!("\r{}", line(self.what, done, self.total));
        let _ = std::io::stderr().flush();
    }

    /// Ends the line.
    pub fn end(mut self) {
        self.shown = None;
        self.at(self.total);
        if self.visible {
            eprintln!();
        }
    }
}

fn line(what: &str, done: u64, total: u64) -> String {
    let done = done.min(total);
    let share = |of: u64| if total == 0 { of } else { (u128::from(done) * u128::from(of) / u128::from(total)) as u64 };
    let full = share(WIDTH) as usize;
    format!("{what:<9} [{}{}] {:>3} %", "#".repeat(full), ".".repeat(WIDTH as usize - full), share(100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_as_full_as_the_work_is_done() {
        assert_eq!(line("sending", 0, 10), format!("sending   [{}]   0 %", ".".repeat(40)));
        assert_eq!(line("sending", 5, 10), format!("sending   [{}{}]  50 %", "#".repeat(20), ".".repeat(20)));
        assert!(line("sending", 99, 10).ends_with("] 100 %") && line("sending", 0, 0).ends_with("] 100 %"));
    }
}
