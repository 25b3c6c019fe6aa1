//! The tree against two others: the definition in RFC 6962, word for word, and `ct-merkle`, written by people who
//! never saw this one. Roots and proofs must be the same bytes, and each must accept what the other made.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use gavel_proof::Hash;
use gavel_proof::tree::{self, Nodes, leaf_hash, node_hash};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};
use std::convert::Infallible;

/// `MTH` of section 2.1.
fn definition(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Sha256::digest([]).into(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            node_hash(&definition(left), &definition(right))
        }
    }
}

/// `PATH` of section 2.1.1.
fn path(index: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() <= 1 {
        return vec![];
    }
    let split = leaves.len().next_power_of_two() / 2;
    let (left, right) = leaves.split_at(split);
    let (mut proof, sibling) = match index.checked_sub(split) {
        None => (path(index, left), definition(right)),
        Some(index) => (path(index, right), definition(left)),
    };
    proof.push(sibling);
    proof
}

/// `SUBPROOF` of section 2.1.2.
fn subproof(old: usize, leaves: &[Hash], whole: bool) -> Vec<Hash> {
    if old == leaves.len() {
        return if whole { vec![] } else { vec![definition(leaves)] };
    }
    let split = leaves.len().next_power_of_two() / 2;
    let (left, right) = leaves.split_at(split);
    let (mut proof, sibling) = match old.checked_sub(split) {
        None | Some(0) => (subproof(old, left, whole), definition(right)),
        Some(old) => (subproof(old, right, false), definition(left)),
    };
    proof.push(sibling);
    proof
}

struct Leaves(Vec<Hash>);

impl Nodes for Leaves {
    type Error = Infallible;

    fn node(&self, level: u32, index: u64) -> Result<Hash, Infallible> {
        let (first, count) = (usize::try_from(index << level).unwrap(), 1 << level);
        Ok(definition(&self.0[first..first + count]))
    }
}

fn joined(proof: &[Hash]) -> Vec<u8> {
    proof.concat()
}

proptest! {
    #[test]
    fn roots_and_proofs_are_those_of_the_others(
        records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..130),
        (at, before) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
    ) {
        let leaves = Leaves(records.iter().map(|record| leaf_hash(record)).collect());
        let mut other = MemoryBackedTree::<Sha256, Vec<u8>>::new();
        let mut roots = vec![];
        for record in &records {
            other.push(record.clone());
            roots.push(other.root());
        }
        let (count, index) = (records.len(), at.index(records.len()));
        let size = count as u64;
        let Ok(root) = tree::root(&leaves, size);
        prop_assert_eq!(root, definition(&leaves.0));
        prop_assert_eq!(root.to_vec(), other.root().as_bytes().to_vec());

        let Ok(proof) = tree::inclusion(&leaves, index as u64, size);
        prop_assert_eq!(&proof, &path(index, &leaves.0));
        let theirs = other.prove_inclusion(index);
        prop_assert_eq!(joined(&proof), theirs.as_bytes());
        prop_assert!(other.root().verify_inclusion(&records[index], index as u64, &theirs).is_ok());
        prop_assert_eq!(tree::verify_inclusion(&leaves.0[index], index as u64, size, &proof, &root), Ok(()));

        let old = before.index(count) + 1;
        let Ok(proof) = tree::consistency(&leaves, old as u64, size);
        prop_assert_eq!(&proof, &subproof(old, &leaves.0, true));
        if old < count {
            let theirs = other.prove_consistency(count - old);
            prop_assert_eq!(joined(&proof), theirs.as_bytes());
            prop_assert!(other.root().verify_consistency(&roots[old - 1], &theirs).is_ok());
        }
        let old_root = definition(&leaves.0[..old]);
        prop_assert_eq!(tree::verify_consistency((old as u64, &old_root), (size, &root), &proof), Ok(()));
    }
}
