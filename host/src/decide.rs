//! The spine: judge, record, execute, record, answer. Start reading here.
//!
//! What always holds, whatever fails:
//! - Nothing runs without an explicit ALLOW, and no ALLOW leaves before its record is durable.
//! - Every request that is judged leaves a record: one when it is denied or runs nothing, two when
//!   a tool runs (the decision before, the outcome after).
//! - Once judged, a request is carried to its end even if its caller goes away.
//!
//! What is deliberately absent: retries, caches of verdicts, and any way back from here up to HTTP.

use crate::approvals::{Asked, Escalated};
use crate::carry::{Panicked, carry};
use crate::claims;
use crate::gate::Pass;
use crate::kernel::{Kernel, Walk};
use crate::metrics::{DecisionLabels, KernelLabels, PolicyLabels, PolicyTimeLabels, ToolLabels};
use crate::policies::change::Reason;
use crate::policies::health::Quarantined;
use crate::policies::life::{Deployed, Line};
use crate::policies::shadow::Word;
use crate::record::{self, DecisionMeta, Mode};
use futures_util::future::BoxFuture;
use gavel_kernel::{Decision, EntryData, Judgement, MemoryPermitUses, Receipt, Request, Stage, State, Status, judge};
use gavel_ledger::{AppendError, BlobError, BlobId, Blobs, Committed, Draft, Kind, SEGMENT_RECORDS};
use gavel_runtime::{Evaluation, Level, WindowedCounters};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tokio::sync::oneshot;

/// Who a request comes from, as far as the law is concerned.
#[derive(Debug, Clone)]
pub struct Principal {
    /// The key's name, for the record.
    pub name: String,
    /// The one actor that it speaks for, if it is bound to one.
    pub actor: Option<String>,
}

impl Principal {
    /// A caller that is bound to no actor: the operator's own command line, a server without keys.
    #[must_use]
    pub fn unbound(name: impl Into<String>) -> Self {
        Self { name: name.into(), actor: None }
    }
}

/// What an allowed request of the host itself does, in the place of a tool: its record is durable by then, and its
/// outcome is recorded after. No caller of the API can name one.
pub trait Effect: std::fmt::Debug + Send + Sync {
    /// Do it, once.
    ///
    /// # Errors
    /// Why it was not done, for the record.
    fn happen(&self) -> BoxFuture<'_, Result<Value, String>>;
}

/// Why a request was not judged, or not to the end. Nothing ran, unless it says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The kernel is halted.
    #[error("kernel '{kernel}' is halted: {reason}")]
    Halted {
        /// The kernel.
        kernel: String,
        /// The reason given when it was halted.
        reason: String,
    },
    /// A text of the request is longer than a record could hold.
    #[error("{0}")]
    TooLong(String),
    /// Another kernel has its place. Nothing was done: ask that one.
    #[error("kernel '{0}' was replaced: ask again, and the one that took its place answers")]
    Replaced(String),
    /// Too many records wait for the disk.
    #[error("too many records are waiting for the disk (limits.max_ledger_queue)")]
    Overloaded,
    /// The ledger takes no record.
    #[error("the decision could not be recorded: {0}")]
    Ledger(String),
    /// The request was carried so far that its tool may have been run, and no record says what came of it. Not to be
    /// tried again by a machine. The record is closed at the next start.
    #[error("{what}: {why}")]
    OutcomeLost {
        /// What was done, for the caller.
        what: String,
        /// Why there is no record of it.
        why: String,
    },
}

/// Keys that the policies may count under in a smoke test, whose counters are thrown away.
const SMOKE_COUNTER_KEYS: usize = 1_024;

/// A request in the course of its judgement.
struct Case<'a> {
    request: &'a Request,
    principal: &'a Principal,
    mode: Mode,
    now_ms: u64,
    judgement: Judgement,
    /// The set that decides: chosen once, so that no request sees two.
    deployed: Arc<Deployed>,
    /// What the policies are asked, once the request came so far.
    asked: Option<Arc<gavel_runtime::Request>>,
    evaluations: Vec<Evaluation>,
    /// How it stands with the human that a policy asked for.
    approval: Option<Box<Asked>>,
    /// What it does if it is allowed, where that is no tool.
    effect: Option<&'a dyn Effect>,
}

