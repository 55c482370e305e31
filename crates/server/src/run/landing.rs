//! The page at `/`: what this is, where to look, how the targets stand.
//!
//! Limits: [`TARGETS_SHOWN_MAX`] rows, those in trouble first.

use std::fmt::Write;

use axum::extract::State;
use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use collect::TargetStatus;
use model::Health;

use super::routes::App;
use crate::memory::shown_bytes;

/// Rows of the table.
const TARGETS_SHOWN_MAX: usize = 500;
/// Characters of an error in it.
const ERROR_CHARS_MAX: usize = 300;
/// No scripts, nothing from elsewhere.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

const HEAD: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Quiver</title>\
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><style>\
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #8884;\
vertical-align:top}td{overflow-wrap:break-word}.long{overflow-wrap:anywhere}.short{white-space:nowrap}code,pre{background:#8882;padding:.1rem .3rem;border-radius:.2rem}\
pre{padding:.6rem;overflow-x:auto}.healthy{color:#2a9d4a}.degraded{color:#c98a00}.unhealthy{color:#d33}\
.unknown,.disabled{color:#888}</style></head><body><h1>Quiver</h1>\
<p>Collects metrics, loses none, answers PromQL. Version ";

const LINKS: &str = "</p><ul>\
<li><a href=\"openapi\">API</a> (<a href=\"openapi.json\">OpenAPI</a>)</li>\
<li><a href=\"api/v1/metrics/targets\">Targets</a>, <a href=\"api/v1/metrics/stats\">statistics</a>, \
<a href=\"api/v1/query?query=up\"><code>up</code></a></li>\
<li><a href=\"metrics\">Metrics of Quiver itself</a></li>\
<li><a href=\"api/v1/status/config\">Configuration</a>, <a href=\"api/v1/status/tsdb\">store</a></li>\
</ul><p>In Grafana: a Prometheus data source with this page's address.</p>";

const NO_TARGETS: &str = "<p>None yet. Add one:</p><pre>quiver targets add http://localhost:9100/metrics</pre>";

/// `/`
pub async fn page(State(app): State<App>) -> Response {
    let mut rows: Vec<(TargetStatus, String)> = app
        .collector
        .statuses()
        .into_iter()
        .map(|status| {
            let url = app.collector.spec(&status.target_id).map(|spec| spec.url.to_string()).unwrap_or_default();
            (status, url)
        })
        .collect();
    rows.sort_by(|a, b| (rank(a.0.health), &a.0.target_id).cmp(&(rank(b.0.health), &b.0.target_id)));
    let html = render(&rows, &memory_line(&app));
    ([(header::CONTENT_SECURITY_POLICY, POLICY)], Html(html)).into_response()
}

/// Says how much room there is, and for whom there was none.
fn memory_line(app: &App) -> String {
    let (room, plan) = (app.store.admission(), app.memory.plan());
    let mut line = format!(
        "<p>{} series take {} of {}",
        room.series,
        shown_bytes(room.bytes),
        shown_bytes(room.limits.series_bytes_max.min(plan.total))
    );
    if room.refused_total() > 0 {
        // A String takes every write.
        let _ =
            write!(line, "; new ones were refused {} times, see the rejections of the targets", room.refused_total());
    }
    line.push_str(". <a href=\"api/v1/status/tsdb?limit=50\">By metric, label, target and source</a>.</p>");
    line
}

/// Trouble comes first.
fn rank(health: Health) -> u8 {
    match health {
        Health::Unhealthy => 0,
        Health::Degraded => 1,
        Health::Unknown => 2,
        Health::Healthy => 3,
        Health::Disabled => 4,
    }
}

fn render(rows: &[(TargetStatus, String)], memory: &str) -> String {
    let mut html = format!("{HEAD}{}{LINKS}{memory}<h2>Targets</h2>", env!("CARGO_PKG_VERSION"));
    if rows.is_empty() {
        html.push_str(NO_TARGETS);
    } else {
        let healthy = rows.iter().filter(|(s, _)| s.health == Health::Healthy).count();
        // A String takes every write.
        let _ = write!(html, "<p>{healthy} of {} healthy.</p>", rows.len());
        html.push_str(
            "<table><tr><th>Target</th><th>URL</th><th>Health</th><th>Samples</th><th>Took</th><th>Error</th></tr>",
        );
        rows.iter().take(TARGETS_SHOWN_MAX).for_each(|(status, url)| row(&mut html, status, url));
        html.push_str("</table>");
        if rows.len() > TARGETS_SHOWN_MAX {
            let _ = write!(html, "<p>... and {} more.</p>", rows.len() - TARGETS_SHOWN_MAX);
        }
    }
    html.push_str("</body></html>\n");
    html
}

fn row(html: &mut String, status: &TargetStatus, url: &str) {
    let error: String = status.last_error.as_ref().map(|e| e.to_string()).unwrap_or_default();
    let error: String = error.chars().take(ERROR_CHARS_MAX).collect();
    let health = status.health.as_str();
    let _ = write!(
        html,
        "<tr><td>{}</td><td class=\"long\">{}</td><td class=\"short {health}\">{health}</td><td>{}</td>\
         <td class=\"short\">{} ms</td><td class=\"long\">{}</td></tr>",
        escape(&status.target_id),
        escape(url),
        status.samples_scraped,
        status.scrape_duration_ms,
        escape(&error)
    );
}

/// What targets and people wrote must stay text.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_target_becomes_markup() {
        assert_eq!(escape("<b a=\"x\" c='y'>&"), "&lt;b a=&quot;x&quot; c=&#39;y&#39;&gt;&amp;");
        assert!(render(&[], "").contains("quiver targets add"));
    }
}
