//! `gavel kasmina` on the command line: train, inspect, bench.
//!
//! What belongs here: what a person types and what comes back, exit codes and files included. The server's side of
//! layers is in `kasmina/`. Runs are short: what a whole run is worth is shown in the crate `kasmina`'s own tests.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed; its helpers are part of it")]

use expect_test::expect;
use gavel_tests::{Output, gavel, path};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Gates under which a seed goes all the way in a dozen epochs.
const HASTY: &str = "
epochs: 30
layer:
  seeds: 4
  training_slots: 4
  gates:
    training_epochs_min: 2
    grafting_epochs_min: 2
    stabilization_epochs_min: 2
    evaluating_epochs_min: 2
    fine_tuning_epochs_min: 2
    denoising_loss_max: 0.0124
    ramp_steps: 3
    drift_window: 2
    drift_spread_max: 10
    delta_above: -1
    delta_cull_below: -1
    evaluating_stability_min: 0
    fine_tuning_stability_min: 0
    improvement_min: -10
";

fn train(folder: &Path, plan: &str, args: &[&str]) -> Output {
    let file = folder.join("plan.yaml");
    fs::write(&file, plan).unwrap();
    gavel([&["kasmina", "train", "--backend", "cpu", "--plan", path(&file)], args].concat())
}

/// Elements of an SVG that are closed in the order in which they were opened; its texts.
fn texts_of_well_formed(svg: &str) -> Vec<String> {
    let (mut open, mut texts) = (Vec::new(), Vec::new());
    for part in svg.split('<').skip(1) {
        let (tag, text) = part.split_once('>').expect("a tag ends");
        assert!(!text.contains('&') || ["&amp;", "&lt;", "&gt;"].iter().any(|known| text.contains(known)), "{text}");
        let name = tag.split([' ', '/']).next().unwrap();
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed.trim().to_owned()), "{svg}");
        } else if !tag.ends_with('/') && !tag.starts_with(['?', '!']) {
            open.push(name.to_owned());
        }
        if !text.trim().is_empty() {
            texts.push(text.trim().to_owned());
        }
    }
    assert_eq!(open, Vec::<String>::new(), "what was opened is closed");
    texts
}

#[test]
fn seeds_go_all_the_way_and_the_record_of_it_verifies() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (data, plot, layer) = (at("data"), at("growth.svg"), at("grown.kasmina"));
    let args = ["--json", "--data", path(&data), "--plot", path(&plot), "--save", path(&layer)];
    let output = train(folder.path(), HASTY, &args);
    assert!(matches!(output.code, Some(0 | 1)), "{}\n{}", output.stdout, output.stderr);
    let told = output.json();
    let run = &told["runs"][0];
    assert_eq!(told["good"], json!(output.code == Some(0)));
    assert_eq!(run["seeds_through_all_stages"], json!([0, 1, 2, 3]), "{}", run["seeds_by_stage"]);
    assert_eq!(run["seeds_by_stage"], json!({"FOSSILIZED": 4}));
    assert_eq!(run["transitions"], json!({"allowed": 28, "denied": {}}));
    assert_eq!(run["report"]["lines"].as_array().unwrap().len(), 30);
    assert_eq!(run["blueprints"][0]["record"]["fossilized"], 4);
    // One entry for each transition, in a ledger that holds.
    let verified = gavel(["verify", "--json", told["ledger"].as_str().unwrap()]).code(0).json();
    assert_eq!(verified["entries"], 28, "{verified}");
    let texts = texts_of_well_formed(&fs::read_to_string(&plot).unwrap());
    for expected in
        ["Accuracy on held-out images", "Blend (alpha) of each seed", "Stage of each seed", "epoch", "seed 3"]
    {
        assert!(texts.iter().any(|text| text == expected), "{expected} is not in {texts:?}");
    }
    assert!(["TRAINING", "GRAFTING", "FOSSILIZED"].iter().all(|stage| texts.iter().any(|text| text == stage)));
    let seen = gavel(["kasmina", "inspect", "--json", path(&layer)]).code(0).json();
    assert_eq!((&seen["layer"]["epoch"], &seen["seeds_by_stage"]), (&json!(30), &json!({"FOSSILIZED": 4})));
    assert_eq!(seen["seeds"][2]["alpha"], json!(1.0));
    damaged(&layer);
}

/// One bit is enough.
fn damaged(layer: &Path) {
    let mut bytes = fs::read(layer).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(layer, bytes).unwrap();
    let told = gavel(["kasmina", "inspect", path(layer)]).code(1).stdout;
    assert!(told.ends_with("checkpoint: it is damaged: its digest does not match\n"), "{told}");
}

