//! Tidy: the rules of this repository that no compiler checks.
//!
//! Here belongs what can be seen from the sources, the manifests and `cargo metadata` alone: how long functions and
//! files are, how a file begins, which crate may use which, what the top level holds. Nothing here runs Gavel. Every
//! complaint says where, what is wrong, and what to do. Each check is a function from text to complaints, and is
//! itself shown to complain, below in [`shown_to_complain`].

#![allow(clippy::unwrap_used, reason = "a check that cannot read the repository has failed")]

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 600;

/// Files that may be longer than [`FILE_LINES_MAX`], each with its reason. None is, so far.
const LONG_FILES: [(&str, &str); 0] = [];

/// All that the top level holds, beside files and folders whose name begins with a dot.
const TOP_LEVEL: [&str; 11] = [
    "Cargo.lock",
    "Cargo.toml",
    "README.md",
    "deny.toml",
    "docs",
    "gpu",
    "guest-examples",
    "guest-policies",
    "host",
    "tests",
    "wit",
];

/// The file with the only unsafe block.
const UNSAFE_FILE: &str = "host/runtime/src/cache.rs";

/// The crates of the workspace and which of the others each may use. The harness of the tests may use all.
const MAY_USE: [(&str, &[&str]); 12] = [
    (
        "gavel",
        &[
            "gavel-bus",
            "gavel-fleet",
            "gavel-kernel",
            "gavel-kinds",
            "gavel-ledger",
            "gavel-proof",
            "gavel-runtime",
            "kasmina",
        ],
    ),
    ("gavel-bus", &[]),
    ("gavel-client", &[]),
    ("gavel-fleet", &[]),
    ("gavel-fuzz", &["gavel", "gavel-kernel", "gavel-ledger", "gavel-proof", "gavel-tests"]),
    ("gavel-kernel", &[]),
    ("gavel-kinds", &["gavel-bus", "gavel-kernel", "gavel-ledger", "gavel-proof"]),
    ("gavel-ledger", &["gavel-kernel", "gavel-proof"]),
    ("gavel-proof", &[]),
    ("gavel-runtime", &[]),
    (
        "gavel-tests",
        &[
            "gavel",
            "gavel-bus",
            "gavel-client",
            "gavel-kernel",
            "gavel-ledger",
            "gavel-proof",
            "gavel-runtime",
            "kasmina",
        ],
    ),
    ("kasmina", &[]),
];

/// What a crate must not be built with, neither directly nor through others.
const NEVER_BUILT_WITH: [(&str, &[&str]); 7] = [
    ("gavel-bus", &["wasmtime", "axum"]),
    ("gavel-fleet", &["wasmtime", "axum"]),
    ("gavel-kinds", &["wasmtime", "wgpu"]),
    ("gavel-kernel", &["tokio", "wasmtime", "axum"]),
    ("gavel-ledger", &["tokio", "wasmtime", "axum"]),
    ("gavel-runtime", &["axum", "hyper"]),
    ("kasmina", &["wasmtime", "axum"]),
];

#[test]
fn functions_are_short() {
    complain(rust_files().iter().flat_map(|file| long_functions(&file.path, &file.text)));
}

#[test]
fn files_are_short() {
    complain(rust_files().iter().filter_map(|file| long_file(&file.path, &file.text)));
}

#[test]
fn every_file_says_what_it_is() {
    complain(rust_files().iter().filter_map(|file| undocumented(&file.path, &file.text)));
}

#[test]
fn nothing_is_left_unfinished() {
    complain(rust_files().iter().flat_map(|file| unfinished(&file.path, &file.text)));
}

#[test]
fn one_block_is_unsafe() {
    // Guests are not of this workspace: theirs is the sandbox's to contain.
    let files = rust_files();
    let ours = files.iter().filter(|file| !is_guest(&file.path));
    let found: Vec<_> = ours.flat_map(|file| unsafe_code(&file.path, &file.text)).collect();
    complain(misplaced_unsafe(&found));
}

#[test]
fn the_top_level_holds_what_the_architecture_says() {
    complain(strangers(tracked_files().iter().map(String::as_str)));
}

