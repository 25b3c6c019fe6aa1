//! Profiles: what an agent is spawned from, and how its prompt is put together.

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What an agent is spawned from: a file of `agent_service.profiles_dir`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Profile {
    /// What it does in the team.
    pub role: String,
    /// What it can.
    pub capabilities: Vec<String>,
    /// What it is told before its task.
    #[serde(alias = "system_instructions")]
    pub system_prompt: String,
    /// Its prompt, in which `{task}` and `{context}` stand for what it is spawned with; empty: the task alone.
    #[serde(alias = "prompt_template", skip_serializing_if = "String::is_empty")]
    pub prompt: String,
    /// Which model answers for it; the provider's default if empty.
    pub model: String,
}

/// All profiles, and those that cannot be used.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Profiles {
    /// By name.
    pub good: BTreeMap<String, Profile>,
    /// By name, what is wrong: the file and the key.
    pub bad: BTreeMap<String, String>,
}

/// Where profiles are found.
pub trait ProfileSource: Send + Sync + 'static {
    /// Those that there are now.
    fn profiles(&self) -> BoxFuture<'_, Profiles>;
}

impl ProfileSource for BTreeMap<String, Profile> {
    fn profiles(&self) -> BoxFuture<'_, Profiles> {
        Box::pin(std::future::ready(Profiles { good: self.clone(), bad: BTreeMap::new() }))
    }
}

impl Profile {
    /// The prompt of an agent with this task. What the task or the context hold is not looked into.
    pub(super) fn compose(&self, task: &str, context: &Value) -> String {
        let context = match context {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let (mut prompt, mut rest) = (String::new(), self.prompt.as_str());
        while let Some(at) = rest.find('{') {
            let places = [("{task}", task), ("{context}", context.as_str())];
            prompt.push_str(&rest[..at]);
            rest = &rest[at..];
            let found = places.iter().find(|(place, _)| rest.starts_with(place));
            let (taken, put) = found.map_or(("{", "{"), |(place, text)| (*place, *text));
            prompt.push_str(put);
            rest = &rest[taken.len()..];
        }
        prompt.push_str(rest);
        for (place, text) in [("{task}", task), ("{context}", context.as_str())] {
            if !self.prompt.contains(place) && !text.is_empty() {
                let title = if place == "{context}" { "Context:\n" } else { "" };
                let gap = if prompt.is_empty() { "" } else { "\n\n" };
                prompt = format!("{prompt}{gap}{title}{text}");
            }
        }
        prompt
    }
}

impl Profiles {
    /// The profile of this name.
    pub(super) fn find(&self, name: &str) -> Result<&Profile, String> {
        if let Some(problem) = self.bad.get(name) {
            return Err(format!("profile '{name}' cannot be used: {problem}"));
        }
        self.good.get(name).ok_or_else(|| {
            let known: Vec<_> = self.good.keys().map(String::as_str).collect();
            let known =
                if known.is_empty() { "none (agent_service.profiles_dir)".to_owned() } else { known.join(", ") };
            format!("no profile '{name}'; there are: {known}")
        })
    }

    /// The one that fits a role and capabilities best: the role counts ten, each capability one. Of equals, the first by
    /// name; none if nothing fits.
    pub(super) fn best(&self, role: Option<&str>, capabilities: &[String]) -> Option<(&str, usize)> {
        let score = |profile: &Profile| {
            let role = if role.is_some_and(|role| role == profile.role) { 10 } else { 0 };
            role + capabilities.iter().filter(|wanted| profile.capabilities.contains(wanted)).count()
        };
        let scored = self.good.iter().map(|(name, profile)| (name.as_str(), score(profile)));
        scored.filter(|(_, score)| *score > 0).max_by(|(a, x), (b, y)| x.cmp(y).then(b.cmp(a)))
    }

    /// As `agent:profiles` answers.
    pub(super) fn answer(&self) -> Value {
        json!({ "count": self.good.len(), "profiles": self.good, "errors": self.bad })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_put_together_once() {
        let profile = |prompt: &str| Profile { prompt: prompt.to_owned(), ..Profile::default() };
        for (prompt, task, context, whole) in [
            ("", "dig", json!(null), "dig"),
            ("", "dig", json!("deep"), "dig\n\nContext:\ndeep"),
            ("Do {task} {now}", "dig", json!({ "a": 1 }), "Do dig {now}\n\nContext:\n{\"a\":1}"),
            ("{context}: {task}", "{context}", json!("sand"), "sand: {context}"),
            ("You dig.", "", json!(""), "You dig."),
        ] {
            assert_eq!(profile(prompt).compose(task, &context), whole);
        }
    }
}
