//! Whether the sender of an HTTP broadcast may write to private topics: asked of the tenant's database (spec: http-api 5).
//!
//! What comes in: the request and its token's claims. What goes out: permissions, or why there are none. What always holds: without a
//! permission from the database nothing is sent; each distinct topic of a request is asked for once
//! (`private_messages_are_asked_for_once_per_topic`). Deliberately absent: remembering; every request asks anew.

use super::Api;
use super::exchange::Exchange;
use super::respond::{self, Refused};
use crate::auth::{Claims, RoleError};
use crate::control::clock;
use crate::error::{ErrorCode, text};
use crate::limits;
use crate::logging::Line;
use crate::mail::{Ask, AskError, Checks, Context, Told};
use crate::tenant::Tenant;
use hyper::http::request::Parts;
use hyper::{HeaderMap, StatusCode};
use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;

/// Somebody who wants to send.
pub(super) struct Sender<'a> {
    api: &'a Api,
    exchange: &'a Exchange,
    tenant: &'a Tenant,
    claims: Arc<Claims>,
    headers: Arc<[(String, String)]>,
}

impl<'a> Sender<'a> {
    pub(super) fn new(
        api: &'a Api,
        exchange: &'a Exchange,
        head: &Parts,
        tenant: &'a Tenant,
        claims: Claims,
    ) -> Self {
        Self {
            api,
            exchange,
            tenant,
            claims: Arc::new(claims),
            headers: all_of(&head.headers),
        }
    }

    /// Hands in the question; what is returned waits for the answer.
    fn ask(&self, topic: &str) -> impl Future<Output = Result<bool, AskError>> + use<> {
        let context = Context {
            topic: topic.into(),
            claims: Arc::clone(&self.claims),
            headers: Arc::clone(&self.headers),
        };
        let checks = Checks::WRITES;
        // Without a database there is nobody to ask.
        let has_database = self.tenant.has_database;
        let ask = Ask::Policies { context, checks };
        let answer = has_database.then(|| self.api.desk.ask(self.tenant.id, ask));
        async {
            match answer {
                Some(answer) => match answer.await? {
                    Told::Verdict(verdict) => Ok(verdict.broadcast_write == Some(true)),
                    _ => Err(AskError::Unreachable),
                },
                None => Err(AskError::Unreachable),
            }
        }
    }

    /// The topics of a batch that may be written to. What is denied, or cannot be asked, is missing (spec: http-api 5.1).
    pub(super) async fn permitted<'t>(
        &self,
        topics: impl Iterator<Item = &'t str>,
    ) -> HashSet<&'t str> {
        let mut permitted = HashSet::new();
        let mut seen = HashSet::new();
        let topics: Vec<&str> = topics.filter(|topic| seen.insert(*topic)).collect();
        for some in topics.chunks(limits::HTTP_TOPICS_ASKED_AT_ONCE) {
            let answers: Vec<_> = some.iter().map(|topic| (*topic, self.ask(topic))).collect();
            let mut is_away = false;
            for (topic, answer) in answers {
                match answer.await {
                    Ok(true) => drop(permitted.insert(topic)),
                    Ok(false) => {}
                    Err(error) => {
                        self.log(&error);
                        is_away |= is_about_database(&error);
                    }
                }
            }
            if is_away {
                // The others would wait as long, one after the other, for the same.
                break;
            }
        }
        permitted
    }

    /// Whether a single message may be sent (spec: http-api 5.2).
    ///
    /// # Errors
    ///
    /// The answer that refuses it.
    pub(super) async fn authorize(&self, topic: &str) -> Result<(), Refused> {
        if self.claims.database_role() == Err(RoleError::Missing) {
            return Err(respond::message(StatusCode::UNAUTHORIZED, "Unauthorized").into());
        }
        match self.ask(topic).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(respond::message(StatusCode::FORBIDDEN, "Unauthorized").into()),
            Err(error) => {
                self.log(&error);
                let (status, text) = refusal(&error);
                let answer = respond::message(status, text);
                Err(if status == StatusCode::UNPROCESSABLE_ENTITY {
                    respond::because(answer, ErrorCode::UnprocessableEntity, text).into()
                } else {
                    answer.into()
                })
            }
        }
    }

    /// What policies and roles are to blame for is in the log already, once for all who asked the same.
    fn log(&self, error: &AskError) {
        let (code, text) = match error {
            AskError::Canceled(text) => (ErrorCode::QueryCanceled, text.as_str()),
            AskError::MissingPartition => (ErrorCode::MissingPartition, ""),
            AskError::Unreachable if self.tenant.has_database => {
                (ErrorCode::UnableToConnectToProject, "")
            }
            AskError::PoolExhausted => (ErrorCode::IncreaseConnectionPool, text::INCREASE_POOL),
            AskError::Initializing => (ErrorCode::InitializingProjectConnection, text::CONNECTING),
            _ => return,
        };
        let text = code.text().unwrap_or(text);
        let line = Line::coded(clock::unix_ms(), code, text).at_level(code.level_in_join());
        self.api.log.write(self.exchange.line(line));
    }
}

/// Whether all further questions would end alike.
fn is_about_database(error: &AskError) -> bool {
    !matches!(error, AskError::Policy(_) | AskError::Canceled(_))
}

/// What policies see of a request: all of its headers, also cookies and keys (spec: authorization-rls 6).
fn all_of(headers: &HeaderMap) -> Arc<[(String, String)]> {
    let text =
        |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), text(value)))
        .collect()
}

/// The table of http-api 5.2.
fn refusal(error: &AskError) -> (StatusCode, &'static str) {
    let unprocessable = StatusCode::UNPROCESSABLE_ENTITY;
    match error {
        AskError::Suspended => (StatusCode::FORBIDDEN, "Tenant is suspended"),
        AskError::Policy(_) => (unprocessable, "RLS policy error"),
        AskError::Canceled(_) => (unprocessable, "Query canceled"),
        AskError::MissingPartition => (unprocessable, "Missing messages partition"),
        AskError::Unreachable => (unprocessable, "Tenant database unavailable"),
        AskError::Initializing => (unprocessable, "Tenant database connection initializing"),
        AskError::LackOfConnections => (unprocessable, "Tenant database has too many connections"),
        AskError::TooManyAttempts => (unprocessable, "Connect rate limit reached"),
        AskError::PoolExhausted => (StatusCode::TOO_MANY_REQUESTS, "Connection pool exhausted"),
        AskError::Other(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "Unable to authorize broadcast",
        ),
    }
}
