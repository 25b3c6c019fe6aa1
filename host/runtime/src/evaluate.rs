//! One call into a guest: its state, the imports it sees, and how its failures are told.

use crate::bindings::gavel::policy::{config, counters, log, types};
use crate::bindings::{Policy as World, PolicyPre};
use crate::limits::TRANSFER_BYTES_MAX;
use crate::sandbox::{MEMORIES_PER_COMPONENT, TABLES_PER_COMPONENT};
use crate::{
    CounterAnswer, CounterOperation, Counters, FailedClosed, Level, Limits, Metadata, Request, Sandbox, Verdict,
};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmtime::{PoolConcurrencyLimitError, ResourceLimiter, Store, Trap, UpdateDeadline};

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

/// What a call is about: who is asked, by which limits, and what the host answers meanwhile.
pub(crate) struct Call {
    policy: Arc<str>,
    config: Arc<str>,
    limits: Limits,
    counters: Option<Arc<dyn Counters>>,
    now_ms: u64,
    started: Instant,
    /// Wall time for this call: the policy's own, or what is left of the decision's.
    deadline: Duration,
}

impl Call {
    pub(crate) fn evaluate(
        policy: Arc<str>,
        config: Arc<str>,
        limits: Limits,
        counters: Arc<dyn Counters>,
        now_ms: u64,
        deadline: Duration,
    ) -> Self {
        Self { policy, config, limits, counters: Some(counters), now_ms, started: Instant::now(), deadline }
    }

    /// A call of `describe`, which has neither configuration nor counters.
    pub(crate) fn describe(policy: Arc<str>, limits: Limits) -> Self {
        let deadline = Duration::from_millis(limits.deadline_ms);
        let config = Arc::from("null");
        Self { policy, config, limits, counters: None, now_ms: 0, started: Instant::now(), deadline }
    }

    /// Ask a new instance to describe itself; a failure comes with what the guest last said of it.
    pub(crate) async fn run_describe(
        self,
        sandbox: &Sandbox,
        pre: &PolicyPre<Guest>,
    ) -> Result<Metadata, (FailedClosed, Option<String>)> {
        let (until, late) = (self.until(), self.late());
        let (sandbox, pre) = (sandbox.clone(), pre.clone());
        let lanes = Arc::clone(&sandbox.inner);
        let _running = lanes.ticker.enter();
        let asked = async move {
            let mut instance =
                Instance::fresh(&sandbox, &pre, self).await.map_err(|(why, guest)| (why, guest.words()))?;
            let described = instance.world.call_describe(&mut instance.store).await;
            described.map_err(|why| (instance.failure(&why), instance.store.data().words()))
        };
        lanes.lane.run(asked, until).await.unwrap_or(Err((late, None)))
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
        FailedClosed::Deadline { limit_ms: self.limits.deadline_ms }
    }
}

/// An instance with its store, good for one call at a time.
pub(crate) struct Instance {
    pub(crate) store: Store<Guest>,
    world: World,
}

impl Instance {
    /// Make an instance for `call`. Instantiation runs guest code too, so it is under its limits, and a guest that fails
    /// in it is given back with what it said.
    pub(crate) async fn fresh(
        sandbox: &Sandbox,
        pre: &PolicyPre<Guest>,
        call: Call,
    ) -> Result<Self, (FailedClosed, Box<Guest>)> {
        let mut store = Store::new(&sandbox.inner.engine, Guest::new(call, sandbox.inner.options.max_stack_bytes));
        store.limiter(|guest| guest);
        store.set_hostcall_fuel(TRANSFER_BYTES_MAX);
        store.epoch_deadline_callback(|mut store| Ok(store.data_mut().next_slice()));
        // Two ticks: between 0.5 and 1 ms until the guest is moved to the slow lane.
        store.set_epoch_deadline(2);
        match pre.instantiate_async(&mut store).await {
            Ok(world) => Ok(Self { store, world }),
            Err(why) => Err((store.data_mut().failure(&why), Box::new(store.into_data()))),
        }
    }

    /// Ready a kept instance for its next call.
    pub(crate) fn reuse(&mut self, call: Call) {
        let stack = self.store.data().max_stack_bytes;
        let memory = self.store.data().memory_bytes;
        *self.store.data_mut() = Guest::new(call, stack);
        self.store.data_mut().memory_bytes = memory;
        self.store.set_epoch_deadline(2);
    }

    pub(crate) async fn evaluate(&mut self, request: &Request) -> Result<Verdict, FailedClosed> {
        let verdict = self.world.call_evaluate(&mut self.store, request).await.map_err(|why| self.failure(&why))?;
        let limit = self.store.data().call.limits.max_output_bytes;
        match &verdict {
            Verdict::Deny(text) | Verdict::Escalate(text) if text.len() as u64 > limit => {
                Err(FailedClosed::Output { limit })
            }
            _ => Ok(verdict),
        }
    }

