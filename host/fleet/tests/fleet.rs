//! A fleet of real processes: a small HTTP server in Python on the socket that it is handed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use futures_util::future::BoxFuture;
use gavel_fleet::table::Tier;
use gavel_fleet::{
    Body, Component, Fleet, Issue, Limits, News, Order, Parts, Place, Plan, Playbook, Program, Proxy, ProxyError,
    Status, Witness,
};
use http_body_util::BodyExt;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SERVER: &str = "
import os, socket
listening = socket.socket(fileno=0)
listening.setblocking(True)
while True:
    client, _ = listening.accept()
    client.recv(65536)
    body = str(os.getpid()).encode()
    client.sendall(b'HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n' % len(body) + body)
    client.close()
";

/// It takes its time to answer, ends at once when it is told to, whatever it is doing, and streams without an end.
const SLOW: &str = "
import socket, threading, time
listening = socket.socket(fileno=0)
listening.setblocking(True)
def answer(client):
    asked = client.recv(65536)
    if b'/stream' in asked:
        client.sendall(b'HTTP/1.1 200 OK\\r\\n\\r\\nfirst')
        threading.Event().wait()
    if b'/hang' in asked:
        threading.Event().wait()
    if b'/slow' in asked:
        time.sleep(0.03)
    client.sendall(b'HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: 2\\r\\n\\r\\nok')
    client.close()
while True:
    threading.Thread(target=answer, args=(listening.accept()[0],)).start()
";

/// It keeps connections, and ends when it is asked for `/crash`.
const CRASHING: &str = "
import os, socket, threading
listening = socket.socket(fileno=0)
listening.setblocking(True)
def answer(client):
    while asked := client.recv(65536):
        if b'/crash' in asked:
            os._exit(3)
        if b'/close' in asked:
            break
        client.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok')
    client.close()
while True:
    threading.Thread(target=answer, args=(listening.accept()[0],)).start()
";

#[derive(Default)]
struct Kept(Mutex<Vec<News>>);

impl Witness for Kept {
    fn record(&self, news: News) -> BoxFuture<'_, ()> {
        self.0.lock().unwrap().push(news);
        Box::pin(std::future::ready(()))
    }
}

struct Stage {
    fleet: Fleet,
    kept: Arc<Kept>,
    _folder: tempfile::TempDir,
}

fn component(name: &str, port: u16, needs: &[&str]) -> Component {
    let needs = needs.iter().map(|need| (*need).to_owned()).collect();
    Component {
        name: name.to_owned(),
        tier: Tier::Core,
        port,
        needs,
        after: Vec::new(),
        required: true,
        place: Place::Process,
        health_path: "/health".into(),
    }
}

async fn boot(components: Vec<Component>, first_port: u16, script: &'static str) -> Stage {
    let folder = tempfile::tempdir().unwrap();
    let kept = Arc::new(Kept::default());
    let limits = Limits {
        backoff_first: Duration::from_millis(1),
        restarts_max: 3,
        proxy_in_flight_max: 16,
        ..Limits::default()
    };
    let program = move |_: &Component| Program {
        path: "python3".into(),
        args: vec!["-c".to_owned(), script.to_owned()],
        env: BTreeMap::new(),
    };
    let (fleet, guardian) = Fleet::new(Parts {
        plan: Plan::new(components, first_port, limits).unwrap(),
        programs: Box::new(program),
        lines: Arc::new(|_, _| {}),
        witness: kept.clone(),
        processes_file: folder.path().join("processes.json"),
    })
    .unwrap();
    tokio::spawn(guardian.watch(None, || {}));
    fleet.boot().await;
    Stage { fleet, kept, _folder: folder }
}

