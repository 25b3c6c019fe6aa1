//! When a call is tried again, and after how long.
//!
//! Exponential backoff with jitter: the n-th wait is drawn between half and the whole of
//! `first * 2^n`, at most `longest`; a server's `Retry-After` is waited for in any case. The jitter
//! keeps clients that failed together from coming back together.

use crate::Error;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// How often, and how long in between.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retries {
    pub(crate) tries_max: u32,
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

impl Retries {
    /// How long to wait before the next try; `None` if there must be none. `tried` is how often it
    /// was tried already, at least once.
    pub(crate) fn wait(&self, tried: u32, only_reads: bool, why: &Error) -> Option<Duration> {
        if tried >= self.tries_max || !worth_it(only_reads, why) {
            return None;
        }
        let whole = self.first.saturating_mul(1 << (tried - 1).min(16)).min(self.longest);
        let drawn = whole.mul_f64(0.5 + 0.5 * random());
        let asked = why.refusal().and_then(|refusal| refusal.retry_after);
        Some(drawn.max(asked.unwrap_or_default()))
    }
}

/// Whether the failure passes, and a second try does nothing twice.
fn worth_it(only_reads: bool, why: &Error) -> bool {
    match why {
        Error::Unreachable { .. } => true,
        Error::Refused(refusal) => refusal.passes() || only_reads && is_in_passing(refusal.status),
        Error::Interrupted { .. } => only_reads,
        Error::Malformed { status, .. } => only_reads && is_in_passing(*status),
        // The time is up for all tries together.
        Error::TimedOut { .. } | Error::Misused(_) | Error::Output(_) => false,
    }
}

fn is_in_passing(status: u16) -> bool {
    matches!(status, 502..=504)
}

/// From 0 to below 1. Good enough to scatter clients: the standard library seeds its hashers anew
/// each time.
fn random() -> f64 {
    let bits = RandomState::new().build_hasher().finish();
    f64::from((bits >> 32) as u32) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Refusal;

    const RETRIES: Retries =
        Retries { tries_max: 4, first: Duration::from_millis(100), longest: Duration::from_secs(1) };

    fn refused(status: u16, retry_after: Option<u64>) -> Error {
        let retry_after = retry_after.map(Duration::from_secs);
        Error::Refused(Refusal { status, message: "no".into(), kernel_state: None, retry_after })
    }

    fn url() -> String {
        "http://localhost".into()
    }

    #[test]
    fn what_does_something_is_repeated_only_if_nothing_was_done() {
        let unreachable = Error::Unreachable { url: url(), why: "refused".into() };
        let interrupted = Error::Interrupted { url: url(), why: "reset".into() };
        let late = Error::TimedOut { url: url(), waited: Duration::from_secs(1) };
        let foreign = Error::Malformed { url: url(), status: 503, why: "no JSON".into() };
        for (why, reading, doing) in [
            (&unreachable, true, true),
            (&refused(429, Some(1)), true, true),
            (&refused(503, Some(1)), true, true),
            (&refused(503, None), true, false),
            (&refused(500, None), false, false),
            (&refused(408, None), false, false),
            (&refused(409, None), false, false),
            (&interrupted, true, false),
            (&foreign, true, false),
            (&late, false, false),
        ] {
            assert_eq!(RETRIES.wait(1, true, why).is_some(), reading, "reading: {why}");
            assert_eq!(RETRIES.wait(1, false, why).is_some(), doing, "doing: {why}");
            assert!(!doing || why.is_certainly_undone(), "{why}");
        }
    }

    #[test]
    fn waits_double_to_a_limit_and_there_is_a_last() {
        let why = refused(429, None);
        for (tried, whole_ms) in [(1, 100), (2, 200), (3, 400)] {
            let wait = RETRIES.wait(tried, false, &why).unwrap();
            let whole = Duration::from_millis(whole_ms);
            assert!(wait >= whole / 2 && wait <= whole, "{tried}: {wait:?}");
        }
        assert_eq!(RETRIES.wait(4, false, &why), None);
        let many = Retries { tries_max: u32::MAX, ..RETRIES };
        assert!(many.wait(1_000, false, &why).unwrap() <= RETRIES.longest);
    }

    #[test]
    fn a_server_is_given_the_time_it_asks_for() {
        assert_eq!(RETRIES.wait(1, false, &refused(429, Some(7))), Some(Duration::from_secs(7)));
    }

    #[test]
    fn chance_is_between_0_and_1() {
        let drawn: Vec<f64> = (0..1_000).map(|_| random()).collect();
        assert!(drawn.iter().all(|drawn| (0.0..1.0).contains(drawn)));
        assert!(drawn.iter().any(|drawn| *drawn < 0.5) && drawn.iter().any(|drawn| *drawn >= 0.5));
    }
}
