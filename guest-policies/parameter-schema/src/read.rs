//! From a schema's JSON to its nodes. Every keyword is known, or the schema is refused with its place: a keyword that
//! is silently ignored is a rule that its author believes in.
//!
//! No recursion: what is still to be read waits in a list.

use gavel_policy::json::Json;

use crate::canonical::{canonical, sorted};
use crate::decimal::Decimal;
use crate::format::Format;
use crate::pattern::Pattern;
use crate::schema::{Bound, BoundKind, Choice, Id, Node, Schema, Types};

/// More subschemas are no description of a tool's parameters.
const NODES_MAX: usize = 10_000;
/// A message lists the values of an `enum` up to this length.
const CHOICES_SHOWN_BYTES_MAX: usize = 120;

/// What is wrong with a schema, and where: a JSON pointer into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) at: String,
    pub(crate) why: String,
}

/// Read a schema.
pub(crate) fn read(json: &Json) -> Result<Schema, Refused> {
    let mut reader = Reader {
        root: json,
        nodes: vec![Node::default()],
        waiting: vec![(0, json, String::new())],
        references: Vec::new(),
        defs: Vec::new(),
    };
    reader.definitions()?;
    while let Some((id, json, at)) = reader.waiting.pop() {
        reader.node(id, json, &at)?;
    }
    reader.no_circles()?;
    Ok(Schema { nodes: reader.nodes })
}

struct Reader<'j, 't> {
    root: &'j Json<'t>,
    nodes: Vec<Node>,
    /// Nodes whose JSON is not read yet, with their places.
    waiting: Vec<(Id, &'j Json<'t>, String)>,
    /// For each node that applies others to the same value: which, and where that is written.
    references: Vec<(Id, Id, String)>,
    /// The names in `$defs`.
    defs: Vec<(&'j str, Id)>,
}

impl<'j, 't> Reader<'j, 't> {
    /// Number the schemas in `$defs` of the root before anything refers to them.
    fn definitions(&mut self) -> Result<(), Refused> {
        let Json::Object(fields) = self.root else { return Ok(()) };
        let Some((_, defs)) = fields.iter().find(|(name, _)| name == "$defs") else { return Ok(()) };
        for (name, schema, at) in object(defs, "/$defs")? {
            let id = self.later(schema, at)?;
            self.defs.push((name, id));
        }
        Ok(())
    }

    fn node(&mut self, id: Id, json: &'j Json<'t>, at: &str) -> Result<(), Refused> {
        if let Json::Bool(is_anything) = json {
            self.nodes[id].is_never = !is_anything;
            return Ok(());
        }
        if !matches!(json, Json::Object(_)) {
            return Err(refused(at, format!("a schema is an object, true or false, not {}", json.kind())));
        }
        for (keyword, value, at) in object(json, at)? {
            self.keyword(id, keyword, value, &at)?;
        }
        Ok(())
    }

    fn keyword(&mut self, id: Id, keyword: &str, value: &'j Json<'t>, at: &str) -> Result<(), Refused> {
        match keyword {
            "title" | "description" | "$comment" | "$schema" => {
                text(value, at)?;
            }
            "default" | "examples" | "deprecated" | "readOnly" | "writeOnly" => {}
            "$defs" if at == "/$defs" => {}
            "$defs" => return Err(refused(at, "`$defs` stands at the root of the schema only")),
            "type" => self.nodes[id].types = Some(types(value, at)?),
            "enum" => self.nodes[id].choices.push(choice("enum", list(value, at)?, at)?),
            "const" => self.nodes[id].choices.push(choice("const", core::slice::from_ref(value), at)?),
            "minLength" => self.nodes[id].text.length_min = Some(count(value, at)?),
            "maxLength" => self.nodes[id].text.length_max = Some(count(value, at)?),
            "pattern" => {
                let written = text(value, at)?;
                self.nodes[id].text.pattern = Some((pattern(written, at)?, written.to_owned()));
            }
            "format" => self.nodes[id].text.format = Some(format(value, at)?),
            "minimum" => self.bound(id, BoundKind::Minimum, value, at)?,
            "maximum" => self.bound(id, BoundKind::Maximum, value, at)?,
            "exclusiveMinimum" => self.bound(id, BoundKind::ExclusiveMinimum, value, at)?,
            "exclusiveMaximum" => self.bound(id, BoundKind::ExclusiveMaximum, value, at)?,
            "multipleOf" => self.bound(id, BoundKind::MultipleOf, value, at)?,
            "minItems" => self.nodes[id].list.items_min = Some(count(value, at)?),
            "maxItems" => self.nodes[id].list.items_max = Some(count(value, at)?),
            "uniqueItems" => self.nodes[id].list.is_unique = boolean(value, at)?,
            "prefixItems" => self.nodes[id].list.prefix = self.schemas(value, at)?,
            "items" => self.nodes[id].list.items = Some(self.later(value, at.to_owned())?),
            "required" => self.nodes[id].object.required = names(value, at)?,
            "minProperties" => self.nodes[id].object.count_min = Some(count(value, at)?),
            "maxProperties" => self.nodes[id].object.count_max = Some(count(value, at)?),
            "properties" => self.properties(id, value, at)?,
            "patternProperties" => self.pattern_properties(id, value, at)?,
            "additionalProperties" => self.nodes[id].object.additional = Some(self.later(value, at.to_owned())?),
            "$ref" | "allOf" | "anyOf" | "oneOf" | "not" => self.applied(id, keyword, value, at)?,
            _ => {
                return Err(refused(
                    at,
                    format!("the keyword `{keyword}` is not supported; the README lists those that are"),
                ));
            }
        }
        Ok(())
    }

