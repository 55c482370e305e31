//! What a statement is: one SELECT over our views, or refused; and what it needs of the samples.
//!
//! DuckDB's own parser says what stands there (`json_serialize_sql`), so that there are no two readings of one text.
//! Everything that is not known is refused: kinds of tables, names of tables, functions that give tables.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::database::TABLES;

/// What can be selected from.
pub const VIEWS: [&str; 7] =
    ["metrics_ts", "stale_ts", "series", "targets", "rollups", "rollups_5m_ts", "rollups_1h_ts"];
/// Those that give samples, one by one.
pub const SAMPLE_VIEWS: [&str; 2] = ["metrics_ts", "stale_ts"];
/// Functions that give tables and touch nothing outside.
const TABLE_FUNCTIONS: [&str; 6] = ["promql", "range", "generate_series", "unnest", "json_each", "json_tree"];
/// Kinds of tables in a FROM.
const TABLE_KINDS: [&str; 7] =
    ["EMPTY", "BASE_TABLE", "JOIN", "SUBQUERY", "TABLE_FUNCTION", "EXPRESSION_LIST", "SHOW_REF"];
/// Scalar functions that tell of the process or change it.
const FORBIDDEN_FUNCTIONS: [&str; 12] = [
    "getenv",
    "current_setting",
    "getvariable",
    "set_config",
    "nextval",
    "currval",
    "write_log",
    "txid_current",
    "current_query",
    "in_search_path",
    "sleep_ms",
    "error",
];
/// Calls of `promql` in one statement.
pub const PROMQL_MAX: usize = 8;
const NAME_CHARS_MAX: usize = 100;
/// Beginnings of names that DuckDB gives to what tells of itself, and we to what comes of `promql`. A name that a statement
/// gives counts in the whole of it here, for DuckDB only where it was given: elsewhere it must lead nowhere.
const RESERVED: [&str; 6] = ["duckdb_", "pg_", "sqlite_", "pragma_", "information_schema", "promql_"];

/// Why a statement is not run.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// It is no SQL.
    #[error("{text}")]
    Syntax {
        /// What the parser says.
        text: String,
        /// Where, in bytes.
        position: Option<u64>,
    },
    /// It is, but not what may be asked.
    #[error("{0}")]
    Policy(String),
}

fn policy<T>(text: impl Into<String>) -> Result<T, Refused> {
    Err(Refused::Policy(text.into()))
}

/// A statement that may be run.
pub struct Statement {
    /// As DuckDB writes it.
    pub tree: Value,
    /// The names of views in it.
    pub views: BTreeSet<String>,
    /// How often a view of samples is named.
    pub metrics_refs: usize,
}

impl Statement {
    /// Reads what `json_serialize_sql` gave.
    pub fn read(serialized: &str) -> Result<Statement, Refused> {
        let Ok(mut document) = serde_json::from_str::<Value>(serialized) else {
            return policy("the statement is nested too deeply");
        };
        if document["error"] == Value::Bool(true) {
            return Err(syntax(&document));
        }
        let tree = match document["statements"].as_array_mut().map(std::mem::take) {
            Some(mut all) if all.len() == 1 => all.remove(0),
            Some(all) if all.is_empty() => return policy("there is no statement"),
            _ => return policy("one statement at a time"),
        };
        let mut ctes = BTreeSet::new();
        collect_ctes(&tree, &mut ctes)?;
        let mut seen = Seen { ctes, ..Seen::default() };
        seen.visit(&tree)?;
        Ok(Statement { tree, views: seen.views, metrics_refs: seen.metrics_refs })
    }
}

fn syntax(document: &Value) -> Refused {
    let text = document["error_message"].as_str().unwrap_or("not understood");
    if document["error_type"] == "not implemented" {
        return Refused::Policy("only SELECT statements are answered".to_owned());
    }
    let position = document["position"].as_str().and_then(|p| p.parse().ok());
    Refused::Syntax { text: text.to_owned(), position }
}

