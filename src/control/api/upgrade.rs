//! Upgrades that arrive on a connection of the HTTP stack: gateways reuse connections (spec: websocket-protocol 1, 2).
//!
//! The first request of a connection is looked at by its shard, so these are second ones. They pass the same checks, are answered by
//! hyper, and then the connection goes back to a shard.

use super::exchange::Exchange;
use super::serve::Prefixed;
use super::{Api, respond};
use crate::control::clock;
use crate::control::outgoing::Parcel;
use crate::error::{Level, Origin};
use crate::http::{self, Head, Refusal, UpgradeRequest};
use crate::logging::Line;
use crate::mail::Adopted;
use crate::tenant::{self, Tenant};
use axum::body::Body;
use hyper::header::{
    CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, RETRY_AFTER, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// The request as the functions of the room `http` read it.
#[must_use]
pub fn head_of(parts: &Parts) -> Head {
    let mut headers: Vec<(Box<str>, Box<[u8]>)> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().into(), value.as_bytes().into()))
        .collect();
    // An absolute target names the host itself (RFC 9112, section 3.2.2).
    if let Some(authority) = parts.uri.authority() {
        headers.retain(|(name, _)| **name != *HOST.as_str());
        headers.push((HOST.as_str().into(), authority.as_str().as_bytes().into()));
    }
    Head {
        method: parts.method.as_str().into(),
        target: parts.uri.to_string().into(),
        headers,
    }
}

/// Whether a path is one of those that upgrade.
#[must_use]
pub fn is_upgrade_path(path: &str) -> bool {
    matches!(path, "/socket/websocket" | "/realtime/v1/websocket")
}

/// Answers an upgrade, or what should have been one.
pub async fn answer(api: &Api, exchange: &Exchange, request: &mut Request<Body>) -> Response<Body> {
    if request.method() != Method::GET {
        return respond::empty(StatusCode::BAD_REQUEST);
    }
    let (parts, body) = std::mem::take(request).into_parts();
    let head = head_of(&parts);
    *request = Request::from_parts(parts, body);
    let mut admitted = admit(api, &head);
    if let Err(refusal) = &admitted
        && refusal.is_unknown_tenant()
        && api.registrar.is_shared()
    {
        let label = http::external_id(&head).unwrap_or_default();
        api.registrar.seek(label).await;
        admitted = admit(api, &head);
    }
    match admitted {
        Ok((asked, tenant, accept)) => {
            let upgrade = hyper::upgrade::on(request);
            tokio::spawn(hand_back(api.clone(), upgrade, asked, tenant));
            let mut response = respond::empty(StatusCode::SWITCHING_PROTOCOLS);
            let headers = response.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            let accept = HeaderValue::from_bytes(&accept).expect("base64 is printable");
            headers.insert(HeaderName::from_static("sec-websocket-accept"), accept);
            response
        }
        Err(refusal) => refuse(api, exchange, &head, &refusal).await,
    }
}

fn admit(api: &Api, head: &Head) -> Result<(UpgradeRequest, Arc<Tenant>, [u8; 28]), Refusal> {
    let request = http::upgrade_request(head)?;
    let live = api.live();
    let unix_now = clock::unix_seconds();
    let (tenant, _) = tenant::admit(
        &live.directory,
        api.settings.any_host_single_tenant,
        &request,
        |tenant, token| tenant.verifier.verify_connection(token, unix_now),
    )?;
    let accept = http::check_upgrade_headers(head)?;
    Ok((request, tenant, accept))
}

async fn refuse(api: &Api, exchange: &Exchange, head: &Head, refusal: &Refusal) -> Response<Body> {
    if let Some((code, text)) = &refusal.log
        && refusal.is_logged_for(head)
    {
        let line = Line::coded(clock::unix_ms(), *code, text);
        let line = line.on_behalf_of(refusal.identity(head));
        api.log.write(exchange.line(line));
    }
    if let Some(text) = refusal.connection_line(head) {
        api.log
            .write(exchange.line(Line::new(clock::unix_ms(), Level::Info, text)));
    }
    count(api, head, refusal);
    if refusal.delayed {
        tokio::time::sleep(api.settings.connect_error_backoff).await;
    }
    let mut response = Response::new(Body::from(refusal.body.clone()));
    *response.status_mut() =
        StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_REQUEST);
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if let Some(content_type) = refusal.content_type {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    if let Some(seconds) = refusal.retry_after_seconds {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Counts a refusal, as shards do with theirs.
fn count(api: &Api, head: &Head, refusal: &Refusal) {
    let figures = api.metrics.figures();
    figures.count_refused(refusal.why);
    if let Ok(request) = http::upgrade_request(head) {
        let wait = if refusal.delayed {
            api.settings.connect_error_backoff
        } else {
            Duration::ZERO
        };
        figures.count_refused_upgrade(request.vsn, wait);
        let code = refusal.log.as_ref().map(|(code, _)| *code);
        if let Some(code) = code.filter(|code| code.counts_in_metrics(Origin::Upgrade))
            // Nothing that counts is refused before its tenant was found, be it as the only one.
            && let Some(tenant) = api.live().directory.find_host(&request.external_id, true)
        {
            tenant.usage.count_error(api.cell, code);
        }
    }
}

/// Waits until hyper has written the answer, takes the connection out of it and mails it to a shard.
async fn hand_back(api: Api, upgrade: OnUpgrade, request: UpgradeRequest, tenant: Arc<Tenant>) {
    // A client that is gone by now needs no shard.
    let Ok(upgraded) = upgrade.await else { return };
    let Some((socket, bytes)) = take_apart(upgraded) else {
        return;
    };
    api.outgoing
        .send(Parcel::Adopt(Box::new(Adopted {
            socket,
            bytes,
            request,
            tenant: tenant.id,
        })))
        .await;
}

/// The descriptor, and what was read from it beyond the request.
fn take_apart(upgraded: Upgraded) -> Option<(OwnedFd, Vec<u8>)> {
    let parts = upgraded.downcast::<TokioIo<Prefixed>>().ok()?;
    let (socket, rest) = parts.io.into_inner().into_parts();
    let mut bytes = parts.read_buf.to_vec();
    bytes.extend_from_slice(&rest);
    let socket = socket.into_std().ok()?;
    // Shards watch over their readers themselves.
    SockRef::from(&socket).set_tcp_user_timeout(None).ok()?;
    Some((socket.into(), bytes))
}
