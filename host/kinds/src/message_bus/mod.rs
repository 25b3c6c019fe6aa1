//! Durable topics: whoever publishes is told an offset when the message is on disk; whoever reads does so from an offset on,
//! or shares the messages with others in a group.
//!
//! The parts: [`book`] writes (in the thread of [`crate::writer`]), [`groups`] are what consumers hold, [`read`] and [`stream`]
//! read, [`routes`] are the doors, [`shared`] is what writing tells reading.
//!
//! What must always hold: an offset is given once, and only for a message that is on disk; the sender is who called; a
//! message that was published once under a key is not published again under it while the key is remembered.
//!
//! Live listeners choose by the name patterns of the event bus (`fleet:*`, [`gavel_bus::Pattern`]). What is published is not
//! sent through a `gavel_bus::Bus` inside this process as well. That bus routes an event to the one plugin that owns its
//! name, and this process has no plugins: each would be refused as unhandled. Its watchers lose what they are too slow for,
//! and the data of large events, while every listener here reads the store from its own offset and loses nothing. And it
//! would stamp a second sender, id and time on what has them already.
//!
//! Deliberately absent: an order between topics, transactions over several, and exactly-once consumption: a consumer that
//! dies after its work and before its acknowledgement is given the message again.

mod book;
mod groups;
mod read;
mod readers;
mod record;
mod routes;
mod settings;
mod shared;
mod stream;
#[cfg(test)]
mod tests;

use crate::fault::Fault;
use crate::kind::{Clock, Kernel, Kind, Opened, Seed};
use crate::writer::{Queue, Writer};
use book::Desk;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use readers::Readers;
use redb::Database;
use serde_json::{Map, json};
use settings::Settings;
use shared::Shared;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The kind.
pub(crate) const KIND: Kind = Kind {
    name: "message_bus",
    purpose: "durable topics with senders that the host vouches for: publish, read, stream, consumer groups",
    needs: &[],
    check: |value| Settings::read(value).map(drop),
    open: |seed| -> Opened { Box::pin(open(seed)) },
};

/// An open bus.
struct Station {
    settings: Arc<Settings>,
    clock: Clock,
    shared: Arc<Shared>,
    writer: Writer<Desk>,
    database: Arc<Database>,
    readers: Arc<Readers>,
    stop: CancellationToken,
    counts: Counts,
}

/// What it counts.
#[derive(Default)]
struct Counts {
    published: Counter,
    duplicates: Counter,
    leased: Counter,
    acked: Counter,
    dead: Counter,
}

impl Counts {
    fn register(&self, metrics: &mut Registry) {
        for (name, help, counter) in [
            ("published", "Messages that were published", &self.published),
            ("duplicates", "Messages whose key was known: told again, not published again", &self.duplicates),
            ("leased", "Messages given to members of groups, those given again included", &self.leased),
            ("acknowledged", "Messages that members of groups acknowledged", &self.acked),
            ("dead_letters", "Messages that were given back once too often", &self.dead),
        ] {
            metrics.register(format!("gavel_message_bus_{name}"), help, counter.clone());
        }
    }
}

async fn open(seed: Seed) -> anyhow::Result<Kernel> {
    let Seed { folder, settings, clock, stop, mut metrics, .. } = seed;
    let settings = Arc::new(Settings::read(&settings)?);
    let shared = Arc::new(Shared::default());
    let queue = Queue { changes_max: settings.queue_max, bytes_max: settings.queue_bytes_max };
    let desk = {
        let (settings, clock, shared) = (Arc::clone(&settings), Arc::clone(&clock), Arc::clone(&shared));
        move |database: &Database| Desk::open(database, settings, clock, shared)
    };
    let (database, writer) = Writer::open("topics", folder.join("topics.redb"), queue, desk).await?;
    let counts = Counts::default();
    counts.register(&mut metrics);
    let readers = Arc::new(Readers::default());
    let station = Arc::new(Station { settings, clock, shared, writer, database, readers, stop, counts });
    let watched = Arc::clone(&station);
    Ok(Kernel::new(routes::doors(station), metrics).with_health(move || watched.health()))
}

impl Station {
    fn health(&self) -> Result<Map<String, serde_json::Value>, String> {
        if let Some(why) = self.writer.broken() {
            return Err(why);
        }
        let (topics, messages, bytes) = self.shared.totals();
        Ok(Map::from_iter([
            ("topics".to_owned(), json!(topics)),
            ("messages".to_owned(), json!(messages)),
            ("bytes".to_owned(), json!(bytes)),
            ("readers".to_owned(), json!(self.readers.count())),
            ("commits".to_owned(), json!(self.writer.commits())),
        ]))
    }
}

fn no_topic(name: &str) -> Fault {
    Fault::absent(format!("there is no topic '{name}': make it with PUT /topics/{name}, or publish to it"))
}

fn no_group(topic: &str, name: &str) -> Fault {
    Fault::absent(format!("topic '{topic}' has no group '{name}': the first lease makes it"))
}
