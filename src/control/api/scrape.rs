//! The metrics of this node (spec: http-api 6).

use super::exchange::text_of;
use super::{Api, respond};
use crate::control::clock;
use crate::control::metrics::page::Page;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use hyper::header::{ACCEPT, HeaderMap};
use hyper::{Response, StatusCode};

/// Of all nodes: there is one.
pub async fn all(State(api): State<Api>, headers: HeaderMap) -> Response<Body> {
    answer(&api, &headers, true).await
}

/// Of the nodes of a region: this one, or none.
pub async fn of_region(
    State(api): State<Api>,
    region: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Response<Body> {
    // What is no text is the name of no region.
    let is_ours = region.is_ok_and(|Path(region)| api.region.as_ref() == Some(&region));
    answer(&api, &headers, is_ours).await
}

async fn answer(api: &Api, headers: &HeaderMap, is_asked: bool) -> Response<Body> {
    if !api
        .metrics_gate
        .borrow()
        .lets_pass(headers, clock::unix_seconds())
    {
        return respond::empty(StatusCode::FORBIDDEN);
    }
    let page = if is_asked {
        api.metrics.page().await
    } else {
        Some(Page::empty())
    };
    match page {
        Some(page) => respond::chunked(respond::text(Body::new(page.into_body()))),
        None => {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            respond::phrase(status, text_of(headers, ACCEPT))
        }
    }
}
