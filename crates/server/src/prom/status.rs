//! `status/*` and `features`.

use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;
use promql::functions_table;

use super::api::PromApi;
use super::error::ApiError;
use super::json;
use super::params::{Params, parse_int};
use super::query::success;

/// The Prometheus whose API this is; clients choose their dialect by it.
const PROMETHEUS_VERSION: &str = "3.5.0";
/// Go's zero time: "never".
const NEVER: &str = "0001-01-01T00:00:00Z";

/// What this binary is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BuildInfo {
    /// Version of Quiver.
    pub version: String,
    /// Commit.
    pub revision: String,
    /// Branch.
    pub branch: String,
    /// Who built it.
    pub build_user: String,
    /// When it was built.
    pub build_date: String,
    /// The compiler.
    pub rust_version: String,
}

/// The state of the process.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RuntimeInfo {
    /// When it started; milliseconds since 1970.
    pub started_at_ms: i64,
    /// Its working directory.
    pub cwd: String,
    /// Its host.
    pub hostname: String,
    /// Whether the last reading of the configuration went well.
    pub reload_ok: bool,
    /// When the configuration in force was read; milliseconds since 1970.
    pub reloaded_at_ms: i64,
    /// When it was last tried to read the configuration; milliseconds since 1970.
    pub reload_tried_at_ms: i64,
    /// Damaged records and files found since the start.
    pub corruptions: u64,
    /// Threads of the process.
    pub threads: u64,
    /// How long samples are kept, such as `30d`.
    pub retention: String,
}

/// Writes an object whose values are JSON already.
pub(super) fn object(out: &mut Vec<u8>, members: &[(&str, String)]) {
    out.push(b'{');
    for (i, (name, value)) in members.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        json::string(out, name);
        out.push(b':');
        out.extend_from_slice(value.as_bytes());
    }
    out.push(b'}');
}

pub(super) fn quoted(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    json::string(&mut out, text);
    String::from_utf8(out).unwrap_or_default()
}

/// Writes a time as Go does; what is `None` or no time at all is "never".
pub(super) fn go_time(ms: Option<i64>) -> String {
    ms.and_then(|ms| Timestamp::from_millisecond(ms).ok()).map_or_else(|| NEVER.to_owned(), |t| t.to_string())
}

/// `/api/v1/status/config`
pub async fn config(State(api): State<PromApi>) -> Response {
    let text = (api.config_text)();
    success(|out| object(out, &[("yaml", quoted(&text))]))
}

/// `/api/v1/status/flags`
pub async fn flags(State(api): State<PromApi>) -> Response {
    let mut flags = (api.flags)();
    flags.sort();
    success(|out| {
        let members: Vec<_> = flags.iter().map(|(name, value)| (name.as_str(), quoted(value))).collect();
        object(out, &members);
    })
}

/// `/api/v1/status/runtimeinfo`
pub async fn runtime(State(api): State<PromApi>) -> Response {
    let info = (api.runtime)();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let members = [
        ("startTime", quoted(&go_time(Some(info.started_at_ms)))),
        ("CWD", quoted(&info.cwd)),
        ("hostname", quoted(&info.hostname)),
        ("serverTime", quoted(&go_time(Some((api.now)())))),
        ("reloadConfigSuccess", info.reload_ok.to_string()),
        ("lastConfigTime", quoted(&go_time(Some(info.reloaded_at_ms)))),
        ("corruptionCount", info.corruptions.to_string()),
        ("goroutineCount", info.threads.to_string()),
        ("GOMAXPROCS", cores.to_string()),
        ("GOMEMLIMIT", i64::MAX.to_string()),
        ("GOGC", quoted("")),
        ("GODEBUG", quoted("")),
        ("storageRetention", quoted(&info.retention)),
    ];
    success(|out| object(out, &members))
}

/// `/api/v1/status/buildinfo`; without a member `features`, by which clients recognise Mimir.
pub async fn build(State(api): State<PromApi>) -> Response {
    let info = &api.build;
    let members = [
        ("version", quoted(PROMETHEUS_VERSION)),
        ("revision", quoted(&info.revision)),
        ("branch", quoted(&info.branch)),
        ("buildUser", quoted(&info.build_user)),
        ("buildDate", quoted(&info.build_date)),
        ("goVersion", quoted("")),
        ("application", quoted("Quiver")),
        ("quiverVersion", quoted(&info.version)),
        ("rustVersion", quoted(&info.rust_version)),
    ];
    success(|out| object(out, &members))
}

