//! From the core module that a compiler wrote to a component that Gavel loads.
//!
//! Compilers for C, Go and Rust write core modules; a policy is a component, and so is what takes part in growing a
//! layer. What other projects do with an installed `wasm-tools` is done here, so that an author needs nothing but the
//! compiler and `gavel`.
//!
//! What always holds: the result imports nothing but what its world offers. Where a language's runtime asks for WASI
//! preview 1, a sealed one (`assets/sealed-wasi.wat`) goes into the component and answers there: no clock that moves by
//! itself, no randomness, no files. The same module gives the same component, byte for byte.
//!
//! What is not done here: nothing is compiled or run, and whether the component is a good policy the sandbox says.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use wasmparser::{Encoding, Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The contract of policies.
const POLICY_WIT: &str = include_str!("../../../wit/policy.wit");
/// The contract of components that take part in growing a layer; it refers to that of policies.
const KASMINA_WIT: &str = include_str!("../../../wit/kasmina/kasmina.wit");
/// The contract of plugins of the event bus.
const PLUGIN_WIT: &str = include_str!("../../../wit/plugin/plugin.wit");
/// The text of the sealed WASI.
const SEALED_WASI: &str = include_str!("../../assets/sealed-wasi.wat");
/// What the sealed WASI imports: it writes what a guest prints to the policy's log.
const SEALED_WASI_WIT: &str = "package gavel:sealed-wasi; world sealed-wasi { import gavel:policy/log@0.1.0; }";
/// The log that a policy has, and the one that a plugin has: the same functions under two names.
const POLICY_LOG: &str = "gavel:policy/log@0.1.0";
const PLUGIN_LOG: &str = "gavel:plugin/log@0.1.0";
/// The module name by which compilers import WASI preview 1.
const WASI: &str = "wasi_snapshot_preview1";
/// The custom sections that say which world a module is built against begin with this.
const COMPONENT_TYPE: &str = "component-type";
/// The section number of a custom section.
const CUSTOM_SECTION: u8 = 0;

/// What a module is built against when it does not carry that itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contract<'a> {
    /// World `gavel:policy/policy`.
    Policy,
    /// World `gavel:kasmina/strategy`.
    Strategy,
    /// World `gavel:kasmina/tamiyo`.
    Tamiyo,
    /// World `gavel:plugin/plugin`.
    Plugin,
    /// A WIT text with a single world.
    Given(&'a str),
}

impl<'a> Contract<'a> {
    /// Its packages, each after those that it refers to, and its world in the last of them.
    fn parts(self) -> (Vec<(&'static str, &'a str)>, Option<&'static str>) {
        let kasmina = || vec![("policy.wit", POLICY_WIT), ("kasmina.wit", KASMINA_WIT)];
        match self {
            Self::Policy => (vec![("policy.wit", POLICY_WIT)], None),
            Self::Strategy => (kasmina(), Some("strategy")),
            Self::Tamiyo => (kasmina(), Some("tamiyo")),
            Self::Plugin => (vec![("plugin.wit", PLUGIN_WIT)], Some("plugin")),
            Self::Given(wit) => (vec![("policy.wit", wit)], None),
        }
    }
}

/// Make a component of `core`, a core module built against one of Gavel's worlds.
///
/// The world is the one that the module carries in its `component-type` sections (the bindings of C and Rust put it
/// there), else the one of `contract`. Debug information, names and other custom sections are left out.
///
/// # Errors
/// When `core` is not a core module, lacks what its world demands, or imports what nobody will give it.
pub fn componentize(core: &[u8], contract: Contract<'_>) -> Result<Vec<u8>> {
    let mut module = Module::read(core)?;
    let sealed = module.imports.iter().any(|(from, _)| from == WASI).then(|| sealed_wasi(contract)).transpose()?;
    module.check_exports()?;
    module.check_imports(sealed.as_deref())?;
    if !module.carries_its_world {
        let (packages, world) = contract.parts();
        embed(&mut module.stripped, &packages, world)?;
    }
    let mut encoder = ComponentEncoder::default().validate(true).module(&module.stripped)?;
    if let Some(sealed) = sealed {
        encoder = encoder.adapter(WASI, &sealed)?;
    }
    encoder.encode().context("the module does not fit the world that it is built against")
}

