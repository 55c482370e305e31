//! `quiver.filters`: filters for the targets of a scrape job or a custom collector, or for a source that pushes.
//!
//! ```yaml
//! quiver:
//!   filters:
//!     - job: node
//!       filters: [{action: DROP, match: '{__name__=~"go_.*"}'}]
//!     - source: nightly
//!       filters: [{action: AGGREGATE_AWAY, labels: [run]}]
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use collect::TargetSpec;
use model::filter::FilterSet;
use serde_json::{Map, Value};

use super::fields::{Fields, Problems};
use super::scrape::Job;
use super::yaml::{Kind, Node};
use crate::rest::fields::Issues;
use crate::rest::filters::Filters;

/// Fields of a filter that hold a number.
const NUMBERS: [&str; 1] = ["modulus"];

/// Filters of the configuration that no job has.
#[derive(Clone, Debug, Default)]
pub struct ConfiguredFilters {
    /// By the source that pushes.
    pub sources: BTreeMap<String, Arc<FilterSet>>,
}

/// Reads the filters below `quiver:` and gives the jobs theirs.
pub fn read(
    root: &Node,
    jobs: &mut [Job],
    collectors: &mut [TargetSpec],
    problems: &mut Problems,
) -> ConfiguredFilters {
    let mut configured = ConfiguredFilters::default();
    let mut seen = BTreeSet::new();
    let Some(Kind::List(entries)) = find(root, "quiver").and_then(|q| find(q, "filters")).map(|f| &f.kind) else {
        if let Some(node) = find(root, "quiver").and_then(|q| find(q, "filters")).filter(|f| f.holds_something()) {
            problems.error(node.at, "quiver.filters must be a list");
        }
        return configured;
    };
    for node in entries {
        let mut fields = Fields::open(node, "an entry of quiver.filters", problems);
        let (job, source) = (fields.string("job", problems), fields.string("source", problems));
        let set = fields.get("filters").map(|list| read_list(list, problems)).unwrap_or_default();
        fields.finish(problems);
        if !seen.insert((job.clone(), source.clone())) {
            let name = job.as_deref().or(source.as_deref()).unwrap_or_default();
            problems.error(node.at, format!("quiver.filters has two entries for {name:?}: put them into one list"));
            continue;
        }
        match (job, source) {
            (Some(name), None) => match jobs.iter_mut().find(|j| j.scrape.job_name == name) {
                Some(job) => job.scrape.filters = set,
                None if collectors.iter().any(|c| c.source_id == name) => {
                    collectors.iter_mut().filter(|c| c.source_id == name).for_each(|c| c.filters = set.clone());
                }
                None => {
                    problems.error(node.at, format!("quiver.filters: there is no scrape job and no collector {name:?}"))
                }
            },
            (None, Some(name)) => drop(configured.sources.insert(name, set)),
            _ => problems.error(node.at, "an entry of quiver.filters has a job or a source"),
        }
    }
    configured
}

fn find<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    let Kind::Map(entries) = &node.kind else { return None };
    entries.iter().find(|e| e.key == key).map(|e| &*e.value)
}

fn read_list(node: &Node, problems: &mut Problems) -> Arc<FilterSet> {
    let Value::Array(list) = to_value(node, "") else {
        problems.error(node.at, "filters must be a list");
        return Arc::default();
    };
    let mut issues = Issues::new(true);
    let filters = Filters::of(&list, "/filters", &BTreeMap::new(), &mut issues);
    for error in issues.into_result().err().map(|p| p.errors.clone()).unwrap_or_default() {
        problems.error(node.at, format!("{}: {}", error.pointer, error.detail));
    }
    filters.set()
}

/// Filters are read as they come over the API.
fn to_value(node: &Node, key: &str) -> Value {
    match &node.kind {
        Kind::Null => Value::Null,
        Kind::Scalar(text) => match text.parse::<u64>() {
            Ok(n) if NUMBERS.contains(&key) => Value::from(n),
            _ => Value::from(text.as_str()),
        },
        Kind::List(items) => items.iter().map(|item| to_value(item, key)).collect(),
        Kind::Map(entries) => {
            let pairs = entries.iter().map(|e| (e.key.clone(), to_value(&e.value, &e.key)));
            Value::Object(pairs.collect::<Map<String, Value>>())
        }
    }
}
