//! What rules ask of the server: queries over the store, and a way into it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use model::{Append, Batch, CollectionMethod, Labels, NO_FAMILY, Origin, Samples, Select, TimeRange};
use promql::ast::Expr;
use promql::{QueryMemory, QueryOptions, Value, VectorSample};
use rules::{Host, Rows, Stored};

use crate::prom::QueryLimits;
use crate::prom::api::Source;

/// The source of samples that rules make.
pub const SOURCE: &str = "quiver_rules";

/// What it works with.
pub struct HostParts {
    /// The way out of the store.
    pub select: Arc<dyn Select>,
    /// The way into it.
    pub append: Arc<dyn Append>,
    /// Limits of one query.
    pub limits: QueryLimits,
    /// What all queries share.
    pub memory: Option<Arc<QueryMemory>>,
    /// `external_labels` in force.
    pub external_labels: Source<Vec<(String, String)>>,
    /// Where people reach this server.
    pub external_url: String,
    /// Gives the time, in milliseconds since 1970.
    pub now: Source<i64>,
}

/// The server as rules see it.
pub struct StoreHost(pub HostParts);

impl StoreHost {
    fn options(&self) -> QueryOptions {
        let limits = &self.0.limits;
        QueryOptions {
            lookback_ms: limits.lookback_ms,
            samples_max: limits.samples_max,
            default_step_ms: limits.default_step_ms,
            experimental: limits.experimental,
            memory: self.0.memory.clone(),
            deadline: Some(Instant::now() + limits.timeout.max(Duration::from_millis(1))),
            ..QueryOptions::default()
        }
    }

    fn batch(&self, rows: Rows) -> Batch {
        let origin = Origin {
            target_id: SOURCE.to_owned(),
            source_id: SOURCE.to_owned(),
            method: CollectionMethod::Streaming,
            received_at_ms: (self.0.now)(),
        };
        let mut batch = Batch::new(origin);
        for (labels, ts_ms, value) in rows.samples {
            let series = batch.push_labels(&labels, NO_FAMILY);
            batch.push_sample(series, ts_ms, value);
        }
        for (labels, ts_ms, histogram) in rows.histograms {
            let series = batch.push_labels(&labels, NO_FAMILY);
            batch.push_histogram(series, ts_ms, histogram);
        }
        batch
    }
}

impl Host for StoreHost {
    fn ask(&self, expr: &Expr, ts_ms: i64) -> Result<Vec<VectorSample>, String> {
        let answer = promql::instant(&*self.0.select, expr, ts_ms, &self.options()).map_err(|e| e.to_string())?;
        match answer.value {
            Value::Vector(samples) => Ok(samples),
            Value::Scalar { ts_ms, value } => Ok(vec![VectorSample::new(Labels::empty(), ts_ms, value)]),
            _ => Err("rule result is not a vector or scalar".to_owned()),
        }
    }

    fn history(&self, selector: &str, start_ms: i64, end_ms: i64) -> Result<Vec<(Labels, Samples)>, String> {
        let matchers = promql::parse_selector(selector).map_err(|e| e.to_string())?;
        let range = TimeRange { start_ms, end_ms };
        let found = self.0.select.select(&matchers, range).map_err(|e| e.to_string())?;
        let read = found.iter().map(|reader| {
            let mut samples = Samples::default();
            reader.read(range, &mut samples).map(|()| (reader.labels().clone(), samples)).map_err(|e| e.to_string())
        });
        read.collect()
    }

    fn store(&self, rows: Rows) -> Stored {
        let (tx, rx) = std::sync::mpsc::sync_channel(1);
        self.0.append.submit(self.batch(rows), Box::new(move |_, result| drop(tx.send(result))));
        Box::new(move || match rx.recv() {
            Ok(Ok(appended)) if appended.counts.refused_total() > 0 => {
                Err(format!("{} samples were refused by the store", appended.counts.refused_total()))
            }
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the store is closed".to_owned()),
        })
    }

    fn external_labels(&self) -> Vec<(String, String)> {
        (self.0.external_labels)()
    }

    fn external_url(&self) -> String {
        self.0.external_url.clone()
    }
}
