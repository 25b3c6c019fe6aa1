//! The older daemon's state files as keys of the state: `sessions/X.json` as key `X` of namespace `session`, and each key
//! of `shared_state.json` as that key of namespace `shared`.
//!
//! What always holds:
//! - Everything is read before anything is written; one file that cannot be read, or one value that cannot be kept, and
//!   nothing is written.
//! - Numbers keep their digits. Values are compared as JSON, keys of objects in any order, numbers by their text.
//! - A key that has another value is left as it is, unless overwriting is asked for. So a second run changes nothing.
//! - After writing every value is read back and compared.

use super::handlers::PassedOver;
use crate::bus::state_file;
use crate::config::{self, STATE_SERVICE, StateServiceFile};
use crate::host::default_data_dir;
use anyhow::{Context, Result, bail, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use gavel_bus::{Audit, Change, NoAudit, Sender, Store, StoreLimits};
use serde::Serialize;
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where sessions go.
pub const SESSIONS: &str = "session";
/// Where the shared state goes.
pub const SHARED: &str = "shared";
/// By default the state files may have so many bytes, all together.
pub const BYTES_MAX: u64 = 1 << 30;
/// Changes that are on their way to the store at once: they share its syncs.
const TOGETHER: usize = 256;

/// The state of a server that does not run.
#[derive(Debug)]
pub struct ServerState {
    /// The state itself.
    pub file: PathBuf,
    /// What it keeps.
    pub limits: StoreLimits,
    /// The server's data folder.
    pub data: PathBuf,
    /// The server's configuration, if it was named.
    pub config: Option<config::File>,
}

impl ServerState {
    /// The state of the server with this configuration and this data folder, which wins over that of the configuration;
    /// none if neither is named.
    ///
    /// # Errors
    /// If the configuration is not accepted, or has no event bus.
    pub fn of(config: Option<&Path>, data: Option<&Path>) -> Result<Option<Self>> {
        let Some(path) = config else {
            let service = StateServiceFile::default();
            let of = |data: &Path| (state_file(&service, data), service.limits(), data.to_owned());
            return Ok(data.map(of).map(|(file, limits, data)| Self { file, limits, data, config: None }));
        };
        let config = config::read(path)?;
        let named = data.map(Path::to_owned).or_else(|| config.data.clone());
        let data = named.map_or_else(default_data_dir, Ok)?;
        let bus = config.bus.as_ref();
        let bus = bus.with_context(|| format!("{}: there is no section `bus`, so no state", path.display()))?;
        let service: StateServiceFile = bus.service(STATE_SERVICE).map_err(anyhow::Error::msg)?;
        let (file, limits) = (state_file(&service, &data), service.limits());
        Ok(Some(Self { file, limits, data, config: Some(config) }))
    }
}

/// What is read at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// What the store keeps.
    pub store: StoreLimits,
    /// Bytes of all files together.
    pub bytes_max: u64,
}

/// One value on its way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Item {
    /// Where it goes.
    pub namespace: &'static str,
    /// Under which key.
    pub key: String,
    /// The value.
    #[serde(skip)]
    pub value: Value,
    /// The bytes of its JSON.
    pub bytes: usize,
    /// The file it is from.
    pub file: PathBuf,
}

/// What a folder of state holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Source {
    /// All values.
    pub items: Vec<Item>,
    /// What stands in the way of moving them.
    pub problems: Vec<PassedOver>,
    /// What is left where it is, because it is neither a session nor the shared state.
    pub passed_over: Vec<PassedOver>,
    /// Files that were read.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// What becomes of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Its key is free.
    New,
    /// It is there already.
    Same,
    /// Its key has another value.
    Conflict,
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// Values that were written.
    pub written: usize,
    /// Of those, keys that had another value.
    pub overwritten: usize,
    /// Values that were there already.
    pub same: usize,
    /// Keys that keep another value.
    pub conflicts: usize,
    /// Values that were read back and compared.
    pub verified: usize,
}

