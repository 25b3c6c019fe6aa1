//! The messages of layers, as they go over the bus and over HTTP. `docs/formats/kasmina.md` describes them, and
//! `docs/formats/kasmina.schema.json` is their JSON Schema; a test holds both together.
//!
//! Versions: `gavel.kasmina/MAJOR.MINOR`, the minor one left out where it is 0. Another major version is refused. A
//! minor version may add fields, so fields that are not known are passed over.

use crate::news::News;
use kasmina::blueprint::Blueprint;
use kasmina::govern::{Command, Order};
use kasmina::state::Lifecycle;
use kasmina::telemetry::SeedTelemetry;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The schema of these messages.
pub const SCHEMA: &str = "gavel.kasmina/1";

/// Characters of an id that a sender chooses.
const ID_CHARS_MAX: usize = 256;

/// An event about layers.
#[must_use]
pub(crate) fn news<'a>(sender: &'a str, topic: &'static str, trace: Option<&'a str>) -> News<'a> {
    News { sender, topic, schema: SCHEMA, trace }
}

/// Check that a message's schema is one that is understood here; none means this one.
///
/// # Errors
/// What is understood.
pub fn check_schema(schema: Option<&str>) -> Result<(), String> {
    let Some(schema) = schema else { return Ok(()) };
    let minor = schema.strip_prefix(SCHEMA).map(|rest| rest.strip_prefix('.').unwrap_or(rest));
    let known = schema == SCHEMA || minor.is_some_and(|minor| schema.len() > SCHEMA.len() + 1 && is_number(minor));
    let shown: String = schema.chars().take(64).collect();
    if known { Ok(()) } else { Err(format!("schema `{shown}` is not understood here: use {SCHEMA}")) }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `control.kasmina.commands`: what is ordered of a seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KasminaCommand {
    /// Which layer.
    pub target_layer_id: String,
    /// Which seed.
    pub target_seed_id: usize,
    /// What to do: `germinate`, `train`, `graft`, …
    pub command: Order,
    /// For `germinate`: a registered blueprint, by name or id.
    #[serde(default)]
    pub blueprint_id: Option<String>,
    /// For `germinate`: the description itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blueprint_ir: Option<Blueprint>,
    /// For `germinate` and `graft`: a registered strategy.
    #[serde(default)]
    pub grafting_strategy: Option<String>,
    /// Why, for the record.
    #[serde(default)]
    pub reason: String,
}

/// A command as a sender posts it. The host stamps the event; what the sender may choose is the id by which the same
/// command is known when it comes again, and the trace that it belongs to.
#[derive(Debug, Clone, Deserialize)]
pub struct PostedCommand {
    /// The version of the message.
    #[serde(default)]
    pub schema: Option<String>,
    /// The sender's id for it; the host's without.
    #[serde(default)]
    pub event_id: Option<String>,
    /// What it follows from.
    #[serde(default)]
    pub trace_id: Option<String>,
    /// The command.
    pub data: PostedData,
}

/// The command in a posted message: the target may be left out, because the path names it.
#[derive(Debug, Clone, Deserialize)]
pub struct PostedData {
    /// Which layer; if given, that of the path.
    #[serde(default)]
    pub target_layer_id: Option<String>,
    /// Which seed.
    pub target_seed_id: usize,
    /// What to do.
    pub command: Order,
    /// As in [`KasminaCommand`].
    #[serde(default)]
    pub blueprint_id: Option<String>,
    /// As in [`KasminaCommand`].
    #[serde(default)]
    pub blueprint_ir: Option<Blueprint>,
    /// As in [`KasminaCommand`].
    #[serde(default)]
    pub grafting_strategy: Option<String>,
    /// As in [`KasminaCommand`].
    #[serde(default)]
    pub reason: String,
}

impl PostedCommand {
    /// The command for the layer of the path.
    ///
    /// # Errors
    /// What cannot be understood.
    pub fn for_layer(self, layer: &str) -> Result<KasminaCommand, String> {
        check_schema(self.schema.as_deref())?;
        for (name, id) in [("event_id", &self.event_id), ("trace_id", &self.trace_id)] {
            let length = id.as_ref().map_or(1, |id| id.chars().count());
            if !(1..=ID_CHARS_MAX).contains(&length) {
                return Err(format!("{name} has {length} characters: give 1 to {ID_CHARS_MAX}"));
            }
        }
        let data = self.data;
        if let Some(other) = data.target_layer_id.filter(|target| target != layer) {
            let shown: String = other.chars().take(64).collect();
            return Err(format!("target_layer_id is `{shown}`, the path names layer `{layer}`"));
        }
        Ok(KasminaCommand {
            target_layer_id: layer.to_owned(),
            target_seed_id: data.target_seed_id,
            command: data.command,
            blueprint_id: data.blueprint_id,
            blueprint_ir: data.blueprint_ir,
            grafting_strategy: data.grafting_strategy,
            reason: super::governor::shortened(&data.reason),
        })
    }
}

impl KasminaCommand {
    /// As the layer takes it.
    #[must_use]
    pub fn order(&self, id: &str) -> Command {
        Command {
            id: id.to_owned(),
            seed: self.target_seed_id,
            order: self.command,
            blueprint: self.blueprint_id.clone(),
            blueprint_ir: self.blueprint_ir.clone(),
            strategy: self.grafting_strategy.clone(),
            reason: self.reason.clone(),
        }
    }

    /// The message of a command that a commander of this host gave.
    #[must_use]
    pub fn of(layer: &str, command: &Command) -> Self {
        Self {
            target_layer_id: layer.to_owned(),
            target_seed_id: command.seed,
            command: command.order,
            blueprint_id: command.blueprint.clone(),
            blueprint_ir: command.blueprint_ir.clone(),
            grafting_strategy: command.strategy.clone(),
            reason: command.reason.clone(),
        }
    }
}

/// `control.kasmina.responses`: what came of a command. Success means that the layer took it on; whether the
/// transition lands is decided at the epoch boundary, and told in [`EpochEvent`]. A rollback is carried out at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandResponse {
    /// The command's id.
    pub command_id: String,
    /// Whether it was taken on.
    pub success: bool,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub timestamp: u64,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// `telemetry.seed.health`: a layer at the end of an epoch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerHealthReport {
    /// Which layer.
    pub layer_id: String,
    /// The epoch that ended.
    pub epoch: u64,
    /// Rows that went through the layer in it.
    pub rows: usize,
    /// Statistics of the epoch's output, by seed number.
    pub health_metrics_by_seed: BTreeMap<usize, SeedTelemetry>,
    /// Where each seed is.
    pub seed_states: Vec<SeedStage>,
}

