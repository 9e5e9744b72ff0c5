//! What a `phx_join` asks for (websocket-protocol sections 5.1, 5.2 and 5.5).
//!
//! Validation is lenient where the original's is: a field that makes no sense takes its default and is reported in
//! [`JoinPayload::invalid`], for the log only. Only the shapes that make the original fail are errors here, and they are the last thing
//! that it fails for.

use std::borrow::Cow;
use std::fmt;

use super::scan::{elements, members, string_value};

/// The payload of a join. Slices borrow from it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JoinPayload<'a> {
    /// Whether there is a `config`, be it null. Without one, the topic is a subscription
    /// ([`super::legacy_subscription`]).
    pub has_config: bool,
    /// `config.private`.
    pub private: bool,
    /// `config.broadcast.ack`.
    pub ack: bool,
    /// `config.broadcast.self`.
    pub self_broadcast: bool,
    /// `config.broadcast.replay`: the JSON text of whatever is there, null included.
    pub replay: Option<&'a str>,
    /// `config.broadcast.replication_ready`: anything but null and false counts as true.
    pub replication_ready: bool,
    /// `config.presence.enabled`; the tenant may say yes where this says no.
    pub presence_enabled: bool,
    /// `config.presence.key`: a string, or the text of a number or boolean. `None` when absent or empty: the server
    /// chooses one.
    pub presence_key: Option<Cow<'a, str>>,
    /// `config.postgres_changes`: the JSON texts of the objects.
    pub postgres_changes: Vec<&'a str>,
    /// Which token counts.
    pub token: TokenChoice<'a>,
    /// Paths and texts for the log line `InvalidJoinPayload`.
    pub invalid: Vec<Invalid>,
    /// Why the join is refused all the same, when nothing else is wrong with it.
    pub broken: Option<JoinPayloadError>,
}

/// The path of a field that makes no sense, and the text that the original logs for it.
pub type Invalid = (&'static str, &'static str);

/// Which token a channel uses (websocket-protocol section 5.2).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum TokenChoice<'a> {
    /// The one of the upgrade.
    #[default]
    Socket,
    /// The join's `user_token`, which wins over `access_token`.
    UserToken(Cow<'a, str>),
    /// The join's `access_token`.
    AccessToken(Cow<'a, str>),
}

/// Why a join is refused for its payload alone. `Display` is the sentence behind `UnknownErrorOnChannel: `.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum JoinPayloadError {
    /// The payload is not an object.
    Payload,
    /// `config` is neither an object nor null.
    Config,
    /// `config.broadcast` is neither an object nor null.
    Broadcast,
    /// An element of `config.postgres_changes` is neither an object nor null.
    PostgresChanges,
}

impl JoinPayloadError {
    /// The sentence behind `UnknownErrorOnChannel: `.
    pub const fn sentence(&self) -> &'static str {
        match self {
            Self::Payload => "payload must be an object",
            Self::Config => "config must be an object",
            Self::Broadcast => "config.broadcast must be an object",
            Self::PostgresChanges => "config.postgres_changes must be a list of objects",
        }
    }

    /// What the log line `InvalidJoinPayload` says about it, if there is one.
    pub const fn invalid(&self) -> Option<Invalid> {
        match self {
            Self::Payload => None,
            Self::Config => Some(("config", MAP_EXPECTED)),
            Self::Broadcast => Some(("config.broadcast", MAP_EXPECTED)),
            Self::PostgresChanges => Some(("config.postgres_changes", MAPS_EXPECTED)),
        }
    }
}

impl fmt::Display for JoinPayloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())
    }
}

impl std::error::Error for JoinPayloadError {}

const SCALAR_EXPECTED: &str = "unable to parse, expected boolean|string|integer";
const MAP_EXPECTED: &str = "unable to parse, expected a map";
const MAPS_EXPECTED: &str = "unable to parse, expected an array of maps";

/// Reads the payload of a join: the checked text of a JSON value, as [`super::decode_text`] yields it. Of a repeated key, the
/// last counts.
#[must_use]
pub fn parse_join(payload: &str) -> JoinPayload<'_> {
    let Some([config, access_token, user_token]) =
        pick(payload, ["config", "access_token", "user_token"])
    else {
        return JoinPayload {
            broken: Some(JoinPayloadError::Payload),
            ..JoinPayload::default()
        };
    };
    let mut join = JoinPayload {
        has_config: config.is_some(),
        ..JoinPayload::default()
    };
    if let Some(config) = not_null(config)
        && let Err(error) = join.parse_config(config)
    {
        join.invalid.extend(error.invalid());
        join.broken = Some(error);
    }
    join.parse_tokens(access_token, user_token);
    join
}