/// Read the state files of a folder.
///
/// # Errors
/// If the folder cannot be read, or is none of state. What is wrong with a file is in [`Source::problems`].
pub fn read(folder: &Path, limits: &Limits) -> Result<Source> {
    let (sessions, shared) = (folder.join("sessions"), folder.join("shared_state.json"));
    let entries = list(folder).with_context(|| format!("the state's folder {}", folder.display()))?;
    ensure!(
        sessions.is_dir() || shared.is_file(),
        "{}: there is neither sessions/ nor shared_state.json in it; name the folder that the older daemon kept its state in, \
         var/state as a rule",
        folder.display()
    );
    let mut reader = Reader { limits: *limits, source: Source::default() };
    for path in entries {
        if path == sessions && path.is_dir() {
            reader.sessions(&path);
        } else if path == shared {
            reader.shared(&path);
        } else {
            reader.pass_over(path, "it is neither sessions/ nor shared_state.json");
        }
    }
    Ok(reader.source)
}

fn list(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

struct Reader {
    limits: Limits,
    source: Source,
}

impl Reader {
    fn sessions(&mut self, folder: &Path) {
        let paths = match list(folder) {
            Ok(paths) => paths,
            Err(why) => return self.refuse(folder.to_owned(), &why),
        };
        for path in paths {
            if path.extension().is_none_or(|extension| extension != "json") {
                self.pass_over(path, "it is no .json");
                continue;
            }
            let Some(key) = path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned) else {
                self.refuse(path, &"its name is not UTF-8, as a key must be");
                continue;
            };
            match self.json(&path) {
                Ok(value) => self.keep(SESSIONS, key, value, &path),
                Err(why) => self.refuse(path, &format!("{why:#}")),
            }
        }
    }

    fn shared(&mut self, path: &Path) {
        match self.json(path) {
            Ok(Value::Object(fields)) => {
                for (key, value) in fields {
                    self.keep(SHARED, key, value, path);
                }
            }
            Ok(_) => self.refuse(path.to_owned(), &"it is no JSON object"),
            Err(why) => self.refuse(path.to_owned(), &format!("{why:#}")),
        }
    }

    fn json(&mut self, path: &Path) -> Result<Value> {
        ensure!(fs::metadata(path)?.is_file(), "it is no file");
        let left = self.limits.bytes_max.saturating_sub(self.source.bytes);
        let mut bytes = Vec::new();
        let read = fs::File::open(path)?.take(left + 1).read_to_end(&mut bytes)? as u64;
        ensure!(read <= left, "with it the files have more than {} bytes (--bytes-max)", self.limits.bytes_max);
        self.source.bytes += read;
        self.source.files += 1;
        Ok(gavel_kernel::json::parse(&bytes)?)
    }

    fn keep(&mut self, namespace: &'static str, key: String, value: Value, path: &Path) {
        let StoreLimits { name_bytes_max, value_bytes_max, .. } = self.limits.store;
        let bytes = value.to_string().len();
        if key.len() > name_bytes_max {
            let start: String = key.chars().take(32).collect();
            let why =
                format!("the key '{start}…' of {} bytes is longer than {name_bytes_max} (--name-bytes-max)", key.len());
            return self.refuse(path.to_owned(), &why);
        }
        if bytes > value_bytes_max {
            let why =
                format!("the value of '{key}' has {bytes} bytes, more than {value_bytes_max} (--value-bytes-max)");
            return self.refuse(path.to_owned(), &why);
        }
        self.source.items.push(Item { namespace, key, value, bytes, file: path.to_owned() });
    }

    fn refuse(&mut self, file: PathBuf, why: &dyn std::fmt::Display) {
        self.source.problems.push(PassedOver { file, why: why.to_string() });
    }

    fn pass_over(&mut self, file: PathBuf, why: &str) {
        self.source.passed_over.push(PassedOver { file, why: why.to_owned() });
    }
}

/// Open the state in a file, for writing. `audit` records every change before it is made.
///
/// # Errors
/// If it cannot be opened; above all while a server has it.
pub async fn open_store(file: &Path, limits: StoreLimits, audit: Arc<dyn Audit>) -> Result<Store> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let opened = Store::open(Some(file), limits, audit).await;
    opened.context("the state cannot be opened; if a server uses it, stop that first")
}

