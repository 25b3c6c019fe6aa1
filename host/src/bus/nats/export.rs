//! What goes out: a plugin hears of the events, a task puts them into the outbox, another sends what is in it.
//!
//! The bus never waits for any of it. Where the disk is slow, the plugin's mailbox fills, and the bus says of each event
//! that it turned it away; where the outbox is full, a new event is not kept, and is counted: those that wait are older,
//! and are what the peers miss first.

use super::connect::{Server, stream};
use super::counts::Counters;
use super::envelope::{Envelope, HOST_HEADER, SIGNATURE_HEADER};
use super::outbox::Outbox;
use super::settings::NatsFile;
use super::{NatsError, in_thread};
use crate::signing::SigningKey;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use futures_util::future::BoxFuture;
use gavel_bus::{Capabilities, Event, Fault, Handle, Metadata, Plugin, Registration, Sender};
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// What the bridge is called on the bus.
pub(crate) const NATS_BRIDGE: &str = "nats_bridge";

/// Events that share one wait for the disk at most.
const TOGETHER_MAX: usize = 256;

/// Something for the task that writes the outbox.
pub(super) enum Job {
    Keep(Box<Envelope>),
    /// Tell when all before it is kept.
    Flush(oneshot::Sender<()>),
}

/// The plugin that hears what goes out.
#[derive(Clone)]
struct Exporter {
    jobs: mpsc::Sender<Job>,
    host: String,
    hops_max: u32,
    counters: Arc<Counters>,
}

/// The plugin for the bus.
pub(super) fn registration(file: &NatsFile, jobs: mpsc::Sender<Job>, counters: &Arc<Counters>) -> Registration {
    let exporter =
        Exporter { jobs, host: file.host.clone(), hops_max: file.limits.max_hops, counters: Arc::clone(counters) };
    Registration {
        metadata: Metadata {
            name: NATS_BRIDGE.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            description: "Brings events to other hosts through NATS JetStream.".to_owned(),
            author: "gavel".to_owned(),
            ..Metadata::default()
        },
        capabilities: Capabilities { subscribes: file.publish.clone(), ..Capabilities::default() },
        config: Value::Null,
        digest: "native".to_owned(),
        factory: Arc::new(move || exporter.clone()),
    }
}

impl Exporter {
    async fn export(&self, event: &Event) {
        if matches!(event.sender, Sender::Peer(_)) {
            return;
        }
        if event.hops >= self.hops_max {
            self.counters.not_sent.add(1);
            tracing::warn!(
                event = %event.name, hops = event.hops,
                "not sent to other hosts: it went from host to host as often as it may (bus.nats.limits.max_hops)"
            );
            return;
        }
        let envelope = Envelope {
            host: self.host.clone(),
            epoch: 0,
            number: 0,
            floor: 0,
            hops: event.hops + 1,
            event_id: event.event_id.clone(),
            event_name: event.name.clone(),
            sender: event.sender.to_string(),
            correlation_id: event.correlation_id.clone(),
            client_id: event.client_id.clone(),
            time_ms: event.timestamp_ms,
            data: event.data.clone(),
        };
        if self.jobs.send(Job::Keep(Box::new(envelope))).await.is_err() {
            self.counters.not_kept.add(1);
        }
    }
}

impl Plugin for Exporter {
    fn startup(&self, _config: Value, _handle: Handle) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn handle(&self, _event: Arc<Event>) -> BoxFuture<'_, Result<Value, Fault>> {
        Box::pin(std::future::ready(Err(Fault::Unhandled)))
    }

    fn hear(&self, event: Arc<Event>) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(async move {
            self.export(&event).await;
            Ok(())
        })
    }

    fn shutdown(&self) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(async move {
            let (done, kept) = oneshot::channel();
            if self.jobs.send(Job::Flush(done)).await.is_ok() {
                // Where the task has ended, there is nothing to wait for.
                let _ = kept.await;
            }
            Ok(())
        })
    }
}

/// Puts into the outbox what the plugin hears.
pub(super) struct Keeper {
    pub(super) file: Arc<NatsFile>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) wake: Arc<Notify>,
    pub(super) counters: Arc<Counters>,
}

impl Keeper {
    /// As many together as wait, until the bridge stops and nothing waits any more.
    pub(super) async fn run(self, mut jobs: mpsc::Receiver<Job>, stop: CancellationToken) {
        let mut waiting = Vec::new();
        loop {
            let came = tokio::select! {
                biased;
                came = jobs.recv_many(&mut waiting, TOGETHER_MAX) => came,
                () = stop.cancelled() => 0,
            };
            if came == 0 {
                return;
            }
            let (mut events, mut flushed) = (Vec::new(), Vec::new());
            for job in waiting.drain(..) {
                match job {
                    Job::Keep(event) if self.is_small(&event) => events.push(*event),
                    Job::Keep(_) => {}
                    Job::Flush(done) => flushed.push(done),
                }
            }
            if !events.is_empty() {
                self.keep(events).await;
            }
            for done in flushed {
                // Whoever asked may have gone.
                let _ = done.send(());
            }
        }
    }

    async fn keep(&self, events: Vec<Envelope>) {
        let count = events.len() as u64;
        match in_thread(&self.outbox, move |outbox| outbox.append(events)).await {
            Ok(refused) => {
                self.counters.queued.add(count - refused);
                self.not_kept(refused, "the outbox is full (bus.nats.limits.outbox_max_events, outbox_max_bytes)");
            }
            Err(why) => self.not_kept(count, &why.to_string()),
        }
        self.wake.notify_one();
    }

