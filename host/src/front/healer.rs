//! `/network-healer/`: healings, asked for and remembered.

use super::Front;
use super::ports::{refused, told};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use gavel_fleet::{Healing, Issue, Order, Playbook};
use gavel_kinds::{ANY, Caller, Door, Doors, OPERATING, Params};
use serde::Deserialize;
use serde_json::{Map, Value, json};

const SEES: Door = Door { roles: ANY, summary: "", query: &[], body: "", answer: "" };
const ACTS: Door = Door { roles: OPERATING, ..SEES };

pub(super) fn doors(doors: Doors<Front>) -> Doors<Front> {
    let order = r#"{"component_name": "audit_trail", "issue_type": "port_not_listening", "severity": "medium"}"#;
    doors
        .post(
            "/network-healer/heal",
            Door { summary: "Heal a kernel, and say what was seen", body: order, ..ACTS },
            heal,
        )
        .post(
            "/network-healer/auto-heal",
            Door { summary: "Heal every kernel that does not answer", ..ACTS },
            auto_heal,
        )
        .get("/network-healer/stats", Door { summary: "Healings in numbers", ..SEES }, stats)
        .get(
            "/network-healer/history",
            Door { summary: "Healings, the latest last", query: &[("component_name", "only of this kernel")], ..SEES },
            history,
        )
        .get(
            "/network-healer/active",
            Door { summary: "Kernels that are being healed, started or stopped", ..SEES },
            active,
        )
        .get(
            "/network-healer/playbook-stats",
            Door { summary: "How often each playbook helped", ..SEES },
            playbook_stats,
        )
        .get(
            "/network-healer/recommendations/{name}",
            Door { summary: "Look at a kernel, change nothing, and say what could be done", ..SEES },
            recommendations,
        )
}

/// What is asked for, with the names that clients know.
#[derive(Deserialize)]
struct Asked {
    component_name: String,
    #[serde(default = "not_listening")]
    issue_type: String,
    #[serde(default = "medium")]
    severity: String,
    /// The port that the caller believes it to be on.
    #[serde(default)]
    port: Option<u16>,
    /// One playbook, and no other.
    #[serde(default)]
    action: Option<String>,
}

fn not_listening() -> String {
    "port_not_listening".to_owned()
}

fn medium() -> String {
    "medium".to_owned()
}

/// Characters of a severity.
const SEVERITY_CHARS_MAX: usize = 32;

async fn heal(State(front): State<Front>, caller: Caller, body: Bytes) -> Response {
    let asked: Asked = match serde_json::from_slice(&body) {
        Ok(asked) => asked,
        Err(why) => return told(StatusCode::UNPROCESSABLE_ENTITY, &format!("the order cannot be read: {why}")),
    };
    let action = match asked.action.as_deref().map(|name| Playbook::named(name).ok_or(name)) {
        Some(Err(name)) => {
            let known = Playbook::ALL.map(Playbook::name).join(", ");
            let why = format!("there is no playbook '{name}'; there are: {known}");
            return told(StatusCode::UNPROCESSABLE_ENTITY, &why);
        }
        Some(Ok(playbook)) => Some(playbook),
        None => None,
    };
    let name = asked.component_name;
    if let (Some(port), Some(entry)) = (asked.port, front.fleet().entry(&name))
        && port != entry.port
    {
        let why = format!("component '{name}' is on port {}, not on {port}: look again before you heal it", entry.port);
        return told(StatusCode::UNPROCESSABLE_ENTITY, &why);
    }
    let severity = asked.severity.chars().take(SEVERITY_CHARS_MAX).collect();
    let (issue, by_operator) = (Issue::named(&asked.issue_type), !caller.is_of_the_fleet());
    let order = Order { issue, severity, by: caller.name, by_operator, action };
    match front.heal(&name, order).await {
        Ok(healing) => Json(answer(&healing)).into_response(),
        Err(why) => refused(&why),
    }
}

/// A healing as clients know it.
fn answer(healing: &Healing) -> Value {
    json!({
        "success": healing.overall_success,
        "component": healing.component,
        "port": healing.port,
        "healing_result": {
            "issue": {"component": healing.component, "port": healing.port, "type": healing.issue},
            "playbooks_executed": healing.playbooks_executed,
            "results": healing.results,
            "overall_success": healing.overall_success,
        },
        "healed_at": healing.healed_at.to_string(),
    })
}

async fn auto_heal(State(front): State<Front>, caller: Caller) -> Json<Value> {
    let results = front.heal_all(&caller.name).await;
    let healed = results.iter().filter(|(_, result)| result.as_ref().is_ok_and(|one| one.overall_success)).count();
    let told: Vec<Value> = results
        .iter()
        .map(|(entry, result)| match result {
            Ok(healing) => answer(healing),
            Err(why) => json!({"success": false, "component": entry.name, "error": why.to_string()}),
        })
        .collect();
    Json(json!({
        "total_components": front.fleet().entries().len(),
        "components_healed": healed,
        "components_failed": results.len() - healed,
        "results": told,
    }))
}

async fn stats(State(front): State<Front>) -> Json<Value> {
    let history = front.fleet().history(None);
    let healed = history.iter().filter(|healing| healing.overall_success).count();
    let mut issues = Map::new();
    for healing in &history {
        let count = issues.entry(healing.issue.name()).or_insert(json!(0));
        *count = json!(count.as_u64().unwrap_or_default() + 1);
    }
    Json(json!({
        "total_healings": history.len(),
        "successful": healed,
        "failed": history.len() - healed,
        "by_issue": issues,
        "active": front.fleet().active(),
        "remembered_max": front.fleet().plan().limits.history_max,
    }))
}

#[derive(Deserialize)]
struct Wanted {
    component_name: Option<String>,
}

async fn history(State(front): State<Front>, Params(wanted): Params<Wanted>) -> Response {
    if let Some(name) = wanted.component_name.as_deref().filter(|name| front.fleet().entry(name).is_none()) {
        return refused(&gavel_fleet::HealError::Unknown(name.chars().take(64).collect()));
    }
    let history = front.fleet().history(wanted.component_name.as_deref());
    let told: Vec<&Healing> = history.iter().map(AsRef::as_ref).collect();
    Json(json!({"total": told.len(), "history": told})).into_response()
}

async fn active(State(front): State<Front>) -> Json<Value> {
    let active = front.fleet().active();
    Json(json!({"total": active.len(), "active": active}))
}

async fn playbook_stats(State(front): State<Front>) -> Json<Value> {
    let history = front.fleet().history(None);
    let stats: Map<String, Value> = Playbook::ALL
        .into_iter()
        .map(|playbook| {
            let played = history.iter().flat_map(|healing| &healing.results).filter(|one| one.playbook == playbook);
            let (mut executions, mut helped, mut took_ms) = (0_u32, 0_u32, 0.0);
            for one in played {
                executions += 1;
                helped += u32::from(one.success);
                took_ms += one.took_ms;
            }
            let mean = if executions == 0 { 0.0 } else { took_ms / f64::from(executions) };
            let told = json!({"executions": executions, "successes": helped, "mean_ms": mean});
            (playbook.name().to_owned(), told)
        })
        .collect();
    Json(json!({"playbooks": stats}))
}

async fn recommendations(State(front): State<Front>, Path(name): Path<String>) -> Response {
    match front.fleet().diagnose(&name).await {
        Ok(found) => {
            let recommendations = found.recommendations.clone();
            Json(json!({"component": name, "recommendations": recommendations, "diagnosis": found})).into_response()
        }
        Err(why) => refused(&why),
    }
}
