//! A whole layer saved and restored: the same layer goes on to the same bits; any other file is refused and changes
//! nothing.

use super::*;
use proptest::prelude::*;
use sha2::{Digest, Sha256};

/// A layer with seeds in many stages, things waiting, and things to report.
fn lively() -> Rig {
    let mut rig = Rig::new(quick());
    rig.drive(0, Lifecycle::Fossilized);
    rig.drive(1, Lifecycle::Grafting);
    rig.wake(1);
    rig.drive(2, Lifecycle::Cancelled);
    rig.drive(3, Lifecycle::Training);
    teach(&mut rig);
    rig.epoch();
    rig.epoch();
    rig.order(4, Order::Germinate).unwrap();
    rig.layer.rollback(3, None, "to be reported", &mut AllowAll).unwrap();
    rig
}

fn teach(rig: &mut Rig) {
    let x = rig.rows(3);
    let mut dx = vec![0.0; x.len()];
    rig.layer.backward(&x, 3, &x, &mut dx).unwrap();
    rig.layer.step().unwrap();
    rig.layer.nourish(&x, 3).unwrap();
}

fn twin(of: &Rig, config: Config) -> Rig {
    Rig { commands: of.commands, ..Rig::with(config, of.layer.library().clone()) }
}

#[test]
fn what_is_restored_goes_on_to_the_same_bits() {
    let mut rig = lively();
    let mut again = twin(&rig, quick());
    let saved = rig.layer.save();
    again.layer.restore(&saved).unwrap();
    assert!(again.layer.save() == saved, "what was read is what was written");
    for _ in 0..4 {
        let reports = [&mut rig, &mut again].map(|rig| {
            teach(rig);
            drop(rig.order(4, Order::Train));
            rig.epoch()
        });
        assert_eq!(reports[0].landed, reports[1].landed);
        assert_eq!(reports[0].rollbacks, reports[1].rollbacks);
        assert!(rig.layer.save() == again.layer.save());
    }
    let x = rig.rows(2);
    assert_eq!(bits(&rig.output(&x)), bits(&again.output(&x)));
    for rig in [&mut rig, &mut again] {
        teach(rig);
        rig.layer.rollback(1, None, "after", &mut AllowAll).unwrap();
    }
    assert!(rig.layer.save() == again.layer.save(), "the rolling checkpoints are in it too");
}

/// Why a file is refused; and that it left the layer alone.
fn refused(rig: &mut Rig, bytes: &[u8]) -> String {
    let before = fingerprint(&rig.layer);
    let error = rig.layer.restore(bytes).unwrap_err().to_string();
    assert!(fingerprint(&rig.layer) == before, "a refused file changes nothing: {error}");
    error
}

/// With a digest that is right again.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let body = bytes.len() - 32;
    let digest = Sha256::digest(&bytes[..body]);
    bytes[body..].copy_from_slice(&digest);
    bytes
}

#[test]
fn files_of_other_layers_are_refused() {
    let rig = lively();
    let saved = rig.layer.save();
    for (config, says) in [
        (
            Config { id: "other".to_owned(), ..quick() },
            "it is of layer `tested` (23 wide, 5 seeds, full), this is layer `other`",
        ),
        (Config { width: 24, ..quick() }, "this is layer `tested` (24 wide"),
        (Config { seeds: 6, ..quick() }, "6 seeds"),
        (Config { seeds: 1, mode: Mode::Legacy, ..quick() }, "1 seeds, legacy"),
    ] {
        let error = refused(&mut twin(&rig, config), &saved);
        assert!(error.contains(says), "{error}");
    }
    let mut stranger = Rig::with(quick(), Library::default().shared());
    let error = refused(&mut stranger, &saved);
    assert!(error.contains("is not registered: register it first"), "{error}");
    let mut library = Library::standard();
    library.strategies = Strategies::empty();
    library.strategies.add(Box::new(crate::strategy::DriftControlled::default()));
    let config = Config { strategy: "drift_controlled".to_owned(), ..quick() };
    let error = refused(&mut Rig::with(config, library.shared()), &saved);
    assert!(error.contains("its grafting strategy `fixed_ramp` is not registered"), "{error}");
}

