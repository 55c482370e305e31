//! Figures of what others run for us.

use catalog::CatalogStats;

use super::exposition::Exposition;

/// Writes the figures of the catalog.
pub fn catalog(page: &mut Exposition, stats: &CatalogStats) {
    let up = f64::from(u8::from(stats.trouble.is_none()));
    page.family("quiver_catalog_up", "gauge", "Whether the database of the catalog answered last time.");
    page.sample(&[("place", &stats.place)], up);
    page.counter("quiver_catalog_connections_total", "Connections made to PostgreSQL.", stats.connections.connected);
    page.counter(
        "quiver_catalog_failures_total",
        "Calls that PostgreSQL did not answer in time or in order.",
        stats.connections.failed,
    );
    page.counter("quiver_catalog_followed_total", "Targets that other servers changed.", stats.followed);
    page.gauge(
        "quiver_catalog_waiting_bytes",
        "Rows of collections on disk that wait for PostgreSQL.",
        stats.waiting_bytes as f64,
    );
    page.counter(
        "quiver_catalog_collections_dropped_total",
        "Collections that found no room to be recorded or to wait, or that the database refused.",
        stats.collections_dropped,
    );
}
