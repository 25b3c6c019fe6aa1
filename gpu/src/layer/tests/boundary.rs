//! The epoch boundary: one judgement for all, denials, reports, ramps, time-outs, the legacy mode, many seeds.

use super::*;
use crate::blueprint::Outcome;
use crate::observe::Gate;
use Lifecycle as L;

/// Keeps what it was asked.
#[derive(Default)]
struct Listening {
    asked: Vec<Vec<Transition>>,
    answers: Option<usize>,
}

impl Governor for Listening {
    fn judge(&mut self, transitions: &[Transition]) -> Vec<Ruling> {
        self.asked.push(transitions.to_vec());
        vec![Ruling::Allowed; self.answers.unwrap_or(transitions.len())]
    }
}

#[test]
fn all_of_one_boundary_are_judged_together_and_a_missing_ruling_denies() {
    let mut rig = Rig::new(quick());
    let mut governor = Listening { answers: Some(2), ..Listening::default() };
    rig.layer.end_epoch(rig.task, &mut governor).unwrap();
    assert!(governor.asked.is_empty(), "nothing to judge");
    for seed in [3, 0, 4] {
        rig.order(seed, Order::Germinate).unwrap();
    }
    assert_eq!(rig.stage(3), L::Dormant, "it waits");
    let report = rig.layer.end_epoch(rig.task, &mut governor).unwrap();
    assert_eq!(governor.asked.len(), 1);
    assert_eq!(governor.asked[0].iter().map(|asked| asked.seed).collect::<Vec<_>>(), [0, 3, 4]);
    assert_eq!([0, 3, 4].map(|seed| rig.stage(seed)), [L::Germinated, L::Germinated, L::Dormant]);
    assert!(matches!(&report.transitions[2].1, Ruling::Denied(why) if why == "the governor gave no ruling"));
    let asked = &governor.asked[0][0];
    assert_eq!((asked.layer_id.as_str(), asked.epoch, asked.from, asked.to), ("tested", 1, L::Dormant, L::Germinated));
    assert_eq!((asked.strategy.as_deref(), asked.reason.as_str()), (Some("fixed_ramp"), "tried"));
}

#[test]
fn a_denial_leaves_the_seed_as_it_was_bit_for_bit() {
    for stage in L::ALL {
        let mut two = [Rig::new(quick()), Rig::new(quick())];
        for rig in &mut two {
            rig.drive(1, stage);
            for _ in 0..6 {
                rig.epoch();
            }
            rig.satisfy(1);
        }
        let [ordered, left] = &mut two;
        let onward = crate::lifecycle::targets(Mode::Full, stage).first();
        let Some(&onward) = onward else { continue };
        ordered.order(1, Order::to(onward)).unwrap();
        let report = ordered.layer.end_epoch(ordered.task, &mut DenyAll).unwrap();
        assert_eq!(report.transitions.len(), 1);
        left.epoch();
        ordered.layer.remembered = Remembered::new(9);
        left.layer.remembered = Remembered::new(9);
        assert!(ordered.layer.save() == left.layer.save(), "{stage} to {onward}");
    }
}

#[test]
fn task_signals_must_be_finite() {
    let mut rig = Rig::new(quick());
    rig.order(0, Order::Germinate).unwrap();
    let before = fingerprint(&rig.layer);
    for task in [TaskSignals { loss: f64::NAN, metric: 0.0 }, TaskSignals { loss: 1.0, metric: f64::INFINITY }] {
        let error = rig.layer.end_epoch(task, &mut AllowAll).unwrap_err().to_string();
        assert!(error.contains("loss and metric must be finite"), "{error}");
    }
    assert!(fingerprint(&rig.layer) == before);
    assert_eq!(rig.epoch().landed.len(), 1, "the command still waits");
}

#[test]
fn a_gate_that_shuts_before_the_boundary_lapses_the_command() {
    let mut rig = Rig::new(quick());
    rig.drive(0, L::Evaluating);
    rig.epoch();
    rig.epoch();
    rig.satisfy(0);
    rig.order(0, Order::FineTune).unwrap();
    rig.layer.evaluate(0, Evaluation::default()).unwrap();
    let mut governor = Listening::default();
    let report = rig.layer.end_epoch(rig.task, &mut governor).unwrap();
    assert!(governor.asked.is_empty());
    assert!(report.lapsed[0].reason.contains("its delta is 0.000000"), "{:?}", report.lapsed);
    assert_eq!(rig.stage(0), L::Evaluating);
}

