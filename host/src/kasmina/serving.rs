//! What a served layer can be asked for. Each of these is one job on the layer's thread.

use super::error::KasminaError;
use super::library::SharedLibrary;
use super::message::{KasminaCommand, PostedCommand, news};
use super::worker::{Boundary, EpochSignals, with_id};
use super::{Done, Kasmina, Posted};
use crate::config::KasminaFile;
use crate::news::{Bus, Noted, topic};
use kasmina::blueprint::Blueprint;
use kasmina::observe::{Evaluation, TaskSignals};
use kasmina::state::Lifecycle;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::sync::{Arc, PoisonError};

/// Values that go through a layer: row-major, `rows` times as wide as the layer.
#[derive(Debug, Clone)]
pub struct Values {
    /// The values.
    pub values: Vec<f32>,
    /// How many rows they are.
    pub rows: usize,
}

impl Kasmina {
    /// The bus that tells of the layers.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// The limits of this host.
    #[must_use]
    pub fn limits(&self) -> &KasminaFile {
        &self.limits
    }

    /// The name of the kernel that governs.
    #[must_use]
    pub fn kernel(&self) -> &str {
        self.slot.name()
    }

    /// A layer's width.
    ///
    /// # Errors
    /// When there is no such layer, or it is not known what it is.
    pub fn width(&self, id: &str) -> Done<usize> {
        let served = self.served(id)?;
        let width = served.definition.as_ref().map(|definition| definition.config.width);
        let why = || served.handle.failed().unwrap_or("its definition cannot be read").to_owned();
        width.ok_or_else(|| KasminaError::Failed { layer: id.to_owned(), why: why() })
    }

    /// Check the shape of values against the limits. That all of them are finite the layer checks, on its own thread.
    ///
    /// # Errors
    /// Which is beyond which.
    pub fn check_values(&self, name: &'static str, width: usize, x: &Values) -> Done<()> {
        let rows = x.rows;
        self.check_rows(name, width, rows)?;
        let (found, expected) = (x.values.len(), rows * width);
        if found != expected {
            return Err(kasmina::Error::Shape { buffer: name, found, expected, rows, width }.into());
        }
        Ok(())
    }

    /// Check so many rows against the limits.
    ///
    /// # Errors
    /// Which is beyond which.
    pub fn check_rows(&self, name: &str, width: usize, rows: usize) -> Done<()> {
        let limits = &self.limits;
        if rows == 0 || rows > limits.rows_max {
            let max = limits.rows_max;
            return Err(KasminaError::Limit(format!("`{name}` has {rows} rows: give 1 to {max} (kasmina.rows_max)")));
        }
        let values = rows.saturating_mul(width);
        if values > limits.values_max {
            let max = limits.values_max;
            let why =
                format!("{rows} rows of {width} are {values} values, one pass may have {max} (kasmina.values_max)");
            return Err(KasminaError::Limit(why));
        }
        Ok(())
    }

    /// One pass, and its output. With `nourish`, seeds in TRAINING are trained on the same values after it; without
    /// `count` it leaves no trace in the layer's telemetry.
    ///
    /// # Errors
    /// What the layer says; nothing has changed then, save by [`KasminaError::Half`], where the pass counted.
    pub async fn forward(&self, id: &str, x: Values, count: bool, nourish: bool) -> Done<Vec<f32>> {
        self.check_values("x", self.width(id)?, &x)?;
        self.ask(id, move |worker| {
            let y = if count { worker.forward(&x.values, x.rows) } else { worker.infer(&x.values, x.rows) }?;
            if nourish {
                worker.nourish(&x.values, x.rows, count)?;
            }
            Ok(y)
        })
        .await
    }

