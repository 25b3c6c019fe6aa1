//! The doors of an alert service.

use super::Service;
use super::desk::Raised;
use super::matching::{Matcher, Route, Severity};
use super::record::{ALERTS, Act, Alert, META, SILENCES, Silence, Status, number};
use super::{answered, no_alert};
use crate::caller::{Caller, Role};
use crate::doors::{Body, Door, Doors, Params};
use crate::fault::Fault;
use crate::writer::{decoded, reading};
use axum::Json;
use axum::extract::{Path, State};
use redb::{ReadableDatabase, ReadableTable};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Who may raise alerts.
const RAISING: &[Role] = &[Role::Agent, Role::Operator];
/// A filter may pass over so many alerts in one look.
const PASSED_MAX: usize = 10_000;
/// Longest source, name, label or key.
const TEXT_BYTES_MAX: usize = 256;
/// Longest note.
const NOTE_BYTES_MAX: usize = 2_000;
/// Longest silence.
const SILENCE_MS_MAX: u64 = 90 * 24 * 3_600_000;

type App = State<Arc<Service>>;
type Answer = Result<Json<Value>, Fault>;

const SEEING: Door = Door { roles: crate::SEEING, summary: "", query: &[], body: "", answer: "" };
const OPERATING: Door = Door { roles: crate::OPERATING, ..SEEING };

/// All of them.
pub(super) fn doors(service: Arc<Service>) -> Doors {
    of_alerts(of_rules(Doors::new())).with_state(service)
}

fn of_alerts(doors: Doors<Arc<Service>>) -> Doors<Arc<Service>> {
    let note = r#"{"note":"the disk is being replaced"}"#;
    doors
        .post(
            "/alerts",
            Door {
                roles: RAISING,
                summary: "Raise an alert; the answer comes when it is on disk",
                body: r#"{"severity":"critical","source":"guardian","name":"kernel_given_up","message":"audit_trail does not start","labels":{"kernel":"audit_trail"}}"#,
                answer: r#"{"id":"a17","status":"open","count":1,"silenced":false}"#,
                ..SEEING
            },
            raise,
        )
        .get(
            "/alerts",
            Door {
                summary: "Alerts, the newest first",
                query: &[
                    ("status", "open, acknowledged, resolved; several with commas between"),
                    ("severity", "info, warning, critical; several with commas between"),
                    ("source", "of this source; `*` at the end stands for any rest"),
                    ("name", "of this name; `*` at the end stands for any rest"),
                    ("before", "older than this alert: `next` of the page before"),
                    ("limit", "alerts at most"),
                ],
                ..SEEING
            },
            alerts,
        )
        .get("/alerts/{id}", Door { summary: "An alert, with who was told", ..SEEING }, alert)
        .post(
            "/alerts/{id}/acknowledge",
            Door { summary: "See to an alert: nobody else is told", body: note, ..OPERATING },
            acknowledge,
        )
        .post(
            "/alerts/{id}/resolve",
            Door { summary: "Say that it is over: who was told is told that", body: note, ..OPERATING },
            resolve,
        )
}

fn of_rules(doors: Doors<Arc<Service>>) -> Doors<Arc<Service>> {
    let example = r#"{"routes":[{"name":"night","match":{"severity_min":"critical"},"steps":[{"receivers":["log"],"after_ms":300000},{"receivers":["log"]}]}]}"#;
    doors
        .get("/routes", Door { summary: "Whom to tell of which alerts", answer: example, ..SEEING }, routes)
        .put(
            "/routes",
            Door { summary: "Put routes in the place of the settings'", body: example, ..OPERATING },
            set_routes,
        )
        .delete("/routes", Door { summary: "Go back to the routes of the settings", ..OPERATING }, reset_routes)
        .get("/receivers", Door { summary: "Who can be told, and how much waits for each", ..SEEING }, receivers)
        .get("/silences", Door { summary: "The silences that are active", ..SEEING }, silences)
        .post(
            "/silences",
            Door {
                summary: "Hold back for a time what matches",
                body: r#"{"match":{"source":"guardian"},"for_ms":3600000,"why":"the host is being moved"}"#,
                ..OPERATING
            },
            silence,
        )
        .delete("/silences/{id}", Door { summary: "End a silence: what it held back is told", ..OPERATING }, speak)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    severity: Severity,
    source: String,
    name: String,
    message: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    dedupe_key: Option<String>,
}

