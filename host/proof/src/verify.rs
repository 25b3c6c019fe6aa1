//! Verifying evidence as it streams by: a bundle or a proof file, whichever it turns out to be.
//!
//! ```
//! use gavel_proof::verify::Verifier;
//!
//! let bundle = r#"{"ledger_entries": [], "kernel_id": "k-1", "entry_count": 0,
//!     "root_hash": "0000000000000000000000000000000000000000000000000000000000000000"}"#;
//! let mut verifier = Verifier::new(None);
//! for piece in bundle.as_bytes().chunks(10) {
//!     verifier.push(piece);
//! }
//! let report = verifier.finish();
//! assert!(report.holds, "{:?}", report.error);
//! assert!(report.not_covered_details().next().unwrap().contains("no records"));
//! ```

use crate::items::{Item, Items};
use crate::report::{EvidenceError, Report, Subject};
use crate::trust::{Keys, TrustedKey};
use crate::{bundle, consistency_file, proof_file};

/// The members that are lists of any length.
const LISTS: [&str; 4] = ["ledger_entries", "records", "rotations", "proofs"];
/// What was preserved for an incident is a bundle within what was said of it then.
const PRESERVED: &str = "evidence";
/// The most members of a file.
const MEMBERS_MAX: usize = 256;
/// The most entries that a report shows, unless [`Verifier::rows_max`] says otherwise.
const ROWS_MAX: usize = 100;

/// Verifies one file.
#[derive(Debug)]
pub struct Verifier {
    items: Items,
    reading: Reading,
    fault: Option<EvidenceError>,
}

#[derive(Debug)]
struct Reading {
    keys: Keys,
    bundle: bundle::Reading,
    proofs: proof_file::Reading,
    consistency: consistency_file::Reading,
    /// The names of the members so far.
    seen: Vec<String>,
    /// Whether a preserved bundle has been read: what stands behind it is not of the evidence.
    left: bool,
    rows_max: usize,
}

impl Verifier {
    /// With the key that the auditor trusts, if there is one.
    #[must_use]
    pub fn new(trusted: Option<TrustedKey>) -> Self {
        let reading = Reading {
            keys: Keys::new(trusted),
            bundle: bundle::Reading::default(),
            proofs: proof_file::Reading::default(),
            consistency: consistency_file::Reading::default(),
            seen: Vec::new(),
            left: false,
            rows_max: ROWS_MAX,
        };
        Self { items: Items::new(&LISTS, PRESERVED), reading, fault: None }
    }

    /// Shows so many entries on the report.
    #[must_use]
    pub fn rows_max(mut self, rows_max: usize) -> Self {
        self.reading.rows_max = rows_max;
        self
    }

    /// Takes the next piece of the file. Whether the rest is still of interest: after a fault it is not.
    pub fn push(&mut self, piece: &[u8]) -> bool {
        if self.fault.is_none() {
            let (items, reading) = (&mut self.items, &mut self.reading);
            self.fault = items.push(piece, &mut |item| reading.take(item)).err();
        }
        self.fault.is_none()
    }

    /// Nothing follows: what was found.
    pub fn finish(self) -> Report {
        let Self { items, reading, fault } = self;
        let subject = reading.subject();
        let checks = match subject {
            Subject::ProofFile => &proof_file::CHECKS[..],
            Subject::ConsistencyFile => &consistency_file::CHECKS[..],
            Subject::Bundle => &bundle::CHECKS[..],
        };
        let mut report = Report::new(subject);
        report.kernel_id = reading.bundle.kernel_id.clone().unwrap_or_default();
        let read = match fault {
            Some(why) => Err(why),
            None => items.finish().map_err(EvidenceError::from),
        };
        let verified = read.and_then(|()| match subject {
            Subject::ProofFile => reading.proofs.finish(&reading.keys, &mut report),
            Subject::ConsistencyFile => {
                let kernel_id = reading.bundle.kernel_id.as_deref();
                reading.consistency.finish(kernel_id, &reading.keys, &mut report)
            }
            Subject::Bundle => reading.bundle.finish(&reading.keys, &mut report),
        });
        if let Err(why) = verified {
            let why = match why {
                EvidenceError::NotABundle(why) if subject == Subject::ProofFile => EvidenceError::NotAProofFile(why),
                EvidenceError::NotABundle(why) if subject == Subject::ConsistencyFile => {
                    EvidenceError::NotAConsistencyFile(why)
                }
                why => why,
            };
            report.fails(&why, checks);
        }
        report
    }
}

impl Reading {
    /// What the file turned out to be.
    fn subject(&self) -> Subject {
        match self.proofs.format.as_deref() {
            _ if self.bundle.has_entries => Subject::Bundle,
            Some(consistency_file::FORMAT) => Subject::ConsistencyFile,
            None if !self.proofs.has_proofs => Subject::Bundle,
            _ => Subject::ProofFile,
        }
    }

    fn take(&mut self, item: Item<'_>) -> Result<(), EvidenceError> {
        match item {
            Item::Enter { .. } if self.left || self.bundle.has_entries || self.proofs.has_proofs => {
                Err(EvidenceError::NotABundle("it holds two bundles".to_owned()))
            }
            Item::Enter { .. } => {
                // Its own members are those that count.
                (self.bundle, self.proofs) = Default::default();
                self.seen.clear();
                Ok(())
            }
            Item::Leave => {
                self.left = true;
                Ok(())
            }
            Item::List { key } if self.left => {
                Err(EvidenceError::NotABundle(format!("`{key}` stands behind the bundle, not in it")))
            }
            Item::Member { .. } if self.left => Ok(()),
            Item::List { key } => {
                self.note(key)?;
                self.bundle.has_entries |= key == "ledger_entries";
                self.proofs.has_proofs |= key == "proofs";
                Ok(())
            }
            Item::Element { key: "ledger_entries", value } => self.bundle.entry(value, self.rows_max),
            Item::Element { key: "records", value } => self.bundle.record(value),
            Item::Element { key: "rotations", value } => self.keys.add_rotation(value),
            Item::Element { value, .. } => self.proofs.add(value),
            Item::Member { key, value } => self.member(key, value),
        }
    }

    /// Of two members of one name another program might see the other one.
    fn note(&mut self, key: &str) -> Result<(), EvidenceError> {
        if self.seen.iter().any(|seen| seen == key) {
            return Err(EvidenceError::NotABundle(format!("`{key}` stands there twice")));
        }
        if self.seen.len() == MEMBERS_MAX {
            return Err(EvidenceError::NotABundle(format!("it has more than {MEMBERS_MAX} members")));
        }
        self.seen.push(key.to_owned());
        Ok(())
    }

    fn member(&mut self, key: &str, value: &str) -> Result<(), EvidenceError> {
        self.note(key)?;
        let text = || {
            let text = serde_json::from_str::<String>(value);
            text.map_err(|why| EvidenceError::NotABundle(format!("`{key}`: {why}")))
        };
        match key {
            "key" if value == "null" => {}
            "key" => self.keys.set_own(&text()?)?,
            "format" => self.proofs.format = Some(text()?),
            "old" => self.consistency.old = Some(text()?),
            "new" => self.consistency.new = Some(text()?),
            "consistency" => self.consistency.set_hashes(value)?,
            "request_id" => self.proofs.request_id = Some(text()?),
            "kernel_id" => {
                let kernel_id = text()?;
                self.proofs.kernel_id = Some(kernel_id.clone());
                self.bundle.kernel_id = Some(kernel_id);
            }
            _ => self.bundle.member(key, value)?,
        }
        Ok(())
    }
}
