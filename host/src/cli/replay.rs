//! `gavel replay`: judge past decisions again.

use super::Outcome;
use super::output::{line, print_json, shown};
use super::policy::subject::{Subject, read_value};
use crate::config;
use crate::host::{catalogue_dir, component_cache, ledger_folder};
use crate::policies;
use crate::policies::admit::Admission;
use crate::policies::catalogue::Catalogue;
use crate::policies::document::Edit;
use crate::policies::shadow::Word;
use crate::replay::{self, Bench, Candidate, Difference, Past, Report, rejudge, what_if};
use anyhow::{Context, Result, ensure};
use gavel_runtime::{Limits, Sandbox};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Judge the decisions of a ledger again: with the very policies that judged, or with others.
///
/// The ledger is verified first; a server may be writing to it. With `--rejudge` each decision is
/// judged by the components of its recorded digest, with the answers that counters gave then, and
/// must come out the same. With `--with` a candidate takes its place, and the decisions that it
/// would change are told. Exit code 1: a rejudged decision came out otherwise.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel replay --rejudge ~/.local/share/gavel/kernels/default/ledger
  gavel replay LEDGER --with builtin:path-allow-list --config paths.yaml
  gavel replay LEDGER --with ./no-deletes/build/no-deletes.wasm --name deletes
  gavel replay LEDGER --with gavel.yaml        (the whole set of that configuration)")]
pub(super) struct Args {
    /// The ledger's folder, or the kernel's around it.
    ledger: PathBuf,
    /// Judge each decision with the policies that judged it.
    #[arg(long, required_unless_present = "with", conflicts_with = "with")]
    rejudge: bool,
    /// Judge each decision with this: a component, a policy's project, `builtin:NAME`, or a
    /// configuration (`.yaml`).
    #[arg(long, value_name = "CANDIDATE")]
    with: Option<String>,
    /// The name of the policy whose place the component takes; it is added where there is none.
    /// Default: the name in the component's manifest, or of its file.
    #[arg(long, requires = "with")]
    name: Option<String>,
    /// The component's configuration (YAML or JSON). Default: that of the policy in its place.
    #[arg(long, requires = "with", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The catalogue of policies. Default: `policies` in the data folder that the ledger lies in.
    #[arg(long, value_name = "DIR")]
    catalogue: Option<PathBuf>,
    /// Differences to show.
    #[arg(long, default_value_t = 20, value_name = "N")]
    show: usize,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    super::runtime()?.block_on(replay(args, as_json))
}

async fn replay(args: &Args, as_json: bool) -> Result<Outcome> {
    let ledger = &ledger_folder(&args.ledger);
    let (verified, records) = gavel_ledger::read_dir(ledger).with_context(|| ledger.display().to_string())?;
    let root = match &args.catalogue {
        Some(root) => root.clone(),
        None => catalogue_beside(ledger)?,
    };
    let mut bench = Bench::new(Catalogue::read_only(&root), component_cache())?;
    let progress = bar(verified.records);
    let started = Instant::now();
    let seen = |decisions| progress.set_position(decisions);
    let report = match &args.with {
        None => rejudge(Past::new(records, ledger), &mut bench, seen).await?,
        Some(with) => {
            let (candidate, components) = candidate(args, with, &verified.identity.kernel_id)?;
            what_if(Past::new(records, ledger), &bench, &candidate, &components, seen).await?
        }
    };
    progress.finish_and_clear();
    if as_json {
        print_json(&report)?;
    } else {
        let seconds = started.elapsed().as_secs_f64();
        print(&report, args, seconds)?;
    }
    Ok(if args.rejudge && report.differing > 0 { Outcome::No } else { Outcome::Yes })
}

/// The catalogue of the data folder that a ledger lies in.
fn catalogue_beside(ledger: &Path) -> Result<PathBuf> {
    let absolute = ledger.canonicalize().with_context(|| ledger.display().to_string())?;
    let data = absolute.ancestors().nth(3).context("the ledger lies in no data folder: give `--catalogue DIR`")?;
    Ok(catalogue_dir(data))
}

