//! What a statement needs of the samples: names and times that follow from its conditions, and PromQL to evaluate before.
//!
//! Invariant: what is derived only narrows what rows could not pass the statement's own WHERE; where nothing follows, all
//! is needed.

use duckdb::Connection;
use serde::Serialize;
use serde_json::{Value, json};

use crate::statement::{PROMQL_MAX, Refused, SAMPLE_VIEWS, Statement};

/// An upper bound that depends on the present moves on while the query is prepared.
const PRESENT_SLACK_MS: i64 = 60_000;
/// Functions whose value is known beforehand.
const CONSTANT_FUNCTIONS: [&str; 17] = [
    "now",
    "get_current_timestamp",
    "current_timestamp",
    "transaction_timestamp",
    "today",
    "current_date",
    "+",
    "-",
    "*",
    "to_timestamp",
    "make_timestamp",
    "make_timestamptz",
    "epoch_ms",
    "date_trunc",
    "to_hours",
    "to_minutes",
    "to_seconds",
];
const PRESENT_FUNCTIONS: [&str; 6] =
    ["now", "get_current_timestamp", "current_timestamp", "transaction_timestamp", "today", "current_date"];
const NAMES_MAX: usize = 1_000;

/// What the server is asked for.
#[derive(Serialize, Debug, PartialEq)]
pub struct Needs {
    /// The views that are named.
    pub views: Vec<String>,
    /// Which samples `metrics_ts` needs.
    pub metrics: Option<Samples>,
    /// PromQL to evaluate, in the order of the tables that are to come.
    pub promql: Vec<Call>,
}

/// Samples of a time and of names.
#[derive(Serialize, Debug, PartialEq, Clone)]
pub struct Samples {
    /// First millisecond; none for the beginning.
    pub start_ms: Option<i64>,
    /// Last millisecond; none for the end.
    pub end_ms: Option<i64>,
    /// Metrics; none for all.
    pub names: Option<Vec<String>>,
}

/// `promql('...', start, end, step)`
#[derive(Serialize, Debug, PartialEq, Default)]
pub struct Call {
    /// The expression.
    pub query: String,
    /// Start, or the time of an instant; none is now.
    pub start_ms: Option<i64>,
    /// End; none for an instant.
    pub end_ms: Option<i64>,
    /// The step as PromQL writes durations.
    pub step: Option<String>,
}

impl Needs {
    /// Derives them, and puts the names of tables to come in the place of calls of `promql`.
    pub fn of(statement: &mut Statement, connection: &Connection) -> Result<Needs, Refused> {
        let constants = Constants(connection);
        let mut bounds = Bounds { constants: &constants, found: Vec::new() };
        bounds.visit(&statement.tree);
        let metrics = (statement.metrics_refs > 0).then(|| bounds.joined(statement.metrics_refs));
        let mut promql = Vec::new();
        take_calls(&mut statement.tree, &constants, &mut promql)?;
        Ok(Needs { views: statement.views.iter().cloned().collect(), metrics, promql })
    }
}

/// Evaluates expressions that depend on no row.
struct Constants<'a>(&'a Connection);

impl Constants<'_> {
    fn is_constant(value: &Value) -> bool {
        match value["class"].as_str() {
            Some("CONSTANT") => true,
            Some("CAST") => Self::is_constant(&value["child"]),
            Some("FUNCTION") => {
                let name = value["function_name"].as_str().unwrap_or_default();
                CONSTANT_FUNCTIONS.contains(&name)
                    && value["children"].as_array().is_some_and(|all| all.iter().all(Self::is_constant))
            }
            _ => false,
        }
    }

    fn is_of_the_present(value: &Value) -> bool {
        match value {
            Value::Array(items) => items.iter().any(Self::is_of_the_present),
            Value::Object(fields) => {
                fields.get("function_name").and_then(Value::as_str).is_some_and(|f| PRESENT_FUNCTIONS.contains(&f))
                    || fields.values().any(Self::is_of_the_present)
            }
            _ => false,
        }
    }

    /// Gives the expression as text.
    fn text(&self, expression: &Value) -> Option<String> {
        let node = json!({"type": "SELECT_NODE", "modifiers": [], "cte_map": {"map": []}, "select_list": [expression],
            "from_table": {"type": "EMPTY", "alias": "", "sample": null, "query_location": 0}, "where_clause": null,
            "group_expressions": [], "group_sets": [], "aggregate_handling": "STANDARD_HANDLING", "having": null,
            "sample": null, "qualify": null});
        let document = json!({"error": false, "statements": [{"node": node, "named_param_map": []}]});
        deserialize(self.0, &document).ok()
    }

    fn time_ms(&self, expression: &Value) -> Option<i64> {
        let text = Self::is_constant(expression).then(|| self.text(expression)).flatten()?;
        let sql = format!("SELECT epoch_ms(CAST(({text}) AS TIMESTAMP WITH TIME ZONE))");
        self.0.query_row(&sql, [], |row| row.get::<_, Option<i64>>(0)).ok().flatten()
    }

    fn interval_ms(&self, expression: &Value) -> Option<i64> {
        let text = Self::is_constant(expression).then(|| self.text(expression)).flatten()?;
        let sql = format!("SELECT CAST(epoch(CAST(({text}) AS INTERVAL)) * 1000 AS BIGINT)");
        self.0.query_row(&sql, [], |row| row.get::<_, Option<i64>>(0)).ok().flatten()
    }
}

