//! Commands: what is refused and why, what comes twice, what waits.

use super::*;
use crate::blueprint::{Blueprint, Function};

/// What a refused command says; and that it left the layer alone.
fn refused(rig: &mut Rig, command: Command) -> String {
    let before = fingerprint(&rig.layer);
    let error = rig.layer.command(command).unwrap_err().to_string();
    assert!(fingerprint(&rig.layer) == before, "a refused command changes nothing: {error}");
    error
}

#[test]
fn what_is_not_there_is_named() {
    let mut rig = Rig::new(quick());
    let germinate = rig.command(0, Order::Germinate);
    let with = |change: &dyn Fn(&mut Command)| {
        let mut command = germinate.clone();
        change(&mut command);
        command
    };
    for (command, says) in [
        (with(&|c| c.seed = 5), "layer `tested` has no seed 5: its seeds are 0 to 4"),
        (
            with(&|c| c.blueprint = Some("tower".to_owned())),
            "blueprint `tower` is not registered; registered are: adapter",
        ),
        (with(&|c| c.blueprint = None), "the command names no blueprint"),
        (with(&|c| c.strategy = Some("jump".to_owned())), "grafting strategy `jump` is not registered"),
        (
            with(&|c| c.order = Order::Fossilize),
            "seed 0 cannot go from DORMANT to FOSSILIZED: DORMANT leads to GERMINATED only",
        ),
        (with(&|c| c.id = String::new()), "it has no id"),
        (with(&|c| c.blueprint_ir = Some(Blueprint::new("Bad Name", Function::Mlp))), "a name has 1 to 64 characters"),
        (
            with(&|c| c.blueprint_ir = Some(Blueprint::new("mlp", Function::ResidualScale))),
            "blueprint `mlp`: the name belongs to the description",
        ),
        (with(&|c| c.id = "i".repeat(257)), "its id has 257 bytes, at most 256 are allowed"),
        (with(&|c| c.reason = "r".repeat(4_097)), "its reason has 4097 bytes, at most 4096 are allowed"),
        (
            with(&|c| (c.order, c.strategy) = (Order::Train, Some("fixed_ramp".to_owned()))),
            "it leads to TRAINING and carries a strategy",
        ),
        (
            with(&|c| (c.order, c.blueprint_ir) = (Order::Graft, Some(Blueprint::new("new", Function::Mlp)))),
            "it leads to GRAFTING and carries a description",
        ),
    ] {
        let error = refused(&mut rig, command);
        assert!(error.contains(says), "{error} does not say: {says}");
    }
}

#[test]
fn a_command_that_comes_twice_is_done_once() {
    let mut rig = Rig::new(Config { command_ids_kept: 2, ..quick() });
    let command = rig.command(0, Order::Germinate);
    rig.layer.command(command.clone()).unwrap();
    rig.layer.command(command.clone()).unwrap();
    assert_eq!(rig.epoch().transitions.len(), 1);
    let before = fingerprint(&rig.layer);
    rig.layer.command(command.clone()).unwrap();
    assert!(fingerprint(&rig.layer) == before, "it landed already");
    let otherwise = Command { reason: "another".to_owned(), ..command.clone() };
    let error = refused(&mut rig, otherwise);
    assert!(error.contains("to send seed 0 to GERMINATED, but otherwise"), "{error}");
    let other = Command { seed: 1, ..command.clone() };
    let error = refused(&mut rig, other.clone());
    assert!(error.contains("its id was used before, to send seed 0 to GERMINATED"), "{error}");
    rig.order(2, Order::Germinate).unwrap();
    rig.order(3, Order::Germinate).unwrap();
    rig.layer.command(other).unwrap();
    assert_eq!(rig.epoch().transitions.len(), 3, "no more ids are remembered than the limit says");
}

#[test]
fn a_seed_takes_one_command_an_epoch() {
    let mut rig = Rig::new(quick());
    rig.drive(0, Lifecycle::Germinated);
    rig.order(0, Order::Train).unwrap();
    let second = rig.command(0, Order::Cancel);
    let error = refused(&mut rig, second);
    assert!(error.contains("command `command-2` for TRAINING waits for the boundary already"), "{error}");
}

#[test]
fn slots_limit_the_seeds_in_training() {
    let mut rig = Rig::new(quick());
    for seed in 0..4 {
        rig.drive(seed, Lifecycle::Germinated);
    }
    rig.order(3, Order::Train).unwrap();
    rig.order(0, Order::Train).unwrap();
    assert_eq!(rig.layer.observe(rig.task).training_slots_free, 0);
    let third = rig.command(1, Order::Train);
    assert!(refused(&mut rig, third).contains("no training slot is free"));
    rig.epoch();
    let third = rig.command(1, Order::Train);
    assert!(refused(&mut rig, third).contains("no training slot is free"));
    rig.go(3, Lifecycle::Cancelled);
    rig.order(1, Order::Train).unwrap();
}

