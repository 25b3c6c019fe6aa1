//! A whole layer as bytes, and back.
//!
//! The file, all numbers little-endian, texts and lists with a u64 length before them, options with one byte before
//! them (0: none, 1: some):
//!
//! | what | as |
//! |---|---|
//! | `KASMINA\0` | 8 bytes |
//! | version, 2 | u32 |
//! | layer's id | text |
//! | width, seeds | u64, u64 |
//! | mode (0 full, 1 legacy) | u32 |
//! | epoch, denoising steps in it | u64, u64 |
//! | task's last loss and metric | f64, f64 |
//! | ids of the blueprints that rows number, by their first use | list of texts |
//! | names of the strategies that rows number | list of texts |
//! | rows of the state tensor | 8 i32 for each seed |
//! | alpha | f32 for each seed |
//! | weights and optimiser | for each seed: list of f32, steps u64, count u64, first and second moments f32 |
//! | trail | option for each seed, see `trail.rs` |
//! | rolling checkpoints | list of: number i32, list of snapshots, see `checkpoint.rs` |
//! | waiting commands | list of: seed u64, id, stage i32, description of a blueprint (option, JSON), strategy (option u64), reason |
//! | remembered command ids | list of: id, seed u64, stage i32, SHA-256 of the command, 32 bytes |
//! | rollbacks, field reports and lapsed commands to be reported | three lists of JSON texts |
//! | SHA-256 of all before | 32 bytes |
//!
//! What is measured of the running epoch (telemetry, gradients, times of passes) is not in it: a layer is best saved at
//! a boundary. Alphas are the seeds' own, whatever trial is open. Reading checks the digest first, then that it is this
//! layer's file, then every value that others depend on; only then does anything change.