/// What came of the judgement.
enum Ruling {
    Denied { stage: Stage, error: String },
    Allowed,
}

impl Kernel {
    /// Judge a request, record the decision, run its tool if it is allowed, record the outcome.
    ///
    /// Is carried to its end: dropping the future stops only the waiting.
    ///
    /// # Errors
    /// [`Refused`]: the kernel is halted, or no record could be made.
    pub async fn submit(self: &Arc<Self>, request: Request, principal: Principal) -> Result<Receipt, Refused> {
        self.carry(request, principal, Mode::Submit).await
    }

    /// Judge a request and record the decision; run nothing.
    ///
    /// # Errors
    /// [`Refused`], as for [`Kernel::submit`].
    pub async fn decide(self: &Arc<Self>, request: Request, principal: Principal) -> Result<Receipt, Refused> {
        self.carry(request, principal, Mode::Decide).await
    }

    pub(crate) async fn carry(
        self: &Arc<Self>,
        request: Request,
        principal: Principal,
        mode: Mode,
    ) -> Result<Receipt, Refused> {
        let pass = self.gate.enter().ok_or_else(|| Refused::Replaced(self.id.clone()))?;
        self.carry_in(pass, request, principal, mode, None).await
    }

    /// Judge for one who is inside already.
    pub(crate) async fn carry_in(
        self: &Arc<Self>,
        pass: Pass,
        request: Request,
        principal: Principal,
        mode: Mode,
        effect: Option<Arc<dyn Effect>>,
    ) -> Result<Receipt, Refused> {
        let kernel = Arc::clone(self);
        let work = async move {
            let _inside = pass;
            kernel.serve(&request, &principal, mode, effect.as_deref()).await
        };
        carry(&self.tasks, work).await.unwrap_or_else(|Panicked| Err(broken_off()))
    }

    async fn serve(
        &self,
        request: &Request,
        principal: &Principal,
        mode: Mode,
        effect: Option<&dyn Effect>,
    ) -> Result<Receipt, Refused> {
        self.refuse_if_halted()?;
        record::check_lengths(request).map_err(Refused::TooLong)?;
        let started = Instant::now();
        let mut walk = Walk::begin(&self.states);
        let now_ms = self.now_ms();
        let line = self.life.line();
        let judgement = self.judge(&line, request, mode, now_ms);
        let deployed = Arc::clone(line.decides(request.request_id()));
        let mut case = Case {
            request,
            principal,
            mode,
            now_ms,
            judgement,
            deployed,
            asked: None,
            evaluations: Vec::new(),
            approval: None,
            effect,
        };
        let ruling = self.rule(&mut case, &line, &mut walk).await;
        let receipt = match ruling {
            Ruling::Denied { stage, error } => self.deny(&case, stage, error, &mut walk).await,
            Ruling::Allowed => self.allow(&case, &mut walk).await,
        }?;
        let labels = KernelLabels { kernel: self.id.clone() };
        self.metrics.decision_seconds.get_or_create(&labels).observe(started.elapsed().as_secs_f64());
        Ok(receipt)
    }

    /// A change that came too late would change nothing.
    pub(crate) fn refuse_if_replaced(&self) -> Result<(), Refused> {
        if self.gate.is_closed() { Err(Refused::Replaced(self.id.clone())) } else { Ok(()) }
    }

    pub(crate) fn refuse_if_halted(&self) -> Result<(), Refused> {
        match self.halted.get() {
            Some(reason) => Err(self.halted_for(reason)),
            None => Ok(()),
        }
    }

    fn halted_for(&self, reason: &str) -> Refused {
        Refused::Halted { kernel: self.id.clone(), reason: reason.to_owned() }
    }

    /// Stages 1 to 5: the law.
    fn judge(&self, line: &Line, request: &Request, mode: Mode, now_ms: u64) -> Judgement {
        let law = &line.statute.law;
        match mode {
            Mode::Smoke => judge(law, request, now_ms, &mut MemoryPermitUses::default()),
            Mode::Submit | Mode::Decide => judge(law, request, now_ms, &mut *self.remembered.permits()),
        }
    }

