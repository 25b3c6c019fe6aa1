//! The law of each check.

use super::*;
use crate::compliance_monitor::control::Control;
use serde_json::Value;

fn control(check: &Value) -> Control {
    let control = json!({"id": "c", "title": "t", "severity": "info", "check": check});
    let control: Control = serde_json::from_value(control).unwrap();
    control.check().unwrap();
    control
}

fn said(index: u64, kind: &str, request: &str, decision: &str, ts_ms: u64) -> Record {
    let text = json!({"index": index, "kind": kind, "ts_ms": ts_ms, "meta": {}, "entry": {"request_id": request, "actor": "a", "decision": decision}});
    Record::read("governance.k", &text.to_string()).unwrap()
}

struct Bench {
    control: Control,
    state: State,
}

impl Bench {
    fn of(check: &Value) -> Self {
        Self { control: control(check), state: State::default() }
    }

    /// The numbers of the evidence of each violation.
    fn judge(&mut self, records: &[Record]) -> Vec<Vec<u64>> {
        let mut judged = Judged::default();
        for next in records {
            record(&self.control, &mut self.state, next, 3, &mut judged);
        }
        Self::told(&judged)
    }

    fn elapsed(&mut self, read_ms: u64) -> Vec<Vec<u64>> {
        let mut judged = Judged::default();
        let _ = elapsed(&self.control, "s", &mut self.state, read_ms, &mut judged);
        Self::told(&judged)
    }

    fn told(judged: &Judged) -> Vec<Vec<u64>> {
        judged.violations.iter().map(|found| found.evidence.iter().map(|record| record.index).collect()).collect()
    }
}

#[test]
fn never_is_every_match() {
    let mut bench = Bench::of(&json!({"never": {"decision": "DENY"}}));
    let records = [
        said(0, "decision", "r", "ALLOW", 1),
        said(1, "decision", "r", "DENY", 1),
        said(2, "decision", "r", "DENY", 2),
    ];
    assert_eq!(bench.judge(&records), [[1], [2]]);
    assert_eq!((bench.state.judged, bench.state.matched), (3, 2));
}

#[test]
fn a_rate_is_found_when_it_is_passed_and_again_when_it_is_passed_again() {
    let mut bench = Bench::of(&json!({"rate": {"matches": {"decision": "DENY"}, "window_ms": 600, "more_than": 2}}));
    let deny = |index: u64, ts_ms: u64| said(index, "decision", "r", "DENY", ts_ms);
    assert_eq!(bench.judge(&[deny(0, 0), deny(1, 500), deny(2, 700)]), Vec::<Vec<u64>>::new());
    assert_eq!(bench.judge(&[deny(3, 710)]), [[1, 2, 3]]);
    // It goes on: that is the same finding.
    assert_eq!(bench.judge(&[deny(4, 720), deny(5, 730)]), Vec::<Vec<u64>>::new());
    assert_eq!(bench.judge(&[deny(6, 9_000), deny(7, 9_001), deny(8, 9_002)]), [[6, 7, 8]]);
}

#[test]
fn a_share_is_of_enough_records() {
    let check = json!({"rate": {"matches": {"decision": "DENY"}, "of": {"decision": "*"}, "window_ms": 6_000, "more_than_percent": 50, "at_least": 4}});
    let mut bench = Bench::of(&check);
    let records = [
        said(0, "decision", "r", "DENY", 1),
        said(1, "decision", "r", "DENY", 2),
        said(2, "decision", "r", "ALLOW", 3),
    ];
    assert_eq!(bench.judge(&records), Vec::<Vec<u64>>::new());
    assert_eq!(bench.judge(&[said(3, "decision", "r", "ALLOW", 4)]), Vec::<Vec<u64>>::new());
    assert_eq!(bench.judge(&[said(4, "decision", "r", "DENY", 5)]), [[0, 1, 4]]);
}

