//! How this module reads the ledger's tree: the only file in it that does.

use crate::index::source::between;
use gavel_ledger::tree::{Hash, Nodes, leaf_hash};
use gavel_ledger::{Error, Ledger};

/// The tree of what is committed now: its size and its nodes.
pub(crate) fn tree(ledger: &Ledger) -> Result<(u64, Tree), Error> {
    let size = ledger.snapshot().records;
    let leaves = between(ledger, 0, size).map(|record| Ok(leaf_hash(record?.as_str().as_bytes())));
    Ok((size, Tree { leaves: leaves.collect::<Result<_, Error>>()? }))
}

pub(crate) struct Tree {
    leaves: Vec<Hash>,
}

impl Nodes for Tree {
    type Error = Error;

    fn node(&self, level: u32, index: u64) -> Result<Hash, Error> {
        let mut frontier = gavel_ledger::tree::Frontier::new();
        let (start, end) = (index << level, (index + 1) << level);
        self.leaves[usize::try_from(start).unwrap_or(0)..usize::try_from(end).unwrap_or(0)]
            .iter()
            .for_each(|leaf| frontier.push(*leaf));
        Ok(frontier.root())
    }
}

/// The latest signed checkpoint.
pub(crate) fn checkpoint(_ledger: &Ledger) -> Option<String> {
    None
}