#[test]
fn a_whole_life_is_reported_and_recorded() {
    let mut rig = Rig::new(quick());
    rig.task.metric = 0.5;
    rig.drive(1, L::Grafting);
    rig.wake(1);
    rig.task.metric = 0.625;
    let x = rig.rows(4);
    let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    for _ in 0..4 {
        rig.layer.forward(&x, 4, &mut y).unwrap();
        rig.layer.backward(&x, 4, &x, &mut dx).unwrap();
        rig.layer.step().unwrap();
        rig.epoch();
    }
    for stage in [L::Stabilization, L::Evaluating, L::FineTuning] {
        rig.go(1, stage);
    }
    for _ in 0..4 {
        rig.epoch();
    }
    rig.satisfy(1);
    rig.task.metric = 0.75;
    rig.order(1, Order::Fossilize).unwrap();
    let report = rig.epoch().field_reports.remove(0);
    assert_eq!((report.seed_id, report.outcome), (1, Outcome::Fossilized));
    assert_eq!((report.pre_metric, report.post_metric), (0.5, 0.75));
    assert!(report.eval.max_latency_ms > 0.0, "{:?}", report.eval);
    // Chunk 1 is 5 wide, a residual scale on it 10 weights: weights and moments 120 bytes, with gradients 160.
    let bytes = report.eval.avg_memory_mb * 1e6;
    assert!(bytes > 119.9 && bytes < 160.1, "{bytes}");
    assert!(report.eval.gradient_norm_variance > 0.0);
    let library = lock(rig.layer.library());
    let record = library.blueprints.record(&report.blueprint_id).unwrap();
    assert_eq!((record.used, record.ended()), (0, 0), "its use and how it ended are Karn's to count");
}

#[test]
fn a_cull_that_never_grafted_gained_nothing() {
    let mut rig = Rig::new(quick());
    rig.drive(0, L::Training);
    for _ in 0..6 {
        rig.epoch();
    }
    assert!(
        matches!(&rig.layer.observe(rig.task).seeds[0].gate, Gate::Failed { reason } if reason.contains("timed out"))
    );
    rig.order(0, Order::Cull).unwrap();
    let report = rig.epoch().field_reports.remove(0);
    assert_eq!((report.outcome, report.gain()), (Outcome::Culled, 0.0));
    assert!(rig.order(0, Order::Release).is_err(), "the embargo");
    rig.go(0, L::Dormant);
    let row = rig.layer.state()[0];
    assert_eq!((row.parent(), row.short()), (L::Culled, [0, -1, 0, -1]));
    assert!(rig.layer.weights(0).is_empty() && rig.layer.store.trails[0].is_none());
    rig.drive(0, L::Germinated);
}

#[test]
fn a_culled_seed_is_reported_with_what_it_did_while_it_was_there() {
    let mut rig = Rig::new(quick());
    rig.task.metric = 0.75;
    rig.drive(0, L::Evaluating);
    rig.epoch();
    let bad = Evaluation { delta: -0.25, improvement: 0.0, error_rate: 0.0 };
    rig.layer.evaluate(0, bad).unwrap();
    rig.order(0, Order::Cull).unwrap();
    rig.task.metric = 0.5;
    assert!(rig.epoch().field_reports.is_empty(), "alpha comes down first");
    rig.task.metric = 0.75;
    let saved = rig.layer.save();
    rig.layer.restore(&saved).unwrap();
    for _ in 0..2 {
        rig.epoch();
    }
    let report = rig.epoch().field_reports.remove(0);
    assert_eq!((report.outcome, report.pre_metric, report.post_metric), (Outcome::Culled, 0.75, 0.5));
}

#[test]
fn a_minimum_of_so_many_epochs_is_so_many_boundaries() {
    let mut rig = Rig::new(quick());
    rig.drive(0, L::Cancelled);
    assert!(rig.order(0, Order::Release).unwrap_err().to_string().contains("1 of at least 2 epochs in CANCELLED"));
    rig.epoch();
    rig.order(0, Order::Release).unwrap();
    assert_eq!(rig.epoch().landed.len(), 1, "the embargo of two epochs ends with the second");
    rig.drive(1, L::Training);
    for epoch in 1..=6 {
        let failed = matches!(rig.layer.observe(rig.task).seeds[0].gate, Gate::Failed { .. });
        assert_eq!(failed, epoch == 6, "it has six epochs in TRAINING: {epoch}");
        rig.epoch();
    }
}

