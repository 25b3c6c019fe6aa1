//! The names, tiers and ports that clients of the older system know.

use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// What a kernel is for; its ports lie in the tier's range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// What all others stand on.
    Core,
    /// Law, keys, evidence.
    Governance,
    /// Work that is carried out.
    Execution,
    /// Agents' helpers.
    Agentic,
    /// What watches and tells.
    Services,
}

impl Tier {
    /// All of them, in the order in which they are started.
    pub const ALL: [Self; 5] = [Self::Core, Self::Governance, Self::Execution, Self::Agentic, Self::Services];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Governance => "governance",
            Self::Execution => "execution",
            Self::Agentic => "agentic",
            Self::Services => "services",
        }
    }

    /// The tier of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.name() == name)
    }

    /// How far its ports lie above the fleet's first: ten for each tier.
    #[must_use]
    pub fn offsets(self) -> RangeInclusive<u16> {
        let first = self as u16 * PORTS_OF_TIER;
        first..=first + PORTS_OF_TIER - 1
    }
}

impl std::fmt::Display for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Ports of one tier.
pub const PORTS_OF_TIER: u16 = 10;
/// The first port of the first tier, where a configuration names no other.
pub const FIRST_PORT: u16 = 8100;
/// The port of the main API, where a configuration names no other.
pub const MAIN_PORT: u16 = 8000;

/// A kernel that clients know by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Its name.
    pub name: &'static str,
    /// Its tier.
    pub tier: Tier,
    /// How far its port lies above the fleet's first.
    pub offset: u16,
}

const fn known(name: &'static str, tier: Tier, offset: u16) -> Known {
    Known { name, tier, offset }
}

/// All that clients know.
pub const KERNELS: [Known; 20] = [
    known("message_bus", Tier::Core, 0),
    known("immutable_log", Tier::Core, 1),
    known("governance", Tier::Governance, 10),
    known("crypto_kernel", Tier::Governance, 11),
    known("trust_framework", Tier::Governance, 12),
    known("policy_engine", Tier::Governance, 13),
    known("compliance_monitor", Tier::Governance, 14),
    known("audit_trail", Tier::Governance, 15),
    known("scheduler", Tier::Execution, 20),
    known("task_executor", Tier::Execution, 21),
    known("workflow_engine", Tier::Execution, 22),
    known("state_machine", Tier::Execution, 23),
    known("librarian_kernel", Tier::Agentic, 30),
    known("self_healing_kernel", Tier::Agentic, 31),
    known("coding_agent_kernel", Tier::Agentic, 32),
    known("learning_kernel", Tier::Agentic, 33),
    known("research_kernel", Tier::Agentic, 34),
    known("telemetry_service", Tier::Services, 40),
    known("metrics_aggregator", Tier::Services, 41),
    known("alert_service", Tier::Services, 42),
];

/// The kernel that clients know by this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Known> {
    KERNELS.iter().find(|kernel| kernel.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_lies_in_its_tier_and_is_given_once() {
        let mut seen = std::collections::BTreeSet::new();
        for kernel in KERNELS {
            assert!(kernel.tier.offsets().contains(&kernel.offset), "{}", kernel.name);
            assert!(seen.insert(kernel.offset), "{}", kernel.name);
        }
    }
}
