//! The governor of layers: every transition is a request to a kernel of this host.
//!
//! The actor is `tamiyo`, the tool call `kasmina.transition`, and its parameters are the transition. All transitions
//! of one epoch boundary are submitted side by side, so that their records share the ledger's syncs. A request that is
//! allowed has its record on disk before the transition lands, and its outcome is recorded after: the two records of
//! every tool call. A denial, and whatever else goes wrong (a halted kernel, a ledger that takes no records, a ruling
//! that comes too late), leaves the seed as it was.
//!
//! What the ledger says and what a layer is agree, because the outcome waits for [`KernelGovernor::settle`]: a layer
//! that is kept on disk is saved first, and only then is it recorded that its transitions landed. If the host stops in
//! between, the decision is closed at the next start as FAILED, `outcome unknown: host stopped`, as that of any tool;
//! what the layer came back as stands in the event `kasmina` that follows it. A layer that lives in memory only
//! (`gavel kasmina train`) ends with its process, so there [`KernelGovernor::at_once`] settles by itself.

use crate::decide::{Effect, Principal, Refused};
use crate::fleet::Slot;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gavel_kernel::{Receipt, Request, Status};
use kasmina::govern::{Governor, Order, Ruling, Transition};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// The actor of all transitions.
pub const ACTOR: &str = "tamiyo";
/// The tool that a transition calls.
pub const TRANSITION: &str = "kasmina.transition";
/// The tool that the restoring of a whole layer calls.
pub const RESTORE: &str = "kasmina.restore";

/// Characters of a commander's reason that a request carries.
const REASON_CHARS_MAX: usize = 1_000;

/// How much one epoch boundary may ask, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Transitions of one boundary; more are denied.
    pub transitions_max: usize,
    /// Time for their rulings; what is not ruled then is denied.
    pub ruling_timeout: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        let file = crate::config::KasminaFile::default();
        Self { transitions_max: file.transitions_max, ruling_timeout: Duration::from_millis(file.ruling_timeout_ms) }
    }
}

/// Judges by a kernel. Blocks the thread that asks, which therefore must not be a worker of the runtime.
#[derive(Debug)]
pub struct KernelGovernor {
    slot: Arc<Slot>,
    runtime: Handle,
    bounds: Bounds,
    principal: Principal,
    at_once: bool,
    open: Option<Boundary>,
}

/// What happened to the changes that were allowed.
pub(crate) type Landed = Result<(), String>;

/// The requests of one boundary, which wait for word of the landing.
#[derive(Debug)]
struct Boundary {
    words: Receiver<(usize, Word)>,
    landed: watch::Sender<Option<Landed>>,
    /// For each request: whether it was released and its end is still to come.
    waits: Vec<bool>,
}

/// What is heard of a request.
#[derive(Debug)]
enum Word {
    /// Allowed, and the record of that is on disk.
    Released,
    /// It is over.
    Ended(Box<Result<Receipt, Refused>>),
}

const PENDING: u8 = 0;
const RELEASED: u8 = 1;
const WITHDRAWN: u8 = 2;

/// A transition that is released to land, and waits until it has.
#[derive(Debug)]
struct Landing {
    at: usize,
    state: Arc<AtomicU8>,
    words: SyncSender<(usize, Word)>,
    landed: watch::Receiver<Option<Landed>>,
}

impl Effect for Landing {
    fn happen(&self) -> BoxFuture<'_, Result<Value, String>> {
        async move {
            let taken = self.state.compare_exchange(PENDING, RELEASED, Ordering::SeqCst, Ordering::SeqCst);
            if taken.is_err() {
                return Err("the transition was withdrawn: the ruling came too late (kasmina.ruling_timeout_ms)".into());
            }
            // There is room for two words of each request.
            let _ = self.words.try_send((self.at, Word::Released));
            let mut landed = self.landed.clone();
            let told = landed.wait_for(Option::is_some).await.map(|told| told.clone());
            match told {
                Ok(Some(Ok(()))) => Ok(json!({"landed": true})),
                Ok(Some(Err(why))) => Err(format!("it did not land: {why}")),
                Ok(None) | Err(_) => Err("it is not known to have landed: the layer's thread ended".into()),
            }
        }
        .boxed()
    }
}

