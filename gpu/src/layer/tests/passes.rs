//! Passes: bad input, seeds that diverge, trials, and what learning changes.

use super::*;
use crate::blueprint::{Blueprint, Function};
use crate::observe::Gate;

/// Seed 1 in GRAFTING at half its ramp, with weights that do something.
fn grafted() -> Rig {
    let mut rig = Rig::new(quick());
    rig.drive(1, Lifecycle::Grafting);
    rig.wake(1);
    rig.epoch();
    rig.epoch();
    assert!((rig.layer.alpha()[1] - 0.5).abs() < 1e-6);
    rig
}

#[test]
fn the_output_is_the_reference_s() {
    let mut rig = grafted();
    let x = rig.rows(4);
    let mut y = vec![0.0; x.len()];
    rig.layer.forward(&x, 4, &mut y).unwrap();
    let expected = crate::reference::forward(&rig.layer.view(), &x, 4);
    assert!(y.iter().zip(expected).all(|(y, expected)| (f64::from(*y) - expected).abs() < 1e-5));
    assert_ne!(bits(&y), bits(&x));
}

#[test]
fn bad_input_is_named_and_leaves_no_trace() {
    let mut rig = grafted();
    let x = rig.rows(3);
    let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    rig.layer.forward(&x, 3, &mut y).unwrap();
    let before = fingerprint(&rig.layer);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        // Column 7 is of the grafted seed, column 22 of one that sleeps.
        for column in [7, 22] {
            let mut spoilt = x.clone();
            spoilt[2 * 23 + column] = bad;
            let says = format!("`x` holds {bad} at row 2, column {column}");
            let mut errors = vec![rig.layer.forward(&spoilt, 3, &mut y).unwrap_err()];
            errors.push(rig.layer.infer(&spoilt, 3, &mut y).unwrap_err());
            errors.push(rig.layer.backward(&spoilt, 3, &x, &mut dx).unwrap_err());
            errors.push(rig.layer.nourish(&spoilt, 3).unwrap_err());
            assert!(errors.iter().all(|error| error.to_string().contains(&says)), "{errors:?}");
            let error = rig.layer.backward(&x, 3, &spoilt, &mut dx).unwrap_err().to_string();
            assert!(error.contains("`dy` holds"), "{error}");
        }
    }
    let short = rig.layer.forward(&x[1..], 3, &mut y).unwrap_err().to_string();
    assert!(short.contains("`x` holds 68 values where 3 rows of 23 need 69"), "{short}");
    assert!(rig.layer.forward(&x, 3, &mut y[1..]).is_err() && rig.layer.backward(&x, 3, &x, &mut dx[2..]).is_err());
    assert!(fingerprint(&rig.layer) == before);
}

#[test]
fn a_seed_that_diverges_lets_the_input_through_and_signals() {
    let mut rig = grafted();
    rig.layer.store.weights[1][0] = f32::INFINITY;
    rig.layer.changes.mark(1);
    let x = rig.rows(3);
    let mut y = vec![0.0; x.len()];
    for pass in 1..=2 {
        rig.layer.forward(&x, 3, &mut y).unwrap();
        assert_eq!(bits(&y), bits(&x));
        assert_eq!(rig.layer.state()[1].errors, pass);
    }
    rig.layer.infer(&x, 3, &mut y).unwrap();
    assert_eq!((bits(&y), rig.layer.state()[1].errors), (bits(&x), 2), "an inference is not counted");
    let seen = rig.layer.observe(rig.task);
    assert!(matches!(seen.seeds[0].gate, Gate::Unstable { .. }), "{:?}", seen.seeds[0].gate);
    assert_eq!(seen.seeds[0].errors, 2);
    let found = seen.seeds[0].telemetry;
    assert!(found.mean.is_finite() && found.variance > 0.0 && found.drift.abs() < 1e-9, "that of y = x: {found:?}");
    let mut dx = vec![0.0; x.len()];
    rig.layer.backward(&x, 3, &x, &mut dx).unwrap();
    assert_eq!(bits(&dx[5..10]), bits(&x[5..10]));
    assert_eq!(rig.layer.state()[1].errors, 3);
    let before = bits(rig.layer.weights(1));
    rig.layer.step().unwrap();
    assert_eq!(bits(rig.layer.weights(1)), before, "it learns nothing from that");
    rig.epoch();
    assert!(!matches!(rig.layer.observe(rig.task).seeds[0].gate, Gate::Unstable { .. }), "of that epoch only");
}

#[test]
fn telemetry_is_merged_over_the_epoch() {
    let mut rig = grafted();
    let x = rig.rows(8);
    let mut y = vec![0.0; x.len()];
    rig.layer.forward(&x, 8, &mut y).unwrap();
    let whole = rig.layer.telemetry().clone();
    let mut halves = grafted();
    for half in x.chunks_exact(4 * 23) {
        halves.layer.forward(half, 4, &mut y[..4 * 23]).unwrap();
    }
    let merged = halves.layer.telemetry();
    assert_eq!(merged.rows, 8);
    for (one, two) in whole.seeds.iter().zip(&merged.seeds) {
        assert!((one.mean - two.mean).abs() < 1e-5 && (one.variance - two.variance).abs() < 1e-4);
        assert!((one.drift - two.drift).abs() < 1e-5);
    }
    assert!(whole.seeds[1].drift > 1e-4);
    halves.epoch();
    assert_eq!(halves.layer.telemetry().rows, 8, "the last epoch's, until the next has its own");
    let trail = halves.trail(1);
    assert!((trail.drifts.last().unwrap() - whole.seeds[1].drift).abs() < 1e-5);
}

