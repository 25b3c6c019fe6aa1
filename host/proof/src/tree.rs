//! The Merkle tree of RFC 6962 (section 2.1), of which only the right edge is kept.
//!
//! A leaf is `SHA-256(0x00 || record)` and a node `SHA-256(0x01 || left || right)`; the two
//! prefixes keep a node from being passed off as a leaf. The root of `n` leaves splits them at the
//! largest power of two below `n`. Hence the tree is a row of complete subtrees, one for each bit
//! set in `n`, and to append it is enough to remember their roots: at most 64 hashes, whatever the
//! size of the log.
//!
//! Proofs need inner nodes again; where those come from is the business of whoever keeps them
//! ([`Nodes`]). What is made here and what is checked here never share code: a fault in the one must
//! not be confirmed by the other.
//!
//! Invariant: `subtrees.len() == size.count_ones()`, largest subtree first.

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
/// use gavel_proof::tree::{Frontier, leaf_hash, node_hash};
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

    /// The tree of `size` leaves whose complete subtrees have these roots, largest first; `None` if
    /// their number is not that of such a tree.
    #[must_use]
    pub fn from_subtrees(size: u64, subtrees: Vec<Hash>) -> Option<Self> {
        (subtrees.len() == size.count_ones() as usize).then_some(Self { size, subtrees })
    }

    /// The roots of its complete subtrees, largest first.
    #[must_use]
    pub fn subtrees(&self) -> &[Hash] {
        &self.subtrees
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

/// Where proofs find the nodes of a tree.
pub trait Nodes {
    /// Why a node cannot be had.
    type Error;

    /// The root of the complete subtree over the `2^level` leaves from `index * 2^level` on.
    ///
    /// # Errors
    /// When it cannot be read. It is only asked for what is within the tree.
    fn node(&self, level: u32, index: u64) -> Result<Hash, Self::Error>;
}

/// The largest power of two below `count`, which is at least 2: where RFC 6962 splits a tree.
fn split(count: u64) -> u64 {
    debug_assert!(count >= 2);
    1 << (count - 1).ilog2()
}

/// The root over the leaves `start..end`, as they stand in a larger tree; not empty.
fn root_between<N: Nodes>(nodes: &N, start: u64, end: u64) -> Result<Hash, N::Error> {
    let count = end - start;
    if count.is_power_of_two() {
        let level = count.trailing_zeros();
        debug_assert_eq!(start % count, 0, "only subtrees of the tree are asked for");
        return nodes.node(level, start >> level);
    }
    let middle = start + split(count);
    Ok(node_hash(&root_between(nodes, start, middle)?, &root_between(nodes, middle, end)?))
}

/// The root of the tree of the first `size` leaves.
///
/// # Errors
/// As the nodes have it.
pub fn root<N: Nodes>(nodes: &N, size: u64) -> Result<Hash, N::Error> {
    if size == 0 { Ok(Sha256::digest([]).into()) } else { root_between(nodes, 0, size) }
}

/// The proof that leaf `index` is in the tree of `size` leaves (RFC 6962, section 2.1.1), bottom up.
///
/// # Errors
/// As the nodes have it.
///
/// # Panics
/// If the leaf is not within the tree.
pub fn inclusion<N: Nodes>(nodes: &N, index: u64, size: u64) -> Result<Vec<Hash>, N::Error> {
    assert!(index < size, "leaf {index} of {size}");
    let mut proof = Vec::new();
    let (mut start, mut end) = (0, size);
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            proof.push(root_between(nodes, middle, end)?);
            end = middle;
        } else {
            proof.push(root_between(nodes, start, middle)?);
            start = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// The proof that the tree of the first `old` leaves is a prefix of that of `new` (RFC 6962, section
/// 2.1.2).
///
/// # Errors
/// As the nodes have it.
///
/// # Panics
/// If `old` is greater than `new`.
pub fn consistency<N: Nodes>(nodes: &N, old: u64, new: u64) -> Result<Vec<Hash>, N::Error> {
    assert!(old <= new, "{old} leaves before {new}");
    let mut proof = Vec::new();
    if old == 0 || old == new {
        return Ok(proof);
    }
    let (mut start, mut end) = (0, new);
    // Down to the subtree that ends where the old tree did; whether that is the whole old tree, whose
    // root the verifier has, is told by `start`.
    while end > old {
        let middle = start + split(end - start);
        if old <= middle {
            proof.push(root_between(nodes, middle, end)?);
            end = middle;
        } else {
            proof.push(root_between(nodes, start, middle)?);
            start = middle;
        }
    }
    if start > 0 {
        proof.push(root_between(nodes, start, end)?);
    }
    proof.reverse();
    Ok(proof)
}

/// What stands on both sides of some leaves in a row: with their hashes, the root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeProof {
    /// The roots of the subtrees to their left, from left to right.
    pub before: Vec<Hash>,
    /// The roots of the subtrees to their right, from left to right.
    pub after: Vec<Hash>,
}

/// The proof that the leaves `start..end` stand there in the tree of `size` leaves.
///
/// # Errors
/// As the nodes have it.
///
/// # Panics
/// If the range is empty or not within the tree.
pub fn range<N: Nodes>(nodes: &N, start: u64, end: u64, size: u64) -> Result<RangeProof, N::Error> {
    assert!(start < end && end <= size, "leaves {start}..{end} of {size}");
    let mut proof = RangeProof::default();
    let mut open = vec![(0, size)];
    while let Some((low, high)) = open.pop() {
        if high <= start {
            proof.before.push(root_between(nodes, low, high)?);
        } else if low >= end {
            proof.after.push(root_between(nodes, low, high)?);
        } else if low < start || high > end {
            let middle = low + split(high - low);
            open.extend([(middle, high), (low, middle)]);
        }
    }
    Ok(proof)
}

/// Why a proof does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// It is about leaves that the tree does not have.
    #[error("the proof is about leaf {index}, but the tree has {size} leaves")]
    OutOfRange {
        /// The leaf.
        index: u64,
        /// The leaves of the tree.
        size: u64,
    },
    /// The newer tree is smaller than the older one.
    #[error("the newer tree has {new} leaves, fewer than the older one's {old}")]
    Shrunk {
        /// The leaves of the older tree.
        old: u64,
        /// The leaves of the newer tree.
        new: u64,
    },
    /// It has more hashes than it may have.
    #[error("the proof has {have} hashes, more than the {need} that belong to it")]
    Surplus {
        /// The hashes that it has.
        have: usize,
        /// The hashes that it should have.
        need: usize,
    },
    /// It lacks hashes.
    #[error("the proof has {have} hashes, fewer than the {need} that belong to it")]
    TooShort {
        /// The hashes that it has.
        have: usize,
        /// The hashes that it should have.
        need: usize,
    },
    /// It leads to another root.
    #[error("the proof leads to another root than the checkpoint's")]
    WrongRoot,
    /// It leads to another root of the older tree.
    #[error("the proof leads to another root of the older tree: the two are not of one history")]
    WrongOldRoot,
}