impl KernelGovernor {
    /// A governor whose changes wait for [`Self::settle`]. `slot` is the kernel by its name, `runtime` where requests run.
    #[must_use]
    pub fn new(slot: Arc<Slot>, runtime: Handle, bounds: Bounds) -> Self {
        let principal = Principal { name: "kasmina".into(), actor: Some(ACTOR.into()) };
        Self { slot, runtime, bounds, principal, at_once: false, open: None }
    }

    /// For a layer that is nowhere kept: what is allowed counts as landed when the rulings are given.
    #[must_use]
    pub fn at_once(mut self) -> Self {
        self.at_once = true;
        self
    }

    /// Tell whether the changes that were allowed last have landed, and wait until that is recorded. Each text of the
    /// answer says of a request why its outcome is not on record as told.
    pub fn settle(&mut self, landed: Landed) -> Vec<(usize, String)> {
        let Some(boundary) = self.open.take() else { return Vec::new() };
        let expected = landed.is_ok();
        boundary.landed.send_replace(Some(landed));
        self.ends(boundary, expected)
    }

    /// Tell that nobody knows whether the changes that were allowed last have landed, and wait until that is recorded.
    pub(crate) fn abandon(&mut self) {
        let Some(mut boundary) = self.open.take() else { return };
        boundary.landed = watch::channel(None).0;
        self.ends(boundary, false);
    }

    fn ends(&self, mut boundary: Boundary, expected: bool) -> Vec<(usize, String)> {
        let until = Instant::now() + self.bounds.ruling_timeout;
        let mut lost = Vec::new();
        while boundary.waits.contains(&true) {
            let Ok((at, word)) = boundary.words.recv_timeout(until.saturating_duration_since(Instant::now())) else {
                let late = boundary.waits.iter().enumerate().filter(|(_, waits)| **waits);
                lost.extend(late.map(|(at, _)| (at, "the record of its outcome is late".to_owned())));
                break;
            };
            let Word::Ended(ended) = word else { continue };
            boundary.waits[at] = false;
            match *ended {
                Ok(receipt) if (receipt.status == Status::Accepted) == expected => {}
                Ok(receipt) => lost.push((at, receipt.error.unwrap_or_else(|| "recorded as landed".into()))),
                Err(why) => lost.push((at, why.to_string())),
            }
        }
        for (at, why) in &lost {
            tracing::error!(kernel = self.slot.name(), at, why, "the outcome of a transition is not on record");
        }
        lost
    }

    /// Judge changes of one moment: each the id of its request, its tool call, and words about it.
    pub(crate) fn rule(&mut self, changes: Vec<Change>) -> Vec<Ruling> {
        self.settle(Err("the layer did not say whether it landed".into()));
        let (words, heard) = sync_channel(2 * changes.len().max(1));
        let (landed, waiting) = watch::channel(None);
        let states: Vec<Arc<AtomicU8>> = changes.iter().map(|_| Arc::default()).collect();
        let mut rulings: Vec<Option<Ruling>> = vec![None; changes.len()];
        for (at, change) in changes.into_iter().enumerate() {
            if at >= self.bounds.transitions_max {
                let max = self.bounds.transitions_max;
                let why = format!("more than {max} transitions at one boundary (kasmina.transitions_max)");
                rulings[at] = Some(Ruling::Denied(why));
                continue;
            }
            let landing = Landing { at, state: states[at].clone(), words: words.clone(), landed: waiting.clone() };
            self.submit(at, change, landing, words.clone());
        }
        drop((words, waiting));
        let waits = vec![false; rulings.len()];
        let mut boundary = Boundary { words: heard, landed, waits };
        boundary.hear(&mut rulings, self.bounds.ruling_timeout);
        let rulings = boundary.withdraw(rulings, &states, self.bounds.ruling_timeout);
        self.open = Some(boundary);
        if self.at_once { self.settled_at_once(rulings) } else { rulings }
    }

    fn submit(&self, at: usize, change: Change, landing: Landing, words: SyncSender<(usize, Word)>) {
        let (slot, principal) = (Arc::clone(&self.slot), self.principal.clone());
        let now_ms = slot.kernel().clock.now_ms();
        self.runtime.spawn(async move {
            let ended = match Request::from_value(change.request(), now_ms) {
                Ok(request) => slot.submit_with(request, principal, Arc::new(landing)).await,
                Err(why) => Err(Refused::TooLong(why.to_string())),
            };
            // There is room, or nobody waits any more.
            let _ = words.try_send((at, Word::Ended(Box::new(ended))));
        });
    }