    /// The law's word, then whether the caller is who it says, then the policies'.
    async fn rule(&self, case: &mut Case<'_>, line: &Line, walk: &mut Walk<'_>) -> Ruling {
        if let gavel_kernel::Verdict::Denied { stage, error } = &case.judgement.verdict {
            return Ruling::Denied { stage: *stage, error: error.clone() };
        }
        walk.to(State::Arbitrating);
        if let Some(error) = claims::denial(case.request, case.principal, case.effect.is_some()) {
            return Ruling::Denied { stage: Stage::Jurisdiction, error };
        }
        let asked = Arc::new(record::guest_request(case.request, case.now_ms));
        case.asked = Some(Arc::clone(&asked));
        let quarantined = case.deployed.members().find_map(|(member, _, health)| Some((member, health.quarantined()?)));
        if let Some((member, Quarantined { why, .. })) = quarantined {
            return denied_by(&member.name, &format!("failed closed: in quarantine after {why}"));
        }
        let counters = match case.mode {
            Mode::Smoke => WindowedCounters::new(SMOKE_COUNTER_KEYS).into(),
            Mode::Submit | Mode::Decide => self.remembered.counters(),
        };
        let judged = case.deployed.set.judge(Arc::clone(&asked), counters).await;
        let denial = judged.denial();
        case.evaluations = judged.evaluations;
        for (policy, quarantined) in self.watch_health(case) {
            // Boxed, because it is rare: the futures of all other requests carry no room for it.
            Box::pin(self.tell_quarantine(&policy, &quarantined, case.deployed.digest())).await;
        }
        if let Some(trial) = line.shadow().filter(|_| case.mode != Mode::Smoke) {
            trial.shadow.show(&self.tasks, &trial.set, &asked, Word::from(denial.as_ref()));
        }
        let Some(denial) = denial else { return Ruling::Allowed };
        if denial.escalated {
            case.approval = self.approval_of(case, line, &asked);
        }
        match case.approval.as_deref() {
            Some(Asked::Allowed(_)) => Ruling::Allowed,
            _ => denied_by(&denial.policy, &denial.reason),
        }
    }

    /// How a request stands that a policy escalated. A smoke test asks nobody, and what the host does is of its moment.
    fn approval_of(&self, case: &Case<'_>, line: &Line, asked: &gavel_runtime::Request) -> Option<Box<Asked>> {
        if case.mode == Mode::Smoke || case.effect.is_some() {
            return None;
        }
        let escalated = Escalated {
            request: case.request,
            principal: case.principal,
            mode: case.mode.as_str(),
            asked,
            evaluations: &case.evaluations,
            policy_set: case.deployed.digest(),
            now_ms: case.now_ms,
        };
        self.ask_for_approval(&escalated, line).map(Box::new)
    }

    /// The policy is not asked from now on; the operator learns of it.
    async fn tell_quarantine(&self, policy: &str, quarantined: &Quarantined, set: &str) {
        let why = &*quarantined.why;
        tracing::error!(kernel = self.id, policy, why, "policy in quarantine: every decision that asks it is denied");
        self.observe_quarantine(policy, true);
        let recorded = self.record_about("quarantined", policy, set, Reason { who: "gavel", why }).await;
        if let Err(error) = recorded {
            tracing::error!(kernel = self.id, policy, %error, "the quarantine could not be recorded");
        }
    }

    /// Denied: one record, which closes the request.
    async fn deny(
        &self,
        case: &Case<'_>,
        stage: Stage,
        error: String,
        walk: &mut Walk<'_>,
    ) -> Result<Receipt, Refused> {
        walk.to(State::Auditing);
        let error = record::shortened(error);
        let entry = EntryData::denied(case.request, case.now_ms, &error, case.judgement.permit.as_ref());
        let closed = self.close(case, Some(stage), entry, None).await?;
        Ok(receipt(case, case.now_ms, Status::Rejected, Some(error), closed, None))
    }

