//! The policy `path-allow-list`: tools touch only the paths that are listed.
//!
//! It reads the paths out of a tool call's parameters ([`params`]), takes each apart without asking a file system
//! ([`path`]), and compares it with patterns ([`gavel_policy::glob`]). In doubt it denies: a path that could be read in
//! two ways, a parameter that is no path, a parameter that is missing.
//!
//! It judges names. What a name leads to (a link, a mount, another spelling that the file system takes for the same) is
//! for the sandbox of the tool; a tool that decodes or expands its parameter afterwards (`%2e%2e`, `$HOME`) defeats it.

mod config;
mod params;
mod path;

use gavel_policy::glob::{Case, PathPattern};
use gavel_policy::json::Json;
use gavel_policy::pointer::name_of_place;
use gavel_policy::text::shown;
use gavel_policy::{Configuration, Metadata, Policy, Request, Verdict, export_policy};

use config::{Config, OnMissing, Rule};
use params::Found;
use path::Path;

/// The policy, for [`export_policy!`].
pub struct PathAllowList;

export_policy!(PathAllowList);

static CONFIG: Configuration<Config> = Configuration::new();

impl Policy for PathAllowList {
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
    let mut rules = config.rules.iter().filter(|rule| rule.is_about(&call.name)).peekable();
    if rules.peek().is_none() {
        return Verdict::Abstain;
    }
    let tool = shown(&call.name);
    let params = match Json::parse(&call.params) {
        Ok(params) => params,
        Err(wrong) => return Verdict::Deny(format!("the parameters of tool '{tool}' cannot be read: {wrong}")),
    };
    let mut paths = 0;
    for (rule, pointer) in rules.flat_map(|rule| rule.params.iter().map(move |pointer| (rule, pointer))) {
        for (at, found) in params::find(pointer, &params) {
            let at = shown(name_of_place(&at));
            let why = match found {
                Found::Text(text) => match judge_path(config, rule, text) {
                    Ok(()) => {
                        paths += 1;
                        continue;
                    }
                    Err(why) => format!("path '{}' in parameter '{at}' of tool '{tool}' {why}", shown(text)),
                },
                Found::Missing if rule.on_missing == OnMissing::Allow => continue,
                Found::Missing => format!("tool '{tool}' is called without its parameter '{at}'"),
                Found::Other(is) => format!("parameter '{at}' of tool '{tool}' is {is}, not a path"),
            };
            return Verdict::Deny(why);
        }
    }
    if paths > 0 { Verdict::Allow } else { Verdict::Abstain }
}

/// Why a path is not allowed, if it is not, as the end of a sentence that begins with the path.
fn judge_path(config: &Config, rule: &Rule, text: &str) -> Result<(), String> {
    let path = Path::parse(text).map_err(|refusal| refusal.to_string())?;
    let path = match &config.root {
        Some(root) => path.relative_to(root),
        None => path,
    };
    // A denied pattern fits in doubt: whatever the case of its letters and, after `**`, wherever the path begins.
    let denies = |pattern: &&PathPattern| {
        (pattern.is_absolute() == path.is_absolute() || pattern.is_anywhere())
            && pattern.matches(path.segments(), Case::Ignored)
    };
    if let Some(pattern) = rule.deny.iter().find(denies) {
        return Err(format!("fits the denied pattern '{}'", shown(pattern.as_str())));
    }
    let allows = |pattern: &PathPattern| {
        pattern.is_absolute() == path.is_absolute() && pattern.matches(path.segments(), Case::Kept)
    };
    if rule.allow.iter().any(allows) { Ok(()) } else { Err("fits no allowed pattern".into()) }
}

#[cfg(test)]
mod tests;