#[test]
fn strategies_are_found_again_by_name() {
    let rig = lively();
    let mut library = Library::standard();
    library.strategies = Strategies::empty();
    library.strategies.add(Box::new(crate::strategy::DriftControlled::default()));
    library.strategies.add(Box::new(crate::strategy::FixedRamp));
    let mut other = Rig::with(quick(), library.shared());
    other.layer.restore(&rig.layer.save()).unwrap();
    assert_eq!(other.layer.state()[1].strategy, 1);
    assert_eq!(other.layer.observe(rig.task).seeds[0].strategy.as_deref(), Some("fixed_ramp"));
}

#[test]
fn damage_and_other_versions_are_refused() {
    let mut rig = lively();
    let saved = rig.layer.save();
    let mut other = saved.clone();
    other[8] = 1;
    assert!(refused(&mut rig, &sealed(other)).contains("it is of version Some(1), this build reads version 2"));
    assert!(refused(&mut rig, b"KASMINA").contains("shorter than its digest"));
    assert!(refused(&mut rig, &[7; 100]).contains("does not begin as a saved layer does"));
    let mut longer = saved.clone();
    longer.splice(saved.len() - 32..saved.len() - 32, [0; 5]);
    assert!(refused(&mut rig, &sealed(longer)).contains("bytes are left over"));
    for at in (0..saved.len()).step_by(97) {
        let mut flipped = saved.clone();
        flipped[at] ^= 4;
        refused(&mut rig, &flipped);
    }
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    let mut rig = lively();
    let mut sick = twin(&rig, quick());
    sick.layer.restore(&rig.layer.save()).unwrap();
    sick.layer.store.weights[1][2] = f32::NAN;
    let error = refused(&mut rig, &sick.layer.save());
    assert!(error.contains("weights of seed 1: the checkpoint has NaN at place 2"), "{error}");
}

/// What holds of every layer: alphas are blends, and what it saves it takes.
fn sane(rig: &mut Rig) {
    assert!(rig.layer.alpha().iter().all(|alpha| (0.0..=1.0).contains(alpha)), "{:?}", rig.layer.alpha());
    let saved = rig.layer.save();
    rig.layer.restore(&saved).unwrap();
    assert!(rig.layer.save() == saved);
}

