//! The operators' page (spec: http-api 10).
//!
//! What comes in: a name and a password. What goes out: the page of the node's state, with what it tells operators alone. What always
//! holds: without both `DASHBOARD_USER` and `DASHBOARD_PASSWORD` nobody gets in (`nobody_gets_in_without_name_and_password`).
//! Deliberately absent: changing anything; the management API does that.

use super::respond::{self, Refused};
use super::{Api, site};
use crate::config::DashboardAuth;
use crate::control::pages::tenants::tenants;
use crate::control::pages::{self, DASHBOARD, NODE_INFO};
use axum::body::Body;
use axum::extract::{Request, State};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};

/// `GET /admin/dashboard` and whatever is below `/admin`.
pub async fn dashboard(State(api): State<Api>, request: Request) -> Response<Body> {
    if let Err(answer) = api.dashboard.check(request.headers()) {
        return *answer;
    }
    match request.uri().path() {
        "/admin/figures" => figures(&api, request.headers()).await,
        path if path == DASHBOARD.0 => match pages::page(path, request.headers()) {
            Some(page) => page,
            None => super::not_found(request).await,
        },
        path if path == NODE_INFO.0 => node_info(&api, request.headers()),
        _ => super::not_found(request).await,
    }
}

/// Who this node is.
fn node_info(api: &Api, headers: &HeaderMap) -> Response<Body> {
    let region = api.region.as_deref().unwrap_or("not set");
    let (node, region) = (respond::escaped(&api.node), respond::escaped(region));
    let texts = [("node", node.as_str()), ("region", region.as_str())];
    pages::send(&pages::filled(NODE_INFO.1, &texts), headers)
}

/// How each tenant is.
async fn figures(api: &Api, headers: &HeaderMap) -> Response<Body> {
    let (survey, scene) = (api.registrar.survey().await, api.metrics.scene().await);
    match (survey, scene) {
        (Ok(survey), Some(scene)) => site::momentary(tenants(&survey, &scene).to_string()),
        _ => site::unavailable(headers),
    }
}

/// Who may see it.
#[derive(Debug)]
pub struct Door(Option<Key>);

/// What `Authorization` must say. It has no `Debug` of its own: it is a secret.
struct Key(String);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Door {
    /// As the configuration says.
    #[must_use]
    pub fn new(auth: &DashboardAuth) -> Self {
        Self(match auth {
            DashboardAuth::Basic {
                user: Some(user),
                password: Some(password),
            } => Some(Key(STANDARD.encode(format!("{user}:{}", password.expose())))),
            DashboardAuth::Basic { .. } | DashboardAuth::Closed => None,
        })
    }

    /// Lets in who knows name and password.
    fn check(&self, headers: &HeaderMap) -> Result<(), Refused> {
        let value = headers.get(AUTHORIZATION).and_then(|it| it.to_str().ok());
        let credentials = value.and_then(|value| {
            let (scheme, credentials) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("basic").then_some(credentials)
        });
        let knows = |key: &Key| credentials.is_some_and(|it| is_same(it.as_bytes(), &key.0));
        if self.0.as_ref().is_some_and(knows) {
            return Ok(());
        }
        let mut response = respond::page(StatusCode::UNAUTHORIZED, "Unauthorized");
        let headers = response.headers_mut();
        headers.remove(hyper::header::CONTENT_TYPE);
        let realm = HeaderValue::from_static("Basic realm=\"Application\"");
        headers.insert(WWW_AUTHENTICATE, realm);
        Err(response.into())
    }
}

/// Compares in a time that says nothing about where the two differ.
fn is_same(given: &[u8], expected: &str) -> bool {
    let pairs = given.iter().zip(expected.bytes());
    given.len() == expected.len() && pairs.fold(0, |found, (a, b)| found | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn lets_in(variables: &[(&str, &str)], authorization: Option<&str>) -> bool {
        let get = |name: &str| {
            let variable = variables.iter().find(|(it, _)| *it == name);
            variable.map(|(_, value)| (*value).to_owned())
        };
        let (config, _) = Config::from_env(get).unwrap();
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(AUTHORIZATION, value.parse().unwrap());
        }
        Door::new(&config.dashboard).check(&headers).is_ok()
    }

    #[test]
    fn nobody_gets_in_without_name_and_password() {
        let both = [("DASHBOARD_USER", "admin"), ("DASHBOARD_PASSWORD", "p:w")];
        let of = |text: &str| format!("Basic {}", STANDARD.encode(text));
        let check = |variables: &[(&str, &str)], value: &str, expected: bool| {
            assert_eq!(lets_in(variables, Some(value)), expected, "{value}");
        };
        check(&both, &of("admin:p:w"), true);
        check(&both, &of("admin:p:w").replace("Basic", "basic"), true);
        check(&both, &of("admin:p:x"), false);
        check(&both, &of("admin"), false);
        check(&both, &of(""), false);
        check(&both, "Basic admin:p:w", false);
        check(&both, &of("admin:p:w").replace("Basic", "Bearer"), false);
        check(&both[..1], &of("admin:"), false);
        check(&both[1..], &of(":p:w"), false);
        check(&[], &of(":"), false);
        check(
            &[both[0], both[1], ("DASHBOARD_AUTH", "zta")],
            &of("admin:p:w"),
            false,
        );
        assert!(!lets_in(&both, None));
    }
}
