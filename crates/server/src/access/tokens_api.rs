//! `/api/v1/metrics/tokens`: tokens made, listed and revoked while the server runs. For admins.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRef, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::book::{TOKENS_MAX, Written};
use super::role::{Roles, WORDS};
use super::settings::AuthSettings;
use super::token::{self, TokenHash};
use super::{Access, Refused};
use crate::rest::body::{parse, read_json};
use crate::rest::fields::{Fields, Issues, Severity};
use crate::rest::problem::Problem;
use crate::rest::registration::is_target_id;
use crate::rest::time;

/// Bytes of a request.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Sources of one token.
const SOURCES_MAX: usize = 1_000;

/// A token, without what only its owner knows.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TokenShown {
    /// How it is called.
    pub name: String,
    /// read, write, admin.
    pub roles: Vec<String>,
    /// The sources that it may write as; empty for all.
    pub source_ids: Vec<String>,
    /// RFC 3339; null for never.
    pub expires: Option<String>,
    /// Requests in a second.
    pub requests_per_second: Option<f64>,
    /// Samples in a second.
    pub samples_per_second: Option<f64>,
    /// The first digits of its hash.
    pub sha256_8: String,
    /// `configuration` or `api`; only the latter can be revoked here.
    pub origin: String,
    /// The token itself: in the answer that makes it, and never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// What a new token shall be; for the document only.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct TokenRequest {
    /// `[A-Za-z0-9._:-]{1,100}`.
    name: String,
    /// read, write or admin; some.
    roles: Vec<String>,
    /// With the role write alone.
    source_ids: Option<Vec<String>>,
    /// Such as `90d`; for ever when absent.
    expires_in: Option<String>,
    /// Requests in a second.
    requests_per_second: Option<f64>,
    /// Samples in a second.
    samples_per_second: Option<f64>,
}

impl From<std::io::Error> for Problem {
    fn from(error: std::io::Error) -> Problem {
        let detail = format!("the tokens could not be written: {error}; nothing has changed");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "tokens_unavailable", detail).retry_after_ms(5_000)
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Problem {
        Problem::new(StatusCode::CONFLICT, "no_way_in", refused.0)
    }
}

/// Makes the routes; the state must give the access.
pub fn router<S>() -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    Arc<Access>: FromRef<S>,
{
    const PATH: &str = "/api/v1/metrics/tokens";
    Router::new().route(PATH, get(list).post(create)).route(&format!("{PATH}/{{name}}"), delete(revoke))
}

/// Lists tokens.
#[utoipa::path(
    get, path = "/api/v1/metrics/tokens", tag = "access",
    responses((status = 200, description = "All tokens, without what they are", body = [TokenShown]))
)]
pub async fn list(State(access): State<Arc<Access>>) -> Json<Vec<TokenShown>> {
    let auth = access.auth.lock().clone();
    let mut all: Vec<TokenShown> = auth
        .tokens
        .iter()
        .map(|entry| TokenShown {
            name: entry.name.clone(),
            roles: entry.roles.words().into_iter().map(str::to_owned).collect(),
            source_ids: entry.source_ids.clone(),
            expires: entry.expires_at_ms.map(time::to_text),
            requests_per_second: entry.rates.requests_per_second,
            samples_per_second: entry.rates.samples_per_second,
            sha256_8: entry.hash.to_hex()[..8].to_owned(),
            origin: "configuration".to_owned(),
            token: None,
        })
        .collect();
    all.extend(access.book.lock().tokens.iter().map(|written| shown(written, None)));
    Json(all)
}

fn shown(written: &Written, token: Option<String>) -> TokenShown {
    TokenShown {
        name: written.name.clone(),
        roles: written.roles.clone(),
        source_ids: written.source_ids.clone(),
        expires: written.expires.clone(),
        requests_per_second: written.requests_per_second,
        samples_per_second: written.samples_per_second,
        sha256_8: written.sha256.chars().take(8).collect(),
        origin: "api".to_owned(),
        token,
    }
}

/// Makes a token.
#[utoipa::path(
    post, path = "/api/v1/metrics/tokens", tag = "access", request_body = TokenRequest,
    responses(
        (status = 201, description = "In force; the token is in this answer and nowhere else", body = TokenShown),
        (status = 400, description = "Not understood", body = crate::rest::problem::ProblemBody),
        (status = 409, description = "There is one of that name, or an admin's token must come first", body = crate::rest::problem::ProblemBody),
    )
)]
pub async fn create(State(access): State<Arc<Access>>, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let bytes = read_json(&headers, body, BODY_BYTES_MAX).await?;
    let mut written = read(&parse(&bytes)?, access.now_ms())?;
    let token = token::make().map_err(|e| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", e))?;
    written.sha256 = TokenHash::of(&token).to_hex();
    let answer = shown(&written, Some(token));
    on_disk(&access, move |auth, tokens| {
        let name = &written.name;
        if tokens.iter().any(|t| t.name == *name) || auth.tokens.iter().any(|t| t.name == *name) {
            let detail = format!("there is a token {name:?} already");
            return Err(Problem::new(StatusCode::CONFLICT, "token_exists", detail));
        }
        if tokens.len() >= TOKENS_MAX {
            let detail = format!("there are {TOKENS_MAX} tokens already");
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "too_many_tokens", detail));
        }
        tokens.push(written);
        Ok(())
    })
    .await?;
    let mut response = (StatusCode::CREATED, Json(answer)).into_response();
    response.headers_mut().insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Revokes a token.
