//! The client of a Gavel server: submit requests to a kernel, see how it is, take its evidence.
//!
//! [`Client`] is for async code on tokio, [`blocking::Client`] for all other; both are cheap to
//! clone and keep their connections. What comes back is typed; fields that a newer server adds are
//! let by. What goes wrong is an [`Error`], which says above all whether anything was done.
//!
//! ```
//! use gavel_client::{Request, ToolCall, blocking::Client};
//!
//! # fn main() -> Result<(), gavel_client::Error> {
//! # let url = served_once();
//! let client = Client::new(&url)?;
//! let request = Request::new("req-001", "agent-001", "Say hello")
//!     .tool_call(ToolCall::new("echo").param("text", "hello"));
//! let receipt = client.submit(&request)?;
//! assert!(receipt.is_allowed());
//! assert_eq!(receipt.tool_result.unwrap(), "hello");
//! # Ok(())
//! # }
//! # // A server for one request, so that this example runs.
//! # fn served_once() -> String {
//! #     use std::io::{Read, Write};
//! #     let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
//! #     let address = listener.local_addr().unwrap();
//! #     std::thread::spawn(move || {
//! #         let (mut stream, _) = listener.accept().unwrap();
//! #         let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
//! #         while !seen.ends_with(b"}}}") {
//! #             let read = stream.read(&mut buffer).unwrap();
//! #             assert!(read > 0);
//! #             seen.extend_from_slice(&buffer[..read]);
//! #         }
//! #         let body = r#"{"request_id": "req-001", "status": "ACCEPTED", "decision": "ALLOW", "state_from": "IDLE",
//! #             "state_to": "IDLE", "ts_ms": 1, "error": null, "evidence_hash": null, "tool_result": "hello"}"#;
//! #         write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
//! #     });
//! #     format!("http://{address}")
//! # }
//! ```
//!
//! # What is sent again
//!
//! A call that only reads is tried again when it fails in passing. A call that does something
//! (`submit`, `submit_batch`, `halt`) is tried again only when it is certain that nothing was done:
//! - no connection came about, so that nothing was ever sent;
//! - Gavel answered 429, or 503 with `Retry-After`: it turned the request away before judging it.
//!
//! It is never tried again after a time-out or when the connection broke: the kernel may have
//! judged it and its tool may have run, and then a second try would run it twice. Ask for the
//! evidence instead; the request's id is in it. See [`Error::is_certainly_undone`].

pub mod blocking;
mod client;
mod error;
mod options;
mod retry;
mod types;

pub use client::Client;
pub use error::{Error, Refusal};
pub use options::Options;
pub use types::{
    Approval, Decision, Evidence, Halted, Health, KernelStatus, LedgerEntry, LedgerStatus, Policy, Receipt, Request,
    Status, ToolCall,
};
