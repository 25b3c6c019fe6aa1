//! Governed tools of plugins: a call is a request to a kernel like anybody's.
//!
//! The actor is `plugin:NAME`, which no caller of the API can be bound to by its own word: the host says it. So a kernel
//! knows a plugin by that name in `allowed_actors`, judges it by the same policies, and its ledger holds each call.

use super::imports::coded;
use crate::decide::{Principal, Refused};
use crate::fleet::Slot;
use gavel_bus::Event;
use gavel_kernel::{Receipt, Request, Status};
use gavel_runtime::plugin::Refusal;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// The code of a call that the kernel denied, or could not judge.
const DENIED: &str = "DENIED";

/// One call.
pub(super) struct Call<'a> {
    pub(super) plugin: &'a str,
    /// The event that is being handled, if one is.
    pub(super) event: Option<&'a Event>,
    /// Tells the calls of one instance apart.
    pub(super) number: u64,
    pub(super) tool: &'a str,
    pub(super) params: Value,
    pub(super) intent: &'a str,
    /// The time that it has where no event waits.
    pub(super) no_longer_than: Duration,
}

/// The actor under which a plugin asks.
fn actor(plugin: &str) -> String {
    format!("plugin:{plugin}")
}

/// Have a kernel judge a call, and run it if it is allowed. Gives the tool's result as JSON text.
///
/// Whoever gives up waiting stops only the waiting: a request that is judged is carried to its end.
pub(super) async fn ask(kernel: &Slot, call: Call<'_>) -> Result<String, Refusal> {
    let until = call.event.map_or_else(|| Instant::now() + call.no_longer_than, |event| event.until);
    let actor = actor(call.plugin);
    let principal = Principal { name: actor.clone(), actor: Some(actor) };
    let (tool, plugin) = (call.tool.to_owned(), call.plugin.to_owned());
    let request = Request::from_value(request(call), kernel.kernel().clock.now_ms())
        .map_err(|why| coded(&format!("the call of the tool '{tool}' is no request: {why}"), "INVALID_PARAMETERS"))?;
    match timeout_at(until, kernel.submit(request, principal)).await {
        Ok(Ok(receipt)) => answer(&tool, receipt),
        Ok(Err(why)) => Err(refused(&why)),
        Err(_) => {
            tracing::warn!(plugin, tool, "the event's time was up before the tool had answered; the call goes on");
            let message = format!("the tool '{tool}' did not answer before the event's time was up; the call goes on");
            Err(coded(&message, "TIMEOUT"))
        }
    }
}

fn request(call: Call<'_>) -> Value {
    let Call { plugin, event, number, tool, params, intent, .. } = call;
    let about = event.map_or_else(|| "startup".to_owned(), |event| event.event_id.clone());
    let evidence = match event {
        Some(event) => format!("event {} ({}) from {}", event.event_id, event.name, event.sender),
        None => "the plugin's startup or shutdown".to_owned(),
    };
    json!({
        "request_id": format!("{}.{about}.{number}", actor(plugin)),
        "actor": actor(plugin),
        "intent": intent,
        "tool_call": {"name": tool, "params": params},
        "evidence": evidence,
        "constraints": {
            "scope": format!("one call of the tool '{tool}'"),
            "non_goals": "no other tool is called by it",
            "success_criteria": format!("the tool '{tool}' gives a result"),
        },
    })
}

fn answer(tool: &str, receipt: Receipt) -> Result<String, Refusal> {
    let why = |receipt: &Receipt| receipt.error.clone().unwrap_or_else(|| "no reason was given".to_owned());
    match receipt.status {
        Status::Accepted => Ok(receipt.tool_result.unwrap_or(Value::Null).to_string()),
        Status::Failed => Err(coded(&format!("the tool '{tool}' failed: {}", why(&receipt)), "TOOL_FAILED")),
        Status::Rejected => Err(coded(&why(&receipt), DENIED)),
    }
}

/// A kernel that does not judge does not allow.
fn refused(why: &Refused) -> Refusal {
    let code = match why {
        Refused::TooLong(_) => "INVALID_PARAMETERS",
        Refused::Overloaded => "RATE_LIMITED",
        Refused::OutcomeLost { .. } => "OUTCOME_UNKNOWN",
        _ => DENIED,
    };
    coded(&why.to_string(), code)
}
