//! `/federate`: the latest sample of each matching series, for another server to scrape.
//!
//! Text format 0.0.4, or OpenMetrics 1.0 when it is asked for, names escaped as `Accept` wants them. As in Prometheus, a sample is at most the lookback old, series
//! are sorted by name, `instance` stands on every series, and external labels on those that have none of their own. Beyond
//! Prometheus, counters and gauges keep their type where all sources agree on it.
//! Limits: series, by the samples a query may hold.

use std::collections::{BTreeMap, HashMap};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use model::histogram::Histogram;
use model::{
    LABEL_NAME, Labels, Matcher, MetricType, Samples, Select, TimeRange, is_legacy_label_name, is_legacy_metric_name,
    is_stale,
};

use wire::Escaping;

use super::api::PromApi;
use super::error::{ApiError, ErrorKind};
use super::json;
use super::params::Params;

/// How a page is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Style {
    openmetrics: bool,
    /// How names beyond ASCII letters, digits and underscores are written.
    escaping: Escaping,
    /// The reader asked for that.
    named: bool,
}

impl Style {
    fn content_type(self) -> String {
        let media = match (self.openmetrics, self.escaping) {
            (true, _) => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            (false, Escaping::AllowUtf8) => "text/plain; version=1.0.0; charset=utf-8",
            (false, _) => "text/plain; version=0.0.4; charset=utf-8",
        };
        match self.named {
            true => format!("{media}; escaping={}", self.escaping.as_str()),
            false => media.to_owned(),
        }
    }

    fn quotes(self) -> bool {
        self.escaping == Escaping::AllowUtf8
    }
}

/// The latest sample of a series.
#[derive(Clone, PartialEq, Debug)]
enum Latest {
    Float(f64),
    Histogram(std::sync::Arc<Histogram>),
}

struct Found {
    labels: Labels,
    ts_ms: i64,
    value: Latest,
}

/// `GET /federate`
pub async fn federate(State(api): State<PromApi>, headers: HeaderMap, params: Params) -> Response {
    match page(&api, &headers, &params).await {
        Ok(response) => response,
        Err(error) => (error.kind.status(), error.text + "\n").into_response(),
    }
}

async fn page(api: &PromApi, headers: &HeaderMap, params: &Params) -> Result<Response, ApiError> {
    let texts: Vec<&str> = params.all("match[]").collect();
    let sets = promql::parse_selectors(&texts);
    let sets = sets.map_err(|e| ApiError::bad_data(e.to_string()))?;
    if sets.is_empty() {
        return Err(ApiError::bad_data("no match[] parameter provided"));
    }
    let style = style_of(headers);
    let external = external_labels((api.external_labels)());
    let (now_ms, limits) = ((api.now)(), *api.queries.limits());
    let range = TimeRange { start_ms: now_ms.saturating_sub(limits.lookback_ms - 1), end_ms: now_ms };
    let text = api.queries.look_up(move |select| {
        let found = find(select, &sets, range, limits.samples_max)?;
        Ok(write(&found, &types(select, &found), &external, style))
    });
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, style.content_type())], text.await?).into_response())
}

/// Reads `Accept`: the first of the two formats that stands there with the highest weight.
fn style_of(headers: &HeaderMap) -> Style {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let mut best = (0.0, Style::default());
    for part in accept.split(',') {
        let mut fields = part.split(';').map(str::trim);
        let openmetrics = match fields.next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "application/openmetrics-text" => true,
            "text/plain" | "text/*" | "*/*" => false,
            _ => continue,
        };
        let (mut weight, mut escaping) = (1.0, None);
        for field in fields {
            match field.split_once('=') {
                Some(("q", q)) => weight = q.parse().unwrap_or(0.0),
                Some(("escaping", scheme)) => escaping = Escaping::parse(scheme.trim_matches('"')),
                _ => {}
            }
        }
        if weight > best.0 {
            let (named, escaping) = (escaping.is_some(), escaping.unwrap_or_default());
            best = (weight, Style { openmetrics, escaping, named });
        }
    }
    best.1
}

