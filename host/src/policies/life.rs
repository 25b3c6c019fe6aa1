//! What a kernel judges by at this moment: the set that serves, the one that served before, and a
//! candidate on trial.
//!
//! ```text
//! staged ──► shadow ──► canary ──► promoted ──► (previous, warm)
//!    └─────────┴──────────┴─► discarded             ▲
//!                              rolled back ─────────┘
//! ```
//!
//! All of it is one value behind one pointer ([`Line`]): a request takes the pointer once and is
//! judged by what it finds, so no request ever sees two sets, and a change is one atomic exchange.
//! Sets are compiled and tested before they come here. The transitions are pure; `change` records
//! them and carries them out.

use super::document::{Member, SetDocument};
use super::health::Health;
use super::shadow::Shadow;
use super::statute::{SavedStatute, Statute};
use crate::kernel::Inherited;
use arc_swap::ArcSwap;
use gavel_runtime::{Policy, PolicySet};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// A policy set, loaded and ready to judge.
#[derive(Debug)]
pub struct Deployed {
    /// The policies.
    pub set: PolicySet,
    /// What they are made of.
    pub document: SetDocument,
    /// How each is doing, in the same order.
    pub health: Vec<Arc<Health>>,
}

/// What a candidate does while it is on trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrialMode {
    /// It is ready, and sees nothing.
    Staged,
    /// It sees what the serving set sees; what it would decide otherwise is counted and kept.
    Shadow,
    /// It decides for this share of the requests, in per cent.
    Canary(u8),
}

/// A candidate on trial.
#[derive(Debug, Clone)]
pub struct Trial {
    /// The candidate.
    pub set: Arc<Deployed>,
    /// What it does.
    pub mode: TrialMode,
    /// What it would have decided otherwise, as long as it only watches.
    pub shadow: Arc<Shadow>,
}

/// What requests are judged by.
#[derive(Debug, Clone)]
pub struct Line {
    /// The law, asked first.
    pub statute: Statute,
    /// The set that decides.
    pub serving: Arc<Deployed>,
    /// The set that decided before, still loaded.
    pub previous: Option<Arc<Deployed>>,
    /// A candidate.
    pub trial: Option<Trial>,
    /// The digest of the set that the configuration names: when it changes, the configuration wins
    /// over what was promoted before.
    pub configured: Arc<str>,
}

/// The line of a kernel, exchanged atomically.
#[derive(Debug)]
pub struct Life {
    line: ArcSwap<Line>,
}

/// Why a change is not possible in the state that the kernel's policies are in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    /// There is no candidate.
    #[error("there is no candidate to {0}: stage one first")]
    NoCandidate(&'static str),
    /// The candidate is another than the caller believes.
    #[error("the candidate is {found}, not {expected}: someone staged another; look at it and try again")]
    OtherCandidate {
        /// What the caller expects.
        expected: String,
        /// What is there.
        found: String,
    },
    /// Nothing served before.
    #[error("there is nothing to roll back to: no other set has served since the start")]
    NoPrevious,
}

impl Deployed {
    /// A set of these policies, whose digest is `digest`.
    ///
    /// # Panics
    /// When they are not as many as the document's members.
    #[must_use]
    pub fn new(digest: &str, document: SetDocument, policies: Vec<(Policy, Arc<Health>)>) -> Self {
        assert_eq!(policies.len(), document.policies.len(), "each member is loaded");
        let (policies, health) = policies.into_iter().unzip();
        Self { set: PolicySet::new(policies).with_digest(digest), document, health }
    }

    /// A set without policies, which lets everything pass.
    #[must_use]
    pub fn empty() -> Self {
        let document = SetDocument::default();
        Self::new(&document.digest(), document, Vec::new())
    }

    /// Each policy: what it is made of, itself, and how it is doing.
    pub fn members(&self) -> impl Iterator<Item = (&Member, &Policy, &Arc<Health>)> {
        let policies = self.document.policies.iter().zip(self.set.policies());
        policies.zip(&self.health).map(|((member, policy), health)| (member, policy, health))
    }

    /// The same policies in the service of another kernel: with a health of their own.
    #[must_use]
    pub fn apart(&self) -> Self {
        let health = self.health.iter().map(|_| Arc::default()).collect();
        Self { set: self.set.clone(), document: self.document.clone(), health }
    }

