//! What Guardian did, for the record: on disk at once, then with the kernels that keep and tell it.
//!
//! A healing is on record when its file here is synced, also if the kernel that was healed is the one that keeps records.
//! It is delivered, in order and at least once, to the immutable log (an entry of kind `healing`), to the message bus (topic
//! `fleet`) and, if a kernel was given up, to the alert service; keys make a second delivery the same entry. Each of the three
//! is served by itself, so that one which is down keeps nothing from the others; a file goes when all have it. Changes of
//! status are events only: those that find no bus are not kept.

mod book;
#[cfg(test)]
mod tests;

use anyhow::{Result, anyhow};
use book::{Book, Found, Report};
use futures_util::future::{BoxFuture, join_all};
use gavel_fleet::{News, Witness};
use gavel_kinds::{PeerError, Peers};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The topic of a fleet's own events.
const TOPIC: &str = "fleet";
/// Changes of status that may wait for the bus.
const STATUS_EVENTS_MAX: usize = 256;
/// Between two tries to deliver.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Keeps reports, and delivers them.
#[derive(Debug)]
pub(super) struct Reports {
    peers: Peers,
    book: Arc<Book>,
    /// Changes of status, the oldest first.
    statuses: Mutex<VecDeque<Value>>,
}

/// Where reports go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Log,
    Bus,
    Alerts,
}

impl Place {
    fn kernel(self) -> &'static str {
        match self {
            Self::Log => "immutable_log",
            Self::Bus => "message_bus",
            Self::Alerts => "alert_service",
        }
    }

    /// The path that takes a report there, and what is said; `None` where it is no matter of that place.
    fn told(self, report: &Report) -> Option<(String, Value)> {
        let Report { key, kind, data } = report;
        match self {
            Self::Log => {
                let entry = json!({"kind": kind, "data": data, "key": key});
                Some(("/immutable_log/append".to_owned(), entry))
            }
            Self::Bus => {
                let event = if kind == "healing" { "fleet:healed" } else { "fleet:given_up" };
                let message = json!({"event": event, "data": data, "key": key});
                Some((format!("/message_bus/topics/{TOPIC}/messages"), message))
            }
            Self::Alerts if kind == "given_up" => {
                let name = data["name"].as_str().unwrap_or_default();
                let detail = data["detail"].as_str().unwrap_or_default();
                let alert = json!({
                    "severity": "critical",
                    "source": "guardian",
                    "name": "kernel_given_up",
                    "message": format!("kernel {name} is down until it is reset: {detail}"),
                    "labels": {"kernel": name},
                    // One alert for each time that it is given up, however often this is delivered.
                    "dedupe_key": format!("kernel_given_up:{name}:{key}"),
                });
                Some(("/alert_service/alerts".to_owned(), alert))
            }
            Self::Alerts => None,
        }
    }
}

impl Reports {
    /// With what waited when the one before ended. `is_there` says which kernels are part of the fleet.
    pub(super) fn open(
        folder: &Path,
        reports_max: usize,
        peers: Peers,
        is_there: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        let places = [Place::Log, Place::Bus, Place::Alerts].into_iter().filter(|place| is_there(place.kernel()));
        let book = Arc::new(Book::open(folder, reports_max, places.collect())?);
        Ok(Self { peers, book, statuses: Mutex::default() })
    }

    /// The kernels, as Guardian asks them.
    pub(super) fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Reports that wait for the kernels that keep them.
    pub(super) fn waiting(&self) -> usize {
        self.book.count()
    }

    /// Deliver what waits, to each place by itself, until `stop`.
    pub(super) async fn deliver(self: Arc<Self>, stop: CancellationToken) {
        join_all(self.book.places().iter().map(|place| self.deliver_to(*place, &stop))).await;
    }

    async fn deliver_to(&self, place: Place, stop: &CancellationToken) {
        let (first, most) = RETRY_PAUSES;
        let mut pause = first;
        let mut news = self.book.news();
        loop {
            // What comes from here on is seen below, if it is not seen now.
            news.borrow_and_update();
            let delivered = tokio::select! {
                () = stop.cancelled() => return,
                delivered = self.all_to(place) => delivered,
            };
            let again = async {
                match &delivered {
                    Ok(()) => drop(news.changed().await),
                    Err(_) => tokio::time::sleep(pause).await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = again => {}
            }
            pause = match delivered {
                Ok(()) => first,
                Err(why) => {
                    tracing::debug!(kernel = place.kernel(), "a report waits: {why:#}");
                    (pause * 2).min(most)
                }
            };
        }
    }

    /// Everything that a place has not: reports before mere events.
    async fn all_to(&self, place: Place) -> Result<()> {
        let (mut last, mut later) = (None, None);
        while let Some(number) = self.book.next_for(place, last) {
            last = Some(number);
            match self.book.read(number).await {
                Found::Report(report) => {
                    self.one_to(place, &report).await?;
                    self.book.delivered(number, place).await;
                }
                Found::Gone => {}
                Found::Later(why) => {
                    tracing::error!(number, "a report cannot be read, which is tried again: {why}");
                    later = Some(anyhow!("report {number} cannot be read: {why}"));
                }
            }
        }
        if place == Place::Bus {
            self.tell_statuses().await?;
        }
        later.map_or(Ok(()), Err)
    }

    /// One report to one place. Done is also what that place refuses for good.
    async fn one_to(&self, place: Place, report: &Report) -> Result<()> {
        let Some((path, body)) = place.told(report) else { return Ok(()) };
        match self.peers.post(&path, &body).await {
            Ok(_) => Ok(()),
            Err(PeerError::Refused { status, message, .. }) if !may_change(status) => {
                tracing::error!(path, status, message, "a report is refused, and not sent there again");
                Ok(())
            }
            Err(why) => Err(why.into()),
        }
    }

    /// The changes of status that wait now, until one finds no bus.
    async fn tell_statuses(&self) -> Result<()> {
        let waiting = self.lock().len();
        for _ in 0..waiting {
            let Some(status) = self.lock().pop_front() else { break };
            match self.peers.publish(TOPIC, "fleet:status", &status).await {
                Ok(_) => {}
                Err(PeerError::Refused { status, message, .. }) if !may_change(status) => {
                    tracing::error!(status, message, "a change of status is refused by the bus");
                }
                Err(why) => return Err(why.into()),
            }
        }
        Ok(())
    }

    fn take_status(&self, status: Value) {
        if !self.book.places().contains(&Place::Bus) {
            return;
        }
        let mut statuses = self.lock();
        if statuses.len() == STATUS_EVENTS_MAX {
            statuses.pop_front();
        }
        statuses.push_back(status);
        drop(statuses);
        self.book.wake();
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Value>> {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Witness for Reports {
    fn record(&self, news: News) -> BoxFuture<'_, ()> {
        let (kind, data) = match news {
            News::Status(entry) => {
                self.take_status(json!(entry));
                return Box::pin(std::future::ready(()));
            }
            News::Healed(healing) => ("healing", json!(*healing)),
            News::GivenUp(entry) => ("given_up", json!(entry)),
        };
        Box::pin(async move {
            if let Err(why) = self.book.keep(kind, data).await {
                tracing::error!(kind, "what was done could not be recorded: {why:#}");
            }
        })
    }
}

/// Whether the same report may be taken the next time: a kernel that is down, starting or busy answers 5xx; one elsewhere
/// whose token is about to be that of this fleet, 401 or 403. What is refused for good is refused with another 4xx.
fn may_change(status: u16) -> bool {
    status >= 500 || matches!(status, 401 | 403 | 408 | 429)
}
