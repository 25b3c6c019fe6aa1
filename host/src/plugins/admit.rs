//! From a place in a folder to a plugin that may be registered: read, verified, described, granted, its configuration
//! held against its schema. Nothing of it runs for the bus before all of that holds, and nothing is compiled that is
//! known already.

use super::files::{self, only_ours};
use super::folder::Found;
use super::grants::{Granted, Grants, plain};
use super::manifest::{Manifest, Overlay, check_name};
use super::settings::Settings;
use super::shelf::Shelf;
use crate::policies::admit::trusted_signers;
use crate::policies::package::{Package, digest_of};
use crate::signing::PublicKey;
use anyhow::{Context, Result, anyhow, bail, ensure};
use arc_swap::ArcSwap;
use gavel_bus::{Capabilities, Metadata, Pattern};
use gavel_runtime::Sandbox;
use gavel_runtime::plugin::Described;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of a plugin's configuration as JSON.
const CONFIG_BYTES_MAX: usize = 1 << 20;

/// A plugin that may be registered.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Where it lies: its folder, or its bare component.
    pub place: PathBuf,
    /// Its component's file.
    pub component: PathBuf,
    /// `sha256:` and the hex digest of its code.
    pub digest: String,
    /// The names of the trusted keys that signed it.
    pub signers: Vec<String>,
    /// The keys that signed it, trusted or not.
    pub keys: Vec<PublicKey>,
    /// What its manifest grants.
    pub manifest_grants: Grants,
    /// What the component says of itself.
    pub described: Described,
    /// The same, for the bus, under the name that it runs by.
    pub metadata: Metadata,
    /// What it does, with what it was granted of what it asked.
    pub capabilities: Capabilities,
    /// What it was granted.
    pub granted: Granted,
    /// Its configuration.
    pub config: Value,
}

impl Candidate {
    /// The name that it runs by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.metadata.name
    }

    /// What tells it from another version of itself: code, configuration and grants.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let limits = &self.granted.limits;
        let what = json!([self.digest, self.metadata, self.capabilities, self.config, limits]);
        digest_of(what.to_string().as_bytes())
    }
}

/// What stands between a file and a plugin.
#[derive(Debug)]
pub struct Admission {
    /// Where components are compiled and asked what they are.
    pub sandbox: Sandbox,
    /// What is known already.
    pub shelf: Shelf,
    settings: ArcSwap<Settings>,
}

impl Admission {
    /// By these settings.
    #[must_use]
    pub fn new(sandbox: Sandbox, settings: Settings, shelf: Shelf) -> Self {
        Self { sandbox, shelf, settings: ArcSwap::from_pointee(settings) }
    }

