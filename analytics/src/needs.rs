//! What a statement needs of the samples: names and times that follow from its conditions, and PromQL to evaluate before.
//!
//! Invariant: what is derived only narrows what rows could not pass the statement's own WHERE; where nothing follows, all
//! is needed.

use duckdb::Connection;
use serde::Serialize;
use serde_json::{Value, json};

use crate::statement::{PROMQL_MAX, Refused, SAMPLE_VIEWS, Statement};

/// Functions whose value is known beforehand; those of the present tell the time at which the transaction began, in which
/// the statement is planned and run.
const CONSTANT_FUNCTIONS: [&str; 32] = [
    "now",
    "get_current_timestamp",
    "current_timestamp",
    "transaction_timestamp",
    "today",
    "current_date",
    "+",
    "-",
    "*",
    "/",
    "to_timestamp",
    "make_date",
    "make_timestamp",
    "make_timestamptz",
    "epoch_ms",
    "date_trunc",
    "datetrunc",
    "trunc",
    "round",
    "floor",
    "to_years",
    "to_quarters",
    "to_months",
    "to_weeks",
    "to_days",
    "to_hours",
    "to_minutes",
    "to_seconds",
    "to_milliseconds",
    "to_microseconds",
    "strptime",
    "timezone",
];
/// Words for the present, which read like columns and are some where a statement gives a column such a name.
const PRESENT_WORDS: [&str; 2] = ["current_date", "current_timestamp"];
const NAMES_MAX: usize = 1_000;
/// What DuckDB calls the types of numbers; a DECIMAL has its places behind it.
const NUMBERS: [&str; 13] = [
    "TINYINT",
    "SMALLINT",
    "INTEGER",
    "BIGINT",
    "HUGEINT",
    "UTINYINT",
    "USMALLINT",
    "UINTEGER",
    "UBIGINT",
    "UHUGEINT",
    "FLOAT",
    "DOUBLE",
    "DECIMAL",
];

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
        let words = PRESENT_WORDS.into_iter().filter(|word| !gives_name(&statement.tree, word)).collect();
        let constants = Constants { connection, words };
        let mut bounds = Bounds { constants: &constants, found: Vec::new() };
        bounds.visit(&statement.tree);
        let metrics = (statement.metrics_refs > 0).then(|| bounds.joined(statement.metrics_refs));
        let mut promql = Vec::new();
        take_calls(&mut statement.tree, &constants, &mut promql)?;
        Ok(Needs { views: statement.views.iter().cloned().collect(), metrics, promql })
    }
}

/// Evaluates expressions that depend on no row.
struct Constants<'a> {
    connection: &'a Connection,
    words: Vec<&'static str>,
}

/// Tells whether a word stands anywhere but where a column is read.
fn gives_name(value: &Value, word: &str) -> bool {
    match value {
        Value::String(text) => text.to_lowercase().contains(word),
        Value::Array(items) => items.iter().any(|item| gives_name(item, word)),
        Value::Object(fields) => fields.iter().any(|(key, field)| key != "column_names" && gives_name(field, word)),
        _ => false,
    }
}

