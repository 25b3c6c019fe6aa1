//! `gavel kasmina inspect`: what this machine and this build have, or what lies in a saved layer.

use super::super::Outcome;
use super::super::output::{line, print_json, shown};
use super::setting::DeviceArgs;
use anyhow::{Context, Result, ensure};
use kasmina::blueprint::Blueprint;
use kasmina::chunks::Chunks;
use kasmina::cpu::Cpu;
use kasmina::device;
use kasmina::experiment::Plan;
use kasmina::layer::{Head, Layer, Library};
use kasmina::state::Lifecycle;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

/// Look at the devices, blueprints and strategies that there are, or at a saved layer.
///
/// A saved layer is what `gavel kasmina train --save` and `GET /kasmina/layers/LAYER/checkpoint` write, and `boundary` in the
/// folder of a served layer. Its digest is checked. Exit code 1: it is damaged.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel kasmina inspect
  gavel kasmina inspect --width 64 --backend cpu
  gavel kasmina inspect layer.kasmina --blueprint adapter-8.json")]
pub(super) struct Args {
    /// A saved layer.
    file: Option<PathBuf>,
    /// A blueprint's description (JSON) that the saved layer needs; may be given more than once.
    #[arg(long, value_name = "FILE", requires = "file")]
    blueprint: Vec<PathBuf>,
    /// Columns of a chunk, for the counts of parameters.
    #[arg(long, value_name = "COLUMNS", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=4096))]
    width: u16,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Bytes of a saved layer and of a description.
const LAYER_BYTES_MAX: u64 = 4 << 30;
const BLUEPRINT_BYTES_MAX: u64 = 1 << 20;
/// Seeds that are listed one by one; all are in the JSON.
const SEEDS_LISTED_MAX: usize = 32;

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let Some(path) = &args.file else {
        let told = machine(args)?;
        tell(as_json, &told, |told| print_machine(told, args.width))?;
        return Ok(Outcome::Yes);
    };
    let bytes = read(path, LAYER_BYTES_MAX)?;
    let mut library = Library::standard();
    // What `train` grows, so that what it saves can be shown as it is.
    let built_in = [Plan::digits().descriptions, Plan::digits().with_bad_blueprint().descriptions];
    for blueprint in built_in.into_iter().flatten() {
        library.blueprints.add(blueprint)?;
    }
    for path in &args.blueprint {
        let text = String::from_utf8(read(path, BLUEPRINT_BYTES_MAX)?).with_context(|| path.display().to_string())?;
        library.blueprints.add(Blueprint::parse(&text).with_context(|| path.display().to_string())?)?;
    }
    let told = match Head::read(&bytes) {
        Ok(head) => saved(&head, &bytes, library)?,
        Err(why) => {
            let why = format!("{}: {why}", path.display());
            tell(as_json, &json!({"ok": false, "error": why}), |told| line(text(told, "error")))?;
            return Ok(Outcome::No);
        }
    };
    tell(as_json, &told, print_saved)?;
    Ok(Outcome::Yes)
}

fn tell(as_json: bool, told: &Value, print: impl FnOnce(&Value) -> Result<()>) -> Result<()> {
    if as_json { print_json(told) } else { print(told) }
}

fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    let named = || path.display().to_string();
    let size = std::fs::metadata(path).with_context(named)?.len();
    ensure!(size <= bytes_max, "{}: {size} bytes, it may have {bytes_max}", path.display());
    std::fs::read(path).with_context(named)
}

/// Devices, and which would be taken; blueprints; strategies.
fn machine(args: &Args) -> Result<Value> {
    let width = usize::from(args.width);
    let library = Library::standard();
    let blueprints = library.blueprints.all().map(|(id, blueprint, _)| {
        json!({
            "name": blueprint.name,
            "id": id,
            "function": blueprint.function.kind(),
            "parameters": blueprint.function.weights(width),
            "operations_per_row": blueprint.function.operations(width),
        })
    });
    let gpus = device::list().into_iter().map(|gpu| {
        json!({
            "name": gpu.name,
            "kind": gpu.kind,
            "hardware": gpu.hardware,
            "detail": gpu.detail,
            "binding_bytes_max": gpu.binding_bytes_max,
        })
    });
    let chosen = DeviceArgs::open(&args.device.preference()?, args.device.threads())?.device();
    Ok(json!({
        "chosen": chosen,
        "gpus": gpus.collect::<Vec<_>>(),
        "chunk_width": width,
        "blueprints": blueprints.collect::<Vec<_>>(),
        "strategies": library.strategies.names(),
    }))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("-")
}

fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

