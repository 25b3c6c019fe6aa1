//! Counters that policies keep across decisions: rates and budgets.
//!
//! A policy is forgotten after every decision; what it must remember lives here, under the host's
//! control. Every answer is reported with the evaluation, so that the decision can be judged again
//! from its record alone.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

/// Where the counters of a kernel's policies live.
pub trait Counters: Send + Sync {
    /// The sum under `key` of `policy` over the `window_ms` that end at `now_ms`.
    fn read(&self, policy: &str, key: &str, window_ms: u64, now_ms: u64) -> u64;
    /// Add `amount` and return the sum over the same window, the amount included. Saturates.
    fn add(&self, policy: &str, key: &str, amount: u64, window_ms: u64, now_ms: u64) -> u64;
}

/// What a policy did with a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CounterOperation {
    /// It read the sum.
    Read,
    /// It added this amount.
    Add(u64),
}

/// One answer that the host gave to a policy, for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CounterAnswer {
    /// What was asked.
    pub operation: CounterOperation,
    /// The policy's key.
    pub key: String,
    /// The window, in milliseconds.
    pub window_ms: u64,
    /// What was answered.
    pub answer: u64,
}

/// Additions in the same 128th of a window are merged, at the time of the latest: what is counted
/// may count a little too long, never too short. It bounds a counter to some 130 entries.
const GRANULES_PER_WINDOW: u64 = 128;

/// [`Counters`] in memory, with at most a given number of keys.
///
/// When every key is taken, the keys whose windows have passed are forgotten; if none has, the
/// key touched longest ago is.
#[derive(Debug)]
pub struct WindowedCounters {
    keys: Mutex<HashMap<(String, String), Window>>,
    keys_max: usize,
}

#[derive(Debug, Default)]
struct Window {
    /// Amounts by time, oldest first.
    amounts: VecDeque<(u64, u64)>,
    /// The longest window ever asked for: how long amounts are kept.
    longest_ms: u64,
    touched_ms: u64,
}

impl WindowedCounters {
    /// Counters with at most `keys_max` keys over all policies.
    #[must_use]
    pub fn new(keys_max: usize) -> Self {
        Self { keys: Mutex::default(), keys_max: keys_max.max(1) }
    }

    fn with<T>(&self, policy: &str, key: &str, now_ms: u64, act: impl FnOnce(&mut Window) -> T) -> T {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (policy.to_owned(), key.to_owned());
        if keys.len() >= self.keys_max && !keys.contains_key(&name) {
            make_room(&mut keys, now_ms);
        }
        let window = keys.entry(name).or_default();
        window.touched_ms = window.touched_ms.max(now_ms);
        act(window)
    }
}

impl From<WindowedCounters> for std::sync::Arc<dyn Counters> {
    fn from(counters: WindowedCounters) -> Self {
        std::sync::Arc::new(counters)
    }
}

impl Counters for WindowedCounters {
    fn read(&self, policy: &str, key: &str, window_ms: u64, now_ms: u64) -> u64 {
        self.with(policy, key, now_ms, |window| window.sum(window_ms, now_ms))
    }

    fn add(&self, policy: &str, key: &str, amount: u64, window_ms: u64, now_ms: u64) -> u64 {
        self.with(policy, key, now_ms, |window| {
            window.add(amount, window_ms, now_ms);
            window.sum(window_ms, now_ms)
        })
    }
}

impl Window {
    fn add(&mut self, amount: u64, window_ms: u64, now_ms: u64) {
        self.longest_ms = self.longest_ms.max(window_ms);
        let start = now_ms.saturating_sub(self.longest_ms);
        while self.amounts.front().is_some_and(|(at, _)| *at <= start && start > 0) {
            self.amounts.pop_front();
        }
        let granule = window_ms.div_ceil(GRANULES_PER_WINDOW).max(1);
        match self.amounts.back_mut() {
            // A clock that steps back must not reorder: what is added then counts as of the latest.
            Some((at, sum)) if now_ms <= *at || now_ms / granule == *at / granule => {
                *at = now_ms.max(*at);
                *sum = sum.saturating_add(amount);
            }
            _ => self.amounts.push_back((now_ms, amount)),
        }
    }

    fn sum(&mut self, window_ms: u64, now_ms: u64) -> u64 {
        self.longest_ms = self.longest_ms.max(window_ms);
        let start = now_ms.checked_sub(window_ms);
        let recent = self.amounts.iter().rev().take_while(|(at, _)| start.is_none_or(|start| *at > start));
        recent.fold(0, |sum: u64, (_, amount)| sum.saturating_add(*amount))
    }
}

fn make_room(keys: &mut HashMap<(String, String), Window>, now_ms: u64) {
    let before = keys.len();
    keys.retain(|_, window| window.touched_ms.saturating_add(window.longest_ms) >= now_ms);
    if keys.len() == before
        && let Some(oldest) = keys.iter().min_by_key(|(_, window)| window.touched_ms).map(|(name, _)| name.clone())
    {
        keys.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_leave_the_window() {
        let counters = WindowedCounters::new(10);
        assert_eq!(counters.add("p", "k", 2, 1_000, 10_000), 2);
        assert_eq!(counters.add("p", "k", 3, 1_000, 10_500), 5);
        assert_eq!(counters.read("p", "k", 1_000, 10_999), 5);
        assert_eq!(counters.read("p", "k", 1_000, 11_000), 3);
        assert_eq!(counters.read("p", "k", 1_000, 20_000), 0);
    }

    #[test]
    fn policies_never_share_a_key() {
        let counters = WindowedCounters::new(10);
        counters.add("a", "k", 7, 1_000, 5_000);
        assert_eq!(counters.read("b", "k", 1_000, 5_000), 0);
    }

    #[test]
    fn a_shorter_window_over_the_same_key_sees_only_the_recent() {
        let counters = WindowedCounters::new(10);
        counters.add("p", "k", 1, 60_000, 100_000);
        counters.add("p", "k", 1, 60_000, 130_000);
        assert_eq!(counters.read("p", "k", 10_000, 131_000), 1);
        assert_eq!(counters.read("p", "k", 60_000, 131_000), 2);
    }

    #[test]
    fn many_additions_stay_bounded_and_saturate() {
        let counters = WindowedCounters::new(10);
        for at in 0..100_000 {
            counters.add("p", "k", 1, 1_000, at);
        }
        let keys = counters.keys.lock().unwrap();
        assert!(keys.values().all(|window| window.amounts.len() <= 140));
        drop(keys);
        assert_eq!(counters.add("p", "k", u64::MAX, 1_000, 100_000), u64::MAX);
    }

    #[test]
    fn a_clock_that_steps_back_loses_nothing() {
        let counters = WindowedCounters::new(10);
        counters.add("p", "k", 1, 1_000, 5_000);
        assert_eq!(counters.add("p", "k", 1, 1_000, 4_000), 2);
    }

    #[test]
    fn keys_are_bounded() {
        let counters = WindowedCounters::new(3);
        for n in 0..50 {
            counters.add("p", &n.to_string(), 1, 1_000, 1_000 + n);
        }
        assert_eq!(counters.keys.lock().unwrap().len(), 3);
        assert_eq!(counters.read("p", "49", 1_000, 1_049), 1);
    }
}