use crate::Error;
use crate::blueprint::Blueprint;
use crate::checkpoint::codec::{Reader, Writer};
use crate::checkpoint::{Ring, Snapshot, read_row, write_row};
use crate::layer::commands::{Known, Pending, Remembered, Waiting, check_texts};
use crate::layer::store::Store;
use crate::layer::trail::{COUNTS_END, Trail};
use crate::layer::{Config, Layer, Library, News, Running, lock};
use crate::lifecycle::Mode;
use crate::observe::TaskSignals;
use crate::state::{Lifecycle, SeedState};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"KASMINA\0";
const VERSION: u32 = 2;
const DIGEST_BYTES: usize = 32;
/// The least bytes of a seed: its row, its alpha, the length of its weights, the head of its optimiser, no trail.
pub(super) const SEED_BYTES_MIN: usize = 32 + 4 + 8 + 16 + 1;

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
        let (ids, numbers) = self.used_blueprints();
        let numbered = |row: &SeedState| {
            let number = usize::try_from(row.blueprint).ok().and_then(|at| numbers.get(at).copied());
            let mut row = *row;
            row.blueprint = number.unwrap_or(-1);
            row
        };
        out.list(&ids, |out, id| out.text(id));
        out.list(&lock(&self.library).strategies.names(), |out, name| out.text(name));
        self.write_seeds(&mut out, numbered);
        self.ring.write(&mut out, |snapshot| self.can_be_put_back(snapshot), numbered);
        self.write_commands(&mut out);
        write_json(&mut out, &self.news.rollbacks);
        write_json(&mut out, &self.news.field_reports);
        write_json(&mut out, &self.news.lapsed);
        let digest = Sha256::digest(out.as_bytes());
        out.raw(&digest);
        out.into_bytes()
    }

    /// The ids of the blueprints that rows name, in the order of their first use, and the place of each among them by
    /// its number; -1 for those that no row names any more.
    fn used_blueprints(&self) -> (Vec<&str>, Vec<i32>) {
        let (mut ids, mut numbers) = (Vec::new(), vec![-1; self.store.blueprints.len()]);
        let snapshots = self.ring.snapshots().filter(|snapshot| self.can_be_put_back(snapshot));
        for row in self.store.state.iter().chain(snapshots.map(|snapshot| &snapshot.row)) {
            let at = usize::try_from(row.blueprint).unwrap_or(usize::MAX);
            if let Some(number) = numbers.get_mut(at).filter(|number| **number < 0) {
                *number = i32::try_from(ids.len()).unwrap_or(-1);
                ids.push(self.store.blueprint_ids[at].as_str());
            }
        }
        (ids, numbers)
    }

    /// Whether a snapshot is of the seed's present life.
    fn can_be_put_back(&self, snapshot: &Snapshot) -> bool {
        let trail = self.store.trails[snapshot.seed].as_deref();
        self.grows(snapshot.seed) && trail.is_some_and(|trail| trail.germinated == snapshot.trail.germinated)
    }

    fn write_seeds(&self, out: &mut Writer, numbered: impl Fn(&SeedState) -> SeedState) {
        for row in &self.store.state {
            write_row(out, &numbered(row));
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
            out.option(pending.blueprint.as_ref(), |out, (_, blueprint)| out.text(&blueprint.canonical()));
            out.option(pending.strategy, Writer::size);
            out.text(&pending.reason);
        });
        out.list(&self.remembered.all().collect::<Vec<_>>(), |out, (id, known)| {
            out.text(id);
            out.size(known.seed);
            out.i32(known.to.number());
            out.raw(&known.digest);
        });
    }

    /// Become what [`Self::save`] saved of this layer: one with the same id, width, seeds and mode, whose blueprints
    /// and strategies the library knows.
    ///
    /// # Errors
    /// If the bytes are damaged, of another version, or of another layer; if they hold values that no layer comes to, or
    /// more weights than this one may have. The layer is then as before.
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
        if epoch >= COUNTS_END || lesson >= COUNTS_END || !task.loss.is_finite() || !task.metric.is_finite() {
            return Err(damaged(&format!("epoch {epoch}, step {lesson} and {task:?} cannot be")));
        }
        let ids = from.list(Reader::text).ok_or_else(ends)?;
        let names = from.list(Reader::text).ok_or_else(ends)?;
        let mut store = Store::new(layer.store.chunks);
        store.blueprints = find_blueprints(library, &ids, layer.config.blueprints_max)?;
        store.blueprint_ids = ids;
        // Of the strategies only those that a seed uses must be there.
        let strategies: Vec<_> = names.iter().map(|name| library.strategies.find(name)).collect();
        read_seeds(from, &mut store).ok_or_else(ends)?;
        let mut ring = Ring::read(from, layer.config.checkpoints_kept).ok_or_else(ends)?;
        renumber(store.state.iter_mut(), &strategies, &names, ramps)?;
        // What is put back never ramps again.
        renumber(ring.snapshots_mut().map(|snapshot| &mut snapshot.row), &strategies, &names, |_| false)?;
        check_seeds(&store, &ring)?;
        check_limits(&store, &layer.config)?;
        let pending = read_pending(from, &store, &layer.config, &strategies)?;
        let mut remembered = Remembered::new(layer.config.command_ids_kept);
        let command = |from: &mut Reader<'_>| {
            let (id, seed, to) = (from.text()?, from.size()?, Lifecycle::from_number(from.i32()?)?);
            Some((id, Known { seed, to, digest: from.raw(DIGEST_BYTES)?.try_into().ok()? }))
        };
        for (id, known) in from.list(command).ok_or_else(ends)? {
            remembered.add(&id, known);
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
        store.held = store.held.saturating_add(store.weights[seed].len());
        if stage != Lifecycle::Dormant && !stage.is_terminal() {
            store.active.insert(seed);
        }
    }
    Some(())
}

/// Give rows the numbers that the strategies have in this library. A row of a stage for which none is `asked` may
/// name one that is not there any more.
fn renumber<'a>(
    rows: impl Iterator<Item = &'a mut SeedState>,
    strategies: &[Result<usize, Error>],
    names: &[String],
    asked: impl Fn(Lifecycle) -> bool,
) -> Result<(), Error> {
    for row in rows.filter(|row| row.strategy >= 0) {
        let at = usize::try_from(row.strategy).unwrap_or(usize::MAX);
        row.strategy = match strategies.get(at) {
            Some(Ok(number)) => i32::try_from(*number).unwrap_or(-1),
            Some(Err(_)) if !asked(row.lifecycle()) => -1,
            Some(Err(_)) => {
                let name = &names[at];
                return Err(Error::Checkpoint(format!("its grafting strategy `{name}` is not registered")));
            }
            None => return Err(damaged("a seed has a strategy that it does not name")),
        };
    }
    Ok(())
}