/// What would become of each item. The state is looked at in a copy, so that not even a lock of it is taken.
///
/// # Errors
/// If there is a state and it cannot be copied or read.
pub async fn fates(items: &[Item], file: &Path, limits: StoreLimits) -> Result<Vec<Fate>> {
    if !file.exists() {
        return Ok(vec![Fate::New; items.len()]);
    }
    let folder = tempfile::tempdir()?;
    let copy = folder.path().join("state.redb");
    fs::copy(file, &copy).with_context(|| format!("the state {} cannot be copied", file.display()))?;
    let store = Store::open(Some(&copy), limits, Arc::new(NoAudit)).await;
    let store = store.with_context(|| {
        format!("the state {} cannot be read; if a server uses it, stop that first", file.display())
    })?;
    items.iter().map(|item| fate(&store, item)).collect()
}

fn fate(store: &Store, item: &Item) -> Result<Fate> {
    Ok(match store.get(item.namespace, &item.key)? {
        None => Fate::New,
        Some(there) if there == item.value => Fate::Same,
        Some(_) => Fate::Conflict,
    })
}

/// Write the items, and read each back. Gives what was done, and the items whose keys keep another value.
///
/// # Errors
/// If the source has problems, a change is not made, or what is read back differs.
pub async fn apply(source: &Source, store: &Store, overwrite: bool) -> Result<(Applied, Vec<Item>)> {
    if let Some(problem) = source.problems.first() {
        bail!(
            "{} of the files stand in the way, the first is {}: {}; nothing was written",
            source.problems.len(),
            problem.file.display(),
            problem.why
        );
    }
    let (mut applied, mut writes, mut conflicts) = (Applied::default(), Vec::new(), Vec::new());
    for item in &source.items {
        match fate(store, item)? {
            Fate::New => writes.push(item),
            Fate::Same => applied.same += 1,
            Fate::Conflict if overwrite => {
                applied.overwritten += 1;
                writes.push(item);
            }
            Fate::Conflict => conflicts.push(item.clone()),
        }
    }
    write(&writes, store).await?;
    applied.written = writes.len();
    applied.conflicts = conflicts.len();
    for item in source.items.iter().filter(|item| !conflicts.contains(item)) {
        verify(item, store)?;
        applied.verified += 1;
    }
    Ok((applied, conflicts))
}

async fn write(items: &[&Item], store: &Store) -> Result<()> {
    let run = run_id()?;
    let changes = items.iter().enumerate().map(|(number, item)| {
        let event_id = format!("migrate-{run}-{number}");
        let change =
            Change::Set { namespace: item.namespace.to_owned(), key: item.key.clone(), value: item.value.clone() };
        async move {
            let made = store.change(&event_id, &Sender::Host, change).await;
            made.with_context(|| format!("key '{}' of namespace '{}'", item.key, item.namespace))
        }
    });
    stream::iter(changes).buffer_unordered(TOGETHER).try_for_each(|_| std::future::ready(Ok(()))).await
}

/// No two runs have the same ids, so that an audit does not take one for the other.
fn run_id() -> Result<String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).context("the system gives no random bytes")?;
    Ok(hex::encode(bytes))
}

/// The JSON that is kept.
fn text_of(value: &Value) -> String {
    value.to_string()
}

