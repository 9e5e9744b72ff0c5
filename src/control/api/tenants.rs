//! The management API: tenants made, changed, looked at and deleted (spec: http-api 3).
//!
//! What comes in: requests that came through the edge. What goes out: what the registrar says, in the original's words. What always
//! holds: without a token of an operator there is nothing but 403, also for tenants that do not exist, and no body of a client leads to a
//! 500 (`no_body_is_a_500`). Deliberately absent: what a change means; the registrar knows that.

use super::Api;
use super::body::Parameters;
use super::exchange::Exchange;
use super::respond::{self, Refused};
use crate::control::clock;
use crate::control::registrar::{Failure, Stored};
use crate::control::store::TenantRecord;
use crate::error::ErrorCode;
use crate::limits;
use crate::logging::timestamp;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use hyper::header::{HeaderValue, LOCATION};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use serde_json::{Map, Value, json};

type Name = Result<Path<String>, PathRejection>;
type Outcome = Result<Response<Body>, Refused>;

/// `GET /api/tenants`.
pub async fn list(State(api): State<Api>, request: Request) -> Response<Body> {
    let (head, _) = request.into_parts();
    let outcome = async {
        admit(&api, &head)?;
        let records = api.registrar.list().await.map_err(refusal)?;
        let shown: Vec<Value> = records.iter().map(shown).collect();
        Ok(data(StatusCode::OK, shown.into()))
    };
    whole(outcome.await)
}

/// `POST /api/tenants`.
pub async fn post(State(api): State<Api>, request: Request) -> Response<Body> {
    let (head, _) = request.into_parts();
    let outcome = async {
        admit(&api, &head)?;
        let stored = api.registrar.post(description(&head)?).await;
        let stored = stored.map_err(refusal)?;
        Exchange::of(&head).take_tenant(stored.record.external_id.as_str().into());
        Ok(answer(&stored))
    };
    whole(outcome.await)
}

/// `GET /api/tenants/{tenant}`.
pub async fn get(State(api): State<Api>, name: Name, request: Request) -> Response<Body> {
    let (head, _) = request.into_parts();
    let outcome = async {
        admit(&api, &head)?;
        let record = api
            .registrar
            .get(named(&head, name)?)
            .await
            .map_err(refusal)?;
        Ok(record.map_or_else(not_found, |record| data(StatusCode::OK, shown(&record))))
    };
    whole(outcome.await)
}

/// `PUT` and `PATCH /api/tenants/{tenant}`.
pub async fn put(State(api): State<Api>, name: Name, request: Request) -> Response<Body> {
    let (head, _) = request.into_parts();
    let outcome = async {
        admit(&api, &head)?;
        let stored = api
            .registrar
            .put(named(&head, name)?, description(&head)?)
            .await;
        stored.map(|stored| answer(&stored)).map_err(refusal)
    };
    whole(outcome.await)
}

/// `DELETE /api/tenants/{tenant}`.
pub async fn delete(State(api): State<Api>, name: Name, request: Request) -> Response<Body> {
    let (head, _) = request.into_parts();
    let outcome = async {
        admit(&api, &head)?;
        api.registrar
            .delete(named(&head, name)?)
            .await
            .map_err(refusal)?;
        Ok(respond::empty(StatusCode::NO_CONTENT))
    };
    whole(outcome.await)
}

/// `POST /api/tenants/{tenant}/reload`.
pub async fn reload(State(api): State<Api>, name: Name, request: Request) -> Response<Body> {
    let (head, _) = request.into_parts();
    let outcome = async {
        admit(&api, &head)?;
        let is_there = api.registrar.reload(named(&head, name)?).await;
        is_there.map(done).map_err(refusal)
    };
    whole(outcome.await)
}

/// `POST /api/tenants/{tenant}/shutdown`.
pub async fn shutdown(State(api): State<Api>, name: Name, request: Request) -> Response<Body> {
    let (head, _) = request.into_parts();
    let outcome = async {
        admit(&api, &head)?;
        let is_there = api.registrar.shut_down(named(&head, name)?).await;
        is_there.map(done).map_err(refusal)
    };
    whole(outcome.await)
}

/// `GET /api/tenants/{tenant}/health`.
pub async fn health(State(api): State<Api>, name: Name, request: Request) -> Response<Body> {
    let (head, _) = request.into_parts();
    let outcome = async {
        admit(&api, &head)?;
        let health = api
            .registrar
            .health(named(&head, name)?)
            .await
            .map_err(refusal)?;
        let Some(health) = health else {
            return Ok(not_found());
        };
        let shown = json!({
            "healthy": health.is_healthy,
            "db_connected": health.is_connected,
            "replication_connected": health.is_replicating,
            "connected_cluster": health.users,
            "region": api.region,
            "node": api.node,
        });
        Ok(data(StatusCode::OK, shown))
    };
    whole(outcome.await)
}

