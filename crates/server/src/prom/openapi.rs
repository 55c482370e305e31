//! The Prometheus paths in the OpenAPI document: what each takes. Their answers are Prometheus', and described there.

use serde_json::{Map, Value, json};

/// Path, methods, what it gives, and its parameters; those with a `!` must be there.
type Row = (&'static str, &'static [&'static str], &'static str, &'static [&'static str]);

const GET: &[&str] = &["get"];
/// With POST the parameters come as a form.
const ASK: &[&str] = &["get", "post"];
const LOOK_UP: &[&str] = &["match[]", "start", "end", "limit"];
const SEARCH: &[&str] = &[
    "search[]",
    "fuzz_alg",
    "fuzz_threshold",
    "case_sensitive",
    "sort_by",
    "sort_dir",
    "include_score",
    "search_limit",
    "batch_size",
    "match[]",
    "start",
    "end",
];
const SEARCH_METRICS: &[&str] = &[
    "search[]",
    "fuzz_alg",
    "fuzz_threshold",
    "case_sensitive",
    "sort_by",
    "sort_dir",
    "include_score",
    "include_metadata",
    "search_limit",
    "batch_size",
    "match[]",
    "start",
    "end",
];
const SEARCH_VALUES: &[&str] = &[
    "label!",
    "search[]",
    "fuzz_alg",
    "fuzz_threshold",
    "case_sensitive",
    "sort_by",
    "sort_dir",
    "include_score",
    "search_limit",
    "batch_size",
    "match[]",
    "start",
    "end",
];

const ROWS: &[Row] = &[
    (
        "query",
        ASK,
        "The value of an expression at a time",
        &["query!", "time", "timeout", "limit", "lookback_delta", "stats"],
    ),
    (
        "query_range",
        ASK,
        "The values of an expression over a range of time",
        &["query!", "start!", "end!", "step!", "timeout", "limit", "lookback_delta", "stats"],
    ),
    ("query_exemplars", ASK, "The exemplars of the series of an expression", &["query!", "start", "end"]),
    ("format_query", ASK, "An expression, laid out", &["query!"]),
    ("parse_query", ASK, "The tree of an expression", &["query!"]),
    ("series", ASK, "Label sets of series", &["match[]!", "start", "end", "limit"]),
    ("labels", ASK, "Names of labels", LOOK_UP),
    ("label/{name}/values", GET, "Values of a label", &["name/", "match[]", "start", "end", "limit"]),
    ("search/metric_names", ASK, "Names of metrics that fit what is typed, as lines of JSON", SEARCH_METRICS),
    ("search/label_names", ASK, "Names of labels that fit what is typed, as lines of JSON", SEARCH),
    ("search/label_values", ASK, "Values of a label that fit what is typed, as lines of JSON", SEARCH_VALUES),
    ("metadata", GET, "Types, help and units by metric", &["metric", "metadata_limit", "limit_per_metric"]),
    ("targets", GET, "Targets and how their last scrape went", &["state", "scrapePool"]),
    ("targets/metadata", GET, "Types, help and units by target", &["match_target", "metric", "metadata_limit"]),
    ("targets/relabel_steps", GET, "What each rule of a pool makes of a label set", &["pool!", "relabeled!"]),
    ("scrape_pools", GET, "Names of scrape pools", &[]),
    (
        "rules",
        GET,
        "Groups of rules, and their alerts",
        &["type", "rule_name[]", "rule_group[]", "file[]", "match[]", "exclude_alerts", "group_limit"],
    ),
    ("alerts", GET, "Alerts that are pending or firing", &[]),
    ("alertmanagers", GET, "Where alerts are sent", &[]),
    ("notifications", GET, "What people should know of the server", &[]),
    ("features", GET, "What this server can do", &[]),
    ("status/config", GET, "The configuration in force", &[]),
    ("status/flags", GET, "The command line's flags", &[]),
    ("status/runtimeinfo", GET, "The state of the process", &[]),
    ("status/buildinfo", GET, "Versions", &[]),
    ("status/tsdb", GET, "Counts of series, labels and values", &["tsdb_limit"]),
    ("status/tsdb/blocks", GET, "Blocks on disk", &[]),
    ("status/walreplay", GET, "How far the replay of the log is at a start", &[]),
];

