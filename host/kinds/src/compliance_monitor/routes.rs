//! The routes.

use super::control::{Check, Control};
use super::finding::{Finding, Standing, Step};
use super::judge::Evidence;
use super::store::{Wanted, told};
use super::{ChainSeen, Monitor, blocking};
use crate::caller::Caller;
use crate::doors::{Body, Door, Doors, Params};
use crate::fault::Fault;
use crate::following::{Position, Record, Source};
use crate::{OPERATING, SEEING};
use axum::Json;
use axum::extract::{Path, State};
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Characters of the reason that somebody gives.
const WHY_CHARACTERS_MAX: usize = 4_096;
const STANDINGS: [&str; 3] = ["open", "acknowledged", "resolved"];
const SEVERITIES: [&str; 3] = ["info", "warning", "critical"];

const CONTROLS: &str = r#"{"controls": [{"id": "no-halt", "title": "No kernel is halted", "references": ["SOC 2 A1.2"], "severity": "warning", "sources": "governance.*", "check": {"never": {"kind": "halt"}}}]}"#;
const FINDING: &str = r#"{"id": "0f", "seq": 1, "control": "no-halt", "title": "No kernel is halted", "references": [], "severity": "warning", "source": "governance.k", "message": "record 7 must not be: kind 'halt'", "evidence": [{"source": "governance.k", "index": 7, "hash": "00ff", "ts_ms": 1, "proof": "/kernels/k/prove?index=7&of=k"}], "found_ms": 1, "state": "open", "steps": []}"#;
const FINDINGS: &str = r#"{"findings": [], "next_cursor": null, "behind": []}"#;
const REPORT: &str = r#"{"controls": [{"id": "no-halt", "title": "No kernel is halted", "references": [], "severity": "warning", "status": "passed", "findings": {"open": 0, "acknowledged": 0, "resolved": 0}, "last_checked_ms": 1, "coverage": [{"source": "governance.k", "next": 8, "missed": 0, "judged": 8, "matched": 0, "not_judged": 0, "last_checked_ms": 1}]}], "suppressed": 0, "undelivered": null, "behind": []}"#;

/// All of them.
pub(super) fn doors() -> Doors<Monitor> {
    let seeing = |summary, query, answer| Door { roles: SEEING, summary, query, body: "", answer };
    let doing = |summary, body, answer| Door { roles: OPERATING, summary, query: &[], body, answer };
    let filters: &[(&str, &str)] = &[
        ("control", "The id of a control."),
        ("source", "`governance.ID` or `immutable_log`."),
        ("state", "open, acknowledged or resolved."),
        ("severity", "info, warning or critical."),
        ("limit", "How many; default 50."),
        ("cursor", "The `next_cursor` of the page before."),
    ];
    let why = r#"{"why": "known, ticket 7"}"#;
    Doors::new()
        .get("/controls", seeing("What must hold", &[], CONTROLS), controls)
        .get("/findings", seeing("What did not hold, the last first", filters, FINDINGS), findings)
        .get("/findings/{id}", seeing("A finding, with the records that are its evidence", &[], FINDING), finding)
        .post("/findings/{id}/acknowledge", doing("Say that it is known", why, FINDING), acknowledge)
        .post("/findings/{id}/resolve", doing("Say that it is done with", why, FINDING), resolve)
        .get("/report", seeing("How each control stands, and how far it was checked", &[], REPORT), report)
        .post("/check", doing("Check everything now, and report", "", REPORT), check)
}

