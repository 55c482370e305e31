//! The guard: every request passes it before its body is read.
//!
//! Who asks → what the route asks for ([`super::table`]) → as which source → how often. A request that is let through runs with its pass
//! in force.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::HttpBody;
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, header};

use super::Access;
use super::audit::Entry;
use super::pass::Pass;
use super::role::Need;
use super::subject::Subject;
use super::table::{self, Named, Row};
use super::who::Unknown;
use crate::otlp;
use crate::prom::params::Params;
use crate::push::GroupKey;
use crate::rest::time;
use crate::run::inflight::discard;
use crate::run::shape::{Early, Shape};
use crate::stream;

/// Who the client is by its certificate; an extension of its requests.
#[derive(Clone)]
pub struct Peer(pub Arc<Subject>);

/// Characters of a path in logs.
const PATH_CHARS_MAX: usize = 500;
/// What browsers and libraries are told to show.
const CHALLENGE: &str = "Bearer realm=\"quiver\", Basic realm=\"quiver\", charset=\"UTF-8\"";

/// Why a request is turned away.
struct Denied {
    status: StatusCode,
    code: &'static str,
    text: String,
    retry_after_s: Option<f64>,
}

impl Denied {
    fn new(status: StatusCode, code: &'static str, text: impl Into<String>) -> Denied {
        Denied { status, code, text: text.into(), retry_after_s: None }
    }

    fn forbidden(text: impl Into<String>) -> Denied {
        Denied::new(StatusCode::FORBIDDEN, "forbidden", text)
    }

    fn decorate(&self, response: &mut Response) {
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
        }
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.clamp(1.0, 3_600.0).ceil() as u64));
        }
    }
}

/// The layer of the HTTP routes.
pub async fn guard(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let shape = Shape::of(request.uri().path(), request.headers());
    guarded(access, request, next, |denied| {
        let again = denied.retry_after_s.is_some();
        shape.answer(Early { status: denied.status, code: denied.code, text: denied.text.clone(), again })
    })
    .await
}

/// The layer of the gRPC port.
pub async fn guard_grpc(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    guarded(access, request, next, |denied| otlp::grpc::turned_away(denied.status, &denied.text)).await
}

async fn guarded(access: Arc<Access>, request: Request, next: Next, answer: impl Fn(&Denied) -> Response) -> Response {
    let (mut parts, body) = request.into_parts();
    let route = Route::of(&parts);
    let from = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.to_string()).unwrap_or_default();
    let (audited, entry) = (route.is_audited(&access, &parts.method), entry(&parts, from));
    match judge(&access, &mut parts, &route, &entry).await {
        Ok(pass) => {
            access.stats.pass();
            let name = pass.name.clone();
            let mut line = Line { access: &access, entry: audited.then_some(entry) };
            line.say(&name, GONE);
            let response = pass.with(next.run(Request::from_parts(parts, body))).await;
            line.say(&name, response.status().as_u16());
            response
        }
        Err((who, denied)) => {
            let mut line = Line { access: &access, entry: Some(entry).filter(|_| audited && who.is_some()) };
            line.say(who.as_deref().unwrap_or_default(), denied.status.as_u16());
            if !body.is_end_stream() {
                discard(&parts.headers, body).await;
            }
            let mut response = answer(&denied);
            denied.decorate(&mut response);
            response
        }
    }
}

/// The status of a request whose sender went away: what it began goes on all the same.
const GONE: u16 = 499;

/// A line of the audit log that is written whatever becomes of the request.
struct Line<'a> {
    access: &'a Access,
    entry: Option<Entry>,
}

impl Line<'_> {
    fn say(&mut self, who: &str, status: u16) {
        if let Some(entry) = &mut self.entry {
            who.clone_into(&mut entry.who);
            entry.status = status;
        }
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.access.note(entry);
        }
    }
}

/// What is known of a request's route.
struct Route {
    row: Option<&'static Row>,
    need: Need,
}

impl Route {
    fn of(parts: &Parts) -> Route {
        let Some(matched) = parts.extensions.get::<MatchedPath>() else {
            // There is nothing, which is nobody's business but of those who may come in.
            return Route { row: None, need: Need::Anybody };
        };
        let Some(row) = table::row_of(matched.as_str()) else { return Route { row: None, need: Need::Admin } };
        let upgrade = parts.headers.contains_key(header::UPGRADE)
            || parts.headers.contains_key(header::SEC_WEBSOCKET_KEY)
            || parts.method == Method::CONNECT;
        // A WebSocket that selects series is a reader.
        let brings = upgrade && !stream::selects(&Params::parse(parts.uri.query().unwrap_or("")));
        let known = row.needs.iter().find(|(method, _)| *method == "UPGRADE" && brings);
        let need = known.map_or_else(|| row.need(parts.method.as_str()), |(_, need)| *need);
        Route { row: Some(row), need }
    }

    fn is_audited(&self, access: &Access, method: &Method) -> bool {
        let changes = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        changes
            && match self.need {
                Need::Admin | Need::Manage => true,
                Need::Write => *method == Method::DELETE || access.rules().audit_ingestion,
                _ => false,
            }
    }
}

