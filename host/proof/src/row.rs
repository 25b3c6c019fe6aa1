//! Leaves in a row, from anywhere in a tree, that come one by one and are not kept.
//!
//! What is kept are the roots of the complete subtrees that they fill, at most two for each level. With
//! the hashes on both sides ([`RangeProof`]) those give the root of the whole tree, as
//! [`crate::tree::verify_range`] would find it from all leaves at once.

use crate::tree::{Frontier, Hash, ProofError, RangeProof, node_hash};

/// A complete subtree over the leaves from `start` on.
#[derive(Debug, Clone, Copy)]
struct Subtree {
    start: u64,
    level: u32,
    root: Hash,
}

/// The row.
#[derive(Debug, Clone, Default)]
pub(crate) struct Row {
    start: u64,
    end: u64,
    /// From left to right.
    subtrees: Vec<Subtree>,
}

impl Row {
    /// No leaf yet; the first will be number `start`.
    #[must_use]
    pub(crate) fn new(start: u64) -> Self {
        Self { start, end: start, subtrees: Vec::new() }
    }

    /// All leaves of a tree so far.
    #[must_use]
    pub(crate) fn of(tree: &Frontier) -> Self {
        let (mut subtrees, mut start) = (Vec::new(), 0);
        for root in tree.subtrees() {
            // The largest subtree that fits into what is left.
            let level = (tree.size() - start).ilog2();
            subtrees.push(Subtree { start, level, root: *root });
            start += 1 << level;
        }
        Self { start: 0, end: tree.size(), subtrees }
    }

    /// The number of its first leaf.
    #[must_use]
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// The number of the leaf that comes next.
    #[must_use]
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Appends a leaf, given its hash.
    pub(crate) fn push(&mut self, leaf: Hash) {
        let mut new = Subtree { start: self.end, level: 0, root: leaf };
        while let Some(left) = self.subtrees.last().copied() {
            // Two of one size make the next one only if the left one is a left child.
            if left.level != new.level || (left.start >> left.level) % 2 == 1 {
                break;
            }
            self.subtrees.pop();
            new = Subtree { start: left.start, level: left.level + 1, root: node_hash(&left.root, &new.root) };
        }
        self.subtrees.push(new);
        self.end = self.end.saturating_add(1);
    }

    /// Checks that these leaves stand there in the tree of `size` leaves with this root.
    ///
    /// # Errors
    /// [`ProofError`]
    pub(crate) fn verify(&self, size: u64, proof: &RangeProof, root: &Hash) -> Result<(), ProofError> {
        if self.start == self.end || self.end > size {
            return Err(ProofError::OutOfRange { index: self.end.max(1) - 1, size });
        }
        let mut rebuilt = Rebuilt { row: self, subtrees: 0, before: 0, after: 0, proof };
        let found = rebuilt.root(0, size);
        let (have, need) = (proof.before.len() + proof.after.len(), rebuilt.before + rebuilt.after);
        if have < need || proof.before.len() < rebuilt.before {
            return Err(ProofError::TooShort { have, need });
        }
        if have > need || proof.before.len() > rebuilt.before {
            return Err(ProofError::Surplus { have, need });
        }
        if found == Some(*root) { Ok(()) } else { Err(ProofError::WrongRoot) }
    }
}

/// A tree put together from the row and what stands beside it; counts what it takes.
struct Rebuilt<'a> {
    row: &'a Row,
    proof: &'a RangeProof,
    subtrees: usize,
    before: usize,
    after: usize,
}

impl Rebuilt<'_> {
    /// At most 64 deep, as each step halves the leaves. Goes on where a hash is missing, to count.
    fn root(&mut self, low: u64, high: u64) -> Option<Hash> {
        if high <= self.row.start {
            self.before += 1;
            return self.proof.before.get(self.before - 1).copied();
        }
        if low >= self.row.end {
            self.after += 1;
            return self.proof.after.get(self.after - 1).copied();
        }
        let next = self.row.subtrees.get(self.subtrees);
        if let Some(next) = next.filter(|next| next.start == low && 1_u64.checked_shl(next.level) == Some(high - low)) {
            self.subtrees += 1;
            return Some(next.root);
        }
        // RFC 6962 splits at the largest power of two below the count, which is at least 2 here: a
        // single leaf lies beside the row or is one of its subtrees.
        let middle = low + (1 << (high - low - 1).ilog2());
        let (left, right) = (self.root(low, middle), self.root(middle, high));
        Some(node_hash(&left?, &right?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Nodes, leaf_hash, range, root, verify_range};
    use proptest::prelude::*;
    use std::convert::Infallible;

    struct Leaves(Vec<Hash>);

    impl Nodes for Leaves {
        type Error = Infallible;

        fn node(&self, level: u32, index: u64) -> Result<Hash, Infallible> {
            if level == 0 {
                return Ok(self.0[usize::try_from(index).unwrap()]);
            }
            Ok(node_hash(&self.node(level - 1, 2 * index)?, &self.node(level - 1, 2 * index + 1)?))
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_proof_over_all_leaves(size in 1_u64..150, from in 0_u64..150, count in 1_u64..150, flip in any::<prop::sample::Index>()) {
            let leaves = Leaves((0..size).map(|leaf| leaf_hash(&leaf.to_be_bytes())).collect());
            let start = from % size;
            let end = (start + count).min(size);
            let Ok(root) = root(&leaves, size);
            let Ok(proof) = range(&leaves, start, end, size);
            let within = &leaves.0[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()];
            let mut row = Row::new(start);
            for leaf in within {
                row.push(*leaf);
            }
            prop_assert_eq!(row.verify(size, &proof, &root), Ok(()));
            prop_assert_eq!(verify_range(within, start, size, &proof, &root), Ok(()));

            if start == 0 {
                let mut tree = Frontier::new();
                for leaf in within {
                    tree.push(*leaf);
                }
                prop_assert_eq!(Row::of(&tree).verify(size, &proof, &root), Ok(()));
            }

            let mut surplus = proof.clone();
            surplus.after.push(root);
            let refused = row.verify(size, &surplus, &root);
            prop_assert!(matches!(refused, Err(ProofError::Surplus { .. })), "{refused:?}");
            let mut moved = proof.clone();
            if let Some(hash) = moved.before.pop() {
                moved.after.insert(0, hash);
                let refused = row.verify(size, &moved, &root);
                prop_assert!(matches!(refused, Err(ProofError::TooShort { .. })), "{refused:?}");
            }
            let mut short = proof.clone();
            if short.after.pop().or_else(|| short.before.pop()).is_some() {
                let refused = row.verify(size, &short, &root);
                prop_assert!(matches!(refused, Err(ProofError::TooShort { .. })), "{refused:?}");
            }
            let mut other = within.to_vec();
            flip.get_mut(&mut other)[0] ^= 1;
            let mut row = Row::new(start);
            for leaf in &other {
                row.push(*leaf);
            }
            prop_assert_eq!(row.verify(size, &proof, &root), Err(ProofError::WrongRoot));
            prop_assert!(row.verify(end - 1, &proof, &root).is_err());
        }
    }

    #[test]
    fn sizes_at_the_end_of_the_numbers_do_no_harm() {
        let mut row = Row::new(u64::MAX - 2);
        row.push([1; 32]);
        assert!(row.verify(u64::MAX, &RangeProof::default(), &[0; 32]).is_err());
        assert!(Row::new(5).verify(9, &RangeProof::default(), &[0; 32]).is_err());
    }
}