async fn controls(State(monitor): State<Monitor>) -> Json<Value> {
    Json(json!({"controls": told(&*monitor.controls)}))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asked {
    control: Option<String>,
    source: Option<String>,
    state: Option<String>,
    severity: Option<String>,
    limit: Option<usize>,
    cursor: Option<u64>,
}

impl Asked {
    fn check(&self) -> Result<(), Fault> {
        for (name, said, known) in [("state", &self.state, STANDINGS), ("severity", &self.severity, SEVERITIES)] {
            if let Some(said) = said.as_ref().filter(|said| !known.contains(&said.as_str())) {
                let shown: String = said.chars().take(40).collect();
                let known = known.join(", ");
                return Err(Fault::unreadable(format!("{name}=`{}`: give one of {known}", shown.escape_debug())));
            }
        }
        if self.limit == Some(0) {
            return Err(Fault::unreadable("limit=0: a page has at least 1"));
        }
        Ok(())
    }
}

async fn findings(State(monitor): State<Monitor>, Params(asked): Params<Asked>) -> Result<Json<Value>, Fault> {
    asked.check()?;
    let seen = caught_up(&monitor).await;
    let limit = asked.limit.unwrap_or(50).min(monitor.settings.page_max);
    let Asked { control, source, state, severity, limit: _, cursor } = asked;
    let wanted = Wanted { control, source, state, severity, before: cursor };
    let store = Arc::clone(&monitor.store);
    let (found, next) = stored(move || store.findings(&wanted, limit)).await?;
    let found: Vec<Value> = found.iter().map(Finding::shown).collect();
    Ok(Json(json!({"findings": found, "next_cursor": next, "behind": seen})))
}

async fn finding(State(monitor): State<Monitor>, Path(id): Path<String>) -> Result<Json<Value>, Fault> {
    let shown: String = id.chars().take(64).collect();
    let store = Arc::clone(&monitor.store);
    let found = stored(move || store.finding(&id)).await?;
    let found = found.ok_or_else(|| Fault::absent(format!("there is no finding '{}'", shown.escape_debug())))?;
    let mut answer = found.shown();
    for (shown, evidence) in answer["evidence"].as_array_mut().into_iter().flatten().zip(&found.evidence) {
        match fetched(&monitor, &found.source, evidence).await {
            // Read as JSON here: whoever needs it byte for byte asks for its proof.
            Ok(record) => {
                shown["hash_matches"] = json!(record.hash == evidence.hash);
                shown["record"] = serde_json::from_str(&record.text).unwrap_or_default();
            }
            Err(why) => shown["missing"] = json!(why),
        }
    }
    Ok(Json(answer))
}

/// A record of the evidence, as its ledger has it now.
async fn fetched(monitor: &Monitor, source: &str, evidence: &Evidence) -> Result<Record, String> {
    let index = evidence.index;
    let path = Source::named(source).ok_or_else(|| format!("`{source}` is no source"))?.record(index);
    let text = monitor.peers.text(Method::GET, &path, None).await.map_err(|why| why.to_string())?;
    Record::read(source, std::str::from_utf8(&text).map_err(|why| format!("{path}: no text: {why}"))?)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Why {
    #[serde(alias = "note")]
    why: String,
}

async fn acknowledge(
    State(monitor): State<Monitor>,
    caller: Caller,
    Path(id): Path<String>,
    Body(why): Body<Why>,
) -> Result<Json<Value>, Fault> {
    step(&monitor, &caller, id, why, Standing::Acknowledged).await
}

async fn resolve(
    State(monitor): State<Monitor>,
    caller: Caller,
    Path(id): Path<String>,
    Body(why): Body<Why>,
) -> Result<Json<Value>, Fault> {
    step(&monitor, &caller, id, why, Standing::Resolved).await
}

async fn step(
    monitor: &Monitor,
    caller: &Caller,
    id: String,
    Why { why }: Why,
    state: Standing,
) -> Result<Json<Value>, Fault> {
    let characters = why.chars().count();
    if why.trim().is_empty() || characters > WHY_CHARACTERS_MAX {
        let most = WHY_CHARACTERS_MAX;
        return Err(Fault::not_accepted(format!("why: it has {characters} characters, say why in 1 to {most}")));
    }
    let step = Step { state, who: caller.sender().to_owned(), when_ms: (monitor.clock)(), why };
    let store = Arc::clone(&monitor.store);
    let found = stored(move || store.step(&id, step)).await??;
    Ok(Json(found.shown()))
}

async fn report(State(monitor): State<Monitor>) -> Result<Json<Value>, Fault> {
    let behind = caught_up(&monitor).await;
    reported(&monitor, behind).await
}

async fn check(State(monitor): State<Monitor>) -> Result<Json<Value>, Fault> {
    let behind = caught_up(&monitor).await;
    monitor.look(true).await;
    reported(&monitor, behind).await
}

async fn reported(monitor: &Monitor, behind: Value) -> Result<Json<Value>, Fault> {
    let monitor = monitor.clone();
    stored(move || summed_up(&monitor, &behind)).await.map(Json)
}

fn summed_up(monitor: &Monitor, behind: &Value) -> anyhow::Result<Value> {
    let (counted, suppressed) = monitor.store.standing()?;
    let (coverage, chains) = (monitor.store.coverage(), monitor.chains());
    let none = BTreeMap::new();
    let controls = monitor.controls.iter().map(|control| {
        let counted = counted.get(&control.id).unwrap_or(&none);
        of_control(monitor, control, counted, &coverage, &chains)
    });
    let controls: Vec<Value> = controls.collect();
    let undelivered = monitor.undelivered();
    Ok(json!({"controls": controls, "suppressed": suppressed, "undelivered": undelivered, "behind": behind}))
}

fn of_control(
    monitor: &Monitor,
    control: &Control,
    counted: &BTreeMap<&'static str, u64>,
    coverage: &BTreeMap<String, (Position, Option<u64>)>,
    chains: &BTreeMap<String, ChainSeen>,
) -> Value {
    let count = |name: &str| counted.get(name).copied().unwrap_or(0);
    let of_chain = matches!(control.check, Check::Chain(_));
    let (mut last_checked_ms, mut checked) = (None, 0);
    let mut covered = Vec::new();
    for (source, (position, checked_ms)) in coverage.iter().filter(|(source, _)| control.is_about(source)) {
        let (judged, matched, not_judged) = monitor.store.counts(&control.id, source);
        let chain = chains.get(source).filter(|_| of_chain);
        let checked_ms = match (of_chain, chain) {
            (false, _) => *checked_ms,
            (true, chain) => chain.filter(|chain| chain.size.is_some()).map(|chain| chain.at_ms),
        };
        last_checked_ms = last_checked_ms.max(checked_ms);
        checked += usize::from(checked_ms.is_some());
        let mut told = json!({
            "source": source, "next": position.next, "missed": position.missed,
            "judged": judged, "matched": matched, "not_judged": not_judged, "last_checked_ms": checked_ms,
        });
        if let Some(chain) = chain {
            (told["checkpoint_size"], told["not_covered"]) = (json!(chain.size), json!(chain.why));
        }
        covered.push(told);
    }
    let status = match (count("open") + count("acknowledged"), checked) {
        (1.., _) => "failed",
        (0, 0) => "not_checked",
        (0, checked) if checked < covered.len() => "partly_checked",
        (0, _) => "passed",
    };
    json!({
        "id": control.id, "title": control.title, "references": control.references, "severity": control.severity,
        "status": status, "last_checked_ms": last_checked_ms, "coverage": covered,
        "findings": {"open": count("open"), "acknowledged": count("acknowledged"), "resolved": count("resolved")},
    })
}

async fn caught_up(monitor: &Monitor) -> Value {
    monitor.follower.caught_up(Duration::from_millis(monitor.settings.catch_up_ms)).await.behind()
}

async fn stored<T: Send + 'static>(work: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> Result<T, Fault> {
    blocking(work).await.map_err(|why| {
        tracing::error!("the findings cannot be read or kept: {why}");
        Fault::unavailable("the findings cannot be read or kept now; the log of the kernel says why")
    })
}
