//! The examples, in whatever language: each answers what its rule says, value for value.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "small random numbers, any value will do"
)]

use crate::law::{Caution, Ramp};
use crate::{built, patient, sandbox, strategy, tamiyo};
use gavel::kasmina::component::{StrategyFile, TamiyoFile, load_strategy, load_tamiyo};
use gavel_tests::{Random, repository};
use kasmina::govern::Tamiyo as _;
use kasmina::observe::{Evaluation, Gate, Observation, SeedView, TaskSignals};
use kasmina::state::Lifecycle;
use kasmina::strategy::{Strategy as _, StrategyInput};
use kasmina::telemetry::SeedTelemetry;
use serde_json::json;

/// Steps and decisions that are compared for each language.
const COMPARED: usize = 300;

/// A number from a few scales, now and then one that is none.
fn number(random: &mut Random) -> f64 {
    match random.below(12) {
        0 => f64::NAN,
        1 => f64::INFINITY,
        2 => -0.01,
        3 => 0.0,
        n => (random.below(1_000) as f64) / 10f64.powi(i32::try_from(n).unwrap() / 2),
    }
}

fn seed_in_grafting(random: &mut Random) -> StrategyInput {
    let scale = [0.05, 0.2, 1.0][random.below(3) as usize];
    let odd = random.below(20) == 0;
    let drifts = (0..random.below(6)).map(|_| (random.below(1_000) as f64 / 1_000.0 * scale) as f32);
    let mut drifts: Vec<f32> = drifts.collect();
    if odd && let Some(last) = drifts.last_mut() {
        *last = [f32::NAN, -0.5, f32::INFINITY][random.below(3) as usize];
    }
    StrategyInput {
        seed: random.below(100_000) as usize,
        alpha: [0.0, 0.3, 0.99][random.below(3) as usize],
        steps: 1 + random.below(60) as u32,
        epochs_in_state: random.below(100) as u32,
        task_loss: number(random),
        drifts,
        gradient_norm: number(random) / 10.0,
        baseline_loss: (random.below(2) == 0).then(|| number(random)),
        pause_left: random.below(4).saturating_sub(2) as u32,
    }
}

#[test]
fn a_strategy_steps_as_its_rule_says() {
    let sandbox = sandbox();
    let wild = Ramp { drift_max: 0.37, gradient_min: 0.0, gradient_max: 30.0, pause_epochs: 9 };
    let config = json!({"drift_max": 0.37, "gradient_min": 0, "gradient_max": 30, "pause_epochs": 9});
    for folder in built() {
        for (rule, config) in [(Ramp::default(), json!(null)), (wild, config.clone())] {
            let mut component = strategy(&sandbox, &folder, config);
            assert_eq!(component.name(), "patient-ramp");
            let mut random = Random::of(7);
            let mut added = 0;
            for n in 0..COMPARED {
                let seed = seed_in_grafting(&mut random);
                let (found, expected) = (component.step(&seed), rule.step(&seed));
                assert_eq!(found.add.to_bits(), expected.add.to_bits(), "{}, step {n}: {seed:?}", folder.display());
                assert_eq!(found.pause, expected.pause, "{}, step {n}: {seed:?}", folder.display());
                added += usize::from(found.add > 0.0);
            }
            assert!((COMPARED / 20..COMPARED).contains(&added), "{added} of {COMPARED} steps added something");
            let health = component.health();
            assert_eq!((health.calls(), health.failures()), (COMPARED as u64, 0), "{:?}", health.last_failure());
        }
    }
}

fn gate(random: &mut Random) -> Gate {
    match random.below(8) {
        0 => Gate::Unstable { reason: "drift 0.9 \"中\"".into() },
        1 => Gate::Failed { reason: "timed out after 300 epochs".into() },
        2..=4 => Gate::Open { to: Lifecycle::ALL[random.below(11) as usize] },
        _ => Gate::Shut { waits_for: "30 more epochs".into() },
    }
}

fn seed_view(seed: usize, random: &mut Random) -> SeedView {
    SeedView {
        seed,
        stage: Lifecycle::ALL[random.below(11) as usize],
        epochs_in_state: random.below(400) as u32,
        blueprint_id: (random.below(2) == 0).then(|| "ab".repeat(32)),
        strategy: (random.below(2) == 0).then(|| "fixed_ramp".to_owned()),
        alpha: number(random) as f32,
        gate: gate(random),
        telemetry: SeedTelemetry {
            mean: number(random) as f32,
            drift: number(random) as f32,
            ..SeedTelemetry::default()
        },
        gradient_norm: number(random),
        denoising_loss: (random.below(2) == 0).then(|| number(random)),
        evaluation: (random.below(2) == 0).then(Evaluation::default),
        stability: number(random),
        errors: random.below(9) as u32,
    }
}

