//! Starting a whole fleet: what is needed first, and else tier by tier.
//!
//! A component starts when all that it needs are healthy. Those of a tier are launched after those of the tiers before, if
//! these are before it in the plan's order, too. A component elsewhere, and what cannot start without it, holds up nobody who
//! does not need it: its start goes on when the boot is over.

use crate::fleet::Fleet;
use crate::plan::{Component, Place};
use crate::process::end_stale;
use crate::registry::Status;
use crate::unit::{Route, Unit};
use std::sync::Arc;
use tokio::time::timeout;

impl Fleet {
    /// End what an earlier fleet on this data left running, then start every component as soon as what it needs is
    /// healthy, those of the lower tiers first. Gives each that is to run with how it is. What waits for something that runs
    /// elsewhere is not waited for.
    pub async fn boot(&self) -> Vec<(String, Status)> {
        self.end_leftovers().await;
        let to_run = |component: &&Component| component.place != Place::NotStarted;
        let units = self.inner.plan.in_order().filter(to_run).filter_map(|one| self.inner.units.get(&one.name));
        let units: Vec<&Arc<Unit>> = units.collect();
        let (elsewhere, here): (Vec<&Arc<Unit>>, Vec<&Arc<Unit>>) =
            units.iter().copied().partition(|unit| self.hangs_on_elsewhere(&unit.component));
        for unit in elsewhere {
            let (fleet, unit) = (self.clone(), Arc::clone(unit));
            tokio::spawn(async move { fleet.start_when_ready(&unit).await });
        }
        futures_util::future::join_all(here.into_iter().map(|unit| self.start_when_ready(unit))).await;
        units.into_iter().map(|unit| (unit.component.name.clone(), unit.status())).collect()
    }

    /// Whether it, or something that it needs, runs elsewhere, so that nobody here can tell when it starts.
    fn hangs_on_elsewhere(&self, component: &Component) -> bool {
        let mut needed = component.needs.iter().filter_map(|need| self.inner.plan.find(need));
        matches!(component.place, Place::Elsewhere(_)) || needed.any(|need| self.hangs_on_elsewhere(need))
    }

    /// Processes of an earlier fleet on this data, which was killed.
    async fn end_leftovers(&self) {
        for (name, owned) in self.inner.ours.left() {
            let pid = owned.identity.pid;
            tracing::warn!(kernel = name, pid, "an earlier fleet left this process: it is ended");
            if let Err(why) = end_stale(owned.identity, self.inner.plan.limits.stop_grace).await {
                tracing::error!(kernel = name, pid, "it cannot be ended: {why}");
            }
        }
    }

    async fn start_when_ready(&self, unit: &Arc<Unit>) {
        self.wait_for_turn(&unit.component).await;
        for need in &unit.component.needs {
            let Some(needed) = self.inner.units.get(need) else { continue };
            let settled = |status: &Status| matches!(status, Status::Healthy | Status::Failed) || needed.is_in_want();
            let reached = needed.until(settled).await;
            if reached != Status::Healthy {
                let detail = format!("it needs `{need}`, which is {reached}");
                unit.lead(Route::Down(detail.clone()));
                self.tell_status(unit, Status::Failed, detail).await;
                unit.launch();
                let (fleet, unit) = (self.clone(), Arc::clone(unit));
                tokio::spawn(async move { fleet.start_when_needs_come(&unit).await });
                return;
            }
        }
        self.start_first(unit).await;
    }

    /// Wait for those that are to be before it, for a while: none of them is needed.
    async fn wait_for_turn(&self, component: &Component) {
        if matches!(component.place, Place::Elsewhere(_)) {
            return;
        }
        let limits = &self.inner.plan.limits;
        for name in &component.after {
            let Some(before) = self.inner.units.get(name) else { continue };
            let elsewhere = self.hangs_on_elsewhere(&before.component);
            let patience = if elsewhere { limits.check_timeout } else { limits.start_timeout };
            let settled = before.until(|status| !matches!(status, Status::Stopped | Status::Starting));
            if timeout(patience, settled).await.is_err() {
                tracing::warn!(kernel = component.name, "started before `{name}`, which takes its time");
            }
        }
        let before = self.inner.plan.in_order().take_while(|other| other.name != component.name);
        let lower = before.filter(|other| {
            other.tier < component.tier && other.place == Place::Process && !self.hangs_on_elsewhere(other)
        });
        let launched = async {
            for unit in lower.filter_map(|other| self.inner.units.get(&other.name)) {
                unit.is_launched().await;
            }
        };
        if timeout(limits.start_timeout, launched).await.is_err() {
            tracing::warn!(kernel = component.name, "started before all of the lower tiers, which take their time");
        }
    }

    /// What it needs had failed; once an operator has mended that, it is started too, unless somebody was faster.
    async fn start_when_needs_come(&self, unit: &Arc<Unit>) {
        for need in &unit.component.needs {
            let Some(needed) = self.inner.units.get(need) else { continue };
            needed.until(|status| *status == Status::Healthy).await;
        }
        if unit.status() == Status::Failed && !unit.wanted() {
            self.start_first(unit).await;
        }
    }

    async fn start_first(&self, unit: &Arc<Unit>) {
        match unit.component.place {
            Place::NotStarted => {}
            Place::Elsewhere(_) => self.check(unit).await,
            Place::Process => {
                let _busy = unit.busy.lock().await;
                unit.launch();
                if self.is_stopping() || unit.wanted() {
                    return;
                }
                let steps = self.start_unit(unit, unit.component.port).await;
                if let Some(failed) = steps.iter().find(|step| !step.ok) {
                    tracing::error!(kernel = unit.component.name, step = failed.step, "{}", failed.detail);
                }
            }
        }
    }
}
