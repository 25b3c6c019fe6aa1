//! A fleet of real processes: a small HTTP server in Python on the socket that it is handed.

use futures_util::future::BoxFuture;
use gavel_fleet::table::Tier;
use gavel_fleet::{Component, Fleet, Issue, Limits, News, Order, Parts, Place, Plan, Program, Status, Witness};
use std::collections::BTreeMap;
use std::net::TcpListener;
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
    let limits = Limits { backoff_first: Duration::from_millis(1), restarts_max: 3, ..Limits::default() };
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
    tokio::spawn(guardian.watch(|| {}));
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
    let stage = boot(vec![component("a", 0, &[]), component("b", 0, &["a"])], 48_100, SERVER).await;
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
    let stage = boot(vec![component("a", port, &[])], 48_200, SERVER).await;
    stage.until("a", |entry| entry.status == Status::Healthy).await;
    let entry = stage.fleet.entry("a").unwrap();
    assert!((48_200..48_210).contains(&entry.port), "{entry:?}");
    let told = serde_json::to_string(&*stage.fleet.history(Some("a"))[0]).unwrap();
    assert!(told.contains("left alone") && told.contains("rebind_port"), "{told}");
    assert_eq!(gavel_fleet::of_port(port)[0].pid, Some(foreign.id()));
    stage.fleet.stop().await;
    foreign.kill().unwrap();
    foreign.wait().unwrap();
}

#[tokio::test]
async fn what_crashes_at_every_start_is_given_up() {
    let stage = boot(vec![component("a", 0, &[])], 48_300, "raise SystemExit(3)").await;
    stage.until("a", |entry| entry.status == Status::Failed).await;
    let entry = stage.fleet.entry("a").unwrap();
    assert!(entry.detail.contains("given up after 3 restarts"), "{entry:?}");
    let order = Order { issue: Issue::ProcessCrashed, severity: "low".into(), by: "me".into(), action: None };
    assert!(!stage.fleet.heal("a", order).await.unwrap().overall_success);
    stage.fleet.stop().await;
}
