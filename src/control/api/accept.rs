//! The `Accept` header: what a route may answer with, and in which of two forms an error is written (spec: http-api 1.2).

/// A media range, in lower case, with its weight in thousandths.
struct Range {
    kind: String,
    subtype: String,
    weight: u16,
}

impl Range {
    /// Whether it is `application/<subtype>`: by name, by its suffix, or as any.
    fn covers(&self, subtype: &str) -> bool {
        let suffix = self.subtype.rsplit_once('+').map(|(_, suffix)| suffix);
        self.kind == "application"
            && (self.subtype == "*" || self.subtype == subtype || suffix == Some(subtype))
    }
}

/// Every range that can be read, in the order of the header.
fn ranges(accept: &str) -> impl Iterator<Item = Range> {
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
            kind: kind.trim().to_ascii_lowercase(),
            subtype: subtype.trim().to_ascii_lowercase(),
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
    ranges(accept).any(|range| (range.kind == "*" && range.subtype == "*") || range.covers(subtype))
}

/// Whether an error before any route is written as a JSON string: only for those who prefer JSON to HTML. Parity: who takes anything
/// gets HTML, be it only after JSON or with less weight (phoenix, `accepts/2`).
#[must_use]
pub fn prefers_json(accept: Option<&str>) -> bool {
    let accept = accept.unwrap_or_default();
    if accept.contains("*/*") {
        return false;
    }
    let mut best: Option<(u16, bool)> = None;
    for range in ranges(accept) {
        let is_json = range.covers("json");
        let is_html = range.kind == "text" && matches!(&*range.subtype, "html" | "*");
        if !is_json && !is_html {
            continue;
        }
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
        check(Some("Application/JSON"), true);
        check(Some("application/problem+json"), true);
        check(Some("application/json+x"), false);
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
        check(Some("APPLICATION/problem+JSON"), true);
        check(Some("application/json, text/plain, */*"), false);
        check(Some("application/json, */*;q=0.1"), false);
        check(Some("application/json, text/plain"), true);
        check(Some("text/html, application/json"), false);
        check(Some("application/json, text/html"), true);
        check(Some("application/json;q=0.5, text/html"), false);
        check(Some("image/png"), false);
    }
}
