//! The approvals of one kernel at this moment: the book, and what is under way.
//!
//! Beside the book stand the requests whose records are not durable yet. One that asks is shown to nobody before its
//! record is; one that uses an approval has it for itself from then on, and gives it back only if its decision certainly
//! left no record. Time never goes back here: what expired stays expired though the clock be set back.

use super::book::{Approval, Book, Bound, Given, Use};
use super::{Desk, ask::Asked};
use crate::config::ApprovalsFile;
use crate::metrics::{ApprovalLabels, KernelLabels, Metrics};
use gavel_kernel::ApprovalState;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// News that are kept until they are told.
const NEWS_MAX: usize = 10_000;

/// The approvals of one kernel.
#[derive(Debug)]
pub(crate) struct Queue {
    desk: Arc<Desk>,
    kernel: String,
    metrics: Metrics,
    held: Mutex<Held>,
    /// Changes whenever an approval does.
    version: watch::Sender<u64>,
    waiters: Semaphore,
    /// Cancelled when nobody is to wait any more.
    ended: CancellationToken,
    /// Held while a human's word is recorded.
    pub(super) deciding: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Held {
    book: Book,
    /// Asked for by requests whose records are on their way, and by how many.
    asking: BTreeMap<String, (Approval, usize)>,
    /// Approvals that a request has whose record is on its way.
    taken: BTreeSet<String>,
    /// The latest time that was seen.
    latest_ms: u64,
    news: VecDeque<News>,
}

/// Something that happened to an approval.
#[derive(Debug, Clone)]
pub(crate) struct News {
    /// What: `wanted`, `approved`, `rejected`, `used`.
    pub(crate) what: &'static str,
    /// The approval after it.
    pub(crate) approval: Approval,
}

/// Which approvals are wanted; everything that is given must hold.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// In this state.
    pub state: Option<ApprovalState>,
    /// Of this actor.
    pub actor: Option<String>,
    /// For this tool.
    pub tool: Option<String>,
    /// After the one with this number.
    pub after: Option<u64>,
    /// So many at most.
    pub limit: usize,
}

/// A page of approvals, oldest first.
#[derive(Debug)]
pub struct Page {
    /// The approvals, with their states.
    pub approvals: Vec<(Approval, ApprovalState)>,
    /// Whether there are more.
    pub more: bool,
    /// How many wait in all that the caller may see.
    pub waiting: usize,
}

impl Queue {
    pub(crate) fn new(desk: Arc<Desk>, kernel: &str, metrics: Metrics) -> Self {
        let waiters = Semaphore::new(desk.limits.waiters_max);
        Self {
            desk,
            kernel: kernel.to_owned(),
            metrics,
            held: Mutex::default(),
            version: watch::Sender::new(0),
            waiters,
            ended: CancellationToken::new(),
            deciding: tokio::sync::Mutex::default(),
        }
    }

    /// Go on where the records end. What waits is told again: the process that was to tell it may have been killed.
    pub(crate) fn recall(&self, book: Book, now_ms: u64) {
        let mut held = self.held();
        let waiting = book.approvals.values().filter(|approval| approval.state(now_ms) == ApprovalState::Waiting);
        held.news = waiting.map(|approval| News { what: "wanted", approval: approval.clone() }).collect();
        held.latest_ms = now_ms;
        held.book = book;
        drop(held);
        self.desk.bell.notify_one();
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is held, at a time.
    fn at(&self, now_ms: u64) -> MutexGuard<'_, Held> {
        let mut held = self.held();
        let expired = held.go_on_to(now_ms);
        if expired > 0 {
            self.count("expired", expired);
            self.changed();
        }
        held
    }

    pub(super) fn limits(&self) -> &ApprovalsFile {
        &self.desk.limits
    }

    fn count(&self, outcome: &'static str, by: u64) {
        let labels = ApprovalLabels { kernel: self.kernel.clone(), outcome };
        self.metrics.approvals.get_or_create(&labels).inc_by(by);
    }

    fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// How a request stands that a policy escalated: it has an approval from now on, or is to be denied. `make` makes an
    /// approval of its number, should it be the first to ask.
    pub(super) fn ask(
        &self,
        bound: &Bound,
        caller: &str,
        now_ms: u64,
        make: impl FnOnce(u64, u64) -> Approval,
    ) -> Asked {
        let mut held = self.at(now_ms);
        let now_ms = held.latest_ms;
        let asked = match held.find(bound, now_ms) {
            Some((approval, ApprovalState::Approved)) if self.is_own(&approval, caller) => Asked::Own(approval),
            Some((approval, ApprovalState::Approved)) => {
                held.taken.insert(approval.id.clone());
                Asked::Allowed(approval)
            }
            Some((approval, ApprovalState::Waiting)) => {
                if let Some((_, by)) = held.asking.get_mut(&approval.id) {
                    *by += 1;
                }
                Asked::Waits(approval)
            }
            Some((approval, _)) => Asked::Rejected(approval),
            None => held.begin(&bound.actor, self.limits(), make),
        };
        drop(held);
        if matches!(asked, Asked::Full(_)) {
            self.count("refused", 1);
        }
        asked
    }

    /// Whether a caller would use what it approved itself.
    fn is_own(&self, approval: &Approval, caller: &str) -> bool {
        let own = approval.word.as_ref().is_some_and(|word| word.keyed && word.by == caller);
        own && !self.limits().self_approval
    }

    /// The decision of a request that asked is on record, at this place.
    pub(super) fn recorded(&self, asked: &Asked, used: Use) {
        let mut held = self.held();
        let news = match asked {
            Asked::Waits(approval) => held.asking.remove(&approval.id).map(|(approval, _)| {
                let approval = Approval { record: used.record, ..approval };
                held.book.approvals.insert(approval.id.clone(), approval.clone());
                let latest_ms = held.latest_ms;
                held.book.forget_finished(latest_ms);
                News { what: "wanted", approval }
            }),
            Asked::Allowed(approval) => {
                held.taken.remove(&approval.id);
                let known = held.book.approvals.get_mut(&approval.id);
                known.map(|known| {
                    known.used = Some(used);
                    News { what: "used", approval: known.clone() }
                })
            }
            Asked::Own(_) | Asked::Rejected(_) | Asked::Full(_) => None,
        };
        self.tell(held, news);
    }

    /// The decision of a request that asked left no record, or, if that is not `certain`, perhaps one.
    pub(super) fn not_recorded(&self, asked: &Asked, certain: bool) {
        let mut held = self.held();
        match asked {
            Asked::Waits(approval) => {
                if let Some((_, by)) = held.asking.get_mut(&approval.id) {
                    *by -= 1;
                    if *by == 0 {
                        held.asking.remove(&approval.id);
                    }
                }
            }
            // What may be spent is spent.
            Asked::Allowed(approval) if certain => {
                held.taken.remove(&approval.id);
            }
            _ => {}
        }
    }

    /// A human's word is on record.
    pub(super) fn said(&self, id: &str, word: Given) -> Option<Approval> {
        let mut held = self.held();
        let what = if word.approved { "approved" } else { "rejected" };
        let known = held.book.approvals.get_mut(id)?;
        known.word = Some(word);
        let approval = known.clone();
        self.tell(held, Some(News { what, approval: approval.clone() }));
        Some(approval)
    }

    fn tell(&self, mut held: MutexGuard<'_, Held>, news: Option<News>) {
        let Some(news) = news else { return };
        self.count(news.what, 1);
        if held.news.len() >= NEWS_MAX {
            held.news.pop_front();
        }
        held.news.push_back(news);
        drop(held);
        self.changed();
        self.desk.bell.notify_one();
    }

    /// What happened since this was asked last.
    pub(crate) fn take_news(&self) -> VecDeque<News> {
        std::mem::take(&mut self.held().news)
    }

    /// An approval and its state.
    pub(super) fn get(&self, id: &str, now_ms: u64) -> Option<(Approval, ApprovalState)> {
        let held = self.at(now_ms);
        let approval = held.book.approvals.get(id)?.clone();
        let state = approval.state(held.latest_ms);
        Some((approval, state))
    }

