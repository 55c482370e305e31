//! From Graphite lines to rows.

use model::Batch;
use wire::graphite;

use super::rows::SeriesMaker;
use super::stats::{Dropped, LineStats};

/// Turns lines into rows; dots of the path become underscores.
#[derive(Default)]
pub struct Reader {
    maker: SeriesMaker,
}

impl Reader {
    /// Reads whole lines into a batch; counts those that are not understood.
    pub fn read(&mut self, lines: &[u8], now_ms: i64, stats: &LineStats, batch: &mut Batch) {
        let mut read = 0;
        for line in lines.split(|b| *b == b'\n') {
            let Some(parsed) = graphite::parse(line, 1) else { continue };
            read += 1;
            let point = match parsed {
                Ok(point) => point,
                Err(error) => {
                    tracing::debug!("graphite: {error}");
                    stats.dropped(Dropped::BadLine, 1);
                    continue;
                }
            };
            self.maker.begin(point.path);
            for (name, value) in point.tags() {
                self.maker.label(name, value);
            }
            self.maker.push(batch, point.ts_ms.unwrap_or(now_ms), point.value);
        }
        stats.lines(read);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::SeriesIndex;

    #[test]
    fn lines_become_rows_and_bad_ones_a_count() {
        let (mut batch, stats) = (Batch::default(), LineStats::default());
        Reader::default().read(b"a.b;host=x 1 10\nbad\n\na.c 2\n", 7, &stats, &mut batch);
        assert_eq!(batch.labels(SeriesIndex(0)).unwrap_or_default().to_string(), r#"a_b{host="x"}"#);
        let times: Vec<_> = batch.samples.iter().map(|s| (s.ts_ms, s.value)).collect();
        assert_eq!((times, stats.count(Dropped::BadLine)), (vec![(10_000, 1.0), (7, 2.0)], 1));
    }
}
