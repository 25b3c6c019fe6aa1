//! The closer look at a kernel that came after an incident: is it well, and does it deny more than it should?

use super::{Fleet, Slot};
use crate::metrics::KernelLabels;
use gavel_kernel::State;
use serde_json::{Value, json};
use std::sync::{PoisonError, Weak};
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// What was seen at the last look.
#[derive(Debug, Default)]
pub(super) struct Look {
    kernel_id: String,
    /// Decisions up to which the share was computed.
    allowed: u64,
    denied: u64,
    at_ms: Option<u64>,
    denied_percent: Option<u64>,
    alarm: Option<String>,
}

/// Look at every kernel that is watched closely, until the fleet is gone.
pub(super) async fn run(fleet: Weak<Fleet>, every_ms: u64) {
    let mut tick = tokio::time::interval(Duration::from_millis(every_ms));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(fleet) = fleet.upgrade() else { return };
        fleet.slots().iter().for_each(|slot| fleet.look_at(slot));
    }
}

impl Slot {
    /// What enhanced monitoring finds wrong at this moment.
    pub(crate) fn alarm(&self) -> Option<String> {
        self.look.lock().unwrap_or_else(PoisonError::into_inner).alarm.clone()
    }
}

impl Fleet {
    fn look_at(&self, slot: &Slot) {
        let now_ms = self.workshop.clock.now_ms();
        let until_ms = self.entry(slot.name()).ok().and_then(|entry| entry.monitored_until_ms);
        let labels = KernelLabels { kernel: slot.name().to_owned() };
        let mut look = slot.look.lock().unwrap_or_else(PoisonError::into_inner);
        if until_ms.is_none_or(|until_ms| until_ms <= now_ms) {
            if look.at_ms.is_some() {
                tracing::info!(kernel = slot.name(), "enhanced monitoring ended");
                self.workshop.metrics.monitoring_alarm.remove(&labels);
                *look = Look::default();
            }
            return;
        }
        let kernel = slot.kernel();
        let (allowed, denied) = kernel.decided();
        if look.kernel_id != kernel.id() {
            *look = Look { kernel_id: kernel.id().to_owned(), ..Look::default() };
        }
        look.at_ms = Some(now_ms);
        let alarm = match (kernel.state(), kernel.poisoned()) {
            (_, Some(why)) => Some(format!("its ledger takes no records: {why}")),
            (State::Halted, None) => Some("it is halted".to_owned()),
            _ => look.too_many_denials(
                allowed,
                denied,
                self.monitoring.min_decisions,
                self.monitoring.max_denied_percent,
            ),
        };
        if alarm != look.alarm
            && let Some(why) = &alarm
        {
            tracing::error!(kernel = slot.name(), why, "enhanced monitoring: alarm");
        }
        self.workshop.metrics.monitoring_alarm.get_or_create(&labels).set(i64::from(alarm.is_some()));
        look.alarm = alarm;
    }
}

impl Look {
    /// Whether the share of denials since the last look is an alarm. Too few decisions say nothing new.
    fn too_many_denials(&mut self, allowed: u64, denied: u64, min: u64, max_percent: u8) -> Option<String> {
        let (new_allowed, new_denied) = (allowed.saturating_sub(self.allowed), denied.saturating_sub(self.denied));
        let decided = new_allowed + new_denied;
        if decided < min {
            return self.alarm.clone().filter(|_| self.denied_percent.is_some());
        }
        let percent = new_denied.saturating_mul(100) / decided;
        (self.allowed, self.denied, self.denied_percent) = (allowed, denied, Some(percent));
        (percent > u64::from(max_percent)).then(|| {
            format!("{percent} % of {decided} decisions are denials, more than {max_percent} % (monitoring.max_denied_percent)")
        })
    }
}

impl Slot {
    /// What the last look saw.
    pub(super) fn last_look(&self) -> Value {
        let look = self.look.lock().unwrap_or_else(PoisonError::into_inner);
        json!({"looked_at_ms": look.at_ms, "denied_percent": look.denied_percent, "alarm": look.alarm})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_denials_counts_from_look_to_look() {
        let mut look = Look::default();
        let mut told = |allowed, denied| {
            let alarm = look.too_many_denials(allowed, denied, 10, 50);
            look.alarm.clone_from(&alarm);
            (look.denied_percent, alarm.is_some())
        };
        assert_eq!(told(4, 5), (None, false), "too few to say anything");
        assert_eq!(told(5, 5), (Some(50), false));
        assert_eq!(told(6, 15), (Some(90), true));
        assert_eq!(told(7, 15), (Some(90), true), "it goes on until there is news");
        assert_eq!(told(16, 15), (Some(0), false));
    }
}
