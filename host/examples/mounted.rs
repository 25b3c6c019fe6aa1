//! A kernel in an axum application that has routes of its own.
//!
//! ```sh
//! cargo run --example mounted -- 127.0.0.1:8080 ./data
//! curl -s http://127.0.0.1:8080/governance/status
//! ```
//!
//! In docs/clients.md this is shown and explained.
#![allow(clippy::print_stdout, reason = "it says where it listens")]

use axum::{Router, routing::get};
use gavel::config::{File, KernelFile};
use gavel::embed::Governance;
use std::net::SocketAddr;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let listen = arguments.next().unwrap_or_else(|| "127.0.0.1:8080".into());
    let data = arguments.next().unwrap_or_else(|| "gavel-data".into());

    let mut kernel = KernelFile::new("prod-001");
    kernel.policy =
        Some(serde_json::from_str(r#"{"allowed_actors": ["agent-001"], "allowed_tools": ["echo", "add"]}"#)?);
    // Only this machine reaches it; otherwise it wants `auth.keys`, as `gavel serve` does.
    let governance = Governance::of(File::new(vec![kernel])).without_keys().data(data).open().await?;

    let app = Router::new().route("/", get(|| async { "my own page" })).nest("/governance", governance.router());

    let listener = tokio::net::TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    println!("serves http://{address}  (try: curl -s http://{address}/governance/status)");
    let mut stop = signal(SignalKind::terminate())?;
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(async move { _ = stop.recv().await })
        .await?;
    governance.close().await;
    Ok(())
}
