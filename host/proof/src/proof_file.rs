//! The file of `gavel prove`: some records, each with the proof that it is in the log.
//!
//! It is a JSON object that needs nothing beside it but a key:
//!
//! ```text
//! {"format":"gavel-proof/1","kernel_id":K,"request_id":R,"key":VKEY,
//!  "proofs":[{"record":{…},"proof":TLOG_PROOF},…],"rotations":[{"record":{…},"proof":TLOG_PROOF},…]}
//! ```
//!
//! A proof is the text of C2SP's tlog-proof, the checkpoint in it: any program that reads those can
//! verify it against the leaf, which is the record's bytes.

use crate::hash::Hash;
use crate::json;
use crate::note::{Checkpoint, Note, VerifyingKey};
use crate::record::{Kind, RecordView, entry_hash};
use crate::report::{EvidenceError, Report, Row};
use crate::tree::{leaf_hash, verify_inclusion};
use crate::trust::{Keys, Signed, check_origin, report_signature};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;
use std::str::FromStr;

/// What `format` says in a proof file of this version.
pub const FORMAT: &str = "gavel-proof/1";
/// The most records of one proof file.
pub const PROOFS_MAX: usize = 4096;

/// The first line of a tlog-proof.
const TLOG_PROOF: &str = "c2sp.org/tlog-proof@v1";

/// A proof that one leaf is in the tree of a checkpoint, as C2SP's tlog-proof writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlogProof {
    /// Whatever else is needed to find the leaf; nothing authenticates it, and Gavel writes none.
    pub extra: Option<Vec<u8>>,
    /// The number of the leaf.
    pub index: u64,
    /// The inclusion proof, bottom up.
    pub hashes: Vec<Hash>,
    /// The signed note.
    pub checkpoint: String,
}

impl fmt::Display for TlogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{TLOG_PROOF}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", STANDARD.encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        for hash in &self.hashes {
            writeln!(f, "{}", STANDARD.encode(hash))?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}

impl FromStr for TlogProof {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fault = |what: &str| Err(format!("no tlog-proof: {what}"));
        let Some((head, checkpoint)) = text.split_once("\n\n") else {
            return fault("it has no empty line before its checkpoint");
        };
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(TLOG_PROOF) {
            return fault("its first line is not c2sp.org/tlog-proof@v1");
        }
        let extra = match lines.peek().and_then(|line| line.strip_prefix("extra ")).map(|extra| STANDARD.decode(extra))
        {
            None => None,
            Some(Err(_)) => return fault("its extra data is not base64"),
            Some(Ok(extra)) => {
                lines.next();
                Some(extra)
            }
        };
        let index = lines.next().and_then(|line| line.strip_prefix("index ")).and_then(json::parse_u64);
        let Some(index) = index else { return fault("it has no line `index NUMBER`") };
        let decoded = lines.map(|line| Hash::try_from(STANDARD.decode(line).ok()?).ok());
        let Some(hashes) = decoded.collect() else { return fault("one of its hashes is not 32 bytes in base64") };
        Ok(Self { extra, index, hashes, checkpoint: checkpoint.to_owned() })
    }
}

/// A record with its proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proved {
    /// The record; its bytes are the leaf.
    pub record: RecordView,
    /// That it is in the log.
    pub proof: TlogProof,
}

impl Proved {
    /// Reads `{"record":{…},"proof":"…"}`, without white space between the tokens.
    ///
    /// # Errors
    /// Says what is missing or malformed.
    pub fn parse(text: &str) -> Result<Self, String> {
        json::check_object(text).map_err(|why| format!("byte {} should be {}", why.at, why.what))?;
        let record = json::member(text, "record").ok_or("it has no `record`")?;
        let proof = json::member(text, "proof").and_then(|proof| serde_json::from_str::<String>(proof).ok());
        let proof: TlogProof = proof.ok_or("it has no text `proof`")?.parse()?;
        Ok(Self { record: RecordView::parse(record.to_owned())?, proof })
    }

    /// Checks that the record is the proof's leaf in the tree of `checkpoint`, whose signature is
    /// checked elsewhere.
    ///
    /// # Errors
    /// Says why it is not.
    pub fn verify(&self, checkpoint: &Checkpoint) -> Result<(), String> {
        let (Self { record, proof }, Checkpoint { size, root, .. }) = (self, checkpoint);
        if record.index() != proof.index {
            return Err(format!("its proof is that of record {}", proof.index));
        }
        let leaf = leaf_hash(record.as_str().as_bytes());
        verify_inclusion(&leaf, proof.index, *size, &proof.hashes, root).map_err(|why| why.to_string())
    }

