//! The rule. This is the file to edit.
//!
//! A panic in here means that nothing is ordered; its message is in the log.

use crate::gavel::kasmina::types::{Gate, Lifecycle, Order, SeedView};
use crate::gavel::policy::config;
use crate::{Command, Metadata, Observation};
use serde::Deserialize;

/// The JSON Schema of the configuration.
const SCHEMA: &str = include_str!("../config.schema.json");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    blueprints: Vec<String>,
    #[serde(default = "every")]
    every: u64,
    #[serde(default = "growing_max")]
    growing_max: usize,
    #[serde(default = "patience")]
    patience: u32,
    strategy: Option<String>,
}

fn every() -> u64 {
    10
}

fn growing_max() -> usize {
    4
}

fn patience() -> u32 {
    200
}

pub(crate) fn describe() -> Metadata {
    Metadata {
        name: "cautious-tamiyo".into(),
        version: "0.1.0".into(),
        description: "Germinates one seed every so many epochs, and gives up early on those that do not learn.".into(),
        config_schema: Some(SCHEMA.into()),
    }
}

pub(crate) fn decide(observation: &Observation) -> Vec<Command> {
    let config: Config = serde_json::from_str(&config::get()).expect("the configuration fits the schema");
    let mut slots = observation.training_slots_free;
    let mut commands = Vec::new();
    for seed in &observation.seeds {
        let Some((order, reason)) = next(seed, &config) else { continue };
        if order == Order::Train {
            if slots == 0 {
                continue;
            }
            slots -= 1;
        }
        commands.push(command(seed.seed, order, reason));
    }
    commands.extend(germination(observation, &config));
    commands
}

/// What one seed should do next, and why.
fn next(seed: &SeedView, config: &Config) -> Option<(Order, String)> {
    match &seed.gate {
        Gate::Unstable(what) => Some((Order::Rollback, format!("unstable: {what}"))),
        Gate::Failed(why) => Some((Order::Cull, format!("failed: {why}"))),
        Gate::Open(to) => Some((order_to(*to), "its gate is open".into())),
        Gate::Shut(_) if seed.stage == Lifecycle::Training && seed.epochs_in_state >= config.patience => {
            let why = format!("it has not learned its chunk in {} epochs", seed.epochs_in_state);
            Some((Order::Cancel, why))
        }
        Gate::Shut(_) => None,
    }
}

/// One germination in every so many epochs, of the chunk that varies most, blueprints in turns.
fn germination(observation: &Observation, config: &Config) -> Option<Command> {
    let seed = *observation.candidates.first()?;
    if observation.epoch % config.every != 0 || observation.seeds.len() >= config.growing_max {
        return None;
    }
    let turn = (observation.epoch / config.every) % config.blueprints.len() as u64;
    Some(Command {
        blueprint: Some(config.blueprints[turn as usize].clone()),
        strategy: config.strategy.clone(),
        ..command(seed, Order::Germinate, "its chunk varies most".into())
    })
}

/// A command whose id the host makes.
fn command(seed: u32, order: Order, reason: String) -> Command {
    Command { id: String::new(), seed, order, blueprint: None, blueprint_ir: None, strategy: None, reason }
}

fn order_to(stage: Lifecycle) -> Order {
    match stage {
        Lifecycle::Dormant => Order::Release,
        Lifecycle::Germinated => Order::Germinate,
        Lifecycle::Training => Order::Train,
        Lifecycle::Grafting => Order::Graft,
        Lifecycle::Stabilization => Order::Stabilize,
        Lifecycle::Evaluating => Order::Evaluate,
        Lifecycle::FineTuning => Order::FineTune,
        Lifecycle::Fossilized => Order::Fossilize,
        Lifecycle::Culled => Order::Cull,
        Lifecycle::Cancelled => Order::Cancel,
        Lifecycle::RolledBack => Order::Rollback,
    }
}