fn whole(outcome: Outcome) -> Response<Body> {
    outcome.unwrap_or_else(|answer| *answer)
}

/// Format first, then the token, as in the original.
fn admit(api: &Api, head: &Parts) -> Result<(), Refused> {
    Exchange::of(head).check_accept(head, &["json"])?;
    let gate = api.api_gate.borrow();
    if gate.lets_pass(&head.headers, clock::unix_seconds()) {
        Ok(())
    } else {
        Err(respond::empty(StatusCode::FORBIDDEN).into())
    }
}

/// The tenant that the path names: what is logged of the request is about it, whether or not it is there.
fn named(head: &Parts, name: Name) -> Result<String, Refused> {
    let bad = |_| {
        let answer = respond::phrase_json(StatusCode::BAD_REQUEST);
        let exception = "Plug.Conn.InvalidQueryError - the name in the path is no text";
        Refused::new(respond::because_of(answer, exception))
    };
    let Path(name) = name.map_err(bad)?;
    if name.len() <= limits::TENANT_NAME_BYTES_MAX {
        Exchange::of(head).take_tenant(name.as_str().into());
    }
    Ok(name)
}

/// The `tenant` of a body. Ours: one that is no object is the client's mistake, where the original fails.
fn description(head: &Parts) -> Result<Map<String, Value>, Refused> {
    let parameters: &Parameters = head
        .extensions
        .get()
        .expect("the edge reads the body of every request");
    let parameters: Option<Map<String, Value>> = serde_json::from_str(parameters.object()).ok();
    match parameters.and_then(|mut parameters| parameters.remove("tenant")) {
        Some(Value::Object(description)) => Ok(description),
        _ => {
            let answer = respond::phrase_json(StatusCode::BAD_REQUEST);
            let exception = "Phoenix.ActionClauseError - there is no map `tenant` in the body";
            Err(respond::because_of(answer, exception).into())
        }
    }
}

fn answer(stored: &Stored) -> Response<Body> {
    let status = if stored.is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let mut response = data(status, shown(&stored.record));
    // By its internal id, which no route of the API takes: so does the original.
    let location = format!("/api/tenants/{}", stored.record.id);
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

fn done(is_there: bool) -> Response<Body> {
    if is_there {
        respond::empty(StatusCode::NO_CONTENT)
    } else {
        not_found()
    }
}

fn not_found() -> Response<Body> {
    let answer = respond::message(StatusCode::NOT_FOUND, "not found");
    respond::because(answer, ErrorCode::TenantNotFound, "Tenant not found")
}

fn data(status: StatusCode, data: Value) -> Response<Body> {
    respond::json(status, json!({ "data": data }).to_string())
}

fn refusal(failure: Failure) -> Refused {
    let answer = match failure {
        Failure::Invalid(errors) => respond::unprocessable(json!({ "errors": errors }).to_string()),
        // Parity: what the original answers to everything that it does not know how to answer. The tenant is stored.
        Failure::NotReady => respond::message(StatusCode::UNAUTHORIZED, "Unauthorized"),
        Failure::Store | Failure::Lost => respond::phrase_json(StatusCode::INTERNAL_SERVER_ERROR),
        Failure::Busy => respond::phrase_json(StatusCode::SERVICE_UNAVAILABLE),
    };
    answer.into()
}

/// A tenant as everybody with a token may see it: without secrets (spec: http-api 3.1).
fn shown(record: &TenantRecord) -> Value {
    let extensions = record.extensions.iter().map(|extension| {
        json!({
            "type": extension.kind,
            "settings": extension.shown(),
            "inserted_at": timestamp(extension.inserted_at),
            "updated_at": timestamp(extension.updated_at),
        })
    });
    json!({
        "id": record.id,
        "external_id": record.external_id,
        "name": record.name,
        "max_concurrent_users": record.max_concurrent_users,
        "max_channels_per_client": record.max_channels_per_client,
        "max_events_per_second": record.max_events_per_second,
        "max_joins_per_second": record.max_joins_per_second,
        "max_client_presence_events_per_window": record.max_client_presence_events_per_window,
        "client_presence_window_ms": record.client_presence_window_ms,
        "presence_enabled": record.presence_enabled,
        "private_only": record.private_only,
        "inserted_at": timestamp(record.inserted_at),
        "extensions": extensions.collect::<Vec<_>>(),
    })
}
