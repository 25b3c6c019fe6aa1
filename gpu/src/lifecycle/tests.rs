//! The table and its gates, without a layer.

use super::*;
use Lifecycle as L;

fn facts(stage: L) -> Facts<'static> {
    Facts {
        stage,
        epochs_in_state: 100,
        slot_free: true,
        progress: 1.0,
        drifts: &[0.1, 0.1, 0.1, 0.1, 0.1],
        denoising_loss: Some(0.001),
        evaluation: Some(Evaluation { delta: 0.1, improvement: 0.1, error_rate: 0.0 }),
        stability: 1.0,
        errors: 0,
        unstable: None,
        withdrawing: false,
    }
}

fn may(facts: &Facts<'_>, to: L) -> Result<(), String> {
    check(Mode::Full, &Gates::default(), facts, to)
}

#[test]
fn the_table_is_the_specification_s() {
    // By number, from the specification's page.
    let expected = [
        (0, 1),
        (1, 2),
        (1, 9),
        (2, 3),
        (2, 8),
        (2, 9),
        (2, 10),
        (3, 4),
        (3, 10),
        (4, 5),
        (4, 10),
        (5, 6),
        (5, 8),
        (5, 10),
        (6, 7),
        (6, 8),
        (6, 10),
        (8, 0),
        (9, 0),
    ];
    let found: Vec<_> = L::ALL
        .iter()
        .flat_map(|&from| {
            let mut to: Vec<_> = targets(Mode::Full, from).iter().map(|to| to.number()).collect();
            to.sort_unstable();
            to.into_iter().map(move |to| (from.number(), to))
        })
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn the_legacy_way_is_straight_and_touches_five_stages() {
    let mut way = vec![L::Dormant];
    while let [next] = targets(Mode::Legacy, way[way.len() - 1]) {
        way.push(*next);
    }
    assert_eq!(way, [L::Dormant, L::Germinated, L::Training, L::Grafting, L::Fossilized]);
    for stage in L::ALL.iter().filter(|stage| !way.contains(stage)) {
        assert!(targets(Mode::Legacy, *stage).is_empty(), "{stage}");
    }
}

#[test]
fn minima_hold_for_every_way_out_but_a_rollback() {
    let gates = Gates::default();
    for from in L::ALL {
        let least = gates.epochs_min(from);
        for &to in targets(Mode::Full, from).iter().filter(|_| least > 0) {
            let early = Facts { epochs_in_state: least - 1, ..facts(from) };
            let refused = may(&early, to);
            assert_eq!(refused.is_ok(), to == L::RolledBack, "{from} to {to}: {refused:?}");
        }
    }
}

#[test]
fn every_threshold_gates_at_its_value() {
    let evaluation = |delta, improvement, error_rate| Some(Evaluation { delta, improvement, error_rate });
    let e = || facts(L::Evaluating);
    let f = || facts(L::FineTuning);
    for (seed, to, open) in [
        (Facts { slot_free: false, ..facts(L::Germinated) }, L::Training, false),
        (Facts { denoising_loss: Some(0.01), ..facts(L::Training) }, L::Grafting, true),
        (Facts { denoising_loss: Some(0.0101), ..facts(L::Training) }, L::Grafting, false),
        (Facts { denoising_loss: None, ..facts(L::Training) }, L::Grafting, false),
        (Facts { progress: 0.999, ..facts(L::Grafting) }, L::Stabilization, false),
        (Facts { drifts: &[0.5, 0.1, 0.1, 0.1, 0.1, 0.115], ..facts(L::Stabilization) }, L::Evaluating, true),
        (Facts { drifts: &[0.1, 0.1, 0.1, 0.1, 0.13], ..facts(L::Stabilization) }, L::Evaluating, false),
        (Facts { drifts: &[0.1, 0.1, 0.1, 0.1], ..facts(L::Stabilization) }, L::Evaluating, false),
        (Facts { drifts: &[0.1, f32::NAN, 0.1, 0.1, 0.1], ..facts(L::Stabilization) }, L::Evaluating, false),
        (Facts { drifts: &[f32::NAN; 5], ..facts(L::Stabilization) }, L::Evaluating, false),
        (Facts { drifts: &[f32::NAN, 0.1, 0.1, 0.1, 0.1, 0.1], ..facts(L::Stabilization) }, L::Evaluating, true),
        (Facts { evaluation: evaluation(0.0, 0.0, 0.0), ..e() }, L::FineTuning, false),
        (Facts { evaluation: evaluation(1e-9, 0.0, 0.0), stability: 0.8, ..e() }, L::FineTuning, true),
        (Facts { stability: 0.79, ..e() }, L::FineTuning, false),
        (Facts { evaluation: None, ..e() }, L::FineTuning, false),
        (e(), L::Culled, false),
        (Facts { evaluation: evaluation(-0.05, 0.0, 0.0), ..e() }, L::Culled, false),
        (Facts { evaluation: evaluation(-0.051, 0.0, 0.0), ..e() }, L::Culled, true),
        (Facts { evaluation: evaluation(0.0, 0.0, 0.1), ..e() }, L::Culled, false),
        (Facts { evaluation: evaluation(0.0, 0.0, 0.11), ..e() }, L::Culled, true),
        (Facts { errors: 5, ..e() }, L::Culled, false),
        (Facts { errors: 6, evaluation: None, ..e() }, L::Culled, true),
        (Facts { epochs_in_state: 299, ..e() }, L::Culled, false),
        (Facts { epochs_in_state: 300, ..e() }, L::Culled, true),
        (Facts { evaluation: evaluation(0.0, 0.01, 0.0), stability: 0.95, ..f() }, L::Fossilized, true),
        (Facts { evaluation: evaluation(0.0, 0.0099, 0.0), ..f() }, L::Fossilized, false),
        (Facts { stability: 0.949, ..f() }, L::Fossilized, false),
        (Facts { errors: 6, evaluation: evaluation(-1.0, 0.0, 1.0), ..f() }, L::Culled, false),
        (Facts { epochs_in_state: 500, ..f() }, L::Culled, true),
        (Facts { epochs_in_state: 999, ..facts(L::Training) }, L::Culled, false),
        (Facts { epochs_in_state: 1_000, ..facts(L::Training) }, L::Culled, true),
    ] {
        let found = may(&seed, to);
        assert_eq!(found.is_ok(), open, "{seed:?} to {to}: {found:?}");
    }
}

#[test]
fn gates_say_what_they_wait_for_and_put_failures_first() {
    let gate = |seed: &Facts<'_>| gate(Mode::Full, &Gates::default(), seed);
    let shown = |seed: &Facts<'_>| serde_json::to_string(&gate(seed)).unwrap();
    assert_eq!(gate(&facts(L::Training)), Gate::Open { to: L::Grafting });
    assert_eq!(gate(&facts(L::Culled)), Gate::Open { to: L::Dormant });
    let early = Facts { epochs_in_state: 3, ..facts(L::Culled) };
    assert!(shown(&early).contains("3 of at least 5 epochs in CULLED are over"), "{}", shown(&early));
    let failed = Facts { errors: 6, ..facts(L::Evaluating) };
    assert!(matches!(gate(&failed), Gate::Failed { .. }), "an open gate does not hide a failure");
    let late = Facts { epochs_in_state: 2_000, ..facts(L::Training) };
    assert_eq!(gate(&late), Gate::Open { to: L::Grafting }, "late, but it passes");
    let stuck = Facts { denoising_loss: None, ..late };
    assert!(shown(&stuck).contains("timed out: 2000 epochs in TRAINING, at most 1000"), "{}", shown(&stuck));
    let stuck = Facts { epochs_in_state: 500, progress: 0.4, ..facts(L::Grafting) };
    assert!(matches!(gate(&stuck), Gate::Unstable { .. }));
    let broken = Facts { unstable: Some("no"), ..facts(L::Training) };
    assert_eq!(gate(&broken), Gate::Unstable { reason: "no".to_owned() });
    let leaving = Facts { withdrawing: true, errors: 6, ..facts(L::Evaluating) };
    assert!(matches!(gate(&leaving), Gate::Shut { .. }));
    assert!(may(&leaving, L::Culled).is_err() && may(&leaving, L::RolledBack).is_ok());
}

#[test]
fn the_legacy_way_never_asks_for_a_rollback() {
    let gate = |seed: &Facts<'_>| gate(Mode::Legacy, &Gates::default(), seed);
    for stage in L::ALL {
        let broken = Facts { unstable: Some("no"), ..facts(stage) };
        assert_eq!(gate(&broken), Gate::Shut { waits_for: "no".to_owned() }, "{stage}");
    }
    let late = Facts { epochs_in_state: 500, progress: 0.4, ..facts(L::Grafting) };
    assert!(matches!(gate(&late), Gate::Shut { waits_for } if waits_for.contains("timed out")));
}

#[test]
fn stability_is_about_the_trend() {
    assert!((stability(&[1.0, 0.9, 0.8, 0.7]) - 1.0).abs() < 1e-12);
    assert!((stability(&[2.0, 2.0, 2.0]) - 1.0).abs() < 1e-12);
    assert!(stability(&[1.0, 1.0]).abs() < 1e-12);
    let shaky = stability(&[1.0, 0.5, 1.0, 0.5, 1.0, 0.5]);
    // Mean 0.75, standard deviation 0.25 less what the slight slope explains.
    assert!((0.65..0.69).contains(&shaky), "{shaky}");
    assert!(stability(&[1.0, -1.0, 1.0, -1.0]).abs() < 1e-12);
    assert!((stability(&[0.0, 0.0, 0.0]) - 1.0).abs() < 1e-12);
}

#[test]
fn gates_that_cannot_be_used_are_refused_by_name() {
    for (gates, key) in [
        (Gates { ramp_steps: 0, ..Gates::default() }, "gates.ramp_steps = 0"),
        (Gates { training_epochs_max: 99, ..Gates::default() }, "gates.training_epochs_max = 99"),
        (Gates { improvement_min: f64::NAN, ..Gates::default() }, "gates.improvement_min = NaN"),
        (Gates { ramp_step_max: 0.0, ..Gates::default() }, "gates.ramp_step_max = 0"),
        (Gates { stability_window: 2, ..Gates::default() }, "gates.stability_window = 2"),
        (Gates { stability_window: 1_001, ..Gates::default() }, "gates.stability_window = 1001"),
        (Gates { withdrawal_epochs: 0, ..Gates::default() }, "gates.withdrawal_epochs = 0"),
    ] {
        let error = gates.check().unwrap_err().to_string();
        assert!(error.starts_with(key), "{error}");
    }
    assert!(Gates::default().check().is_ok());
    assert!(serde_json::from_str::<Gates>(r#"{"ramp_step":3}"#).is_err());
}
