//! What an auditor is handed: signed notes, keys, and the proofs of the tree.
//!
//! The oracles know a small tree and a key. Whatever verifies against a root of that tree, or by that key, must be what
//! the tree holds and what the key signed.

use crate::Target;
use gavel_proof::note::{Checkpoint, CheckpointKey, Note, VerifyingKey};
use gavel_proof::tree::{
    self, Hash, Nodes, RangeProof, leaf_hash, node_hash, verify_consistency, verify_inclusion, verify_range,
};
use sha2::{Digest, Sha256};
use std::convert::Infallible;

const ORIGIN: &str = "gavel/k-1/00ff";
/// Leaves of the tree: some full subtrees and some not.
const LEAVES: u64 = 23;
const HASH_BYTES: usize = 32;

/// A signed checkpoint.
pub const NOTE: Target = Target {
    name: "note",
    seeds: notes,
    words: &["\n\n", "\u{2014} ", "\n", "gavel/k-1/00ff", "+", "=", "AAAA", "\u{2003}", "\t", "\r"],
    run: note,
    cost: 4,
};

/// A public key as it is written down.
pub const KEY: Target =
    Target { name: "key", seeds: keys, words: &["+", "=", "\u{2003}", "0", "A", "a"], run: key, cost: 4 };

/// A proof that a leaf is in the tree.
pub const INCLUSION: Target = Target { name: "inclusion", seeds: inclusions, words: &[], run: inclusion, cost: 1 };

/// A proof that a tree is the beginning of another.
pub const CONSISTENCY: Target =
    Target { name: "consistency", seeds: consistencies, words: &[], run: consistency, cost: 1 };

/// A proof that leaves in a row are in the tree.
pub const RANGE: Target = Target { name: "range", seeds: ranges, words: &[], run: range, cost: 1 };

fn secret(number: u8) -> CheckpointKey {
    CheckpointKey::from_seed(&[number; 32])
}

fn checkpoints() -> Vec<Checkpoint> {
    [0, 1, 7, LEAVES].map(|size| Checkpoint { origin: ORIGIN.into(), size, root: root_of(size) }).to_vec()
}

fn notes() -> Vec<Vec<u8>> {
    let (one, other) = (secret(1), secret(2));
    let signed = checkpoints().into_iter().flat_map(|checkpoint| {
        [vec![&one], vec![&one, &other], vec![&other]].map(|keys| checkpoint.sign(&keys).into_bytes())
    });
    signed.collect()
}

fn note(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(note) = Note::parse(text) else { return };
    assert!(text.starts_with(note.text) && note.text.ends_with('\n'));
    assert!(!note.signatures.is_empty(), "a signed note is signed");
    if let Ok(checkpoint) = note.checkpoint() {
        assert!(note.text.starts_with(&checkpoint.body()), "a checkpoint has one writing");
    }
    if note.verify(&secret(1).verifying(ORIGIN)).is_ok() {
        let signed = checkpoints().iter().any(|checkpoint| checkpoint.body() == note.text);
        assert!(signed, "the key never signed this: {:?}", note.text);
    }
}

fn keys() -> Vec<Vec<u8>> {
    let written = |number, name| secret(number).verifying(name).to_string().into_bytes();
    vec![written(1, ORIGIN), written(2, "x"), written(3, "a b"), written(4, "a+b")]
}

fn key(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(key) = text.parse::<VerifyingKey>() else { return };
    assert_eq!(key.to_string(), text.trim(), "a key has one writing");
    assert_eq!(VerifyingKey::new(key.name(), &key.public()), Ok(key));
}

// --- the tree, in the plainest way ---

struct Leaves(Vec<Hash>);

impl Nodes for Leaves {
    type Error = Infallible;

    fn node(&self, level: u32, index: u64) -> Result<Hash, Infallible> {
        let (from, to) = (index << level, (index + 1) << level);
        Ok(naive_root(&self.0[usize::try_from(from).unwrap()..usize::try_from(to).unwrap()]))
    }
}

/// The definition of RFC 6962, word for word.
pub(crate) fn naive_root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Sha256::digest([]).into(),
        [leaf] => *leaf,
        _ => {
            let mut split = 1;
            while split * 2 < leaves.len() {
                split *= 2;
            }
            node_hash(&naive_root(&leaves[..split]), &naive_root(&leaves[split..]))
        }
    }
}

fn leaves() -> Leaves {
    Leaves((0..LEAVES).map(|number| leaf_hash(&number.to_le_bytes())).collect())
}

fn root_of(size: u64) -> Hash {
    naive_root(&leaves().0[..usize::try_from(size).unwrap()])
}

