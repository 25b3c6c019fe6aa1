//! The fleet: all components, started in their order, stopped in the reverse.

use crate::guardian::{Ended, Guardian};
use crate::healing::{HealError, Healing, Issue, Step};
use crate::holder::Identity;
use crate::ours::{Ours, Owned};
use crate::plan::{Component, Place, Plan};
use crate::probe::{Health, Probe};
use crate::process::{Lines, Process, Program};
use crate::registry::{Entry, Status};
use crate::room::Room;
use crate::unit::{Route, Unit};
use futures_util::future::BoxFuture;
use std::collections::{BTreeMap, VecDeque};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{MutexGuard, mpsc, watch};

/// How a component's program is called, by the component.
pub type Programs = Box<dyn Fn(&Component) -> Program + Send + Sync>;

/// Something that happened in the fleet, for the record.
#[derive(Debug, Clone)]
pub enum News {
    /// A component has another status.
    Status(Entry),
    /// A component was healed, or could not be.
    Healed(Arc<Healing>),
    /// A component is given up until an operator resets it.
    GivenUp(Entry),
}

/// Puts on record what happens, and tells of it. What it cannot record it must say itself.
pub trait Witness: Send + Sync + 'static {
    /// Record this, and be done when it is recorded.
    fn record(&self, news: News) -> BoxFuture<'_, ()>;
}

/// What a fleet is made of.
pub struct Parts {
    /// Its components.
    pub plan: Plan,
    /// How their programs are called.
    pub programs: Programs,
    /// Takes what they write.
    pub lines: Lines,
    /// Records what happens.
    pub witness: Arc<dyn Witness>,
    /// The file that names its processes, in the folder that is this fleet's alone, on the disk on which its components write.
    pub processes_file: PathBuf,
}

/// A fleet. Cheap to clone; all clones are the same fleet.
#[derive(Clone)]
pub struct Fleet {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) plan: Plan,
    pub(crate) units: BTreeMap<String, Arc<Unit>>,
    pub(crate) ours: Ours,
    pub(crate) probe: Probe,
    pub(crate) room: Room,
    pub(crate) witness: Arc<dyn Witness>,
    pub(crate) history: Mutex<VecDeque<Arc<Healing>>>,
    /// Whether the fleet is going down, for good.
    pub(crate) stopping: watch::Sender<bool>,
    programs: Programs,
    lines: Lines,
    /// Tells Guardian of processes that ended.
    ended: mpsc::Sender<Ended>,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").field("entries", &self.entries().len()).finish_non_exhaustive()
    }
}

impl Fleet {
    /// A fleet in which nothing is started yet, with its Guardian, which must be set to work by [`Guardian::watch`].
    ///
    /// # Errors
    /// If the file of its processes cannot be read.
    pub fn new(parts: Parts) -> std::io::Result<(Self, Guardian)> {
        let Parts { plan, programs, lines, witness, processes_file } = parts;
        let (ended, hears) = mpsc::channel(ENDED_MAX);
        let units = plan.in_order().map(|component| (component.name.clone(), Arc::new(Unit::new(component.clone()))));
        let inner = Inner {
            units: units.collect(),
            ours: Ours::open(&processes_file)?,
            probe: Probe::default(),
            room: Room {
                folder: processes_file.parent().unwrap_or(&processes_file).to_owned(),
                free_bytes_min: plan.limits.disk_free_bytes_min,
            },
            history: Mutex::default(),
            stopping: watch::Sender::new(false),
            plan,
            witness,
            programs,
            lines,
            ended,
        };
        let fleet = Self { inner: Arc::new(inner) };
        Ok((fleet.clone(), Guardian::new(fleet, hears)))
    }

