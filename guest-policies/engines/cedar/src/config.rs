//! The configuration, made ready: policies parsed and linked, validated against the schema if there is one, entities
//! read. What Cedar refuses is refused here, as a whole.

use std::collections::HashMap;

use cedar_policy::{
    Effect, Entities, EntityUid, Policy, PolicyId, PolicySet, Schema, SlotId, ValidationMode, Validator,
};
use gavel_engine_input::Tools;
use gavel_policy::json::{Json, Wrong};
use miette::Diagnostic;

use crate::mapping::Mapping;
use crate::value::to_serde;

/// The annotation that makes a human decide what a `forbid` would deny, and its only value.
const VERDICT: &str = "verdict";
const ESCALATE: &str = "escalate";

/// All that one decision needs, except the request.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) tools: Tools,
    pub(crate) policies: PolicySet,
    /// Without the policies that escalate; absent when none does.
    pub(crate) unescalated: Option<PolicySet>,
    pub(crate) entities: Entities,
    pub(crate) schema: Option<Schema>,
    pub(crate) mapping: Mapping,
}

impl Engine {
    pub(crate) fn read(settings: &Json) -> Result<Self, Wrong> {
        let settings = settings.object(&["policies", "links", "schema", "entities", "mapping", "tools"])?;
        let mut policies = settings.require("policies", policies)?;
        settings.get("links", |links| links.list(|entry| link(&mut policies, entry)))?;
        let schema = settings.get("schema", schema)?;
        if let Some(schema) = &schema {
            validate(schema, &policies)?;
        }
        let entities = settings.get("entities", |entities| {
            Entities::from_json_value(to_serde(entities)?, schema.as_ref()).map_err(|error| refused(&error))
        })?;
        let entities = match (entities, &schema) {
            (Some(entities), _) => entities,
            (None, Some(schema)) => schema.action_entities().map_err(|error| refused(&error))?,
            (None, None) => Entities::empty(),
        };
        Ok(Self {
            tools: settings.get("tools", Tools::read)?.unwrap_or(Tools::ALL),
            unescalated: without_escalation(&policies)?,
            policies,
            entities,
            schema,
            mapping: settings.get("mapping", Mapping::read)?.unwrap_or_default(),
        })
    }
}

/// Whether a policy asks for a human.
pub(crate) fn escalates(policy: &Policy) -> bool {
    policy.annotation(VERDICT) == Some(ESCALATE)
}

/// One text, or several by their names; each numbers its policies from 0, so a name is put before its numbers.
fn policies(setting: &Json) -> Result<PolicySet, Wrong> {
    let Json::Object(files) = setting else { return parse(setting.text()?) };
    let mut all = PolicySet::new();
    for (file, text) in files {
        let in_file = |why: &dyn std::fmt::Display| Wrong::new(format!("'{file}': {why}"));
        let set = text.text().and_then(parse).map_err(|wrong| in_file(&wrong))?;
        let renamed = |id: &PolicyId| PolicyId::new(format!("{file}#{id}"));
        for template in set.templates() {
            all.add_template(template.new_id(renamed(template.id()))).map_err(|error| in_file(&error))?;
        }
        for policy in set.policies() {
            all.add(policy.new_id(renamed(policy.id()))).map_err(|error| in_file(&error))?;
        }
    }
    Ok(all)
}

fn parse(text: &str) -> Result<PolicySet, Wrong> {
    text.parse().map_err(|errors: cedar_policy::ParseErrors| Wrong::new(with_place(errors.iter().next(), text)))
}

fn schema(setting: &Json) -> Result<Schema, Wrong> {
    let Json::Text(text) = setting else {
        return Schema::from_json_value(to_serde(setting)?).map_err(|error| refused(&error));
    };
    let (schema, _) = Schema::from_cedarschema_str(text).map_err(|error| Wrong::new(with_place(Some(&error), text)))?;
    Ok(schema)
}

fn validate(schema: &Schema, policies: &PolicySet) -> Result<(), Wrong> {
    let result = Validator::new(schema.clone()).validate(policies, ValidationMode::Strict);
    let mut errors: Vec<String> = result.validation_errors().map(ToString::to_string).collect();
    errors.sort();
    let Some(first) = errors.first() else { return Ok(()) };
    let count = errors.len();
    Err(Wrong::new(format!("the policies do not fit the schema ({count} errors), first: {first}")))
}

/// A link of a template, as Cedar's own command line writes them.
fn link(policies: &mut PolicySet, entry: &Json) -> Result<(), Wrong> {
    let entry = entry.object(&["template_id", "link_id", "args"])?;
    let text = |name: &str| entry.require(name, |id| id.text().map(str::to_owned));
    let (template, id) = (text("template_id")?, text("link_id")?);
    let slots = entry.require("args", |args| {
        let args = args.object(&["?principal", "?resource"])?;
        let mut slots = HashMap::new();
        for (name, slot) in [("?principal", SlotId::principal()), ("?resource", SlotId::resource())] {
            if let Some(uid) = args.get(name, entity_uid)? {
                slots.insert(slot, uid);
            }
        }
        Ok(slots)
    })?;
    // The id by which Cedar knows the template, or the one its author gave it.
    let known = policies
        .templates()
        .find(|known| known.id().to_string() == template || known.annotation("id") == Some(&template));
    let known = known.map(|known| known.id().clone());
    let known = known.ok_or_else(|| Wrong::new(format!("there is no template '{template}' among the policies")))?;
    policies.link(known, PolicyId::new(id), slots).map_err(|error| refused(&error))
}

fn entity_uid(setting: &Json) -> Result<EntityUid, Wrong> {
    let text = setting.text()?;
    text.parse().map_err(|_| Wrong::new(format!("'{text}' is not an entity like User::\"alice\"")))
}

fn without_escalation(policies: &PolicySet) -> Result<Option<PolicySet>, Wrong> {
    let annotated = policies.policies().filter(|policy| policy.annotation(VERDICT).is_some());
    let mut rest = None;
    for policy in annotated {
        if policy.effect() != Effect::Forbid || !escalates(policy) {
            let why = format!("policy '{}': @verdict is \"{ESCALATE}\", on a `forbid`, or left out", policy.id());
            return Err(Wrong::new(why));
        }
        let rest = rest.get_or_insert_with(|| policies.clone());
        let id = policy.id().clone();
        let removed = if policy.is_static() { rest.remove_static(id) } else { rest.unlink(id) };
        removed.map_err(|error| refused(&error))?;
    }
    Ok(rest)
}

/// What Cedar says, with its causes.
fn refused(error: &dyn std::error::Error) -> Wrong {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.contains(&next_text) {
            text = format!("{text}: {next_text}");
        }
        cause = next.source();
    }
    Wrong::new(text)
}

/// What Cedar says of a text, with the line and column it is about.
fn with_place(error: Option<&(impl Diagnostic + ?Sized)>, text: &str) -> String {
    let Some(error) = error else { return "not Cedar".into() };
    let offset = error.labels().and_then(|mut labels| labels.next()).map(|label| label.offset());
    let Some(before) = offset.and_then(|offset| text.get(..offset)) else { return error.to_string() };
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|character| *character != '\n').count() + 1;
    format!("line {line}, column {column}: {error}")
}
