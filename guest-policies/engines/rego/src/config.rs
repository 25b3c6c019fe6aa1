//! The configuration, made ready: modules parsed and analysed, data read. What regorus refuses is refused here.

use gavel_engine_input::Tools;
use gavel_policy::json::{Json, Wrong};

use crate::input::{Input, value};

/// The rule that decides, unless another is named.
const QUERY: &str = "data.gavel.verdict";

/// All that one decision needs, except the request.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) tools: Tools,
    pub(crate) query: String,
    pub(crate) input: Input,
    /// Ready to evaluate, and never used itself: each decision has a copy.
    pub(crate) interpreter: regorus::Engine,
}

impl Engine {
    pub(crate) fn read(settings: &Json) -> Result<Self, Wrong> {
        let known = ["modules", "data", "query", "input", "tools", "rego_v0", "strict_builtin_errors"];
        let settings = settings.object(&known)?;
        let mut interpreter = regorus::Engine::new();
        interpreter.set_rego_v0(settings.get("rego_v0", boolean)?.unwrap_or(false));
        interpreter.set_strict_builtin_errors(settings.get("strict_builtin_errors", boolean)?.unwrap_or(false));
        interpreter.set_gather_prints(true);
        settings.require("modules", |modules| add_modules(&mut interpreter, modules))?;
        settings.get("data", |data| match data {
            Json::Object(_) => interpreter.add_data(value(data)?).map_err(|error| refused(&error)),
            other => Err(Wrong::new(format!("expected an object, not {}", other.kind()))),
        })?;
        // Any evaluation analyses the modules first, and keeps that: here the errors belong to the configuration.
        interpreter.eval_query("true".into(), false).map_err(|error| refused(&error))?;
        Ok(Self {
            tools: settings.get("tools", Tools::read)?.unwrap_or(Tools::ALL),
            query: settings.get("query", query)?.unwrap_or_else(|| QUERY.into()),
            input: settings.get("input", Input::read)?.unwrap_or(Input::Whole),
            interpreter,
        })
    }
}

/// The texts by their files' names. The names appear in errors and mean nothing else.
fn add_modules(interpreter: &mut regorus::Engine, setting: &Json) -> Result<(), Wrong> {
    let Json::Object(files) = setting else {
        return Err(Wrong::new(format!("expected an object, not {}", setting.kind())));
    };
    if files.is_empty() {
        return Err(Wrong::new("there is no module; without one every request is undefined"));
    }
    for (file, text) in files {
        let text = text.text().map_err(|wrong| Wrong::new(format!("'{file}': {wrong}")))?;
        interpreter.add_policy(file.to_string(), text.to_owned()).map_err(|error| refused(&error))?;
    }
    Ok(())
}

/// The path of a rule or a package: a whole query could hold anything, and its result would mean nothing.
fn query(setting: &Json) -> Result<String, Wrong> {
    let text = setting.text()?;
    let path = text.strip_prefix("data.").filter(|path| {
        path.split('.').all(|name| {
            let mut letters = name.chars();
            letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
                && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
        })
    });
    path.ok_or_else(|| Wrong::new(format!("'{text}' is not the path of a rule or package, like data.authz.allow")))?;
    Ok(text.to_owned())
}

fn boolean(setting: &Json) -> Result<bool, Wrong> {
    match setting {
        Json::Bool(is) => Ok(*is),
        other => Err(Wrong::new(format!("expected true or false, not {}", other.kind()))),
    }
}

fn refused(error: &impl core::fmt::Display) -> Wrong {
    Wrong::new(one_line(error))
}

/// What regorus says is drawn over several lines: the place, the source's line, a caret, and then what is wrong.
pub(crate) fn one_line(error: &impl core::fmt::Display) -> String {
    let text = error.to_string();
    let told = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('|') && *line != "^");
    told.collect::<Vec<_>>().join(" ")
}
