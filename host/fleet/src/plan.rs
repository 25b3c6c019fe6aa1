//! What a fleet is made of: its components, where they are, and what each needs before it.

use crate::table::{FIRST_PORT, KERNELS, Tier};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A component of the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// Its name, for clients and operators.
    pub name: String,
    /// Its tier.
    pub tier: Tier,
    /// Its port on the loopback interface; 0 takes a free one.
    pub port: u16,
    /// Components that must be healthy before it starts.
    pub needs: Vec<String>,
    /// Components whose start it lets pass before its own, however that ended.
    pub after: Vec<String>,
    /// Whether the fleet is down without it.
    pub required: bool,
    /// Where it runs.
    pub place: Place,
    /// The path that says whether it is well, as a rule [`HEALTH`].
    pub health_path: String,
}

impl Component {
    /// Components that are started before it.
    fn comes_after(&self) -> impl Iterator<Item = &String> {
        self.needs.iter().chain(&self.after)
    }
}

/// Where a component says whether it is well.
pub const HEALTH: &str = "/health";

/// Where a component runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A process of this fleet.
    Process,
    /// Another machine, or another fleet: checked and reached at `http://HOST:PORT`, never started or stopped from here.
    Elsewhere(String),
    /// Nowhere: it has a name and a port, and is `not_started`.
    NotStarted,
}

impl Place {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Elsewhere(_) => "elsewhere",
            Self::NotStarted => "not_started",
        }
    }

    /// Why what is there is not started or stopped by this fleet, as the end of a sentence; `None` if it is.
    #[must_use]
    pub fn not_ours(&self) -> Option<String> {
        match self {
            Self::Process => None,
            Self::Elsewhere(url) => Some(format!("runs elsewhere ({url}): start and stop it there")),
            Self::NotStarted => {
                Some("is not started in this fleet: enable it in the configuration, and start the fleet again".into())
            }
        }
    }
}

/// Times, thresholds and budgets.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Between two checks of a component. Default 60 s.
    pub check_every: Duration,
    /// How long a check may take. Default 2 s.
    pub check_timeout: Duration,
    /// Failed checks in a row after which a component is healed. Default 3.
    pub failures_max: u32,
    /// How long a component has from its start to its first good health. Default 20 s.
    pub start_timeout: Duration,
    /// How long a component has after TERM before it is killed. Default 10 s.
    pub stop_grace: Duration,
    /// Restarts within [`Self::restarts_window`]; beyond, a component is failed until an operator resets it. Default 5.
    pub restarts_max: u32,
    /// The time in which restarts are counted. Default 10 min.
    pub restarts_window: Duration,
    /// The wait before the second restart within the window; doubled with each that follows within it, with jitter. Default 250 ms.
    pub backoff_first: Duration,
    /// The longest such wait. Default 30 s.
    pub backoff_max: Duration,
    /// Bytes that must be free on the disk before a component that runs and is not well is restarted: without them no
    /// restart helps. Default 32 MiB; 0 restarts always.
    pub disk_free_bytes_min: u64,
    /// How long a request may wait for its kernel's answer to begin. Default 30 s.
    pub proxy_timeout: Duration,
    /// Requests that may wait for one component's answer to begin; more are refused at once. Default 1,024.
    pub proxy_in_flight_max: usize,
    /// Healings that are remembered. Default 1,000.
    pub history_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            check_every: Duration::from_mins(1),
            check_timeout: Duration::from_secs(2),
            failures_max: 3,
            start_timeout: Duration::from_secs(20),
            stop_grace: Duration::from_secs(10),
            restarts_max: 5,
            restarts_window: Duration::from_mins(10),
            backoff_first: Duration::from_millis(250),
            backoff_max: Duration::from_secs(30),
            disk_free_bytes_min: 32 << 20,
            proxy_timeout: Duration::from_secs(30),
            proxy_in_flight_max: 1_024,
            history_max: 1_000,
        }
    }
}

