//! How a request becomes Cedar's question: principal, action, resource, context.
//!
//! Without a mapping: `Agent::"<actor>"`, `Action::"<tool>"`, `Tool::"<tool>"`, and a context with the contract's
//! names. A mapping takes each from elsewhere in the request, so that policies keep their own types and names.
//!
//! Always: what a mapping names and the request does not have refuses the request, except in the context, where Cedar
//! has `has`.

use cedar_policy::{Context, EntityId, EntityTypeName, EntityUid, Request as Question, RestrictedExpression, Schema};
use gavel_engine_input::Pointer;
use gavel_policy::Request;
use gavel_policy::json::{Json, Wrong};

use crate::value::expression;

mod read;
mod time;

/// The action and the resource's id where the request calls no tool.
const INTENT: &str = "intent";

/// Where Cedar's question comes from.
#[derive(Debug)]
pub(crate) struct Mapping {
    principal: Entity,
    action: EntityTypeName,
    /// Absent: the tool.
    resource: Option<Entity>,
    /// Absent: the contract's names.
    context: Option<Vec<(String, Attribute)>>,
    /// What is otherwise for a tool, by its name.
    tools: Vec<(String, Tool)>,
    tool_type: EntityTypeName,
    intent_type: EntityTypeName,
}

/// An entity whose id is in the request.
#[derive(Debug)]
struct Entity {
    type_name: EntityTypeName,
    id: Pointer,
    /// What every id begins with, and the entity's does not.
    strip: Option<String>,
}

/// What is otherwise for one tool.
#[derive(Debug)]
struct Tool {
    action: Option<String>,
    resource: Option<Entity>,
    context: Option<Vec<(String, Attribute)>>,
}

/// One attribute of the context.
#[derive(Debug)]
struct Attribute {
    from: Pointer,
    kind: Kind,
}

/// What a value of the request is in Cedar.
#[derive(Debug)]
enum Kind {
    /// What its JSON is.
    Plain,
    Decimal,
    Ip,
    Datetime,
    Duration,
    Entity(EntityTypeName),
}

impl Mapping {
    /// Cedar's question about a request, whose document this is.
    pub(crate) fn request(
        &self,
        document: &Json,
        request: &Request,
        schema: Option<&Schema>,
    ) -> Result<Question, Wrong> {
        let name = request.tool_call.as_ref().map(|call| call.name.as_str());
        let tool = self.tools.iter().find(|(is, _)| Some(is.as_str()) == name).map(|(_, tool)| tool);
        let principal = self.principal.uid(document, "principal")?;
        let action = uid(&self.action, action_id(name, tool)?);
        let resource = match (tool.and_then(|tool| tool.resource.as_ref()).or(self.resource.as_ref()), name) {
            (Some(resource), _) => resource.uid(document, "resource")?,
            (None, Some(name)) => uid(&self.tool_type, name),
            (None, None) => uid(&self.intent_type, INTENT),
        };
        let context = match tool.and_then(|tool| tool.context.as_ref()).or(self.context.as_ref()) {
            Some(attributes) => mapped(attributes, document)?,
            None => contract(document, request)?,
        };
        let context = Context::from_pairs(context).map_err(|error| Wrong::new(format!("its context: {error}")))?;
        Question::new(principal, action, resource, context, schema)
            .map_err(|error| Wrong::new(format!("it does not fit the schema: {error}")))
    }
}

fn action_id<'a>(name: Option<&'a str>, tool: Option<&'a Tool>) -> Result<&'a str, Wrong> {
    match (tool.and_then(|tool| tool.action.as_deref()), name) {
        (Some(action), _) => Ok(action),
        // Otherwise it would be permitted by what permits requests without a tool call.
        (None, Some(INTENT)) => {
            Err(Wrong::new(format!("its tool is named '{INTENT}': give it an action in `mapping.tools`")))
        }
        (None, name) => Ok(name.unwrap_or(INTENT)),
    }
}

impl Entity {
    fn uid(&self, document: &Json, role: &str) -> Result<EntityUid, Wrong> {
        let Self { id, strip, .. } = self;
        let found = id.find(document).ok_or_else(|| Wrong::new(format!("it has no {id}, its {role}")))?;
        let text = match found {
            Json::Text(text) => &**text,
            Json::Number(digits) => digits,
            other => return Err(Wrong::new(format!("{id}, its {role}, is {}, not a text", other.kind()))),
        };
        let text = match strip {
            None => text,
            Some(strip) => text
                .strip_prefix(strip.as_str())
                .ok_or_else(|| Wrong::new(format!("{id}, its {role}, does not begin with '{strip}'")))?,
        };
        Ok(uid(&self.type_name, text))
    }
}

fn uid(type_name: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(type_name.clone(), EntityId::new(id))
}

type Pairs = Vec<(String, RestrictedExpression)>;

fn mapped(attributes: &[(String, Attribute)], document: &Json) -> Result<Pairs, Wrong> {
    let mut pairs = Vec::new();
    for (name, attribute) in attributes {
        let Some(found) = attribute.from.find(document) else { continue };
        let value = attribute
            .kind
            .expression(found)
            .map_err(|wrong| Wrong::new(format!("{}, its context's '{name}': {wrong}", attribute.from)))?;
        pairs.extend(value.map(|value| (name.clone(), value)));
    }
    Ok(pairs)
}

impl Kind {
    fn expression(&self, found: &Json) -> Result<Option<RestrictedExpression>, Wrong> {
        if *found == Json::Null {
            return Ok(None);
        }
        Ok(Some(match self {
            Self::Plain => return expression(found),
            Self::Entity(type_name) => RestrictedExpression::new_entity_uid(uid(type_name, found.text()?)),
            Self::Ip => RestrictedExpression::new_ip(found.text()?),
            Self::Decimal => match found {
                // `decimal` wants a point; to an integer it adds nothing.
                Json::Number(digits) if !digits.contains('.') => {
                    RestrictedExpression::new_decimal(format!("{digits}.0"))
                }
                Json::Number(digits) => RestrictedExpression::new_decimal(digits),
                other => RestrictedExpression::new_decimal(other.text()?),
            },
            Self::Datetime => match found {
                Json::Number(digits) => time::datetime(digits)?,
                other => RestrictedExpression::new_datetime(other.text()?),
            },
            Self::Duration => match found {
                Json::Number(digits) => RestrictedExpression::new_duration(format!("{digits}ms")),
                other => RestrictedExpression::new_duration(other.text()?),
            },
        }))
    }
}

/// The context without a mapping. `params` are those of the tool call, `request_params` those of the request itself.
fn contract(document: &Json, request: &Request) -> Result<Pairs, Wrong> {
    let Json::Object(fields) = document else { return Err(Wrong::new("its document is no object")) };
    let mut pairs = Vec::new();
    let mut add = |name: &str, value: &Json| -> Result<(), Wrong> {
        pairs.extend(expression(value)?.map(|value| (name.to_owned(), value)));
        Ok(())
    };
    for (name, value) in fields {
        match &**name {
            // The principal.
            "actor" => {}
            "params" => add("request_params", value)?,
            "tool_call" => {
                let Json::Object(call) = value else { continue };
                for (name, value) in call {
                    add(if name == "name" { "tool" } else { name }, value)?;
                }
            }
            name => add(name, value)?,
        }
    }
    if request.tool_call.is_none() {
        add("params", &Json::Object(Vec::new()))?;
    }
    pairs.push(("now".into(), time::datetime(&request.now_ms.to_string())?));
    Ok(pairs)
}
