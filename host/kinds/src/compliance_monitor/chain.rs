//! Whether the history of a ledger is still the one that was seen: its checkpoint against the last one that was kept.
//!
//! The proof is verified here, with the code that auditors use. The key that signed is the one that was seen first, and
//! those that it handed over to: a history that is signed by another is not the same one.

use crate::following::{Origin, Source};
use crate::peers::{PeerError, Peers};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gavel_proof::Hash;
use gavel_proof::hash::{HexHash, from_hex};
use gavel_proof::note::Note;
use gavel_proof::report::Outcome;
use gavel_proof::tree::verify_consistency;
use gavel_proof::trust::TrustedKey;
use gavel_proof::verify::Verifier;
use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A checkpoint that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The signed note, if it came as one.
    pub(super) note: Option<String>,
    pub(super) size: u64,
    /// In hexadecimal digits.
    pub(super) root: String,
    /// The key that signed what was verified first.
    pub(super) key: Option<String>,
}

/// What a check came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Checked {
    /// The history goes on from the one that was seen; this is to be kept.
    Holds(Kept),
    /// The ledger has no checkpoint: nothing can be said.
    NotCovered(String),
    /// It is another history. From now on this one is compared.
    Rewritten(String, Kept),
}

/// Ask for the latest checkpoint of a ledger, and compare.
pub(super) async fn check(peers: &Peers, source: &Source, kept: Option<&Kept>) -> Result<Checked, String> {
    let latest = match peers.text(Method::GET, &source.checkpoint(), None).await {
        Ok(answer) => checkpoint(&answer)?,
        Err(PeerError::Refused { status: 404, message, .. }) => return Ok(Checked::NotCovered(message)),
        Err(why) => return Err(why.to_string()),
    };
    is_of(source, &latest)?;
    let Some(kept) = kept else { return Ok(Checked::Holds(latest)) };
    let latest = Kept { key: kept.key.clone(), ..latest };
    let was = format!("the checkpoint seen before is of {} records with the root {}", kept.size, kept.root);
    let rewritten = |why: String| Ok(Checked::Rewritten(format!("{why}; {was}"), Kept { key: None, ..latest.clone() }));
    if latest.size < kept.size {
        return rewritten(format!("the ledger has {} records", latest.size));
    }
    if latest.size == kept.size {
        if latest.root == kept.root {
            return Ok(Checked::Holds(latest));
        }
        return rewritten(format!("the root is now {}", latest.root));
    }
    if kept.size == 0 {
        return Ok(Checked::Holds(latest));
    }
    let path = source.consistency(kept.size, latest.size);
    match peers.text(Method::GET, &path, None).await {
        Ok(answer) => {
            let answer = std::str::from_utf8(&answer).map_err(|why| format!("{path}: no text: {why}"))?;
            match verified(source, kept, &latest, answer) {
                Ok(kept) => Ok(Checked::Holds(kept)),
                Err(Unproved::Unreadable(why)) => Err(format!("{path}: {why}")),
                Err(Unproved::Otherwise(why)) => rewritten(why),
            }
        }
        // The ledger itself says that the old checkpoint is none of its beginnings.
        Err(PeerError::Refused { status: 422, message, .. }) => rewritten(message),
        Err(why) => Err(why.to_string()),
    }
}

/// Whether a checkpoint is of the ledger that was asked for: a kernel that was replaced by another may have had the very id
/// that is the name of both.
fn is_of(source: &Source, seen: &Kept) -> Result<(), String> {
    let (Origin::Kernel(id), Some(note)) = (&source.origin, &seen.note) else { return Ok(()) };
    let origin = Note::parse(note).and_then(|parsed| parsed.checkpoint()).map(|checkpoint| checkpoint.origin);
    let origin = origin.map_err(|why| format!("the checkpoint: {why}"))?;
    let said = origin.strip_prefix("gavel/").and_then(|rest| rest.rsplit_once('/')).map(|(said, _)| said);
    if said == Some(id.as_str()) {
        return Ok(());
    }
    Err(format!("the checkpoint is of {origin}: kernel {id} was replaced"))
}

/// Why a proof proves nothing.
enum Unproved {
    /// It is not read as one.
    Unreadable(String),
    /// It proves that the history is another, or that somebody else signed it.
    Otherwise(String),
}

fn verified(source: &Source, kept: &Kept, latest: &Kept, answer: &str) -> Result<Kept, Unproved> {
    let unreadable = |why: &str| Unproved::Unreadable(why.to_owned());
    let value: Value = serde_json::from_str(answer).map_err(|why| Unproved::Unreadable(why.to_string()))?;
    if let (Origin::Kernel(id), Some(said)) = (&source.origin, value["kernel_id"].as_str())
        && said != id
    {
        return Err(Unproved::Unreadable(format!("kernel {said} answers: kernel {id} was replaced")));
    }
    if let (Some(note), true) = (&kept.note, value["format"] == "gavel-consistency/1") {
        return file(kept, note, &value, answer);
    }
    if matches!(source.origin, Origin::Kernel(_)) {
        return Err(unreadable("it is no consistency file"));
    }
    let list = ["consistency", "hashes", "proof"].into_iter().find_map(|name| value[name].as_array());
    let hashes = list.and_then(|list| list.iter().map(|hash| read_hash(hash.as_str()?)).collect::<Option<Vec<Hash>>>());
    let hashes = hashes.ok_or_else(|| unreadable("it has no list of hashes"))?;
    let roots = read_hash(&kept.root).zip(read_hash(&latest.root));
    let (old, new) = roots.ok_or_else(|| unreadable("a root is no hash"))?;
    verify_consistency((kept.size, &old), (latest.size, &new), &hashes)
        .map(|()| latest.clone())
        .map_err(|why| Unproved::Otherwise(why.to_string()))
}

