//! The section `fleet`: kernels as processes on ports, with one main API in front.

use super::token;
use crate::kinds;
use gavel_fleet::table::{self, FIRST_PORT, Tier};
use gavel_fleet::{Component, HEALTH, Place, Plan, port_at};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A fleet. What it leaves out has its default; the eleven kernels of [`kinds::all`] run unless they are disabled.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FleetFile {
    /// Where the main API listens. Default 127.0.0.1:8000. Port 0 takes a free port.
    pub listen: SocketAddr,
    /// The first port of the first tier. Default 8100. 0: each kernel takes a free port.
    pub first_port: u16,
    /// Kernels by name: those of the table, and others.
    pub kernels: BTreeMap<String, FleetKernelFile>,
    /// Between two checks of a kernel, in milliseconds. Default 60,000.
    pub check_every_ms: u64,
    /// How long a check may take, in milliseconds. Default 2,000.
    pub check_timeout_ms: u64,
    /// Failed checks in a row after which a kernel is healed. Default 3.
    pub failures_max: u32,
    /// From a kernel's start to its first good health, in milliseconds. Default 20,000.
    pub start_timeout_ms: u64,
    /// From TERM to KILL, in milliseconds. Default 10,000.
    pub stop_grace_ms: u64,
    /// Restarts within `restarts_window_ms`; beyond, a kernel is failed until it is reset. Default 5.
    pub restarts_max: u32,
    /// The time in which restarts are counted, in milliseconds. Default 600,000.
    pub restarts_window_ms: u64,
    /// The wait before the second restart within the window, doubled with each that follows within it, in milliseconds. Default 250.
    pub backoff_first_ms: u64,
    /// The longest such wait, in milliseconds. Default 30,000.
    pub backoff_max_ms: u64,
    /// Bytes that must be free on the disk of the data folder before a kernel that is not well is restarted. Default 32 MiB.
    pub disk_free_bytes_min: u64,
    /// How long a request waits for its kernel's answer to begin, in milliseconds. Default 30,000.
    pub proxy_timeout_ms: u64,
    /// Requests that may wait for one kernel's answer to begin; more are refused at once. Default 1,024.
    pub proxy_in_flight_max: usize,
    /// Healings that are remembered. Default 1,000.
    pub history_max: usize,
    /// Bytes of a kernel's log file, of which the one before is kept too. Default 4 MiB.
    pub log_bytes_max: u64,
    /// Reports (healings, changes of status) that wait on disk for the kernels that keep them. Default 10,000.
    pub reports_max: usize,
    /// A file with the secret by which the parts of this fleet know each other, if some of them are on other machines.
    /// Default: a secret of its own at each start, which only its own processes get.
    pub token_file: Option<PathBuf>,
}

/// One kernel of a fleet.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FleetKernelFile {
    /// What kind of kernel it is. Default: the kind of its name.
    pub kind: Option<String>,
    /// Whether it is started. Default true.
    pub enabled: Option<bool>,
    /// Its tier, if it is not in the table.
    pub tier: Option<Tier>,
    /// Its port. Default: that of the table, or a spare one of its tier.
    pub port: Option<u16>,
    /// It runs elsewhere: `http://HOST:PORT`. It is checked and reached there, never started or stopped.
    pub url: Option<String>,
    /// Where it says whether it is well, if it runs elsewhere. Default `/health`.
    pub health_path: Option<String>,
    /// Kernels that must be healthy before it starts. Default: those that its kind needs.
    pub needs: Option<Vec<String>>,
    /// Whether the fleet is down without it. Default: for `message_bus`, `immutable_log` and
    /// `governance`.
    pub required: Option<bool>,
    /// What its kind wants to know.
    pub settings: Value,
}

/// Without these the fleet is down, where a configuration says nothing else.
const REQUIRED: [&str; 3] = ["message_bus", "immutable_log", "governance"];

/// Chooses playbooks; started right after what everything stands on.
const HEALER: &str = "self_healing_kernel";
/// These are started first.
const FIRST: [&str; 3] = ["message_bus", "immutable_log", HEALER];

fn planned_healer(file: &FleetFile) -> bool {
    let disabled = file.kernels.get(HEALER).is_some_and(|kernel| kernel.enabled == Some(false));
    !disabled && kinds::find(HEALER).is_some()
}

