//! A policy project's manifest, `policy.yaml`: what the policy is, how it is built, what it needs.
//!
//! It travels in the package (see [`super::package`]), so that whoever gets the one file knows what its author asked for.
//! What it needs is a request and no grant: the operator grants, under `policies.NAME.limits`, and what asks for more is
//! not loaded. Unknown keys are errors.

use crate::config::{self, ConfigError};
use gavel_runtime::{Limits, Metadata, SandboxOptions};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::path::Path;

/// The manifest's file in a project.
pub const FILE: &str = "policy.yaml";
/// Bytes of a manifest.
pub const MANIFEST_BYTES_MAX: usize = 64 << 10;
/// Characters of a policy's name.
pub const NAME_CHARS_MAX: usize = 64;
/// Reasons that a manifest may list.
const REASONS_MAX: usize = 1_000;

/// What a policy's author says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Its name, as its `describe` says it.
    pub name: String,
    /// Its version, as its `describe` says it.
    pub version: String,
    /// One sentence: what it enforces.
    pub description: String,
    /// What it is written in.
    pub language: Language,
    /// The command that builds it, run in the project's folder.
    pub build: String,
    /// What that command makes, from the project's folder.
    pub component: String,
    /// The tests it ships, from the project's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tests: Option<String>,
    /// What it asks of the operator beyond the defaults.
    #[serde(default, skip_serializing_if = "Needs::is_empty")]
    pub needs: Needs,
    /// The reasons it can give; `*` stands for any text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

/// What a policy is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the languages' own names")]
pub enum Language {
    Rust,
    C,
    Cpp,
    Js,
    Python,
    Go,
}

/// What a policy asks for beyond the default limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Needs {
    /// Wall time for one evaluation, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Linear memory, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_memory_bytes: Option<u64>,
    /// Elements of any one table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_table_elements: Option<u64>,
}

impl Manifest {
    /// Read a manifest from YAML; `path` is for messages.
    ///
    /// # Errors
    /// [`ConfigError`], which says what is wrong and where.
    pub fn from_yaml(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let malformed = |why: String| ConfigError::Malformed { path: path.to_owned(), why };
        if text.len() > MANIFEST_BYTES_MAX {
            return Err(malformed(format!("{} bytes, a manifest may have {MANIFEST_BYTES_MAX}", text.len())));
        }
        Self::from_value(path, serde_saphyr::from_str(text).map_err(|why| malformed(why.to_string()))?)
    }

    /// Take a manifest from a value; `path` is for messages.
    ///
    /// # Errors
    /// [`ConfigError`], which says what is wrong and where.
    pub fn from_value(path: &Path, value: Value) -> Result<Self, ConfigError> {
        let manifest: Self = config::typed(path, value)?;
        manifest.validate().map_err(|why| ConfigError::Invalid { path: path.to_owned(), why })?;
        Ok(manifest)
    }

    fn validate(&self) -> Result<(), String> {
        check_name(&self.name)?;
        for (key, text) in [("version", &self.version), ("build", &self.build), ("component", &self.component)] {
            if text.trim().is_empty() {
                return Err(format!("`{key}` is empty"));
            }
        }
        if self.reasons.len() > REASONS_MAX {
            return Err(format!("{} reasons, a manifest may list {REASONS_MAX}", self.reasons.len()));
        }
        match self.needs.each().find(|(_, needed)| *needed == 0) {
            Some((limit, _)) => Err(format!("needs.{limit} is 0: leave it out to take the default")),
            None => Ok(()),
        }
    }

    /// Whether this is the manifest of the policy that describes itself so.
    ///
    /// # Errors
    /// What differs, and where to change it.
    pub fn check(&self, metadata: &Metadata) -> Result<(), String> {
        let said = [("name", &self.name, &metadata.name), ("version", &self.version, &metadata.version)];
        match said.into_iter().find(|(_, manifest, described)| manifest != described) {
            Some((key, manifest, described)) => Err(format!(
                "{FILE} says {key} `{manifest}`, describe() says `{}`: make them the same and build again",
                described.escape_debug()
            )),
            None => Ok(()),
        }
    }
}

/// Whether `name` is one that a policy may have: lower case, digits, and hyphens between them.
///
/// # Errors
/// What a name is made of.
pub fn check_name(name: &str) -> Result<(), String> {
    let part =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let starts = name.starts_with(|first: char| first.is_ascii_lowercase());
    if starts && name.split('-').all(part) && name.len() <= NAME_CHARS_MAX {
        return Ok(());
    }
    let shown: String = name.chars().take(NAME_CHARS_MAX + 1).collect();
    Err(format!(
        "`{}` is no name of a policy: use 1 to {NAME_CHARS_MAX} lower-case letters and digits, with single hyphens between, beginning with a letter (for example no-deletes)",
        shown.escape_debug()
    ))
}

