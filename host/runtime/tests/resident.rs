//! What a memory bomb adds to the process, as the system counts it. A test program of its own,
//! because what other tests use meanwhile would count as well.

#![allow(clippy::unwrap_used, reason = "a test that cannot set its case up has failed")]

mod hostile_guest;

use gavel_runtime::FailedClosed;
use hostile_guest::{ask, load, patient, sandbox};
use serde_json::json;

/// The most that the process ever had resident, in bytes.
fn resident_max() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[tokio::test]
async fn memory_bombs_add_no_more_than_their_cap() {
    let sandbox = sandbox();
    let honest = load(&sandbox, json!({"do": "allow"}), patient()).await;
    let bomb = load(&sandbox, json!({"do": "allocate"}), patient()).await;
    assert!(ask(&honest).await.verdict.is_ok());
    let before = resident_max();
    for _ in 0..50 {
        assert!(matches!(ask(&bomb).await.verdict, Err(FailedClosed::Memory { limit: 16_777_216, .. })));
    }
    let added = resident_max() - before;
    assert!(added >= 8 << 20, "the bomb touched its memory, or this measures nothing: {added} bytes");
    assert!(added <= 64 << 20, "{added} bytes");
    assert!(ask(&honest).await.verdict.is_ok());
}
