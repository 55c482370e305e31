//! What the system says of this process: the `process_*` metrics of every Prometheus client.

use std::fs;

use super::exposition::Exposition;

/// Ticks of `/proc/self/stat` per second: fixed at 100 in Linux' user interface.
const TICKS_PER_SECOND: f64 = 100.0;

/// Writes what is known; what the system does not tell is left out.
pub fn render(page: &mut Exposition, started_at_ms: i64) {
    page.gauge(
        "process_start_time_seconds",
        "Start of the process, in seconds since 1970.",
        started_at_ms as f64 / 1000.0,
    );
    if let Some(seconds) = cpu_seconds() {
        page.family("process_cpu_seconds_total", "counter", "CPU time used, user and system.").sample(&[], seconds);
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(bytes) = kib_field(&status, "VmRSS:") {
        page.gauge("process_resident_memory_bytes", "Resident memory.", bytes);
    }
    if let Some(bytes) = kib_field(&status, "VmSize:") {
        page.gauge("process_virtual_memory_bytes", "Virtual memory.", bytes);
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        page.gauge("process_open_fds", "Open file descriptors.", entries.count() as f64);
    }
    if let Some(max) = fd_limit() {
        page.gauge("process_max_fds", "File descriptors allowed.", max as f64);
    }
}

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything; fields are counted from behind it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks as f64 / TICKS_PER_SECOND)
}

fn kib_field(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|l| l.strip_prefix(name))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| (kib * 1024) as f64)
}

/// Gives how many file descriptors the process may have.
pub fn fd_limit() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    limits.lines().find_map(|l| l.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_knows_itself() {
        let mut page = Exposition::default();
        render(&mut page, 1_500);
        let text = page.finish();
        assert!(text.contains("process_start_time_seconds 1.5\n"));
        assert!(text.contains("process_resident_memory_bytes "));
        assert!(text.contains("process_cpu_seconds_total "));
        assert!(fd_limit().is_some_and(|n| n > 0));
    }
}
