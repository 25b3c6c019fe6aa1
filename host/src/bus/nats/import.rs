//! What comes in: for each peer a durable consumer, whose messages are handled one after the other, in their order.
//!
//! A message is checked, its event handled, that it was handled written down, and only then is it acknowledged. So none
//! is lost, and one that comes again is known by its number.

use super::NatsError;
use super::connect::stream;
use super::counts::Counters;
use super::envelope::{Envelope, SIGNATURE_HEADER};
use super::order::{Came, Next, Order, Waits};
use super::position::{Position, PositionFile};
use super::settings::{NatsFile, PeerFile};
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, pull};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::{AckKind, Context, Message};
use futures_util::{FutureExt, StreamExt};
use gavel_bus::{Bus, Draft, Error, PluginState, any_pattern};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the server says that it is still there while there is nothing to send.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long one request for messages stands.
const REQUEST: Duration = Duration::from_secs(30);
/// How soon a gap is looked at again.
const GAP_AGAIN: Duration = Duration::from_secs(1);

/// A message that waits for its turn.
struct Held {
    envelope: Envelope,
    message: Message,
}

/// What comes from one peer.
pub(super) struct Importer {
    file: Arc<NatsFile>,
    peer: PeerFile,
    name: Arc<str>,
    bus: Bus,
    counters: Arc<Counters>,
    order: Order<Held>,
    handled: PositionFile,
    /// Handled and written down, not acknowledged yet.
    to_ack: Vec<Message>,
    /// The first that is held and waits for one before it, and since when.
    early: Option<(Position, Instant)>,
    /// The outbox of the peer that is older than the one before, once it was told of.
    older: Option<u64>,
    stop: CancellationToken,
}

impl Importer {
    pub(super) fn new(
        file: Arc<NatsFile>,
        peer: PeerFile,
        bus: Bus,
        counters: Arc<Counters>,
        (handled, position): (PositionFile, Position),
        stop: CancellationToken,
    ) -> Self {
        let name = peer.name.as_str().into();
        let order = Order::new(position);
        Self { file, peer, name, bus, counters, order, handled, to_ack: Vec::new(), early: None, older: None, stop }
    }

    /// Receive until the bridge stops.
    pub(super) async fn run(mut self, context: Context, mut connected: watch::Receiver<bool>) {
        let stop = self.stop.clone();
        let mut failures = 0;
        loop {
            tokio::select! { _ = connected.wait_for(|connected| *connected) => {}, () = stop.cancelled() => return }
            match self.follow(&context, &mut connected, &mut failures).await {
                Ok(()) => return,
                Err(why) => {
                    failures += 1;
                    // It comes again, after what came before it.
                    self.order.forget();
                    tracing::warn!(peer = %self.name, "no events come for now: {why}");
                }
            }
            let pause = tokio::time::sleep(self.file.limits.reconnect_pause(failures));
            tokio::select! { () = pause => {}, () = stop.cancelled() => return }
        }
    }

    /// Handle what comes until something fails, or the bridge stops.
    async fn follow(
        &mut self,
        context: &Context,
        connected: &mut watch::Receiver<bool>,
        failures: &mut u32,
    ) -> Result<(), NatsError> {
        let told = |why: &dyn std::fmt::Display| NatsError::Server(why.to_string());
        connected.mark_unchanged();
        let connection = connections(context);
        let consumer = tokio::select! {
            consumer = self.consumer(context) => consumer?,
            _ = connected.changed() => return Err(lost()),
        };
        let window = self.file.limits.receive_window;
        let requests = consumer.stream().max_messages_per_batch(window).expires(REQUEST).heartbeat(HEARTBEAT);
        let mut messages = requests.messages().await.map_err(|why| told(&why))?;
        let stop = self.stop.clone();
        loop {
            let came = tokio::select! {
                came = messages.next() => Some(came),
                // Messages that were on their way are lost with the connection: they are asked for anew.
                _ = connected.changed() => return Err(lost()),
                () = tokio::time::sleep(GAP_AGAIN), if self.order.held() > 0 => None,
                () = stop.cancelled() => return Ok(()),
            };
            // All that is there already is handled together: it shares one wait for the disk.
            let mut came = came;
            while let Some(one) = came {
                let message = one.ok_or_else(|| told(&"the server ended the consumer"))?;
                self.take(message.map_err(|why| told(&why))?).await;
                *failures = 0;
                came = if self.order.held() < window { messages.next().now_or_never() } else { None };
            }
            if !self.settle(&consumer, || connections(context) == connection).await? {
                return Ok(());
            }
        }
    }

