//! Incidents of the host's kernels: the file and the record.

use super::{Fleet, FleetError};
use crate::incidents::{Incident, Opening};
use crate::kernel::Kernel;
use gavel_kernel::json;
use serde_json::{Value, json};
use std::sync::Arc;

impl Fleet {
    /// Open an incident of a kernel. A ledger that takes no record does not keep it from being opened.
    ///
    /// # Errors
    /// When there is no such kernel, or the incident cannot be kept.
    pub async fn open_incident(
        &self,
        name: &str,
        kind: &str,
        reason: &str,
        who: &str,
        details: Value,
        id: Option<&str>,
    ) -> Result<Incident, FleetError> {
        crate::record::check_reason(reason).map_err(FleetError::NotAccepted)?;
        let slot = self.slot(name)?;
        let kernel = slot.kernel();
        let incidents = Arc::clone(&self.incidents);
        let (name, kernel_id) = (slot.name().to_owned(), kernel.id().to_owned());
        let (kind, reason, who) = (kind.to_owned(), reason.to_owned(), who.to_owned());
        let id = id.map(str::to_owned);
        let opened = tokio::task::spawn_blocking(move || {
            let (kind, name, kernel_id, reason, who) = (&*kind, &*name, &*kernel_id, &*reason, &*who);
            let opening = Opening { kind, name, kernel_id, reason, who, details, id: id.as_deref() };
            incidents.open(opening)
        });
        let incident = opened.await.map_err(|why| FleetError::Failed(why.to_string()))??;
        record(&kernel, "opened", &incident, &incident.opened_by, &incident.reason).await;
        tracing::warn!(kernel = kernel.id(), incident = incident.incident_id, "incident opened");
        Ok(incident)
    }

    /// Mark an incident as resolved: `why` says what it was, and what was done.
    ///
    /// # Errors
    /// When there is none of that id, it is resolved already, or cannot be written.
    pub async fn resolve_incident(&self, id: &str, who: &str, why: &str) -> Result<Incident, FleetError> {
        if why.trim().is_empty() {
            return Err(FleetError::NotAccepted("say in `why` what it was, and what was done".into()));
        }
        crate::record::check_reason(why).map_err(FleetError::NotAccepted)?;
        let (incidents, id) = (Arc::clone(&self.incidents), id.to_owned());
        let (by, how) = (who.to_owned(), why.to_owned());
        let resolved = tokio::task::spawn_blocking(move || incidents.resolve(&id, &by, &how));
        let incident = resolved.await.map_err(|why| FleetError::Failed(why.to_string()))??;
        if let Some(slot) = self.find(&incident.name) {
            record(&slot.kernel(), "resolved", &incident, who, why).await;
        }
        Ok(incident)
    }
}

async fn record(kernel: &Kernel, action: &str, incident: &Incident, who: &str, why: &str) {
    let meta = json::canonical(&json!({
        "event": "incident",
        "action": action,
        "incident_id": incident.incident_id,
        "type": incident.kind,
        "name": incident.name,
        "kernel_id": incident.kernel_id,
        "who": who,
        "why": why,
    }));
    if let Err(error) = kernel.note(meta).await {
        let id = &incident.incident_id;
        tracing::error!(kernel = kernel.id(), incident = id, %error, "the incident could not be recorded in the ledger");
    }
}
