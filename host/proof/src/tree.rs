//! The Merkle tree of RFC 6962 (section 2.1), of which only the right edge is kept.
//!
//! A leaf is `SHA-256(0x00 || record)` and a node `SHA-256(0x01 || left || right)`; the two
//! prefixes keep a node from being passed off as a leaf. The root of `n` leaves splits them at the
//! largest power of two below `n`. Hence the tree is a row of complete subtrees, one for each bit
//! set in `n`, and to append it is enough to remember their roots: at most 64 hashes, whatever the
//! size of the log.
//!
//! Invariant: `subtrees.len() == size.count_ones()`, largest subtree first.
//! Not here: proofs, which need the leaves again.

pub use crate::hash::Hash;

use sha2::{Digest, Sha256};

/// The hash of one record as a leaf.
#[must_use]
pub fn leaf_hash(record: &[u8]) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([0x00]);
    hasher.update(record);
    hasher.finalize().into()
}

/// The hash of an inner node over its two children.
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([0x01]);
    hasher.update(left);
    hasher.update(right);
    hasher.finalize().into()
}

/// The right edge of the tree: all that is needed to append and to know the root.
///
/// ```
/// use gavel_ledger::tree::{Frontier, leaf_hash, node_hash};
///
/// let mut tree = Frontier::new();
/// tree.push(leaf_hash(b"a"));
/// tree.push(leaf_hash(b"b"));
/// assert_eq!(tree.root(), node_hash(&leaf_hash(b"a"), &leaf_hash(b"b")));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    subtrees: Vec<Hash>,
}

impl Frontier {
    /// The empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf, given its hash. One node hash on average, `log2(size)` at worst.
    pub fn push(&mut self, leaf: Hash) {
        let mut subtree = leaf;
        // Each trailing one of the size is a complete subtree as large as the one just completed:
        // merge them.
        for _ in 0..self.size.trailing_ones() {
            let Some(left) = self.subtrees.pop() else { break };
            subtree = node_hash(&left, &subtree);
        }
        self.subtrees.push(subtree);
        self.size += 1;
        debug_assert_eq!(self.subtrees.len(), self.size.count_ones() as usize);
    }

    /// The root over all leaves; for the empty tree the hash of nothing, as RFC 6962 has it.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut subtrees = self.subtrees.iter().rev();
        match subtrees.next() {
            None => Sha256::digest([]).into(),
            Some(&smallest) => subtrees.fold(smallest, |right, left| node_hash(left, &right)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition in RFC 6962, word for word.
    fn naive(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Sha256::digest([]).into(),
            [leaf] => *leaf,
            _ => {
                let split = leaves.len().next_power_of_two() / 2;
                node_hash(&naive(&leaves[..split]), &naive(&leaves[split..]))
            }
        }
    }

    /// Inputs and roots of the reference implementation (google/certificate-transparency,
    /// `merkletree`).
    #[test]
    fn agrees_with_the_reference_vectors() {
        let inputs =
            ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut tree = Frontier::new();
        for (input, root) in inputs.iter().zip(roots) {
            tree.push(leaf_hash(&hex::decode(input).unwrap()));
            assert_eq!(hex::encode(tree.root()), root, "size {}", tree.size());
        }
    }

    proptest! {
        #[test]
        fn frontier_is_the_naive_tree(records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..8), 0..300)) {
            let leaves: Vec<Hash> = records.iter().map(|record| leaf_hash(record)).collect();
            let mut tree = Frontier::new();
            for (count, leaf) in leaves.iter().enumerate() {
                prop_assert_eq!(tree.root(), naive(&leaves[..count]));
                tree.push(*leaf);
            }
            prop_assert_eq!(tree.size(), leaves.len() as u64);
            prop_assert_eq!(tree.root(), naive(&leaves));
        }
    }
}
