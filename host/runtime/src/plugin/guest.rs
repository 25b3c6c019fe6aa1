//! The host's side of a plugin's instance: what it is granted, its clock, its caps, and how its failures are told.

use super::home::{FIRST_SLICE_TICKS, Home};
use super::{FORBIDDEN, Level, Limits, Refusal, TOO_LARGE};
use crate::FailedClosed;
use crate::bindings::plugin::gavel::plugin::{bus, config, log, state, tools, types};
use crate::evaluate::failure_of;
use crate::load::with_guest_words;
use crate::sandbox::{CORE_INSTANCES_PER_COMPONENT, MEMORIES_PER_COMPONENT, TABLES_PER_COMPONENT};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmtime::{ResourceLimiter, UpdateDeadline};

/// A future in a box, as `futures` has it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a plugin may ask of its host. Whoever implements it stamps who asks, and refuses what was not granted.
///
/// Data and values are texts of the guest: that they are JSON is not checked here. No text is longer than the
/// `max_output_bytes` of the plugin.
pub trait Imports: Send + Sync + 'static {
    /// Tell of an event; gives its id.
    fn emit(&self, name: String, data: String) -> BoxFuture<'_, Result<String, Refusal>>;
    /// Ask for the answer to an event, as JSON text.
    fn call(&self, name: String, data: String) -> BoxFuture<'_, Result<String, Refusal>>;
    /// The value under a key of the state, if there is one.
    fn state_get(&self, namespace: String, key: String) -> BoxFuture<'_, Result<Option<String>, Refusal>>;
    /// Put a value under a key; it is durable when this has ended.
    fn state_set(&self, namespace: String, key: String, value: String) -> BoxFuture<'_, Result<(), Refusal>>;
    /// Remove a key; gives whether it was there.
    fn state_delete(&self, namespace: String, key: String) -> BoxFuture<'_, Result<bool, Refusal>>;
    /// Keys that match a glob, ascending.
    fn state_keys(&self, namespace: String, pattern: String) -> BoxFuture<'_, Result<Vec<String>, Refusal>>;
    /// Ask for a governed tool; gives its result as JSON text.
    fn tool_call(&self, name: String, params: String, intent: String) -> BoxFuture<'_, Result<String, Refusal>>;
    /// Write a line for the operator, already shortened and counted. The guest's own text: it may have control characters.
    fn log(&self, level: Level, line: &str);
}

/// What is said to an instance that only describes itself.
pub(super) struct Nothing;

fn nothing<T: Send + 'static>() -> BoxFuture<'static, Result<T, Refusal>> {
    let message = "describe is granted nothing".to_owned();
    Box::pin(std::future::ready(Err(Refusal { message, code: Some(FORBIDDEN.to_owned()) })))
}

impl Imports for Nothing {
    fn emit(&self, _: String, _: String) -> BoxFuture<'_, Result<String, Refusal>> {
        nothing()
    }

    fn call(&self, _: String, _: String) -> BoxFuture<'_, Result<String, Refusal>> {
        nothing()
    }

    fn state_get(&self, _: String, _: String) -> BoxFuture<'_, Result<Option<String>, Refusal>> {
        nothing()
    }

    fn state_set(&self, _: String, _: String, _: String) -> BoxFuture<'_, Result<(), Refusal>> {
        nothing()
    }

    fn state_delete(&self, _: String, _: String) -> BoxFuture<'_, Result<bool, Refusal>> {
        nothing()
    }

    fn state_keys(&self, _: String, _: String) -> BoxFuture<'_, Result<Vec<String>, Refusal>> {
        nothing()
    }

    fn tool_call(&self, _: String, _: String, _: String) -> BoxFuture<'_, Result<String, Refusal>> {
        nothing()
    }

    fn log(&self, _: Level, _: &str) {}
}

/// Who is asked and on what terms: the same for every instance of a component.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) name: String,
    /// What the guest gets as its configuration.
    pub(super) config: Arc<str>,
    pub(super) limits: Limits,
}

/// What the guest does when it has worked for a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turns {
    /// It lets the other tasks of its thread go first.
    Taken,
    /// It has the thread to itself.
    Alone,
}

/// Lines of a guest's own words that come with a trap.
const WORDS_LINES_MAX: usize = 16;

