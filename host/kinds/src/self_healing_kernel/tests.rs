//! The self-healing kernel through its router, over a Guardian that is played, and over kills.

use super::KIND;
use crate::trial::{Hands, Play, Trial, live, main_api, until};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

const NOW: u64 = 1_700_000_000_000;

/// A fleet with one kernel, `audit_trail`.
#[derive(Clone, Default)]
struct Fleet(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    well: bool,
    pid: u64,
    pid_unknown: bool,
    /// Whether it is well after this playbook.
    helps: Option<&'static str>,
    advice: Vec<&'static str>,
    orders: Vec<Value>,
    alerts: Vec<Value>,
    refuses_alerts: bool,
    events: Vec<Value>,
    /// How long the bus waits for a message, at most.
    wait_ms_max: usize,
}

impl State {
    /// The topic of the message bus, with the limits that it has.
    fn read(&self, what: &str) -> (u16, Value) {
        let asked = |name: &str| {
            let (_, query) = what.split_once('?')?;
            let found = query.split('&').find_map(|one| one.strip_prefix(name)?.strip_prefix('='))?;
            Some(found.parse::<usize>().unwrap())
        };
        let (from, end) = (asked("from").unwrap_or(0), self.events.len());
        if asked("wait_ms").unwrap_or(0) > self.wait_ms_max || asked("limit").is_some_and(|limit| limit > 100) {
            return (400, json!({"error": "more than is given at a time"}));
        }
        if from > end {
            return (422, json!({"error": format!("from={from} is after the end")}));
        }
        (200, json!({"messages": self.events[from..], "next": end}))
    }
}

impl Fleet {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn play(&self) -> Play {
        let this = self.clone();
        Arc::new(move |what, body| {
            let mut state = this.state();
            let (status, answer) = match what {
                "GET /network-healer/recommendations/audit_trail"
                | "GET /network-healer/recommendations/message_bus" => {
                    (200, json!({"recommendations": state.advice, "diagnosis": {"listening": true}}))
                }
                "GET /kernel-ports/port/audit_trail" | "GET /kernel-ports/port/message_bus" => {
                    let pid = (!state.pid_unknown).then_some(state.pid);
                    (200, json!({"health_url": "http://127.0.0.1:8115/readyz", "pid": pid}))
                }
                "GET /audit_trail/readyz" | "GET /message_bus/readyz" if state.well => (200, json!("ready")),
                "GET /audit_trail/readyz" | "GET /message_bus/readyz" => (503, json!({"error": "it does not listen"})),
                "POST /network-healer/heal" => {
                    state.orders.push(body.clone());
                    if state.helps == body["action"].as_str() {
                        (state.well, state.pid) = (true, state.pid + 1);
                    }
                    // Whatever came of it, Guardian of this test claims that it helped.
                    (200, json!({"success": true}))
                }
                "POST /alert_service/alerts" if state.refuses_alerts => {
                    (503, json!({"error": "the alert service is down"}))
                }
                "POST /alert_service/alerts" => {
                    state.alerts.push(body.clone());
                    (200, json!({"id": "1"}))
                }
                what if what.starts_with("GET /message_bus/topics/fleet/messages") => state.read(what),
                other => (404, json!({"detail": format!("no {other}")})),
            };
            (status, answer.to_string())
        })
    }

    fn orders(&self) -> Vec<String> {
        self.state().orders.iter().map(|order| order["action"].as_str().unwrap().to_owned()).collect()
    }

    async fn open(&self, folder: &Path, settings: Value, hands: &Hands) -> Trial {
        let peers = main_api(KIND.name, self.play()).await;
        Trial::open(&KIND, folder, settings, hands, peers).await
    }
}

fn quick() -> Value {
    json!({"verify_ms": 200, "verify_every_ms": 10, "verify_checks": 3, "answer_within_ms": 60_000})
}

fn heal(issue: &str) -> Value {
    json!({"component": "audit_trail", "issue_type": issue})
}

