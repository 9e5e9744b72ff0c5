//! The bytes of a request head, and where they lead.

use super::Refusal;
use crate::limits;
use memchr::{memchr, memmem};

/// Bounds of a request head.
#[derive(Clone, Debug)]
pub struct HeadLimits {
    /// `MAX_HEADER_LENGTH`: longest header value in bytes; longer ones get 431 (spec: config 1).
    pub header_value_bytes_max: usize,
    /// Longest request line in bytes; a longer one gets 414.
    pub request_line_bytes_max: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self {
            header_value_bytes_max: 4096,
            request_line_bytes_max: limits::HTTP_REQUEST_LINE_BYTES_MAX,
        }
    }
}

/// A request head, whole.
#[derive(Clone, Debug)]
pub struct Head {
    /// The method as sent.
    pub method: Box<str>,
    /// The request target as sent.
    pub target: Box<str>,
    /// Lower-case names and values in the order they came.
    pub headers: Vec<(Box<str>, Box<[u8]>)>,
}

impl Head {
    /// The target's path, without scheme and authority of an absolute target.
    #[must_use]
    pub fn path(&self) -> &str {
        let origin = self.origin_form();
        origin.split_once('?').map_or(origin, |(path, _)| path)
    }

    /// The target's query, without the question mark.
    #[must_use]
    pub fn query(&self) -> &str {
        self.origin_form()
            .split_once('?')
            .map_or("", |(_, query)| query)
    }

    /// Values of all headers of this name, in lower case.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.headers
            .iter()
            .filter(move |(other, _)| **other == *name)
            .map(|(_, value)| &**value)
    }

    /// The first value of this name that is text.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values(name)
            .find_map(|value| std::str::from_utf8(value).ok())
    }

    fn origin_form(&self) -> &str {
        let Some((scheme, rest)) = self.target.split_once("://") else {
            return &self.target;
        };
        if scheme.contains('/') {
            return &self.target;
        }
        rest.find('/')
            .and_then(|slash| rest.get(slash..))
            .unwrap_or("/")
    }
}

/// What the bytes so far are.
#[derive(Debug)]
pub enum Parsed {
    /// The beginning of a head: wait for more.
    Partial,
    /// A head, and how many bytes it takes.
    Complete(Head, usize),
    /// Nothing that could become a head that we serve.
    Refuse(Refusal),
}

/// Heads up to this size are looked at with every byte that arrives, so that nonsense is refused at once; longer ones only when they
/// end, so that a client that sends byte by byte cannot make us read the same bytes over and over.
const EAGER_BYTES_MAX: usize = 2048;

/// Reads a head from the beginning of `bytes`.
#[must_use]
pub fn parse_head(bytes: &[u8], limits: &HeadLimits) -> Parsed {
    let line_end = memchr(b'\n', bytes).unwrap_or(bytes.len());
    if line_end > limits.request_line_bytes_max {
        return Parsed::Refuse(Refusal::plain(414, "Request-URI Too Long"));
    }
    let ends = memmem::find(bytes, b"\n\r\n").or_else(|| memmem::find(bytes, b"\n\n"));
    if ends.unwrap_or(bytes.len()) > limits::HEAD_BYTES_MAX {
        return Parsed::Refuse(Refusal::plain(431, "Request Header Fields Too Large"));
    }
    if ends.is_none() && bytes.len() > EAGER_BYTES_MAX {
        return Parsed::Partial;
    }
    let mut headers = [httparse::EMPTY_HEADER; limits::HTTP_HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Partial) => Parsed::Partial,
        Ok(httparse::Status::Complete(used)) => {
            if request
                .headers
                .iter()
                .any(|header| header.value.len() > limits.header_value_bytes_max)
            {
                return Parsed::Refuse(Refusal::plain(431, "Request Header Fields Too Large"));
            }
            let headers = request.headers.iter();
            let head = Head {
                method: request.method.unwrap_or_default().into(),
                target: request.path.unwrap_or_default().into(),
                headers: headers
                    .map(|header| (header.name.to_ascii_lowercase().into(), header.value.into()))
                    .collect(),
            };
            Parsed::Complete(head, used)
        }
        Err(httparse::Error::TooManyHeaders) => {
            Parsed::Refuse(Refusal::plain(431, "Request Header Fields Too Large"))
        }
        Err(_) => Parsed::Refuse(Refusal::plain(400, "Bad Request")),
    }
}

