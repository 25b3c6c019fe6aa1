//! The layer's words (`kasmina`) in those of the contract (`wit/kasmina/kasmina.wit`), and what comes back.

use gavel_runtime::kasmina as contract;
use kasmina::blueprint::Blueprint;
use kasmina::govern::{Command, Order};
use kasmina::observe::{Evaluation, Gate, Observation, SeedView};
use kasmina::state::Lifecycle;
use kasmina::strategy::StrategyInput;
use kasmina::telemetry::SeedTelemetry;

/// A seed for its strategy.
pub(super) fn strategy_input(seed: &StrategyInput) -> contract::StrategyInput {
    contract::StrategyInput {
        // A layer has far fewer seeds than that; the number is for the log only.
        seed: u32::try_from(seed.seed).unwrap_or(u32::MAX),
        alpha: seed.alpha,
        steps: seed.steps,
        epochs_in_state: seed.epochs_in_state,
        task_loss: seed.task_loss,
        drifts: seed.drifts.clone(),
        gradient_norm: seed.gradient_norm,
        baseline_loss: seed.baseline_loss,
        pause_left: seed.pause_left,
    }
}

/// A layer for Tamiyo.
///
/// # Errors
/// If it has more seeds than the contract can number.
pub(super) fn observation(seen: &Observation) -> Result<contract::Observation, String> {
    Ok(contract::Observation {
        layer_id: seen.layer_id.clone(),
        epoch: seen.epoch,
        task: contract::TaskSignals { loss: seen.task.loss, metric: seen.task.metric },
        seed_count: number(seen.seed_count)?,
        training_slots_free: u32::try_from(seen.training_slots_free).unwrap_or(u32::MAX),
        candidates: seen.candidates.iter().map(|seed| number(*seed)).collect::<Result<_, _>>()?,
        seeds: seen.seeds.iter().map(seed_view).collect::<Result<_, _>>()?,
    })
}

fn number(seed: usize) -> Result<u32, String> {
    u32::try_from(seed).map_err(|_| format!("seed number {seed} is more than a component can be told"))
}

fn seed_view(seed: &SeedView) -> Result<contract::SeedView, String> {
    Ok(contract::SeedView {
        seed: number(seed.seed)?,
        stage: lifecycle(seed.stage),
        epochs_in_state: seed.epochs_in_state,
        blueprint_id: seed.blueprint_id.clone(),
        strategy: seed.strategy.clone(),
        alpha: seed.alpha,
        gate: gate(&seed.gate),
        telemetry: telemetry(&seed.telemetry),
        gradient_norm: seed.gradient_norm,
        denoising_loss: seed.denoising_loss,
        evaluation: seed.evaluation.map(evaluation),
        stability: seed.stability,
        errors: seed.errors,
    })
}

fn lifecycle(stage: Lifecycle) -> contract::Lifecycle {
    use contract::Lifecycle as To;
    match stage {
        Lifecycle::Dormant => To::Dormant,
        Lifecycle::Germinated => To::Germinated,
        Lifecycle::Training => To::Training,
        Lifecycle::Grafting => To::Grafting,
        Lifecycle::Stabilization => To::Stabilization,
        Lifecycle::Evaluating => To::Evaluating,
        Lifecycle::FineTuning => To::FineTuning,
        Lifecycle::Fossilized => To::Fossilized,
        Lifecycle::Culled => To::Culled,
        Lifecycle::Cancelled => To::Cancelled,
        Lifecycle::RolledBack => To::RolledBack,
    }
}

fn gate(gate: &Gate) -> contract::Gate {
    match gate {
        Gate::Open { to } => contract::Gate::Open(lifecycle(*to)),
        Gate::Shut { waits_for } => contract::Gate::Shut(waits_for.clone()),
        Gate::Failed { reason } => contract::Gate::Failed(reason.clone()),
        Gate::Unstable { reason } => contract::Gate::Unstable(reason.clone()),
    }
}

fn telemetry(of: &SeedTelemetry) -> contract::SeedTelemetry {
    contract::SeedTelemetry {
        mean: of.mean,
        variance: of.variance,
        min: of.min,
        max: of.max,
        sparsity: of.sparsity,
        dead_ratio: of.dead_ratio,
        correlation: of.correlation,
        drift: of.drift,
    }
}

fn evaluation(of: Evaluation) -> contract::Evaluation {
    contract::Evaluation { delta: of.delta, improvement: of.improvement, error_rate: of.error_rate }
}

