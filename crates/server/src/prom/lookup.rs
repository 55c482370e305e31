//! `series`, `labels`, `label/{name}/values`.
//!
//! Limits: [`SELECTORS_MAX`] different selectors, each asked once; between two of them the deadline is looked at.

use std::collections::{BTreeSet, HashSet};
use std::time::Instant;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;
use model::{Labels, Matcher, Select, SelectError, TimeRange};

use super::api::PromApi;
use super::busy::busy;
use super::error::{ApiError, ErrorKind, json_response};
use super::json;
use super::params::{Params, TIME_MAX_MS, TIME_MIN_MS};
use super::value_json::TRUNCATED;

/// Different selectors of one request: each costs a walk over the index.
const SELECTORS_MAX: usize = 1_000;

/// What all ask for that look names up.
pub(super) struct LookUp {
    limit: Option<usize>,
    range: TimeRange,
    sets: Vec<Vec<Matcher>>,
    deadline: Instant,
}

impl LookUp {
    /// Only `series` names the parameter of a bad selector.
    fn read(params: &Params, name_selector: bool, deadline: Instant) -> Result<LookUp, ApiError> {
        let limit = params.limit()?;
        let mut wanted = LookUp::read_selectors(params, name_selector, (TIME_MIN_MS, TIME_MAX_MS), deadline)?;
        wanted.limit = limit;
        Ok(wanted)
    }

    /// Reads selectors and times; `default` is the range where none is given. Every selector must select.
    pub(super) fn read_within(params: &Params, default: (i64, i64), deadline: Instant) -> Result<LookUp, ApiError> {
        let wanted = LookUp::read_selectors(params, true, default, deadline)?;
        if wanted.sets.iter().any(|set| set.iter().all(Matcher::matches_empty)) {
            let text = "match[] must contain at least one non-empty matcher";
            return Err(ApiError::invalid_parameter("match[]", text));
        }
        Ok(wanted)
    }

    fn read_selectors(
        params: &Params,
        name_selector: bool,
        default: (i64, i64),
        deadline: Instant,
    ) -> Result<LookUp, ApiError> {
        let start_ms = params.time_ms_or("start", default.0)?;
        let end_ms = params.time_ms_or("end", default.1)?;
        let mut seen = HashSet::new();
        let different: Vec<&str> = params.all("match[]").filter(|text| seen.insert(*text)).collect();
        if different.len() > SELECTORS_MAX {
            return Err(ApiError::bad_data(format!("more than {SELECTORS_MAX} different selectors in match[]")));
        }
        let bytes = different.iter().map(|text| text.len()).sum();
        let sets = busy(bytes, || promql::parse_selectors(&different)).map_err(|e| match name_selector {
            true => ApiError::invalid_parameter("match[]", e),
            false => ApiError::bad_data(e.to_string()),
        })?;
        Ok(LookUp { limit: None, range: TimeRange { start_ms, end_ms }, sets, deadline })
    }

    /// Gives the times that are asked for.
    pub(super) fn range(&self) -> TimeRange {
        self.range
    }

    /// **Errors** when the time for it is over.
    pub(super) fn check_time(&self) -> Result<(), ApiError> {
        match Instant::now() < self.deadline {
            true => Ok(()),
            false => Err(ApiError::new(ErrorKind::Timeout, "the look-up took too long; ask for fewer selectors")),
        }
    }

    /// Asks once per selector, or once without; joins and sorts what comes.
    pub(super) fn join(
        &self,
        ask: impl Fn(&[Matcher]) -> Result<Vec<String>, SelectError>,
    ) -> Result<Vec<String>, ApiError> {
        match self.sets.as_slice() {
            [] => ask(&[]).map_err(failed),
            [one] => ask(one).map_err(failed),
            many => {
                let mut joined = BTreeSet::new();
                for set in many {
                    self.check_time()?;
                    joined.extend(ask(set).map_err(failed)?);
                }
                Ok(joined.into_iter().collect())
            }
        }
    }
}

fn failed(error: SelectError) -> ApiError {
    ApiError::new(ErrorKind::Execution, error.to_string())
}

/// Writes a list, cut to `limit` with a warning.
fn listed<T>(mut items: Vec<T>, limit: Option<usize>, write: impl FnMut(&mut Vec<u8>, T)) -> Vec<u8> {
    let mut warnings = Vec::new();
    if let Some(limit) = limit.filter(|limit| items.len() > *limit) {
        items.truncate(limit);
        warnings.push(TRUNCATED.to_owned());
    }
    let mut data = Vec::new();
    json::list(&mut data, items, write);
    json::success(&data, &warnings, &[])
}

/// `/api/v1/labels`
pub async fn labels(State(api): State<PromApi>, params: Params) -> Result<Response, ApiError> {
    let wanted = LookUp::read(&params, false, api.queries.deadline())?;
    if let Some(answer) = api.queries.look_up_elsewhere("/api/v1/labels", &params).await? {
        return Ok(answer);
    }
    let body = api.queries.look_up(move |select| {
        let names = wanted.join(|matchers| select.label_names(matchers, wanted.range))?;
        Ok(listed(names, wanted.limit, |out, name| json::string(out, &name)))
    });
    Ok(json_response(StatusCode::OK, body.await?))
}

