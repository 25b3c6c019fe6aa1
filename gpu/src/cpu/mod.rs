//! The CPU backend: SIMD found at run time, on as many threads as it is given.
//!
//! A pass is cut into tiles (neighbouring seeds, some thousand columns) times blocks of rows, by the shapes alone; what a
//! task computes does not depend on who runs it, and blocks are merged in their order. So the bits are the same on every
//! run and on any number of threads. Within a task, some rows at a time are copied where nobody computes, and lifted
//! into panels, computed and lowered where somebody does; statistics are gathered from the rows just written.
//!
//! It holds weights of seeds that compute, and nothing else that grows with the batch. There is no unsafe code: SIMD
//! is `pulp`'s.

#![allow(
    clippy::inline_always,
    reason = "SIMD works only where all is inlined into the function that has its features"
)]
#![allow(clippy::needless_range_loop, reason = "loops over registers, by number, become no loops at all")]
#![allow(
    clippy::many_single_char_names,
    clippy::similar_names,
    reason = "columns are a, b, c, d; products are xx, xy, yy"
)]

mod activation;
mod dense;
mod drift;
mod function;
mod pass;
mod statistics;
mod strip;
#[cfg(test)]
mod tests;
mod tile;

use crate::Error;
use crate::backend::{Backend, Changed, Device, Gradients, Pass, View, check_length};
use crate::blueprint::Function;
use crate::chunks::Chunks;
use crate::telemetry::Telemetry;
use pulp::Arch;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use tile::{Tile, blocks, tiles};

/// A layer on the CPU.
#[derive(Debug)]
pub struct Cpu {
    arch: Arch,
    /// None: the caller's thread does it all.
    pool: Option<ThreadPool>,
    layer: Option<Layer>,
    /// What [`Cpu::pass_bytes`] says.
    pass_bytes: usize,
}

#[derive(Debug)]
struct Layer {
    chunks: Chunks,
    tiles: Vec<Tile>,
    /// One for each seed; none where it does not compute.
    grown: Vec<Option<Box<Grown>>>,
}

/// A seed that computes.
#[derive(Debug)]
struct Grown {
    function: Function,
    alpha: f32,
    learns: bool,
    weights: Box<[f32]>,
}

impl Cpu {
    /// A backend on so many threads; `None`: on as many as the machine has. With one, the caller's thread does the work.
    #[must_use]
    pub fn new(threads: Option<usize>) -> Self {
        let available = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = threads.unwrap_or_else(available);
        let pool = (threads > 1).then(|| {
            let name = |at| format!("kasmina-cpu-{at}");
            ThreadPoolBuilder::new().num_threads(threads).thread_name(name).build()
        });
        let pool = pool.and_then(|built| {
            built
                .inspect_err(|error| tracing::warn!(%error, threads, "no threads for the cpu backend: it runs on one"))
                .ok()
        });
        Self { arch: Arch::new(), pool, layer: None, pass_bytes: 0 }
    }

    /// How many threads it runs on.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.pool.as_ref().map_or(1, ThreadPool::current_num_threads)
    }

    /// Bytes that the last forward pass took beyond x, y and the weights, at most: what its tasks found, kept until all
    /// are done; the lists of rows that cut y; and what the greediest task took while it ran, on every thread.
    #[must_use]
    pub fn pass_bytes(&self) -> usize {
        self.pass_bytes
    }

    fn layer(&self) -> Result<&Layer, Error> {
        self.layer.as_ref().ok_or_else(|| Error::Device {
            device: "cpu".to_owned(),
            problem: "no layer was loaded: call `load` first".to_owned(),
        })
    }

    /// Run a task for each item; results in the order of the items.
    fn each<T: Send, R: Send>(&self, items: Vec<T>, task: impl Fn(T) -> R + Sync + Send) -> Vec<R> {
        match &self.pool {
            Some(pool) => pool.install(|| items.into_par_iter().map(task).collect()),
            None => items.into_iter().map(task).collect(),
        }
    }
}