    /// Allowed: run the tool, if there is one to run; otherwise one record closes the request.
    async fn allow(&self, case: &Case<'_>, walk: &mut Walk<'_>) -> Result<Receipt, Refused> {
        let call = case.request.tool_call().filter(|_| case.mode == Mode::Submit);
        match call {
            Some(call) if case.effect.is_some() || self.tools.contains(&call.name) => self.execute(case, walk).await,
            Some(call) => {
                walk.to(State::Executing);
                self.fail(case, gavel_kernel::unregistered_tool(&call.name), None, walk).await
            }
            None => {
                walk.to(State::Auditing);
                let entry = EntryData::allowed(case.request, case.now_ms, case.judgement.permit.as_ref());
                let closed = self.close(case, None, entry, None).await?;
                Ok(receipt(case, case.now_ms, Status::Accepted, None, closed, None))
            }
        }
    }

    /// Record the decision, and only when that is durable run the tool; then record the outcome.
    async fn execute(&self, case: &Case<'_>, walk: &mut Walk<'_>) -> Result<Receipt, Refused> {
        let Some(call) = case.request.tool_call() else { unreachable!("only a request with a tool call is executed") };
        let meta = DecisionMeta { open: true, ..Self::meta(case, None) };
        let decision = self.record_decision(case, meta, case.now_ms, None).await?;
        walk.to(State::Executing);
        let result = match case.effect {
            Some(effect) => effect.happen().await,
            None => self.tools.call(&call.name, call.params.clone()).await,
        };
        let outcome = if result.is_ok() { "ok" } else { "failed" };
        self.metrics.tools.get_or_create(&ToolLabels { tool: call.name.clone(), outcome }).inc();
        let recorded = match result {
            Ok(value) => {
                walk.to(State::Auditing);
                let now_ms = self.clock.now_ms();
                let entry = EntryData::allowed(case.request, now_ms, case.judgement.permit.as_ref());
                let closed = self.close(case, None, entry, Some(decision.index)).await;
                closed.map(|closed| receipt(case, now_ms, Status::Accepted, None, closed, Some(value)))
            }
            Err(why) => self.fail(case, gavel_kernel::tool_failure(&why), Some(decision.index), walk).await,
        };
        // That nothing was done, or that it may be tried again, would be a lie from here on.
        recorded.map_err(|why| Refused::OutcomeLost {
            what: format!("the tool '{}' was run, but its outcome could not be recorded", call.name),
            why: why.to_string(),
        })
    }

    /// The tool failed, or there is none of that name.
    async fn fail(
        &self,
        case: &Case<'_>,
        error: String,
        decision: Option<u64>,
        walk: &mut Walk<'_>,
    ) -> Result<Receipt, Refused> {
        walk.to(State::Auditing);
        let error = record::shortened(error);
        let now_ms = self.clock.now_ms();
        let entry = EntryData::failed(case.request, now_ms, &error);
        let closed = self.close(case, Some(Stage::Execution), entry, decision).await?;
        Ok(receipt(case, now_ms, Status::Failed, Some(error), closed, None))
    }

    /// Append the record that closes the request: the outcome of `decision`, or a decision itself.
    async fn close(
        &self,
        case: &Case<'_>,
        stage: Option<Stage>,
        entry: EntryData,
        decision: Option<u64>,
    ) -> Result<Committed, Refused> {
        let (ts_ms, decided, entry) = (entry.ts_ms, entry.decision, entry.canonical());
        let committed = if let Some(index) = decision {
            let meta = record::outcome(index);
            self.append(Draft { kind: Kind::Outcome, ts_ms, meta, entry: Some(entry), closes: decision }).await?
        } else {
            self.record_decision(case, Self::meta(case, stage), ts_ms, Some(entry)).await?
        };
        let labels = DecisionLabels {
            kernel: self.id.clone(),
            decision: decided.as_str(),
            stage: stage.map_or("none", Stage::as_str),
        };
        self.metrics.decisions.get_or_create(&labels).inc();
        self.decided[usize::from(decided == Decision::Deny)].fetch_add(1, Ordering::Relaxed);
        Ok(committed)
    }

