//! A kernel for one command, such as `gavel kasmina train`: no server, but the same law, the same records and the same
//! evidence. Afterwards `gavel verify DATA/kernels/kasmina` and `gavel evidence` work on what it left.

use super::governor::{Bounds, KernelGovernor};
use crate::clock::Clock;
use crate::config::{self, ConfigError, File, KernelFile};
use crate::fleet::Slot;
use crate::host::{Host, Storage, ledger_dir};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// The configuration that layers are served and trained with where none is given.
const DEFAULT: &str = include_str!("../../assets/kasmina.yaml");

/// The ready-made configuration: one kernel that lets Tamiyo change seeds, and layers.
///
/// # Errors
/// Never for the one that is built in; a test reads it.
pub fn configuration() -> Result<File, ConfigError> {
    config::parse(Path::new("(kasmina)"), DEFAULT)
}

/// The ready-made kernel, under another id: for a configuration that is built in code.
///
/// # Errors
/// As [`configuration`].
pub fn kernel_config(id: &str) -> Result<KernelFile, ConfigError> {
    let mut file = configuration()?;
    Ok(KernelFile { id: id.to_owned(), ..file.kernels.remove(0) })
}

/// A kernel that governs, and nothing else.
#[derive(Debug)]
pub struct Standalone {
    host: Host,
    slot: Arc<Slot>,
    bounds: Bounds,
    data: PathBuf,
}

impl Standalone {
    /// Open the kernels of `file`, or of the ready-made configuration, with their ledgers in `data`. A ledger that is there
    /// is continued. The kernel that governs is the one that `kasmina.kernel` names, or the first; the bounds of a
    /// boundary are those of the section too.
    ///
    /// # Errors
    /// When there is no such kernel, a policy cannot be loaded or the ledger cannot be opened.
    pub async fn open(file: Option<File>, data: &Path) -> Result<Self> {
        let mut file = file.map_or_else(configuration, Ok)?;
        // The layer is the command's own.
        let layers = file.kasmina.take().unwrap_or_default();
        let bounds = Bounds {
            transitions_max: layers.transitions_max,
            ruling_timeout: Duration::from_millis(layers.ruling_timeout_ms),
        };
        let host = Box::pin(Host::open(file, &Storage::Folder(data.to_owned()), Clock::System)).await?;
        let slot = match &layers.kernel {
            Some(name) => {
                host.fleet.find(name).with_context(|| format!("kasmina.kernel: there is no kernel `{name}`"))?
            }
            None => host.fleet.first(),
        };
        Ok(Self { host, slot, bounds, data: data.to_owned() })
    }

    /// The kernel.
    #[must_use]
    pub fn slot(&self) -> Arc<Slot> {
        Arc::clone(&self.slot)
    }

    /// A governor by this kernel for a layer that lives in memory. To be used on a thread that is no worker of the
    /// runtime: it blocks.
    #[must_use]
    pub fn governor(&self) -> KernelGovernor {
        KernelGovernor::new(self.slot(), Handle::current(), self.bounds).at_once()
    }

    /// Where the ledger lies.
    #[must_use]
    pub fn ledger(&self) -> PathBuf {
        ledger_dir(&self.data, self.slot().kernel().id())
    }

    /// Close the ledger; every record is on disk.
    pub async fn finish(self) {
        self.host.finish().await;
    }
}

