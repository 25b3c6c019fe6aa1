//! `gavel policy new`: a complete project to begin with.

use super::super::Outcome;
use super::super::output::{line, print_json};
use crate::policies::manifest::{Language, check_name};
use crate::policies::templates;
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::json;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Write a new policy project: code, contract, manifest, tests, build command, README.
///
/// It builds and passes its tests as it stands; change it from there. An existing folder must be empty.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gavel policy new no-deletes --lang rust
  gavel policy new no-deletes --lang python --dir policies/no-deletes")]
pub(super) struct Args {
    /// Its name: lower case, with hyphens.
    name: String,
    /// What to write it in.
    #[arg(long = "lang", value_name = "LANGUAGE")]
    language: Language,
    /// The folder to write. Default: the name.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &Args, as_json: bool) -> Result<Outcome> {
    check_name(&args.name).map_err(|why| anyhow!("{why}"))?;
    let folder = args.dir.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    check_empty(&folder)?;
    let files = templates::project(args.language, &args.name);
    for file in &files {
        write(&folder.join(&file.path), &file.content, file.executable)?;
    }
    let shown = folder.display();
    let next = [format!("cd {shown}"), "gavel policy build".to_owned(), "gavel policy test".to_owned()];
    if as_json {
        let names: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        print_json(&json!({
            "name": args.name, "language": args.language, "folder": folder, "files": names, "next": next,
        }))?;
        return Ok(Outcome::Yes);
    }
    line(&format!(
        "{shown}: policy {} in {}, {} files; begin with its README.md",
        args.name,
        args.language,
        files.len()
    ))?;
    line("next:")?;
    next.iter().try_for_each(|command| line(&format!("  {command}")))?;
    Ok(Outcome::Yes)
}

fn check_empty(folder: &Path) -> Result<()> {
    match std::fs::read_dir(folder) {
        Ok(mut entries) => {
            ensure!(
                entries.next().is_none(),
                "{}: the folder is not empty; name another one with --dir DIR",
                folder.display()
            );
            Ok(())
        }
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(why) => bail!("{}: {why}", folder.display()),
    }
}

fn write(path: &Path, content: &[u8], executable: bool) -> Result<()> {
    let mode = if executable { 0o777 } else { 0o666 };
    let write = || {
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        // The user's mask takes away what it takes away from other new files.
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?.write_all(content)
    };
    write().with_context(|| path.display().to_string())
}