    /// Append a decision. It is also the use of the approval that allowed it, or says that its request waits for one.
    async fn record_decision(
        &self,
        case: &Case<'_>,
        meta: DecisionMeta<'_>,
        ts_ms: u64,
        entry: Option<String>,
    ) -> Result<Committed, Refused> {
        let recorded = async {
            let meta = self.with_asked(case, meta.to_json(), entry.as_ref().map_or(0, String::len)).await?;
            self.append(Draft { kind: Kind::Decision, ts_ms, meta, entry, closes: None }).await
        };
        let recorded = recorded.await;
        self.settle_approval(case.approval.as_deref(), (case.request, case.principal, ts_ms), &recorded);
        recorded
    }

    fn meta<'a>(case: &'a Case<'_>, stage: Option<Stage>) -> DecisionMeta<'a> {
        DecisionMeta {
            request: case.request,
            caller: &case.principal.name,
            mode: case.mode,
            stage,
            open: false,
            asked: case.asked.as_deref(),
            policy_set: &case.deployed.set,
            evaluations: &case.evaluations,
            permit_use: case.judgement.counted_use.as_ref(),
            approval: case.approval.as_deref(),
        }
    }

    /// The `meta` of a decision with what the policies were asked, or with the name of the blob that
    /// holds it, which is durable by then.
    async fn with_asked(&self, case: &Case<'_>, meta: String, entry_bytes: usize) -> Result<String, Refused> {
        let Some(asked) = case.asked.as_deref().filter(|_| self.record_requests.enabled) else { return Ok(meta) };
        let (asked, room) = (record::asked(asked), record::room_for_asked(&meta, entry_bytes));
        match &self.blobs {
            Some(blobs) if !self.record_requests.inline(asked.len(), room) => {
                let bytes = asked.len();
                // Boxed, because it is rare: the futures of all other requests carry no room for it.
                let id = Box::pin(store(blobs.clone(), asked, case.now_ms)).await?;
                Ok(id.map_or_else(|| meta.clone(), |id| record::with_asked_blob(&meta, id, bytes)))
            }
            None if asked.len() > room => Ok(meta),
            _ => Ok(record::with_asked(&meta, &asked)),
        }
    }

    pub(crate) async fn append(&self, draft: Draft) -> Result<Committed, Refused> {
        let (done, committed) = oneshot::channel();
        self.ledger.append(draft, move |result| {
            // Nobody waits when the host is being torn down; the record is on disk all the same.
            let _ = done.send(result);
        });
        let result = committed.await.unwrap_or(Err(AppendError::Closed));
        if let Some(index) = &self.index {
            index.notify();
        }
        if result.as_ref().is_ok_and(|committed| (committed.index + 1).is_multiple_of(SEGMENT_RECORDS)) {
            self.segment_full.notify_one();
        }
        result.map_err(|why| match why {
            AppendError::Halted => self.halted_for(self.halted.get().map_or("being halted", String::as_str)),
            AppendError::Overloaded { .. } => Refused::Overloaded,
            why => Refused::Ledger(why.to_string()),
        })
    }

    /// Halt the kernel: from the moment its ledger holds the halt record, nothing more is decided.
    /// Tools that were already allowed run to their end, and their outcomes are recorded.
    ///
    /// # Errors
    /// [`Refused::Halted`] when it is halted already; [`Refused::Ledger`] when the halt could not
    /// be made durable (the ledger then takes no decisions either).
    pub async fn halt(self: &Arc<Self>, reason: &str, principal: &Principal) -> Result<Receipt, Refused> {
        self.refuse_if_halted()?;
        record::check_reason(reason).map_err(Refused::TooLong)?;
        let (kernel, reason, principal) = (Arc::clone(self), reason.to_owned(), principal.clone());
        let work = async move { kernel.record_halt(&reason, &principal).await };
        carry(&self.tasks, work).await.unwrap_or_else(|Panicked| Err(broken_off()))
    }

