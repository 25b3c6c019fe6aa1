//! A real layer, led by components: it grows as under the same rules computed natively, bit for bit, and stands still
//! under components that fail.

use crate::hostile::{load_hostile_strategy, load_hostile_tamiyo};
use crate::law::{Caution, Ramp};
use crate::{built, sandbox, strategy, tamiyo};
use gavel_tests::Random;
use kasmina::govern::{AllowAll, Command, Tamiyo};
use kasmina::layer::{Config, Layer, Library};
use kasmina::lifecycle::Gates;
use kasmina::nursery::Denoising;
use kasmina::observe::{Evaluation, Observation, TaskSignals};
use kasmina::reference::Plain;
use kasmina::state::{Lifecycle, SeedState};
use kasmina::strategy::{Strategy, StrategyInput, StrategyStep};
use serde_json::json;

const WIDTH: usize = 16;
const ROWS: usize = 8;
/// Enough for a seed's whole life under [`gates`].
const EPOCHS: usize = 60;

const RAMP: Ramp = Ramp { drift_max: 1.5, gradient_min: 0.0, gradient_max: 1e6, pause_epochs: 2 };
const CAUTION: Caution<'_> = Caution {
    blueprints: &["residual_scale"],
    every: 20,
    growing_max: 2,
    patience: 30,
    strategy: Some("patient-ramp"),
};

/// The lifecycle, made short. A seed passes its training when it has taken out two fifths of the noise.
fn gates() -> Gates {
    Gates {
        training_epochs_min: 2,
        grafting_epochs_min: 2,
        stabilization_epochs_min: 2,
        evaluating_epochs_min: 3,
        fine_tuning_epochs_min: 3,
        embargo_epochs: 2,
        denoising_loss_max: 0.6,
        ramp_steps: 10,
        drift_window: 2,
        drift_spread_max: 1.0,
        stability_window: 4,
        withdrawal_epochs: 2,
        ..Gates::default()
    }
}

fn layer(strategy: Box<dyn Strategy>) -> Layer {
    let mut library = Library::standard();
    library.strategies.add(strategy);
    let config = Config {
        width: WIDTH,
        seeds: 4,
        gates: gates(),
        denoising: Denoising { size: 1.0, ..Denoising::default() },
        strategy: "fixed_ramp".into(),
        ..Config::default()
    };
    Layer::new(config, library.shared(), Box::new(Plain::default()), Box::new(Plain::default())).unwrap()
}

/// The rules, in the place of the components.
struct NativeRamp;

impl Strategy for NativeRamp {
    fn name(&self) -> &'static str {
        "patient-ramp"
    }

    fn step(&mut self, seed: &StrategyInput) -> StrategyStep {
        RAMP.step(seed)
    }
}

struct NativeCaution;

impl Tamiyo for NativeCaution {
    fn decide(&mut self, seen: &Observation) -> Result<Vec<Command>, String> {
        Ok(CAUTION.decide(seen))
    }
}

/// What can be seen of a layer after an epoch: stages, alphas by their bits, what was ordered.
type Seen = (Vec<Lifecycle>, Vec<u32>, Vec<Command>);

/// One epoch of a task in which every seed is worth `delta`.
fn epoch(layer: &mut Layer, tamiyo: &mut dyn Tamiyo, random: &mut Random, delta: f64) -> Result<Seen, String> {
    #[allow(clippy::cast_precision_loss, reason = "any values will do")]
    let mut values = || (0..ROWS * WIDTH).map(|_| random.below(2_001) as f32 / 1_000.0 - 1.0).collect::<Vec<f32>>();
    let (x, dy) = (values(), values());
    let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    layer.forward(&x, ROWS, &mut y).unwrap();
    layer.backward(&x, ROWS, &dy, &mut dx).unwrap();
    layer.step().unwrap();
    for _ in 0..20 {
        layer.nourish(&x, ROWS).unwrap();
    }
    let measured = [Lifecycle::Evaluating, Lifecycle::FineTuning];
    for seed in 0..layer.state().len() {
        if measured.contains(&layer.state()[seed].lifecycle()) {
            layer.evaluate(seed, Evaluation { delta, improvement: delta, error_rate: 0.0 }).unwrap();
        }
    }
    let task = TaskSignals { loss: 1.0, metric: 0.9 };
    let ordered = tamiyo.decide(&layer.observe(task));
    for command in ordered.iter().flatten() {
        layer.command(command.clone()).unwrap();
    }
    layer.end_epoch(task, &mut AllowAll).unwrap();
    let stages = layer.state().iter().map(SeedState::lifecycle).collect();
    let alphas = layer.alpha().iter().map(|alpha| alpha.to_bits()).collect();
    ordered.map(|ordered| (stages, alphas, ordered))
}

/// The life of a layer, epoch by epoch.
fn life(mut layer: Layer, tamiyo: &mut dyn Tamiyo, delta: f64) -> Vec<Seen> {
    let mut random = Random::of(3);
    (0..EPOCHS).map(|_| epoch(&mut layer, tamiyo, &mut random, delta).unwrap()).collect()
}

