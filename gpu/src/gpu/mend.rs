//! Statistics whose squares f32 cannot hold, made anew in f64 on the host: those of values beyond 10¹⁹ are not finite on
//! the device, and those of values below 10⁻¹⁹ vanish there.

use super::table::Table;
use crate::backend::View;
use crate::blueprint::{Blueprint, Function};
use crate::chunks::Chunks;
use crate::reference;
use crate::state::{Lifecycle, SeedState};
use crate::telemetry::SeedTelemetry;
use std::sync::Arc;

/// Below this magnitude of all its values, a chunk's squares lose digits.
const TINY: f32 = 1e-15;

/// Make anew what is not sound, save of seeds that are marked: those have values that are not finite.
pub(super) fn mend(table: &Table, (x, y): (&[f32], &[f32]), marked: &[u32], found: &mut [SeedTelemetry]) {
    for (seed, found) in found.iter_mut().enumerate() {
        if !sound(found) && marked[seed / 32] >> (seed % 32) & 1 == 0 {
            *found = anew(table.chunks, seed, table.computes(seed), (x, y)).unwrap_or(*found);
        }
    }
}

fn sound(found: &SeedTelemetry) -> bool {
    let greatest = found.min.abs().max(found.max.abs());
    let holds = greatest == 0.0 || greatest >= TINY;
    holds
        && bytemuck::bytes_of(found).chunks_exact(4).all(|value| bytemuck::pod_read_unaligned::<f32>(value).is_finite())
}

/// By the plain definition: it is rare.
fn anew(chunks: Chunks, seed: usize, computes: bool, (x, y): (&[f32], &[f32])) -> Option<SeedTelemetry> {
    let one = Chunks::new(chunks.width_of(seed), 1).ok()?;
    let rows = x.len() / chunks.width();
    let chunk = |values: &[f32]| -> Vec<f32> {
        values.chunks_exact(chunks.width()).flat_map(|row| row[chunks.range(seed)].iter().copied()).collect()
    };
    let mut state = SeedState::DORMANT;
    if computes {
        state.enter(Lifecycle::Grafting);
        state.blueprint = 0;
    }
    let view = View {
        chunks: one,
        state: &[state],
        alpha: &[1.0],
        weights: &[Vec::new()],
        blueprints: &[Arc::new(Blueprint::new("any", Function::ResidualScale))],
    };
    let wide: Vec<f64> = chunk(y).into_iter().map(f64::from).collect();
    reference::telemetry(&view, &chunk(x), &wide, rows).first().copied()
}