#[utoipa::path(
    delete, path = "/api/v1/metrics/tokens/{name}", tag = "access",
    params(("name" = String, Path, description = "Names the token")),
    responses(
        (status = 204, description = "It is worth nothing any more"),
        (status = 404, description = "There is none of that name", body = crate::rest::problem::ProblemBody),
        (status = 409, description = "It stands in the configuration, or everybody would be let in without it", body = crate::rest::problem::ProblemBody),
    )
)]
pub async fn revoke(State(access): State<Arc<Access>>, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    on_disk(&access, move |auth, tokens| {
        let before = tokens.len();
        tokens.retain(|t| t.name != name);
        if tokens.len() < before {
            return Ok(());
        }
        let shown: String = name.chars().take(100).collect();
        if auth.tokens.iter().any(|t| t.name == name) {
            let detail = format!("token {shown:?} stands in the configuration: take it out there and reload");
            return Err(Problem::new(StatusCode::CONFLICT, "managed_by_configuration", detail));
        }
        Err(Problem::not_found(format!("there is no token {shown:?}")))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn on_disk(
    access: &Arc<Access>,
    change: impl FnOnce(&AuthSettings, &mut Vec<Written>) -> Result<(), Problem> + Send + 'static,
) -> Result<(), Problem> {
    let access = access.clone();
    let done = tokio::task::spawn_blocking(move || access.change_book(change)).await;
    done.unwrap_or_else(|_| Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the request failed")))
}

fn read(body: &Value, now_ms: i64) -> Result<Written, Problem> {
    let mut issues = Issues::new(true);
    let written = read_fields(body, now_ms, &mut issues);
    issues.into_result()?;
    written.ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, "malformed", "not a token"))
}

fn read_fields(body: &Value, now_ms: i64, issues: &mut Issues) -> Option<Written> {
    let mut f = Fields::open(body, "", issues)?;
    let name = f.string("name");
    let name = f.require("name", name).unwrap_or_default();
    if !is_target_id(name) {
        f.issue(Severity::Refused, "name", "invalid_id", "name is not [A-Za-z0-9._:-]{1,100}");
    }
    let mut words = texts(&mut f, "roles", 3);
    words.extend(f.string("role").map(str::to_owned));
    let roles = Roles::parse_all(&words);
    if roles.is_none_or(|roles| roles == Roles::NONE) {
        f.issue(Severity::Malformed, "roles", "unknown_value", format!("roles holds some of {WORDS}"));
    }
    let source_ids = texts(&mut f, "source_ids", SOURCES_MAX);
    if !source_ids.is_empty() && roles.is_some_and(|roles| !roles.only_writes()) {
        let detail = "source_ids limits what is written, not what is read or changed: the role must be write alone";
        f.issue(Severity::Refused, "source_ids", "not_applicable", detail);
    }
    let lives_ms = f.duration_ms("expires_in", "expires_in_ms");
    let requests_per_second = rate(&mut f, "requests_per_second");
    let samples_per_second = rate(&mut f, "samples_per_second");
    f.finish();
    let expires_at =
        lives_ms.map(|ms| now_ms.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX)).min(253_402_300_799_000));
    Some(Written {
        name: name.to_owned(),
        sha256: String::new(),
        roles: roles?.words().into_iter().map(str::to_owned).collect(),
        source_ids,
        expires: expires_at.map(time::to_text),
        requests_per_second,
        samples_per_second,
        created_at: time::to_text(now_ms),
    })
}

fn texts(f: &mut Fields, name: &'static str, max: usize) -> Vec<String> {
    let all = f.array(name).cloned().unwrap_or_default();
    let texts: Option<Vec<String>> = all.iter().map(|v| v.as_str().map(str::to_owned)).collect();
    match texts {
        Some(texts) if texts.len() <= max => texts,
        Some(_) => {
            f.issue(Severity::Refused, name, "too_long", format!("{name}: at most {max}"));
            Vec::new()
        }
        None => {
            f.issue(Severity::Malformed, name, "wrong_type", format!("{name}: expected texts"));
            Vec::new()
        }
    }
}

fn rate(f: &mut Fields, name: &'static str) -> Option<f64> {
    let value = f.value(name)?;
    let rate = value.as_f64().filter(|rate| rate.is_finite() && *rate > 0.0);
    if rate.is_none() {
        f.issue(Severity::Malformed, name, "wrong_type", format!("{name}: expected a number above 0"));
    }
    rate
}