/// A command that `tamiyo` gave at the end of `epoch`. Without an id of its own it gets one that no other epoch, seed or
/// order has.
///
/// # Errors
/// If it carries a blueprint that is none.
pub(super) fn command(given: contract::Command, tamiyo: &str, epoch: u64) -> Result<Command, String> {
    let order = order(given.order);
    let told = |why| format!("command {:?} for seed {}: {why}", given.id, given.seed);
    let blueprint_ir = given.blueprint_ir.as_deref().map(Blueprint::parse).transpose().map_err(told)?;
    let id = if given.id.is_empty() { format!("{tamiyo}/{epoch}/{}/{}", given.seed, word(order)) } else { given.id };
    Ok(Command {
        id,
        seed: given.seed as usize,
        order,
        blueprint: given.blueprint,
        blueprint_ir,
        strategy: given.strategy,
        reason: given.reason,
    })
}

fn order(order: contract::Order) -> Order {
    use contract::Order as From;
    match order {
        From::Germinate => Order::Germinate,
        From::Train => Order::Train,
        From::Graft => Order::Graft,
        From::Stabilize => Order::Stabilize,
        From::Evaluate => Order::Evaluate,
        From::FineTune => Order::FineTune,
        From::Fossilize => Order::Fossilize,
        From::Cull => Order::Cull,
        From::Cancel => Order::Cancel,
        From::Release => Order::Release,
        From::Rollback => Order::Rollback,
    }
}

/// An order's name, as it is in JSON.
fn word(order: Order) -> &'static str {
    match order {
        Order::Germinate => "germinate",
        Order::Train => "train",
        Order::Graft => "graft",
        Order::Stabilize => "stabilize",
        Order::Evaluate => "evaluate",
        Order::FineTune => "fine_tune",
        Order::Fossilize => "fossilize",
        Order::Cull => "cull",
        Order::Cancel => "cancel",
        Order::Release => "release",
        Order::Rollback => "rollback",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given() -> contract::Command {
        contract::Command {
            id: String::new(),
            seed: 7,
            order: contract::Order::FineTune,
            blueprint: None,
            blueprint_ir: None,
            strategy: Some("fixed_ramp".into()),
            reason: "it helps".into(),
        }
    }

    #[test]
    fn a_command_without_an_id_gets_one_of_its_own() {
        let command = command(given(), "cautious-tamiyo", 40).unwrap();
        assert_eq!(command.id, "cautious-tamiyo/40/7/fine_tune");
        assert_eq!((command.seed, command.order, command.reason.as_str()), (7, Order::FineTune, "it helps"));
        assert_eq!(command.strategy.as_deref(), Some("fixed_ramp"));
        let named = super::command(contract::Command { id: "c-1".into(), ..given() }, "t", 1).unwrap();
        assert_eq!(named.id, "c-1");
    }

    #[test]
    fn a_blueprint_that_is_none_is_told() {
        let with = |ir: &str| contract::Command { blueprint_ir: Some(ir.into()), ..given() };
        let told = command(with(r#"{"name":"a","function":{"kind":"adapter","rank":0}}"#), "t", 1).unwrap_err();
        assert!(told.starts_with("command \"\" for seed 7: blueprint `a`: ") && told.contains("rank"), "{told}");
        let read = command(with(r#"{"name":"a","function":{"kind":"adapter","rank":4}}"#), "t", 1).unwrap();
        assert_eq!(read.blueprint_ir.map(|blueprint| blueprint.name), Some("a".to_owned()));
    }

    /// Every order leads to the stage that it leads to in the layer, whichever of the two vocabularies names it.
    #[test]
    fn orders_and_stages_mean_the_same_on_both_sides() {
        use contract::Order as From;
        let orders = [
            From::Germinate,
            From::Train,
            From::Graft,
            From::Stabilize,
            From::Evaluate,
            From::FineTune,
            From::Fossilize,
            From::Cull,
            From::Cancel,
            From::Release,
            From::Rollback,
        ];
        let reached: std::collections::BTreeSet<_> = orders.map(|given| order(given).target()).into();
        assert_eq!(reached.len(), Lifecycle::ALL.len(), "each leads to a stage of its own");
        for stage in Lifecycle::ALL {
            // The names of both, as they are written: FINE_TUNING is FineTuning.
            let spelled = stage.name().replace('_', "").to_lowercase();
            assert_eq!(format!("{:?}", lifecycle(stage)).to_lowercase().replace("lifecycle::", ""), spelled);
            let json = serde_json::to_value(Order::to(stage)).unwrap();
            assert_eq!(json, word(Order::to(stage)));
        }
    }
}
