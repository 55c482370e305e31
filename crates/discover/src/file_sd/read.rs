//! The text of one file → target groups.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use model::{Labels, TargetGroup};
use serde::Deserialize;

use super::FILE_BYTES_MAX;

/// Label that tells which file a target is from.
const FILE_LABEL: &str = "__meta_filepath";

/// Why a file gives no groups.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system does not give it.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// It is too large.
    #[error("larger than {FILE_BYTES_MAX} bytes")]
    TooLarge,
    /// It is not text.
    #[error("not UTF-8")]
    NotText,
    /// It is not a list of groups.
    #[error("{0}")]
    Syntax(String),
}

/// One group as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupText {
    #[serde(default)]
    targets: Option<Vec<String>>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

/// Reads the groups of a file; its ending says whether it is JSON or YAML.
pub fn read_groups(path: &Path) -> Result<Vec<TargetGroup>, ReadError> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(ReadError::TooLarge);
    }
    let text = String::from_utf8(bytes).map_err(|_| ReadError::NotText)?;
    let name = path.display().to_string();
    let json = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
    let groups: Option<Vec<Option<GroupText>>> = if json {
        serde_json::from_str(&text).map_err(|e| ReadError::Syntax(e.to_string()))?
    } else if text.trim().is_empty() {
        None
    } else {
        serde_saphyr::from_str(&text).map_err(|e| ReadError::Syntax(first_line(&e.to_string())))?
    };
    groups.unwrap_or_default().into_iter().enumerate().map(|(i, group)| to_group(&name, i, group)).collect()
}

fn to_group(name: &str, index: usize, text: Option<GroupText>) -> Result<TargetGroup, ReadError> {
    let text = text.ok_or_else(|| ReadError::Syntax("nil target group item found".to_owned()))?;
    let mut labels = text.labels.unwrap_or_default();
    if labels.contains_key("") {
        return Err(ReadError::Syntax("\"\" is not a valid label name".to_owned()));
    }
    labels.insert(FILE_LABEL.to_owned(), name.to_owned());
    let targets = text.targets.unwrap_or_default();
    Ok(TargetGroup {
        source: format!("{name}:{index}"),
        labels: Labels::from_pairs(labels),
        targets: targets.iter().map(|address| Labels::from_pairs([("__address__", address)])).collect(),
    })
}

/// Parsers draw the place below; logs want a line.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or("not YAML").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<Vec<TargetGroup>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        read_groups(&path).map_err(|e| e.to_string())
    }

    #[test]
    fn json_and_yaml_say_the_same() {
        let json = r#"[{"targets": ["a:1", "b:2"], "labels": {"env": "prod", "rack": "07"}}, {"targets": []}]"#;
        let yaml = "- targets: ['a:1', \"b:2\"]\n  labels:\n    env: prod\n    rack: 07\n- targets: []\n";
        for (name, text) in [("x.json", json), ("x.yml", yaml), ("x.YAML", yaml)] {
            let groups = read(name, text).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(groups.len(), 2);
            assert_eq!(groups[0].labels.get("env"), Some("prod"));
            assert_eq!(groups[0].labels.get("rack"), Some("07"));
            assert!(groups[0].labels.get(FILE_LABEL).is_some_and(|f| f.ends_with(name)));
            assert_eq!(groups[0].targets[1].get("__address__"), Some("b:2"));
            assert!(groups[0].source.ends_with(&format!("{name}:0")));
        }
    }

    #[test]
    fn empty_files_have_no_groups() {
        for (name, text) in [("x.json", "[]"), ("x.json", "null"), ("x.yml", ""), ("x.yml", "# nothing yet\n")] {
            assert_eq!(read(name, text).map(|g| g.len()), Ok(0), "{text:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (name, text, part) in [
            ("x.json", "[{\"targets\": [\"a\"", "line 1"),
            ("x.json", "[{\"targtes\": []}]", "targtes"),
            ("x.json", "[null]", "nil target group"),
            ("x.json", "[{\"labels\": {\"\": \"x\"}}]", "not a valid label name"),
            ("x.json", "", "EOF"),
            ("x.yml", "- targets: [a\n", "line"),
            ("x.yml", "- targtes: [a]\n", "targtes"),
            ("x.yml", "a: b\n", ""),
            ("x.json", "\u{0}", ""),
        ] {
            let error = read(name, text).expect_err(text);
            assert!(error.contains(part), "{text:?}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read_groups(&dir.path().join("missing.yml")), Err(ReadError::Io(_))));
        assert!(matches!(read_groups(dir.path()), Err(ReadError::Io(_))));
    }

    #[test]
    fn a_file_over_the_limit_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("big.json");
        File::create(&path).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        assert!(matches!(read_groups(&path), Err(ReadError::TooLarge)));
    }
}