/// Where a head leads.
#[derive(Debug)]
pub enum Route {
    /// An upgrade, or what should have been one.
    WebSocket,
    /// Anything else: the control core's HTTP stack serves it.
    HandOver,
    /// The path of upgrades with another method than GET (spec: websocket-protocol 1).
    Refuse(Refusal),
}

/// Finds the way of a head.
#[must_use]
pub fn route(head: &Head) -> Route {
    let is_upgrade_path = matches!(
        head.path().trim_end_matches('/'),
        "/socket/websocket" | "/realtime/v1/websocket"
    );
    match (is_upgrade_path, &*head.method) {
        (false, _) => Route::HandOver,
        (true, "GET") => Route::WebSocket,
        (true, _) => Route::Refuse(Refusal::plain(400, "")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "GET /socket/websocket?vsn=2.0.0&apikey=x HTTP/1.1\r\nHost: a.localhost\r\nX-Api-Key: k\r\n\r\n";

    fn outcome(bytes: &[u8]) -> String {
        match parse_head(bytes, &HeadLimits::default()) {
            Parsed::Partial => "partial".into(),
            Parsed::Complete(head, used) => format!("{} {} {used}", head.method, head.target),
            Parsed::Refuse(refusal) => refusal.status.to_string(),
        }
    }

    #[test]
    fn a_whole_head_is_read() {
        assert_eq!(
            outcome(GOOD.as_bytes()),
            format!("GET /socket/websocket?vsn=2.0.0&apikey=x {}", GOOD.len())
        );
        let Parsed::Complete(head, _) = parse_head(GOOD.as_bytes(), &HeadLimits::default()) else {
            unreachable!("it is whole")
        };
        assert_eq!(
            (head.path(), head.query()),
            ("/socket/websocket", "vsn=2.0.0&apikey=x")
        );
        assert_eq!(head.value("x-api-key"), Some("k"));
        assert!(matches!(route(&head), Route::WebSocket));
    }

    #[test]
    fn bounds_have_their_own_answers() {
        let check = |text: String, expected: &str| {
            assert_eq!(outcome(text.as_bytes()), expected, "{} bytes", text.len())
        };
        check(
            format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(9000)),
            "414",
        );
        check(format!("GET /{}", "x".repeat(9000)), "414");
        check(
            format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(4097)),
            "431",
        );
        check(
            format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(4096)),
            "GET / 4119",
        );
        check(
            format!("GET / HTTP/1.1\r\n{}", "A: b\r\n".repeat(12_000)),
            "431",
        );
        check(
            format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(101)),
            "431",
        );
        check("\u{1}\u{2}\u{3}nonsense".into(), "400");
        check("GET / HTTP/1.1\r\nno colon\r\n\r\n".into(), "400");
        check("GET / HT".into(), "partial");
        check(String::new(), "partial");
    }

    #[test]
    fn paths_find_their_way() {
        let check = |method: &str, target: &str, expected: &str| {
            let head = Head {
                method: method.into(),
                target: target.into(),
                headers: Vec::new(),
            };
            let found = match route(&head) {
                Route::WebSocket => "upgrade",
                Route::HandOver => "http",
                Route::Refuse(refusal) if refusal.status == 400 && refusal.body.is_empty() => "400",
                Route::Refuse(_) => "?",
            };
            assert_eq!(found, expected, "{method} {target}");
        };
        check("GET", "/socket/websocket", "upgrade");
        check("GET", "/socket/websocket?x=1", "upgrade");
        check("GET", "/socket/websocket/", "upgrade");
        check("GET", "/realtime/v1/websocket", "upgrade");
        check("GET", "http://a.b/socket/websocket?x", "upgrade");
        check("POST", "/socket/websocket", "400");
        check("OPTIONS", "/socket/websocket", "400");
        check("GET", "/socket", "http");
        check("GET", "/socket/nope", "http");
        check("POST", "/api/broadcast", "http");
        check("GET", "*", "http");
    }

    proptest::proptest! {
        #[test]
        fn any_split_gives_the_same_outcome(cut in 0..GOOD.len()) {
            proptest::prop_assert_eq!(outcome(GOOD.as_bytes().get(..cut).expect("cut is within")), "partial");
        }

        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            let _ = outcome(&bytes);
        }

        #[test]
        fn what_is_refused_stays_refused(bytes in "[ -~\r\n]{0,300}", more in "[ -~\r\n]{0,50}") {
            let before = outcome(bytes.as_bytes());
            if before == "400" {
                proptest::prop_assert_eq!(outcome(format!("{bytes}{more}").as_bytes()), "400");
            }
        }
    }
}
