//! The beginning: what the configuration declares, what the manifest remembers, what a crash left.

use super::closed::Closed;
use super::definition::Definition;
use super::manifest::{Entry, Manifest, Stage};
use super::succession::{self, Cause};
use super::{ARCHIVE, Fleet, Slot, Slots, Workshop};
use crate::approvals::Desk;
use crate::clock::Clock;
use crate::config::File;
use crate::host::{Storage, kernel_dir, ledger_dir};
use crate::incidents::{self, Incidents};
use crate::kernel::Kernel;
use crate::metrics::Metrics;
use crate::policies::admit::Admission;
use crate::policies::life::Deployed;
use crate::remembered::Remembered;
use crate::tools::Toolbox;
use crate::upkeep::Settings;
use anyhow::{Context, Result, bail, ensure};
use arc_swap::ArcSwap;
use gavel_ledger::read_dir;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio_util::task::TaskTracker;

/// What a fleet is opened with, beside its configuration.
#[derive(Debug)]
pub(crate) struct Means {
    pub(crate) admission: Arc<Admission>,
    pub(crate) tools: Toolbox,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
}

impl Fleet {
    /// Open the kernels that `file` declares and those that were added, each as it stood.
    ///
    /// # Errors
    /// When a definition cannot be loaded or a ledger cannot be opened.
    pub(crate) async fn open(file: &File, storage: &Storage, means: Means) -> Result<Arc<Self>> {
        let data = match storage {
            Storage::Folder(data) => Some(data.clone()),
            Storage::Volatile => None,
        };
        let workshop = Workshop {
            data,
            admission: means.admission,
            tools: means.tools,
            clock: means.clock,
            metrics: means.metrics,
            limits: file.limits.clone(),
            approvals: Arc::new(Desk::new(file.approvals.clone())),
            upkeep: Settings { archive: file.archive.clone(), retention: file.retention.clone() },
            checkpoints: file.checkpoints.clone(),
            lost_keys: file.lost_keys.clone(),
        };
        let (mut manifest, order, is_news) = workshop.resume(file)?;
        let mut slots = Slots::default();
        let mut warm: Vec<Arc<Kernel>> = Vec::with_capacity(order.len());
        let mut healed = is_news;
        for name in order {
            let Some(entry) = manifest.names.get_mut(&name) else { continue };
            let (kernel, changed) = workshop.resume_kernel(&name, entry, &warm).await?;
            healed |= changed;
            slots = slots.with(&Slot::new(&name, Arc::clone(&kernel)));
            warm.push(kernel);
        }
        if let Some(data) = workshop.data.as_ref().filter(|_| healed) {
            manifest.write(data)?;
        }
        let folder = workshop.folder(incidents::FOLDER);
        let incidents = Incidents::open_folder(folder, file.limits.max_incidents, workshop.clock.clone())?;
        Ok(Arc::new(Self {
            slots: ArcSwap::from_pointee(slots),
            workshop,
            manifest: Mutex::new(manifest),
            saving: tokio::sync::Mutex::default(),
            adding: tokio::sync::Mutex::default(),
            incidents: Arc::new(incidents),
            source: file.source.as_ref().map(|source| source.path.clone()),
            monitoring: file.monitoring.clone(),
            tasks: TaskTracker::new(),
            monitor: Mutex::default(),
            closed: Closed::default(),
        }))
    }
}

impl Workshop {
    /// The manifest brought up to date with the configuration, the names to serve in order, and whether what was
    /// remembered changed.
    fn resume(&self, file: &File) -> Result<(Manifest, Vec<String>, bool)> {
        let mut manifest = match &self.data {
            Some(data) => Manifest::read(data)?,
            None => Manifest::default(),
        };
        let config = match &file.source {
            Some(source) => self.back_up_config(&source.text)?,
            None => None,
        };
        let (mut order, mut is_news) = (Vec::new(), false);
        for kernel in &file.kernels {
            let declared = Definition::declared(file, kernel, &self.admission)?;
            order.push(kernel.id.clone());
            if let Some(entry) = manifest.names.get_mut(&kernel.id) {
                is_news |= entry.meet(declared, config.as_ref());
                continue;
            }
            let entry = Entry::of(&kernel.id, declared, true, config.clone());
            manifest.names.insert(kernel.id.clone(), entry);
        }
        let declared: BTreeSet<&String> = file.kernels.iter().map(|kernel| &kernel.id).collect();
        // A name that the configuration no longer declares rests; what an operator added does not depend on it.
        let added = manifest.names.iter().filter(|(name, entry)| entry.declared.is_none() && !declared.contains(name));
        order.extend(added.map(|(name, _)| name.clone()));
        let (count, limit) = (order.len(), self.limits.max_kernels);
        ensure!(
            count <= limit,
            "{count} kernels are declared or were added, one server serves at most {limit} (limits.max_kernels)"
        );
        check_folders(&manifest, &order)?;
        Ok((manifest, order, is_news))
    }

