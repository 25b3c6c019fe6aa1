//! The four playbooks. Each says what it did, step by step, and claims success only for a component that it saw to be well.

use crate::fleet::{Fleet, port_of, step};
use crate::healing::{Diagnosis, Outcome, Playbook, Step};
use crate::holder::{self, Holder};
use crate::plan::Place;
use crate::probe::{Health, Silence};
use crate::process::end_stale;
use crate::registry::Status;
use crate::unit::{BindError, Unit};
use std::sync::Arc;
use std::time::Instant;

impl Fleet {
    /// Play one for a component whose lock the caller holds.
    pub(crate) async fn play(&self, unit: &Arc<Unit>, playbook: Playbook) -> Outcome {
        let begun = Instant::now();
        let mut diagnosis = None;
        let steps = match (playbook, unit.component.place.not_ours()) {
            (Playbook::DiagnoseNetwork, _) => {
                let found = diagnosis.insert(self.diagnose_unit(unit).await);
                vec![step("diagnose", begun, true, found.told())]
            }
            (_, None) => self.act(unit, playbook).await,
            (_, Some(why)) => vec![step("refuse", begun, false, format!("it {why}"))],
        };
        let recommendations = diagnosis.as_ref().map(|found| found.recommendations.clone()).unwrap_or_default();
        let acted = playbook != Playbook::DiagnoseNetwork;
        let success = acted && steps.iter().all(|step| step.ok) && unit.status() == Status::Healthy;
        let took_ms = begun.elapsed().as_secs_f64() * 1e3;
        Outcome { playbook, success, steps, diagnosis, recommendations, took_ms }
    }

    async fn act(&self, unit: &Arc<Unit>, playbook: Playbook) -> Vec<Step> {
        match playbook {
            Playbook::RestartComponent => self.restart(unit).await,
            Playbook::ClearPort => self.clear(unit).await,
            Playbook::RebindPort => self.rebind(unit).await,
            Playbook::DiagnoseNetwork => Vec::new(),
        }
    }

    async fn restart(&self, unit: &Arc<Unit>) -> Vec<Step> {
        unit.count_restart();
        let mut steps = vec![self.stop_unit(unit, Status::Starting, "it is being restarted").await];
        if steps[0].ok {
            steps.extend(self.start_unit(unit, unit.entry().port).await);
        }
        steps
    }

    /// Free the port, and see whether that helped: a component that does not run is started there.
    async fn clear(&self, unit: &Arc<Unit>) -> Vec<Step> {
        let port = unit.entry().port;
        let mut steps = self.clear_holders(unit, port).await;
        if steps.iter().any(|step| !step.ok) {
            return steps;
        }
        if unit.process().is_none() {
            steps.extend(self.start_unit(unit, port).await);
            return steps;
        }
        let begun = Instant::now();
        let health = self.inner.probe.ask(&unit.entry().health_url, self.inner.plan.limits.check_timeout).await;
        let well = health == Health::Well;
        if well {
            unit.lead_home();
            self.tell_status(unit, Status::Healthy, "").await;
        }
        steps.push(step("health", begun, well, health.to_string()));
        steps
    }

    async fn clear_holders(&self, unit: &Unit, port: u16) -> Vec<Step> {
        let begun = Instant::now();
        let own = unit.process().map(|process| process.identity().pid);
        let holders: Vec<Holder> = holder::look(move || holder::of_port(port))
            .await
            .into_iter()
            // The fleet itself has the socket of every component.
            .filter(|holder| holder.pid != Some(std::process::id()) && (own.is_none() || holder.pid != own))
            .collect();
        if holders.is_empty() {
            return vec![step("find_holder", begun, true, format!("nobody else holds port {port}"))];
        }
        let mut steps = Vec::new();
        for holder in holders {
            let begun = Instant::now();
            let Some((name, identity)) = holder.pid.and_then(|pid| self.left_behind(pid)) else {
                let detail =
                    format!("port {port} is held by {holder}, which this fleet did not start: it is left alone");
                steps.push(step("find_holder", begun, false, detail));
                continue;
            };
            let ended = end_stale(identity, self.inner.plan.limits.stop_grace).await;
            let detail = match &ended {
                Ok(()) => format!("process {} of `{name}`, left behind, was ended", identity.pid),
                Err(why) => why.to_string(),
            };
            steps.push(step("end_stale", begun, ended.is_ok(), detail));
        }
        steps
    }

    /// Move to the first spare port of the tier that can be had. Requests wait meanwhile; none goes to the old port after.
    async fn rebind(&self, unit: &Arc<Unit>) -> Vec<Step> {
        let begun = Instant::now();
        let current = unit.entry().port;
        let mut refused = Vec::new();
        let spare = self.inner.plan.spare_ports(unit.component.tier).filter(|port| *port != current);
        let mut bound = None;
        for port in spare {
            match Unit::bind_anew(port).await {
                Ok(listener) => {
                    bound = Some(listener);
                    break;
                }
                Err(why) => refused.push(why),
            }
        }
        let Some(listener) = bound else {
            let why: Vec<String> = refused.iter().map(BindError::to_string).collect();
            let tier = unit.component.tier;
            let detail = format!("no spare port of the tier {tier} can be had: {}", why.join("; "));
            return vec![step("find_port", begun, false, detail)];
        };
        let port = port_of(&listener);
        let mut steps = vec![step("find_port", begun, true, format!("from port {current} to port {port}"))];
        if unit.process().is_some() {
            steps.push(self.stop_unit(unit, Status::Starting, "it is being moved to another port").await);
        }
        if steps.iter().all(|step| step.ok) {
            steps.extend(self.start_on(unit, &listener).await);
        }
        steps
    }

