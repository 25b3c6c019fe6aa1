//! The backend against the reference, on whatever adapter there is: Mesa's lavapipe is enough.
//!
//! Without any adapter they say so and pass, unless `GAVEL_REQUIRE_GPU=1`, which `tests/run` sets.

use super::*;
use crate::blueprint::Function;
use crate::check::{Case, Errors, Mix, cases, compare};

/// A backend with the first adapter, or `None` with a word on it.
fn open(options: Options) -> Option<Gpu> {
    match Gpu::new(Options { software: true, ..options }) {
        Ok(gpu) => Some(gpu),
        Err(error) if std::env::var_os("GAVEL_REQUIRE_GPU").is_some_and(|value| value == "1") => {
            panic!("GAVEL_REQUIRE_GPU=1, but: {error}")
        }
        Err(error) => {
            assert!(list().is_empty(), "there is an adapter, but: {error}");
            println!("NOT TESTED: no Vulkan adapter");
            None
        }
    }
}

const ADAPTER: Function = Function::Adapter { rank: 16 };

fn case(width: usize, seeds: usize, rows: usize, mix: Mix) -> Case {
    Case { width, seeds, rows, mix, offset: 0.0, random_seed: 3 }
}

fn check(gpu: &mut Gpu, case: &Case, limits: &Errors) {
    let errors = compare(gpu, case).unwrap_or_else(|error| panic!("{case:?}: {error}"));
    if let Err(problem) = errors.within(limits) {
        panic!("{case:?} by `{}`: {problem}", gpu.kernel().unwrap());
    }
}

#[test]
fn it_agrees_with_the_reference() {
    let Some(mut gpu) = open(Options::default()) else { return };
    for case in cases() {
        check(&mut gpu, &case, &Errors::LIMITS);
    }
}

#[test]
fn chunks_of_every_width_agree_with_the_reference() {
    let Some(mut gpu) = open(Options::default()) else { return };
    for widest in [1, 2, 3, 4, 7, 9, 15, 16, 17, 32, 33, 65] {
        let ragged = if widest > 1 { 3 } else { 0 };
        check(&mut gpu, &case(11 * widest - ragged, 11, 130, Mix::Stages), &Errors::LIMITS);
    }
}

#[test]
fn a_buffer_beyond_the_limit_is_split() {
    for (width, seeds, limit) in [(203, 15, 24 << 10), (203, 7, 96 << 10)] {
        let options = Options { binding_bytes_max: Some(limit), ..Options::default() };
        let Some(mut gpu) = open(options) else { return };
        check(&mut gpu, &case(width, seeds, 300, Mix::All(Function::Mlp)), &Errors::LIMITS);
        assert!(gpu.tensor(300).unwrap().pieces() > 1);
        assert!(gpu.layer().unwrap().0.banks.len() > 1, "the weights are in several banks too");
    }
}

#[test]
fn steps_of_little_scratch_memory_give_the_same() {
    let Some(mut gpu) = open(Options { scratch_bytes_max: 4 << 10, ..Options::default() }) else { return };
    check(&mut gpu, &case(60, 12, 40, Mix::Stages), &Errors::LIMITS);
    let Some(mut gpu) = open(Options { scratch_bytes_max: 64, ..Options::default() }) else { return };
    let error = compare(&mut gpu, &case(60, 12, 40, Mix::All(Function::Mlp))).unwrap_err();
    assert!(error.contains("one row of `mlp`"), "{error}");
}

#[test]
fn the_bits_are_the_same_on_every_run() {
    let Some(mut gpu) = open(Options::default()) else { return };
    for (width, seeds) in [(203, 41), (300, 7)] {
        let sample = case(width, seeds, 400, Mix::Stages).make();
        gpu.load(&sample.view(), Changed::All).unwrap();
        let mut run = || {
            let (mut y, mut dx) = (vec![0.0; sample.x.len()], vec![0.0; sample.x.len()]);
            let (mut telemetry, mut gradients) = (Telemetry::default(), Vec::new());
            gpu.forward(&sample.x, 400, &mut y, Some(&mut telemetry)).unwrap();
            gpu.backward(&sample.x, 400, &sample.dy, &mut dx, &mut gradients).unwrap();
            let all: Vec<f32> = y.into_iter().chain(dx).chain(gradients.into_iter().flatten()).collect();
            let telemetry: Vec<u32> = bytemuck::cast_slice(&telemetry.seeds).to_vec();
            (all.into_iter().map(f32::to_bits).collect::<Vec<_>>(), telemetry)
        };
        let first = run();
        assert!((0..3).all(|_| run() == first));
    }
}

