//! What the policies see as `input`: the whole request, or what the operator takes from it.

use std::collections::BTreeMap;

use gavel_engine_input::Pointer;
use gavel_policy::json::{Json, Wrong};
use regorus::Value;

/// How `input` is made.
#[derive(Debug)]
pub(crate) enum Input {
    /// The request's document, as `input.request` and once more as `input` itself.
    Whole,
    /// A shape whose texts are pointers into the document.
    Shape(Shape),
}

/// A part of `input`.
#[derive(Debug)]
pub(crate) enum Shape {
    Object(Vec<(String, Shape)>),
    /// Taken from the request; absent where the request does not have it.
    From(Pointer),
    /// The same for every request.
    Constant(Value),
}

impl Input {
    pub(crate) fn read(setting: &Json) -> Result<Self, Wrong> {
        match setting {
            Json::Object(_) => Ok(Self::Shape(Shape::read(setting)?)),
            other => Err(Wrong::new(format!("expected an object, not {}", other.kind()))),
        }
    }

    pub(crate) fn of(&self, document: &Json) -> Result<Value, Wrong> {
        match self {
            Self::Whole => whole(document),
            Self::Shape(shape) => Ok(shape.of(document)?.unwrap_or_else(Value::new_object)),
        }
    }
}

fn whole(document: &Json) -> Result<Value, Wrong> {
    let request = value(document)?;
    let mut fields = request.as_object().map_err(|error| Wrong::new(error.to_string()))?.clone();
    fields.insert("request".into(), request);
    Ok(Value::from(fields))
}

impl Shape {
    fn read(setting: &Json) -> Result<Self, Wrong> {
        match setting {
            Json::Text(_) => Ok(Self::From(Pointer::read(setting)?)),
            Json::Object(fields) if fields.len() == 1 && fields[0].0 == "$value" => {
                Ok(Self::Constant(value(&fields[0].1)?))
            }
            Json::Object(fields) => {
                let fields = fields.iter().map(|(name, shape)| {
                    let shape = Self::read(shape).map_err(|wrong| Wrong::new(format!("'{name}': {wrong}")))?;
                    Ok((name.to_string(), shape))
                });
                Ok(Self::Object(fields.collect::<Result<_, Wrong>>()?))
            }
            other => {
                let why = format!("expected a pointer, an object or {{\"$value\": ..}}, not {}", other.kind());
                Err(Wrong::new(why))
            }
        }
    }

    fn of(&self, document: &Json) -> Result<Option<Value>, Wrong> {
        match self {
            Self::Constant(constant) => Ok(Some(constant.clone())),
            Self::From(pointer) => pointer.find(document).map(value).transpose(),
            Self::Object(fields) => {
                let mut object = BTreeMap::new();
                for (name, shape) in fields {
                    if let Some(part) = shape.of(document)? {
                        object.insert(name.as_str().into(), part);
                    }
                }
                Ok(Some(Value::from(object)))
            }
        }
    }
}

/// JSON as regorus has it, without loss of a digit.
pub(crate) fn value(json: &Json) -> Result<Value, Wrong> {
    Ok(match json {
        Json::Null => Value::Null,
        Json::Bool(is) => Value::Bool(*is),
        Json::Number(digits) => Value::from_numeric_string(digits)
            .map_err(|error| Wrong::new(format!("{digits} is no number to Rego: {error}")))?,
        Json::Text(text) => Value::from(&**text),
        Json::List(items) => Value::from(items.iter().map(value).collect::<Result<Vec<_>, _>>()?),
        Json::Object(fields) => {
            let fields = fields.iter().map(|(name, field)| Ok((Value::from(&**name), value(field)?)));
            Value::from(fields.collect::<Result<BTreeMap<_, _>, Wrong>>()?)
        }
    })
}