#[test]
fn a_trial_ends_with_its_alpha_or_with_the_epoch() {
    let mut rig = grafted();
    let x = rig.rows(2);
    let with = rig.output(&x);
    let saved = rig.layer.save();
    let own = rig.layer.set_alpha_for_trial(1, 0.0).unwrap();
    assert_eq!(bits(&rig.output(&x)), bits(&x));
    assert!(rig.layer.save() == saved, "a trial is not part of the layer's state");
    rig.layer.set_alpha_for_trial(1, 1.0).unwrap();
    assert!((rig.layer.set_alpha_for_trial(1, own).unwrap() - 1.0).abs() < 1e-9);
    assert_eq!(bits(&rig.output(&x)), bits(&with));
    rig.layer.set_alpha_for_trial(1, 0.0).unwrap();
    rig.epoch();
    assert!((rig.layer.alpha()[1] - 0.75).abs() < 1e-6, "the ramp went on from the seed's own alpha");
    for (seed, alpha) in [(9, 0.5), (1, 1.5), (1, -0.1), (1, f32::NAN)] {
        assert!(rig.layer.set_alpha_for_trial(seed, alpha).is_err());
    }
}

#[test]
fn the_task_teaches_seeds_that_contribute_until_they_are_fossils() {
    let mut rig = grafted();
    rig.drive(3, Lifecycle::Fossilized);
    let x = rig.rows(4);
    let mut dx = vec![0.0; x.len()];
    let target: Vec<f32> = x.iter().map(|x| 1.2 * x).collect();
    let loss = |rig: &mut Rig| {
        let y = rig.output(&x);
        let dy: Vec<f32> = y.iter().zip(&target).map(|(y, t)| y - t).collect();
        (dy.iter().map(|d| d * d).sum::<f32>(), dy)
    };
    let (first, fossil) = (loss(&mut rig).0, bits(rig.layer.weights(3)));
    for _ in 0..50 {
        let dy = loss(&mut rig).1;
        rig.layer.backward(&x, 4, &dy, &mut dx).unwrap();
        rig.layer.step().unwrap();
    }
    let last = loss(&mut rig).0;
    assert!(last < 0.95 * first, "{first} to {last}");
    assert_eq!(bits(rig.layer.weights(3)), fossil);
    let before = bits(rig.layer.weights(1));
    rig.layer.step().unwrap();
    assert_eq!(bits(rig.layer.weights(1)), before, "gradients are used up by a step");
}

#[test]
fn gradient_norms_are_by_tensor() {
    let mut rig = grafted();
    let x = rig.rows(4);
    let mut dx = vec![0.0; x.len()];
    rig.layer.backward(&x, 4, &x, &mut dx).unwrap();
    let exact = crate::reference::backward(&rig.layer.view(), &x, 4, &x).gradients;
    let squares: f64 = exact[1].iter().map(|g| g * g).sum();
    // A residual scale has two tensors.
    let found = rig.layer.observe(rig.task).seeds[0].gradient_norm;
    assert!((found - (squares / 2.0).sqrt()).abs() < 1e-4 * found, "{found}");
}

#[test]
fn seeds_in_training_learn_apart() {
    let mut rig = Rig::new(quick());
    let blueprint = Blueprint::new("small", Function::Adapter { rank: 2 });
    let command = Command { blueprint: None, blueprint_ir: Some(blueprint), ..rig.command(1, Order::Germinate) };
    rig.layer.command(command).unwrap();
    rig.epoch();
    rig.go(1, Lifecycle::Training);
    // All columns of a chunk say the same: there is something to learn.
    let x: Vec<f32> = (0..64_u8).flat_map(|row| [(f32::from(row) * 0.7).sin(); 23]).collect();
    let weights = bits(rig.layer.weights(1));
    let mut losses = Vec::new();
    for _ in 0..6 {
        for _ in 0..10 {
            rig.layer.nourish(&x, 64).unwrap();
        }
        rig.epoch();
        losses.push(rig.layer.observe(rig.task).seeds[0].denoising_loss.unwrap());
    }
    assert!(losses[5] < 0.8 * losses[0], "{losses:?}");
    assert_ne!(bits(rig.layer.weights(1)), weights);
    assert_eq!(bits(&rig.output(&x)), bits(&x), "and do not touch the output");
    assert!(rig.layer.observe(rig.task).seeds[0].gradient_norm > 0.0);
}

#[test]
fn the_backend_is_told_of_every_change() {
    // The reference keeps a copy of its own; one that is loaded anew must answer the same.
    let mut rig = Rig::new(quick());
    let x = rig.rows(2);
    for stage in &Lifecycle::ALL[1..8] {
        rig.go(2, *stage);
        for woken in [false, true] {
            let told = rig.output(&x);
            rig.layer.backend = Box::new(Plain::default());
            rig.layer.changes.mark_all();
            assert_eq!(bits(&rig.output(&x)), bits(&told), "{stage}, woken: {woken}");
            rig.wake(2);
        }
    }
}
