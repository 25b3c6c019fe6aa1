//! The two state machines: of a request, and of the kernel.
//!
//! They must be told apart. Each request walks its own [`RequestProgress`] from IDLE through AUDITING back to IDLE, and
//! many do so at once. The kernel itself is only ever booting, accepting or halted ([`KernelState`]).
//! HALTED is final for a kernel: it is replaced, never restarted.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Where a request, or a kernel, stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum State {
    /// The kernel starts.
    Booting,
    /// Nothing is being done; the kernel accepts requests.
    Idle,
    /// Fields and intent are being checked.
    Validating,
    /// Permit, policy, variant and custom rules are being asked.
    Arbitrating,
    /// The tool runs.
    Executing,
    /// The record is being written.
    Auditing,
    /// The kernel is stopped for good.
    Halted,
}

impl State {
    /// Every state, in the order of a walk.
    pub const ALL: [Self; 7] =
        [Self::Booting, Self::Idle, Self::Validating, Self::Arbitrating, Self::Executing, Self::Auditing, Self::Halted];

    /// The word in receipts and entries: `IDLE`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Booting => "BOOTING",
            Self::Idle => "IDLE",
            Self::Validating => "VALIDATING",
            Self::Arbitrating => "ARBITRATING",
            Self::Executing => "EXECUTING",
            Self::Auditing => "AUDITING",
            Self::Halted => "HALTED",
        }
    }

    /// Whether `next` may follow.
    #[must_use]
    pub const fn can_become(self, next: Self) -> bool {
        use State::{Arbitrating, Auditing, Booting, Executing, Halted, Idle, Validating};
        matches!(
            (self, next),
            (Booting | Auditing, Idle)
                | (Idle, Validating)
                | (Validating, Arbitrating | Auditing)
                | (Arbitrating, Executing | Auditing)
                | (Executing, Auditing)
                | (Booting | Idle | Validating | Arbitrating | Executing | Auditing, Halted)
        )
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A step that the state machine does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransitionError {
    /// A halted kernel was to be halted, booted or otherwise moved.
    #[error("kernel is already halted, replace it")]
    AlreadyHalted,
    /// The states do not follow each other.
    #[error("state {from} cannot become {to}")]
    Illegal {
        /// The state before.
        from: State,
        /// The state asked for.
        to: State,
    },
}

/// One request's walk through the states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestProgress {
    state: State,
}

impl RequestProgress {
    /// A walk that is about to begin.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: State::Idle }
    }

    /// Where it stands.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Goes on to `next`.
    ///
    /// # Errors
    /// [`TransitionError`] when `next` may not follow; the walk stays where it is.
    pub const fn advance(&mut self, next: State) -> Result<(), TransitionError> {
        match (self.state, next) {
            (State::Halted, _) => Err(TransitionError::AlreadyHalted),
            (from, to) if !from.can_become(to) => Err(TransitionError::Illegal { from, to }),
            _ => {
                self.state = next;
                Ok(())
            }
        }
    }
}

impl Default for RequestProgress {
    fn default() -> Self {
        Self::new()
    }
}

/// The kernel's own state, shown in its health and status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum KernelState {
    /// It starts, and accepts nothing yet.
    Booting,
    /// It accepts requests.
    Idle,
    /// It refuses every request, for ever.
    Halted,
}

impl KernelState {
    /// The kernel has started.
    ///
    /// # Errors
    /// [`TransitionError`] when it had started before, or is halted.
    pub fn boot(self) -> Result<Self, TransitionError> {
        match self {
            Self::Booting => Ok(Self::Idle),
            Self::Idle => Err(TransitionError::Illegal { from: State::Idle, to: State::Idle }),
            Self::Halted => Err(TransitionError::AlreadyHalted),
        }
    }

    /// The kernel is halted.
    ///
    /// # Errors
    /// [`TransitionError::AlreadyHalted`] when it was before.
    pub fn halt(self) -> Result<Self, TransitionError> {
        match self {
            Self::Booting | Self::Idle => Ok(Self::Halted),
            Self::Halted => Err(TransitionError::AlreadyHalted),
        }
    }

    /// Whether requests are judged.
    #[must_use]
    pub const fn accepts_requests(self) -> bool {
        matches!(self, Self::Idle)
    }

    /// The word in `/health` and `/status`: `IDLE`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        State::from(self).as_str()
    }
}

impl From<KernelState> for State {
    fn from(state: KernelState) -> Self {
        match state {
            KernelState::Booting => Self::Booting,
            KernelState::Idle => Self::Idle,
            KernelState::Halted => Self::Halted,
        }
    }
}

impl fmt::Display for KernelState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transitions_are_those_of_the_specification() {
        let legal = [
            "BOOTING→IDLE",
            "BOOTING→HALTED",
            "IDLE→VALIDATING",
            "IDLE→HALTED",
            "VALIDATING→ARBITRATING",
            "VALIDATING→AUDITING",
            "VALIDATING→HALTED",
            "ARBITRATING→EXECUTING",
            "ARBITRATING→AUDITING",
            "ARBITRATING→HALTED",
            "EXECUTING→AUDITING",
            "EXECUTING→HALTED",
            "AUDITING→IDLE",
            "AUDITING→HALTED",
        ];
        let pairs = State::ALL.iter().flat_map(|from| State::ALL.iter().map(move |to| (from, to)));
        let found: Vec<_> =
            pairs.filter(|(from, to)| from.can_become(**to)).map(|(from, to)| format!("{from}→{to}")).collect();
        assert_eq!(found, legal);
    }

    #[test]
    fn a_request_walks_and_cannot_skip() {
        let mut walk = RequestProgress::new();
        for next in [State::Validating, State::Arbitrating, State::Executing] {
            assert_eq!(walk.advance(next), Ok(()));
        }
        let error = walk.advance(State::Idle).expect_err("the audit comes first");
        assert_eq!(error.to_string(), "state EXECUTING cannot become IDLE");
        assert_eq!(walk.state(), State::Executing);
        assert_eq!(walk.advance(State::Auditing).and_then(|()| walk.advance(State::Idle)), Ok(()));
    }

    #[test]
    fn halted_is_final() {
        let halted = KernelState::Booting.boot().and_then(KernelState::halt).expect("legal");
        assert_eq!(halted, KernelState::Halted);
        assert_eq!(halted.halt(), Err(TransitionError::AlreadyHalted));
        assert_eq!(halted.boot(), Err(TransitionError::AlreadyHalted));
        assert!(!halted.accepts_requests() && KernelState::Idle.accepts_requests());
        let mut walk = RequestProgress::new();
        walk.advance(State::Halted).expect("any state may halt");
        assert_eq!(walk.advance(State::Idle), Err(TransitionError::AlreadyHalted));
    }

    #[test]
    fn words_agree_with_serde() {
        for state in State::ALL {
            assert_eq!(serde_json::json!(state), state.as_str());
        }
        assert_eq!(serde_json::json!(KernelState::Halted), KernelState::Halted.as_str());
    }
}
