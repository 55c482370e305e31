//! Which role each route asks for: the one place that says it.
//!
//! Invariants: 1. every route of the routers has a row (a test compares them); 2. a route or method that has none is for admins alone;
//! 3. rows are known by the router's own pattern, so that no spelling of a path can be one route here and another one there.

use super::role::Need::{self, Admin, Anybody, Manage, Nothing, Read, Write};
use crate::otlp;

/// How it is known as which source a request writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Named {
    /// It brings no samples.
    No,
    /// `?source_id=`, else the header `X-Source-Id`.
    Source,
    /// The job in the path of a push.
    Job,
    /// It was said when the upload began.
    Upload,
}

/// One route.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The router's pattern.
    pub path: &'static str,
    /// What each method asks for; GET stands for HEAD, too.
    pub needs: &'static [(&'static str, Need)],
    /// Where the source of samples stands.
    pub named: Named,
}

const fn row(path: &'static str, needs: &'static [(&'static str, Need)]) -> Row {
    Row { path, needs, named: Named::No }
}

const fn ingest(path: &'static str, named: Named, needs: &'static [(&'static str, Need)]) -> Row {
    Row { path, needs, named }
}

const GET: &[(&str, Need)] = &[("GET", Read)];
/// Questions that are too long for a URL come as forms.
const ASK: &[(&str, Need)] = &[("GET", Read), ("POST", Read)];
const POST_WRITE: &[(&str, Need)] = &[("POST", Write)];
const PUSH: &[(&str, Need)] = &[("POST", Write), ("PUT", Write), ("DELETE", Write)];
const NOWHERE: &[(&str, Need)] = &[
    ("GET", Anybody),
    ("POST", Anybody),
    ("PUT", Anybody),
    ("PATCH", Anybody),
    ("DELETE", Anybody),
    ("OPTIONS", Anybody),
];

/// All routes.
pub const ROWS: &[Row] = &[
    // Answered by the gate, in front of everything.
    row("/-/healthy", &[("GET", Nothing)]),
    row("/-/ready", &[("GET", Nothing)]),
    row("/-/reload", &[("POST", Admin), ("PUT", Admin)]),
    row("/", GET),
    row("/metrics", GET),
    row("/openapi", GET),
    row("/openapi.json", GET),
    // The specification.
    row("/api/v1/metrics/targets", &[("GET", Read), ("POST", Manage)]),
    row("/api/v1/metrics/targets:dry-run", &[("POST", Manage)]),
    row(
        "/api/v1/metrics/targets/{target_id}",
        &[("GET", Read), ("PATCH", Manage), ("DELETE", Admin), ("POST", Manage)],
    ),
    row("/api/v1/metrics/targets/{target_id}/scrape", &[("POST", Manage)]),
    row("/api/v1/metrics/targets/{target_id}/restore", &[("POST", Manage)]),
    row("/api/v1/metrics/targets/{target_id}/rejections", GET),
    row("/api/v1/metrics/targets/{target_id}/latest", GET),
    row("/api/v1/metrics/targets/{target_id}/explain", GET),
    row("/api/v1/metrics/targets/{target_id}/filters", GET),
    ingest("/api/v1/metrics/custom", Named::Source, POST_WRITE),
    row("/api/v1/metrics/query", ASK),
    row("/api/v1/metrics/live", GET),
    row("/api/v1/metrics/sql", &[("POST", Read)]),
    row("/api/v1/metrics/stats", GET),
    row("/api/v1/metrics/integrity", GET),
    row("/api/v1/metrics/integrity/scrub", &[("POST", Admin)]),
    row("/api/v1/metrics/events", GET),
    row("/api/v1/metrics/sd", GET),
    row("/api/v1/metrics/tokens", &[("GET", Admin), ("POST", Admin)]),
    row("/api/v1/metrics/tokens/{name}", &[("DELETE", Admin)]),
    // A WebSocket begins with a GET and brings frames: the guard looks at `Upgrade`.
    ingest("/api/v1/metrics/stream", Named::Source, &[("GET", Read), ("POST", Write), ("UPGRADE", Write)]),
    ingest("/api/v1/metrics/uploads", Named::Source, &[("POST", Write), ("GET", Read)]),
    ingest(
        "/api/v1/metrics/uploads/{upload_id}",
        Named::Upload,
        // Whoever sends asks how far he has come.
        &[("GET", Anybody), ("PATCH", Write), ("PUT", Write), ("DELETE", Write)],
    ),
    row("/api/v1/metrics", NOWHERE),
    row("/api/v1/metrics/", NOWHERE),
    row("/api/v1/metrics/{*rest}", NOWHERE),
    // Prometheus.
    row("/api/v1/query", ASK),
    row("/api/v1/query_range", ASK),
    row("/api/v1/query_exemplars", ASK),
    row("/api/v1/format_query", ASK),
    row("/api/v1/parse_query", ASK),
    row("/api/v1/series", &[("GET", Read), ("POST", Read), ("DELETE", Admin)]),
    row("/api/v1/labels", ASK),
    row("/api/v1/label/{name}/values", GET),
    row("/api/v1/metadata", GET),
    row("/api/v1/targets", GET),
    row("/api/v1/targets/metadata", GET),
    row("/api/v1/targets/relabel_steps", GET),
    row("/api/v1/scrape_pools", GET),
    row("/api/v1/alertmanagers", GET),
    row("/api/v1/alerts", GET),
    row("/api/v1/rules", GET),
    row("/api/v1/search/metric_names", ASK),
    row("/api/v1/search/label_names", ASK),
    row("/api/v1/search/label_values", ASK),
    row("/api/v1/notifications", GET),
    row("/api/v1/notifications/live", GET),
    row("/api/v1/features", GET),
    row("/api/v1/status/config", GET),
    row("/api/v1/status/flags", GET),
    row("/api/v1/status/runtimeinfo", GET),
    row("/api/v1/status/buildinfo", GET),
    row("/api/v1/status/tsdb", GET),
    row("/api/v1/status/tsdb/blocks", GET),
    row("/api/v1/status/walreplay", GET),
    row("/api/v1/admin/tsdb/{verb}", &[("POST", Admin), ("PUT", Admin)]),
    row("/api/v1", NOWHERE),
    row("/api/v1/", NOWHERE),
    row("/api/v1/{*rest}", NOWHERE),
    ingest("/api/v1/write", Named::Source, POST_WRITE),
    row("/api/v1/read", &[("POST", Read)]),
    row("/federate", GET),
    // Pushgateway, OTLP, InfluxDB.
    ingest("/metrics/job/{*rest}", Named::Job, PUSH),
    ingest("/metrics/job@base64/{*rest}", Named::Job, PUSH),
    ingest(otlp::PATHS[0], Named::Source, POST_WRITE),
    ingest(otlp::PATHS[1], Named::Source, POST_WRITE),
    ingest(otlp::grpc::PATH, Named::Source, POST_WRITE),
    ingest("/write", Named::Source, POST_WRITE),
    ingest("/api/v2/write", Named::Source, POST_WRITE),
    // What clients of InfluxDB ask before they write.
    row("/query", &[("GET", Write), ("POST", Write)]),
    row("/ping", &[("GET", Anybody)]),
    row("/health", &[("GET", Anybody)]),
];

/// Gives the row of a pattern.
pub fn row_of(path: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.path == path)
}

impl Row {
    /// Gives what a method asks for.
    pub fn need(&self, method: &str) -> Need {
        let method = if method == "HEAD" { "GET" } else { method };
        self.needs.iter().find(|(known, _)| *known == method).map_or(Admin, |(_, need)| *need)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stands_once_and_what_is_not_named_is_for_admins() {
        for (at, row) in ROWS.iter().enumerate() {
            assert!(ROWS[at + 1..].iter().all(|other| other.path != row.path), "{} stands twice", row.path);
        }
        let query = row_of("/api/v1/query").expect("a row");
        assert_eq!((query.need("HEAD"), query.need("POST"), query.need("DELETE")), (Read, Read, Admin));
        assert!(row_of("/nothing").is_none());
    }
}
