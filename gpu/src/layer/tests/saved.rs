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
    rig.layer.rollback(3, "to be reported", &mut AllowAll).unwrap();
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
        rig.layer.rollback(1, "after", &mut AllowAll).unwrap();
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
    other[8] = 2;
    assert!(refused(&mut rig, &sealed(other)).contains("it is of version Some(2), this build reads version 1"));
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
        let x = rig.rows(1);
        rig.output(&x);
        for seed in 0..5 {
            drop(rig.layer.rollback(seed, "try", &mut AllowAll));
        }
        rig.epoch();
        rig.output(&x);
    }
}
