//! Rollbacks: back to the last checkpoint, bit for bit, at once.

use super::*;
use crate::blueprint::Outcome;

fn learn(rig: &mut Rig) {
    let x = rig.rows(3);
    let mut dx = vec![0.0; x.len()];
    rig.layer.backward(&x, 3, &x, &mut dx).unwrap();
    rig.layer.step().unwrap();
}

/// Weights, alpha, optimiser and trail of a seed, as bytes.
fn kept(layer: &Layer, seed: usize) -> Vec<u8> {
    let mut out = crate::checkpoint::codec::Writer::default();
    out.list(&layer.store.weights[seed], |out, &weight| out.f32(weight));
    out.f32(layer.store.alpha[seed]);
    out.adam(&layer.store.optimisers[seed]);
    out.option(layer.store.trails[seed].as_deref(), |out, trail| trail.write(out));
    out.into_bytes()
}

#[test]
fn everything_is_as_at_the_last_boundary() {
    let mut rig = Rig::new(quick());
    rig.drive(1, Lifecycle::Grafting);
    rig.wake(1);
    for _ in 0..2 {
        learn(&mut rig);
        rig.epoch();
    }
    let (before, row) = (kept(&rig.layer, 1), rig.layer.state()[1]);
    learn(&mut rig);
    rig.layer.store.fail(1, "it errs");
    assert_ne!(kept(&rig.layer, 1), before);
    assert_eq!(rig.layer.rollback(1, None, "it errs", &mut AllowAll).unwrap(), Ruling::Allowed);
    assert!(kept(&rig.layer, 1) == before, "weights, alpha, optimiser and trail");
    let after = rig.layer.state()[1];
    assert_eq!(
        (after.lifecycle(), after.parent(), after.epochs_in_state),
        (Lifecycle::RolledBack, Lifecycle::Grafting, 0)
    );
    assert_eq!((after.blueprint, after.strategy, after.errors), (row.blueprint, row.strategy, row.errors));
    let number = i32::try_from(rig.layer.epoch() - 1).unwrap();
    assert_eq!((row.checkpoint, after.checkpoint), (number, number));
    rig.layer.step().unwrap();
    assert!(kept(&rig.layer, 1) == before, "gradients of before do not reach it");
    let report = rig.epoch();
    assert_eq!(report.rollbacks.len(), 1);
    assert_eq!((report.rollbacks[0].from, report.rollbacks[0].checkpoint), (Lifecycle::Grafting, number));
    assert_eq!(report.field_reports[0].outcome, Outcome::RolledBack);
    assert!(rig.epoch().rollbacks.is_empty(), "reported once");
}

#[test]
fn a_rollback_skips_minima_and_needs_its_stages() {
    for stage in Lifecycle::ALL {
        let mut rig = Rig::new(quick());
        rig.drive(0, stage);
        let before = fingerprint(&rig.layer);
        let denied = rig.layer.rollback(0, None, "no", &mut DenyAll);
        assert!(fingerprint(&rig.layer) == before, "{stage}");
        let found = rig.layer.rollback(0, None, "yes", &mut AllowAll);
        let grows = (2..=6).contains(&stage.number());
        assert_eq!((denied.is_ok(), found.is_ok()), (grows, grows), "{stage}");
        assert_eq!(rig.stage(0), if grows { Lifecycle::RolledBack } else { stage });
    }
}

#[test]
fn a_governor_without_an_answer_denies() {
    struct Silent;
    impl Governor for Silent {
        fn judge(&mut self, asked: &[Transition]) -> Vec<Ruling> {
            assert_eq!(asked[0].command_id, "asked-1");
            Vec::new()
        }
    }
    let mut rig = Rig::new(quick());
    rig.drive(0, Lifecycle::Training);
    let before = fingerprint(&rig.layer);
    let ruling = rig.layer.rollback(0, Some("asked-1"), "why", &mut Silent).unwrap();
    assert_eq!(ruling, Ruling::Denied("the governor gave no ruling".to_owned()));
    assert!(fingerprint(&rig.layer) == before);
}

#[test]
fn a_checkpoint_that_is_spoilt_itself_is_passed_over() {
    let mut rig = Rig::new(quick());
    rig.drive(1, Lifecycle::Grafting);
    rig.wake(1);
    rig.epoch();
    let sound = bits(rig.layer.weights(1));
    for _ in 0..3 {
        rig.layer.store.weights[1][0] = f32::NAN;
        rig.layer.store.worn[1] = true;
        rig.epoch();
    }
    rig.layer.rollback(1, None, "late", &mut AllowAll).unwrap();
    assert_eq!(bits(rig.layer.weights(1)), sound);
}

#[test]
fn a_rollback_into_an_earlier_stage_leaves_the_slots_counted() {
    let mut rig = Rig::new(quick());
    rig.drive(1, Lifecycle::Training);
    rig.epoch();
    rig.epoch();
    rig.satisfy(1);
    let sound = bits(rig.layer.weights(1));
    rig.order(1, Order::Graft).unwrap();
    rig.layer.store.weights[1][0] = f32::NAN;
    rig.layer.store.worn[1] = true;
    rig.epoch();
    assert_eq!((rig.stage(1), rig.layer.observe(rig.task).training_slots_free), (Lifecycle::Grafting, 2));
    rig.layer.rollback(1, None, "late", &mut AllowAll).unwrap();
    assert_eq!(rig.layer.state()[1].parent(), Lifecycle::Training, "the last sound checkpoint is of that stage");
    assert_eq!(bits(rig.layer.weights(1)), sound);
    assert_eq!(rig.layer.observe(rig.task).training_slots_free, 2);
}

#[test]
fn no_more_checkpoints_are_kept_than_configured_and_they_share() {
    let mut rig = Rig::new(Config { checkpoints_kept: 3, ..quick() });
    rig.drive(0, Lifecycle::Grafting);
    for _ in 0..6 {
        rig.epoch();
    }
    let all: Vec<_> = rig.layer.ring.snapshots().collect();
    assert_eq!(all.len(), 3);
    assert!(all.windows(2).all(|pair| Arc::ptr_eq(&pair[0].weights, &pair[1].weights)), "nothing was learnt");
    rig.wake(0);
    learn(&mut rig);
    rig.epoch();
    let all: Vec<_> = rig.layer.ring.snapshots().collect();
    assert!(!Arc::ptr_eq(&all[1].weights, &all[2].weights));
    assert_eq!(bits(&all[2].weights), bits(rig.layer.weights(0)));
}

#[test]
fn a_waiting_command_lapses_and_one_can_be_a_rollback() {
    let mut rig = Rig::new(quick());
    rig.drive(0, Lifecycle::Training);
    rig.drive(1, Lifecycle::Training);
    rig.epoch();
    rig.epoch();
    rig.order(0, Order::Cancel).unwrap();
    rig.order(1, Order::Rollback).unwrap();
    rig.layer.rollback(0, None, "at once", &mut AllowAll).unwrap();
    assert_eq!((rig.stage(0), rig.stage(1)), (Lifecycle::RolledBack, Lifecycle::Training));
    let report = rig.epoch();
    assert_eq!(rig.stage(1), Lifecycle::RolledBack);
    assert_eq!(report.rollbacks.iter().map(|rollback| rollback.seed).collect::<Vec<_>>(), [0, 1]);
    assert_eq!((report.lapsed[0].seed, report.lapsed[0].to), (0, Lifecycle::Cancelled));
    assert_eq!(report.transitions.len(), 1);
    assert_eq!(report.field_reports.len(), 2);
}
