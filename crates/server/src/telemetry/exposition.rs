//! The Prometheus text format, out; and a histogram with fixed bounds.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bounds in seconds that suit requests, fsyncs and scrapes alike.
pub const SECONDS: [f64; 14] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// A histogram over [`SECONDS`]. Readers may see a sum that is one observation behind the counts.
#[derive(Default, Debug)]
pub struct Histogram {
    buckets: [AtomicU64; SECONDS.len() + 1],
    sum_micros: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, seconds: f64) {
        let at = SECONDS.iter().position(|bound| seconds <= *bound).unwrap_or(SECONDS.len());
        self.buckets[at].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add((seconds.max(0.0) * 1e6) as u64, Ordering::Relaxed);
    }

    /// Gives how many durations were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|b| b.load(Ordering::Relaxed)).sum()
    }
}

/// A page of metrics under construction.
#[derive(Default, Debug)]
pub struct Exposition {
    text: String,
    family: String,
}

impl Exposition {
    /// Starts a family; its samples follow.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) -> &mut Self {
        name.clone_into(&mut self.family);
        // A String takes every write.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        self
    }

    /// Writes one sample of the present family.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Into<f64>) -> &mut Self {
        let name = std::mem::take(&mut self.family);
        self.line(&name, labels, value.into());
        self.family = name;
        self
    }

    /// Writes a family of one counter.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) -> &mut Self {
        self.family(name, "counter", help).sample(&[], value as f64)
    }

    /// Writes a family of one gauge.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) -> &mut Self {
        self.family(name, "gauge", help).sample(&[], value)
    }

    /// Writes the lines of one histogram of the present family.
    pub fn histogram(&mut self, labels: &[(&str, &str)], histogram: &Histogram) -> &mut Self {
        let name = self.family.clone();
        let bucket = format!("{name}_bucket");
        let mut total = 0;
        for (i, count) in histogram.buckets.iter().enumerate() {
            total += count.load(Ordering::Relaxed);
            let bound = SECONDS.get(i).map_or_else(|| "+Inf".to_owned(), f64::to_string);
            let mut with_bound = labels.to_vec();
            with_bound.push(("le", &bound));
            self.line(&bucket, &with_bound, total as f64);
        }
        let sum = histogram.sum_micros.load(Ordering::Relaxed) as f64 / 1e6;
        self.line(&format!("{name}_sum"), labels, sum);
        self.line(&format!("{name}_count"), labels, total as f64);
        self
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.text.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            self.text.push(if i == 0 { '{' } else { ',' });
            let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{label}=\"{escaped}\"");
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    /// Gives the finished page.
    pub fn finish(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_reads_as_the_text_format() {
        let mut page = Exposition::default();
        page.counter("quiver_a_total", "Things.", 3);
        page.family("quiver_b", "gauge", "More.").sample(&[("x", "a\"b"), ("y", "1")], 0.5);
        assert_eq!(
            page.finish(),
            "# HELP quiver_a_total Things.\n# TYPE quiver_a_total counter\nquiver_a_total 3\n\
             # HELP quiver_b More.\n# TYPE quiver_b gauge\nquiver_b{x=\"a\\\"b\",y=\"1\"} 0.5\n"
        );
    }

    #[test]
    fn buckets_add_up() {
        let histogram = Histogram::default();
        for seconds in [0.0, 0.003, 0.003, 99.0] {
            histogram.observe(seconds);
        }
        let mut page = Exposition::default();
        page.family("h", "histogram", "H.").histogram(&[], &histogram);
        let text = page.finish();
        assert!(text.contains("h_bucket{le=\"0.0005\"} 1\n"));
        assert!(text.contains("h_bucket{le=\"0.005\"} 3\n"));
        assert!(text.contains("h_bucket{le=\"30\"} 3\n"));
        assert!(text.contains("h_bucket{le=\"+Inf\"} 4\n"));
        assert!(text.contains("h_count 4\n"));
        assert!(text.contains("h_sum 99.006\n"));
    }
}
