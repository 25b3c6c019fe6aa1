//! Rollout: how a changed layer comes to the models that use one, and how it goes again.
//!
//! Two layers stand side by side: the incumbent, and the candidate while there is one. A model is told by its id which
//! of the two serves it ([`Rollout::side`]): a hash of the id, so that a model stays where it is, and moves one way only
//! while the share grows. The share begins as a canary and grows by steps; with a step of 0 it stays, which is an A/B
//! test. What is measured on either side ([`Health`]) can end it at any moment: [`Rollout::due`] then asks for the
//! reversion.
//!
//! What must always hold: with no candidate every model is the incumbent's; a reversion is one assignment; nothing
//! changes but by [`Rollout::apply`], which writes each change into the history. The clock is the caller's: all times
//! are milliseconds since 1970. Absent here: who may change it, where it is recorded, and the layers themselves.

mod flags;
mod health;

pub use flags::Flags;
pub use health::{Gates, Health, MEASURED_MAX, Sample};

use crate::Error;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::VecDeque;

/// Changes that are kept; older ones are dropped. Whoever governs the rollout has all of them on record.
pub const HISTORY_MAX: usize = 256;

const WEEK_MS: u64 = 7 * 24 * 60 * 60 * 1_000;

/// Which layer serves a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// What was there before.
    Incumbent,
    /// What is being tried.
    Candidate,
}

/// How the candidate's share of the models grows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Schedule {
    /// The first share, in (0, 1].
    pub canary: f64,
    /// What each step adds, in [0, 1]. With 0 the share stays: an A/B test.
    pub step: f64,
    /// The time between steps, in milliseconds.
    pub every_ms: u64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { canary: 0.05, step: 0.10, every_ms: WEEK_MS }
    }
}

impl Schedule {
    /// Check that every value is in its range.
    ///
    /// # Errors
    /// Names the value that is not.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |key, value: String, problem: &str| Err(Error::Config { key, value, problem: problem.to_owned() });
        if !(self.canary > 0.0 && self.canary <= 1.0) {
            return wrong("schedule.canary", self.canary.to_string(), "it is a share, above 0 and at most 1");
        }
        if !(0.0..=1.0).contains(&self.step) {
            return wrong("schedule.step", self.step.to_string(), "it is a share, from 0 to 1");
        }
        if self.every_ms == 0 {
            return wrong("schedule.every_ms", "0".to_owned(), "it must be at least 1");
        }
        Ok(())
    }

    /// The share after so many steps.
    #[must_use]
    pub fn share(&self, steps: u32) -> f64 {
        (self.canary + f64::from(steps) * self.step).min(1.0)
    }
}

/// A candidate, and how far it has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// The candidate layer's id.
    pub candidate: String,
    /// How its share grows.
    pub schedule: Schedule,
    /// What ends it.
    pub gates: Gates,
    /// Steps that were made.
    pub steps: u32,
    /// When the last one was made.
    pub since_ms: u64,
    /// Passes of the candidate since the last step; the next one waits for [`Gates::passes_min`] of them.
    passes_since: u64,
    /// What was measured of the incumbent since the trial began.
    pub incumbent_health: Health,
    /// What was measured of the candidate.
    pub candidate_health: Health,
}

/// A change of a rollout.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Begin to try a candidate.
    Start {
        /// Its layer's id.
        candidate: String,
        /// How its share grows.
        schedule: Schedule,
        /// What ends it.
        gates: Gates,
    },
    /// One step of the schedule.
    Grow,
    /// The candidate, which has all models, becomes the incumbent; the old one is kept for a reversion.
    Promote,
    /// Back: to the incumbent from a trial, or to the layer before the incumbent.
    Revert,
}

/// What a change does, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// [`Change::Start`].
    Start,
    /// [`Change::Grow`].
    Grow,
    /// [`Change::Promote`].
    Promote,
    /// [`Change::Revert`].
    Revert,
}

/// A change that was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// When.
    pub at_ms: u64,
    /// What was done.
    pub change: Act,
    /// Who did it.
    pub by: String,
    /// Why, in words.
    pub why: String,
    /// Who served the rest of the models, after it.
    pub incumbent: String,
    /// Whom it was about, if there was a trial before or after it.
    pub candidate: Option<String>,
    /// The candidate's share before it.
    pub share_before: f64,
    /// And after.
    pub share: f64,
}

