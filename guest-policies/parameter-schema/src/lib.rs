//! The policy `parameter-schema`: tools are called only with parameters that fit their JSON Schema.
//!
//! The schemas are read with the configuration, every keyword known or the whole of it refused ([`read`]), and a call's
//! parameters are checked without recursion on the caller's behalf ([`check`]); patterns are matched in linear time
//! ([`pattern`]) and numbers compared exactly ([`decimal`]). A reason names the place and the keyword, what was
//! expected, and the type or length of what was found.
//!
//! It is a subset of JSON Schema 2020-12, not all of it: the README lists the keywords. Formats are checked, not noted.

mod canonical;
mod check;
mod config;
mod decimal;
mod format;
mod pattern;
mod read;
mod schema;

use gavel_policy::json::Json;
use gavel_policy::{Configuration, Metadata, Policy, Request, Verdict, export_policy};

use check::{check, shown};
use config::{Config, Unlisted};

/// The policy, for [`export_policy!`].
pub struct ParameterSchema;

export_policy!(ParameterSchema);

static CONFIG: Configuration<Config> = Configuration::new();

impl Policy for ParameterSchema {
    fn describe() -> Metadata {
        Metadata {
            name: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: env!("CARGO_PKG_DESCRIPTION").into(),
            config_schema: Some(include_str!("../config.schema.json").into()),
        }
    }

    fn evaluate(request: Request) -> Verdict {
        match CONFIG.get(Config::read) {
            Ok(config) => judge(config, &request),
            Err(broken) => broken.clone().into(),
        }
    }
}

fn judge(config: &Config, request: &Request) -> Verdict {
    let Some(call) = &request.tool_call else { return Verdict::Abstain };
    let mut schemas = config.schemas(&call.name).peekable();
    let tool = shown(&call.name);
    if schemas.peek().is_none() {
        return match config.unlisted {
            Unlisted::Abstain => Verdict::Abstain,
            Unlisted::Allow => Verdict::Allow,
            Unlisted::Deny => Verdict::Deny(format!("tool '{tool}' has no schema")),
        };
    }
    let params = match Json::parse(&call.params) {
        Ok(params) => params,
        Err(wrong) => return Verdict::Deny(format!("the parameters of tool '{tool}' cannot be read: {wrong}")),
    };
    for schema in schemas {
        if let Err(misfit) = check(schema, &params) {
            let place =
                if misfit.at.is_empty() { "the parameters".into() } else { format!("parameter '{}'", misfit.at) };
            return Verdict::Deny(format!("{place} of tool '{tool}': {}: {}", misfit.keyword, misfit.why));
        }
    }
    Verdict::Allow
}

#[cfg(test)]
mod tests;
