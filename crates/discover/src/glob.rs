//! File name patterns with the rules of Go's `filepath.Glob`, which Prometheus uses.
//!
//! `*` is any run of characters but `/`, `?` one of them, `[a-z]` and `[^a-z]` a class, `\` takes the next one as it is.

use std::path::{Path, PathBuf};

/// A pattern that is none: a class that never ends, a `\` at the end.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("syntax error in pattern {0:?}")]
pub struct BadPattern(pub String);

/// Lists the files that match, sorted; directories that cannot be read are passed over.
///
/// **Gives** at most `files_max` paths.
pub fn glob(pattern: &str, files_max: usize) -> Result<Vec<PathBuf>, BadPattern> {
    // Says what is wrong with the pattern even when nothing is there to match.
    glob_matches(pattern, "")?;
    let mut found = Vec::new();
    expand(pattern, files_max, &mut found)?;
    Ok(found)
}

fn expand(pattern: &str, files_max: usize, found: &mut Vec<PathBuf>) -> Result<(), BadPattern> {
    if !has_meta(pattern) {
        if Path::new(pattern).symlink_metadata().is_ok() && found.len() < files_max {
            found.push(PathBuf::from(pattern));
        }
        return Ok(());
    }
    let (dir, file) = pattern.rsplit_once('/').map_or((None, pattern), |(dir, file)| (Some(dir), file));
    let dirs = match dir {
        None => vec![PathBuf::new()],
        Some("") => vec![PathBuf::from("/")],
        Some(dir) if has_meta(dir) => {
            let mut dirs = Vec::new();
            expand(dir, files_max, &mut dirs)?;
            dirs
        }
        Some(dir) => vec![PathBuf::from(dir)],
    };
    for dir in dirs {
        let listed = std::fs::read_dir(if dir.as_os_str().is_empty() { Path::new(".") } else { &dir });
        let names = listed.into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut matching = Vec::new();
        for name in names {
            if glob_matches(file, &name)? {
                matching.push(name);
            }
        }
        matching.sort();
        let room = files_max.saturating_sub(found.len());
        found.extend(matching.into_iter().take(room).map(|name| dir.join(name)));
    }
    Ok(())
}

fn has_meta(pattern: &str) -> bool {
    pattern.contains(['*', '?', '[', '\\'])
}

/// One step of a pattern.
enum Piece {
    Run,
    Any,
    One(char),
    Class { negated: bool, ranges: Vec<(char, char)> },
}

impl Piece {
    fn takes(&self, c: char) -> bool {
        match self {
            Piece::Run | Piece::Any => c != '/',
            Piece::One(own) => *own == c,
            Piece::Class { negated, ranges } => ranges.iter().any(|(a, b)| (*a..=*b).contains(&c)) != *negated,
        }
    }
}

/// Tells whether a whole name matches a pattern.
///
/// **Cost** name times pattern at worst; no backtracking tree.
pub fn glob_matches(pattern: &str, name: &str) -> Result<bool, BadPattern> {
    let pieces = pieces(pattern).ok_or_else(|| BadPattern(pattern.to_owned()))?;
    // `alive[i]`: the first i pieces match what was read of the name.
    let mut alive = vec![false; pieces.len() + 1];
    alive[0] = true;
    spread(&pieces, &mut alive);
    for c in name.chars() {
        let mut next = vec![false; alive.len()];
        for (i, piece) in pieces.iter().enumerate() {
            if alive[i] && piece.takes(c) {
                next[if matches!(piece, Piece::Run) { i } else { i + 1 }] = true;
            }
        }
        spread(&pieces, &mut next);
        alive = next;
    }
    Ok(alive.last() == Some(&true))
}

/// A run may be empty.
fn spread(pieces: &[Piece], alive: &mut [bool]) {
    for (i, piece) in pieces.iter().enumerate() {
        if alive[i] && matches!(piece, Piece::Run) {
            alive[i + 1] = true;
        }
    }
}

fn pieces(pattern: &str) -> Option<Vec<Piece>> {
    let mut out = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        out.push(match c {
            '*' => Piece::Run,
            '?' => Piece::Any,
            '\\' => Piece::One(chars.next()?),
            '[' => class(&mut chars)?,
            other => Piece::One(other),
        });
    }
    Some(out)
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Piece> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Some(Piece::Class { negated, ranges });
        }
        let low = class_char(chars)?;
        let high = if chars.next_if_eq(&'-').is_some() { class_char(chars)? } else { low };
        ranges.push((low, high));
    }
}

fn class_char(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    match chars.next()? {
        '-' | ']' => None,
        '\\' => chars.next(),
        c => Some(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_in_go() {
        for (pattern, name, expected) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "ab/c", false),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("ab[b-d]", "abc", true),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("[\\]a]", "]", true),
            ("*x", "xxx", true),
            ("", "", true),
        ] {
            assert_eq!(glob_matches(pattern, name), Ok(expected), "{pattern} {name}");
        }
        for bad in ["[", "[^", "a[", "[-x]", "[]a]", "a\\", "[x-]"] {
            assert!(glob_matches(bad, "x").is_err(), "{bad}");
        }
    }

    #[test]
    fn files_are_found_in_order_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.yml", "a.yml", "c.json", "sub/d.yml"] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let found = |pattern: &str, max: usize| -> Vec<String> {
            let pattern = format!("{}/{pattern}", dir.path().display());
            let strip = |p: PathBuf| p.strip_prefix(dir.path()).unwrap().display().to_string();
            glob(&pattern, max).unwrap().into_iter().map(strip).collect()
        };
        assert_eq!(found("*.yml", 9), ["a.yml", "b.yml"]);
        assert_eq!(found("*.yml", 1), ["a.yml"]);
        assert_eq!(found("c.json", 9), ["c.json"]);
        assert_eq!(found("s*/?.yml", 9), ["sub/d.yml"]);
        assert!(found("missing.yml", 9).is_empty());
        assert!(glob("[", 9).is_err());
    }

    #[test]
    fn a_long_pattern_does_not_explode() {
        assert_eq!(glob_matches(&"*a".repeat(200), &"a".repeat(1_000)), Ok(true));
        assert_eq!(glob_matches(&format!("{}b", "*a".repeat(200)), &"a".repeat(1_000)), Ok(false));
    }
}