#[test]
fn telemetry_beyond_one_binding_is_merged() {
    let Some(mut gpu) = open(Options { binding_bytes_max: Some(4 << 10), ..Options::default() }) else { return };
    let sample = case(100, 20, 700, Mix::All(Function::ResidualScale)).make();
    gpu.load(&sample.view(), Changed::All).unwrap();
    let (mut y, mut telemetry) = (vec![0.0; sample.x.len()], Telemetry::default());
    gpu.forward(&sample.x, 700, &mut y, Some(&mut telemetry)).unwrap();
    let wide: Vec<f64> = y.iter().copied().map(f64::from).collect();
    let right = crate::reference::telemetry(&sample.view(), &sample.x, &wide, 700);
    assert_eq!((telemetry.rows, telemetry.seeds.len()), (700, 20));
    for (found, right) in telemetry.seeds.iter().zip(&right) {
        assert!((found.mean - right.mean).abs() < 1e-5 && (found.variance / right.variance - 1.0).abs() < 1e-5);
        assert!((found.sparsity - right.sparsity).abs() < 1e-5 && (found.drift - right.drift).abs() < 1e-5);
        assert_eq!((found.min.to_bits(), found.max.to_bits()), (right.min.to_bits(), right.max.to_bits()));
    }
}

#[test]
fn seeds_that_are_not_finite_are_named() {
    let Some(mut gpu) = open(Options::default()) else { return };
    for (width, seeds) in [(203, 41), (300, 7)] {
        let mut sample = case(width, seeds, 70, Mix::Stages).make();
        let computing = (0..seeds).rfind(|&seed| sample.view().computing(seed).is_some()).unwrap();
        // Finite, but their products are not.
        sample.weights[computing].fill(3e38);
        sample.x[65 * width + sample.chunks.start_of(2)] = f32::INFINITY;
        gpu.load(&sample.view(), Changed::All).unwrap();
        let (mut y, mut dx) = (vec![0.0; sample.x.len()], vec![0.0; sample.x.len()]);
        for telemetry in [None, Some(&mut Telemetry::default())] {
            let pass = gpu.forward(&sample.x, 70, &mut y, telemetry).unwrap();
            assert_eq!(pass.not_finite, [2, computing]);
        }
        sample.dy[3] = f32::NAN;
        sample.dy[69 * width + sample.chunks.start_of(computing)] = f32::INFINITY;
        let pass = gpu.backward(&sample.x, 70, &sample.dy, &mut dx, &mut Vec::new()).unwrap();
        assert!(pass.not_finite.contains(&0) && pass.not_finite.contains(&computing), "{:?}", pass.not_finite);
    }
}

#[test]
fn a_change_of_some_seeds_is_the_same_as_all_anew() {
    let Some(mut gpu) = open(Options::default()) else { return };
    let mut sample = case(203, 41, 20, Mix::Stages).make();
    gpu.load(&sample.view(), Changed::All).unwrap();
    let computing: Vec<usize> = (0..41).filter(|&seed| sample.view().computing(seed).is_some()).collect();
    for &seed in &computing[..4] {
        sample.alpha[seed] = 0.125;
        sample.weights[seed].iter_mut().for_each(|weight| *weight *= 0.5);
    }
    gpu.load(&sample.view(), Changed::Seeds(&computing[..4])).unwrap();
    sample.compare(&mut gpu).unwrap().within(&Errors::LIMITS).unwrap();
}