/// Who serves which model. It is kept as JSON; what is read is checked as what is applied is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Kept")]
pub struct Rollout {
    incumbent: String,
    previous: Option<String>,
    trial: Option<Trial>,
    history: VecDeque<Entry>,
}

/// A rollout as it was kept.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    incumbent: String,
    previous: Option<String>,
    trial: Option<Trial>,
    history: VecDeque<Entry>,
}

impl TryFrom<Kept> for Rollout {
    type Error = Error;

    fn try_from(kept: Kept) -> Result<Self, Error> {
        let Kept { incumbent, previous, trial, mut history } = kept;
        if let Some(trial) = &trial {
            trial.schedule.check()?;
            trial.gates.check()?;
            trial.incumbent_health.check("incumbent_health")?;
            trial.candidate_health.check("candidate_health")?;
        }
        history.drain(..history.len().saturating_sub(HISTORY_MAX));
        Ok(Self { incumbent, previous, trial, history })
    }
}

impl Rollout {
    /// All models are `incumbent`'s.
    #[must_use]
    pub fn new(incumbent: &str) -> Self {
        Self { incumbent: incumbent.to_owned(), previous: None, trial: None, history: VecDeque::new() }
    }

    /// The layer that serves what the candidate does not.
    #[must_use]
    pub fn incumbent(&self) -> &str {
        &self.incumbent
    }

    /// The layer that was the incumbent before.
    #[must_use]
    pub fn previous(&self) -> Option<&str> {
        self.previous.as_deref()
    }

    /// The trial that goes on.
    #[must_use]
    pub fn trial(&self) -> Option<&Trial> {
        self.trial.as_ref()
    }

    /// The candidate's share of the models, in [0, 1].
    #[must_use]
    pub fn share(&self) -> f64 {
        self.trial.as_ref().map_or(0.0, |trial| trial.schedule.share(trial.steps))
    }

    /// The changes that were made, oldest first; at most [`HISTORY_MAX`].
    #[must_use]
    pub fn history(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.history.iter()
    }

    /// On which side a model is.
    #[must_use]
    pub fn side(&self, model: &str) -> Side {
        match &self.trial {
            Some(trial) if place(&trial.candidate, model) < self.share() => Side::Candidate,
            _ => Side::Incumbent,
        }
    }

    /// The layer that serves a model.
    #[must_use]
    pub fn layer(&self, model: &str) -> &str {
        match (self.side(model), &self.trial) {
            (Side::Candidate, Some(trial)) => &trial.candidate,
            _ => &self.incumbent,
        }
    }

    /// Count a pass. Without a trial nothing is compared, so nothing is counted; nor is a pass of a layer that is on
    /// neither side (any more).
    pub fn observe(&mut self, layer: &str, sample: &Sample) {
        let Some(trial) = &mut self.trial else { return };
        if layer == trial.candidate {
            trial.candidate_health.count(sample, trial.gates.remembered);
            trial.passes_since = trial.passes_since.saturating_add(1);
        } else if layer == self.incumbent {
            trial.incumbent_health.count(sample, trial.gates.remembered);
        }
    }

    /// Count a measurement of a model's metric, as [`Self::observe`] does a pass.
    pub fn measure(&mut self, layer: &str, metric: f64) {
        let Some(trial) = &mut self.trial else { return };
        if layer == trial.candidate {
            trial.candidate_health.measure(metric, trial.gates.remembered);
        } else if layer == self.incumbent {
            trial.incumbent_health.measure(metric, trial.gates.remembered);
        }
    }

    /// What is to be done now, and why: the reversion as soon as a gate fails; a step when its time has come and the
    /// candidate was seen enough since the last. However long nobody looked, it is one step at a time.
    #[must_use]
    pub fn due(&self, now_ms: u64) -> Option<(Change, String)> {
        let trial = self.trial.as_ref()?;
        if let Some(why) = trial.gates.failure(&trial.incumbent_health, &trial.candidate_health) {
            return Some((Change::Revert, why));
        }
        let share = self.share();
        let next = trial.schedule.share(trial.steps.saturating_add(1));
        let waited_ms = now_ms.saturating_sub(trial.since_ms);
        let seen = trial.passes_since;
        let ready = next > share && waited_ms >= trial.schedule.every_ms && seen >= u64::from(trial.gates.passes_min);
        ready.then(|| (Change::Grow, format!("{seen} passes since the last step, within all gates")))
    }

