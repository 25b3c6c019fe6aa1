//! The standard policies in the real sandbox: the tests that each ships.
//!
//! What belongs here: that the components which are built in say what their tests say. What their
//! rules mean in detail is tested in `guest-policies/`, natively.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed; its helpers are part of it")]
#![allow(clippy::needless_pass_by_value, reason = "a `json!` is written where it is used")]

use gavel_tests::gavel;

#[test]
fn each_passes_its_tests_in_the_sandbox() {
    for name in gavel::policies::builtin::names() {
        let policy = format!("builtin:{name}");
        let report = gavel(["policy", "test", "--json", &policy]).code(0).json();
        assert!(report["passed"].as_u64().is_some_and(|passed| passed > 3), "{name}: {report}");
        assert_eq!(report["failed"], 0, "{name}: {report}");
    }
}
