//! The event bus as it is monitored: what `/metrics` serves of it, and that the documentation, the dashboard and the
//! rules speak of nothing else.
//!
//! What belongs here: names, labels and values of metrics of the bus. What they mean is in `docs/monitoring.md`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use gavel_tests::promql::{Matcher, Needs, needs};
use gavel_tests::{Config, Samples, Server, repository};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

/// Labels that Prometheus itself puts on every series.
const OF_PROMETHEUS: [&str; 2] = ["instance", "job"];

/// A server with a bus, in the mode in which everything is counted.
fn server() -> Server {
    let unix = json!({"socket_dir": "sockets", "compatibility_mode": "hybrid"});
    // Nobody listens there: what the bridge counts is served all the same.
    let nats = json!({"url": "nats://127.0.0.1:1", "host": "here", "publish": ["news:*"]});
    Server::start(&Config::open().with("bus", json!({"transports": {"unix": unix}, "nats": nats})))
}

/// A frame on a connection of its own, and the answer.
fn ask(server: &Server, socket: &str, frame: &Value) -> Value {
    let path = server.site().path().join("sockets").join(format!("{socket}.sock"));
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(gavel_tests::PATIENCE)).unwrap();
    writeln!(stream, "{frame}").unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

/// A bit of everything.
fn make_traffic(server: &Server) {
    for number in 0..10 {
        ask(server, "events", &json!({"event": "state:set", "data": {"key": "k", "value": number}}));
    }
    ask(server, "events", &json!({"event": "nobody:home"}));
    ask(server, "events", &json!({"event": "state:set", "data": {}}));
    ask(server, "events", &json!({"event": "made:up", "wait": false}));
    ask(server, "admin", &json!({"command": "GET_AGENTS"}));
    ask(server, "admin", &json!({"command": "NEVER_WAS"}));
    ask(server, "events", &json!({"event": "transport:send", "data": {"to": "a", "message": "m"}}));
    let _ = server.post("/bus/events", &json!({"event": "agent:list"})).expect(200);
}

