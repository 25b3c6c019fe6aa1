//! Handing a version to the kernel that decides, through that kernel's own doors: bring the component, stage a candidate,
//! promote it. There it is admitted again, and recorded; a request that is being decided ends with what it began with.
//!
//! It is done in the name of whoever asked: governance sees their key, and refuses what it may not do.

use super::book::{Deployed, Reason};
use super::engine::{Engine, named};
use super::load::aside;
use axum::http::{HeaderValue, StatusCode};
use gavel_kinds::{Caller, Fault, PeerError, Peers};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// The kernel of the fleet that decides.
const GOVERNANCE: &str = "governance";

/// Where to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Deploy {
    kernel: String,
    /// Else the active one.
    #[serde(default)]
    version: Option<u32>,
    #[serde(default)]
    why: String,
}

impl Engine {
    /// Let a kernel of governance judge by a version of a policy, beside its other policies.
    pub(super) async fn deploy(
        &self,
        name: &str,
        wish: Deploy,
        by: Caller,
        shown: Option<HeaderValue>,
    ) -> Result<Value, Fault> {
        named(&wish.kernel)?;
        let reason = self.reason(&by, &wish.why)?;
        let live = self.find(name)?;
        let version = live.book.version(wish.version.unwrap_or(live.book.active))?.clone();
        let lost = |why: anyhow::Error| Fault::broken(format!("policy {name} version {}: {why:#}", version.number));
        let (admission, wanted) = (Arc::clone(&self.admission), version.clone());
        let kept = aside(name, move || {
            let catalogue = admission.catalogue();
            Ok((catalogue.set(&wanted.digest)?, catalogue.component(&wanted.component)?))
        });
        let (set, package) = kept.await?.map_err(lost)?;
        let config = set.policies.first().map(|member| (member.config.clone(), member.limits.clone()));
        let (config, limits) = config.ok_or_else(|| lost(anyhow::anyhow!("its document is empty")))?;
        let edit = json!({"name": name, "component": version.component, "config": config, "limits": limits});
        let peers = if by.is_of_the_fleet() { self.peers.clone() } else { self.peers.acting_for(shown.as_ref()) };
        let done = carry(&peers, &wish.kernel, package.to_bytes(), &edit, &reason, version.number).await?;
        let set = done.promoted["serving"]["set"].as_str().unwrap_or_default().to_owned();
        let noted = self.note(name, version.number, Deployed { kernel: wish.kernel.clone(), set }, &reason).await;
        Ok(json!({
            "policy": name,
            "version": version.number,
            "digest": version.digest,
            "kernel": wish.kernel,
            "uploaded": done.uploaded,
            "staged": done.staged["candidate"],
            "promoted": done.promoted["serving"],
            // The kernel judges by it all the same, and has it on record.
            "history_problem": noted.err().map(|fault| fault.message),
        }))
    }

    async fn note(&self, name: &str, version: u32, to: Deployed, reason: &Reason) -> Result<(), Fault> {
        let _changing = self.changing.lock().await;
        let live = self.find(name)?;
        let book = live.book.clone().deployed(version, to, reason, self.settings.steps_max);
        self.take(book, live.ready.clone(), "deployed").await.map(drop)
    }
}

/// What governance answered.
struct Done {
    uploaded: Value,
    staged: Value,
    promoted: Value,
}

async fn carry(
    peers: &Peers,
    kernel: &str,
    component: Vec<u8>,
    edit: &Value,
    reason: &Reason,
    version: u32,
) -> Result<Done, Fault> {
    let at = format!("/{GOVERNANCE}/kernels/{kernel}/policies");
    let status = peers.get(&at).await.map_err(|why| told("nothing was changed", &why))?;
    if !status["candidate"].is_null() {
        return Err(Fault::conflict(format!(
            "kernel {kernel} has a candidate already ({}): promote or discard it first; nothing was changed",
            status["candidate"]["set"].as_str().unwrap_or("unknown")
        )));
    }
    let uploaded = peers.post_bytes(&format!("{at}/components"), component).await;
    let uploaded = uploaded.map_err(|why| told("nothing was changed", &why))?;
    let why = format!("{} (version {version} of the policy engine, for {})", reason.why, reason.who);
    let stage = json!({"edits": [edit], "mode": "staged", "why": why});
    let staged = peers.post(&format!("{at}/stage"), &stage).await;
    let staged = staged.map_err(|why| told("the component is there, and is no candidate", &why))?;
    // Only this one: somebody else may stage another meanwhile.
    let Some(candidate) = staged["candidate"]["set"].as_str() else {
        return Err(Fault::broken(format!("kernel {kernel} staged a candidate without a name: look at its policies")));
    };
    let promote = json!({"candidate": candidate, "why": why});
    let promoted = peers.post(&format!("{at}/promote"), &promote).await;
    let promoted =
        promoted.map_err(|why| told("it is a candidate, and does not serve: promote or discard it", &why))?;
    Ok(Done { uploaded, staged, promoted })
}

/// What governance said, or that it said nothing.
fn told(state: &str, why: &PeerError) -> Fault {
    let message = format!("{why}; {state}");
    match why {
        PeerError::Alone(_) => Fault::unavailable(message),
        PeerError::Refused { status, .. } if (400..500).contains(status) => {
            let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_GATEWAY);
            Fault { status, ..Fault::conflict(message) }
        }
        PeerError::Refused { .. } => Fault { status: StatusCode::BAD_GATEWAY, ..Fault::conflict(message) },
        _ => {
            let message = format!("{why}: whether it was done is not known: look at the kernel's policies");
            Fault { status: StatusCode::BAD_GATEWAY, ..Fault::conflict(message) }
        }
    }
}
