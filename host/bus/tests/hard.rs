//! The bus when things go wrong in the middle: senders that go away, plugins that are replaced, taken away or broken
//! while events are with them, mailboxes that fill, hosts that end.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test that cannot go on has failed")]

use futures_util::future::BoxFuture;
use gavel_bus::*;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;

/// What a plugin's instances did, all together.
#[derive(Default)]
struct Seen {
    made: AtomicU64,
    ended: AtomicU64,
    answered: AtomicU64,
    heard: Mutex<Vec<Value>>,
    handle: Mutex<Option<Handle>>,
}

/// Waits for a permit before it answers or has heard, says who it is, and fails where it is told to.
#[derive(Clone)]
struct Made {
    name: &'static str,
    seen: Arc<Seen>,
    go: Arc<Semaphore>,
    fails: Arc<AtomicBool>,
    concurrent: bool,
}

impl Made {
    fn waiting(name: &'static str) -> Self {
        let (seen, fails) = (Arc::default(), Arc::default());
        Self { name, seen, fails, go: Arc::new(Semaphore::new(0)), concurrent: false }
    }

    fn ready(name: &'static str) -> Self {
        let made = Self::waiting(name);
        made.let_go();
        made
    }

    fn let_go(&self) {
        self.go.add_permits(1_000_000);
    }

    async fn pass(&self) -> Result<(), Fault> {
        self.go.acquire().await.unwrap().forget();
        if self.fails.load(Ordering::SeqCst) { Err(Fault::Broken("as it was told".to_owned())) } else { Ok(()) }
    }

    fn heard(&self) -> usize {
        self.seen.heard.lock().unwrap().len()
    }

    fn registration(&self, owns: &[&str], subscribes: &[&str]) -> Registration {
        let made = self.clone();
        Registration {
            metadata: Metadata { name: self.name.to_owned(), version: "1".to_owned(), ..Metadata::default() },
            capabilities: Capabilities {
                event_namespaces: owns.iter().map(ToString::to_string).collect(),
                subscribes: subscribes.iter().map(|text| Pattern::parse(text).unwrap()).collect(),
                emits: vec![Pattern::parse("*").unwrap()],
                ..Capabilities::default()
            },
            config: Value::Null,
            digest: "native".to_owned(),
            factory: Arc::new(move || {
                made.seen.made.fetch_add(1, Ordering::SeqCst);
                made.clone()
            }),
        }
    }
}

impl Plugin for Made {
    fn startup(&self, _config: Value, handle: Handle) -> BoxFuture<'_, Result<(), Fault>> {
        *self.seen.handle.lock().unwrap() = Some(handle);
        Box::pin(std::future::ready(Ok(())))
    }

    fn handle(&self, event: Arc<Event>) -> BoxFuture<'_, Result<Value, Fault>> {
        Box::pin(async move {
            self.pass().await?;
            self.seen.answered.fetch_add(1, Ordering::SeqCst);
            Ok(json!({ "by": self.name, "data": event.data }))
        })
    }

    fn before(&self, _event: Arc<Event>) -> BoxFuture<'_, Result<Before, Fault>> {
        Box::pin(async {
            // It takes its time, however short.
            tokio::task::yield_now().await;
            Ok(Before::Pass)
        })
    }

    fn hear(&self, event: Arc<Event>) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(async move {
            self.pass().await?;
            self.seen.heard.lock().unwrap().push(event.data.clone());
            Ok(())
        })
    }

    fn shutdown(&self) -> BoxFuture<'_, Result<(), Fault>> {
        self.seen.ended.fetch_add(1, Ordering::SeqCst);
        Box::pin(std::future::ready(Ok(())))
    }

    fn concurrent(&self) -> bool {
        self.concurrent
    }
}

fn bus(options: Options, plugins: Vec<Registration>) -> Bus {
    let bus = Bus::new(options, || 7);
    bus.register(plugins).unwrap();
    bus
}

async fn ask(bus: &Bus, name: &str) -> Result<Answer, Error> {
    bus.dispatch(Sender::Host, Draft::new(name, json!(1))).await.map(|reply| reply.answer)
}

async fn tell(bus: &Bus, name: &str, data: Value) -> Emitted {
    bus.emit(Sender::Host, Draft::new(name, data)).await.unwrap()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..60_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("waited in vain until {what}");
}

