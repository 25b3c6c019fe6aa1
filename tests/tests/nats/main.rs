//! The bridge between hosts, with a real NATS server that is killed and started again.
//!
//! Here belongs what goes from one host's bus to another's: that nothing is lost, nothing handled twice, all in order,
//! nobody another; what happens while the server or a host is away. The hosts are buses in this process, each with a
//! runtime of its own that can be dropped at any moment; `processes` has two whole hosts.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "without a server the tests say that they are passed over")]

mod node;
mod processes;
mod server;

use gavel_bus::{Draft, Fault, Sender};
use node::{Node, Place, plain};
use serde_json::json;
use server::Nats;
use std::sync::Arc;

/// Two hosts that know each other, both running.
fn two(nats: &Nats) -> [(Place, Node); 2] {
    let (a, b) = (Place::new("a"), Place::new("b"));
    let (config_a, config_b) = (a.config(nats, &[&b]), b.config(nats, &[&a]));
    let (node_a, node_b) = (a.run(config_a), b.run(config_b));
    [(a, node_a), (b, node_b)]
}

#[test]
fn every_event_comes_once_and_in_order_though_the_server_is_killed_under_load() {
    const EVENTS: u64 = 3_000;
    let Some(mut nats) = Nats::start() else { return };
    let [(_a, node_a), (_b, node_b)] = two(&nats);
    std::thread::scope(|scope| {
        for node in [&node_a, &node_b] {
            scope.spawn(|| node.send("notes:new", 0..EVENTS));
        }
        for at in [200, 900] {
            node_b.wait_for("peer:a", at);
            nats.kill();
            nats.run();
        }
    });
    for (node, from) in [(&node_b, "peer:a"), (&node_a, "peer:b")] {
        node.wait_for(from, usize::try_from(EVENTS).unwrap());
        node.wait_for_counts("all is acknowledged", |counts| counts.outbox_depth == 0);
        assert_eq!(node.numbers(from), (0..EVENTS).collect::<Vec<_>>());
        let counts = node.counts();
        assert_eq!((counts.handled, counts.missed, counts.failed, counts.refused), (EVENTS, 0, 0, 0), "{counts:?}");
        assert_eq!((counts.queued, counts.not_kept, counts.connected), (EVENTS, 0, 1), "{counts:?}");
        assert!(counts.connections >= 2, "{counts:?}");
    }
}

#[test]
fn what_came_from_a_peer_does_not_go_back_and_a_circle_ends() {
    let Some(nats) = Nats::start() else { return };
    let (a, b) = (Place::new("a"), Place::new("b"));
    let (config_a, config_b) = (a.config(&nats, &[&b]), b.config(&nats, &[&a]));
    // Each answers an event of the other with one of its own: for ever, if nothing ended it.
    let echo = |from: &'static str| -> Arc<_> {
        Arc::new(move |event: Arc<gavel_bus::Event>, handle: gavel_bus::Handle, _| {
            let answer: futures_util::future::BoxFuture<'static, _> = Box::pin(async move {
                if event.sender == Sender::Peer(from.into()) {
                    let draft = Draft::new("notes:again", event.data.clone());
                    handle.emit(Some(&event), draft).await.map_err(|why| Fault::refused(why.to_string()))?;
                }
                Ok(json!({}))
            });
            answer
        })
    };
    let (node_a, node_b) = (a.run_answering(config_a, echo("b")), b.run_answering(config_b, echo("a")));
    node_a.send("notes:new", [1]);
    node_b.wait_for_counts("the circle ends", |counts| counts.not_sent == 1);
    // There (1), back (2), there again (3, as often as it may), and no more.
    assert_eq!((node_b.numbers("peer:a"), node_a.numbers("peer:b")), (vec![1, 1], vec![1]));
    assert_eq!((node_a.counts().published, node_b.counts().published), (2, 1));
    assert_eq!(node_b.handled.lock().unwrap()[1].1, "notes:again");
}

#[test]
fn a_message_of_another_key_or_none_is_refused_and_stops_nothing() {
    let Some(nats) = Nats::start() else { return };
    let (a, b, forger) = (Place::new("a"), Place::new("b"), Place::new("a"));
    let node_b = b.run(b.config(&nats, &[&a]));
    node_b.wait_for_counts("the stream is there", |counts| counts.connected == 1);
    // A host that says it is `a`, and is not.
    let forging = forger.run(forger.config(&nats, &[]));
    forging.send("notes:new", [1]);
    node_b.wait_for_counts("the forged one is refused", |counts| counts.refused == 1);
    // Anybody who reaches the server.
    let signature = format!("Gavel-Signature: {}\r\n", "0".repeat(128));
    nats.publish("gavel.bus.a.notes.new", "", "{}");
    nats.publish("gavel.bus.a.notes.new", &signature, "no JSON");
    node_b.wait_for_counts("these too", |counts| counts.refused == 3);
    let node_a = a.run(a.config(&nats, &[]));
    node_a.send("notes:new", [2]);
    node_b.wait_for("peer:a", 1);
    assert_eq!((node_b.numbers("peer:a"), node_b.counts().acked >= 3), (vec![2], true));
}