impl Default for FleetFile {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8000)),
            first_port: FIRST_PORT,
            kernels: BTreeMap::new(),
            check_every_ms: 60_000,
            check_timeout_ms: 2_000,
            failures_max: 3,
            start_timeout_ms: 20_000,
            stop_grace_ms: 10_000,
            restarts_max: 5,
            restarts_window_ms: 600_000,
            backoff_first_ms: 250,
            backoff_max_ms: 30_000,
            disk_free_bytes_min: 32 << 20,
            proxy_timeout_ms: 30_000,
            proxy_in_flight_max: 1_024,
            history_max: 1_000,
            log_bytes_max: 4 << 20,
            reports_max: 10_000,
            token_file: None,
        }
    }
}

impl FleetFile {
    /// The kind of the kernel of this name.
    ///
    /// # Errors
    /// Why there is none.
    pub fn kind(&self, name: &str) -> Result<kinds::Kind, String> {
        let named = self.kernels.get(name).and_then(|kernel| kernel.kind.as_deref()).unwrap_or(name);
        kinds::find(named).ok_or_else(|| {
            let known: Vec<&str> = kinds::all().map(|kind| kind.name).collect();
            format!("fleet.kernels.{name}: there is no kind `{named}`; there are: {}", known.join(", "))
        })
    }

    /// The secret that the parts of this fleet share, if there is a file with it.
    ///
    /// # Errors
    /// If the file cannot be read, is open to others, or holds no secret.
    pub fn token(&self) -> Result<Option<String>, String> {
        let token = self.token_file.as_deref().map(token::read).transpose();
        token.map_err(|why| format!("fleet.token_file: {why}"))
    }

    /// The settings of the kernel of this name.
    #[must_use]
    pub fn settings(&self, name: &str) -> Value {
        self.kernels.get(name).map_or(Value::Null, |kernel| kernel.settings.clone())
    }

    /// The fleet that this section describes.
    ///
    /// # Errors
    /// What is wrong: unknown kinds, needs in a circle, ports that are wanted twice.
    pub fn plan(&self) -> Result<Plan, String> {
        let mut components = BTreeMap::new();
        for kind in kinds::all().filter(|kind| table::find(kind.name).is_some()) {
            components.insert(kind.name.to_owned(), self.component(kind.name, &FleetKernelFile::default())?);
        }
        for (name, kernel) in &self.kernels {
            components.insert(name.clone(), self.component(name, kernel)?);
        }
        self.give_ports(&mut components)?;
        let limits = self.limits();
        Plan::new(components.into_values().collect(), self.first_port, limits).map_err(|why| format!("fleet: {why}"))
    }

    fn component(&self, name: &str, kernel: &FleetKernelFile) -> Result<Component, String> {
        let known = table::find(name);
        let at = format!("fleet.kernels.{name}");
        let tier = known.map(|known| known.tier).or(kernel.tier);
        let tier = tier.ok_or_else(|| format!("{at}: it is not in the table, so its `tier` must be given"))?;
        let place = match (&kernel.url, kernel.enabled) {
            (_, Some(false)) => Place::NotStarted,
            (Some(url), _) => Place::Elsewhere(url.trim_end_matches('/').to_owned()),
            (None, _) => Place::Process,
        };
        let (mut needs, mut health_path) = (Vec::new(), HEALTH.to_owned());
        if place == Place::Process {
            let kind = self.kind(name)?;
            (kind.check)(&kernel.settings).map_err(|why| format!("{at}.settings: {why}"))?;
            let planned = |need: &str| match self.kernels.get(need) {
                Some(kernel) => kernel.enabled != Some(false),
                None => kinds::find(need).is_some(),
            };
            needs = kind.needs.iter().filter(|need| planned(need)).map(|need| (*need).to_owned()).collect();
            kinds::health_path(kind.name).clone_into(&mut health_path);
        }
        // Who heals comes before who may need it.
        let healer_runs = planned_healer(self) && place == Place::Process && !FIRST.contains(&name);
        let after = if healer_runs { vec![HEALER.to_owned()] } else { Vec::new() };
        let table_port = known.map(|known| port_at(self.first_port, known.offset));
        let port_there = if let Place::Elsewhere(url) = &place { Some(port_of(url)) } else { None };
        Ok(Component {
            name: name.to_owned(),
            tier,
            port: kernel.port.or(port_there).or(table_port).unwrap_or_default(),
            needs: kernel.needs.clone().unwrap_or(needs),
            after,
            required: kernel.required.unwrap_or(REQUIRED.contains(&name) && place != Place::NotStarted),
            place,
            health_path: kernel.health_path.clone().unwrap_or(health_path),
        })
    }

