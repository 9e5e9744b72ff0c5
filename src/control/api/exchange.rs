//! What becomes known of a request on its way, and belongs onto its answer whatever that is: also when a handler panics.

use super::Api;
use super::respond::{self, Refused};
use crate::auth::Claims;
use crate::control::clock;
use crate::control::rates::Notice;
use crate::control::traces::Span;
use crate::logging::Line;
use crate::tenant::Tenant;
use axum::body::Body;
use hyper::header::{
    ACCEPT, ACCESS_CONTROL_ALLOW_ORIGIN, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, ORIGIN,
};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use std::sync::{Arc, OnceLock};

/// One request and the answer to come.
#[derive(Debug)]
pub struct Exchange {
    /// See [`super::request_id`].
    pub request_id: HeaderValue,
    /// The route has agreed to speak JSON: its errors are JSON strings.
    speaks_json: OnceLock<()>,
    /// The answer is for browsers of any origin.
    allows_any_origin: OnceLock<()>,
    rate: OnceLock<Rate>,
    tenant: OnceLock<Arc<str>>,
    /// The route that was found, as it was declared.
    route: OnceLock<Box<str>>,
}

/// What the rate headers say.
#[derive(Copy, Clone, Debug)]
struct Rate {
    average: u32,
    limit: u32,
}

const RATE_ROLLING: HeaderName = HeaderName::from_static("x-rate-rolling");
const RATE_LIMIT: HeaderName = HeaderName::from_static("x-rate-limit");
const RATE_REMAINING: HeaderName = HeaderName::from_static("x-rate-limit-remaining");

