//! `search/metric_names`, `search/label_names`, `search/label_values`: names and values that fit what somebody types, best first.
//!
//! Parameters, defaults and answers are those of Prometheus' experimental search API: lines of JSON, each a batch of results, and a
//! last one that says whether there were more.
//! Limits: [`LIMIT_MAX`] results, [`TERMS_MAX`] texts of [`TERM_CHARS_MAX`] characters, candidates of [`CANDIDATE_BYTES_MAX`] bytes;
//! between candidates the deadline is looked at. Only the best results are held, and batches are written as they are read.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header;
use model::{LABEL_NAME, Matcher, Select, SelectError};

use super::api::PromApi;
use super::error::ApiError;
use super::json;
use super::lookup::LookUp;
use super::params::Params;
use super::search_score::{Fuzzy, Term};
use super::status::{object, quoted};
use super::targets::family_named;

/// Results of one request; Prometheus' default of `--web.search.max-limit`.
const LIMIT_MAX: usize = 10_000;
const LIMIT_DEFAULT: usize = 100;
const BATCH_DEFAULT: usize = 100;
/// Texts of one request.
const TERMS_MAX: usize = 32;
const TERM_CHARS_MAX: usize = 256;
/// What is longer is no name that anybody types, and scoring it takes the square of its length.
const CANDIDATE_BYTES_MAX: usize = 4_096;
/// How far back names are looked for when no start is given.
const WINDOW_MS: i64 = 3_600_000;
/// Bytes of candidates between two looks at the clock, each candidate counted with the square of its length.
const LOOK_EVERY: usize = 1 << 16;

/// In which order results come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    Rising,
    Falling,
    Best,
}

/// What is asked for.
#[derive(Clone, Debug)]
struct Search {
    terms: Vec<Term>,
    case_matters: bool,
    order: Order,
    with_score: bool,
    with_metadata: bool,
    limit: usize,
    batch: usize,
}

impl Search {
    fn read(params: &Params) -> Result<Search, ApiError> {
        let case_matters = flag(params, "case_sensitive", true)?;
        let threshold = match params.get("fuzz_threshold") {
            "" => 0,
            text => text
                .parse::<u8>()
                .ok()
                .filter(|n| *n <= 100)
                .ok_or_else(|| ApiError::bad_data(format!("invalid fuzz_threshold {text:?}: must be 0-100")))?,
        };
        let fuzzy = match params.get("fuzz_alg") {
            "" => Fuzzy::default(),
            text => Fuzzy::WORDS.iter().find(|(word, _)| *word == text).map(|(_, fuzzy)| *fuzzy).ok_or_else(|| {
                let known = Fuzzy::WORDS.map(|(word, _)| word).join(" ");
                ApiError::bad_data(format!("unsupported fuzz_alg {text:?}: must be one of [{known}]"))
            })?,
        };
        let texts: Vec<&str> = params.all("search[]").collect();
        if texts.len() > TERMS_MAX {
            return Err(ApiError::bad_data(format!("more than {TERMS_MAX} values of search[]")));
        }
        if texts.iter().any(|text| text.chars().count() > TERM_CHARS_MAX) {
            return Err(ApiError::bad_data(format!("a value of search[] has more than {TERM_CHARS_MAX} characters")));
        }
        let folded = |text: &str| if case_matters { text.to_owned() } else { text.to_lowercase() };
        let terms = texts.iter().map(|text| Term::new(&folded(text), fuzzy, f64::from(threshold) / 100.0)).collect();
        Ok(Search {
            order: read_order(params, texts.is_empty())?,
            terms,
            case_matters,
            with_score: flag(params, "include_score", false)?,
            with_metadata: flag(params, "include_metadata", false)?,
            limit: number(params, "limit", LIMIT_DEFAULT, LIMIT_MAX)?,
            batch: number(params, "batch_size", BATCH_DEFAULT, usize::MAX)?.min(LIMIT_MAX),
        })
    }