impl Service {
    fn check(&self, said: &Said) -> Result<(), Fault> {
        let short = |what: &str, text: &str| {
            let bytes = text.len();
            if (1..=TEXT_BYTES_MAX).contains(&bytes) {
                return Ok(());
            }
            Err(Fault::not_accepted(format!("{what}: it has {bytes} bytes, 1 to {TEXT_BYTES_MAX} are allowed")))
        };
        short("source", &said.source)?;
        short("name", &said.name)?;
        said.dedupe_key.as_deref().map_or(Ok(()), |key| short("dedupe_key", key))?;
        let (labels, most) = (said.labels.len(), self.settings.labels_max);
        if labels > most {
            return Err(Fault::not_accepted(format!("labels: there are {labels}, at most {most} are taken")));
        }
        for (label, text) in &said.labels {
            short("labels", label)?;
            if text.len() > TEXT_BYTES_MAX {
                short(&format!("labels.{label}"), text)?;
            }
        }
        let (bytes, most) = (said.message.len(), self.settings.message_bytes_max);
        if bytes > most {
            return Err(Fault::too_large(format!("message: it has {bytes} bytes, at most {most} are taken")));
        }
        Ok(())
    }

    fn act(&self, caller: &Caller, noted: Noted) -> Result<Act, Fault> {
        let bytes = noted.note.as_ref().map_or(0, String::len);
        if bytes > NOTE_BYTES_MAX {
            return Err(Fault::not_accepted(format!("note: it has {bytes} bytes, at most {NOTE_BYTES_MAX} are taken")));
        }
        Ok(Act { by: caller.sender().to_owned(), at_ms: (self.clock)(), note: noted.note })
    }
}

