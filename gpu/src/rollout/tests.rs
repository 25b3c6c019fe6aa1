//! The properties of a rollout: who is moved, when, and that a reversion takes everybody back.

use super::*;
use proptest::prelude::*;

fn start(schedule: Schedule) -> Change {
    Change::Start { candidate: "new".to_owned(), schedule, gates: gates() }
}

fn gates() -> Gates {
    Gates { passes_min: 10, ..Gates::default() }
}

fn started(schedule: Schedule) -> Rollout {
    let mut rollout = Rollout::new("old");
    rollout.apply(&start(schedule), "operator", "a better strategy", 0).unwrap();
    rollout
}

fn pass(rollout: &mut Rollout, layer: &str, count: u32, failed: bool) {
    for _ in 0..count {
        rollout.observe(layer, &Sample { failed, latency_us: 100.0 });
    }
}

fn models() -> impl Iterator<Item = String> {
    (0..10_000).map(|number| format!("model-{number}"))
}

#[allow(clippy::cast_precision_loss, reason = "ten thousand models")]
fn share_of_candidate(rollout: &Rollout) -> f64 {
    models().filter(|model| rollout.layer(model) == "new").count() as f64 / 10_000.0
}

#[test]
fn a_canary_grows_by_weekly_steps_until_it_has_all_models() {
    let mut rollout = started(Schedule::default());
    let mut shares = vec![rollout.share()];
    for week in 1..=10 {
        let now_ms = week * WEEK_MS;
        pass(&mut rollout, "new", 10, false);
        assert_eq!(rollout.due(now_ms - 1), None, "a millisecond too early");
        let (change, why) = rollout.due(now_ms).unwrap();
        assert_eq!(rollout.apply(&change, "schedule", &why, now_ms).unwrap().change, Act::Grow);
        shares.push(rollout.share());
        assert!((share_of_candidate(&rollout) - rollout.share()).abs() < 0.02, "week {week}");
    }
    let expected = [0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95, 1.0];
    assert!(shares.iter().zip(expected).all(|(share, expected)| (share - expected).abs() < 1e-9), "{shares:?}");
    assert_eq!(rollout.due(u64::MAX), None, "there is no step beyond all");
    assert!(rollout.apply(&Change::Grow, "schedule", "", 0).is_err());
    rollout.apply(&Change::Promote, "operator", "", u64::MAX).unwrap();
    assert_eq!((rollout.incumbent(), rollout.previous(), rollout.trial()), ("new", Some("old"), None));
    rollout.apply(&Change::Revert, "operator", "after all", u64::MAX).unwrap();
    assert_eq!((rollout.incumbent(), rollout.previous()), ("old", None));
    assert_eq!(rollout.history().len(), 13);
}

#[test]
fn nothing_grows_that_was_not_seen_and_nothing_jumps() {
    let mut rollout = started(Schedule::default());
    assert_eq!(rollout.due(50 * WEEK_MS), None, "no model has used it yet");
    pass(&mut rollout, "new", 100, false);
    let (change, why) = rollout.due(50 * WEEK_MS).unwrap();
    rollout.apply(&change, "schedule", &why, 50 * WEEK_MS).unwrap();
    assert!((rollout.share() - 0.15).abs() < 1e-9, "a year late, it is one step");
    pass(&mut rollout, "new", 9, false);
    assert_eq!(rollout.due(60 * WEEK_MS), None, "too few passes since the last step");
    pass(&mut rollout, "new", 1, false);
    assert!(rollout.due(60 * WEEK_MS).is_some());
}

#[test]
fn a_candidate_that_fails_is_reverted_before_it_could_grow() {
    let mut rollout = started(Schedule::default());
    pass(&mut rollout, "new", 100, false);
    pass(&mut rollout, "new", 3, true);
    let (change, why) = rollout.due(WEEK_MS).unwrap();
    assert_eq!(change, Change::Revert);
    assert!(why.starts_with("3 of the candidate's 103 passes failed"), "{why}");
    rollout.apply(&change, "gates", &why, WEEK_MS).unwrap();
    assert!(models().all(|model| rollout.layer(&model) == "old"));
    let last = rollout.history().last().unwrap();
    assert_eq!((last.change, last.by.as_str(), last.candidate.as_deref()), (Act::Revert, "gates", Some("new")));
    assert!((last.share_before - 0.05).abs() < 1e-9 && last.share < 1e-9);
}

#[test]
fn with_a_step_of_nothing_it_is_an_a_b_test() {
    let mut rollout = started(Schedule { canary: 0.5, step: 0.0, every_ms: 1 });
    pass(&mut rollout, "new", 1_000, false);
    assert_eq!(rollout.due(u64::MAX), None);
    assert!((share_of_candidate(&rollout) - 0.5).abs() < 0.02);
    let error = rollout.apply(&Change::Promote, "operator", "", 1).unwrap_err().to_string();
    assert_eq!(error, "candidate = new: it has a share of 0.5: it is promoted when it has all models");
}

