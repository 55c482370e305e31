//! StatsD from datagrams to the store.

use model::{Batch, Labels, Select, TypeCounts};
use parking_lot::Mutex;
use wire::statsd::{Line, parse};

use super::resume;
use super::stats::{Dropped, LineStats};
use super::table::Table;

/// The state of all series and its figures.
#[derive(Default)]
pub struct Statsd {
    table: Mutex<Table>,
    /// What came.
    pub stats: LineStats,
}

impl Statsd {
    /// Takes a datagram.
    pub fn datagram(&self, bytes: &[u8]) {
        let mut table = self.table.lock();
        let mut lines = 0;
        for (index, line) in bytes.split(|b| *b == b'\n').enumerate() {
            let Some(parsed) = parse(line, index as u32 + 1) else { continue };
            lines += 1;
            match parsed {
                Ok(Line::Metric(metric)) => {
                    if let Err(why) = table.take(&metric) {
                        self.stats.dropped(why, 1);
                    }
                }
                Ok(Line::Other) => self.stats.dropped(Dropped::NoMetric, 1),
                Err(error) => {
                    tracing::debug!("statsd: {error}");
                    self.stats.dropped(Dropped::BadLine, 1);
                }
            }
        }
        self.stats.lines(lines);
    }

    /// Gives how many series there are.
    pub fn series(&self) -> usize {
        self.table.lock().len()
    }

    /// Asks the store for what it knows of the series that are new here. Blocks.
    pub fn resume(&self, select: &dyn Select, now_ms: i64) -> Result<(), model::SelectError> {
        let fresh: Vec<Labels> = self.table.lock().fresh();
        let known = resume::last_known(select, &fresh, now_ms)?;
        let mut table = self.table.lock();
        for (labels, known) in fresh.iter().zip(known) {
            table.resume(labels, known);
        }
        Ok(())
    }

    /// Writes all series into a batch.
    pub fn flush(&self, batch: &mut Batch, now_ms: i64) -> TypeCounts {
        self.table.lock().flush(batch, now_ms)
    }
}