/// Gives the name on the wire, the schema and what it means.
fn parameter(key: &str) -> (&str, Value, &'static str) {
    let text = json!({"type": "string"});
    let time = json!({"type": "string", "format": "time-or-seconds"});
    let duration = json!({"type": "string", "format": "prometheus-duration"});
    let flag = json!({"enum": ["true", "false", "1", "0"]});
    let count = json!({"type": "integer", "minimum": 0, "maximum": i64::MAX});
    let texts = |format: &str| json!({"type": "array", "items": {"type": "string", "format": format}});
    match key {
        "query" => (key, json!({"type": "string", "format": "promql", "minLength": 1}), "PromQL"),
        "time" => (key, time, "When to evaluate; now when absent"),
        "start" | "end" => (key, time, "Bound of the range: RFC 3339 or Unix seconds"),
        "step" => {
            (key, json!({"type": "string", "format": "step"}), "From one value to the next: a duration or seconds")
        }
        "timeout" => (key, duration, "Longest time to compute"),
        "lookback_delta" => (key, duration, "How far back a sample counts as current"),
        "stats" => (key, text, "all adds what it cost"),
        "limit" => (key, count, "Most entries of the answer; 0 for all"),
        "match[]" => (key, texts("promql-selector"), "Selectors of series; may be repeated"),
        "name" | "label" => (key, json!({"type": "string", "minLength": 1}), "Name of the label"),
        "search[]" => {
            let schema = json!({"type": "array", "maxItems": 32, "items": {"type": "string", "maxLength": 256}});
            (key, schema, "What is typed; one that fits is enough")
        }
        "fuzz_alg" => (key, json!({"enum": ["subsequence", "jarowinkler"]}), "How likeness is measured"),
        "fuzz_threshold" => {
            (key, json!({"type": "integer", "minimum": 0, "maximum": 100}), "How alike at least, in percent")
        }
        "case_sensitive" => (key, flag, "Whether capitals matter; true when absent"),
        "include_score" | "include_metadata" => (key, flag, "Adds it to each result"),
        "sort_by" => (key, json!({"enum": ["alpha", "score"]}), "score needs search[]"),
        "sort_dir" => (key, json!({"enum": ["asc", "dsc"]}), "With sort_by=alpha"),
        "search_limit" => {
            ("limit", json!({"type": "integer", "minimum": 0, "maximum": 10_000}), "Most results; 100 when absent")
        }
        "batch_size" => (key, count, "Results of one line; 100 when absent"),
        "metric" => (key, text, "Only this metric"),
        "metadata_limit" => ("limit", json!({"type": "integer", "maximum": i64::MAX}), "Most metrics"),
        "limit_per_metric" => (key, json!({"type": "integer", "maximum": i64::MAX}), "Most entries of a metric"),
        "state" => (key, text, "active, dropped or any"),
        "scrapePool" => (key, text, "Only targets of this pool"),
        "pool" => {
            ("scrapePool", json!({"type": "string", "format": "scrape-pool", "minLength": 1}), "Name of the pool")
        }
        "relabeled" => {
            ("labels", json!({"type": "string", "format": "json-labels", "minLength": 1}), "A JSON object of labels")
        }
        "match_target" => {
            (key, json!({"type": "string", "format": "promql-selector"}), "Which targets, by their labels")
        }
        "type" => (key, json!({"enum": ["alert", "record"]}), "Only these rules"),
        "exclude_alerts" => (key, flag, "Leaves alerts out"),
        "group_limit" => (key, count, "Most groups of a page"),
        "tsdb_limit" => {
            ("limit", json!({"type": "integer", "minimum": 1, "maximum": i64::MAX}), "Entries of each list")
        }
        // `rule_name[]` and its siblings.
        _ => (key, json!({"type": "array", "items": {"type": "string"}}), "Only these; may be repeated"),
    }
}

/// Gives the paths.
pub fn paths() -> Map<String, Value> {
    let mut paths = Map::new();
    for (path, methods, summary, parameters) in ROWS {
        let item: Map<String, Value> =
            methods.iter().map(|method| ((*method).to_owned(), operation(path, method, summary, parameters))).collect();
        paths.insert(format!("/api/v1/{path}"), Value::Object(item));
    }
    paths
}