#[test]
fn a_slow_strategy_does_not_hold_the_library() {
    use crate::strategy::{Strategy, StrategyStep};
    /// Reads the library while it is asked.
    struct Reader(Arc<Mutex<Library>>);
    impl Strategy for Reader {
        fn name(&self) -> &'static str {
            "reader"
        }
        fn step(&mut self, seed: &crate::strategy::StrategyInput) -> StrategyStep {
            let free = self.0.try_lock().is_ok();
            StrategyStep::add(if free { seed.unit() } else { 0.0 })
        }
    }
    let library = Library::standard().shared();
    lock(&library).strategies.add(Box::new(Reader(library.clone())));
    let mut rig = Rig::with(Config { strategy: "reader".to_owned(), ..quick() }, library);
    rig.drive(0, L::Grafting);
    rig.epoch();
    assert!((rig.layer.alpha()[0] - 0.25).abs() < 1e-6);
}

#[test]
fn a_graft_forgets_the_gradients_of_the_training_apart() {
    let mut rig = Rig::new(quick());
    rig.drive(0, L::Training);
    rig.trail(0).gradient_norm = 7.0;
    rig.trail(0).gradient_norms.push(7.0);
    rig.go(0, L::Grafting);
    let fresh = trail::Trail::default();
    assert_eq!((rig.trail(0).gradient_norm, rig.trail(0).gradient_norms), (0.0, fresh.gradient_norms));
}

#[test]
fn a_cancelled_seed_is_not_reported() {
    let mut rig = Rig::new(quick());
    rig.drive(0, L::Germinated);
    rig.order(0, Order::Cancel).unwrap();
    let report = rig.epoch();
    assert!(report.field_reports.is_empty() && report.landed[0].to == L::Cancelled);
}

#[test]
fn the_default_ramp_takes_thirty_epochs_to_exactly_one() {
    let gates = Gates { ramp_steps: 30, grafting_epochs_max: 60, ..quick().gates };
    let mut rig = Rig::new(Config { gates, ..quick() });
    rig.drive(0, L::Grafting);
    assert_eq!(rig.layer.alpha()[0].to_bits(), 0.0_f32.to_bits(), "it begins at 0");
    for epoch in 1..=30_u8 {
        assert!(rig.layer.alpha()[0] < 1.0);
        rig.epoch();
        assert!((rig.layer.alpha()[0] - f32::from(epoch) / 30.0).abs() < 1e-5);
    }
    assert_eq!(rig.layer.alpha()[0].to_bits(), 1.0_f32.to_bits());
    rig.epoch();
    assert_eq!(rig.layer.alpha()[0].to_bits(), 1.0_f32.to_bits());
}

#[test]
fn a_pause_lasts_as_long_as_the_strategy_says() {
    let mut rig = Rig::new(Config { strategy: "drift_controlled".to_owned(), ..quick() });
    rig.drive(0, L::Grafting);
    rig.trail(0).drifts = vec![0.5];
    let mut alphas = Vec::new();
    for _ in 0..13 {
        rig.epoch();
        // What was past the threshold is calm from the first epoch on; only the pause holds.
        rig.trail(0).drifts = vec![0.0];
        alphas.push(rig.layer.alpha()[0]);
    }
    assert_eq!(alphas[..11], [0.0; 11], "the epoch that found it, and ten more");
    assert_eq!(alphas[11..], [0.5, 1.0]);
}

#[test]
fn performance_is_held_against_the_loss_of_the_first_call() {
    let gates = Gates { ramp_steps: 30, ..quick().gates };
    let mut rig = Rig::new(Config { strategy: "performance_linked".to_owned(), gates, ..quick() });
    rig.drive(0, L::Grafting);
    let mut grown = |loss: f64| {
        let before = rig.layer.alpha()[0];
        rig.task.loss = loss;
        rig.epoch();
        (rig.layer.alpha()[0] - before) * 30.0
    };
    let found = [2.0, 2.0, 1.0, 0.5, 9.0].map(&mut grown);
    for (found, expected) in found.into_iter().zip([0.0, 0.5, 1.0, 1.5, 0.5]) {
        assert!((found - expected).abs() < 1e-4, "{found} against {expected}");
    }
}

