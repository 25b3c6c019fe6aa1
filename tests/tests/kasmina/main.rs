//! Layers that are served: what a host network, an operator and an auditor see of them.
//!
//! What belongs here: the routes below `/kasmina`, what they leave in the ledger, what outlives a restart, and what a
//! denial leaves as it was. What a layer computes is tested in the crate `kasmina`.

#![allow(clippy::unwrap_used, reason = "a helper of a test that finds nothing has failed")]
#![allow(clippy::float_cmp, reason = "counts, and values that must be the same bits")]
#![allow(clippy::needless_pass_by_value, reason = "a `json!` is written where it is used")]

mod bad_input;
mod events;
mod governed;
mod kept;
mod rollout;

use expect_test::expect;
use gavel_tests::{Config, Response, Server, Site};
use serde_json::{Value, json};

/// A host with one kernel that lets Tamiyo do everything, and layers.
fn config() -> Config {
    with_kernel(json!({"id": "kasmina", "policy": policy(&[])}))
}

fn with_kernel(kernel: Value) -> Config {
    Config::of(json!([kernel])).with("kasmina", json!({"backend": "cpu"}))
}

fn policy(rules: &[&str]) -> Value {
    json!({
        "allowed_actors": ["tamiyo"],
        "allowed_tools": ["kasmina.transition", "kasmina.restore"],
        "custom_rules": rules,
    })
}

/// A layer that nobody commands but the test, with gates that open quickly.
fn definition(id: &str) -> Value {
    json!({
        "config": {
            "id": id,
            "width": 16,
            "seeds": 4,
            "random_seed": 7,
            "gates": {"training_epochs_min": 0, "grafting_epochs_min": 0, "ramp_steps": 2, "denoising_loss_max": 0.2},
            "denoising": {"size": 0.9},
        },
        "tamiyo": "none",
    })
}

/// What tests do with layers, in one line each.
trait Layers {
    fn create(&self, definition: &Value) -> Value;
    fn command(&self, layer: &str, seed: usize, command: &str, more: &Value) -> Value;
    fn epoch(&self, layer: &str) -> Value;
    fn seed(&self, layer: &str, seed: usize) -> Value;
    fn stages(&self, layer: &str) -> Vec<String>;
    fn forward(&self, layer: &str, query: &str, x: &[f32]) -> Vec<f32>;
    fn saved(&self, layer: &str) -> Vec<u8>;
    fn events(&self, topic: &str) -> Vec<Value>;
}

impl Layers for Server {
    fn create(&self, definition: &Value) -> Value {
        self.post("/kasmina/layers", definition).expect(201)
    }

    /// Give a command; the layer has had it when its next answer comes.
    fn command(&self, layer: &str, seed: usize, command: &str, more: &Value) -> Value {
        let mut data = json!({"target_seed_id": seed, "command": command});
        for (key, value) in more.as_object().into_iter().flatten() {
            data[key] = value.clone();
        }
        self.post(&format!("/kasmina/layers/{layer}/commands"), &json!({"data": data})).expect(202)
    }

    fn epoch(&self, layer: &str) -> Value {
        self.post(&format!("/kasmina/layers/{layer}/epoch"), &json!({"loss": 0.5, "metric": 0.7})).expect(200)
    }

    fn seed(&self, layer: &str, seed: usize) -> Value {
        self.get(&format!("/kasmina/layers/{layer}/seeds/{seed}")).expect(200)
    }

    fn stages(&self, layer: &str) -> Vec<String> {
        let told = self.get(&format!("/kasmina/layers/{layer}/seeds")).expect(200);
        let seeds = told["seeds"].as_array().expect("seeds").iter();
        seeds.map(|seed| seed["stage"].as_str().expect("a stage").to_owned()).collect()
    }

    fn forward(&self, layer: &str, query: &str, x: &[f32]) -> Vec<f32> {
        let bytes: Vec<u8> = x.iter().flat_map(|value| value.to_le_bytes()).collect();
        let path = format!("/kasmina/layers/{layer}/forward?rows={}{query}", x.len() / 16);
        floats(&self.send("POST", &path, &[("content-type", "application/octet-stream")], Some(&bytes)))
    }

    fn saved(&self, layer: &str) -> Vec<u8> {
        let answer = self.get(&format!("/kasmina/layers/{layer}/checkpoint"));
        assert_eq!(answer.status, 200);
        answer.body
    }

    fn events(&self, topic: &str) -> Vec<Value> {
        let told = self.get(&format!("/kasmina/events?topic={topic}&limit=1000")).expect(200);
        told["events"].as_array().expect("events").clone()
    }
}

fn floats(answer: &Response) -> Vec<f32> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.body.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("four bytes"))).collect()
}

/// Rows in which all columns of a chunk say the same, so that one can be told from the others: what denoising learns.
fn rows(count: usize) -> Vec<f32> {
    let value = |row: usize, column: usize| {
        let chunk = column / 4;
        #[allow(clippy::cast_precision_loss, reason = "small numbers")]
        let angle = (row * 7 + chunk * 3) as f32;
        angle.sin()
    };
    (0..count).flat_map(|row| (0..16).map(move |column| value(row, column))).collect()
}