#[test]
fn the_same_plan_gives_the_same_run() {
    let folder = tempfile::tempdir().unwrap();
    let run = || train(folder.path(), HASTY, &["--json", "--threads", "1"]).json()["runs"][0]["report"].take();
    let (mut first, mut again) = (run(), run());
    for report in [&mut first, &mut again] {
        // Times are the only thing that differs.
        report["field_reports"].as_array_mut().unwrap().iter_mut().for_each(|field| field["eval"] = Value::Null);
    }
    assert_eq!(first["lines"], again["lines"]);
    assert_eq!(first, again);
}

#[test]
fn a_policy_that_denies_keeps_every_seed_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("gavel.yaml");
    fs::write(&config, "kernels: [{id: k, policy: {allowed_actors: [tamiyo], allowed_tools: [echo]}}]\n").unwrap();
    let output = train(folder.path(), "epochs: 3\n", &["--config", path(&config)]).code(0);
    assert!(output.stdout.contains("seeds at the end    4 DORMANT"), "{}", output.stdout);
    assert!(output.stdout.contains("× Jurisdiction denied: Tool 'kasmina.transition'"), "{}", output.stdout);
    assert!(output.stdout.contains("+0.0 points"), "{}", output.stdout);
}

#[test]
fn a_bad_blueprint_that_was_not_culled_yet_is_no_success() {
    let output = gavel(["kasmina", "train", "--bad-blueprint", "--epochs", "2", "--backend", "cpu"]).code(1);
    assert!(output.stdout.contains("restored            bit for bit"), "{}", output.stdout);
    assert!(output.stdout.contains("0 culled"), "{}", output.stdout);
}

#[test]
fn two_plans_are_compared_on_the_same_data() {
    let folder = tempfile::tempdir().unwrap();
    let (other, plot) = (folder.path().join("plain.yaml"), folder.path().join("both.svg"));
    fs::write(&other, HASTY.replace("ramp_steps: 3", "ramp_steps: 9")).unwrap();
    let args = ["--compare", path(&other), "--plot", path(&plot), "--strategy", "fixed_ramp"];
    let output = train(folder.path(), HASTY, &args);
    for expected in ["plain against plan, on the same data: ", "first fossilised", "images only plan had right"] {
        assert!(output.stdout.contains(expected), "{expected}:\n{}\n{}", output.stdout, output.stderr);
    }
    let texts = texts_of_well_formed(&fs::read_to_string(&plot).unwrap());
    assert!(texts.iter().any(|text| text == "Stage of each seed, plain"), "{texts:?}");
    assert!(texts.iter().any(|text| text.starts_with("plan: with seeds, ")), "{texts:?}");
}

#[test]
fn features_can_be_turned_off() {
    let asked = ["kasmina", "train", "--show-plan", "--without", "chunks,strategies"];
    let plan = gavel(asked).code(0).json();
    let layer = &plan["layer"];
    assert_eq!(
        (&layer["mode"], &layer["seeds"], &layer["strategy"]),
        (&json!("legacy"), &json!(1), &json!("fixed_ramp"))
    );
}

#[test]
fn the_section_says_which_kernel_governs() {
    let folder = tempfile::tempdir().unwrap();
    let (config, data) = (folder.path().join("gavel.yaml"), folder.path().join("data"));
    let kernels = "
kernels:
  - {id: open, policy: {allowed_actors: [tamiyo], allowed_tools: [kasmina.transition]}}
  - {id: shut, policy: {allowed_actors: [tamiyo], allowed_tools: [echo]}}
kasmina: {kernel: shut}
";
    fs::write(&config, kernels).unwrap();
    let args = ["--json", "--config", path(&config), "--data", path(&data)];
    let told = train(folder.path(), "epochs: 2\n", &args).code(0).json();
    assert!(told["ledger"].as_str().unwrap().ends_with("kernels/shut/ledger"), "{}", told["ledger"]);
    assert_eq!(told["runs"][0]["transitions"]["allowed"], 0, "{}", told["runs"][0]["transitions"]);
}

#[test]
fn options_that_would_do_nothing_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let train = |args: &[&str]| train(folder.path(), "", args).code(2).stderr;
    let bench = |args: &[&str]| gavel([&["kasmina", "bench"], args].concat()).code(2).stderr;
    for (told, why) in [
        (train(&["--without", "strategies", "--strategy", "fixed_ramp"]), "leave --strategy out"),
        (train(&["--bad-blueprint", "--tamiyo", "t.wasm"]), "cannot be used with"),
        (train(&["--show-plan", "--compare", "b.yaml"]), "cannot be used with"),
        (bench(&["--boundary", "10", "--threads", "2"]), "cannot be used with"),
        (bench(&["--boundary", "10", "--rounds", "2"]), "cannot be used with"),
        (bench(&["--boundary", "0"]), "1..=1000000"),
    ] {
        assert!(told.contains(why), "{why}: {told}");
    }
}