    /// As it stands in a file, without white space.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut out = format!("{{\"record\":{},\"proof\":", self.record.as_str());
        json::push_string(&mut out, &self.proof.to_string());
        out.push('}');
        out
    }
}

/// A whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofFile {
    /// Whose log it is.
    pub kernel_id: String,
    /// The request that the records are about, if they are about one.
    pub request_id: Option<String>,
    /// The key that signed the checkpoints.
    pub key: Option<VerifyingKey>,
    /// The records.
    pub proofs: Vec<Proved>,
    /// The records that replaced the key, oldest first, each in a tree that the key before has signed.
    pub rotations: Vec<Proved>,
}

impl ProofFile {
    /// The file's text: JSON, one proof on each line.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut out = format!("{{\"format\":\"{FORMAT}\"");
        let mut member = |name: &str, text: &str| {
            out.push_str(",\n");
            json::push_string(&mut out, name);
            out.push(':');
            json::push_string(&mut out, text);
        };
        member("kernel_id", &self.kernel_id);
        if let Some(request_id) = &self.request_id {
            member("request_id", request_id);
        }
        if let Some(key) = &self.key {
            member("key", &key.to_string());
        }
        for (name, list) in [("proofs", &self.proofs), ("rotations", &self.rotations)] {
            let list: Vec<_> = list.iter().map(Proved::to_json).collect();
            out.extend([",\n\"", name, "\":[\n", &list.join(",\n"), "\n]"]);
        }
        out.push_str("}\n");
        out
    }
}

/// The request that a record is about, if it says so.
pub(crate) fn request_of(record: &RecordView) -> Option<String> {
    let text = |object: &str| serde_json::from_str::<String>(json::member(object, "request_id")?).ok();
    match record.entry() {
        Some(entry) => text(entry.data),
        None => text(json::member(record.meta(), "request")?),
    }
}

/// The checks of a proof file, in their order.
pub(crate) const CHECKS: [&str; 6] = ["form", "records", "log", "tree", "signature", "key"];

/// A proof file being read.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    pub(crate) format: Option<String>,
    pub(crate) kernel_id: Option<String>,
    pub(crate) request_id: Option<String>,
    pub(crate) has_proofs: bool,
    proofs: Vec<Proved>,
}

impl Reading {
    pub(crate) fn add(&mut self, text: &str) -> Result<(), EvidenceError> {
        let number = self.proofs.len() + 1;
        if number > PROOFS_MAX {
            return Err(EvidenceError::NotAProofFile(format!("it has more than {PROOFS_MAX} proofs")));
        }
        let proved = Proved::parse(text);
        self.proofs
            .push(proved.map_err(|why| EvidenceError::NotAProofFile(format!("proof {number} of `proofs`: {why}")))?);
        Ok(())
    }

    /// Verifies what was read.
    pub(crate) fn finish(&self, keys: &Keys, report: &mut Report) -> Result<(), EvidenceError> {
        let not = |why: String| Err(EvidenceError::NotAProofFile(why));
        match self.format.as_deref() {
            Some(FORMAT) => {}
            Some(other) => return not(format!("its `format` is {other:?}; this version reads {FORMAT:?}")),
            None => return not("`format` is missing".to_owned()),
        }
        if self.proofs.is_empty() {
            return not("it has no proofs".to_owned());
        }
        report.holds("form", "a proof file, read to its end");
        report.rows = self.proofs.iter().map(|proved| row(&proved.record)).collect();
        self.check_records(report)?;
        let signed = self.check_proofs(keys, report)?;
        match signed {
            Some(signed) => report_signature(report, &signed),
            None => {
                report.not_covered("signature", "who signed the checkpoint: the file has no key, and none was given");
            }
        }
        report.not_covered("rest", "all other records of the log, before and after these");
        Ok(())
    }

