//! The demonstration, whole, on the reference backend: what it shows must not hang on a machine's instruction set.

use super::*;
use crate::cpu::Cpu;
use crate::digits;
use crate::govern::AllowAll;
use crate::reference::Plain;
use crate::state::Lifecycle as L;

#[allow(clippy::unnecessary_wraps, reason = "a maker of backends may fail")]
fn plain() -> Result<Box<dyn Backend>, Error> {
    Ok(Box::new(Plain::default()))
}

#[allow(clippy::unnecessary_wraps, reason = "a maker of backends may fail")]
fn one_thread() -> Result<Box<dyn Backend>, Error> {
    Ok(Box::new(Cpu::new(Some(1))))
}

fn go(plan: &Plan, make: MakeBackend<'_>, governor: &mut dyn Governor) -> (Report, Arc<Mutex<Library>>) {
    let library = Library::standard().shared();
    let mut tamiyo = plan.tamiyo(&library);
    let mut seen = 0;
    let mut count = |line: &EpochLine, layer: &Layer| {
        assert_eq!((line.epoch, layer.epoch()), (seen, seen + 1));
        seen += 1;
    };
    let data = digits::load().unwrap();
    let report = run(plan, &data, make, &library, &mut tamiyo, governor, &mut count).unwrap();
    assert_eq!(seen, plan.epochs);
    (report, library)
}

/// All stages in which a seed was, in their order.
fn stages(report: &Report, seed: usize) -> Vec<Lifecycle> {
    let mut all: Vec<_> = report.lines.iter().map(|line| line.stages[seed]).collect();
    all.dedup();
    all
}

/// Gates and minima scaled down, for tests of what does not depend on them.
fn quick(epochs: u64) -> Plan {
    let mut plan = Plan { epochs, ..Plan::digits() };
    plan.network.epochs_max = 20;
    let gates = &mut plan.layer.gates;
    gates.training_epochs_min = 2;
    gates.denoising_loss_max = 0.0124;
    gates.grafting_epochs_min = 2;
    gates.ramp_steps = 4;
    gates.stabilization_epochs_min = 5;
    plan
}

#[test]
fn the_seeds_grow_through_all_stages_and_held_out_accuracy_rises() {
    let (report, library) = go(&Plan::digits(), &mut plain, &mut AllowAll);
    let gain = report.final_accuracy - report.baseline_accuracy;
    assert!(gain > 0.03, "{} to {}", report.baseline_accuracy, report.final_accuracy);
    assert!(report.final_loss < report.baseline_loss && report.fossilized >= 2, "{} fossilised", report.fossilized);
    let all = [L::Germinated, L::Training, L::Grafting, L::Stabilization, L::Evaluating, L::FineTuning, L::Fossilized];
    assert!((0..4).any(|seed| stages(&report, seed) == all), "{:?}", stages(&report, 0));
    assert!(!report.restored_bit_for_bit, "fossilised seeds change the output");
    // What was fossilised stays: alpha 1 to the end.
    let last = report.lines.last().unwrap();
    assert!(last.stages.iter().zip(&last.alphas).all(|(&stage, &alpha)| stage != L::Fossilized || alpha >= 1.0));
    let library = library.lock().unwrap();
    let id = library.blueprints.find("adapter-16").unwrap().id();
    let record = library.blueprints.record(&id).unwrap();
    assert_eq!(record.fossilized, report.fossilized as u64, "Karn counts each report once");
    assert!(record.mean_gain > 0.0);
}

#[test]
fn a_bad_blueprint_is_culled_and_the_baseline_is_back_bit_for_bit() {
    let plan = Plan::digits().with_bad_blueprint();
    let (report, library) = go(&plan, &mut plain, &mut AllowAll);
    let reached: Vec<_> = (0..4).filter(|&seed| stages(&report, seed).contains(&Lifecycle::Evaluating)).collect();
    assert!(!reached.is_empty() && report.culled >= reached.len() && report.fossilized == 0, "{reached:?}");
    for seed in reached {
        let at = report.lines.iter().position(|line| line.stages[seed] == Lifecycle::Culled).unwrap();
        let failed = |line: &EpochLine| line.evaluations[seed].is_some_and(|evaluation| evaluation.delta < -0.05);
        assert!(report.lines[..at].iter().any(failed), "seed {seed} was culled for its delta");
    }
    let worst = report.lines.iter().map(|line| line.accuracy).fold(1.0, f64::min);
    assert!(worst < report.baseline_accuracy - 0.05, "it did harm: {worst}");
    assert!(report.restored_bit_for_bit);
    assert_eq!(report.final_accuracy.to_bits(), report.baseline_accuracy.to_bits());
    assert_eq!(report.final_loss.to_bits(), report.baseline_loss.to_bits());
    let library = library.lock().unwrap();
    let ranked = crate::karn::rank(&library.blueprints, &plan.tamiyo.blueprints, &plan.tamiyo.ranking);
    assert!(ranked.is_empty(), "Karn gives it up: {ranked:?}");
}

