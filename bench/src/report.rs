//! The table, for the terminal and for the file that is committed.

use crate::measure;

/// One server under one load.
pub struct Row {
    pub load: String,
    pub server: String,
    pub version: String,
    pub samples_per_second: f64,
    pub cpu_seconds_per_million: f64,
    /// From the first byte sent to the answer; 0 where the server pulls.
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub resident_bytes: u64,
    pub disk_bytes: u64,
    pub sent: u64,
    pub refused: u64,
    /// Samples that a query finds afterwards.
    pub found: u64,
}

const HEAD: [&str; 10] = [
    "load",
    "server",
    "samples/s",
    "CPU-s per million",
    "P50 ms",
    "P99 ms",
    "memory MiB",
    "disk MiB",
    "acknowledged or served",
    "found",
];

fn cells(row: &Row) -> [String; 10] {
    let mib = |bytes: u64| format!("{:.0}", bytes as f64 / 1_048_576.0);
    let ms = |ms: f64| if ms > 0.0 { format!("{ms:.1}") } else { "–".to_owned() };
    [
        row.load.clone(),
        row.server.clone(),
        format!("{:.0}", row.samples_per_second),
        format!("{:.2}", row.cpu_seconds_per_million),
        ms(row.p50_ms),
        ms(row.p99_ms),
        mib(row.resident_bytes),
        mib(row.disk_bytes),
        if row.refused > 0 { format!("{} ({} refused)", row.sent, row.refused) } else { row.sent.to_string() },
        row.found.to_string(),
    ]
}

pub fn table(rows: &[Row]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.set_header(HEAD);
    for row in rows {
        table.add_row(cells(row));
    }
    table
}

pub fn markdown(description: &str, rows: &[Row]) -> String {
    let mut text = format!("{}\n\n{description}\n\n", measure::machine());
    text.push_str(&format!("| {} |\n|{}\n", HEAD.join(" | "), "---|".repeat(HEAD.len())));
    for row in rows {
        text.push_str(&format!("| {} |\n", cells(row).join(" | ")));
    }
    text.push_str("\nVersions:\n\n");
    let mut versions: Vec<String> = rows.iter().map(|r| format!("* {}: {}\n", r.server, r.version)).collect();
    versions.sort();
    versions.dedup();
    text + &versions.concat()
}