    /// Ports of their tiers for those that are not in the table and name none.
    fn give_ports(&self, components: &mut BTreeMap<String, Component>) -> Result<(), String> {
        if self.first_port == 0 {
            return Ok(());
        }
        let of_table = table::KERNELS.iter().map(|known| self.first_port + known.offset);
        let mut taken: Vec<u16> = components.values().map(|component| component.port).chain(of_table).collect();
        let named = |name: &str| self.kernels.get(name).is_some_and(|kernel| kernel.port.is_some());
        let without = components
            .values_mut()
            .filter(|component| component.port == 0 && component.place == Place::Process && !named(&component.name));
        for component in without {
            let mut ports = component.tier.offsets().map(|offset| self.first_port + offset);
            component.port = ports.find(|port| !taken.contains(port)).ok_or_else(|| {
                format!("fleet.kernels.{}: the tier {} has no port left; give `port`", component.name, component.tier)
            })?;
            taken.push(component.port);
        }
        Ok(())
    }

    fn limits(&self) -> gavel_fleet::Limits {
        gavel_fleet::Limits {
            check_every: Duration::from_millis(self.check_every_ms),
            check_timeout: Duration::from_millis(self.check_timeout_ms),
            failures_max: self.failures_max,
            start_timeout: Duration::from_millis(self.start_timeout_ms),
            stop_grace: Duration::from_millis(self.stop_grace_ms),
            restarts_max: self.restarts_max,
            restarts_window: Duration::from_millis(self.restarts_window_ms),
            backoff_first: Duration::from_millis(self.backoff_first_ms),
            backoff_max: Duration::from_millis(self.backoff_max_ms),
            disk_free_bytes_min: self.disk_free_bytes_min,
            proxy_timeout: Duration::from_millis(self.proxy_timeout_ms),
            proxy_in_flight_max: self.proxy_in_flight_max,
            history_max: self.history_max,
        }
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        let at_least_one = [
            ("check_every_ms", self.check_every_ms),
            ("check_timeout_ms", self.check_timeout_ms),
            ("failures_max", u64::from(self.failures_max)),
            ("start_timeout_ms", self.start_timeout_ms),
            ("restarts_window_ms", self.restarts_window_ms),
            ("backoff_first_ms", self.backoff_first_ms),
            ("proxy_timeout_ms", self.proxy_timeout_ms),
            ("proxy_in_flight_max", self.proxy_in_flight_max as u64),
            ("history_max", self.history_max as u64),
            ("log_bytes_max", self.log_bytes_max),
            ("reports_max", self.reports_max as u64),
        ];
        if let Some((limit, _)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return Err(format!("fleet.{limit} is 0: give at least 1"));
        }
        if self.backoff_max_ms < self.backoff_first_ms {
            let (first, most) = (self.backoff_first_ms, self.backoff_max_ms);
            return Err(format!("fleet.backoff_max_ms ({most}) is below fleet.backoff_first_ms ({first})"));
        }
        let last = u16::MAX - 10 * 5;
        if self.first_port > last {
            return Err(format!(
                "fleet.first_port is {}: five tiers of ten ports need at most {last}",
                self.first_port
            ));
        }
        for (name, kernel) in &self.kernels {
            super::check_id(name).map_err(|why| format!("fleet.kernels: {why}"))?;
            shadows_nothing(name)?;
            kernel.validate(name)?;
        }
        self.plan().map(drop)
    }

    /// Make paths that count from the file's folder absolute or relative to the working directory.
    pub(super) fn resolve_paths(&mut self, folder: &Path) {
        if let Some(path) = &mut self.token_file {
            *path = folder.join(&*path);
        }
        for kernel in self.kernels.values_mut() {
            // The one setting of a kind that is a path of the file's folder.
            if let Some(Value::String(path)) = kernel.settings.get_mut("folder") {
                *path = folder.join(PathBuf::from(&*path)).to_string_lossy().into_owned();
            }
        }
    }
}

/// What the main API itself answers, by the first part of the path.
const OWN_PATHS: [&str; 8] =
    ["fleet", "health", "livez", "readyz", "metrics", "openapi.json", "kernel-ports", "network-healer"];

/// Paths of a kernel begin with its name, with or without `_kernel` or `_service`: neither may be one that leads elsewhere.
fn shadows_nothing(name: &str) -> Result<(), String> {
    let short = ["_kernel", "_service"].into_iter().find_map(|ending| name.strip_suffix(ending));
    let of_governance = |path: &str| crate::http::ROUTES.iter().any(|(_, route)| route.split('/').nth(1) == Some(path));
    for path in [Some(name), short].into_iter().flatten() {
        let whose = if OWN_PATHS.contains(&path) {
            "the main API"
        } else if of_governance(path) {
            "governance"
        } else {
            continue;
        };
        return Err(format!("fleet.kernels.{name}: `/{path}` is a path of {whose}: give it another name"));
    }
    Ok(())
}

