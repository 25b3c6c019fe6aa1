//! What stands beside a plugin's component: `plugin.yaml`, and what the host's configuration lays over it.
//!
//! It is the operator's file, not the author's: it says under which name a component runs, with which configuration, and
//! what it is granted. What a component itself asks for is in its `describe`. Unknown keys are errors.

use super::files;
use super::grants::Grants;
use crate::config::{ConfigError, typed};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::{Component, Path, PathBuf};

/// The manifest's file in a plugin's folder.
pub const FILE: &str = "plugin.yaml";
/// Bytes of a manifest.
pub const MANIFEST_BYTES_MAX: u64 = 64 << 10;
/// Characters of a plugin's name.
pub const NAME_CHARS_MAX: usize = 64;

/// The key of `plugins.NAME` in the host's configuration that is no key of the plugin's.
const GRANTS: &str = "grants";

/// A plugin's manifest.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The component's file, in the manifest's folder.
    pub component: PathBuf,
    /// The name under which it runs. Default: what the component says.
    #[serde(default)]
    pub name: Option<String>,
    /// Its configuration.
    #[serde(default)]
    pub config: Value,
    /// What it is granted of what it asks.
    #[serde(default)]
    pub grants: Grants,
    /// `sha256:` and the hex digest that the component must have.
    #[serde(default)]
    pub digest: Option<String>,
}

impl Manifest {
    /// The manifest of a component that has none.
    #[must_use]
    pub fn bare(component: PathBuf) -> Self {
        Self { component, name: None, config: Value::Null, grants: Grants::default(), digest: None }
    }

    /// Read a manifest; its component's path is made to count from where the manifest's does.
    ///
    /// # Errors
    /// [`ConfigError`], which says what is wrong and where.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |why: String| ConfigError::Unreadable { path: path.to_owned(), why };
        let malformed = |why: String| ConfigError::Malformed { path: path.to_owned(), why };
        let bytes = files::read(path, MANIFEST_BYTES_MAX, "for a manifest").map_err(unreadable)?;
        let text = String::from_utf8(bytes).map_err(|why| malformed(why.to_string()))?;
        let value = serde_saphyr::from_str(&text).map_err(|why| malformed(why.to_string()))?;
        let mut manifest: Self = typed(path, value)?;
        manifest.validate().map_err(|why| ConfigError::Invalid { path: path.to_owned(), why })?;
        manifest.component = path.parent().unwrap_or(Path::new(".")).join(&manifest.component);
        Ok(manifest)
    }

    fn validate(&self) -> Result<(), String> {
        let inside = self.component.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !inside || self.component.as_os_str().is_empty() {
            let component = self.component.display();
            return Err(format!("component `{component}`: name a file in the plugin's own folder"));
        }
        if !matches!(self.config, Value::Null | Value::Object(_)) {
            return Err("config: a plugin's configuration is a mapping of keys to values".to_owned());
        }
        self.name.as_deref().map_or(Ok(()), check_name)
    }
}

/// What the host's configuration says under `plugins.NAME`: keys of the plugin's configuration, and `grants`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overlay {
    config: Map<String, Value>,
    grants: Grants,
}

impl Overlay {
    /// Read it; `name` is the plugin's, for messages.
    ///
    /// # Errors
    /// [`ConfigError`]: it is no mapping, or its `grants` have an unknown key.
    pub fn read(name: &str, value: &Value) -> Result<Self, ConfigError> {
        let path = PathBuf::from(format!("plugins.{name}"));
        let mut config = match value {
            Value::Null => Map::new(),
            Value::Object(keys) => keys.clone(),
            _ => {
                let why = "a plugin's configuration is a mapping of keys to values".to_owned();
                return Err(ConfigError::Malformed { path, why });
            }
        };
        let grants = match config.remove(GRANTS) {
            None | Some(Value::Null) => Grants::default(),
            Some(grants) => typed(&path.join(GRANTS), grants)?,
        };
        Ok(Self { config, grants })
    }

    /// The configuration: what stands here wins over what the manifest says, key by key.
    #[must_use]
    pub fn config_over(&self, manifest: &Value) -> Value {
        match manifest {
            Value::Object(below) => {
                let mut config = below.clone();
                config.extend(self.config.clone());
                Value::Object(config)
            }
            below if self.config.is_empty() => below.clone(),
            _ => Value::Object(self.config.clone()),
        }
    }

    /// The grants: what stands here wins over what the manifest says, key by key.
    #[must_use]
    pub fn grants_over(&self, manifest: &Grants) -> Grants {
        self.grants.clone().over(manifest)
    }
}

/// Whether a plugin may have this name: lower case, digits, hyphens and underscores, beginning with a letter.
///
/// # Errors
/// What a name is made of.
pub fn check_name(name: &str) -> Result<(), String> {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    let starts = name.starts_with(|first: char| first.is_ascii_lowercase());
    if starts && name.bytes().all(legal) && name.len() <= NAME_CHARS_MAX {
        return Ok(());
    }
    let shown: String = name.chars().take(NAME_CHARS_MAX + 1).collect();
    Err(format!(
        "`{}` is no name of a plugin: use 1 to {NAME_CHARS_MAX} lower-case letters, digits, `-` and `_`, beginning with a letter",
        shown.escape_debug()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(text: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        std::fs::write(&path, text).unwrap();
        Manifest::read(&path).map_or_else(|why| why.to_string(), |read| format!("{read:?}"))
    }

    #[test]
    fn a_mistake_is_told_with_the_key() {
        for (text, why) in [
            ("component: a.wasm\nconfg: {}\n", "the nearest known key is `config`"),
            (
                "component: a.wasm\ngrants: {emit: []}\n",
                "unknown key `emit` in grants; the nearest known key is `emits`",
            ),
            ("component: a.wasm\ngrants: {emits: ['st*:x']}\n", "a star stands for a whole half"),
            ("component: ../a.wasm\n", "in the plugin's own folder"),
            ("component: /etc/a.wasm\n", "in the plugin's own folder"),
            ("component: a.wasm\nconfig: 3\n", "a mapping"),
            ("component: a.wasm\nname: A B\n", "no name of a plugin"),
            ("name: a\n", "missing field `component`"),
            ("component: [\n", FILE),
        ] {
            let told = told(text);
            assert!(told.contains(why), "{text}: {told}");
        }
    }

    #[test]
    fn the_hosts_configuration_wins_key_by_key() {
        let overlay = Overlay::read("a", &json!({"x": 1, "grants": {"tools": ["add"]}})).unwrap();
        assert_eq!(overlay.config_over(&json!({"x": 0, "y": 2})), json!({"x": 1, "y": 2}));
        assert_eq!(overlay.config_over(&Value::Null), json!({"x": 1}));
        assert_eq!(Overlay::default().config_over(&Value::Null), Value::Null);
        let manifest = Grants { tools: Some(vec!["echo".into()]), memory_bytes: Some(7), ..Grants::default() };
        let grants = overlay.grants_over(&manifest);
        assert_eq!((grants.tools, grants.memory_bytes), (Some(vec!["add".into()]), Some(7)));
        let told = Overlay::read("a", &json!({"grants": {"tool": []}})).unwrap_err().to_string();
        assert!(told.contains("plugins.a") && told.contains("`tools`"), "{told}");
        assert!(Overlay::read("a", &json!([1])).unwrap_err().to_string().contains("mapping"));
    }
}
