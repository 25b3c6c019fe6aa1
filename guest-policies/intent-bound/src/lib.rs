//! The policy `intent-bound`: tools with effects act only on what the user's own prompt names.
//!
//! A prompt injection has the agent call a tool with a value of the attacker's: his address, his account, his link.
//! The one text in a session that no attacker wrote is the user's prompt (`request.intent`). So each parameter that
//! matters is given a kind of value ([`kinds`]), and its value must have a *ground*: it occurs in the intent as that
//! kind of value is written, or an allow-list has it. A tool that destroys can require that the intent asks for such
//! an act ([`asked`]).
//!
//! What always holds: a value without a ground never passes; nor, unless the configuration says so, a tool or a
//! parameter that it does not name. Normalisation only ever joins spellings of one value (`98.70` and `$98.7`); what
//! looks alike but differs (another alphabet's letter, a longer address) stays apart.
//!
//! What it does not do: understand. It does not know what the user meant by the value, nor what the agent read; it
//! judges one call, and keeps nothing from one call to the next.

mod asked;
mod config;
mod intent;
mod kinds;
mod params;
mod shown;

use gavel_policy::json::Json;
use gavel_policy::{Configuration, Metadata, Policy, Request, Verdict, export_policy};

use asked::Phrase;
use config::{Config, Otherwise, Rule};
use intent::Intent;
use params::{Found, Step, walk};
use shown::shown;

/// The policy, for [`export_policy!`].
pub struct IntentBound;

export_policy!(IntentBound);

static CONFIG: Configuration<Config> = Configuration::new();

/// Values of one call that are judged; a call with more is not let pass. It bounds the work.
const VALUES_MAX: usize = 256;

/// Findings that a verdict's text lists; more are counted. So many fit the host's limit of a verdict's text.
const FINDINGS_SHOWN_MAX: usize = 8;

impl Policy for IntentBound {
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
    let rules: Vec<&Rule> = config.rules.iter().filter(|rule| rule.is_about(&call.name)).collect();
    if rules.is_empty() {
        let unnamed = || format!("tool '{}': is in no rule and not among the reading tools", shown(&call.name));
        return match config.other_tools {
            _ if config.is_reading(&call.name) => Verdict::Abstain,
            None => Verdict::Abstain,
            Some(Otherwise::Escalate) => Verdict::Escalate(unnamed()),
            Some(Otherwise::Deny) => Verdict::Deny(unnamed()),
        };
    }
    let params = match Json::parse(&call.params) {
        Ok(params) => params,
        Err(wrong) => {
            return Verdict::Deny(format!("the parameters of tool '{}' cannot be read: {wrong}", shown(&call.name)));
        }
    };
    let intent = Intent::new(&request.intent, request.now_ms);
    let mut findings = Findings::default();
    for rule in &rules {
        rule.judge_act(&intent, &mut findings);
        rule.judge_params(&params, &intent, &mut findings);
    }
    judge_others(config, &rules, &params, &mut findings);
    findings.verdict(&call.name)
}

impl Rule {
    /// Does the intent ask for such an act at all?
    fn judge_act(&self, intent: &Intent, findings: &mut Findings) {
        if self.asked.is_empty() && self.about.is_empty() {
            return;
        }
        let said = intent.words();
        let missing =
            |phrases: &&[Phrase]| !phrases.is_empty() && !phrases.iter().any(|phrase| phrase.is_asked_in(&said));
        let words = |phrases: &[Phrase]| shown(&phrases.iter().map(Phrase::as_str).collect::<Vec<_>>().join(", "));
        if let Some(asked) = Some(&*self.asked).filter(missing) {
            findings.add(self.otherwise, format!("the intent asks for none of: {}", words(asked)));
        } else if let Some(about) = Some(&*self.about).filter(missing) {
            findings.add(self.otherwise, format!("the intent is about none of: {}", words(about)));
        }
    }

    /// Has each value of the rule's parameters a ground?
    fn judge_params(&self, params: &Json, intent: &Intent, findings: &mut Findings) {
        let mut values = 0;
        for (place, param) in &self.params {
            let mut given = false;
            walk(params, &mut |path, found| {
                let Some(rest) = place.covers(path) else { return };
                given |= matches!(found, Found::Value(_));
                values += 1;
                if values > VALUES_MAX {
                    return;
                }
                let inside = rest.iter().any(|step| matches!(step, Step::Name(_)));
                if let Err(why) = param.judge(&found, inside, intent) {
                    findings.add(self.otherwise, format!("parameter '{}': {why}", shown(&params::pointer(path))));
                }
            });
            if param.required && !given {
                findings.add(self.otherwise, format!("parameter '{}': is missing", shown(place.as_str())));
            }
        }
        if values > VALUES_MAX {
            findings.add(self.otherwise, format!("the parameters: have more than {VALUES_MAX} values"));
        }
    }
}

/// The values that no rule about this tool names.
fn judge_others(config: &Config, rules: &[&Rule], params: &Json, findings: &mut Findings) {
    let Some(otherwise) = config.other_params else { return };
    let named =
        |path: &[Step]| rules.iter().any(|rule| rule.params.iter().any(|(place, _)| place.covers(path).is_some()));
    walk(params, &mut |path, found| {
        if matches!(found, Found::Value(_)) && !named(path) {
            findings.add(otherwise, format!("parameter '{}': is in no rule", shown(&params::pointer(path))));
        }
    });
}

/// What speaks against a call. All of it is told: who approves a call must see every value that is in doubt, or an
/// attacker hides his behind a harmless one.
#[derive(Debug, Default)]
struct Findings {
    denied: bool,
    shown: Vec<String>,
    more: usize,
}

impl Findings {
    fn add(&mut self, otherwise: Otherwise, finding: String) {
        self.denied |= otherwise == Otherwise::Deny;
        if self.shown.contains(&finding) {
            return;
        }
        if self.shown.len() < FINDINGS_SHOWN_MAX {
            self.shown.push(finding);
        } else {
            self.more += 1;
        }
    }

    fn verdict(self, tool: &str) -> Verdict {
        if self.shown.is_empty() {
            return Verdict::Allow;
        }
        let more = if self.more == 0 { String::new() } else { format!("; and {} more", self.more) };
        let text = format!("tool '{}': {}{more}", shown(tool), self.shown.join("; "));
        if self.denied { Verdict::Deny(text) } else { Verdict::Escalate(text) }
    }
}

#[cfg(test)]
mod tests;
