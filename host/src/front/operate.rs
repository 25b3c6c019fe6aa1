//! `/fleet/`: what an operator does with kernels and their logs.

use super::Front;
use super::ports::refused;
use crate::clock::{Clock, rfc3339};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use futures_util::stream::unfold;
use gavel_fleet::{HealError, Step, Usage};
use gavel_kinds::{ANY, Door, Doors, Fault, OPERATING, Params, SEEING};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use tokio::sync::broadcast::error::RecvError;

const ACTS: Door = Door { roles: OPERATING, summary: "", query: &[], body: "", answer: "" };
const READS: Door = Door { roles: SEEING, ..ACTS };

/// Lines of a log that are shown where nothing else is asked for, and at most.
const LINES: (usize, usize) = (100, 10_000);

pub(super) fn doors(doors: Doors<Front>) -> Doors<Front> {
    let asked = &[("lines", "how many of the last ones"), ("follow", "true: then each new one, as server-sent events")];
    doors
        .get(
            "/fleet",
            Door { roles: ANY, summary: "The whole fleet, with memory and CPU time of each kernel", ..READS },
            usage,
        )
        .post(
            "/fleet/{name}/restart",
            Door { summary: "Stop a kernel and start it; requests to it wait", ..ACTS },
            restart,
        )
        .post("/fleet/{name}/start", Door { summary: "Start a kernel, unless it runs", ..ACTS }, start)
        .post("/fleet/{name}/stop", Door { summary: "Stop a kernel until it is started again", ..ACTS }, stop)
        .get("/fleet/{name}/logs", Door { summary: "What a kernel wrote", query: asked, ..READS }, logs)
}

async fn usage(State(front): State<Front>) -> Json<Value> {
    let entries = front.fleet().entries();
    let plan = front.fleet().plan();
    let pids: Vec<u32> = entries.iter().filter_map(|entry| entry.pid).chain([std::process::id()]).collect();
    let usages: BTreeMap<u32, Usage> = gavel_fleet::look_asked(move || {
        pids.into_iter().filter_map(|pid| Some((pid, gavel_fleet::usage(pid)?))).collect()
    })
    .await;
    let kernels: Vec<Value> = entries
        .iter()
        .map(|entry| {
            let mut told = json!(entry);
            told["place"] = json!(plan.find(&entry.name).map(|component| component.place.name()));
            used(&mut told, entry.pid.and_then(|pid| usages.get(&pid)));
            told
        })
        .collect();
    let mut main = json!({"pid": std::process::id()});
    used(&mut main, usages.get(&std::process::id()));
    Json(json!({
        "status": super::health::overall(&entries),
        "version": env!("CARGO_PKG_VERSION"),
        "now": rfc3339(Clock::System.now_ms()),
        "pid": std::process::id(),
        "main": main,
        "healing": front.fleet().active(),
        "reports_waiting": front.inner.reports.waiting(),
        "kernels": kernels,
    }))
}

/// What a process uses, if there is one.
fn used(told: &mut Value, used: Option<&Usage>) {
    told["memory_bytes"] = json!(used.map(|used| used.memory_bytes));
    told["cpu_seconds"] = json!(used.map(|used| used.cpu_seconds));
}

async fn start(State(front): State<Front>, Path(name): Path<String>) -> Response {
    let done = front.carry(|fleet| async move { (fleet.start_one(&name).await, name) }).await;
    stepped(done)
}

async fn restart(State(front): State<Front>, Path(name): Path<String>) -> Response {
    let done = front.carry(|fleet| async move { (fleet.restart_one(&name).await, name) }).await;
    stepped(done)
}

async fn stop(State(front): State<Front>, Path(name): Path<String>) -> Response {
    let done = front.carry(|fleet| async move { (fleet.stop_one(&name).await, name) }).await;
    stepped(done)
}

fn stepped(done: Option<(Result<Vec<Step>, HealError>, String)>) -> Response {
    match done {
        Some((Ok(steps), name)) => {
            let success = steps.iter().all(|step| step.ok);
            Json(json!({"component": name, "success": success, "steps": steps})).into_response()
        }
        Some((Err(why), _)) => refused(&why),
        None => Fault::broken("it broke off; the log says why").into_response(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    lines: Option<usize>,
    #[serde(default)]
    follow: bool,
}

async fn logs(State(front): State<Front>, Path(name): Path<String>, Params(asked): Params<Asked>) -> Response {
    if front.fleet().entry(&name).is_none() {
        return refused(&HealError::Unknown(name.chars().take(64).collect()));
    }
    let (usual, most) = LINES;
    let wanted = asked.lines.unwrap_or(usual).min(most);
    // Before the last ones are read, so that none falls between.
    let follows = front.inner.logs.follow();
    let (logs, kernel) = (std::sync::Arc::clone(&front.inner.logs), name.clone());
    let read = tokio::task::spawn_blocking(move || logs.last(&kernel, wanted)).await;
    let last = match read {
        Ok(Ok(last)) => last,
        Ok(Err(why)) => return Fault::broken(format!("the log of '{name}' cannot be read: {why}")).into_response(),
        Err(_) => return Fault::broken(format!("the log of '{name}' cannot be read")).into_response(),
    };
    if !asked.follow {
        return Json(json!({"kernel": name, "lines": last})).into_response();
    }
    let stop = front.inner.stop.clone();
    let first = futures_util::stream::iter(last).map(|line| Ok::<_, Infallible>(Event::default().data(line)));
    let then = unfold((follows, stop, name), |(mut follows, stop, name)| async move {
        loop {
            let told = tokio::select! {
                () = stop.cancelled() => return None,
                told = follows.recv() => told,
            };
            let event = match told {
                Ok(line) if line.kernel == name => Event::default().data(line.text),
                Ok(_) => continue,
                Err(RecvError::Lagged(missed)) => Event::default().event("missed").data(missed.to_string()),
                Err(RecvError::Closed) => return None,
            };
            return Some((Ok(event), (follows, stop, name)));
        }
    });
    Sse::new(first.chain(then)).keep_alive(KeepAlive::default()).into_response()
}