    /// Open the kernel that answers under a name, after those that did before. Whether a crash was made good.
    pub(super) async fn resume_kernel(
        &self,
        name: &str,
        entry: &mut Entry,
        warm: &[Arc<Kernel>],
    ) -> Result<(Arc<Kernel>, bool)> {
        let finished = self.finish_predecessors(name, entry)?;
        let remembered = Remembered::nothing(self.limits.max_counter_keys);
        self.recall_predecessors(entry, &remembered)?;
        // A policy of several kernels is compiled once.
        let sets: Vec<Arc<Deployed>> = warm.iter().map(|kernel| Arc::clone(&kernel.policies().serving)).collect();
        let sets: Vec<&Deployed> = sets.iter().map(|set| &**set).collect();
        let policies = self.deploy(&entry.definition, &sets).await?;
        let kernel = self.open(&entry.kernel_id, &entry.definition, policies, remembered, None).await?;
        for (old, end, cause) in &finished {
            kernel.note(succession::retired(name, old, end, cause)).await?;
        }
        Ok((kernel, !finished.is_empty()))
    }

    /// Close what a crash left open of kernels that were being replaced.
    fn finish_predecessors(&self, name: &str, entry: &mut Entry) -> Result<Vec<(String, super::manifest::End, Cause)>> {
        let mut finished = Vec::new();
        let Some(data) = &self.data else { return Ok(finished) };
        for left in entry.predecessors.iter_mut().filter(|found| found.stage == Stage::Draining) {
            let (dir, archive) = (ledger_dir(data, &left.kernel_id), data.join(ARCHIVE));
            let end = succession::complete(&dir, name, left, &archive, &self.clock)
                .with_context(|| format!("kernel {}, which {} replaced", left.kernel_id, left.replaced_by))?;
            tracing::info!(
                kernel = left.kernel_id,
                entries = end.entries,
                "closed a replaced kernel that was draining"
            );
            left.stage = Stage::Retired;
            left.end = Some(end.clone());
            finished.push((left.kernel_id.clone(), end, Cause { who: left.who.clone(), why: left.why.clone() }));
        }
        Ok(finished)
    }

    /// Remember what replaced kernels saw, as far as it still matters.
    fn recall_predecessors(&self, entry: &Entry, remembered: &Remembered) -> Result<()> {
        let Some(data) = &self.data else { return Ok(()) };
        let now_ms = self.clock.now_ms();
        for before in entry.predecessors.iter().filter(|before| before.matters(now_ms)) {
            let dir = ledger_dir(data, &before.kernel_id);
            recall(&dir, remembered).with_context(|| {
                format!(
                    "kernel {} took the place of {}, whose permits and counters still matter; restore {}",
                    entry.kernel_id,
                    before.kernel_id,
                    kernel_dir(data, &before.kernel_id).display()
                )
            })?;
        }
        Ok(())
    }
}

/// No two names serve from one folder, and none from that of a kernel that was replaced.
fn check_folders(manifest: &Manifest, order: &[String]) -> Result<()> {
    let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, entry) in order.iter().filter_map(|name| manifest.names.get_key_value(name)) {
        if let Some(replaced) = manifest.replaced(&entry.kernel_id) {
            bail!(
                "kernel `{}` was replaced under the name `{replaced}`, and its ledger is never used again: give `{name}` another id",
                entry.kernel_id
            );
        }
        // A name is kept free for its own kernels.
        for folder in BTreeSet::from([entry.kernel_id.as_str(), name.as_str()]) {
            if let Some(other) = taken.insert(folder, name) {
                bail!("kernels `{other}` and `{name}` would both be `{folder}`: give one of them another id");
            }
        }
    }
    Ok(())
}

fn recall(dir: &Path, remembered: &Remembered) -> Result<()> {
    let (_, records) = read_dir(dir)?;
    for record in records {
        remembered.recall(&record?)?;
    }
    Ok(())
}