fn observation(epoch: u64, random: &mut Random) -> Observation {
    let growing = random.below(6) as usize;
    Observation {
        layer_id: "layer-中".into(),
        epoch,
        task: TaskSignals { loss: number(random), metric: number(random) },
        seed_count: 64,
        width: 256,
        seed_weights_max: 1 << 24,
        weights_free: 1 << 28,
        training_slots_free: random.below(3) as usize,
        candidates: (0..random.below(4)).map(|n| 40 + n as usize).collect(),
        seeds: (0..growing).map(|n| seed_view(3 * n, random)).collect(),
    }
}

#[test]
fn a_tamiyo_orders_what_its_rule_says() {
    let sandbox = sandbox();
    let rules = [
        (
            json!({"blueprints": ["adapter"]}),
            Caution { blueprints: &["adapter"], every: 10, growing_max: 4, patience: 200, strategy: None },
        ),
        (
            json!({"blueprints": ["a", "b", "c"], "every": 3, "growing_max": 5, "patience": 120, "strategy": "patient-ramp"}),
            Caution {
                blueprints: &["a", "b", "c"],
                every: 3,
                growing_max: 5,
                patience: 120,
                strategy: Some("patient-ramp"),
            },
        ),
    ];
    for folder in built() {
        for (config, rule) in &rules {
            let mut component = tamiyo(&sandbox, &folder, config.clone());
            assert_eq!(component.name(), "cautious-tamiyo");
            let mut random = Random::of(11);
            let mut given = 0;
            for epoch in 0..COMPARED as u64 {
                // Also epochs beyond 32 bits; JavaScript's numbers are exact up to 2^53.
                let epoch = if epoch % 7 == 0 { epoch + (1 << 52) } else { epoch };
                let seen = observation(epoch, &mut random);
                let found = component.decide(&seen).unwrap();
                assert_eq!(found, rule.decide(&seen), "{}: {seen:?}", folder.display());
                given += found.len();
            }
            assert!(given > COMPARED, "{given} commands in {COMPARED} epochs");
        }
    }
}

#[test]
fn a_configuration_is_held_against_the_schema() {
    let sandbox = sandbox();
    for folder in built() {
        let ramp =
            |config| StrategyFile { config, limits: patient(), ..StrategyFile::at(folder.join("patient-ramp.wasm")) };
        let tamiyo =
            |config| TamiyoFile { config, limits: patient(), ..TamiyoFile::at(folder.join("cautious-tamiyo.wasm")) };
        let refused = |config| load_strategy(&sandbox, &ramp(config)).unwrap_err().to_string();
        let told = refused(json!({"drift_max": 0}));
        assert!(told.starts_with("strategy ") && told.contains("configuration at /drift_max: "), "{told}");
        assert!(refused(json!({"drift": 1})).contains("drift"), "an unknown key");
        let refused = |config| load_tamiyo(&sandbox, &tamiyo(config)).unwrap_err().to_string();
        let told = refused(json!(null));
        assert!(told.starts_with("tamiyo ") && told.contains("configuration: "), "{told}");
        assert!(refused(json!({"blueprints": []})).contains("at /blueprints"));
    }
}

#[test]
fn a_strategy_goes_by_the_name_that_the_operator_gives_it() {
    let folder = &built()[0];
    let named =
        |name: &str| StrategyFile { name: Some(name.to_owned()), ..StrategyFile::at(folder.join("patient-ramp.wasm")) };
    assert_eq!(load_strategy(&sandbox(), &named("slow_and_steady")).unwrap().name(), "slow_and_steady");
    for name in ["", "two words", "ramp\n", &"x".repeat(65)] {
        let told = load_strategy(&sandbox(), &named(name)).unwrap_err().to_string();
        assert!(told.contains("use 1 to 64 letters"), "{told}");
    }
}

/// What the examples are built against is what the sandbox is.
#[test]
fn the_examples_have_the_contract() {
    for (ours, theirs) in [("wit/kasmina/kasmina.wit", "wit/kasmina.wit"), ("wit/policy.wit", "wit/deps/policy.wit")] {
        let contract = std::fs::read_to_string(repository().join(ours)).unwrap();
        for language in crate::LANGUAGES {
            let copy = repository().join("guest-examples/kasmina").join(language).join(theirs);
            let text = std::fs::read_to_string(&copy).unwrap();
            assert!(text == contract, "{} differs from {ours}: copy it", copy.display());
        }
    }
}
