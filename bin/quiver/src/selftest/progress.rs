//! One line that tells how far it is, for people at a terminal.

use std::io::{IsTerminal, Write};

/// Steps of a run.
const STEPS: usize = 9;

/// The line; nothing where nobody looks.
pub struct Progress {
    shown: bool,
    done: usize,
}

impl Progress {
    /// Starts it.
    pub fn new(for_people: bool) -> Progress {
        Progress { shown: for_people && std::io::stderr().is_terminal(), done: 0 }
    }

    /// Goes on to the next step.
    pub fn step(&mut self, what: &str) {
        self.done = (self.done + 1).min(STEPS);
        if self.shown {
            let bar = format!("{}{}", "#".repeat(self.done), ".".repeat(STEPS - self.done));
            // A terminal that is gone must not end the run.
            let _ = write!(std::io::stderr(), "\r\x1b[K[{bar}] {what}");
            let _ = std::io::stderr().flush();
        }
    }

    /// Clears the line.
    pub fn end(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
