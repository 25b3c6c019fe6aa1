//! A whole layer as bytes, and back.
//!
//! The file, all numbers little-endian, texts and lists with a u64 length before them, options with one byte before
//! them (0: none, 1: some):
//!
//! | what | as |
//! |---|---|
//! | `KASMINA\0` | 8 bytes |
//! | version, 1 | u32 |
//! | layer's id | text |
//! | width, seeds | u64, u64 |
//! | mode (0 full, 1 legacy) | u32 |
//! | epoch, denoising steps in it | u64, u64 |
//! | task's last loss and metric | f64, f64 |
//! | ids of the blueprints that rows number | list of texts |
//! | names of the strategies that rows number | list of texts |
//! | rows of the state tensor | 8 i32 for each seed |
//! | alpha | f32 for each seed |
//! | weights and optimiser | for each seed: list of f32, steps u64, count u64, first and second moments f32 |
//! | trail | option for each seed, see `trail.rs` |
//! | rolling checkpoints | list of: number i32, list of snapshots, see `checkpoint.rs` |
//! | waiting commands | list of: seed u64, id, stage i32, blueprint id (option), strategy (option u64), reason |
//! | remembered command ids | list of: id, seed u64, stage i32 |
//! | rollbacks, field reports and lapsed commands to be reported | three lists of JSON texts |
//! | SHA-256 of all before | 32 bytes |
//!
//! What is measured of the running epoch (telemetry, gradients, times of passes) is not in it: a layer is best saved at
//! a boundary. Alphas are the seeds' own, whatever trial is open. Reading checks the digest first, then that it is this
//! layer's file, then every value that others depend on; only then does anything change.

use crate::Error;
use crate::blueprint::Blueprint;
use crate::checkpoint::codec::{Reader, Writer};
use crate::checkpoint::{Ring, read_row, write_row};
use crate::layer::commands::{Pending, Remembered, Waiting};
use crate::layer::store::Store;
use crate::layer::trail::Trail;
use crate::layer::{Layer, Library, News, Running, lock};
use crate::lifecycle::Mode;
use crate::observe::TaskSignals;
use crate::state::{Lifecycle, SeedState};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"KASMINA\0";
const VERSION: u32 = 1;
const DIGEST_BYTES: usize = 32;