impl<'a> JoinPayload<'a> {
    fn parse_config(&mut self, config: &'a str) -> Result<(), JoinPayloadError> {
        let [private, broadcast, presence, changes] = pick(
            config,
            ["private", "broadcast", "presence", "postgres_changes"],
        )
        .ok_or(JoinPayloadError::Config)?;
        self.private = self.flexible_boolean("config.private", private);
        if let Some(broadcast) = not_null(broadcast) {
            self.parse_broadcast(broadcast)?;
        }
        if let Some(presence) = not_null(presence) {
            self.parse_presence(presence);
        }
        match not_null(changes) {
            None => {}
            Some(list) if list.starts_with('[') => {
                self.postgres_changes = elements(list).filter(|raw| *raw != "null").collect();
                if !self.postgres_changes.iter().all(|raw| raw.starts_with('{')) {
                    return Err(JoinPayloadError::PostgresChanges);
                }
            }
            Some(_) => self
                .invalid
                .push(("config.postgres_changes", MAPS_EXPECTED)),
        }
        Ok(())
    }

    fn parse_broadcast(&mut self, broadcast: &'a str) -> Result<(), JoinPayloadError> {
        let [ack, self_broadcast, replay, ready] =
            pick(broadcast, ["ack", "self", "replay", "replication_ready"])
                .ok_or(JoinPayloadError::Broadcast)?;
        self.ack = self.flexible_boolean("config.broadcast.ack", ack);
        self.self_broadcast = self.flexible_boolean("config.broadcast.self", self_broadcast);
        self.replay = replay;
        if not_null(replay).is_some_and(|raw| !raw.starts_with('{')) {
            self.invalid.push(("config.broadcast.replay", MAP_EXPECTED));
        }
        self.replication_ready = not_null(ready).is_some_and(|raw| raw != "false");
        Ok(())
    }

    fn parse_presence(&mut self, presence: &'a str) {
        let Some([enabled, key]) = pick(presence, ["enabled", "key"]) else {
            return self.invalid.push(("config.presence", MAP_EXPECTED));
        };
        self.presence_enabled = self.flexible_boolean("config.presence.enabled", enabled);
        match not_null(key) {
            None => {}
            Some(raw) if raw.starts_with(['{', '[']) => {
                self.invalid.push(("config.presence.key", SCALAR_EXPECTED));
            }
            Some(raw) => {
                let key = string_value(raw).unwrap_or(Cow::Borrowed(raw));
                self.presence_key = Some(key).filter(|key| !key.is_empty());
            }
        }
    }

    fn parse_tokens(&mut self, access_token: Option<&'a str>, user_token: Option<&'a str>) {
        let mut string = |path, raw: Option<&'a str>| {
            let raw = not_null(raw)?;
            let text = string_value(raw);
            if text.is_none() {
                self.invalid.push((path, SCALAR_EXPECTED));
            }
            text
        };
        let access = string("access_token", access_token);
        let user = string("user_token", user_token);
        // An API key in the place of a token means the socket's, whatever the other field says.
        let first = match access_token {
            None | Some("null" | "false") => &user,
            Some(_) => &access,
        };
        let is_api_key = first.as_ref().is_some_and(|text| text.starts_with("sb_"));
        self.token = match (user, access) {
            _ if is_api_key => TokenChoice::Socket,
            (Some(user), _) => TokenChoice::UserToken(user),
            (None, Some(access)) => TokenChoice::AccessToken(access),
            (None, None) => TokenChoice::Socket,
        };
    }

    /// A boolean, or the string that spells one in any case. Anything else is invalid and false; absent or null is false.
    fn flexible_boolean(&mut self, path: &'static str, raw: Option<&str>) -> bool {
        let Some(raw) = not_null(raw) else {
            return false;
        };
        match string_value(raw) {
            None if raw == "true" => return true,
            None if raw == "false" => return false,
            Some(text) if text.eq_ignore_ascii_case("true") => return true,
            Some(text) if text.eq_ignore_ascii_case("false") => return false,
            _ => self.invalid.push((path, SCALAR_EXPECTED)),
        }
        false
    }
}

/// The values of these members of an object, raw, in one pass: of a repeated name the last one's. `None` when `raw` is no object.
#[must_use]
pub fn pick<'a, const N: usize>(raw: &'a str, names: [&str; N]) -> Option<[Option<&'a str>; N]> {
    if !raw.starts_with('{') {
        return None;
    }
    let mut values = [None; N];
    for (key, value) in members(raw) {
        for (name, slot) in names.iter().zip(&mut values) {
            if key == *name {
                *slot = Some(value);
            }
        }
    }
    Some(values)
}

fn not_null(raw: Option<&str>) -> Option<&str> {
    raw.filter(|raw| *raw != "null")
}
