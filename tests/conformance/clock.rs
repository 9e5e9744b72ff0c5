//! The one clock of these tests: black-box tests run against real time, because the server under test does.
//!
//! Nothing here sleeps. Whoever has to wait for a moment waits on a channel with a timeout, so that what happens meanwhile
//! is seen when it happens.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The present, for measuring.
#[expect(
    clippy::disallowed_methods,
    reason = "a black-box test measures the server from outside, in real time"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// Seconds since 1970, for the claims of tokens.
#[expect(
    clippy::disallowed_methods,
    reason = "tokens expire by the clock on the wall"
)]
pub fn unix_s() -> i64 {
    let elapsed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock is set");
    i64::try_from(elapsed.as_secs()).expect("seconds fit for a long time")
}

/// What is left until `deadline`; zero when it has passed.
pub fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(now())
}

/// Reads the date of an HTTP header (RFC 9110 section 5.6.7): `Mon, 23 Nov 2026 17:16:16 GMT` in seconds since 1970.
pub fn parse_date(text: &str) -> Option<i64> {
    let mut words = text.split(' ').skip(1);
    let day: i64 = words.next()?.parse().ok()?;
    let months = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let month = i64::try_from(months.find(words.next()?)? / 3 + 1).ok()?;
    let year: i64 = words.next()?.parse().ok()?;
    let mut time = words.next()?.split(':').map(str::parse::<i64>);
    let mut next = || time.next()?.ok();
    let seconds = next()? * 3600 + next()? * 60 + next()?;
    // Days from civil: the year starts in March, so that the leap day is its last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    Some((days - 719_468) * 86_400 + seconds)
}

/// Tests of this file, for the table in `main.rs`.
pub const TESTS: &[(&str, fn())] = &[("a_date_header_is_read", || {
    assert_eq!(parse_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
    assert_eq!(
        parse_date("Mon, 23 Nov 2026 17:16:16 GMT"),
        Some(1_795_454_176)
    );
    assert_eq!(
        parse_date("Thu, 29 Feb 2024 23:59:59 GMT"),
        Some(1_709_251_199)
    );
    assert_eq!(parse_date("yesterday"), None);
})];
