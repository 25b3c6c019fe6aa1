//! The connection to one device: adapter, device, queue, pipelines, and what went wrong with them.
//!
//! wgpu reports most failures late and by callback. They are gathered in [`Faults`], and [`Context::check`] turns them
//! into an error after every use.

use super::Options;
use super::memory::Memory;
use super::pipelines::Pipelines;
use crate::Error;
use crate::backend::Device;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What an adapter can do that the kernels need: bytes of shared memory of a workgroup.
const WORKGROUP_BYTES_MIN: u32 = 16 << 10;

/// How long a device that failed may take to say that it is lost.
const LOSS_WAIT_MAX: Duration = Duration::from_secs(10);

/// An adapter that this machine offers.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Adapter {
    /// Its own name, for example `llvmpipe (LLVM 15.0.6, 256 bits)`.
    pub name: String,
    /// `discrete gpu`, `integrated gpu`, `virtual gpu`, `software` or `other`.
    pub kind: &'static str,
    /// Whether it is made of hardware: not a program that plays a GPU on the processor.
    pub hardware: bool,
    /// The interface and the driver.
    pub detail: String,
    /// The largest part of a buffer that a shader can be given, in bytes; larger ones are split.
    pub binding_bytes_max: u64,
}

/// What went wrong since the last [`Context::check`].
#[derive(Debug, Default)]
struct Faults {
    lost: Option<String>,
    failed: Option<String>,
    out_of_memory: bool,
}

/// A device in use.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) pipelines: Pipelines,
    pub(super) memory: Memory,
    pub(super) about: Adapter,
    /// The largest part of a buffer that is bound at once, in bytes: the adapter's limits, and the option's.
    pub(super) binding_bytes_max: u64,
    pub(super) has_timestamps: bool,
    faults: Arc<Mutex<Faults>>,
    /// The most bytes that wait to be copied to the device.
    staged_bytes_max: u64,
    /// Bytes that were written since the last wait.
    staged: AtomicU64,
    /// Makes the next poll fail as wgpu does when the driver says that the device is gone.
    #[cfg(test)]
    pub(super) breaks: std::sync::atomic::AtomicBool,
}

impl Context {
    pub(super) fn new(options: &Options) -> Result<Self, Error> {
        let adapter = pick(options)?;
        let about = describe(&adapter);
        let fail = |problem: String| Error::Device { device: about.name.clone(), problem };
        let limits = adapter.limits();
        if limits.max_compute_workgroup_storage_size < WORKGROUP_BYTES_MIN {
            let has = limits.max_compute_workgroup_storage_size;
            return Err(fail(format!(
                "workgroups have {has} bytes of shared memory, {WORKGROUP_BYTES_MIN} are needed"
            )));
        }
        let features = adapter.features() & wgpu::Features::TIMESTAMP_QUERY;
        let binding = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("kasmina"),
            required_features: features,
            required_limits: limits,
            ..wgpu::DeviceDescriptor::default()
        }))
        .map_err(|error| fail(error.to_string()))?;
        let faults = watch(&device);
        let pipelines = Pipelines::new(&device);
        let memory = Memory::new(device.clone(), about.name.clone(), options.memory_bytes_max);
        let has_timestamps = features.contains(wgpu::Features::TIMESTAMP_QUERY);
        // Bindings are of whole quads.
        let binding_bytes_max = binding.min(options.binding_bytes_max.unwrap_or(u64::MAX)) & !15;
        let context = Self {
            device,
            queue,
            pipelines,
            memory,
            about,
            binding_bytes_max,
            has_timestamps,
            faults,
            // Copies are of whole floats.
            staged_bytes_max: options.staged_bytes_max.max(4) & !3,
            staged: AtomicU64::new(0),
            #[cfg(test)]
            breaks: std::sync::atomic::AtomicBool::new(false),
        };
        context.check("pipelines")?;
        Ok(context)
    }

    pub(super) fn describe(&self) -> Device {
        Device { backend: "wgpu", name: self.about.name.clone(), detail: self.about.detail.clone() }
    }

    /// The error of what failed since the last call, if anything did.
    pub(super) fn check(&self, what: &str) -> Result<(), Error> {
        if self.has_failed() {
            // A loss is told when the device is polled with nothing under way; until then its buffers are merely said to be
            // invalid.
            drop(self.poll(wgpu::PollType::Wait { submission_index: None, timeout: Some(LOSS_WAIT_MAX) }));
        }
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let (failed, out_of_memory) = (faults.failed.take(), std::mem::take(&mut faults.out_of_memory));
        if let Some(reason) = &faults.lost {
            return Err(self.error(format!(
                "it was lost: {reason}; the next pass opens it anew, tensors must be made and filled again"
            )));
        }
        if out_of_memory {
            return Err(Error::OutOfMemory { device: self.about.name.clone(), what: what.to_owned(), bytes: 0 });
        }
        failed.map_or(Ok(()), |problem| Err(self.error(format!("{what}: {problem}"))))
    }

    fn has_failed(&self) -> bool {
        let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.failed.is_some() || faults.out_of_memory
    }

    pub(super) fn is_lost(&self) -> bool {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).lost.is_some()
    }

    pub(super) fn error(&self, problem: String) -> Error {
        Error::Device { device: self.about.name.clone(), problem }
    }

    /// Wait until the device has done all that was submitted.
    pub(super) fn wait(&self, what: &str) -> Result<(), Error> {
        let waited = self.poll(wgpu::PollType::wait_indefinitely());
        self.staged.store(0, Ordering::Relaxed);
        self.check(what)?;
        waited.map_err(|problem| self.error(format!("{what}: {problem}")))
    }

    /// Poll the device. Where the driver says that it is gone, wgpu panics: that is a loss like any other.
    fn poll(&self, kind: wgpu::PollType) -> Result<(), String> {
        let polled = catch_unwind(AssertUnwindSafe(|| {
            #[cfg(test)]
            assert!(!self.breaks.swap(false, Ordering::Relaxed), "the driver says that the device is gone");
            self.device.poll(kind)
        }));
        match polled {
            Ok(polled) => polled.map(drop).map_err(|error| error.to_string()),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
                let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
                Err(faults.lost.get_or_insert_with(|| text.to_owned()).clone())
            }
        }
    }

    /// Write into a buffer. What is written takes as much memory again until it is copied: at most
    /// `Options::staged_bytes_max`, then the device is waited for.
    pub(super) fn write(&self, to: &wgpu::Buffer, at: u64, bytes: &[u8]) -> Result<(), Error> {
        let mut at = at;
        for part in bytes.chunks(usize::try_from(self.staged_bytes_max).unwrap_or(usize::MAX)) {
            let length = part.len() as u64;
            if self.staged.load(Ordering::Relaxed) + length > self.staged_bytes_max {
                self.queue.submit([]);
                self.wait("upload")?;
            }
            self.queue.write_buffer(to, at, part);
            self.staged.fetch_add(length, Ordering::Relaxed);
            at += length;
        }
        Ok(())
    }
}