impl Backend for Cpu {
    fn device(&self) -> Device {
        let name = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        });
        Device {
            backend: "cpu",
            name: name.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            detail: format!("{} threads, SIMD {}", self.threads(), instructions(self.arch)),
        }
    }

    fn load(&mut self, layer: &View<'_>, changed: Changed<'_>) -> Result<(), Error> {
        check_view(layer)?;
        let same = self.layer.as_ref().is_some_and(|held| held.chunks == layer.chunks);
        match (changed, &mut self.layer) {
            (Changed::Seeds(seeds), Some(held)) if same => held.change(layer, seeds),
            _ => {
                self.layer = Some(Layer::new(layer)?);
                Ok(())
            }
        }
    }

    fn forward(
        &mut self,
        x: &[f32],
        rows: usize,
        y: &mut [f32],
        telemetry: Option<&mut Telemetry>,
    ) -> Result<Pass, Error> {
        let layer = self.layer()?;
        let width = layer.chunks.width();
        check_length("x", x.len(), rows, width)?;
        check_length("y", y.len(), rows, width)?;
        let watched = telemetry.is_some() && rows > 0;
        let tasks = layer.tiles.iter().zip(blocks(&layer.tiles, width, y)).collect();
        let done = self.each(tasks, |(tile, blocks)| {
            let found = self.each(blocks, |block| {
                self.arch.dispatch(pass::Forward { grown: &layer.grown, tile, x, width, block, watched })
            });
            let (kept, scratch) = found
                .iter()
                .map(pass::Found::bytes)
                .fold((0, 0), |(kept, most), (ours, scratch)| (kept + ours, most.max(scratch)));
            (pass::join(tile, found), kept, scratch)
        });
        let scratch = done.iter().map(|(_, _, scratch)| *scratch).max().unwrap_or(0);
        let kept: usize = done.iter().map(|(_, kept, _)| *kept).sum();
        let lists = rows * layer.tiles.len() * size_of::<&mut [f32]>();
        let pass_bytes = kept + lists + scratch * self.threads();
        let mut pass = Pass::default();
        let mut seeds = Vec::with_capacity(if watched { layer.chunks.seeds() } else { 0 });
        for ((tile, not_finite), _, _) in done {
            seeds.extend(tile);
            pass.not_finite.extend(not_finite);
        }
        if let Some(telemetry) = telemetry {
            seeds.resize(layer.chunks.seeds(), crate::telemetry::SeedTelemetry::default());
            *telemetry = Telemetry { rows, seeds };
        }
        self.pass_bytes = pass_bytes;
        Ok(pass)
    }

    fn backward(
        &mut self,
        x: &[f32],
        rows: usize,
        dy: &[f32],
        dx: &mut [f32],
        gradients: &mut Gradients,
    ) -> Result<Pass, Error> {
        let layer = self.layer()?;
        let width = layer.chunks.width();
        for (name, found) in [("x", x.len()), ("dy", dy.len()), ("dx", dx.len())] {
            check_length(name, found, rows, width)?;
        }
        gradients.clear();
        gradients.resize(layer.chunks.seeds(), Vec::new());
        let tasks = layer.tiles.iter().zip(blocks(&layer.tiles, width, dx)).collect();
        let done = self.each(tasks, |(tile, blocks)| {
            let found = self.each(blocks, |block| {
                self.arch.dispatch(pass::Backward { grown: &layer.grown, tile, x, dy, width, block })
            });
            pass::join_back(tile, &layer.grown, found)
        });
        let mut pass = Pass::default();
        for (learnt, not_finite) in done {
            for (seed, gradient) in learnt {
                gradients[seed] = gradient;
            }
            pass.not_finite.extend(not_finite);
        }
        Ok(pass)
    }
}

fn instructions(arch: Arch) -> String {
    let text = format!("{arch:?}");
    text.split(['(', ' ', '{']).next().unwrap_or_default().to_owned()
}

fn check_view(layer: &View<'_>) -> Result<(), Error> {
    let seeds = layer.chunks.seeds();
    let lists = [("state", layer.state.len()), ("alpha", layer.alpha.len()), ("weights", layer.weights.len())];
    for (buffer, found) in lists {
        check_length(buffer, found, 1, seeds)?;
    }
    Ok(())
}

impl Layer {
    fn new(view: &View<'_>) -> Result<Self, Error> {
        let grown: Result<Vec<_>, Error> = (0..view.chunks.seeds()).map(|seed| grow(view, seed)).collect();
        let grown = grown?;
        let mut tiles = tiles(&view.chunks);
        for tile in &mut tiles {
            tile.find_spans(&grown);
        }
        Ok(Self { chunks: view.chunks, tiles, grown })
    }

    /// Take over some seeds, all or none.
    fn change(&mut self, view: &View<'_>, seeds: &[usize]) -> Result<(), Error> {
        if let Some(&seed) = seeds.iter().find(|&&seed| seed >= self.grown.len()) {
            return Err(Error::NoSeed { layer: "(cpu)".to_owned(), seed, last: self.grown.len() - 1 });
        }
        let new: Result<Vec<_>, Error> = seeds.iter().map(|&seed| grow(view, seed)).collect();
        let mut stale = vec![false; self.tiles.len()];
        for (&seed, new) in seeds.iter().zip(new?) {
            stale[self.tiles.partition_point(|tile| tile.seeds.end <= seed)] |=
                new.is_some() != self.grown[seed].is_some();
            self.grown[seed] = new;
        }
        for (tile, _) in self.tiles.iter_mut().zip(stale).filter(|(_, stale)| *stale) {
            tile.find_spans(&self.grown);
        }
        Ok(())
    }
}

/// What a backend keeps of a seed, its weights checked.
fn grow(view: &View<'_>, seed: usize) -> Result<Option<Box<Grown>>, Error> {
    view.check(seed)?;
    Ok(view.computing(seed).map(|blueprint| {
        Box::new(Grown {
            function: blueprint.function,
            alpha: view.alpha[seed],
            learns: view.learns(seed),
            weights: view.weights[seed].clone().into(),
        })
    }))
}
