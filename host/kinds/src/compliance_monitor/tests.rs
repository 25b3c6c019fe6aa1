//! The monitor through its routes, with a main API that has ledgers.

use super::KIND;
use crate::following::trial::{Fleet, PATIENCE, Running};
use serde_json::{Value, json};
use tempfile::TempDir;

fn settings(controls: &Value) -> Value {
    json!({"catch_up_ms": 60_000, "page_records": 3, "controls": controls})
}

fn never_denied() -> Value {
    json!([
        {"id": "chain", "title": "intact", "severity": "critical", "check": {"chain": {}}},
        {"id": "denied", "title": "nobody is denied", "references": ["SOC 2 CC6.1"], "severity": "warning", "check": {"never": {"decision": "DENY"}}},
    ])
}

async fn filled() -> Fleet {
    let fleet = Fleet::start().await;
    for number in 0..8 {
        let decision = if number == 5 { "DENY" } else { "ALLOW" };
        let _ = fleet.decision("k", &format!("r-{number}"), "a", decision, number);
    }
    fleet
}

fn list<'a>(answer: &'a Value, name: &str) -> &'a Vec<Value> {
    answer[name].as_array().unwrap()
}

async fn check(monitor: &Running) -> Value {
    let (status, text) = monitor.answer("POST", "/check", &Value::Null).await;
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

async fn wait_until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finding_has_its_evidence_and_is_told() {
    let (fleet, folder) = (filled().await, TempDir::new().unwrap());
    let monitor = fleet.open(&KIND, &folder, settings(&never_denied())).await;
    let report = check(&monitor).await;
    let told: Vec<&str> = list(&report, "controls").iter().map(|control| control["status"].as_str().unwrap()).collect();
    assert_eq!(told, ["passed", "failed"], "{report}");
    assert_eq!(report["controls"][1]["coverage"][0]["source"], "governance.k");
    assert_eq!(report["controls"][1]["coverage"][0]["judged"], 8);
    assert_eq!(report["controls"][0]["coverage"][0]["checkpoint_size"], 8);
    let found = monitor.get("/findings?state=open&severity=warning").await;
    assert_eq!(list(&found, "findings").len(), 1);
    let finding = &found["findings"][0];
    assert_eq!((&finding["control"], &finding["evidence"][0]["index"]), (&json!("denied"), &json!(5)));
    assert_eq!(finding["evidence"][0]["proof"], "/kernels/k/prove?index=5&of=k");
    let alert = fleet.alerts()[0].clone();
    assert_eq!((&alert["dedupe_key"], &alert["severity"]), (&finding["id"], &json!("warning")));
    assert_eq!((fleet.messages()[0]["key"].clone(), fleet.messages().len()), (finding["id"].clone(), 1));
    assert_eq!(list(&monitor.get("/controls").await, "controls").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn findings_are_acknowledged_and_resolved_by_somebody_for_a_reason() {
    let (fleet, folder) = (filled().await, TempDir::new().unwrap());
    let monitor = fleet.open(&KIND, &folder, settings(&never_denied())).await;
    let found = monitor.get("/findings").await;
    let id = found["findings"][0]["id"].as_str().unwrap();
    let step = |what: &str| format!("/findings/{id}/{what}");
    assert_eq!(monitor.answer("POST", &step("resolve"), &json!({})).await.0, 422);
    assert_eq!(monitor.answer("POST", &step("resolve"), &json!({"why": " "})).await.0, 422);
    assert_eq!(monitor.answer("POST", "/findings/none/resolve", &json!({"why": "x"})).await.0, 404);
    assert_eq!(monitor.answer("POST", &step("acknowledge"), &json!({"why": "known"})).await.0, 200);
    let (status, again) = monitor.answer("POST", &step("acknowledge"), &json!({"why": "known"})).await;
    assert_eq!(status, 409, "{again}");
    assert_eq!(monitor.answer("POST", &step("resolve"), &json!({"note": "done"})).await.0, 200);
    // What was acknowledged to the caller is there after a kill, and is not found again.
    monitor.kill();
    let monitor = reopened(&fleet, folder, &never_denied()).await;
    let found = check(&monitor).await;
    assert_eq!(found["controls"][1]["status"], "passed");
    assert_eq!(found["controls"][1]["findings"], json!({"open": 0, "acknowledged": 0, "resolved": 1}));
    let kept = monitor.get(&format!("/findings/{id}")).await;
    assert_eq!((&kept["steps"][1]["who"], &kept["steps"][1]["why"]), (&json!("tester"), &json!("done")));
    for wrong in ["/findings?state=lost", "/findings?severity=high", "/findings?limit=0", "/findings?colour=red"] {
        assert_eq!(monitor.refused(wrong).await.0, 400, "{wrong}");
    }
}

/// The same folder, once the kernel before has let go of it.
async fn reopened(fleet: &Fleet, folder: TempDir, controls: &Value) -> Running {
    let image = TempDir::new().unwrap();
    std::fs::copy(folder.path().join("findings.redb"), image.path().join("findings.redb")).unwrap();
    let monitor = fleet.open(&KIND, &image, settings(controls)).await;
    // Both folders live as long as the test.
    let _ = (folder.keep(), image.keep());
    monitor
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_loses_no_finding_and_no_alert_and_finds_nothing_twice() {
    let (fleet, folder) = (filled().await, TempDir::new().unwrap());
    fleet.set_takes_nothing(true);
    let monitor = fleet.open(&KIND, &folder, settings(&never_denied())).await;
    let report = check(&monitor).await;
    assert!(report["undelivered"].as_str().unwrap().contains("/alert_service/alerts"), "{report}");
    monitor.kill();
    let mut monitor = reopened(&fleet, folder, &never_denied()).await;
    fleet.set_takes_nothing(false);
    wait_until("the alert is sent", async || !fleet.messages().is_empty()).await;
    let ids = |found: &Value| list(found, "findings").iter().map(|one| one["id"].clone()).collect::<Vec<_>>();
    let before = ids(&monitor.get("/findings").await);
    assert_eq!(before.len(), 1);
    // Other controls: all is judged again, and found again as what it is.
    let mut more = never_denied();
    more.as_array_mut().unwrap().push(
        json!({"id": "few", "title": "few", "severity": "info", "check": {"rate": {"matches": {"kind": "decision"}, "window_ms": 1_000, "more_than": 6}}}),
    );
    monitor.kill();
    let folder = TempDir::new().unwrap();
    monitor = fleet.open(&KIND, &folder, settings(&never_denied())).await;
    assert_eq!(ids(&monitor.get("/findings").await), before);
    monitor.kill();
    monitor = reopened(&fleet, folder, &more).await;
    let after = ids(&monitor.get("/findings").await);
    assert_eq!((after.len(), after.last()), (2, before.last()));
    let page = monitor.get("/findings?limit=1").await;
    let rest = monitor.get(&format!("/findings?limit=1&cursor={}", page["next_cursor"])).await;
    assert_eq!((ids(&page), ids(&rest)), (after[..1].to_vec(), after[1..].to_vec()));
    assert_eq!(rest["next_cursor"], json!(null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewritten_history_is_a_critical_finding() {
    let (fleet, folder) = (filled().await, TempDir::new().unwrap());
    let monitor = fleet.open(&KIND, &folder, settings(&never_denied())).await;
    let _ = check(&monitor).await;
    // They grow: the proofs hold.
    fleet.entry("note", &json!({"n": 1}));
    let _ = check(&monitor).await;
    fleet.entry("note", &json!({"n": 2}));
    let _ = fleet.decision("k", "later", "a", "ALLOW", 9);
    let report = check(&monitor).await;
    assert_eq!(
        (&report["controls"][0]["status"], &report["controls"][0]["coverage"][0]["checkpoint_size"]),
        (&json!("passed"), &json!(9))
    );
    assert_eq!(report["controls"][0]["coverage"][1]["checkpoint_size"], 2);
    // A record in the middle becomes another one, and the log goes on from there.
    let forged = fleet.text("k", 2).replace("ALLOW", "DENY");
    fleet.rewrite("k", 2, &forged);
    let _ = fleet.decision("k", "latest", "a", "ALLOW", 10);
    let report = check(&monitor).await;
    assert_eq!(report["controls"][0]["status"], "failed", "{report}");
    let found = monitor.get("/findings?control=chain").await;
    assert_eq!(list(&found, "findings").len(), 1);
    assert_eq!(found["findings"][0]["severity"], "critical");
    let message = found["findings"][0]["message"].as_str().unwrap();
    assert!(message.contains("history of governance.k was rewritten") && message.contains("of 9 records"), "{message}");
    // It is said once.
    let _ = check(&monitor).await;
    assert_eq!(list(&monitor.get("/findings?control=chain").await, "findings").len(), 1);
    // What the follower itself sees: the ledger is shorter than what was read. All of it is judged again.
    fleet.truncate("k", 4);
    let report = check(&monitor).await;
    assert!(list(&monitor.get("/findings?control=chain").await, "findings").len() >= 2, "{report}");
    assert_eq!(report["controls"][1]["coverage"][0]["judged"], 4);
    let denied = monitor.get("/findings?control=denied").await;
    let denied: Vec<u64> =
        list(&denied, "findings").iter().map(|one| one["evidence"][0]["index"].as_u64().unwrap()).collect();
    assert_eq!(denied, [2, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_did_not_come_is_found_by_the_clock_and_only_where_the_ledger_was_read() {
    let (fleet, folder) = (filled().await, TempDir::new().unwrap());
    let controls = json!([{"id": "alive", "title": "alive", "severity": "info", "sources": "governance.*", "check": {"fresh": {"matches": {"kind": "decision"}, "every_ms": 1_000}}}]);
    fleet.set_time(500);
    let monitor = fleet.open(&KIND, &folder, settings(&controls)).await;
    assert_eq!(check(&monitor).await["controls"][0]["status"], "passed");
    fleet.set_governance_down(true);
    fleet.set_time(5_000);
    let report = check(&monitor).await;
    assert_eq!(
        (&report["controls"][0]["status"], &report["behind"][0]["source"]),
        (&json!("passed"), &json!("governance"))
    );
    fleet.set_governance_down(false);
    assert_eq!(check(&monitor).await["controls"][0]["status"], "failed");
    let _ = fleet.decision("k", "again", "a", "ALLOW", 5_000);
    let report = check(&monitor).await;
    assert_eq!(report["controls"][0]["findings"], json!({"open": 0, "acknowledged": 0, "resolved": 1}));
}

#[tokio::test(flavor = "multi_thread")]
async fn findings_are_bounded_and_what_is_left_out_is_counted() {
    let (fleet, folder) = (Fleet::start().await, TempDir::new().unwrap());
    for number in 0..7 {
        let _ = fleet.decision("k", &format!("r-{number}"), "a", "DENY", number);
    }
    let mut settings = settings(&never_denied());
    settings["findings_max"] = json!(4);
    let monitor = fleet.open(&KIND, &folder, settings).await;
    let report = check(&monitor).await;
    assert_eq!((&report["controls"][1]["findings"]["open"], &report["suppressed"]), (&json!(4), &json!(3)));
    let oldest = monitor.get("/findings").await["findings"][3]["id"].as_str().unwrap().to_owned();
    let _ = monitor.answer("POST", &format!("/findings/{oldest}/resolve"), &json!({"why": "done"})).await;
    let _ = fleet.decision("k", "next", "a", "DENY", 9);
    let report = check(&monitor).await;
    assert_eq!((&report["controls"][1]["findings"]["open"], &report["suppressed"]), (&json!(4), &json!(3)));
    assert_eq!(monitor.refused(&format!("/findings/{oldest}")).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finding_that_was_not_sent_does_not_make_room() {
    let (fleet, folder) = (Fleet::start().await, TempDir::new().unwrap());
    fleet.set_takes_nothing(true);
    let deny = |request: &str| fleet.decision("k", request, "a", "DENY", 1);
    let mut settings = settings(&never_denied());
    settings["findings_max"] = json!(2);
    let monitor = fleet.open(&KIND, &folder, settings.clone()).await;
    let (_, _) = (deny("r-0"), deny("r-1"));
    let _ = check(&monitor).await;
    let oldest = monitor.get("/findings").await["findings"][1]["id"].as_str().unwrap().to_owned();
    let _ = monitor.answer("POST", &format!("/findings/{oldest}/resolve"), &json!({"why": "done"})).await;
    let _ = deny("r-2");
    assert_eq!(check(&monitor).await["suppressed"], 1);
    fleet.set_takes_nothing(false);
    assert_eq!(check(&monitor).await["undelivered"], Value::Null);
    let _ = deny("r-3");
    assert_eq!(check(&monitor).await["suppressed"], 1, "now the one that is resolved has gone");
    assert_eq!(monitor.refused(&format!("/findings/{oldest}")).await.0, 404);
    let told: Vec<Value> = fleet.alerts().iter().map(|alert| alert["dedupe_key"].clone()).collect();
    assert!(told.len() == 3 && told.contains(&json!(oldest)), "{told:?}");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let control = json!({"id": "c", "title": "t", "severity": "info", "check": {"chain": {}}});
    for (settings, told) in [
        (json!({"chain_every_ms": 1}), "chain_every_ms: 1 is not from 1000 to 86400000"),
        (json!({"controls": []}), "controls: 0 is not from 1 to 256"),
        (json!({"controls": [control, control]}), "controls: there are two with the id c"),
        (
            json!({"controls": [{"id": "c", "title": "t", "severity": "high", "check": {"chain": {}}}]}),
            "unknown variant `high`",
        ),
        (json!({"colour": 1}), "unknown field `colour`"),
    ] {
        let why = (KIND.check)(&settings).unwrap_err().to_string();
        assert!(why.contains(told), "{why}");
    }
    (KIND.check)(&json!({})).unwrap();
}