/// Adds an empty `instance`, so that the one who scrapes does not put its own in.
fn external_labels(labels: Vec<(String, String)>) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = labels.into_iter().collect();
    all.entry("instance".to_owned()).or_default();
    all
}

/// Finds the latest sample of each series that one of the sets matches, sorted by metric name and labels.
fn find(select: &dyn Select, sets: &[Vec<Matcher>], range: TimeRange, max: u64) -> Result<Vec<Found>, ApiError> {
    let failed = |error: model::SelectError| ApiError::new(ErrorKind::Internal, error.to_string());
    let mut found: HashMap<Labels, (i64, Latest)> = HashMap::new();
    let mut samples = Samples::default();
    for set in sets {
        for reader in select.select(set, range).map_err(failed)? {
            if found.contains_key(reader.labels()) {
                continue;
            }
            samples.clear();
            reader.read(range, &mut samples).map_err(failed)?;
            if let Some(latest) = latest(&samples) {
                found.insert(reader.labels().clone(), latest);
            }
            if found.len() as u64 > max {
                let text = format!("more than {max} series match; ask for fewer at a time");
                return Err(ApiError::new(ErrorKind::Execution, text));
            }
        }
    }
    let named = found.into_iter().filter(|(labels, _)| !labels.metric_name().is_empty());
    let mut found: Vec<Found> = named.map(|(labels, (ts_ms, value))| Found { labels, ts_ms, value }).collect();
    found.sort_by(|a, b| (a.labels.metric_name(), &a.labels).cmp(&(b.labels.metric_name(), &b.labels)));
    Ok(found)
}

fn latest(samples: &Samples) -> Option<(i64, Latest)> {
    let float = samples.ts_ms.last().zip(samples.values.last());
    let histogram = samples.histograms.last();
    match (float, histogram) {
        (Some((ts_ms, _)), Some((at_ms, histogram))) if at_ms > ts_ms => Some((*at_ms, histogram)),
        (None, Some((at_ms, histogram))) => Some((*at_ms, histogram)),
        (Some((ts_ms, value)), _) => {
            return (!is_stale(*value)).then_some((*ts_ms, Latest::Float(*value)));
        }
        (None, None) => None,
    }
    .filter(|(_, histogram)| !is_stale(histogram.sum))
    .map(|(at_ms, histogram)| (at_ms, Latest::Histogram(std::sync::Arc::clone(histogram))))
}

/// Gives the types of the metrics that are counters or gauges wherever they are known.
fn types(select: &dyn Select, found: &[Found]) -> HashMap<String, MetricType> {
    let mut types = HashMap::new();
    let mut last = "";
    for name in found.iter().map(|f| f.labels.metric_name()) {
        if name == last {
            continue;
        }
        last = name;
        let mut families = select.metadata(Some(name));
        if let Some(stem) = name.strip_suffix("_total") {
            families.extend(select.metadata(Some(stem)).into_iter().filter(|f| f.metric_type == MetricType::Counter));
        }
        let first = families.first().map_or(MetricType::Unknown, |f| f.metric_type);
        let agreed = families.iter().all(|f| f.metric_type == first);
        if agreed && matches!(first, MetricType::Counter | MetricType::Gauge) {
            types.insert(name.to_owned(), first);
        }
    }
    types
}

fn write(
    found: &[Found],
    types: &HashMap<String, MetricType>,
    external: &BTreeMap<String, String>,
    style: Style,
) -> Vec<u8> {
    let mut page = Page { out: Vec::with_capacity(found.len() * 96), style, external };
    let mut open = (String::new(), false);
    for sample in found {
        let name = sample.labels.metric_name();
        let is_histogram = matches!(sample.value, Latest::Histogram(_));
        if open.0 != name || open.1 != is_histogram {
            open = (name.to_owned(), is_histogram);
            page.family(name, is_histogram, types.get(name).copied().unwrap_or_default());
        }
        page.series(sample);
    }
    if style.openmetrics {
        page.out.extend_from_slice(b"# EOF\n");
    }
    page.out
}

