//! Does a value fit a schema? If not: where, by which keyword, and what was expected and found.
//!
//! What must hold all at once (properties, items, `allOf`, `$ref`) is a list of tasks, not recursion: the stack is
//! small and the value is the caller's. Only `anyOf`, `oneOf` and `not` ask a question within a question, and those are
//! counted. The work is counted too, because schemas in a circle with alternatives can double it at every level.

mod message;

use gavel_policy::json::Json;

use crate::canonical::{canonical, sorted};
use crate::decimal::Decimal;
use crate::schema::{BoundKind, Choice, Id, ListRules, Node, ObjectRules, Schema, TextRules, Types};

pub(crate) use message::shown;
use message::{found_bound, found_kind};

/// `anyOf` in `oneOf` in `not`, in one another or by way of `$ref`.
const QUESTIONS_DEPTH_MAX: usize = 16;
/// How many subschemas are applied to parts of one value before it is given up.
pub(crate) const STEPS_MAX: usize = 1_000_000;

/// Why a value does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Misfit {
    /// A JSON pointer to the part that does not fit.
    pub(crate) at: String,
    pub(crate) keyword: &'static str,
    /// Expected what, found what.
    pub(crate) why: String,
    /// How deep the part is: of several alternatives the one that came furthest is told.
    depth: usize,
    /// Not an answer: it was given up.
    is_given_up: bool,
}

/// Does the value fit the schema?
pub(crate) fn check(schema: &Schema, value: &Json) -> Result<(), Misfit> {
    let mut steps_left = STEPS_MAX;
    Checker { schema, path: Vec::new(), steps_left: &mut steps_left, questions: 0 }.run(0, value)
}

struct Checker<'s, 'v, 'c> {
    schema: &'s Schema,
    /// The way to the value at hand.
    path: Vec<Step<'v>>,
    steps_left: &'c mut usize,
    questions: usize,
}

#[derive(Debug, Clone, Copy)]
enum Step<'v> {
    Field(&'v str),
    Item(usize),
}

/// What is still to be done. `depth` is the length of the path to the value.
enum Task<'s, 'v, 't> {
    Node {
        id: Id,
        value: &'v Json<'t>,
        depth: usize,
    },
    /// The items from `next` on.
    Items {
        rules: &'s ListRules,
        items: &'v [Json<'t>],
        next: usize,
        depth: usize,
    },
    /// The fields from `next` on.
    Fields {
        rules: &'s ObjectRules,
        fields: &'v [(std::borrow::Cow<'t, str>, Json<'t>)],
        next: usize,
        depth: usize,
    },
}

