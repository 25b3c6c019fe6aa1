//! The audit trail through its routes, with a main API that has ledgers.

use super::KIND;
use crate::following::trial::{Fleet, Running};
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

const DAY_MS: u64 = 86_400_000;

async fn filled() -> Fleet {
    let fleet = Fleet::start().await;
    for number in 0..12 {
        let decision = if number % 3 == 0 { "DENY" } else { "ALLOW" };
        let _ = fleet.decision(
            "k",
            &format!("r-{number}"),
            &format!("agent-{}", number % 2),
            decision,
            number * DAY_MS / 4,
        );
    }
    let _ = fleet.decision("other", "Löwe", "=agent", "ALLOW", 7);
    fleet.entry("healing", &json!({"reason": "port_not_listening", "component": "telemetry_service"}));
    fleet
}

async fn open(fleet: &Fleet, folder: &TempDir) -> Running {
    fleet.open(&KIND, folder, json!({"catch_up_ms": 60_000, "page_records": 5, "commit_records": 4})).await
}

fn indices(answer: &Value, list: &str) -> Vec<u64> {
    answer[list].as_array().unwrap().iter().map(|hit| hit["index"].as_u64().unwrap()).collect()
}

/// What a kill would leave, at some moment: as long as no commit comes in between, all that the last one names stays.
fn image(folder: &Path) -> TempDir {
    let commit = || std::fs::read(folder.join("index/meta.json")).unwrap();
    loop {
        let (before, image) = (commit(), TempDir::new().unwrap());
        let index = image.path().join("index");
        std::fs::create_dir(&index).unwrap();
        for file in std::fs::read_dir(folder.join("index")).unwrap().map(Result::unwrap) {
            // What merges leave behind may go at any time.
            let _ = std::fs::copy(file.path(), index.join(file.file_name()));
        }
        if commit() == before {
            return image;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_found_by_words_and_by_what_they_say() {
    let (fleet, folder) = (filled().await, TempDir::new().unwrap());
    let trail = open(&fleet, &folder).await;
    let all = trail.get("/search").await;
    assert_eq!((&all["total"], &all["behind"]), (&json!(14), &json!([])));
    for (question, expected) in [
        ("q=r%20intent%205", vec![5]),
        ("q=%22intent%20of%20r%205%22", vec![5]),
        ("q=gr%C3%B6%C3%9Fe&source=governance.other", vec![0]),
        ("q=L%C3%96WE", vec![0]),
        ("q=actor:agent-1%20AND%20decision:DENY&limit=1&offset=1", vec![3]),
        ("actor=agent-1&decision=deny", vec![9, 3]),
        ("kind=healing&q=telemetry_service", vec![0]),
        ("from=1970-01-02T12:00:00Z&to=172800000", vec![8, 7, 6]),
        ("q=nowhere", vec![]),
        ("policy=pace", vec![]),
        ("request_id=r-7&tool=echo", vec![7]),
    ] {
        let found = trail.get(&format!("/search?{question}")).await;
        let mut found = indices(&found, "hits");
        if question.starts_with("q=actor") {
            // Which of the two comes first is not said.
            found = if [3, 9].contains(&found[0]) { vec![3] } else { found };
        }
        assert_eq!(found, expected, "{question}");
    }
    let hit = trail.get("/search?q=fast&request_id=r-6").await["hits"][0].clone();
    assert_eq!((&hit["source"], &hit["proof"]), (&json!("governance.k"), &json!("/kernels/k/prove?index=6&of=k")));
    let mark = &hit["highlights"][0];
    let place = |at: usize| usize::try_from(mark["words"][0][at].as_u64().unwrap()).unwrap();
    let (from, to) = (place(0), place(1));
    let word: String = mark["text"].as_str().unwrap().chars().skip(from).take(to - from).collect();
    assert_eq!(word, "fast");
    // Byte for byte.
    let (_, text) = trail.answer("GET", "/record/governance.k/6", &Value::Null).await;
    assert!(text.contains(&fleet.text("k", 6)), "{text}");
    assert_eq!(trail.refused("/record/governance.k/99").await.0, 404);
    assert_eq!(trail.refused("/record/governance.k/x").await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_that_cannot_be_read_say_where() {
    let (fleet, folder) = (filled().await, TempDir::new().unwrap());
    let trail = open(&fleet, &folder).await;
    let deep = format!("q={}a", "(".repeat(40));
    for (question, told) in [
        ("q=a%20AND%20(b", "q: at character"),
        ("q=a%20nofield:x", "q: at character 3: field does not exist: 'nofield'"),
        ("q=index:seven", "q: at character 1: expected a valid integer"),
        ("q=record:x", "q: at character 1: the field 'record' is not declared as indexed"),
        ("q=text:*", "q: "),
        (deep.as_str(), "q: at character 17: more than 16 brackets within each other"),
        ("from=yesterday", "from=`yesterday` is no time"),
        ("limit=0", "limit=0: a page has 1 to 1000 records"),
        ("offset=9990", "only 10000 hits can be reached"),
        ("cursor=1", "`cursor` is not taken here"),
        ("colour=red", "colour"),
    ] {
        let (status, why) = trail.refused(&format!("/search?{question}")).await;
        assert_eq!(status, 400, "{question}: {why}");
        assert!(why.contains(told), "{question}: {why}");
    }
    // As deep as it may be, it is read at once.
    let deep = trail.get(&format!("/search?q={}telemetry_service{}", "(".repeat(16), ")".repeat(16))).await;
    assert_eq!(deep["total"], 1);
    let (status, why) = trail.refused("/export?format=xml").await;
    assert_eq!((status, why.as_str()), (400, "format=`xml`: give jsonl or csv"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_exports_and_summaries_have_every_record_once() {
    let (fleet, folder) = (filled().await, TempDir::new().unwrap());
    let trail = open(&fleet, &folder).await;
    let (mut cursor, mut seen) = (String::new(), Vec::new());
    loop {
        let page = trail.get(&format!("/records?source=governance.k&limit=5{cursor}")).await;
        seen.extend(indices(&page, "records"));
        // What comes later is not in between.
        let _ = fleet.decision("k", "late", "late", "ALLOW", 0);
        match page["next_cursor"].as_u64() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, (0..12).rev().collect::<Vec<u64>>());
    let (_, lines) = trail.answer("GET", "/export?source=governance.k", &Value::Null).await;
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let exported: Vec<u64> = lines.iter().map(|line| line["record"]["index"].as_u64().unwrap()).collect();
    assert_eq!(exported, (0..15).collect::<Vec<u64>>());
    let (_, csv) = trail.answer("GET", "/export?format=csv&source=governance.other", &Value::Null).await;
    let rows: Vec<&str> = csv.lines().collect();
    assert_eq!(rows.len(), 2, "{csv}");
    assert!(rows[1].starts_with("governance.other,0,7,decision,\"'=agent\",echo,ALLOW,Löwe,,,"), "{csv}");
    let summary = trail.get("/summary?source=governance.k&to=259200000").await;
    let denied = json!({"value": "DENY", "records": 4});
    assert!(summary["decisions"]["values"].as_array().unwrap().contains(&denied), "{summary}");
    assert_eq!((&summary["records"], &summary["days"][1]), (&json!(15), &json!({"day": "1970-01-02", "records": 4})));
    let sources = trail.get("/sources").await;
    assert_eq!(sources["sources"][0], json!({"source": "governance.k", "next": 15, "missed": 0, "holds": 15}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_loses_nothing_and_takes_nothing_twice() {
    let (fleet, folder) = (filled().await, TempDir::new().unwrap());
    let mut trail = open(&fleet, &folder).await;
    let mut homes = vec![folder];
    for round in 0..4_u64 {
        let total = trail.get("/search?limit=1").await["total"].as_u64().unwrap();
        assert_eq!(total, 14 + round * 7);
        for number in 0..7 {
            let _ = fleet.decision("k", &format!("more-{round}-{number}"), "a", "ALLOW", 9);
        }
        let next = image(homes.last().unwrap().path());
        trail.kill();
        trail = open(&fleet, &next).await;
        homes.push(next);
    }
    let (_, lines) = trail.answer("GET", "/export", &Value::Null).await;
    let mut seen: Vec<(String, u64)> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|line| (line["source"].as_str().unwrap().to_owned(), line["index"].as_u64().unwrap()))
        .collect();
    seen.sort();
    let before = seen.len();
    seen.dedup();
    assert_eq!((seen.len(), before), (14 + 28, 14 + 28));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_cannot_be_used_is_made_anew() {
    let fleet = filled().await;
    for what in ["meta.json", ".store", "payload"] {
        let folder = TempDir::new().unwrap();
        let trail = open(&fleet, &folder).await;
        assert_eq!(trail.get("/search").await["total"], 14);
        let kept = image(folder.path());
        trail.kill();
        let index = kept.path().join("index");
        let files = std::fs::read_dir(&index).unwrap().map(|file| file.unwrap().path());
        if what == "payload" {
            let meta = index.join("meta.json");
            let text = std::fs::read_to_string(&meta).unwrap();
            assert!(text.contains(r#"\"form\":1"#), "{text}");
            std::fs::write(&meta, text.replace(r#"\"form\":1"#, r#"\"form\":0"#)).unwrap();
        } else {
            for file in files.filter(|file| file.to_string_lossy().ends_with(what)) {
                let mut bytes = std::fs::read(&file).unwrap();
                let middle = bytes.len() / 3;
                bytes[middle] ^= 0x55;
                std::fs::write(&file, bytes).unwrap();
            }
        }
        let trail = open(&fleet, &kept).await;
        assert_eq!(trail.get("/search").await["total"], 14, "{what}");
        assert!(kept.path().join("index.aside").exists(), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_down_is_told_and_a_rewritten_one_is_read_anew() {
    let (fleet, folder) = (filled().await, TempDir::new().unwrap());
    let trail = open(&fleet, &folder).await;
    assert_eq!(trail.get("/search").await["total"], 14);
    fleet.set_governance_down(true);
    let found = trail.get("/search?q=fast").await;
    assert_eq!((&found["total"], &found["behind"][0]["source"]), (&json!(4), &json!("governance")));
    let (status, _) = trail.answer("GET", "/export", &Value::Null).await;
    assert_eq!(status, 200);
    fleet.set_governance_down(false);
    fleet.truncate("k", 5);
    let _ = fleet.decision("k", "another", "history", "ALLOW", 1);
    let found = trail.get("/search?source=governance.k").await;
    assert_eq!(indices(&found, "hits"), [5, 4, 3, 2, 1, 0]);
    assert_eq!(trail.get("/health").await["status"], "healthy");
}

#[test]
fn settings_out_of_their_range_are_refused() {
    for (settings, told) in [
        (json!({"writer_bytes": 1}), "writer_bytes: 1 is not from 15000000 to 1000000000"),
        (json!({"follow_every_ms": 10}), "follow_every_ms: 10 is not from 1000 to 3600000"),
        (json!({"page_records": 0}), "page_records: 0"),
        (json!({"colour": 1}), "unknown field `colour`"),
    ] {
        let why = (KIND.check)(&settings).unwrap_err().to_string();
        assert!(why.contains(told), "{why}");
    }
    (KIND.check)(&json!({})).unwrap();
}