#[test]
fn a_host_that_is_no_peer_is_not_read_and_told_of() {
    let Some(nats) = Nats::start() else { return };
    let (a, b, stranger) = (Place::new("a"), Place::new("b"), Place::new("c"));
    let node = stranger.run(stranger.config(&nats, &[]));
    node.send("notes:new", [1]);
    node.wait_for_counts("it is published", |counts| counts.published == 1);
    let (node_a, node_b) = (a.run(a.config(&nats, &[])), b.run(b.config(&nats, &[&a])));
    node_a.send("notes:new", [2]);
    node_b.wait_for_counts("it is told of", |counts| counts.strangers == 1 && counts.handled == 1);
    assert_eq!((node_b.numbers("peer:c"), node_b.numbers("peer:a")), (vec![], vec![2]));
}

#[test]
fn events_wait_for_a_server_that_is_not_there_yet_and_one_too_many_is_counted() {
    let Some(mut nats) = Nats::place() else { return };
    let (a, b) = (Place::new("a"), Place::new("b"));
    let mut config = a.config(&nats, &[]);
    config["limits"]["outbox_max_events"] = json!(5);
    let (node_a, node_b) = (a.run(config), b.run(b.config(&nats, &[&a])));
    node_a.send("notes:new", 0..8);
    node_a.wait_for_counts("the outbox is full", |counts| counts.not_kept == 3);
    let counts = node_a.counts();
    assert_eq!((counts.connected, counts.outbox_depth, counts.queued), (0, 5, 5), "{counts:?}");
    nats.run();
    node_b.wait_for("peer:a", 5);
    node_a.wait_for_counts("the outbox is empty", |counts| counts.outbox_depth == 0 && counts.outbox_bytes == 0);
    node_a.send("notes:new", [9]);
    node_b.wait_for("peer:a", 6);
    assert_eq!(node_b.numbers("peer:a"), [0, 1, 2, 3, 4, 9]);
}

#[test]
fn hosts_that_are_killed_go_on_where_they_were() {
    let Some(mut nats) = Nats::place() else { return };
    let (a, b) = (Place::new("a"), Place::new("b"));
    let (config_a, config_b) = (a.config(&nats, &[]), b.config(&nats, &[&a]));
    let node_a = a.run(config_a.clone());
    node_a.send("notes:new", 0..50);
    node_a.wait_for_counts("all are in the outbox", |counts| counts.outbox_depth == 50);
    drop(node_a);
    nats.run();
    let node_a = a.run(config_a);
    let node_b = b.run(config_b.clone());
    node_b.wait_for("peer:a", 50);
    node_b.wait_for_counts("all are acknowledged", |counts| counts.acked == 50);
    let mut all = node_b.numbers("peer:a");
    drop(node_b);
    // Nobody is there to hear these.
    node_a.send("notes:new", 50..100);
    let node_b = b.run(config_b.clone());
    node_b.wait_for("peer:a", 50);
    all.extend(node_b.numbers("peer:a"));
    assert_eq!(all, (0..100).collect::<Vec<_>>());
    // Without the consumer that the server knows it by, the host still knows what it has handled.
    node_b.stop();
    let mut other_consumer = config_b;
    other_consumer["consumer"] = json!("other");
    let node_b = b.run(other_consumer);
    node_a.send("notes:new", [100]);
    node_b.wait_for("peer:a", 1);
    let counts = node_b.counts();
    assert_eq!((node_b.numbers("peer:a"), counts.duplicates, counts.handled), (vec![100], 100, 1), "{counts:?}");
    node_a.stop();
}

#[test]
fn an_event_is_tried_again_in_its_place_and_given_up_after_the_last_attempt() {
    let Some(nats) = Nats::start() else { return };
    let (a, b) = (Place::new("a"), Place::new("b"));
    let mut config = b.config(&nats, &[&a]);
    config["limits"]["max_attempts"] = json!(3);
    // The first event breaks the plugin twice; the second, `7`, for ever.
    let node_b = b.run_answering(
        config,
        Arc::new(|event, _, before| {
            let breaks = before < 2 || event.data == 7;
            Box::pin(std::future::ready(if breaks { Err(Fault::Broken("no".to_owned())) } else { Ok(json!({})) }))
        }),
    );
    let node_a = a.run(a.config(&nats, &[]));
    node_a.send("notes:new", [1, 7, 2]);
    node_b.wait_for("peer:a", 2);
    let counts = node_b.counts();
    assert_eq!((node_b.numbers("peer:a"), counts.failed), (vec![1, 2], 1), "{counts:?}");
    assert!(counts.retried >= 4 && counts.handled == 2, "{counts:?}");
}