fn bar(records: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {human_pos} of at most {human_len} decisions  {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(records).with_style(style)
}

/// What is tried, and its components.
fn candidate(args: &Args, with: &str, kernel: &str) -> Result<(Candidate, Catalogue)> {
    let path = Path::new(with);
    if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
        ensure!(
            args.name.is_none() && args.config.is_none(),
            "`--name` and `--config` are for a component, and {with} is a configuration"
        );
        return configured(path, kernel);
    }
    let subject = Subject::open(with)?;
    let catalogue = Catalogue::in_memory();
    catalogue.put(&subject.package)?;
    let needs = subject.needs();
    let edit = Edit {
        name: args.name.clone().unwrap_or_else(|| subject.name()),
        config: args.config.as_deref().map(|path| read_value(Some(path))).transpose()?,
        limits: needs.each().next().map(|_| needs.granted_over(Limits::default())),
        component: Some(subject.package.digest),
        ..Edit::default()
    };
    Ok((Candidate::Edit(edit), catalogue))
}

fn configured(path: &Path, kernel: &str) -> Result<(Candidate, Catalogue)> {
    let file = config::read(path)?;
    let found = file.kernels.iter().find(|found| found.id == kernel);
    let found = found.with_context(|| format!("{}: there is no kernel '{kernel}'", path.display()))?;
    let admission = Admission::new(&file, Sandbox::new(replay::options(None))?, Catalogue::in_memory());
    let document = policies::configured(&file, found, &admission)?;
    Ok((Candidate::Set(document), admission.into_catalogue()))
}

fn print(report: &Report, args: &Args, seconds: f64) -> Result<()> {
    let (judged, decisions) = (report.judged, report.decisions);
    let per_second = f64::from(u32::try_from(judged).unwrap_or(u32::MAX)) / seconds.max(1e-9);
    line(&format!("{judged} of {decisions} decisions judged again in {seconds:.1} s ({per_second:.0}/s)"))?;
    for (why, count) in &report.skipped {
        line(&format!("  {count:>8}  not judged: {why}"))?;
    }
    let came_out = if args.rejudge { "came out otherwise" } else { "would be decided otherwise" };
    line(&format!("  {:>8}  the same", report.same))?;
    line(&format!("  {:>8}  {came_out}", report.differing))?;
    for (change, count) in changes(&report.differences) {
        line(&format!("            {count:>8}  {change}"))?;
    }
    for difference in report.differences.iter().take(args.show) {
        let tool = difference.tool.as_deref().unwrap_or("(intent only)");
        let request = shown(&difference.request_id, 60);
        line(&format!(
            "\n  record {}  request {request}  {}  {}",
            difference.index,
            difference.actor,
            shown(tool, 60)
        ))?;
        line(&format!("    then  {}", told(&difference.recorded)))?;
        line(&format!("    now   {}", told(&difference.now)))?;
        if let Some(note) = &difference.note {
            line(&format!("    {}", shown(note, 200)))?;
        }
    }
    let rest = report.differing.saturating_sub(args.show as u64);
    if rest > 0 { line(&format!("\n  and {rest} more (`--show N`, or `--json` for all)")) } else { Ok(()) }
}

fn told(word: &Word) -> String {
    match word {
        Word::Allow => "ALLOW".into(),
        Word::Deny { reason, escalated: false, .. } => format!("DENY   {}", shown(reason, 200)),
        Word::Deny { reason, escalated: true, .. } => format!("DENY (a human is asked for)  {}", shown(reason, 200)),
    }
}

fn changes(differences: &[Difference]) -> BTreeMap<&'static str, u64> {
    let mut changes = BTreeMap::new();
    for difference in differences {
        let change = match (&difference.recorded, &difference.now) {
            (Word::Allow, Word::Deny { .. }) => "ALLOW becomes DENY",
            (Word::Deny { .. }, Word::Allow) => "DENY becomes ALLOW",
            (Word::Deny { .. }, Word::Deny { .. }) => "DENY for another reason",
            (Word::Allow, Word::Allow) => "ALLOW by other words",
        };
        *changes.entry(change).or_default() += 1;
    }
    changes
}