/// Finds the names that the statement gives to its own tables.
fn collect_ctes(value: &Value, out: &mut BTreeSet<String>) -> Result<(), Refused> {
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| collect_ctes(item, out)),
        Value::Object(fields) => {
            let keys = fields.get("cte_map").and_then(|m| m["map"].as_array()).into_iter().flatten();
            let names =
                keys.filter_map(|entry| entry["key"].as_str()).chain(fields.get("cte_name").and_then(Value::as_str));
            for name in names {
                // A name that could be a file's is none that a table gets here.
                let plain = |c: char| c.is_alphanumeric() || c == '_' || c == ' ';
                if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(plain) {
                    return policy(format!("{name:?} is no name for a table here: letters, digits and _ are"));
                }
                let name = name.to_lowercase();
                if is_reserved(&name) {
                    return policy(format!("{name:?} is taken: give the table of WITH another name"));
                }
                out.insert(name);
            }
            fields.values().try_for_each(|field| collect_ctes(field, out))
        }
        _ => Ok(()),
    }
}

/// Tells whether a name is one of ours or DuckDB's.
pub fn is_reserved(name: &str) -> bool {
    let ours = TABLES.iter().any(|(table, _)| *table == name);
    ours || VIEWS.contains(&name) || RESERVED.iter().any(|beginning| name.starts_with(beginning))
}

#[derive(Default)]
struct Seen {
    ctes: BTreeSet<String>,
    views: BTreeSet<String>,
    metrics_refs: usize,
}

impl Seen {
    fn visit(&mut self, value: &Value) -> Result<(), Refused> {
        match value {
            Value::Array(items) => items.iter().try_for_each(|item| self.visit(item)),
            Value::Object(fields) => {
                if fields.contains_key("sample") && fields.contains_key("alias") && !fields.contains_key("class") {
                    self.table(value)?;
                }
                match value["class"].as_str() {
                    Some("FUNCTION" | "WINDOW") => function(value)?,
                    Some("PARAMETER") => return policy("parameters are not taken: write the values"),
                    _ => {}
                }
                fields.values().try_for_each(|field| self.visit(field))
            }
            _ => Ok(()),
        }
    }

    fn table(&mut self, table: &Value) -> Result<(), Refused> {
        let kind = table["type"].as_str().unwrap_or_default();
        if !TABLE_KINDS.contains(&kind) {
            return policy(format!("{kind} is not taken here"));
        }
        match kind {
            "BASE_TABLE" => self.base_table(table),
            "TABLE_FUNCTION" => {
                let name = table["function"]["function_name"].as_str().unwrap_or_default().to_lowercase();
                if TABLE_FUNCTIONS.contains(&&*name) {
                    return Ok(());
                }
                policy(format!("the table function {name} is not served: {} are", TABLE_FUNCTIONS.join(", ")))
            }
            "SHOW_REF" if table["query"].is_null() => {
                policy(format!("SHOW is not served: the views are {}; DESCRIBE tells their columns", VIEWS.join(", ")))
            }
            _ => Ok(()),
        }
    }

    fn base_table(&mut self, table: &Value) -> Result<(), Refused> {
        let part = |name: &str| table[name].as_str().unwrap_or_default();
        let name = part("table_name").to_lowercase();
        let qualified = !part("schema_name").is_empty() || !part("catalog_name").is_empty();
        if !qualified && VIEWS.contains(&&*name) {
            self.metrics_refs += usize::from(SAMPLE_VIEWS.contains(&&*name));
            self.views.insert(name);
            return Ok(());
        }
        if !qualified && self.ctes.contains(&name) {
            return Ok(());
        }
        let shown: String = name.chars().take(NAME_CHARS_MAX).collect();
        policy(format!("there is no table {shown:?}: the views are {}", VIEWS.join(", ")))
    }
}

fn function(call: &Value) -> Result<(), Refused> {
    let name = call["function_name"].as_str().unwrap_or_default().to_lowercase();
    let tells = name.starts_with("pg_") || name.starts_with("duckdb_") || name.starts_with("read_");
    if tells || FORBIDDEN_FUNCTIONS.contains(&&*name) {
        return policy(format!("the function {name} is not served"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_refused() {
        assert!(matches!(Statement::read("no json"), Err(Refused::Policy(_))));
        assert!(matches!(Statement::read(r#"{"error":false,"statements":[]}"#), Err(Refused::Policy(_))));
        let unknown =
            r#"{"error":false,"statements":[{"node":{"from_table":{"type":"NEW_KIND","alias":"","sample":null}}}]}"#;
        assert_eq!(Statement::read(unknown).err(), Some(Refused::Policy("NEW_KIND is not taken here".to_owned())));
        let wrong = r#"{"error":true,"error_type":"parser","error_message":"syntax error","position":"7"}"#;
        let expected = Refused::Syntax { text: "syntax error".to_owned(), position: Some(7) };
        assert_eq!(Statement::read(wrong).err(), Some(expected));
    }
}
