//! Components that do what none should, in the text format: alpha holds, nothing is ordered, and the reason names the
//! limit. What no compiler would emit is made here too.

use crate::{built, patient, sandbox};
use gavel::kasmina::component::{
    ComponentStrategy, ComponentTamiyo, FAILURES_IN_A_ROW_MAX, REST_STEPS, StrategyFile, TamiyoFile, load_strategy,
    load_tamiyo,
};
use gavel::policies::componentize::{Contract, componentize};
use gavel_runtime::kasmina::{self as contract, Limits, Source};
use gavel_runtime::{Error, FailedClosed, Sandbox};
use kasmina::govern::Tamiyo as _;
use kasmina::observe::{Observation, TaskSignals};
use kasmina::strategy::{Strategy as _, StrategyInput, StrategyStep};
use serde_json::json;

/// A module of a few pages: a name at 16, `describe` at 2048, and everything handed over goes to 8192. An answer lies at
/// 1024, where `written` has put it.
fn module(export: &str, parameters: &str, written: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
            (memory (export "memory") 4)
            (global $calls (mut i32) (i32.const 0))
            (data (i32.const 16) "hostile")
            (data (i32.const 2048) "\10\00\00\00\07\00\00\00")
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 8192))
            (func (export "{export}") (param {parameters}) (result i32)
                (local $page i32)
                {written}
                (i32.const 1024))
            (func (export "describe") (result i32) (i32.const 2048)))"#
    );
    wat::parse_str(&text).unwrap_or_else(|why| panic!("{why}"))
}

fn strategy_that(written: &str) -> Vec<u8> {
    let core = module("step", "i32 f32 i32 i32 f64 i32 i32 f64 i32 f64 i32", written);
    componentize(&core, Contract::Strategy).unwrap()
}

fn tamiyo_that(written: &str) -> Vec<u8> {
    let core = module("decide", "i32 i32 i64 f64 f64 i32 i32 i32 i32 i32 i32", written);
    componentize(&core, Contract::Tamiyo).unwrap()
}

/// Writes a step.
fn step(add: &str, pause: i64) -> String {
    format!("(f32.store (i32.const 1024) (f32.const {add})) (i32.store (i32.const 1028) (i32.const {pause}))")
}

/// Writes a list of commands: where it lies and how many there are. Zeros are a command to germinate seed 0.
fn commands(at: u32, count: u32) -> String {
    format!("(i32.store (i32.const 1024) (i32.const {at})) (i32.store (i32.const 1028) (i32.const {count}))")
}

const LOOP: &str = "(loop $l (br $l))";
const TRAP: &str = "unreachable";
const BOMB: &str = "(loop $l (drop (memory.grow (i32.const 16))) (br $l))";

/// What a misbehaving component is told to be, and under which limits: with time enough where it is not about time.
fn limits_for(written: &str) -> Limits {
    if written == LOOP { Limits { deadline_ms: 20, ..Limits::default() } } else { patient() }
}

fn input() -> StrategyInput {
    StrategyInput { seed: 3, alpha: 0.5, steps: 30, drifts: vec![0.01], ..StrategyInput::default() }
}

fn seen() -> Observation {
    Observation {
        layer_id: "layer".into(),
        epoch: 12,
        task: TaskSignals::default(),
        seed_count: 8,
        width: 32,
        seed_weights_max: 1 << 24,
        weights_free: 1 << 28,
        training_slots_free: 1,
        candidates: vec![1, 2],
        seeds: Vec::new(),
    }
}