#[test]
fn what_must_follow_follows_in_time() {
    let check = json!({"follows": {"first": {"kind": "decision"}, "then": {"kind": "outcome"}, "within_ms": 100, "within_records": 4}});
    let mut bench = Bench::of(&check);
    let first = [
        said(0, "decision", "a", "ALLOW", 10),
        said(1, "decision", "b", "ALLOW", 10),
        said(2, "outcome", "a", "ALLOW", 50),
    ];
    assert_eq!(bench.judge(&first), Vec::<Vec<u64>>::new());
    // By time of the clock, once everything was read until then.
    assert_eq!(bench.elapsed(110), Vec::<Vec<u64>>::new());
    assert_eq!(bench.elapsed(111), [[1]]);
    assert_eq!(bench.elapsed(999), Vec::<Vec<u64>>::new());
    // By the number of records.
    assert_eq!(bench.judge(&[said(3, "decision", "c", "ALLOW", 20)]), Vec::<Vec<u64>>::new());
    assert_eq!(bench.judge(&[said(8, "outcome", "c", "ALLOW", 20)]), [[3]]);
    // By the time of a later record.
    assert_eq!(bench.judge(&[said(9, "decision", "d", "ALLOW", 20), said(10, "event", "x", "ALLOW", 121)]), [[9]]);
    // There is room for three.
    let many: Vec<Record> = (20..24).map(|index| said(index, "decision", &index.to_string(), "ALLOW", 130)).collect();
    assert_eq!(bench.judge(&many), Vec::<Vec<u64>>::new());
    assert_eq!((bench.state.open.len(), bench.state.not_judged), (3, 1));
}

#[test]
fn what_must_come_again_is_missed_and_then_over() {
    let mut bench = Bench::of(&json!({"fresh": {"matches": {"kind": "event"}, "every_ms": 100}}));
    assert_eq!(bench.elapsed(1_000), Vec::<Vec<u64>>::new());
    assert_eq!(bench.elapsed(1_100), Vec::<Vec<u64>>::new());
    assert_eq!(bench.elapsed(1_101), [Vec::<u64>::new()]);
    assert_eq!(bench.elapsed(1_200), Vec::<Vec<u64>>::new());
    let mut judged = Judged::default();
    record(&bench.control, &mut bench.state, &said(0, "event", "r", "ALLOW", 1_300), 3, &mut judged);
    assert_eq!((judged.over.len(), judged.violations.len()), (1, 0));
    assert_eq!(bench.elapsed(1_400), Vec::<Vec<u64>>::new());
    assert_eq!(bench.elapsed(1_401), [[0]]);
}

/// However the records come in pages, and wherever the state is written down and read back, the same is found.
#[test]
fn pages_and_restarts_change_nothing() {
    let checks = [
        json!({"never": {"decision": "DENY"}}),
        json!({"rate": {"matches": {"decision": "DENY"}, "window_ms": 60, "more_than": 3}}),
        json!({"follows": {"first": {"kind": "decision"}, "then": {"kind": "outcome"}, "within_records": 7}}),
    ];
    // A sequence without a pattern, the same every time.
    let mut seed = 7_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let records: Vec<Record> = (0..400)
        .map(|index| {
            let kind = ["decision", "outcome"][usize::from(random(2) == 0)];
            let decision = ["ALLOW", "DENY"][usize::from(random(4) == 0)];
            said(index, kind, &random(9).to_string(), decision, index * 10 + random(30))
        })
        .collect();
    for check in checks {
        let ids = |page: usize| {
            let mut bench = Bench::of(&check);
            let mut found = Vec::new();
            for page in records.chunks(page) {
                let mut judged = Judged::default();
                for next in page {
                    record(&bench.control, &mut bench.state, next, 3, &mut judged);
                }
                found.extend(judged.violations.iter().map(|violation| violation.id("c", "s")));
                let written = serde_json::to_string(&bench.state).unwrap();
                bench.state = serde_json::from_str(&written).unwrap();
            }
            found
        };
        let whole = ids(400);
        assert!(whole.len() > 3, "{check}: {}", whole.len());
        assert_eq!(ids(1), whole);
        assert_eq!(ids(13), whole);
        let apart: std::collections::BTreeSet<&String> = whole.iter().collect();
        assert_eq!(apart.len(), whole.len());
    }
}
