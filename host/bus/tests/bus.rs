//! The bus as its users see it: plugins made of closures, events sent, answers looked at.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test that cannot go on has failed")]

use futures_util::future::BoxFuture;
use gavel_bus::*;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

type Handler = dyn Fn(Arc<Event>, Handle) -> BoxFuture<'static, Result<Value, Fault>> + Send + Sync;

/// A plugin of closures.
#[derive(Clone)]
struct Made {
    handler: Arc<Handler>,
    before: Before,
    heard: Arc<Mutex<Vec<String>>>,
    ended: Arc<AtomicUsize>,
    handle: Arc<Mutex<Option<Handle>>>,
}

impl Made {
    fn new<F, R>(handler: F) -> Self
    where
        F: Fn(Arc<Event>, Handle) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Value, Fault>> + Send + 'static,
    {
        Self {
            handler: Arc::new(move |event, handle| Box::pin(handler(event, handle))),
            before: Before::Pass,
            heard: Arc::default(),
            ended: Arc::default(),
            handle: Arc::default(),
        }
    }

    fn echo() -> Self {
        Self::new(|event, _| async move { Ok(json!({ "echo": event.data })) })
    }
}

impl Plugin for Made {
    fn startup(&self, _config: Value, handle: Handle) -> BoxFuture<'_, Result<(), Fault>> {
        *self.handle.lock().unwrap() = Some(handle);
        Box::pin(std::future::ready(Ok(())))
    }

    fn handle(&self, event: Arc<Event>) -> BoxFuture<'_, Result<Value, Fault>> {
        let handle = self.handle.lock().unwrap().clone().unwrap();
        (self.handler)(event, handle)
    }

    fn before(&self, _event: Arc<Event>) -> BoxFuture<'_, Result<Before, Fault>> {
        Box::pin(std::future::ready(Ok(self.before.clone())))
    }

    fn hear(&self, event: Arc<Event>) -> BoxFuture<'_, Result<(), Fault>> {
        self.heard.lock().unwrap().push(format!("{} {}", event.name, event.sender));
        Box::pin(std::future::ready(Ok(())))
    }

    fn after(&self, event: Arc<Event>, answer: Arc<Value>) -> BoxFuture<'_, Result<(), Fault>> {
        self.heard.lock().unwrap().push(format!("after {} {answer}", event.name));
        Box::pin(std::future::ready(Ok(())))
    }

    fn shutdown(&self) -> BoxFuture<'_, Result<(), Fault>> {
        self.ended.fetch_add(1, Ordering::SeqCst);
        Box::pin(std::future::ready(Ok(())))
    }
}

/// A registration, to be changed by the caller.
fn registration(name: &str, owns: &[&str], made: &Made) -> Registration {
    let (commands, spaces): (Vec<_>, Vec<_>) = owns.iter().map(ToString::to_string).partition(|own| own.contains(':'));
    let made = made.clone();
    Registration {
        metadata: Metadata { name: name.to_owned(), version: "1".to_owned(), ..Metadata::default() },
        capabilities: Capabilities { commands, event_namespaces: spaces, ..Capabilities::default() },
        config: Value::Null,
        digest: "native".to_owned(),
        factory: Arc::new(move || made.clone()),
    }
}

fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|text| Pattern::parse(text).unwrap()).collect()
}

fn bus_with(options: Options, plugins: Vec<Registration>) -> Bus {
    let bus = Bus::new(options, || 7);
    bus.register(plugins).unwrap();
    bus
}

fn bus(plugins: Vec<Registration>) -> Bus {
    bus_with(Options::default(), plugins)
}

async fn ask(bus: &Bus, name: &str) -> Result<Answer, Error> {
    bus.dispatch(Sender::Client("me".into()), Draft::new(name, json!(1))).await.map(|reply| reply.answer)
}

fn code(answer: Result<Answer, Error>) -> String {
    answer.unwrap_err().code().unwrap_or("none").to_owned()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..30_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("waited in vain until {what}");
}

#[tokio::test]
async fn the_whole_name_goes_before_the_namespace() {
    let says = |word: &'static str| Made::new(move |_, _| async move { Ok(json!(word)) });
    let bus = bus(vec![
        registration("general", &["/state"], &says("general")),
        registration("special", &["state:set"], &says("special")),
    ]);
    assert_eq!(ask(&bus, "state:set").await.unwrap()["result"], "special");
    assert_eq!(ask(&bus, "state:get").await.unwrap()["result"], "general");
    assert_eq!(code(ask(&bus, "other:get").await), "NO_HANDLER");
    assert_eq!(ask(&bus, "").await.unwrap_err().to_string(), "Missing event name");
    assert!(ask(&bus, "a b").await.unwrap_err().to_string().contains("letters, digits"));
}

