//! The lifecycle against a small model of its own: the table by number, minima, gates, embargo, time-outs, slots,
//! denials and rollbacks, over random sequences of everything that can happen to a layer.

use super::*;
use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, TestRunner};
use std::cell::RefCell;
use std::collections::BTreeSet;

const SEEDS: usize = 5;

/// What can happen.
#[derive(Debug, Clone)]
enum Event {
    /// Order something, sensible or not.
    Order {
        seed: usize,
        to: i32,
    },
    /// Order the first thing that the table knows.
    Onward {
        seed: usize,
    },
    /// Order the last thing that it knows, before the rollback.
    Downward {
        seed: usize,
    },
    Denoised {
        seed: usize,
        well: bool,
    },
    Drifts {
        seed: usize,
        steady: bool,
    },
    Evaluated {
        seed: usize,
        delta: i8,
        improved: bool,
    },
    Errs {
        seed: usize,
        times: u8,
    },
    Rollback {
        seed: usize,
        allowed: bool,
    },
    /// The boundary; the governor denies these seeds.
    Epoch {
        denied: Vec<bool>,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let seed = || 0..SEEDS;
    let mostly = || proptest::bool::weighted(0.8);
    prop_oneof![
        2 => (seed(), 0..11).prop_map(|(seed, to)| Event::Order { seed, to }),
        8 => seed().prop_map(|seed| Event::Onward { seed }),
        2 => seed().prop_map(|seed| Event::Downward { seed }),
        2 => (seed(), mostly()).prop_map(|(seed, well)| Event::Denoised { seed, well }),
        2 => (seed(), mostly()).prop_map(|(seed, steady)| Event::Drifts { seed, steady }),
        5 => (seed(), prop_oneof![5 => Just(1_i8), 1 => Just(0), 1 => Just(-1)], mostly()).prop_map(|(seed, delta, improved)| Event::Evaluated { seed, delta, improved }),
        1 => (seed(), 1_u8..8).prop_map(|(seed, times)| Event::Errs { seed, times }),
        1 => (seed(), proptest::bool::weighted(0.3)).prop_map(|(seed, allowed)| Event::Rollback { seed, allowed }),
        14 => proptest::collection::vec(proptest::bool::weighted(0.1), SEEDS).prop_map(|denied| Event::Epoch { denied }),
    ]
}

/// One seed as the model has it.
#[derive(Debug, Clone, Default)]
struct Modelled {
    stage: i32,
    epochs: u32,
    ordered: Option<i32>,
    denoised: bool,
    steady: Option<bool>,
    /// Sign of the delta, and whether the loss improved.
    evaluated: Option<(i8, bool)>,
    ramp: u32,
    /// Epochs in which it contributed: three make a steady loss.
    contributed: u32,
    errors: u32,
    unstable: bool,
    /// Steps until a cull lands.
    leaving: u32,
}

impl Modelled {
    /// The model's own table: whether it may go there, slots left aside.
    fn may(&self, to: i32) -> bool {
        let least = [0, 0, 2, 3, 1, 2, 3, 0, 2, 2, 0][usize::try_from(self.stage).unwrap()];
        // The epoch that runs counts.
        let epochs = self.epochs + 1;
        let (over, calm) = (epochs >= least, !self.unstable);
        let steady_loss = self.contributed >= 3;
        let condition = match (self.stage, to) {
            (2..=6, 10) => return true,
            (0, 1) | (1, 2) => calm,
            (1 | 2, 9) | (8 | 9, 0) => true,
            (2, 3) => calm && self.denoised,
            (2, 8) => epochs >= 6,
            (3, 4) => calm && self.ramp >= 4,
            (4, 5) => calm && self.steady == Some(true),
            (5, 6) => calm && steady_loss && self.evaluated.is_some_and(|(delta, _)| delta > 0),
            (5, 8) => self.errors > 5 || self.evaluated.is_some_and(|(delta, _)| delta < 0) || epochs >= 7,
            (6, 7) => calm && steady_loss && self.evaluated.is_some_and(|(_, improved)| improved),
            (6, 8) => epochs >= 8,
            _ => false,
        };
        over && condition && self.leaving == 0
    }

    fn enter(&mut self, stage: i32) {
        let before = std::mem::take(self);
        let kept = Self { stage, denoised: before.denoised, contributed: before.contributed, ..Self::default() };
        *self = match stage {
            0 | 1 => Self { stage, ..Self::default() },
            2 => Self { steady: before.steady, evaluated: before.evaluated, errors: before.errors, ..kept },
            _ => Self { errors: before.errors, ramp: if stage == 3 { 0 } else { before.ramp }, ..kept },
        };
    }

