//! `DATA/kernels.json`: which kernel answers under which name.
//!
//! It is written whole before another kernel begins to answer, and is the one place that decides which one does after a
//! crash. It is absent as long as the configuration says it all. It holds definitions with the secrets of their
//! keyrings, so only its owner may read it.

use super::definition::Definition;
use crate::policies::catalogue::write_whole;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The file's name in a data folder.
pub(crate) const FILE: &str = "kernels.json";

/// The format that this version writes, and the only one that it reads.
const FORMAT: u32 = 1;

/// Kernels that served under a name before, as many as are told at least. The ledgers know all.
const PREDECESSORS_KEPT: usize = 100;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    format: u32,
    /// By the name that clients use.
    pub(crate) names: BTreeMap<String, Entry>,
}

/// What is known of one name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// The kernel that answers.
    pub(crate) kernel_id: String,
    /// What the configuration file said of the name when it was last decided what answers: if it says something else
    /// at a start, it wins. `None` for a name that an operator added.
    pub(crate) declared: Option<Definition>,
    /// What the kernel is made of.
    pub(crate) definition: Definition,
    /// The backup of the configuration file as it stood when the kernel began.
    pub(crate) config: Option<String>,
    /// What a roll back leads to.
    pub(crate) previous: Option<Previous>,
    /// The kernels that answered before, oldest first.
    pub(crate) predecessors: Vec<Predecessor>,
    /// Until when it is watched closely.
    pub(crate) monitored_until_ms: Option<u64>,
}

/// What served before, to be put back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Previous {
    pub(crate) definition: Definition,
    pub(crate) config: Option<String>,
}

/// Whether a replaced kernel still has work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stage {
    /// Requests that began in it are carried to their end.
    Draining,
    /// Its ledger is closed for good.
    Retired,
}

/// A kernel that answered before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Predecessor {
    pub(crate) kernel_id: String,
    pub(crate) variant: String,
    pub(crate) stage: Stage,
    pub(crate) replaced_by: String,
    pub(crate) replaced_at_ms: u64,
    pub(crate) who: String,
    pub(crate) why: String,
    /// Where its ledger ended.
    pub(crate) end: Option<End>,
}

/// How a ledger ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct End {
    pub(crate) entries: u64,
    pub(crate) root_hash: String,
    pub(crate) records: u64,
    pub(crate) tree_root: String,
    /// Until when permits and counters in it matter to those who answer now.
    pub(crate) matters_until_ms: u64,
    /// The file in `DATA/archive` that holds its evidence, verified; `None` if that could not be written.
    pub(crate) archive: Option<String>,
}

impl Default for Manifest {
    fn default() -> Self {
        Self { format: FORMAT, names: BTreeMap::new() }
    }
}

impl Manifest {
    /// Read it; an absent one is empty.
    pub(crate) fn read(data: &Path) -> Result<Self> {
        let path = data.join(FILE);
        let bytes = match std::fs::read(&path) {
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            read => read.with_context(|| path.display().to_string())?,
        };
        let what = || {
            format!(
                "{}: it says which kernel answers under which name; restore it from a copy of the data",
                path.display()
            )
        };
        let value: serde_json::Value = serde_json::from_slice(&bytes).with_context(what)?;
        let found = value["format"].as_u64();
        ensure!(found == Some(FORMAT.into()), "{}: format {found:?}, this version reads {FORMAT}", path.display());
        serde_json::from_value(value).with_context(what)
    }

    /// The name under which the kernel of this id was replaced, if it was.
    pub(crate) fn replaced(&self, kernel_id: &str) -> Option<&str> {
        let mut names = self.names.iter();
        let found = names.find(|(_, entry)| entry.predecessors.iter().any(|before| before.kernel_id == kernel_id));
        found.map(|(name, _)| name.as_str())
    }

    /// Write it whole. Blocks on the disk.
    pub(crate) fn write(&self, data: &Path) -> Result<()> {
        let path = data.join(FILE);
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        write_whole(&path, &text).with_context(|| path.display().to_string())
    }
}

impl Entry {
    /// A kernel that answers under its own name.
    pub(crate) fn of(name: &str, definition: Definition, is_declared: bool, config: Option<String>) -> Self {
        Self {
            kernel_id: name.to_owned(),
            declared: is_declared.then(|| definition.clone()),
            definition,
            config,
            previous: None,
            predecessors: Vec::new(),
            monitored_until_ms: None,
        }
    }

    /// The configuration says `declared` at a start: where that is news, it wins. Whether it was.
    pub(crate) fn meet(&mut self, declared: Definition, config: Option<&String>) -> bool {
        let known = self.declared.as_ref().is_some_and(|known| known.means_the_same(&declared));
        if known {
            // Policies that no rule names may be others by now.
            if self.definition.means_the_same(&declared) {
                self.definition = declared;
            }
            return false;
        }
        let before = Previous { definition: self.definition.clone(), config: self.config.take() };
        if !before.definition.means_the_same(&declared) {
            self.previous = Some(before);
        }
        self.config = config.cloned();
        self.definition = declared.clone();
        self.declared = Some(declared);
        true
    }

    pub(crate) fn predecessor(&mut self, kernel_id: &str) -> Option<&mut Predecessor> {
        self.predecessors.iter_mut().find(|found| found.kernel_id == kernel_id)
    }

    /// Forget the oldest that matter to nobody any more, where there are many.
    pub(crate) fn forget(&mut self, now_ms: u64) {
        while self.predecessors.len() > PREDECESSORS_KEPT
            && self.predecessors.first().is_some_and(|oldest| !oldest.matters(now_ms))
        {
            self.predecessors.remove(0);
        }
    }
}

impl Predecessor {
    /// Whether what its ledger tells of permits and counters still counts.
    pub(crate) fn matters(&self, now_ms: u64) -> bool {
        self.end.as_ref().is_none_or(|end| end.matters_until_ms > now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn definition(actor: &str) -> Definition {
        serde_json::from_value(json!({"kernel": {"id": "k", "policy": {"allowed_actors": [actor]}}})).unwrap()
    }

    #[test]
    fn what_is_written_is_read_back_and_an_absent_one_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Manifest::read(folder.path()).unwrap(), Manifest::default());
        let mut manifest = Manifest::default();
        manifest.names.insert("k".into(), Entry::of("k", definition("a"), true, None));
        manifest.write(folder.path()).unwrap();
        assert_eq!(Manifest::read(folder.path()).unwrap(), manifest);
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(folder.path().join(FILE)).unwrap().permissions(),
        );
        assert_eq!(mode & 0o077, 0, "only its owner may read it");
        std::fs::write(folder.path().join(FILE), "{\"format\": 2}").unwrap();
        assert!(format!("{:#}", Manifest::read(folder.path()).unwrap_err()).contains("reads 1"));
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        assert!(format!("{:#}", Manifest::read(folder.path()).unwrap_err()).contains("restore it"));
    }

    #[test]
    fn an_edited_configuration_wins_and_an_unchanged_one_does_not() {
        let mut entry = Entry::of("k", definition("a"), true, None);
        entry.definition = definition("operator's");
        assert!(!entry.meet(definition("a"), None));
        assert_eq!(entry.definition, definition("operator's"));
        assert!(entry.meet(definition("b"), Some(&"config_b.yaml".to_owned())));
        assert_eq!(entry.definition, definition("b"));
        assert_eq!(entry.previous.unwrap().definition, definition("operator's"));
        assert_eq!(entry.config.as_deref(), Some("config_b.yaml"));
    }
}