#[tokio::test]
async fn two_owners_are_refused_and_nothing_changes() {
    let bus = bus(vec![registration("one", &["state"], &Made::echo())]);
    let both = vec![registration("free", &["free"], &Made::echo()), registration("two", &["state"], &Made::echo())];
    assert_eq!(
        bus.register(both).unwrap_err().to_string(),
        "plugins 'one' and 'two' both own namespace 'state': let one of them give it up"
    );
    assert_eq!(bus.plugins().len(), 1);
    let mut needy = registration("needy", &["needy"], &Made::echo());
    needy.metadata.dependencies = vec!["absent".to_owned()];
    assert!(bus.register(vec![needy]).unwrap_err().to_string().contains("depends on 'absent'"));
}

#[tokio::test]
async fn nothing_is_made_before_it_is_needed() {
    let bus = bus(vec![registration("one", &["one"], &Made::echo()), registration("two", &["two"], &Made::echo())]);
    assert!(bus.plugins().iter().all(|plugin| plugin.state == PluginState::Idle));
    ask(&bus, "one:x").await.unwrap();
    let states: Vec<_> = bus.plugins().iter().map(|plugin| plugin.state).collect();
    assert_eq!(states, [PluginState::Ready, PluginState::Idle]);
}

#[tokio::test]
async fn who_sees_an_event_before_may_replace_or_cancel_it() {
    let gate = |name: &str, priority: i32, before: Before, on: &str| {
        let mut gate = registration(name, &[], &Made { before, ..Made::echo() });
        gate.capabilities.before = patterns(&[on]);
        gate.metadata.priority = priority;
        gate
    };
    let bus = bus(vec![
        registration("echo", &["echo"], &Made::echo()),
        gate("first", 2, Before::Replace(json!("first")), "echo:*"),
        gate("last", 1, Before::Replace(json!("last")), "echo:*"),
        gate("never", 3, Before::Cancel("closed".to_owned()), "*:secret"),
    ]);
    assert_eq!(ask(&bus, "echo:x").await.unwrap()["echo"], "last");
    let refused = ask(&bus, "echo:secret").await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.to_string().as_str()),
        (Some("FORBIDDEN"), "plugin 'never' cancelled event 'echo:secret': closed")
    );
}

