//! Incidents: what happened to a kernel, and whether it is over.
//!
//! `DATA/incident/ID.json` for each, written whole. Whoever opens or resolves one also records that in the ledger of
//! the kernel (`fleet`), so that the files are a convenience and the ledger is the truth. A kernel that was halted
//! in an incident is not replaced while that is open: it is recovered, once the incident is resolved.

use crate::clock::{Clock, rfc3339};
use crate::policies::catalogue::write_whole;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where they lie in a data folder.
pub const FOLDER: &str = "incident";

/// Bytes of an incident's file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Whether an incident is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// It is not.
    Open,
    /// Somebody found out what it was, and did something about it.
    Resolved,
}

/// One incident.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// Its id, which is also its file's name.
    pub incident_id: String,
    /// What kind it is: `EMERGENCY_HALT`, `MANUAL`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The name of the kernel, as clients use it.
    pub name: String,
    /// The kernel that answered under it.
    pub kernel_id: String,
    /// Why it was opened.
    pub reason: String,
    /// Who opened it.
    pub opened_by: String,
    /// When.
    pub opened_at_ms: u64,
    /// Whether it is over.
    pub status: Status,
    /// How it was resolved.
    #[serde(default)]
    pub resolution: Option<Resolution>,
    /// The kernel that took the place after it, if one did.
    #[serde(default)]
    pub recovered_by: Option<String>,
    /// What else is known of it.
    #[serde(default)]
    pub details: Value,
}

/// How an incident was resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolution {
    /// Who said so.
    pub who: String,
    /// What it was, and what was done.
    pub why: String,
    /// When.
    pub at_ms: u64,
}

/// What an incident is about when it is opened.
#[derive(Debug, Clone)]
pub struct Opening<'a> {
    /// `EMERGENCY_HALT`, `MANUAL`.
    pub kind: &'a str,
    /// The name of the kernel.
    pub name: &'a str,
    /// The kernel that answers under it.
    pub kernel_id: &'a str,
    /// Why.
    pub reason: &'a str,
    /// Who.
    pub who: &'a str,
    /// What else is known.
    pub details: Value,
    /// Its id; made of the time where none is given. One that is given is plain: letters, digits, `.`, `_`, `-`.
    pub id: Option<&'a str>,
}

/// The incidents of a data folder.
#[derive(Debug)]
pub struct Incidents {
    folder: Option<PathBuf>,
    max: usize,
    clock: Clock,
    known: Mutex<BTreeMap<String, Incident>>,
}

/// Why an incident is not as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IncidentError {
    /// There is none of that id.
    #[error("there is no incident `{0}`: `gavel incident list` shows them")]
    Unknown(String),
    /// It is over already.
    #[error("incident {id} is resolved already, by {who}: {why}")]
    Resolved {
        /// The incident.
        id: String,
        /// Who resolved it.
        who: String,
        /// How.
        why: String,
    },
    /// There are too many.
    #[error("{0} incidents are known already (limits.max_incidents): move files of old ones away and start again")]
    Full(usize),
    /// There is one of that id.
    #[error("incident {0} is known already: give another id")]
    Known(String),
    /// Its file cannot be written.
    #[error("the incident's file cannot be written: {0}")]
    Unwritten(String),
}