    fn not_kept(&self, count: u64, why: &str) {
        if count > 0 {
            self.counters.not_kept.add(count);
            tracing::warn!(events = count, "not sent to other hosts: {why}");
        }
    }

    /// What is too large for one message would stop all that follows it.
    fn is_small(&self, event: &Envelope) -> bool {
        let bytes_max = self.file.limits.max_message_bytes;
        let bytes = serde_json::to_vec(event).map_or(usize::MAX, |text| text.len());
        if bytes > bytes_max {
            self.counters.not_sent.add(1);
            tracing::warn!(
                event = %event.event_name, bytes,
                "not sent to other hosts: a message may have {bytes_max} bytes (bus.nats.limits.max_message_bytes)"
            );
        }
        bytes <= bytes_max
    }
}

/// Sends what is in the outbox, in order, whenever there is a server.
pub(super) struct Publisher {
    pub(super) file: Arc<NatsFile>,
    pub(super) key: Arc<SigningKey>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) wake: Arc<Notify>,
    pub(super) counters: Arc<Counters>,
}

impl Publisher {
    /// Send until the bridge stops.
    pub(super) async fn run(self, server: Server, stop: CancellationToken) {
        let mut failures = 0;
        let mut known = false;
        loop {
            let sent = tokio::select! {
                sent = self.send_connected(&server, &mut known) => sent,
                () = stop.cancelled() => return,
            };
            let wait = async {
                match sent {
                    Ok(true) => failures = 0,
                    Ok(false) => {
                        failures = 0;
                        self.wake.notified().await;
                    }
                    Err(why) => {
                        known = false;
                        failures += 1;
                        tracing::warn!("events wait in the outbox: {why}");
                        tokio::time::sleep(self.file.limits.reconnect_pause(failures)).await;
                    }
                }
            };
            tokio::select! { () = wait => {}, () = stop.cancelled() => return }
        }
    }

    /// Send some once there is a connection. What was sent on one that is lost is not waited for.
    async fn send_connected(&self, server: &Server, known: &mut bool) -> Result<bool, NatsError> {
        let mut connected = server.connected.clone();
        // An error means that the connection is gone for good, which ends with the bridge.
        let _ = connected.wait_for(|connected| *connected).await;
        let sending = async {
            if !*known {
                stream(&self.file, &server.context).await?;
                *known = true;
            }
            self.send_some(server).await
        };
        tokio::select! {
            sent = sending => sent,
            _ = connected.changed() => Err(NatsError::Server("the connection was lost".to_owned())),
        }
    }

    /// Send as many as may be unacknowledged at once, and wait until they are acknowledged. `false`: there were none.
    async fn send_some(&self, server: &Server) -> Result<bool, NatsError> {
        let count = self.file.limits.publish_window;
        let events = in_thread(&self.outbox, move |outbox| outbox.first(count)).await?;
        let Some(first) = events.first() else { return Ok(false) };
        // All before the first were acknowledged: they are no longer there.
        let floor = first.number - 1;
        let mut acknowledged = floor;
        let mut failed = None;
        let mut sent = Vec::with_capacity(events.len());
        for event in events {
            let number = event.number;
            match self.send(server, Envelope { floor, ..event }).await {
                Ok(Some(awaited)) => sent.push((number, Some(awaited))),
                // The next ones say that nobody needs to wait for it.
                Ok(None) => {
                    sent.push((number, None));
                    break;
                }
                Err(why) => {
                    failed = Some(why);
                    break;
                }
            }
        }
        for (number, awaited) in sent {
            let result = match awaited {
                Some(awaited) => awaited.await.map(|_| self.counters.published.add(1)),
                None => Ok(()),
            };
            if let Err(why) = result {
                failed = Some(NatsError::Server(format!("stream '{}' did not take it: {why}", self.file.stream)));
                break;
            }
            acknowledged = number;
        }
        if acknowledged > floor {
            in_thread(&self.outbox, move |outbox| outbox.remove(acknowledged)).await?;
        }
        failed.map_or(Ok(true), Err)
    }

    /// Send one. `None` if it never can be sent: it counts as done, and its number will be missing.
    async fn send(
        &self,
        server: &Server,
        event: Envelope,
    ) -> Result<Option<async_nats::jetstream::context::PublishAckFuture>, NatsError> {
        let subject = event.subject(&self.file.subject_prefix);
        let (bytes, signature) = event
            .seal(&subject, &self.key)
            .map_err(|why| NatsError::Server(format!("no message can be made: {why}")))?;
        let message = PublishMessage::build()
            .message_id(format!("{}-{}-{}", event.host, event.epoch, event.number))
            .header(HOST_HEADER, event.host.as_str())
            .header(SIGNATURE_HEADER, signature.as_str())
            .payload(bytes.into());
        match server.context.send_publish(subject, message).await {
            Ok(awaited) => Ok(Some(awaited)),
            Err(why) if why.kind() == PublishErrorKind::MaxPayloadExceeded => {
                self.counters.not_sent.add(1);
                tracing::warn!(event = %event.event_name, id = %event.event_id, "not sent to other hosts: {why}");
                Ok(None)
            }
            Err(why) => Err(NatsError::Server(why.to_string())),
        }
    }
}
