//! prompt-guard: no prompt leaves with a secret or a forbidden word in it.
//!
//! It sees every `completion:*` before its handler. The judgement is in `guard.rs` and `secrets.rs` and needs no host;
//! here is what it does with it. What it found is counted in its state, and `prompt_guard:stats` tells.

mod guard;
mod plugin;
mod secrets;

use guard::{Config, Found};
use plugin::{Answer, Before, Capabilities, Event, Level, Metadata, Plugin, Refusal, Value, json, log, state};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where the counts are, in its own namespace of the state.
const COUNTS: &str = "counts";

/// The configuration does not change while an instance lives.
static CONFIG: OnceLock<Config> = OnceLock::new();
/// Prompts that this instance has seen. Not in the state: most have nothing in them, and a write is a sync.
static SEEN: AtomicU64 = AtomicU64::new(0);

struct PromptGuard;

impl Plugin for PromptGuard {
    fn describe() -> (Metadata, Capabilities) {
        let metadata = Metadata {
            description: "Takes secrets out of prompts and stops those with forbidden words.".into(),
            author: "gavel".into(),
            // Before others that see prompts: what it takes out, they should not see.
            priority: 100,
            config_schema: Some(include_str!("../config.schema.json").into()),
            ..plugin::metadata()
        };
        let capabilities = Capabilities {
            commands: plugin::texts(&["prompt_guard:stats"]),
            provides_services: plugin::texts(&["prompt_guard"]),
            before: plugin::texts(&["completion:*"]),
            ..plugin::capabilities()
        };
        (metadata, capabilities)
    }

    fn startup() -> Result<(), String> {
        let config = Config::read(&plugin::config())?;
        CONFIG.set(config).map_err(|_| "it was started twice".to_owned())
    }

    fn before(event: &Event, mut data: Value) -> Before {
        let config = CONFIG.get().expect("it was started");
        let found = guard::look(&mut data, config);
        if !found.prompt {
            return Before::Pass;
        }
        SEEN.fetch_add(1, Ordering::Relaxed);
        if found.secrets.is_empty() && found.word.is_none() {
            return Before::Pass;
        }
        count(&found);
        log(Level::Warn, &format!("{} of {}: {}", event.name, event.sender, found.told()));
        match found.word {
            Some(word) => Before::Cancel(format!("the prompt has the forbidden word '{word}'")),
            None => Before::Replace(data.to_string()),
        }
    }

    fn handle(event: &Event, _data: Value) -> Answer {
        if event.name != "prompt_guard:stats" {
            return Ok(None);
        }
        let mut stats = counts()?;
        stats["seen_since_start"] = json!(SEEN.load(Ordering::Relaxed));
        Ok(Some(stats))
    }
}

plugin::export_plugin!(PromptGuard);

fn counts() -> Result<Value, Refusal> {
    Ok(state::get(COUNTS)?.filter(Value::is_object).unwrap_or_else(guard::no_counts))
}

/// That it cannot be counted is no reason to let a secret pass.
fn count(found: &Found) {
    let counted = counts().and_then(|mut counts| {
        found.count_into(&mut counts);
        state::set(COUNTS, &counts)
    });
    if let Err(why) = counted {
        log(Level::Error, &format!("what was found is not counted: {}", why.message));
    }
}
