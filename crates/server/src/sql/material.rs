//! What a statement needs, gathered: names of blocks' files, the head's samples, targets, PromQL evaluated.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use columns::{IpcColumn, labels_to_json, write_ipc};
use http::StatusCode;
use model::{LABEL_NAME, Labels, SelectError, TimeRange};
use promql::Value as Answer;
use serde::Deserialize;
use serde_json::{Value, json};
use store::{BlockFiles, HeadRow, Stop, Tabular};

use super::{Sql, Turn};
use crate::prom::error::{ApiError, ErrorKind};
use crate::prom::params::parse_duration_ms;
use crate::rest::problem::Problem;

/// What the process asks for.
#[derive(Deserialize, Debug)]
pub struct Needs {
    views: Vec<String>,
    metrics: Option<Samples>,
    promql: Vec<Call>,
}

#[derive(Deserialize, Debug)]
struct Samples {
    start_ms: Option<i64>,
    end_ms: Option<i64>,
    names: Option<Vec<String>>,
}

#[derive(Deserialize, Debug)]
struct Call {
    query: String,
    start_ms: Option<i64>,
    end_ms: Option<i64>,
    step: Option<String>,
}

/// What it gets.
pub struct Material {
    /// Paths of blocks' files.
    pub files: Value,
    /// Tables as streams of Arrow IPC, with their names.
    pub tables: Vec<(String, Vec<u8>)>,
}

type Refused = Box<Problem>;

/// Calls of `promql` in one statement; the process has the same limit, but what it says is not trusted.
const CALLS_MAX: usize = 8;

impl Sql {
    /// Gathers it.
    pub(super) async fn gather(&self, needs: Needs, turn: &Arc<Turn>) -> Result<Material, Refused> {
        if needs.promql.len() > CALLS_MAX {
            let text = format!("promql can be called {CALLS_MAX} times");
            return Err(Problem::at(StatusCode::UNPROCESSABLE_ENTITY, "sql_refused", "/query", text).into());
        }
        let (mut promql, mut bytes_left) = (Vec::new(), self.0.limits.head_bytes_max);
        for (n, call) in needs.promql.iter().enumerate() {
            promql.push((format!("promql_rows_{n}"), self.evaluate(call, &mut bytes_left).await?));
        }
        let (service, turn) = (self.clone(), turn.clone());
        let gathered = tokio::task::spawn_blocking(move || {
            let is_over = || turn.over.load(Ordering::Relaxed);
            service.gather_samples(&needs, Stop(&is_over))
        });
        let gathered = gathered.await;
        let broken = |_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the query failed");
        let mut material = gathered.map_err(broken)??;
        material.tables.extend(promql);
        Ok(material)
    }

    fn gather_samples(&self, needs: &Needs, stop: Stop<'_>) -> Result<Material, Refused> {
        let parts = &self.0.parts;
        let names_view = |name: &str| needs.views.iter().any(|v| v == name);
        let (with_series, with_rollups) = (names_view("series"), needs.views.iter().any(|v| v.starts_with("rollups")));
        let mut recent = Tabular::default();
        if let Some(samples) = &needs.metrics {
            let range = TimeRange {
                start_ms: samples.start_ms.unwrap_or(i64::MIN),
                end_ms: samples.end_ms.unwrap_or(i64::MAX),
            };
            let tabular = parts.store.tabular(samples.names.as_deref(), range, self.0.limits.head_bytes_max, stop);
            recent = tabular.map_err(select_problem)?;
        }
        // The head's series before the blocks': what moves between them meanwhile is seen twice, which the view makes one of.
        let head_series = match with_series {
            true => parts.store.head_series(self.0.limits.head_bytes_max).map_err(select_problem)?,
            false => Vec::new(),
        };
        let mut whole = (Vec::new(), Vec::new());
        if with_series || with_rollups {
            whole = parts.store.series_files(stop).map_err(select_problem)?;
        }
        let files = self.files(&recent.files, &whole.0, with_series, with_rollups)?;
        let mut tables = Vec::new();
        // Of both: the list of blocks may have changed between them.
        let hidden: Vec<store::HiddenRows> = recent.hidden.iter().chain(&whole.1).copied().collect();
        let column = |get: fn(&store::HiddenRows) -> i64| IpcColumn::Int(hidden.iter().map(get).collect());
        if !hidden.is_empty() {
            let columns = vec![
                ("series_id", column(|h| h.series_id)),
                ("start_ms", column(|h| h.start_ms)),
                ("end_ms", column(|h| h.end_ms)),
            ];
            tables.push(table("hidden", columns)?);
        }
        if !recent.series.is_empty() {
            let ids = IpcColumn::Int((0..recent.series.len() as i64).collect());
            let mut columns = vec![("series_id", ids)];
            columns.extend(series_columns(&recent.series));
            tables.push(table("head_series", columns)?);
            let columns = vec![
                ("series_id", IpcColumn::Int(recent.owners)),
                ("timestamp_ms", IpcColumn::Int(recent.ts_ms)),
                ("stale", IpcColumn::Int(recent.values.iter().map(|v| i64::from(model::is_stale(*v))).collect())),
                ("value", IpcColumn::Double(recent.values)),
            ];
            tables.push(table("head_samples", columns)?);
        }
        if with_series {
            tables.push(table("all_series", series_columns(&head_series))?);
        }
        if names_view("targets") {
            tables.push(table("all_targets", self.targets())?);
        }
        Ok(Material { files, tables })
    }

