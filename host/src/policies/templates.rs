//! The projects that `gavel policy new` writes: the files of `guest-examples/`, embedded, under another name.
//!
//! Embedded are exactly the files that are kept under version control there, which a test checks; so what is written is
//! what the project's own tests build and run. Everything in them is text, and the example's name stands in them in the
//! three spellings that languages need.

use super::manifest::Language;

/// The examples' own name, which gives way to the new one.
const NAME: &str = "guarded-tools";

/// A file of a new project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// From the project's folder.
    pub path: String,
    /// What is in it.
    pub content: Vec<u8>,
    /// Whether it is a program: it then says by what it is run.
    pub executable: bool,
}

/// Files of one language, each by its path below `guest-examples/LANGUAGE/`.
macro_rules! files {
    ($language:literal: $($path:literal)*) => {
        &[$(($path, include_str!(concat!("../../../guest-examples/", $language, "/", $path)))),*]
    };
}

const RUST: &[(&str, &str)] = files!("rust":
    ".cargo/config.toml" ".gitignore" "Cargo.lock" "Cargo.toml" "README.md" "build" "config.schema.json"
    "policy.yaml" "src/lib.rs" "src/rule.rs" "tests.yaml" "wit/policy.wit");
const C: &[(&str, &str)] = files!("c":
    ".gitignore" "README.md" "bindings/policy.c" "bindings/policy.h" "build" "config.schema.json" "gavel.c" "gavel.h"
    "json.c" "json.h" "policy.yaml" "requirements.txt" "rule.c" "tests.yaml" "wit/policy.wit");
const CPP: &[(&str, &str)] = files!("cpp":
    ".gitignore" "README.md" "bindings/policy.cpp" "bindings/policy_cpp.h" "bindings/wit.h" "build" "glue.cpp"
    "glue.hpp" "json.cpp" "json.hpp" "policy.yaml" "requirements.txt" "rule.cpp" "tests.yaml" "wit/policy.wit");
const JS: &[(&str, &str)] = files!("js":
    ".gitignore" "README.md" "build" "package-lock.json" "package.json" "policy.yaml" "src/glue.js" "src/rule.js"
    "tests.yaml" "wit/policy.wit");
const PYTHON: &[(&str, &str)] = files!("python":
    ".gitignore" "README.md" "build" "policy.yaml" "requirements.txt" "src/glue.py" "src/rule.py" "tests.yaml"
    "wit/policy.wit");
const GO: &[(&str, &str)] = files!("go":
    ".gitignore" "README.md" "bindings/export_wit_world/glue.go" "bindings/gavel_policy_config/empty.s"
    "bindings/gavel_policy_config/wit_bindings.go" "bindings/gavel_policy_counters/empty.s"
    "bindings/gavel_policy_counters/wit_bindings.go" "bindings/gavel_policy_log/empty.s"
    "bindings/gavel_policy_log/wit_bindings.go" "bindings/gavel_policy_types/empty.s"
    "bindings/gavel_policy_types/wit_bindings.go" "bindings/pkg/LICENSE" "bindings/pkg/go.mod"
    "bindings/pkg/wit/runtime/empty.s" "bindings/pkg/wit/runtime/runtime.go" "bindings/pkg/wit/types/option.go"
    "bindings/wit_exports/wit_exports.go" "bindings/wit_world/empty.s" "bindings/wit_world/wit_bindings.go" "build"
    "go.mod" "main.go" "policy.yaml" "requirements.txt" "rule/config.schema.json" "rule/rule.go" "tests.yaml"
    "wit/policy.wit");

fn files(language: Language) -> &'static [(&'static str, &'static str)] {
    match language {
        Language::Rust => RUST,
        Language::C => C,
        Language::Cpp => CPP,
        Language::Js => JS,
        Language::Python => PYTHON,
        Language::Go => GO,
    }
}

/// The files of a new project in `language`, whose policy is called `name` (lower case, with hyphens).
#[must_use]
pub fn project(language: Language, name: &str) -> Vec<File> {
    let file = |(path, content): &(&str, &str)| File {
        path: renamed(path, name),
        content: renamed(content, name).into_bytes(),
        executable: content.starts_with("#!"),
    };
    files(language).iter().map(file).collect()
}

/// `text` with the example's name replaced by `name` in each of its spellings.
fn renamed(text: &str, name: &str) -> String {
    let spellings: [fn(&str) -> String; 3] = [str::to_owned, underscored, capitalised];
    spellings.iter().fold(text.to_owned(), |text, spelled| text.replace(&spelled(NAME), &spelled(name)))
}

/// `no-deletes` as `no_deletes`.
fn underscored(name: &str) -> String {
    name.replace('-', "_")
}

/// `no-deletes` as `NoDeletes`.
fn capitalised(name: &str) -> String {
    let word = |word: &str| word.chars().next().map(|first| first.to_ascii_uppercase().to_string() + &word[1..]);
    name.split('-').filter_map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_replaced_in_each_spelling() {
        let text = "guarded-tools guarded_tools.wasm struct GuardedTools; unguarded tools";
        assert_eq!(renamed(text, "no-deletes-2"), "no-deletes-2 no_deletes_2.wasm struct NoDeletes2; unguarded tools");
        // The new name is not looked at again.
        assert_eq!(renamed("guarded-tools", "tools"), "tools");
    }
}
