//! What may be left out: kernels altogether, or all but a jurisdiction policy, or the word `bus`.
//!
//! The seeds' `policy.yaml` has jurisdiction keys at the top of the file, meaning one strict
//! kernel. A file without kernels gets those of `host/assets/default.yaml`.

use serde_json::{Map, Value, json};

/// Keys of a jurisdiction policy that may stand at the top.
const POLICY_KEYS: [&str; 8] = [
    "allowed_actors",
    "allowed_tools",
    "require_tool_call",
    "allow_intent_only",
    "required_fields",
    "max_param_bytes",
    "max_intent_length",
    "custom_rules",
];
/// Keys of the kernel that may stand beside them.
const KERNEL_KEYS: [&str; 2] = ["kernel_id", "variant"];

/// Keys of the older daemon's `daemon.json`, which stand in `bus` here.
const DAEMON_KEYS: [&str; 3] = ["daemon", "transports", "plugins"];

/// What is served where a configuration names no kernel.
const DEFAULT: &str = include_str!("../../assets/default.yaml");

/// Move jurisdiction keys at the top into a kernel of their own; without any kernel, take the
/// default ones.
pub(super) fn expand(mut file: Map<String, Value>) -> Result<Value, String> {
    take_bus(&mut file)?;
    let policy = take(&mut file, &POLICY_KEYS);
    let kernel = take(&mut file, &KERNEL_KEYS);
    let first = policy.keys().chain(kernel.keys()).next();
    match (first, file.contains_key("kernels")) {
        (Some(first), true) => {
            return Err(format!(
                "`{first}` stands at the top beside `kernels`: put it into one of the kernels (its `policy`)"
            ));
        }
        (Some(_), false) => {
            let id = kernel.get("kernel_id").cloned().unwrap_or_else(|| json!("default"));
            let variant = kernel.get("variant").cloned().unwrap_or_else(|| json!("strict"));
            file.insert("kernels".into(), json!([{"id": id, "variant": variant, "policy": policy}]));
        }
        (None, true) => {}
        (None, false) => add_default(&mut file)?,
    }
    Ok(Value::Object(file))
}

/// A `daemon.json` is the section `bus` without its name.
fn take_bus(file: &mut Map<String, Value>) -> Result<(), String> {
    let daemon = take(file, &DAEMON_KEYS);
    let Some(first) = daemon.keys().next().cloned() else { return Ok(()) };
    if file.contains_key("bus") {
        return Err(format!("`{first}` stands at the top beside `bus`: put it into `bus`"));
    }
    file.insert("bus".into(), Value::Object(daemon));
    Ok(())
}

/// The default kernels, and their policies where the file has none of that name.
fn add_default(file: &mut Map<String, Value>) -> Result<(), String> {
    let default: Value = serde_saphyr::from_str(DEFAULT).map_err(|why| format!("the built-in default: {why}"))?;
    file.insert("kernels".into(), default["kernels"].clone());
    let policies = file.entry("policies").or_insert_with(|| json!({}));
    if let (Some(policies), Some(defaults)) = (policies.as_object_mut(), default["policies"].as_object()) {
        for (name, policy) in defaults {
            policies.entry(name).or_insert_with(|| policy.clone());
        }
    }
    Ok(())
}

fn take(file: &mut Map<String, Value>, keys: &[&str]) -> Map<String, Value> {
    keys.iter().filter_map(|key| Some(((*key).to_owned(), file.remove(*key)?))).collect()
}