#[tokio::test]
async fn those_who_listen_hear_and_those_after_see_the_answer() {
    let ear = Made::echo();
    let mut listener = registration("ear", &[], &ear);
    listener.capabilities.subscribes = patterns(&["echo:*"]);
    listener.capabilities.after = patterns(&["echo:x"]);
    let bus = bus(vec![registration("echo", &["echo"], &Made::echo()), listener]);
    ask(&bus, "echo:x").await.unwrap();
    until("it heard", || ear.heard.lock().unwrap().len() == 2).await;
    assert_eq!(*ear.heard.lock().unwrap(), ["echo:x client:me", r#"after echo:x {"echo":1}"#]);
    let draft = Draft { fan_out: true, ..Draft::new("echo:y", json!(2)) };
    let all = bus.dispatch(Sender::Host, draft).await.unwrap().answer;
    assert_eq!(all["responses"], json!([{ "echo": 2, "plugin": "echo" }, { "echo": 2, "plugin": "ear" }]));
    let (events, total) = bus.history(&Query { limit: 1, newest_first: true, ..Query::default() });
    assert_eq!((events[0].name.as_str(), events[0].timestamp_ms, total), ("echo:y", 7, 2));
    // Whoever was asked is not told of it too: the next that it hears is another event.
    ask(&bus, "echo:z").await.unwrap();
    until("it heard", || ear.heard.lock().unwrap().len() >= 3).await;
    assert_eq!(ear.heard.lock().unwrap()[2], "echo:z client:me");
}

#[tokio::test]
async fn of_a_question_to_all_hear_who_has_no_answer_and_an_owner_who_listens() {
    let (owner, ear) = (Made::echo(), Made::new(|_, _| async { Err(Fault::Unhandled) }));
    let mut both = registration("both", &["echo"], &owner);
    let mut listener = registration("ear", &[], &ear);
    both.capabilities.subscribes = patterns(&["echo:*"]);
    listener.capabilities.subscribes = patterns(&["echo:*"]);
    let bus = bus(vec![both, listener]);
    bus.dispatch(Sender::Host, Draft { fan_out: true, ..Draft::new("echo:y", json!(2)) }).await.unwrap();
    for made in [owner, ear] {
        until("it heard", || *made.heard.lock().unwrap() == ["echo:y host"]).await;
    }
}

fn quick() -> Options {
    Options {
        event_timeout: Duration::from_millis(100),
        backoff_first: Duration::from_millis(1),
        backoff_max: Duration::from_millis(500),
        failures_max: 3,
        ..Options::default()
    }
}

#[tokio::test]
async fn a_plugin_that_breaks_is_answered_for_rests_and_is_made_anew() {
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let breaks = Arc::clone(&broken);
    let fragile = Made::new(move |_, _| {
        assert!(!breaks.load(Ordering::SeqCst), "as it was told");
        async { Ok(json!({})) }
    });
    let bus = bus_with(
        quick(),
        vec![registration("fragile", &["f"], &fragile), registration("echo", &["echo"], &Made::echo())],
    );
    let first = ask(&bus, "f:x").await.unwrap_err();
    assert_eq!(first.to_string(), "plugin 'fragile': it panicked: as it was told");
    let options = quick();
    let mut failures = 1;
    while failures < options.failures_max {
        // While it rests it is not asked, and the answer says so.
        let why = ask(&bus, "f:x").await.unwrap_err().to_string();
        failures += u32::from(why == "plugin 'fragile': it panicked: as it was told");
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    assert_eq!(bus.plugins()[1].state, PluginState::CircuitOpen);
    assert!(ask(&bus, "f:x").await.unwrap_err().to_string().contains("its circuit is open"));
    ask(&bus, "echo:x").await.unwrap();
    broken.store(false, Ordering::SeqCst);
    let mut answered = Err(Error::NoHandler(String::new()));
    while answered.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
        answered = ask(&bus, "f:x").await;
        assert!(matches!(&answered, Ok(_) | Err(Error::PluginFailed { .. })));
    }
    assert_eq!(bus.plugins()[1].state, PluginState::Ready);
    assert!(bus.plugins()[1].counts.restarts >= 3 && bus.plugins()[1].counts.errors >= 3);
}

#[tokio::test]
async fn a_handler_that_hangs_is_given_up_in_time() {
    let hangs = Made::new(|_, _| std::future::pending());
    let bus = bus_with(quick(), vec![registration("hangs", &["h"], &hangs)]);
    assert_eq!(
        ask(&bus, "h:x").await.unwrap_err().to_string(),
        "no answer to event 'h:x' within 0.1 s (event_timeout)"
    );
}

/// Tells of `c:x` when it is asked, and says what came of it.
fn teller() -> Made {
    Made::new(|event: Arc<Event>, handle: Handle| async move {
        let told = handle.emit(Some(&event), Draft::new("c:x", json!(1))).await;
        Ok(json!(told.map_or_else(|why| why.to_string(), |_| "told".to_owned())))
    })
}

#[tokio::test]
async fn a_plugin_is_not_shown_before_what_it_sends_itself() {
    let asks = Made::new(|event: Arc<Event>, handle: Handle| async move {
        let answer = handle.call(Some(&event), Draft::new("other:x", json!(1))).await;
        Ok(answer.unwrap()["result"].clone())
    });
    let all = [("gate", &teller()), ("asks", &asks), ("other", &teller())].map(|(name, made)| {
        let mut plugin = registration(name, &[name], made);
        plugin.capabilities.emits = patterns(&["*"]);
        if name != "other" {
            plugin.capabilities.before = patterns(&["c:x"]);
        }
        plugin
    });
    let bus = bus(all.into());
    assert_eq!(ask(&bus, "gate:x").await.unwrap()["result"], "told");
    assert_eq!(ask(&bus, "other:x").await.unwrap()["result"], "told");
    // What another sends meanwhile it must be shown: where it would wait for itself, that is said at once.
    let circle = ask(&bus, "asks:x").await.unwrap();
    assert!(circle["result"].as_str().unwrap().contains("in a circle"), "{circle:?}");
}

#[tokio::test]
async fn plugins_that_call_each_other_in_a_circle_are_told_at_once() {
    let calls = |other: &'static str| {
        Made::new(move |event: Arc<Event>, handle: Handle| async move {
            let answer = handle.call(Some(&event), Draft::new(other, json!(1))).await;
            Ok(json!(answer.map_or_else(|why| why.to_string(), |answer| answer["result"].as_str().unwrap().to_owned())))
        })
    };
    let mut a = registration("a", &["a"], &calls("b:x"));
    let mut b = registration("b", &["b"], &calls("a:x"));
    a.capabilities.emits = patterns(&["*"]);
    b.capabilities.emits = patterns(&["*"]);
    let bus = bus(vec![a, b]);
    let answer = ask(&bus, "a:x").await.unwrap();
    assert!(answer["result"].as_str().unwrap().contains("in a circle"), "{answer:?}");
    // Two chains from both ends: each may hold one and want the other.
    for _ in 0..200 {
        let (one, two) = tokio::join!(ask(&bus, "a:x"), ask(&bus, "b:x"));
        assert!(one.is_ok() && two.is_ok());
    }
}

#[tokio::test]
async fn two_chains_that_would_wait_for_each_other_do_not_hang() {
    let meet = Arc::new(tokio::sync::Barrier::new(2));
    let calls = |other: &'static str| {
        let meet = Arc::clone(&meet);
        Made::new(move |event: Arc<Event>, handle: Handle| {
            let meet = Arc::clone(&meet);
            async move {
                if event.chain.is_empty() {
                    meet.wait().await;
                    let answer = handle.call(Some(&event), Draft::new(other, json!(1))).await;
                    return Ok(json!(answer.is_ok()));
                }
                Ok(json!("leaf"))
            }
        })
    };
    let mut a = registration("a", &["a"], &calls("b:x"));
    let mut b = registration("b", &["b"], &calls("a:x"));
    a.capabilities.emits = patterns(&["*"]);
    b.capabilities.emits = patterns(&["*"]);
    let bus = bus(vec![a, b]);
    let (one, two) = tokio::join!(ask(&bus, "a:x"), ask(&bus, "b:x"));
    let went = [one.unwrap()["result"].clone(), two.unwrap()["result"].clone()];
    assert!(went.contains(&json!(false)), "one of them was told: {went:?}");
    assert!(went.contains(&json!(true)), "and made way for the other: {went:?}");
}