/// Gives the shapes that the paths share.
pub fn schemas() -> Value {
    json!({
        "PrometheusAnswer": {
            "type": "object",
            "required": ["status", "data"],
            "properties": {
                "status": {"const": "success"},
                "data": {},
                "warnings": {"type": "array", "items": {"type": "string"}},
                "infos": {"type": "array", "items": {"type": "string"}},
            },
        },
        "PrometheusError": {
            "type": "object",
            "required": ["status", "errorType", "error"],
            "properties": {
                "status": {"const": "error"},
                "errorType": {"type": "string"},
                "error": {"type": "string"},
            },
        },
    })
}

fn operation(path: &str, method: &str, summary: &str, keys: &[&str]) -> Value {
    let mut fields = Map::new();
    let (mut parameters, mut needed) = (Vec::new(), Vec::new());
    for key in keys {
        let bare = key.trim_end_matches(['!', '/']);
        let (name, schema, about) = parameter(bare);
        let (in_path, must) = (key.ends_with('/'), key.ends_with('!'));
        if method == "get" || in_path {
            let place = if in_path { "path" } else { "query" };
            parameters.push(json!({
                "name": name, "in": place, "required": must || in_path, "description": about, "schema": schema,
            }));
            continue;
        }
        if must {
            needed.push(name);
        }
        fields.insert(name.to_owned(), in_a_form(schema, must));
    }
    let mut operation = json!({
        "tags": ["prometheus"],
        "operationId": format!("{method}_{}", path.replace(['/', '{', '}'], "_")),
        "summary": summary,
        "parameters": parameters,
        "responses": responses(path),
    });
    if method == "post" {
        let schema = json!({"type": "object", "required": needed, "properties": fields});
        operation["requestBody"] = json!({
            "required": !needed.is_empty(), "content": {"application/x-www-form-urlencoded": {"schema": schema}},
        });
    }
    operation
}

/// In a form a list of one is the one, and an empty field is as if it were not there.
fn in_a_form(mut schema: Value, must: bool) -> Value {
    if schema["type"] == "array" {
        schema["type"] = json!(["array", "string"]);
        if let Some(format) = schema["items"].get("format").cloned() {
            schema["format"] = format;
        }
    }
    if must { schema } else { json!({"anyOf": [schema, {"const": ""}]}) }
}

fn responses(path: &str) -> Value {
    let error = json!({"application/json": {"schema": {"$ref": "#/components/schemas/PrometheusError"}}});
    let mut responses = Map::new();
    let success = match path.starts_with("search/") {
        true => json!({"application/x-ndjson": {"schema": {"type": "string"}}}),
        false => json!({"application/json": {"schema": {"$ref": "#/components/schemas/PrometheusAnswer"}}}),
    };
    responses.insert("200".to_owned(), json!({"description": "As in Prometheus", "content": success}));
    if path == "query_exemplars" {
        responses.insert("204".to_owned(), json!({"description": "The expression names no series"}));
    }
    for (status, about) in [
        ("400", "A parameter or the expression is wrong"),
        ("401", "Nobody knows who asks"),
        ("403", "Who asks may not"),
        ("413", "The form is too large"),
        ("422", "The expression cannot be evaluated"),
        ("429", "Too many requests"),
        ("503", "It took too long, or the server starts or stops"),
    ] {
        responses.insert(status.to_owned(), json!({"description": about, "content": error}));
    }
    Value::Object(responses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::table::row_of;

    #[test]
    fn every_path_is_a_route_with_these_methods() {
        for (path, methods, _, _) in ROWS {
            let row = row_of(&format!("/api/v1/{path}")).unwrap_or_else(|| panic!("{path} is no route"));
            for method in *methods {
                let known = row.needs.iter().any(|(name, _)| name.eq_ignore_ascii_case(method));
                assert!(known, "{path} does not answer {method}");
            }
        }
    }

    #[test]
    fn what_must_be_there_is_said_in_either_way() {
        let paths = paths();
        let get = &paths["/api/v1/query_range"]["get"]["parameters"];
        let must: Vec<&Value> = get.as_array().unwrap().iter().filter(|p| p["required"] == true).collect();
        assert_eq!(must.len(), 4);
        let post = &paths["/api/v1/query_range"]["post"]["requestBody"]["content"]["application/x-www-form-urlencoded"];
        assert_eq!(post["schema"]["required"], json!(["query", "start", "end", "step"]));
        assert_eq!(paths["/api/v1/label/{name}/values"]["get"]["parameters"][0]["in"], "path");
    }
}
