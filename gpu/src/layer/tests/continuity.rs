//! The output is continuous: over every transition of the table it moves by no more than one step of alpha can move
//! it, and where a seed is out of it, it is the input bit for bit.

use super::*;
use crate::easing::Easing;
use crate::reference;
use crate::state::SeedState;
use crate::strategy::{Strategy, StrategyInput, StrategyStep};
use Lifecycle as L;

const SEED: usize = 1;

/// A strategy that would do everything at once.
struct Leap;

impl Strategy for Leap {
    fn name(&self) -> &'static str {
        "leap"
    }

    fn step(&mut self, _: &StrategyInput) -> StrategyStep {
        StrategyStep::add(f32::MAX)
    }
}

/// A layer with one waking seed, and what it can do at most.
struct Swept {
    rig: Rig,
    x: Vec<f32>,
    /// The greatest |f(x)| of the seed.
    reach: f64,
    step_max: f64,
    seen: Vec<(L, L)>,
}

impl Swept {
    fn new(easing: Easing, strategy: &str) -> Self {
        let mut library = Library::standard();
        library.strategies.add(Box::new(Leap));
        let config = Config { easing, strategy: strategy.to_owned(), ..quick() };
        let gates = &config.gates;
        let ramp = f64::from(gates.ramp_step_max) / f64::from(gates.ramp_steps) * easing.slope_max();
        let step_max = ramp.max(1.0 / f64::from(gates.withdrawal_epochs));
        let rig = Rig::with(config, library.shared());
        let x = rig.rows(6);
        let mut swept = Self { rig, x, reach: 0.0, step_max, seen: Vec::new() };
        swept.germinate();
        swept
    }

    fn germinate(&mut self) {
        self.rig.go(SEED, L::Germinated);
        self.rig.wake(SEED);
        self.seen.push((L::Dormant, L::Germinated));
        let layer = &self.rig.layer;
        let (mut state, mut alpha) = (vec![SeedState::DORMANT; 5], vec![0.0; 5]);
        state[SEED] = layer.state()[SEED];
        state[SEED].enter(L::Grafting);
        alpha[SEED] = 1.0;
        let view = View { state: &state, alpha: &alpha, ..layer.view() };
        let full = reference::forward(&view, &self.x, 6);
        let apart = full.iter().zip(&self.x).map(|(y, &x)| (y - f64::from(x)).abs());
        self.reach = apart.fold(0.0, f64::max);
        assert!(self.reach > 0.1, "the seed does something");
    }

    /// Order until it lands, and hold the output before and after every boundary side by side.
    fn go(&mut self, to: L) {
        for _ in 0..40 {
            self.rig.satisfy(SEED);
            if to == L::Culled {
                let bad = Evaluation { delta: -0.2, improvement: 0.0, error_rate: 0.0 };
                drop(self.rig.layer.evaluate(SEED, bad));
                if self.rig.stage(SEED) == L::Training {
                    self.rig.trail(SEED).denoising_loss = None;
                }
            }
            let from = self.rig.stage(SEED);
            drop(self.rig.order(SEED, Order::to(to)));
            let (before, alpha) = (self.rig.output(&self.x.clone()), self.rig.layer.alpha()[SEED]);
            self.rig.epoch();
            let after = self.rig.output(&self.x.clone());
            let moved =
                before.iter().zip(&after).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs()).fold(0.0, f64::max);
            let stage = self.rig.stage(SEED);
            assert!(moved <= self.step_max * self.reach + 1e-5, "{from} to {stage}: y moved by {moved}");
            assert!(
                stage == L::Culled || from != L::Grafting || self.rig.layer.alpha()[SEED] >= alpha,
                "alpha only grows"
            );
            if !stage.contributes() {
                assert_eq!(bits(&after), bits(&self.x), "{stage} does not touch the output");
            }
            if stage == to {
                self.seen.push((from, to));
                return;
            }
        }
        panic!("{} does not lead to {to}", self.rig.stage(SEED));
    }
}

const WAYS: [&[L]; 8] = [
    &[L::Cancelled, L::Dormant],
    &[L::Training, L::Cancelled],
    &[L::Training, L::Culled, L::Dormant],
    &[L::Training, L::Grafting, L::Stabilization, L::Evaluating, L::Culled, L::Dormant],
    &[L::Training, L::Grafting, L::Stabilization, L::Evaluating, L::FineTuning, L::Culled],
    &[L::Training, L::Grafting, L::Stabilization, L::Evaluating, L::FineTuning, L::Fossilized],
    &[L::Training],
    &[L::Training, L::Grafting],
];

