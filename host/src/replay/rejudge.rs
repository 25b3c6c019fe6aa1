//! The same question to the same component must get the same answer.
//!
//! Counters answer what they answered then, in the same order. A policy that asks them something
//! else has changed its mind, and that is a difference too.

use super::history::{ESCALATE, Past, Recorded, Said};
use super::{Bench, Difference, Report};
use crate::policies::shadow::Word;
use crate::record::{shortened, verdict_label};
use anyhow::Result;
use gavel_kernel::policy_denial;
use gavel_runtime::{CounterAnswer, CounterOperation, Counters, Denial, Evaluation, PolicySet};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::JoinSet;

/// Decisions that one task judges.
const BATCH: usize = 256;

/// Judge every decision of `past` again, on all processors; `seen` is called after each batch with
/// how many decisions that were.
///
/// # Errors
/// When the ledger cannot be read or a set cannot be loaded.
pub async fn rejudge(past: Past, bench: &mut Bench, mut seen: impl FnMut(u64)) -> Result<Report> {
    let tasks_max = std::thread::available_parallelism().map_or(1, usize::from) * 2;
    let mut report = Report::default();
    let mut tasks: JoinSet<Vec<Option<Difference>>> = JoinSet::new();
    let mut batch = Vec::with_capacity(BATCH);
    for decision in past {
        report.decisions += 1;
        match decision? {
            Err(why) => report.skip(why),
            Ok(recorded) => batch.push((bench.set(&recorded.set).await?, recorded)),
        }
        if batch.len() < BATCH {
            continue;
        }
        if tasks.len() >= tasks_max
            && let Some(judged) = tasks.join_next().await
        {
            judged?.into_iter().for_each(|difference| report.count(difference));
        }
        seen(report.decisions);
        tasks.spawn(judge_all(std::mem::replace(&mut batch, Vec::with_capacity(BATCH))));
    }
    tasks.spawn(judge_all(batch));
    while let Some(judged) = tasks.join_next().await {
        judged?.into_iter().for_each(|difference| report.count(difference));
    }
    report.differences.sort_by_key(|difference| difference.index);
    Ok(report)
}

async fn judge_all(batch: Vec<(PolicySet, Recorded)>) -> Vec<Option<Difference>> {
    let mut differences = Vec::with_capacity(batch.len());
    for (set, recorded) in batch {
        differences.push(judge(&set, recorded).await);
    }
    differences
}

async fn judge(set: &PolicySet, recorded: Recorded) -> Option<Difference> {
    let answers = Arc::new(Answers::new(&recorded.said));
    let counters: Arc<dyn Counters> = Arc::clone(&answers) as _;
    let request = Arc::clone(&recorded.request);
    // Before a human could be asked, the first escalation ended it.
    let ended = recorded.said.len() < set.policies().len();
    let judged = if ended && recorded.said.last().is_some_and(|said| said.verdict == ESCALATE) {
        set.judge_until_escalation(request, counters).await
    } else {
        set.judge(request, counters).await
    };
    let now = word(judged.denial().as_ref(), recorded.approved);
    let note = answers.mismatch().or_else(|| verdicts_differ(&recorded.said, &judged.evaluations));
    (now != recorded.word || note.is_some()).then(|| difference(recorded, now, note))
}

/// What comes of what a set says, with the reason as it is recorded. What is only escalated passes if it was `approved`.
pub(super) fn word(denial: Option<&Denial>, approved: bool) -> Word {
    match Word::from(denial) {
        Word::Deny { escalated: true, .. } if approved => Word::Allow,
        Word::Deny { policy, reason, escalated } => {
            let reason = shortened(policy_denial(&policy, &reason));
            Word::Deny { policy, reason, escalated }
        }
        Word::Allow => Word::Allow,
    }
}

pub(super) fn difference(recorded: Recorded, now: Word, note: Option<String>) -> Difference {
    Difference {
        index: recorded.index,
        ts_ms: recorded.request.now_ms,
        request_id: recorded.request.id.clone(),
        actor: recorded.request.actor.clone(),
        tool: recorded.request.tool_call.as_ref().map(|call| call.name.clone()),
        recorded: recorded.word,
        now,
        note,
    }
}

fn verdicts_differ(said: &[Said], now: &[Evaluation]) -> Option<String> {
    let then: Vec<&str> = said.iter().map(|said| said.verdict.as_str()).collect();
    let now: Vec<&str> = now.iter().map(|evaluation| verdict_label(&evaluation.verdict)).collect();
    (then != now).then(|| format!("the policies said {}, now {}", then.join(", "), now.join(", ")))
}

/// Counters that answer as they did then.
struct Answers {
    left: Mutex<HashMap<String, VecDeque<CounterAnswer>>>,
    mismatch: Mutex<Option<String>>,
}

impl Answers {
    fn new(said: &[Said]) -> Self {
        let left = said
            .iter()
            .filter(|said| !said.counters.is_empty())
            .map(|said| (said.name.clone(), said.counters.iter().cloned().map(CounterAnswer::from).collect()));
        Self { left: Mutex::new(left.collect()), mismatch: Mutex::default() }
    }

    fn answer(&self, policy: &str, key: &str, window_ms: u64, operation: CounterOperation) -> u64 {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let next = left.get_mut(policy).and_then(VecDeque::pop_front);
        if let Some(next) = &next
            && (next.key.as_str(), next.window_ms, next.operation) == (key, window_ms, operation)
        {
            return next.answer;
        }
        let mut mismatch = self.mismatch.lock().unwrap_or_else(PoisonError::into_inner);
        mismatch.get_or_insert_with(|| {
            format!("policy {policy} asks its counters {operation:?} of '{key}' over {window_ms} ms, it asked {next:?}")
        });
        0
    }

    fn mismatch(&self) -> Option<String> {
        if let Some(mismatch) = self.mismatch.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Some(mismatch);
        }
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let unasked = left.iter().find(|(_, answers)| !answers.is_empty());
        unasked.map(|(policy, answers)| format!("policy {policy} does not ask its counters {:?}", answers[0]))
    }
}

impl Counters for Answers {
    fn read(&self, policy: &str, key: &str, window_ms: u64, _: u64) -> u64 {
        self.answer(policy, key, window_ms, CounterOperation::Read)
    }

    fn add(&self, policy: &str, key: &str, amount: u64, window_ms: u64, _: u64) -> u64 {
        self.answer(policy, key, window_ms, CounterOperation::Add(amount))
    }
}