/// Bring seed 0 of a layer to a stage in which it changes the output.
fn graft(server: &Server, layer: &str) {
    server.command(layer, 0, "germinate", &json!({"blueprint_id": "adapter"}));
    server.epoch(layer);
    server.command(layer, 0, "train", &json!({}));
    server.epoch(layer);
    for _ in 0..40 {
        for _ in 0..20 {
            server.forward(layer, "&nourish=true", &rows(32));
        }
        server.epoch(layer);
        if server.seed(layer, 0)["gate"]["gate"] == "open" {
            break;
        }
    }
    server.command(layer, 0, "graft", &json!({}));
    for _ in 0..2 {
        server.epoch(layer);
    }
    assert_eq!(server.stages(layer)[0], "GRAFTING", "{}", server.seed(layer, 0));
}

#[test]
fn the_routes_are_these() {
    let routes = gavel::http::ROUTES.iter().filter(|(_, path)| path.starts_with("/kasmina/"));
    let mut shown: Vec<String> = routes.map(|(method, path)| format!("{path} {}", method.to_uppercase())).collect();
    shown.sort();
    expect![[r#"
        /kasmina/blueprints GET
        /kasmina/blueprints POST
        /kasmina/events GET
        /kasmina/events/stream GET
        /kasmina/layers GET
        /kasmina/layers POST
        /kasmina/layers/{layer} DELETE
        /kasmina/layers/{layer} GET
        /kasmina/layers/{layer}/backward POST
        /kasmina/layers/{layer}/checkpoint GET
        /kasmina/layers/{layer}/checkpoint POST
        /kasmina/layers/{layer}/commands POST
        /kasmina/layers/{layer}/epoch POST
        /kasmina/layers/{layer}/forward POST
        /kasmina/layers/{layer}/seeds GET
        /kasmina/layers/{layer}/seeds/{seed} GET
        /kasmina/layers/{layer}/telemetry GET
        /kasmina/models/{model} GET
        /kasmina/models/{model}/forward POST
        /kasmina/models/{model}/metric POST
        /kasmina/payloads/{digest} GET
        /kasmina/rollout GET
        /kasmina/rollout PUT
        /kasmina/rollout/promote POST
        /kasmina/rollout/revert POST
        /kasmina/strategies GET"#]]
    .assert_eq(&shown.join("\n"));
}

#[test]
fn a_layer_is_made_seen_and_removed() {
    let server = Server::start(&config());
    assert_eq!(server.get("/kasmina/layers").expect(200), json!({"layers": [], "kernel": "kasmina"}));
    let made = server.create(&definition("a"));
    assert_eq!((&made["layer_id"], &made["epoch"]), (&json!("a"), &json!(0)));
    assert_eq!(made["seeds_by_stage"], json!({"DORMANT": 4}));
    assert_eq!(made["config"]["width"], 16);
    assert!(made["device"]["backend"].is_string(), "{made}");
    assert_eq!(server.get("/kasmina/layers/a").expect(200), made);
    let told = server.get("/kasmina/layers").expect(200);
    assert_eq!(told["layers"], json!([{"layer_id": "a", "width": 16, "seeds": 4, "out_of_service": null}]));
    let page = server.get("/kasmina/layers/a/seeds?from=1&limit=2").expect(200);
    let numbers: Vec<_> = page["seeds"].as_array().unwrap().iter().map(|seed| seed["seed"].clone()).collect();
    assert_eq!((numbers, &page["next"]), (vec![json!(1), json!(2)], &json!(3)));
    assert_eq!(server.get("/kasmina/layers/a/seeds?stage=TRAINING").expect(200)["seeds"], json!([]));
    assert_eq!(server.metrics().get("gavel_kasmina_layers"), 1.0);
    assert_eq!(server.metrics().get(r#"gavel_kasmina_seeds{layer="a",stage="DORMANT"}"#), 4.0);
    let removed = server.send("DELETE", "/kasmina/layers/a", &[], None).expect(200);
    assert_eq!(removed, json!({"status": "removed", "layer_id": "a"}));
    assert_eq!(server.get("/kasmina/layers/a").error(404), "there is no layer 'a'");
    assert_eq!(server.metrics().sum("gavel_kasmina_seeds"), 0.0);
    server.create(&definition("a"));
    let site = server.stop();
    assert_eq!(site.serve().get("/kasmina/layers/a").expect(200)["epoch"], 0, "made and never trained: it is kept");
}

#[test]
fn values_go_through_as_json_and_as_bytes() {
    let server = Server::start(&config());
    server.create(&definition("a"));
    let x = rows(3);
    let lists: Vec<&[f32]> = x.chunks(16).collect();
    let answer = server.post("/kasmina/layers/a/forward", &json!({"x": lists})).expect(200);
    assert_eq!((&answer["y"], &answer["rows"]), (&json!(lists), &json!(3)), "dormant: the identity");
    assert_eq!(server.forward("a", "", &x), x);
    graft(&server, "a");
    let y = server.forward("a", "", &x);
    assert_ne!(y, x, "it grew");
    assert_eq!(y[4..16], x[4..16], "in its chunk only");
    assert_eq!(server.forward("a", "&telemetry=false", &x), y);
    let answer = server.post("/kasmina/layers/a/forward", &json!({"x": lists})).expect(200);
    let shown: Vec<f32> =
        answer["y"].as_array().unwrap().iter().flat_map(|row| row.as_array().unwrap()).map(float).collect();
    assert_eq!(shown, y, "the text of a number is the number");
    let passes = server.metrics().get(r#"gavel_kasmina_forward_seconds_count{layer="a"}"#);
    assert!(passes >= 4.0, "{passes}");
}

fn float(value: &Value) -> f32 {
    value.to_string().parse().expect("a number")
}

#[test]
fn gradients_come_back_and_a_step_changes_what_learns() {
    let server = Server::start(&config());
    server.create(&definition("a"));
    graft(&server, "a");
    let (x, dy) = (rows(2), vec![1.0_f32; 32]);
    let before = server.forward("a", "", &x);
    let bytes: Vec<u8> = x.iter().chain(&dy).flat_map(|value| value.to_le_bytes()).collect();
    let path = "/kasmina/layers/a/backward?rows=2&step=true";
    let dx = floats(&server.send("POST", path, &[("content-type", "application/octet-stream")], Some(&bytes)));
    assert_eq!(dx.len(), 32);
    assert_eq!(dx[4..16], dy[4..16], "what does not compute lets the gradient pass");
    assert_ne!(dx[..4], dy[..4]);
    assert_ne!(server.forward("a", "", &x), before, "the step moved the weights");
}

#[test]
fn tamiyo_commands_where_nobody_else_does() {
    let server = Server::start(&config());
    let mut definition = definition("a");
    definition.as_object_mut().unwrap().remove("tamiyo");
    assert_eq!(server.create(&definition)["tamiyo"], "standard");
    server.forward("a", "", &rows(8));
    server.epoch("a");
    let boundary = server.epoch("a");
    assert_eq!(boundary["refused"], json!([]), "{boundary}");
    let stages = server.stages("a");
    assert!(stages.iter().any(|stage| stage != "DORMANT"), "{stages:?}");
    let commands = server.events("control.kasmina.commands");
    assert!(commands.iter().all(|event| event["envelope"]["sender_id"] == "tamiyo"), "{commands:?}");
}

#[test]
fn blueprints_and_strategies_are_listed_and_added() {
    let site = {
        let server = Server::start(&config());
        let strategies = server.get("/kasmina/strategies").expect(200);
        let known = json!(["fixed_ramp", "performance_linked", "drift_controlled", "grad_norm_gated"]);
        assert_eq!(strategies["strategies"], known);
        let blueprint = json!({"name": "small", "function": {"kind": "adapter", "rank": 3}});
        let added = server.post("/kasmina/blueprints", &blueprint).expect(201);
        assert_eq!(added["name"], "small");
        assert_eq!(server.post("/kasmina/blueprints", &blueprint).expect(201), added, "the same has the same id");
        server.stop()
    };
    let server = site.serve();
    let all = server.get("/kasmina/blueprints").expect(200);
    let names: Vec<_> = all["blueprints"].as_array().unwrap().iter().map(|one| &one["blueprint"]["name"]).collect();
    assert!(names.contains(&&json!("small")) && names.contains(&&json!("mlp")), "{names:?}");
    server.create(&definition("a"));
    server.command("a", 1, "germinate", &json!({"blueprint_id": "small"}));
    server.epoch("a");
    assert_eq!(server.stages("a")[1], "GERMINATED", "{:?}", server.events("control.kasmina.responses"));
}

#[test]
fn the_ready_made_configuration_serves_layers() {
    let site = Site::new(&Config::open());
    let data = site.data();
    let args = ["kasmina", "serve", "--listen", "127.0.0.1:0", "--data", gavel_tests::path(&data)];
    let server = Server::spawn(gavel_tests::Gavel::new(args), site);
    assert!(server.announcement.contains("/kasmina/layers"), "{}", server.announcement);
    server.create(&definition("a"));
    server.command("a", 2, "germinate", &json!({"blueprint_id": "residual_scale"}));
    let boundary = server.epoch("a");
    assert_eq!(boundary["transitions"][0]["allowed"], json!(true), "{boundary}");
    let request = gavel_tests::call("r1", "echo", json!({"text": "x"}));
    assert_eq!(server.submit(&request)["decision"], "DENY", "nobody else may do anything");
}

#[test]
fn without_a_section_there_are_no_layers() {
    let server = Server::start(&Config::open());
    let told = server.get("/kasmina/layers").error(409);
    assert!(told.starts_with("this server serves no layers"), "{told}");
}