    /// Gives the score of a candidate: the best of all texts; `None` when none of them fits.
    fn score(&self, candidate: &str) -> Option<f64> {
        if self.terms.is_empty() {
            return Some(1.0);
        }
        if candidate.len() > CANDIDATE_BYTES_MAX {
            return None;
        }
        let lower = (!self.case_matters).then(|| candidate.to_lowercase());
        let candidate = lower.as_deref().unwrap_or(candidate);
        self.terms.iter().filter_map(|term| term.score(candidate)).reduce(f64::max)
    }

    /// Keeps the first results in the order asked for, and tells whether there were more.
    fn best(
        &self,
        candidates: Vec<String>,
        check_time: impl Fn() -> Result<(), ApiError>,
    ) -> Result<(Vec<Hit>, bool), ApiError> {
        let mut kept = BinaryHeap::new();
        let (mut has_more, mut since_look) = (false, LOOK_EVERY);
        for name in candidates {
            if since_look >= LOOK_EVERY {
                check_time()?;
                since_look = 0;
            }
            let length = name.len().min(CANDIDATE_BYTES_MAX);
            since_look += 64 + length * length * self.terms.len();
            let Some(score) = self.score(&name) else { continue };
            kept.push(Hit { name, score, order: self.order });
            if kept.len() > self.limit {
                kept.pop();
                has_more = true;
            }
        }
        Ok((kept.into_sorted_vec(), has_more))
    }
}

fn flag(params: &Params, name: &str, default: bool) -> Result<bool, ApiError> {
    match params.get(name) {
        "" => Ok(default),
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        text => Err(ApiError::bad_data(format!("invalid {name} {text:?}: must be boolean"))),
    }
}

/// Reads a number; 0 is the default, as no number is.
fn number(params: &Params, name: &str, default: usize, max: usize) -> Result<usize, ApiError> {
    let text = params.get(name);
    if text.is_empty() {
        return Ok(default.min(max));
    }
    // Go reads 64 bits and a sign.
    let number = text.parse::<i64>().ok().and_then(|n| usize::try_from(n).ok());
    match number {
        None => Err(ApiError::bad_data(format!("invalid {name} {text:?}: must be non-negative integer"))),
        Some(n) if n > max => Err(ApiError::bad_data(format!("invalid {name} {text:?}: at most {max} are given"))),
        Some(0) => Ok(default.min(max)),
        Some(n) => Ok(n),
    }
}

fn read_order(params: &Params, without_terms: bool) -> Result<Order, ApiError> {
    let (by, direction) = (params.get("sort_by"), params.get("sort_dir"));
    match (by, direction) {
        ("", "") | ("alpha", "" | "asc") => Ok(Order::Rising),
        ("alpha", "dsc") => Ok(Order::Falling),
        ("score", "") if without_terms => Err(ApiError::bad_data("sort_by=score requires search[] to be set")),
        ("score", "") => Ok(Order::Best),
        ("", _) => Err(ApiError::bad_data("sort_dir is only valid when sort_by is set")),
        ("score", _) => Err(ApiError::bad_data("sort_dir is not supported for sort_by=score")),
        ("alpha", other) => Err(ApiError::bad_data(format!("invalid sort_dir {other:?}: must be \"asc\" or \"dsc\""))),
        (other, _) => Err(ApiError::bad_data(format!("invalid sort_by {other:?}: must be \"alpha\" or \"score\""))),
    }
}

/// A name that fits; the smaller comes first.
#[derive(Debug)]
struct Hit {
    name: String,
    score: f64,
    order: Order,
}

impl Ord for Hit {
    fn cmp(&self, other: &Hit) -> Ordering {
        match self.order {
            Order::Rising => self.name.cmp(&other.name),
            Order::Falling => other.name.cmp(&self.name),
            Order::Best => other.score.total_cmp(&self.score).then_with(|| self.name.cmp(&other.name)),
        }
    }
}

