//! The index beside the plain definition: reading everything.

use super::*;
use gavel_ledger::{Draft, Identity, Kind, Options};
use serde_json::json;
use std::path::PathBuf;
use tempfile::TempDir;

const LIMITS: PageLimits = PageLimits { records: 7, bytes: 1 << 20 };

fn ledger(id: &str) -> Arc<Ledger> {
    let identity = Identity { kernel_id: id.into(), variant: "strict".into() };
    Arc::new(Ledger::in_memory(Options::new(identity, 1_000)).unwrap())
}

/// A record of a closed request; its time jumps about.
fn append(ledger: &Ledger, number: u64) {
    let decision = ["ALLOW", "DENY"][usize::from(number.is_multiple_of(3))];
    let entry = json!({
        "actor": format!("agent-{}", number % 4),
        "decision": decision,
        "request_id": format!("r-{}", number / 2),
        "tool_name": (number % 5 > 1).then(|| format!("tool-{}", number % 5)),
    });
    let ts_ms = 2_000 + number * 37 % 500;
    let draft = Draft { kind: Kind::Decision, ts_ms, meta: "{}".into(), entry: Some(entry.to_string()), closes: None };
    ledger.append_wait(draft).unwrap();
}

fn filled(records: u64) -> Arc<Ledger> {
    let ledger = ledger("k");
    (0..records).for_each(|number| append(&ledger, number));
    ledger
}

struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn open(&self, ledger: &Arc<Ledger>) -> Index {
        Index::open(self.0.path(), ledger, 1 << 20).unwrap()
    }

    fn file(&self) -> PathBuf {
        self.0.path().join(FILE)
    }

    fn was_set_aside(&self) -> bool {
        follow::aside(&self.file()).exists()
    }
}

fn queries() -> Vec<Query> {
    let some = |text: &str| Some(text.to_owned());
    let all = Query::default();
    vec![
        all.clone(),
        Query::request("r-3"),
        Query::request("nobody"),
        Query { actor: some("agent-1"), ..all.clone() },
        Query { actor: some("agent-1"), decision: some("DENY"), ..all.clone() },
        Query { actor: some("agent-2"), tool: some("tool-4"), decision: some("ALLOW"), ..all.clone() },
        Query { decision: some("HALT"), ..all.clone() },
        Query { kind: some("opened"), ..all.clone() },
        Query { kind: some("decision"), tool: some("tool-2"), ..all.clone() },
        Query { from_ms: Some(2_100), to_ms: Some(2_200), ..all.clone() },
        Query { tool: some("tool-3"), from_ms: Some(2_100), ..all.clone() },
        Query { from_ms: Some(3_000), to_ms: Some(2_000), ..all },
    ]
}

/// All pages of a query, one after the other.
fn pages(query: &Query, mut ask: impl FnMut(&Query) -> Page) -> Vec<u64> {
    let (mut found, mut query) = (Vec::new(), query.clone());
    loop {
        let page = ask(&query);
        assert!(page.records.len() <= LIMITS.records);
        assert_eq!(page.indexed, page.committed);
        found.extend(page.records.iter().map(gavel_ledger::RecordView::index));
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => return found,
        }
    }
}

fn check_all(index: &Index, ledger: &Ledger) {
    for query in queries() {
        let by_index = pages(&query, |query| index.find(query, LIMITS).unwrap());
        let by_scan = pages(&query, |query| scan(ledger.records(&ledger.snapshot()), query, LIMITS).unwrap());
        assert_eq!(by_index, by_scan, "{query:?}");
        let mut expected: Vec<RecordPlace> = ledger
            .records(&ledger.snapshot())
            .map(Result::unwrap)
            .filter(|record| query.matches(record))
            .map(|record| (record.ts_ms(), record.index()))
            .collect();
        expected.sort_by(|a, b| b.cmp(a));
        assert_eq!(by_index, expected.iter().map(|(_, index)| *index).collect::<Vec<_>>(), "{query:?}");
    }
}

type RecordPlace = (u64, u64);

#[test]
fn the_index_finds_what_reading_everything_finds() {
    let (home, ledger) = (Home::new(), filled(100));
    let index = home.open(&ledger);
    check_all(&index, &ledger);
    // What comes later is found at once.
    (100..130).for_each(|number| append(&ledger, number));
    index.notify();
    check_all(&index, &ledger);
}

#[test]
fn an_index_goes_on_where_it_stopped() {
    let (home, ledger) = (Home::new(), filled(40));
    let index = home.open(&ledger);
    assert_eq!(index.find(&Query::default(), LIMITS).unwrap().indexed, 41);
    index.close();
    (40..60).for_each(|number| append(&ledger, number));
    check_all(&home.open(&ledger), &ledger);
    assert!(!home.was_set_aside());
}

#[test]
fn a_file_that_does_not_fit_is_set_aside_and_made_anew() {
    for damage in ["foreign", "garbage", "short", "empty"] {
        let (home, ledger) = (Home::new(), filled(40));
        let of = if damage == "foreign" { self::ledger("other") } else { Arc::clone(&ledger) };
        let first = home.open(&of);
        first.find(&Query::default(), LIMITS).unwrap();
        drop(first);
        let bytes = std::fs::read(home.file()).unwrap();
        match damage {
            "garbage" => std::fs::write(home.file(), "no database at all".repeat(1_000)).unwrap(),
            "short" => std::fs::write(home.file(), &bytes[..bytes.len() / 2]).unwrap(),
            "empty" => std::fs::write(home.file(), "").unwrap(),
            _ => {}
        }
        check_all(&home.open(&ledger), &ledger);
        assert_eq!(home.was_set_aside(), damage != "empty", "{damage}");
    }
}

#[test]
fn the_index_of_a_ledger_that_was_put_back_is_made_anew() {
    let (home, ledger) = (Home::new(), filled(40));
    home.open(&ledger).find(&Query::default(), LIMITS).unwrap();
    // The same first record, but another history and fewer records.
    let other = self::ledger("k");
    (0..20).for_each(|number| append(&other, number + 1_000));
    check_all(&home.open(&other), &other);
    assert!(home.was_set_aside());
}

#[test]
fn without_a_folder_to_write_there_is_no_index_and_that_is_said() {
    let (home, ledger) = (Home::new(), filled(3));
    let index = Index::open(&home.0.path().join("not there"), &ledger, 1 << 20).unwrap();
    let why = index.find(&Query::default(), LIMITS).unwrap_err().to_string();
    assert!(why.starts_with("there is no index: "), "{why}");
}

#[test]
fn a_range_of_times_is_narrowed_to_blocks() {
    let (home, ledger) = (Home::new(), self::ledger("k"));
    // Times rise by 1 each, but record 3,000 jumps back to 5.
    let event = |ts_ms| Draft { kind: Kind::Event, ts_ms, meta: "{}".into(), entry: None, closes: None };
    for number in 1..=5_000_u64 {
        let ts_ms = if number == 3_000 { 5 } else { 10_000 + number };
        ledger.append(event(ts_ms), |done| drop(done.unwrap()));
    }
    ledger.append_wait(event(16_000)).unwrap();
    let index = home.open(&ledger);
    assert_eq!(index.range(12_500, 12_600).unwrap(), 2_048..3_072);
    assert_eq!(index.range(11_020, 11_030).unwrap(), 0..3_072, "times from 5 on are in the third block too");
    assert_eq!(index.range(14_900, u64::MAX).unwrap(), 4_096..5_002);
    assert_eq!(index.range(20_000, 30_000).unwrap(), 0..0);
    assert_eq!(index.range(0, 5).unwrap(), 2_048..3_072);
}