#[test]
fn the_plan_that_is_shown_is_a_plan() {
    let folder = tempfile::tempdir().unwrap();
    let shown = gavel(["kasmina", "train", "--show-plan"]).code(0).stdout;
    let again = train(folder.path(), &shown, &["--show-plan"]).code(0).stdout;
    assert_eq!(again, shown);
}

#[test]
fn what_cannot_be_used_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let why = |plan: &str, args: &[&str]| {
        let output = train(folder.path(), plan, args).code(2);
        output.stderr.lines().last().unwrap_or_default().replace(path(folder.path()), "")
    };
    assert!(
        why("epochz: 3\n", &[])
            .starts_with("gavel: /plan.yaml: unknown key `epochz`; the nearest known key is `epochs`")
    );
    assert!(why("layer: {gates: {delta: 1}}\n", &[]).contains("unknown key `delta` in layer.gates"));
    assert!(why("hidden: 3\n", &[]).contains("4 seeds cannot tile a layer of width 3"));
    assert!(
        why("layer: {strategy: fast}\n", &[]).contains("grafting strategy `fast` is not registered; registered are: ")
    );
    assert!(why("epochs: 0\n", &[]).ends_with("the plan has 0 epochs: give 1 to 1000000"));
    assert!(why("", &["--without", "gpu"]).ends_with("--without gpu: give chunks or strategies"));
    assert!(why("", &["--adapter", "Voodoo 2"]).ends_with("--adapter is for --backend wgpu"));
    assert!(why("epochs: 1\n", &["--strategy", "/none.wasm"]).contains("/none.wasm"));
    assert!(
        why("epochs: 1\n", &["--plot", "/none/there.svg"]).contains("the plot cannot be written to /none/there.svg")
    );
    let _ = gavel(["kasmina", "train", "--epochs", "0"]).code(2);
    let missing = gavel(["kasmina", "inspect", "/none.kasmina"]).code(2).stderr;
    assert!(missing.contains("/none.kasmina"), "{missing}");
}

#[test]
fn a_machine_is_inspected() {
    let told = gavel(["kasmina", "inspect", "--json", "--backend", "cpu", "--width", "10"]).code(0).json();
    assert_eq!(told["chosen"]["backend"], "cpu");
    let parameters = told["blueprints"].as_array().unwrap().iter();
    let parameters: Vec<String> = parameters.map(|it| format!("{} {}", it["name"], it["parameters"])).collect();
    expect![[r#"
        [
            "\"residual_scale\" 20",
            "\"adapter\" 346",
            "\"mlp\" 2510",
        ]
    "#]]
    .assert_debug_eq(&parameters);
    assert_eq!(told["strategies"].as_array().unwrap().len(), 4);
    let text = gavel(["kasmina", "inspect", "--backend", "cpu"]).code(0).stdout;
    assert!(text.starts_with("chosen      cpu: ") && text.contains("strategies  fixed_ramp, "), "{text}");
}

/// Every row has its error; what a row is worth on this machine is not asked.
#[test]
fn rows_of_a_bench_carry_their_errors() {
    let shape = ["kasmina", "bench", "--json", "--backend", "cpu", "--shape", "16x64x8", "--rounds", "1"];
    let output = gavel(shape);
    if output.code == Some(2) {
        // The one thing that can go wrong on a busy machine: then it must say so and print no figures.
        assert!(output.stderr.contains("the measurement is wrong, run it again"), "{}", output.stderr);
        assert_eq!(output.stdout, "");
        return;
    }
    let rows = output.code(0).json()["rows"].take();
    let passes: Vec<&Value> = rows.as_array().unwrap().iter().filter(|row| row["what"] == "pass").collect();
    assert_eq!(passes.len(), 6, "dormant, 30 % and all, with telemetry and without: {rows}");
    assert!(passes.iter().all(|row| row["error_y"].as_f64().is_some_and(|error| error < 1e-6)), "{rows}");
    let wrong = gavel(["kasmina", "bench", "--shape", "16x64x65"]).code(2).stderr;
    assert!(wrong.contains("1 to 64 seeds"), "{wrong}");
}

#[test]
fn every_command_has_help_with_an_example() {
    for command in ["train", "bench", "inspect", "serve"] {
        let help = gavel(["kasmina", command, "--help"]).code(0).stdout;
        assert!(help.contains(&format!("gavel kasmina {command}")) && help.contains("Examples:"), "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 120), "{command}: a line is too long");
    }
}
