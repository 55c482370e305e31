//! The grouping key: the job and the labels of a push URL.

use std::collections::BTreeMap;

use model::{LABEL_NAME, Labels, LabelsBuf, is_legacy_label_name};
use xxhash_rust::xxh3::xxh3_64;

use super::decode;

const PREFIX: &str = "/metrics/";
const JOB: &str = "job";
const BASE64: &str = "@base64";
/// Labels of one key; a store refuses series with many more.
const LABELS_MAX: usize = 30;

/// What a group is known by. Two keys that differ in a label with an empty value are two groups.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct GroupKey(BTreeMap<String, String>);

impl GroupKey {
    /// Reads the path of a URL, still escaped: `/metrics/job/<job>{/<label>/<value>}`, where `job@base64` and
    /// `<label>@base64` say that the value is base64.
    ///
    /// **Errors** with the Pushgateway's text.
    pub fn from_path(path: &str) -> Result<GroupKey, String> {
        let rest = path.strip_prefix(PREFIX).unwrap_or_default();
        let mut parts = rest.split('/');
        let job_label = parts.next().unwrap_or_default();
        let job = decode::percent(parts.next().unwrap_or_default())?;
        let job = match decode::percent(job_label)?.ends_with(BASE64) {
            true => decode::base64(&job).map_err(|e| format!("invalid base64 encoding in job name {job:?}: {e}"))?,
            false => job,
        };
        if job.is_empty() {
            return Err("job name is required".to_owned());
        }
        let mut labels = read_labels(parts.collect())?;
        labels.insert(JOB.to_owned(), job);
        Ok(GroupKey(labels))
    }

    /// Makes a key of pairs, as [`GroupKey::pairs`] gives them.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> GroupKey {
        GroupKey(pairs.into_iter().collect())
    }

    /// Gives the job.
    pub fn job(&self) -> &str {
        self.0.get(JOB).map_or("", String::as_str)
    }

    /// Walks the labels, the job among them, sorted by name; values may be empty.
    pub fn pairs(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }

    /// Puts the key's labels over those of a series.
    pub fn label(&self, series: &mut LabelsBuf) {
        self.0.iter().for_each(|(name, value)| series.set(name, value));
    }

    /// Gives the label set of a metric that has the key's labels and no others.
    pub fn labels_of(&self, metric: &str) -> Labels {
        Labels::from_pairs(self.pairs().chain([(LABEL_NAME, metric)]))
    }

    /// Gives the name of the group's file: 32 hexadecimal digits.
    pub fn file_name(&self) -> String {
        let mut text = Vec::new();
        for (name, value) in self.pairs() {
            for part in [name, value] {
                text.extend_from_slice(&(part.len() as u64).to_le_bytes());
                text.extend_from_slice(part.as_bytes());
            }
        }
        let first = xxh3_64(&text);
        text.push(1);
        format!("{first:016x}{:016x}", xxh3_64(&text))
    }

    /// Gives a number that spreads keys.
    pub fn spread(&self) -> u64 {
        let mut text = Vec::new();
        self.pairs().for_each(|(_, value)| text.extend_from_slice(value.as_bytes()));
        xxh3_64(&text)
    }
}

/// Reads what follows the job.
fn read_labels(parts: Vec<&str>) -> Result<BTreeMap<String, String>, String> {
    let mut labels = BTreeMap::new();
    // A slash at the end of the job.
    if parts == [""] {
        return Ok(labels);
    }
    if !parts.len().is_multiple_of(2) {
        return Err(format!("odd number of components in label string {:?}", format!("/{}", parts.join("/"))));
    }
    if parts.len() / 2 > LABELS_MAX {
        return Err(format!("{} labels in the grouping key, {LABELS_MAX} are allowed", parts.len() / 2));
    }
    for pair in parts.chunks_exact(2) {
        let (name, value) = (decode::percent(pair[0])?, decode::percent(pair[1])?);
        let bare = name.strip_suffix(BASE64).unwrap_or(&name);
        if !is_legacy_label_name(bare) || bare.starts_with("__") {
            return Err(format!("improper label name {bare:?}"));
        }
        let value = match bare.len() == name.len() {
            true => value,
            false => decode::base64(&value)
                .map_err(|e| format!("invalid base64 encoding for label {bare}={value:?}: {e}"))?,
        };
        labels.insert(bare.to_owned(), value);
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str) -> Result<String, String> {
        GroupKey::from_path(path).map(|key| key.pairs().map(|(n, v)| format!("{n}={v};")).collect())
    }

    #[test]
    fn urls_are_read_as_the_pushgateway_reads_them() {
        let good = [
            ("/metrics/job/a", "job=a;"),
            ("/metrics/job/a/", "job=a;"),
            ("/metrics/job/a%20b/instance/x", "instance=x;job=a b;"),
            ("/metrics/job/directory_cleaner/path@base64/L3Zhci90bXA", "job=directory_cleaner;path=/var/tmp;"),
            ("/metrics/job@base64/YS9i/x/1", "job=a/b;x=1;"),
            ("/metrics/job/a/x@base64/=", "job=a;x=;"),
            ("/metrics/job/a/x/", "job=a;x=;"),
            ("/metrics/job/a/job/b", "job=a;"),
        ];
        for (path, expected) in good {
            assert_eq!(read(path).as_deref(), Ok(expected), "{path}");
        }
        let bad = [
            ("/metrics/job@base64/=", "job name is required"),
            ("/metrics/job//x/y", "job name is required"),
            ("/metrics/job@base64/!", "invalid base64 encoding in job name \"!\": illegal base64 data at input byte 0"),
            ("/metrics/job/a/x", "odd number of components in label string \"/x\""),
            ("/metrics/job/a/0x/y", "improper label name \"0x\""),
            ("/metrics/job/a/__name__/y", "improper label name \"__name__\""),
            (
                "/metrics/job/a/x@base64/*",
                "invalid base64 encoding for label x=\"*\": illegal base64 data at input byte 0",
            ),
        ];
        for (path, text) in bad {
            assert_eq!(read(path), Err(text.to_owned()), "{path}");
        }
        assert!(read(&format!("/metrics/job/a{}", "/x/y".repeat(31))).is_err());
    }

    #[test]
    fn keys_that_differ_have_files_that_differ() {
        let names: std::collections::BTreeSet<_> =
            ["/metrics/job/a", "/metrics/job/a/x/", "/metrics/job/a/x/b", "/metrics/job/a/xb@base64/"]
                .into_iter()
                .map(|path| GroupKey::from_path(path).map(|key| key.file_name()))
                .collect();
        assert_eq!(names.len(), 4);
        assert!(names.iter().all(|name| name.as_ref().is_ok_and(|n| n.len() == 32)));
    }
}