/// The port of `http://HOST:PORT`.
fn port_of(url: &str) -> u16 {
    let port = url.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    port.unwrap_or(80)
}

impl FleetKernelFile {
    fn validate(&self, name: &str) -> Result<(), String> {
        let at = format!("fleet.kernels.{name}");
        if let Some(url) = &self.url {
            let rest = url.strip_prefix("http://").filter(|rest| !rest.trim_end_matches('/').contains('/'));
            if rest.is_none_or(str::is_empty) {
                return Err(format!("{at}.url is `{url}`: give http://HOST:PORT, without a path"));
            }
            if self.kind.is_some() || self.port.is_some() || !self.settings.is_null() {
                return Err(format!(
                    "{at} has a url, so it runs elsewhere: `kind`, `port` and `settings` mean nothing"
                ));
            }
        }
        if self.required == Some(true) && self.enabled == Some(false) {
            return Err(format!(
                "{at} is required and not enabled, so the fleet would never be well: take one of them out"
            ));
        }
        let path = self.health_path.as_deref();
        if path.is_some_and(|path| !path.starts_with('/')) {
            return Err(format!("{at}.health_path is `{}`: it must begin with `/`", path.unwrap_or_default()));
        }
        if !self.settings.is_null() && !self.settings.is_object() {
            return Err(format!("{at}.settings must be a mapping"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(text: &str) -> FleetFile {
        serde_saphyr::from_str(text).unwrap()
    }

    fn refused(text: &str) -> String {
        section(text).validate().unwrap_err()
    }

    #[test]
    fn without_a_word_it_is_the_table() {
        let plan = FleetFile::default().plan().unwrap();
        assert_eq!(plan.find("governance").unwrap().port, 8110);
        assert_eq!(plan.find("governance").unwrap().place, Place::Process);
        assert_eq!(plan.find("scheduler").unwrap().place, Place::NotStarted);
        assert!(plan.find("immutable_log").unwrap().required && !plan.find("governance").unwrap().needs.is_empty());
    }

    #[test]
    fn what_cannot_be_a_fleet_is_told() {
        let circle = refused("kernels: {message_bus: {needs: [immutable_log]}, immutable_log: {needs: [message_bus]}}");
        assert!(circle.contains("circle: immutable_log -> message_bus -> immutable_log"), "{circle}");
        let kind = refused("kernels: {mine: {tier: services}}");
        assert!(kind.contains("there is no kind `mine`; there are: "), "{kind}");
        assert!(refused("kernels: {mine: {kind: governance}}").contains("`tier` must be given"));
        assert!(refused("kernels: {librarian_kernel: {url: 'https://a'}}").contains("http://HOST:PORT"));
        for (name, whose) in [("fleet", "the main API"), ("policy_service", "governance"), ("records", "governance")] {
            let told = refused(&format!("kernels: {{{name}: {{kind: governance, tier: governance}}}}"));
            assert!(told.contains(&format!("is a path of {whose}")), "{told}");
        }
        assert!(
            refused("kernels: {crypto_kernel: {required: true, enabled: false}}").contains("required and not enabled")
        );
        assert!(refused("failures_max: 0").contains("fleet.failures_max is 0"));
        assert!(refused("proxy_in_flight_max: 0").contains("fleet.proxy_in_flight_max is 0"));
        assert!(refused("first_port: 65530").contains("first_port"));
        assert!(refused("kernels: {governance: {settings: {x: 1}}}").contains("fleet.kernels.governance.settings"));
    }

    #[test]
    fn others_get_a_spare_port_of_their_tier() {
        let plan = section("kernels: {second: {kind: governance, tier: governance}}").plan().unwrap();
        assert_eq!(plan.find("second").unwrap().port, 8116);
    }

    #[test]
    fn elsewhere_is_reached_and_not_started() {
        let plan = section("kernels: {librarian_kernel: {url: 'http://10.0.0.7:8130/'}}").plan().unwrap();
        let component = plan.find("librarian_kernel").unwrap();
        assert_eq!(component.place, Place::Elsewhere("http://10.0.0.7:8130".into()));
        let plan = section("kernels: {librarian_kernel: {url: 'http://librarian'}}").plan().unwrap();
        assert_eq!(plan.find("librarian_kernel").unwrap().port, 80);
    }
}