impl Layer {
    /// The whole layer as bytes, the same for the same layer.
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.raw(MAGIC);
        out.u32(VERSION);
        out.text(&self.config.id);
        out.size(self.config.width);
        out.size(self.config.seeds);
        out.u32(u32::from(self.config.mode == Mode::Legacy));
        out.u64(self.epoch);
        out.u64(self.running.lesson);
        out.f64(self.task.loss);
        out.f64(self.task.metric);
        out.list(&self.store.blueprint_ids, |out, id| out.text(id));
        out.list(&lock(&self.library).strategies.names(), |out, name| out.text(name));
        self.write_seeds(&mut out);
        self.ring.write(&mut out, |snapshot| {
            let trail = self.store.trails[snapshot.seed].as_deref();
            self.grows(snapshot.seed) && trail.is_some_and(|trail| trail.germinated == snapshot.trail.germinated)
        });
        self.write_commands(&mut out);
        write_json(&mut out, &self.news.rollbacks);
        write_json(&mut out, &self.news.field_reports);
        write_json(&mut out, &self.news.lapsed);
        let digest = Sha256::digest(out.as_bytes());
        out.raw(&digest);
        out.into_bytes()
    }

    fn write_seeds(&self, out: &mut Writer) {
        for row in &self.store.state {
            write_row(out, row);
        }
        for (seed, &alpha) in self.store.alpha.iter().enumerate() {
            out.f32(self.trials.get(&seed).copied().unwrap_or(alpha));
        }
        for (weights, optimiser) in self.store.weights.iter().zip(&self.store.optimisers) {
            out.list(weights, |out, &weight| out.f32(weight));
            out.adam(optimiser);
        }
        for trail in &self.store.trails {
            out.option(trail.as_deref(), |out, trail| trail.write(out));
        }
    }

    fn write_commands(&self, out: &mut Writer) {
        out.list(&self.pending.all().collect::<Vec<_>>(), |out, (seed, pending)| {
            out.size(*seed);
            out.text(&pending.command_id);
            out.i32(pending.to.number());
            out.option(pending.blueprint.as_ref(), |out, (id, _)| out.text(id));
            out.option(pending.strategy, Writer::size);
            out.text(&pending.reason);
        });
        out.list(&self.remembered.all().collect::<Vec<_>>(), |out, (id, seed, to)| {
            out.text(id);
            out.size(*seed);
            out.i32(to.number());
        });
    }

    /// Become what [`Self::save`] saved of this layer: one with the same id, width, seeds and mode, whose blueprints
    /// and strategies the library knows.
    ///
    /// # Errors
    /// If the bytes are damaged, of another version, or of another layer. The layer is then as before.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Saved { epoch, lesson, task, store, ring, pending, remembered, news } = self.read_saved(bytes)?;
        self.running = Running { lesson, ..Running::default() };
        self.trials.clear();
        self.slowest_ms.fill(0.0);
        self.changes.mark_all();
        (self.epoch, self.task, self.store, self.ring) = (epoch, task, store, ring);
        (self.pending, self.remembered, self.news) = (pending, remembered, news);
        Ok(())
    }

    /// Whether [`Self::restore`] would take this; the epoch that the layer would then be at.
    ///
    /// # Errors
    /// As there.
    pub fn check_saved(&self, bytes: &[u8]) -> Result<u64, Error> {
        Ok(self.read_saved(bytes)?.epoch)
    }

    fn read_saved(&self, bytes: &[u8]) -> Result<Saved, Error> {
        let mut from = Reader::new(authentic(bytes)?);
        self.check_identity(&mut from)?;
        let read = Saved::read(&mut from, self, &lock(&self.library))?;
        if from.is_at_end() { Ok(read) } else { Err(damaged("bytes are left over")) }
    }

    fn check_identity(&self, from: &mut Reader<'_>) -> Result<(), Error> {
        let mut read = || Some((from.text()?, from.size()?, from.size()?, from.u32()?));
        let (id, width, seeds, mode) = read().ok_or_else(|| damaged("it ends within its head"))?;
        let config = &self.config;
        let own = (config.id.clone(), config.width, config.seeds, u32::from(config.mode == Mode::Legacy));
        if (&id, width, seeds, mode) == (&own.0, own.1, own.2, own.3) {
            return Ok(());
        }
        let named = |legacy: u32| if legacy == 0 { "full" } else { "legacy" };
        Err(Error::Checkpoint(format!(
            "it is of layer `{id}` ({width} wide, {seeds} seeds, {}), this is layer `{}` ({} wide, {} seeds, {})",
            named(mode),
            own.0,
            own.1,
            own.2,
            named(own.3),
        )))
    }
}

/// All that a file holds, read and checked.
struct Saved {
    epoch: u64,
    lesson: u64,
    task: TaskSignals,
    store: Store,
    ring: Ring,
    pending: Waiting,
    remembered: Remembered,
    news: News,
}