#[test]
fn a_healing_is_what_was_seen_and_stays_on_record() {
    let (folder, hands, fleet) = (tempfile::tempdir().unwrap(), Hands::at(NOW), Fleet::default());
    fleet.state().helps = Some("restart_component");
    live(async {
        let trial = fleet.open(folder.path(), quick(), &hands).await;
        let healed = trial.ask("POST /heal", &heal("connection_timeout")).await;
        assert_eq!(
            (&healed["status"], &healed["verified"], &healed["by"]),
            (&json!("verified"), &json!(true), &json!("operator"))
        );
        assert_eq!(fleet.orders(), ["diagnose_network", "clear_port", "restart_component"]);
        let seen: Vec<_> = healed["orders"]
            .as_array()
            .unwrap()
            .iter()
            .map(|order| (&order["claimed"], &order["seen"]["well"]))
            .collect();
        let claimed = json!(true);
        assert_eq!(seen, [(&claimed, &Value::Null), (&claimed, &json!(false)), (&claimed, &json!(true))]);
        let again = trial.ask("POST /heal", &heal("connection_timeout")).await;
        assert_eq!(again["status"], "needless", "what is well is left alone");
        assert_eq!(fleet.orders().len(), 3);
        let forced = json!({"component": "audit_trail", "issue_type": "process_crashed", "force": true});
        assert_eq!(trial.ask("POST /heal", &forced).await["status"], "verified");
    });
    live(async {
        let trial = fleet.open(folder.path(), quick(), &hands).await;
        let healings = trial.ask("GET /healings?component=audit_trail", &Value::Null).await;
        let told: Vec<_> = healings["healings"].as_array().unwrap().iter().map(|one| one["status"].clone()).collect();
        assert_eq!(told, ["verified", "needless", "verified"]);
        assert_eq!(trial.ask("GET /healings/1", &Value::Null).await["issue_type"], "connection_timeout");
        assert_eq!(trial.call("auditor", "GET /healings/9", &Value::Null).await.0, 404);
        let playbooks = trial.ask("GET /playbooks", &Value::Null).await;
        let total = |name: &str| {
            let all = playbooks["playbooks"].as_array().unwrap();
            let one = all.iter().find(|one| one["name"] == name).unwrap();
            (one["total"]["tried"].as_u64().unwrap(), one["total"]["verified"].as_u64().unwrap())
        };
        assert_eq!([total("clear_port"), total("restart_component"), total("rebind_port")], [(1, 0), (2, 2), (0, 0)]);
        let plan = trial.ask("POST /plan", &json!({"component": "audit_trail", "symptoms": ["it timed out"]})).await;
        assert_eq!(plan["issue_type"], "connection_timeout");
        assert_eq!(plan["playbooks"][2]["effect"]["verified"], 1);
    });
}

#[test]
fn a_claim_that_cannot_be_seen_is_not_verified_and_budgets_hold() {
    let (folder, hands, fleet) = (tempfile::tempdir().unwrap(), Hands::at(NOW), Fleet::default());
    let mut settings = quick();
    settings["heals_max"] = json!(2);
    live(async {
        let trial = fleet.open(folder.path(), settings.clone(), &hands).await;
        let told = trial.ask("POST /heal", &heal("process_crashed")).await;
        assert_eq!((&told["status"], &told["verified"]), (&json!("not_verified"), &json!(false)));
        assert_eq!(told["orders"][0]["claimed"], true);
        let own = json!({"component": KIND.name});
        assert_eq!(trial.call("operator", "POST /heal", &own).await.0, 422);
        assert_eq!(trial.call("operator", "POST /heal", &json!({"component": "nobody"})).await.0, 404);
        assert_eq!(trial.call("operator", "POST /heal", &json!({"component": "../x"})).await.0, 422);
        assert_eq!(trial.call("auditor", "POST /heal", &heal("process_crashed")).await.0, 403);
        let bus = json!({"component": "message_bus", "issue_type": "process_crashed"});
        assert_eq!(trial.call("operator", "POST /heal", &bus).await.0, 200);
        assert_eq!(trial.call("operator", "POST /heal", &bus).await.0, 429, "the bus has a budget of one");
    });
    live(async {
        let trial = fleet.open(folder.path(), settings.clone(), &hands).await;
        assert_eq!(trial.call("operator", "POST /heal", &heal("process_crashed")).await.0, 200);
        let (status, told) = trial.call("operator", "POST /heal", &heal("process_crashed")).await;
        assert_eq!(status, 429, "{told}");
        let dry = json!({"component": "audit_trail", "dry_run": true});
        assert_eq!(trial.ask("POST /heal", &dry).await["dry_run"], true, "a plan costs nothing");
        hands.forward(600_001);
        assert_eq!(trial.call("operator", "POST /heal", &heal("process_crashed")).await.0, 200);
        assert_eq!(fleet.orders().len(), 4);
    });
}