#[test]
fn dependencies_point_one_way() {
    complain(wrong_dependencies(&metadata()));
}

#[test]
fn every_crate_has_the_lints_of_the_workspace() {
    let root = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    complain(workspace_members(&metadata()).into_iter().flat_map(|(_, manifest)| {
        let text = std::fs::read_to_string(&manifest).unwrap();
        other_lints(&manifest, &root, &text)
    }));
}

/// Fail with all complaints at once, so that they can be mended at once.
fn complain(complaints: impl IntoIterator<Item = String>) {
    let complaints: Vec<_> = complaints.into_iter().collect();
    assert!(complaints.is_empty(), "{} complaints:\n{}\n", complaints.len(), complaints.join("\n"));
}

// --- the checks: from text to complaints ---

/// Counted from the line with `fn` to that of its closing brace, both included: comments and blank lines too, because
/// a reader scrolls past them all the same. Formatted code is taken for granted: a body ends at the first line that
/// begins with a closing brace at the depth of the `fn`.
fn long_functions(path: &str, text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut complaints = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let length = item_length(&lines[at..]);
        if length > FUNCTION_LINES_MAX {
            let line = at + 1;
            complaints.push(format!(
                "{path}:{line}: `{name}` has {length} lines, at most {FUNCTION_LINES_MAX} are allowed: split it"
            ));
        }
    }
    complaints
}

/// The name of the function that begins on this line, if one does.
fn function_name(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    while !rest.starts_with("fn ") {
        let (word, after) = rest.split_once(' ')?;
        let qualifies = matches!(word, "const" | "async" | "unsafe" | "extern" | "\"C\"" | "pub" | "pub(in")
            || word.starts_with("pub(")
            || word.ends_with(')') && word.starts_with("crate::");
        if !qualifies {
            return None;
        }
        rest = after;
    }
    let name = &rest["fn ".len()..];
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
    (end > 0).then(|| &name[..end])
}

/// How many lines the item has that begins on the first of these.
fn item_length(lines: &[&str]) -> usize {
    let first = lines[0];
    if first.ends_with(';') || first.ends_with('}') {
        return 1;
    }
    let indent = &first[..first.len() - first.trim_start().len()];
    let closes = |line: &str| {
        let at_depth = line.strip_prefix(indent).filter(|rest| !rest.starts_with(' '));
        // `)` or `where` at this depth goes on with the signature; a declaration without a body ends there.
        at_depth.is_some_and(|rest| rest.starts_with('}') || rest.starts_with(')') && rest.ends_with([';', '}']))
    };
    lines.iter().skip(1).position(|line| closes(line)).map_or(lines.len(), |further| further + 2)
}

fn long_file(path: &str, text: &str) -> Option<String> {
    let length = text.lines().count();
    let excepted = LONG_FILES.iter().any(|(long, _)| *long == path);
    (length > FILE_LINES_MAX && !excepted).then(|| {
        format!(
            "{path}:{length}: the file has {length} lines, at most {FILE_LINES_MAX} are allowed: \
             give a part of it a file of its own, or list it in LONG_FILES with the reason"
        )
    })
}

fn undocumented(path: &str, text: &str) -> Option<String> {
    (!text.starts_with("//! ")).then(|| {
        format!("{path}:1: the file does not begin with `//! `: say what it is, and what must always hold in it")
    })
}

fn unfinished(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for (at, line) in text.lines().enumerate() {
        for word in ["todo", "unimplemented", "dbg"] {
            if line.contains(&format!("{word}!(")) {
                complaints.push(format!("{path}:{}: `{word}!` is left over: finish it or take it out", at + 1));
            }
        }
    }
    complaints
}

/// Where code is unsafe: a block, a function, an implementation. Comments do not count, nor does the name of the lint.
fn unsafe_code(path: &str, text: &str) -> Vec<String> {
    let is_unsafe = |line: &str| {
        let code = line.split("//").next().unwrap_or_default();
        let mut words = code.split_whitespace().skip_while(|word| word.trim_start_matches('(') != "unsafe");
        let next = words.nth(1).unwrap_or_default();
        next.starts_with('{') || matches!(next, "fn" | "impl" | "extern" | "trait")
    };
    text.lines().enumerate().filter(|(_, line)| is_unsafe(line)).map(|(at, _)| format!("{path}:{}", at + 1)).collect()
}