#[test]
fn a_seed_that_stops_and_starts_again_keeps_its_place() {
    let Some(mut gpu) = open(Options::default()) else { return };
    for (width, seeds) in [(203, 41), (300, 7)] {
        let mut sample = case(width, seeds, 20, Mix::Stages).make();
        gpu.load(&sample.view(), Changed::All).unwrap();
        let table = |gpu: &Gpu| gpu.layer().unwrap().1.resident.seeds.id;
        let first = table(&gpu);
        let computing: Vec<usize> = (0..seeds).filter(|&seed| sample.view().computing(seed).is_some()).collect();
        for &seed in &computing {
            let (alpha, stage) = (sample.alpha[seed], sample.state[seed].lifecycle());
            sample.alpha[seed] = 0.0;
            gpu.load(&sample.view(), Changed::Seeds(&[seed])).unwrap();
            sample.compare(&mut gpu).unwrap().within(&Errors::LIMITS).unwrap();
            sample.alpha[seed] = alpha;
            sample.weights[seed].iter_mut().for_each(|weight| *weight *= 0.5);
            gpu.load(&sample.view(), Changed::Seeds(&[seed])).unwrap();
            sample.compare(&mut gpu).unwrap().within(&Errors::LIMITS).unwrap();
            // It goes on to compute, but no longer learns.
            sample.state[seed].enter(crate::state::Lifecycle::Fossilized);
            gpu.load(&sample.view(), Changed::Seeds(&[seed])).unwrap();
            sample.compare(&mut gpu).unwrap().within(&Errors::LIMITS).unwrap();
            sample.state[seed].enter(stage);
            gpu.load(&sample.view(), Changed::Seeds(&[seed])).unwrap();
        }
        assert_eq!(table(&gpu), first, "nothing was made anew");
        sample.compare(&mut gpu).unwrap().within(&Errors::LIMITS).unwrap();
        // Another function has no room.
        let other = 1 - sample.state[computing[0]].blueprint.min(1);
        sample.state[computing[0]].blueprint = other;
        let other = usize::try_from(other).unwrap();
        sample.weights[computing[0]] =
            vec![0.25; sample.blueprints[other].function.weights(sample.chunks.width_of(computing[0]))];
        gpu.load(&sample.view(), Changed::Seeds(&computing[..1])).unwrap();
        assert_ne!(table(&gpu), first);
        sample.compare(&mut gpu).unwrap().within(&Errors::LIMITS).unwrap();
    }
}

#[test]
fn a_pass_of_more_pieces_than_bindings_are_kept_is_served() {
    let Some(mut gpu) = open(Options { binding_bytes_max: Some(5 << 10), ..Options::default() }) else { return };
    // Pieces of 80 rows, each of which needs two bindings.
    check(&mut gpu, &case(16, 4, 39 * 80, Mix::All(Function::Mlp)), &Errors::LIMITS);
    assert_eq!(gpu.tensor(39 * 80).unwrap().pieces(), 39);
}

#[test]
fn what_waits_to_be_copied_is_bounded() {
    let Some(mut gpu) = open(Options { staged_bytes_max: 1001, ..Options::default() }) else { return };
    check(&mut gpu, &case(203, 41, 33, Mix::Stages), &Errors::LIMITS);
    check(&mut gpu, &case(300, 7, 33, Mix::Stages), &Errors::LIMITS);
}

#[test]
fn weights_and_alphas_that_are_not_finite_are_refused() {
    let Some(mut gpu) = open(Options::default()) else { return };
    let good = case(64, 16, 5, Mix::All(ADAPTER)).make();
    gpu.load(&good.view(), Changed::All).unwrap();
    let mut bad = good.clone();
    bad.weights[3][7] = f32::NAN;
    // One that does not compute is looked at too.
    bad.alpha[3] = 0.0;
    let mut loose = good.clone();
    loose.alpha[4] = f32::INFINITY;
    let mut unknown = good.clone();
    unknown.state[5].blueprint = 9;
    for (seed, sample, text) in
        [(3, bad, "number 7 is NaN"), (4, loose, "alpha is inf"), (5, unknown, "number 9, of 1")]
    {
        for changed in [Changed::All, Changed::Seeds(&[seed])] {
            let error = gpu.load(&sample.view(), changed).unwrap_err();
            assert!(matches!(error, Error::Weights { seed: named, .. } if named == seed), "{error}");
            assert!(error.to_string().contains(text), "{error}");
        }
    }
    assert!(matches!(gpu.load(&good.view(), Changed::Seeds(&[16])), Err(Error::NoSeed { seed: 16, last: 15, .. })));
    good.compare(&mut gpu).unwrap().within(&Errors::LIMITS).unwrap();
}

