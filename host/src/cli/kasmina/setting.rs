//! What a training run is set in: its device, the kernel that governs it, and who commands.

use crate::config::{self, File};
use crate::host::ledger_dir;
use crate::kasmina::KernelGovernor;
use crate::kasmina::component::{self, ComponentStrategy, ComponentTamiyo, StrategyFile, TamiyoFile};
use crate::kasmina::standalone::{configuration, governed};
use anyhow::{Context, Result, bail};
use kasmina::backend::Backend;
use kasmina::device::{self, Preference};
use kasmina::experiment::Plan;
use kasmina::govern::Tamiyo;
use kasmina::layer::Library;
use kasmina::strategy::Strategy;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Where a layer runs, and under whose law.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct SettingArgs {
    #[command(flatten)]
    pub(super) device: DeviceArgs,
    /// Keep the ledger in this folder; without, it ends with the command.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The configuration of the kernel that judges transitions (`kasmina.kernel`, or the first), with the strategies and the
    /// Tamiyo of its section `kasmina`. Default: one in which Tamiyo may change seeds.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Where a layer runs.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct DeviceArgs {
    /// Where it runs: on a GPU where there is one, on the CPU, or on a GPU or not at all.
    #[arg(long, value_enum, default_value = "auto")]
    backend: BackendName,
    /// Only a GPU whose name contains this; `gavel kasmina inspect` lists them.
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// Threads of the CPU. Default: all.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum BackendName {
    /// A GPU of hardware where there is one, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU, also one that is software.
    #[value(alias = "gpu")]
    Wgpu,
}

impl DeviceArgs {
    /// What is asked for.
    pub(super) fn preference(&self) -> Result<Preference> {
        match (self.backend, &self.adapter) {
            (BackendName::Auto, None) => Ok(Preference::Auto),
            (BackendName::Cpu, None) => Ok(Preference::Cpu),
            (BackendName::Wgpu, adapter) => Ok(Preference::Gpu { adapter: adapter.clone() }),
            (_, Some(_)) => bail!("--adapter is for --backend wgpu"),
        }
    }

    /// Threads of the CPU.
    pub(super) fn threads(&self) -> Option<usize> {
        self.threads.map(usize::from)
    }

    /// A backend.
    pub(super) fn open(preference: &Preference, threads: Option<usize>) -> Result<Box<dyn Backend>, kasmina::Error> {
        device::choose(preference, threads, &kasmina::gpu::Options::default())
    }
}

/// What commands and what blends, where components do.
#[derive(Debug)]
pub(super) struct Components {
    /// Those of the configuration, which a plan may name.
    known: Vec<ComponentStrategy>,
    strategy: Option<ComponentStrategy>,
    tamiyo: Option<ComponentTamiyo>,
}

impl Components {
    /// Load the components of a configuration, and those of these files. A Tamiyo of a file commands, not the one of the
    /// configuration.
    pub(super) fn load(file: &File, strategy: Option<&Path>, tamiyo: Option<&Path>) -> Result<Self> {
        let section = file.kasmina.clone().unwrap_or_default();
        let tamiyo = tamiyo.map(TamiyoFile::at).or(section.tamiyo);
        if strategy.is_none() && tamiyo.is_none() && section.strategies.is_empty() {
            return Ok(Self { known: Vec::new(), strategy: None, tamiyo: None });
        }
        let sandbox = component::sandbox()?;
        let loaded = component::Components::load(&sandbox, &section.strategies, tamiyo.as_ref())?;
        let strategy = strategy.map(|path| component::load_strategy(&sandbox, &StrategyFile::at(path))).transpose()?;
        Ok(Self { known: loaded.strategies, strategy, tamiyo: loaded.tamiyo })
    }

    /// The component that commands, if one does.
    pub(super) fn commander(&self) -> Option<&str> {
        self.tamiyo.as_ref().map(ComponentTamiyo::name)
    }

    /// The plan with the component as its strategy; all components join the library.
    pub(super) fn strategy_of(&self, plan: &Plan, library: &mut Library) -> Plan {
        let mut plan = plan.clone();
        for known in &self.known {
            library.strategies.add(Box::new(known.clone()));
        }
        if let Some(strategy) = &self.strategy {
            library.strategies.add(Box::new(strategy.clone()));
            strategy.name().clone_into(&mut plan.layer.strategy);
            plan.tamiyo.strategy = None;
        }
        plan
    }

    /// Who commands a run.
    pub(super) fn tamiyo_of(&self, plan: &Plan, library: &Arc<Mutex<Library>>) -> Box<dyn Tamiyo> {
        match &self.tamiyo {
            Some(tamiyo) => Box::new(tamiyo.clone()),
            None => Box::new(plan.tamiyo(library)),
        }
    }
}

impl SettingArgs {
    /// The configuration.
    pub(super) fn file(&self) -> Result<File> {
        Ok(self.config.as_deref().map_or_else(configuration, config::read)?)
    }

    /// Do something with a governor of this configuration; say where its ledger lies, if it is kept.
    pub(super) fn governed<T: Send + 'static>(
        &self,
        file: File,
        work: impl FnOnce(KernelGovernor) -> Result<T> + Send + 'static,
    ) -> Result<(T, Option<PathBuf>)> {
        let temporary = tempfile::tempdir().context("no temporary folder")?;
        let data = self.data.as_deref().unwrap_or(temporary.path());
        let named = file.kasmina.as_ref().and_then(|layers| layers.kernel.as_deref());
        let first = file.kernels.first().map(|kernel| kernel.id.as_str());
        let kernel = named.or(first).context("the configuration has no kernel")?;
        let ledger = self.data.as_deref().map(|data| ledger_dir(data, kernel));
        Ok((governed(Some(file), data, work)?, ledger))
    }
}
