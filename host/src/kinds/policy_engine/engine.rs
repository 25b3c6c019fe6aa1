//! The policies of an engine, and how they change: one change after the other, on disk first, then for everybody at once.

use super::Settings;
use super::book::{Book, Reason, Shelf};
use crate::config::check_id;
use crate::policies::admit::Admission;
use crate::policies::catalogue::Unwritten;
use anyhow::Result;
use arc_swap::ArcSwap;
use gavel_kinds::{Caller, Clock, Fault, Peers};
use gavel_runtime::Policy;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;

/// Characters of a reason.
const WHY_CHARS_MAX: usize = 1_000;
/// Components that may be on their way in at the same time, each as large as `limits.max_component_bytes`.
const UPLOADS_MAX: usize = 2;
/// Versions that are compiled at the same time for those who only ask.
const LOADS_MAX: usize = 1;

/// What an engine is made of.
pub(super) struct Parts {
    pub(super) admission: Admission,
    pub(super) settings: Settings,
    pub(super) clock: Clock,
    pub(super) peers: Peers,
}

/// Named policies with versions.
pub(super) struct Engine {
    pub(super) admission: Arc<Admission>,
    pub(super) settings: Settings,
    pub(super) peers: Peers,
    clock: Clock,
    shelf: Arc<Shelf>,
    /// By name; whoever has taken it out judges by it to the end.
    live: ArcSwap<BTreeMap<String, Arc<Live>>>,
    /// Compiled and not active, the longest unused first.
    pub(super) warm: Mutex<VecDeque<Arc<Ready>>>,
    /// One component after the other is compiled for a change.
    pub(super) admitting: tokio::sync::Mutex<()>,
    /// Those who ask for a version that is not at hand: apart from changes, and so few that a change finds a free core.
    pub(super) loading: Semaphore,
    /// One change after the other.
    pub(super) changing: tokio::sync::Mutex<()>,
    pub(super) uploads: Semaphore,
    counts: Counts,
}

/// A policy as it is now.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) book: Book,
    /// What judges, or why nothing does.
    pub(super) ready: Result<Arc<Ready>, String>,
}

/// A version that can judge.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) policy: Policy,
    pub(super) version: u32,
    pub(super) digest: String,
}

#[derive(Default)]
struct Counts {
    evaluations: Family<Vec<(String, String)>, Counter>,
    changes: Family<Vec<(String, String)>, Counter>,
}

/// What a change of the active version may say.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Swap {
    version: Option<u32>,
    digest: Option<String>,
    /// Only if this version is active now.
    expected: Option<u32>,
    why: String,
}

/// What going back may say.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Back {
    /// Only if this version is active now.
    expected: Option<u32>,
    why: String,
}

impl Engine {
    /// The engine of a folder. A policy whose active version is no longer admitted is there and judges nothing.
    ///
    /// # Errors
    /// If the folder is another's, or a book cannot be read.
    pub(super) async fn open(folder: &Path, parts: Parts, metrics: &mut Registry) -> Result<Self> {
        let Parts { admission, settings, clock, peers } = parts;
        let (shelf, books) = Shelf::open(folder)?;
        let counts = Counts::default();
        let help = "Evaluations, by policy and verdict";
        metrics.register("gavel_policy_engine_evaluations", help, counts.evaluations.clone());
        let help = "Changes of policies, by policy and action";
        metrics.register("gavel_policy_engine_changes", help, counts.changes.clone());
        let engine = Self {
            admission: Arc::new(admission),
            settings,
            peers,
            clock,
            shelf: Arc::new(shelf),
            live: ArcSwap::default(),
            warm: Mutex::default(),
            admitting: tokio::sync::Mutex::default(),
            loading: Semaphore::new(LOADS_MAX),
            changing: tokio::sync::Mutex::default(),
            uploads: Semaphore::new(UPLOADS_MAX),
            counts,
        };
        let mut live = BTreeMap::new();
        for book in books {
            let ready = engine.ready(&book, book.active).await.map_err(|fault| fault.message);
            if let Err(why) = &ready {
                tracing::error!(policy = book.policy, version = book.active, "it judges nothing: {why}");
            }
            live.insert(book.policy.clone(), Arc::new(Live { book, ready }));
        }
        engine.live.store(Arc::new(live));
        Ok(engine)
    }

    /// All policies as they are at this moment.
    pub(super) fn live(&self) -> Arc<BTreeMap<String, Arc<Live>>> {
        self.live.load_full()
    }

    /// One policy as it is at this moment.
    pub(super) fn find(&self, name: &str) -> Result<Arc<Live>, Fault> {
        find_in(&self.live(), name)
    }

    /// Who does something now, and why.
    pub(super) fn reason(&self, caller: &Caller, why: &str) -> Result<Reason, Fault> {
        if why.chars().count() > WHY_CHARS_MAX {
            return Err(Fault::not_accepted(format!("why: at most {WHY_CHARS_MAX} characters are kept")));
        }
        Ok(Reason { who: caller.name.clone(), why: why.to_owned(), at_ms: (self.clock)() })
    }

    /// The time.
    pub(super) fn now_ms(&self) -> u64 {
        (self.clock)()
    }

