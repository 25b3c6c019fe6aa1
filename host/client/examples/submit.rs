//! Submits two requests to a running server, one alone and one in a batch, and keeps the evidence.
//!
//! ```sh
//! gavel serve &
//! cargo run -p gavel-client --example submit
//! ```
//!
//! `GAVEL_URL` and `GAVEL_KEY` say where and who. In docs/clients.md this is shown and explained.
#![allow(clippy::print_stdout, reason = "it says what came of it")]

use gavel_client::{Error, Options, Request, ToolCall};
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("GAVEL_URL").unwrap_or_else(|_| "http://127.0.0.1:8080".into());
    let mut options = Options::new(url).timeout(Duration::from_secs(30));
    if let Ok(key) = std::env::var("GAVEL_KEY") {
        options = options.key(key);
    }
    let client = options.client()?;

    let hello =
        Request::new("req-001", "agent-001", "Say hello").tool_call(ToolCall::new("echo").param("text", "hello"));
    match client.submit(&hello).await {
        Ok(receipt) if receipt.is_allowed() => println!("{}", receipt.tool_result.unwrap_or_default()),
        Ok(receipt) => println!("denied: {}", receipt.error.unwrap_or_default()),
        Err(Error::Refused(refusal)) if refusal.is_halted() => println!("halted: {}", refusal.message),
        Err(why) if why.is_certainly_undone() => println!("nothing was done: {why}"),
        Err(why) => return Err(why.into()),
    }

    let sums = [1, 2, 3].map(|n| {
        Request::new(format!("sum-{n}"), "agent-001", "Add up")
            .tool_call(ToolCall::new("add").param("a", n).param("b", n))
    });
    for result in client.submit_batch(&sums).await? {
        match result {
            Ok(receipt) => println!("{}: {:?}", receipt.request_id, receipt.decision),
            Err(refusal) => println!("not judged: {}", refusal.message),
        }
    }

    let mut bundle = Vec::new(); // or a tokio::fs::File
    client.evidence_to(&mut bundle).await?;
    println!("evidence: {} bytes", bundle.len());
    Ok(())
}