impl<'s, 'v> Checker<'s, 'v, '_> {
    /// All that a node asks of a value.
    fn run<'t>(&mut self, id: Id, value: &'v Json<'t>) -> Result<(), Misfit> {
        let mut tasks = vec![Task::Node { id, value, depth: self.path.len() }];
        while let Some(task) = tasks.pop() {
            match task {
                Task::Node { id, value, depth } => {
                    self.path.truncate(depth);
                    self.node(&self.schema.nodes[id], value, &mut tasks)?;
                }
                Task::Items { rules, items, next, depth } => {
                    let Some(item) = items.get(next) else { continue };
                    tasks.push(Task::Items { rules, items, next: next + 1, depth });
                    if let Some(id) = rules.prefix.get(next).copied().or(rules.items) {
                        self.path.truncate(depth);
                        self.path.push(Step::Item(next));
                        tasks.push(Task::Node { id, value: item, depth: depth + 1 });
                    }
                }
                Task::Fields { rules, fields, next, depth } => {
                    let Some((name, field)) = fields.get(next) else { continue };
                    tasks.push(Task::Fields { rules, fields, next: next + 1, depth });
                    self.path.truncate(depth);
                    self.path.push(Step::Field(name));
                    self.field(rules, name, field, &mut tasks)?;
                }
            }
        }
        Ok(())
    }

    fn node<'t>(
        &mut self,
        node: &'s Node,
        value: &'v Json<'t>,
        tasks: &mut Vec<Task<'s, 'v, 't>>,
    ) -> Result<(), Misfit> {
        let Some(left) = self.steps_left.checked_sub(1) else {
            return Err(Misfit {
                is_given_up: true,
                ..self.misfit("$ref", format!("it takes more than {STEPS_MAX} steps to check"))
            });
        };
        *self.steps_left = left;
        if node.is_never {
            return Err(self.misfit("false", "nothing may be here".into()));
        }
        if let Some(types) = node.types.filter(|types| !has_type(*types, value)) {
            return Err(self.misfit("type", format!("expected {}, found {}", types.shown(), found_kind(value))));
        }
        node.choices.iter().try_for_each(|choice| self.choice(choice, value))?;
        match value {
            Json::Text(text) => self.text(&node.text, text)?,
            Json::Number(digits) if !node.number.is_empty() => self.number(node, digits)?,
            Json::List(items) => self.list(&node.list, items, tasks)?,
            Json::Object(fields) => self.object(&node.object, fields, tasks)?,
            _ => {}
        }
        let depth = self.path.len();
        tasks.extend(node.all.iter().map(|id| Task::Node { id: *id, value, depth }));
        self.alternatives(node, value)
    }

    fn choice(&self, choice: &Choice, value: &Json) -> Result<(), Misfit> {
        if choice.values.contains(&canonical(value)) {
            return Ok(());
        }
        Err(self.misfit(choice.keyword, format!("expected {}, found {}", choice.shown, message::found(value))))
    }

    fn text(&self, rules: &TextRules, text: &str) -> Result<(), Misfit> {
        if rules.length_min.is_some() || rules.length_max.is_some() {
            let length = text.chars().count();
            self.least("minLength", rules.length_min, length, "character")?;
            self.most("maxLength", rules.length_max, length, "character")?;
        }
        if let Some(format) = rules.format.filter(|format| !format.fits(text)) {
            return Err(self.misfit(
                "format",
                format!("expected {}, found another text of {}", format.name(), message::length(text)),
            ));
        }
        match &rules.pattern {
            Some((pattern, written)) if !pattern.is_in(text) => Err(self.misfit(
                "pattern",
                format!("expected a match of {}, found a text of {}", shown(written), message::length(text)),
            )),
            _ => Ok(()),
        }
    }

    fn number(&self, node: &Node, digits: &str) -> Result<(), Misfit> {
        let value = Decimal::new(digits);
        for bound in &node.number {
            let (holds, keyword, expected) = match bound.kind {
                BoundKind::Minimum => (value >= bound.limit, "minimum", "at least"),
                BoundKind::Maximum => (value <= bound.limit, "maximum", "at most"),
                BoundKind::ExclusiveMinimum => (value > bound.limit, "exclusiveMinimum", "more than"),
                BoundKind::ExclusiveMaximum => (value < bound.limit, "exclusiveMaximum", "less than"),
                BoundKind::MultipleOf => (value.is_multiple_of(&bound.limit), "multipleOf", "a multiple of"),
            };
            if !holds {
                return Err(self
                    .misfit(keyword, format!("expected {expected} {}, found {}", bound.written, found_bound(digits))));
            }
        }
        Ok(())
    }

    fn list<'t>(
        &self,
        rules: &'s ListRules,
        items: &'v [Json<'t>],
        tasks: &mut Vec<Task<'s, 'v, 't>>,
    ) -> Result<(), Misfit> {
        self.least("minItems", rules.items_min, items.len(), "item")?;
        self.most("maxItems", rules.items_max, items.len(), "item")?;
        if rules.is_unique {
            let texts: Vec<String> = items.iter().map(canonical).collect();
            let all = sorted(texts.iter().map(String::as_str));
            if let Some(pair) = all.windows(2).find(|pair| pair[0].0 == pair[1].0) {
                return Err(self.misfit("uniqueItems", format!("items {} and {} are equal", pair[0].1, pair[1].1)));
            }
        }
        if !rules.prefix.is_empty() || rules.items.is_some() {
            tasks.push(Task::Items { rules, items, next: 0, depth: self.path.len() });
        }
        Ok(())
    }

    fn object<'t>(
        &self,
        rules: &'s ObjectRules,
        fields: &'v [(std::borrow::Cow<'t, str>, Json<'t>)],
        tasks: &mut Vec<Task<'s, 'v, 't>>,
    ) -> Result<(), Misfit> {
        if let Some(name) = rules.required.iter().find(|name| !fields.iter().any(|(is, _)| is == name.as_str())) {
            return Err(self.misfit("required", format!("expected the property '{}', found none", shown(name))));
        }
        self.least("minProperties", rules.count_min, fields.len(), "property")?;
        self.most("maxProperties", rules.count_max, fields.len(), "property")?;
        if rules.has_fields() {
            tasks.push(Task::Fields { rules, fields, next: 0, depth: self.path.len() });
        }
        Ok(())
    }

    /// Apply to a field what is for its name. The path leads to it already.
    fn field<'t>(
        &self,
        rules: &'s ObjectRules,
        name: &str,
        value: &'v Json<'t>,
        tasks: &mut Vec<Task<'s, 'v, 't>>,
    ) -> Result<(), Misfit> {
        let depth = self.path.len();
        let named = rules.properties.iter().filter(|(is, _)| is == name).map(|(_, id)| *id);
        let fitting = rules.patterns.iter().filter(|(pattern, _)| pattern.is_in(name)).map(|(_, id)| *id);
        let before = tasks.len();
        tasks.extend(named.chain(fitting).map(|id| Task::Node { id, value, depth }));
        if tasks.len() > before {
            return Ok(());
        }
        match rules.additional {
            Some(id) if self.schema.nodes[id].is_never => {
                Err(self.misfit("additionalProperties", "there is no such property".into()))
            }
            Some(id) => {
                tasks.push(Task::Node { id, value, depth });
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn alternatives(&mut self, node: &'s Node, value: &'v Json<'_>) -> Result<(), Misfit> {
        if let Some(ids) = &node.any {
            self.any_of(ids, value)?;
        }
        if let Some(ids) = &node.one {
            self.one_of(ids, value)?;
        }
        match node.not {
            Some(id) if self.ask(id, value)?.is_none() => {
                Err(self.misfit("not", format!("found {} that fits a schema it must not fit", message::found(value))))
            }
            _ => Ok(()),
        }
    }

    fn any_of(&mut self, ids: &[Id], value: &'v Json<'_>) -> Result<(), Misfit> {
        let mut furthest = None;
        for id in ids {
            match self.ask(*id, value)? {
                None => return Ok(()),
                Some(misfit) => furthest = Some(further(furthest, misfit)),
            }
        }
        Err(self.none_of("anyOf", ids.len(), furthest))
    }

    fn one_of(&mut self, ids: &[Id], value: &'v Json<'_>) -> Result<(), Misfit> {
        let (mut furthest, mut fitting) = (None, None);
        for (index, id) in ids.iter().enumerate() {
            match (self.ask(*id, value)?, fitting) {
                (None, None) => fitting = Some(index),
                (None, Some(first)) => {
                    let why = format!("expected to fit one schema, fits those at {first} and {index}");
                    return Err(self.misfit("oneOf", why));
                }
                (Some(misfit), _) => furthest = Some(further(furthest, misfit)),
            }
        }
        if fitting.is_some() { Ok(()) } else { Err(self.none_of("oneOf", ids.len(), furthest)) }
    }

    /// Why the value does not fit, `None` if it does; an error when it cannot be said.
    fn ask(&mut self, id: Id, value: &'v Json<'_>) -> Result<Option<Misfit>, Misfit> {
        if self.questions == QUESTIONS_DEPTH_MAX {
            let why = format!("anyOf, oneOf and not are nested deeper than {QUESTIONS_DEPTH_MAX} in this value");
            return Err(Misfit { is_given_up: true, ..self.misfit("$ref", why) });
        }
        let depth = self.path.len();
        self.questions += 1;
        let outcome = self.run(id, value);
        self.questions -= 1;
        self.path.truncate(depth);
        match outcome {
            Ok(()) => Ok(None),
            Err(misfit) if misfit.is_given_up => Err(misfit),
            Err(misfit) => Ok(Some(misfit)),
        }
    }

    fn none_of(&self, keyword: &'static str, count: usize, furthest: Option<Misfit>) -> Misfit {
        let closest =
            furthest.map(|misfit| format!("; the closest: '{}': {}: {}", misfit.at, misfit.keyword, misfit.why));
        self.misfit(keyword, format!("fits none of {count} schemas{}", closest.unwrap_or_default()))
    }

    fn least(&self, keyword: &'static str, least: Option<usize>, count: usize, what: &str) -> Result<(), Misfit> {
        match least.filter(|least| count < *least) {
            Some(least) => {
                Err(self.misfit(keyword, format!("expected at least {}, found {count}", message::count(least, what))))
            }
            None => Ok(()),
        }
    }

    fn most(&self, keyword: &'static str, most: Option<usize>, count: usize, what: &str) -> Result<(), Misfit> {
        match most.filter(|most| count > *most) {
            Some(most) => {
                Err(self.misfit(keyword, format!("expected at most {}, found {count}", message::count(most, what))))
            }
            None => Ok(()),
        }
    }

    fn misfit(&self, keyword: &'static str, why: String) -> Misfit {
        let at = self.path.iter().map(|step| match step {
            Step::Field(name) => format!("/{}", shown(&name.replace('~', "~0").replace('/', "~1"))),
            Step::Item(index) => format!("/{index}"),
        });
        Misfit { at: at.collect(), keyword, why, depth: self.path.len(), is_given_up: false }
    }
}

/// Of two alternatives the one that came further into the value; of equals the first.
fn further(known: Option<Misfit>, misfit: Misfit) -> Misfit {
    known.filter(|known| known.depth >= misfit.depth).unwrap_or(misfit)
}

fn has_type(types: Types, value: &Json) -> bool {
    match value {
        Json::Null => types.has(0),
        Json::Bool(_) => types.has(1),
        Json::Number(digits) => {
            types.has(Types::NUMBER) || types.has(Types::INTEGER) && Decimal::new(digits).is_integer()
        }
        Json::Text(_) => types.has(4),
        Json::List(_) => types.has(5),
        Json::Object(_) => types.has(6),
    }
}

#[cfg(test)]
mod tests;
