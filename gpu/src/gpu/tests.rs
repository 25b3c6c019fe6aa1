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
        sample.weights[computing].fill(f32::NAN);
        sample.x[65 * width + sample.chunks.start_of(2)] = f32::INFINITY;
        gpu.load(&sample.view(), Changed::All).unwrap();
        let (mut y, mut dx) = (vec![0.0; sample.x.len()], vec![0.0; sample.x.len()]);
        for telemetry in [None, Some(&mut Telemetry::default())] {
            let pass = gpu.forward(&sample.x, 70, &mut y, telemetry).unwrap();
            assert_eq!(pass.not_finite, [2, computing]);
        }
        sample.dy[3] = f32::NAN;
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
    // One that no longer computes has no place any more: the table is made anew.
    sample.alpha[computing[1]] = 0.0;
    gpu.load(&sample.view(), Changed::Seeds(&computing[1..2])).unwrap();
    sample.compare(&mut gpu).unwrap().within(&Errors::LIMITS).unwrap();
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