    /// Look at a component, and change nothing.
    ///
    /// # Errors
    /// If there is none of this name.
    pub async fn diagnose(&self, name: &str) -> Result<Diagnosis, crate::healing::HealError> {
        let unit = Arc::clone(self.unit(name)?);
        let health = self.health_now(&unit).await;
        let _turn = holder::turn().await;
        Ok(self.diagnosis(&unit, &health).await)
    }

    async fn diagnose_unit(&self, unit: &Unit) -> Diagnosis {
        let health = self.health_now(unit).await;
        self.diagnosis(unit, &health).await
    }

    async fn health_now(&self, unit: &Unit) -> Health {
        match unit.entry().health_url.as_str() {
            // It has no port yet.
            "" => Health::Silent(Silence::Refused),
            url => self.inner.probe.ask(url, self.inner.plan.limits.check_timeout).await,
        }
    }

    async fn diagnosis(&self, unit: &Unit, health: &Health) -> Diagnosis {
        let entry = unit.entry();
        let (pid, port) = (entry.pid, entry.port);
        // Who holds a port of another machine cannot be seen from here.
        let is_here = !matches!(unit.component.place, Place::Elsewhere(_));
        let seen = holder::look(move || Seen {
            holders: if is_here { holder::of_port(port) } else { Vec::new() },
            open_files: pid.and_then(open_files),
            memory_bytes: pid.and_then(usage).map(|used| used.memory_bytes),
            interfaces: interfaces(),
        });
        let Seen { holders, open_files, memory_bytes, interfaces } = seen.await;
        let mut diagnosis = Diagnosis {
            holders,
            listening: false,
            health: health.to_string(),
            pid,
            open_files,
            memory_bytes,
            interfaces,
            recommendations: Vec::new(),
        };
        diagnosis.listening = !diagnosis.holders.is_empty() || matches!(health, Health::Well | Health::Unwell(_));
        diagnosis.recommendations = self.advice(unit, health, &diagnosis);
        diagnosis
    }

    fn advice(&self, unit: &Unit, health: &Health, found: &Diagnosis) -> Vec<String> {
        let entry = unit.entry();
        let name = &entry.name;
        let foreign = found.holders.iter().filter(|holder| {
            let ours = holder.pid == Some(std::process::id()) || (holder.pid.is_some() && holder.pid == entry.pid);
            !ours && unit.component.place == Place::Process
        });
        let mut advice: Vec<String> = foreign
            .map(|holder| {
                let port = entry.port;
                match holder.pid.and_then(|pid| self.left_behind(pid)) {
                    Some(_) => format!("clear_port: {holder} is ours, left behind, and holds port {port}"),
                    None => format!("rebind_port: {holder} holds port {port} and is not ours"),
                }
            })
            .collect();
        match (entry.status, &unit.component.place, health) {
            (Status::NotStarted, ..) => advice.push(format!("`{name}` is not started: name it in the configuration")),
            (Status::Failed, ..) => {
                advice.push(format!("read the log of `{name}`, mend its cause, then reset-failures"));
            }
            (_, Place::Elsewhere(url), health) if *health != Health::Well => {
                advice.push(format!("`{name}` runs elsewhere ({url}): look there, {health}"));
            }
            (_, Place::Process, Health::Silent(_)) if entry.pid.is_none() => {
                advice.push(format!("restart_component: `{name}` has no process"));
            }
            (_, Place::Process, Health::Silent(_)) => {
                advice.push(format!("restart_component: the process of `{name}` runs and does not answer"));
            }
            (_, Place::Process, Health::Unwell(said)) => {
                advice.push(format!("`{name}` says itself what is wrong: {said}"));
            }
            _ => {}
        }
        if unit.component.place == Place::Process
            && *health != Health::Well
            && let Some(lack) = self.inner.room.lack()
        {
            advice.push(format!("make room first: {lack}"));
        }
        advice
    }
}

/// What one look at the system finds.
#[derive(Default)]
struct Seen {
    holders: Vec<Holder>,
    open_files: Option<usize>,
    memory_bytes: Option<u64>,
    interfaces: Vec<String>,
}

fn open_files(pid: u32) -> Option<usize> {
    Some(std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count())
}

/// What a process uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// Memory that it holds (its resident set), in bytes.
    pub memory_bytes: u64,
    /// Processor time that it has spent, in seconds.
    pub cpu_seconds: f64,
}

/// What a process uses now; `None` if it is not there.
#[must_use]
pub fn usage(pid: u32) -> Option<Usage> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name, which may hold anything, the fields begin with the third (proc(5)); 14 and 15 are times.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_ascii_whitespace().skip(11);
    let ticks: f64 = times.next()?.parse::<f64>().ok()? + times.next()?.parse::<f64>().ok()?;
    let per_second = rustix::param::clock_ticks_per_second();
    // The cast is of a number near 100.
    #[allow(clippy::cast_precision_loss, reason = "it is about a hundred")]
    let cpu_seconds = ticks / per_second as f64;
    Some(Usage { memory_bytes: kib * 1024, cpu_seconds })
}

fn interfaces() -> Vec<String> {
    let found = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let mut up: Vec<String> = found
        .filter(|entry| {
            let state = std::fs::read_to_string(entry.path().join("operstate")).unwrap_or_default();
            // The loopback interface says `unknown`.
            state.trim() != "down"
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    up.sort();
    up
}
