//! The REST stack: requests that a shard hands over, and their answers (spec: http-api).
//!
//! What comes in: connections with the bytes that a shard has read ([`Connections::serve`]). What goes out: answers, and parcels for
//! the shards. What always holds: a request is read, counted and answered in bounds of [`limits`](crate::limits); an unknown path or
//! method is a 404 in the original's form. Deliberately absent: a listener, TLS, HTTP/2; and what
//! the pages are made of ([`pages`](super::pages)).
//!
//! ```text
//! serve (hyper) ─▶ edge: request id, body, path ─▶ router ─▶ broadcast ─▶ exchange: tenant, rate, token ─▶ outgoing
//!                    │          │                     └─▶ private: desk
//!                    │          ├─▶ tenants: gate, registrar
//!                    │          ├─▶ site, admin: pages
//!                    │          └─▶ scrape: gate, metrics
//!                    └─▶ upgrade ─▶ back to a shard
//! ```

pub mod accept;
pub mod admin;
pub mod body;
pub mod broadcast;
pub mod edge;
pub mod exchange;
pub mod form;
pub mod gate;
pub mod messages;
pub mod openapi;
pub mod private;
pub mod request_id;
pub mod respond;
pub mod scrape;
pub mod serve;
pub mod site;
pub mod tenants;
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
use super::pages::PAGES;
use super::rates::Notice;
use super::registrar::Registrar;
use super::tenants::Live;
use crate::config::Config;
use crate::mail::TopicHasher;
use admin::Door;
use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::handler::Handler;
use axum::middleware::map_request;
use axum::routing::{MethodFilter, on};
use body::Budget;
use exchange::{Exchange, text_of};
use gate::Gate;
use hyper::header::ACCEPT;
use hyper::{Method, Response, StatusCode};
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
    /// `SELF_HOST_TENANT_NAME`.
    pub tenant_name: String,
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
    /// To the tenants.
    pub registrar: Registrar,
    /// Of the metrics.
    pub metrics_gate: watch::Sender<Gate>,
    /// Of the management API.
    pub api_gate: watch::Sender<Gate>,
    /// Of the operators' page.
    pub dashboard: Door,
    /// `REGION`.
    pub region: Option<String>,
    /// This node as the original names one that is alone.
    pub node: String,
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
        registrar: Registrar,
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
            registrar,
            metrics_gate: watch::Sender::new(Gate::of_metrics(&config)),
            api_gate: watch::Sender::new(Gate::of_api(&config)),
            dashboard: Door::new(&config.dashboard),
            region: config.region.clone(),
            node: config.node(),
            budget: Budget::default(),
        }))
    }

    /// Takes other secrets and blocklists.
    pub fn reload(&self, config: &Config) {
        self.metrics_gate.send_replace(Gate::of_metrics(config));
        self.api_gate.send_replace(Gate::of_api(config));
    }

    /// All tenants now.
    fn live(&self) -> Arc<Live> {
        Arc::clone(&self.tenants.borrow())
    }
}

/// All routes, with what surrounds them.
#[must_use]
pub fn app(api: &Api) -> App {
    let router = routes().router;
    App::new(
        router
            .route_layer(map_request(note_route))
            .fallback(not_found)
            .method_not_allowed_fallback(not_found)
            .with_state(api.clone()),
    )
}

/// Routes, and what they are called: the description of the API is checked against it.
#[derive(Default)]
struct Routes {
    router: Router<Api>,
    known: Vec<(Method, &'static str)>,
}

impl Routes {
    fn on<H, T>(mut self, method: Method, path: &'static str, handler: H) -> Self
    where
        H: Handler<T, Api>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(method.clone()).expect("it is one of the usual ones");
        self.router = self.router.route(path, on(filter, handler));
        self.known.push((method, path));
        self
    }
}

fn routes() -> Routes {
    const BATCH: &str = "/api/broadcast";
    const SINGLE: &str = "/api/broadcast/{topic}/events/{event}";
    const TENANTS: &str = "/api/tenants";
    const TENANT: &str = "/api/tenants/{tenant_id}";
    let pages = PAGES.iter().map(|(path, _)| *path);
    pages
        .fold(Routes::default(), |routes, path| {
            routes.on(Method::GET, path, site::page)
        })
        .on(Method::GET, "/assets/{*name}", site::asset)
        .on(Method::GET, "/status/figures", site::status)
        .on(
            Method::GET,
            "/inspector/defaults.json",
            site::inspector_defaults,
        )
        .on(Method::GET, "/inspector/codes.json", site::inspector_codes)
        .on(Method::GET, "/healthcheck", healthcheck)
        .on(Method::GET, "/metrics", scrape::all)
        .on(Method::GET, "/metrics/{region}", scrape::of_region)
        .on(Method::GET, "/swaggerui", openapi::for_people)
        .on(Method::GET, "/admin/{*page}", admin::dashboard)
        .on(Method::GET, "/api/openapi", openapi::document)
        .on(Method::GET, "/api/ping", ping)
        .on(Method::POST, BATCH, broadcast::batch)
        .on(Method::OPTIONS, BATCH, broadcast::preflight)
        .on(Method::POST, SINGLE, broadcast::single)
        .on(Method::OPTIONS, SINGLE, broadcast::preflight)
        .on(Method::GET, TENANTS, tenants::list)
        .on(Method::POST, TENANTS, tenants::post)
        .on(Method::GET, TENANT, tenants::get)
        .on(Method::PUT, TENANT, tenants::put)
        .on(Method::PATCH, TENANT, tenants::put)
        .on(Method::DELETE, TENANT, tenants::delete)
        .on(
            Method::POST,
            "/api/tenants/{tenant_id}/reload",
            tenants::reload,
        )
        .on(
            Method::POST,
            "/api/tenants/{tenant_id}/shutdown",
            tenants::shutdown,
        )
        .on(
            Method::GET,
            "/api/tenants/{tenant_id}/health",
            tenants::health,
        )
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
    let admitted = match exchange.check_accept(&head, &["json"]) {
        Ok(()) => exchange.admit(&api, &head).await,
        Err(answer) => Err(answer),
    };
    admitted.map_or_else(
        |answer| *answer,
        |_| respond::message(StatusCode::OK, "Success"),
    )
}

/// Unknown paths, and methods that a path does not have.
async fn not_found(request: Request) -> Response<Body> {
    let answer = respond::phrase(StatusCode::NOT_FOUND, text_of(request.headers(), ACCEPT));
    let (method, path) = (request.method(), request.uri().path());
    let exception = format!(
        "Phoenix.Router.NoRouteError - no route found for {method} {path} (RealtimeWeb.Router)"
    );
    respond::because_of(answer, &exception)
}