#[test]
fn what_the_stream_has_lost_is_counted_as_missed() {
    let Some(nats) = Nats::start() else { return };
    let (a, b) = (Place::new("a"), Place::new("b"));
    let node_a = a.run(a.config(&nats, &[]));
    node_a.send("notes:new", 0..10);
    node_a.wait_for_counts("all are published", |counts| counts.published == 10 && counts.outbox_depth == 0);
    nats.purge("GAVEL");
    node_a.send("notes:new", 10..15);
    let node_b = b.run(b.config(&nats, &[&a]));
    node_b.wait_for("peer:a", 5);
    assert_eq!((node_b.numbers("peer:a"), node_b.counts().missed), ((10..15).collect(), 10));
}

#[test]
fn only_events_that_are_named_go_and_come_and_a_large_one_stops_nothing() {
    let Some(nats) = Nats::start() else { return };
    let (a, b) = (Place::new("a"), Place::new("b"));
    let (mut config_a, mut config_b) = (a.config(&nats, &[]), b.config(&nats, &[&a]));
    config_a["publish"] = json!(["notes:new", "notes:other"]);
    config_a["limits"]["max_message_bytes"] = json!(1_024);
    config_b["accept"] = json!(["notes:new"]);
    let (node_a, node_b) = (a.run(config_a), b.run(config_b));
    node_a.send("notes:private", [1]);
    node_a.send("notes:other", [2]);
    let large = Draft::new("notes:new", json!("x".repeat(2_000)));
    tokio::runtime::Runtime::new().unwrap().block_on(node_a.bus.dispatch(Sender::Host, large)).unwrap();
    node_a.send("notes:new", [3]);
    node_b.wait_for("peer:a", 1);
    let counts = node_b.counts();
    assert_eq!((node_b.numbers("peer:a"), counts.received, counts.unwanted), (vec![3], 2, 1), "{counts:?}");
    assert_eq!((node_a.counts().published, node_a.counts().not_sent), (2, 1));
}

#[test]
fn a_host_signs_in_with_a_password_that_only_it_can_read() {
    use std::os::unix::fs::PermissionsExt;
    let Some(nats) = Nats::place() else { return };
    let mut nats = nats.with(&["--user", "gavel", "--pass", "secret"]);
    nats.run();
    let a = Place::new("a");
    let mut config = a.config(&nats, &[]);
    let file = a.data().join("password");
    (config["user"], config["password_file"]) = (json!("gavel"), json!(file));
    let started = |password: &str, mode: u32| {
        std::fs::write(&file, password).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let file = serde_json::from_value(config.clone()).unwrap();
        let bus = gavel_bus::Bus::new(gavel_bus::Options::default(), || 0);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime
            .block_on(gavel::bus::nats::Bridge::start(file, &bus, &a.data()))
            .map(|_| ())
            .map_err(|why| why.to_string())
    };
    let told = started("secret", 0o644).unwrap_err();
    assert!(told.contains("others may read this secret (mode 644)"), "{told}");
    started("secret\n", 0o600).unwrap();
    let node = a.run_answering(config.clone(), plain());
    node.send("notes:new", [1]);
    node.wait_for_counts("it is published", |counts| counts.published == 1);
    drop(node);
    std::fs::write(&file, "wrong").unwrap();
    let node = a.run(config);
    node.send("notes:new", [2]);
    node.wait_for_counts("it waits", |counts| counts.outbox_depth == 1);
    assert_eq!(node.counts().connected, 0);
}

#[test]
fn a_server_with_tls_is_believed_by_its_authority() {
    let Some(nats) = Nats::place() else { return };
    let tls = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls");
    let (certificate, key) = (format!("{tls}/server.pem"), format!("{tls}/server.key"));
    let mut nats = nats.with(&["--tls", "--tlscert", &certificate, "--tlskey", &key]);
    nats.run();
    let a = Place::new("a");
    let mut config = a.config(&nats, &[]);
    config["tls_ca"] = json!(format!("{tls}/ca.pem"));
    let node = a.run(config.clone());
    node.send("notes:new", [1]);
    node.wait_for_counts("it is published", |counts| counts.published == 1);
}