    /// The durable consumer, from which everything comes that was not acknowledged: at once, and in the stream's order.
    ///
    /// What the server has sent to somebody who is gone it would send again after a while, later than what is newer. So
    /// a consumer that waits for acknowledgements is made anew, from the first message that lacks one.
    async fn consumer(&self, context: &Context) -> Result<Consumer<pull::Config>, NatsError> {
        let told = |why: &dyn std::fmt::Display| NatsError::Server(why.to_string());
        let stream = stream(&self.file, context).await?;
        let name = self.file.consumer_of(&self.name);
        let mut begin = DeliverPolicy::All;
        match stream.consumer_info(&name).await {
            Ok(info) => {
                begin = DeliverPolicy::ByStartSequence { start_sequence: info.ack_floor.stream_sequence + 1 };
                let wanted = self.settings(info.config.deliver_policy);
                let same = info.config.ack_wait == wanted.ack_wait
                    && info.config.max_ack_pending == wanted.max_ack_pending
                    && info.config.filter_subject == wanted.filter_subject;
                if same && info.num_ack_pending == 0 {
                    return stream.get_consumer(&name).await.map_err(|why| told(&why));
                }
                stream.delete_consumer(&name).await.map_err(|why| told(&why))?;
            }
            Err(why) if why.kind() == ConsumerInfoErrorKind::NotFound => {}
            Err(why) => return Err(told(&why)),
        }
        stream.create_consumer(self.settings(begin)).await.map_err(|why| told(&why))
    }

    fn settings(&self, begin: DeliverPolicy) -> pull::Config {
        pull::Config {
            durable_name: Some(self.file.consumer_of(&self.name)),
            description: Some(format!("Events of '{}' for '{}'", self.name, self.file.host)),
            deliver_policy: begin,
            ack_policy: AckPolicy::Explicit,
            ack_wait: Duration::from_secs(self.file.limits.ack_wait_s),
            // It is for this host to give an event up, which it does by the attempts that were made.
            max_deliver: -1,
            filter_subject: self.file.subjects_of(&self.name),
            max_ack_pending: i64::try_from(self.file.limits.receive_window).unwrap_or(i64::MAX),
            ..pull::Config::default()
        }
    }

    /// Look at a message: hold it, or be done with it at once.
    async fn take(&mut self, message: Message) {
        self.counters.received.add(1);
        if message.info().is_ok_and(|info| info.delivered > 1) {
            self.counters.redelivered.add(1);
        }
        let signature = message.headers.as_ref().and_then(|headers| headers.get(SIGNATURE_HEADER));
        let opened = Envelope::open(
            &self.file.subject_prefix,
            message.subject.as_str(),
            &message.payload,
            signature.map(async_nats::HeaderValue::as_str),
            &self.name,
            &self.peer.key,
        );
        let envelope = match opened {
            Ok(envelope) => envelope,
            Err(why) => {
                self.counters.refused.add(1);
                tracing::warn!(peer = %self.name, subject = %message.subject, "a message is refused: {why}");
                return self.answer(&message, AckKind::Term).await;
            }
        };
        let at = Position { epoch: envelope.epoch, number: envelope.number };
        let floor = envelope.floor;
        self.tell_older(at);
        match self.order.put(at, floor, Held { envelope, message }) {
            Came::Held => {}
            Came::Duplicate(held) => {
                self.counters.duplicates.add(1);
                self.answer(&held.message, AckKind::Ack).await;
            }
            // Sent again by the server: to acknowledge one of them is enough. By the peer: it lies there twice.
            Came::Instead(held) => {
                self.counters.duplicates.add(1);
                self.answer_other_copy(&held.message).await;
            }
        }
    }

