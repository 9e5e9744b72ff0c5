//! Secrets out of texts.

use memchr::memmem;
use std::borrow::Cow;

/// What stands in place of a secret.
const REDACTED: &str = "<redacted>";

/// Beginnings of secrets: a JWT (`{"` in base64url), and the secret kind of API key.
const BEGINNINGS: [&str; 2] = ["eyJ", "sb_secret_"];

/// `text` with every JSON web token and every secret API key in it replaced by `<redacted>`.
///
/// A token is also recognised when only its beginning is there. What merely looks like one is redacted as well: a line is for reading.
#[must_use]
pub fn redact(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = BEGINNINGS
        .iter()
        .filter_map(|&beginning| memmem::find(rest.as_bytes(), beginning.as_bytes()))
        .min()
    {
        let (before, secret) = rest.split_at(start);
        let end = secret
            .find(|char: char| !is_token_char(char))
            .unwrap_or(secret.len());
        out.push_str(before);
        out.push_str(REDACTED);
        rest = &secret[end..];
    }
    if out.is_empty() {
        return Cow::Borrowed(text);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The characters of base64url, the dots between the parts, and percent-encoded ones.
fn is_token_char(char: char) -> bool {
    char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.' | '%' | '=')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_redacted() {
        for (text, expected) in [
            ("plain", "plain"),
            ("", ""),
            ("token eyJhbGci.eyJyb2xl.sig- end", "token <redacted> end"),
            (
                "?apikey=eyJhbGci.eyJyb2xl.x&vsn=1",
                "?apikey=<redacted>&vsn=1",
            ),
            ("eyJhbGci%2EeyJyb2xl", "<redacted>"),
            ("\"eyJa\", \"eyJb\"", "\"<redacted>\", \"<redacted>\""),
            (
                "key sb_secret_abc, sb_publishable_abc",
                "key <redacted>, sb_publishable_abc",
            ),
            ("eyj is no token", "eyj is no token"),
            ("ü eyJa ü", "ü <redacted> ü"),
        ] {
            assert_eq!(redact(text), expected, "{text}");
        }
    }
}
