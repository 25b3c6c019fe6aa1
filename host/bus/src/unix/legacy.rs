//! The older daemon's commands: to which event each leads, and how its answer is dressed.

use crate::error::Error;
use serde_json::{Map, Value, json};

pub(super) const INVALID_JSON: &str = "INVALID_JSON";
pub(super) const INVALID_COMMAND: &str = "INVALID_COMMAND";
pub(super) const UNKNOWN_COMMAND: &str = "UNKNOWN_COMMAND";
pub(super) const INVALID_PARAMETERS: &str = "INVALID_PARAMETERS";
pub(super) const AGENT_NOT_CONNECTED: &str = "AGENT_NOT_CONNECTED";
pub(super) const LEGACY_DISABLED: &str = "LEGACY_DISABLED";

/// Each command, the event that a client moves to, and what it needs.
const COMMANDS: [(&str, &str, &[&str]); 26] = [
    ("HEALTH_CHECK", "system:health", &[]),
    ("GET_AGENTS", "agent:list", &[]),
    ("REGISTER_AGENT", "agent:register", &["agent_id"]),
    ("SPAWN_AGENT", "agent:spawn", &[]),
    ("ROUTE_TASK", "agent:route_task", &["task"]),
    ("CREATE_IDENTITY", "agent:create_identity", &["agent_id"]),
    ("UPDATE_IDENTITY", "agent:update_identity", &["agent_id"]),
    ("GET_IDENTITY", "agent:get_identity", &["agent_id"]),
    ("REMOVE_IDENTITY", "agent:remove_identity", &["agent_id"]),
    ("LIST_IDENTITIES", "agent:list_identities", &[]),
    ("SET_AGENT_KV", "state:set", &["agent_id", "key", "value"]),
    ("GET_AGENT_KV", "state:get", &["agent_id", "key"]),
    ("LOAD_STATE", "state:load", &[]),
    ("COMPLETION", "completion:request", &["prompt"]),
    ("SEND_MESSAGE", "agent:send_message", &[]),
    ("PUBLISH", "message:publish", &["event_type"]),
    ("SUBSCRIBE", "message:subscribe", &["agent_id"]),
    ("CLEANUP", "system:cleanup", &[]),
    ("RELOAD_MODULE", "system:reload_module", &[]),
    ("SHUTDOWN", "system:shutdown", &[]),
    ("AGENT_CONNECTION", "agent:connection", &["agent_id", "action"]),
    ("MESSAGE_BUS_STATS", "message:stats", &[]),
    ("GET_COMMANDS", "system:commands", &[]),
    ("HELP", "system:commands", &[]),
    ("GET_PROCESSES", "system:processes", &[]),
    ("EVENT", "", &["event"]),
];

/// A command acknowledges what the event waits for: it is carried out by another event than the one to move to.
const ACKNOWLEDGED: [(&str, &str); 1] = [("COMPLETION", "completion:async")];

/// What a command asks for, as an event.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Order {
    pub(super) event: String,
    pub(super) data: Value,
}

/// Why a command is not carried out.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Refusal {
    code: &'static str,
    message: String,
}

impl Refusal {
    pub(super) fn reply(&self, command: &str, now_ms: u64) -> Value {
        error(command, self.code, &self.message, &Value::Null, now_ms)
    }
}

/// The event that a command leads to, if there is such a command.
pub(super) fn event_of(command: &str) -> Option<&'static str> {
    COMMANDS.iter().find(|(name, ..)| *name == command).map(|(_, event, _)| *event)
}

/// Every command that there is, and `other` for those that there are not.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    COMMANDS.iter().map(|(name, ..)| *name).chain(["other"])
}

/// Where a command is in [`names`].
pub(super) fn place(command: &str) -> usize {
    COMMANDS.iter().position(|(name, ..)| *name == command).unwrap_or(COMMANDS.len())
}

/// Make an event of a command.
pub(super) fn order(command: &str, parameters: Value) -> Result<Order, Refusal> {
    let refuse = |code, message: String| Err(Refusal { code, message });
    let Some((_, event, needed)) = COMMANDS.iter().find(|(name, ..)| *name == command) else {
        return refuse(
            UNKNOWN_COMMAND,
            format!("there is no command {command}; GET_COMMANDS lists those that there are"),
        );
    };
    let Value::Object(mut data) = parameters else {
        return refuse(INVALID_PARAMETERS, format!("{command}: `parameters` is no object"));
    };
    for key in *needed {
        // A value may be `null`, a name may not.
        if data.get(*key).is_none_or(|value| value.is_null() && *key != "value") {
            return refuse(INVALID_PARAMETERS, format!("{command} needs `{key}`"));
        }
    }
    if matches!(command, "SET_AGENT_KV" | "GET_AGENT_KV") {
        // Without a name it would have a namespace with all others that have none.
        let Some(agent) = data.get("agent_id").and_then(Value::as_str).filter(|agent| !agent.is_empty()) else {
            return refuse(INVALID_PARAMETERS, format!("{command}: `agent_id` is no text"));
        };
        data.insert("namespace".to_owned(), json!(format!("agent:{agent}")));
    }
    if command == "RELOAD_MODULE" && !data.contains_key("module_name") && !data.contains_key("module") {
        return refuse(INVALID_PARAMETERS, "RELOAD_MODULE needs `module_name`".to_owned());
    }
    let carried_out = ACKNOWLEDGED.iter().find(|(name, _)| *name == command).map_or(*event, |(_, event)| *event);
    Ok(Order { event: carried_out.to_owned(), data: Value::Object(data) })
}