    /// Make a change. Returns what was written into the history.
    ///
    /// # Errors
    /// If it cannot be made now, or a value of it is out of its range; nothing has changed then.
    pub fn apply(&mut self, change: &Change, by: &str, why: &str, now_ms: u64) -> Result<&Entry, Error> {
        let share_before = self.share();
        let tried = self.trial.as_ref().map(|trial| trial.candidate.clone());
        let act = match change {
            Change::Start { candidate, schedule, gates } => self.start(candidate, *schedule, *gates, now_ms)?,
            Change::Grow => self.grow(now_ms)?,
            Change::Promote => self.promote()?,
            Change::Revert => self.revert()?,
        };
        while self.history.len() >= HISTORY_MAX {
            self.history.pop_front();
        }
        let candidate = self.trial.as_ref().map(|trial| trial.candidate.clone()).or(tried);
        let (incumbent, share) = (self.incumbent.clone(), self.share());
        let (by, why) = (by.to_owned(), why.to_owned());
        let entry = Entry { at_ms: now_ms, change: act, by, why, incumbent, candidate, share_before, share };
        self.history.push_back(entry);
        Ok(&self.history[self.history.len() - 1])
    }

    fn start(&mut self, candidate: &str, schedule: Schedule, gates: Gates, now_ms: u64) -> Result<Act, Error> {
        schedule.check()?;
        gates.check()?;
        if let Some(trial) = &self.trial {
            let problem = format!("`{}` is being tried: promote or revert it first", trial.candidate);
            return Err(refused(candidate, problem));
        }
        if candidate == self.incumbent {
            return Err(refused(candidate, "it is the incumbent: name another layer".to_owned()));
        }
        self.trial = Some(Trial {
            candidate: candidate.to_owned(),
            schedule,
            gates,
            steps: 0,
            since_ms: now_ms,
            passes_since: 0,
            incumbent_health: Health::default(),
            candidate_health: Health::default(),
        });
        Ok(Act::Start)
    }

    fn grow(&mut self, now_ms: u64) -> Result<Act, Error> {
        let share = self.share();
        let Some(trial) = &mut self.trial else { return Err(nothing_tried()) };
        if trial.schedule.share(trial.steps.saturating_add(1)) <= share {
            let problem = format!("its share is {share} and its schedule adds nothing: promote or revert it");
            return Err(refused(&trial.candidate, problem));
        }
        trial.steps = trial.steps.saturating_add(1);
        trial.since_ms = now_ms;
        trial.passes_since = 0;
        Ok(Act::Grow)
    }

    fn promote(&mut self) -> Result<Act, Error> {
        let share = self.share();
        match self.trial.take() {
            Some(trial) if share < 1.0 => {
                let problem = format!("it has a share of {share}: it is promoted when it has all models");
                let refusal = refused(&trial.candidate, problem);
                self.trial = Some(trial);
                Err(refusal)
            }
            Some(trial) => {
                self.previous = Some(std::mem::replace(&mut self.incumbent, trial.candidate));
                Ok(Act::Promote)
            }
            None => Err(nothing_tried()),
        }
    }

    fn revert(&mut self) -> Result<Act, Error> {
        if self.trial.take().is_none() {
            let Some(previous) = self.previous.take() else {
                let problem = "nothing is being tried and nothing was promoted: there is nothing to go back to";
                return Err(refused("none", problem.to_owned()));
            };
            self.incumbent = previous;
        }
        Ok(Act::Revert)
    }
}

fn refused(candidate: &str, problem: String) -> Error {
    Error::Config { key: "candidate", value: candidate.to_owned(), problem }
}

fn nothing_tried() -> Error {
    refused("none", "nothing is being tried: start a rollout first".to_owned())
}

/// Where a model stands in [0, 1), the same for ever. The candidate's id goes into the hash, so that it is not the same
/// models that every new candidate is tried on first.
fn place(candidate: &str, model: &str) -> f64 {
    let mut hash = Sha256::new();
    hash.update(candidate);
    hash.update([0]);
    hash.update(model);
    let first: [u8; 8] = std::array::from_fn({
        let digest = hash.finalize();
        move |at| digest[at]
    });
    // 53 bits are what an f64 holds exactly.
    #[allow(clippy::cast_precision_loss, reason = "53 bits fit")]
    let place = (u64::from_be_bytes(first) >> 11) as f64 / (1_u64 << 53) as f64;
    place
}

#[cfg(test)]
mod tests;
