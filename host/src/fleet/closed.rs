//! Ledgers of kernels that were replaced: closed for good, and still read by whoever follows them.

use super::{Fleet, Slot};
use crate::host::ledger_dir;
use anyhow::{Context, Result};
use gavel_ledger::View;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// So many closed ledgers stay open between two pages.
const OPEN_MAX: usize = 4;

/// Closed ledgers that are being read, the last ones that were opened: to open one is to audit its newest segment.
#[derive(Debug, Default)]
pub(super) struct Closed(Mutex<VecDeque<(String, View)>>);

impl Closed {
    fn open(&self) -> MutexGuard<'_, VecDeque<(String, View)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fleet {
    /// The name under which a kernel of this id was replaced, if it was.
    pub(crate) fn name_of_replaced(&self, kernel_id: &str) -> Option<String> {
        self.manifest().replaced(kernel_id).map(str::to_owned)
    }

    /// The folder of the ledger of a kernel that was replaced under this name, if it is closed and has one.
    pub(crate) fn closed_folder(&self, slot: &Slot, kernel_id: &str) -> Option<PathBuf> {
        let entry = self.entry(slot.name()).ok()?;
        let mut predecessors = entry.predecessors.iter();
        let found = predecessors.find(|before| before.kernel_id == kernel_id && before.end.is_some())?;
        Some(ledger_dir(self.workshop.data.as_deref()?, &found.kernel_id))
    }

    /// Such a ledger, to read a part of. Blocks on the disk.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn closed_ledger(&self, kernel_id: &str, folder: &Path) -> Result<View> {
        let known = self.closed.open().iter().find(|(of, _)| of == kernel_id).map(|(_, view)| view.clone());
        if let Some(view) = known {
            return Ok(view);
        }
        // Not under the lock: others go on reading. Two who open the same at once do no harm.
        let (_, view) = View::open(folder).with_context(|| folder.display().to_string())?;
        let mut open = self.closed.open();
        open.truncate(OPEN_MAX - 1);
        open.push_front((kernel_id.to_owned(), view.clone()));
        Ok(view)
    }

    /// Its end was read: its files need not stay open.
    pub(crate) fn leave_closed(&self, kernel_id: &str) {
        self.closed.open().retain(|(of, _)| of != kernel_id);
    }
}
