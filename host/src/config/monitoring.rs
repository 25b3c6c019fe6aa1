//! How closely a kernel is watched for some hours after an incident.

use serde::{Deserialize, Serialize};

/// The enhanced monitoring of a kernel that came after an incident. Outside of it nothing is looked at by itself: that
/// is the work of whoever scrapes `/metrics`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MonitoringFile {
    /// How long it lasts where the operator says nothing else, in hours. Default 24.
    pub hours: u64,
    /// How often the kernel is looked at, in milliseconds. Default 5,000.
    pub every_ms: u64,
    /// The share of denials since the last look that is an alarm, in per cent. Default 50.
    pub max_denied_percent: u8,
    /// Decisions below which a share says nothing: they count towards the next look. Default 20.
    pub min_decisions: u64,
}

/// The longest time that enhanced monitoring may last, in hours: a year.
pub(crate) const MONITORING_HOURS_MAX: u64 = 8_784;

impl Default for MonitoringFile {
    fn default() -> Self {
        Self { hours: 24, every_ms: 5_000, max_denied_percent: 50, min_decisions: 20 }
    }
}

impl MonitoringFile {
    pub(super) fn validate(&self) -> Result<(), String> {
        if !(1..=MONITORING_HOURS_MAX).contains(&self.hours) {
            return Err(format!("monitoring.hours is {}: give 1 to {MONITORING_HOURS_MAX}", self.hours));
        }
        if self.every_ms == 0 || self.min_decisions == 0 {
            return Err("monitoring.every_ms and monitoring.min_decisions must be at least 1".into());
        }
        if self.max_denied_percent > 100 {
            return Err(format!("monitoring.max_denied_percent is {}: give 0 to 100", self.max_denied_percent));
        }
        Ok(())
    }
}
