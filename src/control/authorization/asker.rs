//! Who asks, as the settings that policies read (spec: authorization-rls 2).
//!
//! What comes in: [`Context`]s. What goes out: texts for `set_config`. What always holds: a token without a role that may be taken on
//! gets no [`Asker`]. Deliberately absent: whether the role exists; the database knows.

use crate::auth::RoleError;
use crate::mail::{AskError, Context};
use crate::phoenix;
use std::collections::HashMap;

/// A [`Context`] in the database's words.
#[derive(Debug)]
pub(super) struct Asker<'a> {
    /// `role` and `request.jwt.claim.role`.
    pub role: &'a str,
    /// `realtime.topic`.
    pub topic: &'a str,
    /// `request.jwt.claims`, a JSON object.
    pub claims: &'a str,
    /// `request.jwt.claim.sub`; empty where the token has none that is a text.
    pub sub: &'a str,
    /// `request.headers`, a JSON object.
    pub headers: String,
}

impl<'a> Asker<'a> {
    pub(super) fn of(context: &'a Context) -> Result<Self, AskError> {
        let claims = &*context.claims;
        let role = claims.database_role().map_err(|error| {
            let text = match error {
                RoleError::Missing => "the token has no role",
                RoleError::None => "the role none may not be taken on",
            };
            AskError::Policy(text.to_owned())
        })?;
        Ok(Self {
            role,
            topic: &context.topic,
            claims: &claims.json,
            sub: claims.sub.as_deref().unwrap_or_default(),
            headers: json_of(&context.headers),
        })
    }
}

/// Headers as a JSON object; of a name that comes several times the last value counts.
fn json_of(headers: &[(String, String)]) -> String {
    let last: HashMap<&str, usize> = headers
        .iter()
        .enumerate()
        .map(|(index, (name, _))| (name.as_str(), index))
        .collect();
    let mut out = vec![b'{'];
    for (index, (name, value)) in headers.iter().enumerate() {
        if last.get(name.as_str()) != Some(&index) {
            continue;
        }
        if out.len() > 1 {
            out.push(b',');
        }
        phoenix::json_string(&mut out, name);
        out.push(b':');
        phoenix::json_string(&mut out, value);
    }
    out.push(b'}');
    String::from_utf8(out).expect("the escape of a text is text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_repeated_headers_the_last_counts() {
        let check = |headers: &[(&str, &str)], expected: &str| {
            let headers: Vec<_> = headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            assert_eq!(json_of(&headers), expected);
        };
        check(&[], "{}");
        check(&[("x-a", "b")], r#"{"x-a":"b"}"#);
        check(
            &[("x-a", "1"), ("b", "\"\\\n"), ("x-a", "2")],
            r#"{"b":"\"\\\n","x-a":"2"}"#,
        );
    }
}