#[test]
fn statistics_of_huge_and_tiny_values_are_right() {
    let Some(mut gpu) = open(Options::default()) else { return };
    for (width, seeds) in [(64, 16), (80, 4)] {
        for scale in [3e30_f32, 1e-12, 1e-25] {
            for mix in [Mix::Dormant, Mix::All(Function::ResidualScale)] {
                let mut sample = case(width, seeds, 70, mix).make();
                sample.x.iter_mut().for_each(|value| *value *= scale);
                // The shift would hide what is tiny.
                let shifts = |weights: &mut Vec<f32>| {
                    let half = weights.len() / 2;
                    weights[half..].iter_mut().for_each(|shift| *shift *= scale);
                };
                sample.weights.iter_mut().for_each(shifts);
                gpu.load(&sample.view(), Changed::All).unwrap();
                same_statistics(&mut gpu, &sample);
            }
        }
        // Some rows only.
        let mut sample = case(width, seeds, 70, Mix::All(Function::ResidualScale)).make();
        sample.weights.iter_mut().for_each(|weights| {
            let half = weights.len() / 2;
            weights[half..].fill(0.0);
        });
        for (row, values) in sample.x.chunks_exact_mut(width).enumerate() {
            let scale = [1.0, 1e-25, 0.0][row % 3];
            for value in values {
                *value *= scale;
            }
        }
        gpu.load(&sample.view(), Changed::All).unwrap();
        same_statistics(&mut gpu, &sample);
    }
}

/// The statistics of the y that the backend gives, against the reference; what is infinite must be so in both.
fn same_statistics(gpu: &mut Gpu, sample: &crate::check::Sample) {
    let (mut y, mut telemetry) = (vec![0.0; sample.x.len()], Telemetry::default());
    let pass = gpu.forward(&sample.x, sample.rows, &mut y, Some(&mut telemetry)).unwrap();
    assert_eq!(pass, Pass::default());
    let wide: Vec<f64> = y.iter().copied().map(f64::from).collect();
    let right = crate::reference::telemetry(&sample.view(), &sample.x, &wide, sample.rows);
    for (found, right) in telemetry.seeds.iter().zip(&right) {
        let scale = right.min.abs().max(right.max.abs());
        let near = |a: f32, b: f32, scale: f32| a.to_bits() == b.to_bits() || (a - b).abs() <= 1e-5 * scale;
        assert!(near(found.mean, right.mean, scale) && near(found.min, right.min, scale), "{found:?} for {right:?}");
        assert!(near(found.max, right.max, scale) && near(found.variance, right.variance, right.variance));
        assert!(near(found.correlation, right.correlation, 1.0), "{found:?} for {right:?}");
        assert!(near(found.drift, right.drift, 1.0), "{found:?} for {right:?}");
        assert!(near(found.sparsity, right.sparsity, 1.0) && near(found.dead_ratio, right.dead_ratio, 1.0));
    }
}

#[test]
fn gradients_of_huge_hidden_values_are_finite() {
    let Some(mut gpu) = open(Options::default()) else { return };
    let mut sample = case(64, 16, 5, Mix::All(ADAPTER)).make();
    sample.x.iter_mut().for_each(|value| *value *= 1e20);
    gpu.load(&sample.view(), Changed::All).unwrap();
    let (mut dx, mut gradients) = (vec![0.0; sample.x.len()], Vec::new());
    let pass = gpu.backward(&sample.x, 5, &sample.dy, &mut dx, &mut gradients).unwrap();
    let right = crate::reference::backward(&sample.view(), &sample.x, 5, &sample.dy).dx;
    assert_eq!(pass, Pass::default());
    assert!(sample.off(&dx, &right) <= 2e-5);
}

#[test]
fn a_panic_of_the_driver_is_a_loss_like_any_other() {
    let Some(mut gpu) = open(Options::default()) else { return };
    let sample = case(203, 41, 20, Mix::Stages).make();
    gpu.load(&sample.view(), Changed::All).unwrap();
    let before = gpu.connection;
    gpu.context.breaks.store(true, std::sync::atomic::Ordering::Relaxed);
    sample.compare(&mut gpu).unwrap().within(&Errors::LIMITS).unwrap();
    assert_ne!(gpu.connection, before, "it was opened anew");
    gpu.context.breaks.store(true, std::sync::atomic::Ordering::Relaxed);
    let error = gpu.wait().unwrap_err().to_string();
    assert!(error.contains("lost: the driver says"), "{error}");
    sample.compare(&mut gpu).unwrap().within(&Errors::LIMITS).unwrap();
}

