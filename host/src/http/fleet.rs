//! The routes by which kernels are replaced, rolled back, recovered, added, and given another policy; and incidents.
//!
//! Changing needs the role operator. Each answers what serves by then.

use super::App;
use super::auth::Caller;
use super::error::ApiError;
use super::policies::{Asked, read_object};
use super::routes::{Answer, SEEING, permitted};
use crate::config::Role;
use crate::fleet::definition::Definition;
use crate::fleet::{Addition, Ask, FleetError};
use crate::incidents::{Incident, IncidentError};
use crate::policies::change::Reason;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Incidents that one answer holds: the latest.
const INCIDENTS_MAX: usize = 1_000;

/// The routes below a kernel's.
pub(super) fn of_a_kernel() -> Router<App> {
    Router::new()
        .route("/policy", post(update_policy))
        .route("/replace", post(replace))
        .route("/rollback", post(roll_back))
        .route("/recover", post(recover))
}

/// The routes of the whole host.
pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/incidents", get(incidents).post(open_incident))
        .route("/incidents/{incident}/resolve", post(resolve_incident))
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Replace {
    definition: Option<Box<Definition>>,
    policy: Option<Value>,
    id: Option<String>,
    why: String,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RollBack {
    full: bool,
    id: Option<String>,
    why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Recover {
    incident: String,
    #[serde(default)]
    policy: Option<Map<String, Value>>,
    #[serde(default)]
    hours: Option<u64>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Update {
    policy: Value,
    #[serde(default)]
    why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    name: String,
    #[serde(default)]
    like: Option<String>,
    #[serde(default)]
    definition: Option<Definition>,
    #[serde(default)]
    policy: Option<Value>,
    #[serde(default)]
    why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenIncident {
    #[serde(default)]
    kernel: Option<String>,
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResolveIncident {
    why: String,
}

async fn replace(State(app): State<App>, asked: Asked<Replace>) -> Answer<Json<Value>> {
    let Replace { definition, policy, id, why } = asked.body;
    let ask = match (definition, policy) {
        (Some(_), Some(_)) => return Err(ApiError::Unreadable("give a `definition` or a `policy`, not both".into())),
        (Some(definition), None) => Ask::Definition(definition),
        (None, Some(policy)) => Ask::Policy(policy),
        (None, None) => Ask::Same,
    };
    let reason = Reason { who: asked.caller.name(), why: &why };
    Ok(Json(app.inner.fleet.replace(asked.slot.name(), id.as_deref(), ask, reason).await?))
}

async fn roll_back(State(app): State<App>, asked: Asked<RollBack>) -> Answer<Json<Value>> {
    let RollBack { full, id, why } = &asked.body;
    let reason = Reason { who: asked.caller.name(), why };
    let ask = Ask::RollBack { full: *full };
    Ok(Json(app.inner.fleet.replace(asked.slot.name(), id.as_deref(), ask, reason).await?))
}

async fn recover(State(app): State<App>, asked: Asked<Recover>) -> Answer<Json<Value>> {
    let Recover { incident, policy, hours, id, why } = asked.body;
    let reason = Reason { who: asked.caller.name(), why: &why };
    let ask = Ask::Recover { incident: incident.clone(), policy, hours };
    let fleet = &app.inner.fleet;
    let mut told = fleet.replace(asked.slot.name(), id.as_deref(), ask, reason).await?;
    told["incident"] = json!(incident);
    told["enhanced_monitoring_until_ms"] = fleet.status(&asked.slot)["enhanced_monitoring_until_ms"].clone();
    Ok(Json(told))
}

async fn update_policy(State(app): State<App>, asked: Asked<Update>) -> Answer<Json<Value>> {
    let Update { policy, why } = asked.body;
    let reason = Reason { who: asked.caller.name(), why: &why };
    Ok(Json(app.inner.fleet.update_policy(asked.slot.name(), policy, reason).await?))
}

/// A kernel more. Whoever may reach some kernels only cannot add others.
pub(super) async fn add(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Answer<Json<Value>> {
    caller.require(&[Role::Operator], None)?;
    let Add { name, like, definition, policy, why } = read_object(&app, body).await?;
    caller.require(&[Role::Operator], Some(&name))?;
    // What it is made of can be seen in it.
    if let Some(like) = &like {
        permitted(&app, &caller, Some(like), &[Role::Operator])?;
    }
    let reason = Reason { who: caller.name(), why: &why };
    Ok(Json(app.inner.fleet.add(&name, Addition { like, definition, policy }, reason).await?))
}

async fn incidents(State(app): State<App>, Extension(caller): Extension<Caller>) -> Answer<Json<Value>> {
    caller.require(&SEEING, None)?;
    let all = app.inner.fleet.incidents().list();
    let mut seen: Vec<Incident> =
        all.into_iter().filter(|found| caller.require(&SEEING, Some(&found.name)).is_ok()).collect();
    let latest = seen.split_off(seen.len().saturating_sub(INCIDENTS_MAX));
    Ok(Json(json!({"incidents": latest})))
}

async fn open_incident(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Answer<Json<Incident>> {
    caller.require(&[Role::Operator], None)?;
    let OpenIncident { kernel, reason } = read_object(&app, body).await?;
    let slot = permitted(&app, &caller, kernel.as_deref(), &[Role::Operator])?;
    let opened =
        app.inner.fleet.open_incident(slot.name(), "MANUAL", &reason, caller.name(), Value::Null, None).await?;
    Ok(Json(opened))
}

async fn resolve_incident(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(incident): Path<String>,
    body: Body,
) -> Answer<Json<Incident>> {
    caller.require(&[Role::Operator], None)?;
    let ResolveIncident { why } = read_object(&app, body).await?;
    let fleet = &app.inner.fleet;
    let found = fleet.incidents().get(&incident).map_err(FleetError::from)?;
    caller.require(&[Role::Operator], Some(&found.name))?;
    Ok(Json(fleet.resolve_incident(&incident, caller.name(), &why).await?))
}

impl From<FleetError> for ApiError {
    fn from(why: FleetError) -> Self {
        match why {
            FleetError::NoKernel(name) => Self::NoKernel(name),
            FleetError::Change(why) => why.into(),
            FleetError::NotAccepted(why) => Self::NotAccepted(why),
            FleetError::Incident(why @ IncidentError::Unknown(_)) => Self::NotAccepted(why.to_string()),
            FleetError::Incident(why @ IncidentError::Unwritten(_)) => Self::Unavailable(why.to_string()),
            FleetError::Conflict(why) => Self::Conflict(why),
            FleetError::Incident(why) => Self::Conflict(why.to_string()),
            FleetError::Failed(why) => {
                tracing::error!(%why, "a kernel could not be opened or replaced");
                Self::Unavailable(format!("nothing was changed: {why}"))
            }
        }
    }
}
