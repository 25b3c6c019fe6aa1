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

/// Notices when a clock jumps backward. The order of a ledger is that of its records, whatever their times say; but a
/// permit that expired would hold again, so somebody must be told.
#[derive(Debug, Default)]
pub struct Watch {
    latest_ms: AtomicU64,
}

/// Threads that read the clock at once may come in another order; an NTP client may take back as much in one step.
const JUMP_MS_MIN: u64 = 1_000;

impl Watch {
    /// A clock that stood at `latest_ms` before.
    #[must_use]
    pub fn from(latest_ms: u64) -> Self {
        Self { latest_ms: AtomicU64::new(latest_ms) }
    }

    /// Takes note that it is `now_ms` for a kernel; a jump backward is told in the log.
    pub fn look(&self, kernel: &str, now_ms: u64) {
        if let Some(before_ms) = self.see(now_ms) {
            let (now, before) = (rfc3339(now_ms), rfc3339(before_ms));
            let what = "the clock was set back: records keep their order, but permits that had expired hold again; set it right";
            tracing::warn!(kernel, now, before, "{what}");
        }
    }

    /// Takes note that it is `now_ms`. If that is a jump backward: the time before it. Each jump is told once.
    fn see(&self, now_ms: u64) -> Option<u64> {
        let before_ms = self.latest_ms.fetch_max(now_ms, Ordering::SeqCst);
        let jumped = before_ms.saturating_sub(now_ms) >= JUMP_MS_MIN;
        // Of threads that see it at once, one tells.
        let first =
            jumped && self.latest_ms.compare_exchange(before_ms, now_ms, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        first.then_some(before_ms)
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
    fn a_jump_backward_is_told_once() {
        let watch = Watch::from(50_000);
        assert_eq!([60_000, 59_500, 60_000].map(|now_ms| watch.see(now_ms)), [None; 3]);
        assert_eq!([10_000, 10_001, 11_000].map(|now_ms| watch.see(now_ms)), [Some(60_000), None, None]);
        assert_eq!([5_000, 70_000, 69_001].map(|now_ms| watch.see(now_ms)), [Some(11_000), None, None]);
        assert_eq!(Watch::from(u64::MAX).see(0), Some(u64::MAX));
    }

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
