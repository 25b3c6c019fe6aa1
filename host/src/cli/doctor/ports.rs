//! Ports and processes: what is this fleet's, what was left behind, and what is somebody else's.

use super::locks::{self, Holder};
use super::{Findings, folders};
use crate::config::File;
use gavel_fleet::{Holder as PortHolder, Place, of_port};
use std::collections::BTreeMap;
use std::path::Path;

/// Processes of the fleet on this data that live.
#[derive(Debug, Default)]
pub(super) struct Ours {
    /// The main process, if one runs.
    pub(super) fleet: Option<Holder>,
    /// Kernels by their process.
    pub(super) kernels: BTreeMap<u32, String>,
}

impl Ours {
    /// Whether a process is one of ours.
    pub(super) fn have(&self, pid: u32) -> bool {
        self.kernels.contains_key(&pid) || self.fleet.as_ref().is_some_and(|fleet| fleet.pid == pid)
    }
}

/// Who is at work on this data, or was left behind.
pub(super) fn processes(data: Option<&Path>, fleet: Option<&Holder>, findings: &mut Findings) -> Ours {
    const AREA: &str = "processes";
    let mut ours = Ours { fleet: fleet.cloned(), kernels: BTreeMap::new() };
    let Some(data) = data else { return ours };
    if let Some(fleet) = fleet {
        findings.ok(AREA, format!("a fleet runs on {}: {fleet}", data.display()));
    }
    let file = data.join("fleet").join("processes.json");
    let known = match gavel_fleet::recorded(&file) {
        Ok(known) => known,
        // It can be read, and does not hold what a fleet writes.
        Err(why) if why.kind() == std::io::ErrorKind::Other => {
            let advice =
                "the next `gavel fleet up` sets it aside, and ends nothing of what it named: see that no kernel runs";
            findings.warning(AREA, format!("{}: {why}", file.display()), advice);
            return ours;
        }
        Err(why) => {
            findings.error(AREA, format!("{}: {why}", file.display()), folders::AS_WHOM);
            return ours;
        }
    };
    for (name, identity) in known.into_iter().filter(|(_, identity)| identity.lives()) {
        if fleet.is_none() {
            let found = format!("process {} of `{name}` was left behind by a fleet that was killed", identity.pid);
            findings.warning(AREA, found, "nothing: the next `gavel fleet up` on this data ends it first");
        }
        ours.kernels.insert(identity.pid, name);
    }
    ours
}

/// Whether the ports of the plan are free, or held by whom.
pub(super) fn look(file: &File, ours: &Ours, findings: &mut Findings) {
    const AREA: &str = "ports";
    let Ok(plan) = file.fleet.plan() else { return };
    let mut free = Vec::new();
    let mut wanted = vec![("the main API".to_owned(), file.fleet.listen.port())];
    let kernels = plan.in_order().filter(|component| component.place == Place::Process);
    wanted.extend(kernels.map(|component| (format!("`{}`", component.name), component.port)));
    for (who, port) in wanted.into_iter().filter(|(_, port)| *port != 0) {
        let (own, foreign): (Vec<PortHolder>, Vec<PortHolder>) =
            of_port(port).into_iter().partition(|holder| holder.pid.is_some_and(|pid| ours.have(pid)));
        match (own.is_empty(), foreign.is_empty()) {
            (true, true) => free.push(port.to_string()),
            (false, true) => findings.ok(AREA, format!("{port}, of {who}, is held by this fleet")),
            (_, false) => taken(&who, port, &foreign, findings),
        }
    }
    if !free.is_empty() {
        findings.ok(AREA, format!("free: {}", free.join(", ")));
    }
}

/// A port of ours that a stranger holds.
fn taken(who: &str, port: u16, holders: &[PortHolder], findings: &mut Findings) {
    const AREA: &str = "ports";
    let told: Vec<String> = holders.iter().map(|holder| format!("{holder} {}", holder.command)).collect();
    let found = format!("{port}, of {who}, is held by {}", told.join(" and "));
    if who.starts_with('`') {
        let advice = "Guardian moves the kernel to a spare port of its tier; end the holder if the port must stay";
        findings.warning(AREA, found, advice);
    } else {
        let advice = "end the holder if it is not this fleet on other data, or give the fleet another `listen`";
        findings.error(AREA, found, advice);
    }
}

/// A lock of ours that somebody holds, for a message.
pub(super) fn of_lock(path: &Path, ours: &Ours) -> Option<(Holder, bool)> {
    let holder = locks::holder(path)?;
    let is_ours = ours.have(holder.pid);
    Some((holder, is_ours))
}
