//! The host's counters behind a trait, so that a policy that counts can be judged in tests without a host.
//!
//! A counter is a sum over a sliding window that ends now; it cannot be set back. From this follows how a limit is
//! kept while other decisions run at the same time: [`Counters::add`] first and compare the sum that it returns. Who
//! reads first (so that what is refused is not counted) still compares the sum after adding. Both may then be refused
//! where one would have fitted, never more let through than the limit.

use std::collections::BTreeMap;

use crate::bindings::gavel::policy::counters;
use crate::key::KEY_BYTES_MAX;

/// Parts of a window that [`shortest_over`] tells apart. The host merges what is added within the same 128th.
pub const STEPS_PER_WINDOW: u64 = 128;

/// Reads that [`shortest_over`] makes at most, of the 64 that the host grants to one evaluation by default.
pub const SEARCH_READS_MAX: u64 = 7;

/// The longest window that settings take: a leap year.
pub const WINDOW_MS_MAX: u64 = 366 * 24 * 3_600_000;

/// What [`crate::counters`] offers; see there for the law.
pub trait Counters {
    /// The sum of what was added under `key` in the last `window_ms` milliseconds.
    fn read(&mut self, key: &str, window_ms: u64) -> u64;

    /// Add `amount` under `key` and return the sum over the window, the amount included.
    fn add(&mut self, key: &str, amount: u64, window_ms: u64) -> u64;
}

/// The counters that the host keeps for this policy.
#[derive(Debug, Clone, Copy)]
pub struct HostCounters;

impl Counters for HostCounters {
    fn read(&mut self, key: &str, window_ms: u64) -> u64 {
        counters::read(key, window_ms)
    }

    fn add(&mut self, key: &str, amount: u64, window_ms: u64) -> u64 {
        counters::add(key, amount, window_ms)
    }
}

/// The length of the shortest window ending now whose sum is over `room`, rounded up to a 128th of `window_ms`.
///
/// The sum over the whole window must be over `room` already; else the answer means nothing.
pub fn shortest_over(counters: &mut impl Counters, key: &str, window_ms: u64, room: u64) -> u64 {
    let (mut fits, mut is_over) = (0, STEPS_PER_WINDOW);
    while is_over - fits > 1 {
        let middle = fits.midpoint(is_over);
        if counters.read(key, step_ms(window_ms, middle)) > room { is_over = middle } else { fits = middle }
    }
    step_ms(window_ms, is_over)
}

/// How long it takes until the sum over the window is `room` or less, if nothing is added meanwhile. Rounded up to a
/// 128th of the window, and to a whole second where it is longer than one. The sum must be over `room` now.
pub fn wait_ms(counters: &mut impl Counters, key: &str, window_ms: u64, room: u64) -> u64 {
    let over = shortest_over(counters, key, window_ms, room);
    // The longest window known to fit is one step shorter than the shortest known not to.
    let fits = over.saturating_sub(step_ms(window_ms, 1));
    let wait = (window_ms - fits.min(window_ms)).max(1);
    if wait > 1_000 { wait.div_ceil(1_000) * 1_000 } else { wait }
}

/// A number of steps of a window, rounded up; 0 is 0 and all of them are the window.
fn step_ms(window_ms: u64, steps: u64) -> u64 {
    debug_assert!(window_ms <= u64::MAX / STEPS_PER_WINDOW, "settings bound a window by WINDOW_MS_MAX");
    (window_ms * steps).div_ceil(STEPS_PER_WINDOW)
}

/// Counters in memory under the host's law, for tests: exact to the millisecond, and with a clock that the test sets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryCounters {
    /// The time of the decision, as in [`crate::Request`].
    pub now_ms: u64,
    /// How often they were asked. A decision may do that 64 times by default.
    pub calls: u64,
    amounts: BTreeMap<String, Vec<(u64, u64)>>,
}

impl MemoryCounters {
    /// Every key that was added to, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.amounts.keys().map(String::as_str)
    }
}

impl Counters for MemoryCounters {
    fn read(&mut self, key: &str, window_ms: u64) -> u64 {
        assert!(key.len() <= KEY_BYTES_MAX, "the host refuses the key {key:?}");
        self.calls += 1;
        let start = self.now_ms.checked_sub(window_ms);
        let amounts = self.amounts.get(key).into_iter().flatten();
        let recent = amounts.filter(|(at, _)| start.is_none_or(|start| *at > start));
        recent.fold(0, |sum, (_, amount)| sum.saturating_add(*amount))
    }

    fn add(&mut self, key: &str, amount: u64, window_ms: u64) -> u64 {
        self.amounts.entry(key.to_owned()).or_default().push((self.now_ms, amount));
        self.read(key, window_ms)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counters(times: &[u64], now_ms: u64) -> MemoryCounters {
        let mut counters = MemoryCounters::default();
        for at in times {
            counters.now_ms = *at;
            counters.add("k", 1, 1);
        }
        counters.now_ms = now_ms;
        counters.calls = 0;
        counters
    }

    #[test]
    fn the_window_slides() {
        let mut counters = counters(&[10_000, 10_500], 10_999);
        assert_eq!(counters.read("k", 1_000), 2);
        counters.now_ms = 11_000;
        assert_eq!(counters.read("k", 1_000), 1);
        assert_eq!(counters.read("k", 500), 0);
        assert_eq!(counters.read("other", 1_000), 0);
        assert_eq!(counters.read("k", u64::MAX), 2);
        assert_eq!(counters.add("k", u64::MAX, 2_000), u64::MAX);
    }

    #[test]
    fn how_long_to_wait() {
        let mut counters = counters(&[1_000, 31_000], 40_000);
        assert_eq!(wait_ms(&mut counters, "k", 60_000, 1), 22_000); // the first leaves in 21 s
        assert!(counters.calls <= SEARCH_READS_MAX);
        assert_eq!(wait_ms(&mut counters, "k", 60_000, 0), 52_000); // both, in 51 s
        assert_eq!(wait_ms(&mut self::counters(&[7], 7), "k", 1, 0), 1);
        assert_eq!(wait_ms(&mut self::counters(&[5_000], 5_099), "k", 100, 0), 1);
    }

    proptest! {
        #[test]
        fn after_the_wait_there_is_room_and_not_long_before(
            times in prop::collection::vec(0_u64..100_000, 1..20),
            window_ms in 1_u64..100_000,
            room in 0_u64..5,
        ) {
            let mut counters = counters(&times, 100_000);
            prop_assume!(counters.read("k", window_ms) > room);
            let over = shortest_over(&mut counters, "k", window_ms, room);
            prop_assert!(counters.read("k", over) > room);
            counters.calls = 0;
            let wait = wait_ms(&mut counters, "k", window_ms, room);
            prop_assert!(counters.calls <= SEARCH_READS_MAX);
            let rounding = 2 * window_ms.div_ceil(STEPS_PER_WINDOW) + 1_000;
            counters.now_ms += wait;
            prop_assert!(counters.read("k", window_ms) <= room, "waited {}", wait);
            counters.now_ms = (100_000 + wait).saturating_sub(rounding);
            if counters.now_ms >= 100_000 {
                prop_assert!(counters.read("k", window_ms) > room, "could have waited {} less", rounding);
            }
        }
    }
}