#[tokio::test]
async fn an_event_whose_sender_goes_away_is_handled_to_its_end() {
    let (slow, ear) = (Made::waiting("slow"), Made::ready("ear"));
    let bus = bus(Options::default(), vec![slow.registration(&["s"], &[]), ear.registration(&[], &["s:*"])]);
    let asked = tokio::time::timeout(Duration::from_millis(20), ask(&bus, "s:x")).await;
    assert!(asked.is_err(), "the sender has given up");
    slow.let_go();
    until("it was told", || ear.heard() == 1).await;
    assert_eq!(slow.seen.answered.load(Ordering::SeqCst), 1);
    ask(&bus, "s:x").await.unwrap();
    assert_eq!(slow.seen.made.load(Ordering::SeqCst), 1, "the instance was not left half way");
}

#[tokio::test]
async fn letters_that_wait_for_a_replaced_plugin_go_to_the_one_in_its_place() {
    let (old, new) = (Made::waiting("p"), Made::ready("p"));
    let bus = bus(Options::default(), vec![old.registration(&[], &["n:*"])]);
    for number in 0..10 {
        assert_eq!(tell(&bus, "n:x", json!(number)).await.queued, 1);
    }
    until("one is with the old one", || old.seen.made.load(Ordering::SeqCst) == 1).await;
    bus.replace(new.registration(&[], &["n:*"])).await.unwrap();
    tell(&bus, "n:x", json!(10)).await;
    until("the new one heard the others, and what came since", || new.heard() == 10).await;
    assert_eq!(*new.seen.heard.lock().unwrap(), (1..=10).map(Value::from).collect::<Vec<_>>(), "in their order");
    assert_eq!(old.seen.ended.load(Ordering::SeqCst), 0, "it is not shut down while an event is with it");
    old.let_go();
    until("the old one has ended", || old.seen.ended.load(Ordering::SeqCst) == 1).await;
    assert_eq!(*old.seen.heard.lock().unwrap(), [json!(0)]);
}

