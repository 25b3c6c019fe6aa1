//! The host network by itself: its gradients, its training, its determinism.

use super::*;
use crate::backend::{Backend, Changed, View};
use crate::blueprint::{Blueprint, Function};
use crate::chunks::Chunks;
use crate::digits;
use crate::reference::Plain;
use crate::state::{Lifecycle, SeedState};
use std::sync::Arc;

/// Some of the weights of a thing.
type Part<T> = fn(&mut T) -> &mut Vec<f32>;

fn small() -> (Network, Vec<f32>, Vec<u8>) {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let x = (0..7 * 5).map(|_| StandardNormal.sample(&mut random)).collect();
    (Network::new(5, 6, 3, 1), x, vec![0, 1, 2, 2, 1, 0, 1])
}

fn loss(network: &Network, x: &[f32], labels: &[u8]) -> f64 {
    scores(&network.logits(&network.hidden(x)), labels).loss
}

#[test]
fn every_gradient_agrees_with_finite_differences() {
    let (network, x, labels) = small();
    let hidden = network.hidden(&x);
    let dlogits = slope(&network.logits(&hidden), &labels);
    let gradients = network.gradients(&x, &hidden, &hidden, &dlogits, &network.logits_back(&dlogits));
    let parts: [(Part<Network>, &[f32]); 4] = [
        (|network| &mut network.first.matrix, &gradients.first.0),
        (|network| &mut network.first.bias, &gradients.first.1),
        (|network| &mut network.second.matrix, &gradients.second.0),
        (|network| &mut network.second.bias, &gradients.second.1),
    ];
    for (number, (part, found)) in parts.into_iter().enumerate() {
        for (at, &found) in found.iter().enumerate() {
            let moved = |by: f32| {
                let mut moved = network.clone();
                part(&mut moved)[at] += by;
                loss(&moved, &x, &labels)
            };
            // The network computes in f32, so a smaller step would drown in its rounding.
            let expected = (moved(1e-3) - moved(-1e-3)) / 2e-3;
            assert!(
                (f64::from(found) - expected).abs() < 2e-3,
                "part {number}, weight {at}: {found} against {expected}"
            );
        }
    }
}

#[test]
fn training_stops_by_itself_and_freezes() {
    let data = digits::load().unwrap();
    let mut network = Network::new(64, 24, 10, 1);
    let before = scores(&network.logits(&network.hidden(&data.held_out.x)), &data.held_out.labels).accuracy;
    let training = Training { epochs_max: 30, ..Training::default() };
    let first = network.first.clone();
    let epochs = network.train(&data, &training, 32, 1).unwrap();
    let after = scores(&network.logits(&network.hidden(&data.held_out.x)), &data.held_out.labels).accuracy;
    assert!((1..=30).contains(&epochs) && after > before + 0.4, "{before} to {after} in {epochs} epochs");
    assert!(network.is_frozen() && network.first == first, "the input weights of a readout's training stay");
    let frozen = network.clone();
    assert!(network.train(&data, &training, 32, 1).is_err());
    assert_eq!(network, frozen);
    let mut again = Network::new(64, 24, 10, 1);
    again.train(&data, &training, 32, 1).unwrap();
    assert!(again.weights().eq(network.weights()), "the same seed gives the same weights");
}

#[test]
fn every_row_is_in_one_batch_of_an_epoch() {
    let epoch = |epoch| batches(103, 32, 5, epoch);
    assert_eq!(epoch(1).iter().map(Vec::len).collect::<Vec<_>>(), [32, 32, 32, 7]);
    let mut rows = epoch(1).concat();
    assert_ne!(rows, epoch(2).concat());
    rows.sort_unstable();
    assert_eq!(rows, (0..103).collect::<Vec<_>>());
}