/// Turns a tree back into text.
pub fn deserialize(connection: &Connection, document: &Value) -> Result<String, duckdb::Error> {
    connection.query_row("SELECT json_deserialize_sql(CAST(? AS JSON))", [document.to_string()], |row| row.get(0))
}

struct Bounds<'a> {
    constants: &'a Constants<'a>,
    found: Vec<Samples>,
}

impl Bounds<'_> {
    fn visit(&mut self, value: &Value) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.visit(item)),
            Value::Object(fields) => {
                if value["type"] == "SELECT_NODE" {
                    self.select(value);
                }
                fields.values().for_each(|field| self.visit(field));
            }
            _ => {}
        }
    }

    fn select(&mut self, node: &Value) {
        let mut aliases = Vec::new();
        collect_metrics(&node["from_table"], &mut aliases);
        for alias in aliases {
            let mut samples = Samples { start_ms: None, end_ms: None, names: None };
            self.narrow(&node["where_clause"], &alias, &mut samples);
            self.found.push(samples);
        }
    }

    /// Reads the conditions that all have to hold.
    fn narrow(&self, condition: &Value, alias: &str, out: &mut Samples) {
        match condition["type"].as_str().unwrap_or_default() {
            "CONJUNCTION_AND" => {
                for child in condition["children"].as_array().into_iter().flatten() {
                    self.narrow(child, alias, out);
                }
            }
            "COMPARE_BETWEEN" if is_column(&condition["input"], alias, "timestamp") => {
                self.at_least(&condition["lower"], out);
                self.at_most(&condition["upper"], out);
            }
            "COMPARE_IN" => {
                let Some((column, values)) = condition["children"].as_array().and_then(|c| c.split_first()) else {
                    return;
                };
                if is_column(column, alias, "metric_name") {
                    let texts: Option<Vec<String>> = values.iter().map(text_of).collect();
                    keep_names(texts.filter(|t| t.len() <= NAMES_MAX), out);
                }
            }
            kind => {
                let (left, right) = (&condition["left"], &condition["right"]);
                let (kind, value) = if is_column(left, alias, "timestamp") || is_column(left, alias, "metric_name") {
                    (kind, right)
                } else {
                    (turned(kind), left)
                };
                let column = if std::ptr::eq(value, right) { left } else { right };
                match kind {
                    "COMPARE_EQUAL" if is_column(column, alias, "metric_name") => {
                        keep_names(text_of(value).map(|name| vec![name]), out);
                    }
                    _ if !is_column(column, alias, "timestamp") => {}
                    "COMPARE_GREATERTHANOREQUALTO" | "COMPARE_GREATERTHAN" => self.at_least(value, out),
                    "COMPARE_LESSTHANOREQUALTO" | "COMPARE_LESSTHAN" => self.at_most(value, out),
                    "COMPARE_EQUAL" => {
                        self.at_least(value, out);
                        self.at_most(value, out);
                    }
                    _ => {}
                }
            }
        }
    }

    fn at_least(&self, value: &Value, out: &mut Samples) {
        if let Some(ms) = self.constants.time_ms(value) {
            out.start_ms = Some(out.start_ms.map_or(ms, |there| there.max(ms)));
        }
    }

    fn at_most(&self, value: &Value, out: &mut Samples) {
        if let Some(ms) = self.constants.time_ms(value) {
            let slack = if Constants::is_of_the_present(value) { PRESENT_SLACK_MS } else { 0 };
            let ms = ms.saturating_add(slack);
            out.end_ms = Some(out.end_ms.map_or(ms, |there| there.min(ms)));
        }
    }

    /// Joins what all places need; when one was not seen, everything.
    fn joined(self, refs: usize) -> Samples {
        let all = Samples { start_ms: None, end_ms: None, names: None };
        if self.found.len() != refs {
            return all;
        }
        let join = |a: Samples, b: Samples| Samples {
            start_ms: a.start_ms.zip(b.start_ms).map(|(a, b)| a.min(b)),
            end_ms: a.end_ms.zip(b.end_ms).map(|(a, b)| a.max(b)),
            names: a.names.zip(b.names).map(|(mut a, b)| {
                a.extend(b);
                a.sort();
                a.dedup();
                a
            }),
        };
        self.found.into_iter().reduce(join).unwrap_or(all)
    }
}

fn keep_names(names: Option<Vec<String>>, out: &mut Samples) {
    if let Some(names) = names {
        out.names = Some(match out.names.take() {
            Some(there) => there.into_iter().filter(|name| names.contains(name)).collect(),
            None => names,
        });
    }
}

/// Gives the comparison with its sides changed.
fn turned(kind: &str) -> &str {
    match kind {
        "COMPARE_GREATERTHANOREQUALTO" => "COMPARE_LESSTHANOREQUALTO",
        "COMPARE_GREATERTHAN" => "COMPARE_LESSTHAN",
        "COMPARE_LESSTHANOREQUALTO" => "COMPARE_GREATERTHANOREQUALTO",
        "COMPARE_LESSTHAN" => "COMPARE_GREATERTHAN",
        other => other,
    }
}

