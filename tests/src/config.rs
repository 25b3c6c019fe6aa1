//! Writing configuration files.

use crate::gavel;
use serde_json::{Value, json};

/// A configuration file to be. JSON is YAML, so what is built here is written as it is.
#[derive(Debug, Clone)]
pub struct Config {
    file: Value,
    text: Option<Vec<u8>>,
}

/// A key that was made by `gavel key`: the secret for its holder, the entry for the configuration.
#[derive(Debug, Clone)]
pub struct Key {
    /// What its holder sends.
    pub secret: String,
    /// What the configuration gets.
    pub entry: Value,
}

impl Config {
    /// One strict kernel, `k`, in which every actor may call every tool.
    #[must_use]
    pub fn open() -> Self {
        Self::of(json!([Self::open_kernel("k")]))
    }

    /// These kernels.
    #[must_use]
    pub fn of(kernels: Value) -> Self {
        Self { file: json!({"kernels": kernels}), text: None }
    }

    /// A file with this text, whatever it is.
    #[must_use]
    pub fn text(text: impl Into<Vec<u8>>) -> Self {
        Self { file: Value::Null, text: Some(text.into()) }
    }

    /// A strict kernel in which every actor may call every tool.
    #[must_use]
    pub fn open_kernel(id: &str) -> Value {
        json!({"id": id, "policy": {"allowed_actors": ["*"], "allowed_tools": ["*"]}})
    }

    /// The same, but its requests are judged by these policies too.
    #[must_use]
    pub fn ruled_kernel(id: &str, rules: &[&str]) -> Value {
        let mut kernel = Self::open_kernel(id);
        kernel["policy"]["custom_rules"] = json!(rules);
        kernel
    }

    /// With `value` under a key at the top: `limits`, `tools`, `tls`.
    #[must_use]
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.file[key] = value;
        self
    }

    /// With a policy.
    #[must_use]
    pub fn policy(mut self, name: &str, policy: Value) -> Self {
        self.file["policies"][name] = policy;
        self
    }

    /// With keys.
    #[must_use]
    pub fn keys(self, keys: &[&Key]) -> Self {
        let entries: Vec<&Value> = keys.iter().map(|key| &key.entry).collect();
        self.with("auth", json!({"keys": entries}))
    }

    /// The text of the file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.text.clone().unwrap_or_else(|| self.file.to_string().into_bytes())
    }
}

impl Key {
    /// Have `gavel key` make one; `args` as on its command line.
    #[must_use]
    pub fn make(name: &str, args: &[&str]) -> Self {
        let args = ["key", "--json", "--name", name].into_iter().chain(args.iter().copied());
        let made = gavel(args).code(0).json();
        let secret = made["key"].as_str().expect("a key").to_owned();
        Self { secret, entry: made["configuration"].clone() }
    }

    /// The header that shows it.
    #[must_use]
    pub fn header(&self) -> (&'static str, String) {
        ("authorization", format!("Bearer {}", self.secret))
    }
}