#[tokio::test]
async fn letters_that_nobody_else_takes_are_ended_by_the_one_that_is_taken_away() {
    let (gone, other) = (Made::waiting("gone"), Made::waiting("other"));
    let bus = bus(Options::default(), vec![gone.registration(&["g"], &["n:*"]), other.registration(&[], &["n:*"])]);
    for number in 0..5 {
        tell(&bus, "n:x", json!(number)).await;
    }
    bus.unregister("gone").unwrap();
    // This one replaces a plugin that heard them, and does not want them.
    let deaf = Made::ready("other");
    bus.replace(deaf.registration(&[], &["m:*"])).await.unwrap();
    assert_eq!(tell(&bus, "n:x", json!(5)).await.queued, 0, "nobody hears it any more");
    gone.let_go();
    other.let_go();
    for made in [&gone, &other] {
        until("it has ended", || made.seen.ended.load(Ordering::SeqCst) == 1).await;
        assert_eq!(made.heard(), 5);
    }
    let handle = gone.seen.handle.lock().unwrap().clone().unwrap();
    until("its handle is void", || !bus.plugins().iter().any(|plugin| plugin.metadata.name == "gone")).await;
    let mut late = Ok(Emitted { event_id: String::new(), queued: 0, refused: Vec::new() });
    for _ in 0..1_000 {
        late = handle.emit(None, Draft::new("m:x", json!(1))).await;
        if late.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(late.unwrap_err().to_string(), "plugin 'gone' has ended: it may emit nothing any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_meets_a_plugin_that_has_ended() {
    let made = Made::ready("p");
    let bus = bus(Options::default(), vec![made.registration(&["p"], &["n:*"])]);
    let done = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..4)
        .map(|_| {
            let (bus, done) = (bus.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                let mut sent = 0;
                while !done.load(Ordering::SeqCst) {
                    ask(&bus, "p:x").await.unwrap();
                    let told = tell(&bus, "n:x", json!(1)).await;
                    // On a slow machine its mailbox is full at times, and who sends is told.
                    assert_eq!(told.queued + told.refused.len(), 1);
                    sent += told.queued;
                    if sent % 16 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                sent
            })
        })
        .collect();
    for _ in 0..200 {
        bus.replace(made.registration(&["p"], &["n:*"])).await.unwrap();
    }
    done.store(true, Ordering::SeqCst);
    let mut sent = 0;
    for sender in senders {
        sent += sender.await.unwrap();
    }
    until("every letter was told", || made.heard() == sent).await;
    bus.shutdown().await;
    // The first one may have been replaced before an event needed it.
    let all_made = made.seen.made.load(Ordering::SeqCst);
    assert!((200..=201).contains(&all_made), "{all_made} were made: none for an event that came late");
    until("each that was made has ended", || made.seen.ended.load(Ordering::SeqCst) == all_made).await;
    assert_eq!(made.seen.answered.load(Ordering::SeqCst), sent as u64);
}

#[tokio::test]
async fn the_end_of_the_bus_waits_for_what_is_under_way_and_not_for_what_hangs() {
    let (slow, hangs) = (Made::waiting("slow"), Made { concurrent: true, ..Made::waiting("hangs") });
    let options = Options { shutdown_grace: Duration::from_millis(300), ..Options::default() };
    let plugins = vec![slow.registration(&["s"], &["n:*"]), hangs.registration(&["h"], &[])];
    let bus = bus(options, plugins);
    let asked: Vec<_> = ["s:x", "h:x"]
        .map(|name| {
            let bus = bus.clone();
            tokio::spawn(async move { ask(&bus, name).await })
        })
        .into();
    until("both are made", || [&slow, &hangs].iter().all(|made| made.seen.made.load(Ordering::SeqCst) == 1)).await;
    tell(&bus, "n:x", json!(1)).await;
    let ending = tokio::spawn({
        let bus = bus.clone();
        async move { bus.shutdown().await }
    });
    until("nothing new is taken", || bus.plugins().is_empty()).await;
    slow.let_go();
    let refused = ask(&bus, "s:x").await.unwrap_err();
    assert_eq!(refused.to_string(), "the host is shutting down: send 's:x' again when it is back");
    assert_eq!(bus.register(vec![Made::ready("late").registration(&[], &[])]), Err(RegisterError::Ended));
    ending.await.unwrap();
    assert_eq!((slow.seen.answered.load(Ordering::SeqCst), slow.heard()), (1, 1));
    assert_eq!((slow.seen.ended.load(Ordering::SeqCst), hangs.seen.ended.load(Ordering::SeqCst)), (1, 1));
    let mut asked = asked.into_iter();
    assert_eq!(asked.next().unwrap().await.unwrap().unwrap()["by"], "slow");
    asked.next().unwrap().abort();
}

#[tokio::test]
async fn after_a_burst_a_mailbox_collects_and_keeps_nobody_waiting_for_an_answer() {
    let ear = Made::ready("ear");
    let options = Options { batch_timeout: Duration::from_hours(1), ..Options::default() };
    let bus = bus(options, vec![ear.registration(&["ear"], &["n:*"])]);
    tell(&bus, "n:x", json!(0)).await;
    until("a quiet mailbox is told at once", || ear.heard() == 1).await;
    for number in 1..200 {
        tell(&bus, "n:x", json!(number)).await;
    }
    until("the burst was heard", || ear.heard() == 200).await;
    tell(&bus, "n:x", json!(200)).await;
    for _ in 0..50 {
        ask(&bus, "ear:x").await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!((ear.heard(), bus.plugins()[0].queue_depth), (200, 1), "it is collected, and answers went past it");
    // What the plugin owns is not held back, nor what came before it.
    tell(&bus, "ear:x", json!(1)).await;
    until("both were told", || ear.heard() == 201 && bus.plugins()[0].queue_depth == 0).await;
    for number in 201..400 {
        tell(&bus, "n:x", json!(number)).await;
    }
    until("many are told without waiting", || ear.heard() > 300).await;
    let collected = bus.plugins()[0].queue_depth;
    assert!(collected < 64, "{collected} letters wait");
}

#[tokio::test]
async fn a_mailbox_is_bounded_in_bytes_too() {
    let slow = Made::waiting("slow");
    let options = Options { queue_bytes_max: 10_000, ..Options::default() };
    let bus = bus(options, vec![slow.registration(&[], &["n:*"])]);
    let large = json!("x".repeat(6_000));
    assert_eq!(tell(&bus, "n:x", large.clone()).await.queued, 1);
    until("the first is with it", || slow.seen.made.load(Ordering::SeqCst) == 1).await;
    assert_eq!(tell(&bus, "n:x", large.clone()).await.queued, 1);
    assert_eq!(tell(&bus, "n:x", large.clone()).await.refused, ["slow"]);
    assert_eq!(bus.plugins()[0].counts.turned_away, 1);
    slow.let_go();
    until("there is room", || slow.heard() == 2).await;
    assert_eq!(tell(&bus, "n:x", large).await.queued, 1);
    let huge = json!("x".repeat(20_000));
    until("it is empty", || slow.heard() == 3).await;
    assert_eq!(tell(&bus, "n:x", huge).await.queued, 1, "one that is too large alone is not lost for ever");
}

#[tokio::test]
async fn what_comes_while_a_plugin_rests_is_not_lost() {
    let fragile = Made::ready("fragile");
    fragile.fails.store(true, Ordering::SeqCst);
    let options = Options { backoff_first: Duration::from_millis(50), ..Options::default() };
    let bus = bus(options, vec![fragile.registration(&[], &["n:*"])]);
    for number in 0..5 {
        tell(&bus, "n:x", json!(number)).await;
    }
    until("it failed", || bus.plugins()[0].counts.errors == 1).await;
    fragile.fails.store(false, Ordering::SeqCst);
    until("it heard the others", || fragile.heard() == 4).await;
    assert_eq!(bus.plugins()[0].counts.errors, 1);
}

#[tokio::test]
async fn plugins_that_hang_while_they_are_told_keep_no_other_from_it() {
    let hang = ["h1", "h2", "h3"].map(Made::waiting);
    let ear = Made::ready("z");
    let mut all: Vec<_> = hang.iter().map(|made| made.registration(&[], &["n:*"])).collect();
    all.push(ear.registration(&[], &["n:*"]));
    let bus = bus(Options { deliveries_max: 1, ..Options::default() }, all);
    for number in 0..3 {
        assert_eq!(tell(&bus, "n:x", json!(number)).await.queued, 4);
    }
    until("the one that does not hang heard all", || ear.heard() == 3).await;
    assert!(hang.iter().all(|made| made.heard() == 0));
}

/// Calls another plugin when it hears or handles, and says what came of it.
struct Caller {
    other: &'static str,
    handle: Mutex<Option<Handle>>,
    meet: Arc<tokio::sync::Barrier>,
    called: Arc<Mutex<Vec<bool>>>,
}

impl Plugin for Caller {
    fn startup(&self, _config: Value, handle: Handle) -> BoxFuture<'_, Result<(), Fault>> {
        *self.handle.lock().unwrap() = Some(handle);
        Box::pin(std::future::ready(Ok(())))
    }

    fn handle(&self, _event: Arc<Event>) -> BoxFuture<'_, Result<Value, Fault>> {
        Box::pin(std::future::ready(Ok(json!({}))))
    }

    fn hear(&self, event: Arc<Event>) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(async move {
            self.meet.wait().await;
            if self.other.is_empty() {
                return Ok(());
            }
            let handle = self.handle.lock().unwrap().clone().unwrap();
            let answer = handle.call(Some(&event), Draft::new(self.other, json!(1))).await;
            self.called.lock().unwrap().push(answer.is_ok());
            Ok(())
        })
    }
}