/// Finds views of samples among the tables of a FROM; gives the names it has there.
fn collect_metrics(table: &Value, out: &mut Vec<String>) {
    match table["type"].as_str() {
        Some("JOIN") => {
            collect_metrics(&table["left"], out);
            collect_metrics(&table["right"], out);
        }
        Some("BASE_TABLE") => {
            let name = table["table_name"].as_str().unwrap_or_default().to_lowercase();
            let alias = table["alias"].as_str().unwrap_or_default().to_lowercase();
            // Columns with other names: nothing is derived from them.
            let renamed = table["column_name_alias"].as_array().is_some_and(|names| !names.is_empty());
            if SAMPLE_VIEWS.contains(&&*name) {
                out.push(if renamed {
                    "\0".to_owned()
                } else if alias.is_empty() {
                    name
                } else {
                    alias
                });
            }
        }
        _ => {}
    }
}

fn is_column(value: &Value, alias: &str, column: &str) -> bool {
    let Some(names) = value["column_names"].as_array() else { return false };
    let same = |value: &Value, name: &str| value.as_str().is_some_and(|v| v.to_lowercase() == name);
    match &names[..] {
        [only] => alias != "\0" && same(only, column),
        [table, only] => same(table, alias) && same(only, column),
        _ => false,
    }
}

/// Gives a text that stands there literally.
fn text_of(value: &Value) -> Option<String> {
    let constant = value["class"] == "CONSTANT" && value["value"]["type"]["id"] == "VARCHAR";
    constant.then(|| value["value"]["value"].as_str().map(str::to_owned)).flatten()
}

/// Gives a whole number that stands there literally.
fn number_of(value: &Value) -> Option<i64> {
    (value["class"] == "CONSTANT").then(|| value["value"]["value"].as_i64()).flatten()
}

/// Takes the calls of `promql` out of a tree; the tables that come in their place are named by their order.
fn take_calls(tree: &mut Value, constants: &Constants, out: &mut Vec<Call>) -> Result<(), Refused> {
    match tree {
        Value::Array(items) => items.iter_mut().try_for_each(|item| take_calls(item, constants, out)),
        Value::Object(fields) => {
            if fields.get("type").and_then(Value::as_str) == Some("TABLE_FUNCTION")
                && let Some(function) = fields.get_mut("function")
                && function["function_name"].as_str().is_some_and(|name| name.eq_ignore_ascii_case("promql"))
            {
                if out.len() >= PROMQL_MAX {
                    return Err(Refused::Policy(format!("promql can be called {PROMQL_MAX} times")));
                }
                out.push(call(&function["children"], constants)?);
                function["function_name"] = Value::from(table_of_call(out.len() - 1));
                function["children"] = json!([]);
                return Ok(());
            }
            fields.values_mut().try_for_each(|field| take_calls(field, constants, out))
        }
        _ => Ok(()),
    }
}

/// Gives the name of the table that comes in the place of a call.
pub fn table_of_call(n: usize) -> String {
    format!("promql_result_{n}")
}

fn call(arguments: &Value, constants: &Constants) -> Result<Call, Refused> {
    let wrong = |what: &str| {
        let text = format!(
            "promql('expression', start, end, step): {what}; arguments are literals or times that depend on no row, \
             such as promql('up', now() - INTERVAL '1 hour', now(), '15s')"
        );
        Refused::Policy(text)
    };
    let mut found = Call::default();
    for (place, argument) in arguments.as_array().into_iter().flatten().enumerate() {
        let alias = argument["alias"].as_str().unwrap_or_default().to_lowercase();
        let name = match (&*alias, place) {
            ("", 0) => "query",
            ("", 1) => "start",
            ("", 2) => "end",
            ("", 3) => "step",
            (named, _) => named,
        };
        let time = || number_of(argument).map(|s| s.saturating_mul(1_000)).or_else(|| constants.time_ms(argument));
        match name {
            "query" => found.query = text_of(argument).ok_or_else(|| wrong("the expression is no literal text"))?,
            "start" => found.start_ms = Some(time().ok_or_else(|| wrong("start is no time"))?),
            "end" => found.end_ms = Some(time().ok_or_else(|| wrong("end is no time"))?),
            "step" => {
                let ms = || constants.interval_ms(argument).map(|ms| format!("{ms}ms"));
                let seconds = || number_of(argument).map(|s| format!("{s}s"));
                found.step =
                    Some(text_of(argument).or_else(seconds).or_else(ms).ok_or_else(|| wrong("step is no duration"))?);
            }
            _ => return Err(wrong("there are four arguments")),
        }
    }
    if found.query.is_empty() {
        return Err(wrong("the expression is missing"));
    }
    if found.end_ms.is_some() != found.step.is_some() || (found.end_ms.is_some() && found.start_ms.is_none()) {
        return Err(wrong("a range has start, end and step, an instant at most start"));
    }
    Ok(found)
}
