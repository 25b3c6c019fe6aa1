//! The one clock. Everything that needs the time is given this, so that a recorded run and a test
//! can set it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

/// Where the time comes from. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// A clock that stands where it is set: recorded scenarios, offline batches, tests.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// A clock that stands at `now_ms`.
    #[must_use]
    pub fn manual(now_ms: u64) -> Self {
        Self::Manual(Arc::new(AtomicU64::new(now_ms)))
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the one place that may ask the machine for the time")]
    pub fn now_ms(&self) -> u64 {
        match self {
            // A machine whose clock stands before 1970 has no usable time: 0, not a panic.
            Self::System => std::time::SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
            Self::Manual(now_ms) => now_ms.load(Ordering::SeqCst),
        }
    }

    /// Set a manual clock; the machine's clock stays as it is.
    pub fn set(&self, to_ms: u64) {
        if let Self::Manual(now_ms) = self {
            now_ms.store(to_ms, Ordering::SeqCst);
        }
    }
}

/// A time as RFC 3339 writes it (`2026-01-05T10:00:00Z`), in milliseconds since 1970-01-01T00:00:00Z; finer digits are
/// dropped.
///
/// # Errors
/// What is wrong with the text, with an example.
pub fn parse_time(text: &str) -> Result<u64, String> {
    let shown: String = text.chars().take(60).collect();
    let told =
        || format!("`{}` is no time: write it as 2026-01-05T10:00:00Z (RFC 3339, from 1970 on)", shown.escape_debug());
    let (date, rest) = text.split_at_checked(10).ok_or_else(told)?;
    let time = rest.strip_prefix(['T', 't', ' ']).ok_or_else(told)?;
    let (time, offset) = time.split_at(time.find(['Z', 'z', '+', '-']).ok_or_else(told)?);
    let day = day_of(date).ok_or_else(told)?;
    let ms = ms_of(time).ok_or_else(told)?;
    let offset_ms = offset_ms_of(offset).ok_or_else(told)?;
    u64::try_from(day * 86_400_000 + ms - offset_ms).map_err(|_| told())
}

/// So many digits as a number between `min` and `max`.
fn digits(text: &str, count: usize, min: i64, max: i64) -> Option<i64> {
    let plain = text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| plain && (min..=max).contains(number))
}

/// `YYYY-MM-DD` as days since 1970-01-01, by the proleptic Gregorian calendar.
fn day_of(date: &str) -> Option<i64> {
    let mut parts = date.split('-');
    let year = digits(parts.next()?, 4, 0, 9_999)?;
    let month = digits(parts.next()?, 2, 1, 12)?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let day = digits(parts.next()?, 2, 1, days)?;
    // Counted from March, so that the leap day is the last of its year.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days_before_year = 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days_before_month = (153 * month + 2) / 5;
    (parts.next().is_none()).then_some(days_before_year + days_before_month + day - 719_469)
}

/// `HH:MM:SS` with an optional fraction, in milliseconds.
fn ms_of(time: &str) -> Option<i64> {
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut parts = time.split(':');
    let hours = digits(parts.next()?, 2, 0, 23)?;
    let minutes = digits(parts.next()?, 2, 0, 59)?;
    let seconds = digits(parts.next()?, 2, 0, 59)?;
    let plain = !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let ms: i64 = format!("{:0<3}", fraction.get(..fraction.len().min(3))?).parse().ok()?;
    (plain && parts.next().is_none()).then_some(((hours * 60 + minutes) * 60 + seconds) * 1_000 + ms)
}

/// `Z` or `+HH:MM`, in milliseconds.
fn offset_ms_of(offset: &str) -> Option<i64> {
    let (sign, rest) = match offset.split_at_checked(1)? {
        ("Z" | "z", "") => return Some(0),
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    Some(sign * (digits(hours, 2, 0, 23)? * 60 + digits(minutes, 2, 0, 59)?) * 60_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-01-05T10:00:00Z", 1_767_607_200_000),
            ("2026-01-05T10:00:00.5Z", 1_767_607_200_500),
            ("2026-01-05t10:00:00.123456789z", 1_767_607_200_123),
            ("2026-01-05 12:30:00+02:30", 1_767_607_200_000),
            ("2000-02-29T23:59:59-00:01", 951_868_859_000),
            ("2100-03-01T00:00:00Z", 4_107_542_400_000),
        ] {
            assert_eq!(parse_time(text), Ok(ms), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "now",
            "2026-01-05",
            "2026-01-05T10:00:00",
            "2026-1-5T10:00:00Z",
            "2026-02-29T10:00:00Z",
            "2100-02-29T10:00:00Z",
            "2026-13-01T10:00:00Z",
            "2026-01-05T24:00:00Z",
            "2026-01-05T10:00:00.Z",
            "2026-01-05T10:00Z",
            "2026-01-05T10:00:00+2",
            "1969-12-31T23:59:59Z",
            "+026-01-05T10:00:00Z",
            "äöüäö2026",
        ] {
            let told = parse_time(text).expect_err(text);
            assert!(told.contains("2026-01-05T10:00:00Z"), "{told}");
        }
    }
}
