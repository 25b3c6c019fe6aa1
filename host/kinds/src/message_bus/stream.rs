//! A topic as a stream of server-sent events. Each has the offset as its id, so a listener that comes back says with
//! `Last-Event-ID` where it was, and misses nothing that is still kept.

use super::Station;
use super::read::Wanted;
use super::readers::Reader;
use crate::fault::Fault;
use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use gavel_bus::Pattern;
use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// A listener that hears nothing for so long is told that the stream lives.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// Messages in one look.
const TOGETHER_MAX: usize = 100;

/// Stream a topic from an offset on.
pub(super) fn answer(
    station: Arc<Station>,
    topic: String,
    from: u64,
    events: Vec<Pattern>,
    reader: Reader,
) -> Result<Response, Fault> {
    let place = station.readers.place(&reader, &station.settings)?;
    let bytes_max = station.settings.stream_bytes_max;
    let wanted = Wanted { limit: TOGETHER_MAX, bytes_max, events: Arc::new(events) };
    let (pieces, taken) = mpsc::channel(1);
    tokio::spawn(async move {
        tell(&station, (&topic, from), (&wanted, &reader), pieces).await;
        drop(place);
    });
    let pieces = futures_util::stream::unfold(taken, |mut taken| async move {
        Some((Ok::<_, Infallible>(taken.recv().await?), taken))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

/// Tell a listener all it is to hear, until it goes away, the kernel ends, or it takes nothing for so long that somebody
/// else may have its place.
async fn tell(station: &Station, (topic, mut from): (&str, u64), who: (&Wanted, &Reader), pieces: mpsc::Sender<Bytes>) {
    let stall = Duration::from_millis(station.settings.stream_stall_ms);
    // So that who asks knows that it listens from now on.
    let mut piece = ": listening\n\n".to_owned();
    while let Ok(Ok(())) = tokio::time::timeout(stall, pieces.send(Bytes::from(piece))).await {
        let (told, next) = tokio::select! {
            next = next(station, topic, from, who) => next,
            () = pieces.closed() => return,
        };
        let Some(next) = next else {
            if !told.is_empty() {
                let _ = tokio::time::timeout(stall, pieces.send(Bytes::from(told))).await;
            }
            return;
        };
        (piece, from) = (told, next);
    }
}

/// What the stream says next, and where it goes on; nowhere, if it ends.
async fn next(
    station: &Station,
    topic: &str,
    mut from: u64,
    (wanted, reader): (&Wanted, &Reader),
) -> (String, Option<u64>) {
    let mut missed = 0;
    let quiet = tokio::time::sleep(SIGN_OF_LIFE);
    tokio::pin!(quiet);
    loop {
        let Some((seen, mut bell)) = station.shared.listen(topic) else {
            return ("event: gone\ndata: {}\n\n".to_owned(), None);
        };
        // Without waiting: this waits itself, and has a place already.
        let page = match station.read(topic, from, wanted, (Duration::ZERO, reader)).await {
            Ok(page) => page,
            Err(why) => {
                let why = serde_json::json!({"error": why.message});
                return (format!("event: error\ndata: {why}\n\n"), None);
            }
        };
        from = page.next;
        missed += page.missed;
        if missed > 0 || !page.messages.is_empty() {
            return (written(missed, &page.messages), Some(from));
        }
        if from < seen.next {
            continue;
        }
        tokio::select! {
            _ = bell.changed() => {}
            () = &mut quiet => return (": alive\n\n".to_owned(), Some(from)),
            () = station.stop.cancelled() => return (String::new(), None),
        }
    }
}

fn written(missed: u64, messages: &[super::record::Message]) -> String {
    let mut text = String::new();
    if missed > 0 {
        let _ = write!(text, "event: missed\ndata: {{\"missed\":{missed}}}\n\n");
    }
    for message in messages {
        let data = serde_json::to_string(message).unwrap_or_default();
        let _ = write!(text, "id: {}\nevent: message\ndata: {data}\n\n", message.offset);
    }
    text
}