/// `/api/v1/label/{name}/values`
pub async fn label_values(
    State(api): State<PromApi>,
    name: Result<Path<String>, PathRejection>,
    params: Params,
) -> Result<Response, ApiError> {
    let Path(asked) = name.map_err(|_| ApiError::bad_data("invalid label name: not UTF-8"))?;
    let name = unescape_name(&asked).unwrap_or_else(|| asked.clone());
    if name.is_empty() {
        return Err(ApiError::bad_data("invalid label name: \"\""));
    }
    let wanted = LookUp::read(&params, false, api.queries.deadline())?;
    let path = format!("/api/v1/label/{}/values", escaped(&asked));
    if let Some(answer) = api.queries.look_up_elsewhere(&path, &params).await? {
        return Ok(answer);
    }
    let body = api.queries.look_up(move |select| {
        let values = wanted.join(|matchers| select.label_values(&name, matchers, wanted.range))?;
        Ok(listed(values, wanted.limit, |out, value| json::string(out, &value)))
    });
    Ok(json_response(StatusCode::OK, body.await?))
}

/// `/api/v1/series`
pub async fn series(State(api): State<PromApi>, params: Params) -> Result<Response, ApiError> {
    if params.all("match[]").next().is_none() {
        return Err(ApiError::bad_data("no match[] parameter provided"));
    }
    let wanted = LookUp::read(&params, true, api.queries.deadline())?;
    if let Some(answer) = api.queries.look_up_elsewhere("/api/v1/series", &params).await? {
        return Ok(answer);
    }
    let body = api.queries.look_up(move |select| {
        let found = find_series(select, &wanted)?;
        Ok(listed(found, wanted.limit, |out, labels| json::labels(out, &labels)))
    });
    Ok(json_response(StatusCode::OK, body.await?))
}

fn find_series(select: &dyn Select, wanted: &LookUp) -> Result<Vec<Labels>, ApiError> {
    let mut found = BTreeSet::new();
    for matchers in &wanted.sets {
        wanted.check_time()?;
        for reader in select.select(matchers, wanted.range).map_err(failed)? {
            found.insert(reader.labels().clone());
            // One more than asked for tells that there are more.
            if wanted.limit.is_some_and(|limit| found.len() > limit.saturating_add(1)) {
                found.pop_last();
            }
        }
    }
    Ok(found.into_iter().collect())
}

/// `DELETE /api/v1/series`, which Prometheus has never built.
pub async fn drop_series() -> ApiError {
    ApiError::new(ErrorKind::Internal, "not implemented")
}

/// Writes a name as one segment of a path.
fn escaped(name: &str) -> String {
    url::form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>().replace('+', "%20")
}

/// Turns `U__my_2e_name` into `my.name`; `None` when the name is not escaped so.
fn unescape_name(name: &str) -> Option<String> {
    let mut rest = name.strip_prefix("U__")?;
    let mut out = String::with_capacity(rest.len());
    while let Some(at) = rest.find('_') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('_') {
            out.push('_');
            rest = after;
            continue;
        }
        // At most six digits make a character.
        let (digits, after) = rest.split_once('_').filter(|(digits, _)| digits.len() < 6)?;
        out.push(char::from_u32(u32::from_str_radix(digits, 16).ok()?)?);
        rest = after;
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::*;

    fn read(query: &str, deadline: Instant) -> Result<LookUp, String> {
        LookUp::read(&Params::parse(query), true, deadline).map_err(|e| e.text)
    }

    #[test]
    fn equal_selectors_are_asked_once_and_different_ones_have_a_limit_and_a_deadline() {
        let later = Instant::now() + Duration::from_secs(600);
        let same = "match[]=a&match[]=b&".repeat(5_000);
        let asked = Cell::new(0);
        let names = read(&same, later).unwrap().join(|matchers| {
            asked.set(asked.get() + 1);
            Ok(vec![matchers.len().to_string()])
        });
        assert_eq!((names.unwrap(), asked.get()), (vec!["1".to_owned()], 2));
        let many = |n: usize| (0..n).map(|i| format!("match[]=a{i}&")).collect::<String>();
        assert!(read(&many(SELECTORS_MAX), later).is_ok());
        assert!(read(&many(SELECTORS_MAX + 1), later).err().is_some_and(|e| e.contains("1000 different selectors")));
        let late = read(&same, Instant::now()).unwrap().join(|_| Ok(Vec::new()));
        assert!(late.is_err_and(|e| e.text.contains("took too long")));
    }

    #[test]
    fn escaped_names_are_read_as_prometheus_reads_them() {
        let known = [
            ("U__http_2e_status", Some("http.status")),
            ("U__a__b", Some("a_b")),
            ("U___1F600_", Some("\u{1f600}")),
            ("U__plain", Some("plain")),
            ("U__open_2e", None),
            ("U__bad_zz_", None),
            ("U__surrogate_d800_", None),
            ("U__long_0000000_", None),
            ("U__end_", None),
            ("plain", None),
        ];
        for (name, expected) in known {
            assert_eq!(unescape_name(name).as_deref(), expected, "{name}");
        }
    }
}