fn misplaced_unsafe(found: &[String]) -> Vec<String> {
    let in_place = |place: &str| place.split(':').next() == Some(UNSAFE_FILE);
    let (right, wrong): (Vec<_>, Vec<_>) = found.iter().partition(|place| in_place(place));
    let mut complaints: Vec<_> =
        wrong.into_iter().map(|place| format!("{place}: unsafe code: do without it")).collect();
    if right.len() != 1 {
        let count = right.len();
        complaints.push(format!(
            "{UNSAFE_FILE}:1: {count} unsafe blocks, there must be exactly one: do without the others, \
             or, if none is left, forbid unsafe code in host/runtime/Cargo.toml and here"
        ));
    }
    complaints
}

/// Entries of the top level that have no place there, given all files of the repository.
fn strangers<'a>(files: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let top: BTreeSet<&str> = files.into_iter().filter_map(|path| path.split('/').next()).collect();
    let at_home = |name: &str| name.starts_with('.') || TOP_LEVEL.contains(&name);
    let strange = top.into_iter().filter(|name| !at_home(name));
    strange.map(|name| format!("{name}:1: has no place on the top level: move it into one of its folders")).collect()
}

/// Crates of the workspace that use what they must not.
fn wrong_dependencies(metadata: &Value) -> Vec<String> {
    let graph = Graph::of(metadata);
    let members: BTreeMap<String, PathBuf> = workspace_members(metadata).into_iter().collect();
    let mut complaints = Vec::new();
    for (name, manifest) in &members {
        let manifest = shown(manifest);
        let Some((_, allowed)) = MAY_USE.iter().find(|(member, _)| member == name) else {
            complaints.push(format!("{manifest}:1: the crate `{name}` is new: say in MAY_USE which others it may use"));
            continue;
        };
        let used = graph.uses[name].iter().filter(|used| members.contains_key(&used.name));
        for used in used.filter(|used| !allowed.contains(&used.name.as_str())) {
            complaints.push(format!("{manifest}:1: `{name}` must not use `{}`: take the dependency out", used.name));
        }
        let built_with = graph.built_with(name);
        let never = NEVER_BUILT_WITH.iter().find(|(member, _)| member == name).map_or(&[][..], |(_, never)| *never);
        for found in never.iter().filter(|never| built_with.contains(**never)) {
            complaints.push(format!(
                "{manifest}:1: `{name}` must not be built with `{found}`: \
                 see `cargo tree -p {name} -e normal,build -i {found}` for who brings it"
            ));
        }
    }
    complaints
}

/// A manifest whose lints are not those of the workspace.
fn other_lints(manifest: &Path, root: &str, text: &str) -> Vec<String> {
    let path = shown(manifest);
    if toml_table(text, "lints").contains("workspace = true") {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    for tool in ["rust", "clippy", "rustdoc"] {
        let wanted = toml_table(root, &format!("workspace.lints.{tool}"));
        let found = toml_table(text, &format!("lints.{tool}"));
        // The one lint that a crate may set otherwise, and the reason why it has a table of its own.
        let differ = wanted.symmetric_difference(&found).filter(|lint| !lint.starts_with("unsafe_code "));
        complaints.extend(differ.map(|lint| {
            let fault = if found.contains(lint) { "is not in the workspace's table" } else { "is missing" };
            format!("{path}:1: [lints.{tool}] `{lint}` {fault}: make the two tables alike")
        }));
    }
    complaints
}

/// The lines of one table of a manifest, without comments. Enough for tables with one entry on each line.
fn toml_table<'a>(manifest: &'a str, name: &str) -> BTreeSet<&'a str> {
    let header = format!("[{name}]");
    let lines = manifest.lines().skip_while(|line| *line != header).skip(1);
    let table = lines.take_while(|line| !line.starts_with('['));
    table.map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

// --- what cargo knows ---