fn entry(parts: &Parts, from: String) -> Entry {
    let path = parts.uri.path().chars().take(PATH_CHARS_MAX).collect();
    Entry { time: String::new(), who: String::new(), from, method: parts.method.to_string(), path, status: 0 }
}

/// Decides; of one who is turned away the name is given if there is one.
async fn judge(
    access: &Arc<Access>,
    parts: &mut Parts,
    route: &Route,
    entry: &Entry,
) -> Result<Arc<Pass>, (Option<String>, Denied)> {
    let subject = parts.extensions.get::<Peer>().map(|peer| peer.0.clone());
    let rules = access.rules();
    let pass = rules.who(&parts.headers, subject.as_deref(), &access.passwords, access.now_ms()).await;
    let pass = pass.map_err(|unknown| (None, turned_away(access, unknown, entry)))?;
    let named = |denied| (Some(pass.name.clone()), denied);
    if is_cross_site(parts, route) {
        access.stats.forbid();
        let text = "a page of another site may not make a browser do this";
        return Err(named(Denied::new(StatusCode::FORBIDDEN, "cross_site", text)));
    }
    if let Some(Err(wait)) = pass.requests.as_ref().map(|bucket| bucket.take(1.0)) {
        access.stats.limit();
        let text = format!("{} asks more often than it may", pass.name);
        let denied = Denied::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", text);
        return Err(named(Denied { retry_after_s: Some(wait), ..denied }));
    }
    let allowed =
        if pass.roles.meet(route.need) { as_source(&pass, route, parts) } else { Err(lacking(&pass, route, parts)) };
    match allowed {
        Ok(()) => Ok(pass),
        Err(denied) => {
            access.stats.forbid();
            Err(named(denied))
        }
    }
}

fn turned_away(access: &Access, unknown: Unknown, entry: &Entry) -> Denied {
    match unknown {
        Unknown::Bad(reason) => {
            access.stats.fail(reason, &entry.from, &entry.path);
            let text = match reason {
                "nothing_shown" => "show who you are: Authorization: Bearer <token>, or Basic with a password or token",
                "certificate" => "the client certificate is of nobody who is known here",
                "no_role" => "the token's claims give no role here",
                "expired" => "the token has expired",
                _ => "what the request shows is not known here, or not any more",
            };
            Denied::new(StatusCode::UNAUTHORIZED, "unauthorized", text)
        }
        Unknown::Busy => {
            access.stats.limit();
            let denied = Denied::new(StatusCode::TOO_MANY_REQUESTS, "busy", "too many passwords are being checked");
            Denied { retry_after_s: Some(1.0), ..denied }
        }
    }
}

/// Tells whether a browser says that a page of another site makes it change something, or listen over a WebSocket, which it may read:
/// the browser would show passwords that it remembers, and where everybody is let in it needs none.
fn is_cross_site(parts: &Parts, route: &Route) -> bool {
    let upgrade = parts.headers.contains_key(header::UPGRADE);
    let safe =
        matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS) && route.need != Need::Write && !upgrade;
    !safe && parts.headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site")
}

fn lacking(pass: &Pass, route: &Route, parts: &Parts) -> Denied {
    let path: String = parts.uri.path().chars().take(200).collect();
    let (has, needs) = (pass.roles, route.need.role());
    Denied::forbidden(format!("{} has the role {has}; {} {path} needs {needs}", pass.name, parts.method))
}

/// Checks as which source a request writes, where its head says it; who names none and has one writes as that.
fn as_source(pass: &Pass, route: &Route, parts: &mut Parts) -> Result<(), Denied> {
    let Some(sources) = &pass.sources else { return Ok(()) };
    let foreign = |what: &str, name: &str| {
        let shown: String = name.chars().take(100).collect();
        Err(Denied::forbidden(format!("{} may not write as {what} {shown:?}", pass.name)))
    };
    match (route.need, route.row.map_or(Named::No, |row| row.named)) {
        (Need::Manage, _) => {
            let text =
                format!("{} writes for some sources only; targets are managed by those who write for all", pass.name);
            Err(Denied::forbidden(text))
        }
        (Need::Write, Named::Source) => {
            let params = Params::parse(parts.uri.query().unwrap_or(""));
            let header = parts.headers.get_all("x-source-id").iter().map(|v| v.to_str().unwrap_or("?"));
            let named: Vec<&str> = params.all("source_id").chain(header).collect();
            if let Some(other) = named.iter().find(|name| !pass.writes_as(name)) {
                return foreign("source", other);
            }
            if !named.is_empty() {
                return Ok(());
            }
            match sources.as_slice() {
                [only] if let Ok(value) = HeaderValue::from_str(only) => {
                    parts.headers.insert("x-source-id", value);
                    Ok(())
                }
                _ => Err(Denied::forbidden(format!("{}: say with ?source_id= as which source", pass.name))),
            }
        }
        (Need::Write, Named::Job) => match GroupKey::from_path(parts.uri.path()) {
            Ok(key) if !pass.writes_as(key.job()) => foreign("job", key.job()),
            // Who handles it says what is wrong with it.
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

impl Access {
    /// Writes a line of the audit log.
    fn note(&self, mut entry: Entry) {
        if let Some(audit) = self.audit.get() {
            entry.time = time::to_text(self.now_ms());
            audit.note(entry);
        }
    }
}