/// A file with these bytes, gone with the folder.
fn written_to_file(bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("component.wasm");
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

/// A strategy that does this in every step, under this name.
pub(crate) fn load_hostile_strategy(written: &str, name: &str) -> ComponentStrategy {
    let (_folder, path) = written_to_file(&strategy_that(written));
    let file = StrategyFile { name: Some(name.to_owned()), limits: limits_for(written), ..StrategyFile::at(path) };
    load_strategy(&sandbox(), &file).unwrap()
}

/// A Tamiyo that does this in every decision.
pub(crate) fn load_hostile_tamiyo(written: &str) -> ComponentTamiyo {
    let (_folder, path) = written_to_file(&tamiyo_that(written));
    load_tamiyo(&sandbox(), &TamiyoFile { limits: limits_for(written), ..TamiyoFile::at(path) }).unwrap()
}

#[test]
fn alpha_holds_whatever_a_strategy_does() {
    for (written, why) in [
        (LOOP, "deadline of 20 ms exceeded (deadline_ms)"),
        (TRAP, "trap: wasm `unreachable` instruction executed"),
        (BOMB, "memory limit of 16777216 bytes reached"),
        (&step("nan", 0), "undecodable answer: add is NaN, it must lie in 0 to 1"),
        (&step("-0.25", 0), "add is -0.25"),
        (&step("1.5", 0), "add is 1.5"),
        (&step("1e30", 0), "add is 1000000000000000000000000000000"),
        (&step("inf", 0), "add is inf"),
        (&step("0.1", 1_001), "pause is 1001 epochs, at most 1000 are allowed"),
        (&step("0.1", -1), "pause is 4294967295 epochs"),
    ] {
        let mut strategy = load_hostile_strategy(written, "hostile");
        for call in 1..=3 {
            assert_eq!(strategy.step(&input()), StrategyStep::HOLD, "{written}");
            let health = strategy.health();
            assert_eq!((health.calls(), health.failures()), (call, call));
            let told = health.last_failure().unwrap();
            assert!(told.contains(why), "{written}: {told}");
        }
    }
    // The bounds themselves are no failures.
    for (written, expected) in [
        (step("0", 1_000), StrategyStep { add: 0.0, pause: 1_000 }),
        (step("1", 0), StrategyStep { add: 1.0, pause: 0 }),
    ] {
        assert_eq!(load_hostile_strategy(&written, "hostile").step(&input()), expected);
    }
}

#[test]
fn nothing_is_ordered_whatever_a_tamiyo_does() {
    // One command whose reason has 200,000 bytes; it is the last of a command's fields.
    let long = format!(
        "{} (i32.store (i32.const 4148) (i32.const 16384)) (i32.store (i32.const 4152) (i32.const 200000))",
        commands(4096, 1)
    );
    // One command with a blueprint that is no JSON: `hostile`.
    let no_blueprint = format!(
        "{} (i32.store8 (i32.const 4124) (i32.const 1)) (i32.store (i32.const 4128) (i32.const 16)) (i32.store (i32.const 4132) (i32.const 7))",
        commands(4096, 1)
    );
    for (written, why) in [
        (LOOP, "tamiyo hostile: deadline of 20 ms exceeded (deadline_ms)"),
        (TRAP, "tamiyo hostile: trap: wasm `unreachable`"),
        (BOMB, "memory limit of 16777216 bytes reached"),
        (&commands(16_384, 1_025), "1025 commands, the limit is 1024 (max_commands)"),
        (&commands(16_384, 1 << 30), "undecodable answer: "),
        (&commands(0xfff_fff0, 1), "undecodable answer: "),
        (&long, "output larger than 131072 bytes (max_output_bytes)"),
        (&no_blueprint, "command \"\" for seed 0: blueprint `(unread)`: "),
    ] {
        let mut tamiyo = load_hostile_tamiyo(written);
        let told = tamiyo.decide(&seen()).map(|commands| commands.len()).unwrap_err();
        assert!(told.contains(why), "{written}: {told}");
        assert_eq!((tamiyo.health().calls(), tamiyo.health().failures()), (1, 1));
        assert_eq!(tamiyo.health().last_failure(), Some(told));
    }
    let mut honest = load_hostile_tamiyo(&commands(16_384, 2));
    let ids: Vec<_> = honest.decide(&seen()).unwrap().into_iter().map(|command| command.id).collect();
    assert_eq!(ids, ["hostile/12/0/germinate"; 2], "two orders for one seed are the layer's to refuse");
}

/// Layers share their strategies: one that hangs must not take its deadline for every seed of all of them.
#[test]
fn a_strategy_that_fails_again_and_again_rests() {
    let mut strategy = load_hostile_strategy(LOOP, "hostile");
    let (asked, rest) = (u64::from(FAILURES_IN_A_ROW_MAX), u64::from(REST_STEPS));
    for _ in 0..asked + rest {
        assert_eq!(strategy.step(&input()), StrategyStep::HOLD);
    }
    let health = strategy.health();
    assert_eq!((health.calls(), health.failures(), health.unasked()), (asked, asked, rest));
    strategy.step(&input());
    assert_eq!((health.calls(), health.unasked()), (asked + 1, rest), "it is tried again");
}

/// What a component keeps in its memory is gone with the call.
#[test]
fn every_call_has_a_fresh_instance() {
    let counted = format!(
        "(if (i32.ne (global.get $calls) (i32.const 0)) (then unreachable))
         (global.set $calls (i32.const 1)) {}",
        step("0.5", 0)
    );
    let source = Source { limits: patient(), ..Source::new("once", strategy_that(&counted)) };
    let strategy = sandbox().load_strategy(source).unwrap();
    for _ in 0..3 {
        assert_eq!(strategy.step(&contract_input()).outcome, Ok(contract::StrategyStep { add: 0.5, pause: 0 }));
    }
}

fn contract_input() -> contract::StrategyInput {
    contract::StrategyInput {
        seed: 0,
        alpha: 0.0,
        steps: 30,
        epochs_in_state: 0,
        task_loss: 1.0,
        drifts: vec![0.0; 5],
        gradient_norm: 0.0,
        baseline_loss: None,
        pause_left: 0,
    }
}

/// A layer's thread may be a worker of an async runtime: it is held, and nothing else goes wrong.
#[tokio::test]
async fn a_component_can_be_asked_within_a_runtime() {
    let bytes = strategy_that(&step("0.5", 0));
    let strategy = sandbox().load_strategy(Source { limits: patient(), ..Source::new("half", bytes) }).unwrap();
    for _ in 0..300 {
        assert_eq!(strategy.step(&contract_input()).outcome, Ok(contract::StrategyStep { add: 0.5, pause: 0 }));
    }
}

fn refused(sandbox: &Sandbox, bytes: Vec<u8>) -> Error {
    sandbox.load_strategy(Source::new("p", bytes)).unwrap_err()
}

#[test]
fn what_is_not_of_the_world_is_refused_with_its_reason() {
    let sandbox = sandbox();
    let policy = std::fs::read(built()[0].join("hostile.wasm")).unwrap();
    let told = refused(&sandbox, policy).to_string();
    assert!(
        told.starts_with("strategy p: imports gavel:policy/counters@0.1.0, which world gavel:kasmina/strategy@0.1.0 does not offer; a strategy may import only gavel:policy/log and config"),
        "{told}"
    );
    let clock = "package gavel:policy@0.1.0;
        interface clock { now: func() -> u64; }
        world w { import clock; export step: func(); export describe: func(); }";
    let core = r#"(module
        (import "gavel:policy/clock@0.1.0" "now" (func (result i64)))
        (memory (export "memory") 1) (func (export "step")) (func (export "describe")))"#;
    let clock = componentize(&wat::parse_str(core).unwrap(), Contract::Given(clock)).unwrap();
    let told = refused(&sandbox, clock).to_string();
    assert!(told.contains("imports gavel:policy/clock@0.1.0, which world gavel:kasmina/strategy@0.1.0"), "{told}");
    let bare = "package a:b@0.1.0; world w { export step: func(); export describe: func(); }";
    let core = r#"(module (memory (export "memory") 1) (func (export "step")) (func (export "describe")))"#;
    let bare = componentize(&wat::parse_str(core).unwrap(), Contract::Given(bare)).unwrap();
    let told = refused(&sandbox, bare);
    assert!(matches!(told, Error::WrongWorld { .. }), "the names are right, the types are not: {told}");
    let told = refused(&sandbox, tamiyo_that("")).to_string();
    assert!(told.contains("it exports decide, describe; a strategy exports step and describe"), "{told}");
    for bytes in [Vec::new(), b"\0asm\x01\0\0\0".to_vec(), b"text".to_vec()] {
        let told = refused(&sandbox, bytes);
        assert!(matches!(told, Error::NotAComponent { .. }), "{told}");
    }
}