#[test]
fn one_healing_at_a_time_and_one_that_was_killed_is_interrupted() {
    let (folder, hands, fleet) = (tempfile::tempdir().unwrap(), Hands::at(NOW), Fleet::default());
    let settings = json!({"verify_ms": 60_000, "verify_every_ms": 10, "answer_within_ms": 10});
    live(async {
        let trial = fleet.open(folder.path(), settings.clone(), &hands).await;
        let (status, told) = trial.call("operator", "POST /heal", &heal("process_crashed")).await;
        assert_eq!((status, &told["status"], &told["id"]), (202, &json!("running"), &json!(1)));
        until("the order", || async { (!fleet.orders().is_empty()).then_some(()) }).await;
        assert_eq!(trial.ask("GET /health", &Value::Null).await["healing"], json!(["audit_trail"]));
        let (status, told) = trial.call("operator", "POST /heal", &heal("process_crashed")).await;
        assert_eq!((status, &told["error"]), (409, &json!("component 'audit_trail' is being healed already")));
        assert_eq!(trial.ask("GET /healings/1", &Value::Null).await["status"], "running");
    });
    live(async {
        let trial = fleet.open(folder.path(), settings, &hands).await;
        assert_eq!(trial.ask("GET /healings/1", &Value::Null).await["status"], "interrupted");
        fleet.state().helps = Some("restart_component");
        assert_eq!(trial.call("operator", "POST /heal", &heal("process_crashed")).await.0, 202);
        let done = until("the healing", || async {
            let (_, told) = trial.call("auditor", "GET /healings/2", &Value::Null).await;
            told["ended_ms"].is_u64().then_some(told)
        });
        assert_eq!(done.await["status"], "verified");
    });
}

#[test]
fn another_process_in_between_is_not_well() {
    let (folder, hands, fleet) = (tempfile::tempdir().unwrap(), Hands::at(NOW), Fleet::default());
    let crashing: Play = {
        let (play, this) = (fleet.play(), fleet.clone());
        Arc::new(move |what, body| {
            if what == "GET /kernel-ports/port/audit_trail" {
                this.state().pid += 1;
            }
            play(what, body)
        })
    };
    fleet.state().well = true;
    live(async {
        let peers = main_api(KIND.name, crashing).await;
        let trial = Trial::open(&KIND, folder.path(), quick(), &hands, peers).await;
        let told = trial.ask("POST /heal", &heal("process_crashed")).await;
        assert_eq!(told["verified"], false, "{told}");
        assert_eq!(told["before"]["why"], "it was another process than before");
    });
}

#[test]
fn a_process_that_nobody_knows_is_not_said_to_be_the_same() {
    let (folder, hands, fleet) = (tempfile::tempdir().unwrap(), Hands::at(NOW), Fleet::default());
    fleet.state().well = true;
    live(async {
        let trial = fleet.open(folder.path(), quick(), &hands).await;
        let told = trial.ask("POST /heal", &heal("process_crashed")).await;
        assert_eq!((&told["status"], &told["before"]["compared"]), (&json!("needless"), &json!(true)), "{told}");
        fleet.state().pid_unknown = true;
        let told = trial.ask("POST /heal", &heal("process_crashed")).await;
        assert_eq!((&told["status"], &told["before"]["compared"]), (&json!("needless"), &json!(false)), "{told}");
    });
}