    /// Let another version judge.
    pub(super) async fn swap(&self, name: &str, wish: Swap, by: Caller) -> Result<Value, Fault> {
        let reason = self.reason(&by, &wish.why)?;
        let _changing = self.changing.lock().await;
        let live = self.find(name)?;
        expected(&live.book, wish.expected)?;
        let to = match (wish.version, &wish.digest) {
            (Some(number), None) => live.book.version(number)?.number,
            (None, Some(digest)) => live.book.by_digest(digest)?.number,
            _ => return Err(Fault::not_accepted("give `version`, a number, or `digest`, and not both")),
        };
        if to == live.book.active && live.ready.is_ok() {
            return Ok(changed(&live, false));
        }
        let ready = self.ready(&live.book, to).await?;
        let book = live.book.clone().swapped(to, &reason, self.settings.steps_max);
        let now = self.take(book, Ok(ready), "swapped").await?;
        self.retire(&live);
        Ok(changed(&now, true))
    }

    /// Let judge what judged before.
    pub(super) async fn roll_back(&self, name: &str, wish: Back, by: Caller) -> Result<Value, Fault> {
        let reason = self.reason(&by, &wish.why)?;
        let _changing = self.changing.lock().await;
        let live = self.find(name)?;
        expected(&live.book, wish.expected)?;
        let Some(to) = live.book.before() else {
            let active = live.book.active;
            return Err(Fault::conflict(format!(
                "policy {name}: nothing judged before version {active}: name one to swap to"
            )));
        };
        let ready = self.ready(&live.book, to).await?;
        let book = live.book.clone().rolled_back(&reason, self.settings.steps_max);
        let now = self.take(book, Ok(ready), "rolled_back").await?;
        self.retire(&live);
        Ok(changed(&now, true))
    }

    /// What no longer judges stays compiled for a while: going back is quick.
    fn retire(&self, before: &Live) {
        if let Ok(ready) = &before.ready {
            self.keep_warm(Arc::clone(ready));
        }
    }

    /// Write a book, then let everybody see it. Called by whoever holds `changing`.
    pub(super) async fn take(
        &self,
        book: Book,
        ready: Result<Arc<Ready>, String>,
        action: &str,
    ) -> Result<Arc<Live>, Fault> {
        let (books, written) = (Arc::clone(&self.shelf), book.clone());
        let written = tokio::task::spawn_blocking(move || books.write(&written)).await;
        let written = written.map_err(|why| Fault::broken(format!("the change broke off: {why}")))?;
        let name = book.policy.clone();
        if let Err(Unwritten::Untouched(why)) = &written {
            return Err(Fault::unavailable(format!("policy {name} is as it was: the change cannot be written: {why}")));
        }
        let now = Arc::new(Live { book, ready });
        let mut live = BTreeMap::clone(&self.live());
        live.insert(name.clone(), Arc::clone(&now));
        self.live.store(Arc::new(live));
        let labels = vec![("policy".to_owned(), name.clone()), ("action".to_owned(), action.to_owned())];
        self.counts.changes.get_or_create(&labels).inc();
        match written {
            Err(Unwritten::Unsynced(why)) => Err(Fault::broken(format!(
                "policy {name} is changed, and it is not sure that the change survives a power failure: {why}"
            ))),
            _ => Ok(now),
        }
    }

    /// Count an evaluation. There are as many series as policies and verdicts.
    pub(super) fn count(&self, policy: &str, verdict: &str) {
        let labels = vec![("policy".to_owned(), policy.to_owned()), ("verdict".to_owned(), verdict.to_owned())];
        self.counts.evaluations.get_or_create(&labels).inc();
    }

    /// How it is, for people. A policy that judges nothing is counted; a restart would not help it.
    pub(super) fn health(&self) -> Map<String, Value> {
        let live = self.live();
        let broken = live.values().filter(|live| live.ready.is_err()).count();
        Map::from_iter([("policies".to_owned(), json!(live.len())), ("broken".to_owned(), json!(broken))])
    }
}

/// One policy of these.
pub(super) fn find_in(live: &BTreeMap<String, Arc<Live>>, name: &str) -> Result<Arc<Live>, Fault> {
    live.get(name).cloned().ok_or_else(|| match named(name) {
        Ok(()) => Fault::absent(format!("there is no policy `{name}`: add it with POST /policies/{name}")),
        Err(fault) => fault,
    })
}

/// Check that a policy may have this name, which is part of a file's.
pub(super) fn named(name: &str) -> Result<(), Fault> {
    check_id(name).map_err(|_| {
        let shown: String = name.chars().take(65).collect();
        Fault::not_accepted(format!(
            "`{}` is no name of a policy: use 1 to 64 letters, digits, `.`, `_` or `-`, not starting with a dot",
            shown.escape_debug()
        ))
    })
}

fn expected(book: &Book, expected: Option<u32>) -> Result<(), Fault> {
    match expected.filter(|expected| *expected != book.active) {
        Some(expected) => Err(Fault::conflict(format!(
            "policy {}: version {} is active, not {expected} as expected: look again",
            book.policy, book.active
        ))),
        None => Ok(()),
    }
}

/// What a change answers.
fn changed(live: &Live, changed: bool) -> Value {
    let mut told = shown(live);
    told["changed"] = json!(changed);
    told
}

/// A policy in brief.
pub(super) fn shown(live: &Live) -> Value {
    let book = &live.book;
    let active = book.versions.iter().find(|version| version.number == book.active);
    json!({
        "policy": book.policy,
        "version": book.active,
        "digest": active.map(|version| &version.digest),
        "component": active.map(|version| &version.component),
        "since_ms": book.since_ms,
        "by": book.by,
        "versions": book.versions.len(),
        "rollback_to": book.before(),
        "problem": live.ready.as_ref().err(),
    })
}
