//! Asking policies: what they would say, and nothing more. No decision, no record, no tool.
//!
//! A kernel stops at the first policy that does not let a request pass; here all are asked, and what the kernel would make
//! of it is said beside.

use super::engine::{Engine, Live, Ready, find_in};
use crate::policies::cases::Answer;
use crate::record::guest_request;
use futures_util::{StreamExt, stream};
use gavel_kernel::{Request, json};
use gavel_kinds::{Caller, Fault, Role};
use gavel_runtime::{CounterAnswer, CounterOperation, Counters, WindowedCounters};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One question.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    #[serde(default)]
    policy: Option<String>,
    #[serde(default)]
    policies: Vec<String>,
    /// Of `policy`; else the active one.
    #[serde(default)]
    version: Option<u32>,
    /// The time that they are told; else the clock's.
    #[serde(default)]
    now_ms: Option<u64>,
    request: Value,
}

/// Many at once.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Batch {
    #[serde(default)]
    policy: Option<String>,
    #[serde(default)]
    policies: Vec<String>,
    #[serde(default)]
    version: Option<u32>,
    #[serde(default)]
    now_ms: Option<u64>,
    requests: Vec<Value>,
    /// One after the other, with the counters of the ones before.
    #[serde(default)]
    shared_counters: bool,
}

/// Two versions, side by side.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Comparison {
    policy: String,
    /// Else the active one.
    #[serde(default)]
    from: Option<u32>,
    to: u32,
    requests: Vec<Value>,
    #[serde(default)]
    now_ms: Option<u64>,
}

type Asked = Arc<gavel_runtime::Request>;

impl Engine {
    /// What policies say to one request.
    pub(super) async fn evaluate(&self, question: Question, caller: &Caller) -> Result<Value, Fault> {
        let Question { policy, policies, version, now_ms, request } = question;
        let chosen = self.choose((policy.as_deref(), &policies), version, caller).await?;
        let request = self.read(&request, now_ms, caller)?;
        Ok(self.ask_all(&chosen, &request, &self.counters()).await)
    }

    /// What policies say to many requests.
    pub(super) async fn evaluate_batch(&self, batch: Batch, caller: &Caller) -> Result<Value, Fault> {
        let Batch { policy, policies, version, now_ms, requests, shared_counters } = batch;
        let requests = self.read_all(requests, now_ms, caller)?;
        let chosen = &self.choose((policy.as_deref(), &policies), version, caller).await?;
        let shared = shared_counters.then(|| self.counters());
        let at_once = if shared_counters { 1 } else { self.settings.concurrent_max };
        let asked = requests.into_iter().map(|request| {
            let counters = shared.clone().unwrap_or_else(|| self.counters());
            async move { self.ask_all(chosen, &request, &counters).await }
        });
        let results: Vec<Value> = stream::iter(asked).buffered(at_once).collect().await;
        Ok(json!({"evaluated": results.len(), "recorded": false, "results": results}))
    }

    /// Where two versions of a policy differ.
    pub(super) async fn compare(&self, asked: Comparison, caller: &Caller) -> Result<Value, Fault> {
        let live = self.find(&asked.policy)?;
        let requests = self.read_all(asked.requests, asked.now_ms, caller)?;
        let from = &self.asked(&live, asked.from).await?;
        let to = &self.asked(&live, Some(asked.to)).await?;
        let compared = requests.len();
        let pairs = requests.into_iter().enumerate().map(|(index, request)| async move {
            let before = self.ask(from, &request, &self.counters()).await;
            let after = self.ask(to, &request, &self.counters()).await;
            difference(index, &request.id, &before, &after)
        });
        let differences: Vec<Option<Value>> =
            stream::iter(pairs).buffered(self.settings.concurrent_max).collect().await;
        let differences: Vec<Value> = differences.into_iter().flatten().collect();
        Ok(json!({
            "policy": asked.policy,
            "from": {"version": from.version, "digest": from.digest},
            "to": {"version": to.version, "digest": to.digest},
            "compared": compared,
            "same": compared - differences.len(),
            "differences": differences,
            "recorded": false,
        }))
    }

    /// The versions that judge, all as they are at one moment.
    async fn choose(
        &self,
        (policy, policies): (Option<&str>, &[String]),
        version: Option<u32>,
        caller: &Caller,
    ) -> Result<Vec<Arc<Ready>>, Fault> {
        let live = self.live();
        let most = self.admission.max_policies();
        match (policy, policies.len()) {
            (Some(_), 0) => {}
            (None, count) if (1..=most).contains(&count) && version.is_none() => {}
            (None, count) if count > most => {
                return Err(Fault::not_accepted(format!("{count} policies, at most {most} (limits.max_policies)")));
            }
            _ => {
                let why = "give `policy`, with a `version` if it is not the active one, or `policies`, a list of names";
                return Err(Fault::not_accepted(why));
            }
        }
        let mut chosen = Vec::with_capacity(policies.len().max(1));
        for name in policy.into_iter().chain(policies.iter().map(String::as_str)) {
            let live = find_in(&live, name)?;
            may_ask(&live, version, caller)?;
            chosen.push(self.asked(&live, version).await?);
        }
        Ok(chosen)
    }

    fn read_all(&self, requests: Vec<Value>, now_ms: Option<u64>, caller: &Caller) -> Result<Vec<Asked>, Fault> {
        let (count, most) = (requests.len(), self.settings.requests_max);
        if !(1..=most).contains(&count) {
            return Err(Fault::not_accepted(format!("{count} requests: give 1 to {most} (requests_max)")));
        }
        let read = requests.into_iter().enumerate().map(|(index, request)| {
            self.read(&request, now_ms, caller)
                .map_err(|fault| Fault { message: format!("requests[{index}]: {}", fault.message), ..fault })
        });
        read.collect()
    }

