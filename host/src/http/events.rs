//! The routes of the bus: the history, a stream of server-sent events, and data that events refer to.

use super::App;
use super::error::ApiError;
use super::kasmina::{Seeing, asked};
use super::records::json_of;
use super::routes::Answer;
use crate::news::{Heard, Page, SubscribeError, Subscriber, topic};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use serde_json::json;
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::mpsc;

/// Events of a page whose size was not asked for, and the most.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1_000;

/// A stream with nothing to say says so, or middlemen would close it.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/kasmina/events", get(history))
        .route("/kasmina/events/stream", get(stream))
        .route("/kasmina/payloads/{digest}", get(payload))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    topic: Option<String>,
    #[serde(default)]
    since: u64,
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listened {
    topic: Option<String>,
}

fn topic_of(name: Option<&str>) -> Answer<Option<&'static str>> {
    name.map(topic::find).transpose().map_err(ApiError::Unreadable)
}

async fn history(Seeing(reached): Seeing, query: Result<Query<Wanted>, QueryRejection>) -> Answer<Response> {
    let Wanted { topic, since, limit } = asked(query)?;
    let limit = limit.unwrap_or(PAGE);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(ApiError::Unreadable(format!("limit={limit}: give 1 to {PAGE_MAX}")));
    }
    let page = reached.kasmina.bus().history(topic_of(topic.as_deref())?, since, limit);
    Ok(json_of(page_text(&page)))
}

/// Events are JSON already and go out as they are.
fn page_text(page: &Page) -> String {
    let events: Vec<&str> = page.events.iter().map(|event| event.text.as_str()).collect();
    let Page { next, missed, run, .. } = page;
    format!("{{\"events\":[{}],\"next\":{next},\"missed\":{missed},\"run\":{}}}", events.join(","), json!(run))
}

async fn stream(Seeing(reached): Seeing, query: Result<Query<Listened>, QueryRejection>) -> Answer<Response> {
    let topic = topic_of(asked(query)?.topic.as_deref())?;
    let bus = reached.kasmina.bus();
    let listening = bus.subscribe(topic, reached.caller.name());
    let subscriber = listening.map_err(|why: SubscribeError| ApiError::Unavailable(why.to_string()))?;
    let (pieces, taken) = mpsc::channel(1);
    tokio::spawn(tell(subscriber, pieces, bus.stream_stall()));
    let pieces = futures_util::stream::unfold(taken, |mut taken| async move {
        Some((Ok::<_, Infallible>(taken.recv().await?), taken))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

/// Tell a listener all it is to hear, until it goes away, or takes nothing for as long as `stall`: then somebody else may
/// have its place.
async fn tell(mut subscriber: Subscriber, pieces: mpsc::Sender<Bytes>, stall: Duration) {
    // So that who asks knows that it listens from now on.
    let mut piece = ": listening\n\n".to_owned();
    while let Ok(Ok(())) = tokio::time::timeout(stall, pieces.send(Bytes::from(piece))).await {
        let next = tokio::select! {
            next = next(&mut subscriber) => next,
            () = pieces.closed() => return,
        };
        let Some(next) = next else { return };
        piece = next;
    }
}

/// What the stream says next; `None` at its end.
async fn next(subscriber: &mut Subscriber) -> Option<String> {
    match tokio::time::timeout(SIGN_OF_LIFE, subscriber.next()).await {
        Err(_) => Some(": alive\n\n".to_owned()),
        Ok(None) => None,
        Ok(Some(Heard::Missed(missed))) => Some(format!("event: missed\ndata: {{\"missed\":{missed}}}\n\n")),
        Ok(Some(Heard::Event(event))) => {
            Some(format!("id: {}\nevent: {}\ndata: {}\n\n", event.seq, event.topic, event.text))
        }
    }
}

async fn payload(Seeing(reached): Seeing, Path(digest): Path<String>) -> Answer<Response> {
    let bus = reached.kasmina.bus().clone();
    let shown: String = digest.chars().take(64).collect();
    let read = tokio::task::spawn_blocking(move || bus.payload(&digest)).await;
    let read = read.map_err(|why| ApiError::Unavailable(why.to_string()))?;
    let found = read.map_err(|why| {
        tracing::error!(%why, "data of an event cannot be read");
        ApiError::Unavailable("the data cannot be read; the server's log says why".into())
    })?;
    let gone = || ApiError::Absent(format!("there is no data '{shown}', or it is no longer kept"));
    let bytes = found.ok_or_else(gone)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], bytes).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::config::EventsFile;
    use crate::news::{Bus, News};

    #[tokio::test]
    async fn a_listener_that_takes_nothing_loses_its_place() {
        let limits = EventsFile { subscribers_max: 1, stream_stall_ms: 1, ..EventsFile::default() };
        let bus = Bus::open(None, &limits, Clock::manual(7)).unwrap();
        let (pieces, mut taken) = mpsc::channel(1);
        let subscriber = bus.subscribe(None, "a").unwrap();
        let news = News { sender: "layer a", topic: topic::EPOCH, schema: "test/1", trace: None };
        bus.publish(news, &1).unwrap();
        // The first piece has room; the listener takes none, so the second waits.
        tell(subscriber, pieces, bus.stream_stall()).await;
        assert!(bus.subscribe(None, "b").is_ok(), "its place is free");
        assert_eq!(taken.recv().await.unwrap(), ": listening\n\n");
        assert!(taken.recv().await.is_none(), "the stream is at its end");
    }
}
