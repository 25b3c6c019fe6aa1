//! The vault: the register of keys, and the private keys that sign now.
//!
//! In the kernel's folder lie `keys.json`, the register, and `private/PUBLIC_KEY.pem`, one file for each private key. The order
//! of the steps is the promise:
//!
//! - **A new key**: its private half is durable before the register names it. A crash in between leaves a file that nothing
//!   names, which signs nothing.
//! - **Rotation and revocation**: the register says so, durably, before anybody is told; then the private half that signs no
//!   longer is erased. A crash in between leaves it to the next opening.
//!
//! One change happens at a time; who signs or verifies meanwhile sees the keys before it.

use super::register::{NamedKey, Register, Report, Revocation, Version};
use super::settings::Settings;
use crate::durable::{self, NotKept};
use crate::fault::Fault;
use crate::kind::{Clock, Seed};
use crate::private_key;
use anyhow::{Context, Result, bail};
use ed25519_dalek::SigningKey;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use tokio::sync::Notify;

const REGISTER: &str = "keys.json";
const PRIVATE: &str = "private";
/// Reports that may wait for the immutable log before keys can no longer be made or rotated. Revoking is always possible.
const REPORTS_MAX: usize = 1_000;

/// An open vault.
pub(super) struct Vault {
    folder: PathBuf,
    pub(super) settings: Settings,
    /// What is durable.
    held: RwLock<Arc<Held>>,
    changing: Mutex<()>,
    /// Why it is not known what the disk holds.
    stopped: OnceLock<String>,
    clock: Clock,
    /// Whether there is an immutable log to report to.
    reporting: bool,
    /// Notified when there is something to report.
    pub(super) news: Notify,
}

/// The keys at one moment.
#[derive(Clone, Default)]
pub(super) struct Held {
    pub(super) register: Register,
    /// By name: only of versions that are current.
    signers: BTreeMap<String, Arc<Signer>>,
    /// Current keys whose private half cannot be used, and why.
    pub(super) unusable: BTreeMap<String, String>,
}

/// A private key at work. Shown nowhere.
pub(super) struct Signer {
    pub(super) version: usize,
    pub(super) key: SigningKey,
    pub(super) used: AtomicU64,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("version", &self.version).finish_non_exhaustive()
    }
}

/// Who changes a key, and why.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) by: String,
    pub(super) why: String,
}

/// What a change wants done around the register.
#[derive(Default)]
struct Steps {
    /// Made before, and to be taken back if the change fails.
    made: Option<PathBuf>,
    /// Public keys whose private halves sign no longer.
    gone: Vec<[u8; 32]>,
}

impl Vault {
    /// Opens the vault of the seed's folder, or makes it, and finishes what a crash left. Blocks.
    pub(super) fn open(seed: &Seed, settings: Settings) -> Result<Self> {
        let folder = seed.folder.clone();
        let path = folder.join(REGISTER);
        make_private_folder(&folder.join(PRIVATE))?;
        durable::remove_unfinished(&path).with_context(|| path.display().to_string())?;
        let register = if path.exists() {
            let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
            Register::read(&bytes).map_err(anyhow::Error::msg).with_context(|| path.display().to_string())?
        } else {
            let left = private_files(&folder)?.len();
            if left > 0 {
                bail!(
                    "{}: it is missing, though there are {left} private keys: restore it from a copy, else revoked keys would count again",
                    path.display()
                );
            }
            let register = Register::default();
            durable::replace(&path, &register.to_json().map_err(anyhow::Error::msg)?)?;
            register
        };
        let mut held = Held { register, ..Held::default() };
        held.load(&folder);
        tidy(&folder, &held.register)?;
        Ok(Self {
            folder,
            settings,
            held: RwLock::new(Arc::new(held)),
            changing: Mutex::default(),
            stopped: OnceLock::new(),
            clock: Arc::clone(&seed.clock),
            reporting: seed.peers.are_there(),
            news: Notify::new(),
        })
    }