#[tokio::test]
async fn emission_keeps_to_the_grant_the_depth_and_the_rate() {
    let emits = |name: &'static str| {
        Made::new(move |event: Arc<Event>, handle: Handle| async move {
            match handle.emit(Some(&event), Draft::new(name, event.data.clone())).await {
                Ok(emitted) => Ok(json!({ "queued": emitted.queued })),
                Err(why) => Err(Fault::Refused { message: why.to_string(), code: why.code().map(str::to_owned) }),
            }
        })
    };
    let mut again = registration("again", &["again"], &emits("again:x"));
    again.capabilities.emits = patterns(&["again:*"]);
    let mut wild = registration("wild", &["wild"], &emits("state:set"));
    wild.capabilities.emits = patterns(&["wild:*"]);
    let options = Options { plugin_events_per_second: 30.0, chain_depth_max: 3, ..Options::default() };
    let bus = bus_with(options, vec![again, wild]);
    let refused = ask(&bus, "wild:x").await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.to_string().as_str()),
        (Some("FORBIDDEN"), "plugin 'wild' may not emit 'state:set': it is granted wild:*")
    );
    assert_eq!(ask(&bus, "again:x").await.unwrap()["queued"], 1);
    // The chain ends by itself: the asked one, and three emitted.
    until("the chain has ended", || bus.plugins()[0].counts.events == 4 && bus.plugins()[0].queue_depth == 0).await;
    assert_eq!(bus.plugins()[0].counts.refusals, 1);
    let mut codes = Vec::new();
    for _ in 0..40 {
        codes.push(ask(&bus, "again:x").await.map_or_else(|why| why.code().unwrap().to_owned(), |_| String::new()));
    }
    assert!(codes.contains(&"RATE_LIMITED".to_owned()), "{codes:?}");
}