fn print_machine(told: &Value, width: u16) -> Result<()> {
    let chosen = &told["chosen"];
    line(&format!("chosen      {}: {}, {}", text(chosen, "backend"), text(chosen, "name"), text(chosen, "detail")))?;
    for gpu in items(told, "gpus") {
        let (name, kind, detail) = (shown(text(gpu, "name"), 60), text(gpu, "kind"), shown(text(gpu, "detail"), 60));
        let taken = if gpu["hardware"] == true { "" } else { "; only when asked for" };
        line(&format!("gpu         {name} ({kind}, {detail}{taken})"))?;
    }
    if items(told, "gpus").next().is_none() {
        line("gpu         none")?;
    }
    line(&format!("\nblueprint         parameters of a chunk of {width}  id"))?;
    for blueprint in items(told, "blueprints") {
        let (name, id) = (text(blueprint, "name"), text(blueprint, "id"));
        line(&format!("  {name:<24} {:>16}  {id}", blueprint["parameters"]))?;
    }
    let names: Vec<&str> = items(told, "strategies").filter_map(Value::as_str).collect();
    line(&format!("\nstrategies  {}", names.join(", ")))
}

/// A saved layer: its head, and its seeds.
fn saved(head: &Head, bytes: &[u8], library: Library) -> Result<Value> {
    Chunks::new(head.width, head.seeds)?;
    let library = library.shared();
    let backend = || Box::new(Cpu::new(Some(1)));
    let mut layer = Layer::new(head.config(), library.clone(), backend(), backend())?;
    layer.restore(bytes).context("give the descriptions of its blueprints with --blueprint FILE")?;
    let library = library.lock().unwrap_or_else(PoisonError::into_inner);
    let mut stages: BTreeMap<Lifecycle, usize> = BTreeMap::new();
    layer.state().iter().for_each(|state| *stages.entry(state.lifecycle()).or_default() += 1);
    let names = layer.view().blueprints;
    let seeds: Vec<Value> = layer
        .state()
        .iter()
        .enumerate()
        .filter(|(_, state)| state.lifecycle() != Lifecycle::Dormant)
        .map(|(seed, state)| {
            let blueprint = usize::try_from(state.blueprint).ok().and_then(|at| names.get(at));
            let strategy = usize::try_from(state.strategy).ok().and_then(|at| library.strategies.name(at));
            json!({
                "seed": seed,
                "stage": state.lifecycle(),
                "epochs_in_state": state.epochs_in_state,
                "blueprint": blueprint.map(|blueprint| &blueprint.name),
                "strategy": strategy,
                "alpha": layer.alpha()[seed],
                "weights": layer.weights(seed).len(),
                "errors": state.errors,
            })
        })
        .collect();
    let chunks = layer.chunks();
    let weights: usize = (0..head.seeds).map(|seed| layer.weights(seed).len()).sum();
    Ok(json!({
        "ok": true,
        "layer": head,
        "chunks": {"wider": chunks.wider(), "widest": chunks.widest(), "narrow": chunks.narrow()},
        "weights": weights,
        "seeds_by_stage": stages.into_iter().map(|(stage, count)| (stage.name(), count)).collect::<BTreeMap<_, _>>(),
        "seeds": seeds,
    }))
}

fn print_saved(told: &Value) -> Result<()> {
    let (layer, chunks) = (&told["layer"], &told["chunks"]);
    line(&format!(
        "layer       {}, {} columns, {} seeds",
        shown(text(layer, "id"), 60),
        layer["width"],
        layer["seeds"]
    ))?;
    let same = chunks["wider"] == 0;
    let wide = if same {
        String::new()
    } else {
        format!("{} of {} columns, the others of ", chunks["wider"], chunks["widest"])
    };
    line(&format!("chunks      {wide}{} columns", chunks["narrow"]))?;
    line(&format!("epochs      {}", layer["epoch"]))?;
    let task = &layer["task"];
    let number = |key: &str| task[key].as_f64().unwrap_or_default();
    line(&format!("task        loss {:.4}, metric {:.4} at the last boundary", number("loss"), number("metric")))?;
    line(&format!("weights     {}", told["weights"]))?;
    let stages = told["seeds_by_stage"].as_object().into_iter().flatten();
    line(&format!(
        "seeds       {}",
        stages.map(|(stage, count)| format!("{count} {stage}")).collect::<Vec<_>>().join(", ")
    ))?;
    if items(told, "seeds").next().is_some() {
        line("\n  seed  stage          epochs  alpha  weights  errors  blueprint, strategy")?;
    }
    for seed in items(told, "seeds").take(SEEDS_LISTED_MAX) {
        let (alpha, stage) = (seed["alpha"].as_f64().unwrap_or_default(), text(seed, "stage"));
        let (blueprint, strategy) = (shown(text(seed, "blueprint"), 32), shown(text(seed, "strategy"), 32));
        let [number, epochs, weights, errors] =
            ["seed", "epochs_in_state", "weights", "errors"].map(|key| seed[key].to_string());
        line(&format!(
            "  {number:>4}  {stage:<13} {epochs:>7}  {alpha:>5.3} {weights:>8} {errors:>7}  {blueprint}, {strategy}"
        ))?;
    }
    match items(told, "seeds").count().saturating_sub(SEEDS_LISTED_MAX) {
        0 => Ok(()),
        more => line(&format!("  and {more} more; --json lists all")),
    }
}