#[test]
fn what_cannot_be_changed_now_is_refused_and_changes_nothing() {
    let other = Change::Start { candidate: "other".to_owned(), schedule: Schedule::default(), gates: gates() };
    let same = Change::Start { candidate: "old".to_owned(), schedule: Schedule::default(), gates: gates() };
    let zero = start(Schedule { canary: 0.0, ..Schedule::default() });
    let never = start(Schedule { every_ms: 0, ..Schedule::default() });
    let back = start(Schedule { step: -0.1, ..Schedule::default() });
    let idle = Rollout::new("old");
    let trying = started(Schedule::default());
    for (rollout, change, why) in [
        (&trying, &other, "candidate = other: `new` is being tried: promote or revert it first"),
        (&idle, &same, "candidate = old: it is the incumbent: name another layer"),
        (&idle, &Change::Grow, "candidate = none: nothing is being tried: start a rollout first"),
        (&idle, &Change::Promote, "candidate = none: nothing is being tried: start a rollout first"),
        (
            &idle,
            &Change::Revert,
            "candidate = none: nothing is being tried and nothing was promoted: there is nothing to go back to",
        ),
        (&idle, &zero, "schedule.canary = 0: it is a share, above 0 and at most 1"),
        (&idle, &never, "schedule.every_ms = 0: it must be at least 1"),
        (&idle, &back, "schedule.step = -0.1: it is a share, from 0 to 1"),
    ] {
        let mut after = rollout.clone();
        assert_eq!(after.apply(change, "operator", "", 1).unwrap_err().to_string(), why);
        assert_eq!(&after, rollout);
    }
}

#[test]
fn it_is_the_same_after_it_was_kept() {
    let mut rollout = started(Schedule::default());
    pass(&mut rollout, "new", 7, false);
    rollout.measure("old", 0.25);
    let kept = serde_json::to_string(&rollout).unwrap();
    assert_eq!(serde_json::from_str::<Rollout>(&kept).unwrap(), rollout);
}

#[test]
fn counts_that_are_halved_do_not_hold_growth_up() {
    // The least that is allowed: after 20 passes counts are halved, and the next step waits for 10.
    let gates = Gates { passes_min: 10, remembered: 20, ..Gates::default() };
    let schedule = Schedule { canary: 0.01, step: 0.01, every_ms: 1 };
    let mut rollout = Rollout::new("old");
    let start = Change::Start { candidate: "new".to_owned(), schedule, gates };
    rollout.apply(&start, "operator", "", 0).unwrap();
    for now_ms in 1..50 {
        pass(&mut rollout, "new", 10, false);
        let (change, why) = rollout.due(now_ms).unwrap();
        rollout.apply(&change, "schedule", &why, now_ms).unwrap();
    }
}

#[test]
fn what_was_kept_is_checked() {
    let kept = serde_json::to_value(started(Schedule::default())).unwrap();
    for (place, value, says) in [
        ("/trial/schedule/canary", 0.0, "schedule.canary = 0"),
        ("/trial/gates/latency_ratio", 0.5, "gates.latency_ratio = 0.5"),
        ("/trial/candidate_health/errors", 3.0, "candidate_health"),
    ] {
        let mut kept = kept.clone();
        *kept.pointer_mut(place).unwrap() = value.into();
        let error = serde_json::from_value::<Rollout>(kept).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn the_history_is_bounded() {
    let mut rollout = Rollout::new("old");
    for at_ms in 0..200 {
        rollout.apply(&start(Schedule::default()), "operator", "", at_ms).unwrap();
        rollout.apply(&Change::Revert, "operator", "", at_ms).unwrap();
    }
    assert_eq!(rollout.history().len(), HISTORY_MAX);
    assert_eq!(rollout.history().next().unwrap().at_ms, 72);
}

#[test]
fn late_passes_of_a_layer_on_neither_side_do_not_count() {
    let mut rollout = started(Schedule::default());
    pass(&mut rollout, "gone", 100, true);
    assert_eq!(rollout.due(0), None);
    assert_eq!(rollout.trial().unwrap().candidate_health, Health::default());
}

proptest! {
    #[test]
    fn growing_moves_models_one_way_only(canary in 0.001..1.0_f64, step in 0.0..1.0_f64, model in ".{0,40}") {
        let mut rollout = started(Schedule { canary, step, every_ms: 1 });
        let mut side = rollout.side(&model);
        while rollout.apply(&Change::Grow, "schedule", "", 1).is_ok() {
            let next = rollout.side(&model);
            prop_assert!(side == Side::Incumbent || next == Side::Candidate, "{model} went back");
            prop_assert_eq!(next, rollout.side(&model), "asked again");
            side = next;
            if rollout.history().len() > 100 { break; }
        }
        if rollout.share() >= 1.0 {
            prop_assert_eq!(side, Side::Candidate);
        }
        rollout.apply(&Change::Revert, "operator", "", 1).unwrap();
        prop_assert_eq!(rollout.side(&model), Side::Incumbent);
        prop_assert_eq!(rollout.layer(&model), "old");
    }

    #[test]
    fn the_share_never_grows_early_nor_by_more_than_a_step(
        looks in proptest::collection::vec((0..3_000_u64, 0..30_u32), 1..60),
    ) {
        let schedule = Schedule { canary: 0.1, step: 0.2, every_ms: 1_000 };
        let mut rollout = started(schedule);
        let (mut now_ms, mut grown_ms) = (0, 0);
        for (later_ms, passes) in looks {
            now_ms += later_ms;
            pass(&mut rollout, "new", passes, false);
            let before = rollout.share();
            let Some((change, why)) = rollout.due(now_ms) else { continue };
            prop_assert_eq!(&change, &Change::Grow);
            prop_assert!(now_ms - grown_ms >= schedule.every_ms);
            rollout.apply(&change, "schedule", &why, now_ms).unwrap();
            prop_assert!(rollout.share() > before && rollout.share() <= before + 0.2 + 1e-9);
            grown_ms = now_ms;
        }
    }
}