impl Saved {
    fn read(from: &mut Reader<'_>, layer: &Layer, library: &Library) -> Result<Self, Error> {
        let ends = || damaged("it ends too early, or holds what means nothing");
        let (epoch, lesson) = (from.u64().ok_or_else(ends)?, from.u64().ok_or_else(ends)?);
        let task = TaskSignals { loss: from.f64().ok_or_else(ends)?, metric: from.f64().ok_or_else(ends)? };
        let ids = from.list(Reader::text).ok_or_else(ends)?;
        let names = from.list(Reader::text).ok_or_else(ends)?;
        let mut store = Store::new(layer.store.chunks);
        store.blueprints = find_blueprints(library, &ids, layer.config.blueprints_max)?;
        store.blueprint_ids = ids;
        // Of the strategies only those that a seed uses must be there.
        let strategies: Vec<_> = names.iter().map(|name| library.strategies.find(name)).collect();
        read_seeds(from, &mut store).ok_or_else(ends)?;
        let mut ring = Ring::read(from, layer.config.checkpoints_kept).ok_or_else(ends)?;
        renumber(store.state.iter_mut(), &strategies, &names)?;
        renumber(ring.snapshots_mut().map(|snapshot| &mut snapshot.row), &strategies, &names)?;
        check_seeds(&store, &ring)?;
        let pending = read_pending(from, &store, library, &strategies)?;
        let mut remembered = Remembered::new(layer.config.command_ids_kept);
        let command = |from: &mut Reader<'_>| Some((from.text()?, from.size()?, Lifecycle::from_number(from.i32()?)?));
        for (id, seed, to) in from.list(command).ok_or_else(ends)? {
            remembered.add(&id, seed, to);
        }
        let mut news =
            || Some(News { rollbacks: read_json(from)?, field_reports: read_json(from)?, lapsed: read_json(from)? });
        let news = news().ok_or_else(ends)?;
        Ok(Self { epoch, lesson, task, store, ring, pending, remembered, news })
    }
}

/// Everything before the digest, if the digest is right.
pub(super) fn authentic(bytes: &[u8]) -> Result<&[u8], Error> {
    let Some((body, digest)) = bytes.split_last_chunk::<DIGEST_BYTES>() else {
        return Err(damaged("it is shorter than its digest"));
    };
    let mut from = Reader::new(body);
    if from.raw(MAGIC.len()) != Some(MAGIC) {
        return Err(Error::Checkpoint("it does not begin as a saved layer does".to_owned()));
    }
    if Sha256::digest(body).as_slice() != digest {
        return Err(damaged("its digest does not match"));
    }
    match from.u32() {
        Some(VERSION) => Ok(&body[MAGIC.len() + size_of::<u32>()..]),
        found => Err(Error::Checkpoint(format!("it is of version {found:?}, this build reads version {VERSION}"))),
    }
}

pub(super) fn damaged(how: &str) -> Error {
    Error::Checkpoint(format!("it is damaged: {how}"))
}

fn find_blueprints(library: &Library, ids: &[String], most: usize) -> Result<Vec<Arc<Blueprint>>, Error> {
    if ids.len() > most {
        let text = format!("it has {} blueprints, this layer holds {most} at most (`blueprints_max`)", ids.len());
        return Err(Error::Checkpoint(text));
    }
    let find = |id: &String| {
        let found = library.blueprints.find(id).ok().filter(|blueprint| blueprint.id() == *id);
        found.ok_or_else(|| Error::Checkpoint(format!("its blueprint {id} is not registered: register it first")))
    };
    ids.iter().map(find).collect()
}

fn read_seeds(from: &mut Reader<'_>, store: &mut Store) -> Option<()> {
    for row in &mut store.state {
        *row = read_row(from)?;
    }
    for alpha in &mut store.alpha {
        *alpha = from.f32()?;
    }
    for (weights, optimiser) in store.weights.iter_mut().zip(&mut store.optimisers) {
        *weights = from.list(Reader::f32)?;
        *optimiser = from.adam()?;
    }
    for trail in &mut store.trails {
        *trail = from.option(|from| Trail::read(from).map(Box::new))?;
    }
    for (seed, state) in store.state.iter().enumerate() {
        let stage = state.lifecycle();
        store.worn[seed] = true;
        store.training += usize::from(stage == Lifecycle::Training);
        if stage != Lifecycle::Dormant && !stage.is_terminal() {
            store.active.insert(seed);
        }
    }
    Some(())
}

/// Give rows the numbers that the strategies have in this library.
fn renumber<'a>(
    rows: impl Iterator<Item = &'a mut SeedState>,
    strategies: &[Result<usize, Error>],
    names: &[String],
) -> Result<(), Error> {
    for row in rows.filter(|row| row.strategy >= 0) {
        let at = usize::try_from(row.strategy).unwrap_or(usize::MAX);
        row.strategy = match strategies.get(at) {
            Some(Ok(number)) => i32::try_from(*number).unwrap_or(-1),
            Some(Err(_)) => {
                let name = &names[at];
                return Err(Error::Checkpoint(format!("its grafting strategy `{name}` is not registered")));
            }
            None => return Err(damaged("a seed has a strategy that it does not name")),
        };
    }
    Ok(())
}