/// What the store of an instance holds.
pub(super) struct Guest {
    home: Arc<Home>,
    terms: Arc<Terms>,
    imports: Arc<dyn Imports>,
    turns: Turns,
    /// When its own work in the call has taken too long; moved by what its imports take.
    until: Instant,
    /// The wall time that `until` was reckoned from, in milliseconds.
    deadline_ms: u64,
    memory_bytes: u64,
    log_lines: u64,
    log_lines_dropped: u64,
    /// The lines at the level of errors that it wrote last, in this call.
    words: Vec<String>,
    /// The limit that stopped the guest, noted where it was hit.
    hit: Option<FailedClosed>,
}

impl Guest {
    pub(super) fn new(home: Arc<Home>, terms: Arc<Terms>, imports: Arc<dyn Imports>, turns: Turns) -> Self {
        Self {
            home,
            terms,
            imports,
            turns,
            until: Instant::now(),
            deadline_ms: 0,
            memory_bytes: 0,
            log_lines: 0,
            log_lines_dropped: 0,
            words: Vec::new(),
            hit: None,
        }
    }

    /// Begin a call: time and log lines count from here.
    pub(super) fn begin(&mut self, deadline_ms: u64) {
        self.until = Instant::now() + Duration::from_millis(deadline_ms);
        self.deadline_ms = deadline_ms;
        self.log_lines = 0;
        self.words.clear();
    }

    /// End a call, or the making of the instance: what was dropped of its log is told in the log.
    pub(super) fn end(&mut self) {
        let dropped = std::mem::take(&mut self.log_lines_dropped);
        if dropped > 0 {
            let limit = self.terms.limits.max_log_lines;
            self.imports
                .log(Level::Warn, &format!("{dropped} more lines dropped, the limit is {limit} (max_log_lines)"));
        }
    }

    pub(super) fn home(&self) -> &Home {
        &self.home
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.terms.limits
    }

    pub(super) fn max_output_bytes(&self) -> u64 {
        self.terms.limits.max_output_bytes
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// At every expired slice: stop at the deadline, else let others run and go on.
    pub(super) fn next_slice(&mut self) -> UpdateDeadline {
        if Instant::now() >= self.until {
            self.hit = Some(FailedClosed::Deadline { limit_ms: self.deadline_ms });
            return UpdateDeadline::Interrupt;
        }
        match self.turns {
            Turns::Alone => UpdateDeadline::Continue(1),
            // Tokio's own yield: after it the sockets and timers have their turn as well.
            Turns::Taken => UpdateDeadline::YieldCustom(FIRST_SLICE_TICKS, Box::pin(tokio::task::yield_now())),
        }
    }

    /// Why the guest failed, in our terms, with its own last words.
    pub(super) fn failure(&mut self, why: &wasmtime::Error) -> FailedClosed {
        let told = self.hit.take();
        let told = told.unwrap_or_else(|| failure_of(why, self.home.max_stack_bytes, self.max_output_bytes()));
        let words = (!self.words.is_empty()).then(|| self.words.join("\n"));
        with_guest_words((told, words))
    }

    fn stop<T>(&mut self, limit: FailedClosed) -> wasmtime::Result<T> {
        let why = wasmtime::format_err!("{limit}");
        self.hit = Some(limit);
        Err(why)
    }

    /// What is handed over at once is bounded, so that no plugin can make the bus hold more than it may answer.
    fn fitting(&self, texts: &[&String]) -> Result<(), Refusal> {
        let (bytes, limit) = (texts.iter().map(|text| text.len() as u64).sum::<u64>(), self.max_output_bytes());
        if bytes <= limit {
            return Ok(());
        }
        let message = format!("{bytes} bytes handed over at once, the limit is {limit} bytes (max_output_bytes)");
        Err(Refusal { message, code: Some(TOO_LARGE.to_owned()) })
    }

    /// Wait for the host. The guest's own time stands still meanwhile.
    async fn wait<T>(&mut self, answer: BoxFuture<'_, T>) -> wasmtime::Result<T> {
        let home = Arc::clone(&self.home);
        let paused = home.ticker.pause();
        let begun = Instant::now();
        let answer = answer.await;
        self.until += begun.elapsed();
        drop(paused);
        Ok(answer)
    }
}

impl types::Host for Guest {}

impl bus::Host for Guest {
    async fn emit(&mut self, name: String, data: String) -> wasmtime::Result<Result<String, Refusal>> {
        if let Err(refusal) = self.fitting(&[&name, &data]) {
            return Ok(Err(refusal));
        }
        let imports = Arc::clone(&self.imports);
        self.wait(imports.emit(name, data)).await
    }

