//! The built-in tools of the KERNELS package: `echo` and `add`.

use super::Params;
use num_bigint::BigInt;
use serde_json::{Number, Value};

/// `echo` {text} → text, whatever its type.
pub(super) fn echo(mut params: Params) -> Result<Value, String> {
    params.remove("text").ok_or_else(|| "parameter 'text' is missing".into())
}

/// Digits of a number that `add` takes, so that a sum costs microseconds.
const DIGITS_MAX: usize = 10_000;

/// `add` {a, b} → a + b: integers exactly at any size, otherwise as 64-bit floats; strings are
/// joined, as the package's own addition does.
pub(super) fn add(params: &Params) -> Result<Value, String> {
    let operand = |name: &str| params.get(name).ok_or_else(|| format!("parameter '{name}' is missing"));
    match (operand("a")?, operand("b")?) {
        (Value::Number(a), Value::Number(b)) => sum(a, b).map(Value::Number),
        (Value::String(a), Value::String(b)) => Ok(Value::String(format!("{a}{b}"))),
        _ => Err("parameters 'a' and 'b' must both be numbers, or both strings".into()),
    }
}

fn sum(a: &Number, b: &Number) -> Result<Number, String> {
    if a.as_str().len() > DIGITS_MAX || b.as_str().len() > DIGITS_MAX {
        return Err(format!("a number with more than {DIGITS_MAX} digits"));
    }
    let integer = |number: &Number| number.as_str().parse::<BigInt>().ok();
    if let (Some(a), Some(b)) = (integer(a), integer(b)) {
        let sum = (a + b).to_string();
        return sum.parse().map_err(|why: serde_json::Error| why.to_string());
    }
    let float = |number: &Number| number.as_f64().ok_or_else(|| format!("{number} is not a number that fits 64 bits"));
    let sum = float(a)? + float(b)?;
    Number::from_f64(sum).ok_or_else(|| "the sum is not finite".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn params(text: &str) -> Params {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn sums_are_exact_at_any_size() {
        let sum = add(&params(r#"{"a": 123456789012345678901234567890, "b": 1}"#)).unwrap();
        assert_eq!(sum.to_string(), "123456789012345678901234567891");
        assert_eq!(add(&params(r#"{"a": 1, "b": 0.5}"#)).unwrap(), json!(1.5));
        assert_eq!(add(&params(r#"{"a": "x", "b": "y"}"#)).unwrap(), json!("xy"));
        assert!(add(&params(r#"{"a": 1, "b": "y"}"#)).is_err());
        assert!(add(&params(r#"{"a": 1e308, "b": 1e308}"#)).is_err());
        assert_eq!(add(&params(r#"{"a": 1}"#)).unwrap_err(), "parameter 'b' is missing");
    }

    #[test]
    fn echo_returns_its_text() {
        assert_eq!(echo(params(r#"{"text": "hello"}"#)).unwrap(), json!("hello"));
        assert_eq!(echo(Params::new()).unwrap_err(), "parameter 'text' is missing");
    }
}