impl Needs {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is asked for, by the limit's name.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let all = [
            ("deadline_ms", self.deadline_ms),
            ("max_memory_bytes", self.max_memory_bytes),
            ("max_table_elements", self.max_table_elements),
        ];
        all.into_iter().filter_map(|(limit, needed)| Some((limit, needed?)))
    }

    /// Whether `granted` is enough; `policy` is the policy's name in the configuration.
    ///
    /// # Errors
    /// What is needed, what is granted, and the key to set.
    pub fn check(&self, policy: &str, granted: &Limits) -> Result<(), String> {
        let mut asked = self.each().map(|(limit, needed)| (limit, needed, granted_of(granted, limit)));
        match asked.find(|(_, needed, granted)| needed > granted) {
            Some((limit, needed, granted)) => Err(format!(
                "policy {policy} needs {limit} {needed}, granted {granted}: set policies.{policy}.limits.{limit}"
            )),
            None => Ok(()),
        }
    }

    /// `limits`, raised to what is needed: for an author's own commands, which serve nobody.
    #[must_use]
    pub fn granted_over(&self, mut limits: Limits) -> Limits {
        limits.deadline_ms = limits.deadline_ms.max(self.deadline_ms.unwrap_or(0));
        limits.max_memory_bytes = limits.max_memory_bytes.max(self.max_memory_bytes.unwrap_or(0));
        limits.max_table_elements = limits.max_table_elements.max(self.max_table_elements.unwrap_or(0));
        limits
    }

    /// `options` of a sandbox, raised so that it can grant what is needed.
    #[must_use]
    pub fn room_in(&self, mut options: SandboxOptions) -> SandboxOptions {
        options.decision_deadline_ms = options.decision_deadline_ms.max(self.deadline_ms.unwrap_or(0));
        options.max_memory_bytes = options.max_memory_bytes.max(self.max_memory_bytes.unwrap_or(0));
        options.max_table_elements = options.max_table_elements.max(self.max_table_elements.unwrap_or(0));
        options
    }
}

fn granted_of(limits: &Limits, limit: &str) -> u64 {
    match limit {
        "deadline_ms" => limits.deadline_ms,
        "max_memory_bytes" => limits.max_memory_bytes,
        _ => limits.max_table_elements,
    }
}

impl Language {
    /// As the command line and a manifest write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::C => "c",
            Self::Cpp => "cpp",
            Self::Js => "js",
            Self::Python => "python",
            Self::Go => "go",
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "name: no-deletes\nversion: 0.1.0\ndescription: Denies deletes.\nlanguage: rust\nbuild: ./build\ncomponent: target/no-deletes.wasm\n";

    fn read(more: &str) -> Result<Manifest, String> {
        Manifest::from_yaml(Path::new(FILE), &format!("{TEXT}{more}")).map_err(|why| why.to_string())
    }

    #[test]
    fn needs_are_compared_with_what_is_granted() {
        let needs = read("needs: {deadline_ms: 5, max_memory_bytes: 67108864}\n").unwrap().needs;
        let told = needs.check("x", &Limits::default()).unwrap_err();
        assert_eq!(
            told,
            "policy x needs max_memory_bytes 67108864, granted 16777216: set policies.x.limits.max_memory_bytes"
        );
        let granted = needs.granted_over(Limits::default());
        assert_eq!((granted.deadline_ms, granted.max_memory_bytes), (10, 67_108_864), "never below the default");
        needs.check("x", &granted).unwrap();
        assert_eq!(needs.room_in(SandboxOptions::default()).max_memory_bytes, 256 << 20);
    }

    #[test]
    fn what_is_wrong_in_a_manifest_is_said() {
        for (more, why) in [
            ("need: {}\n", "policy.yaml: unknown key `need`; the nearest known key is `needs`"),
            ("needs: {max_stack_bytes: 1}\n", "unknown key `max_stack_bytes` in needs"),
            ("needs: {deadline_ms: 0}\n", "needs.deadline_ms is 0"),
            ("needs: {deadline_ms: -1}\n", "needs.deadline_ms"),
            ("tests: [\n", "policy.yaml: "),
        ] {
            let told = read(more).unwrap_err();
            assert!(told.contains(why), "{more}: {told}");
        }
        let told = |text: &str| Manifest::from_yaml(Path::new(FILE), text).unwrap_err().to_string();
        assert!(told(&TEXT.replace("no-deletes\nv", "No_Deletes\nv")).contains("`No_Deletes` is no name of a policy"));
        assert!(told(&TEXT.replace("language: rust", "language: cobol")).contains("language: unknown variant `cobol`"));
        assert!(told(&TEXT.replace("build: ./build", "build: ''")).contains("`build` is empty"));
        assert!(told("").contains("policy.yaml"));
    }

    #[test]
    fn names_are_lower_case_with_hyphens() {
        for good in ["a", "no-deletes", "b2b"] {
            check_name(good).unwrap();
        }
        for bad in ["", "-a", "a-", "a--b", "A", "2fa", "a_b", "a/b", "..", "ä", &"a".repeat(65)] {
            assert!(check_name(bad).unwrap_err().contains("no-deletes"), "{bad}");
        }
    }

    #[test]
    fn a_manifest_is_that_of_its_policy() {
        let manifest = read("").unwrap();
        let mut metadata = Metadata {
            name: "no-deletes".into(),
            version: "0.1.0".into(),
            description: String::new(),
            config_schema: None,
        };
        manifest.check(&metadata).unwrap();
        metadata.version = "0.2.0".into();
        let told = manifest.check(&metadata).unwrap_err();
        assert!(told.starts_with("policy.yaml says version `0.1.0`, describe() says `0.2.0`"), "{told}");
    }
}