/// Whether a strategy will be asked for a seed of this stage, now or later.
fn ramps(stage: Lifecycle) -> bool {
    matches!(stage, Lifecycle::Germinated | Lifecycle::Training | Lifecycle::Grafting)
}

/// Whether the layer may have so many weights.
fn check_limits(store: &Store, config: &Config) -> Result<(), Error> {
    let most = config.seed_weights_max;
    if let Some(seed) = store.weights.iter().position(|weights| weights.len() > most) {
        let found = store.weights[seed].len();
        let text = format!("seed {seed} has {found} weights, in this layer one may have {most} (`seed_weights_max`)");
        return Err(Error::Checkpoint(text));
    }
    let (found, most) = (store.held, config.weights_max);
    if found > most {
        let text = format!("its seeds have {found} weights, in this layer they may have {most} (`weights_max`)");
        return Err(Error::Checkpoint(text));
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
        let tended = trail.is_some() && weights == moments && row.blueprint >= 0;
        if !fits(seed, row, store.alpha[seed], weights) || (store.active.contains(&seed) && !tended) {
            return Err(damaged(&format!("seed {seed} does not fit its blueprint")));
        }
        if !trail.is_none_or(Trail::sound) || !store.optimisers[seed].sound() {
            return Err(damaged(&format!("seed {seed} has a past or an optimiser that no seed comes to")));
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
        let finite = snapshot.weights.iter().all(|weight| weight.is_finite());
        if !finite || !snapshot.trail.sound() || !snapshot.optimiser.sound() {
            return Err(damaged(&format!("a rolling checkpoint of seed {seed} holds values that no seed comes to")));
        }
    }
    Ok(())
}

fn read_pending(
    from: &mut Reader<'_>,
    store: &Store,
    config: &Config,
    strategies: &[Result<usize, Error>],
) -> Result<Waiting, Error> {
    let read = |from: &mut Reader<'_>| {
        let (seed, command_id, to) = (from.size()?, from.text()?, Lifecycle::from_number(from.i32()?)?);
        let (blueprint, strategy) = (from.option(Reader::text)?, from.option(Reader::size)?);
        Some((seed, command_id, to, blueprint, strategy, from.text()?))
    };
    let mut all = Waiting::default();
    for (seed, command_id, to, json, strategy, reason) in from.list(read).ok_or_else(|| damaged("its commands"))? {
        let blueprint = json.as_deref().map(Blueprint::parse).transpose()?;
        check_texts(&command_id, &reason)?;
        let strategy = match strategy.map(|at| strategies.get(at)) {
            None => None,
            Some(Some(Ok(number))) => Some(*number),
            Some(_) => return Err(Error::Checkpoint("a waiting command's strategy is not registered".to_owned())),
        };
        if seed >= store.chunks.seeds() {
            return Err(damaged("a command waits for a seed that is not there"));
        }
        let germinates = to == Lifecycle::Germinated;
        if blueprint.is_some() != germinates || (germinates && strategy.is_none()) {
            return Err(damaged(&format!("command `{command_id}` leads to {to} and has not what that needs")));
        }
        let width = store.chunks.width_of(seed);
        let weights = blueprint.as_ref().map_or(0, |blueprint| blueprint.function.weights(width));
        let blueprint = blueprint.map(|blueprint| (blueprint.id(), Arc::new(blueprint)));
        if weights > config.seed_weights_max.min(config.weights_max.saturating_sub(store.held + all.weights)) {
            let text = format!(
                "command `{command_id}` germinates {weights} weights, more than `seed_weights_max` or `weights_max` leave"
            );
            return Err(Error::Checkpoint(text));
        }
        all.insert(seed, Pending { command_id, to, blueprint, weights, strategy, reason });
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