    /// The same set, known by another digest: that of a document which an older version wrote.
    #[must_use]
    pub fn under(&self, digest: &str) -> Self {
        let set = self.set.clone().with_digest(digest);
        Self { set, document: self.document.clone(), health: self.health.clone() }
    }

    /// Its digest.
    #[must_use]
    pub fn digest(&self) -> &Arc<str> {
        self.set.digest()
    }
}

impl Life {
    /// A kernel that judges by `serving`, the set that its configuration names.
    #[must_use]
    pub fn new(line: Line) -> Self {
        Self { line: ArcSwap::from_pointee(line) }
    }

    /// What a request that begins now is judged by.
    #[must_use]
    pub fn line(&self) -> Arc<Line> {
        self.line.load_full()
    }

    /// From now on requests are judged by `line`.
    pub(super) fn exchange(&self, line: Line) {
        self.line.store(Arc::new(line));
    }
}

impl Line {
    /// A line of one set.
    #[must_use]
    pub fn of(serving: Arc<Deployed>, statute: Statute) -> Self {
        let configured = Arc::clone(serving.digest());
        Self { statute, serving, previous: None, trial: None, configured }
    }

    /// This line of a new kernel, with what it takes over from the one that it replaces: what was promoted there, if
    /// both are defined with the same set, and the jurisdiction that was changed, if both are defined with the same.
    pub(crate) fn inheriting(&self, inherited: &Inherited) -> Self {
        let other = &inherited.line;
        let mut line = self.clone();
        if other.configured == self.configured {
            line.serving = Arc::clone(&other.serving);
            line.previous.clone_from(&other.previous);
            line.trial.clone_from(&other.trial);
        }
        if inherited.law && other.statute.configured == self.statute.configured {
            let (law, previous) = (&other.statute.law.jurisdiction, other.statute.previous.clone());
            line.statute = self.statute.with(law.clone(), previous);
        }
        line
    }

    /// The set that decides a request: the candidate's share is chosen by the hash of the request's
    /// id, so that the same request is judged by the same set however often it is sent.
    #[must_use]
    pub fn decides(&self, request_id: &str) -> &Arc<Deployed> {
        match &self.trial {
            Some(Trial { set, mode: TrialMode::Canary(percent), .. }) if hundredth(request_id) < *percent => set,
            _ => &self.serving,
        }
    }

    /// The candidate that watches, if one does.
    #[must_use]
    pub fn shadow(&self) -> Option<&Trial> {
        self.trial.as_ref().filter(|trial| trial.mode == TrialMode::Shadow)
    }

    pub(super) fn with_trial(&self, trial: Option<Trial>) -> Self {
        Self { trial, ..self.clone() }
    }

    pub(super) fn candidate(&self, to: &'static str) -> Result<&Trial, Impossible> {
        self.trial.as_ref().ok_or(Impossible::NoCandidate(to))
    }

    /// The candidate serves; what served before stays warm.
    pub(super) fn promoted(&self, expected: Option<&str>) -> Result<Self, Impossible> {
        let candidate = self.candidate("promote")?.set.clone();
        match expected {
            Some(expected) if **candidate.digest() != *expected => {
                Err(Impossible::OtherCandidate { expected: expected.into(), found: candidate.digest().to_string() })
            }
            _ => Ok(Self { trial: None, ..self.serve(candidate) }),
        }
    }

    /// `set` serves; what served before stays warm. The same set again changes nothing: what served
    /// before it must stay within reach.
    pub(super) fn serve(&self, set: Arc<Deployed>) -> Self {
        if set.digest() == self.serving.digest() {
            return self.clone();
        }
        Self { serving: set, previous: Some(Arc::clone(&self.serving)), trial: None, ..self.clone() }
    }

    /// What served before serves again, and the other way round. A candidate on trial is dropped: it
    /// was made of the set that is taken back.
    pub(super) fn rolled_back(&self) -> Result<Self, Impossible> {
        let previous = self.previous.clone().ok_or(Impossible::NoPrevious)?;
        Ok(Self { serving: previous, previous: Some(Arc::clone(&self.serving)), trial: None, ..self.clone() })
    }

    /// What the next process needs to stand where this one stood.
    pub(super) fn to_state(&self) -> Value {
        json!({
            "configured": *self.configured,
            "serving": **self.serving.digest(),
            "previous": self.previous.as_ref().map(|set| set.digest().to_string()),
            "candidate": self.trial.as_ref().map(|trial| trial.set.digest().to_string()),
            "trial": self.trial.as_ref().map(|trial| trial.mode),
            "law": self.statute.to_state(),
        })
    }
}