#[tokio::test]
async fn two_that_hear_of_one_event_are_no_circle() {
    let (meet, called) = (Arc::new(tokio::sync::Barrier::new(2)), Arc::new(Mutex::new(Vec::new())));
    let plugin = |name: &'static str, other: &'static str| {
        let (meet, called) = (Arc::clone(&meet), Arc::clone(&called));
        let make =
            move || Caller { other, handle: Mutex::default(), meet: Arc::clone(&meet), called: Arc::clone(&called) };
        Registration { factory: Arc::new(make), ..Made::ready(name).registration(&[name], &["n:*"]) }
    };
    let bus = bus(Options::default(), vec![plugin("a", "b:x"), plugin("b", "")]);
    tell(&bus, "n:x", json!(1)).await;
    until("it was called", || !called.lock().unwrap().is_empty()).await;
    assert_eq!(*called.lock().unwrap(), [true], "the other is busy with the same event, and not waiting for it");
}

#[tokio::test]
async fn ids_and_names_are_bounded() {
    let bus = bus(Options::default(), vec![Made::ready("p").registration(&["p"], &[])]);
    let long = Some("i".repeat(ID_BYTES_MAX + 1));
    let drafts = [
        Draft { correlation_id: long.clone(), ..Draft::new("p:x", json!(1)) },
        Draft { client_id: long, ..Draft::new("p:x", json!(1)) },
    ];
    for draft in drafts {
        let why = bus.dispatch(Sender::Host, draft.clone()).await.unwrap_err().to_string();
        assert!(why.contains("257 bytes is longer than 256"), "{why}");
        assert!(bus.emit(Sender::Host, draft).await.is_err());
    }
    let long_number: Value = serde_json::from_str(&"9".repeat(100_000)).unwrap();
    bus.dispatch(Sender::Host, Draft::new("p:x", long_number)).await.unwrap();
    let (events, _) = bus.history(&Query { limit: 1, newest_first: true, ..Query::default() });
    assert!(events[0].data["left_out"].is_string(), "what is long is not kept, whatever it is");
    for (name, owns) in [("", "a"), ("a b", "a"), ("c", "a:b"), ("d", "*"), ("e", "/")] {
        let mut registration = Made::ready("x").registration(&[owns], &[]);
        name.clone_into(&mut registration.metadata.name);
        assert!(matches!(bus.register(vec![registration]), Err(RegisterError::Invalid { .. })), "{name:?} {owns:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_twenty_plugins_one_that_always_breaks_costs_the_others_nothing() {
    const EVENTS: usize = 5_000;
    const NAMES: [&str; 20] = [
        "p00", "p01", "p02", "p03", "p04", "p05", "p06", "p07", "p08", "p09", "p10", "p11", "p12", "p13", "p14", "p15",
        "p16", "p17", "p18", "p19",
    ];
    let all = NAMES.map(Made::ready);
    all[7].fails.store(true, Ordering::SeqCst);
    let bus = bus(Options::default(), all.iter().map(|made| made.registration(&[made.name], &["*"])).collect());
    for number in 0..EVENTS {
        assert!(tell(&bus, "n:x", json!(number)).await.refused.iter().all(|name| name == "p07"));
        if number % 1_000 == 0 {
            until("the others are not far behind", || {
                all.iter().all(|made| made.name == "p07" || made.heard() + 2_000 > number)
            })
            .await;
        }
    }
    let expected: Vec<_> = (0..EVENTS).map(Value::from).collect();
    for made in all.iter().filter(|made| made.name != "p07") {
        until("it heard all", || made.heard() == EVENTS).await;
        assert!(*made.seen.heard.lock().unwrap() == expected, "{}: in their order", made.name);
    }
    assert_eq!(all[7].heard(), 0);
}

#[tokio::test]
async fn what_is_told_after_the_time_of_its_cause_is_shown_before_and_told() {
    let (slow, ear) = (Made::ready("slow"), Made::ready("ear"));
    let options = Options { event_timeout: Duration::from_millis(300), ..Options::default() };
    let mut gate = Made::ready("gate").registration(&[], &[]);
    gate.capabilities.before = vec![Pattern::parse("s:told").unwrap()];
    let bus = bus(options, vec![slow.registration(&["s"], &[]), ear.registration(&[], &["s:told"]), gate]);
    ask(&bus, "s:x").await.unwrap();
    let cause = bus.history(&Query { limit: 1, ..Query::default() }).0.remove(0);
    let handle = slow.seen.handle.lock().unwrap().clone().unwrap();
    tokio::time::sleep_until(cause.until).await;
    // The owner of what is told has it in its mailbox, and who listens too.
    assert_eq!(handle.emit(Some(&cause), Draft::new("s:told", json!(2))).await.unwrap().queued, 2);
    until("it was told", || ear.heard() == 1).await;
}

#[tokio::test]
async fn a_watcher_holds_no_data_that_the_history_does_not_keep() {
    let bus = bus(Options::default(), vec![Made::ready("p").registration(&["p"], &[])]);
    let mut watched = bus.watch();
    bus.dispatch(Sender::Host, Draft::new("p:x", json!("x".repeat(1 << 20)))).await.unwrap();
    assert!(watched.recv().await.unwrap().data["left_out"].is_string());
}