/// Check every value that others depend on: numbers of blueprints, lengths of weights, alphas, trails.
fn check_seeds(store: &Store, ring: &Ring) -> Result<(), Error> {
    let fits = |seed: usize, row: &SeedState, alpha: f32, weights: usize| {
        let blueprint = usize::try_from(row.blueprint).ok().map(|at| store.blueprints.get(at));
        let width = store.chunks.width_of(seed);
        let length = match blueprint {
            None => Some(0),
            Some(found) => found.map(|blueprint| blueprint.function.weights(width)),
        };
        length == Some(weights) && (0.0..=1.0).contains(&alpha) && row.epochs_in_state >= 0 && row.errors >= 0
    };
    for (seed, row) in store.state.iter().enumerate() {
        let (weights, moments) = (store.weights[seed].len(), store.optimisers[seed].len());
        let trail = store.trails[seed].as_deref();
        let sound = trail.is_none_or(|trail| (0.0..=1.0).contains(&trail.progress));
        let tended = sound && (!store.active.contains(&seed) || (trail.is_some() && weights == moments));
        if !fits(seed, row, store.alpha[seed], weights) || !tended {
            return Err(damaged(&format!("seed {seed} does not fit its blueprint")));
        }
        if let Some(at) = store.weights[seed].iter().position(|weight| !weight.is_finite()) {
            let problem =
                format!("the checkpoint has {} at place {at}: every one must be finite", store.weights[seed][at]);
            return Err(Error::Weights { seed, problem });
        }
    }
    for snapshot in ring.snapshots() {
        let seed = snapshot.seed;
        let known = seed < store.chunks.seeds() && snapshot.weights.len() == snapshot.optimiser.len();
        if !known || !fits(seed, &snapshot.row, snapshot.alpha, snapshot.weights.len()) {
            return Err(damaged(&format!("a rolling checkpoint of seed {seed} does not fit its blueprint")));
        }
    }
    Ok(())
}

fn read_pending(
    from: &mut Reader<'_>,
    store: &Store,
    library: &Library,
    strategies: &[Result<usize, Error>],
) -> Result<Waiting, Error> {
    let read = |from: &mut Reader<'_>| {
        let (seed, command_id, to) = (from.size()?, from.text()?, Lifecycle::from_number(from.i32()?)?);
        let (blueprint, strategy) = (from.option(Reader::text)?, from.option(Reader::size)?);
        Some((seed, command_id, to, blueprint, strategy, from.text()?))
    };
    let mut all = Waiting::default();
    for (seed, command_id, to, id, strategy, reason) in from.list(read).ok_or_else(|| damaged("its commands"))? {
        let blueprint = match id {
            Some(id) => find_blueprints(library, std::slice::from_ref(&id), 1)?.pop().map(|found| (id, found)),
            None => None,
        };
        let strategy = match strategy.map(|at| strategies.get(at)) {
            None => None,
            Some(Some(Ok(number))) => Some(*number),
            Some(_) => return Err(Error::Checkpoint("a waiting command's strategy is not registered".to_owned())),
        };
        if seed >= store.chunks.seeds() {
            return Err(damaged("a command waits for a seed that is not there"));
        }
        all.insert(seed, Pending { command_id, to, blueprint, strategy, reason });
    }
    Ok(all)
}

fn write_json<T: Serialize>(out: &mut Writer, values: &[T]) {
    // Numbers and texts always have a JSON form; metrics were checked to be finite.
    let texts: Vec<_> = values.iter().filter_map(|value| serde_json::to_string(value).ok()).collect();
    out.list(&texts, |out, text| out.text(text));
}

fn read_json<T: DeserializeOwned>(from: &mut Reader<'_>) -> Option<Vec<T>> {
    from.list(|from| serde_json::from_str(&from.text()?).ok())
}