    fn settled_at_once(&mut self, mut rulings: Vec<Ruling>) -> Vec<Ruling> {
        for (at, why) in self.settle(Ok(())) {
            rulings[at] = Ruling::Denied(format!("its outcome could not be recorded: {why}"));
        }
        rulings
    }
}

impl Boundary {
    /// Wait until each request has its ruling, or time is up.
    fn hear(&mut self, rulings: &mut [Option<Ruling>], timeout: Duration) {
        let until = Instant::now() + timeout;
        let mut missing = rulings.iter().filter(|ruling| ruling.is_none()).count();
        while missing > 0 {
            let left = until.saturating_duration_since(Instant::now());
            let Ok((at, word)) = self.words.recv_timeout(left) else { return };
            let ruling = match word {
                Word::Released => {
                    self.waits[at] = true;
                    Ruling::Allowed
                }
                Word::Ended(ended) => {
                    self.waits[at] = false;
                    Ruling::Denied(reason(*ended))
                }
            };
            missing -= usize::from(rulings[at].is_none());
            rulings[at] = Some(ruling);
        }
    }

    /// What has no ruling by now is denied, and cannot land any more; unless it is released at this very moment.
    fn withdraw(&mut self, rulings: Vec<Option<Ruling>>, states: &[Arc<AtomicU8>], timeout: Duration) -> Vec<Ruling> {
        let rule = |(at, ruling): (usize, Option<Ruling>)| {
            ruling.unwrap_or_else(|| {
                match states[at].compare_exchange(PENDING, WITHDRAWN, Ordering::SeqCst, Ordering::SeqCst) {
                    Err(RELEASED) => {
                        self.waits[at] = true;
                        Ruling::Allowed
                    }
                    _ => Ruling::Denied(format!(
                        "no ruling within {} ms (kasmina.ruling_timeout_ms)",
                        timeout.as_millis()
                    )),
                }
            })
        };
        rulings.into_iter().enumerate().map(rule).collect()
    }
}

/// Why a request that was not released is denied.
fn reason(ended: Result<Receipt, Refused>) -> String {
    match ended {
        Ok(receipt) => receipt.error.unwrap_or_else(|| "it was allowed and not released".into()),
        Err(why) => why.to_string(),
    }
}

impl Governor for KernelGovernor {
    fn judge(&mut self, transitions: &[Transition]) -> Vec<Ruling> {
        self.rule(transitions.iter().map(Change::of).collect())
    }
}

impl Drop for KernelGovernor {
    fn drop(&mut self) {
        // Whoever knew that it landed would have said so.
        self.settle(Err("the layer's thread ended".into()));
    }
}

/// A change that is asked for, as a request says it.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) id: String,
    pub(crate) tool: &'static str,
    pub(crate) intent: String,
    pub(crate) params: Value,
    pub(crate) evidence: String,
    /// Scope, what is not meant, and by what to tell that it is done: a dual-channel kernel demands them.
    pub(crate) constraints: [String; 3],
}

impl Change {
    fn of(transition: &Transition) -> Self {
        let Transition { layer_id, seed, epoch, from, to, .. } = transition;
        let order = serde_json::to_value(Order::to(*to)).unwrap_or_default();
        let order = order.as_str().unwrap_or_default();
        let reason = shortened(&transition.reason);
        let mut params = serde_json::to_value(transition).unwrap_or_default();
        params["reason"] = json!(reason);
        Self {
            id: format!("kasmina.{layer_id}.{epoch}.{seed}.{order}"),
            tool: TRANSITION,
            intent: format!("Seed {seed} of layer '{layer_id}' from {from} to {to}: {reason}"),
            params,
            evidence: format!("epoch {epoch}: alpha {}, score {}", transition.alpha, transition.evaluation_score),
            constraints: [
                format!("seed {seed} of layer '{layer_id}'"),
                "no other seed changes by it".into(),
                format!("the seed is in {to}"),
            ],
        }
    }

    fn request(self) -> Value {
        let [scope, non_goals, success] = self.constraints;
        json!({
            "request_id": self.id,
            "actor": ACTOR,
            "intent": self.intent,
            "tool_call": {"name": self.tool, "params": self.params},
            "evidence": self.evidence,
            "constraints": {"scope": scope, "non_goals": non_goals, "success_criteria": success},
        })
    }
}

/// A commander's reason as a record has room for it.
pub(crate) fn shortened(reason: &str) -> String {
    reason.chars().take(REASON_CHARS_MAX).collect()
}