/// The sealed WASI as an adapter: a core module that carries its own world. A plugin has another log than the rest.
fn sealed_wasi(contract: Contract<'_>) -> Result<Vec<u8>> {
    let (wit, log) = match contract {
        Contract::Plugin => (PLUGIN_WIT, PLUGIN_LOG),
        _ => (POLICY_WIT, POLICY_LOG),
    };
    let [text, world] = [SEALED_WASI, SEALED_WASI_WIT].map(|text| text.replace(POLICY_LOG, log));
    let mut adapter = wat::parse_str(text).context("the sealed WASI cannot be assembled")?;
    embed(&mut adapter, &[("contract.wit", wit), ("sealed-wasi.wit", &world)], None)?;
    Ok(adapter)
}

/// Put `world`, or else the one world, of the last of `packages` into `module`; the ones before it are what that refers
/// to.
fn embed(module: &mut Vec<u8>, packages: &[(&str, &str)], world: Option<&str>) -> Result<()> {
    let mut resolve = Resolve::default();
    let mut package = None;
    for (name, wit) in packages {
        package = Some(resolve.push_source(name, wit).with_context(|| format!("{name} is no valid WIT"))?);
    }
    let package = package.context("no WIT is given")?;
    let world = resolve.select_world(&[package], world).context("the WIT must have exactly one world")?;
    embed_component_metadata(module, &resolve, world, StringEncoding::UTF8)
}

/// What there is to know of a core module before anything is made of it.
#[derive(Default)]
struct Module {
    /// Pairs of module and name.
    imports: Vec<(String, String)>,
    exports: BTreeSet<String>,
    carries_its_world: bool,
    /// The module without its custom sections, but for those with its world.
    stripped: Vec<u8>,
}

impl Module {
    fn read(bytes: &[u8]) -> Result<Self> {
        ensure!(bytes.starts_with(b"\0asm"), "this is no WebAssembly: it does not begin with \\0asm");
        let mut module = Self::default();
        for payload in Parser::new(0).parse_all(bytes) {
            let payload = payload.context("the module is damaged")?;
            module.take(&payload)?;
            if let Some((section, range)) = payload.as_section() {
                let kept = match &payload {
                    Payload::CustomSection(custom) => custom.name().starts_with(COMPONENT_TYPE),
                    _ => true,
                };
                if kept {
                    module.append(section, bytes.get(range).context("the module is damaged: it ends too early")?)?;
                }
            }
        }
        Ok(module)
    }

    fn take(&mut self, payload: &Payload<'_>) -> Result<()> {
        match payload {
            Payload::Version { encoding: Encoding::Component, .. } => {
                bail!("this is a component already; give the core module that the compiler wrote")
            }
            Payload::Version { .. } => self.stripped.extend(b"\0asm\x01\0\0\0"),
            Payload::ImportSection(section) => {
                for import in section.clone().into_imports() {
                    let import = import.context("the module is damaged")?;
                    self.imports.push((import.module.to_owned(), import.name.to_owned()));
                }
            }
            Payload::ExportSection(section) => {
                for export in section.clone() {
                    self.exports.insert(export.context("the module is damaged")?.name.to_owned());
                }
            }
            Payload::CustomSection(custom) => self.carries_its_world |= custom.name().starts_with(COMPONENT_TYPE),
            _ => {}
        }
        Ok(())
    }

    fn append(&mut self, section: u8, content: &[u8]) -> Result<()> {
        let mut size = u32::try_from(content.len()).context("a section of the module has more than 4 GiB")?;
        debug_assert!(section != CUSTOM_SECTION || self.carries_its_world, "only a world's custom section is kept");
        self.stripped.push(section);
        // LEB128: seven bits a byte, the lowest first, the eighth bit set on all but the last.
        while size >= 0x80 {
            self.stripped.push(size.to_le_bytes()[0] | 0x80);
            size >>= 7;
        }
        self.stripped.push(size.to_le_bytes()[0]);
        self.stripped.extend(content);
        Ok(())
    }

    fn check_exports(&self) -> Result<()> {
        let exported = |name| self.exports.contains(name);
        ensure!(
            !exported("_start") || exported("_initialize"),
            "the module is a program with a main function (it exports _start), a policy is a library: build it with \
             `-mexec-model=reactor` (C, C++), `-buildmode=c-shared` (Go) or `crate-type = [\"cdylib\"]` (Rust)"
        );
        ensure!(
            exported("memory"),
            "the module exports no memory, which requests are handed over in: let the linker export it as `memory`"
        );
        Ok(())
    }