    /// From the gradient of the output to that of the input; with `step`, learning seeds take one step of Adam.
    ///
    /// # Errors
    /// What the layer says; nothing has changed then, save by [`KasminaError::Half`], where the gradients are kept.
    pub async fn backward(&self, id: &str, x: Values, dy: Values, step: bool) -> Done<Vec<f32>> {
        let width = self.width(id)?;
        self.check_values("x", width, &x)?;
        self.check_values("dy", width, &dy)?;
        self.ask(id, move |worker| worker.backward(&x.values, x.rows, &dy.values, step)).await
    }

    /// End an epoch.
    ///
    /// # Errors
    /// Why not; the layer is as it was.
    pub async fn end_epoch(&self, id: &str, signals: EpochSignals) -> Done<Boundary> {
        check_signals(&signals)?;
        self.ask(id, move |worker| worker.end_epoch(&signals)).await
    }

    /// Give a command to a layer. What comes of it is told on the bus.
    ///
    /// # Errors
    /// When it cannot be understood, or the layer takes no jobs.
    pub fn post(&self, id: &str, posted: PostedCommand, who: &str) -> Done<Posted> {
        let served = self.served(id)?;
        let (event_id, trace) = (posted.event_id.clone(), posted.trace_id.clone());
        let command = posted.for_layer(id).map_err(KasminaError::Invalid)?;
        let Some(command_id) = event_id else {
            return self.give(&served, &command, None, trace.as_deref(), who);
        };
        // Ids are the sender's own: two senders may choose the same.
        let unique = format!("{who}/{command_id}");
        let digest: [u8; 32] = Sha256::digest(serde_json::to_vec(&command).unwrap_or_default()).into();
        let noted = served.seen.lock().unwrap_or_else(PoisonError::into_inner).note(&unique, digest);
        match noted {
            Noted::Again => return Ok(Posted { command_id, duplicate: true }),
            Noted::Other => {
                return Err(KasminaError::Conflict(format!(
                    "event_id `{command_id}` came before with another command"
                )));
            }
            Noted::New => {}
        }
        let given = self.give(&served, &command, Some(&command_id), trace.as_deref(), who);
        given.inspect_err(|_| served.seen.lock().unwrap_or_else(PoisonError::into_inner).forget(&unique))
    }

    fn give(
        &self,
        served: &Arc<super::Served>,
        command: &KasminaCommand,
        id: Option<&str>,
        trace: Option<&str>,
        who: &str,
    ) -> Done<Posted> {
        let id = id.map_or_else(|| self.bus.fresh_id(), str::to_owned);
        let event = self.bus.publish(news(who, topic::COMMANDS, trace), &with_id(command, &id))?;
        let (order, unique, trace) = (command.clone(), format!("{who}/{id}"), event.envelope.trace_id.clone());
        let command_id = id.clone();
        let work = move |worker: Option<&mut super::worker::Worker>| {
            let Some(worker) = worker else {
                return tracing::warn!(command = id, "the layer was closed before the command was carried out");
            };
            worker.command(&order, &id, &unique, &trace);
        };
        served.handle.send(work)?;
        Ok(Posted { command_id, duplicate: false })
    }

    /// So many seeds from one number on.
    ///
    /// # Errors
    /// When there is no such layer, or it is out of service.
    pub async fn seeds(&self, id: &str, stage: Option<Lifecycle>, from: usize, limit: Option<usize>) -> Done<Value> {
        let limit = limit.unwrap_or(100).min(self.limits.page_seeds_max);
        if limit == 0 {
            let max = self.limits.page_seeds_max;
            return Err(KasminaError::Invalid(format!("limit=0: give 1 to {max} (kasmina.page_seeds_max)")));
        }
        self.ask(id, move |worker| Ok(worker.seeds(stage, from, limit))).await
    }

    /// One seed.
    ///
    /// # Errors
    /// When there is none.
    pub async fn seed(&self, id: &str, seed: usize) -> Done<Value> {
        self.ask(id, move |worker| worker.one_seed(seed)).await
    }

