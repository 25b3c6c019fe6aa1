//! The policy `sensitive-data`: stops tool calls whose parameters hold secrets or personal data.
//!
//! Every text of the parameters is looked through ([`inspect`]), as it stands and decoded once ([`decode`]), by
//! scanners written by hand that pass over it once ([`scan`]). What a verdict says of it is the kind and the place,
//! never the value ([`report`]): reasons are read by the caller and kept in the record.
//!
//! In doubt it does not let pass: parameters that cannot be read are denied, and of a text too large to be looked
//! through the configuration says whether to deny or to escalate. It allows nothing by itself: a call in which nothing
//! is found is an abstention. What it cannot see is in the README: there is no list of all secrets.

mod config;
mod decode;
mod inspect;
mod kind;
mod plain;
mod report;
mod scan;
mod walk;

use gavel_policy::{Configuration, Metadata, Policy, Request, Verdict, export_policy, log};

use config::Config;
use inspect::{Inspection, Outcome};
use kind::Action;
use report::Source;

/// The policy, for [`export_policy!`].
pub struct SensitiveData;

export_policy!(SensitiveData);

static CONFIG: Configuration<Config> = Configuration::new();

impl Policy for SensitiveData {
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
            Ok(config) => judge(config, &request, &mut |line| log::write(log::Level::Info, line)),
            Err(broken) => broken.clone().into(),
        }
    }
}

/// The verdict; what is found but allowed is noted.
fn judge(config: &Config, request: &Request, note: &mut dyn FnMut(&str)) -> Verdict {
    let tool = request.tool_call.as_ref().map(|call| call.name.as_str());
    let Outcome { report, is_too_large } = match Inspection::new(config, tool).run(request) {
        Ok(outcome) => outcome,
        Err((source, wrong)) => {
            let which = if source == Source::ToolParams { "the tool's" } else { "the request's" };
            return Verdict::Deny(format!(
                "{which} parameters cannot be looked through: at byte {} they are not JSON, or nested deeper than {}",
                wrong.at_byte,
                gavel_policy::json::DEPTH_MAX
            ));
        }
    };
    if let Some(line) = report.line(Action::Allow, tool) {
        note(&line);
    }
    let too_large = is_too_large
        .then(|| format!("there is more to look through than {} bytes (max_scan_bytes)", config.max_scan_bytes));
    let because = |action: Action| {
        let found = report.line(action, tool);
        let too_large = too_large.clone().filter(|_| config.on_too_large == action);
        match (found, too_large) {
            (Some(found), Some(too_large)) => Some(format!("{found}; {too_large}")),
            (found, too_large) => found.or(too_large),
        }
    };
    if let Some(reason) = because(Action::Deny) {
        Verdict::Deny(reason)
    } else if let Some(reason) = because(Action::Escalate) {
        Verdict::Escalate(reason)
    } else {
        Verdict::Abstain
    }
}

#[cfg(test)]
mod tests;
