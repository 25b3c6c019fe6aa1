//! News of the host as events of the bus: the topic `telemetry.seed.health` is the event `news:telemetry.seed.health`, its
//! sender the host, its data the envelope, the schema and the data of the news. A plugin hears them by `news:*`.

use crate::news::{Bus as News, Event as Item, Heard};
use gavel_bus::{Bus, Draft, Sender};
use serde_json::Value;

/// The namespace of the host's news.
const NAMESPACE: &str = "news";

/// Tell of all news from now on, until they end.
pub(super) fn tell(news: &News, bus: &Bus) {
    let mut heard = match news.subscribe(None, "bus") {
        Ok(heard) => heard,
        Err(why) => {
            tracing::error!("the bus does not hear the host's news: {why}");
            return;
        }
    };
    let bus = bus.clone();
    tokio::spawn(async move {
        while let Some(item) = heard.next().await {
            match item {
                Heard::Event(item) => one(&bus, &item).await,
                Heard::Missed(missed) => tracing::warn!(missed, "the bus lagged behind the host's news"),
            }
        }
    });
}

async fn one(bus: &Bus, item: &Item) {
    let data: Value = serde_json::from_str(&item.text).unwrap_or_else(|_| Value::from(item.text.as_str()));
    let draft = Draft {
        correlation_id: Some(item.envelope.trace_id.clone()),
        ..Draft::new(&format!("{NAMESPACE}:{}", item.topic), data)
    };
    if let Err(why) = bus.emit(Sender::Host, draft).await {
        tracing::warn!(topic = item.topic, "a piece of news was not told on the bus: {why}");
    }
}
