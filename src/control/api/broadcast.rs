//! Broadcasts over HTTP: a batch, and a single message (spec: http-api 5).
//!
//! What comes in: requests that came through the edge. What goes out: messages for the shards that own their topics, each counted as
//! one event of its tenant. What always holds: a batch with a mistake sends nothing, and a payload goes out as the bytes that came in.
//! Deliberately absent: who may write to a private topic; `private` asks that.

use super::Api;
use super::body::{Parameters, media_type};
use super::exchange::{Exchange, text_of};
use super::messages::{self, Message};
use super::private::Sender;
use super::respond::{self, Refused};
use crate::control::outgoing::Parcel;
use crate::control::rates;
use crate::http::query_value;
use crate::mail::{Audience, Content, Publish, To, TopicKey};
use crate::metrics::Relayed;
use crate::phoenix::{self, Encoding};
use crate::tenant::{Counter, Tenant};
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use hyper::header::{
    ACCEPT, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    CONTENT_TYPE, HeaderValue,
};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Response, StatusCode};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::sync::Arc;

/// `POST /api/broadcast`.
pub async fn batch(State(api): State<Api>, request: Request) -> Response<Body> {
    let (head, _) = request.into_parts();
    send_batch(&api, &head)
        .await
        .unwrap_or_else(|answer| *answer)
}

/// `POST /api/broadcast/{topic}/events/{event}`.
pub async fn single(
    State(api): State<Api>,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Response<Body> {
    let (head, _) = request.into_parts();
    match path {
        Ok(Path((topic, event))) => send_single(&api, &head, &topic, event)
            .await
            .unwrap_or_else(|answer| *answer),
        Err(_) => respond::phrase(StatusCode::BAD_REQUEST, text_of(&head.headers, ACCEPT)),
    }
}

/// `OPTIONS` on both. Ours: the original leaves pre-flights to a gateway (spec: http-api 1.5).
pub async fn preflight(headers: HeaderMap) -> Response<Body> {
    let mut response = respond::empty(StatusCode::NO_CONTENT);
    let answer = response.headers_mut();
    // Whatever a client library wants to send is fine: nothing here depends on cookies. The wildcard would not cover
    // `authorization` (Fetch, section 3.3.3).
    let wanted = headers.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let wanted = wanted.unwrap_or(HeaderValue::from_static(
        "authorization, apikey, content-type, x-client-info",
    ));
    answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    answer.insert(
        ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("POST, OPTIONS"),
    );
    answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted);
    answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}

type Outcome = Result<Response<Body>, Refused>;

fn parameters(head: &Parts) -> &Parameters {
    head.extensions
        .get()
        .expect("the edge reads the body of every request")
}

async fn send_batch(api: &Api, head: &Parts) -> Outcome {
    let exchange = Exchange::of(head);
    exchange.allow_any_origin(head);
    exchange.check_accept(head, &["json"])?;
    let tenant = exchange.admit(api, head).await?;
    let claims = exchange.authenticate(api, head, &tenant)?;
    refuse_suspended(&tenant)?;
    let messages = messages::parse(parameters(head).object(), tenant.limits.payload_bytes_max)
        .map_err(respond::unprocessable)?;
    check_room(&tenant, messages.len())?;
    let (private, public): (Vec<_>, Vec<_>) = messages.iter().partition(|message| message.private);
    for message in public {
        publish(api, &tenant, false, &message.topic, content_of(message)).await;
    }
    if !private.is_empty() {
        let sender = Sender::new(api, &exchange, head, &tenant, claims);
        let topics = private.iter().map(|message| &*message.topic);
        let permitted = sender.permitted(topics).await;
        // The others are skipped without a word (spec 5.1).
        for message in private {
            if permitted.contains(&*message.topic) {
                publish(api, &tenant, true, &message.topic, content_of(message)).await;
            }
        }
    }
    Ok(respond::empty(StatusCode::ACCEPTED))
}

