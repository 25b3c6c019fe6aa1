//! Guardian: sees that something is wrong, does what helps, and believes nothing that it has not seen.
//!
//! The end of a process is seen at once, whatever else is seen at the next check. A component that crashes again and again is
//! started at growing intervals, and given up when its budget is spent; then it waits for an operator.

use crate::fleet::{Fleet, News};
use crate::healing::{HealError, Healing, Issue, Outcome, Playbook};
use crate::plan::Place;
use crate::probe::Health;
use crate::process::Process;
use crate::registry::{Entry, Status};
use crate::room::LOOK_EVERY;
use crate::unit::Unit;
use jiff::Timestamp;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior};

/// What Guardian is told at once.
#[derive(Debug)]
pub(crate) enum Ended {
    /// A process ended.
    Process {
        /// Of this component.
        unit: Arc<Unit>,
        /// This process.
        process: Arc<Process>,
        /// So.
        status: Option<ExitStatus>,
    },
    /// A component was started, and has no process whose end would be seen, or one that lives and is not well in time.
    Failed {
        /// Which.
        unit: Arc<Unit>,
        /// Why.
        issue: Issue,
    },
}

/// Watches a fleet.
#[derive(Debug)]
pub struct Guardian {
    fleet: Fleet,
    hears: mpsc::Receiver<Ended>,
}

/// What is asked for: a healing of one component.
#[derive(Debug, Clone)]
pub struct Order {
    /// What is wrong.
    pub issue: Issue,
    /// How bad it is, in the caller's words.
    pub severity: String,
    /// Who asks.
    pub by: String,
    /// Whether that is an operator, who may have started again what was given up; a part of the fleet may not.
    pub by_operator: bool,
    /// This playbook, and no other.
    pub action: Option<Playbook>,
}

impl Order {
    fn of_guardian(issue: Issue) -> Self {
        Self { issue, severity: "high".to_owned(), by: "guardian".to_owned(), by_operator: false, action: None }
    }

    /// What is tried, in order.
    fn playbooks(&self) -> Vec<Playbook> {
        self.action.map_or_else(|| self.issue.playbooks().to_vec(), |only| vec![only])
    }

    /// Whether it changes anything.
    fn acts(&self) -> bool {
        self.playbooks().iter().any(|playbook| *playbook != Playbook::DiagnoseNetwork)
    }
}

impl Guardian {
    pub(crate) fn new(fleet: Fleet, hears: mpsc::Receiver<Ended>) -> Self {
        Self { fleet, hears }
    }

    /// Watch until the fleet is stopped. `alive` is called at each turn of the loop, for a watchdog, which says how often
    /// that must be; without one the loop turns when there is something to do.
    pub async fn watch(mut self, beat_every: Option<Duration>, mut alive: impl FnMut()) {
        let every = self.fleet.inner.plan.limits.check_every;
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beats = beat_every.map(tokio::time::interval);
        let mut stopping = self.fleet.inner.stopping.subscribe();
        let mut work = JoinSet::new();
        while !self.fleet.is_stopping() {
            tokio::select! {
                () = next(&mut beats) => {}
                _ = stopping.changed() => {}
                _ = ticks.tick() => check_all(&self.fleet, &mut work),
                told = self.hears.recv() => match told {
                    Some(told) => heal_at_once(&self.fleet, told, &mut work),
                    None => return,
                },
                Some(_) = work.join_next() => {}
            }
            alive();
        }
        // What is under way sees that the fleet stops, and waits for nobody to hear it.
        self.hears.close();
        while work.join_next().await.is_some() {}
    }
}

async fn next(beats: &mut Option<Interval>) {
    match beats {
        Some(beats) => drop(beats.tick().await),
        None => std::future::pending().await,
    }
}

fn check_all(fleet: &Fleet, work: &mut JoinSet<()>) {
    for unit in fleet.inner.units.values() {
        let watched = match unit.component.place {
            Place::Process => unit.wanted() && unit.process().is_some(),
            Place::Elsewhere(_) => true,
            Place::NotStarted => false,
        };
        if watched {
            let (fleet, unit) = (fleet.clone(), Arc::clone(unit));
            work.spawn(async move { fleet.look_after(&unit).await });
        }
    }
}

fn heal_at_once(fleet: &Fleet, told: Ended, work: &mut JoinSet<()>) {
    let fleet = fleet.clone();
    work.spawn(async move {
        match told {
            Ended::Failed { unit, issue } => fleet.heal_unasked(&unit, issue).await,
            Ended::Process { unit, process, status } => fleet.process_ended(&unit, &process, status).await,
        }
    });
}

