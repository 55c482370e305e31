//! The series of the load, and bodies rendered once and patched in place: a sample costs the generator a few nanoseconds.

/// Names as a node exporter has them; the series of one host share all but the last labels.
pub const NAMES: [&str; 8] = [
    "node_cpu_seconds_total",
    "node_network_receive_bytes_total",
    "node_disk_io_time_seconds_total",
    "node_filesystem_avail_bytes",
    "node_memory_MemAvailable_bytes",
    "node_netstat_Tcp_InSegs",
    "node_schedstat_waiting_seconds_total",
    "node_softnet_processed_total",
];
/// Series of one host.
pub const HOST_SERIES: usize = 800;
/// The label whose value changes when a series is replaced by a new one.
const BOOT: &str = "boot";
/// Digits of that value.
const BOOT_DIGITS: usize = 4;

/// Labels of the n-th series of a load, sorted by name; about 150 bytes as text.
pub fn labels(n: usize) -> Vec<(&'static str, String)> {
    let host = n / HOST_SERIES;
    vec![
        ("__name__", NAMES[n % NAMES.len()].to_owned()),
        (BOOT, "0".repeat(BOOT_DIGITS)),
        ("cpu", (n / NAMES.len() % 100).to_string()),
        ("datacenter", format!("eu-west-{}", host % 3)),
        ("device", format!("nvme{}n1", n % 4)),
        ("instance", format!("host-{host:05}.example.net:9100")),
        ("job", "node".to_owned()),
        ("mode", ["idle", "system", "user", "iowait"][n / 3 % 4].to_owned()),
    ]
}

/// The n-th series' value at the given step: counters and gauges that move by small amounts.
pub fn value(n: usize, step: u64) -> f64 {
    let slope = (n % 97) as f64 / 8.0;
    1000.0 + (n % 1000) as f64 + slope * step as f64 + ((step * 7 + n as u64) % 13) as f64 / 100.0
}

