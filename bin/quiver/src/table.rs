//! Tables for people, plain columns for pipes.

use std::io::IsTerminal;

use comfy_table::{ContentArrangement, Table, presets};

/// Prints rows under a head. On a terminal with lines, else as bare columns.
pub fn print(head: &[&str], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    if std::io::stdout().is_terminal() {
        table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    } else {
        table.load_style(presets::NOTHING);
    }
    table.set_header(head.to_vec());
    for row in rows {
        table.add_row(row.iter().map(|cell| clean(cell)).collect::<Vec<_>>());
    }
    println!("{}", table.trim_fmt());
}

/// Makes control characters visible: what a target sent must not steer the terminal.
pub fn clean(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn control_characters_are_shown_not_obeyed() {
        assert_eq!(super::clean("a\u{1b}[2Jé"), "a\\u{1b}[2Jé");
    }
}