#[test]
fn what_happens_on_the_bus_is_counted() {
    let server = server();
    make_traffic(&server);
    let metrics = server.metrics();
    for (name, value) in [
        (r#"gavel_bus_events_total{namespace="state",event="other"}"#, 11.0),
        (r#"gavel_bus_events_total{namespace="state",event="changed"}"#, 10.0),
        (r#"gavel_bus_events_total{namespace="other",event="other"}"#, 2.0),
        (r#"gavel_bus_answers_total{outcome="NO_HANDLER"}"#, 1.0),
        (r#"gavel_bus_answers_total{outcome="REFUSED"}"#, 1.0),
        (r#"gavel_bus_plugin_events_total{plugin="agent_service"}"#, 2.0),
        (r#"gavel_bus_plugin_refusals_total{plugin="state_service"}"#, 1.0),
        (r#"gavel_bus_plugin_handling_seconds_count{plugin="agent_service"}"#, 2.0),
        (r#"gavel_bus_plugin_state{plugin="state_service",state="ready"}"#, 1.0),
        (r#"gavel_bus_plugin_state{plugin="message_service",state="idle"}"#, 1.0),
        (r#"gavel_bus_plugin_state{plugin="state_service",state="circuit_open"}"#, 0.0),
        ("gavel_bus_state_changes_total", 10.0),
        ("gavel_bus_state_audit_refusals_total", 0.0),
        (r#"gavel_bus_legacy_commands_total{command="GET_AGENTS"}"#, 1.0),
        (r#"gavel_bus_legacy_commands_total{command="other"}"#, 1.0),
        ("gavel_bus_undelivered_messages", 1.0),
        (r#"gavel_bus_mode{mode="hybrid"}"#, 1.0),
        ("gavel_bus_queue_events_max", 10_000.0),
        ("gavel_bus_nats_connected", 0.0),
        (r#"gavel_bus_nats_received_total{outcome="missed"}"#, 0.0),
    ] {
        assert!((metrics.get(name) - value).abs() < 1e-9, "{name} is {}", metrics.get(name));
        assert!(metrics.names().any(|known| known == name), "{name}");
    }
    let quantile = |q: &str| metrics.get(&format!(r#"gavel_bus_plugin_{q}_seconds{{plugin="agent_service"}}"#));
    assert!(0.0 < quantile("p50") && quantile("p50") <= quantile("p95") && quantile("p95") <= quantile("p99"));
    assert!(metrics.get(r#"gavel_bus_plugin_handling_seconds_sum{plugin="agent_service"}"#) > 0.0);
    check_buckets(&metrics);
}

/// The classes of a histogram only grow, and the last one holds all.
fn check_buckets(metrics: &Samples) {
    let prefix = r#"gavel_bus_plugin_handling_seconds_bucket{le=""#;
    let mut classes: Vec<(f64, f64)> = metrics
        .names()
        .filter(|name| name.starts_with(prefix) && name.contains("agent_service"))
        .map(|name| {
            let bound = name[prefix.len()..].split('"').next().unwrap();
            (if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() }, metrics.get(name))
        })
        .collect();
    classes.sort_by(|a, b| a.0.total_cmp(&b.0));
    assert_eq!(classes.len(), 24, "{classes:?}");
    assert!(classes.is_sorted_by(|a, b| a.1 <= b.1) && (classes[23].1 - 2.0).abs() < 1e-9, "{classes:?}");
}

#[test]
fn names_that_senders_choose_do_not_make_metrics_grow() {
    let server = server();
    let kinds = |server: &Server| server.metrics().names().filter(|name| name.starts_with("gavel_bus_")).count();
    let before = kinds(&server);
    for number in 0..50 {
        ask(&server, "events", &json!({"event": format!("space-{number}:name")}));
        ask(&server, "events", &json!({"event": format!("state:made-up-{number}"), "data": {}}));
        ask(&server, "admin", &json!({"command": format!("COMMAND_{number}")}));
    }
    assert_eq!(kinds(&server), before);
}

#[test]
fn a_server_without_a_bus_serves_nothing_of_it() {
    let server = Server::start(&Config::open());
    assert!(!server.get("/metrics").text().contains("gavel_bus_"));
}

/// What a scrape has: the kinds of its families, the labels of each sample's name, and the values of each label.
struct Scrape {
    kinds: BTreeMap<String, String>,
    labels: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
}

fn scrape(server: &Server) -> Scrape {
    let text = server.get("/metrics").text();
    let mut kinds = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE gavel_bus_")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let total = if kind == "counter" { "_total" } else { "" };
        kinds.insert(format!("gavel_bus_{name}{total}"), kind.to_owned());
    }
    let mut labels: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for name in Samples::read(&text).names() {
        let (bare, rest) = name.split_once('{').unwrap_or((name, "}"));
        let known = labels.entry(bare.to_owned()).or_default();
        for label in rest.trim_end_matches('}').split("\",").filter(|label| !label.is_empty()) {
            let (label, value) = label.trim_end_matches('"').split_once("=\"").unwrap();
            known.entry(label.to_owned()).or_default().insert(value.to_owned());
        }
    }
    Scrape { kinds, labels }
}

impl Scrape {
    /// Everything in which an expression speaks of something that is not served.
    fn complaints(&self, expression: &str) -> Vec<String> {
        let Needs { selectors, groupings } = match needs(expression) {
            Ok(needs) => needs,
            Err(why) => return vec![why],
        };
        let mut complaints = Vec::new();
        for (name, matchers) in &selectors {
            let Some(labels) = self.labels.get(name) else {
                complaints.push(format!("no metric `{name}` in `{expression}`"));
                continue;
            };
            complaints.extend(matchers.iter().filter_map(|matcher| wrong(matcher, labels, expression)));
        }
        for (grouped, metrics) in &groupings {
            for (label, name) in grouped.iter().flat_map(|label| metrics.iter().map(move |name| (label, name))) {
                let known = self.labels.get(name).is_none_or(|labels| labels.contains_key(label));
                if !known && !OF_PROMETHEUS.contains(&label.as_str()) {
                    complaints.push(format!("`{name}` has no label `{label}`: `{expression}`"));
                }
            }
        }
        complaints
    }

    /// A recording rule makes a metric, with the labels by which it groups.
    fn add_record(&mut self, name: &str, expression: &str) {
        let grouped = needs(expression).map(|needs| needs.groupings).unwrap_or_default();
        let labels = grouped.into_iter().flat_map(|(labels, _)| labels).filter(|label| label != "le");
        self.labels.insert(name.to_owned(), labels.map(|label| (label, BTreeSet::new())).collect());
    }
}

fn wrong(matcher: &Matcher, labels: &BTreeMap<String, BTreeSet<String>>, expression: &str) -> Option<String> {
    let Matcher { label, operator, value } = matcher;
    if OF_PROMETHEUS.contains(&label.as_str()) {
        return None;
    }
    let Some(values) = labels.get(label) else { return Some(format!("no label `{label}`: `{expression}`")) };
    let alternatives = if operator.ends_with('~') { value.split('|').collect() } else { vec![value.as_str()] };
    let strange = alternatives.into_iter().find(|value| !value.starts_with('$') && !values.contains(*value));
    strange.map(|value| format!("no value `{value}` of `{label}`: `{expression}`"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap_or_else(|why| panic!("{path}: {why}"))
}

/// The queries of the dashboard.
fn dashboard() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read("docs/deploy/grafana/gavel-bus.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

/// The rules: what each is called, whether it records, and its expression.
fn rules() -> Vec<(String, bool, String)> {
    let file: Value = serde_saphyr::from_str(&read("docs/deploy/prometheus/gavel-bus.rules.yml")).unwrap();
    let groups = file["groups"].as_array().unwrap();
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
    rules
        .map(|rule| {
            let (name, records) = rule["record"].as_str().map_or((&rule["alert"], false), |_| (&rule["record"], true));
            (name.as_str().unwrap().to_owned(), records, rule["expr"].as_str().unwrap().to_owned())
        })
        .collect()
}

#[test]
fn every_expression_of_the_dashboard_and_the_rules_speaks_of_what_is_served() {
    let server = server();
    make_traffic(&server);
    let mut scrape = scrape(&server);
    let (dashboard, rules) = (dashboard(), rules());
    assert!(dashboard.len() >= 30 && rules.len() >= 12, "{} and {}", dashboard.len(), rules.len());
    let mut complaints: Vec<String> = dashboard.iter().flat_map(|text| scrape.complaints(text)).collect();
    for (name, _, expression) in rules.iter().filter(|(_, records, _)| *records) {
        complaints.extend(scrape.complaints(expression));
        scrape.add_record(name, expression);
    }
    for (_, _, expression) in rules.iter().filter(|(_, records, _)| !records) {
        complaints.extend(scrape.complaints(expression));
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    // The check itself complains where it should.
    for wrong in [
        "gavel_bus_nothing",
        r#"gavel_bus_plugin_state{stat="ready"}"#,
        r#"gavel_bus_plugin_state{state="broken"}"#,
        "sum by (plugin) (gavel_bus_connections)",
    ] {
        assert!(!scrape.complaints(wrong).is_empty(), "{wrong}");
    }
}

#[test]
fn every_metric_is_shown_or_watched() {
    let scrape = scrape(&server());
    let texts: Vec<String> = dashboard().into_iter().chain(rules().into_iter().map(|(_, _, text)| text)).collect();
    let unused: Vec<&String> =
        scrape.kinds.keys().filter(|name| !texts.iter().any(|text| text.contains(name.as_str()))).collect();
    assert!(unused.is_empty(), "neither on the dashboard nor in a rule: {unused:?}");
}

#[test]
fn the_documentation_lists_exactly_the_metrics_that_are_served() {
    let server = server();
    make_traffic(&server);
    let scrape = scrape(&server);
    let documented: BTreeSet<(String, String, String)> = read("docs/monitoring.md")
        .lines()
        .filter(|line| line.starts_with("| `gavel_bus_"))
        .map(|line| {
            let cells: Vec<String> = line.split('|').map(|cell| cell.trim().replace('`', "")).collect();
            (cells[1].clone(), cells[2].clone(), cells[3].clone())
        })
        .collect();
    let found = scrape.kinds.iter().map(|(name, kind)| {
        let sample = if kind == "histogram" { format!("{name}_sum") } else { name.clone() };
        let labels: Vec<&str> = scrape.labels[&sample].keys().map(String::as_str).collect();
        (name.clone(), kind.clone(), labels.join(", "))
    });
    let found: BTreeSet<_> = found.collect();
    let missing: Vec<_> = found.difference(&documented).collect();
    let stale: Vec<_> = documented.difference(&found).collect();
    assert!(missing.is_empty() && stale.is_empty(), "not documented: {missing:#?}\nnot served: {stale:#?}");
}

/// Prometheus's own opinion, where its tool is installed (Debian: `prometheus`).
#[test]
fn promtool_takes_the_rules_and_the_queries() {
    let folder = tempfile::tempdir().unwrap();
    let queries: Vec<Value> = dashboard()
        .iter()
        .enumerate()
        .map(|(at, text)| {
            let text = text.replace("$__rate_interval", "5m").replace("$__range", "1h");
            json!({"record": format!("panel:query_{at}"), "expr": text})
        })
        .collect();
    let path = folder.path().join("panels.json");
    std::fs::write(&path, json!({"groups": [{"name": "panels", "rules": queries}]}).to_string()).unwrap();
    for file in [repository().join("docs/deploy/prometheus/gavel-bus.rules.yml"), path] {
        let ran = std::process::Command::new("promtool").args(["check", "rules"]).arg(&file).output();
        match ran {
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => return,
            ran => {
                let ran = ran.unwrap();
                assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
            }
        }
    }
}