impl Incidents {
    /// Those in `folder`, at most `max` of them; without a folder they end with the process.
    ///
    /// # Errors
    /// When a file cannot be read: an incident that nobody sees would be no hindrance.
    pub fn open_folder(folder: Option<PathBuf>, max: usize, clock: Clock) -> Result<Self> {
        let mut known = BTreeMap::new();
        if let Some(folder) = folder.as_ref().filter(|folder| folder.is_dir()) {
            for file in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
                let path = file?.path();
                if path.extension().is_some_and(|extension| extension == "json") {
                    let incident = read(&path).with_context(|| format!("incident {}", path.display()))?;
                    known.insert(incident.incident_id.clone(), incident);
                }
            }
        }
        Ok(Self { folder, max, clock, known: Mutex::new(known) })
    }

    /// Open one; it is on disk when this returns. Blocks on the disk.
    ///
    /// # Errors
    /// When there are too many, or the file cannot be written.
    pub fn open(&self, opening: Opening<'_>) -> Result<Incident, IncidentError> {
        let mut known = self.known();
        if known.len() >= self.max {
            return Err(IncidentError::Full(known.len()));
        }
        let now_ms = self.clock.now_ms();
        let incident_id = opening.id.map_or_else(|| new_id(&known, now_ms), str::to_owned);
        if known.contains_key(&incident_id) {
            return Err(IncidentError::Known(incident_id));
        }
        let incident = Incident {
            incident_id,
            kind: opening.kind.to_owned(),
            name: opening.name.to_owned(),
            kernel_id: opening.kernel_id.to_owned(),
            reason: opening.reason.to_owned(),
            opened_by: opening.who.to_owned(),
            opened_at_ms: now_ms,
            status: Status::Open,
            resolution: None,
            recovered_by: None,
            details: opening.details,
        };
        self.write(&incident)?;
        known.insert(incident.incident_id.clone(), incident.clone());
        Ok(incident)
    }

    /// Mark one as resolved. Blocks on the disk.
    ///
    /// # Errors
    /// When there is none of that id, it is resolved already, or the file cannot be written.
    pub fn resolve(&self, id: &str, who: &str, why: &str) -> Result<Incident, IncidentError> {
        self.change(id, |incident, now_ms| {
            if let Some(Resolution { who, why, .. }) = &incident.resolution {
                return Err(IncidentError::Resolved { id: id.to_owned(), who: who.clone(), why: why.clone() });
            }
            incident.status = Status::Resolved;
            incident.resolution = Some(Resolution { who: who.to_owned(), why: why.to_owned(), at_ms: now_ms });
            Ok(())
        })
    }

    /// Note which kernel took the place after it. Blocks on the disk.
    ///
    /// # Errors
    /// When there is none of that id, or the file cannot be written.
    pub fn recovered(&self, id: &str, kernel_id: &str) -> Result<Incident, IncidentError> {
        self.change(id, |incident, _| {
            incident.recovered_by = Some(kernel_id.to_owned());
            Ok(())
        })
    }

    fn change(
        &self,
        id: &str,
        change: impl FnOnce(&mut Incident, u64) -> Result<(), IncidentError>,
    ) -> Result<Incident, IncidentError> {
        let mut known = self.known();
        let found = known.get_mut(id).ok_or_else(|| IncidentError::Unknown(id.chars().take(64).collect()))?;
        let mut changed = found.clone();
        change(&mut changed, self.clock.now_ms())?;
        self.write(&changed)?;
        found.clone_from(&changed);
        Ok(changed)
    }

    /// One of them.
    ///
    /// # Errors
    /// When there is none of that id.
    pub fn get(&self, id: &str) -> Result<Incident, IncidentError> {
        self.known().get(id).cloned().ok_or_else(|| IncidentError::Unknown(id.chars().take(64).collect()))
    }

    /// All of them, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Incident> {
        self.known().values().cloned().collect()
    }

    /// Those that are not over, of the kernel of this name.
    #[must_use]
    pub fn open_of(&self, name: &str) -> Vec<Incident> {
        let known = self.known();
        known.values().filter(|found| found.name == name && found.status == Status::Open).cloned().collect()
    }

    fn write(&self, incident: &Incident) -> Result<(), IncidentError> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let write = || {
            std::fs::create_dir_all(folder)?;
            let mut text = serde_json::to_vec_pretty(incident)?;
            text.push(b'\n');
            write_whole(&folder.join(format!("{}.json", incident.incident_id)), &text)
        };
        write().map_err(|why| IncidentError::Unwritten(why.to_string()))
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Incident>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `inc-20260105T100000Z-1`: sorts by time, and is a file's name everywhere.
fn new_id(known: &BTreeMap<String, Incident>, now_ms: u64) -> String {
    let time = rfc3339(now_ms - now_ms % 1_000);
    let time: String = time.chars().filter(char::is_ascii_alphanumeric).collect();
    let ids = (1_usize..).map(|number| format!("inc-{time}-{number}"));
    ids.into_iter().find(|id| !known.contains_key(id)).unwrap_or_default()
}

fn read(path: &std::path::Path) -> Result<Incident> {
    let size = std::fs::metadata(path)?.len();
    anyhow::ensure!(size <= FILE_BYTES_MAX, "{size} bytes, an incident may have {FILE_BYTES_MAX}");
    let incident: Incident = serde_json::from_slice(&std::fs::read(path)?).context("not an incident")?;
    let named = path.file_stem().and_then(|stem| stem.to_str()) == Some(incident.incident_id.as_str());
    anyhow::ensure!(named, "it calls itself {}: it was renamed", incident.incident_id);
    Ok(incident)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn opening(kernel_id: &str) -> Opening<'_> {
        Opening { kind: "MANUAL", name: "k", kernel_id, reason: "odd", who: "ops", details: json!({"n": 1}), id: None }
    }

    #[test]
    fn an_incident_is_opened_resolved_once_and_outlives_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let all =
            || Incidents::open_folder(Some(folder.path().join(FOLDER)), 2, Clock::manual(1_767_607_200_000)).unwrap();
        let incidents = all();
        let first = incidents.open(opening("k")).unwrap();
        assert_eq!(first.incident_id, "inc-20260105T100000Z-1");
        let second = incidents.open(opening("k-2")).unwrap();
        assert_eq!(incidents.open(opening("k")), Err(IncidentError::Full(2)));
        let resolved = incidents.resolve(&first.incident_id, "ops", "a typo").unwrap();
        assert!(matches!(incidents.resolve(&first.incident_id, "x", "y"), Err(IncidentError::Resolved { .. })));
        assert!(matches!(incidents.resolve("../x", "x", "y"), Err(IncidentError::Unknown(_))));
        let again = all();
        assert_eq!(again.list(), [resolved, second.clone()]);
        assert_eq!(again.open_of("k"), [second]);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_not_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("inc-1.json"), "{").unwrap();
        let why = Incidents::open_folder(Some(folder.path().to_owned()), 5, Clock::System).unwrap_err();
        assert!(format!("{why:#}").contains("inc-1.json"), "{why:#}");
    }
}
