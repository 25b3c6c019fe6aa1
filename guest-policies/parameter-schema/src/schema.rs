//! A schema, read: nodes that name each other by number, so that it may refer to itself.

use crate::decimal::Decimal;
use crate::format::Format;
use crate::pattern::Pattern;

/// The number of a node.
pub(crate) type Id = usize;

/// A whole schema; the first node is its root.
#[derive(Debug)]
pub(crate) struct Schema {
    pub(crate) nodes: Vec<Node>,
}

/// One (sub)schema: what a value must be. What is absent asks nothing.
#[derive(Debug, Default)]
pub(crate) struct Node {
    /// The schema `false`, which nothing fits.
    pub(crate) is_never: bool,
    pub(crate) types: Option<Types>,
    /// `enum` and `const`.
    pub(crate) choices: Vec<Choice>,
    pub(crate) text: TextRules,
    pub(crate) number: Vec<Bound>,
    pub(crate) list: ListRules,
    pub(crate) object: ObjectRules,
    /// `$ref` and `allOf`: schemas that must fit as well.
    pub(crate) all: Vec<Id>,
    pub(crate) any: Option<Vec<Id>>,
    pub(crate) one: Option<Vec<Id>>,
    pub(crate) not: Option<Id>,
}

/// The values that are allowed, in canonical form, and how a message lists them.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) keyword: &'static str,
    pub(crate) values: Vec<String>,
    pub(crate) shown: String,
}

#[derive(Debug, Default)]
pub(crate) struct TextRules {
    pub(crate) length_min: Option<usize>,
    pub(crate) length_max: Option<usize>,
    pub(crate) pattern: Option<(Pattern, String)>,
    pub(crate) format: Option<Format>,
}

/// A bound on numbers, and how it was written.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) kind: BoundKind,
    pub(crate) limit: Decimal,
    pub(crate) written: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BoundKind {
    Minimum,
    Maximum,
    ExclusiveMinimum,
    ExclusiveMaximum,
    MultipleOf,
}

#[derive(Debug, Default)]
pub(crate) struct ListRules {
    pub(crate) items_min: Option<usize>,
    pub(crate) items_max: Option<usize>,
    pub(crate) is_unique: bool,
    pub(crate) prefix: Vec<Id>,
    /// For every item after the prefix.
    pub(crate) items: Option<Id>,
}

#[derive(Debug, Default)]
pub(crate) struct ObjectRules {
    pub(crate) required: Vec<String>,
    pub(crate) count_min: Option<usize>,
    pub(crate) count_max: Option<usize>,
    pub(crate) properties: Vec<(String, Id)>,
    pub(crate) patterns: Vec<(Pattern, Id)>,
    /// For what is in neither.
    pub(crate) additional: Option<Id>,
}

impl ObjectRules {
    /// Does it ask anything of the fields' values?
    pub(crate) fn has_fields(&self) -> bool {
        !self.properties.is_empty() || !self.patterns.is_empty() || self.additional.is_some()
    }
}

/// A set of types.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Types(u8);

/// Each type's name in a schema, in the order of its bits.
const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];

impl Types {
    pub(crate) const INTEGER: u8 = 2;
    pub(crate) const NUMBER: u8 = 3;

    pub(crate) fn with(self, name: &str) -> Option<Self> {
        TYPES.iter().position(|known| *known == name).map(|bit| Self(self.0 | 1 << bit))
    }

    pub(crate) fn has(self, bit: u8) -> bool {
        self.0 >> bit & 1 == 1
    }

    /// `null or string`
    pub(crate) fn shown(self) -> String {
        let names: Vec<&str> =
            TYPES.iter().enumerate().filter(|(bit, _)| self.0 >> bit & 1 == 1).map(|(_, name)| *name).collect();
        names.join(" or ")
    }
}