/// Inputs are numbers of 8 bytes, then hashes.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    /// A root: after one byte, which says whether it is the right one of a tree of `size`, or any.
    fn root(&mut self, size: u64) -> Option<Hash> {
        match self.take::<1>()? {
            [0] if size <= LEAVES => Some(root_of(size)),
            _ => self.take(),
        }
    }

    fn hashes(&mut self) -> Vec<Hash> {
        std::iter::from_fn(|| self.take::<HASH_BYTES>()).collect()
    }
}

fn written(numbers: &[u64], parts: &[&[u8]]) -> Vec<u8> {
    let numbers = numbers.iter().flat_map(|number| number.to_le_bytes());
    numbers.chain(parts.concat()).collect()
}

/// Sizes at which the tree looks different.
const SIZES: [u64; 6] = [1, 2, 8, 13, 16, LEAVES];

fn inclusions() -> Vec<Vec<u8>> {
    let tree = leaves();
    let one = |index: u64, size: u64| {
        let Ok(proof) = tree::inclusion(&tree, index, size);
        written(&[index, size], &[&[0], &tree.0[usize::try_from(index).unwrap()], &proof.concat()])
    };
    SIZES.into_iter().flat_map(|size| [one(0, size), one(size / 2, size), one(size - 1, size)]).collect()
}

fn inclusion(input: &[u8]) {
    let mut reader = Reader(input);
    let (Some(index), Some(size)) = (reader.number(), reader.number()) else { return };
    let (Some(root), Some(leaf)) = (reader.root(size), reader.take()) else { return };
    let proof = reader.hashes();
    let verified = verify_inclusion(&leaf, index, size, &proof, &root);
    if verified.is_ok() && size <= LEAVES && root == root_of(size) {
        assert_eq!(leaf, leaves().0[usize::try_from(index).unwrap()], "leaf {index} of {size} is another");
        let Ok(expected) = tree::inclusion(&leaves(), index, size);
        assert_eq!(proof, expected, "there is one proof");
    }
}

fn consistencies() -> Vec<Vec<u8>> {
    let tree = leaves();
    let one = |old: u64, new: u64| {
        let Ok(proof) = tree::consistency(&tree, old, new);
        written(&[old, new], &[&[1], &root_of(old), &[0], &proof.concat()])
    };
    let pairs = SIZES.into_iter().flat_map(|new| [1, 2, 7, 8, new].map(|old| (old.min(new), new)));
    pairs.map(|(old, new)| one(old, new)).collect()
}

fn consistency(input: &[u8]) {
    let mut reader = Reader(input);
    let (Some(old), Some(new)) = (reader.number(), reader.number()) else { return };
    let (Some(old_root), Some(new_root)) = (reader.root(old), reader.root(new)) else { return };
    let proof = reader.hashes();
    let verified = verify_consistency((old, &old_root), (new, &new_root), &proof);
    if verified.is_ok() && (1..=LEAVES).contains(&new) && new_root == root_of(new) && old > 0 {
        assert_eq!(old_root, root_of(old), "the tree of {old} leaves is another");
    }
}

fn ranges() -> Vec<Vec<u8>> {
    let tree = leaves();
    let one = |start: u64, end: u64, size: u64| {
        let Ok(RangeProof { before, after }) = tree::range(&tree, start, end, size);
        let within = &tree.0[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()];
        let counts = [start, size, end - start, before.len() as u64];
        written(&counts, &[&[0], &within.concat(), &before.concat(), &after.concat()])
    };
    let thirds = |size: u64| [(0, size), (size / 3, size / 3 + 1), (size / 2, size), (0, size / 2 + 1)];
    SIZES.into_iter().flat_map(|size| thirds(size).map(|(start, end)| one(start, end, size))).collect()
}

fn range(input: &[u8]) {
    let mut reader = Reader(input);
    let (Some(start), Some(size), Some(count), Some(before)) =
        (reader.number(), reader.number(), reader.number(), reader.number())
    else {
        return;
    };
    let Some(root) = reader.root(size) else { return };
    let mut hashes = reader.hashes();
    let mut take = |count: u64| {
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(hashes.len());
        hashes.drain(..count).collect::<Vec<_>>()
    };
    let (within, before) = (take(count), take(before));
    let proof = RangeProof { before, after: hashes };
    let verified = verify_range(&within, start, size, &proof, &root);
    if verified.is_ok() && size <= LEAVES && root == root_of(size) {
        let start = usize::try_from(start).unwrap();
        assert_eq!(within, leaves().0[start..start + within.len()], "other leaves from {start} on");
    }
}
