//! Rows of values in JSON, read as they come: into one flat buffer, and no further than the first value that is not
//! accepted. A body of many small rows takes no more memory than its values.

use super::error::ApiError;
use super::routes::Answer;
use crate::kasmina::Values;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::cell::RefCell;
use std::fmt;

/// What rows may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) width: usize,
    pub(super) rows_max: usize,
    pub(super) values_max: usize,
}

/// Read `{"x": [[…], …]}`, and `"dy"` if the body is to have `both`.
pub(super) fn read(bytes: &[u8], shape: Shape, both: bool) -> Answer<[Values; 2]> {
    let refused = RefCell::new(None);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = Fields { shape, refused: &refused }.deserialize(&mut reader);
    let read = read.and_then(|read| reader.end().map(|()| read));
    let [x, dy] = read.map_err(|why| {
        let unreadable = || ApiError::Unreadable(format!("the body: {why}"));
        refused.take().map_or_else(unreadable, ApiError::NotAccepted)
    })?;
    let told = |what: &str| ApiError::Unreadable(format!("the body: {what}"));
    let x = x.ok_or_else(|| told("missing field `x`"))?;
    match (dy, both) {
        (Some(dy), true) => Ok([x, dy]),
        (None, false) => Ok([x, Values { values: Vec::new(), rows: 0 }]),
        (None, true) => Err(told("missing field `dy`")),
        (Some(_), false) => Err(told("`dy` is of a backward pass")),
    }
}

/// The whole body.
struct Fields<'a> {
    shape: Shape,
    /// Why values that can be read are not accepted.
    refused: &'a RefCell<Option<String>>,
}

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = [Option<Values>; 2];

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = [Option<Values>; 2];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `x`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (names, mut found) = (["x", "dy"], [None, None]);
        while let Some(key) = map.next_key::<String>()? {
            let Some(at) = names.iter().position(|name| *name == key) else {
                let key: String = key.chars().take(64).collect();
                return Err(A::Error::unknown_field(&key, &["x", "dy"]));
            };
            if found[at].is_some() {
                return Err(A::Error::duplicate_field(names[at]));
            }
            let values = Values { values: Vec::new(), rows: 0 };
            let rows = Rows { name: names[at], shape: self.shape, refused: self.refused, values };
            found[at] = Some(map.next_value_seed(rows)?);
        }
        Ok(found)
    }
}

/// All rows of one field.
struct Rows<'a> {
    name: &'static str,
    shape: Shape,
    refused: &'a RefCell<Option<String>>,
    values: Values,
}

impl Rows<'_> {
    fn refuse<E: serde::de::Error>(&self, why: String) -> E {
        self.refused.replace(Some(why));
        E::custom("not accepted")
    }
}

impl<'de> DeserializeSeed<'de> for Rows<'_> {
    type Value = Values;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<Values, D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Rows<'_> {
    type Value = Values;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut rows: A) -> Result<Values, A::Error> {
        let (name, Shape { width, rows_max, values_max }) = (self.name, self.shape);
        loop {
            let row = Row { into: &mut self.values.values, width };
            let Some(found) = rows.next_element_seed(row)? else { return Ok(self.values) };
            if found != width {
                let (at, more) = (self.values.rows, if found > width { "more than " } else { "" });
                let found = found.min(width);
                let why = format!("row {at} of `{name}` has {more}{found} values, the layer is {width} wide");
                return Err(self.refuse(why));
            }
            self.values.rows += 1;
            if self.values.rows > rows_max {
                let why = format!("`{name}` has more than {rows_max} rows (kasmina.rows_max)");
                return Err(self.refuse(why));
            }
            if self.values.values.len() > values_max {
                let why = format!("`{name}` has more than {values_max} values (kasmina.values_max)");
                return Err(self.refuse(why));
            }
        }
    }
}

/// One row, which says how many values it has: at most one more than it should.
struct Row<'a> {
    into: &'a mut Vec<f32>,
    width: usize,
}

impl<'de> DeserializeSeed<'de> for Row<'_> {
    type Value = usize;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<usize, D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Row<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row of numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut row: A) -> Result<usize, A::Error> {
        let mut found = 0;
        while found < self.width {
            let Some(value) = row.next_element::<f32>()? else { return Ok(found) };
            self.into.push(value);
            found += 1;
        }
        // The rest of a row that is too long is passed over: it is refused.
        let mut more = 0;
        while row.next_element::<IgnoredAny>()?.is_some() {
            more = 1;
        }
        Ok(found + more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { width: 2, rows_max: 3, values_max: 5 };

    #[test]
    fn rows_are_read_into_one_buffer() {
        let [x, dy] = read(br#"{"dy": [[5, 6]], "x": [[1, 2], [3.5, 4]]}"#, SHAPE, true).unwrap();
        assert_eq!((x.values, x.rows), (vec![1.0, 2.0, 3.5, 4.0], 2));
        assert_eq!((dy.values, dy.rows), (vec![5.0, 6.0], 1));
    }

    #[test]
    fn what_is_not_accepted_ends_the_reading() {
        let why = |body: &str| read(body.as_bytes(), SHAPE, false).unwrap_err();
        let refused = |why: &str| ApiError::NotAccepted(why.to_owned());
        // What follows is no JSON any more: nobody looks.
        assert_eq!(why(r#"{"x": [[1], ["#), refused("row 0 of `x` has 1 values, the layer is 2 wide"));
        assert_eq!(
            why(r#"{"x": [[1,2],[1,2,3] "#),
            refused("row 1 of `x` has more than 2 values, the layer is 2 wide")
        );
        assert_eq!(why(r#"{"x": [[1,2],[1,2],[1,2], "#), refused("`x` has more than 5 values (kasmina.values_max)"));
        let few = Shape { rows_max: 1, ..SHAPE };
        let many = read(br#"{"x": [[1,2],[1,2],"#, few, false).unwrap_err();
        assert_eq!(many, refused("`x` has more than 1 rows (kasmina.rows_max)"));
        for body in [r#"{"x": [[1,2]]} 1"#, r#"{"x": [[1,2]], "x": []}"#, "{}", r#"{"x": 1}"#] {
            assert!(matches!(why(body), ApiError::Unreadable(_)), "{body}");
        }
    }
}