    /// Keywords that apply other schemas to the same value.
    fn applied(&mut self, id: Id, keyword: &str, value: &'j Json<'t>, at: &str) -> Result<(), Refused> {
        let ids = match keyword {
            "$ref" => vec![self.referred(text(value, at)?, at)?],
            "not" => vec![self.later(value, at.to_owned())?],
            _ => self.schemas(value, at)?,
        };
        self.references.extend(ids.iter().map(|other| (id, *other, at.to_owned())));
        let node = &mut self.nodes[id];
        match keyword {
            "anyOf" => node.any = Some(ids),
            "oneOf" => node.one = Some(ids),
            "not" => node.not = ids.first().copied(),
            _ => node.all.extend(ids),
        }
        Ok(())
    }

    fn referred(&self, reference: &str, at: &str) -> Result<Id, Refused> {
        if reference == "#" {
            return Ok(0);
        }
        let name = reference.strip_prefix("#/$defs/").filter(|name| !name.contains(['/', '~', '%']));
        let Some(name) = name else {
            return Err(refused(
                at,
                format!("'{reference}' is neither `#` nor `#/$defs/NAME`, and nothing else is looked up"),
            ));
        };
        let found = self.defs.iter().find(|(known, _)| *known == name).map(|(_, id)| *id);
        found.ok_or_else(|| refused(at, format!("there is no '{name}' in the schema's `$defs`")))
    }

    /// A new node, to be read later.
    fn later(&mut self, json: &'j Json<'t>, at: String) -> Result<Id, Refused> {
        if self.nodes.len() == NODES_MAX {
            return Err(refused(&at, format!("the schema has more than {NODES_MAX} subschemas")));
        }
        let id = self.nodes.len();
        self.nodes.push(Node::default());
        self.waiting.push((id, json, at));
        Ok(id)
    }

    fn schemas(&mut self, value: &'j Json<'t>, at: &str) -> Result<Vec<Id>, Refused> {
        let schemas = list(value, at)?;
        if schemas.is_empty() {
            return Err(refused(at, "the list of schemas is empty"));
        }
        schemas.iter().enumerate().map(|(index, schema)| self.later(schema, format!("{at}/{index}"))).collect()
    }

    fn properties(&mut self, id: Id, value: &'j Json<'t>, at: &str) -> Result<(), Refused> {
        for (name, schema, at) in object(value, at)? {
            let property = self.later(schema, at)?;
            self.nodes[id].object.properties.push((name.to_owned(), property));
        }
        Ok(())
    }

    fn pattern_properties(&mut self, id: Id, value: &'j Json<'t>, at: &str) -> Result<(), Refused> {
        for (name, schema, at) in object(value, at)? {
            let read = pattern(name, &at)?;
            let property = self.later(schema, at)?;
            self.nodes[id].object.patterns.push((read, property));
        }
        Ok(())
    }

    fn bound(&mut self, id: Id, kind: BoundKind, value: &Json, at: &str) -> Result<(), Refused> {
        let Json::Number(written) = value else {
            return Err(refused(at, format!("expected a number, not {}", value.kind())));
        };
        let limit = Decimal::new(written);
        if kind == BoundKind::MultipleOf && !limit.can_divide() {
            let digits = Decimal::DIVISOR_DIGITS_MAX;
            return Err(refused(at, format!("{written} is not a positive number of at most {digits} digits")));
        }
        self.nodes[id].number.push(Bound { kind, limit, written: (*written).to_owned() });
        Ok(())
    }