/// An order for a command that is not in the table: its parameters are the event's data.
pub(super) fn own_order(command: &str, event: String, parameters: Value) -> Result<Order, Refusal> {
    if parameters.is_object() {
        return Ok(Order { event, data: parameters });
    }
    Err(Refusal { code: INVALID_PARAMETERS, message: format!("{command}: `parameters` is no object") })
}

/// The fields that older clients look for, from what was asked and the answer of the event's handler.
pub(super) fn result(command: &str, asked: &Value, answer: Value) -> Value {
    let pick = |keys: &[&str]| keys.iter().map(|key| ((*key).to_owned(), answer[*key].clone())).collect::<Map<_, _>>();
    match command {
        "HEALTH_CHECK" => {
            let mut result = pick(&["status", "uptime"]);
            result.insert("managers".to_owned(), answer["plugins"].clone());
            Value::Object(result)
        }
        "GET_AGENTS" => Value::Object(pick(&["agents"])),
        "SET_AGENT_KV" => json!({ "key": asked["key"], "status": answer["status"] }),
        "GET_AGENT_KV" => Value::Object(pick(&["key", "value", "found"])),
        "ROUTE_TASK" if answer["status"] == "routed" => routed(&answer),
        "PUBLISH" => published(asked, answer),
        _ => answer,
    }
}

fn routed(answer: &Value) -> Value {
    let agent = &answer["agent_info"];
    json!({
        "routing": {
            "status": "routed", "agent_id": answer["agent_id"], "agent_info": agent, "score": answer["score"],
            "assigned_agent": {
                "id": answer["agent_id"], "role": agent["role"], "capabilities": agent["capabilities"],
                "match_score": answer["score"], "status": agent["status"],
            },
        },
        "task": {
            "description": answer["task"], "context": answer["context"],
            "required_capabilities": answer["required_capabilities"],
        },
        "delivery": { "status": answer["delivery"], "message": answer["delivery_status"] },
    })
}

fn published(asked: &Value, mut answer: Value) -> Value {
    let of = |keys: [&str; 3]| keys.iter().find_map(|key| asked.get(*key)).cloned().unwrap_or(Value::Null);
    let payload = of(["payload", "message", "data"]);
    let bytes = if payload.is_null() { 0 } else { payload.to_string().len() };
    let delivery = json!({
        "status": answer["status"], "delivered": answer["delivered"], "queued": answer["queued"],
        "failed": answer["failed"], "total": answer["total_recipients"],
    });
    answer["event"] =
        json!({ "type": answer["event"], "from": of(["from_agent", "agent_id", "from"]), "payload_size": bytes });
    answer["delivery"] = delivery;
    answer
}

/// A command that was carried out.
pub(super) fn success(command: &str, result: &Value, now_ms: u64) -> Value {
    json!({ "status": "success", "command": command, "metadata": { "timestamp": timestamp(now_ms) }, "result": result })
}

/// A command that the bus, or a plugin, refused.
pub(super) fn failure(command: &str, why: &Error, now_ms: u64) -> Value {
    error(command, super::connection::legacy_code(why), &why.to_string(), &Value::Null, now_ms)
}

pub(super) fn error(command: &str, code: &str, message: &str, details: &Value, now_ms: u64) -> Value {
    let at = timestamp(now_ms);
    json!({
        "status": "error",
        "command": command,
        "metadata": { "timestamp": at },
        "error": { "code": code, "message": message, "timestamp": at, "details": details },
        "result": null,
    })
}

/// What `GET_COMMANDS` lists.
pub(super) fn commands() -> Value {
    let about = |(name, event, needed): &(&str, &str, &[&str])| {
        ((*name).to_owned(), json!({ "event": event, "required": needed }))
    };
    let commands: Map<String, Value> = COMMANDS.iter().map(about).collect();
    json!({ "total": commands.len(), "commands": commands })
}

/// Milliseconds since 1970 as older clients have a time: ISO 8601, in UTC.
pub(crate) fn timestamp(now_ms: u64) -> Value {
    let time = i64::try_from(now_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or(Value::Null, |time| json!(time.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agents_values_are_in_its_own_namespace() {
        let order = order("SET_AGENT_KV", json!({ "agent_id": "a", "key": "k", "value": 1 })).unwrap();
        assert_eq!((order.event.as_str(), order.data["namespace"].as_str()), ("state:set", Some("agent:a")));
    }

    #[test]
    fn what_cannot_be_carried_out_is_told_with_its_code() {
        for (command, parameters, code) in [
            ("NOTHING", json!({}), UNKNOWN_COMMAND),
            ("COMPLETION", json!({}), INVALID_PARAMETERS),
            ("COMPLETION", json!([]), INVALID_PARAMETERS),
            ("GET_AGENT_KV", json!({ "agent_id": 7, "key": "k" }), INVALID_PARAMETERS),
        ] {
            assert_eq!(order(command, parameters).unwrap_err().code, code);
        }
    }

    #[test]
    fn a_time_is_written_as_iso_8601() {
        assert_eq!(timestamp(0), json!("1970-01-01T00:00:00Z"));
    }
}