#[tokio::test]
async fn a_plugin_is_replaced_under_load_and_ends_what_it_began() {
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, goes) = (Arc::clone(&begun), Arc::clone(&go));
    let old = Made::new(move |_, _| {
        let (begins, goes) = (Arc::clone(&begins), Arc::clone(&goes));
        async move {
            begins.notify_one();
            goes.notified().await;
            Ok(json!("old"))
        }
    });
    let bus = bus(vec![registration("p", &["p"], &old)]);
    let waiting = tokio::spawn({
        let bus = bus.clone();
        async move { ask(&bus, "p:x").await }
    });
    begun.notified().await;
    bus.replace(registration("p", &["p"], &Made::new(|_, _| async { Ok(json!("new")) }))).await.unwrap();
    assert_eq!(ask(&bus, "p:x").await.unwrap()["result"], "new");
    assert_eq!(old.ended.load(Ordering::SeqCst), 0, "it is not shut down while an event is with it");
    go.notify_one();
    assert_eq!(waiting.await.unwrap().unwrap()["result"], "old");
    until("the old one was shut down", || old.ended.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_replacement_that_does_not_start_leaves_the_old_one() {
    struct Stillborn;
    impl Factory for Stillborn {
        fn make(&self) -> BoxFuture<'_, Result<Arc<dyn Plugin>, Fault>> {
            Box::pin(std::future::ready(Err(Fault::Broken("no such file".to_owned()))))
        }
    }
    let bus = bus(vec![registration("p", &["p"], &Made::echo()), registration("q", &["q"], &Made::echo())]);
    let next = Registration { factory: Arc::new(Stillborn), ..registration("p", &["p"], &Made::echo()) };
    let why = bus.replace(next).await.unwrap_err().to_string();
    assert!(why.contains("it did not start: no such file"), "{why}");
    let thief = Made::echo();
    let why = bus.replace(registration("p", &["q"], &thief)).await.unwrap_err().to_string();
    assert!(why.contains("both own namespace 'q'"), "{why}");
    until("the thief was shut down", || thief.ended.load(Ordering::SeqCst) == 1).await;
    ask(&bus, "p:x").await.unwrap();
    assert_eq!(bus.unregister("r").unwrap_err(), RegisterError::Unknown("r".to_owned()));
    bus.unregister("p").unwrap();
    assert_eq!(code(ask(&bus, "p:x").await), "NO_HANDLER");
}

#[tokio::test]
async fn a_full_queue_turns_away_and_says_so() {
    let go = Arc::new(Notify::new());
    let goes = Arc::clone(&go);
    let slow = Made::new(move |_, _| {
        let goes = Arc::clone(&goes);
        async move {
            goes.notified().await;
            Ok(json!({}))
        }
    });
    let bus =
        bus_with(Options { queue_events_max: 2, ..Options::default() }, vec![registration("slow", &["s"], &slow)]);
    let asked: Vec<_> = (0..3)
        .map(|_| {
            let bus = bus.clone();
            tokio::spawn(async move { ask(&bus, "s:x").await })
        })
        .collect();
    until("one was turned away", || bus.plugins()[0].counts.turned_away == 1).await;
    go.notify_one();
    until("one was answered", || asked.iter().filter(|asked| asked.is_finished()).count() == 2).await;
    go.notify_one();
    let mut codes = Vec::new();
    for asked in asked {
        codes.push(asked.await.unwrap().map_or_else(|why| why.code().unwrap().to_owned(), |_| "answered".to_owned()));
    }
    codes.sort();
    assert_eq!(codes, ["RATE_LIMITED", "answered", "answered"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_crashes_all_the_time_loses_no_event_of_another() {
    let ear = Made::echo();
    let mut listener = registration("ear", &[], &ear);
    listener.capabilities.subscribes = patterns(&["e:*"]);
    let mut crashing = registration("crash", &["c"], &Made::new(|_, _| async { panic!("always") }));
    crashing.capabilities.subscribes = patterns(&["e:*"]);
    let options = Options { backoff_first: Duration::ZERO, backoff_max: Duration::ZERO, ..Options::default() };
    let bus = bus_with(options, vec![registration("echo", &["e"], &Made::echo()), listener, crashing]);
    for _ in 0..5_000 {
        ask(&bus, "e:x").await.unwrap();
        assert_eq!(code(ask(&bus, "c:x").await), "PLUGIN_FAILED");
        // Its own mailbox is not to overflow: that would be its loss alone, and another test's matter.
        if bus.plugins()[1].queue_depth > 1_000 {
            until("it caught up", || bus.plugins()[1].queue_depth < 10).await;
        }
    }
    until("all were heard", || ear.heard.lock().unwrap().len() == 5_000).await;
}
