//! One call into a guest: its state, the imports it sees, and how its failures are told.

use crate::bindings::gavel::policy::{config, counters, log, types};
use crate::bindings::strategy::gavel::kasmina::types as growth;
use crate::limits::COUNTER_KEY_BYTES_MAX;
use crate::sandbox::{MEMORIES_PER_COMPONENT, TABLES_PER_COMPONENT};
use crate::{CounterAnswer, CounterOperation, Counters, FailedClosed, Level, Limits, Verdict};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmtime::{PoolConcurrencyLimitError, ResourceLimiter, Trap, UpdateDeadline};

/// What came of asking one policy.
#[derive(Debug)]
pub struct Evaluation {
    /// The policy's name in the configuration.
    pub policy: Arc<str>,
    /// Its verdict, or why there is none (which denies).
    pub verdict: Result<Verdict, FailedClosed>,
    /// What it logged, up to the limits.
    pub logs: Vec<LogLine>,
    /// Lines beyond `max_log_lines`.
    pub logs_dropped: u64,
    /// Every answer that the host's counters gave, for the record.
    pub counters: Vec<CounterAnswer>,
    /// Linear memory that the instance had at the end, in bytes.
    pub memory_bytes: u64,
    /// Wall time, from asking for an instance to the verdict.
    pub elapsed: Duration,
}

/// One line that a guest wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// How much it matters, in the guest's opinion.
    pub level: Level,
    /// The text, shortened to `max_log_line_bytes`.
    pub message: String,
}

/// Who is asked and on what terms: the same for every call of a policy.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) name: Arc<str>,
    /// What the guest gets as its configuration.
    pub(crate) config: Arc<str>,
    pub(crate) limits: Limits,
}

/// What a call is about: who is asked, why, and until when.
pub(crate) struct Call {
    terms: Arc<Terms>,
    occasion: Occasion,
    now_ms: u64,
    started: Instant,
    /// Wall time for this call: the policy's own, or what is left of the decision's.
    deadline: Duration,
}

/// Why the guest runs, which decides what the host's counters answer.
enum Occasion {
    /// A decision, with the counters of its kernel.
    Decision(Arc<dyn Counters>),
    /// `describe`, for which every counter is 0, or a world without counters.
    Describe,
    /// Instantiation before there is a decision: what would be counted belongs to none.
    Ahead,
}

impl Call {
    pub(crate) fn evaluate(terms: Arc<Terms>, counters: Arc<dyn Counters>, now_ms: u64, left: Duration) -> Self {
        let deadline = Duration::from_millis(terms.limits.deadline_ms).min(left);
        Self { terms, occasion: Occasion::Decision(counters), now_ms, started: Instant::now(), deadline }
    }

    /// A call without counters: of `describe`, or of a world that offers none.
    pub(crate) fn describe(terms: Arc<Terms>) -> Self {
        let deadline = Duration::from_millis(terms.limits.deadline_ms);
        Self { terms, occasion: Occasion::Describe, now_ms: 0, started: Instant::now(), deadline }
    }

    /// No call yet: an instance is made for one to come.
    pub(crate) fn ahead(terms: Arc<Terms>) -> Self {
        Self { occasion: Occasion::Ahead, ..Self::describe(terms) }
    }

    /// When the call began.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// When the caller stops waiting: a tick after the guest itself is interrupted.
    pub(crate) fn until(&self) -> Instant {
        self.started + self.deadline + 2 * crate::epoch::TICK
    }

    pub(crate) fn late(&self) -> FailedClosed {
        FailedClosed::Deadline { limit_ms: self.terms.limits.deadline_ms }
    }
}

/// Lines of a guest's own words that come with a failure to load.
const WORDS_LINES_MAX: usize = 16;

/// What the store of an instance holds: the call, and what the guest used and said.
pub(crate) struct Guest {
    call: Call,
    max_stack_bytes: u64,
    memory_bytes: u64,
    logs: Vec<LogLine>,
    logs_dropped: u64,
    answers: Vec<CounterAnswer>,
    /// The limit that stopped the guest, noted where it was hit.
    hit: Option<FailedClosed>,
}