    async fn call(&mut self, name: String, data: String) -> wasmtime::Result<Result<String, Refusal>> {
        if let Err(refusal) = self.fitting(&[&name, &data]) {
            return Ok(Err(refusal));
        }
        let imports = Arc::clone(&self.imports);
        self.wait(imports.call(name, data)).await
    }
}

impl state::Host for Guest {
    async fn get(&mut self, namespace: String, key: String) -> wasmtime::Result<Result<Option<String>, Refusal>> {
        if let Err(refusal) = self.fitting(&[&namespace, &key]) {
            return Ok(Err(refusal));
        }
        let imports = Arc::clone(&self.imports);
        self.wait(imports.state_get(namespace, key)).await
    }

    async fn set(&mut self, namespace: String, key: String, value: String) -> wasmtime::Result<Result<(), Refusal>> {
        if let Err(refusal) = self.fitting(&[&namespace, &key, &value]) {
            return Ok(Err(refusal));
        }
        let imports = Arc::clone(&self.imports);
        self.wait(imports.state_set(namespace, key, value)).await
    }

    async fn delete(&mut self, namespace: String, key: String) -> wasmtime::Result<Result<bool, Refusal>> {
        if let Err(refusal) = self.fitting(&[&namespace, &key]) {
            return Ok(Err(refusal));
        }
        let imports = Arc::clone(&self.imports);
        self.wait(imports.state_delete(namespace, key)).await
    }

    async fn keys(&mut self, namespace: String, pattern: String) -> wasmtime::Result<Result<Vec<String>, Refusal>> {
        if let Err(refusal) = self.fitting(&[&namespace, &pattern]) {
            return Ok(Err(refusal));
        }
        let imports = Arc::clone(&self.imports);
        self.wait(imports.state_keys(namespace, pattern)).await
    }
}

impl tools::Host for Guest {
    async fn call(
        &mut self,
        name: String,
        params: String,
        intent: String,
    ) -> wasmtime::Result<Result<String, Refusal>> {
        if let Err(refusal) = self.fitting(&[&name, &params, &intent]) {
            return Ok(Err(refusal));
        }
        let imports = Arc::clone(&self.imports);
        self.wait(imports.tool_call(name, params, intent)).await
    }
}

impl log::Host for Guest {
    fn write(&mut self, level: Level, mut message: String) -> wasmtime::Result<()> {
        if self.log_lines >= self.terms.limits.max_log_lines {
            self.log_lines_dropped += 1;
            return Ok(());
        }
        self.log_lines += 1;
        let limit = usize::try_from(self.terms.limits.max_log_line_bytes).unwrap_or(usize::MAX);
        message.truncate(message.floor_char_boundary(limit));
        self.imports.log(level, &message);
        if level == Level::Error {
            if self.words.len() == WORDS_LINES_MAX {
                self.words.remove(0);
            }
            self.words.push(message);
        } else {
            self.words.clear();
        }
        Ok(())
    }
}

impl config::Host for Guest {
    fn get(&mut self) -> wasmtime::Result<String> {
        Ok(self.terms.config.as_ref().to_owned())
    }
}

impl ResourceLimiter for Guest {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let asked = self.memory_bytes.saturating_add((desired.saturating_sub(current)) as u64);
        let limit = self.terms.limits.max_memory_bytes;
        if asked > limit {
            return self.stop(FailedClosed::Memory { asked, limit });
        }
        self.memory_bytes = asked;
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let (asked, limit) = (desired as u64, self.terms.limits.max_table_elements);
        if asked > limit {
            return self.stop(FailedClosed::Table { asked, limit });
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES_PER_COMPONENT as usize
    }

    fn memories(&self) -> usize {
        MEMORIES_PER_COMPONENT as usize
    }

    fn tables(&self) -> usize {
        TABLES_PER_COMPONENT as usize
    }
}
