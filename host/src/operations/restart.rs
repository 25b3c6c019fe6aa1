//! Play 2.2, the restart of a service with its evidence kept: what happens before it stops.

use super::event::Operator;
use super::file::EvidenceFile;
use super::{Operations, Played};
use crate::decide::Refused;
use crate::kernel::Kernel;
use serde_json::json;
use std::sync::Arc;

impl Operations {
    /// Export the evidence of each kernel, and record that the process is about to be restarted.
    ///
    /// # Errors
    /// When the evidence cannot be kept: then nothing should be restarted. An event that a ledger does
    /// not take is no reason: a restart may be what that ledger needs.
    pub async fn before_restart(
        &self,
        kernels: &[Arc<Kernel>],
        operator: &Operator,
    ) -> Played<Vec<(Arc<Kernel>, EvidenceFile)>> {
        let mut kept = Vec::with_capacity(kernels.len());
        for kernel in kernels {
            kept.push((Arc::clone(kernel), self.export(kernel, "backup", "evidence").await?));
        }
        for (kernel, file) in &kept {
            match kernel.record_operator("RESTART", operator, json!({"evidence": file})).await {
                Err(why @ Refused::TooLong(_)) => return Err(why.into()),
                Err(why) => tracing::error!(kernel = kernel.id(), %why, "the restart is not recorded"),
                Ok(_) => {}
            }
        }
        Ok(kept)
    }
}