    /// A schema that applies itself to the same value would never be done.
    fn no_circles(&self) -> Result<(), Refused> {
        // Take away, again and again, every reference to a node that has none itself. What is left is in circles.
        let mut counts = vec![0_usize; self.nodes.len()];
        let mut users: Vec<Vec<Id>> = vec![Vec::new(); self.nodes.len()];
        for (from, to, _) in &self.references {
            counts[*from] += 1;
            users[*to].push(*from);
        }
        let mut done: Vec<Id> = (0..self.nodes.len()).filter(|id| counts[*id] == 0).collect();
        while let Some(id) = done.pop() {
            for user in &users[id] {
                counts[*user] -= 1;
                if counts[*user] == 0 {
                    done.push(*user);
                }
            }
        }
        match self.references.iter().find(|(from, to, _)| counts[*from] > 0 && counts[*to] > 0) {
            None => Ok(()),
            Some((_, _, at)) => {
                Err(refused(at, "leads back to itself without going into the value: it would never end"))
            }
        }
    }
}

fn refused(at: &str, why: impl Into<String>) -> Refused {
    Refused { at: at.to_owned(), why: why.into() }
}

/// The fields of an object, none twice, each with its place.
fn object<'j, 't>(json: &'j Json<'t>, at: &str) -> Result<Vec<(&'j str, &'j Json<'t>, String)>, Refused> {
    let Json::Object(fields) = json else {
        return Err(refused(at, format!("expected an object, not {}", json.kind())));
    };
    let mut read: Vec<(&str, &Json, String)> = Vec::with_capacity(fields.len());
    for (name, value) in fields {
        let at = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
        read.push((name, value, at));
    }
    let names = sorted(read.iter().map(|(name, ..)| *name));
    match names.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        None => Ok(read),
        Some(pair) => Err(refused(at, format!("`{}` comes twice", pair[0].0))),
    }
}

fn list<'j, 't>(json: &'j Json<'t>, at: &str) -> Result<&'j [Json<'t>], Refused> {
    match json {
        Json::List(items) => Ok(items),
        other => Err(refused(at, format!("expected a list, not {}", other.kind()))),
    }
}

fn text<'j>(json: &'j Json, at: &str) -> Result<&'j str, Refused> {
    match json {
        Json::Text(text) => Ok(text),
        other => Err(refused(at, format!("expected a text, not {}", other.kind()))),
    }
}

fn boolean(json: &Json, at: &str) -> Result<bool, Refused> {
    match json {
        Json::Bool(is) => Ok(*is),
        other => Err(refused(at, format!("expected true or false, not {}", other.kind()))),
    }
}

fn count(json: &Json, at: &str) -> Result<usize, Refused> {
    let Json::Number(written) = json else { return Err(refused(at, format!("expected a count, not {}", json.kind()))) };
    Decimal::new(written).to_usize().ok_or_else(|| refused(at, format!("{written} is no count")))
}

fn names(json: &Json, at: &str) -> Result<Vec<String>, Refused> {
    list(json, at)?.iter().map(|name| text(name, at).map(str::to_owned)).collect()
}

fn pattern(written: &str, at: &str) -> Result<Pattern, Refused> {
    Pattern::new(written).map_err(|why| refused(at, format!("the pattern `{written}` {why}")))
}

fn format(json: &Json, at: &str) -> Result<Format, Refused> {
    let name = text(json, at)?;
    Format::new(name).ok_or_else(|| {
        refused(at, format!("the format '{name}' is not supported, only date, date-time, email, ipv4, ipv6, uri, uuid"))
    })
}

fn types(json: &Json, at: &str) -> Result<Types, Refused> {
    let names = match json {
        Json::List(names) if !names.is_empty() => &names[..],
        Json::Text(_) => core::slice::from_ref(json),
        _ => return Err(refused(at, "expected the name of a type, or a list of them")),
    };
    names.iter().try_fold(Types::default(), |types, name| {
        let name = text(name, at)?;
        types.with(name).ok_or_else(|| {
            refused(at, format!("there is no type '{name}', only null boolean integer number string array object"))
        })
    })
}

fn choice(keyword: &'static str, values: &[Json], at: &str) -> Result<Choice, Refused> {
    if values.is_empty() {
        return Err(refused(at, "no value would fit an empty list"));
    }
    let shown: Vec<String> = values.iter().map(shown_choice).collect();
    let shown = Some(shown.join(", ")).filter(|shown| shown.len() <= CHOICES_SHOWN_BYTES_MAX);
    let shown = match (shown, values.len()) {
        (Some(shown), 1) => shown,
        (Some(shown), _) => format!("one of {shown}"),
        (None, 1) => "one certain value".to_owned(),
        (None, count) => format!("one of {count} values"),
    };
    Ok(Choice { keyword, values: values.iter().map(canonical).collect(), shown })
}

fn shown_choice(value: &Json) -> String {
    match value {
        Json::Text(text) => format!("'{}'", text.escape_debug()),
        Json::Number(digits) => (*digits).to_owned(),
        Json::Null => "null".into(),
        Json::Bool(is) => is.to_string(),
        other => other.kind().into(),
    }
}
