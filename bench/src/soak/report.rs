//! What the soak found, in figures.

use crate::Options;
use crate::load::Figures;
use crate::server::{Ended, Server};

/// Complaints kept; the rest is counted.
const COMPLAINTS_MAX: usize = 20;

#[derive(Default)]
pub struct Summary {
    pub starts_ms: Vec<f64>,
    pub resident_mib: Vec<f64>,
    pub back_ms: Vec<f64>,
    pub acknowledged: u64,
    pub found: u64,
    pub lost: u64,
    pub doubled: u64,
    pub altered: u64,
    pub scrapes: u64,
    pub scrapes_found: u64,
    pub notes: Vec<String>,
    kills: u64,
    stops_ms: Vec<f64>,
    queries: u64,
    queries_failed: u64,
    told_to_wait: u64,
    balanced: u64,
    complaints: u64,
    first_complaints: Vec<String>,
}

impl Summary {
    pub fn complain(&mut self, text: String) {
        self.complaints += 1;
        if self.first_complaints.len() < COMPLAINTS_MAX {
            eprintln!("{text}");
            self.first_complaints.push(text);
        }
    }

    pub fn note_end(&mut self, by_term: bool, ended: &Ended) {
        if ended.by_itself {
            self.complain(format!("the server ended by itself with {:?}", ended.code));
            return;
        }
        if !by_term {
            self.kills += 1;
            return;
        }
        self.stops_ms.push(ended.after_ms);
        if ended.code != Some(0) {
            self.complain(format!("SIGTERM ended with {:?}", ended.code));
        }
    }

    pub fn note_figures(&mut self, figures: &Figures) {
        use std::sync::atomic::Ordering::Relaxed;
        self.queries += figures.queries.load(Relaxed);
        self.queries_failed += figures.queries_failed.load(Relaxed);
        self.told_to_wait += figures.told_to_wait.load(Relaxed);
    }

    /// Checks that received is the sum of what became of it, on the server's own page.
    pub fn note_balance(&mut self, server: &Server) {
        let Ok((200, page)) = server.get("/metrics") else { return };
        let sum = |family: &str| -> f64 {
            let lines = page.lines().filter(|l| l.starts_with(family));
            lines.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        };
        let (received, known) = (sum("quiver_samples_received_total{"), sum("quiver_samples_total{"));
        // Both are counted in one step for each batch, but the page reads one after the other.
        match received == known {
            true => self.balanced += 1,
            false => self.complain(format!("{received} samples received, {known} accounted for")),
        }
    }

    pub fn is_good(&self) -> bool {
        self.lost + self.doubled + self.altered + self.complaints + self.queries_failed == 0 && self.acknowledged > 0
    }

    pub fn line(&self) -> String {
        format!(
            "{} kills, {} stops, lost {}, doubled {}, altered {}, last start {:.0} ms, {:.0} MiB",
            self.kills,
            self.stops_ms.len(),
            self.lost,
            self.doubled,
            self.altered,
            self.starts_ms.last().unwrap_or(&0.0),
            self.resident_mib.last().unwrap_or(&0.0)
        )
    }

    pub fn markdown(&self, options: &Options) -> String {
        let (half, all) = (self.resident_mib.len() / 2, &self.resident_mib);
        let rows = [
            ("minutes", format!("{}", options.minutes)),
            ("kill -9 / SIGTERM", format!("{} / {}", self.kills, self.stops_ms.len())),
            ("full-disk cycles", self.back_ms.len().to_string()),
            ("samples acknowledged", self.acknowledged.to_string()),
            ("found with the same bits", self.found.to_string()),
            ("lost / doubled / altered", format!("{} / {} / {}", self.lost, self.doubled, self.altered)),
            ("scrapes served / found", format!("{} / {}", self.scrapes, self.scrapes_found)),
            ("queries answered / failed", format!("{} / {}", self.queries, self.queries_failed)),
            ("writes told to wait", self.told_to_wait.to_string()),
            ("ledger balanced", format!("{} of {} times", self.balanced, self.resident_mib.len())),
            ("start to ready, P50 / P99 / most", spread(&self.starts_ms, "ms")),
            ("SIGTERM to end, P50 / P99 / most", spread(&self.stops_ms, "ms")),
            ("room made to accepted, P50 / P99 / most", spread(&self.back_ms, "ms")),
            ("resident at the end of a life, first half", spread(&all[..half], "MiB")),
            ("resident at the end of a life, second half", spread(&all[half..], "MiB")),
        ];
        let mut text = "| what | figure |\n|---|---|\n".to_owned();
        for (what, figure) in rows {
            text.push_str(&format!("| {what} | {figure} |\n"));
        }
        for note in &self.notes {
            text.push_str(&format!("\n{note}\n"));
        }
        if self.complaints > 0 {
            text.push_str(&format!("\n{} complaints, the first of them:\n\n", self.complaints));
            self.first_complaints.iter().for_each(|complaint| text.push_str(&format!("* {complaint}\n")));
        }
        text
    }
}

fn spread(numbers: &[f64], unit: &str) -> String {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let place = (sorted.len() as f64 * share).ceil() as usize;
        sorted.get(place.saturating_sub(1)).copied().unwrap_or(0.0)
    };
    if sorted.is_empty() {
        "–".to_owned()
    } else {
        format!("{:.0} / {:.0} / {:.0} {unit}", at(0.5), at(0.99), at(1.0))
    }
}
