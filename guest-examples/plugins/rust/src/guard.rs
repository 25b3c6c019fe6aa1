//! What is wrong with a prompt: pure functions of configuration and data.

use crate::plugin::{Value, json};
use crate::secrets::redact;

#[derive(Debug, PartialEq)]
pub(crate) struct Config {
    /// Lower case.
    forbidden: Vec<String>,
    secrets: Vec<String>,
    replacement: String,
    fields: Vec<String>,
}

impl Config {
    /// The host has checked it against the schema.
    pub(crate) fn read(config: &Value) -> Result<Self, String> {
        let list = |key: &str, default: &[&str]| match &config[key] {
            Value::Null => Ok(default.iter().map(|text| (*text).to_owned()).collect()),
            Value::Array(items) => {
                let texts = items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
                texts.ok_or_else(|| format!("the configuration's `{key}` has an item that is no text"))
            }
            _ => Err(format!("the configuration's `{key}` is no list")),
        };
        Ok(Self {
            forbidden: list("forbidden", &[])?.iter().map(|word: &String| word.to_lowercase()).collect(),
            secrets: list("secrets", &[])?,
            replacement: config["replacement"].as_str().unwrap_or("[REDACTED]").to_owned(),
            fields: list("fields", &["prompt", "system", "messages", "context"])?,
        })
    }
}

/// What was found in the data of one event.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Found {
    /// Whether there was a prompt at all.
    pub(crate) prompt: bool,
    /// The kinds of the secrets that were replaced, one for each.
    pub(crate) secrets: Vec<&'static str>,
    /// A forbidden word.
    pub(crate) word: Option<String>,
}

/// Look through the fields that go to the model, and replace the secrets in them.
pub(crate) fn look(data: &mut Value, config: &Config) -> Found {
    let mut found = Found::default();
    if let Value::Object(data) = data {
        for field in &config.fields {
            if let Some(value) = data.get_mut(field) {
                look_into(value, config, &mut found);
            }
        }
    }
    found
}

fn look_into(value: &mut Value, config: &Config, found: &mut Found) {
    match value {
        Value::String(text) => {
            found.prompt = true;
            if found.word.is_none() {
                found.word = forbidden_word(text, &config.forbidden);
            }
            if let Some((replaced, kinds)) = redact(text, &config.secrets, &config.replacement) {
                *text = replaced;
                found.secrets.extend(kinds);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| look_into(item, config, found)),
        Value::Object(fields) => fields.values_mut().for_each(|field| look_into(field, config, found)),
        _ => {}
    }
}

/// The first of the words that stands in the text as a whole word.
fn forbidden_word(text: &str, words: &[String]) -> Option<String> {
    if words.is_empty() {
        return None;
    }
    let text = text.to_lowercase();
    let stands_alone = |at: usize, word: &str| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    };
    words.iter().find(|word| text.match_indices(word.as_str()).any(|(at, _)| stands_alone(at, word))).cloned()
}

pub(crate) fn no_counts() -> Value {
    json!({ "redacted": 0, "cancelled": 0, "secrets": {}, "words": {} })
}

impl Found {
    pub(crate) fn count_into(&self, counts: &mut Value) {
        let add = |place: &mut Value| *place = json!(place.as_u64().unwrap_or(0) + 1);
        match &self.word {
            Some(word) => {
                add(&mut counts["cancelled"]);
                add(&mut counts["words"][word.as_str()]);
            }
            None => {
                add(&mut counts["redacted"]);
                self.secrets.iter().for_each(|kind| add(&mut counts["secrets"][*kind]));
            }
        }
    }

    /// For the log: kinds and words, never a secret.
    pub(crate) fn told(&self) -> String {
        match &self.word {
            Some(word) => format!("cancelled for the forbidden word '{word}'"),
            None => format!("replaced {} secrets: {}", self.secrets.len(), self.secrets.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AKIAIOSFODNN7EXAMPLE";

    fn config(config: Value) -> Config {
        Config::read(&config).unwrap()
    }

    #[test]
    fn secrets_are_replaced_in_every_field_that_goes_to_the_model() {
        let config = config(Value::Null);
        let mut data = json!({
            "prompt": format!("use {KEY}."), "system": "be brief",
            "messages": [{"role": "user", "content": [{"text": format!("{KEY} {KEY}")}]}],
            "client_id": KEY, "max_tokens": 5,
        });
        let found = look(&mut data, &config);
        assert_eq!((found.prompt, found.secrets.len(), found.word), (true, 3, None));
        assert_eq!(
            data,
            json!({
                "prompt": "use [REDACTED].", "system": "be brief",
                "messages": [{"role": "user", "content": [{"text": "[REDACTED] [REDACTED]"}]}],
                "client_id": KEY, "max_tokens": 5,
            })
        );
    }

    #[test]
    fn numbers_pass_as_they_were_written() {
        let text = format!(r#"{{"prompt":"{KEY}","seed":123456789012345678901234567890,"top":0.10}}"#);
        let mut data = serde_json::from_str(&text).unwrap();
        look(&mut data, &config(Value::Null));
        assert_eq!(data.to_string(), text.replace(KEY, "[REDACTED]"));
    }

    #[test]
    fn what_has_no_prompt_is_let_alone() {
        let config = config(json!({"forbidden": ["x"]}));
        for mut data in [json!({"request_id": "x"}), Value::Null, json!("x"), json!({"prompt": 5})] {
            assert_eq!(look(&mut data, &config), Found::default());
        }
    }

    #[test]
    fn forbidden_words_are_found_whole_and_in_either_case() {
        let config = config(json!({"forbidden": ["Kill", "drop table", "тайна"]}));
        for (prompt, word) in [
            ("please KILL it", Some("kill")),
            ("skill and kills", None),
            ("kill", Some("kill")),
            ("a skill to kill", Some("kill")),
            ("DROP TABLE users", Some("drop table")),
            ("это ТАЙНА!", Some("тайна")),
            ("", None),
        ] {
            let found = look(&mut json!({"prompt": prompt}), &config);
            assert_eq!(found.word.as_deref(), word, "{prompt}");
        }
    }

    #[test]
    fn counts_add_up() {
        let mut counts = no_counts();
        let secrets = Found { prompt: true, secrets: vec!["jwt", "jwt"], word: None };
        let word = Found { prompt: true, secrets: vec!["jwt"], word: Some("kill".into()) };
        for found in [&secrets, &secrets, &word] {
            found.count_into(&mut counts);
        }
        assert_eq!(counts, json!({"redacted": 2, "cancelled": 1, "secrets": {"jwt": 4}, "words": {"kill": 1}}));
        assert_eq!(secrets.told(), "replaced 2 secrets: jwt, jwt");
    }

    #[test]
    fn a_configuration_that_cannot_be_read_is_told() {
        assert!(Config::read(&json!({"forbidden": "kill"})).unwrap_err().contains("`forbidden` is no list"));
        assert!(Config::read(&json!({"secrets": [1]})).unwrap_err().contains("`secrets` has an item"));
    }
}