/// The value of a header that is text.
#[must_use]
pub fn text_of(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

impl Exchange {
    /// An exchange that has only begun.
    #[must_use]
    pub fn new(request_id: HeaderValue) -> Arc<Self> {
        Arc::new(Self {
            request_id,
            speaks_json: OnceLock::new(),
            allows_any_origin: OnceLock::new(),
            rate: OnceLock::new(),
            tenant: OnceLock::new(),
            route: OnceLock::new(),
        })
    }

    /// The exchange of a request that came through the edge.
    ///
    /// # Panics
    ///
    /// When it did not.
    #[must_use]
    pub fn of(head: &Parts) -> Arc<Self> {
        Arc::clone(
            head.extensions
                .get::<Arc<Self>>()
                .expect("the edge puts one into every request"),
        )
    }

    /// The request has found this route.
    pub fn take_route(&self, route: &str) {
        let _ = self.route.set(route.into());
    }

    /// The request is about this tenant.
    pub fn take_tenant(&self, external_id: Arc<str>) {
        let _ = self.tenant.set(external_id);
    }

    /// Says in a span whose request it was and what it was answered.
    pub fn trace(&self, span: &mut Span, method: &Method, status: StatusCode) {
        if let Ok(id) = self.request_id.to_str() {
            span.set("request_id", id);
        }
        if let Some(tenant) = self.tenant.get() {
            span.set("tenant", tenant);
        }
        let route = self.route.get().map(AsRef::as_ref);
        span.answered(method.as_str(), route, status.as_u16());
    }

    /// Answers of a broadcast route may be read by pages of any origin (spec: http-api 1.5).
    pub fn allow_any_origin(&self, head: &Parts) {
        if head.headers.contains_key(ORIGIN) {
            let _ = self.allows_any_origin.set(());
        }
    }

    /// The Accept check of an `/api` route that answers with these types under `application/`.
    ///
    /// # Errors
    ///
    /// The answer 406.
    pub fn check_accept(&self, head: &Parts, subtypes: &[&str]) -> Result<(), Refused> {
        let accept = text_of(&head.headers, ACCEPT);
        if !subtypes
            .iter()
            .any(|subtype| super::accept::accepts(accept, subtype))
        {
            let answer = respond::phrase(StatusCode::NOT_ACCEPTABLE, accept);
            let exception = format!(
                "Phoenix.NotAcceptableError - no supported media type in accept header. Expected one of {subtypes:?}"
            );
            return Err(respond::because_of(answer, &exception).into());
        }
        let _ = self.speaks_json.set(());
        Ok(())
    }

    /// The tenant that the request's host means, and the rate of its requests (spec: http-api 4).
    ///
    /// # Errors
    ///
    /// The answers 401 and 429.
    pub async fn admit(&self, api: &Api, head: &Parts) -> Result<Arc<Tenant>, Refused> {
        let asked = super::upgrade::head_of(head);
        let label = crate::http::external_id(&asked).unwrap_or_default();
        let may_mean_the_only =
            api.settings.any_host_single_tenant && crate::http::is_bare_host(&asked);
        let mut live = api.live();
        if api.registrar.is_shared()
            && live
                .directory
                .find_host(&label, may_mean_the_only)
                .is_none()
        {
            api.registrar.seek(label.clone()).await;
            live = api.live();
        }
        let tenant = live
            .directory
            .find_host(&label, may_mean_the_only)
            .ok_or_else(|| {
                respond::message(StatusCode::UNAUTHORIZED, "Tenant not found in database")
            })?;
        self.take_tenant(Arc::clone(&tenant.external_id));
        let limit = tenant.limits.events_per_second_max;
        let average = live.requests(tenant.id).map_or(0, |requests| {
            if requests.count() {
                Notice::Started(tenant.id, None).tell(&api.notices, || requests.discard());
            }
            requests.average()
        });
        let _ = self.rate.set(Rate { average, limit });
        if average >= limit {
            return Err(
                respond::message(StatusCode::TOO_MANY_REQUESTS, "Too many requests").into(),
            );
        }
        Ok(Arc::clone(tenant))
    }

    /// Checks the caller's token (spec: http-api 1.6).
    ///
    /// # Errors
    ///
    /// The answer 401.
    pub fn authenticate(
        &self,
        api: &Api,
        head: &Parts,
        tenant: &Tenant,
    ) -> Result<Claims, Refused> {
        let refused = || Refused::new(respond::message(StatusCode::UNAUTHORIZED, "Unauthorized"));
        let token = token(&head.headers).ok_or_else(refused)?;
        tenant
            .verifier
            .verify_connection(token, clock::unix_seconds())
            .map_err(|error| {
                // The one kind that an operator has to do something about (spec: errors-and-logs 2.1).
                if error.code() == crate::error::ErrorCode::JwtSignerError {
                    api.log.write(self.line(Line::coded(
                        clock::unix_ms(),
                        error.code(),
                        &error.log_text(),
                    )));
                }
                refused()
            })
    }

    /// The same line of this request and its tenant.
    #[must_use]
    pub fn line(&self, line: Line) -> Line {
        let line = line.of_request(self.request_id.to_str().unwrap_or_default());
        match self.tenant.get() {
            Some(tenant) => line.of_tenant(Arc::clone(tenant)),
            None => line,
        }
    }

    /// The answer to a panic.
    #[must_use]
    pub fn failure(&self, accept: Option<&str>) -> Response<Body> {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        if self.speaks_json.get().is_some() {
            respond::phrase_json(status)
        } else {
            respond::phrase(status, accept)
        }
    }

    /// Puts what became known onto the answer.
    pub fn mark(&self, headers: &mut HeaderMap) {
        if self.allows_any_origin.get().is_some() {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        }
        if let Some(Rate { average, limit }) = self.rate.get() {
            headers.insert(RATE_ROLLING, HeaderValue::from(*average));
            headers.insert(RATE_LIMIT, HeaderValue::from(*limit));
            headers.insert(
                RATE_REMAINING,
                HeaderValue::from(i64::from(*limit) - i64::from(*average)),
            );
        }
    }
}

/// The token: that of a bearer `Authorization`, else the header `apikey`. Ours: an `Authorization` that is not two words is no
/// token, where the original fails (spec: http-api 1.6).
fn token(headers: &HeaderMap) -> Option<&str> {
    let apikey = || text_of(headers, HeaderName::from_static("apikey"));
    let Some(authorization) = headers.get(AUTHORIZATION).filter(|value| !value.is_empty()) else {
        return apikey();
    };
    let mut words = authorization.to_str().ok()?.split(' ');
    match (words.next(), words.next(), words.next()) {
        (Some(scheme), Some(token), None) if scheme.eq_ignore_ascii_case("bearer") => Some(token),
        (Some(_), Some(_), None) => apikey(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_comes_from_a_bearer_or_the_api_key() {
        let check = |authorization: Option<&str>, apikey: Option<&str>, expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(value) = authorization {
                headers.insert(AUTHORIZATION, value.parse().unwrap());
            }
            if let Some(value) = apikey {
                headers.insert("apikey", value.parse().unwrap());
            }
            assert_eq!(token(&headers), expected, "{authorization:?} {apikey:?}");
        };
        check(None, None, None);
        check(Some("Bearer a"), None, Some("a"));
        check(Some("bEARER a"), Some("b"), Some("a"));
        check(None, Some("b"), Some("b"));
        check(Some(""), Some("b"), Some("b"));
        check(Some("Basic a"), None, None);
        check(Some("Basic a"), Some("b"), Some("b"));
        check(Some("nospace"), Some("b"), None);
        check(Some("Bearer a b"), Some("b"), None);
        check(Some("Bearer  a"), Some("b"), None);
        check(Some("Bearer "), Some("b"), Some(""));
    }
}