    /// The end of an epoch; answers what it left for where.
    fn epoch(&mut self, denied: bool) -> Option<(i32, i32)> {
        let from = self.stage;
        let ordered = self.ordered.take();
        let still_open = ordered.filter(|&to| self.may(to));
        self.unstable = false;
        self.contributed += u32::from((3..=6).contains(&from));
        match still_open.filter(|_| !denied) {
            Some(8) if from >= 5 => self.leaving = 4,
            Some(to) => {
                self.enter(to);
                return Some((from, to));
            }
            None => {}
        }
        if from == 3 {
            self.ramp = (self.ramp + 1).min(4);
        }
        if self.leaving > 0 {
            self.leaving -= 1;
            if self.leaving == 0 {
                self.enter(8);
                return Some((from, 8));
            }
        }
        self.epochs += 1;
        None
    }
}

/// Denies the seeds that it is told to.
struct Denying<'a>(&'a [bool]);

impl Governor for Denying<'_> {
    fn judge(&mut self, transitions: &[Transition]) -> Vec<Ruling> {
        let rule = |transition: &Transition| {
            if self.0[transition.seed] { Ruling::Denied("as the test says".to_owned()) } else { Ruling::Allowed }
        };
        transitions.iter().map(rule).collect()
    }
}

struct Both {
    rig: Rig,
    model: Vec<Modelled>,
    landed: BTreeSet<(i32, i32)>,
}

impl Both {
    fn new() -> Self {
        let model = vec![Modelled::default(); SEEDS];
        Self { rig: Rig::new(quick()), model, landed: BTreeSet::new() }
    }

    fn order(&mut self, seed: usize, to: i32) {
        let taken = self.model.iter().filter(|seed| seed.stage == 2 || seed.ordered == Some(2)).count();
        let slot = to != 2 || taken < 2;
        let expected = self.model[seed].ordered.is_none() && self.model[seed].may(to) && slot;
        let before = fingerprint(&self.rig.layer);
        let found = self.rig.order(seed, Order::to(Lifecycle::from_number(to).unwrap()));
        assert_eq!(found.is_ok(), expected, "seed {seed} to {to}: {found:?}, {:?}", self.model[seed]);
        if expected {
            self.model[seed].ordered = Some(to);
        } else {
            assert!(fingerprint(&self.rig.layer) == before, "a refused command changes nothing");
        }
    }

    fn apply(&mut self, event: &Event) {
        let onward = [1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 0];
        let downward = [1, 9, 8, 10, 10, 8, 8, 0, 0, 0, 0];
        let stage = |both: &Self, seed: usize| usize::try_from(both.model[seed].stage).unwrap();
        match *event {
            Event::Order { seed, to } => self.order(seed, to),
            Event::Onward { seed } => self.order(seed, onward[stage(self, seed)]),
            Event::Downward { seed } => self.order(seed, downward[stage(self, seed)]),
            Event::Denoised { seed, well } if self.model[seed].stage == 2 => {
                self.model[seed].denoised = well;
                self.rig.trail(seed).denoising_loss = Some(if well { 0.005 } else { 0.05 });
            }
            Event::Drifts { seed, steady } if self.model[seed].stage == 4 => {
                self.model[seed].steady = Some(steady);
                self.rig.trail(seed).drifts = if steady { vec![0.1, 0.11] } else { vec![0.1, 0.3] };
            }
            Event::Evaluated { seed, delta, improved } => {
                let improvement = if improved { 0.02 } else { 0.0 };
                let evaluation = Evaluation { delta: f64::from(delta) * 0.1, improvement, error_rate: 0.0 };
                let taken = self.rig.layer.evaluate(seed, evaluation).is_ok();
                assert_eq!(taken, matches!(self.model[seed].stage, 5 | 6));
                if taken {
                    self.model[seed].evaluated = Some((delta, improved));
                }
            }
            Event::Errs { seed, times } if (2..=6).contains(&self.model[seed].stage) => {
                for _ in 0..times {
                    self.rig.layer.store.fail(seed, "it errs");
                }
                self.model[seed].errors += u32::from(times);
                self.model[seed].unstable = true;
            }
            Event::Rollback { seed, allowed } => self.roll_back(seed, allowed),
            Event::Epoch { ref denied } => self.epoch(denied),
            _ => {}
        }
    }

