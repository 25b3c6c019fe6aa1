//! The law of a governed kernel: what may run, what is recorded, and how the record is checked.
//!
//! An agent's request is [judged](judge::judge) against a [`Law`], the judgement becomes an
//! [entry](entry::EntryData), entries become a hash chain, and a [bundle](bundle::EvidenceBundle) of them can be
//! verified by anyone. Everything here reproduces the public KERNELS package byte for byte, hashes included,
//! except for gaps that are closed here: see [`permit`] and [`json`].
//!
//! What this crate promises:
//! - **Pure.** No I/O, clock, async, randomness, globals or wasm: time comes in as `now_ms`, so the same inputs
//!   give the same judgement for ever. The one state, which permits were used, is handed in by the caller.
//! - **Fail closed.** Whatever is malformed is a denial with a reason. No input makes it panic.
//! - **Exact.** Numbers keep the text they arrived with; what is hashed is what was asked.
//!
//! What it does not do: run tools or policies, order concurrent requests, or store anything.
//!
//! ```
//! use gavel_kernel::{entry::{EntryData, GENESIS_HASH}, json, request::Request};
//! use gavel_kernel::judge::{Law, Verdict, judge};
//! use gavel_kernel::{jurisdiction::Jurisdiction, permit::MemoryPermitUses, variant::Variant};
//!
//! let law = Law::new(Variant::Strict, Jurisdiction {
//!     allowed_actors: vec!["agent-001".into()],
//!     allowed_tools: vec!["echo".into()],
//!     ..Jurisdiction::default()
//! });
//! let body = br#"{"request_id": "req-1", "actor": "agent-001", "intent": "Say hello",
//!                 "tool_call": {"name": "echo", "params": {"text": "hello"}}}"#;
//! let now_ms = 1_705_171_200_000;
//! let request = Request::from_value(json::parse(body)?, now_ms)?;
//!
//! let judgement = judge(&law, &request, now_ms, &mut MemoryPermitUses::default());
//! assert_eq!(judgement.verdict, Verdict::Cleared);
//!
//! let entry = EntryData::allowed(&request, now_ms, judgement.permit.as_ref()).seal(0, GENESIS_HASH);
//! assert_eq!(entry.prev_hash, GENESIS_HASH);
//! assert_eq!(entry.data.tool_name.as_deref(), Some("echo"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod bundle;
pub mod entry;
pub mod json;
pub mod judge;
pub mod jurisdiction;
pub mod permit;
pub mod receipt;
pub mod request;
pub mod state;
pub mod variant;

mod text;

pub use bundle::{ChainError, ChainStart, ChainVerifier, EvidenceBundle, verify_bundle};
pub use entry::{Entry, EntryData, GENESIS_HASH};
pub use judge::{Judgement, Law, Stage, Verdict, judge, policy_denial, tool_failure, unregistered_tool};
pub use jurisdiction::Jurisdiction;
pub use permit::{Keyring, MemoryPermitUses, PermitUse};
pub use receipt::{ApprovalNote, ApprovalState, Decision, Receipt, Status};
pub use request::{Evidence, Request};
pub use state::State;
pub use variant::Variant;
