//! The memory of this process: how much it may take, what for, and how much it takes.
//!
//! Owns: the shares of series, requests and queries in the limit, and the watch over the whole.
//! Invariants: 1. the shares together stay below the limit, so that what is not counted (buffers of the log, blocks being
//! read, threads) has room; 2. whatever the counts say, no new series come in while the process is near its limit.
//! Fails how: series: see [`store::AdmissionStats`]; requests: 503 until others are done; queries: an error that says so.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use promql::QueryMemory;
use store::Store;
use tokio::sync::{Semaphore, watch};

use crate::config::settings::LimitSettings;
use crate::telemetry::Exposition;

/// Bytes of requests are counted in units of this size.
pub const UNIT_BYTES: usize = 1 << 10;
/// Where neither the machine nor a limit of its own tells.
const MACHINE_BYTES_UNKNOWN: u64 = 2 << 30;
/// The process is near its limit from here on, in percent of it, and until it is below the second.
const NEAR_PERCENT: (u64, u64) = (90, 85);
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Series admitted per second are said over so many looks.
const RATE_LOOKS: u64 = 40;

/// How the limit is shared out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryPlan {
    /// What the process may take.
    pub total: u64,
    /// What series may take, as the store counts it.
    pub series: u64,
    /// What request bodies and what is made of them may take.
    pub requests: u64,
    /// What all queries together may hold.
    pub queries: u64,
}

impl MemoryPlan {
    /// Shares out what the settings say; 0 means three fifths of the machine or of the control group, whichever is less.
    pub fn of(limits: &LimitSettings) -> MemoryPlan {
        let total = match limits.memory_bytes {
            0 => machine_bytes() / 5 * 3,
            bytes => bytes,
        };
        let largest = 2 * limits.body_bytes_max as u64;
        MemoryPlan {
            total,
            series: total / 2,
            // One request of any allowed size must fit.
            requests: (total / 8).min(limits.inflight_bytes_max as u64).max(largest),
            queries: total / 4,
        }
    }
}

/// The memory of this process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Memory {
    plan: MemoryPlan,
    /// Units that no request holds.
    pub requests: Arc<Semaphore>,
    units: usize,
    /// What queries hold.
    pub queries: Arc<QueryMemory>,
    seen: Arc<Seen>,
}

#[derive(Default, Debug)]
struct Seen {
    resident: AtomicU64,
    near: AtomicU64,
    /// Series admitted per thousand seconds.
    admitted_rate: AtomicU64,
}

impl Memory {
    /// Starts with everything free.
    pub fn new(plan: MemoryPlan) -> Memory {
        let units = (usize::try_from(plan.requests).unwrap_or(usize::MAX) / UNIT_BYTES + 1).min(Semaphore::MAX_PERMITS);
        Memory {
            plan,
            requests: Arc::new(Semaphore::new(units)),
            units,
            queries: Arc::new(QueryMemory::new(plan.queries)),
            seen: Arc::default(),
        }
    }

    /// Gives the shares.
    pub fn plan(&self) -> &MemoryPlan {
        &self.plan
    }

    /// Gives the bytes that requests hold now.
    pub fn requests_used(&self) -> u64 {
        (self.units.saturating_sub(self.requests.available_permits()) * UNIT_BYTES) as u64
    }

    /// Gives how many series per second were let in of late.
    pub fn new_series_per_second(&self) -> f64 {
        self.seen.admitted_rate.load(Ordering::Relaxed) as f64 / 1000.0
    }