/// `/api/v1/status/tsdb`
pub async fn tsdb(State(api): State<PromApi>, params: Params) -> Result<Response, ApiError> {
    let limit = match params.get("limit") {
        "" => 10,
        text => parse_int(text)
            .ok()
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| *n > 0)
            .ok_or_else(|| ApiError::bad_data("limit must be a positive number"))?,
    };
    let count = api.store_stats.clone();
    // Counting walks over all series.
    let stats = api.queries.look_up(move |_| Ok(count())).await?;
    let top = |list: &[(String, u64)]| {
        let mut out = Vec::new();
        json::list(&mut out, list.iter().take(limit), |out, (name, value)| {
            object(out, &[("name", quoted(name)), ("value", value.to_string())]);
        });
        String::from_utf8(out).unwrap_or_default()
    };
    Ok(success(|out| {
        let mut head = Vec::new();
        // Prometheus says so of an empty head.
        let (min_ms, max_ms) = (stats.head_min_ms.unwrap_or(i64::MAX), stats.head_max_ms.unwrap_or(i64::MIN));
        object(
            &mut head,
            &[
                ("numSeries", stats.series.to_string()),
                ("numLabelPairs", stats.label_pairs.to_string()),
                ("chunkCount", stats.head_chunks.to_string()),
                ("minTime", min_ms.to_string()),
                ("maxTime", max_ms.to_string()),
            ],
        );
        object(
            out,
            &[
                ("headStats", String::from_utf8(head).unwrap_or_default()),
                ("seriesCountByMetricName", top(&stats.top_metric_names)),
                ("labelValueCountByLabelName", top(&stats.top_label_names)),
                ("memoryInBytesByLabelName", top(&stats.top_label_bytes)),
                ("seriesCountByLabelValuePair", top(&stats.top_label_pairs)),
                ("seriesCountByTarget", top(&stats.top_targets)),
                ("seriesCountBySource", top(&stats.top_sources)),
                ("newSeriesPerSecond", stats.new_series_per_second.to_string()),
                ("seriesAdmittedTotal", stats.series_admitted.to_string()),
                ("seriesRefusedTotal", stats.series_refused.to_string()),
                ("seriesMemoryBytes", stats.series_bytes.to_string()),
            ],
        );
    }))
}

/// `/api/v1/status/tsdb/blocks`: as blocks of Prometheus are described. Ours have numbers in the place of ULIDs, and their levels tell
/// those that came from the head from merged ones.
pub async fn blocks(State(api): State<PromApi>) -> Result<Response, ApiError> {
    let list = api.blocks.clone();
    let blocks = api.queries.look_up(move |_| Ok(list())).await?;
    Ok(success(|out| {
        out.extend_from_slice(b"{\"blocks\":");
        json::list(out, &blocks, |out, block| {
            let m = &block.manifest;
            let id = |id: u64| quoted(&format!("{id:026}"));
            let merged = u32::from(m.balance.is_some());
            let sources: Vec<String> = m.replaces.iter().chain(&m.rolled_from).copied().map(id).collect();
            let sources = if sources.is_empty() { id(m.id) } else { sources.join(",") };
            let stats =
                format!("{{\"numSamples\":{},\"numSeries\":{},\"numChunks\":{}}}", m.samples, m.series, m.series);
            let mut members = vec![
                ("ulid", id(m.id)),
                ("minTime", m.min_ms.to_string()),
                // Prometheus' ends are not included.
                ("maxTime", m.max_ms.saturating_add(1).to_string()),
                ("stats", stats),
                ("compaction", format!("{{\"level\":{},\"sources\":[{sources}]}}", 1 + merged)),
                ("version", m.version.to_string()),
            ];
            if let Some(resolution_ms) = m.resolution_ms {
                members.push(("resolutionMs", resolution_ms.to_string()));
            }
            object(out, &members);
        });
        out.push(b'}');
    }))
}

/// `/api/v1/status/walreplay`: who can ask has waited for the end of the replay.
pub async fn wal_replay() -> Response {
    success(|out| out.extend_from_slice(br#"{"min":0,"max":0,"current":0}"#))
}

/// `/api/v1/features`
pub async fn features(State(api): State<PromApi>) -> Response {
    const API: [&str; 9] = [
        "exclude_alerts",
        "label_values_match",
        "lifecycle",
        "query_stats",
        "query_warnings",
        "remote_write_receiver",
        "search",
        "time_range_labels",
        "time_range_series",
    ];
    const PROMQL: [&str; 8] =
        ["at_modifier", "bool", "by", "group_left", "group_right", "negative_offset", "offset", "subqueries"];
    let on = |names: &[&str]| {
        let mut out = Vec::new();
        let members: Vec<_> = names.iter().map(|name| (*name, "true".to_owned())).collect();
        object(&mut out, &members);
        String::from_utf8(out).unwrap_or_default()
    };
    let experimental = api.queries.is_experimental();
    let functions: Vec<_> = functions_table::all()
        .iter()
        .map(|spec| (spec.name, (experimental || !spec.experimental).to_string()))
        .collect();
    success(|out| {
        let mut known = Vec::new();
        object(&mut known, &functions);
        object(
            out,
            &[
                ("api", on(&API)),
                ("promql", on(&PROMQL)),
                ("promql_functions", String::from_utf8(known).unwrap_or_default()),
            ],
        );
    })
}