#[test]
fn logits_that_are_not_numbers_are_wrong_and_the_loss_says_so() {
    let judged = scores(&[f32::NAN, 1.0, 2.0, 0.5], &[0, 0]);
    assert_eq!(judged.right, [false, true]);
    assert!(scores(&[1e30, -1e30], &[1]).loss > 100.0);
    // A tie goes to the lesser class, so that the answer is one.
    assert_eq!(scores(&[1.0, 1.0, 1.0, 1.0], &[0, 1]).right, [true, false]);
}

/// A layer of two seeds in the middle of a network, and the loss of both together.
struct Whole {
    network: Network,
    weights: Vec<Vec<f32>>,
    x: Vec<f32>,
    labels: Vec<u8>,
}

impl Whole {
    fn new() -> Self {
        let (network, x, labels) = small();
        let mut random = ChaCha8Rng::seed_from_u64(9);
        let mut normal = |length: usize| (0..length).map(|_| StandardNormal.sample(&mut random)).collect();
        let weights = functions().iter().map(|function| normal(function.weights(3))).collect();
        Self { network, weights, x, labels }
    }

    fn with_layer<T>(&self, rows: usize, pass: impl FnOnce(&mut Plain, usize) -> T) -> T {
        let mut state = [SeedState::DORMANT; 2];
        for (number, row) in state.iter_mut().enumerate() {
            row.enter(Lifecycle::FineTuning);
            row.blueprint = i32::try_from(number).unwrap();
        }
        let blueprints = functions().map(|function| Arc::new(Blueprint::new("any", function)));
        let chunks = Chunks::new(6, 2).unwrap();
        let view = View { chunks, state: &state, alpha: &[0.5, 0.75], weights: &self.weights, blueprints: &blueprints };
        let mut backend = Plain::default();
        backend.load(&view, Changed::All).unwrap();
        pass(&mut backend, rows)
    }

    fn after(&self, hidden: &[f32]) -> Vec<f32> {
        let mut after = vec![0.0; hidden.len()];
        self.with_layer(self.labels.len(), |layer, rows| layer.forward(hidden, rows, &mut after, None).unwrap());
        after
    }

    fn loss(&self) -> f64 {
        scores(&self.network.logits(&self.after(&self.network.hidden(&self.x))), &self.labels).loss
    }
}

fn functions() -> [Function; 2] {
    [Function::Adapter { rank: 4 }, Function::ResidualScale]
}

#[test]
fn the_gradients_of_a_network_with_a_layer_inside_agree_with_finite_differences() {
    let whole = Whole::new();
    let hidden = whole.network.hidden(&whole.x);
    let after = whole.after(&hidden);
    let dlogits = slope(&whole.network.logits(&after), &whole.labels);
    let dy = whole.network.logits_back(&dlogits);
    let (mut dhidden, mut of_seeds) = (vec![0.0; dy.len()], Vec::new());
    whole.with_layer(whole.labels.len(), |layer, rows| {
        layer.backward(&hidden, rows, &dy, &mut dhidden, &mut of_seeds).unwrap();
    });
    let of_network = whole.network.gradients(&whole.x, &hidden, &after, &dlogits, &dhidden);
    let parts: [(Part<Whole>, &[f32]); 5] = [
        (|whole| &mut whole.network.first.matrix, &of_network.first.0),
        (|whole| &mut whole.network.first.bias, &of_network.first.1),
        (|whole| &mut whole.weights[0], &of_seeds[0]),
        (|whole| &mut whole.weights[1], &of_seeds[1]),
        (|whole| &mut whole.network.second.matrix, &of_network.second.0),
    ];
    for (number, (part, found)) in parts.into_iter().enumerate() {
        assert_eq!(found.len(), part(&mut Whole::new()).len());
        for (at, &found) in found.iter().enumerate() {
            let moved = |by: f32| {
                let mut moved = Whole::new();
                part(&mut moved)[at] += by;
                moved.loss()
            };
            let expected = (moved(1e-3) - moved(-1e-3)) / 2e-3;
            assert!(
                (f64::from(found) - expected).abs() < 3e-3,
                "part {number}, weight {at}: {found} against {expected}"
            );
        }
    }
}