    /// The keys now.
    pub(super) fn held(&self) -> Arc<Held> {
        Arc::clone(&self.held.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Why keys can no longer be changed, if so.
    pub(super) fn stopped(&self) -> Option<&str> {
        self.stopped.get().map(String::as_str)
    }

    /// Makes a key that these senders may sign with. Blocks.
    pub(super) fn create(&self, name: &str, senders: BTreeSet<String>, change: &Change) -> Result<(), Fault> {
        self.change(|held, steps| {
            if held.register.keys.contains_key(name) {
                return Err(Fault::conflict(format!(
                    "there is a key `{name}` already: rotate it, or choose another name"
                )));
            }
            if held.register.keys.len() >= self.settings.keys_max {
                let most = self.settings.keys_max;
                return Err(Fault::conflict(format!("there are {most} keys already, as many as keys_max allows")));
            }
            self.may_report(held)?;
            let now_ms = (self.clock)();
            let (version, signer) = self.make(1, change, steps)?;
            let report = report("created", name, 1, &version, change);
            let created_by = change.by.clone();
            let key = NamedKey { created_ms: now_ms, created_by, senders, versions: vec![version] };
            held.register.keys.insert(name.to_owned(), key);
            held.signers.insert(name.to_owned(), Arc::new(signer));
            self.report(held, report);
            Ok(())
        })
    }

    /// Has another version of a key sign from now on. Blocks.
    pub(super) fn rotate(&self, name: &str, from: Option<usize>, change: &Change) -> Result<(), Fault> {
        self.change(|held, steps| {
            let count = held.register.key(name)?.versions.len();
            if from.is_some_and(|from| from != count) {
                return Err(Fault::conflict(format!(
                    "the last version of key `{name}` is {count}: it was rotated already"
                )));
            }
            if count >= self.settings.versions_max {
                let most = self.settings.versions_max;
                return Err(Fault::conflict(format!(
                    "key `{name}` has {count} versions and versions_max is {most}: make a key of another name"
                )));
            }
            self.may_report(held)?;
            let (version, signer) = self.make(count + 1, change, steps)?;
            let report = report("rotated", name, count + 1, &version, change);
            let key = held.register.key_mut(name)?;
            if let Some(last) = key.versions.last_mut() {
                last.retired_ms = Some(version.created_ms);
                steps.gone.push(last.public_key);
            }
            key.versions.push(version);
            held.signers.insert(name.to_owned(), Arc::new(signer));
            held.unusable.remove(name);
            self.report(held, report);
            Ok(())
        })
    }

    /// Has one version of a key, or all so far, count no longer, for ever. What is revoked already stays as it is. Blocks.
    pub(super) fn revoke(&self, name: &str, number: Option<usize>, change: &Change) -> Result<(), Fault> {
        self.change(|held, steps| {
            let key = held.register.key_mut(name)?;
            let count = key.versions.len();
            if let Some(number) = number.filter(|number| !(1..=count).contains(number)) {
                return Err(Fault::absent(format!("key `{name}` has no version {number}: it has 1 to {count}")));
            }
            let at_ms = (self.clock)();
            let mut reports = Vec::new();
            for (at, version) in key.versions.iter_mut().enumerate() {
                if version.revoked.is_none() && number.is_none_or(|number| number == at + 1) {
                    version.revoked = Some(Revocation { at_ms, by: change.by.clone(), why: change.why.clone() });
                    steps.gone.push(version.public_key);
                    reports.push(report("revoked", name, at + 1, version, change));
                }
            }
            if key.current().is_none() {
                held.signers.remove(name);
                held.unusable.remove(name);
            }
            for report in reports {
                self.report(held, report);
            }
            Ok(())
        })
    }

    /// Forgets a report that arrived. Blocks.
    pub(super) fn reported(&self, id: &str) -> Result<(), Fault> {
        self.change(|held, _| {
            held.register.reports.retain(|report| report.id != id);
            Ok(())
        })
    }

    /// The oldest change that the immutable log has not confirmed.
    pub(super) fn next_report(&self) -> Option<Report> {
        self.held().register.reports.front().cloned()
    }

    /// Changes the register on the disk, then in memory; or neither.
    fn change(&self, change: impl FnOnce(&mut Held, &mut Steps) -> Result<(), Fault>) -> Result<(), Fault> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = self.stopped() {
            return Err(Fault::unavailable(format!("no key can be changed: {why}")));
        }
        let (mut held, mut steps) = (Held::clone(&self.held()), Steps::default());
        let changed = change(&mut held, &mut steps).and_then(|()| self.keep(&held.register));
        if let Err(fault) = changed {
            if let Some(made) = steps.made.filter(|_| self.stopped().is_none()) {
                told(&made, private_key::erase(&made));
            }
            return Err(fault);
        }
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(held);
        for public in steps.gone {
            let path = private_file(&self.folder, &public);
            if path.exists() {
                told(&path, private_key::erase(&path));
            }
        }
        self.news.notify_one();
        Ok(())
    }

    fn keep(&self, register: &Register) -> Result<(), Fault> {
        let bytes = register.to_json().map_err(|why| Fault::broken(format!("{REGISTER}: {why}")))?;
        durable::replace(&self.folder.join(REGISTER), &bytes).map_err(|why| {
            tracing::error!(%why, "a change of keys was not kept");
            match why {
                NotKept::Before { .. } => Fault::unavailable(why.to_string()),
                NotKept::After { .. } => {
                    let _ = self.stopped.set(why.to_string());
                    Fault::broken(format!("{why}; whether the change holds is known when the kernel is started again"))
                }
            }
        })
    }

    /// Makes a pair of keys, whose private half is durable.
    fn make(&self, number: usize, change: &Change, steps: &mut Steps) -> Result<(Version, Signer), Fault> {
        let broken = |why: private_key::KeyFileError| {
            tracing::error!(%why, "no key can be made");
            Fault::unavailable(format!("no key can be made: {why}"))
        };
        let key = private_key::generate().map_err(broken)?;
        let public_key = key.verifying_key().to_bytes();
        let path = private_file(&self.folder, &public_key);
        private_key::keep(&path, &key).map_err(broken)?;
        steps.made = Some(path);
        let created_by = change.by.clone();
        let version = Version { public_key, created_ms: (self.clock)(), created_by, retired_ms: None, revoked: None };
        Ok((version, Signer { version: number, key, used: AtomicU64::new(0) }))
    }

    fn may_report(&self, held: &Held) -> Result<(), Fault> {
        let waiting = held.register.reports.len();
        if self.reporting && waiting >= REPORTS_MAX {
            return Err(Fault::unavailable(format!(
                "{waiting} changes wait for the immutable log: it must take them before more keys are made"
            )));
        }
        Ok(())
    }

    fn report(&self, held: &mut Held, report: Report) {
        if self.reporting {
            held.register.reports.push_back(report);
        }
    }
}

impl Held {
    /// The private key that signs under a name, or why there is none.
    pub(super) fn signer(&self, name: &str) -> Result<&Signer, Fault> {
        if let Some(why) = self.unusable.get(name) {
            return Err(Fault::broken(format!("key `{name}` cannot sign: {why}")));
        }
        let none = || Fault::conflict(format!("key `{name}` is revoked: rotate it, then its next version signs"));
        self.signers.get(name).map(|signer| &**signer).ok_or_else(none)
    }