    /// A request as `/submit` takes it, read by the kernel's own reader.
    fn read(&self, request: &Value, now_ms: Option<u64>, caller: &Caller) -> Result<Asked, Fault> {
        let now_ms = now_ms.unwrap_or_else(|| self.now_ms());
        let request = json::parse(request.to_string().as_bytes())
            .map_err(|why| Fault::not_accepted(format!("the request: {why}")))?;
        let request =
            Request::from_value(request, now_ms).map_err(|why| Fault::not_accepted(format!("the request: {why}")))?;
        let sees_all = sees_all(caller);
        if let Some(actor) = caller.actor.as_deref().filter(|actor| !sees_all && *actor != request.actor()) {
            return Err(Fault::forbidden(format!(
                "key '{}' speaks for actor '{actor}', and the request is of '{}'",
                caller.name,
                request.actor()
            )));
        }
        Ok(Arc::new(guest_request(&request, now_ms)))
    }

    /// Empty, and gone with the evaluation.
    fn counters(&self) -> Arc<dyn Counters> {
        Arc::new(WindowedCounters::new(self.settings.counter_keys_max))
    }

    async fn ask_all(&self, chosen: &[Arc<Ready>], request: &Asked, counters: &Arc<dyn Counters>) -> Value {
        let begun = Instant::now();
        let mut judged = Vec::with_capacity(chosen.len());
        for ready in chosen {
            judged.push(self.ask(ready, request, counters).await);
        }
        let decided = judged.iter().find(|told| !passes(told));
        let verdict = decided.map_or("allow", |told| match told["verdict"].as_str() {
            Some("escalate") => "escalate",
            // A policy that fails denies.
            _ => "deny",
        });
        json!({
            "request_id": request.id,
            "verdict": verdict,
            "decided_by": decided.map(|told| &told["policy"]),
            "reason": decided.map(|told| &told["reason"]),
            "judged": judged,
            "elapsed_us": micros(begun.elapsed()),
            "recorded": false,
        })
    }

    async fn ask(&self, ready: &Ready, request: &Asked, counters: &Arc<dyn Counters>) -> Value {
        let policy = &ready.policy;
        let left = Duration::from_millis(policy.limits().deadline_ms);
        let mut evaluation = policy.evaluate(Arc::clone(request), Arc::clone(counters), left).await;
        let (memory_bytes, elapsed) = (evaluation.memory_bytes, evaluation.elapsed);
        let counted: Vec<Value> = std::mem::take(&mut evaluation.counters).iter().map(counter).collect();
        let answer = Answer::from(evaluation);
        self.count(policy.name(), answer.verdict);
        json!({
            "policy": policy.name(),
            "version": ready.version,
            "digest": ready.digest,
            "component": policy.digest(),
            "verdict": answer.verdict,
            "reason": answer.reason,
            "failed": answer.failed,
            "logs": answer.logs,
            "logs_dropped": answer.logs_dropped,
            "counters": counted,
            "memory_bytes": memory_bytes,
            "elapsed_us": micros(elapsed),
        })
    }
}

fn sees_all(caller: &Caller) -> bool {
    caller.roles.iter().any(|role| matches!(role, Role::Operator | Role::Auditor))
}

/// Agents ask what judges. What else there is is not theirs to try, and each version that is not at hand costs a compilation.
fn may_ask(live: &Live, version: Option<u32>, caller: &Caller) -> Result<(), Fault> {
    match version.filter(|version| *version != live.book.active && !sees_all(caller)) {
        Some(version) => Err(Fault::forbidden(format!(
            "key '{}' may ask policy {} by its active version only, and {version} is another: leave `version` out",
            caller.name, live.book.policy
        ))),
        None => Ok(()),
    }
}

fn passes(told: &Value) -> bool {
    matches!(told["verdict"].as_str(), Some("allow" | "abstain"))
}

fn counter(answer: &CounterAnswer) -> Value {
    let (operation, amount) = match answer.operation {
        CounterOperation::Read => ("read", None),
        CounterOperation::Add(amount) => ("add", Some(amount)),
    };
    json!({
        "operation": operation,
        "amount": amount,
        "key": answer.key,
        "window_ms": answer.window_ms,
        "answer": answer.answer,
    })
}

/// What tells two answers apart, if anything does: the verdict, or its reason.
fn difference(index: usize, id: &str, from: &Value, to: &Value) -> Option<Value> {
    let same = |key: &str| from[key] == to[key];
    let told = |of: &Value| json!({"verdict": of["verdict"], "reason": of["reason"], "failed": of["failed"]});
    (!same("verdict") || !same("reason")).then(|| {
        json!({
            "index": index,
            "request_id": id,
            "verdict_differs": !same("verdict"),
            "from": told(from),
            "to": told(to),
        })
    })
}

fn micros(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::policy_engine::book::Book;

    #[test]
    fn agents_ask_active_versions_only() {
        let mut book = Book::new("p");
        book.active = 2;
        let live = Live { book, ready: Err("not compiled".to_owned()) };
        let caller = |role| Caller::with_key("ann", None, vec![role]);
        for version in [None, Some(2)] {
            assert_eq!(may_ask(&live, version, &caller(Role::Agent)), Ok(()));
        }
        let refused = may_ask(&live, Some(1), &caller(Role::Agent)).unwrap_err();
        assert!(refused.status == 403 && refused.message.contains("active version only"), "{refused}");
        for role in [Role::Operator, Role::Auditor] {
            assert_eq!(may_ask(&live, Some(1), &caller(role)), Ok(()));
        }
    }
}