#[test]
fn a_description_in_a_command_is_registered() {
    let mut rig = Rig::new(quick());
    let blueprint = Blueprint::new("brought", Function::Adapter { rank: 3 });
    let command =
        Command { blueprint: None, blueprint_ir: Some(blueprint.clone()), ..rig.command(0, Order::Germinate) };
    rig.layer.command(command).unwrap();
    let report = rig.epoch();
    assert_eq!(report.transitions[0].0.blueprint_id, Some(blueprint.id()));
    assert_eq!(report.transitions[0].0.weights, blueprint.function.weights(5));
    assert_eq!(rig.layer.weights(0).len(), blueprint.function.weights(5));
    assert!(lock(rig.layer.library()).blueprints.record(&blueprint.id()).is_some());
    let wrong = Command { blueprint: Some("mlp".to_owned()), ..rig.command(0, Order::Train) };
    assert!(refused(&mut rig, wrong).contains("it does not grow blueprint `mlp`"));
}

#[test]
fn a_command_that_came_to_nothing_may_come_again() {
    let mut rig = Rig::new(quick());
    let command = rig.command(0, Order::Germinate);
    rig.layer.command(command.clone()).unwrap();
    rig.layer.end_epoch(rig.task, &mut DenyAll).unwrap();
    rig.layer.command(command).unwrap();
    assert_eq!(rig.epoch().landed.len(), 1, "denied once, then allowed");
    rig.drive(1, Lifecycle::Training);
    rig.epoch();
    let cancel = rig.command(1, Order::Cancel);
    rig.layer.command(cancel.clone()).unwrap();
    rig.layer.rollback(1, None, "it lapses", &mut AllowAll).unwrap();
    assert!(refused(&mut rig, cancel).contains("ROLLED_BACK leads nowhere"), "it lapsed, and is judged anew");
}

#[test]
fn a_denied_germination_leaves_the_library_alone() {
    let mut rig = Rig::new(quick());
    let before = format!("{:?}", lock(rig.layer.library()).blueprints);
    let bring = |rig: &mut Rig, seed: usize, rank: usize| {
        let blueprint = Blueprint::new("brought", Function::Adapter { rank });
        Command { blueprint: None, blueprint_ir: Some(blueprint), ..rig.command(seed, Order::Germinate) }
    };
    let first = bring(&mut rig, 0, 3);
    rig.layer.command(first.clone()).unwrap();
    let second = bring(&mut rig, 1, 4);
    assert!(refused(&mut rig, second).contains("the name belongs to the description"), "one waits already");
    let saved = rig.layer.save();
    rig.layer.end_epoch(rig.task, &mut DenyAll).unwrap();
    assert_eq!(format!("{:?}", lock(rig.layer.library()).blueprints), before);
    // A waiting command brings its description along, also from a file.
    rig.layer.restore(&saved).unwrap();
    assert_eq!(format!("{:?}", lock(rig.layer.library()).blueprints), before);
    assert_eq!(rig.epoch().landed.len(), 1);
    assert_eq!(lock(rig.layer.library()).blueprints.find("brought").unwrap().function, Function::Adapter { rank: 3 });
    // Where the name was given away meanwhile the command lapses.
    let late = Command { blueprint_ir: Some(Blueprint::new("late", Function::Mlp)), ..bring(&mut rig, 1, 1) };
    rig.layer.command(late).unwrap();
    lock(rig.layer.library()).blueprints.add(Blueprint::new("late", Function::ResidualScale)).unwrap();
    let report = rig.epoch();
    assert!(report.transitions.is_empty() && report.lapsed[0].reason.contains("the name belongs to"), "{report:?}");
}

