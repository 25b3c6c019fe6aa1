//! Parts of a JSON text as they stand in it, byte for byte: what is hashed must not be written anew.

use serde::de::{DeserializeOwned, IgnoredAny};

/// The text of the member `key` at the top of `object`; `None` if there is none, or it is no object.
pub(super) fn member<'a>(object: &'a str, key: &str) -> Option<&'a str> {
    let mut reading = Reading { rest: object };
    reading.take('{')?;
    while reading.take('}').is_none() {
        let (name, _) = reading.value::<String>()?;
        reading.take(':')?;
        let (IgnoredAny, text) = reading.value()?;
        if name == key {
            return Some(text);
        }
        let _ = reading.take(',');
    }
    None
}

/// The texts of the elements of `list`; `None` if it is none.
pub(super) fn elements(list: &str) -> Option<Vec<&str>> {
    let mut reading = Reading { rest: list };
    let mut found = Vec::new();
    reading.take('[')?;
    while reading.take(']').is_none() {
        let (IgnoredAny, text) = reading.value()?;
        found.push(text);
        let _ = reading.take(',');
    }
    Some(found)
}

struct Reading<'a> {
    rest: &'a str,
}

impl<'a> Reading<'a> {
    fn take(&mut self, expected: char) -> Option<()> {
        self.rest = self.rest.trim_start().strip_prefix(expected)?;
        Some(())
    }

    fn value<T: DeserializeOwned>(&mut self) -> Option<(T, &'a str)> {
        let text = self.rest.trim_start();
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<T>();
        let value = values.next()?.ok()?;
        let end = values.byte_offset();
        self.rest = text.get(end..)?;
        Some((value, text.get(..end)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_as_they_stand() {
        let text = r#"{"a" : 1.50, "b":[ {"x":"\u00e9é]"} ,2e3,"t,"], "c":{"b":null}}"#;
        assert_eq!(member(text, "a"), Some("1.50"));
        let list = member(text, "b").unwrap();
        assert_eq!(elements(list), Some(vec![r#"{"x":"\u00e9é]"}"#, "2e3", r#""t,""#]));
        assert_eq!(member(text, "c"), Some(r#"{"b":null}"#));
        assert_eq!(member(text, "d"), None);
        assert_eq!(elements("[]"), Some(Vec::new()));
        for wrong in ["", "{", "{\"a\":}", "[1", "[}", "1"] {
            assert_eq!((member(wrong, "a"), elements(wrong)), (None, None), "{wrong}");
        }
    }
}
