//! Ledgers of kernels that were replaced: closed for good, and still read by whoever follows them.

use super::{Fleet, Slot};
use crate::host::ledger_dir;
use anyhow::{Context, Result};
use gavel_ledger::View;
use std::sync::{Mutex, PoisonError};

/// The closed ledger that was last read in: to open one is to audit its newest segment.
#[derive(Debug, Default)]
pub(super) struct Closed(Mutex<Option<(String, View)>>);

impl Fleet {
    /// The name under which a kernel of this id was replaced, if it was.
    pub(crate) fn name_of_replaced(&self, kernel_id: &str) -> Option<String> {
        self.manifest().replaced(kernel_id).map(str::to_owned)
    }

    /// Whether a kernel of this id was replaced under this name, and its ledger is closed and here.
    pub(crate) fn is_closed(&self, slot: &Slot, kernel_id: &str) -> bool {
        let entry = self.entry(slot.name()).ok();
        let mut predecessors = entry.iter().flat_map(|entry| &entry.predecessors);
        self.workshop.data.is_some() && predecessors.any(|before| before.kernel_id == kernel_id && before.end.is_some())
    }

    /// The ledger of such a kernel, to read in. Blocks on the disk.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn closed_ledger(&self, kernel_id: &str) -> Result<View> {
        let data = self.workshop.data.as_deref().context("kernels without a folder leave no ledger")?;
        let mut last = self.closed.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, view)) = last.as_ref().filter(|(of, _)| of == kernel_id) {
            return Ok(view.clone());
        }
        let folder = ledger_dir(data, kernel_id);
        let (_, view) = View::open(&folder).with_context(|| folder.display().to_string())?;
        *last = Some((kernel_id.to_owned(), view.clone()));
        Ok(view)
    }
}
