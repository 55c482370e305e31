//! `targets`, `targets/metadata`, `scrape_pools`, `metadata`.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use axum::response::Response;
use collect::{TargetOrigin, TargetSpec, TargetStatus};
use model::{Family, Health, LABEL_NAME, Labels, Matcher, Select, TimeRange, format_duration_ms};
use url::{Host, Url};

use super::api::PromApi;
use super::error::{ApiError, ErrorKind};
use super::json;
use super::params::{Params, parse_int};
use super::query::success;
use super::status::{go_time, quoted};
use model::secret_url::without_password;

/// How far back a target's series are looked for when its metadata is asked for.
const METADATA_WINDOW_MS: i64 = 3_600_000;
/// What series of a family add to its name.
const SUFFIXES: [&str; 8] = ["_total", "_bucket", "_count", "_sum", "_created", "_info", "_gcount", "_gsum"];

/// The pool of a target: its job, or its source when it was registered over the API.
fn pool(spec: &TargetSpec) -> &str {
    match &spec.origin {
        TargetOrigin::Rest => &spec.source_id,
        TargetOrigin::Discovery { job } => job,
        TargetOrigin::Collector { name } => name,
    }
}

fn state_word(health: Health) -> &'static str {
    match health {
        Health::Healthy | Health::Degraded => "up",
        Health::Unhealthy => "down",
        Health::Unknown | Health::Disabled => "unknown",
    }
}

/// `/api/v1/targets`
pub async fn targets(State(api): State<PromApi>, params: Params) -> Response {
    let wanted = params.get("scrapePool").to_owned();
    let in_pool = |name: &str| wanted.is_empty() || wanted == name;
    let state = params.get("state").to_lowercase();
    let show_active = matches!(state.as_str(), "" | "any" | "active");
    let show_dropped = matches!(state.as_str(), "" | "any" | "dropped");
    let mut all: Vec<_> = (api.targets)().into_iter().filter(|(spec, _)| in_pool(pool(spec))).collect();
    all.sort_by(|(a, _), (b, _)| (pool(a), &a.labels, &a.target_id).cmp(&(pool(b), &b.labels, &b.target_id)));
    let (active, off): (Vec<_>, Vec<_>) = all.into_iter().partition(|(spec, _)| spec.enabled);
    let mut dropped: Vec<(String, Labels)> = off
        .into_iter()
        .map(|(spec, _)| {
            let labels = if spec.discovered_labels.is_empty() { &spec.labels } else { &spec.discovered_labels };
            (pool(&spec).to_owned(), labels.clone())
        })
        .collect();
    dropped.extend((api.dropped)().into_iter().filter(|d| in_pool(&d.0)).map(|(pool, d)| (pool, d.discovered_labels)));
    dropped.sort();
    success(|out| {
        out.extend_from_slice(b"{\"activeTargets\":");
        let shown = active.iter().filter(|_| show_active);
        json::list(out, shown, |out, (spec, status)| write_target(out, spec, status, &api.external_host));
        out.extend_from_slice(b",\"droppedTargets\":");
        json::list(out, dropped.iter().filter(|_| show_dropped), |out, (pool, labels)| {
            out.extend_from_slice(b"{\"discoveredLabels\":");
            json::labels(out, labels);
            out.extend_from_slice(format!(",\"scrapePool\":{}}}", quoted(pool)).as_bytes());
        });
        out.extend_from_slice(b",\"droppedTargetCounts\":");
        match show_dropped {
            true => write_counts(out, &dropped),
            false => out.extend_from_slice(b"null"),
        }
        out.push(b'}');
    })
}

fn write_counts(out: &mut Vec<u8>, dropped: &[(String, Labels)]) {
    let mut counts = BTreeMap::<&str, u64>::new();
    for (pool, _) in dropped {
        *counts.entry(pool).or_default() += 1;
    }
    let members: Vec<_> = counts.iter().map(|(pool, count)| format!("{}:{count}", quoted(pool))).collect();
    out.extend_from_slice(format!("{{{}}}", members.join(",")).as_bytes());
}