    /// Watches the process until the server stops: near its limit no new series come in.
    pub async fn watch(self, store: Arc<Store>, mut stop: watch::Receiver<bool>) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut near, mut looks, mut admitted) = (false, 0, store.admission().admitted);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                _ = stop.wait_for(|stopped| *stopped) => return,
            }
            let Some(resident) = resident_bytes() else { continue };
            self.seen.resident.store(resident, Ordering::Relaxed);
            let percent = if near { NEAR_PERCENT.1 } else { NEAR_PERCENT.0 };
            let now_near = resident > self.plan.total / 100 * percent;
            if now_near != near {
                near = now_near;
                self.seen.near.fetch_add(u64::from(near), Ordering::Relaxed);
                store.set_pressure(near);
                let (resident, limit) = (mib(resident), mib(self.plan.total));
                tracing::warn!(resident_mib = resident, limit_mib = limit, near, "memory limit");
            }
            looks += 1;
            if looks == RATE_LOOKS {
                let now = store.admission().admitted;
                let seconds = LOOK_EVERY.as_millis() as u64 * RATE_LOOKS / 1000;
                self.seen.admitted_rate.store((now - admitted) * 1000 / seconds.max(1), Ordering::Relaxed);
                (looks, admitted) = (0, now);
            }
        }
    }

    /// Writes limits and use.
    pub fn render(&self, page: &mut Exposition, series_bytes: u64) {
        let plan = &self.plan;
        page.family("quiver_memory_limit_bytes", "gauge", "Memory that may be taken, in all and by what for.");
        for (what, bytes) in
            [("total", plan.total), ("series", plan.series), ("requests", plan.requests), ("queries", plan.queries)]
        {
            page.sample(&[("for", what)], bytes as f64);
        }
        page.family("quiver_memory_used_bytes", "gauge", "Memory that is taken, by what for, as it is counted.");
        let total = self.seen.resident.load(Ordering::Relaxed);
        let queries = self.queries.used();
        for (what, bytes) in
            [("total", total), ("series", series_bytes), ("requests", self.requests_used()), ("queries", queries)]
        {
            page.sample(&[("for", what)], bytes as f64);
        }
        let near = self.seen.near.load(Ordering::Relaxed);
        page.counter("quiver_memory_near_limit_total", "How often the process came near its memory limit.", near);
        let refused = self.queries.refused();
        page.counter("quiver_queries_out_of_memory_total", "Queries that found no memory.", refused);
    }
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

/// Writes bytes for people.
pub fn shown_bytes(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes >> 10),
        1_048_576..1_073_741_824 => format!("{} MiB", bytes >> 20),
        _ => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

fn resident_bytes() -> Option<u64> {
    kib_after(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// Gives the memory of the machine, or of the control group that this process lives in when that is less.
fn machine_bytes() -> u64 {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let machine = kib_after(&read("/proc/meminfo"), "MemTotal:");
    let number = |text: String| text.trim().parse::<u64>().ok();
    let groups = read("/proc/self/cgroup");
    let unified = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let group = [
        number(read(&format!("/sys/fs/cgroup{}/memory.max", unified.trim_end_matches('/')))),
        number(read("/sys/fs/cgroup/memory.max")),
        number(read("/sys/fs/cgroup/memory/memory.limit_in_bytes")),
    ];
    machine.into_iter().chain(group.into_iter().flatten()).min().unwrap_or(MACHINE_BYTES_UNKNOWN)
}

fn kib_after(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_leave_room_and_the_largest_request_fits() {
        let limits = LimitSettings { memory_bytes: 1 << 30, ..LimitSettings::default() };
        let plan = MemoryPlan::of(&limits);
        assert!(plan.series + plan.requests + plan.queries < plan.total);
        assert!(plan.requests >= limits.body_bytes_max as u64);
        let own = MemoryPlan::of(&LimitSettings::default());
        assert!(own.total > 64 << 20 && own.total < machine_bytes(), "{own:?}");
        let memory = Memory::new(plan);
        assert_eq!(memory.requests_used(), 0);
        let _held = memory.requests.clone().try_acquire_many_owned(10).unwrap();
        assert_eq!(memory.requests_used(), 10 * UNIT_BYTES as u64);
        assert!(resident_bytes().is_some_and(|n| n > 1 << 20));
        assert_eq!(
            (shown_bytes(5 << 10), shown_bytes(3 << 20), shown_bytes(3 << 29)),
            ("5 KiB".into(), "3 MiB".into(), "1.5 GiB".into())
        );
    }
}