    /// The registry, what is needed first.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        let units = self.inner.plan.in_order().filter_map(|component| self.inner.units.get(&component.name));
        units.map(|unit| unit.entry()).collect()
    }

    /// The line of one component.
    #[must_use]
    pub fn entry(&self, name: &str) -> Option<Entry> {
        self.inner.units.get(name).map(|unit| unit.entry())
    }

    /// The plan that it was made from.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.inner.plan
    }

    /// Heal nothing and start nothing from now on: the fleet is about to be stopped by [`Self::stop`], which must follow.
    pub fn quiesce(&self) {
        self.inner.stopping.send_replace(true);
    }

    /// Stop every component, who needs before what is needed, and take none of them up again.
    pub async fn stop(&self) {
        self.quiesce();
        let order: Vec<&Component> = self.inner.plan.in_order().collect();
        let mut stopped: BTreeMap<&str, watch::Sender<bool>> = BTreeMap::new();
        for component in &order {
            stopped.insert(&component.name, watch::Sender::new(false));
        }
        let one = |component: &Component| {
            let needed_by = order.iter().filter(|other| other.needs.contains(&component.name));
            let waits: Vec<_> = needed_by.map(|other| stopped[other.name.as_str()].subscribe()).collect();
            let (unit, done) =
                (self.inner.units.get(&component.name).cloned(), stopped[component.name.as_str()].clone());
            async move {
                for mut wait in waits {
                    drop(wait.wait_for(|done| *done).await);
                }
                if let Some(unit) = unit {
                    let _busy = unit.busy.lock().await;
                    self.stop_unit(&unit, Status::Stopped, "the fleet was stopped").await;
                }
                done.send_replace(true);
            }
        };
        futures_util::future::join_all(order.iter().map(|component| one(component))).await;
    }

    /// Stop one component until it is started again.
    ///
    /// # Errors
    /// [`HealError`].
    pub async fn stop_one(&self, name: &str) -> Result<Vec<Step>, HealError> {
        let unit = self.own_unit(name)?;
        let _busy = self.alone(unit).await?;
        Ok(vec![self.stop_unit(unit, Status::Stopped, "an operator stopped it").await])
    }

    /// Start one component, unless its process runs. Not counted against its budget; one that was given up has a new one.
    ///
    /// # Errors
    /// [`HealError`].
    pub async fn start_one(&self, name: &str) -> Result<Vec<Step>, HealError> {
        let unit = self.own_unit(name)?;
        let Ok(_busy) = unit.busy.try_lock() else { return Err(HealError::Busy(name.to_owned())) };
        if let Some(process) = unit.process() {
            let pid = process.identity().pid;
            return Ok(vec![step("start", Instant::now(), true, format!("it runs already: process {pid}"))]);
        }
        if unit.status() == Status::Failed {
            unit.reset();
        }
        Ok(self.start_unit(unit, unit.entry().port).await)
    }

    /// Stop one component if it runs, and start it. Not counted against its budget; one that was given up has a new one.
    ///
    /// # Errors
    /// [`HealError`].
    pub async fn restart_one(&self, name: &str) -> Result<Vec<Step>, HealError> {
        let unit = self.own_unit(name)?;
        let _busy = self.alone(unit).await?;
        let gave_up = unit.status() == Status::Failed;
        let mut steps = vec![self.stop_unit(unit, Status::Starting, "it is being started again").await];
        if !steps[0].ok {
            return Ok(steps);
        }
        if gave_up {
            unit.reset();
        }
        steps.extend(self.start_unit(unit, unit.entry().port).await);
        Ok(steps)
    }

    /// Forget the failures of a component; one that was given up is started again.
    ///
    /// # Errors
    /// [`HealError`].
    pub async fn reset_failures(&self, name: &str) -> Result<Entry, HealError> {
        let unit = self.unit(name)?;
        if unit.reset() {
            match unit.component.place {
                Place::Process => drop(self.restart_one(name).await?),
                _ => self.check(unit).await,
            }
        }
        Ok(unit.entry())
    }

    /// Ask every component that runs how it is, at once, and note the answers. Who is busy with one looks itself.
    pub async fn check_now(&self) {
        let running = self.inner.units.values().filter(|unit| match unit.component.place {
            Place::Process => unit.process().is_some(),
            Place::Elsewhere(_) => true,
            Place::NotStarted => false,
        });
        futures_util::future::join_all(running.map(|unit| self.check(unit))).await;
    }

    /// Have a component alone. Who only notes how it is gives it back at once; who works on it does not.
    pub(crate) async fn alone<'a>(&self, unit: &'a Unit) -> Result<MutexGuard<'a, ()>, HealError> {
        let busy = tokio::time::timeout(BUSY_PATIENCE, unit.busy.lock()).await;
        busy.map_err(|_| HealError::Busy(unit.component.name.clone()))
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.inner.stopping.borrow()
    }

    pub(crate) fn unit(&self, name: &str) -> Result<&Arc<Unit>, HealError> {
        if self.is_stopping() {
            return Err(HealError::Stopping);
        }
        self.inner.units.get(name).ok_or_else(|| HealError::Unknown(name.to_owned()))
    }

    /// A component that is started and stopped by this fleet.
    fn own_unit(&self, name: &str) -> Result<&Arc<Unit>, HealError> {
        let unit = self.unit(name)?;
        match unit.component.place.not_ours() {
            None => Ok(unit),
            Some(why) => Err(HealError::NotOurs { name: name.to_owned(), why }),
        }
    }

    /// Start a component on this port, and wait until it is well. Its steps; it is well if all are.
    pub(crate) async fn start_unit(&self, unit: &Arc<Unit>, port: u16) -> Vec<Step> {
        unit.want(true);
        let begun = Instant::now();
        let listener = match unit.bind(port).await {
            Ok(listener) => listener,
            Err(why) => {
                self.tell_status(unit, Status::Unhealthy, why.to_string()).await;
                self.ask_for_healing(unit, Issue::PortConflict).await;
                return vec![step("bind", begun, false, why.to_string())];
            }
        };
        let bound = step("bind", begun, true, format!("port {}", port_of(&listener)));
        let mut steps = vec![bound];
        steps.extend(self.start_on(unit, &listener).await);
        steps
    }

    /// Start a component on this socket, and wait until it is well.
    pub(crate) async fn start_on(&self, unit: &Arc<Unit>, listener: &Arc<TcpListener>) -> Vec<Step> {
        let name = &unit.component.name;
        unit.want(true);
        unit.lead(Route::Hold);
        unit.settle(listener);
        self.tell_status(unit, Status::Starting, "it was started and is not well yet").await;
        let begun = Instant::now();
        let program = (self.inner.programs)(&unit.component);
        let process = match Process::start(name, &program, listener, &self.inner.lines).await {
            Ok(process) => Arc::new(process),
            Err(why) => {
                let detail = format!("{} cannot be started: {why}", program.path.display());
                self.tell_status(unit, Status::Unhealthy, detail.clone()).await;
                self.ask_for_healing(unit, Issue::ProcessCrashed).await;
                return vec![step("start", begun, false, detail)];
            }
        };
        let identity = process.identity();
        self.own(name, Some(Owned { identity, port: port_of(listener) }));
        unit.set_process(&process);
        self.report_end(unit, &process);
        let started = step("start", begun, true, format!("process {}", identity.pid));
        let begun = Instant::now();
        let well = self.well_in_time(unit, &process).await;
        let (ok, detail) = match well {
            Ok(()) => (true, "it is well".to_owned()),
            Err(why) => (false, why),
        };
        if ok {
            unit.lead_home();
            self.tell_status(unit, Status::Healthy, "").await;
        } else {
            self.tell_status(unit, Status::Unhealthy, detail.clone()).await;
            // Of one that ended Guardian hears anyway.
            if process.identity().lives() {
                self.ask_for_healing(unit, Issue::ConnectionTimeout).await;
            }
        }
        vec![started, step("health", begun, ok, detail)]
    }

    /// Wait until a process that was started answers that it is well.
    async fn well_in_time(&self, unit: &Unit, process: &Arc<Process>) -> Result<(), String> {
        let limits = &self.inner.plan.limits;
        let until = Instant::now() + limits.start_timeout;
        let mut pause = Duration::from_millis(2);
        let mut stopping = self.inner.stopping.subscribe();
        loop {
            let url = unit.entry().health_url;
            let patience = limits.check_timeout.min(until.saturating_duration_since(Instant::now()));
            let asked = tokio::select! {
                status = process.wait() => {
                    let how = status.map_or_else(|| "unknown how".to_owned(), |status| status.to_string());
                    return Err(format!("its process ended before it was well: {how}"));
                }
                _ = stopping.wait_for(|stopping| *stopping) => return Err("the fleet is stopping".to_owned()),
                health = self.inner.probe.ask(&url, patience) => health,
            };
            if asked == Health::Well {
                return Ok(());
            }
            if Instant::now() + pause >= until {
                let seconds = limits.start_timeout.as_secs_f64();
                return Err(format!("it is not well {seconds} s after its start (start_timeout): {asked}"));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// Stop a component's process, if it has one, after the requests on their way to it.
    pub(crate) async fn stop_unit(&self, unit: &Arc<Unit>, then: Status, detail: &str) -> Step {
        let begun = Instant::now();
        let name = &unit.component.name;
        let stays = then == Status::Starting;
        unit.want(stays);
        unit.lead(if stays { Route::Hold } else { Route::Down(detail.to_owned()) });
        let Some(process) = unit.process() else {
            if unit.component.place == Place::Process {
                self.tell_status(unit, then, detail).await;
            }
            if !stays {
                unit.unbind();
            }
            return step("stop", begun, true, "it did not run".to_owned());
        };
        let pid = process.identity().pid;
        let left = self.drain(unit).await;
        // From here on its end is no news.
        if unit.part(then, detail) {
            self.tell(unit).await;
        }
        let stopped = process.stop(self.inner.plan.limits.stop_grace).await;
        if stopped.is_ok() {
            self.own(name, None);
        }
        if !stays {
            unit.unbind();
        }
        let left =
            if left == 0 { String::new() } else { format!("; {left} requests had no answer before it was told") };
        match stopped {
            Ok(false) => step("stop", begun, true, format!("process {pid} ended{left}")),
            Ok(true) => step("stop", begun, true, format!("process {pid} was killed after its grace{left}")),
            Err(why) => {
                self.tell_status(unit, Status::Unhealthy, why.to_string()).await;
                if stays {
                    self.ask_for_healing(unit, Issue::ProcessCrashed).await;
                }
                step("stop", begun, false, why.to_string())
            }
        }
    }

    /// Wait until what is on its way to a component, to which nothing more is sent, is answered; gives what is left. One
    /// that does not answer is not waited for.
    async fn drain(&self, unit: &Unit) -> usize {
        if unit.status() != Status::Healthy {
            return unit.on_their_way.count();
        }
        let patience = DRAIN_MAX.min(self.inner.plan.limits.stop_grace);
        match tokio::time::timeout(patience, unit.on_their_way.none()).await {
            Ok(()) => 0,
            Err(_) => unit.on_their_way.count(),
        }
    }

    /// Ask a component how it is, and note it, unless it is another's or another by then. Who has it looks itself.
    pub(crate) async fn check(&self, unit: &Arc<Unit>) {
        let (entry, process) = (unit.entry(), unit.process());
        let health = self.inner.probe.ask(&entry.health_url, self.inner.plan.limits.check_timeout).await;
        let Ok(_busy) = unit.busy.try_lock() else { return };
        if process.as_ref().is_some_and(|process| !unit.runs_as(process)) || unit.entry().pid != entry.pid {
            return;
        }
        let well = health == Health::Well;
        let failures = unit.checked(well);
        if well {
            self.tell_status(unit, Status::Healthy, "").await;
            unit.lead_home();
        } else {
            let detail = unit.with_lack(format!("{health} ({failures} checks in a row)"));
            // Nobody here brings it back, so nobody waits for it: requests are refused until a check finds it again.
            let is_lost = matches!(health, Health::Silent(_)) && failures >= self.inner.plan.limits.failures_max;
            if is_lost && matches!(unit.component.place, Place::Elsewhere(_)) {
                unit.lead(Route::Down(detail.clone()));
            }
            self.tell_status(unit, Status::Unhealthy, detail).await;
        }
    }

    /// Take a new status, and tell of it if it is one.
    pub(crate) async fn tell_status(&self, unit: &Arc<Unit>, status: Status, detail: impl Into<String>) {
        if unit.set_status(status, detail) {
            self.tell(unit).await;
        }
    }

    pub(crate) async fn tell(&self, unit: &Unit) {
        let entry = unit.entry();
        tracing::info!(kernel = entry.name, status = %entry.status, "{}", entry.detail);
        self.inner.witness.record(News::Status(entry)).await;
    }

    fn report_end(&self, unit: &Arc<Unit>, process: &Arc<Process>) {
        let (fleet, unit, process) = (self.clone(), Arc::clone(unit), Arc::clone(process));
        tokio::spawn(async move {
            let status = process.wait().await;
            if fleet.is_stopping() && unit.hold_for(&process) {
                // Nobody brings it back, so no request need wait for that, nor a connection that it had not taken.
                unit.lead(Route::Down("its process ended while the fleet was being stopped".to_owned()));
                unit.unbind();
            }
            // Guardian may have gone.
            drop(fleet.inner.ended.send(Ended::Process { unit, process, status }).await);
        });
    }

    /// Tell Guardian of a start that failed, unless the end of a process tells it.
    async fn ask_for_healing(&self, unit: &Arc<Unit>, issue: Issue) {
        if self.inner.ended.send(Ended::Failed { unit: Arc::clone(unit), issue }).await.is_err() {
            tracing::error!(kernel = unit.component.name, "Guardian has gone: nobody heals it");
        }
    }

    pub(crate) fn own(&self, name: &str, owned: Option<Owned>) {
        if let Err(why) = self.inner.ours.set(name, owned) {
            tracing::error!(kernel = name, "the file of the fleet's processes cannot be written: {why}");
        }
    }

    pub(crate) fn remember(&self, healing: &Arc<Healing>) {
        let mut history = self.inner.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.push_back(Arc::clone(healing));
        while history.len() > self.inner.plan.limits.history_max {
            history.pop_front();
        }
    }

    /// Healings, the oldest first; of one component, or of all.
    #[must_use]
    pub fn history(&self, name: Option<&str>) -> Vec<Arc<Healing>> {
        let history = self.inner.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.iter().filter(|one| name.is_none_or(|name| one.component == name)).cloned().collect()
    }

    /// Components that are being healed, started or stopped now.
    #[must_use]
    pub fn active(&self) -> Vec<String> {
        let busy = self.inner.units.iter().filter(|(_, unit)| unit.busy.try_lock().is_err());
        busy.map(|(name, _)| name.clone()).collect()
    }

    /// The process of ours that has this number, whichever fleet started it.
    pub(crate) fn left_behind(&self, pid: u32) -> Option<(String, Identity)> {
        let (name, owned) = self.inner.ours.find(pid)?;
        let current = self.inner.units.values().filter_map(|unit| unit.process());
        let current: Vec<Identity> = current.map(|process| process.identity()).collect();
        (!current.contains(&owned.identity)).then_some((name, owned.identity))
    }
}

/// News that may wait for Guardian, which takes them as they come.
const ENDED_MAX: usize = 64;
/// How long requests on their way are waited for before their process is told to end. What it has read by then it answers
/// all the same; longer ones (uploads, polls) would only keep those waiting that came after.
const DRAIN_MAX: Duration = Duration::from_secs(2);
/// How long somebody who works on a component is waited for, before it is said to be busy.
const BUSY_PATIENCE: Duration = Duration::from_millis(100);

pub(crate) fn port_of(listener: &TcpListener) -> u16 {
    listener.local_addr().map_or(0, |address| address.port())
}

pub(crate) fn step(step: &'static str, begun: Instant, ok: bool, detail: String) -> Step {
    Step { step, ok, detail, took_ms: begun.elapsed().as_secs_f64() * 1e3 }
}
