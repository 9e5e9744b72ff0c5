//! The `Accept` header: what a route may answer with, and in which of two forms an error is written (spec: http-api 1.2).

/// A media range with its weight in thousandths.
struct Range<'a> {
    kind: &'a str,
    subtype: &'a str,
    weight: u16,
}

/// Every range that can be read, in the order of the header.
fn ranges(accept: &str) -> impl Iterator<Item = Range<'_>> {
    accept.split(',').filter_map(|range| {
        let mut parts = range.split(';');
        let (kind, subtype) = parts.next()?.trim().split_once('/')?;
        let weight = parts
            .filter_map(|parameter| parameter.trim().strip_prefix("q=")?.parse::<f32>().ok())
            .next()
            .unwrap_or(1.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to 0 to 1000"
        )]
        let weight = (weight.clamp(0.0, 1.0) * 1000.0) as u16;
        Some(Range {
            kind,
            subtype,
            weight,
        })
    })
}

/// Whether an answer of type `application/<subtype>` will do.
#[must_use]
pub fn accepts(accept: Option<&str>, subtype: &str) -> bool {
    let Some(accept) = accept.filter(|accept| !accept.trim().is_empty()) else {
        return true;
    };
    ranges(accept).any(|range| match range.kind {
        "*" => range.subtype == "*",
        "application" => range.subtype == "*" || range.subtype.eq_ignore_ascii_case(subtype),
        _ => false,
    })
}

/// Whether an error before any route is written as a JSON string: only for those who prefer JSON to HTML.
#[must_use]
pub fn prefers_json(accept: Option<&str>) -> bool {
    let mut best: Option<(u16, bool)> = None;
    for range in accept.into_iter().flat_map(ranges) {
        let is_json = match (range.kind, range.subtype) {
            ("*", "*") | ("text", "html" | "*") => false,
            ("application", "json" | "*") => true,
            _ => continue,
        };
        // Of two with the same weight the first counts.
        if best.is_none_or(|(weight, _)| range.weight > weight) {
            best = Some((range.weight, is_json));
        }
    }
    best.is_some_and(|(_, is_json)| is_json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_cover_json_are_accepted() {
        let check = |accept, expected| assert_eq!(accepts(accept, "json"), expected, "{accept:?}");
        check(None, true);
        check(Some(""), true);
        check(Some("*/*"), true);
        check(Some("application/*"), true);
        check(Some("application/json"), true);
        check(Some("application/json; charset=utf-8"), true);
        check(Some("text/html, application/json;q=0.5"), true);
        check(Some("text/html,*/*;q=0.8"), true);
        check(Some("text/html"), false);
        check(Some("text/*"), false);
        check(Some("application/octet-stream"), false);
        check(Some("potato"), false);
        assert!(accepts(Some("application/octet-stream"), "octet-stream"));
    }

    #[test]
    fn html_is_the_form_unless_json_is_preferred() {
        let check = |accept, expected| assert_eq!(prefers_json(accept), expected, "{accept:?}");
        check(None, false);
        check(Some("*/*"), false);
        check(Some("text/html"), false);
        check(Some("application/json"), true);
        check(Some("application/json, text/plain, */*"), true);
        check(Some("text/html, application/json"), false);
        check(Some("application/json, text/html"), true);
        check(Some("application/json;q=0.5, text/html"), false);
        check(Some("image/png"), false);
    }
}
