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
    assert_eq!(lock(rig.layer.library()).blueprints.record(&blueprint.id()).unwrap().used, 1);
    let wrong = Command { blueprint: Some("mlp".to_owned()), ..rig.command(0, Order::Train) };
    assert!(refused(&mut rig, wrong).contains("it does not grow blueprint `mlp`"));
}

#[test]
fn a_layer_holds_so_many_blueprints_and_uses_their_places_again() {
    let mut rig = Rig::new(Config { blueprints_max: 2, ..quick() });
    let brought = |rig: &mut Rig, seed: usize, rank: usize| {
        let blueprint = Blueprint::new("brought", Function::Adapter { rank });
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