#[test]
fn a_result_is_of_the_last_pass_on_tensors_or_of_none() {
    let Some(mut gpu) = open(Options::default()) else { return };
    let sample = case(64, 16, 20, Mix::All(ADAPTER)).make();
    gpu.load(&sample.view(), Changed::All).unwrap();
    let (x, y) = (gpu.tensor(20).unwrap(), gpu.tensor(20).unwrap());
    gpu.upload(&x, &sample.x).unwrap();
    let (mut values, mut gradients) = (vec![0.0; sample.x.len()], Vec::new());
    for other in 0..5 {
        gpu.forward_on(&x, &y, true).unwrap();
        assert_eq!(gpu.result().unwrap().1.unwrap().rows, 20);
        match other {
            0 => drop(gpu.forward(&sample.x, 20, &mut values, None).unwrap()),
            1 => drop(gpu.backward(&sample.x, 20, &sample.dy, &mut values, &mut gradients).unwrap()),
            2 => gpu.load(&sample.view(), Changed::Seeds(&[1])).unwrap(),
            3 => drop(gpu.time(Work::Merge, &[(&x, &y)]).unwrap()),
            _ => gpu.submit(Work::Copy, (&x, &y)).unwrap(),
        }
        let error = gpu.result().unwrap_err().to_string();
        assert!(error.contains("no pass on tensors"), "{other}: {error}");
    }
    gpu.submit(Work::Copy, (&x, &y)).unwrap();
    gpu.download(&y, &mut values).unwrap();
    assert!(values.iter().zip(&sample.x).all(|(a, b)| a.to_bits() == b.to_bits()));
}

#[test]
fn no_rows_have_a_line_for_each_seed() {
    let Some(mut gpu) = open(Options::default()) else { return };
    let sample = case(64, 16, 1, Mix::All(ADAPTER)).make();
    gpu.load(&sample.view(), Changed::All).unwrap();
    let mut telemetry = Telemetry::default();
    gpu.forward(&[], 0, &mut [], Some(&mut telemetry)).unwrap();
    assert_eq!((telemetry.rows, telemetry.seeds.len()), (0, 16));
    // Where telemetry does not fit into one binding, a pass without it does.
    let Some(mut gpu) = open(Options { binding_bytes_max: Some(4 << 10), ..Options::default() }) else { return };
    let sample = case(128, 128, 3, Mix::Dormant).make();
    gpu.load(&sample.view(), Changed::All).unwrap();
    let mut y = vec![0.0; sample.x.len()];
    let error = gpu.forward(&sample.x, 3, &mut y, Some(&mut telemetry)).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
    gpu.forward(&sample.x, 3, &mut y, None).unwrap();
    assert!(y.iter().zip(&sample.x).all(|(a, b)| a.to_bits() == b.to_bits()));
}

#[test]
fn a_lost_device_is_made_anew_and_nothing_is_lost() {
    let Some(mut gpu) = open(Options::default()) else { return };
    let mut sample = case(203, 41, 20, Mix::Stages).make();
    gpu.load(&sample.view(), Changed::All).unwrap();
    let tensor = gpu.tensor(20).unwrap();
    gpu.lose();
    sample.compare(&mut gpu).unwrap().within(&Errors::LIMITS).unwrap();
    gpu.lose();
    sample.compare(&mut gpu).unwrap().within(&Errors::LIMITS).unwrap();
    let error = gpu.upload(&tensor, &sample.x).unwrap_err().to_string();
    assert!(error.contains("a connection that was lost"), "{error}");
    // Lost between a change and the next pass.
    let computing = (0..41).find(|&seed| sample.view().computing(seed).is_some()).unwrap();
    sample.alpha[computing] = 0.5;
    gpu.lose();
    gpu.load(&sample.view(), Changed::Seeds(&[computing])).unwrap();
    sample.compare(&mut gpu).unwrap().within(&Errors::LIMITS).unwrap();
}

