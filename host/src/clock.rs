//! The one clock. Everything that needs the time is given this, so that a recorded run and a test
//! can set it.

use jiff::Timestamp;
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
    let told = || {
        let shown: String = text.chars().take(60).collect();
        format!("`{}` is no time: write it as 2026-01-05T10:00:00Z (RFC 3339, from 1970 on)", shown.escape_debug())
    };
    let time: Timestamp = text.parse().map_err(|_| told())?;
    u64::try_from(time.as_millisecond()).map_err(|_| told())
}

/// A time in milliseconds since 1970-01-01T00:00:00Z as RFC 3339 writes it; beyond the year 9999 the number itself.
#[must_use]
pub fn rfc3339(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| format!("{ms} ms"), |time| time.to_string())
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
            "1969-12-31T23:59:59Z",
            "+026-01-05T10:00:00Z",
            "äöüäö2026",
        ] {
            let told = parse_time(text).expect_err(text);
            assert!(told.contains("2026-01-05T10:00:00Z"), "{told}");
        }
    }
}