    /// A new outbox whose number is below that of the one before: nothing that it has will be handled here.
    fn tell_older(&mut self, at: Position) {
        let epoch = self.order.position().epoch;
        if at.epoch < epoch && self.older != Some(at.epoch) {
            self.older = Some(at.epoch);
            tracing::warn!(
                peer = %self.name, outbox = at.epoch, known = epoch,
                "its messages are of an older outbox than those before, and are taken for old ones: if that does not end, its \
                 clock went back and its nats-outbox.epoch is gone"
            );
        }
    }

    /// Whether the first that is held waits in vain for one before it.
    async fn waits_in_vain(&mut self, consumer: &Consumer<pull::Config>) -> Result<bool, NatsError> {
        let Some(first) = self.order.first() else { return Ok(false) };
        let since = match self.early {
            Some((known, since)) if known == first => since,
            _ => Instant::now(),
        };
        self.early = Some((first, since));
        let (held, window) = (self.order.held(), self.file.limits.receive_window);
        let long = since.elapsed() >= Duration::from_secs(self.file.limits.duplicate_window_s);
        if !long && held < window {
            return Ok(false);
        }
        let info = consumer.get_info().await.map_err(|why| NatsError::Server(why.to_string()))?;
        let waits = Waits { held, window, outstanding: info.num_ack_pending, pending: info.num_pending, long };
        Ok(waits.in_vain())
    }

    /// Acknowledge a message whose like is held, unless it is the very same.
    async fn answer_other_copy(&self, earlier: &Message) {
        let place = |message: &Message| message.info().map(|info| info.stream_sequence).ok();
        let same = self.order.holds(|held| place(&held.message) == place(earlier));
        if !same {
            self.answer(earlier, AckKind::Ack).await;
        }
    }

    /// Handle all whose turn it is, and acknowledge them. `false`: the bridge stops.
    async fn settle(
        &mut self,
        consumer: &Consumer<pull::Config>,
        same_connection: impl Fn() -> bool,
    ) -> Result<bool, NatsError> {
        loop {
            match self.order.next() {
                Next::Handle(at, held) => {
                    if !self.handle(&held.envelope).await {
                        return Ok(false);
                    }
                    self.handled.set(at).map_err(|why| NatsError::position(&self.name, &why))?;
                    self.order.done(at);
                    self.to_ack.push(held.message);
                    // What was handled is not kept from its acknowledgement by what takes long.
                    if self.to_ack.len() > self.file.limits.receive_window / 2 {
                        self.acknowledge().await?;
                    }
                }
                Next::Gap => {
                    self.acknowledge().await?;
                    let info = consumer.get_info().await.map_err(|why| NatsError::Server(why.to_string()))?;
                    // A server that was killed may have forgotten what it sent.
                    if !same_connection() {
                        return Err(lost());
                    }
                    if info.num_ack_pending > self.order.held() {
                        return Ok(true);
                    }
                    self.pass_gap()?;
                }
                Next::Early => {
                    self.acknowledge().await?;
                    if !self.waits_in_vain(consumer).await? {
                        return Ok(true);
                    }
                    // A server that was killed may have forgotten what it sent.
                    if !same_connection() {
                        return Err(lost());
                    }
                    self.pass_gap()?;
                }
                Next::Empty => {
                    self.acknowledge().await?;
                    return Ok(true);
                }
            }
        }
    }

    /// What was handled is on the disk before the server hears of it.
    async fn acknowledge(&mut self) -> Result<(), NatsError> {
        if self.to_ack.is_empty() {
            return Ok(());
        }
        self.handled.sync().await.map_err(|why| NatsError::position(&self.name, &why))?;
        for message in std::mem::take(&mut self.to_ack) {
            self.answer(&message, AckKind::Ack).await;
        }
        Ok(())
    }

    async fn answer(&self, message: &Message, answer: AckKind) {
        match message.ack_with(answer).await {
            Ok(()) => self.counters.acked.add(1),
            // It comes again, and is a duplicate then.
            Err(why) => tracing::debug!(peer = %self.name, "an acknowledgement was not sent: {why}"),
        }
    }

