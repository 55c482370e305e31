//! `/api/v1/admin/tsdb/*`: delete series, bring the space of deleted samples back, snapshot. Off unless switched on, as
//! in Prometheus.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use jiff::Timestamp;
use model::TimeRange;
use store::{Doomed, MaintenanceError, Store};

use super::api::PromApi;
use super::error::{ApiError, ErrorKind, json_response};
use super::json;
use super::params::{Params, TIME_MAX_MS, TIME_MIN_MS};

/// Does something that has to come before the head goes into blocks; the error is a sentence.
pub type BeforeFlush = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What the administration works with.
pub struct Admin {
    /// The samples.
    pub store: Arc<Store>,
    /// Called before the head goes into blocks.
    pub before_flush: BeforeFlush,
}

/// What is asked.
enum Order {
    Delete(Vec<Doomed>, TimeRange),
    Clean,
    Snapshot { name: String, with_head: bool },
}

/// `/api/v1/admin/tsdb/{verb}`
pub async fn admin(State(api): State<PromApi>, Path(verb): Path<String>, params: Params) -> Result<Response, Response> {
    let Some(admin) = api.admin.clone() else { return Err(disabled()) };
    let order = read(&verb, &params, (api.now)()).map_err(IntoResponse::into_response)?;
    let name = match &order {
        Some(Order::Snapshot { name, .. }) => Some(name.clone()),
        Some(_) => None,
        None => return Err((StatusCode::NOT_FOUND, "404 page not found\n").into_response()),
    };
    let done = tokio::task::spawn_blocking(move || order.map_or(Ok(()), |order| carry_out(&admin, order)));
    match done.await {
        Ok(Ok(())) => Ok(match name {
            None => StatusCode::NO_CONTENT.into_response(),
            Some(name) => {
                let mut data = b"{\"name\":".to_vec();
                json::string(&mut data, &name);
                data.push(b'}');
                json_response(StatusCode::OK, json::success(&data, &[], &[]))
            }
        }),
        Ok(Err(why)) => Err(ApiError::new(ErrorKind::Internal, why).into_response()),
        Err(_) => Err(ApiError::new(ErrorKind::Internal, "the request met a bug; the log says more").into_response()),
    }
}

/// As a Prometheus without `--web.enable-admin-api`, which says so with a 500.
fn disabled() -> Response {
    let mut response = ApiError::new(ErrorKind::Unavailable, "admin APIs disabled").into_response();
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}

fn read(verb: &str, params: &Params, now_ms: i64) -> Result<Option<Order>, ApiError> {
    Ok(Some(match verb {
        "delete_series" => {
            if params.all("match[]").next().is_none() {
                return Err(ApiError::bad_data("no match[] parameter provided"));
            }
            let start_ms = params.time_ms_or("start", TIME_MIN_MS)?;
            let end_ms = params.time_ms_or("end", TIME_MAX_MS)?;
            let sets = params.selectors(|text| promql::parse_selector(text).map_err(|e| e.to_string()))?;
            Order::Delete(sets.into_iter().map(Doomed::Matching).collect(), TimeRange { start_ms, end_ms })
        }
        "clean_tombstones" => Order::Clean,
        "snapshot" => Order::Snapshot { name: snapshot_name(now_ms), with_head: !skip_head(params)? },
        _ => return Ok(None),
    }))
}

fn skip_head(params: &Params) -> Result<bool, ApiError> {
    match params.get("skip_head") {
        "" | "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        other => {
            let text = format!(
                "unable to parse boolean \"skip_head\" argument: strconv.ParseBool: parsing {other:?}: invalid syntax"
            );
            Err(ApiError::invalid_parameter("skip_head", text))
        }
    }
}

/// A name as Prometheus gives: the time and sixteen digits that tell two of a second apart.
fn snapshot_name(now_ms: i64) -> String {
    let time = Timestamp::from_millisecond(now_ms).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{}-{:016x}", time.strftime("%Y%m%dT%H%M%SZ"), RandomState::new().hash_one(now_ms))
}

fn carry_out(admin: &Admin, order: Order) -> Result<(), String> {
    let text = |error: MaintenanceError| error.to_string();
    match order {
        Order::Delete(doomed, range) => {
            (admin.before_flush)()?;
            tracing::info!(?doomed, ?range, "samples are deleted by request");
            admin.store.delete_series(&doomed, range).map_err(text)
        }
        Order::Clean => admin.store.clean_tombstones().map(drop).map_err(text),
        Order::Snapshot { name, with_head } => {
            (admin.before_flush)()?;
            admin.store.snapshot(&name, with_head).map(drop).map_err(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_switches_are_prometheus() {
        let name = snapshot_name(1_512_940_344_000);
        assert!(name.starts_with("20171210T211224Z-") && name.len() == 33, "{name}");
        assert_ne!(name, snapshot_name(1_512_940_344_000));
        let skip = |text: &str| skip_head(&Params::parse(text)).map_err(|e| e.kind);
        assert_eq!([skip(""), skip("skip_head=true"), skip("skip_head=0")], [Ok(false), Ok(true), Ok(false)]);
        assert_eq!(skip("skip_head=maybe"), Err(ErrorKind::BadData));
    }
}