#[test]
fn rules_tell_over_kills_and_never_heal() {
    let (folder, hands, fleet) = (tempfile::tempdir().unwrap(), Hands::at(NOW), Fleet::default());
    let fail = |at: u64| {
        let data = json!({"name": "audit_trail", "status": "unhealthy", "detail": "no answer", "pid": 7});
        let event = json!({"event": "fleet:status", "sender": "guardian", "ts_ms": NOW + at, "data": data});
        fleet.state().events.push(event);
    };
    let rule = json!({"component": "audit_trail", "times": 2, "within_ms": 10_000, "severity": "critical"});
    let read_to = async |trial: &Trial, offset: u64| {
        until("the events", || async {
            let told = trial.ask("GET /watch", &Value::Null).await;
            (told["offset"] == offset).then_some(told)
        })
        .await
    };
    fail(0);
    live(async {
        let trial = fleet.open(folder.path(), quick(), &hands).await;
        assert_eq!(trial.call("auditor", "POST /watch", &rule).await.0, 403);
        trial.ask("POST /watch", &rule).await;
        let told = read_to(&trial, 1).await;
        assert_eq!(told["rules"][0]["seen_ms"], json!([NOW]));
    });
    fail(5_000);
    live(async {
        let trial = fleet.open(folder.path(), quick(), &hands).await;
        until("the alert", || async { fleet.state().alerts.first().cloned() }).await;
        let alert = fleet.state().alerts[0].clone();
        assert_eq!((&alert["severity"], &alert["labels"]["component"]), (&json!("critical"), &json!("audit_trail")));
        assert_eq!(alert["dedupe_key"], "watch:audit_trail:audit_trail");
        assert!(
            alert["message"].as_str().unwrap().contains("diagnose_network, clear_port, restart_component"),
            "{alert}"
        );
        fail(6_000);
        let told = read_to(&trial, 3).await;
        assert_eq!((&told["rules"][0]["alerts"], &told["rules"][0]["seen_ms"]), (&json!(1), &json!([NOW + 6_000])));
        trial.ask("DELETE /watch/audit_trail", &Value::Null).await;
        assert_eq!(trial.call("operator", "DELETE /watch/audit_trail", &Value::Null).await.0, 404);
    });
    assert_eq!(fleet.state().alerts.len(), 1);
    assert!(fleet.orders().is_empty());
}

#[test]
fn a_bus_that_begins_anew_is_read_from_its_oldest_event() {
    let (folder, hands, fleet) = (tempfile::tempdir().unwrap(), Hands::at(NOW), Fleet::default());
    let fail = |at: u64| {
        let data = json!({"name": "audit_trail", "status": "failed", "detail": "no answer", "pid": 7});
        json!({"event": "fleet:status", "sender": "guardian", "ts_ms": NOW + at, "data": data})
    };
    fleet.state().events = (0..3).map(fail).collect();
    // It waits as long as it is asked to.
    fleet.state().wait_ms_max = 10_000;
    let rule = json!({"component": "audit_trail", "times": 50, "within_ms": 100_000});
    let seen = async |trial: &Trial, wanted: Value| {
        until("the events", || async {
            let told = trial.ask("GET /watch", &Value::Null).await;
            (told["rules"][0]["seen_ms"] == wanted).then_some(told)
        })
        .await
    };
    live(async {
        let trial = fleet.open(folder.path(), quick(), &hands).await;
        trial.ask("POST /watch", &rule).await;
        let told = seen(&trial, json!([NOW, NOW + 1, NOW + 2])).await;
        assert_eq!((&told["offset"], &told["error"]), (&json!(3), &Value::Null));
        fleet.state().events = vec![fail(7)];
        let told = seen(&trial, json!([NOW, NOW + 1, NOW + 2, NOW + 7])).await;
        assert_eq!(told["offset"], 1);
        fleet.state().events = vec![json!({"ts_ms": "a text"}); 2];
        // What it cannot hand over is told.
        fleet.state().refuses_alerts = true;
        let urgent = json!({"name": "urgent", "component": "audit_trail", "times": 1, "within_ms": 100_000});
        trial.ask("POST /watch", &urgent).await;
        fleet.state().events.push(fail(9));
        let told = until("the error", || async {
            let told = trial.ask("GET /health", &Value::Null).await;
            told["watch_error"].is_string().then_some(told)
        });
        assert!(told.await["watch_error"].as_str().unwrap().contains("the alert service is down"));
        assert!(trial.ask("GET /watch", &Value::Null).await["error"].is_string());
    });
}