    fn check_records(&self, report: &mut Report) -> Result<(), EvidenceError> {
        for Proved { record, .. } in &self.proofs {
            let (index, request_id) = (record.index(), request_of(record));
            let fault = |fault: String| EvidenceError::Record { index, request_id: request_id.clone(), fault };
            if let Some(entry) = record.entry() {
                let expected = crate::hash::HexHash::of(&entry_hash(entry.prev_hash, entry.data));
                if expected.as_str() != entry.entry_hash {
                    return Err(fault(format!("its entry_hash is not that of its entry, {}", expected.as_str())));
                }
                report.entries += 1;
            }
            if let (Some(wanted), Some(found)) = (&self.request_id, &request_id) {
                if wanted != found {
                    return Err(fault(format!("the file says that it is about request {wanted:?}")));
                }
            }
            let decided = self.proofs.iter().map(|proved| &proved.record);
            let decided = decided.filter(|other| other.known_kind() == Some(Kind::Decision) && other.entry().is_none());
            let mut open = decided.map(RecordView::index).peekable();
            if let Some(closes) = record.closes().filter(|_| open.peek().is_some()) {
                if !open.any(|decision| decision == closes) {
                    return Err(fault(format!("it closes decision {closes}, which is not in the file")));
                }
            }
        }
        let told: Vec<_> = self.proofs.iter().map(|proved| told(&proved.record)).collect();
        report.holds("records", told.join("; "));
        Ok(())
    }

    /// The latest of the signed checkpoints, if there is a key to check them with.
    fn check_proofs(&self, keys: &Keys, report: &mut Report) -> Result<Option<Signed>, EvidenceError> {
        let mut latest: Option<Signed> = None;
        let mut sizes = Vec::new();
        for Proved { record, proof } in &self.proofs {
            let checkpoint = Note::parse(&proof.checkpoint)?.checkpoint()?;
            let first_leaf = (record.index() == 0).then(|| leaf_hash(record.as_str().as_bytes()));
            check_origin(&checkpoint.origin, self.kernel_id.as_deref(), first_leaf.as_ref())?;
            report.origin = Some(checkpoint.origin.clone());
            sizes.push(checkpoint.size);
        }
        report.holds("log", format!("the checkpoint is of the log {}", report.origin.as_deref().unwrap_or_default()));
        for proved in &self.proofs {
            let checkpoint = Note::parse(&proved.proof.checkpoint)?.checkpoint()?;
            let (index, request_id) = (proved.record.index(), request_of(&proved.record));
            proved.verify(&checkpoint).map_err(|fault| EvidenceError::Unproved { index, request_id, fault })?;
        }
        let size = sizes.into_iter().max().unwrap_or_default();
        let count = self.proofs.len();
        report.holds("tree", format!("all {count} are leaves of the tree of {size} records that the checkpoint signs"));
        for Proved { proof, .. } in &self.proofs {
            if let Some(signed) = keys.check(&proof.checkpoint)? {
                let later = latest.as_ref().is_none_or(|latest| latest.checkpoint.size < signed.checkpoint.size);
                latest = if later { Some(signed) } else { latest };
            }
        }
        if latest.is_none() && keys.is_given() {
            return Err(EvidenceError::Unsigned("the file has no checkpoint"));
        }
        Ok(latest)
    }
}

/// A record in a few words.
fn told(record: &RecordView) -> String {
    let row = row(record);
    let kind = record.kind();
    match record.entry() {
        Some(entry) => {
            let (index, seq) = (record.index(), entry.ledger_seq);
            format!(
                "record {index}: {kind}, {} for request {:?} of {:?}, entry {seq}",
                row.decision, row.request_id, row.actor
            )
        }
        None if row.request_id.is_empty() => format!("record {}: {kind}", record.index()),
        None => format!("record {}: {kind} about request {:?} of {:?}", record.index(), row.request_id, row.actor),
    }
}

fn row(record: &RecordView) -> Row {
    let asked = json::member(record.meta(), "request").unwrap_or("{}");
    let data = record.entry().map_or(asked, |entry| entry.data);
    let text =
        |key: &str| json::member(data, key).and_then(|text| serde_json::from_str::<Option<String>>(text).ok())?;
    Row {
        number: record.index(),
        ts_ms: record.ts_ms(),
        request_id: text("request_id").unwrap_or_default(),
        actor: text("actor").unwrap_or_default(),
        intent: text("intent").unwrap_or_default(),
        decision: text("decision").unwrap_or_else(|| record.kind().to_owned()),
        tool_name: text("tool_name"),
        error: text("error"),
    }
}
