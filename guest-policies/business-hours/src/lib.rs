//! The policy `business-hours`: requests pass at certain hours of certain days only.
//!
//! Without a configuration it is the rule that kernels have always given as their example: from 09:00 to 17:00 UTC,
//! every day, else `Outside business hours`. The only clock it knows is the kernel's, in the request, so a recorded
//! decision judged again comes out the same. It knows no time zones: their rules change by law, a policy does not.

mod calendar;
mod config;

use gavel_policy::{Configuration, Metadata, Policy, Request, Verdict, export_policy};

use calendar::Moment;
use config::Config;

/// The policy, for [`export_policy!`].
pub struct BusinessHours;

export_policy!(BusinessHours);

static CONFIG: Configuration<Config> = Configuration::new();

impl Policy for BusinessHours {
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
    let tool = request.tool_call.as_ref().map(|call| call.name.as_str());
    if !config.is_about(tool) {
        return Verdict::Abstain;
    }
    let now = Moment::new(request.now_ms, config.utc_offset_minutes());
    if config.is_open(now) {
        Verdict::Allow
    } else if *config == Config::default() {
        // To the letter: callers of that rule compare it.
        Verdict::Deny("Outside business hours".into())
    } else {
        let holiday = if config.is_holiday(now.day) { ", a holiday" } else { "" };
        Verdict::Deny(format!("Outside business hours ({config}): it is {now}{holiday}"))
    }
}

#[cfg(test)]
mod tests;
