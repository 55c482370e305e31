//! Quiver's own histogram of the time from handing a batch to the store until it is durable and readable.

use crate::server::{Kind, Server};

/// Upper bounds in seconds with the number of batches at or below.
pub type Buckets = Vec<(f64, f64)>;

/// Reads it; empty for the other servers.
pub fn read(server: &Server) -> Buckets {
    if server.kind != Kind::Quiver {
        return Buckets::new();
    }
    let answer = server.client().and_then(|mut client| client.get("/metrics").map_err(|e| e.to_string()));
    parse(&answer.map(|a| a.text()).unwrap_or_default())
}

fn parse(page: &str) -> Buckets {
    page.lines()
        .filter_map(|line| line.strip_prefix("quiver_append_duration_seconds_bucket{le=\""))
        .filter_map(|rest| {
            let (bound, count) = rest.split_once("\"} ")?;
            Some((bound.parse().unwrap_or(f64::INFINITY), count.trim().parse().ok()?))
        })
        .collect()
}

/// Gives the bounds of the buckets that hold the P50 and the P99 of what came in between, in milliseconds.
pub fn between(before: &Buckets, after: &Buckets) -> Option<(f64, f64)> {
    let earlier = |bound: f64| before.iter().find(|b| b.0 == bound).map_or(0.0, |b| b.1);
    let grown: Buckets = after.iter().map(|(bound, count)| (*bound, count - earlier(*bound))).collect();
    let total = grown.last().map(|b| b.1).filter(|total| *total > 0.0)?;
    let at = |share: f64| grown.iter().find(|b| b.1 >= total * share).map_or(f64::INFINITY, |b| b.0 * 1000.0);
    Some((at(0.5), at(0.99)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_came_in_between_counts() {
        let page = |counts: [u64; 3]| {
            let bounds = ["0.001", "0.01", "+Inf"];
            let line =
                |(bound, n): (&str, u64)| format!("quiver_append_duration_seconds_bucket{{le=\"{bound}\"}} {n}\n");
            bounds.into_iter().zip(counts).map(line).collect::<String>()
        };
        let (before, after) = (parse(&page([0, 0, 50])), parse(&page([60, 149, 200])));
        assert_eq!(between(&before, &after), Some((10.0, 10.0)));
        let after = parse(&page([60, 140, 200]));
        assert_eq!(between(&before, &after), Some((10.0, f64::INFINITY)));
        assert_eq!(between(&before, &before), None);
    }
}