/// Who uses whom: packages by name (two versions of a name count as one, which only makes the rules stricter).
struct Graph {
    uses: BTreeMap<String, Vec<Use>>,
}

struct Use {
    name: String,
    for_tests_only: bool,
}

impl Graph {
    fn of(metadata: &Value) -> Self {
        let packages = metadata["packages"].as_array().unwrap();
        let names: BTreeMap<&str, &str> =
            packages.iter().map(|package| (word(package, "id"), word(package, "name"))).collect();
        let mut uses: BTreeMap<String, Vec<Use>> = BTreeMap::new();
        for node in metadata["resolve"]["nodes"].as_array().unwrap() {
            let dependencies = node["deps"].as_array().unwrap().iter().map(|dependency| Use {
                name: names[word(dependency, "pkg")].to_owned(),
                for_tests_only: dependency["dep_kinds"].as_array().unwrap().iter().all(|kind| kind["kind"] == "dev"),
            });
            uses.entry(names[word(node, "id")].to_owned()).or_default().extend(dependencies);
        }
        Self { uses }
    }

    /// Everything that ends up in a build of `name`: its dependencies and theirs, but not those of its tests.
    fn built_with<'a>(&'a self, name: &str) -> BTreeSet<&'a str> {
        let mut found = BTreeSet::new();
        let mut open: Vec<&str> = self.uses.get_key_value(name).map(|(name, _)| name.as_str()).into_iter().collect();
        while let Some(name) = open.pop() {
            let used = self.uses[name].iter().filter(|used| !used.for_tests_only);
            open.extend(used.map(|used| used.name.as_str()).filter(|used| found.insert(*used)));
        }
        found
    }
}

/// `cargo metadata` with all dependencies, for this platform only: others' packages need not be on this machine.
fn metadata() -> Value {
    let rustc = String::from_utf8(output(Command::new("rustc").arg("-vV"))).unwrap();
    let platform = rustc.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["metadata", "--format-version=1", "--locked", "--offline", "--filter-platform", platform];
    serde_json::from_slice(&output(Command::new(cargo).args(arguments))).unwrap()
}

/// The name and the manifest of each crate of the workspace.
fn workspace_members(metadata: &Value) -> Vec<(String, PathBuf)> {
    let members = metadata["workspace_members"].as_array().unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter().filter(|package| members.contains(&package["id"]));
    packages.map(|package| (word(package, "name").to_owned(), word(package, "manifest_path").into())).collect()
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("`cargo metadata` gives no text for `{key}`: {value}"))
}

// --- the files ---

struct File {
    /// From the root of the repository.
    path: String,
    text: String,
}

/// All sources: those in git and those that will be, but no built files.
fn rust_files() -> Vec<File> {
    let listed = git_files(&["--cached", "--others", "--exclude-standard"]);
    let paths: BTreeSet<String> =
        listed.into_iter().filter(|path| Path::new(path).extension() == Some("rs".as_ref())).collect();
    let files: Vec<File> = paths.into_iter().map(|path| File { text: read(&path), path }).collect();
    assert!(files.len() > 50, "only {} sources found, something is wrong with this test", files.len());
    files
}

fn tracked_files() -> Vec<String> {
    git_files(&["--cached"])
}

/// What git lists and is still there.
fn git_files(options: &[&str]) -> Vec<String> {
    let listed = output(Command::new("git").args(["ls-files", "-z"]).args(options));
    let listed = String::from_utf8(listed).unwrap();
    let paths = listed.split_terminator('\0').filter(|path| root().join(path).exists());
    paths.map(str::to_owned).collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|why| panic!("{path}: {why}"))
}

fn is_guest(path: &str) -> bool {
    ["guest-policies/", "guest-examples/", "tests/guests/"].iter().any(|folder| path.starts_with(folder))
}

