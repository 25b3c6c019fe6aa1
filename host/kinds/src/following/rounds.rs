//! The task that follows: one round after another, in the background and on demand.

use super::fetching::{self, Replaced};
use super::{CaughtUp, End, Sink, Source};
use crate::kind::Clock;
use crate::peers::Peers;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// How often and how much is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// How often the sources are asked while nobody waits.
    pub(crate) every: Duration,
    /// Records of a page.
    pub(crate) page_records: usize,
}

/// What is known of the sources.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// The last question that a whole round covered.
    round: u64,
    /// Sources that could not be read to their end, and why.
    behind: BTreeMap<String, String>,
    /// Records that each source has.
    holds: BTreeMap<String, u64>,
    /// Whether the answer could not wait for the end of its round.
    late: bool,
}

impl Seen {
    /// The sources whose latest records may be missing in an answer, for the answer; empty as a rule.
    pub(crate) fn behind(&self) -> Value {
        let mut told: Vec<Value> =
            self.behind.iter().map(|(source, why)| json!({"source": source, "why": why})).collect();
        if self.late {
            told.push(json!({"source": "all", "why": "what is committed now is still being read: ask again"}));
        }
        Value::Array(told)
    }

    /// Records that each source has, as far as is known.
    pub(crate) fn holds(&self) -> &BTreeMap<String, u64> {
        &self.holds
    }
}

/// The handle of the task. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Follower {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    wake: Notify,
    asked: AtomicU64,
    seen: watch::Sender<Seen>,
}

impl Follower {
    /// Begin to follow; ends with `stop`.
    pub(crate) fn start(peers: Peers, sink: Arc<dyn Sink>, pace: Pace, clock: Clock, stop: CancellationToken) -> Self {
        let shared = Arc::new(Shared {
            wake: Notify::new(),
            asked: AtomicU64::new(0),
            seen: watch::Sender::new(Seen::default()),
        });
        let task = Task { peers, sink, pace, clock, stop, shared: Arc::clone(&shared) };
        tokio::spawn(task.run());
        Self { shared }
    }

    /// What is known now.
    pub(crate) fn seen(&self) -> Seen {
        self.shared.seen.borrow().clone()
    }

    /// Wait until what is committed now was taken, but no longer than `patience`.
    pub(crate) async fn caught_up(&self, patience: Duration) -> Seen {
        let wanted = self.shared.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let mut watching = self.shared.seen.subscribe();
        self.shared.wake.notify_one();
        let whole = tokio::time::timeout(patience, watching.wait_for(|seen| seen.round >= wanted)).await;
        match whole {
            Ok(Ok(seen)) => seen.clone(),
            _ => Seen { late: true, ..self.seen() },
        }
    }

    /// Resolves at the end of each round, after the one that was seen before.
    pub(crate) fn watch(&self) -> watch::Receiver<Seen> {
        self.shared.seen.subscribe()
    }
}

struct Task {
    peers: Peers,
    sink: Arc<dyn Sink>,
    pace: Pace,
    clock: Clock,
    stop: CancellationToken,
    shared: Arc<Shared>,
}

impl Task {
    async fn run(self) {
        while !self.stop.is_cancelled() {
            let covered = self.shared.asked.load(Ordering::Acquire);
            let (behind, holds) = self.round().await;
            self.shared.seen.send_modify(|seen| {
                (seen.round, seen.behind) = (covered, behind);
                seen.holds.extend(holds);
            });
            self.rest(covered).await;
        }
    }

    /// Until somebody asks who was not covered, or it is time again.
    async fn rest(&self, covered: u64) {
        let due = tokio::time::Instant::now() + self.pace.every;
        while self.shared.asked.load(Ordering::Acquire) == covered {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.shared.wake.notified() => {}
                () = tokio::time::sleep_until(due) => return,
            }
        }
    }

    async fn round(&self) -> (BTreeMap<String, String>, BTreeMap<String, u64>) {
        let (mut behind, mut holds, mut caught_up) = (BTreeMap::new(), BTreeMap::new(), CaughtUp::new());
        if !self.peers.are_there() {
            behind.insert("fleet".to_owned(), "this kernel runs alone: there is no ledger to follow".to_owned());
            return (behind, holds);
        }
        // Each with whether nothing can follow on its end.
        let mut sources = vec![(Source::log(), false)];
        match fetching::ledgers(&self.peers).await {
            Ok((ledgers, replaced)) => {
                sources.extend(ledgers.into_iter().map(|source| (source, false)));
                match self.missing(replaced).await {
                    Ok(replaced) => {
                        for (source, missing) in replaced {
                            if let Some(why) = missing {
                                // What it recorded at its end is read now, by whoever did not read it before.
                                behind.insert(source.name.clone(), why);
                                sources.push((source, true));
                            } else {
                                caught_up.insert(source.name, End { read_ms: (self.clock)(), is_final: true });
                            }
                        }
                    }
                    Err(why) => drop(behind.insert("governance".to_owned(), why)),
                }
            }
            Err(why) => drop(behind.insert("governance".to_owned(), why)),
        }
        for (source, is_final) in sources {
            if self.stop.is_cancelled() {
                break;
            }
            match self.follow(&source, &mut holds).await {
                Ok(read_ms) => {
                    behind.remove(&source.name);
                    caught_up.insert(source.name, End { read_ms, is_final });
                }
                Err(why) => {
                    let told = behind.remove(&source.name).map_or_else(|| why.clone(), |told| format!("{told}; {why}"));
                    behind.insert(source.name, told);
                }
            }
        }
        let sink = Arc::clone(&self.sink);
        if let Err(why) = blocking(move || sink.settle(&caught_up)).await {
            tracing::error!("what was read of the ledgers could not be kept: {why}");
            behind.insert("store".to_owned(), why);
        }
        (behind, holds)
    }

    /// Kernels that were replaced, each with why not all of its records may be there, if it is so.
    async fn missing(&self, replaced: Vec<Replaced>) -> Result<Vec<(Source, Option<String>)>, String> {
        let sink = Arc::clone(&self.sink);
        let look = move |kernel: Replaced| {
            let why = kernel.behind(sink.position(&kernel.source.name).next);
            (kernel.source, why)
        };
        blocking(move || Ok(replaced.into_iter().map(look).collect())).await
    }

    /// Read a source to its end; when it was asked for the last time.
    async fn follow(&self, source: &Source, holds: &mut BTreeMap<String, u64>) -> Result<u64, String> {
        let mut rewritten = 0;
        while !self.stop.is_cancelled() {
            let (sink, name) = (Arc::clone(&self.sink), source.name.clone());
            let position = blocking(move || Ok(sink.position(&name))).await?;
            let asked_ms = (self.clock)();
            let fetched = fetching::page(&self.peers, source, &position, self.pace.page_records).await?;
            holds.insert(source.name.clone(), fetched.holds);
            let (page, more) = (fetched.page, fetched.more);
            if let Some(why) = &page.rewritten {
                rewritten += 1;
                tracing::error!(source = source.name, "the history of a ledger was rewritten: {why}");
                if rewritten > 1 {
                    return Err(format!("its history changes while it is read: {why}"));
                }
            }
            if page.rewritten.is_some() || !page.records.is_empty() {
                let sink = Arc::clone(&self.sink);
                blocking(move || sink.take(&page)).await?;
            }
            if !more {
                return Ok(asked_ms);
            }
        }
        Err("this kernel is stopping".to_owned())
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|why| format!("{why:#}")),
        Err(_) => Err("the work on what was read broke off in a panic".to_owned()),
    }
}