    /// A page of those that are wanted, oldest first.
    pub(super) fn page(&self, wanted: &Wanted, now_ms: u64) -> Page {
        let held = self.at(now_ms);
        let is_of = |asked: &Option<String>, found: Option<&str>| asked.is_none() || asked.as_deref() == found;
        let seen = held.book.approvals.values().filter(|found| {
            is_of(&wanted.actor, Some(&found.bound.actor)) && is_of(&wanted.tool, found.tool.as_deref())
        });
        let seen: Vec<(&Approval, ApprovalState)> = seen.map(|found| (found, found.state(held.latest_ms))).collect();
        let waiting = seen.iter().filter(|(_, state)| *state == ApprovalState::Waiting).count();
        let matching = seen.into_iter().filter(|(found, state)| {
            wanted.state.is_none_or(|asked| asked == *state) && wanted.after.is_none_or(|after| found.number > after)
        });
        let mut matching: Vec<(&Approval, ApprovalState)> = matching.collect();
        matching.sort_unstable_by_key(|(found, _)| found.number);
        let more = matching.len() > wanted.limit;
        matching.truncate(wanted.limit);
        let approvals = matching.into_iter().map(|(found, state)| (found.clone(), state)).collect();
        Page { approvals, more, waiting }
    }

    /// Wait until an approval no longer waits, but not longer than `limit`. Where too many wait already, nobody does.
    pub(super) async fn wait(&self, id: &str, limit: Duration, now_ms: impl Fn() -> u64) {
        let Ok(_place) = self.waiters.try_acquire() else { return };
        let mut version = self.version.subscribe();
        let decided = async {
            while self.get(id, now_ms()).is_some_and(|(_, state)| state == ApprovalState::Waiting) {
                if version.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = decided => {}
            () = self.ended.cancelled() => {}
            () = tokio::time::sleep(limit) => {}
        }
    }

    /// From now on nobody waits.
    pub(crate) fn end_waits(&self) {
        self.ended.cancel();
    }

    /// Bring the gauge up to date.
    pub(crate) fn observe(&self, now_ms: u64) {
        let held = self.at(now_ms);
        let states = held.book.approvals.values().map(|approval| approval.state(held.latest_ms));
        let waiting = states.filter(|state| *state == ApprovalState::Waiting).count();
        let labels = KernelLabels { kernel: self.kernel.clone() };
        self.metrics.approvals_waiting.get_or_create(&labels).set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }
}

impl Held {
    /// Goes on to a time, and counts what expired on the way unused.
    fn go_on_to(&mut self, now_ms: u64) -> u64 {
        if now_ms <= self.latest_ms {
            return 0;
        }
        let since_ms = std::mem::replace(&mut self.latest_ms, now_ms);
        self.asking.retain(|_, (approval, _)| now_ms < approval.expires_ms);
        let expired = self
            .book
            .approvals
            .values()
            .filter(|approval| since_ms < approval.expires_ms && approval.state(now_ms) == ApprovalState::Expired);
        expired.count() as u64
    }

    /// The live approval that is bound to this, if nobody has it: one that was approved before one that waits.
    fn find(&self, bound: &Bound, now_ms: u64) -> Option<(Approval, ApprovalState)> {
        let known = self.book.approvals.values().chain(self.asking.values().map(|(approval, _)| approval));
        let live = known.filter(|approval| {
            approval.bound == *bound && approval.is_live(now_ms) && !self.taken.contains(&approval.id)
        });
        let rank = |state: ApprovalState| match state {
            ApprovalState::Approved => 0,
            ApprovalState::Waiting => 1,
            _ => 2,
        };
        let live = live.map(|approval| (approval, approval.state(now_ms)));
        live.min_by_key(|(_, state)| rank(*state)).map(|(approval, state)| (approval.clone(), state))
    }

    /// One more waits, if there is a place for it.
    fn begin(&mut self, actor: &str, limits: &ApprovalsFile, make: impl FnOnce(u64, u64) -> Approval) -> Asked {
        if let Some(limit) = self.full(actor, limits) {
            return Asked::Full(limit);
        }
        let approval = make(self.book.next, self.latest_ms);
        self.book.next += 1;
        self.asking.insert(approval.id.clone(), (approval.clone(), 1));
        Asked::Waits(approval)
    }

    /// The limit that is reached, if one is.
    fn full(&self, actor: &str, limits: &ApprovalsFile) -> Option<&'static str> {
        let (mut all, mut own) = (0, 0);
        let known = self.book.approvals.values().chain(self.asking.values().map(|(approval, _)| approval));
        for approval in known.filter(|approval| approval.is_live(self.latest_ms)) {
            all += 1;
            own += usize::from(approval.bound.actor == actor);
        }
        if all >= limits.waiting_max {
            return Some("approvals.waiting_max");
        }
        (own >= limits.waiting_per_actor_max).then_some("approvals.waiting_per_actor_max")
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
