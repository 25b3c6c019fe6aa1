//! Two whole hosts, `gavel serve`, that are killed in the middle: state that is set on one is set on the other.

use crate::server::{Nats, until};
use gavel_tests::{Config, PATIENCE, Server, Site};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

/// A host of this name, with an empty configuration until its peers are known.
fn site(name: &str) -> Site {
    let site = Site::new(&Config::open());
    std::fs::create_dir_all(site.data()).unwrap();
    configure(&site, &json!({ "url": "nats://127.0.0.1:9", "host": name, "publish": ["none:*"] }));
    // The first start makes its key.
    let _ = site.serve().stop();
    site
}

fn configure(site: &Site, nats: &Value) {
    let sockets = site.path().join("s");
    let bus = json!({ "transports": { "unix": { "socket_dir": sockets } }, "nats": nats });
    site.configure(&Config::open().with("bus", bus));
}

fn public_key(site: &Site) -> String {
    std::fs::read_to_string(site.data().join("bus").join("nats.pub")).unwrap().trim().to_owned()
}

/// Ask the host something on its socket.
fn ask(site: &Site, event: &str, data: &Value) -> Value {
    let mut stream = UnixStream::connect(site.path().join("s").join("events.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("{}\n", json!({ "event": event, "data": data })).as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

fn set(site: &Site, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let told =
            ask(site, "state:set", &json!({ "namespace": "shared", "key": format!("k{number}"), "value": number }));
        assert_eq!(told["status"], "set", "{told}");
    }
}

fn keys(site: &Site) -> u64 {
    ask(site, "state:list", &json!({ "namespace": "shared", "pattern": "k*" }))["count"].as_u64().unwrap()
}

/// How often each key was set, by the ledger of the host.
fn changes(server: &Server) -> BTreeMap<String, usize> {
    let page = server.get("/kernels/bus/records?kind=decision&tool=bus.state&limit=1000").expect(200);
    let mut changes = BTreeMap::new();
    for record in page["records"].as_array().unwrap() {
        let text = record.to_string();
        let key = text.split_once("\"key\":\"").unwrap_or_else(|| panic!("no key: {text}")).1;
        *changes.entry(key.split('"').next().unwrap().to_owned()).or_default() += 1;
    }
    changes
}

#[test]
fn state_that_is_set_on_one_host_is_set_on_the_other_though_all_are_killed() {
    let Some(mut nats) = Nats::start() else { return };
    let (a, b) = (site("a"), site("b"));
    let (key_a, key_b) = (public_key(&a), public_key(&b));
    let limits = json!({ "reconnect_max_ms": 200, "ack_wait_s": 2 });
    for (site, name, peer, key) in [(&a, "a", "b", key_b), (&b, "b", "a", key_a)] {
        configure(
            site,
            &json!({
                "url": nats.url(), "host": name, "publish": ["state:set"], "accept": ["state:set"],
                "peers": [{ "name": peer, "key": key }], "limits": limits,
            }),
        );
    }
    let (server_a, server_b) = (a.serve(), b.serve());

    set(&a, 0..40);
    until("b has some", || keys(&b) >= 20);
    server_b.kill();
    set(&a, 40..80);
    nats.kill();
    set(&a, 80..120);
    nats.run();
    let server_b = b.serve();
    until("b has all", || keys(&b) == 120);
    // What is in the outbox outlives its host: here, all of it, since there is no server.
    nats.kill();
    set(&a, 120..130);
    let _ = server_a.stop();
    nats.run();
    let server_a = a.serve();
    set(&b, 130..140);
    until("b has what waited", || keys(&b) == 140);
    until("a has b's", || keys(&a) == 140);
    let told = ask(&b, "state:get", &json!({ "namespace": "shared", "key": "k125" }));
    assert_eq!(told["value"], 125);
    let counts = &server_b.get("/bus/status").expect(200)["nats"];
    assert_eq!(
        (&counts["connected"], &counts["missed"], &counts["refused"]),
        (&json!(1), &json!(0), &json!(0)),
        "{counts}"
    );
    // One kill of b: the one event that it was handling may be handled again.
    let changes = changes(&server_b);
    let again: Vec<_> = changes.iter().filter(|(_, count)| **count != 1).collect();
    assert!(changes.len() == 140 && again.len() <= 1, "{} keys, again: {again:?}", changes.len());
    let _ = (server_a.stop(), server_b.stop());
}