    /// What nobody will give it is found here, where it can be said what to do about it.
    fn check_imports(&self, sealed: Option<&[u8]>) -> Result<()> {
        let sealed = sealed.map(Module::read).transpose()?.unwrap_or_default();
        for (from, name) in &self.imports {
            let hint = match from.as_str() {
                WASI if sealed.exports.contains(name) => continue,
                WASI => "the sealed WASI has no such function: do without what needs it",
                "env" => "that is a function that was declared and not linked: add the source or library that has it",
                "gojs" | "go" => "that is Go for browsers: build with GOOS=wasip1 GOARCH=wasm",
                from if from.starts_with("__wbindgen") || from == "wbg" => {
                    "that is wasm-bindgen for browsers: switch off the features of the crates that use it"
                }
                from if from.starts_with("wasi") => {
                    "a policy has no WASI but the sealed preview 1: build for wasm32-unknown-unknown (Rust), \
                     wasm32-wasi (C, C++) or GOOS=wasip1 (Go)"
                }
                _ => continue, // of the world, or told by the encoder
            };
            bail!("the module imports {from} {name}, which a policy cannot have; {hint}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_runtime::{Evaluation, FailedClosed, Level, Limits, PolicySource, Request, Sandbox, SandboxOptions};
    use gavel_runtime::{Verdict, WindowedCounters};
    use std::time::Duration;

    /// A policy in the text format. `imports` come first; `called` is what `evaluate` does before it abstains. Its memory
    /// has one page: pieces of text at 16, 1024 is where the verdict lies, 2048 an empty description, and everything
    /// handed over goes to 4096.
    fn policy(imports: &str, called: &str) -> Vec<u8> {
        let text = format!(
            r#"(module
                {imports}
                (memory (export "memory") 1)
                (data (i32.const 16) "\40\00\00\00\03\00\00\00\43\00\00\00\01\00\00\00") ;; (64, 3) and (67, 1)
                (data (i32.const 64) "oh\n\ff")
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
                (func (export "evaluate") (param i32) (result i32)
                    {called}
                    (i32.store8 (i32.const 1024) (i32.const 2))
                    (i32.const 1024))
                (func (export "describe") (result i32) (i32.const 2048))
                (@custom ".debug_info" "secret path") (@custom "producers" "\00"))"#
        );
        wat::parse_str(&text).unwrap_or_else(|why| panic!("{why}"))
    }

    /// What a policy answers in the real sandbox.
    fn asked(imports: &str, called: &str) -> Evaluation {
        let bytes = componentize(&policy(imports, called), Contract::Policy).unwrap();
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            // Time enough, however busy the machine: nothing here is about deadlines.
            let options = SandboxOptions { decision_deadline_ms: 10_000, ..SandboxOptions::default() };
            let limits = Limits { deadline_ms: 10_000, ..Limits::default() };
            let source = PolicySource { limits, ..PolicySource::new("sealed", bytes) };
            let policy = Sandbox::new(options).unwrap().load(source).await.unwrap();
            let request = Request {
                id: "r1".into(),
                now_ms: 1_767_607_200_000,
                ts_ms: 0,
                actor: "agent:test".into(),
                intent: String::new(),
                tool_call: None,
                params: "{}".into(),
                evidence: Vec::new(),
                constraints: None,
            };
            policy.evaluate(request.into(), WindowedCounters::new(1).into(), Duration::from_secs(10)).await
        })
    }

    fn refusal(core: &[u8]) -> String {
        format!("{:#}", componentize(core, Contract::Policy).expect_err("it must be refused"))
    }

    /// The interfaces that a component imports, in order of their names.
    fn imports(component: &[u8]) -> Vec<String> {
        let (mut found, mut depth) = (Vec::new(), 0);
        for payload in Parser::new(0).parse_all(component) {
            match payload.expect("a sound component") {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth -= 1,
                Payload::ComponentImportSection(section) if depth == 0 => {
                    found.extend(section.into_iter().map(|import| import.expect("an import").name.name.to_owned()));
                }
                _ => {}
            }
        }
        found.retain(|name: &String| name.contains(':')); // the rest are types of these interfaces
        found.sort();
        found
    }