    fn failure(&mut self, why: &wasmtime::Error) -> FailedClosed {
        self.store.data_mut().failure(why)
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
    fn new(call: Call, max_stack_bytes: u64) -> Self {
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

    /// End the call: its evaluation around `verdict`, taking what was logged and counted.
    pub(crate) fn conclude(&mut self, verdict: Result<Verdict, FailedClosed>) -> Evaluation {
        Evaluation {
            policy: Arc::clone(&self.call.policy),
            verdict,
            logs: std::mem::take(&mut self.logs),
            logs_dropped: self.logs_dropped,
            counters: std::mem::take(&mut self.answers),
            memory_bytes: self.memory_bytes,
            elapsed: self.call.started.elapsed(),
        }
    }

    /// What the guest said before it failed: its last lines at the level of errors, as far as nothing else is between
    /// them. A panic is one such line, a traceback may be many.
    fn words(&self) -> Option<String> {
        let error = |line: &&LogLine| matches!(line.level, Level::Error);
        let mut lines: Vec<&str> =
            self.logs.iter().rev().take_while(error).take(WORDS_LINES_MAX).map(|line| line.message.as_str()).collect();
        lines.reverse();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    /// At every expired slice: stop at the deadline, else let others run and go on.
    fn next_slice(&mut self) -> UpdateDeadline {
        if self.call.started.elapsed() < self.call.deadline {
            return UpdateDeadline::Yield(1);
        }
        self.hit = Some(self.call.late());
        UpdateDeadline::Interrupt
    }

    /// Why the guest failed, in our terms.
    fn failure(&mut self, why: &wasmtime::Error) -> FailedClosed {
        if let Some(hit) = self.hit.take() {
            return hit;
        }
        match why.downcast_ref::<Trap>() {
            Some(Trap::StackOverflow) => return FailedClosed::Stack { limit: self.max_stack_bytes },
            Some(trap) => return FailedClosed::Trap(trap.to_string().trim_start_matches("wasm trap: ").to_owned()),
            None => {}
        }
        let text = why.root_cause().to_string();
        // wasmtime gives this condition no public type; `tests/hostile.rs` pins the text.
        if text.contains("fuel allocated for hostcalls") {
            return FailedClosed::Output { limit: self.call.limits.max_output_bytes };
        }
        if why.is::<PoolConcurrencyLimitError>() || text.contains("resource limit exceeded") {
            return FailedClosed::Instances { why: text };
        }
        FailedClosed::Undecodable(text)
    }

    fn stop<T>(&mut self, limit: FailedClosed) -> wasmtime::Result<T> {
        let why = wasmtime::format_err!("{limit}");
        self.hit = Some(limit);
        Err(why)
    }

    fn count(&mut self, key: String, window_ms: u64, operation: CounterOperation) -> wasmtime::Result<u64> {
        let limit = self.call.limits.max_counter_calls;
        if self.answers.len() as u64 >= limit {
            return self.stop(FailedClosed::CounterCalls { limit });
        }
        let (policy, now_ms) = (&self.call.policy, self.call.now_ms);
        let answer = match (&self.call.counters, operation) {
            (None, _) => 0,
            (Some(counters), CounterOperation::Read) => counters.read(policy, &key, window_ms, now_ms),
            (Some(counters), CounterOperation::Add(amount)) => counters.add(policy, &key, amount, window_ms, now_ms),
        };
        self.answers.push(CounterAnswer { operation, key, window_ms, answer });
        Ok(answer)
    }
}

impl types::Host for Guest {}

impl log::Host for Guest {
    fn write(&mut self, level: Level, mut message: String) -> wasmtime::Result<()> {
        if self.logs.len() as u64 >= self.call.limits.max_log_lines {
            self.logs_dropped += 1;
            return Ok(());
        }
        let limit = usize::try_from(self.call.limits.max_log_line_bytes).unwrap_or(usize::MAX);
        message.truncate(message.floor_char_boundary(limit));
        self.logs.push(LogLine { level, message });
        Ok(())
    }
}

impl config::Host for Guest {
    fn get(&mut self) -> wasmtime::Result<String> {
        Ok(self.call.config.as_ref().to_owned())
    }
}

/// Bytes of a counter's key.
const COUNTER_KEY_BYTES_MAX: usize = 256;

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
        self.stop(FailedClosed::Output { limit: COUNTER_KEY_BYTES_MAX as u64 })
    }
}

impl ResourceLimiter for Guest {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let asked = self.memory_bytes.saturating_add((desired.saturating_sub(current)) as u64);
        let limit = self.call.limits.max_memory_bytes;
        if asked > limit {
            return self.stop(FailedClosed::Memory { asked, limit });
        }
        self.memory_bytes = asked;
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let (asked, limit) = (desired as u64, self.call.limits.max_table_elements);
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
        let mut guest = Guest::new(Call::describe("p".into(), Limits::default()), 1);
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