    fn pass_gap(&mut self) -> Result<(), NatsError> {
        let before = self.order.position();
        let missed = self.order.pass_gap();
        let now = self.order.position();
        if missed > 0 {
            self.counters.missed.add(missed);
            tracing::warn!(
                peer = %self.name, missed, up_to = now.number,
                "events of this peer were never seen here: the stream no longer has them"
            );
        }
        if now.epoch != before.epoch && before != Position::default() {
            tracing::warn!(peer = %self.name, "its outbox is a new one: what the old one had and did not send is lost");
        }
        self.handled.set(now).map_err(|why| NatsError::position(&self.name, &why))
    }

    /// Have an event handled; try again where that can help. `false`: the bridge stops, and it was not handled.
    async fn handle(&self, envelope: &Envelope) -> bool {
        if !self.is_wanted(envelope) {
            return true;
        }
        let mut attempts = 0;
        let mut waits = 0_u32;
        loop {
            let why = match self.bus.dispatch_of_peer(Arc::clone(&self.name), envelope.hops, draft(envelope)).await {
                // There is no room: that is no attempt, however often.
                Err(why @ Error::RateLimited(_)) => why,
                Err(why @ (Error::Timeout { .. } | Error::PluginFailed { .. })) => {
                    attempts += 1;
                    why
                }
                answered => {
                    self.counters.handled.add(1);
                    if let Err(Error::NoHandler(_)) = answered {
                        self.counters.unheard.add(1);
                    }
                    if let Err(why) = answered {
                        tracing::debug!(peer = %self.name, event = %envelope.event_name, "answered with: {why}");
                    }
                    return true;
                }
            };
            if attempts >= self.file.limits.max_attempts {
                self.counters.failed.add(1);
                tracing::warn!(
                    peer = %self.name, event = %envelope.event_name, id = %envelope.event_id, attempts,
                    "an event is given up (bus.nats.limits.max_attempts): {why}"
                );
                return true;
            }
            loop {
                waits += 1;
                let pause = tokio::time::sleep(self.file.limits.retry_pause(waits));
                tokio::select! { () = pause => {}, () = self.stop.cancelled() => return false }
                if !self.owner_rests(&envelope.event_name) {
                    break;
                }
            }
            self.counters.retried.add(1);
        }
    }

    /// Whether the plugin that answers such an event rests after a failure: to ask it then would be no attempt.
    fn owner_rests(&self, event: &str) -> bool {
        let owner = self.bus.owner(event);
        let rests = |state| matches!(state, PluginState::BackingOff | PluginState::CircuitOpen);
        owner.is_some_and(|owner| {
            self.bus.plugins().iter().any(|plugin| plugin.metadata.name == owner && rests(plugin.state))
        })
    }

    fn is_wanted(&self, envelope: &Envelope) -> bool {
        if !any_pattern(&self.file.accept, &envelope.event_name) {
            self.counters.unwanted.add(1);
            return false;
        }
        let age_ms = self.bus.now_ms().saturating_sub(envelope.time_ms);
        let age_max_ms = self.file.limits.max_event_age_s.saturating_mul(1_000);
        let why = if age_ms > age_max_ms {
            format!("it is {} s old (bus.nats.limits.max_event_age_s)", age_ms / 1_000)
        } else if envelope.hops > self.file.limits.max_hops {
            format!("it went from host to host {} times (bus.nats.limits.max_hops)", envelope.hops)
        } else {
            return true;
        };
        self.counters.refused.add(1);
        tracing::warn!(peer = %self.name, event = %envelope.event_name, id = %envelope.event_id, "refused: {why}");
        false
    }
}

/// How many connections there were so far.
fn connections(context: &Context) -> u64 {
    context.client().statistics().connects.load(Ordering::SeqCst)
}

fn lost() -> NatsError {
    NatsError::Server("the connection was lost".to_owned())
}

fn draft(envelope: &Envelope) -> Draft {
    Draft {
        name: envelope.event_name.clone(),
        data: envelope.data.clone(),
        correlation_id: Some(envelope.correlation_id.clone()),
        client_id: envelope.client_id.clone(),
        fan_out: false,
    }
}
