//! Judging recorded decisions again: with the very policies of the record (`rejudge`), which must
//! give the same words, or with others (`what_if`), to see what they would have changed.
//!
//! All of it is read from a ledger, which is verified first, and from the catalogue. Nothing is
//! recorded, and no tool runs.

mod history;
mod rejudge;
mod what_if;

pub use history::{Past, Recorded, Skipped};
pub(crate) use history::{asked_for_a_human, recorded_request};
pub use rejudge::rejudge;
pub use what_if::{Candidate, what_if};

use crate::policies::builtin;
use crate::policies::catalogue::Catalogue;
use crate::policies::document::SetDocument;
use crate::policies::package::Package;
use crate::policies::shadow::Word;
use anyhow::{Context, Result};
use gavel_runtime::{Isolation, Limits, PolicySet, PolicySource, Sandbox, SandboxOptions};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Wall time for one policy, in milliseconds. What a policy says does not depend on it, and a
/// machine that replays may be busier than the one that decided.
const DEADLINE_MS: u64 = 10_000;

/// Instances at the same time: more than any machine has processors for.
const INSTANCES_MAX: u32 = 64;
/// What a 32-bit memory can have at most, and a table that no toolchain makes; only addresses are
/// set aside for them.
const MEMORY_BYTES_MAX: u64 = 4 << 30;
const TABLE_ELEMENTS_MAX: u64 = 1 << 20;

/// Differences that a report holds; more are counted.
const DIFFERENCES_MAX: usize = 10_000;

/// What a replay found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Decisions in the ledger.
    pub decisions: u64,
    /// Of those: judged again.
    pub judged: u64,
    /// Of those: with the same words.
    pub same: u64,
    /// Of those: with others.
    pub differing: u64,
    /// Decisions that were not judged again, by the reason.
    pub skipped: BTreeMap<&'static str, u64>,
    /// The first differences, in the order of the ledger.
    pub differences: Vec<Difference>,
}

/// A decision that came out otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The record.
    pub index: u64,
    /// When it was decided.
    pub ts_ms: u64,
    /// The request.
    pub request_id: String,
    /// Who asked.
    pub actor: String,
    /// The tool it asked for.
    pub tool: Option<String>,
    /// What was decided.
    pub recorded: Word,
    /// What came out now.
    pub now: Word,
    /// What differs beyond that, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Report {
    fn skip(&mut self, why: Skipped) {
        *self.skipped.entry(why.as_str()).or_default() += 1;
    }

    fn count(&mut self, difference: Option<Difference>) {
        self.judged += 1;
        match difference {
            None => self.same += 1,
            Some(difference) => {
                self.differing += 1;
                if self.differences.len() < DIFFERENCES_MAX {
                    self.differences.push(difference);
                }
            }
        }
    }
}

/// A sandbox that can grant whatever the host granted that decided.
pub(crate) fn options(cache_dir: Option<PathBuf>) -> SandboxOptions {
    SandboxOptions {
        cache_dir,
        decision_deadline_ms: DEADLINE_MS,
        max_instances: INSTANCES_MAX,
        max_memory_bytes: MEMORY_BYTES_MAX,
        max_table_elements: TABLE_ELEMENTS_MAX,
        ..SandboxOptions::default()
    }
}

/// The policies of a catalogue, loaded to judge again.
pub struct Bench {
    sandbox: Sandbox,
    catalogue: Catalogue,
    sets: BTreeMap<String, PolicySet>,
}

impl Bench {
    /// With the components of `catalogue`.
    ///
    /// # Errors
    /// When the machine cannot run the sandbox.
    pub fn new(catalogue: Catalogue, cache_dir: Option<PathBuf>) -> Result<Self> {
        let sandbox = Sandbox::new(options(cache_dir))?;
        Ok(Self { sandbox, catalogue, sets: BTreeMap::new() })
    }

    /// The set with this digest, loaded once.
    async fn set(&mut self, digest: &str) -> Result<PolicySet> {
        if let Some(set) = self.sets.get(digest) {
            return Ok(set.clone());
        }
        let document = self.document(digest)?;
        let set = self.load(&document, None).await.with_context(|| format!("policy set {digest}"))?;
        self.sets.insert(digest.to_owned(), set.clone());
        Ok(set)
    }

    fn document(&self, digest: &str) -> Result<SetDocument> {
        let empty = SetDocument::default();
        // A kernel without policies never wrote its set down.
        if empty.digest() == digest { Ok(empty) } else { self.catalogue.set(digest) }
    }

    /// Load a set; what is not in the catalogue may be in `more`.
    async fn load(&self, document: &SetDocument, more: Option<&Catalogue>) -> Result<PolicySet> {
        let mut policies = Vec::with_capacity(document.policies.len());
        for member in &document.policies {
            let component =
                self.component(&member.component, more).with_context(|| format!("policy {}", member.name))?;
            let limits = Limits {
                deadline_ms: DEADLINE_MS,
                isolation: Isolation::Fresh,
                instances_ahead: 0,
                ..member.limits.clone()
            };
            let (name, config) = (member.name.clone(), member.config.clone());
            policies.push(self.sandbox.load(PolicySource { name, bytes: component, config, limits }).await?);
        }
        Ok(PolicySet::new(policies))
    }

    fn component(&self, digest: &str, more: Option<&Catalogue>) -> Result<Vec<u8>> {
        let package = match (builtin::by_digest(digest), more.filter(|more| more.contains(digest))) {
            (Some(bytes), _) => Package::read(bytes)?,
            (None, Some(more)) => more.component(digest)?,
            (None, None) => self.catalogue.component(digest)?,
        };
        Ok(package.component)
    }
}
