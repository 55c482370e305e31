//! Who asks, for the time of a request.
//!
//! The guard puts the pass in force for the task that answers a request ([`Pass::in_force`]); whoever hands the request's samples to
//! another task takes the pass along.

use std::sync::Arc;

use http::StatusCode;
use model::{Batch, SeriesIndex};

use super::bucket::Bucket;
use super::role::Roles;
use crate::rest::problem::Problem;

tokio::task_local! {
    static IN_FORCE: Arc<Pass>;
}

/// Who asks and what he may.
#[derive(Debug)]
pub struct Pass {
    /// How he is called in logs: `token:grafana`, `user:alice`, `certificate:CN=agent`, `oidc:<subject>`, `anonymous`.
    pub name: String,
    /// What he may do.
    pub roles: Roles,
    /// The sources that he may write as; `None` for all.
    pub sources: Option<Vec<String>>,
    /// Requests in a second.
    pub requests: Option<Bucket>,
    /// Samples in a second.
    pub samples: Option<Bucket>,
}

/// Why samples are not taken from somebody.
#[derive(Clone, PartialEq, Debug)]
pub enum NotYours {
    /// He writes as somebody else.
    Source(String),
    /// He brought too many; seconds to wait.
    TooMany(f64),
}

impl Pass {
    /// Makes a pass without limits.
    pub fn new(name: impl Into<String>, roles: Roles) -> Pass {
        Pass { name: name.into(), roles, sources: None, requests: None, samples: None }
    }

    /// Runs a request with a pass in force.
    pub async fn with<F: Future>(self: Arc<Pass>, request: F) -> F::Output {
        IN_FORCE.scope(self, request).await
    }

    /// Gives the pass of the request that this task answers, if it limits or may what others may not.
    pub fn in_force() -> Option<Arc<Pass>> {
        IN_FORCE.try_with(Arc::clone).ok()
    }

    /// Tells whether he may write as a source.
    pub fn writes_as(&self, source_id: &str) -> bool {
        self.sources.as_ref().is_none_or(|all| all.iter().any(|one| one == source_id))
    }

    /// Tells whether his samples are looked at one by one.
    pub fn is_scoped(&self) -> bool {
        self.sources.is_some()
    }

    /// Judges a batch before it is stored.
    ///
    /// **Takes** a batch that holds all labels: with sources of his own none may be recalled.
    pub fn judge(&self, batch: &Batch) -> Result<(), NotYours> {
        if let Some(sources) = &self.sources {
            judge_sources(batch, sources).map_err(NotYours::Source)?;
        }
        match &self.samples {
            Some(bucket) => {
                bucket.take((batch.samples.len() + batch.histograms.len()) as f64).map_err(NotYours::TooMany)
            }
            None => Ok(()),
        }
    }
}

impl NotYours {
    /// Gives status, sentence, and how long to wait, in seconds.
    pub fn told(&self) -> (StatusCode, String, Option<u64>) {
        match self {
            NotYours::Source(text) => (StatusCode::FORBIDDEN, text.clone(), None),
            NotYours::TooMany(wait) => {
                let seconds = wait.clamp(1.0, 3_600.0).ceil() as u64;
                (
                    StatusCode::TOO_MANY_REQUESTS,
                    "more samples in a second than this token may bring".to_owned(),
                    Some(seconds),
                )
            }
        }
    }
}

impl From<NotYours> for Problem {
    fn from(not_yours: NotYours) -> Problem {
        let (status, text, wait) = not_yours.told();
        let code = if wait.is_some() { "too_many_requests" } else { "forbidden" };
        let problem = Problem::new(status, code, text);
        match wait {
            Some(seconds) => problem.retry_after_ms(seconds * 1_000),
            None => problem,
        }
    }
}

/// Checks that a batch is written as one of some sources: its origin, and the label `job` of its series.
///
/// **Errors** with a sentence that names the first that is not.
pub fn judge_sources(batch: &Batch, sources: &[String]) -> Result<(), String> {
    let ours = |name: &str| sources.iter().any(|one| one == name);
    if !ours(&batch.origin.source_id) {
        return Err(foreign("source_id", &batch.origin.source_id));
    }
    for series in 0..batch.series.len() {
        // An index of a batch has 32 bits.
        let Some(labels) = batch.labels(SeriesIndex(series as u32)) else {
            return Err("a series came without its labels".to_owned());
        };
        match labels.get("job") {
            Some(job) if !ours(job) => return Err(foreign("the label job", job)),
            // What carries no job is nobody's, and whoever writes it is known by the origin alone.
            _ => {}
        }
    }
    Ok(())
}

fn foreign(what: &str, name: &str) -> String {
    let shown: String = name.chars().take(100).collect();
    format!("{what} {shown:?} is none of the sources that this token may write as")
}