fn check_count(have: usize, need: usize) -> Result<(), ProofError> {
    match have.cmp(&need) {
        std::cmp::Ordering::Less => Err(ProofError::TooShort { have, need }),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(ProofError::Surplus { have, need }),
    }
}

/// The hashes in the inclusion proof of leaf `index`: one for each level on which it has a sibling.
fn inclusion_hashes(index: u64, size: u64) -> usize {
    let (mut node, mut last, mut count) = (index, size - 1, 0);
    while last > 0 {
        count += usize::from(node % 2 == 1 || node != last);
        (node, last) = (node / 2, last / 2);
    }
    count
}

/// Check that `leaf` is number `index` of the tree of `size` leaves with this root (RFC 9162, section
/// 2.1.3.2).
///
/// # Errors
/// [`ProofError`]
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::OutOfRange { index, size });
    }
    check_count(proof.len(), inclusion_hashes(index, size))?;
    let (mut node, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in proof {
        if node % 2 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node % 2 == 0 && node != 0 {
                (node, last) = (node / 2, last / 2);
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        (node, last) = (node / 2, last / 2);
    }
    if hash == *root { Ok(()) } else { Err(ProofError::WrongRoot) }
}

/// Check that the tree of `old` leaves with `old_root` is a prefix of the tree of `new` leaves with
/// `new_root` (RFC 9162, section 2.1.4.2).
///
/// # Errors
/// [`ProofError`]
pub fn verify_consistency(
    (old, old_root): (u64, &Hash),
    (new, new_root): (u64, &Hash),
    proof: &[Hash],
) -> Result<(), ProofError> {
    if old > new {
        return Err(ProofError::Shrunk { old, new });
    }
    if old == new || old == 0 {
        check_count(proof.len(), 0)?;
        return if old == 0 || old_root == new_root { Ok(()) } else { Err(ProofError::WrongOldRoot) };
    }
    let shift = (old - 1).trailing_ones();
    let (mut node, mut last) = ((old - 1) >> shift, (new - 1) >> shift);
    // The first hash is the subtree that ends where the old tree did; the old root itself, if that is all of it.
    let given = usize::from(!old.is_power_of_two());
    check_count(proof.len(), inclusion_hashes(node, last + 1) + given)?;
    let first = if given == 1 { &proof[0] } else { old_root };
    let (mut old_hash, mut new_hash) = (*first, *first);
    for sibling in &proof[given..] {
        if node % 2 == 1 || node == last {
            old_hash = node_hash(sibling, &old_hash);
            new_hash = node_hash(sibling, &new_hash);
            while node % 2 == 0 && node != 0 {
                (node, last) = (node / 2, last / 2);
            }
        } else {
            new_hash = node_hash(&new_hash, sibling);
        }
        (node, last) = (node / 2, last / 2);
    }
    match (old_hash == *old_root, new_hash == *new_root) {
        (true, true) => Ok(()),
        (false, _) => Err(ProofError::WrongOldRoot),
        (true, false) => Err(ProofError::WrongRoot),
    }
}

/// Check that the leaves with these hashes stand from `start` on in the tree of `size` leaves with
/// this root.
///
/// # Errors
/// [`ProofError`]
pub fn verify_range(leaves: &[Hash], start: u64, size: u64, proof: &RangeProof, root: &Hash) -> Result<(), ProofError> {
    let end = start.saturating_add(leaves.len() as u64);
    if leaves.is_empty() || end > size {
        return Err(ProofError::OutOfRange { index: end.max(1) - 1, size });
    }
    let (before, after) = (subtrees_outside(0, start, size), subtrees_outside(end, size, size));
    check_count(proof.before.len() + proof.after.len(), before + after)?;
    check_count(proof.before.len(), before)?;
    let mut rebuilt = Rebuilt { leaves, start, end, before: proof.before.iter(), after: proof.after.iter() };
    if rebuilt.root(0, size) == Some(*root) { Ok(()) } else { Err(ProofError::WrongRoot) }
}

/// How many subtrees of the tree of `size` leaves cover `low..high`, which reaches one of its ends.
fn subtrees_outside(low: u64, high: u64, size: u64) -> usize {
    let (mut count, mut open) = (0, vec![(0, size)]);
    while let Some((from, to)) = open.pop() {
        if low <= from && to <= high {
            count += usize::from(from < to);
        } else if from < high && low < to {
            let middle = from + split(to - from);
            open.extend([(middle, to), (from, middle)]);
        }
    }
    count
}

/// A tree put together again from leaves and what stands beside them.
struct Rebuilt<'a> {
    leaves: &'a [Hash],
    start: u64,
    end: u64,
    before: std::slice::Iter<'a, Hash>,
    after: std::slice::Iter<'a, Hash>,
}