#[test]
fn every_governed_transition_is_continuous() {
    let mut seen = std::collections::BTreeSet::new();
    for (easing, strategy) in [
        (Easing::Linear, "fixed_ramp"),
        (Easing::Linear, "leap"),
        (Easing::Cosine, "performance_linked"),
        (Easing::Sigmoid, "fixed_ramp"),
    ] {
        for way in WAYS {
            let mut swept = Swept::new(easing, strategy);
            for &to in way {
                swept.go(to);
            }
            seen.extend(swept.seen);
        }
    }
    let table = L::ALL.iter().flat_map(|&from| {
        crate::lifecycle::targets(crate::lifecycle::Mode::Full, from).iter().map(move |&to| (from, to))
    });
    let governed: std::collections::BTreeSet<_> = table.filter(|(_, to)| *to != L::RolledBack).collect();
    assert_eq!(seen, governed);
}

#[test]
fn a_rollback_takes_the_seed_out_at_once() {
    for way in [&WAYS[3][..1], &WAYS[3][..2], &WAYS[3][..3], &WAYS[3][..4], &WAYS[5][..5]] {
        let mut swept = Swept::new(Easing::Linear, "fixed_ramp");
        for &to in way {
            swept.go(to);
        }
        let ruling = swept.rig.layer.rollback(SEED, None, "broken", &mut AllowAll).unwrap();
        assert_eq!(ruling, Ruling::Allowed);
        assert_eq!(swept.rig.stage(SEED), L::RolledBack);
        let x = swept.x.clone();
        assert_eq!(bits(&swept.rig.output(&x)), bits(&x));
    }
}

#[test]
fn a_denied_cull_changes_nothing_and_an_allowed_one_comes_down_in_steps() {
    let mut swept = Swept::new(Easing::Linear, "fixed_ramp");
    for &to in &WAYS[3][..4] {
        swept.go(to);
    }
    let rig = &mut swept.rig;
    rig.epoch();
    rig.epoch();
    rig.layer.evaluate(SEED, Evaluation { delta: -0.2, ..Evaluation::default() }).unwrap();
    rig.order(SEED, Order::Cull).unwrap();
    let denied = rig.layer.end_epoch(rig.task, &mut DenyAll).unwrap();
    assert_eq!((denied.transitions.len(), denied.landed.len()), (1, 0));
    assert!((rig.layer.alpha()[SEED] - 1.0).abs() < 1e-9 && rig.stage(SEED) == L::Evaluating);
    rig.order(SEED, Order::Cull).unwrap();
    let mut alphas = Vec::new();
    let ruled = rig.epoch();
    assert_eq!((ruled.transitions.len(), ruled.landed.len()), (1, 0), "ruled now, lands later");
    alphas.push(rig.layer.alpha()[SEED]);
    let refused = rig.order(SEED, Order::FineTune).unwrap_err().to_string();
    assert!(refused.contains("being withdrawn"), "{refused}");
    for _ in 0..2 {
        assert!(rig.epoch().transitions.is_empty(), "it is ruled once");
        alphas.push(rig.layer.alpha()[SEED]);
    }
    let landed = rig.epoch();
    assert_eq!(alphas, [0.75, 0.5, 0.25]);
    assert_eq!(
        landed.landed.iter().map(|landed| (landed.from, landed.to)).collect::<Vec<_>>(),
        [(L::Evaluating, L::Culled)]
    );
    assert_eq!(landed.field_reports.len(), 1);
}

#[test]
fn a_seed_in_withdrawal_can_still_be_rolled_back() {
    let mut swept = Swept::new(Easing::Linear, "fixed_ramp");
    for &to in &WAYS[3][..4] {
        swept.go(to);
    }
    for _ in 0..7 {
        swept.rig.epoch();
    }
    swept.rig.order(SEED, Order::Cull).unwrap();
    swept.rig.epoch();
    swept.rig.layer.rollback(SEED, None, "now", &mut AllowAll).unwrap();
    for _ in 0..6 {
        assert!(swept.rig.epoch().landed.is_empty());
        assert_eq!(swept.rig.stage(SEED), L::RolledBack);
    }
}