impl Guest {
    pub(crate) fn new(call: Call, max_stack_bytes: u64) -> Self {
        Self {
            call,
            max_stack_bytes,
            memory_bytes: 0,
            logs: Vec::new(),
            logs_dropped: 0,
            answers: Vec::new(),
            hit: None,
        }
    }

    /// Begin the next call. What was said while the instance was made belongs to its first call.
    pub(crate) fn begin(&mut self, call: Call) {
        self.call = call;
    }

    /// End the call: its evaluation around `verdict`, taking what was logged and counted.
    pub(crate) fn conclude(&mut self, verdict: Result<Verdict, FailedClosed>) -> Evaluation {
        Evaluation {
            policy: Arc::clone(&self.call.terms.name),
            verdict,
            logs: std::mem::take(&mut self.logs),
            logs_dropped: std::mem::take(&mut self.logs_dropped),
            counters: std::mem::take(&mut self.answers),
            memory_bytes: self.memory_bytes,
            elapsed: self.call.started.elapsed(),
        }
    }

    /// End a call that is no evaluation: what the guest logged, how many lines were dropped, its memory in bytes.
    pub(crate) fn take_notes(&mut self) -> (Vec<LogLine>, u64, u64) {
        (std::mem::take(&mut self.logs), std::mem::take(&mut self.logs_dropped), self.memory_bytes)
    }

    pub(crate) fn max_output_bytes(&self) -> u64 {
        self.call.terms.limits.max_output_bytes
    }

    /// What the guest said before it failed: its last lines at the level of errors, as far as nothing else is between
    /// them. A panic is one such line, a traceback may be many.
    pub(crate) fn words(&self) -> Option<String> {
        let error = |line: &&LogLine| matches!(line.level, Level::Error);
        let mut lines: Vec<&str> =
            self.logs.iter().rev().take_while(error).take(WORDS_LINES_MAX).map(|line| line.message.as_str()).collect();
        lines.reverse();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    /// At every expired slice: stop at the deadline, else let others run and go on.
    pub(crate) fn next_slice(&mut self) -> UpdateDeadline {
        if self.call.started.elapsed() < self.call.deadline {
            return UpdateDeadline::Yield(1);
        }
        self.hit = Some(self.call.late());
        UpdateDeadline::Interrupt
    }

    /// Why the guest failed, in our terms.
    pub(crate) fn failure(&mut self, why: &wasmtime::Error) -> FailedClosed {
        match self.hit.take() {
            Some(hit) => hit,
            None => failure_of(why, self.max_stack_bytes, self.call.terms.limits.max_output_bytes),
        }
    }

    fn stop<T>(&mut self, limit: FailedClosed) -> wasmtime::Result<T> {
        let why = wasmtime::format_err!("{limit}");
        self.hit = Some(limit);
        Err(why)
    }

    fn count(&mut self, key: String, window_ms: u64, operation: CounterOperation) -> wasmtime::Result<u64> {
        let limit = self.call.terms.limits.max_counter_calls;
        if self.answers.len() as u64 >= limit {
            return self.stop(FailedClosed::CounterCalls { limit });
        }
        let (policy, now_ms) = (&self.call.terms.name, self.call.now_ms);
        let answer = match (&self.call.occasion, operation) {
            (Occasion::Ahead, _) => {
                return self.stop(FailedClosed::Trap("a counter is used while the instance is made ahead".into()));
            }
            (Occasion::Describe, _) => 0,
            (Occasion::Decision(counters), CounterOperation::Read) => counters.read(policy, &key, window_ms, now_ms),
            (Occasion::Decision(counters), CounterOperation::Add(amount)) => {
                counters.add(policy, &key, amount, window_ms, now_ms)
            }
        };
        self.answers.push(CounterAnswer { operation, key, window_ms, answer });
        Ok(answer)
    }
}

/// Why a guest failed that hit no limit of ours, in our terms; under these caps.
pub(crate) fn failure_of(why: &wasmtime::Error, max_stack_bytes: u64, max_output_bytes: u64) -> FailedClosed {
    match why.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => return FailedClosed::Stack { limit: max_stack_bytes },
        Some(trap) => return FailedClosed::Trap(trap.to_string().trim_start_matches("wasm trap: ").to_owned()),
        None => {}
    }
    let text = why.root_cause().to_string();
    // wasmtime gives this condition no public type; `tests/hostile.rs` pins the text.
    if text.contains("fuel allocated for hostcalls") {
        return FailedClosed::Output { limit: max_output_bytes };
    }
    // What the system refuses the machine (memory, a mapping) is no fault of the guest.
    let refused = text.contains("resource limit exceeded") || text.contains("(os error ");
    if why.is::<PoolConcurrencyLimitError>() || refused {
        return FailedClosed::Instances { why: text };
    }
    FailedClosed::Undecodable(text)
}