#[test]
fn the_same_plan_gives_the_same_run() {
    let bits = |report: &Report| -> Vec<u64> {
        let lines = report.lines.iter();
        lines
            .flat_map(|line| [line.loss.to_bits(), line.accuracy.to_bits(), f64::from(line.alphas[0]).to_bits()])
            .collect()
    };
    let plan = quick(14);
    let (a, b) = (go(&plan, &mut one_thread, &mut AllowAll).0, go(&plan, &mut one_thread, &mut AllowAll).0);
    assert_eq!(bits(&a), bits(&b));
    assert!(a.lines.last().unwrap().alphas.iter().any(|&alpha| alpha > 0.0), "the layer took part");
    let other = go(&Plan { random_seed: 2, ..plan }, &mut one_thread, &mut AllowAll).0;
    assert_ne!(bits(&a), bits(&other));
}

#[test]
fn what_a_governor_denies_does_not_happen() {
    struct NoGrafts;
    impl Governor for NoGrafts {
        fn judge(&mut self, transitions: &[Transition]) -> Vec<Ruling> {
            let one = |transition: &Transition| match transition.to {
                Lifecycle::Grafting => Ruling::Denied("no grafts today".to_owned()),
                _ => Ruling::Allowed,
            };
            transitions.iter().map(one).collect()
        }
    }
    let (report, _) = go(&quick(14), &mut one_thread, &mut NoGrafts);
    let denied = |line: &EpochLine| line.transitions.iter().any(|(_, ruling)| *ruling != Ruling::Allowed);
    assert!(report.lines.iter().any(denied), "it was asked");
    assert!(report.restored_bit_for_bit && report.lines.iter().all(|line| line.alphas == [0.0; 4]));
}

#[test]
fn two_plans_are_compared_on_the_same_baseline() {
    let (a, mut b) = (quick(14), quick(14));
    b.layer.gates.training_epochs_min = 1_000;
    b.random_seed = 77;
    let mut arms = Vec::new();
    let data = digits::load().unwrap();
    let found = compare(&a, &b, &data, &mut one_thread, &mut AllowAll, &mut |arm, _| arms.push(arm)).unwrap();
    assert_eq!(arms, [[Arm::A; 14], [Arm::B; 14]].concat());
    assert_eq!(found.a.baseline_accuracy.to_bits(), found.b.baseline_accuracy.to_bits());
    assert!(found.b.restored_bit_for_bit && !found.a.restored_bit_for_bit);
    assert_eq!(found.accuracy_differences.len(), 14);
    let rows = count(data.held_out.rows());
    let net = count(found.test.only_b) - count(found.test.only_a);
    assert!((found.difference - net / rows).abs() < 1e-12 && found.test.p_value <= 1.0);
}

#[test]
fn a_plan_that_cannot_be_used_is_refused() {
    let library = Library::standard().shared();
    let refused = |change: fn(&mut Plan)| {
        let mut plan = Plan::digits();
        change(&mut plan);
        let mut tamiyo = plan.tamiyo(&library);
        let data = digits::load().unwrap();
        run(&plan, &data, &mut plain, &library, &mut tamiyo, &mut AllowAll, &mut |_, _| {}).unwrap_err().to_string()
    };
    assert!(refused(|plan| plan.batch = 0).starts_with("batch = 0"));
    assert!(refused(|plan| plan.hidden = 3).contains("4 seeds cannot tile a layer of width 3"));
    assert!(refused(|plan| plan.network.rate = f32::NAN).starts_with("network.rate = NaN"));
    assert!(refused(|plan| plan.layer.denoising.size = 0.05).starts_with("denoising.size"));
    assert!(refused(|plan| plan.descriptions[0].task_rate = 0.0).contains("task_rate = 0"));
    let json = serde_json::to_string(&Plan::digits()).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), Plan::digits());
    assert!(serde_json::from_str::<Plan>(r#"{"epoch":3}"#).is_err());
}

#[test]
fn a_gain_is_a_number_whatever_the_losses() {
    let scores = |loss, accuracy| Scores { loss, accuracy, right: Vec::new() };
    assert_eq!(gain(&scores(0.25, 0.75), &scores(0.5, 0.5)), (0.25, 0.5));
    assert_eq!(gain(&scores(0.0, 1.0), &scores(0.0, 1.0)), (0.0, 0.0));
    assert_eq!(gain(&scores(0.5, 0.5), &scores(0.0, 1.0)), (-0.5, 0.0));
}