async fn raise(State(service): App, caller: Caller, Body(said): Body<Said>) -> Answer {
    service.check(&said)?;
    let Said { severity, source, name, message, labels, dedupe_key } = said;
    let (by, of_the_fleet) = (caller.sender().to_owned(), caller.is_of_the_fleet());
    let bytes = message.len();
    let raised = Raised { by, of_the_fleet, severity, source, name, message, labels, dedupe_key };
    let (alert, known) = service.writer.change(bytes, move |desk, write| desk.raise(write, raised)).await?;
    let counter = if known { &service.counts.deduplicated } else { &service.counts.opened };
    counter.inc();
    Ok(Json(json!({
        "id": alert.id,
        "status": if known { "deduplicated" } else { "open" },
        "alert_status": alert.status,
        "severity": alert.severity,
        "count": alert.count,
        "first_ms": alert.first_ms,
        "last_ms": alert.last_ms,
        "route": alert.route,
        "silenced": alert.silence.is_some(),
    })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    status: Option<String>,
    severity: Option<String>,
    source: Option<String>,
    name: Option<String>,
    before: Option<String>,
    limit: Option<usize>,
}

/// Which alerts are wanted.
struct Filter {
    statuses: Vec<Status>,
    severities: Vec<Severity>,
    matcher: Matcher,
}

impl Filter {
    fn read(wanted: Wanted) -> Result<Self, Fault> {
        let matcher = Matcher { source: wanted.source, name: wanted.name, ..Matcher::default() };
        matcher.check().map_err(Fault::unreadable)?;
        Ok(Self { statuses: several(wanted.status)?, severities: several(wanted.severity)?, matcher })
    }

    fn wants(&self, alert: &Alert) -> bool {
        (self.statuses.is_empty() || self.statuses.contains(&alert.status))
            && (self.severities.is_empty() || self.severities.contains(&alert.severity))
            && self.matcher.matches(alert.traits())
    }
}

/// Words with commas between, each as its type.
fn several<T: serde::de::DeserializeOwned>(text: Option<String>) -> Result<Vec<T>, Fault> {
    let text = text.unwrap_or_default();
    let words = text.split(',').filter(|word| !word.is_empty());
    words.map(|word| serde_json::from_value(json!(word)).map_err(|why| Fault::unreadable(why.to_string()))).collect()
}

async fn alerts(State(service): App, Params(wanted): Params<Wanted>) -> Answer {
    let (limit, most) = (wanted.limit.unwrap_or(100), service.settings.page_max);
    if limit == 0 || limit > most.max(100) {
        return Err(Fault::unreadable(format!("limit={limit}: give 1 to {most}")));
    }
    let before = match wanted.before.as_deref() {
        None => u64::MAX,
        Some(id) => {
            number('a', id).ok_or_else(|| Fault::unreadable(format!("before={id}: give the id of an alert")))?
        }
    };
    let filter = Filter::read(wanted)?;
    let database = Arc::clone(&service.database);
    let found = reading(move || {
        let table = database.begin_read()?.open_table(ALERTS)?;
        let (mut page, mut next) = (Vec::new(), None);
        for (passed, row) in table.range(..before)?.rev().enumerate() {
            let (place, text) = row?;
            if page.len() >= limit || passed >= PASSED_MAX {
                // Whoever reads on begins with this one.
                next = Some(format!("a{}", place.value() + 1));
                break;
            }
            let alert: Alert = decoded("alert", text.value())?;
            if filter.wants(&alert) {
                page.push(answered(&alert));
            }
        }
        Ok((page, next))
    });
    let (page, next) = found.await?;
    let counts = service.shared.counts();
    Ok(Json(json!({"alerts": page, "next": next, "unresolved": counts.open, "resolved": counts.resolved})))
}

async fn alert(State(service): App, Path(id): Path<String>) -> Answer {
    let number = alert_number(&id)?;
    let database = Arc::clone(&service.database);
    let found = reading(move || {
        let text = database.begin_read()?.open_table(ALERTS)?.get(number)?.map(|text| text.value().to_owned());
        Ok(text.map(|text| decoded::<Alert>("alert", &text)).transpose()?)
    });
    let alert = found.await?.ok_or_else(|| no_alert(number))?;
    Ok(Json(answered(&alert)))
}

fn alert_number(id: &str) -> Result<u64, Fault> {
    number('a', id).ok_or_else(|| Fault::absent(format!("there is no alert '{id}': ids look like a17")))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Noted {
    note: Option<String>,
}

async fn acknowledge(State(service): App, caller: Caller, Path(id): Path<String>, Body(noted): Body<Noted>) -> Answer {
    let (number, act) = (alert_number(&id)?, service.act(&caller, noted)?);
    let alert = service.writer.change(0, move |desk, write| desk.acknowledge(write, number, act)).await?;
    Ok(Json(answered(&alert)))
}

async fn resolve(State(service): App, caller: Caller, Path(id): Path<String>, Body(noted): Body<Noted>) -> Answer {
    let (number, act) = (alert_number(&id)?, service.act(&caller, noted)?);
    let alert = service.writer.change(0, move |desk, write| desk.resolve(write, number, act)).await?;
    Ok(Json(answered(&alert)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Routes {
    routes: Vec<Route>,
}

async fn routes(State(service): App) -> Answer {
    let database = Arc::clone(&service.database);
    let put = reading(move || {
        let text = database.begin_read()?.open_table(META)?.get("routes")?.map(|text| text.value().to_owned());
        Ok(text.map(|text| decoded::<Vec<Route>>("routes", &text)).transpose()?)
    });
    let put = put.await?;
    let from = if put.is_some() { "operators" } else { "settings" };
    let routes = put.unwrap_or_else(|| service.settings.routes.clone());
    Ok(Json(json!({"routes": routes, "from": from, "default_route": service.settings.default_route})))
}

async fn set_routes(State(service): App, caller: Caller, Body(given): Body<Routes>) -> Answer {
    service.settings.check_routes(&given.routes).map_err(|why| Fault::not_accepted(format!("routes.{why}")))?;
    tracing::info!(by = caller.sender(), routes = given.routes.len(), "operators put routes of alerts");
    let told = json!({"routes": given.routes, "from": "operators"});
    service.writer.change(0, move |desk, write| desk.set_routes(write, Some(given.routes))).await?;
    Ok(Json(told))
}

async fn reset_routes(State(service): App, caller: Caller) -> Answer {
    tracing::info!(by = caller.sender(), "the routes of alerts are the settings' again");
    service.writer.change(0, |desk, write| desk.set_routes(write, None)).await?;
    routes(State(service)).await
}

async fn receivers(State(service): App) -> Answer {
    let waiting = service.shared.counts().waiting;
    let shown = service.receivers.iter().map(|(name, shown)| {
        let mut shown = shown.clone();
        shown["name"] = json!(name);
        shown["waiting"] = json!(waiting.get(name).copied().unwrap_or(0));
        shown
    });
    Ok(Json(json!({"receivers": shown.collect::<Vec<_>>()})))
}

async fn silences(State(service): App) -> Answer {
    let (database, now_ms) = (Arc::clone(&service.database), (service.clock)());
    let found = reading(move || {
        let mut active = Vec::new();
        for row in database.begin_read()?.open_table(SILENCES)?.iter()? {
            let silence: Silence = decoded("silence", row?.1.value())?;
            if silence.until_ms > now_ms {
                active.push(silence);
            }
        }
        Ok(active)
    });
    Ok(Json(json!({"silences": found.await?})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Hushed {
    #[serde(rename = "match")]
    matcher: Matcher,
    until_ms: Option<u64>,
    for_ms: Option<u64>,
    why: String,
}

async fn silence(State(service): App, caller: Caller, Body(hushed): Body<Hushed>) -> Answer {
    let refused = |why: String| Fault::not_accepted(why);
    hushed.matcher.check().map_err(|why| refused(format!("match: {why}")))?;
    if hushed.matcher.is_empty() {
        return Err(refused(
            "match: it would silence everything: say at least one thing of the alerts meant".to_owned(),
        ));
    }
    if !(1..=NOTE_BYTES_MAX).contains(&hushed.why.len()) {
        return Err(refused(format!("why: it has {} bytes, 1 to {NOTE_BYTES_MAX} are taken", hushed.why.len())));
    }
    let now_ms = (service.clock)();
    let until_ms = match (hushed.until_ms, hushed.for_ms) {
        (Some(until_ms), None) => until_ms,
        (None, Some(for_ms)) => now_ms.saturating_add(for_ms),
        _ => return Err(refused("give either until_ms or for_ms".to_owned())),
    };
    if until_ms <= now_ms || until_ms - now_ms > SILENCE_MS_MAX {
        return Err(refused(format!(
            "until_ms: {until_ms} is not within the {SILENCE_MS_MAX} ms from now on, {now_ms}"
        )));
    }
    let who = (caller.sender().to_owned(), hushed.why);
    let silence =
        service.writer.change(0, move |desk, write| desk.silence(write, who, hushed.matcher, until_ms)).await?;
    Ok(Json(json!(silence)))
}

async fn speak(State(service): App, caller: Caller, Path(id): Path<String>) -> Answer {
    let number =
        number('s', &id).ok_or_else(|| Fault::absent(format!("there is no silence '{id}': ids look like s3")))?;
    tracing::info!(by = caller.sender(), silence = id, "a silence is ended");
    let told = service.writer.change(0, move |desk, write| desk.speak(write, number)).await?;
    Ok(Json(json!({"id": id, "ended": true, "told": told})))
}
