//! Results: tables for people, JSON for programs.

use serde_json::{Map, Value, json};

use crate::measure;

/// What one server did under one load.
pub struct Row {
    pub section: String,
    pub server: String,
    pub version: String,
    values: Vec<(&'static str, f64)>,
}

impl Row {
    pub fn new(section: &str, server: &str, version: String) -> Row {
        Row { section: section.to_owned(), server: server.to_owned(), version, values: Vec::new() }
    }

    /// Notes a figure; its name says the unit.
    pub fn set(&mut self, name: &'static str, value: f64) {
        self.values.push((name, value));
    }

    pub fn get(&self, name: &str) -> Option<f64> {
        self.values.iter().find(|v| v.0 == name).map(|v| v.1)
    }
}

/// Rows of one section, whose columns are all figures that any of them has.
struct Section<'a> {
    name: &'a str,
    columns: Vec<&'static str>,
    rows: Vec<&'a Row>,
}

fn sections(rows: &[Row]) -> Vec<Section<'_>> {
    let mut sections: Vec<Section<'_>> = Vec::new();
    for row in rows {
        let at = sections.iter().position(|s| s.name == row.section).unwrap_or_else(|| {
            sections.push(Section { name: &row.section, columns: Vec::new(), rows: Vec::new() });
            sections.len() - 1
        });
        for (name, _) in &row.values {
            if !sections[at].columns.contains(name) {
                sections[at].columns.push(name);
            }
        }
        sections[at].rows.push(row);
    }
    sections
}

fn heading(column: &str) -> String {
    column.replace("_per_million", " / million").replace("_per_", " / ").replace('_', " ")
}

fn cell(row: &Row, column: &str) -> String {
    match row.get(column) {
        None => "–".to_owned(),
        Some(value) if !value.is_finite() => "∞".to_owned(),
        Some(value) if value.fract() == 0.0 || value.abs() >= 1000.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 100.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.3}"),
    }
}

/// Tables for a terminal.
pub fn tables(rows: &[Row]) -> String {
    let mut text = String::new();
    for section in sections(rows) {
        let mut table = comfy_table::Table::new();
        let head = section.columns.iter().map(|c| heading(c));
        table.set_header(std::iter::once(section.name.to_owned()).chain(head));
        for row in &section.rows {
            let cells = section.columns.iter().map(|c| cell(row, c));
            table.add_row(std::iter::once(row.server.clone()).chain(cells));
        }
        text.push_str(&format!("{table}\n\n"));
    }
    text
}

pub fn markdown(description: &str, rows: &[Row]) -> String {
    let mut text = format!("{}\n\n{description}\n", measure::machine());
    for section in sections(rows) {
        let head: Vec<String> = section.columns.iter().map(|c| heading(c)).collect();
        text.push_str(&format!(
            "\n## {}\n\n| server | {} |\n|{}\n",
            section.name,
            head.join(" | "),
            "---|".repeat(head.len() + 1)
        ));
        for row in &section.rows {
            let cells: Vec<String> = section.columns.iter().map(|c| cell(row, c)).collect();
            text.push_str(&format!("| {} | {} |\n", row.server, cells.join(" | ")));
        }
    }
    text.push_str("\nVersions:\n\n");
    let mut versions: Vec<String> = rows.iter().map(|r| format!("* {}: {}\n", r.server, r.version)).collect();
    versions.sort();
    versions.dedup();
    text + &versions.concat()
}

pub fn json(description: &str, rows: &[Row]) -> Value {
    let row = |row: &Row| {
        let figures: Map<String, Value> =
            row.values.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        json!({"load": row.section, "server": row.server, "version": row.version, "figures": figures})
    };
    json!({"machine": measure::machine(), "load": description, "rows": rows.iter().map(row).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_has_all_columns_of_its_rows() {
        let mut rows =
            vec![Row::new("a", "x", "1".into()), Row::new("b", "x", "1".into()), Row::new("a", "y", "2".into())];
        rows[0].set("cpu_s_per_million", 0.25);
        rows[2].set("rss_mib", 1234.5);
        let text = markdown("d", &rows);
        assert!(
            text.contains(
                "## a\n\n| server | cpu s / million | rss mib |\n|---|---|---|\n| x | 0.250 | – |\n| y | – | 1234 |\n"
            ),
            "{text}"
        );
        assert!(text.ends_with("Versions:\n\n* x: 1\n* y: 2\n"));
        assert_eq!(json("d", &rows)["rows"][2]["figures"]["rss_mib"], 1234.5);
    }
}