impl Rebuilt<'_> {
    /// Recursion is at most 64 deep, as each step halves the leaves.
    fn root(&mut self, low: u64, high: u64) -> Option<Hash> {
        if high <= self.start {
            return self.before.next().copied();
        }
        if low >= self.end {
            return self.after.next().copied();
        }
        if high - low == 1 {
            return self.leaves.get(usize::try_from(low - self.start).ok()?).copied();
        }
        let middle = low + split(high - low);
        let left = self.root(low, middle)?;
        Some(node_hash(&left, &self.root(middle, high)?))
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "trees of some hundred leaves")]
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

        #[test]
        fn what_is_proved_holds_and_nothing_else_does(count in 1_u64..200, a in any::<u64>(), b in any::<u64>()) {
            let leaves = Leaves((0..count).map(|index| leaf_hash(&index.to_le_bytes())).collect());
            let size = 1 + a % count;
            let (index, tree) = (b % size, root(&leaves, size).unwrap());
            prop_assert_eq!(tree, naive(&leaves.0[..size as usize]));

            let proof = inclusion(&leaves, index, size).unwrap();
            let leaf = leaves.0[index as usize];
            prop_assert_eq!(verify_inclusion(&leaf, index, size, &proof, &tree), Ok(()));
            prop_assert!(verify_inclusion(&[1; 32], index, size, &proof, &tree).is_err());
            prop_assert!(size == 1 || verify_inclusion(&leaf, (index + 1) % size, size, &proof, &tree).is_err());
            let more = [proof.as_slice(), &[[0; 32]]].concat();
            let surplus = matches!(verify_inclusion(&leaf, index, size, &more, &tree), Err(ProofError::Surplus { .. }));
            prop_assert!(surplus);
            if let Some(shorter) = proof.split_last() {
                let short = matches!(verify_inclusion(&leaf, index, size, shorter.1, &tree), Err(ProofError::TooShort { .. }));
                prop_assert!(short);
            }

            let whole = root(&leaves, count).unwrap();
            let proof = consistency(&leaves, size, count).unwrap();
            prop_assert_eq!(verify_consistency((size, &tree), (count, &whole), &proof), Ok(()));
            let more = [proof.as_slice(), &[[0; 32]]].concat();
            prop_assert!(verify_consistency((size, &tree), (count, &whole), &more).is_err());
            prop_assert!(verify_consistency((size, &[7; 32]), (count, &whole), &proof).is_err());
            prop_assert!(verify_consistency((size, &tree), (count, &[7; 32]), &proof).is_err());

            let end = index + 1 + a % (size - index);
            let proof = range(&leaves, index, end, size).unwrap();
            let within = &leaves.0[index as usize..end as usize];
            prop_assert_eq!(verify_range(within, index, size, &proof, &tree), Ok(()));
            let mut moved = proof.clone();
            moved.after.push([0; 32]);
            prop_assert!(verify_range(within, index, size, &moved, &tree).is_err());
            let mut other = within.to_vec();
            other[0] = [9; 32];
            prop_assert!(verify_range(&other, index, size, &proof, &tree).is_err());
        }
    }

    struct Leaves(Vec<Hash>);

    impl Nodes for Leaves {
        type Error = std::convert::Infallible;

        fn node(&self, level: u32, index: u64) -> Result<Hash, Self::Error> {
            let (from, count) = ((index << level) as usize, 1 << level);
            Ok(naive(&self.0[from..from + count]))
        }
    }
}