impl types::Host for Guest {}

impl growth::Host for Guest {}

impl log::Host for Guest {
    fn write(&mut self, level: Level, mut message: String) -> wasmtime::Result<()> {
        if self.logs.len() as u64 >= self.call.terms.limits.max_log_lines {
            self.logs_dropped += 1;
            return Ok(());
        }
        let limit = usize::try_from(self.call.terms.limits.max_log_line_bytes).unwrap_or(usize::MAX);
        message.truncate(message.floor_char_boundary(limit));
        self.logs.push(LogLine { level, message });
        Ok(())
    }
}

impl config::Host for Guest {
    fn get(&mut self) -> wasmtime::Result<String> {
        Ok(self.call.terms.config.as_ref().to_owned())
    }
}

impl counters::Host for Guest {
    fn read(&mut self, key: String, window_ms: u64) -> wasmtime::Result<u64> {
        self.check_key(&key)?;
        self.count(key, window_ms, CounterOperation::Read)
    }

    fn add(&mut self, key: String, amount: u64, window_ms: u64) -> wasmtime::Result<u64> {
        self.check_key(&key)?;
        self.count(key, window_ms, CounterOperation::Add(amount))
    }
}

impl Guest {
    fn check_key(&mut self, key: &str) -> wasmtime::Result<()> {
        if key.len() <= COUNTER_KEY_BYTES_MAX {
            return Ok(());
        }
        self.stop(FailedClosed::CounterKey { bytes: key.len() as u64, limit: COUNTER_KEY_BYTES_MAX as u64 })
    }
}

impl ResourceLimiter for Guest {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let asked = self.memory_bytes.saturating_add((desired.saturating_sub(current)) as u64);
        let limit = self.call.terms.limits.max_memory_bytes;
        if asked > limit {
            return self.stop(FailedClosed::Memory { asked, limit });
        }
        self.memory_bytes = asked;
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let (asked, limit) = (desired as u64, self.call.terms.limits.max_table_elements);
        if asked > limit {
            return self.stop(FailedClosed::Table { asked, limit });
        }
        Ok(true)
    }

    fn memories(&self) -> usize {
        MEMORIES_PER_COMPONENT as usize
    }

    fn tables(&self) -> usize {
        TABLES_PER_COMPONENT as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Host as _;

    #[test]
    fn a_guests_words_are_its_last_lines_of_errors() {
        let terms = Terms { name: "p".into(), config: "null".into(), limits: Limits::default() };
        let mut guest = Guest::new(Call::describe(terms.into()), 1);
        assert_eq!(guest.words(), None);
        for (level, line) in [
            (Level::Error, "of something else"),
            (Level::Info, "starting"),
            (Level::Error, "Traceback"),
            (Level::Error, "KeyError: 'x'"),
        ] {
            guest.write(level, line.to_owned()).unwrap();
        }
        assert_eq!(guest.words().as_deref(), Some("Traceback\nKeyError: 'x'"));
        guest.write(Level::Debug, "done".to_owned()).unwrap();
        assert_eq!(guest.words(), None, "what came after was no error");
    }
}