impl PartialOrd for Hit {
    fn partial_cmp(&self, other: &Hit) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Hit {
    fn eq(&self, other: &Hit) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Hit {}

/// `/api/v1/search/metric_names`
pub async fn metric_names(State(api): State<PromApi>, params: Params) -> Result<Response, ApiError> {
    answer(&api, &params, |select, matchers, range| select.label_values(LABEL_NAME, matchers, range)).await
}

/// `/api/v1/search/label_names`
pub async fn label_names(State(api): State<PromApi>, params: Params) -> Result<Response, ApiError> {
    answer(&api, &params, |select, matchers, range| select.label_names(matchers, range)).await
}

/// `/api/v1/search/label_values`
pub async fn label_values(State(api): State<PromApi>, params: Params) -> Result<Response, ApiError> {
    let label = params.get("label").to_owned();
    if label.is_empty() {
        return Err(ApiError::bad_data("missing required parameter \"label\""));
    }
    answer(&api, &params, move |select, matchers, range| select.label_values(&label, matchers, range)).await
}

async fn answer<F>(api: &PromApi, params: &Params, ask: F) -> Result<Response, ApiError>
where
    F: Fn(&dyn Select, &[Matcher], model::TimeRange) -> Result<Vec<String>, SelectError> + Send + 'static,
{
    let now_ms = (api.now)();
    let default = (now_ms.saturating_sub(WINDOW_MS), now_ms);
    let wanted = LookUp::read_within(params, default, api.queries.deadline())?;
    let search = Search::read(params)?;
    let found = api.queries.look_up(move |select| {
        let candidates = wanted.join(|matchers| ask(select, matchers, wanted.range()))?;
        let (hits, has_more) = search.best(candidates, || wanted.check_time())?;
        let lines: Vec<String> = hits.into_iter().map(|hit| line(select, &search, &hit)).collect();
        Ok((lines, has_more, search.batch))
    });
    let (lines, has_more, batch) = found.await?;
    Ok(streamed(lines, has_more, batch))
}

/// Writes one result.
fn line(select: &dyn Select, search: &Search, hit: &Hit) -> String {
    let mut members = vec![("name", quoted(&hit.name))];
    if search.with_score {
        let mut score = Vec::new();
        json::float(&mut score, hit.score);
        members.push(("score", String::from_utf8(score).unwrap_or_default()));
    }
    if search.with_metadata
        && let Some(family) = family_named(select, &hit.name)
    {
        let known = [("type", family.metric_type.as_str()), ("help", &family.help), ("unit", &family.unit)];
        members.extend(known.iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| (*name, quoted(text))));
    }
    let mut out = Vec::new();
    object(&mut out, &members);
    String::from_utf8(out).unwrap_or_default()
}

/// Sends the results a batch at a time; at least one batch comes, if it is empty.
fn streamed(lines: Vec<String>, has_more: bool, batch: usize) -> Response {
    let count = lines.len().div_ceil(batch.max(1)).max(1);
    let mut rest = lines.into_iter();
    let batches = (0..count).map(move |_| {
        let results: Vec<String> = rest.by_ref().take(batch).collect();
        format!("{{\"results\":[{}]}}\n", results.join(","))
    });
    let last = format!("{{\"status\":\"success\",\"has_more\":{has_more}}}\n");
    let all = batches.chain([last]).map(|line| Ok::<_, std::convert::Infallible>(Bytes::from(line)));
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson; charset=utf-8")];
    (kind, Body::from_stream(futures_util::stream::iter(all))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(query: &str) -> Result<Search, String> {
        Search::read(&Params::parse(query)).map_err(|e| e.text)
    }

    fn found(query: &str, names: &[&str]) -> (Vec<String>, bool) {
        let candidates = names.iter().map(|name| (*name).to_owned()).collect();
        let (hits, more) = search(query).unwrap().best(candidates, || Ok(())).unwrap();
        (hits.into_iter().map(|hit| hit.name).collect(), more)
    }

    #[test]
    fn parameters_speak_like_prometheus() {
        for (query, text) in [
            ("fuzz_threshold=101", "invalid fuzz_threshold \"101\": must be 0-100"),
            ("fuzz_threshold=-1", "invalid fuzz_threshold \"-1\": must be 0-100"),
            ("fuzz_alg=x", "unsupported fuzz_alg \"x\": must be one of [subsequence jarowinkler]"),
            ("case_sensitive=maybe", "invalid case_sensitive \"maybe\": must be boolean"),
            ("sort_dir=asc", "sort_dir is only valid when sort_by is set"),
            ("sort_by=score&search[]=a&sort_dir=asc", "sort_dir is not supported for sort_by=score"),
            ("sort_by=alpha&sort_dir=up", "invalid sort_dir \"up\": must be \"asc\" or \"dsc\""),
            ("sort_by=score", "sort_by=score requires search[] to be set"),
            ("sort_by=age", "invalid sort_by \"age\": must be \"alpha\" or \"score\""),
            ("limit=-1", "invalid limit \"-1\": must be non-negative integer"),
            ("limit=10001", "invalid limit \"10001\": at most 10000 are given"),
            ("limit=99999999999999999999", "invalid limit \"99999999999999999999\": must be non-negative integer"),
            ("batch_size=x", "invalid batch_size \"x\": must be non-negative integer"),
        ] {
            assert_eq!(search(query).err().as_deref(), Some(text), "{query}");
        }
        let default = search("").unwrap();
        assert_eq!((default.limit, default.batch, default.order), (100, 100, Order::Rising));
        let zero = search("limit=0&batch_size=0").unwrap();
        assert_eq!((zero.limit, zero.batch), (100, 100));
        assert_eq!(search("batch_size=9223372036854775807").unwrap().batch, LIMIT_MAX);
    }

    #[test]
    fn texts_are_bounded_in_number_and_length() {
        assert!(search(&"search[]=a&".repeat(TERMS_MAX)).is_ok());
        assert!(search(&"search[]=a&".repeat(TERMS_MAX + 1)).is_err());
        assert!(search(&format!("search[]={}", "é".repeat(TERM_CHARS_MAX))).is_ok());
        assert!(search(&format!("search[]={}", "é".repeat(TERM_CHARS_MAX + 1))).is_err());
        let long = "a".repeat(CANDIDATE_BYTES_MAX + 1);
        assert_eq!(found("search[]=a", &[&long]), (vec![], false));
        assert_eq!(found("", &[&long]), (vec![long.clone()], false));
    }

    #[test]
    fn the_first_of_the_order_are_kept_and_more_is_told() {
        let names = ["up", "http_requests_total", "http_errors_total", "go_threads", "HTTP_x"];
        let of = |query: &str| found(query, &names);
        let texts = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(of("limit=2"), (texts(&["HTTP_x", "go_threads"]), true));
        assert_eq!(of("sort_by=alpha&sort_dir=dsc&limit=2"), (texts(&["up", "http_requests_total"]), true));
        assert_eq!(of("search[]=http"), (texts(&["http_errors_total", "http_requests_total"]), false));
        assert_eq!(of("search[]=http&case_sensitive=false&limit=3").0.len(), 3);
        // A prefix is best, and of equals the smaller name comes first.
        let best = of("search[]=http_r&search[]=total&sort_by=score&limit=2");
        assert_eq!(best, (texts(&["http_requests_total", "http_errors_total"]), false));
        assert_eq!(of("search[]=up&search[]=go&limit=5"), (texts(&["go_threads", "up"]), false));
    }

    #[test]
    fn a_search_ends_at_its_deadline() {
        let candidates = vec!["a".to_owned(); LOOK_EVERY / 64 + 1];
        let looks = std::cell::Cell::new(0);
        let late = || {
            looks.set(looks.get() + 1);
            if looks.get() > 1 { Err(ApiError::bad_data("late")) } else { Ok(()) }
        };
        assert!(search("").unwrap().best(candidates, late).is_err());
        assert_eq!(looks.get(), 2);
    }

    #[tokio::test]
    async fn batches_are_lines_and_the_last_line_says_how_it_ended() {
        for (count, batch, more, expected) in [
            (0, 2, false, "{\"results\":[]}\n{\"status\":\"success\",\"has_more\":false}\n"),
            (2, 2, false, "{\"results\":[0,1]}\n{\"status\":\"success\",\"has_more\":false}\n"),
            (3, 2, true, "{\"results\":[0,1]}\n{\"results\":[2]}\n{\"status\":\"success\",\"has_more\":true}\n"),
        ] {
            let lines = (0..count).map(|n: i32| n.to_string()).collect();
            let response = streamed(lines, more, batch);
            assert_eq!(response.headers()[header::CONTENT_TYPE], "application/x-ndjson; charset=utf-8");
            let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
            assert_eq!(body, expected.as_bytes());
        }
    }
}
