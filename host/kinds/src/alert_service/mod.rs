//! Alerts: taken once, told to those whom a route names, told to others if nobody acknowledges, until somebody resolves them.
//!
//! The parts: [`desk`] writes alerts (in the thread of [`crate::writer`]), [`notify`] takes their steps and writes what is to
//! be told, [`workers`] tell it, [`matching`] chooses, [`routes`] are the doors.
//!
//! What must always hold: an alert that was accepted is on disk, with the notifications of its first step; each of these is
//! delivered at least once, or given up after `tries_max` tries, which the alert says. A receiver may see one twice: its `id`
//! tells. The sender is who called; `source` is what it says of itself.
//!
//! Two alerts of different senders are never the same, so that nobody hides another's alert behind one of its own. The parts
//! of the fleet count as one sender.
//!
//! Deliberately absent: calendars and rotas of people, which the receivers have, and alerts that a rule makes from metrics,
//! which is the work of `metrics_aggregator`.

mod desk;
mod matching;
mod notify;
mod record;
mod routes;
mod settings;
mod shared;
#[cfg(test)]
mod tests;
mod workers;

use crate::fault::Fault;
use crate::kind::{Clock, Kernel, Kind, Opened, Seed};
use crate::webhook::Webhook;
use crate::writer::{Queue, Writer};
use anyhow::anyhow;
use desk::Desk;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use record::Alert;
use redb::Database;
use serde_json::{Map, Value, json};
use settings::{Receiver, Settings};
use shared::Shared;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use workers::Teller;

/// The kind.
pub(crate) const KIND: Kind = Kind {
    name: "alert_service",
    purpose: "alerts: deduplicated, routed, escalated, acknowledged, silenced; told by signed webhooks",
    needs: &["message_bus", "immutable_log"],
    check: |value| Settings::read(value).map(drop),
    open: |seed| -> Opened { Box::pin(open(seed)) },
};

/// An open alert service.
struct Service {
    settings: Arc<Settings>,
    clock: Clock,
    shared: Arc<Shared>,
    writer: Writer<Desk>,
    database: Arc<Database>,
    /// Ends the workers.
    stop: CancellationToken,
    /// What may be shown of each receiver.
    receivers: BTreeMap<String, Value>,
    counts: Counts,
}

/// What it counts.
#[derive(Default)]
struct Counts {
    opened: Counter,
    deduplicated: Counter,
    delivered: Counter,
    retried: Counter,
    given_up: Counter,
}

impl Counts {
    fn register(&self, metrics: &mut Registry) {
        for (name, help, counter) in [
            ("opened", "Alerts that were opened", &self.opened),
            ("deduplicated", "Alerts that were known, and only counted", &self.deduplicated),
            ("delivered", "Notifications that a receiver took", &self.delivered),
            ("retried", "Tries that a receiver did not take", &self.retried),
            ("given_up", "Notifications that were given up", &self.given_up),
        ] {
            metrics.register(format!("gavel_alert_service_{name}"), help, counter.clone());
        }
    }
}

async fn open(seed: Seed) -> anyhow::Result<Kernel> {
    let Seed { folder, settings, clock, stop, mut metrics, .. } = seed;
    let settings = Arc::new(Settings::read(&settings)?);
    let tellers = tellers(&settings)?;
    let receivers = tellers.iter().map(|(name, teller)| (name.clone(), shown(teller))).collect();
    let shared = Arc::new(Shared::default());
    let queue = Queue { changes_max: settings.queue_max, bytes_max: settings.queue_bytes_max };
    let desk = {
        let (settings, clock, shared) = (Arc::clone(&settings), Arc::clone(&clock), Arc::clone(&shared));
        move |database: &Database| Desk::open(database, settings, clock, shared)
    };
    let (database, writer) = Writer::open("alerts", folder.join("alerts.redb"), queue, desk).await?;
    let counts = Counts::default();
    counts.register(&mut metrics);
    let service = Arc::new(Service { settings, clock, shared, writer, database, stop, receivers, counts });
    tokio::spawn(workers::escalate(Arc::clone(&service)));
    for (name, teller) in tellers {
        tokio::spawn(workers::tell(Arc::clone(&service), name, teller));
    }
    let (watched, ends) = (Arc::clone(&service), service.stop.clone());
    let kernel = Kernel::new(routes::doors(service), metrics).with_health(move || watched.health());
    Ok(kernel.with_finish(async move { ends.cancel() }))
}

/// Those who are told, with their secrets read.
fn tellers(settings: &Settings) -> anyhow::Result<BTreeMap<String, Teller>> {
    let ready = settings.receivers.iter().map(|(name, receiver)| {
        let teller = match receiver {
            Receiver::Log => Teller::Log,
            Receiver::Webhook(webhook) => {
                let ready = Webhook::open(webhook).map_err(|why| anyhow!("receivers.{name}.webhook.{why}"))?;
                Teller::Webhook(Box::new(ready))
            }
        };
        Ok((name.clone(), teller))
    });
    ready.collect()
}

fn shown(teller: &Teller) -> Value {
    match teller {
        Teller::Log => json!({"kind": "log"}),
        Teller::Webhook(webhook) => json!({"kind": "webhook", "host": webhook.shown(), "signed": webhook.signs()}),
    }
}

impl Service {
    fn health(&self) -> Result<Map<String, Value>, String> {
        if let Some(why) = self.writer.broken() {
            return Err(why);
        }
        let counts = self.shared.counts();
        Ok(Map::from_iter([
            ("open".to_owned(), json!(counts.open)),
            ("resolved".to_owned(), json!(counts.resolved)),
            ("notifications_waiting".to_owned(), json!(counts.waiting.values().sum::<u64>())),
            ("commits".to_owned(), json!(self.writer.commits())),
        ]))
    }
}

/// An alert as it is answered.
fn answered(alert: &Alert) -> Value {
    let mut value = json!(alert);
    if let Some(members) = value.as_object_mut() {
        members.remove("digest");
    }
    value
}

/// An alert as it is told to a receiver: what it says, not how the telling goes.
fn told(alert: &Alert) -> Value {
    let mut value = answered(alert);
    if let Some(members) = value.as_object_mut() {
        for name in ["notifications", "steps", "step", "due_ms", "reason", "told"] {
            members.remove(name);
        }
    }
    value
}

fn no_alert(number: u64) -> Fault {
    Fault::absent(format!("there is no alert 'a{number}', or it is no longer kept"))
}

fn no_silence(number: u64) -> Fault {
    Fault::absent(format!("there is no silence 's{number}', or it is over"))
}
