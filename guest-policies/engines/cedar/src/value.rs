//! Values of a request as values of Cedar.
//!
//! Cedar's own reader of JSON takes `{"__entity": ..}` and `{"__extn": ..}` for entities and extension values. Here a
//! request's objects are records whatever their names: who writes a parameter must not be able to make it an entity.

use cedar_policy::RestrictedExpression;
use gavel_policy::json::{Json, Wrong};

/// Digits after the point that Cedar's `decimal` has, at most.
const DECIMAL_DIGITS: usize = 4;

/// A value, or nothing for `null`, which Cedar does not have: such a field is absent, such an element left out.
///
/// An integer of 64 bits is a long; another number a decimal if it is one exactly, else its own text.
pub(crate) fn expression(json: &Json) -> Result<Option<RestrictedExpression>, Wrong> {
    Ok(Some(match json {
        Json::Null => return Ok(None),
        Json::Bool(is) => RestrictedExpression::new_bool(*is),
        Json::Number(digits) => number(digits),
        Json::Text(text) => RestrictedExpression::new_string(text.to_string()),
        Json::List(items) => {
            let items = items.iter().filter_map(|item| expression(item).transpose());
            RestrictedExpression::new_set(items.collect::<Result<Vec<_>, _>>()?)
        }
        Json::Object(fields) => {
            let fields = fields.iter().filter_map(|(name, value)| {
                let value = expression(value).transpose()?;
                Some(value.map(|value| (name.to_string(), value)))
            });
            let fields = fields.collect::<Result<Vec<_>, _>>()?;
            RestrictedExpression::new_record(fields).map_err(|error| Wrong::new(error.to_string()))?
        }
    }))
}

fn number(digits: &str) -> RestrictedExpression {
    if let Ok(long) = digits.parse() {
        return RestrictedExpression::new_long(long);
    }
    match decimal(digits) {
        Some(text) => RestrictedExpression::new_decimal(text),
        None => RestrictedExpression::new_string(digits.to_owned()),
    }
}

/// The number as `decimal` takes it, if it can hold it exactly: 64 bits, scaled by 10,000.
fn decimal(digits: &str) -> Option<&str> {
    let (whole, fraction) = digits.split_once('.')?;
    let plain = fraction.len() <= DECIMAL_DIGITS && fraction.bytes().all(|digit| digit.is_ascii_digit());
    let scaled = format!("{whole}{fraction:0<DECIMAL_DIGITS$}");
    (plain && scaled.parse::<i64>().is_ok()).then_some(digits)
}

/// A setting as `serde_json` has it, for entities and schemas, which are the operator's.
pub(crate) fn to_serde(json: &Json) -> Result<serde_json::Value, Wrong> {
    Ok(match json {
        Json::Null => serde_json::Value::Null,
        Json::Bool(is) => (*is).into(),
        Json::Number(digits) => serde_json::from_str(digits).map_err(|error| Wrong::new(error.to_string()))?,
        Json::Text(text) => text.to_string().into(),
        Json::List(items) => items.iter().map(to_serde).collect::<Result<_, _>>()?,
        Json::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| Ok((name.to_string(), to_serde(value)?)));
            serde_json::Value::Object(fields.collect::<Result<_, Wrong>>()?)
        }
    })
}