    /// What the host is told.
    #[must_use]
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// From now on by these.
    pub(super) fn reconfigure(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    /// Take a plugin from its place. Compiles if the component is not known: not for a thread that serves.
    ///
    /// # Errors
    /// Why it is left out.
    pub(super) fn admit(&self, place: &Path, found: &Found) -> Result<Candidate> {
        let manifest = match &found.manifest {
            Some(path) => {
                only_ours(folder_of(place), place).and_then(|_| only_ours(place, path)).map_err(anyhow::Error::msg)?;
                Manifest::read(path)?
            }
            None => Manifest::bare(place.to_owned()),
        };
        let root = if found.manifest.is_some() { place } else { folder_of(place) };
        let package = self.read(root, &manifest.component)?;
        self.admit_package(place, &manifest, &package).with_context(|| manifest.component.display().to_string())
    }

    /// A component by itself, as a plugin of its own name without a manifest.
    ///
    /// # Errors
    /// Why it would be left out.
    pub fn admit_file(&self, file: &Path) -> Result<Candidate> {
        let package = self.read(folder_of(file), file)?;
        self.admit_package(file, &Manifest::bare(file.to_owned()), &package).with_context(|| file.display().to_string())
    }

    /// A component that lies, and really lies, below `root`.
    fn read(&self, root: &Path, component: &Path) -> Result<Package> {
        let real = only_ours(root, component).map_err(anyhow::Error::msg)?;
        let shown = component.display();
        let bytes = files::read(&real, self.settings().component_bytes_max, "limits.max_component_bytes")
            .map_err(|why| anyhow!("{shown}: {why}"))?;
        Package::read(&bytes).with_context(|| shown.to_string())
    }

    /// What now stands against a plugin that serves: none of the keys that signed it is trusted any more, or a signature
    /// is required now.
    pub(super) fn distrust(&self, candidate: &Candidate) -> Option<String> {
        let signatures = &self.settings().signatures;
        let trusted = |key: &PublicKey| signatures.keys.values().any(|known| known == key);
        let doubted = signatures.required && !candidate.keys.iter().any(trusted);
        doubted.then(|| "signatures are required, and no key that is trusted now signed it".to_owned())
    }

    /// A plugin that serves, with what it is granted now, and its code and configuration as they are. `None` where that is
    /// what it has, or cannot be known.
    pub(super) fn granted_now(&self, candidate: &Candidate) -> Option<Candidate> {
        let settings = self.settings();
        let name = candidate.name();
        let overlay = Overlay::read(name, settings.says_of(name)).ok()?;
        let required = settings.signatures.required;
        let mut granted = granted(&overlay, &candidate.manifest_grants, &candidate.described, required).ok()?;
        // More room is for what is admitted anew.
        let (now, had) = (&mut granted.limits, &candidate.granted.limits);
        now.max_memory_bytes = now.max_memory_bytes.min(had.max_memory_bytes);
        now.deadline_ms = now.deadline_ms.min(had.deadline_ms);
        let capabilities = capabilities(&candidate.described, &granted).ok()?;
        let narrowed = Candidate { capabilities, granted, ..candidate.clone() };
        (narrowed.fingerprint() != candidate.fingerprint()).then_some(narrowed)
    }

    fn admit_package(&self, place: &Path, manifest: &Manifest, package: &Package) -> Result<Candidate> {
        if let Some(wanted) = manifest.digest.as_ref().filter(|wanted| **wanted != package.digest) {
            bail!("it is {}, and the manifest wants {wanted}: it is not what was meant to be here", package.digest);
        }
        let settings = self.settings();
        let signers = trusted_signers(&settings.signatures, package, "daemon.plugin_signatures.keys")?;
        let label = place.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let described = self.described(&label, package)?;
        let name = manifest.name.clone().unwrap_or_else(|| described.metadata.name.clone());
        check_name(&name).map_err(anyhow::Error::msg)?;
        let overlay = Overlay::read(&name, settings.says_of(&name))?;
        let granted = granted(&overlay, &manifest.grants, &described, settings.signatures.required)?;
        let config = overlay.config_over(&manifest.config);
        check_size(&config)?;
        self.sandbox.check_plugin(&name, &config, &granted.limits, &described)?;
        self.shelf.keep(&package.digest, &package.component)?;
        Ok(Candidate {
            place: place.to_owned(),
            component: manifest.component.clone(),
            digest: package.digest.clone(),
            signers,
            keys: package.signatures.iter().map(|signature| signature.key).collect(),
            manifest_grants: manifest.grants.clone(),
            metadata: metadata(&name, &described),
            capabilities: capabilities(&described, &granted)?,
            granted,
            config,
            described,
        })
    }

    /// What the component says of itself: from the shelf, else from the component.
    fn described(&self, label: &str, package: &Package) -> Result<Described> {
        if let Some(known) = self.shelf.described(&package.digest) {
            return Ok(known);
        }
        let described = self.sandbox.describe_plugin(label, &package.component)?;
        self.shelf.note(&package.digest, &described);
        Ok(described)
    }
}

/// The folder that a place is in.
fn folder_of(place: &Path) -> &Path {
    place.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Where a signature is required, a manifest, which has none, grants nothing.
fn granted(overlay: &Overlay, manifest: &Grants, described: &Described, signed_only: bool) -> Result<Granted> {
    let below = if signed_only { Grants::default() } else { manifest.clone() };
    let mut granted = overlay.grants_over(&below).grant(&described.capabilities).map_err(anyhow::Error::msg)?;
    if *manifest != below {
        let word = "what its manifest grants: it is not signed, and daemon.plugin_signatures.required; grant it under plugins.NAME.grants";
        granted.withheld.push(word.to_owned());
    }
    Ok(granted)
}

fn check_size(config: &Value) -> Result<()> {
    let bytes = config.to_string().len();
    ensure!(bytes <= CONFIG_BYTES_MAX, "its configuration has {bytes} bytes, at most {CONFIG_BYTES_MAX} are allowed");
    Ok(())
}

fn metadata(name: &str, described: &Described) -> Metadata {
    let said = &described.metadata;
    Metadata {
        name: name.to_owned(),
        version: said.version.clone(),
        description: said.description.clone(),
        author: said.author.clone(),
        dependencies: said.dependencies.clone(),
        priority: said.priority,
    }
}

fn capabilities(described: &Described, granted: &Granted) -> Result<Capabilities> {
    let said = &described.capabilities;
    for name in said.event_namespaces.iter().map(|space| plain(space)).chain(said.commands.iter().map(String::as_str)) {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '_' | '-' | '.' | '/');
        ensure!(
            !name.is_empty() && name.chars().all(legal),
            "it says that it answers {name:?}: names have letters, digits, and : _ - . / only"
        );
    }
    let patterns = |texts: &[String]| -> Result<Vec<Pattern>> {
        texts.iter().map(|text| Pattern::parse(text).map_err(anyhow::Error::msg)).collect()
    };
    Ok(Capabilities {
        event_namespaces: said.event_namespaces.clone(),
        commands: said.commands.clone(),
        provides_services: said.provides_services.clone(),
        subscribes: patterns(&said.subscribes)?,
        before: granted.before.clone(),
        after: patterns(&said.after)?,
        emits: granted.emits.clone(),
        state: granted.state.clone(),
        tools: granted.tools.clone(),
        memory_bytes: granted.limits.max_memory_bytes,
        deadline_ms: granted.limits.deadline_ms,
    })
}
