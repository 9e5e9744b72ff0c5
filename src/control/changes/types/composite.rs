//! Rows as PostgreSQL prints them: `(1,"a b",)`.
//!
//! What comes in: the text of a row. What goes out: its fields in their order. Deliberately absent: how many there have to be; a row of
//! one field that is NULL and a row without fields are printed alike.

use super::Malformed;
use smallvec::SmallVec;
use std::borrow::Cow;

/// The fields of a row; none for NULL.
pub(super) type Fields<'a> = SmallVec<[Option<Cow<'a, str>>; 8]>;

/// The fields of the row that `text` is.
///
/// # Errors
///
/// [`Malformed`]: it is none.
pub(super) fn fields(text: &str) -> Result<Fields<'_>, Malformed> {
    let mut rest = text.strip_prefix('(').ok_or(Malformed)?;
    let mut fields = Fields::new();
    loop {
        let (field, behind) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let (field, behind) = unquote(quoted)?;
                (Some(field), behind)
            }
            None => {
                let end = memchr::memchr2(b',', b')', rest.as_bytes()).ok_or(Malformed)?;
                let (field, behind) = rest.split_at(end);
                if memchr::memchr3(b'"', b'\\', b'(', field.as_bytes()).is_some() {
                    return Err(Malformed);
                }
                let field = (!field.is_empty()).then_some(Cow::Borrowed(field));
                (field, behind)
            }
        };
        fields.push(field);
        rest = match behind.strip_prefix(',') {
            Some(rest) => rest,
            None if behind == ")" => return Ok(fields),
            None => return Err(Malformed),
        };
    }
}

/// What stands before the closing quote, and what behind it. Quotes and backslashes are doubled within.
fn unquote(text: &str) -> Result<(Cow<'_, str>, &str), Malformed> {
    let (mut whole, mut rest) = (String::new(), text);
    loop {
        let end = memchr::memchr2(b'"', b'\\', rest.as_bytes()).ok_or(Malformed)?;
        let (plain, special) = rest.split_at(end);
        let double = [r#""""#, r"\\"]
            .into_iter()
            .find(|double| special.starts_with(double));
        match double {
            Some(double) => {
                whole.push_str(plain);
                whole.push_str(&double[1..]);
                rest = &special[2..];
            }
            None if special.starts_with('\\') => return Err(Malformed),
            None if whole.is_empty() => return Ok((Cow::Borrowed(plain), &special[1..])),
            None => {
                whole.push_str(plain);
                return Ok((Cow::Owned(whole), &special[1..]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[Option<&str>]) {
        let fields = fields(text).unwrap_or_else(|_| panic!("{text} is a row"));
        let fields: Vec<Option<&str>> = fields.iter().map(Option::as_deref).collect();
        assert_eq!(fields, expected, "{text}");
    }

    #[test]
    fn rows_come_in_fields() {
        check("()", &[None]);
        check("(,)", &[None, None]);
        check("(1,\"a b\",)", &[Some("1"), Some("a b"), None]);
        check(r#"("")"#, &[Some("")]);
        check(
            r#"("a""b\\c","(1,""x"")",é)"#,
            &[Some(r#"a"b\c"#), Some(r#"(1,"x")"#), Some("é")],
        );
        check("({1},{2})", &[Some("{1}"), Some("{2}")]);
        check(r#"("""","\\")"#, &[Some("\""), Some("\\")]);
    }

    #[test]
    fn broken_rows_are_malformed() {
        for text in [
            "",
            "(",
            ")",
            "1",
            "(1",
            "(1,",
            "(1)2",
            "(\"a)",
            r#"("a"b)"#,
            r#"(a"b)"#,
            r"(a\b)",
            r#"("a\b")"#,
            r#"("a\,b)"#,
            "(()",
        ] {
            assert_eq!(fields(text), Err(Malformed), "{text}");
        }
    }
}