/// A path as people know it, from the root of the repository.
fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// What a command writes that is run at the root of the repository.
fn output(command: &mut Command) -> Vec<u8> {
    let done = command.current_dir(root()).output().unwrap_or_else(|why| panic!("{command:?}: {why}"));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

/// Each check sees what is wrong, and nothing in what is right.
mod shown_to_complain {
    use super::*;
    use serde_json::json;

    /// A function with so many lines, all told.
    fn function(head: &str, lines: usize) -> String {
        let indent = &head[..head.len() - head.trim_start().len()];
        let body = format!("{indent}    work();\n").repeat(lines - 2);
        format!("{head} {{\n{body}{indent}}}\n")
    }

    #[test]
    fn long_functions_are_found_where_they_begin() {
        for head in [
            "fn f()",
            "pub fn f()",
            "    pub(crate) async fn f(self)",
            "pub(in crate::x) const fn f<T>()",
            "        fn f()",
        ] {
            let text = format!("//! A file.\n\n{}{}", function(head, 70), function(head, 71));
            let complaints = long_functions("a.rs", &text);
            assert_eq!(complaints, ["a.rs:73: `f` has 71 lines, at most 70 are allowed: split it"], "{head}");
        }
    }

    #[test]
    fn a_long_signature_belongs_to_its_function() {
        let long = function("fn f(\n    x: u8,\n) -> u8\nwhere\n    u8: Copy,\n", 71);
        assert_eq!(long_functions("a.rs", &long).len(), 1);
        let declared =
            format!("trait T {{\n    fn f(\n        &self,\n    ) -> u8;\n{}}}\n", "    const X: u8;\n".repeat(80));
        assert_eq!(long_functions("a.rs", &declared), [""; 0]);
    }

    #[test]
    fn functions_are_told_from_what_looks_like_them() {
        let qualified = format!("pub(super) {} extern \"C\" fn f_1<'a>(", "unsafe");
        assert_eq!(function_name(&qualified), Some("f_1"));
        for line in ["let f: fn (u8);", "// fn f() {", "a fn f() {", "type F = fn(u8);", "fnord()", "fn (x)", ""] {
            assert_eq!(function_name(line), None, "{line}");
        }
    }

    #[test]
    fn long_files_are_found() {
        assert_eq!(long_file("a.rs", &"x\n".repeat(600)), None);
        let complaint = long_file("a.rs", &"x\n".repeat(601)).unwrap();
        assert!(complaint.starts_with("a.rs:601: the file has 601 lines, at most 600"), "{complaint}");
    }

    #[test]
    fn a_file_must_begin_with_its_purpose() {
        assert_eq!(undocumented("a.rs", "//! It adds.\n"), None);
        for text in ["", "use x;\n//! It adds.\n", "//!\n", "// It adds.\n", "#![no_std]\n//! It adds.\n"] {
            assert!(undocumented("a.rs", text).unwrap().starts_with("a.rs:1: "), "{text}");
        }
    }

    #[test]
    fn left_over_macros_are_found() {
        let text = format!("fn f() {{\n    {}!(\"later\")\n}}\n", "todo");
        assert_eq!(unfinished("a.rs", &text), ["a.rs:2: `todo!` is left over: finish it or take it out"]);
        assert_eq!(unfinished("a.rs", "// nothing to do!\nfn todo() {}\n"), [""; 0]);
    }

    #[test]
    fn unsafe_code_is_found_in_all_its_forms() {
        let word = "unsafe";
        for code in ["{ f() }", "fn f() {", "impl Send for X {}", "extern \"C\" {"] {
            assert_eq!(unsafe_code("a.rs", &format!("\n    let x = {word} {code}\n")), ["a.rs:2"], "{code}");
        }
        for text in [format!("#[allow({word}_code)]"), format!("// {word} {{ it is }}"), format!("// {word} fn")] {
            assert_eq!(unsafe_code("a.rs", &text), [""; 0], "{text}");
        }
    }

    #[test]
    fn unsafe_code_has_one_place() {
        let here = format!("{UNSAFE_FILE}:7");
        assert_eq!(misplaced_unsafe(std::slice::from_ref(&here)), [""; 0]);
        assert_eq!(misplaced_unsafe(&[here.clone(), "a.rs:3".into()]), ["a.rs:3: unsafe code: do without it"]);
        for found in [&[][..], &[here.clone(), here]] {
            let complaints = misplaced_unsafe(found);
            assert!(complaints[0].contains(&format!("{} unsafe blocks", found.len())), "{complaints:?}");
        }
    }

    #[test]
    fn strangers_on_the_top_level_are_found() {
        let files = ["Cargo.toml", ".ci/run", "host/src/lib.rs", "notes.txt", "scripts/a", "scripts/b"];
        let complaints = strangers(files);
        assert_eq!(complaints.len(), 2);
        assert!(complaints[0].starts_with("notes.txt:1: has no place"), "{complaints:?}");
        assert!(complaints[1].starts_with("scripts:1: has no place"), "{complaints:?}");
    }

    /// What `cargo metadata` would say of these crates, all members, and who uses whom: `(from, kind, to)`.
    fn crates(names: &[&str], uses: &[(&str, Value, &str)]) -> Value {
        let packages =
            names.iter().map(|name| json!({"id": name, "name": name, "manifest_path": format!("{name}/Cargo.toml")}));
        let nodes = names.iter().map(|name| {
            let its = uses.iter().filter(|(from, ..)| from == name);
            let deps = its.map(|(_, kind, to)| json!({"pkg": to, "dep_kinds": [{"kind": kind}]}));
            json!({"id": name, "deps": deps.collect::<Vec<_>>()})
        });
        let members = names.iter().filter(|name| MAY_USE.iter().any(|(member, _)| member == *name) || **name == "new");
        json!({
            "workspace_members": members.collect::<Vec<_>>(),
            "packages": packages.collect::<Vec<_>>(),
            "resolve": {"nodes": nodes.collect::<Vec<_>>()},
        })
    }

    #[test]
    fn a_crate_that_uses_its_sister_is_found() {
        let names = ["gavel", "gavel-kernel", "gavel-ledger", "gavel-runtime"];
        let right = [("gavel", Value::Null, "gavel-ledger"), ("gavel-ledger", Value::Null, "gavel-kernel")];
        assert_eq!(wrong_dependencies(&crates(&names, &right)), [""; 0]);
        for kind in [Value::Null, json!("dev"), json!("build")] {
            let complaints = wrong_dependencies(&crates(&names, &[("gavel-ledger", kind, "gavel-runtime")]));
            let expected =
                "gavel-ledger/Cargo.toml:1: `gavel-ledger` must not use `gavel-runtime`: take the dependency out";
            assert_eq!(complaints, [expected]);
        }
        let new = wrong_dependencies(&crates(&["new"], &[]));
        assert!(new[0].contains("the crate `new` is new"), "{new:?}");
    }

    #[test]
    fn a_forbidden_crate_is_found_behind_others() {
        let names = ["gavel-kernel", "between", "tokio"];
        let uses = |kind| [("gavel-kernel", kind, "between"), ("between", Value::Null, "tokio")];
        let complaints = wrong_dependencies(&crates(&names, &uses(Value::Null)));
        assert!(complaints[0].contains("`gavel-kernel` must not be built with `tokio`"), "{complaints:?}");
        assert_eq!(wrong_dependencies(&crates(&names, &uses(json!("dev")))), [""; 0], "tests may");
    }

    #[test]
    fn a_lint_that_differs_is_found() {
        let root =
            "[workspace.lints.rust]\nunsafe_code = \"forbid\"\na = 1\n\n[workspace.lints.clippy]\n# Why.\nb = 1\n";
        let complaints = |text| other_lints(Path::new("x/Cargo.toml"), root, text);
        assert_eq!(complaints("[package]\n\n[lints]\nworkspace = true\n"), [""; 0]);
        assert_eq!(complaints("[lints.rust]\na = 1\nunsafe_code = \"deny\"\n[lints.clippy]\nb = 1\n"), [""; 0]);
        assert_eq!(
            complaints("[lints.rust]\na = 1\n[lints.clippy]\nb = 2\n"),
            [
                "x/Cargo.toml:1: [lints.clippy] `b = 1` is missing: make the two tables alike",
                "x/Cargo.toml:1: [lints.clippy] `b = 2` is not in the workspace's table: make the two tables alike",
            ]
        );
        assert_eq!(complaints("[package]\n").len(), 2, "no lints at all");
    }
}
