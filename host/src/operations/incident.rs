//! Play 4.1, the emergency halt: evidence first, then the halt, then the record of the incident and the
//! alert.
//!
//! Nothing of this may stand in the way of the halt. Evidence that cannot be exported is recorded as
//! such; one that takes longer than `operations.halt_export_ms` goes on while the kernel is halted, and
//! its end is an event of its own.

use super::alerts::Alert;
use super::event::Operator;
use super::file::{EvidenceFile, PRIVATE, write_evidence};
use super::{OperationError, Operations, Played};
use crate::clock::rfc3339;
use crate::config::Severity;
use crate::decide::{Principal, Refused};
use crate::evidence::write_bundle;
use crate::fleet::{Fleet, FleetError, Slot};
use crate::incidents::IncidentError;
use crate::kernel::Kernel;
use crate::record;
use anyhow::Context;
use gavel_kernel::{Receipt, State};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// What an emergency halt came to.
#[derive(Debug, Clone)]
pub struct Halted {
    /// The incident's name, for `preserve` and for the recovery.
    pub id: String,
    /// The kernel before: `kernel_id`, `state`, `timestamp`, `reason`, and `evidence_export_error` if
    /// there was one.
    pub pre_halt: Value,
    /// The evidence from before the halt, if it was written in time.
    pub evidence: Option<EvidenceFile>,
    /// The kernel that was halted.
    pub kernel_id: String,
    /// The receipt of the halt.
    pub receipt: Receipt,
    /// The record of the incident in the ledger; `None` if it could not be recorded.
    pub index: Option<u64>,
    /// Webhooks that the alert was queued for.
    pub alerted: usize,
}

/// How long a halt tries to get into a ledger's queue that is full, and how often.
const HALT_PATIENCE: Duration = Duration::from_secs(10);
const HALT_AGAIN: Duration = Duration::from_millis(2);

type Export = JoinHandle<anyhow::Result<EvidenceFile>>;

impl Operations {
    /// Halt a kernel for good, with the evidence of what it did.
    ///
    /// # Errors
    /// When the kernel is halted already, the id is none, or the halt cannot be made durable.
    pub async fn emergency_halt(
        &self,
        fleet: &Fleet,
        slot: &Arc<Slot>,
        incident: Option<&str>,
        operator: &Operator,
    ) -> Played<Halted> {
        let kernel = &slot.kernel();
        let now_ms = self.inner.clock.now_ms();
        let incident_id = incident.map_or_else(|| format!("halt-{now_ms}"), str::to_owned);
        super::check_incident(&incident_id)?;
        record::check_reason(&operator.why).map_err(Refused::TooLong)?;
        kernel.refuse_if_halted()?;
        let mut pre_halt = json!({"kernel_id": kernel.id(), "state": kernel.state(), "timestamp": now_ms});
        let (evidence, late) = match self.export_in_time(kernel, now_ms).await {
            Ok(file) => (Some(file), None),
            Err((why, late)) => {
                tracing::error!(kernel = kernel.id(), "before the halt: {why}");
                pre_halt["evidence_export_error"] = json!(record::shortened(why));
                (None, late)
            }
        };
        // Another kernel may have taken its place meanwhile: who halts a name means what runs under it.
        let (kernel, receipt) = &self.halt_now(slot, operator).await?;
        // The reason is the event's `why`: twice it might not fit a record.
        let details = json!({
            "incident_id": incident_id,
            "pre_halt": pre_halt,
            "post_state": kernel.state(),
            "evidence": evidence,
        });
        pre_halt["reason"] = json!(operator.why);
        let recorded = kernel.record_operator("EMERGENCY_HALT", operator, details.clone()).await;
        let recorded =
            recorded.inspect_err(|why| tracing::error!(kernel = kernel.id(), %why, "the incident is not recorded"));
        let alerted = self.inner.alerts.send(&Alert {
            severity: Severity::Critical,
            event: "EMERGENCY_HALT",
            kernel_id: kernel.id().to_owned(),
            message: format!("Kernel {} halted: {}", kernel.id(), operator.why),
            details,
        });
        let (why, who, known) = (&operator.why, &operator.who, pre_halt.clone());
        let open = |id| fleet.open_incident(slot.name(), "EMERGENCY_HALT", why, who, known.clone(), id);
        let opened = match open(Some(&incident_id)).await {
            // Of another halt, at the same moment or of the same incident: it gets a file of its own.
            Err(FleetError::Incident(IncidentError::Known(_))) => open(None).await,
            opened => opened,
        };
        if let Err(why) = opened {
            tracing::error!(kernel = kernel.id(), %why, "the incident has no file, so it cannot be resolved");
        }
        if let Some(late) = late {
            self.inner.tasks.spawn(record_late(Arc::clone(kernel), late, incident_id.clone(), operator.clone()));
        }
        Ok(Halted {
            id: incident_id,
            kernel_id: kernel.id().to_owned(),
            pre_halt,
            evidence,
            receipt: receipt.clone(),
            index: recorded.ok(),
            alerted,
        })
    }

