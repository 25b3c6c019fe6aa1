//! What a command is about: a project's folder, a package's file, or `builtin:NAME`; and the sandbox it is run in.

use super::super::output::{line, note, shown};
use crate::host::component_cache;
use crate::policies::builtin;
use crate::policies::cases::{Answer, Line};
use crate::policies::manifest::{self, Manifest, Needs};
use crate::policies::package::{PACKAGE_BYTES_MAX, Package};
use crate::policies::suite::{SUITE_BYTES_MAX, Suite, value_of};
use anyhow::{Context, Result, bail, ensure};
use gavel_runtime::{Limits, PolicySource, Sandbox, SandboxOptions};
use serde_json::Value;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

/// Instances that an author's sandbox has room for.
const INSTANCES_MAX: u32 = 16;
/// Bytes of a manifest, a configuration or a request that a command reads.
const TEXT_BYTES_MAX: u64 = 4 << 20;

/// A component of so many bytes carries a language's runtime and takes seconds to compile.
const PATIENCE_BYTES: usize = 1 << 20;

/// A policy that a command is about.
pub(in crate::cli) struct Subject {
    /// What the command line called it.
    pub(super) label: String,
    /// Its package.
    pub(in crate::cli) package: Package,
    /// Its manifest: the project's, where it is a project, else the package's.
    pub(super) manifest: Option<Manifest>,
    /// Its tests, from the same place.
    pub(super) tests: Option<Suite>,
}

/// A project: a folder with a manifest.
pub(super) struct Project {
    pub(super) folder: PathBuf,
    pub(super) manifest: Manifest,
}

impl Subject {
    /// What `policy` names: `builtin:NAME`, a folder with a `policy.yaml`, or a package's file.
    pub(in crate::cli) fn open(policy: &str) -> Result<Self> {
        if let Some(name) = policy.strip_prefix(builtin::PREFIX) {
            let bytes = builtin::find(name).with_context(|| {
                format!(
                    "{policy}: there is no such builtin (there are: {})",
                    builtin::names().collect::<Vec<_>>().join(", ")
                )
            })?;
            let tests =
                builtin::tests(name).map(|tests| Suite::from_text(Path::new("tests.yaml"), tests)).transpose()?;
            return Ok(Self { tests, ..Self::of(policy, bytes)? });
        }
        let path = Path::new(policy);
        if !path.is_dir() {
            return Self::of(policy, &read_package(path)?);
        }
        let project = Project::open(path)?;
        let component = project.component();
        ensure!(
            component.exists(),
            "{}: the project is not built; build it with `gavel policy build {policy}`",
            component.display()
        );
        let subject = Self::of(&component.display().to_string(), &read_package(&component)?)?;
        Ok(Self { tests: project.tests()?, manifest: Some(project.manifest), ..subject })
    }

    fn of(label: &str, bytes: &[u8]) -> Result<Self> {
        let package = Package::read(bytes).with_context(|| label.to_owned())?;
        Ok(Self { label: label.to_owned(), manifest: package.manifest.clone(), tests: package.tests.clone(), package })
    }

    /// Its name: the manifest's, else what the command line called it.
    pub(in crate::cli) fn name(&self) -> String {
        let file = || Path::new(&self.label).file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let builtin = self.label.strip_prefix(builtin::PREFIX).map(str::to_owned);
        let named = self.manifest.as_ref().map(|manifest| manifest.name.clone());
        named.or(builtin).or_else(file).unwrap_or_else(|| self.label.clone())
    }

    /// A sandbox to run it in.
    pub(super) fn sandbox(&self) -> Result<Sandbox> {
        cached_sandbox(&self.needs(), self.package.component.len())
    }

    /// What its manifest asks for.
    pub(in crate::cli) fn needs(&self) -> Needs {
        self.manifest.as_ref().map(|manifest| manifest.needs).unwrap_or_default()
    }

    /// It, to be loaded with `config` and with what it needs.
    pub(super) fn source(&self, config: Value) -> PolicySource {
        PolicySource {
            config,
            limits: self.needs().granted_over(Limits::default()),
            ..PolicySource::new(self.name(), self.package.component.clone())
        }
    }
}

impl Project {
    /// The project in `folder`.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(manifest::FILE);
        ensure!(
            path.is_file(),
            "{}: no policy project, there is no {}; write one with `gavel policy new NAME --lang LANGUAGE`",
            folder.display(),
            manifest::FILE
        );
        let manifest = Manifest::from_yaml(&path, &read_text(&path, TEXT_BYTES_MAX)?)?;
        Ok(Self { folder: folder.to_owned(), manifest })
    }

    /// What its build command makes.
    pub(super) fn component(&self) -> PathBuf {
        self.folder.join(&self.manifest.component)
    }

    /// The tests that its manifest names.
    pub(super) fn tests(&self) -> Result<Option<Suite>> {
        let path = self.manifest.tests.as_ref().map(|tests| self.folder.join(tests));
        path.map(|path| read_suite(&path)).transpose()
    }
}