#[test]
fn without_memory_it_says_so_and_goes_on() {
    let Some(mut gpu) = open(Options { memory_bytes_max: Some(8 << 20), ..Options::default() }) else { return };
    let small = case(64, 16, 64, Mix::All(ADAPTER));
    check(&mut gpu, &small, &Errors::LIMITS);
    assert!(matches!(gpu.tensor(1 << 20), Err(Error::OutOfMemory { .. })));
    let mut big = case(64, 16, 40_000, Mix::Dormant).make();
    let error = gpu.forward(&big.x, 40_000, &mut big.dy, None).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
    check(&mut gpu, &small, &Errors::LIMITS);
    // A layer that does not fit leaves the one before.
    let huge = case(4096, 4, 1, Mix::All(Function::Adapter { rank: 256 })).make();
    assert!(matches!(gpu.load(&huge.view(), Changed::All), Err(Error::OutOfMemory { .. })));
    let sample = small.make();
    sample.compare(&mut gpu).unwrap().within(&Errors::LIMITS).unwrap();
}

#[test]
fn more_memory_than_any_device_has_is_refused() {
    let Some(mut gpu) = open(Options::default()) else { return };
    let mut sample = case(64, 16, 64, Mix::All(ADAPTER)).make();
    sample.alpha[3] = 0.25;
    gpu.load(&sample.view(), Changed::All).unwrap();
    let memory = gpu.context.memory.take("an absurd buffer", 1 << 60, wgpu::BufferUsages::STORAGE);
    assert!(matches!(memory, Err(Error::OutOfMemory { bytes, .. }) if bytes == 1 << 60));
    sample.compare(&mut gpu).unwrap().within(&Errors::LIMITS).unwrap();
}

#[test]
fn tensors_stay_on_the_device() {
    let Some(mut gpu) = open(Options::default()) else { return };
    for (width, seeds) in [(203, 41), (300, 7), (64, 16)] {
        let sample = case(width, seeds, 300, Mix::Stages).make();
        gpu.load(&sample.view(), Changed::All).unwrap();
        let (x, y) = (gpu.tensor(300).unwrap(), gpu.tensor(300).unwrap());
        gpu.upload(&x, &sample.x).unwrap();
        gpu.forward_on(&x, &y, true).unwrap();
        let (pass, telemetry) = gpu.result().unwrap();
        let (mut found, mut right) = (vec![0.0; sample.x.len()], vec![0.0; sample.x.len()]);
        gpu.download(&y, &mut found).unwrap();
        let mut right_telemetry = Telemetry::default();
        let right_pass = gpu.forward(&sample.x, 300, &mut right, Some(&mut right_telemetry)).unwrap();
        assert_eq!((pass, telemetry), (right_pass, Some(right_telemetry)));
        assert!(found.iter().zip(&right).all(|(a, b)| a.to_bits() == b.to_bits()));
        gpu.recycle(x);
        gpu.recycle(y);
        let kept = gpu.pool_bytes();
        assert!(kept > 0);
        drop(gpu.tensor(300).unwrap());
        assert!(gpu.pool_bytes() < kept, "what was given back is used again");
    }
}

#[test]
fn wrong_shapes_are_refused() {
    let Some(mut gpu) = open(Options::default()) else { return };
    let mut y = vec![0.0; 64];
    assert!(gpu.forward(&[0.0; 64], 1, &mut y, None).unwrap_err().to_string().contains("no layer is loaded"));
    let mut sample = case(64, 16, 1, Mix::All(ADAPTER)).make();
    gpu.load(&sample.view(), Changed::All).unwrap();
    assert!(matches!(gpu.forward(&[0.0; 63], 1, &mut y, None), Err(Error::Shape { buffer: "x", .. })));
    assert!(matches!(gpu.forward(&[0.0; 64], 2, &mut y, None), Err(Error::Shape { .. })));
    sample.weights[3].pop();
    assert!(matches!(gpu.load(&sample.view(), Changed::Seeds(&[3])), Err(Error::Weights { seed: 3, .. })));
    sample.alpha.pop();
    assert!(matches!(gpu.load(&sample.view(), Changed::All), Err(Error::Shape { buffer: "alpha", .. })));
}

#[test]
fn a_layer_of_many_seeds_is_served() {
    let Some(mut gpu) = open(Options::default()) else { return };
    let mix = Mix::Share(0.01, Function::Adapter { rank: 4 });
    check(&mut gpu, &case(200_000, 100_000, 2, mix), &Errors::LIMITS);
}
