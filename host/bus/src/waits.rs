//! Who waits for whom. A chain of events holds the plugins that are at work on it; where it wants one that another chain
//! holds, it waits. Two that would wait for each other are found before the second waits: nothing hangs.

use crate::event::Root;
use crate::slot::Slot;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The chain that holds a plugin, if one does.
#[derive(Debug, Default)]
pub(crate) struct Holder(Mutex<Option<Root>>);

/// While this lives, a chain holds the plugin.
pub(crate) struct Held<'a>(&'a Holder);

impl Holder {
    pub(crate) fn set(&self, root: Root) -> Held<'_> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(root);
        Held(self)
    }

    fn root(&self) -> Option<Root> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Which chain waits for which plugins.
#[derive(Default)]
pub(crate) struct Waits(Mutex<HashMap<Root, Vec<Arc<Slot>>>>);

/// While this lives, a chain waits.
pub(crate) struct Waiting<'a> {
    waits: &'a Waits,
    root: Root,
    slot: Arc<Slot>,
}

impl Waits {
    /// Begin to wait for `slot`; `None` if the chain would wait for itself.
    ///
    /// The last of those that would close a circle sees the others' waits, because each is written down under one lock
    /// before it waits, and who holds a plugin has said so before it waits for the next.
    pub(crate) fn begin(&self, root: Root, slot: &Arc<Slot>) -> Option<Waiting<'_>> {
        let mut waits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ahead = vec![Arc::clone(slot)];
        let mut seen: Vec<Root> = Vec::new();
        while let Some(next) = ahead.pop() {
            let Some(holder) = next.holder.root() else { continue };
            if holder == root {
                return None;
            }
            if !seen.contains(&holder) {
                ahead.extend(waits.get(&holder).into_iter().flatten().cloned());
                seen.push(holder);
            }
        }
        waits.entry(root).or_default().push(Arc::clone(slot));
        Some(Waiting { waits: self, root, slot: Arc::clone(slot) })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waits = self.waits.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slots) = waits.get_mut(&self.root) {
            if let Some(at) = slots.iter().position(|slot| Arc::ptr_eq(slot, &self.slot)) {
                slots.swap_remove(at);
            }
            if slots.is_empty() {
                waits.remove(&self.root);
            }
        }
    }
}
