//! Reading the mapping out of the configuration.

use cedar_policy::EntityTypeName;
use gavel_engine_input::Pointer;
use gavel_policy::json::{Fields, Json, Wrong};

use super::{Attribute, Entity, Kind, Mapping, Tool};

impl Default for Mapping {
    fn default() -> Self {
        Self {
            principal: Entity { type_name: constant("Agent"), id: pointer("/actor"), strip: None },
            action: constant("Action"),
            resource: None,
            context: None,
            tools: Vec::new(),
            tool_type: constant("Tool"),
            intent_type: constant("Intent"),
        }
    }
}

impl Mapping {
    pub(crate) fn read(settings: &Json) -> Result<Self, Wrong> {
        let default = Self::default();
        let settings = settings.object(&["principal", "action", "resource", "context", "tools"])?;
        let action = settings.get("action", |action| action.object(&["type"])?.require("type", type_name))?;
        Ok(Self {
            principal: settings
                .get("principal", |entity| Entity::read(entity, Some("/actor")))?
                .unwrap_or(default.principal),
            action: action.unwrap_or(default.action),
            resource: settings.get("resource", |entity| Entity::read(entity, Some("/tool_call/name")))?,
            context: settings.get("context", context)?,
            tools: settings.get("tools", tools)?.unwrap_or_default(),
            ..default
        })
    }
}

impl Entity {
    fn read(setting: &Json, default_id: Option<&str>) -> Result<Self, Wrong> {
        let setting = setting.object(&["type", "id", "strip"])?;
        let id = match (setting.get("id", Pointer::read)?, default_id) {
            (Some(id), _) => id,
            (None, Some(default)) => Pointer::new(default)?,
            (None, None) => return Err(Wrong::new("setting `id` is missing")),
        };
        Ok(Self { type_name: setting.require("type", type_name)?, id, strip: setting.get("strip", text)? })
    }
}

fn tools(setting: &Json) -> Result<Vec<(String, Tool)>, Wrong> {
    named(setting, |tool| {
        let tool = tool.object(&["action", "resource", "context"])?;
        Ok(Tool {
            action: tool.get("action", text)?,
            resource: tool.get("resource", |entity| Entity::read(entity, None))?,
            context: tool.get("context", context)?,
        })
    })
}

fn context(setting: &Json) -> Result<Vec<(String, Attribute)>, Wrong> {
    named(setting, |attribute| {
        if let Json::Text(_) = attribute {
            return Ok(Attribute { from: Pointer::read(attribute)?, kind: Kind::Plain });
        }
        let attribute = attribute.object(&["from", "as", "type"])?;
        Ok(Attribute { from: attribute.require("from", Pointer::read)?, kind: kind(&attribute)? })
    })
}

fn kind(attribute: &Fields) -> Result<Kind, Wrong> {
    let kind = attribute.get("as", text)?;
    let of_entity = attribute.get("type", type_name)?;
    match (kind.as_deref(), of_entity) {
        (Some("entity"), Some(of_entity)) => Ok(Kind::Entity(of_entity)),
        (Some("entity"), None) => Err(Wrong::new("an entity needs its `type`")),
        (_, Some(_)) => Err(Wrong::new("only an entity has a `type`")),
        (None, None) => Ok(Kind::Plain),
        (Some("ip"), None) => Ok(Kind::Ip),
        (Some("decimal"), None) => Ok(Kind::Decimal),
        (Some("datetime"), None) => Ok(Kind::Datetime),
        (Some("duration"), None) => Ok(Kind::Duration),
        (Some(other), None) => Err(Wrong::new(format!("'{other}' is not one of entity ip decimal datetime duration"))),
    }
}

/// An object whose names are the author's own; none may come twice.
fn named<T>(setting: &Json, read: impl Fn(&Json) -> Result<T, Wrong>) -> Result<Vec<(String, T)>, Wrong> {
    let Json::Object(fields) = setting else {
        return Err(Wrong::new(format!("expected an object, not {}", setting.kind())));
    };
    let names: Vec<&str> = fields.iter().map(|(name, _)| &**name).collect();
    let fields = setting.object(&names)?;
    names.into_iter().map(|name| Ok((name.to_owned(), fields.require(name, &read)?))).collect()
}

fn text(setting: &Json) -> Result<String, Wrong> {
    setting.text().map(str::to_owned)
}

fn type_name(setting: &Json) -> Result<EntityTypeName, Wrong> {
    let text = setting.text()?;
    text.parse().map_err(|_| Wrong::new(format!("'{text}' is not a type like User or App::User")))
}

fn constant(type_name: &str) -> EntityTypeName {
    type_name.parse().expect("a constant of this file is a type's name")
}

fn pointer(text: &str) -> Pointer {
    Pointer::new(text).expect("a constant of this file is a pointer")
}