    /// The health report of the last epoch, as JSON.
    ///
    /// # Errors
    /// When no epoch has ended since the layer was taken up.
    pub async fn telemetry(&self, id: &str) -> Done<Arc<str>> {
        let none = KasminaError::Absent(format!("layer '{id}' has ended no epoch since it was taken up"));
        self.ask(id, move |worker| worker.health.clone().ok_or(none)).await
    }

    /// The whole layer, as it is now.
    ///
    /// # Errors
    /// When there is no such layer, or it is out of service.
    pub async fn checkpoint(&self, id: &str) -> Done<Vec<u8>> {
        self.ask(id, move |worker| Ok(worker.layer.save())).await
    }

    /// Put the whole layer to a checkpoint of it, if the kernel allows.
    ///
    /// # Errors
    /// When it is not one of this layer, or denied; the layer is as it was.
    pub async fn restore(&self, id: &str, checkpoint: Vec<u8>, who: &str) -> Done<Value> {
        let who = who.to_owned();
        self.ask(id, move |worker| worker.restore(&checkpoint, &who)).await
    }

    /// Add a blueprint to the library; its id.
    ///
    /// # Errors
    /// When it cannot be used, or there are too many.
    pub async fn add_blueprint(&self, blueprint: Blueprint) -> Done<String> {
        let library = self.library.clone();
        let added = tokio::task::spawn_blocking(move || library.add(&blueprint)).await;
        added.map_err(|why| KasminaError::Invalid(why.to_string()))?
    }

    /// All blueprints, each with its id and its record.
    ///
    /// # Errors
    /// When the host stops.
    pub async fn blueprints(&self) -> Done<Vec<Value>> {
        self.look(SharedLibrary::blueprints).await
    }

    /// The names of all strategies.
    ///
    /// # Errors
    /// When the host stops.
    pub async fn strategies(&self) -> Done<Vec<String>> {
        self.look(SharedLibrary::strategies).await
    }

    /// Look into the library, away from the runtime's workers: a layer may hold it for as long as its strategies think.
    async fn look<T: Send + 'static>(&self, look: impl FnOnce(&SharedLibrary) -> T + Send + 'static) -> Done<T> {
        let library = self.library.clone();
        let seen = tokio::task::spawn_blocking(move || look(&library)).await;
        seen.map_err(|why| KasminaError::Conflict(format!("the library cannot be read: {why}")))
    }

    /// Take no more jobs, answer those that wait, and wait for the layers' threads, all side by side, for
    /// `kasmina.finish_timeout_ms`.
    pub async fn finish(&self) {
        let layers: Vec<_> = self.layers.read().unwrap_or_else(PoisonError::into_inner).clone().into_iter().collect();
        let timeout = self.finish_timeout();
        let closing = layers.iter().map(|(_, served)| served.handle.close(timeout));
        let ended = futures_util::future::join_all(closing).await;
        for ((layer, _), _) in layers.iter().zip(ended).filter(|(_, ended)| !ended) {
            tracing::error!(layer, "the layer is still at work (kasmina.finish_timeout_ms): the host stops without it");
        }
        self.rollouts.finish().await;
    }
}

fn check_signals(signals: &EpochSignals) -> Done<()> {
    let TaskSignals { loss, metric } = signals.task;
    let of_seeds = signals.evaluations.iter().flat_map(|(seed, evaluation)| {
        let Evaluation { delta, improvement, error_rate } = *evaluation;
        let named = [("delta", delta), ("improvement", improvement), ("error_rate", error_rate)];
        named.map(|(name, value)| (format!("evaluations.{seed}.{name}"), value))
    });
    let all = [("loss".to_owned(), loss), ("metric".to_owned(), metric)].into_iter().chain(of_seeds);
    match all.into_iter().find(|(_, value)| !value.is_finite()) {
        None => Ok(()),
        Some((name, value)) => Err(KasminaError::Invalid(format!("{name} is {value}: it must be a finite number"))),
    }
}
