//! The REST stack: requests that a shard hands over, and their answers (spec: http-api).
//!
//! What comes in: connections with the bytes that a shard has read ([`Connections::serve`]). What goes out: answers, and parcels for
//! the shards. What always holds: a request is read, counted and answered in bounds of [`limits`](crate::limits); an unknown path or
//! method is a 404 in the original's form. Deliberately absent: a listener, TLS, HTTP/2; and so far the management API and web pages.
//!
//! ```text
//! serve (hyper) ─▶ edge: request id, body, path ─▶ router ─▶ broadcast ─▶ exchange: tenant, rate, token ─▶ outgoing
//!                    │          │                     └─▶ private: desk
//!                    │          └─▶ scrape: gate, metrics
//!                    └─▶ upgrade ─▶ back to a shard
//! ```

pub mod accept;
pub mod body;
pub mod broadcast;
pub mod edge;
pub mod exchange;
pub mod form;
pub mod gate;
pub mod messages;
pub mod private;
pub mod request_id;
pub mod respond;
pub mod scrape;
pub mod serve;
pub mod upgrade;
#[cfg(test)]
mod tests;

pub use edge::App;
pub use serve::Connections;

use super::database::Environment;
use super::desk::Desk;
use super::log::Log;
use super::metrics::Metrics;
use super::outgoing::Outgoing;
use super::rates::Notice;
use super::tenants::Live;
use crate::config::Config;
use crate::mail::TopicHasher;
use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::map_request;
use axum::routing::{get, post};
use body::Budget;
use exchange::{Exchange, text_of};
use gate::Gate;
use hyper::header::ACCEPT;
use hyper::{Response, StatusCode};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// What of the configuration the routes need.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `ANY_HOST_SINGLE_TENANT`.
    pub any_host_single_tenant: bool,
    /// `REQUEST_ID_BAGGAGE_KEY`.
    pub request_id_baggage_key: String,
    /// `MAX_HEADER_LENGTH` in bytes.
    pub header_value_bytes_max: usize,
    /// `CONNECT_ERROR_BACKOFF_MS`.
    pub connect_error_backoff: Duration,
    /// `DISABLE_HEALTHCHECK_LOGGING`.
    pub healthcheck_is_silent: bool,
}

/// What the routes work with.
#[derive(Debug)]
pub struct Context {
    /// Of the configuration.
    pub settings: Settings,
    /// All tenants.
    pub tenants: watch::Receiver<Arc<Live>>,
    /// To the shards.
    pub outgoing: Outgoing,
    /// To the rate counters.
    pub notices: mpsc::Sender<Notice>,
    /// The process' hasher of topics.
    pub hasher: TopicHasher,
    /// The control core's cell in [`Usage`](crate::tenant::Usage).
    pub cell: usize,
    /// To standard output.
    pub log: Log,
    /// To the tenants' databases.
    pub desk: Desk,
    /// To what was counted.
    pub metrics: Metrics,
    /// Of the metrics.
    pub metrics_gate: watch::Sender<Gate>,
    /// `REGION`.
    pub region: Option<String>,
    budget: Budget,
}

/// A handle on the [`Context`]; clones are the same.
#[derive(Clone, Debug)]
pub struct Api(Arc<Context>);

impl Deref for Api {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.0
    }
}

impl Api {
    /// A handle on what the routes work with.
    #[must_use]
    pub fn new(
        settings: Settings,
        environment: &Environment,
        desk: Desk,
        metrics: Metrics,
    ) -> Self {
        let Environment {
            config,
            tenants,
            outgoing,
            notices,
            hasher,
            cell,
            log,
        } = environment.clone();
        Self(Arc::new(Context {
            settings,
            tenants,
            outgoing,
            notices,
            hasher,
            cell,
            log,
            desk,
            metrics,
            metrics_gate: watch::Sender::new(Gate::of_metrics(&config)),
            region: config.region.clone(),
            budget: Budget::default(),
        }))
    }

    /// Takes other secrets and blocklists.
    pub fn reload(&self, config: &Config) {
        self.metrics_gate.send_replace(Gate::of_metrics(config));
    }

    /// All tenants now.
    fn live(&self) -> Arc<Live> {
        Arc::clone(&self.tenants.borrow())
    }

    /// Tells the rate counters. False when they are overwhelmed: the counter then has to be created by a later use.
    fn notify(&self, notice: Notice) -> bool {
        self.notices.try_send(notice).is_ok()
    }
}

/// All routes, with what surrounds them.
#[must_use]
pub fn app(api: &Api) -> App {
    let routes = Router::new()
        .route("/healthcheck", get(healthcheck))
        .route("/metrics", get(scrape::all))
        .route("/metrics/{region}", get(scrape::of_region))
        .route("/api/ping", get(ping))
        .route(
            "/api/broadcast",
            post(broadcast::batch).options(broadcast::preflight),
        )
        .route(
            "/api/broadcast/{topic}/events/{event}",
            post(broadcast::single).options(broadcast::preflight),
        )
        .route_layer(map_request(note_route))
        .fallback(not_found)
        .method_not_allowed_fallback(not_found)
        .with_state(api.clone());
    App::new(routes)
}

/// Traces know requests by their route, which only the router does.
async fn note_route(request: Request) -> Request {
    let extensions = request.extensions();
    let found = extensions
        .get::<MatchedPath>()
        .zip(extensions.get::<Arc<Exchange>>());
    if let Some((route, exchange)) = found {
        exchange.take_route(route.as_str());
    }
    request
}

/// Asked by balancers: no tenant, no database (spec: http-api 2).
async fn healthcheck() -> Response<Body> {
    respond::text("ok")
}

/// Whether a tenant is served here, also a suspended one (spec: http-api 4).
async fn ping(State(api): State<Api>, request: Request) -> Response<Body> {
    let (head, _) = request.into_parts();
    let exchange = Exchange::of(&head);
    let admitted = exchange
        .check_accept(&head, &["json"])
        .and_then(|()| exchange.admit(&api, &head));
    admitted.map_or_else(
        |answer| *answer,
        |_| respond::message(StatusCode::OK, "Success"),
    )
}

/// Unknown paths, and methods that a path does not have.
async fn not_found(request: Request) -> Response<Body> {
    respond::phrase(StatusCode::NOT_FOUND, text_of(request.headers(), ACCEPT))
}