impl Stage {
    async fn until(&self, name: &str, what: impl Fn(&gavel_fleet::Entry) -> bool) {
        for _ in 0..3_000 {
            if what(&self.fleet.entry(name).unwrap()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it never came: {:?}", self.fleet.entry(name));
    }
}

#[tokio::test]
async fn a_killed_process_is_back_on_its_port_and_the_healing_is_recorded() {
    let stage = boot(vec![component("a", 0, &[]), component("b", 0, &["a"])], 18_100, SERVER).await;
    let before = stage.fleet.entry("a").unwrap();
    assert_eq!(before.status, Status::Healthy, "{before:?}");
    assert_eq!(stage.fleet.entry("b").unwrap().status, Status::Healthy);
    let killed = std::process::Command::new("kill").args(["-9", &before.pid.unwrap().to_string()]).status();
    assert!(killed.unwrap().success());
    stage.until("a", |entry| entry.status == Status::Healthy && entry.pid != before.pid).await;
    let after = stage.fleet.entry("a").unwrap();
    assert_eq!((after.port, after.restarts), (before.port, 1));
    let healed =
        stage.kept.0.lock().unwrap().iter().any(|news| matches!(news, News::Healed(one) if one.overall_success));
    assert!(healed);
    stage.fleet.stop().await;
    assert!(gavel_fleet::of_port(after.port).is_empty());
}

#[tokio::test]
async fn a_port_of_another_is_left_alone_and_a_spare_one_taken() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut foreign = std::process::Command::new("sleep")
        .arg("600")
        .stdin(std::process::Stdio::from(std::os::fd::OwnedFd::from(listener)))
        .spawn()
        .unwrap();
    let stage = boot(vec![component("a", port, &[])], 18_200, SERVER).await;
    stage.until("a", |entry| entry.status == Status::Healthy).await;
    let entry = stage.fleet.entry("a").unwrap();
    assert!((18_200..18_210).contains(&entry.port), "{entry:?}");
    let told = serde_json::to_string(&*stage.fleet.history(Some("a"))[0]).unwrap();
    assert!(told.contains("left alone") && told.contains("rebind_port"), "{told}");
    assert_eq!(gavel_fleet::of_port(port)[0].pid, Some(foreign.id()));
    stage.fleet.stop().await;
    foreign.kill().unwrap();
    foreign.wait().unwrap();
}

#[tokio::test]
async fn what_crashes_at_every_start_is_given_up() {
    let stage = boot(vec![component("a", 0, &[])], 18_300, "raise SystemExit(3)").await;
    stage.until("a", |entry| entry.status == Status::Failed).await;
    let entry = stage.fleet.entry("a").unwrap();
    assert!(entry.detail.contains("given up after 3 restarts"), "{entry:?}");
    let order = Order { issue: Issue::ProcessCrashed, severity: "low".into(), by: "me".into(), action: None };
    assert!(!stage.fleet.heal("a", order).await.unwrap().overall_success);
    stage.fleet.stop().await;
}

fn request(method: &str) -> hyper::Request<Body> {
    let body = http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync();
    hyper::Request::builder().method(method).body(body).unwrap()
}

#[tokio::test]
async fn no_request_falls_between_two_lives_of_a_component() {
    let stage = boot(vec![component("a", 0, &[])], 0, SLOW).await;
    let proxy = Proxy::new(stage.fleet.clone(), Duration::from_secs(5));
    let streams = proxy.forward("a", "/stream", request("GET")).await.unwrap();
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let senders: Vec<_> = (0..8)
        .map(|_| {
            let (proxy, stop, answered) = (proxy.clone(), Arc::clone(&stop), Arc::clone(&answered));
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    assert_eq!(proxy.forward("a", "/slow", request("POST")).await.unwrap().status(), 200);
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let mut ports = vec![stage.fleet.entry("a").unwrap().port];
    for _ in 0..3 {
        let before = answered.load(Ordering::SeqCst);
        while answered.load(Ordering::SeqCst) < before + 8 {
            tokio::task::yield_now().await;
        }
        let restarted = stage.fleet.restart_one("a").await.unwrap();
        assert!(restarted.iter().all(|step| step.ok && !step.detail.contains("no answer")), "{restarted:?}");
        let issue = Issue::PortConflict;
        let order = Order { issue, severity: "low".into(), by: "me".into(), action: Some(Playbook::RebindPort) };
        let moved = stage.fleet.heal("a", order).await.unwrap();
        assert!(moved.overall_success && !format!("{moved:?}").contains("no answer"), "{moved:?}");
        ports.push(stage.fleet.entry("a").unwrap().port);
    }
    stop.store(true, Ordering::SeqCst);
    for sender in senders {
        sender.await.unwrap();
    }
    assert!(ports.windows(2).all(|pair| pair[0] != pair[1]), "{ports:?}");
    drop(streams);
    stage.fleet.stop().await;
}

#[tokio::test]
async fn what_a_process_dies_of_is_given_to_one_other_at_most() {
    let stage = boot(vec![component("a", 0, &[])], 0, CRASHING).await;
    let proxy = Proxy::new(stage.fleet.clone(), Duration::from_secs(5));
    let broke_off = |answer: Result<_, ProxyError>| matches!(answer, Err(ProxyError::BrokeOff { .. }));
    // On a new connection, whose process is seen to end.
    assert!(broke_off(proxy.forward("a", "/crash", request("GET")).await));
    stage.until("a", |entry| entry.status == Status::Healthy && entry.restarts == 2).await;
    // What may change something is never repeated.
    assert!(broke_off(proxy.forward("a", "/crash", request("POST")).await));
    stage.until("a", |entry| entry.status == Status::Healthy && entry.restarts == 3).await;
    assert_eq!(proxy.forward("a", "/", request("GET")).await.unwrap().status(), 200);
    // Closed without an answer by one that lives: nothing says that it would go better again.
    let pid = stage.fleet.entry("a").unwrap().pid;
    let fresh = Proxy::new(stage.fleet.clone(), Duration::from_secs(5));
    assert!(broke_off(fresh.forward("a", "/close", request("GET")).await));
    assert_eq!(stage.fleet.entry("a").unwrap().pid, pid);
    stage.fleet.stop().await;
}

#[tokio::test]
async fn a_component_that_does_not_answer_keeps_no_more_requests_waiting_than_may_be() {
    let stage = boot(vec![component("a", 0, &[])], 0, SLOW).await;
    let proxy = Proxy::new(stage.fleet.clone(), Duration::from_secs(5));
    let hanging: Vec<_> = (0..16)
        .map(|_| {
            let proxy = proxy.clone();
            tokio::spawn(async move {
                // The one that looks below may have had the last place.
                while let Err(ProxyError::Full { .. }) = proxy.forward("a", "/hang", request("POST")).await {
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let most = 16;
    let full = ProxyError::Full { kernel: "a".to_owned(), most };
    loop {
        match proxy.forward("a", "/slow", request("POST")).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(why) => {
                assert_eq!(why, full);
                break;
            }
        }
    }
    for one in hanging {
        one.abort();
        assert!(one.await.is_err());
    }
    assert_eq!(proxy.forward("a", "/slow", request("POST")).await.unwrap().status(), 200);
    stage.fleet.stop().await;
}

#[tokio::test]
async fn a_fleet_that_is_about_to_stop_heals_nothing_and_stops() {
    let stage = boot(vec![component("a", 0, &[]), component("b", 0, &["a"])], 0, SERVER).await;
    let proxy = Proxy::new(stage.fleet.clone(), Duration::from_secs(5));
    let (killed, other) = (stage.fleet.entry("a").unwrap(), stage.fleet.entry("b").unwrap());
    stage.fleet.quiesce();
    assert_eq!(proxy.forward("b", "/", request("GET")).await.unwrap().status(), 200, "what is in flight is answered");
    let done = std::process::Command::new("kill").args(["-9", &killed.pid.unwrap().to_string()]).status();
    assert!(done.unwrap().success());
    // Nobody waits for the next life of one that has none.
    while !matches!(proxy.forward("a", "/", request("POST")).await, Err(ProxyError::Down { .. })) {}
    assert_eq!(stage.fleet.entry("a").unwrap().restarts, 0);
    stage.fleet.stop().await;
    assert!(gavel_fleet::Identity::of(other.pid.unwrap()).is_none_or(|one| !one.lives()));
    let healed = stage.kept.0.lock().unwrap().iter().any(|news| matches!(news, News::Healed(_)));
    assert!(!healed);
}