    fn files(
        &self,
        recent: &[BlockFiles],
        whole: &[BlockFiles],
        with_series: bool,
        with_rollups: bool,
    ) -> Result<Value, Refused> {
        let path = |path: &std::path::Path| {
            let inside = std::path::absolute(path).map(|p| p.to_string_lossy().into_owned());
            inside.map_err(|e| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", e.to_string()))
        };
        let raw = |f: &&BlockFiles| f.resolution_ms.is_none();
        let mut samples = Vec::new();
        for file in recent.iter().filter(raw) {
            samples.push(json!({"series": path(&file.series)?, "rows": path(&file.rows)?}));
        }
        let (mut series, mut rollups) = (Vec::new(), Vec::new());
        for file in whole.iter().filter(|_| with_series).filter(raw) {
            series.push(path(&file.series)?);
        }
        for file in whole.iter().filter(|f| with_rollups && f.resolution_ms.is_some()) {
            let (series, rows) = (path(&file.series)?, path(&file.rows)?);
            rollups.push(json!({"series": series, "rows": rows, "resolution_ms": file.resolution_ms}));
        }
        Ok(json!({"samples": samples, "series": series, "rollups": rollups}))
    }

    fn targets(&self) -> Vec<(&'static str, IpcColumn)> {
        let all = self.0.parts.rest.all_targets();
        let text = |get: &dyn Fn(&crate::rest::target_json::MetricTarget) -> Option<String>| {
            IpcColumn::Text(all.iter().map(get).collect())
        };
        let ms = |t: &crate::rest::target_json::MetricTarget| {
            let at = t.last_scrape.as_deref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
            at.map_or(0, jiff::Timestamp::as_millisecond)
        };
        vec![
            ("target_id", text(&|t| Some(t.target_id.clone()))),
            ("source", text(&|t| Some(t.source_id.clone()))),
            ("collection_method", text(&|t| Some(t.collection_method.clone()))),
            ("url", text(&|t| Some(t.scrape_url.clone()))),
            ("health", text(&|t| Some(t.health_status.clone()))),
            ("labels", text(&|t| serde_json::to_string(&t.labels).ok())),
            ("enabled", IpcColumn::Int(all.iter().map(|t| i64::from(t.enabled)).collect())),
            ("last_scrape_ms", IpcColumn::Int(all.iter().map(ms).collect())),
        ]
    }

    async fn evaluate(&self, call: &Call, bytes_left: &mut u64) -> Result<Vec<u8>, Refused> {
        let now_ms = (self.0.parts.now)();
        let start_ms = call.start_ms.unwrap_or(now_ms);
        let range = match (call.end_ms, &call.step) {
            (Some(end_ms), Some(step)) => {
                let step_ms = parse_duration_ms(step).map_err(|e| promql_problem(&ApiError::bad_data(e)))?;
                if step_ms < 1.0 {
                    return Err(promql_problem(&ApiError::bad_data("the step is less than a millisecond")).into());
                }
                Some((start_ms, end_ms, step_ms as i64))
            }
            _ => None,
        };
        let value = self.0.parts.queries.value(&call.query, start_ms, range).await;
        let value = value.map_err(|e| promql_problem(&e))?;
        promql_table(value, bytes_left)
    }
}

fn table(name: &str, columns: Vec<(&str, IpcColumn)>) -> Result<(String, Vec<u8>), Refused> {
    let written = write_ipc(columns);
    let broken = |e: columns::ColumnsError| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", e.to_string());
    Ok((name.to_owned(), written.map_err(broken)?))
}

fn json_of(labels: &Labels) -> Option<String> {
    let mut out = String::new();
    labels_to_json(labels, &mut out);
    Some(out)
}

fn name_of(labels: &Labels) -> Option<String> {
    Some(labels.get(LABEL_NAME).unwrap_or_default().to_owned())
}

fn series_columns(rows: &[HeadRow]) -> Vec<(&'static str, IpcColumn)> {
    let text = |get: &dyn Fn(&HeadRow) -> Option<String>| IpcColumn::Text(rows.iter().map(get).collect());
    vec![
        ("metric_name", text(&|r| name_of(&r.labels))),
        ("metric_type", text(&|r| Some(r.attrs.metric_type.as_spec_str().to_owned()))),
        ("labels", text(&|r| json_of(&r.labels))),
        ("source", text(&|r| Some(r.attrs.source.to_string()))),
        ("target_id", text(&|r| Some(r.attrs.target_id.to_string()))),
    ]
}

/// Turns a value of PromQL into rows; native histograms have no single value and are left out.
///
/// **Takes** the bytes that all calls of a statement may have yet.
fn promql_table(value: Answer, bytes_left: &mut u64) -> Result<Vec<u8>, Refused> {
    let mut rows = Rows { bytes_left: *bytes_left, ..Rows::default() };
    match value {
        Answer::Scalar { ts_ms, value } => rows.add(None, &[ts_ms], &[value])?,
        Answer::String { .. } => return Err(promql_problem(&ApiError::bad_data("the expression gives a text")).into()),
        Answer::Vector(samples) => {
            for s in samples.iter().filter(|s| s.histogram.is_none()) {
                rows.add(Some(&s.labels), &[s.ts_ms], &[s.value])?;
            }
        }
        Answer::Matrix(series) => {
            for s in &series {
                rows.add(Some(&s.labels), &s.samples.ts_ms, &s.samples.values)?;
            }
        }
    }
    *bytes_left = rows.bytes_left;
    let columns = vec![
        ("timestamp_ms", IpcColumn::Int(rows.ts_ms)),
        ("metric_name", IpcColumn::Text(rows.names)),
        ("labels", IpcColumn::Text(rows.labels)),
        ("value", IpcColumn::Double(rows.values)),
    ];
    Ok(table("promql", columns)?.1)
}

#[derive(Default)]
struct Rows {
    ts_ms: Vec<i64>,
    names: Vec<Option<String>>,
    labels: Vec<Option<String>>,
    values: Vec<f64>,
    bytes_left: u64,
}

impl Rows {
    fn add(&mut self, labels: Option<&Labels>, ts_ms: &[i64], values: &[f64]) -> Result<(), Refused> {
        let name = labels.map_or(Some(String::new()), name_of);
        let json = labels.map_or(Some("{}".to_owned()), json_of);
        let text = name.as_ref().map_or(0, String::len) + json.as_ref().map_or(0, String::len);
        let bytes = (32 + text as u64) * ts_ms.len() as u64;
        self.bytes_left = self.bytes_left.checked_sub(bytes).ok_or_else(|| {
            let text = "promql(...) gives more than fits: aggregate in it, or give a longer step";
            Problem::at(StatusCode::UNPROCESSABLE_ENTITY, "sql_too_large", "/query", text)
        })?;
        self.ts_ms.extend_from_slice(ts_ms);
        self.values.extend_from_slice(values);
        self.names.extend(std::iter::repeat_n(name, ts_ms.len()));
        self.labels.extend(std::iter::repeat_n(json, ts_ms.len()));
        Ok(())
    }
}

fn select_problem(error: SelectError) -> Problem {
    match error {
        SelectError::Limit(text) => Problem::at(StatusCode::UNPROCESSABLE_ENTITY, "sql_needs_a_bound", "/query", text),
        SelectError::Storage(text) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "damaged", text),
    }
}

fn promql_problem(error: &ApiError) -> Problem {
    let status =
        if error.kind == ErrorKind::BadData { StatusCode::BAD_REQUEST } else { StatusCode::UNPROCESSABLE_ENTITY };
    Problem::at(status, "invalid_query", "/query", format!("promql(...): {}", error.text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_calls_of_promql_share_what_they_may_bring() {
        let value = || Answer::Scalar { ts_ms: 1, value: 2.0 };
        let mut left = 80;
        assert!(promql_table(value(), &mut left).is_ok());
        assert_eq!(left, 80 - 34);
        assert!(promql_table(value(), &mut left).is_ok());
        let refused = promql_table(value(), &mut left).unwrap_err();
        assert_eq!((refused.status, refused.code.as_str()), (422, "sql_too_large"));
    }
}