impl Fleet {
    /// Check one, and heal it when too many checks failed in a row.
    async fn look_after(&self, unit: &Arc<Unit>) {
        // Who is busy with it looks itself.
        if unit.busy.try_lock().is_err() {
            return;
        }
        self.check(unit).await;
        let entry = unit.entry();
        if unit.component.place == Place::Process && entry.failures >= self.inner.plan.limits.failures_max {
            self.heal_unasked(unit, Issue::ConnectionTimeout).await;
        }
    }

    async fn process_ended(&self, unit: &Arc<Unit>, process: &Arc<Process>, status: Option<ExitStatus>) {
        if !unit.hold_for(process) {
            return;
        }
        let how = status.map_or_else(|| "it is not known how".to_owned(), |status| status.to_string());
        let detail = format!("process {} ended: {how}", process.identity().pid);
        tracing::warn!(kernel = unit.component.name, "{detail}");
        {
            // A start that still waits for its health finds out by itself.
            let _busy = unit.busy.lock().await;
            if !unit.runs_as(process) || !unit.wanted() {
                return;
            }
            let changed = unit.part(Status::Unhealthy, detail);
            self.own(&unit.component.name, None);
            if changed {
                self.tell(unit).await;
            }
        }
        self.heal_unasked(unit, Issue::ProcessCrashed).await;
    }

    /// Heal what Guardian itself found, again and again within its budget, until it is well, given up, or another's task.
    /// One at a time for each component: news that come meanwhile are seen by the one who is at it.
    async fn heal_unasked(&self, unit: &Arc<Unit>, issue: Issue) {
        if !unit.tend() {
            return;
        }
        let mut order = Order::of_guardian(issue);
        // Whether the disk was full at one of its restarts, so that they say nothing about the component.
        let mut was_full = false;
        while !unit.let_go() && !self.is_stopping() {
            let lack = self.inner.room.lack();
            was_full |= lack.is_some();
            // Who has no process is started all the same: it may still be able to show what it has.
            if let (Some(process), Some(lack)) = (unit.process(), lack) {
                self.wait_for_room(unit, &process, lack).await;
                continue;
            }
            let limits = &self.inner.plan.limits;
            match unit.spend_restart(limits.restarts_max, limits.restarts_window) {
                Ok(before) => tokio::time::sleep(backoff(before, limits.backoff_first, limits.backoff_max)).await,
                Err(made) => {
                    let window = limits.restarts_window.as_secs_f64();
                    let last = unit.entry().detail;
                    let detail = format!("given up after {made} restarts in {window} s (restarts_max): {last}");
                    match self.inner.room.lack() {
                        Some(lack) => {
                            self.give_up(unit, &format!("{detail}; {lack}: it is started when there is room")).await;
                            self.start_with_room(unit).await;
                        }
                        None if was_full => drop(unit.reset()),
                        None => self.give_up(unit, &detail).await,
                    }
                    was_full = false;
                    continue;
                }
            }
            let _busy = unit.busy.lock().await;
            if !unit.is_to_be_healed() || self.is_stopping() {
                continue;
            }
            let healing = self.heal_alone(unit, order.clone()).await;
            order.issue = what_is_left(&healing);
        }
    }

    /// A process that runs and cannot write is not helped by a restart: wait until there is room on the disk, it is well by
    /// itself, it ended, or somebody else saw to it. Costs nothing of its budget; meanwhile it shows what it has.
    async fn wait_for_room(&self, unit: &Arc<Unit>, process: &Arc<Process>, lack: String) {
        let is_unwell = || unit.is_to_be_healed() && unit.runs_as(process);
        let before = {
            let _busy = unit.busy.lock().await;
            if !is_unwell() {
                return;
            }
            tracing::error!(kernel = unit.component.name, "{lack}: it is restarted when there is room");
            let before = unit.entry().detail;
            unit.lacks(Some(lack));
            unit.lead_home();
            unit.set_status(Status::Unhealthy, unit.with_lack(before.clone()));
            self.tell(unit).await;
            before
        };
        self.until_room(is_unwell).await;
        unit.lacks(None);
        let _busy = unit.busy.lock().await;
        if is_unwell() {
            unit.set_status(Status::Unhealthy, before);
        }
    }

    /// What was given up while the disk was full is started once there is room, unless somebody was faster.
    async fn start_with_room(&self, unit: &Arc<Unit>) {
        self.until_room(|| unit.status() == Status::Failed).await;
        let _busy = unit.busy.lock().await;
        if unit.status() == Status::Failed && !self.is_stopping() {
            unit.reset();
            self.start_unit(unit, unit.entry().port).await;
        }
    }