/// Gather the device's failures.
fn watch(device: &wgpu::Device) -> Arc<Mutex<Faults>> {
    let faults = Arc::new(Mutex::new(Faults::default()));
    let of_device = Arc::clone(&faults);
    device.set_device_lost_callback(move |reason, message| {
        let mut faults = of_device.lock().unwrap_or_else(PoisonError::into_inner);
        faults.lost.get_or_insert_with(|| format!("{reason:?} {message}").trim_end().to_owned());
    });
    let of_use = Arc::clone(&faults);
    device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
        let mut faults = of_use.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            wgpu::Error::OutOfMemory { .. } => faults.out_of_memory = true,
            other => drop(faults.failed.get_or_insert_with(|| other.to_string())),
        }
    }));
    faults
}

fn adapters() -> Vec<wgpu::Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    let instance = wgpu::Instance::new(descriptor);
    pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()))
}

/// The adapters of this machine.
#[must_use]
pub fn list() -> Vec<Adapter> {
    adapters().iter().map(describe).collect()
}

/// Hardware before software, and a card of its own before one that shares the processor's memory.
fn pick(options: &Options) -> Result<wgpu::Adapter, Error> {
    let mut found = adapters();
    found.sort_by_key(|adapter| match adapter.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    });
    let names: Vec<String> = found.iter().map(|adapter| adapter.get_info().name).collect();
    let wanted = options.adapter.as_deref().unwrap_or_default().to_lowercase();
    let suits = |adapter: &wgpu::Adapter| {
        let about = describe(adapter);
        (about.hardware || options.software) && about.name.to_lowercase().contains(&wanted)
    };
    found.into_iter().find(suits).ok_or_else(|| {
        let problem = if names.is_empty() {
            "this machine has no adapter for Vulkan, Metal or DirectX 12: install a driver, or use the cpu backend"
                .to_owned()
        } else {
            format!("no adapter suits; there are: {}", names.join(", "))
        };
        Error::Device { device: options.adapter.clone().unwrap_or_else(|| "any".to_owned()), problem }
    })
}

fn describe(adapter: &wgpu::Adapter) -> Adapter {
    let (info, limits) = (adapter.get_info(), adapter.limits());
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => "discrete gpu",
        wgpu::DeviceType::IntegratedGpu => "integrated gpu",
        wgpu::DeviceType::VirtualGpu => "virtual gpu",
        wgpu::DeviceType::Cpu => "software",
        wgpu::DeviceType::Other => "other",
    };
    Adapter {
        name: info.name,
        kind,
        hardware: info.device_type != wgpu::DeviceType::Cpu,
        detail: format!("{:?}, {kind}, {} {}", info.backend, info.driver, info.driver_info).trim_end().to_owned(),
        binding_bytes_max: limits.max_storage_buffer_binding_size.min(limits.max_buffer_size),
    }
}