fn verify(item: &Item, store: &Store) -> Result<()> {
    let there = store.get(item.namespace, &item.key)?;
    let alike = there.is_some_and(|there| there == item.value && text_of(&there) == text_of(&item.value));
    ensure!(
        alike,
        "key '{}' of namespace '{}' does not hold what {} says: restore the state from its backup, and report this",
        item.key,
        item.namespace,
        item.file.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { store: StoreLimits::default(), bytes_max: BYTES_MAX }
    }

    /// A folder of state with these files.
    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sessions")).unwrap();
        for (name, content) in files {
            fs::write(folder.path().join(name), content).unwrap();
        }
        folder
    }

    async fn memory() -> Store {
        Store::open(None, StoreLimits::default(), Arc::new(NoAudit)).await.unwrap()
    }

    const HARD: &str = r#"{"a":123456789012345678901234567890,"b":0.1000,"c":"é\u0000😀","d":-0.0,"e":1E+2,"f":[]}"#;

    #[tokio::test]
    async fn values_arrive_to_the_digit_and_a_second_run_changes_nothing() {
        let folder = folder(&[("sessions/s 1.json", HARD.as_bytes()), ("shared_state.json", br#"{"":1,"k:x":null}"#)]);
        let source = read(folder.path(), &limits()).unwrap();
        assert_eq!((source.items.len(), source.files), (3, 2));
        let store = memory().await;
        let (first, _) = apply(&source, &store, false).await.unwrap();
        assert_eq!(first, Applied { written: 3, verified: 3, ..Applied::default() });
        let kept = store.get(SESSIONS, "s 1").unwrap().unwrap();
        assert_eq!(kept, gavel_kernel::json::parse(HARD.as_bytes()).unwrap());
        for digits in ["123456789012345678901234567890", "0.1000", "-0.0"] {
            assert!(kept.to_string().contains(digits), "{kept}");
        }
        assert_eq!(store.get(SHARED, "k:x").unwrap(), Some(Value::Null));
        let (second, _) = apply(&source, &store, true).await.unwrap();
        assert_eq!(second, Applied { same: 3, verified: 3, ..Applied::default() });
    }

    #[tokio::test]
    async fn a_key_with_another_value_is_overwritten_only_when_that_is_asked_for() {
        let folder = folder(&[("shared_state.json", br#"{"a":1.0,"b":2}"#)]);
        let source = read(folder.path(), &limits()).unwrap();
        let store = memory().await;
        let change = Change::Set { namespace: SHARED.to_owned(), key: "a".to_owned(), value: serde_json::json!(1) };
        store.change("e", &Sender::Host, change).await.unwrap();
        let (applied, conflicts) = apply(&source, &store, false).await.unwrap();
        assert_eq!((applied.written, applied.conflicts, conflicts[0].key.as_str()), (1, 1, "a"));
        assert_eq!(store.get(SHARED, "a").unwrap().unwrap().to_string(), "1");
        let (applied, conflicts) = apply(&source, &store, true).await.unwrap();
        assert_eq!((applied.overwritten, applied.same, conflicts.len()), (1, 1, 0));
        assert_eq!(store.get(SHARED, "a").unwrap().unwrap().to_string(), "1.0");
    }

    #[tokio::test]
    async fn one_bad_file_and_nothing_is_written() {
        for (bad, why) in [
            (&b"{\"x\": NaN}"[..], "unexpected 'N'"),
            (b"{", "unexpected end"),
            (b"\"\\ud800\"", "unpaired surrogate"),
            (b"\xff", "utf-8"),
            (b"1e999", "beyond the range"),
            (b"", "unexpected end"),
        ] {
            let folder = folder(&[("sessions/bad.json", bad), ("shared_state.json", b"{\"a\":1}")]);
            let source = read(folder.path(), &limits()).unwrap();
            assert!(source.problems[0].why.contains(why), "{:?}", source.problems);
            let store = memory().await;
            let refused = apply(&source, &store, true).await.unwrap_err().to_string();
            assert!(refused.contains("bad.json") && refused.contains("nothing was written"), "{refused}");
            assert_eq!(store.get(SHARED, "a").unwrap(), None);
        }
    }

    #[test]
    fn what_cannot_be_kept_is_told_and_what_is_no_state_is_named() {
        let long = format!("{{\"{}\":1,\"big\":\"{}\"}}", "k".repeat(300), "v".repeat(1 << 20));
        let folder = folder(&[
            ("shared_state.json", long.as_bytes()),
            ("sessions/notes.txt", b"x"),
            ("sessions/.json", b"1"),
            ("identities.json", b"{}"),
        ]);
        let source = read(folder.path(), &limits()).unwrap();
        let whys: Vec<&str> = source.problems.iter().map(|problem| problem.why.as_str()).collect();
        assert!(whys.iter().any(|why| why.contains("--name-bytes-max")), "{whys:?}");
        assert!(whys.iter().any(|why| why.contains("--value-bytes-max")), "{whys:?}");
        assert_eq!(source.passed_over.len(), 3, "{:?}", source.passed_over);
        let few = Limits { bytes_max: 10, ..limits() };
        assert!(read(folder.path(), &few).unwrap().problems[0].why.contains("--bytes-max"));
        let empty = tempfile::tempdir().unwrap();
        assert!(read(empty.path(), &limits()).unwrap_err().to_string().contains("neither sessions/"));
    }

    #[test]
    fn a_shared_state_that_is_no_object_is_a_problem() {
        let folder = folder(&[("shared_state.json", b"[1]")]);
        assert_eq!(read(folder.path(), &limits()).unwrap().problems[0].why, "it is no JSON object");
    }
}
