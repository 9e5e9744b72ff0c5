//! Wall-clock time in UTC: the calendar behind log lines and the `date` header.

/// A moment in UTC, in the proleptic Gregorian calendar. There are no leap seconds in Unix time.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct UtcTime {
    /// Year, from 1970 on.
    pub year: u64,
    /// Month, 1 to 12.
    pub month: u64,
    /// Day of the month, 1 to 31.
    pub day: u64,
    /// Days since Sunday, 0 to 6.
    pub weekday: u64,
    /// Hour, 0 to 23.
    pub hour: u64,
    /// Minute, 0 to 59.
    pub minute: u64,
    /// Second, 0 to 59.
    pub second: u64,
    /// Millisecond, 0 to 999.
    pub millisecond: u64,
}

impl UtcTime {
    /// The moment this many milliseconds after the beginning of 1970.
    #[must_use]
    pub const fn from_unix_ms(unix_ms: u64) -> Self {
        let seconds = unix_ms / 1000;
        let days = seconds / 86_400;
        // Days are counted from 1 March of year 0 on, so that the leap day is the last of a year: 400 years, the calendar's
        // period, have 146,097 days, and every 5 months from March on 153.
        let from_era = days + 719_468;
        let (era, day_of_era) = (from_era / 146_097, from_era % 146_097);
        let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
        let year_of_era = (day_of_era - leap_days) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let months_since_march = (5 * day_of_year + 2) / 153;
        let month = if months_since_march < 10 {
            months_since_march + 3
        } else {
            months_since_march - 9
        };
        Self {
            year: era * 400 + year_of_era + (month <= 2) as u64,
            month,
            day: day_of_year - (153 * months_since_march + 2) / 5 + 1,
            // 1 January 1970 was a Thursday.
            weekday: (days + 4) % 7,
            hour: seconds / 3600 % 24,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            millisecond: unix_ms % 1000,
        }
    }
}

/// Seconds of UTC, without a zone, as the control database and the management API write them: `2023-01-01T00:00:00`.
#[must_use]
pub fn timestamp(unix_seconds: i64) -> String {
    let unix_ms = u64::try_from(unix_seconds)
        .unwrap_or(0)
        .saturating_mul(1000);
    let UtcTime {
        year,
        month,
        day,
        hour,
        minute,
        second,
        ..
    } = UtcTime::from_unix_ms(unix_ms);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_seconds_without_a_zone() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00");
        assert_eq!(timestamp(1_795_454_397), "2026-11-23T17:19:57");
        assert_eq!(timestamp(1_700_000_001), "2023-11-14T22:13:21");
        assert_eq!(timestamp(-1), "1970-01-01T00:00:00");
    }

    #[test]
    fn known_days_have_their_dates() {
        let check = |unix_seconds: u64, date: (u64, u64, u64), weekday, clock: (u64, u64, u64)| {
            let time = UtcTime::from_unix_ms(unix_seconds * 1000 + 7);
            assert_eq!((time.year, time.month, time.day), date, "{unix_seconds}");
            assert_eq!(
                (time.weekday, time.millisecond),
                (weekday, 7),
                "{unix_seconds}"
            );
            assert_eq!(
                (time.hour, time.minute, time.second),
                clock,
                "{unix_seconds}"
            );
        };
        check(0, (1970, 1, 1), 4, (0, 0, 0));
        check(951_782_399, (2000, 2, 28), 1, (23, 59, 59));
        check(951_782_400, (2000, 2, 29), 2, (0, 0, 0));
        check(951_868_800, (2000, 3, 1), 3, (0, 0, 0));
        check(1_795_454_187, (2026, 11, 23), 1, (17, 16, 27));
        check(4_107_542_399, (2100, 2, 28), 0, (23, 59, 59));
        check(4_107_542_400, (2100, 3, 1), 1, (0, 0, 0));
    }

    #[test]
    fn every_day_of_two_centuries_follows_the_one_before() {
        let mut before = UtcTime::from_unix_ms(0);
        for day in 1..73_050 {
            let time = UtcTime::from_unix_ms(day * 86_400_000);
            assert_eq!(time.weekday, (before.weekday + 1) % 7);
            let is_next_day = (time.year, time.month) == (before.year, before.month)
                && time.day == before.day + 1;
            let is_next_month = time.day == 1
                && before.day >= 28
                && time.year * 12 + time.month == before.year * 12 + before.month + 1;
            assert!(is_next_day || is_next_month, "{before:?} {time:?}");
            before = time;
        }
    }
}
