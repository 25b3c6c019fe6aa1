//! What is wrong with a component, what is done about it, and what came of that.

use crate::holder::Holder;
use crate::registry::text;
use jiff::Timestamp;
use serde::Serialize;

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Issue {
    /// Nobody listens on its port.
    PortNotListening,
    /// It does not answer in time.
    ConnectionTimeout,
    /// It refuses connections.
    ConnectionRefused,
    /// Another process holds its port.
    PortConflict,
    /// Its process ended.
    ProcessCrashed,
    /// The network does not lead there.
    NetworkUnreachable,
    /// Whatever else somebody reports.
    Other(String),
}

impl Issue {
    /// The issue of this name; a name that is not known is only looked into.
    #[must_use]
    pub fn named(name: &str) -> Self {
        match name {
            "port_not_listening" => Self::PortNotListening,
            "connection_timeout" => Self::ConnectionTimeout,
            "connection_refused" => Self::ConnectionRefused,
            "port_conflict" => Self::PortConflict,
            "process_crashed" => Self::ProcessCrashed,
            "network_unreachable" => Self::NetworkUnreachable,
            other => Self::Other(other.chars().take(ISSUE_CHARS_MAX).collect()),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::PortNotListening => "port_not_listening",
            Self::ConnectionTimeout => "connection_timeout",
            Self::ConnectionRefused => "connection_refused",
            Self::PortConflict => "port_conflict",
            Self::ProcessCrashed => "process_crashed",
            Self::NetworkUnreachable => "network_unreachable",
            Self::Other(name) => name,
        }
    }

    /// What is tried, in this order, until one is verified to have helped.
    #[must_use]
    pub fn playbooks(&self) -> &'static [Playbook] {
        use Playbook::{ClearPort, DiagnoseNetwork, RebindPort, RestartComponent};
        match self {
            Self::PortNotListening => &[DiagnoseNetwork, RestartComponent],
            Self::ConnectionTimeout => &[DiagnoseNetwork, ClearPort, RestartComponent],
            Self::ConnectionRefused => &[RestartComponent, ClearPort],
            Self::PortConflict => &[ClearPort, RebindPort],
            Self::ProcessCrashed => &[RestartComponent],
            Self::NetworkUnreachable | Self::Other(_) => &[DiagnoseNetwork],
        }
    }
}

/// Characters of an unknown issue's name that are kept.
const ISSUE_CHARS_MAX: usize = 100;

impl Serialize for Issue {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Something that can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Playbook {
    /// Stop it, start it, and see that it is well.
    RestartComponent,
    /// Free its port of a process of ours that was left behind.
    ClearPort,
    /// Look at everything, and change nothing.
    DiagnoseNetwork,
    /// Move it to a spare port of its tier.
    RebindPort,
}

impl Playbook {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::RestartComponent, Self::ClearPort, Self::DiagnoseNetwork, Self::RebindPort];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RestartComponent => "restart_component",
            Self::ClearPort => "clear_port",
            Self::DiagnoseNetwork => "diagnose_network",
            Self::RebindPort => "rebind_port",
        }
    }

    /// The playbook of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|playbook| playbook.name() == name)
    }
}

/// One step of a playbook.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// What was done.
    pub step: &'static str,
    /// Whether it succeeded.
    pub ok: bool,
    /// What was found, or why it failed.
    pub detail: String,
    /// How long it took, in milliseconds.
    pub took_ms: f64,
}

/// What came of one playbook.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Which.
    pub playbook: Playbook,
    /// Whether the component was seen to be well after it; a diagnosis never claims that.
    pub success: bool,
    /// Its steps, in order.
    pub steps: Vec<Step>,
    /// What was found; of a diagnosis only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diagnosis: Option<Diagnosis>,
    /// What an operator could do.
    pub recommendations: Vec<String>,
    /// How long it took, in milliseconds.
    pub took_ms: f64,
}

/// A healing, from beginning to end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Healing {
    /// The component.
    pub component: String,
    /// Its port when it began.
    pub port: u16,
    /// What was wrong.
    pub issue: Issue,
    /// How bad whoever reported it thought it.
    pub severity: String,
    /// Who asked for it: `guardian`, or the name of a caller.
    pub by: String,
    /// What was tried, in order.
    pub playbooks_executed: Vec<Playbook>,
    /// What came of each.
    pub results: Vec<Outcome>,
    /// Whether it was seen to be well at the end of one.
    pub overall_success: bool,
    /// When it began.
    #[serde(serialize_with = "text")]
    pub began_at: Timestamp,
    /// When it ended.
    #[serde(serialize_with = "text")]
    pub healed_at: Timestamp,
}

/// What a look at a component found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diagnosis {
    /// Whether anybody listens on its port.
    pub listening: bool,
    /// Who does.
    pub holders: Vec<Holder>,
    /// What `/health` says.
    pub health: String,
    /// Its process, if it runs.
    pub pid: Option<u32>,
    /// File descriptors that it has open.
    pub open_files: Option<usize>,
    /// Memory that it holds, in bytes.
    pub memory_bytes: Option<u64>,
    /// Interfaces of this machine that are up.
    pub interfaces: Vec<String>,
    /// What an operator could do.
    pub recommendations: Vec<String>,
}

impl Diagnosis {
    /// In one line, for people.
    #[must_use]
    pub fn told(&self) -> String {
        let holders: Vec<String> = self.holders.iter().map(Holder::to_string).collect();
        let mut told = match holders.as_slice() {
            [] => vec![self.health.clone()],
            holders => vec![format!("held by {}", holders.join(" and ")), self.health.clone()],
        };
        told.extend(self.pid.map(|pid| format!("process {pid}")));
        told.extend(self.open_files.map(|open| format!("{open} open files")));
        told.extend(self.memory_bytes.map(|bytes| format!("{} MiB", bytes >> 20)));
        told.extend(self.interfaces.is_empty().then(|| "no network interface is up".to_owned()));
        told.join(", ")
    }
}

/// Why there is no healing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HealError {
    /// No component has this name.
    #[error("Component '{0}' not found")]
    Unknown(String),
    /// It is being healed, started or stopped.
    #[error("component '{0}' is being healed, started or stopped already")]
    Busy(String),
    /// It was given up: only an operator has it started again.
    #[error("component '{0}' was given up: mend its cause, then reset-failures, or heal or start it as an operator")]
    GivenUp(String),
    /// It is not a process of this fleet, so it is not started or stopped from here.
    #[error("component '{name}' {why}")]
    NotOurs {
        /// Which.
        name: String,
        /// Where it is instead, and what to do.
        why: String,
    },
    /// The fleet is going down.
    #[error("the fleet is stopping")]
    Stopping,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issues_have_the_playbooks_of_the_specification() {
        let names = |issue: &str| {
            let playbooks = Issue::named(issue).playbooks().iter();
            playbooks.map(|playbook| playbook.name().split('_').next().unwrap()).collect::<Vec<_>>().join(" ")
        };
        for (issue, wanted) in [
            ("port_not_listening", "diagnose restart"),
            ("connection_timeout", "diagnose clear restart"),
            ("connection_refused", "restart clear"),
            ("port_conflict", "clear rebind"),
            ("process_crashed", "restart"),
            ("network_unreachable", "diagnose"),
            ("who knows", "diagnose"),
        ] {
            assert_eq!(names(issue), wanted, "{issue}");
            assert_eq!(Issue::named(issue).name(), issue);
        }
    }

    #[test]
    fn a_playbook_is_found_by_its_name() {
        for playbook in Playbook::ALL {
            assert_eq!(Playbook::named(playbook.name()), Some(playbook));
        }
    }
}