/// The stages of the seed that germinates first, in order, each once.
fn stages(life: &[Seen]) -> Vec<Lifecycle> {
    let first = life.iter().find_map(|(stages, ..)| stages.iter().position(|stage| *stage != Lifecycle::Dormant));
    let mut stages: Vec<_> = life.iter().map(|(stages, ..)| stages[first.unwrap()]).collect();
    stages.dedup();
    stages
}

fn led_by_components(folder: &std::path::Path, delta: f64) -> Vec<Seen> {
    let sandbox = sandbox();
    let ramp = json!({"drift_max": 1.5, "gradient_min": 0, "gradient_max": 1e6, "pause_epochs": 2});
    let caution = json!({"blueprints": ["residual_scale"], "every": 20, "growing_max": 2, "patience": 30, "strategy": "patient-ramp"});
    let (strategy, mut tamiyo) = (strategy(&sandbox, folder, ramp), tamiyo(&sandbox, folder, caution));
    let health = [strategy.health(), tamiyo.health()];
    let life = life(layer(Box::new(strategy)), &mut tamiyo, delta);
    assert!(health.iter().all(|health| health.calls() > 0 && health.failures() == 0), "{health:?}");
    life
}

#[test]
fn components_lead_a_seed_that_helps_through_its_whole_life() {
    let native = life(layer(Box::new(NativeRamp)), &mut NativeCaution, 0.2);
    let through = stages(&native);
    assert!(
        through.starts_with(&[
            Lifecycle::Germinated,
            Lifecycle::Training,
            Lifecycle::Grafting,
            Lifecycle::Stabilization,
            Lifecycle::Evaluating,
            Lifecycle::FineTuning,
            Lifecycle::Fossilized,
        ]),
        "{through:?}"
    );
    for folder in built() {
        assert!(led_by_components(&folder, 0.2) == native, "{}: led otherwise", folder.display());
    }
}

#[test]
fn components_cull_a_seed_that_harms() {
    let native = life(layer(Box::new(NativeRamp)), &mut NativeCaution, -0.3);
    let through = stages(&native);
    let end = [Lifecycle::Evaluating, Lifecycle::Culled, Lifecycle::Dormant];
    assert!(through.windows(3).any(|three| three == end), "{through:?}");
    for folder in built() {
        assert!(led_by_components(&folder, -0.3) == native, "{}: led otherwise", folder.display());
    }
}

#[test]
fn under_a_tamiyo_that_fails_nothing_changes() {
    let mut tamiyo = load_hostile_tamiyo("unreachable");
    let mut layer = layer(Box::new(NativeRamp));
    let mut random = Random::of(5);
    for _ in 0..5 {
        let told = epoch(&mut layer, &mut tamiyo, &mut random, 0.2).unwrap_err();
        assert!(told.starts_with("tamiyo hostile: trap"), "{told}");
        assert!(layer.state().iter().all(|seed| seed.lifecycle() == Lifecycle::Dormant));
    }
    assert_eq!(tamiyo.health().failures(), 5);
}

/// What a component orders is checked as anybody's orders are.
#[test]
fn an_order_that_makes_no_sense_is_refused_by_the_layer() {
    let mut layer = layer(Box::new(NativeRamp));
    let seen = layer.observe(TaskSignals::default());
    // Zeros: to germinate seed 0, of no blueprint. And a seed that there is not.
    let no_blueprint = "(i32.store (i32.const 1024) (i32.const 16384)) (i32.store (i32.const 1028) (i32.const 1))";
    let no_seed = format!("{no_blueprint} (i32.store (i32.const 16392) (i32.const 99))");
    for (written, why) in [(no_blueprint, "the command names no blueprint"), (&*no_seed, "has no seed 99")] {
        let ordered = load_hostile_tamiyo(written).decide(&seen).unwrap();
        let told = layer.command(ordered[0].clone()).unwrap_err().to_string();
        assert!(told.contains(why), "{told}");
    }
    layer.end_epoch(TaskSignals::default(), &mut AllowAll).unwrap();
    assert!(layer.state().iter().all(|seed| seed.lifecycle() == Lifecycle::Dormant));
}

#[test]
fn under_a_strategy_that_fails_alpha_holds() {
    let strategy = load_hostile_strategy("unreachable", "patient-ramp");
    let health = strategy.health();
    let mut layer = layer(Box::new(strategy));
    let mut random = Random::of(3);
    let mut grafting = 0;
    for _ in 0..EPOCHS {
        let (stages, alphas, _) = epoch(&mut layer, &mut NativeCaution, &mut random, 0.2).unwrap();
        grafting += usize::from(stages.contains(&Lifecycle::Grafting));
        assert!(alphas.iter().all(|alpha| *alpha == 0), "{alphas:?}");
        assert!(!stages.contains(&Lifecycle::Stabilization), "its ramp is not complete");
    }
    assert!(grafting > 10 && health.failures() >= 4, "{grafting} epochs in GRAFTING, {health:?}");
    assert!(health.calls() == health.failures() && health.unasked() > 0, "{health:?}");
}