struct Page<'a> {
    out: Vec<u8>,
    style: Style,
    external: &'a BTreeMap<String, String>,
}

impl Page<'_> {
    fn text(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn family(&mut self, name: &str, is_histogram: bool, known: MetricType) {
        let total = name.strip_suffix("_total");
        let (name, word) = match (known, self.style.openmetrics) {
            _ if is_histogram => (name, "histogram"),
            // In OpenMetrics a counter's samples end in `_total` and its family does not.
            (MetricType::Counter, true) => total.map_or((name, "unknown"), |stem| (stem, "counter")),
            (MetricType::Unknown, true) => (name, "unknown"),
            (MetricType::Unknown, false) => (name, "untyped"),
            (known, _) => (name, known.as_str()),
        };
        self.text("# TYPE ");
        if is_legacy_metric_name(name) {
            self.text(name);
        } else if self.style.quotes() {
            self.quoted(name);
        } else {
            self.text(&self.style.escaping.name(name));
        }
        self.text(" ");
        self.text(word);
        self.text("\n");
    }

    fn series(&mut self, sample: &Found) {
        match &sample.value {
            Latest::Float(value) => self.line(sample, "", None, *value),
            // The text formats have no buckets of native histograms.
            Latest::Histogram(histogram) => {
                self.line(sample, "_bucket", Some("+Inf"), histogram.count);
                self.line(sample, "_sum", None, histogram.sum);
                self.line(sample, "_count", None, histogram.count);
            }
        }
    }

    fn line(&mut self, sample: &Found, suffix: &str, le: Option<&str>, value: f64) {
        let name = sample.labels.metric_name().to_owned() + suffix;
        let mut first = true;
        if is_legacy_metric_name(&name) {
            self.text(&name);
        } else if self.style.quotes() {
            self.text("{");
            self.quoted(&name);
            first = false;
        } else {
            self.text(&self.style.escaping.name(&name));
        }
        let own = sample.labels.iter().filter(|(n, _)| *n != LABEL_NAME);
        let external = self.external;
        let others = external.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        let others = others.filter(|(n, _)| sample.labels.get(n).is_none());
        for (name, value) in own.chain(others).chain(le.map(|bound| ("le", bound))) {
            self.text(if first { "{" } else { "," });
            first = false;
            self.label(name, value);
        }
        if !first {
            self.text("}");
        }
        self.text(" ");
        self.value(value);
        self.text(" ");
        match self.style.openmetrics {
            true => json::timestamp(&mut self.out, sample.ts_ms),
            false => self.text(&sample.ts_ms.to_string()),
        }
        self.text("\n");
    }

    fn label(&mut self, name: &str, value: &str) {
        if is_legacy_label_name(name) {
            self.text(name);
        } else if self.style.quotes() {
            self.quoted(name);
        } else {
            self.text(&self.style.escaping.name(name).replace(':', "_"));
        }
        self.text("=");
        self.quoted(value);
    }

    fn quoted(&mut self, text: &str) {
        self.out.push(b'"');
        for byte in text.bytes() {
            match byte {
                b'\\' => self.text("\\\\"),
                b'"' => self.text("\\\""),
                b'\n' => self.text("\\n"),
                byte => self.out.push(byte),
            }
        }
        self.out.push(b'"');
    }

    fn value(&mut self, value: f64) {
        let text = wire::format_openmetrics_float(value);
        let text = if value == 0.0 && value.is_sign_negative() { "-0.0" } else { &text };
        match self.style.openmetrics {
            true => self.text(text),
            false => self.text(text.strip_suffix(".0").unwrap_or(text)),
        }
    }
}