#[test]
fn values_that_no_seed_comes_to_are_refused() {
    use crate::layer::trail::Withdrawal;
    type Forge = fn(&mut Layer);
    let withdrawal = |layer: &mut Layer, from: f32, left: u32, steps: u32| {
        layer.store.trails[1].as_mut().unwrap().withdrawal = Some(Withdrawal { from, left, steps, metric: 0.5 });
    };
    let mut rig = lively();
    let mut accepted = twin(&rig, quick());
    accepted.layer.restore(&rig.layer.save()).unwrap();
    withdrawal(&mut accepted.layer, 0.5, 2, 4);
    let saved = accepted.layer.save();
    accepted.layer.restore(&saved).unwrap();
    sane(&mut accepted);
    let forge = |of: &mut dyn FnMut(&mut Layer)| {
        let mut sick = twin(&rig, quick());
        sick.layer.restore(&rig.layer.save()).unwrap();
        of(&mut sick.layer);
        sick.layer.save()
    };
    let mut files = Vec::new();
    for (from, left, steps) in [(0.5, 0, 0), (0.5, 5, 4), (0.5, 0, 4), (1.5, 2, 4), (-0.5, 2, 4), (f32::NAN, 2, 4)] {
        files.push(forge(&mut |layer| withdrawal(layer, from, left, steps)));
    }
    let forgeries: [Forge; 9] = [
        |layer| layer.store.trails[1].as_mut().unwrap().pre_metric = Some(f64::NAN),
        |layer| layer.store.trails[1].as_mut().unwrap().gradient_norms.push(f64::INFINITY),
        |layer| layer.store.trails[1].as_mut().unwrap().losses.push(f64::NAN),
        |layer| layer.store.trails[1].as_mut().unwrap().germinated = 1 << 52,
        |layer| layer.task.metric = f64::NAN,
        |layer| layer.epoch = 1 << 52,
        |layer| layer.epoch = u64::MAX,
        |layer| layer.running.lesson = u64::MAX,
        |layer| {
            let mut waiting = layer.pending.take().remove(&4).unwrap();
            (waiting.blueprint, waiting.weights) = (None, 0);
            layer.pending.insert(4, waiting);
        },
    ];
    files.extend(forgeries.into_iter().map(|mut forgery| forge(&mut forgery)));
    // The last moment of seed 1's optimiser, and its number of steps.
    for (steps, second) in [(3_u64, -1.0_f32), (3, f32::NAN), (1 << 52, 1.0)] {
        files.push(forge(&mut |layer| {
            let mut bytes = Vec::new();
            layer.store.optimisers[1].write(&mut bytes);
            bytes[..8].copy_from_slice(&steps.to_le_bytes());
            let last = bytes.len() - 4;
            bytes[last..].copy_from_slice(&second.to_le_bytes());
            layer.store.optimisers[1] = crate::adam::Adam::read(&bytes).unwrap().0;
        }));
    }
    for (number, file) in files.iter().enumerate() {
        let error = refused(&mut rig, file);
        assert!(error.contains("damaged"), "{number}: {error}");
    }
}

#[test]
fn finished_seeds_need_no_strategy_and_only_what_is_used_is_looked_up() {
    let mut rig = Rig::new(quick());
    let brought = Command {
        blueprint: None,
        blueprint_ir: Some(crate::blueprint::Blueprint::new("gone", crate::blueprint::Function::Mlp)),
        ..rig.command(1, Order::Germinate)
    };
    rig.layer.command(brought).unwrap();
    rig.epoch();
    rig.go(1, Lifecycle::Cancelled);
    rig.go(1, Lifecycle::Dormant);
    rig.drive(0, Lifecycle::Stabilization);
    rig.drive(2, Lifecycle::Fossilized);
    rig.drive(3, Lifecycle::Cancelled);
    let mut library = Library::standard();
    library.strategies = Strategies::empty();
    library.strategies.add(Box::new(crate::strategy::DriftControlled::default()));
    let config = Config { strategy: "drift_controlled".to_owned(), ..quick() };
    let mut other = Rig::with(config, library.shared());
    other.layer.restore(&rig.layer.save()).unwrap();
    assert_eq!([0, 2, 3].map(|seed| other.layer.state()[seed].strategy), [-1; 3]);
    sane(&mut other);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    /// A file whose digest is right but whose content is not may be taken or refused; it never panics, and a layer that
    /// took it works.
    #[test]
    fn a_forged_file_never_breaks_the_layer(place in 0.0..1.0_f64, value in any::<u8>(), cut in proptest::option::of(0.0..1.0_f64)) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a place in a small file")]
        let at = |share: f64, length: usize| (share * length as f64) as usize;
        let mut rig = lively();
        let mut bytes = rig.layer.save();
        let place = at(place, bytes.len() - 32);
        bytes[place] = value;
        if let Some(cut) = cut {
            let cut = at(cut, bytes.len() - 32);
            bytes.drain(cut..bytes.len() - 32);
        }
        let before = fingerprint(&rig.layer);
        if rig.layer.restore(&sealed(bytes)).is_err() {
            prop_assert!(fingerprint(&rig.layer) == before);
        }
        sane(&mut rig);
        let x = rig.rows(1);
        rig.output(&x);
        for seed in 0..5 {
            drop(rig.layer.rollback(seed, None, "try", &mut AllowAll));
        }
        rig.epoch();
        rig.output(&x);
        sane(&mut rig);
    }
}