#[test]
fn weights_are_limited_for_a_seed_and_for_the_layer() {
    // Chunk 0 is 5 wide: a residual scale has 10 weights there, an mlp 655; chunks 3 and 4 are 4 wide: 8 weights.
    let config = Config { seed_weights_max: 654, weights_max: 27, ..quick() };
    let mut rig = Rig::new(config.clone());
    let large = Command { blueprint: Some("mlp".to_owned()), ..rig.command(0, Order::Germinate) };
    let error = refused(&mut rig, large);
    assert!(error.contains("655 weights on the seed's 5 columns, a seed may have 654 (`seed_weights_max`)"), "{error}");
    rig.order(0, Order::Germinate).unwrap();
    rig.epoch();
    rig.order(3, Order::Germinate).unwrap();
    assert_eq!(rig.layer.observe(rig.task).weights_free, 9);
    let third = rig.command(1, Order::Germinate);
    let error = refused(&mut rig, third);
    assert!(error.contains("of the layer's 27 (`weights_max`) 9 are free"), "{error}");
    let waiting = rig.layer.save();
    rig.epoch();
    let landed = rig.layer.save();
    for (config, file, says) in [
        (Config { weights_max: 17, ..config.clone() }, &waiting, "germinates 8 weights"),
        (Config { weights_max: 17, ..config.clone() }, &landed, "its seeds have 18 weights"),
        (Config { seed_weights_max: 9, ..config.clone() }, &landed, "seed 0 has 10 weights"),
    ] {
        let error = Rig::with(config, rig.layer.library().clone()).layer.restore(file).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    for _ in 0..2 {
        rig.go(0, Lifecycle::Cancelled);
        rig.go(0, Lifecycle::Dormant);
        assert_eq!(rig.layer.observe(rig.task).weights_free, 19, "what is released is free again");
        rig.go(0, Lifecycle::Germinated);
    }
    let wide = Config { gates: quick().gates, ..Config::legacy("wide", 65_536) };
    let mut wide = Rig::new(wide);
    let huge = Command { blueprint: Some("mlp".to_owned()), ..wide.command(0, Order::Germinate) };
    assert!(wide.layer.command(huge).unwrap_err().to_string().contains("103079936000 weights"));
}

#[test]
fn a_layer_holds_so_many_blueprints_and_uses_their_places_again() {
    let mut rig = Rig::new(Config { blueprints_max: 2, ..quick() });
    let brought = |rig: &mut Rig, seed: usize, rank: usize| {
        let blueprint = Blueprint::new(&format!("brought-{rank}"), Function::Adapter { rank });
        Command { blueprint: None, blueprint_ir: Some(blueprint), ..rig.command(seed, Order::Germinate) }
    };
    for seed in 0..2 {
        let command = brought(&mut rig, seed, seed + 1);
        rig.layer.command(command).unwrap();
    }
    let third = brought(&mut rig, 2, 3);
    assert!(refused(&mut rig, third).contains("2 different blueprints"));
    rig.epoch();
    let third = brought(&mut rig, 2, 3);
    assert!(refused(&mut rig, third).contains("2 different blueprints"));
    let known = brought(&mut rig, 2, 2);
    rig.layer.command(known).unwrap();
    rig.go(0, Lifecycle::Cancelled);
    rig.go(0, Lifecycle::Dormant);
    let third = brought(&mut rig, 0, 3);
    rig.layer.command(third).unwrap();
    rig.epoch();
    assert_eq!(rig.layer.view().blueprints.len(), 2);
    let width = rig.layer.chunks().width_of(0);
    assert_eq!(rig.layer.weights(0).len(), Function::Adapter { rank: 3 }.weights(width));
    assert_eq!(rig.layer.weights(1).len(), Function::Adapter { rank: 2 }.weights(width));
}

#[test]
fn a_graft_can_choose_its_strategy() {
    let mut rig = Rig::new(quick());
    rig.drive(0, Lifecycle::Training);
    rig.satisfy(0);
    rig.epoch();
    rig.epoch();
    let graft = Command { strategy: Some("drift_controlled".to_owned()), ..rig.command(0, Order::Graft) };
    rig.layer.command(graft).unwrap();
    assert_eq!(rig.epoch().transitions[0].0.strategy.as_deref(), Some("drift_controlled"));
    assert_eq!(rig.layer.observe(rig.task).seeds[0].strategy.as_deref(), Some("drift_controlled"));
}

#[test]
fn a_configuration_that_cannot_be_used_is_refused_by_name() {
    for (config, says) in [
        (Config { seeds: 3, ..quick() }, "3 seeds cannot tile a layer of width 23: a layer has from 4 seeds"),
        (Config { seeds: 24, ..quick() }, "24 seeds cannot tile"),
        (Config { mode: Mode::Legacy, ..quick() }, "seeds = 5: the legacy mode has one seed"),
        (Config { id: String::new(), ..quick() }, "id = "),
        (Config { checkpoints_kept: 0, ..quick() }, "checkpoints_kept = 0"),
        (Config { checkpoints_kept: 1_001, ..quick() }, "checkpoints_kept = 1001: it must be at most 1000"),
        (Config { candidates_max: usize::MAX, ..quick() }, "candidates_max = "),
        (Config { command_ids_kept: usize::MAX, ..quick() }, "command_ids_kept = "),
        (Config { blueprints_max: usize::MAX, ..quick() }, "blueprints_max = "),
        (Config { seed_weights_max: 0, ..quick() }, "seed_weights_max = 0"),
        (Config { strategy: "jump".to_owned(), ..quick() }, "grafting strategy `jump` is not registered"),
    ] {
        let new =
            Layer::new(config, Library::standard().shared(), Box::new(Plain::default()), Box::new(Plain::default()));
        let error = new.unwrap_err().to_string();
        assert!(error.contains(says), "{error} does not say: {says}");
    }
    assert!(serde_json::from_str::<Config>(r#"{"with": 3}"#).is_err());
    assert_eq!(serde_json::from_str::<Config>("{}").unwrap(), Config::default());
}
