//! The record of the state: every change is a request to a kernel, which may deny it, and stands in its ledger before it
//! is made.
//!
//! The actor is the sender as the bus stamped it, the tool call is `bus.state`, and its parameters say which key of which
//! namespace changes and how. Of a value the record has the digest and the size: enough to prove later what was written,
//! and nothing that could not be forgotten.

use crate::clock::Clock;
use crate::config::{self, BUS_KERNEL, File, KernelFile};
use crate::decide::{Effect, Principal, Refused};
use crate::fleet::{Slot, manifest};
use crate::host::{Host, Storage, kernel_dir};
use crate::policies::package::digest_of;
use anyhow::{Context, ensure};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use gavel_bus::{Audit, Audited, Change};
use gavel_kernel::{Jurisdiction, Receipt, Request, Status};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// The tool that a change of state calls.
pub const STATE_CHANGE: &str = "bus.state";

/// A kernel that lets everybody on the bus change state, and nobody do anything else.
#[must_use]
pub fn own_kernel(id: &str) -> KernelFile {
    let policy = Jurisdiction {
        allowed_actors: vec!["*".to_owned()],
        allowed_tools: vec![STATE_CHANGE.to_owned()],
        require_tool_call: true,
        ..Jurisdiction::default()
    };
    KernelFile { policy: Some(policy), ..KernelFile::new(id) }
}

/// Asks a kernel for every change.
#[derive(Debug)]
pub(super) struct LedgerAudit {
    kernel: Arc<Slot>,
    clock: Clock,
}

/// The change itself is made by the store, once all that were asked for together are ruled.
#[derive(Debug)]
struct OnRecord;

impl Effect for OnRecord {
    fn happen(&self) -> BoxFuture<'_, Result<Value, String>> {
        std::future::ready(Ok(json!({ "recorded": true }))).boxed()
    }
}

impl LedgerAudit {
    pub(super) fn new(kernel: Arc<Slot>, clock: Clock) -> Self {
        Self { kernel, clock }
    }

    async fn one(&self, audited: Audited) -> Result<(), String> {
        let request = request(&audited);
        let request = Request::from_value(request, self.clock.now_ms()).map_err(|why| why.to_string())?;
        let principal = Principal { name: "bus".into(), actor: Some(audited.sender) };
        told(self.kernel.submit_with(request, principal, Arc::new(OnRecord)).await)
    }
}

impl Audit for LedgerAudit {
    fn record(&self, changes: Vec<Audited>) -> BoxFuture<'_, Vec<Result<(), String>>> {
        // Side by side, so that their records share the ledger's syncs.
        join_all(changes.into_iter().map(|audited| self.one(audited))).boxed()
    }
}

/// The ledger of a bus whose host does not run, for a command that changes its state.
#[derive(Debug)]
pub struct OfflineAudit {
    host: Host,
    audit: Arc<LedgerAudit>,
}

impl OfflineAudit {
    /// Open the kernels of a server's configuration in its data folder, and ask the one that its bus asks.
    ///
    /// # Errors
    /// If the configuration has no bus, or a ledger cannot be opened, above all while a server has it.
    pub async fn of_server(mut file: File, data: &Path) -> anyhow::Result<Self> {
        let bus = file.bus.take().context("the configuration has no event bus: give it a section `bus`")?;
        // Layers would begin to work.
        file.kasmina = None;
        Self::open(file, bus.kernel.as_deref().unwrap_or(BUS_KERNEL), data).await
    }

    /// Open the kernel `bus` of a data folder whose server's configuration says nothing else, and make it if it is not
    /// there.
    ///
    /// # Errors
    /// If the folder has kernels and none of that name, or kernels that an operator changed: then only the configuration
    /// knows who is to be asked. If its ledger cannot be opened, above all while a server has it.
    pub async fn of_folder(data: &Path) -> anyhow::Result<Self> {
        let others = std::fs::read_dir(data.join("kernels")).is_ok_and(|mut kernels| kernels.next().is_some());
        ensure!(
            !data.join(manifest::FILE).exists() && (!others || kernel_dir(data, BUS_KERNEL).exists()),
            "{}: its kernels are other ones than a bus has by default, so it is not known which one records changes of \
             state: give the server's configuration (--config FILE)",
            data.display()
        );
        Self::open(config::checked(File::new(vec![own_kernel(BUS_KERNEL)]))?, BUS_KERNEL, data).await
    }

    /// Open the kernels of `file` in a data folder, and ask the one named `kernel`.
    ///
    /// # Errors
    /// If a ledger cannot be opened, above all while another process has it.
    pub(crate) async fn open(file: File, kernel: &str, data: &Path) -> anyhow::Result<Self> {
        let host = Box::pin(Host::open(file, &Storage::Folder(data.to_owned()), Clock::System)).await?;
        let slot = host.fleet.find(kernel).with_context(|| format!("bus: there is no kernel `{kernel}`"))?;
        let audit = Arc::new(LedgerAudit::new(slot, Clock::System));
        Ok(Self { host, audit })
    }

    /// The host around the kernel that is asked.
    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// What records changes.
    #[must_use]
    pub fn audit(&self) -> Arc<dyn Audit> {
        self.audit.clone()
    }

    /// Close the ledger; every record is on disk.
    pub async fn finish(self) {
        self.host.finish().await;
    }
}

fn request(audited: &Audited) -> Value {
    let (namespace, event) = (audited.change.namespace(), &audited.event_id);
    let (what, params) = match &audited.change {
        Change::Set { key, value, .. } => {
            let text = value.to_string();
            let digest = digest_of(text.as_bytes());
            ("set", json!({ "key": key, "value_digest": digest, "value_bytes": text.len() }))
        }
        Change::Delete { key, .. } => ("delete", json!({ "key": key })),
        Change::Clear { .. } => ("clear", json!({})),
    };
    let mut params = params;
    params["change"] = json!(what);
    params["namespace"] = json!(namespace);
    params["event_id"] = json!(event);
    let key = params["key"].as_str().map(|key| format!(" '{key}' of")).unwrap_or_default();
    json!({
        "request_id": format!("state.{event}"),
        "actor": audited.sender,
        "intent": format!("State: {what}{key} namespace '{namespace}'"),
        "tool_call": { "name": STATE_CHANGE, "params": params },
        "evidence": format!("event {event}"),
        "constraints": {
            "scope": format!("namespace '{namespace}' of the state"),
            "non_goals": "no other key changes by it",
            "success_criteria": "the change is durable",
        },
    })
}

fn told(ended: Result<Receipt, Refused>) -> Result<(), String> {
    match ended {
        Ok(receipt) if receipt.status == Status::Accepted => Ok(()),
        Ok(receipt) => Err(receipt.error.unwrap_or_else(|| "it was not allowed".to_owned())),
        Err(why) => Err(why.to_string()),
    }
}
