//! `gavel policy build`: from a project to a package.

use super::super::Outcome;
use super::super::output::{line, note, print_json, shown};
use super::subject::{Project, cached_sandbox, read_package, replace, size};
use crate::policies::package::Package;
use anyhow::{Context, Result, bail, ensure};
use gavel_runtime::{Inspection, Limits, PolicySource};
use serde_json::json;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

/// Build a project: run its build command, put manifest and tests into the component, and load it once.
///
/// The command that `build` names in policy.yaml is run in the project's folder, with the path of this program in `GAVEL`;
/// what it prints goes to standard error. Nothing is downloaded but by that command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  gavel policy build\n  gavel policy build no-deletes --json")]
pub(super) struct Args {
    /// The project's folder.
    #[arg(default_value = ".")]
    dir: PathBuf,
}

/// By this exit code a build command says that tools are missing; its last lines name what installs them.
const TOOLS_MISSING: i32 = 3;
/// Lines of a build's output that come with an error, and characters of each.
const LAST_LINES_MAX: usize = 12;
const LINE_CHARS_MAX: usize = 400;

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    let project = Project::open(&args.dir)?;
    // Read before anything is built: a mistake in it should not cost a build.
    let tests = project.tests()?;
    let started = Instant::now();
    compile(&project)?;
    let path = project.component();
    ensure!(
        path.is_file(),
        "{}: `{}` ended well but did not make it: `component` in policy.yaml must name what the build makes",
        path.display(),
        project.manifest.build
    );
    let made = Package::read(&read_package(&path)?).with_context(|| path.display().to_string())?;
    let package = made.with_manifest_and_tests(&project.manifest, tests.as_ref())?;
    let inspection = super::super::runtime()?.block_on(load(&project, &package))?;
    project.manifest.check(&inspection.metadata).map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))?;
    // Written over the component only now, so that what is there under its name has been loaded.
    replace(&path, &package.to_bytes())?;
    tell(&path, &project, &package, &inspection, started, as_json)?;
    Ok(Outcome::Yes)
}

async fn load(project: &Project, package: &Package) -> Result<Inspection> {
    let needs = project.manifest.needs;
    let source = PolicySource {
        limits: needs.granted_over(Limits::default()),
        ..PolicySource::new(project.manifest.name.clone(), package.component.clone())
    };
    Ok(cached_sandbox(&needs, package.component.len())?.inspect(&source).await?)
}

fn tell(
    path: &Path,
    project: &Project,
    package: &Package,
    inspection: &Inspection,
    started: Instant,
    as_json: bool,
) -> Result<()> {
    let (manifest, metadata) = (&project.manifest, &inspection.metadata);
    let cases = package.tests.as_ref().map_or(0, |tests| tests.cases.len());
    if as_json {
        return print_json(&json!({
            "file": path, "name": metadata.name, "version": metadata.version, "language": manifest.language,
            "bytes": package.component.len(), "digest": package.digest, "imports": inspection.imports,
            "exports": inspection.exports, "tests": cases,
        }));
    }
    let elapsed = started.elapsed().as_secs_f64();
    line(&format!("{} {} ({})  in {elapsed:.1} s", metadata.name, metadata.version, manifest.language))?;
    line(&format!("  {}", shown(&metadata.description, LINE_CHARS_MAX)))?;
    line(&format!("  file     {}  {}", path.display(), size(package.component.len() as u64)))?;
    line(&format!("  digest   {}", package.digest))?;
    line(&format!("  imports  {}", inspection.imports.join(", ")))?;
    line(&format!("  tests    {cases} cases; run them with `gavel policy test {}`", project.folder.display()))
}

/// Run the project's build command. What it prints is passed on as it comes.
fn compile(project: &Project) -> Result<()> {
    let command = &project.manifest.build;
    let gavel = std::env::current_exe().context("this program does not know its own path")?;
    note(&format!("{}: {command}", project.folder.display()));
    let mut child = Command::new("sh")
        .args(["-c", command])
        .current_dir(&project.folder)
        .env("GAVEL", gavel)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{}: `{command}` cannot be run", project.folder.display()))?;
    let last: Last = Arc::default();
    let pipes = [child.stdout.take().map(boxed), child.stderr.take().map(boxed)];
    let readers = pipes.map(|pipe| pipe.map(|pipe| pass_on(pipe, Arc::clone(&last))));
    let status = child.wait().context("the build command was lost")?;
    for reader in readers.into_iter().flatten() {
        // A reader fails by panicking only, and it has no way to.
        let _ = reader.join();
    }
    let last: Vec<String> = last.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
    let words = last.join("\n  ");
    match status.code() {
        Some(0) => Ok(()),
        Some(TOOLS_MISSING) => {
            bail!(
                "{}: tools are missing that build a policy in {}:\n  {words}",
                project.manifest.name,
                project.manifest.language
            )
        }
        Some(code) => {
            bail!("{}: `{command}` failed with exit code {code}; its last words:\n  {words}", project.folder.display())
        }
        None => bail!("{}: `{command}` was ended by a signal; its last words:\n  {words}", project.folder.display()),
    }
}

/// The last lines of a build's output.
type Last = Arc<Mutex<VecDeque<String>>>;

fn boxed(pipe: impl Read + Send + 'static) -> Box<dyn Read + Send> {
    Box::new(pipe)
}

fn pass_on(pipe: Box<dyn Read + Send>, last: Last) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut text = Vec::new();
        // A pipe that breaks has nothing more to say: the exit code tells the rest.
        while matches!(pipe.read_until(b'\n', &mut text), Ok(read) if read > 0) {
            let _ = std::io::stderr().lock().write_all(&text);
            let words = shown(String::from_utf8_lossy(&text).trim_end(), LINE_CHARS_MAX);
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            last.push_back(words);
            if last.len() > LAST_LINES_MAX {
                last.pop_front();
            }
            text.clear();
        }
    })
}
