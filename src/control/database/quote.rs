//! Names and texts within SQL.
//!
//! What comes in: any text. What goes out: a token that PostgreSQL reads as that name or that text, and as nothing beside it. What always
//! holds: neither depends on a setting that somebody else could change (`quoting_needs_no_setting`). Deliberately absent: zero bytes,
//! which PostgreSQL has in no text: a statement with one is refused whole.

/// A name as an identifier, quoted whether it has to be or not.
#[must_use]
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as a literal. Backslashes stand in `E''` only, whatever `standard_conforming_strings` is.
#[must_use]
pub fn literal(text: &str) -> String {
    let mark = if text.contains('\\') { " E" } else { "" };
    let text = text.replace('\\', "\\\\").replace('\'', "''");
    format!("{mark}'{text}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_needs_no_setting() {
        let check = |text: &str, expected: &str| assert_eq!(literal(text), expected);
        check("", "''");
        check("it's", "'it''s'");
        check("\\", " E'\\\\'");
        check("\\'; drop table t; --", " E'\\\\''; drop table t; --'");
        let check = |name: &str, expected: &str| assert_eq!(identifier(name), expected);
        check("", "\"\"");
        check("a_1", "\"a_1\"");
        check("a\"b", "\"a\"\"b\"");
        check("it's\\", "\"it's\\\"");
    }
}