    /// How often the current version of a key signed since the kernel was started.
    pub(super) fn used(&self, name: &str) -> u64 {
        self.signers.get(name).map_or(0, |signer| signer.used.load(Ordering::Relaxed))
    }

    /// Reads the private keys of the current versions. One that cannot be used does not stop the others.
    fn load(&mut self, folder: &Path) {
        for (name, key) in &self.register.keys {
            let Some((number, version)) = key.current() else { continue };
            match private_key::read(&private_file(folder, &version.public_key)) {
                Ok(key) if key.verifying_key().to_bytes() == version.public_key => {
                    let signer = Signer { version: number, key, used: AtomicU64::new(0) };
                    self.signers.insert(name.clone(), Arc::new(signer));
                }
                Ok(_) => {
                    let why = "its file holds another private key: restore it from a copy, or rotate the key";
                    self.unusable.insert(name.clone(), why.to_owned());
                }
                Err(why) => {
                    self.unusable.insert(name.clone(), format!("{why}; or rotate the key"));
                }
            }
        }
        for (name, why) in &self.unusable {
            tracing::error!(key = name, why, "a key cannot sign");
        }
    }
}

/// Erases what a crash left of keys that sign no longer, and of such as were never whole.
fn tidy(folder: &Path, register: &Register) -> Result<()> {
    let versions = || register.keys.values().flat_map(|key| &key.versions);
    for version in versions().filter(|version| version.state() != "current") {
        let path = private_file(folder, &version.public_key);
        if path.exists() {
            private_key::erase(&path).with_context(|| path.display().to_string())?;
        }
    }
    let named: BTreeSet<PathBuf> = versions().map(|version| private_file(folder, &version.public_key)).collect();
    for path in private_files(folder)? {
        if durable::is_unfinished(&path) {
            private_key::erase(&path).with_context(|| path.display().to_string())?;
        } else if !named.contains(&path) {
            // Nobody was told of it, unless the register was put back to an older day: so it is left alone.
            tracing::warn!(file = %path.display(), "a private key that the register does not name; it signs nothing");
        }
    }
    Ok(())
}

fn private_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let private = folder.join(PRIVATE);
    let files = fs::read_dir(&private).and_then(|files| files.map(|file| file.map(|file| file.path())).collect());
    files.with_context(|| private.display().to_string())
}

fn private_file(folder: &Path, public: &[u8; 32]) -> PathBuf {
    folder.join(PRIVATE).join(format!("{}.pem", hex::encode(public)))
}

fn make_private_folder(path: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.and_then(|()| durable::sync_folder_of(path)).with_context(|| path.display().to_string())
}

/// An erasure that failed is tried again at the next opening, and known until then.
fn told(path: &Path, erased: std::io::Result<()>) {
    if let Err(why) = erased {
        tracing::error!(file = %path.display(), %why, "a private key that signs no longer was not erased");
    }
}

fn report(what: &str, name: &str, number: usize, version: &Version, change: &Change) -> Report {
    Report {
        id: format!("crypto-{what}-{}", hex::encode(version.public_key)),
        kind: format!("crypto:key_{what}"),
        data: serde_json::json!({
            "key": name,
            "version": number,
            "public_key": version.public_text(),
            "by": change.by,
            "why": change.why,
        }),
    }
}
