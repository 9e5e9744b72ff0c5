//! The pages, and what they ask for while they are shown (spec: http-api 8, 9).

use super::{Api, not_found, respond, upgrade};
use crate::control::clock;
use crate::control::pages;
use crate::control::pages::figures::{Node, figures};
use crate::control::pages::invitation::{Host, defaults};
use axum::body::Body;
use axum::extract::{Request, State};
use hyper::header::{ACCEPT, CACHE_CONTROL, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};

/// A page, or a file with a fixed address.
pub async fn page(request: Request) -> Response<Body> {
    match pages::page(request.uri().path(), request.headers()) {
        Some(answer) => answer,
        None => not_found(request).await,
    }
}

/// `GET /assets/…`: a file whose name changes with its content.
pub async fn asset(request: Request) -> Response<Body> {
    let name = request.uri().path().strip_prefix(pages::assets::ASSETS);
    match name.and_then(|name| pages::asset(name, request.headers())) {
        Some(answer) => answer,
        None => not_found(request).await,
    }
}

/// `GET /status/figures`: how busy this node is.
pub async fn status(State(api): State<Api>, request: Request) -> Response<Body> {
    let Some(scene) = api.metrics.scene().await else {
        return unavailable(request.headers());
    };
    let node = Node {
        name: &api.node,
        region: api.region.as_deref(),
        tenants: api.live().directory.len(),
    };
    momentary(figures(node, &scene).to_string())
}

/// `GET /inspector/defaults.json`: what the first click needs.
pub async fn inspector_defaults(State(api): State<Api>, request: Request) -> Response<Body> {
    let (head, _) = request.into_parts();
    let host = Host {
        live: &api.live(),
        any_host_single_tenant: api.settings.any_host_single_tenant,
        tenant_name: &api.settings.tenant_name,
        is_development: api.api_gate.borrow().is_without_secret(),
        unix_now: clock::unix_seconds(),
    };
    momentary(defaults(&upgrade::head_of(&head), &host).to_string())
}

/// `GET /inspector/codes.json`: what the operational codes mean.
pub async fn inspector_codes(request: Request) -> Response<Body> {
    pages::codes(request.headers())
}

/// JSON that is true for a moment.
pub(super) fn momentary(body: String) -> Response<Body> {
    let mut response = respond::json(StatusCode::OK, body);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(hyper::header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

/// The numbers could not be had. The log knows why.
pub(super) fn unavailable(headers: &HeaderMap) -> Response<Body> {
    let accept = super::exchange::text_of(headers, ACCEPT);
    respond::phrase(StatusCode::INTERNAL_SERVER_ERROR, accept)
}