/// A sandbox that can grant `needs`; compiled components are kept in the folder, if one is given.
pub(super) fn sandbox(needs: &Needs, cache_dir: Option<PathBuf>) -> Result<Sandbox> {
    let options = SandboxOptions { cache_dir, max_instances: INSTANCES_MAX, ..SandboxOptions::default() };
    Ok(Sandbox::new(needs.room_in(options))?)
}

/// The same for a component of so many bytes, with the user's own cache of compiled components.
pub(super) fn cached_sandbox(needs: &Needs, bytes: usize) -> Result<Sandbox> {
    if bytes > PATIENCE_BYTES && std::io::stderr().is_terminal() {
        note(&format!("loading {}; what was not compiled before takes seconds", size(bytes as u64)));
    }
    sandbox(needs, component_cache())
}

/// The bytes of a package's file.
pub(super) fn read_package(path: &Path) -> Result<Vec<u8>> {
    let size = std::fs::metadata(path).with_context(|| path.display().to_string())?.len();
    ensure!(size <= PACKAGE_BYTES_MAX, "{}: {size} bytes, a package may have {PACKAGE_BYTES_MAX}", path.display());
    std::fs::read(path).with_context(|| path.display().to_string())
}

/// A file of tests.
pub(super) fn read_suite(path: &Path) -> Result<Suite> {
    Ok(Suite::from_text(path, &read_text(path, SUITE_BYTES_MAX as u64)?)?)
}

/// A file's value in YAML or JSON; `-` is standard input, no file is null.
pub(in crate::cli) fn read_value(path: Option<&Path>) -> Result<Value> {
    let Some(path) = path else { return Ok(Value::Null) };
    let text = read_text(path, TEXT_BYTES_MAX)?;
    value_of(&text).map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))
}

fn read_text(path: &Path, bytes_max: u64) -> Result<String> {
    let mut text = String::new();
    let reader: Box<dyn Read> = if path.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(path).with_context(|| path.display().to_string())?)
    };
    reader.take(bytes_max + 1).read_to_string(&mut text).with_context(|| path.display().to_string())?;
    if text.len() as u64 > bytes_max {
        bail!("{}: more than {bytes_max} bytes", path.display());
    }
    Ok(text)
}

/// Write a file whole or not at all, with the permissions that the file had which it replaces.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let permissions = std::fs::metadata(path).map(|metadata| metadata.permissions());
        let mut beside = tempfile::NamedTempFile::new_in(folder)?;
        std::io::Write::write_all(&mut beside, bytes)?;
        if let Ok(permissions) = permissions {
            beside.as_file().set_permissions(permissions)?;
        }
        beside.as_file().sync_all()?;
        beside.persist(path)?;
        Ok(())
    };
    write().with_context(|| path.display().to_string())
}

/// Lines of a guest's log that are shown, the last of them, and characters of each.
const LINES_SHOWN_MAX: usize = 24;
const LINE_CHARS_MAX: usize = 400;

/// A guest's log, a traceback on as many lines as it has, each behind `indent`.
pub(super) fn print_logs(answer: &Answer, indent: &str) -> Result<()> {
    let split = |log: &Line| log.message.lines().map(|text| (log.level, text.to_owned())).collect::<Vec<_>>();
    let lines: Vec<(&str, String)> = answer.logs.iter().flat_map(split).collect();
    let left_out = lines.len().saturating_sub(LINES_SHOWN_MAX);
    if left_out > 0 {
        line(&format!("{indent}({left_out} earlier lines are not shown)"))?;
    }
    for (level, text) in &lines[left_out..] {
        line(&format!("{indent}{level:<5}  {}", shown(text, LINE_CHARS_MAX)))?;
    }
    if answer.logs_dropped > 0 {
        line(&format!("{indent}({} more lines were dropped, max_log_lines)", answer.logs_dropped))?;
    }
    Ok(())
}

/// A duration for people.
pub(super) fn ms(duration: std::time::Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1_000.0)
}

/// A size for people.
pub(super) fn size(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
    let bytes_f = bytes as f64;
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{:.1} KiB", bytes_f / 1_024.0),
        _ => format!("{:.1} MiB", bytes_f / 1_048_576.0),
    }
}