/// A fleet that can be started: every need is there, and nothing needs itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    components: BTreeMap<String, Component>,
    order: Vec<String>,
    /// The first port of the first tier; 0 if every component takes a free one.
    pub first_port: u16,
    /// Times, thresholds and budgets.
    pub limits: Limits,
}

/// Why components are no fleet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Two have one name.
    #[error("component `{0}` is there twice")]
    Twice(String),
    /// Two want one port.
    #[error("components `{first}` and `{second}` both want port {port}: give one of them another")]
    Port {
        /// The one.
        first: String,
        /// The other.
        second: String,
        /// The port.
        port: u16,
    },
    /// One needs what is not there.
    #[error("component `{name}` needs `{missing}`, which is not there")]
    Missing {
        /// Which.
        name: String,
        /// What it needs.
        missing: String,
    },
    /// One needs what is not started.
    #[error("component `{name}` needs `{idle}`, which is not started: start it, or take the need out")]
    Idle {
        /// Which.
        name: String,
        /// What it needs.
        idle: String,
    },
    /// Some need each other.
    #[error("these components need each other in a circle: {}", .0.join(" -> "))]
    Circle(Vec<String>),
}

impl Plan {
    /// Put components in the order in which they are started: what is needed before who needs it, and within that by
    /// tier and name. Names of the table that are not among them are added, not started.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn new(components: Vec<Component>, first_port: u16, limits: Limits) -> Result<Self, PlanError> {
        let mut by_name = BTreeMap::new();
        let mut ports: BTreeMap<u16, String> = BTreeMap::new();
        for component in components {
            if component.port != 0
                && component.place == Place::Process
                && let Some(first) = ports.insert(component.port, component.name.clone())
            {
                return Err(PlanError::Port { first, second: component.name, port: component.port });
            }
            let name = component.name.clone();
            if by_name.insert(name.clone(), component).is_some() {
                return Err(PlanError::Twice(name));
            }
        }
        for known in KERNELS {
            by_name.entry(known.name.to_owned()).or_insert_with(|| Component {
                name: known.name.to_owned(),
                tier: known.tier,
                port: port_at(first_port, known.offset),
                needs: Vec::new(),
                after: Vec::new(),
                required: false,
                place: Place::NotStarted,
                health_path: HEALTH.to_owned(),
            });
        }
        let order = order(&by_name)?;
        Ok(Self { components: by_name, order, first_port, limits })
    }

    /// All components, what is needed first.
    pub fn in_order(&self) -> impl Iterator<Item = &Component> {
        self.order.iter().filter_map(|name| self.components.get(name))
    }

    /// The component of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Component> {
        self.components.get(name)
    }

    /// Ports of a tier that no component is planned for; 0, which takes a free one, in a fleet without ranges.
    pub fn spare_ports(&self, tier: Tier) -> impl Iterator<Item = u16> {
        let taken: BTreeSet<u16> = self.components.values().map(|component| component.port).collect();
        let first = self.first_port;
        let ports = tier.offsets().take(if first == 0 { 1 } else { usize::MAX });
        ports.map(move |offset| port_at(first, offset)).filter(move |port| *port == 0 || !taken.contains(port))
    }
}

/// The port so far above the first one; 0 in a fleet without ranges.
#[must_use]
pub fn port_at(first_port: u16, offset: u16) -> u16 {
    if first_port == 0 { 0 } else { first_port + offset }
}

impl Default for Plan {
    /// The table alone: nothing is started.
    fn default() -> Self {
        Self::new(Vec::new(), FIRST_PORT, Limits::default()).unwrap_or_else(|_| Self {
            components: BTreeMap::new(),
            order: Vec::new(),
            first_port: FIRST_PORT,
            limits: Limits::default(),
        })
    }
}