    /// The evidence, or why there is none, and the export if it still goes on.
    async fn export_in_time(
        &self,
        kernel: &Arc<Kernel>,
        now_ms: u64,
    ) -> Result<EvidenceFile, (String, Option<Export>)> {
        let limit_ms = self.inner.limits.halt_export_ms;
        // Not among the readers that wait for each other: this one is in a hurry.
        let (folder, from) = (self.inner.data.join("incident"), Arc::clone(kernel));
        let mut export = tokio::task::spawn_blocking(move || {
            let snapshot = from.ledger().snapshot();
            let name = format!("pre_halt_{}_{now_ms}.json.zst", from.id());
            write_evidence(&folder, &name, PRIVATE, |mut out| write_bundle(&from, &snapshot, &mut out))
        });
        match tokio::time::timeout(Duration::from_millis(limit_ms), &mut export).await {
            Ok(Ok(Ok(file))) => Ok(file),
            Ok(Ok(Err(why))) => Err((format!("the evidence was not exported: {why:#}"), None)),
            Ok(Err(why)) => Err((format!("the evidence was not exported: {why}"), None)),
            Err(_) => {
                let why = format!(
                    "the evidence was not exported within {limit_ms} ms (operations.halt_export_ms): the halt went first, the export goes on"
                );
                Err((why, Some(export)))
            }
        }
    }

    async fn halt_now(&self, slot: &Arc<Slot>, operator: &Operator) -> Played<(Arc<Kernel>, Receipt)> {
        let principal = Principal::unbound(operator.who.clone());
        let until = Instant::now() + HALT_PATIENCE;
        let halted = loop {
            match slot.halt(&operator.why, &principal).await {
                // What runs wild may well fill the ledger's queue; the halt finds a place in it.
                Err(Refused::Overloaded) if Instant::now() < until => tokio::time::sleep(HALT_AGAIN).await,
                halted => break halted,
            }
        };
        match halted {
            Ok((kernel, receipt)) if kernel.state() == State::Halted => Ok((kernel, receipt)),
            Ok((kernel, _)) => {
                Err(OperationError::Conflict(format!("kernel '{}' is not halted after its halt", kernel.id())))
            }
            Err(why) => {
                self.inner.alerts.send(&Alert {
                    severity: Severity::Critical,
                    event: "EMERGENCY_HALT",
                    kernel_id: slot.kernel().id().to_owned(),
                    message: format!("Kernel {} COULD NOT BE HALTED ({why}): {}", slot.name(), operator.why),
                    details: json!({"error": why.to_string()}),
                });
                Err(why.into())
            }
        }
    }
}

/// Record how an export ended that took longer than the halt could wait.
async fn record_late(kernel: Arc<Kernel>, export: Export, incident_id: String, operator: Operator) {
    let exported = match export.await {
        Ok(exported) => exported,
        Err(why) => Err(why.into()),
    };
    let details = match &exported {
        Ok(file) => json!({"incident_id": incident_id, "evidence": file}),
        Err(why) => json!({"incident_id": incident_id, "error": format!("{why:#}")}),
    };
    if let Err(why) = kernel.record_operator("EVIDENCE_EXPORTED", &operator, details).await {
        tracing::error!(kernel = kernel.id(), %why, "the export of the evidence is not recorded");
    }
}

impl Operations {
    /// The evidence of a kernel in a file of its own under `folder` of the data folder.
    pub(super) async fn export(
        &self,
        kernel: &Arc<Kernel>,
        folder: &str,
        prefix: &str,
    ) -> anyhow::Result<EvidenceFile> {
        let (from, folder) = (Arc::clone(kernel), self.inner.data.join(folder));
        let name = format!("{prefix}_{}_{}.json.zst", kernel.id(), self.inner.clock.now_ms());
        let written = self.read(move || {
            let snapshot = from.ledger().snapshot();
            write_evidence(&folder, &name, PRIVATE, |mut out| write_bundle(&from, &snapshot, &mut out))
        });
        written.await.with_context(|| {
            format!("the evidence of kernel {} at {}", kernel.id(), rfc3339(self.inner.clock.now_ms()))
        })
    }
}