fn write_target(out: &mut Vec<u8>, spec: &TargetSpec, status: &TargetStatus, external_host: &str) {
    out.extend_from_slice(b"{\"discoveredLabels\":");
    json::labels(out, &spec.discovered_labels);
    out.extend_from_slice(b",\"labels\":");
    json::labels(out, &spec.labels);
    let error = status.last_error.as_ref().map_or("", |e| e.message.as_str());
    let texts = [
        ("scrapePool", pool(spec)),
        ("scrapeUrl", without_password(spec.url.as_str()).as_str()),
        ("globalUrl", without_password(global_url(&spec.url, external_host).as_str()).as_str()),
        ("lastError", error),
        ("lastScrape", &go_time(status.last_scrape_ms)),
    ]
    .map(|(name, text)| format!(",\"{name}\":{}", quoted(text)));
    out.extend_from_slice(texts.concat().as_bytes());
    out.extend_from_slice(b",\"lastScrapeDuration\":");
    json::float(out, status.scrape_duration_ms as f64 / 1000.0);
    let duration = |ms: u64| format_duration_ms(i64::try_from(ms).unwrap_or(i64::MAX));
    let rest = format!(
        ",\"health\":\"{}\",\"scrapeInterval\":\"{}\",\"scrapeTimeout\":\"{}\"}}",
        state_word(status.health),
        duration(spec.interval_ms),
        duration(spec.timeout_ms)
    );
    out.extend_from_slice(rest.as_bytes());
}

/// Gives the URL as others can use it: our own address, or at least our host, in the place of loopback.
fn global_url(url: &Url, external_host: &str) -> Url {
    let local = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    let mut global = url.clone();
    if local && let Ok(own) = Url::parse(&format!("http://{external_host}/")) {
        // Neither fails: the host comes from a URL of the same kind.
        let _ = global.set_host(own.host_str());
    }
    global
}

/// `/api/v1/scrape_pools`
pub async fn scrape_pools(State(api): State<PromApi>) -> Response {
    let mut pools: BTreeSet<String> = (api.targets)().iter().map(|(spec, _)| pool(spec).to_owned()).collect();
    pools.extend((api.dropped)().into_iter().map(|(pool, _)| pool));
    success(|out| {
        out.extend_from_slice(b"{\"scrapePools\":");
        json::list(out, pools, |out, pool| json::string(out, &pool));
        out.push(b'}');
    })
}

/// Reads a limit; `None` when it is absent or negative.
fn limit_of(params: &Params, name: &str) -> Result<Option<usize>, ApiError> {
    match params.get(name) {
        "" => Ok(None),
        text => parse_int(text)
            .map(|n| usize::try_from(n).ok())
            .map_err(|_| ApiError::bad_data(format!("{name} must be a number"))),
    }
}

/// `/api/v1/metadata`
pub async fn metadata(State(api): State<PromApi>, params: Params) -> Result<Response, ApiError> {
    let limit = limit_of(&params, "limit")?;
    let per_metric = limit_of(&params, "limit_per_metric")?.filter(|n| *n > 0);
    let metric = params.get("metric").to_owned();
    let found = api.queries.look_up(move |select| Ok(select.metadata(Some(metric.as_str()).filter(|m| !m.is_empty()))));
    let mut by_name = BTreeMap::<String, Vec<Family>>::new();
    for family in found.await? {
        let entries = by_name.entry(family.name.clone()).or_default();
        if per_metric.is_none_or(|max| entries.len() < max) {
            entries.push(family);
        }
    }
    Ok(success(|out| {
        out.push(b'{');
        for (i, (name, families)) in by_name.iter().take(limit.unwrap_or(usize::MAX)).enumerate() {
            if i > 0 {
                out.push(b',');
            }
            json::string(out, name);
            out.push(b':');
            json::list(out, families, |out, family| {
                out.push(b'{');
                write_family(out, family);
                out.push(b'}');
            });
        }
        out.push(b'}');
    }))
}