fn order(components: &BTreeMap<String, Component>) -> Result<Vec<String>, PlanError> {
    for component in components.values() {
        for need in component.needs.iter().chain(&component.after) {
            let needed = components
                .get(need)
                .ok_or_else(|| PlanError::Missing { name: component.name.clone(), missing: need.clone() })?;
            if needed.place == Place::NotStarted && component.place != Place::NotStarted {
                return Err(PlanError::Idle { name: component.name.clone(), idle: need.clone() });
            }
        }
    }
    let mut ordered: Vec<String> = Vec::with_capacity(components.len());
    let mut open: BTreeSet<(Tier, &str)> =
        components.values().map(|component| (component.tier, component.name.as_str())).collect();
    while !open.is_empty() {
        let ready = open
            .iter()
            .copied()
            .find(|(_, name)| components[*name].comes_after().all(|need| ordered.iter().any(|done| done == need)));
        let Some(ready) = ready else { return Err(PlanError::Circle(circle(components, &open))) };
        open.remove(&ready);
        ordered.push(ready.1.to_owned());
    }
    Ok(ordered)
}

/// A circle among components of which each needs another of them.
fn circle(components: &BTreeMap<String, Component>, open: &BTreeSet<(Tier, &str)>) -> Vec<String> {
    let waits = |name: &str| open.iter().any(|(_, open)| *open == name);
    let mut walked: Vec<&str> = open.first().map(|(_, name)| *name).into_iter().collect();
    while let Some(last) = walked.last() {
        let Some(next) = components[*last].comes_after().map(String::as_str).find(|need| waits(need)) else { break };
        if let Some(at) = walked.iter().position(|name| *name == next) {
            walked.push(next);
            return walked[at..].iter().map(|name| (*name).to_owned()).collect();
        }
        walked.push(next);
    }
    walked.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(name: &str, tier: Tier, port: u16, needs: &[&str]) -> Component {
        let needs = needs.iter().map(|need| (*need).to_owned()).collect();
        Component {
            name: name.to_owned(),
            tier,
            port,
            needs,
            after: Vec::new(),
            required: true,
            place: Place::Process,
            health_path: HEALTH.into(),
        }
    }

    fn plan(components: Vec<Component>) -> Result<Plan, PlanError> {
        Plan::new(components, FIRST_PORT, Limits::default())
    }

    #[test]
    fn what_is_needed_comes_first_and_else_the_lower_tier() {
        let plan = plan(vec![
            component("alert_service", Tier::Services, 1, &[]),
            component("message_bus", Tier::Core, 2, &["governance"]),
            component("governance", Tier::Governance, 3, &["immutable_log"]),
            component("immutable_log", Tier::Core, 4, &[]),
        ])
        .unwrap();
        let started: Vec<_> = plan.in_order().filter(|one| one.place == Place::Process).map(|one| &*one.name).collect();
        assert_eq!(started, ["immutable_log", "governance", "message_bus", "alert_service"]);
        assert_eq!(plan.in_order().count(), KERNELS.len());
    }

    #[test]
    fn a_circle_is_named_whole() {
        let told = plan(vec![
            component("a", Tier::Core, 1, &["b"]),
            component("b", Tier::Core, 2, &["c"]),
            component("c", Tier::Core, 3, &["b"]),
        ]);
        assert_eq!(told, Err(PlanError::Circle(vec!["b".into(), "c".into(), "b".into()])));
    }

    #[test]
    fn needs_and_ports_must_fit() {
        let missing = plan(vec![component("a", Tier::Core, 1, &["x"])]).unwrap_err();
        assert_eq!(missing.to_string(), "component `a` needs `x`, which is not there");
        let idle = plan(vec![component("a", Tier::Core, 1, &["scheduler"])]).unwrap_err();
        assert!(idle.to_string().contains("`scheduler`, which is not started"));
        let port = plan(vec![component("a", Tier::Core, 7, &[]), component("b", Tier::Core, 7, &[])]).unwrap_err();
        assert!(port.to_string().contains("both want port 7"));
        assert!(plan(vec![component("a", Tier::Core, 0, &[]), component("b", Tier::Core, 0, &[])]).is_ok());
    }

    #[test]
    fn spare_ports_are_of_the_tier_and_nobodys() {
        let spare: Vec<u16> = Plan::default().spare_ports(Tier::Core).collect();
        assert_eq!(spare, (8102..=8109).collect::<Vec<_>>());
    }
}