/// Run `work` with a governor of the ready-made kernel, on a thread of its own, from a place that has no runtime; then
/// close the ledger.
///
/// # Errors
/// When the kernel cannot be opened, or what `work` says.
pub fn governed<T: Send + 'static>(
    file: Option<File>,
    data: &Path,
    work: impl FnOnce(KernelGovernor) -> Result<T> + Send + 'static,
) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("gavel-worker").build()?;
    runtime.block_on(async {
        let standalone = Standalone::open(file, data).await?;
        let governor = standalone.governor();
        let done = tokio::task::spawn_blocking(move || work(governor)).await;
        standalone.finish().await;
        done.context("the work broke off by a fault; the log says where")?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KasminaFile;
    use kasmina::govern::{Governor, Ruling, Transition};
    use kasmina::state::Lifecycle;

    fn transition(seed: usize, to: Lifecycle) -> Transition {
        Transition {
            command_id: format!("c{seed}"),
            layer_id: "a".into(),
            seed,
            epoch: 3,
            from: Lifecycle::Dormant,
            to,
            blueprint_id: None,
            strategy: None,
            alpha: 0.1,
            weights: 0,
            evaluation_score: 0.5,
            reason: "to see".into(),
        }
    }

    #[test]
    fn what_is_asked_for_is_judged_and_recorded() {
        let data = tempfile::tempdir().unwrap();
        let asked: Vec<Transition> = (0..100).map(|seed| transition(seed, Lifecycle::Germinated)).collect();
        let rulings = governed(None, data.path(), move |mut governor| Ok(governor.judge(&asked))).unwrap();
        assert_eq!(rulings, vec![Ruling::Allowed; 100]);
        let ledger = data.path().join("kernels/kasmina/ledger");
        let report = gavel_ledger::verify_dir(&ledger).unwrap();
        assert_eq!(report.entries, 100, "one entry for each request");
    }

    #[test]
    fn a_kernel_that_knows_no_tamiyo_denies_and_so_does_a_halted_one() {
        let data = tempfile::tempdir().unwrap();
        let file = File::new(vec![KernelFile::new("k")]);
        let one = vec![transition(1, Lifecycle::Culled)];
        let rulings = governed(Some(file), data.path(), move |mut governor| Ok(governor.judge(&one))).unwrap();
        assert!(
            matches!(&rulings[..], [Ruling::Denied(why)] if why.contains("Actor 'tamiyo' is not in")),
            "{rulings:?}"
        );
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let told = runtime.block_on(async {
            let standalone = Standalone::open(None, data.path()).await.unwrap();
            let nobody = crate::decide::Principal::unbound("operator");
            standalone.slot().kernel().halt("stop", &nobody).await.unwrap();
            let (mut governor, one) = (standalone.governor(), vec![transition(1, Lifecycle::Culled)]);
            let told = tokio::task::spawn_blocking(move || governor.judge(&one)).await.unwrap();
            standalone.finish().await;
            told
        });
        assert_eq!(told, [Ruling::Denied("kernel 'kasmina' is halted: stop".into())]);
    }

    #[test]
    fn the_section_says_which_kernel_governs_and_how_much() {
        let data = tempfile::tempdir().unwrap();
        let layers = KasminaFile { kernel: Some("second".into()), transitions_max: 1, ..KasminaFile::default() };
        let kernels = vec![KernelFile::new("first"), kernel_config("second").unwrap()];
        let file = File { kasmina: Some(layers), ..File::new(kernels) };
        let two = [1, 2].map(|seed| transition(seed, Lifecycle::Germinated));
        let rulings = governed(Some(file), data.path(), move |mut governor| Ok(governor.judge(&two))).unwrap();
        assert_eq!(rulings[0], Ruling::Allowed);
        assert!(matches!(&rulings[1], Ruling::Denied(why) if why.contains("more than 1 transitions")), "{rulings:?}");
    }

    #[test]
    fn outcomes_are_what_became_of_the_layer() {
        let data = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let decisions = runtime.block_on(async {
            let standalone = Standalone::open(None, data.path()).await.unwrap();
            let bounds = Bounds { transitions_max: 2, ..Bounds::default() };
            let mut governor = KernelGovernor::new(standalone.slot(), Handle::current(), bounds);
            let work = tokio::task::spawn_blocking(move || {
                let three: Vec<_> = (0..3).map(|seed| transition(seed, Lifecycle::Germinated)).collect();
                let rulings = governor.judge(&three);
                assert_eq!(rulings[..2], [Ruling::Allowed, Ruling::Allowed]);
                assert!(matches!(&rulings[2], Ruling::Denied(why) if why.contains("kasmina.transitions_max")));
                assert_eq!(governor.settle(Ok(())), []);
                governor.judge(&[transition(5, Lifecycle::Germinated)]);
                assert_eq!(governor.settle(Err("the disk is full".into())), []);
                governor.judge(&[transition(6, Lifecycle::Germinated)]);
            });
            work.await.unwrap();
            let status = standalone.slot().kernel();
            standalone.finish().await;
            status.decided()
        });
        assert_eq!(decisions, (2, 2), "landed, and not landed: on purpose and by silence");
    }

    #[test]
    fn the_ready_made_configuration_is_valid() {
        assert_eq!(configuration().unwrap().kernels[0].id, "kasmina");
        assert_eq!(kernel_config("other").unwrap().id, "other");
    }
}