/// What [`Line::to_state`] wrote.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct SavedLine {
    pub(super) configured: String,
    pub(super) serving: String,
    pub(super) previous: Option<String>,
    pub(super) candidate: Option<String>,
    pub(super) trial: Option<TrialMode>,
    /// Absent where an older version wrote it.
    #[serde(default)]
    pub(super) law: Option<SavedStatute>,
}

/// 0 to 99, evenly over all ids.
fn hundredth(request_id: &str) -> u8 {
    let hash = Sha256::digest(request_id);
    let number = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
    // The bias of 2^32 mod 100 is a hundred-millionth.
    u8::try_from(number % 100).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_kernel::{Jurisdiction, Law, Variant};

    fn line_of(digest: &str) -> Line {
        Line::of(deployed(digest), Statute::of(Law::new(Variant::Strict, Jurisdiction::default())))
    }

    fn deployed(digest: &str) -> Arc<Deployed> {
        Arc::new(Deployed::new(digest, SetDocument::default(), Vec::new()))
    }

    fn on_trial(digest: &str, mode: TrialMode) -> Trial {
        Trial { set: deployed(digest), mode, shadow: Arc::new(Shadow::idle()) }
    }

    fn serving(line: &Line) -> &str {
        line.serving.digest()
    }

    #[test]
    fn a_candidate_is_promoted_and_rolled_back_and_rolled_forward() {
        let line = line_of("a");
        assert_eq!(line.promoted(None).unwrap_err(), Impossible::NoCandidate("promote"));
        assert_eq!(line.rolled_back().unwrap_err(), Impossible::NoPrevious);
        let line = line.with_trial(Some(on_trial("b", TrialMode::Shadow)));
        assert!(matches!(line.promoted(Some("c")), Err(Impossible::OtherCandidate { .. })));
        let line = line.promoted(Some("b")).unwrap();
        assert_eq!((serving(&line), line.trial.is_none()), ("b", true));
        let line = line.rolled_back().unwrap();
        assert_eq!(serving(&line), "a");
        assert_eq!(serving(&line.rolled_back().unwrap()), "b");
    }

    #[test]
    fn the_same_set_again_leaves_the_way_back_open() {
        let line = line_of("a").serve(deployed("b"));
        let again = line.with_trial(Some(on_trial("b", TrialMode::Staged))).promoted(None).unwrap();
        assert!(again.trial.is_none());
        assert_eq!(serving(&again.rolled_back().unwrap()), "a");
    }

    #[test]
    fn a_roll_back_takes_the_candidate_with_it() {
        let line = line_of("a").serve(deployed("b")).with_trial(Some(on_trial("c", TrialMode::Canary(50))));
        assert!(line.rolled_back().unwrap().trial.is_none());
    }

    #[test]
    fn only_a_canary_decides_and_only_its_share() {
        let share = |mode| {
            let line = line_of("a").with_trial(Some(on_trial("b", mode)));
            let ids = (0..10_000).map(|n| format!("request-{n}"));
            ids.filter(|id| &**line.decides(id).digest() == "b").count()
        };
        assert_eq!((share(TrialMode::Staged), share(TrialMode::Shadow)), (0, 0));
        assert!((800..1_200).contains(&share(TrialMode::Canary(10))));
        assert_eq!(share(TrialMode::Canary(100)), 10_000);
    }

    #[test]
    fn a_request_keeps_its_side_while_a_canary_grows() {
        let side = |percent, id: &str| hundredth(id) < percent;
        for id in (0..1_000).map(|n| n.to_string()) {
            assert!(!side(10, &id) || side(50, &id));
        }
    }

    #[test]
    fn the_state_that_is_recorded_is_read_back() {
        let line = line_of("a").serve(deployed("b")).with_trial(Some(on_trial("c", TrialMode::Canary(7))));
        let saved: SavedLine = serde_json::from_value(line.to_state()).unwrap();
        let text = |text: &str| Some(text.to_owned());
        assert_eq!((saved.configured.as_str(), saved.serving.as_str()), ("a", "b"));
        assert_eq!((saved.previous, saved.candidate, saved.trial), (text("a"), text("c"), Some(TrialMode::Canary(7))));
    }
}