fn content_of(message: &Message<'_>) -> Content<'static> {
    Content::Json {
        event: "broadcast",
        payload: Cow::Owned(message.broadcast_payload()),
    }
}

/// Whether the tenant's events leave room for a batch.
fn check_room(tenant: &Tenant, count: usize) -> Result<(), Refused> {
    let average = u64::from(tenant.usage.average(Counter::Events));
    let limit = u64::from(tenant.limits.events_per_second_max);
    let text = if average > limit {
        "You have exceeded your rate limit"
    } else if average + count as u64 > limit {
        "Too many messages to broadcast, please reduce the batch size"
    } else {
        return Ok(());
    };
    Err(respond::message(StatusCode::TOO_MANY_REQUESTS, text).into())
}

async fn send_single(api: &Api, head: &Parts, topic: &str, event: String) -> Outcome {
    let exchange = Exchange::of(head);
    exchange.allow_any_origin(head);
    exchange.check_accept(head, &["json", "octet-stream"])?;
    check_content_type(head)?;
    let tenant = exchange.admit(api, head).await?;
    let claims = exchange.authenticate(api, head, &tenant)?;
    refuse_suspended(&tenant)?;
    let parameters = parameters(head);
    check_single(&tenant, topic, &event, parameters)?;
    if tenant.usage.average(Counter::Events) >= tenant.limits.events_per_second_max {
        return Err(respond::message(
            StatusCode::TOO_MANY_REQUESTS,
            "You have exceeded your rate limit",
        )
        .into());
    }
    let is_private = is_private(head, parameters);
    if is_private {
        let sender = Sender::new(api, &exchange, head, &tenant, claims);
        sender.authorize(topic).await?;
    }
    let (encoding, bytes) = match parameters.raw() {
        Some(bytes) => (Encoding::Binary, bytes.to_vec()),
        None => (Encoding::Json, parameters.object().as_bytes().to_vec()),
    };
    let content = Content::User {
        event: Cow::Owned(event),
        metadata: None,
        encoding,
        bytes: Cow::Owned(bytes),
    };
    publish(api, &tenant, is_private, topic, content).await;
    Ok(respond::empty(StatusCode::ACCEPTED))
}

/// What is wrong with a single message, all of it at once.
fn check_single(
    tenant: &Tenant,
    topic: &str,
    event: &str,
    parameters: &Parameters,
) -> Result<(), Refused> {
    let is_within = match parameters.raw() {
        // A binary of n bytes and what surrounds it (spec: websocket-protocol 9.4).
        Some(bytes) => bytes.len() + 6 <= tenant.limits.payload_bytes_max,
        None => messages::is_within(parameters.object(), tenant.limits.payload_bytes_max),
    };
    let wrong = [
        ("event", event.trim().is_empty(), messages::BLANK),
        ("payload", !is_within, messages::TOO_LARGE),
        ("topic", topic.trim().is_empty(), messages::BLANK),
    ];
    let wrong = wrong.into_iter().filter(|(_, is_wrong, _)| *is_wrong);
    let errors: Map<String, Value> = wrong
        .map(|(field, _, text)| (field.to_owned(), json!([text])))
        .collect();
    if errors.is_empty() {
        Ok(())
    } else {
        Err(respond::unprocessable(json!({ "errors": errors }).to_string()).into())
    }
}

/// Whether a single message is for the private topic. Parity: a query and a JSON body are the same parameters, of which the body's
/// count more (broadcast_single_controller.ex, `parse_private`).
fn is_private(head: &Parts, parameters: &Parameters) -> bool {
    match messages::member(parameters.object(), "private") {
        Some("true") => true,
        Some(value) => phoenix::string_value(value).as_deref() == Some("true"),
        None => {
            let query = head.uri.query().unwrap_or_default();
            query_value(query, "private").as_deref() == Some("true")
        }
    }
}

fn check_content_type(head: &Parts) -> Result<(), Refused> {
    let Some(content_type) = head.headers.get(CONTENT_TYPE) else {
        return Ok(());
    };
    match media_type(content_type.to_str().unwrap_or_default()).as_str() {
        "application/json" | "application/octet-stream" => Ok(()),
        _ => Err(respond::json(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            r#"{"error":"Unsupported Media Type. Use application/json or application/octet-stream"}"#,
        )
        .into()),
    }
}

fn refuse_suspended(tenant: &Tenant) -> Result<(), Refused> {
    if tenant.suspended {
        Err(respond::message(StatusCode::FORBIDDEN, "Tenant is suspended").into())
    } else {
        Ok(())
    }
}

/// Sends a message to a topic, and counts it.
async fn publish(
    api: &Api,
    tenant: &Tenant,
    is_private: bool,
    name: &str,
    content: Content<'static>,
) {
    rates::count(&api.notices, api.cell, tenant, Counter::Events, 1);
    let bytes = content.payload_bytes();
    tenant
        .usage
        .count_payload(api.cell, Relayed::Broadcast, bytes);
    let key = TopicKey::of_name(&api.hasher, tenant.id, is_private, name);
    let publish = Publish {
        to: To::Key(Arc::new(key)),
        content,
        except: None,
        audience: Audience::Broadcast,
        id: None,
    };
    api.outgoing.send(Parcel::Publish(Box::new(publish))).await;
}