/// A consistency file, completed by the checkpoint that was kept.
fn file(kept: &Kept, note: &str, value: &Value, answer: &str) -> Result<Kept, Unproved> {
    let trusted = kept.key.as_ref().and_then(|key| key.parse().ok()).map(TrustedKey::Named);
    let rest = answer.trim_start().strip_prefix('{').unwrap_or_default();
    let mut verifier = Verifier::new(trusted);
    // As text: written anew, the records in it would not be what was signed.
    verifier.push(format!("{{\"old\":{},{rest}", json!(note)).as_bytes());
    let report = verifier.finish();
    let Some(why) = report.error else {
        let new = value["new"].as_str().unwrap_or_default();
        let seen = noted(new).map_err(Unproved::Unreadable)?;
        let key = kept.key.clone().or_else(|| value["key"].as_str().map(str::to_owned));
        return Ok(Kept { key, ..seen });
    };
    // A file that is not one says nothing of the ledger.
    let is_a_file = report.checks.iter().any(|check| check.name == "form" && check.outcome == Outcome::Holds);
    Err(if is_a_file { Unproved::Otherwise(why) } else { Unproved::Unreadable(why) })
}

/// A checkpoint, as a signed note or as JSON.
fn checkpoint(answer: &[u8]) -> Result<Kept, String> {
    let text = std::str::from_utf8(answer).map_err(|why| format!("the checkpoint is no text: {why}"))?;
    let Ok(value) = serde_json::from_str::<Value>(text) else { return noted(text) };
    if let Some(note) = ["note", "checkpoint"].into_iter().find_map(|name| value[name].as_str()) {
        return noted(note);
    }
    let root = value["root"].as_str().and_then(read_hash).ok_or("the checkpoint has no root")?;
    let size = value["size"].as_u64().ok_or("the checkpoint has no size")?;
    Ok(Kept { note: None, size, root: HexHash::of(&root).as_str().to_owned(), key: None })
}

fn noted(note: &str) -> Result<Kept, String> {
    let read =
        Note::parse(note).and_then(|parsed| parsed.checkpoint()).map_err(|why| format!("the checkpoint: {why}"))?;
    let root = HexHash::of(&read.root).as_str().to_owned();
    Ok(Kept { note: Some(note.to_owned()), size: read.size, root, key: None })
}

/// A hash in hexadecimal digits or in base64.
fn read_hash(text: &str) -> Option<Hash> {
    from_hex(text).or_else(|| Hash::try_from(STANDARD.decode(text).ok()?).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::following::trial::Leaves;
    use gavel_proof::tree::{Frontier, consistency, leaf_hash};

    fn leaves(texts: &[&str]) -> Leaves {
        Leaves(texts.iter().map(|text| leaf_hash(text.as_bytes())).collect())
    }

    fn kept(leaves: &Leaves) -> Kept {
        let mut tree = Frontier::new();
        leaves.0.iter().for_each(|leaf| tree.push(*leaf));
        let root = HexHash::of(&tree.root()).as_str().to_owned();
        checkpoint(json!({"size": tree.size(), "root": root}).to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_checkpoint_of_another_kernel_is_no_rewritten_history() {
        let note = leaves(&["a"]).note("k-2");
        let seen = noted(&note).unwrap();
        is_of(&Source::kernel("k-2"), &seen).unwrap();
        let why = is_of(&Source::kernel("k"), &seen).unwrap_err();
        assert!(why.contains("gavel/k-2/00ff: kernel k was replaced"), "{why}");
    }

    #[test]
    fn a_plain_list_of_hashes_is_a_proof() {
        let (old, new, other) =
            (leaves(&["a", "b", "c"]), leaves(&["a", "b", "c", "d", "e"]), leaves(&["a", "x", "c", "d", "e"]));
        let answer = |leaves: &Leaves, hex: bool| {
            let Ok(hashes) = consistency(leaves, 3, 5);
            let written = |hash| if hex { HexHash::of(hash).as_str().to_owned() } else { STANDARD.encode(hash) };
            json!({"hashes": hashes.iter().map(written).collect::<Vec<_>>()}).to_string()
        };
        for hex in [true, false] {
            assert!(verified(&Source::log(), &kept(&old), &kept(&new), &answer(&new, hex)).is_ok());
            let forged = verified(&Source::log(), &kept(&old), &kept(&other), &answer(&other, hex));
            assert!(matches!(forged, Err(Unproved::Otherwise(_))));
        }
        let empty = verified(&Source::log(), &kept(&old), &kept(&new), "{}");
        assert!(matches!(empty, Err(Unproved::Unreadable(_))));
    }
}
