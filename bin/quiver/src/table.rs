//! Tables for people, plain columns for pipes.

use std::io::IsTerminal;

use comfy_table::{ContentArrangement, Table, presets};

/// Prints rows under a head. On a terminal with lines, else as bare columns.
pub fn print(head: &[&str], rows: Vec<Vec<String>>) {
    println!("{}", render(head, rows, std::io::stdout().is_terminal()));
}

fn render(head: &[&str], rows: Vec<Vec<String>>, for_people: bool) -> String {
    let mut table = Table::new();
    if for_people {
        table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    } else {
        table.load_style(presets::NOTHING);
    }
    table.set_header(head.to_vec());
    for row in rows {
        table.add_row(row.iter().map(|cell| clean(cell)).collect::<Vec<_>>());
    }
    table.trim_fmt()
}

/// Makes control characters visible: what a target sent must not steer the terminal.
pub fn clean(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Vec<String>> {
        vec![vec!["up".into(), "1".into()], vec!["a\nb".into(), "22".into()]]
    }

    #[test]
    fn pipes_get_one_bare_line_a_row() {
        let text = render(&["Series", "Value"], rows(), false);
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(lines, [["Series", "Value"], ["up", "1"], ["a\\nb", "22"]]);
    }

    #[test]
    fn people_get_lines_around_it() {
        let text = render(&["Series", "Value"], rows(), true);
        assert!(text.starts_with('┌') && text.contains("│ up"), "{text}");
    }

    #[test]
    fn control_characters_are_shown_not_obeyed() {
        assert_eq!(clean("a\u{1b}[2Jé"), "a\\u{1b}[2Jé");
    }
}