#[test]
fn the_legacy_mode_walks_its_five_stages() {
    let mut rig = Rig::new(Config { gates: quick().gates, ..Config::legacy("old", 6) });
    for stage in [L::Germinated, L::Training, L::Grafting, L::Fossilized] {
        rig.go(0, stage);
        rig.wake(0);
    }
    let x = rig.rows(2);
    assert_ne!(bits(&rig.output(&x)), bits(&x), "the seed is part of the network");
    let mut rig = Rig::new(Config { gates: quick().gates, ..Config::legacy("old", 6) });
    rig.go(0, L::Germinated);
    rig.go(0, L::Training);
    let error = rig.layer.rollback(0, None, "no way back", &mut AllowAll).unwrap_err().to_string();
    assert!(error.contains("TRAINING leads to GRAFTING only"), "{error}");
}

#[test]
fn an_observation_names_who_can_begin() {
    let mut rig = Rig::new(Config { candidates_max: 2, ..quick() });
    rig.drive(2, L::Germinated);
    // Chunk by chunk wider apart; chunk 4 the most.
    let x: Vec<f32> = (0..4)
        .flat_map(|row| (0..23_u8).map(move |column| if row % 2 == 0 { f32::from(column) } else { 0.0 }))
        .collect();
    let mut y = vec![0.0; x.len()];
    rig.layer.forward(&x, 4, &mut y).unwrap();
    let seen = rig.layer.observe(rig.task);
    assert_eq!((seen.candidates.as_slice(), seen.seed_count, seen.training_slots_free), (&[4, 3][..], 5, 2));
    assert_eq!(seen.seeds.len(), 1);
    assert_eq!((seen.seeds[0].seed, &seen.seeds[0].gate), (2, &Gate::Open { to: L::Training }));
    rig.order(4, Order::Germinate).unwrap();
    assert_eq!(rig.layer.observe(rig.task).candidates, [3, 1]);
}

#[test]
fn candidates_are_the_same_as_by_sorting_all() {
    let mut rig = Rig::new(Config { width: 900, seeds: 900, candidates_max: 7, ..quick() });
    rig.drive(5, L::Germinated);
    let variance = |seed: usize| f32::from(u16::try_from(seed * 7919 % 61).unwrap());
    rig.layer.running.telemetry.rows = 1;
    rig.layer.running.telemetry.seeds = vec![crate::telemetry::SeedTelemetry::default(); 900];
    for seed in 0..900 {
        rig.layer.running.telemetry.seeds[seed].variance = variance(seed);
    }
    let mut all: Vec<usize> = (0..900).filter(|&seed| seed != 5).collect();
    all.sort_by(|&a, &b| variance(b).total_cmp(&variance(a)));
    assert_eq!(rig.layer.observe(rig.task).candidates, all[..7]);
    let named = Rig::new(Config { candidates_max: crate::layer::CANDIDATES_MAX, ..quick() });
    let candidates = named.layer.observe(named.task).candidates;
    assert!(candidates.len() == 5 && candidates.capacity() <= 10, "no more room than there are seeds");
}

#[test]
fn a_hundred_thousand_seeds_are_one_layer() {
    let seeds = 100_000;
    let mut rig = Rig::new(Config { width: 2 * seeds + 7, seeds, ..quick() });
    for seed in [0, 50_000, 99_999] {
        rig.order(seed, Order::Germinate).unwrap();
    }
    assert_eq!(rig.epoch().landed.len(), 3);
    rig.go(99_999, L::Training);
    rig.satisfy(99_999);
    rig.go(99_999, L::Grafting);
    rig.wake(99_999);
    rig.epoch();
    let x = vec![1.0; 2 * seeds + 7];
    let mut y = vec![0.0; x.len()];
    rig.layer.forward(&x, 1, &mut y).unwrap();
    let last = rig.layer.chunks().range(99_999);
    assert_eq!(bits(&y[..last.start]), bits(&x[..last.start]));
    assert_ne!(bits(&y[last.clone()]), bits(&x[last]));
    assert_eq!(rig.layer.observe(rig.task).seeds.len(), 3);
    assert_eq!(rig.layer.ring.snapshots().map(|snapshot| snapshot.seed).max(), Some(99_999));
    let saved = rig.layer.save();
    rig.layer.restore(&saved).unwrap();
    assert!(rig.layer.save() == saved);
}
