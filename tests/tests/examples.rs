//! Examples: what the projects in `guest-examples` have in common.
//!
//! Here belongs what can be seen from their files: they are one policy in several languages, and what `gavel policy new`
//! writes. Nothing here builds them; `guest-examples/build` does. Kasmina's components and the plugins are in
//! folders of their own; the former are tested in `kasmina_components`.

#![allow(clippy::unwrap_used, reason = "a check that cannot read the repository has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const LANGUAGES: [&str; 6] = ["c", "cpp", "go", "js", "python", "rust"];

#[test]
fn there_is_one_project_for_each_language() {
    let entries = fs::read_dir(root().join("guest-examples")).unwrap().map(Result::unwrap);
    let folders: BTreeSet<_> = entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name()).collect();
    let expected: BTreeSet<_> = LANGUAGES.into_iter().chain(["kasmina", "plugins"]).map(Into::into).collect();
    assert_eq!(folders, expected);
}

#[test]
fn every_project_has_what_an_author_needs() {
    for file in ["README.md", "policy.yaml", "tests.yaml", "wit/policy.wit", "build", ".gitignore"] {
        each(file, |language, text| assert!(!text.is_empty(), "{language}/{file} is empty"));
    }
}

#[test]
fn every_project_is_built_against_the_contract() {
    let contract = fs::read_to_string(root().join("wit/policy.wit")).unwrap();
    each("wit/policy.wit", |language, text| {
        assert!(text == contract, "guest-examples/{language}/wit/policy.wit differs from wit/policy.wit: copy it");
    });
}

#[test]
fn every_project_has_the_same_tests() {
    let tests = read("rust", "tests.yaml");
    each("tests.yaml", |language, text| assert!(text == tests, "{language}/tests.yaml differs from rust/tests.yaml"));
}

#[test]
fn the_manifests_differ_in_language_and_needs_alone() {
    let common = |text: &str| {
        let own = |line: &&str| {
            ["language:", "needs:", "  deadline_ms:", "  max_memory_bytes:"].iter().all(|key| !line.starts_with(key))
        };
        text.lines().filter(own).map(str::to_owned).collect::<Vec<_>>()
    };
    let expected = common(&read("rust", "policy.yaml"));
    each("policy.yaml", |language, text| {
        assert_eq!(common(&text), expected, "{language}/policy.yaml");
        assert!(text.contains(&format!("\nlanguage: {language}\n")), "{language}/policy.yaml names another language");
    });
}

#[test]
fn the_plugins_are_built_against_the_contract() {
    let contract = fs::read_to_string(root().join("wit/plugin/plugin.wit")).unwrap();
    for language in ["js", "rust"] {
        let text = read(&format!("plugins/{language}"), "wit/plugin.wit");
        assert!(text == contract, "guest-examples/plugins/{language}/wit differs from wit/plugin/plugin.wit: copy it");
        let manifest = read(&format!("plugins/{language}"), "plugin.yaml");
        assert!(manifest.contains("component: ") && manifest.contains("grants:"), "{manifest}");
    }
}

/// `gavel policy new` puts an author's name in place of these three, by their text.
#[test]
fn the_name_is_spelled_in_three_ways() {
    for language in LANGUAGES {
        let folder = root().join("guest-examples").join(language);
        for path in sources(&folder) {
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let text = ["guarded-tools", "guarded_tools", "GuardedTools"]
                .iter()
                .fold(text, |text, name| text.replace(name, ""))
                .to_lowercase();
            for near in ["guardedtools", "guarded-tool", "guarded_tool"] {
                assert!(!text.contains(near), "{}: another spelling of the name: {near}", path.display());
            }
        }
    }
}

fn each(file: &str, check: impl Fn(&str, String)) {
    for language in LANGUAGES {
        check(language, read(language, file));
    }
}

fn read(language: &str, file: &str) -> String {
    let path = root().join("guest-examples").join(language).join(file);
    fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// Every file below, but for what a build in place leaves.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name();
        if ["target", ".venv", "node_modules"].iter().any(|left| name == *left) {
            continue;
        }
        if entry.path().is_dir() { found.extend(sources(&entry.path())) } else { found.push(entry.path()) }
    }
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}
