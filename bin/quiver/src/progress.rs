//! A bar on the terminal for work that takes a while; nothing where nobody looks.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const WIDTH: usize = 30;
const EVERY: Duration = Duration::from_millis(100);

/// How far a piece of work has come.
pub struct Progress {
    what: &'static str,
    total: u64,
    done: u64,
    /// `None` when standard error is no terminal.
    drawn: Option<Instant>,
}

impl Progress {
    /// Starts with nothing done.
    pub fn new(what: &'static str, total: u64) -> Progress {
        let drawn = std::io::stderr().is_terminal().then(Instant::now);
        Progress { what, total, done: 0, drawn }
    }

    /// Notes that more is done.
    pub fn add(&mut self, more: u64) {
        self.done = self.done.saturating_add(more);
        if self.drawn.is_some_and(|at| at.elapsed() >= EVERY) {
            self.draw();
        }
    }

    /// Notes how much is done in all.
    pub fn at(&mut self, done: u64) {
        self.add(done.saturating_sub(self.done));
    }

    fn draw(&mut self) {
        let mut err = std::io::stderr();
        let _ = write!(err, "\r{}", bar(self.what, self.done, self.total)).and_then(|()| err.flush());
        self.drawn = Some(Instant::now());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.drawn.is_some() {
            // Clears the line: what comes next is the result.
            eprint!("\r{:width$}\r", "", width = WIDTH + self.what.len() + 20);
        }
    }
}

fn bar(what: &str, done: u64, total: u64) -> String {
    let share = if total == 0 { 1.0 } else { (done as f64 / total as f64).min(1.0) };
    let full = (share * WIDTH as f64) as usize;
    format!("{what} [{}{}] {:3.0} %", "#".repeat(full), ".".repeat(WIDTH - full), share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_fills_and_stays_in_its_frame() {
        assert_eq!(bar("verify", 0, 10), format!("verify [{}]   0 %", ".".repeat(30)));
        assert_eq!(bar("verify", 5, 10), format!("verify [{}{}]  50 %", "#".repeat(15), ".".repeat(15)));
        assert_eq!(bar("verify", 20, 10), format!("verify [{}] 100 %", "#".repeat(30)));
        assert!(bar("verify", 0, 0).ends_with("100 %"));
    }
}