    /// Completes when there is room on the disk, nobody waits for it any more, or the fleet stops.
    async fn until_room(&self, waits: impl Fn() -> bool) {
        let mut stopping = self.inner.stopping.subscribe();
        while waits() && !self.is_stopping() && self.inner.room.lack().is_some() {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = stopping.changed() => {}
            }
        }
    }

    async fn give_up(&self, unit: &Arc<Unit>, detail: &str) {
        let _busy = unit.busy.lock().await;
        if !unit.is_to_be_healed() {
            return;
        }
        self.stop_unit(unit, Status::Failed, detail).await;
        tracing::error!(kernel = unit.component.name, "{detail}; `reset-failures` starts it again");
        self.inner.witness.record(News::GivenUp(unit.entry())).await;
    }

    /// Heal a component: the playbooks of its issue, in order, until one is seen to have helped. The healing is on record
    /// when this returns. One that was given up is healed for an operator only, and has a new budget then; it may always be
    /// looked at.
    ///
    /// # Errors
    /// [`HealError`]: nothing was done then.
    pub async fn heal(&self, name: &str, order: Order) -> Result<Arc<Healing>, HealError> {
        let unit = Arc::clone(self.unit(name)?);
        let _busy = self.alone(&unit).await?;
        if unit.status() == Status::Failed && order.acts() {
            if !order.by_operator {
                return Err(HealError::GivenUp(name.to_owned()));
            }
            unit.reset();
        }
        Ok(self.heal_alone(&unit, order).await)
    }

    /// The same for a component whose lock the caller holds.
    async fn heal_alone(&self, unit: &Arc<Unit>, order: Order) -> Arc<Healing> {
        let (began_at, port) = (Timestamp::now(), unit.entry().port);
        let mut results: Vec<Outcome> = Vec::new();
        for playbook in order.playbooks() {
            let outcome = self.play(unit, playbook).await;
            let helped = outcome.success;
            results.push(outcome);
            if helped {
                break;
            }
        }
        let overall_success = results.last().is_some_and(|last| last.success);
        let healing = Arc::new(Healing {
            component: unit.component.name.clone(),
            port,
            issue: order.issue,
            severity: order.severity,
            by: order.by,
            playbooks_executed: results.iter().map(|result| result.playbook).collect(),
            results,
            overall_success,
            began_at,
            healed_at: Timestamp::now(),
        });
        self.remember(&healing);
        self.inner.witness.record(News::Healed(Arc::clone(&healing))).await;
        healing
    }

    /// Heal every component that is to run and does not answer. Gives each with what came of it. Those that were given up
    /// wait for an operator who means them.
    pub async fn heal_all(&self, by: &str) -> Vec<(Entry, Result<Arc<Healing>, HealError>)> {
        let mut healed = Vec::new();
        for entry in self.entries() {
            let Ok(unit) = self.unit(&entry.name) else { continue };
            if unit.component.place != Place::Process || matches!(entry.status, Status::Stopped | Status::Failed) {
                continue;
            }
            let patience = self.inner.plan.limits.check_timeout;
            if self.inner.probe.ask(&entry.health_url, patience).await == Health::Well {
                continue;
            }
            let issue = if unit.process().is_none() { Issue::ProcessCrashed } else { Issue::ConnectionTimeout };
            let (severity, by) = ("medium".to_owned(), by.to_owned());
            let order = Order { issue, severity, by, by_operator: false, action: None };
            let result = self.heal(&entry.name, order).await;
            healed.push((unit.entry(), result));
        }
        healed
    }
}

/// What is wrong after a healing that did not help.
fn what_is_left(healing: &Healing) -> Issue {
    let steps = healing.results.iter().flat_map(|result| &result.steps);
    let taken = steps.filter(|step| step.step == "bind").any(|step| !step.ok);
    if taken { Issue::PortConflict } else { Issue::ProcessCrashed }
}

/// The wait before a restart that has so many before it: none before the first, then doubled, with jitter of a half.
fn backoff(before: u32, first: Duration, most: Duration) -> Duration {
    let Some(doublings) = before.checked_sub(1) else { return Duration::ZERO };
    let whole = first.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX)).min(most);
    let mut random = [0; 4];
    // Without randomness everybody waits the whole time, and only the spread is lost.
    let share = match getrandom::fill(&mut random) {
        Ok(()) => 0.5 + 0.5 * f64::from(u32::from_ne_bytes(random)) / f64::from(u32::MAX),
        Err(_) => 1.0,
    };
    whole.mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_below_the_most() {
        let (first, most) = (Duration::from_millis(100), Duration::from_secs(1));
        assert_eq!(backoff(0, first, most), Duration::ZERO);
        for (before, whole) in [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1_000), (40, 1_000), (u32::MAX, 1_000)] {
            let wait = backoff(before, first, most).as_millis();
            assert!((whole / 2..=whole).contains(&wait), "{before}: {wait}");
        }
    }
}
