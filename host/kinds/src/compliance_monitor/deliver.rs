//! What is found is told: an alert, and an event on the bus. A finding stays in the outbox until both took it, so a kill
//! in between sends it again, under the same key; whoever takes it takes it once.

use super::blocking;
use super::finding::Finding;
use super::store::Store;
use crate::peers::{PeerError, Peers};
use serde_json::json;
use std::sync::Arc;

/// Findings that are sent before the outbox is looked at again.
const BATCH: usize = 32;

/// Characters of an alert's message; the finding has it whole.
const MESSAGE_CHARACTERS_MAX: usize = 1_000;

/// Send what is in the outbox; how much was sent. Ends at the first that is not taken.
pub(super) async fn deliver(name: &str, peers: &Peers, store: &Arc<Store>) -> Result<usize, String> {
    let mut sent = 0;
    loop {
        let reading = Arc::clone(store);
        let due = blocking(move || reading.outbox(BATCH)).await?;
        if due.is_empty() {
            return Ok(sent);
        }
        let mut taken = Vec::new();
        let mut refused = None;
        for finding in due {
            match send(name, peers, &finding).await {
                Ok(()) => taken.push(finding.id),
                Err(why) => {
                    refused = Some(why.to_string());
                    break;
                }
            }
        }
        sent += taken.len();
        let writing = Arc::clone(store);
        if !taken.is_empty() {
            blocking(move || writing.sent(&taken)).await?;
        }
        if let Some(why) = refused {
            return Err(why);
        }
    }
}

async fn send(name: &str, peers: &Peers, finding: &Finding) -> Result<(), PeerError> {
    let message = format!("{}: {}", finding.title, finding.message);
    let alert = json!({
        "severity": finding.severity,
        "source": name,
        "name": "compliance_finding",
        "message": message.chars().take(MESSAGE_CHARACTERS_MAX).collect::<String>(),
        "labels": {"control": finding.control, "finding": finding.id, "source": finding.source},
        "dedupe_key": finding.id,
    });
    taken(finding, peers.post("/alert_service/alerts", &alert).await)?;
    let event = json!({"event": "compliance:finding", "data": finding.shown(), "key": finding.id});
    taken(finding, peers.post("/message_bus/topics/compliance/messages", &event).await)
}

/// What is refused for what it is would be refused for ever, and hold up all that comes after it: that is for the log. Any
/// other fault may pass.
fn taken<T>(finding: &Finding, answer: Result<T, PeerError>) -> Result<(), PeerError> {
    match answer {
        Ok(_) => Ok(()),
        Err(why @ PeerError::Refused { status: 400 | 409 | 413 | 422, .. }) => {
            tracing::error!(
                finding = finding.id,
                "a finding was not accepted, it stays in the list of findings: {why}"
            );
            Ok(())
        }
        Err(why) => Err(why),
    }
}