    const FD_WRITE: &str =
        r#"(import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))"#;

    #[test]
    fn a_module_without_a_world_gets_the_contract_of_gavel() {
        let component = componentize(&policy("", ""), Contract::Policy).unwrap();
        assert_eq!(imports(&component), ["gavel:policy/types@0.1.0"]);
    }

    #[test]
    fn a_module_with_a_world_keeps_it() {
        let mut core = policy("", "");
        embed(&mut core, &[("policy.wit", POLICY_WIT)], None).unwrap();
        assert_eq!(
            componentize(&core, Contract::Given("no WIT")).unwrap(),
            componentize(&policy("", ""), Contract::Policy).unwrap()
        );
    }

    #[test]
    fn wasi_is_answered_inside_and_not_imported() {
        let wasi = format!(
            r#"{FD_WRITE}
            (import "wasi_snapshot_preview1" "random_get" (func (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "clock_time_get" (func (param i32 i64 i32) (result i32)))"#
        );
        let component = componentize(&policy(&wasi, ""), Contract::Policy).unwrap();
        assert_eq!(imports(&component), ["gavel:policy/log@0.1.0", "gavel:policy/types@0.1.0"]);
    }

    #[test]
    fn what_a_guest_prints_is_logged() {
        // Two pieces: a line with its end, and a byte that is no text.
        let print = |fd: u8| {
            format!(
                "(if (call $fd_write (i32.const {fd}) (i32.const 16) (i32.const 2) (i32.const 512)) (then unreachable))
                (if (i32.ne (i32.load (i32.const 512)) (i32.const 4)) (then unreachable))"
            )
        };
        for (fd, level) in [(1, Level::Info), (2, Level::Error)] {
            let told = asked(FD_WRITE, &print(fd));
            assert!(matches!(told.verdict, Ok(Verdict::Abstain)), "{:?}", told.verdict);
            let lines: Vec<_> = told.logs.iter().map(|line| (line.level, &*line.message)).collect();
            assert_eq!(lines, [(level, "oh")]);
        }
        assert!(matches!(asked(FD_WRITE, &print(3)).verdict, Err(FailedClosed::Trap(_))), "3 is no descriptor");
    }

    #[test]
    fn clocks_go_by_calls_alone() {
        let imports = r#"
            (import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            (func $must (param i32) (if (i32.eqz (local.get 0)) (then unreachable)))
            (func $now (param $clock i32) (result i64)
                (call $must (i32.eqz (call $time (local.get $clock) (i64.const 0) (i32.const 512))))
                (i64.load (i32.const 512)))"#;
        let called = "
            (call $must (i64.eq (call $now (i32.const 0)) (i64.const 0)))
            (call $must (i64.eq (call $now (i32.const 1)) (i64.const 1000)))
            (call $must (i64.eq (call $now (i32.const 1)) (i64.const 2000)))
            ;; At 600 a subscription: user data 7, a clock, a second from now. Its event goes to 700.
            (i64.store (i32.const 600) (i64.const 7))
            (i64.store (i32.const 624) (i64.const 1000000000))
            (call $must (i32.eqz (call $poll (i32.const 600) (i32.const 700) (i32.const 1) (i32.const 512))))
            (call $must (i32.eq (i32.load (i32.const 512)) (i32.const 1)))
            (call $must (i64.eq (i64.load (i32.const 700)) (i64.const 7)))
            (call $must (i64.eq (i64.load (i32.const 708)) (i64.const 0)))
            (call $must (i64.eq (call $now (i32.const 1)) (i64.const 1000003000)))
            ;; Not back: until 1 ns after the start.
            (i64.store (i32.const 624) (i64.const 1))
            (i32.store16 (i32.const 640) (i32.const 1))
            (call $must (i32.eqz (call $poll (i32.const 600) (i32.const 700) (i32.const 1) (i32.const 512))))
            (call $must (i64.eq (call $now (i32.const 1)) (i64.const 1000004000)))";
        let told = asked(imports, called);
        assert!(matches!(told.verdict, Ok(Verdict::Abstain)), "{:?}", told.verdict);
    }

    #[test]
    fn random_bytes_are_the_same_in_every_instance() {
        let imports = r#"(import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))"#;
        // Denies with 32 letters, four bits each.
        let called = "
            (local $at i32)
            (drop (call $random (i32.const 512) (i32.const 5)))
            (drop (call $random (i32.const 517) (i32.const 27)))
            (loop $letter
                (i32.store8 offset=512 (local.get $at)
                    (i32.or (i32.const 0x60) (i32.and (i32.const 15) (i32.load8_u offset=512 (local.get $at)))))
                (local.set $at (i32.add (local.get $at) (i32.const 1)))
                (br_if $letter (i32.lt_u (local.get $at) (i32.const 32))))
            (i32.store8 (i32.const 1024) (i32.const 1))
            (i32.store (i32.const 1028) (i32.const 512))
            (i32.store (i32.const 1032) (i32.const 32))
            (return (i32.const 1024))";
        let letters = || match asked(imports, called).verdict {
            Ok(Verdict::Deny(letters)) => letters,
            other => panic!("{other:?}"),
        };
        let first = letters();
        assert_eq!(letters(), first);
        assert!(first.chars().collect::<BTreeSet<_>>().len() >= 8, "this is hardly random: {first}");
    }

    #[test]
    fn there_are_no_files_and_an_exit_denies() {
        let imports = r#"
            (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))"#;
        let called = "
            (i32.store (i32.const 512) (i32.const 9))
            (if (i32.ne (call $prestat (i32.const 3) (i32.const 512)) (i32.const 8)) (then unreachable))
            (if (call $environ (i32.const 512) (i32.const 516)) (then unreachable))
            (if (i32.load (i32.const 512)) (then unreachable))";
        let told = asked(imports, called);
        assert!(matches!(told.verdict, Ok(Verdict::Abstain)), "{:?}", told.verdict);
        let told = asked(imports, "(call $exit (i32.const 0))");
        assert!(matches!(told.verdict, Err(FailedClosed::Trap(_))), "{:?}", told.verdict);
    }

    #[test]
    fn the_same_module_gives_the_same_component() {
        let core = policy(FD_WRITE, "");
        assert_eq!(componentize(&core, Contract::Policy).unwrap(), componentize(&core, Contract::Policy).unwrap());
    }

    #[test]
    fn debug_information_is_left_out() {
        let core = policy("", "");
        assert!(core.windows(11).any(|bytes| bytes == b"secret path"));
        let component = componentize(&core, Contract::Policy).unwrap();
        assert!(!component.windows(11).any(|bytes| bytes == b"secret path"));
    }

    #[test]
    fn what_is_no_core_module_is_refused() {
        assert!(refusal(b"#!/bin/sh").contains("no WebAssembly"));
        let component = componentize(&policy("", ""), Contract::Policy).unwrap();
        assert!(refusal(&component).contains("a component already"));
        let core = policy("", "");
        assert!(refusal(&core[..core.len() / 2]).contains("damaged"));
    }

    #[test]
    fn what_nobody_gives_is_refused_with_what_to_do() {
        let importing = |from: &str, name: &str| refusal(&policy(&format!(r#"(import "{from}" "{name}" (func))"#), ""));
        assert!(importing("env", "read_config").contains("env read_config"));
        assert!(importing("env", "read_config").contains("declared and not linked"));
        assert!(importing(WASI, "thread_spawn").contains("the sealed WASI has no such function"));
        assert!(importing("gojs", "syscall/js.valueGet").contains("GOOS=wasip1"));
        assert!(importing("__wbindgen_placeholder__", "x").contains("wasm-bindgen"));
        assert!(importing("wasi:clocks/wall-clock@0.2.6", "now").contains("no WASI"));
        assert!(importing("gavel:policy/files@0.1.0", "open").contains("gavel:policy/files@0.1.0"));
    }

    #[test]
    fn what_the_world_demands_must_be_there() {
        let wat = |text: &str| wat::parse_str(text).unwrap();
        assert!(refusal(&wat("(module)")).contains("exports no memory"));
        assert!(refusal(&wat(r#"(module (memory (export "memory") 1))"#)).contains("evaluate"));
        let program = refusal(&wat(r#"(module (memory (export "memory") 1) (func (export "_start")))"#));
        assert!(program.contains("-buildmode=c-shared"), "{program}");
    }

    #[test]
    fn a_wit_of_ones_own_must_be_one() {
        let told = format!("{:#}", componentize(&policy("", ""), Contract::Given("world {")).unwrap_err());
        assert!(told.contains("policy.wit is no valid WIT"), "{told}");
    }
}
