//! Who hears of approvals: the webhooks of the host and its event bus.
//!
//! What waits when a process begins is told again, so that a kill between record and alert leaves nobody unasked; a
//! receiver may hear of the same approval twice. Arguments are not sent: they may hold what a chat must not see.

use super::queue::News;
use super::{Desk, link};
use crate::bus::BusHost;
use crate::config::Severity;
use crate::fleet::Fleet;
use crate::kernel::Kernel;
use crate::operations::Operations;
use crate::operations::alerts::Alert;
use gavel_bus::{Draft, Sender};
use serde_json::{Value, json};
use std::sync::Arc;

/// What begins the names of the events on the bus.
const NAMESPACE: &str = "approval";

/// Those who are told.
pub(crate) struct Ears {
    pub(crate) desk: Arc<Desk>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) operations: Option<Operations>,
    pub(crate) bus: Option<Arc<BusHost>>,
}

impl Ears {
    /// Tell of everything that happens, until the task is aborted.
    pub(crate) async fn listen(self) {
        loop {
            self.desk.bell.notified().await;
            for slot in self.fleet.slots() {
                let kernel = slot.kernel();
                for news in kernel.approvals.take_news() {
                    self.tell(&kernel, &news).await;
                }
            }
        }
    }

    async fn tell(&self, kernel: &Kernel, news: &News) {
        let told = kernel.describe_approval(&news.approval, kernel.now_ms());
        if let Some(operations) = &self.operations
            && let Some(alert) = alert(kernel, news, &self.desk)
        {
            operations.alert(&alert);
        }
        if let Some(bus) = &self.bus {
            let draft = Draft::new(&format!("{NAMESPACE}:{}", news.what), told);
            if let Err(why) = bus.bus().emit(Sender::Host, draft).await {
                tracing::warn!(approval = news.approval.id, "an approval was not told on the bus: {why}");
            }
        }
    }
}

fn alert(kernel: &Kernel, news: &News, desk: &Desk) -> Option<Alert> {
    let approval = &news.approval;
    let (id, actor) = (&approval.id, &approval.bound.actor);
    let tool = approval.tool.as_deref().map(|tool| format!(", tool '{tool}'")).unwrap_or_default();
    let (severity, event, message) = match (news.what, &approval.word) {
        ("wanted", _) => {
            let why = approval.reasons.first().map(|cause| cause.reason.as_str()).unwrap_or_default();
            let message = format!("Approval {id} is wanted by actor '{actor}'{tool}: {why}");
            (Severity::Warning, "APPROVAL_WANTED", message)
        }
        ("approved" | "rejected", Some(word)) => {
            let message = format!("Approval {id} of actor '{actor}'{tool} was {} by {}", news.what, word.by);
            (Severity::Info, "APPROVAL_DECIDED", message)
        }
        _ => return None,
    };
    Some(Alert { severity, event, kernel_id: kernel.id().to_owned(), message, details: details(kernel, news, desk) })
}

fn details(kernel: &Kernel, news: &News, desk: &Desk) -> Value {
    let approval = &news.approval;
    let mut details = json!({
        "id": approval.id,
        "state": news.what,
        "kernel": kernel.name,
        "actor": approval.bound.actor,
        "caller": approval.caller,
        "tool": approval.tool,
        "intent": approval.intent,
        "reasons": approval.reasons,
        "arguments_digest": approval.arguments_digest,
        "expires_ms": approval.expires_ms,
    });
    if let Some(word) = &approval.word {
        details["by"] = json!(word.by);
        details["reason"] = json!(word.reason);
    } else {
        details["links"] = link::links(&desk.limits, (&kernel.name, kernel.id()), &approval.id, approval.expires_ms);
    }
    details
}