    async fn record_halt(&self, reason: &str, principal: &Principal) -> Result<Receipt, Refused> {
        let now_ms = self.clock.now_ms();
        let entry = EntryData::halt(reason, now_ms);
        let meta = record::halt(&principal.name);
        let draft = Draft { kind: Kind::Halt, ts_ms: now_ms, meta, entry: Some(entry.canonical()), closes: None };
        let committed = self.append(draft).await?;
        let _ = self.halted.set(reason.to_owned());
        let labels = DecisionLabels { kernel: self.id.clone(), decision: "HALT", stage: "none" };
        self.metrics.decisions.get_or_create(&labels).inc();
        self.observe();
        Ok(Receipt {
            request_id: "HALT".into(),
            status: Status::Accepted,
            state_from: State::Idle,
            state_to: State::Halted,
            ts_ms: now_ms,
            decision: Decision::Halt,
            error: None,
            evidence_hash: entry_hash(committed),
            tool_result: None,
            approval: None,
        })
    }

    /// Count and log what the policies did; those whose failures are too many now.
    fn watch_health(&self, case: &Case<'_>) -> Vec<(Arc<str>, Quarantined)> {
        let mut quarantined = Vec::new();
        for (evaluation, (member, _, health)) in case.evaluations.iter().zip(case.deployed.members()) {
            let too_many = health.note(evaluation, member.quarantine, case.now_ms);
            quarantined.extend(too_many.map(|too_many| (Arc::clone(&evaluation.policy), too_many)));
            let seconds = PolicyTimeLabels { kernel: self.id.clone(), policy: evaluation.policy.to_string() };
            let labels = PolicyLabels {
                policy: evaluation.policy.to_string(),
                verdict: record::verdict_label(&evaluation.verdict),
            };
            self.metrics.evaluations.get_or_create(&labels).inc();
            self.metrics.evaluation_seconds.get_or_create(&seconds).observe(evaluation.elapsed.as_secs_f64());
            let policy = &*evaluation.policy;
            for line in &evaluation.logs {
                match line.level {
                    Level::Error => tracing::error!(target: "policy", policy, "{}", line.message),
                    Level::Warn => tracing::warn!(target: "policy", policy, "{}", line.message),
                    Level::Info => tracing::info!(target: "policy", policy, "{}", line.message),
                    Level::Debug => tracing::debug!(target: "policy", policy, "{}", line.message),
                }
            }
            if let Err(why) = &evaluation.verdict {
                tracing::warn!(target: "policy", policy, %why, "policy failed closed");
            }
        }
        quarantined
    }
}

/// Put what the policies were asked where the record will say that it is; nowhere if it is too
/// large, and then it cannot be judged again.
async fn store(blobs: Blobs, asked: String, now_ms: u64) -> Result<Option<BlobId>, Refused> {
    let stored = tokio::task::spawn_blocking(move || blobs.put(asked.as_bytes(), now_ms)).await;
    match stored {
        Ok(Ok(id)) => Ok(Some(id)),
        Ok(Err(why @ BlobError::TooLarge { .. })) => {
            tracing::warn!(%why, "what the policies were asked is not recorded (record_requests.blob_bytes_max)");
            Ok(None)
        }
        Ok(Err(why)) => Err(Refused::Ledger(why.to_string())),
        Err(_) => Err(broken_off()),
    }
}

fn denied_by(policy: &str, reason: &str) -> Ruling {
    Ruling::Denied { stage: Stage::Policy, error: gavel_kernel::policy_denial(policy, reason) }
}

fn receipt(
    case: &Case<'_>,
    ts_ms: u64,
    status: Status,
    error: Option<String>,
    committed: Committed,
    result: Option<Value>,
) -> Receipt {
    Receipt {
        request_id: case.request.request_id().to_owned(),
        status,
        state_from: State::Idle,
        state_to: State::Idle,
        ts_ms,
        decision: if status == Status::Accepted { Decision::Allow } else { Decision::Deny },
        error,
        evidence_hash: entry_hash(committed),
        tool_result: result,
        approval: case.approval.as_deref().map(|asked| Box::new(asked.note())),
    }
}

fn broken_off() -> Refused {
    Refused::OutcomeLost {
        what: "the request broke off by a fault of the host, and what it asked for may have been done".into(),
        why: "a panic; the log says where".into(),
    }
}

fn entry_hash(committed: Committed) -> Option<String> {
    debug_assert!(committed.chain.is_some(), "a closing record is an entry of the chain");
    committed.chain.map(|chain| chain.entry_hash)
}