#[test]
fn a_component_that_cannot_describe_itself_is_refused() {
    let core = wat::parse_str(
        r#"(module (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
            (func (export "step") (param i32 f32 i32 i32 f64 i32 i32 f64 i32 f64 i32) (result i32) (i32.const 1024))
            (func (export "describe") (result i32) unreachable))"#,
    );
    let told = refused(&sandbox(), componentize(&core.unwrap(), Contract::Strategy).unwrap());
    assert!(matches!(&told, Error::Describe { why: FailedClosed::Trap(_), .. }), "{told}");
    assert!(told.to_string().starts_with("strategy p: describe failed: trap"), "{told}");
}

#[test]
fn a_limit_out_of_its_range_is_refused() {
    let bytes = strategy_that(&step("0.5", 0));
    for (limits, told) in [
        (Limits { deadline_ms: 0, ..patient() }, "limit deadline_ms is 0, the sandbox allows 1 to 10000"),
        (Limits { deadline_ms: 10_001, ..patient() }, "limit deadline_ms is 10001"),
        (Limits { max_memory_bytes: 1 << 40, ..patient() }, "limit max_memory_bytes is 1099511627776"),
        (Limits { max_commands: 8_193, ..patient() }, "limit max_commands is 8193, the sandbox allows 1 to 8192"),
        (Limits { max_output_bytes: 1 << 20, ..patient() }, "limit max_output_bytes is 1048576"),
    ] {
        let source = Source { limits, ..Source::new("p", bytes.clone()) };
        let why = sandbox().load_strategy(source).unwrap_err().to_string();
        assert!(why.starts_with("strategy p: ") && why.contains(told), "{why}");
    }
}

#[test]
fn the_configuration_says_what_a_component_is() {
    let file: StrategyFile = serde_json::from_value(json!({"component": "ramp.wasm"})).unwrap();
    assert_eq!(file, StrategyFile::at("ramp.wasm"));
    let file: TamiyoFile =
        serde_json::from_value(json!({"component": "t.wasm", "config": {"a": 1}, "limits": {"deadline_ms": 9}}))
            .unwrap();
    assert_eq!((file.config, file.limits.deadline_ms), (json!({"a": 1}), 9));
    let unknown = serde_json::from_value::<StrategyFile>(json!({"component": "a", "colour": "red"}));
    assert!(unknown.unwrap_err().to_string().contains("colour"));
    let told = load_tamiyo(&sandbox(), &TamiyoFile::at("/nowhere.wasm")).unwrap_err();
    assert!(format!("{told:#}").starts_with("/nowhere.wasm: "), "{told:#}");
}
