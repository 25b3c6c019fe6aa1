//! A token bucket for each caller.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What the rate limit tells apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Who {
    Key(String),
    Address(IpAddr),
}

/// At most so many requests per second and caller, with a burst of one second's worth.
#[derive(Debug)]
pub(super) struct RateLimit {
    per_second: f64,
    callers_max: usize,
    buckets: Mutex<HashMap<Who, Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl RateLimit {
    #[allow(clippy::cast_precision_loss, reason = "a rate above 2^52 per second is no limit")]
    pub(super) fn new(per_second: u64, callers_max: usize) -> Self {
        Self { per_second: per_second as f64, callers_max, buckets: Mutex::default() }
    }

    /// Take a token, or say how long until there is one.
    pub(super) fn admit(&self, who: Who, now: Instant) -> Result<(), Duration> {
        self.take(who, 1.0, now)
    }

    /// Take the tokens of a batch whose first was taken when it came in. One that is larger than a
    /// second's worth costs a second's worth: it would never be admitted otherwise.
    #[allow(clippy::cast_precision_loss, reason = "a batch has fewer than 2^52 requests")]
    pub(super) fn admit_rest(&self, who: Who, requests: usize, now: Instant) -> Result<(), Duration> {
        self.take(who, (requests as f64).min(self.per_second) - 1.0, now)
    }

    fn take(&self, who: Who, tokens: f64, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= self.callers_max && !buckets.contains_key(&who) {
            self.forget(&mut buckets, now);
        }
        let bucket = buckets.entry(who).or_insert(Bucket { tokens: self.per_second, filled: now });
        let earned = now.saturating_duration_since(bucket.filled).as_secs_f64() * self.per_second;
        bucket.tokens = (bucket.tokens + earned).min(self.per_second);
        bucket.filled = now;
        if bucket.tokens < tokens {
            return Err(Duration::from_secs_f64((tokens - bucket.tokens) / self.per_second));
        }
        bucket.tokens -= tokens;
        Ok(())
    }

    /// Forget callers whose bucket is full again, which changes nothing for them; if there are
    /// none, all: a flood of addresses must not make memory grow.
    fn forget(&self, buckets: &mut HashMap<Who, Bucket>, now: Instant) {
        let full = Duration::from_secs(1);
        buckets.retain(|_, bucket| now.saturating_duration_since(bucket.filled) < full);
        if buckets.len() >= self.callers_max {
            buckets.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_admitted_then_the_rate() {
        let limit = RateLimit::new(10, 2);
        let who = || Who::Key("a".into());
        let start = Instant::now();
        assert_eq!((0..20).filter(|_| limit.admit(who(), start).is_ok()).count(), 10);
        assert!(limit.admit(who(), start).unwrap_err() <= Duration::from_millis(100));
        assert!(limit.admit(who(), start + Duration::from_millis(101)).is_ok());
        assert!(limit.admit(Who::Key("b".into()), start).is_ok());
        assert!(limit.admit(Who::Key("c".into()), start).is_ok());
        assert!(limit.buckets.lock().unwrap().len() <= 2);
    }

    #[test]
    fn a_batch_costs_what_it_holds_and_at_most_a_second() {
        let limit = RateLimit::new(10, 2);
        let who = || Who::Key("a".into());
        let start = Instant::now();
        let batch = |requests| limit.admit(who(), start).and_then(|()| limit.admit_rest(who(), requests, start));
        assert!(batch(6).is_ok());
        assert!(batch(6).is_err(), "4 are left");
        let later = start + Duration::from_secs(5);
        assert!(limit.admit(who(), later).and_then(|()| limit.admit_rest(who(), 1_000, later)).is_ok());
        assert!(limit.admit(who(), later).is_err());
    }
}