/// Writes a whole number with leading zeros.
pub fn write_digits(out: &mut [u8], mut number: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Writes a number of hundredths with leading zeros; a few nanoseconds.
pub fn write_hundredths(out: &mut [u8], hundredths: u64) {
    let point = out.len() - 3;
    write_digits(&mut out[..point], hundredths / 100);
    out[point] = b'.';
    write_digits(&mut out[point + 1..], hundredths % 100);
}

/// Which series are replaced when: each of a load's in turn, so many a second.
pub struct Churn {
    per_second: f64,
    replaced: f64,
}

impl Churn {
    /// Starts; `percent_per_hour` of so many series.
    pub fn new(series: usize, percent_per_hour: f64) -> Churn {
        Churn { per_second: series as f64 * percent_per_hour / 100.0 / 3600.0, replaced: 0.0 }
    }

    /// Gives how many more series are to be replaced, so many seconds after the start.
    pub fn due(&mut self, seconds: f64) -> usize {
        let due = (self.per_second * seconds - self.replaced).floor().max(0.0);
        self.replaced += due;
        due as usize
    }
}

/// The text body of one target: values of a fixed width, so that they can be patched.
pub struct TextBody {
    bytes: Vec<u8>,
    values: Vec<(usize, usize)>,
    boots: Vec<usize>,
    next_boot: usize,
    replaced: u64,
}

/// Width of a patched number.
const WIDTH: usize = 14;

impl TextBody {
    pub fn new(target: usize, series: usize) -> TextBody {
        TextBody::in_format(target, series, "counter", "")
    }

    /// The same with `# EOF`.
    pub fn openmetrics(target: usize, series: usize) -> TextBody {
        TextBody::in_format(target, series, "unknown", "# EOF\n")
    }

    fn in_format(target: usize, series: usize, metric_type: &str, end: &str) -> TextBody {
        let (bytes, values, boots) = (Vec::new(), Vec::new(), Vec::new());
        let mut body = TextBody { bytes, values, boots, next_boot: 0, replaced: 0 };
        let mut order: Vec<usize> = (0..series).map(|i| target * series + i).collect();
        order.sort_by_key(|n| n % NAMES.len());
        let mut last = usize::MAX;
        for n in order {
            let family = n % NAMES.len();
            if family != last {
                let header = format!("# HELP {0} One of a host's numbers.\n# TYPE {0} {metric_type}\n", NAMES[family]);
                body.bytes.extend_from_slice(header.as_bytes());
                last = family;
            }
            body.push_line(n);
        }
        body.bytes.extend_from_slice(end.as_bytes());
        body
    }

    fn push_line(&mut self, n: usize) {
        let pairs: Vec<String> = labels(n)
            .into_iter()
            .filter(|(name, _)| !matches!(*name, "__name__" | "instance" | "job"))
            .map(|(name, value)| format!("{name}=\"{value}\""))
            .chain([format!("slot=\"{n}\"")])
            .collect();
        let start = self.bytes.len();
        self.bytes.extend_from_slice(format!("{}{{{}}} ", NAMES[n % NAMES.len()], pairs.join(",")).as_bytes());
        let boot = format!("{BOOT}=\"");
        let found = self.bytes[start..].windows(boot.len()).position(|w| w == boot.as_bytes()).unwrap_or(0);
        self.boots.push(start + found + boot.len());
        self.values.push((self.bytes.len(), n));
        self.bytes.extend_from_slice(&[b'0'; WIDTH]);
        self.bytes.push(b'\n');
    }

    pub fn samples(&self) -> usize {
        self.values.len()
    }

    /// Lets the next series end and another begin in their place.
    pub fn replace(&mut self, series: usize) {
        for _ in 0..series.min(self.boots.len()) {
            let at = self.boots[self.next_boot];
            self.next_boot += 1;
            if self.next_boot == self.boots.len() {
                self.next_boot = 0;
            }
            let number = 1 + self.replaced / self.boots.len() as u64;
            self.replaced += 1;
            write_digits(&mut self.bytes[at..at + BOOT_DIGITS], number);
        }
    }

    pub fn render(&mut self, step: u64) -> &[u8] {
        for (at, n) in &self.values {
            write_hundredths(&mut self.bytes[*at..at + WIDTH], (value(*n, step) * 100.0).round() as u64);
        }
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_says_the_value_of_its_step() {
        let mut body = TextBody::new(3, 10);
        for step in [0, 1, 12_345] {
            let text = String::from_utf8(body.render(step).to_vec()).expect("text");
            let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
            assert_eq!(lines.len(), 10);
            for line in lines {
                let slot = line.split("slot=\"").nth(1).and_then(|s| s.split('"').next()).expect("a slot");
                let shown: f64 = line.rsplit(' ').next().and_then(|v| v.parse().ok()).expect("a number");
                let wanted = value(slot.parse().expect("a number"), step);
                assert!((shown - wanted).abs() < 0.006, "{line}: {wanted}");
            }
        }
    }

    #[test]
    fn replaced_series_are_new_ones_each_time() {
        let mut body = TextBody::new(0, 6);
        let mut seen = std::collections::HashSet::new();
        let mut live = 0;
        for _ in 0..5 {
            let text = String::from_utf8(body.render(1).to_vec()).expect("text");
            let names = text.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.rsplit_once(' '));
            let new = names.filter(|(series, _)| seen.insert((*series).to_owned())).count();
            live = live.max(new);
            assert_eq!(new, if seen.len() == 6 { 6 } else { 4 });
            body.replace(4);
        }
        assert_eq!(seen.len(), 6 + 4 * 4);
    }

    #[test]
    fn churn_comes_evenly() {
        let mut churn = Churn::new(36_000, 10.0);
        assert_eq!((churn.due(0.5), churn.due(1.0), churn.due(10.0), churn.due(10.0)), (0, 1, 9, 0));
    }
}
