//! A client of a tlog, written from the specifications alone: C2SP tlog-tiles, tlog-checkpoint and signed-note, RFC 6962.
//! It shares no code with Gavel, and is as simple as it is slow.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use gavel_tests::{Response, Server};
use sha2::{Digest, Sha256};

pub(crate) type Hash = [u8; 32];

pub(crate) fn leaf(entry: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(entry).finalize().into()
}

pub(crate) fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// RFC 6962, section 2.1, word for word.
pub(crate) fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Sha256::digest([]).into(),
        [one] => *one,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            node(&root(left), &root(right))
        }
    }
}

/// A public key as C2SP writes it.
#[derive(Clone)]
pub(crate) struct Key {
    pub(crate) name: String,
    pub(crate) id: [u8; 4],
    pub(crate) public: VerifyingKey,
}

impl Key {
    pub(crate) fn read(vkey: &str) -> Self {
        let parts: Vec<&str> = vkey.splitn(3, '+').collect();
        let bytes = STANDARD.decode(parts[2]).unwrap();
        assert_eq!((bytes.len(), bytes[0]), (33, 1), "an Ed25519 key");
        let key = Self::new(parts[0], &bytes);
        assert_eq!(format!("{:08x}", u32::from_be_bytes(key.id)), parts[1]);
        key
    }

    /// `typed` is the type's byte, then the public key.
    pub(crate) fn new(name: &str, typed: &[u8]) -> Self {
        let hash = Sha256::new().chain_update(name).chain_update("\n").chain_update(typed).finalize();
        let public = VerifyingKey::from_bytes(&typed[1..].try_into().unwrap()).unwrap();
        Self { name: name.to_owned(), id: hash[..4].try_into().unwrap(), public }
    }

    /// What this key put under a note, without its id.
    pub(crate) fn signature(&self, note: &str) -> Option<Vec<u8>> {
        let (_, signatures) = note.rsplit_once("\n\n").expect("a note has an empty line");
        signatures.lines().find_map(|line| {
            let (name, signature) = line.strip_prefix("\u{2014} ").unwrap().split_once(' ').unwrap();
            let bytes = STANDARD.decode(signature).unwrap();
            (name == self.name && bytes[..4] == self.id).then(|| bytes[4..].to_vec())
        })
    }

    /// The text of a note that this key signed.
    pub(crate) fn verified<'a>(&self, note: &'a str) -> Option<&'a str> {
        let text = &note[..=note.rfind("\n\n")?];
        let signature = Signature::from_slice(&self.signature(note)?).ok()?;
        self.public.verify_strict(text.as_bytes(), &signature).ok()?;
        Some(text)
    }
}

/// What a checkpoint says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) origin: String,
    pub(crate) size: u64,
    pub(crate) root: Hash,
}

impl Checkpoint {
    pub(crate) fn read(text: &str) -> Self {
        let lines: Vec<&str> = text.lines().collect();
        let root = STANDARD.decode(lines[2]).unwrap().try_into().unwrap();
        Self { origin: lines[0].into(), size: lines[1].parse().unwrap(), root }
    }
}

/// A log behind a prefix.
pub(crate) struct Log<'a> {
    pub(crate) server: &'a Server,
    pub(crate) prefix: &'static str,
    pub(crate) key: Key,
}

impl Log<'_> {
    pub(crate) fn get(&self, path: &str) -> Response {
        self.server.get(&format!("{}{path}", self.prefix))
    }

    /// The latest checkpoint, its signature verified.
    pub(crate) fn checkpoint(&self) -> Checkpoint {
        let answer = self.get("/checkpoint");
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        let note = answer.text();
        let checkpoint = Checkpoint::read(self.key.verified(&note).expect("signed by the log's key"));
        assert_eq!(checkpoint.origin, self.key.name, "the key's name is the origin");
        checkpoint
    }

    /// The nodes of a level of tiles in a tree of `size`, out of full and partial tiles.
    pub(crate) fn level(&self, level: u32, size: u64) -> Vec<Hash> {
        let nodes = size >> (8 * level);
        let mut hashes = Vec::new();
        for tile in 0..nodes.div_ceil(256) {
            let width = (nodes - tile * 256).min(256);
            let answer = self.get(&format!("/tile/{level}/{}", tile_path(tile, width)));
            check_headers(&answer);
            assert_eq!(answer.body.len() as u64, width * 32);
            hashes.extend(answer.body.chunks(32).map(|hash| Hash::try_from(hash).unwrap()));
        }
        hashes
    }

    /// All entries of a log of `size`.
    pub(crate) fn entries(&self, size: u64) -> Vec<Vec<u8>> {
        let mut entries = Vec::new();
        for tile in 0..size.div_ceil(256) {
            let width = (size - tile * 256).min(256);
            let answer = self.get(&format!("/tile/entries/{}", tile_path(tile, width)));
            check_headers(&answer);
            let bundle = unbundled(&answer.body);
            assert_eq!(bundle.len() as u64, width);
            entries.extend(bundle);
        }
        entries
    }
}

pub(crate) fn unbundled(mut bundle: &[u8]) -> Vec<Vec<u8>> {
    let mut entries = Vec::new();
    while let [high, low, rest @ ..] = bundle {
        let (entry, rest) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        entries.push(entry.to_vec());
        bundle = rest;
    }
    assert!(bundle.is_empty());
    entries
}

pub(crate) fn tile_path(tile: u64, width: u64) -> String {
    let mut path = format!("{:03}", tile % 1_000);
    let mut rest = tile / 1_000;
    while rest > 0 {
        path = format!("x{:03}/{path}", rest % 1_000);
        rest /= 1_000;
    }
    if width == 256 { path } else { format!("{path}.p/{width}") }
}

fn check_headers(answer: &Response) {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
    assert!(answer.header("cache-control").is_some_and(|caching| caching.contains("immutable")), "{answer:?}");
}

/// RFC 9162, section 2.1.4.2: whether a tree of `old` leaves with `old_root` is the beginning of another.
pub(crate) fn is_consistent((old, old_root): (u64, Hash), (new, new_root): (u64, Hash), proof: &[Hash]) -> bool {
    if old == new {
        return proof.is_empty() && old_root == new_root;
    }
    let mut path = proof.to_vec();
    if old.is_power_of_two() {
        path.insert(0, old_root);
    }
    let Some((first, rest)) = path.split_first() else { return false };
    let (mut fr, mut sr) = (*first, *first);
    let (mut fnode, mut snode) = (old - 1, new - 1);
    while fnode & 1 == 1 {
        (fnode, snode) = (fnode >> 1, snode >> 1);
    }
    for hash in rest {
        if snode == 0 {
            return false;
        }
        if fnode & 1 == 1 || fnode == snode {
            (fr, sr) = (node(hash, &fr), node(hash, &sr));
            while fnode & 1 == 0 && fnode != 0 {
                (fnode, snode) = (fnode >> 1, snode >> 1);
            }
        } else {
            sr = node(&sr, hash);
        }
        (fnode, snode) = (fnode >> 1, snode >> 1);
    }
    fr == old_root && sr == new_root && snode == 0
}