impl Constants<'_> {
    fn is_constant(&self, value: &Value) -> bool {
        match value["class"].as_str() {
            Some("CONSTANT") => true,
            Some("CAST") => self.is_constant(&value["child"]),
            Some("COLUMN_REF") => match value["column_names"].as_array().map(Vec::as_slice) {
                Some([Value::String(name)]) => self.words.contains(&&*name.to_lowercase()),
                _ => false,
            },
            Some("FUNCTION") => {
                let name = value["function_name"].as_str().unwrap_or_default();
                CONSTANT_FUNCTIONS.contains(&name)
                    && value["children"].as_array().is_some_and(|all| all.iter().all(|v| self.is_constant(v)))
            }
            _ => false,
        }
    }

    /// Gives the expression as text.
    fn text(&self, expression: &Value) -> Option<String> {
        let mut expression = expression.clone();
        // The name of an argument.
        expression["alias"] = Value::from("");
        let node = json!({"type": "SELECT_NODE", "modifiers": [], "cte_map": {"map": []}, "select_list": [expression],
            "from_table": {"type": "EMPTY", "alias": "", "sample": null, "query_location": 0}, "where_clause": null,
            "group_expressions": [], "group_sets": [], "aggregate_handling": "STANDARD_HANDLING", "having": null,
            "sample": null, "qualify": null});
        let document = json!({"error": false, "statements": [{"node": node, "named_param_map": []}]});
        // A statement of one expression: what stands behind its first word is the expression. TRY takes no subquery.
        deserialize(self.connection, &document).ok()?.strip_prefix("SELECT ").map(str::to_owned)
    }

    /// Computes SQL over an expression; nothing when that cannot be, which ends neither the statement nor its transaction.
    fn compute<T: duckdb::types::FromSql>(&self, expression: &Value, sql: impl Fn(&str) -> String) -> Option<T> {
        let text = self.is_constant(expression).then(|| self.text(expression)).flatten()?;
        let sql = format!("SELECT TRY({})", sql(&format!("({text})")));
        self.connection.query_row(&sql, [], |row| row.get::<_, Option<T>>(0)).ok().flatten()
    }

    fn time_ms(&self, expression: &Value) -> Option<i64> {
        self.compute(expression, |text| format!("epoch_ms(CAST({text} AS TIMESTAMP WITH TIME ZONE))"))
    }

    fn interval_ms(&self, expression: &Value) -> Option<i64> {
        self.compute(expression, |text| format!("CAST(epoch(CAST({text} AS INTERVAL)) * 1000 AS BIGINT)"))
    }

    /// Gives milliseconds of an expression that is a number of seconds.
    fn seconds_ms(&self, expression: &Value) -> Option<i64> {
        let kind: String = self.compute(expression, |text| format!("typeof({text})"))?;
        let kind = kind.split('(').next().unwrap_or_default();
        let ms = |text: &str| format!("CAST(round(CAST({text} AS DOUBLE) * 1000) AS BIGINT)");
        NUMBERS.contains(&kind).then(|| self.compute(expression, ms)).flatten()
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
        let mut places = Vec::new();
        // USING SAMPLE takes its rows in front of the WHERE.
        collect_metrics(&node["from_table"], node["sample"].is_null(), &mut places);
        for alias in places {
            let mut samples = Samples { start_ms: None, end_ms: None, names: None };
            if let Some(alias) = alias {
                self.narrow(&node["where_clause"], &alias, &mut samples);
            }
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

/// Finds views of samples among the tables of a FROM; gives the names they have there, or none where the WHERE says nothing
/// of what is needed of them.
fn collect_metrics(table: &Value, narrows: bool, out: &mut Vec<Option<String>>) {
    match table["type"].as_str() {
        Some("JOIN") => {
            let (left, right) = narrowed_sides(table);
            collect_metrics(&table["left"], narrows && left, out);
            collect_metrics(&table["right"], narrows && right, out);
        }
        Some("BASE_TABLE") => {
            let name = table["table_name"].as_str().unwrap_or_default().to_lowercase();
            let alias = table["alias"].as_str().unwrap_or_default().to_lowercase();
            // Columns with other names, and rows chosen before the WHERE: nothing is derived.
            let renamed = table["column_name_alias"].as_array().is_some_and(|names| !names.is_empty());
            let narrows = narrows && !renamed && table["sample"].is_null();
            if SAMPLE_VIEWS.contains(&&*name) {
                out.push(narrows.then_some(if alias.is_empty() { name } else { alias }));
            }
        }
        _ => {}
    }
}

/// Tells of which sides of a join, left and right, rows can be left out that do not fulfil what the joined rows must: those
/// whose other rows decide nothing. An ANTI or ASOF join looks at rows on the right that it does not show.
fn narrowed_sides(join: &Value) -> (bool, bool) {
    let part = |name: &str| join[name].as_str().unwrap_or_default();
    match (part("ref_type"), part("join_type")) {
        ("REGULAR" | "NATURAL" | "CROSS", "INNER" | "LEFT" | "RIGHT" | "OUTER" | "FULL") => (true, true),
        ("REGULAR" | "NATURAL", "SEMI" | "ANTI") | ("ASOF", "INNER" | "LEFT") => (true, false),
        _ => (false, false),
    }
}

fn is_column(value: &Value, alias: &str, column: &str) -> bool {
    let Some(names) = value["column_names"].as_array() else { return false };
    let same = |value: &Value, name: &str| value.as_str().is_some_and(|v| v.to_lowercase() == name);
    match &names[..] {
        [only] => same(only, column),
        [table, only] => same(table, alias) && same(only, column),
        _ => false,
    }
}

/// Gives a text that stands there literally.
fn text_of(value: &Value) -> Option<String> {
    let constant = value["class"] == "CONSTANT" && value["value"]["type"]["id"] == "VARCHAR";
    constant.then(|| value["value"]["value"].as_str().map(str::to_owned)).flatten()
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
        let time = || constants.seconds_ms(argument).or_else(|| constants.time_ms(argument));
        match name {
            "query" => found.query = text_of(argument).ok_or_else(|| wrong("the expression is no literal text"))?,
            "start" => found.start_ms = Some(time().ok_or_else(|| wrong("start is no time"))?),
            "end" => found.end_ms = Some(time().ok_or_else(|| wrong("end is no time"))?),
            "step" => {
                let ms = || constants.seconds_ms(argument).or_else(|| constants.interval_ms(argument));
                let written = || ms().filter(|ms| *ms > 0).map(|ms| format!("{ms}ms"));
                found.step = Some(text_of(argument).or_else(written).ok_or_else(|| wrong("step is no duration"))?);
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