fn write_family(out: &mut Vec<u8>, family: &Family) {
    let kind = family.metric_type.as_str();
    let text = format!("\"type\":\"{kind}\",\"help\":{},\"unit\":{}", quoted(&family.help), quoted(&family.unit));
    out.extend_from_slice(text.as_bytes());
}

/// `/api/v1/targets/metadata`: of each target, the families that its series of the last hour belong to.
pub async fn target_metadata(State(api): State<PromApi>, params: Params) -> Result<Response, ApiError> {
    let limit = limit_of(&params, "limit")?.unwrap_or(usize::MAX);
    let mut matchers = Vec::new();
    if !params.get("match_target").is_empty() {
        matchers = promql::parse_selector(params.get("match_target"))
            .map_err(|e| ApiError::invalid_parameter("match_target", e))?;
    }
    let metric = params.get("metric").to_owned();
    let mut wanted: Vec<(String, Labels)> = (api.targets)()
        .into_iter()
        .filter(|(spec, _)| spec.enabled)
        .map(|(spec, _)| (pool(&spec).to_owned(), spec.labels))
        .filter(|(_, labels)| matchers.iter().all(|m| m.matches(labels.get(m.name()).unwrap_or(""))))
        .collect();
    wanted.sort();
    let now_ms = (api.now)();
    let range = TimeRange { start_ms: now_ms.saturating_sub(METADATA_WINDOW_MS), end_ms: now_ms };
    let with_name = metric.is_empty();
    let found = api.queries.look_up(move |select| {
        let mut found = Vec::new();
        for (_, labels) in wanted {
            if found.len() >= limit {
                break;
            }
            let families = families_of(select, &labels, range)?;
            let named = families.into_iter().filter(|f| metric.is_empty() || f.name == metric);
            found.extend(named.map(|family| (labels.clone(), family)));
        }
        Ok(found)
    });
    let found = found.await?;
    Ok(success(|out| {
        json::list(out, found.iter().take(limit), |out, (labels, family)| {
            out.extend_from_slice(b"{\"target\":");
            json::labels(out, labels);
            if with_name {
                out.extend_from_slice(format!(",\"metric\":{}", quoted(&family.name)).as_bytes());
            }
            out.push(b',');
            write_family(out, family);
            out.push(b'}');
        });
    }))
}

/// Finds the family that a series of a name belongs to.
pub(super) fn family_named(select: &dyn Select, name: &str) -> Option<Family> {
    let stems = SUFFIXES.iter().filter_map(|suffix| name.strip_suffix(suffix));
    std::iter::once(name).chain(stems).find_map(|name| select.metadata(Some(name)).into_iter().next())
}

fn families_of(select: &dyn Select, target: &Labels, range: TimeRange) -> Result<Vec<Family>, ApiError> {
    let matchers: Vec<_> = target.iter().map(|(name, value)| Matcher::equal(name, value)).collect();
    let names = select
        .label_values(LABEL_NAME, &matchers, range)
        .map_err(|e| ApiError::new(ErrorKind::Execution, e.to_string()))?;
    let stems =
        |name: &str| SUFFIXES.iter().filter_map(|s| name.strip_suffix(s)).map(str::to_owned).collect::<Vec<_>>();
    let candidates: BTreeSet<String> =
        names.into_iter().flat_map(|name| stems(&name).into_iter().chain([name])).collect();
    Ok(candidates.iter().filter_map(|name| select.metadata(Some(name)).into_iter().next()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_shown_as_others_reach_it() {
        let known = [
            ("http://localhost:9100/metrics", "http://box:9100/metrics"),
            ("http://127.0.0.1:9090/metrics?a=1", "http://box:9090/metrics?a=1"),
            ("https://[::1]/metrics", "https://box/metrics"),
            ("http://other:9100/metrics", "http://other:9100/metrics"),
        ];
        for (url, expected) in known {
            assert_eq!(global_url(&Url::parse(url).unwrap(), "box:9090").as_str(), expected);
        }
        let odd = Url::parse("http://localhost/").unwrap();
        assert_eq!(global_url(&odd, "no host"), odd);
    }
}