/// Where a seed is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SeedStage {
    /// Its number.
    pub seed: usize,
    /// Its stage.
    pub stage: Lifecycle,
    /// Epochs in it.
    pub epochs_in_state: i32,
    /// Its blend.
    pub alpha: f32,
}

/// `system.events.epoch`: an epoch ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EpochEvent {
    /// Which layer.
    pub layer_id: String,
    /// The epoch that ended.
    pub epoch: u64,
    /// Mean loss of the task over it.
    pub loss: f64,
    /// The task's metric.
    pub metric: f64,
    /// What was asked to change, and the ruling.
    pub transitions: Vec<Judged>,
}

/// A transition and its ruling.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judged {
    /// The command that asked for it.
    pub command_id: String,
    /// Which seed.
    pub seed: usize,
    /// From where.
    pub from: Lifecycle,
    /// To where.
    pub to: Lifecycle,
    /// Whether it landed.
    pub allowed: bool,
    /// Why it was denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denied: Option<String>,
}

/// `system.events.rollback`: a seed was put back, or was to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RollbackEvent {
    /// Which layer.
    pub layer_id: String,
    /// Which seed.
    pub seed: usize,
    /// In which epoch.
    pub epoch: u64,
    /// Why.
    pub reason: String,
    /// Whether it was allowed.
    pub allowed: bool,
    /// Why it was denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denied: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn another_major_version_is_refused_and_a_minor_one_is_not() {
        for known in [None, Some("gavel.kasmina/1"), Some("gavel.kasmina/1.0"), Some("gavel.kasmina/1.17")] {
            assert_eq!(check_schema(known), Ok(()), "{known:?}");
        }
        for other in ["gavel.kasmina/2", "gavel.kasmina/11", "gavel.kasmina/1.", "gavel.kasmina/1.x", "x/1", ""] {
            assert!(check_schema(Some(other)).unwrap_err().contains("use gavel.kasmina/1"), "{other}");
        }
    }

    #[test]
    fn fields_of_a_later_minor_version_are_passed_over() {
        let posted = json!({
            "schema": "gavel.kasmina/1.9",
            "urgency": "high",
            "data": {"target_seed_id": 3, "command": "graft", "grafting_strategy": "fixed_ramp", "colour": "red"},
        });
        let posted: PostedCommand = serde_json::from_value(posted).unwrap();
        let command = posted.for_layer("a").unwrap();
        assert_eq!((command.target_seed_id, command.command), (3, Order::Graft));
        let order = command.order("c1");
        assert_eq!((order.id.as_str(), order.strategy.as_deref()), ("c1", Some("fixed_ramp")));
        assert_eq!(KasminaCommand::of("a", &order), command);
    }

    #[test]
    fn a_message_for_another_layer_is_refused() {
        let told = |posted: serde_json::Value| {
            let posted: PostedCommand = serde_json::from_value(posted).unwrap();
            posted.for_layer("a").unwrap_err()
        };
        let data = json!({"target_seed_id": 3, "command": "cull", "target_layer_id": "b"});
        assert_eq!(told(json!({"data": data})), "target_layer_id is `b`, the path names layer `a`");
        let data = json!({"target_seed_id": 3, "command": "cull"});
        assert!(told(json!({"data": data, "event_id": ""})).starts_with("event_id has 0 characters"));
    }
}