    fn roll_back(&mut self, seed: usize, allowed: bool) {
        let expected = (2..=6).contains(&self.model[seed].stage);
        let before = fingerprint(&self.rig.layer);
        let found = self.rig.layer.rollback(seed, None, "the test says so", &mut Denying(&[!allowed; SEEDS]));
        assert_eq!(found.is_ok(), expected);
        if expected && allowed {
            self.landed.insert((self.model[seed].stage, 10));
            self.model[seed] = Modelled { stage: 10, ..Modelled::default() };
        } else {
            assert!(fingerprint(&self.rig.layer) == before, "a denied rollback changes nothing");
        }
    }

    fn epoch(&mut self, denied: &[bool]) {
        let task = self.rig.task;
        let report = self.rig.layer.end_epoch(task, &mut Denying(denied)).unwrap();
        let mut expected = BTreeSet::new();
        for (seed, (model, denied)) in self.model.iter_mut().zip(denied).enumerate() {
            if let Some((from, to)) = model.epoch(*denied) {
                expected.insert((seed, from, to));
                self.landed.insert((from, to));
            }
        }
        let landed = report.landed.iter().map(|landed| (landed.seed, landed.from.number(), landed.to.number()));
        assert_eq!(landed.collect::<BTreeSet<_>>(), expected);
    }

    fn compare(&self) {
        for (seed, model) in self.model.iter().enumerate() {
            let state = &self.rig.layer.state()[seed];
            assert_eq!(state.lifecycle().number(), model.stage, "seed {seed}: {model:?}");
            assert_eq!(u32::try_from(state.epochs_in_state).unwrap(), model.epochs, "seed {seed}: {model:?}");
            let blends = (3..=7).contains(&model.stage) && (model.stage > 3 || model.ramp > 0);
            let alpha = self.rig.layer.alpha()[seed];
            assert!(
                (0.0..=1.0).contains(&alpha) && (model.stage > 7 || (alpha > 0.0) == blends),
                "seed {seed}: {alpha}"
            );
        }
    }
}

#[test]
fn the_layer_follows_the_model_whatever_happens() {
    let landed = RefCell::new(BTreeSet::new());
    let mut runner = TestRunner::new_with_rng(
        Runs { cases: 200, failure_persistence: None, ..Runs::default() },
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let events = proptest::collection::vec(event(), 300..600);
    let ran = runner.run(&events, |events| {
        let mut both = Both::new();
        for event in &events {
            both.apply(event);
            both.compare();
        }
        landed.borrow_mut().append(&mut both.landed);
        Ok(())
    });
    ran.unwrap();
    // The runs have been everywhere: every transition of the table landed.
    let table = [
        (0, 1),
        (1, 2),
        (1, 9),
        (2, 3),
        (2, 8),
        (2, 9),
        (2, 10),
        (3, 4),
        (3, 10),
        (4, 5),
        (4, 10),
        (5, 6),
        (5, 8),
        (5, 10),
        (6, 7),
        (6, 8),
        (6, 10),
        (8, 0),
        (9, 0),
    ];
    assert_eq!(*landed.borrow(), BTreeSet::from(table));
}

#[test]
fn of_all_pairs_the_table_s_are_accepted_and_no_other() {
    for from in Lifecycle::ALL {
        for to in Lifecycle::ALL {
            let mut rig = Rig::new(quick());
            rig.drive(2, from);
            for _ in 0..9 {
                rig.epoch();
            }
            rig.satisfy(2);
            if to == Lifecycle::Culled && from == Lifecycle::Evaluating {
                let bad = Evaluation { delta: -0.2, improvement: 0.0, error_rate: 0.0 };
                rig.layer.evaluate(2, bad).unwrap();
            }
            let before = fingerprint(&rig.layer);
            let found = rig.order(2, Order::to(to));
            let expected = lifecycle_targets(from).contains(&to.number());
            assert_eq!(found.is_ok(), expected, "{from} to {to}: {found:?}");
            assert!(expected || fingerprint(&rig.layer) == before, "{from} to {to}");
        }
    }
}

/// The table once more, by number.
fn lifecycle_targets(from: Lifecycle) -> &'static [i32] {
    let table: [&[i32]; 11] =
        [&[1], &[2, 9], &[3, 8, 9, 10], &[4, 10], &[5, 10], &[6, 8, 10], &[7, 8, 10], &[], &[0], &[0], &[]];
    table[usize::try_from(from.number()).unwrap()]
}
