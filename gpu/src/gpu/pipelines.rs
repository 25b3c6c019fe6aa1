//! The shaders, made ready: which bindings each has, and the constants that it is compiled with.

use std::sync::{Arc, Mutex, PoisonError};
use wgpu::BufferBindingType::{Storage, Uniform};

/// The shaders, put together as `build.rs` has checked them.
mod sources {
    pub(super) const NARROW: &str = concat!(
        include_str!("shaders/common.wgsl"),
        include_str!("shaders/fused.wgsl"),
        include_str!("shaders/narrow.wgsl")
    );
    pub(super) const WIDE: &str = concat!(
        include_str!("shaders/common.wgsl"),
        include_str!("shaders/fused.wgsl"),
        include_str!("shaders/wide.wgsl")
    );
    pub(super) const MERGE: &str = concat!(include_str!("shaders/common.wgsl"), include_str!("shaders/merge.wgsl"));
    pub(super) const STEPS: &str = concat!(include_str!("shaders/common.wgsl"), include_str!("shaders/steps.wgsl"));
    pub(super) const CHECK: &str = concat!(include_str!("shaders/common.wgsl"), include_str!("shaders/check.wgsl"));
    pub(super) const COPY: &str = include_str!("shaders/copy.wgsl");
}

const READ: wgpu::BufferBindingType = Storage { read_only: true };
const WRITE: wgpu::BufferBindingType = Storage { read_only: false };

/// The kernel that serves the chunks of a layer, chosen by its widest chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kernel {
    /// Chunks of fewer than 16 columns: tiles of whole seeds.
    Narrow,
    /// Chunks of 16 columns and more: one seed at a time.
    Wide,
}

/// Columns from which chunks are wide.
const WIDE_FROM: usize = 16;

impl Kernel {
    pub(super) fn of(widest: usize) -> Self {
        if widest < WIDE_FROM { Self::Narrow } else { Self::Wide }
    }

    /// Seeds that one workgroup serves.
    pub(super) fn tile_seeds(self, widest: usize) -> usize {
        match self {
            Self::Narrow => 64 / widest,
            Self::Wide => 1,
        }
    }

    /// Rows that one workgroup serves: a group of telemetry.
    pub(super) fn group_rows(self) -> usize {
        match self {
            Self::Narrow => 128,
            Self::Wide => 64,
        }
    }

    /// Its name, as benches print it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Narrow => "narrow",
            Self::Wide => "wide",
        }
    }
}

/// The two forms of a fused kernel for one tiling.
#[derive(Debug)]
pub(super) struct Fused {
    pub(super) plain: wgpu::ComputePipeline,
    pub(super) telemetry: wgpu::ComputePipeline,
}

/// One entry of `steps.wgsl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    Affine,
    AffineBack,
    Gather,
    Normalise,
    NormaliseBack,
    GatherScale,
    ScaleBack,
}

impl Entry {
    const NAMES: [(Self, &str); 7] = [
        (Self::Affine, "affine"),
        (Self::AffineBack, "affine_back"),
        (Self::Gather, "gather"),
        (Self::Normalise, "normalise"),
        (Self::NormaliseBack, "normalise_back"),
        (Self::GatherScale, "gather_scale"),
        (Self::ScaleBack, "scale_back"),
    ];
}

/// All pipelines and layouts that do not depend on the tiling.
#[derive(Debug)]
pub(super) struct Pipelines {
    /// Uniform, seeds, weights, flags, columns, parts.
    pub(super) pass_layout: wgpu::BindGroupLayout,
    /// x, y, and the first piece of x.
    pub(super) fused_layout: wgpu::BindGroupLayout,
    /// x, y, and what all copies share.
    pub(super) pair_layout: wgpu::BindGroupLayout,
    /// Uniform, seeds, members, weights, scratch, gradients.
    pub(super) steps_layout: wgpu::BindGroupLayout,
    /// x, dy, y or dx.
    pub(super) triple_layout: wgpu::BindGroupLayout,
    pub(super) merge_layout: wgpu::BindGroupLayout,
    pub(super) check_layout: wgpu::BindGroupLayout,
    pub(super) values_layout: wgpu::BindGroupLayout,
    pub(super) merge: wgpu::ComputePipeline,
    pub(super) check: wgpu::ComputePipeline,
    pub(super) copy: wgpu::ComputePipeline,
    steps: Vec<wgpu::ComputePipeline>,
    /// Those that depend on the tiling, with the constants that they were made for.
    fused: Mutex<Vec<(Constants, Arc<Fused>)>>,
}

/// Tilings whose kernels are kept.
const FUSED_KEPT_MAX: usize = 32;

/// What a fused kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Constants {
    kernel: Kernel,
    quads: usize,
    rounds: usize,
}

impl Pipelines {
    pub(super) fn new(device: &wgpu::Device) -> Self {
        let pass_layout = layout(device, true, &[Uniform, READ, READ, WRITE, WRITE, WRITE]);
        let fused_layout = layout(device, false, &[READ, WRITE, READ]);
        let pair_layout = layout(device, false, &[READ, WRITE, WRITE]);
        let steps_layout = layout(device, true, &[Uniform, READ, READ, READ, WRITE, WRITE]);
        let triple_layout = layout(device, false, &[READ, READ, WRITE]);
        let merge_layout = layout(device, false, &[Uniform, READ, READ, READ, WRITE]);
        let check_layout = layout(device, true, &[Uniform, WRITE]);
        let values_layout = layout(device, false, &[READ]);
        let steps = module(device, "steps", sources::STEPS);
        let steps = Entry::NAMES
            .iter()
            .map(|(_, entry)| pipeline(device, &steps, entry, &[&steps_layout, &triple_layout], &[]))
            .collect();
        let one = |name, source, layouts: &[&wgpu::BindGroupLayout]| {
            pipeline(device, &module(device, name, source), name, layouts, &[])
        };
        Self {
            merge: one("merge", sources::MERGE, &[&merge_layout]),
            check: one("check", sources::CHECK, &[&check_layout, &values_layout]),
            copy: one("copy", sources::COPY, &[&pair_layout]),
            steps,
            fused: Mutex::default(),
            pass_layout,
            fused_layout,
            pair_layout,
            steps_layout,
            triple_layout,
            merge_layout,
            check_layout,
            values_layout,
        }
    }

    pub(super) fn step(&self, entry: Entry) -> &wgpu::ComputePipeline {
        let at = Entry::NAMES.iter().position(|(known, _)| *known == entry);
        &self.steps[at.unwrap_or_default()]
    }

    /// The fused kernel for chunks of at most `widest` columns.
    pub(super) fn fused(&self, device: &wgpu::Device, kernel: Kernel, widest: usize) -> Arc<Fused> {
        let rounds = kernel.tile_seeds(widest).div_ceil(8);
        let constants = Constants { kernel, quads: widest.div_ceil(4), rounds };
        let mut kept = self.fused.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, fused)) = kept.iter().find(|(made_for, _)| *made_for == constants) {
            return Arc::clone(fused);
        }
        if kept.len() >= FUSED_KEPT_MAX {
            kept.remove(0);
        }
        let fused = Arc::new(self.compile(device, constants));
        kept.push((constants, Arc::clone(&fused)));
        fused
    }

    /// Give up the kernels that are kept: one of them may not be valid.
    pub(super) fn forget(&self) {
        self.fused.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn compile(&self, device: &wgpu::Device, Constants { kernel, quads, rounds }: Constants) -> Fused {
        let source = match kernel {
            Kernel::Narrow => sources::NARROW,
            Kernel::Wide => sources::WIDE,
        };
        let module = module(device, kernel.name(), source);
        #[allow(clippy::cast_precision_loss, reason = "a width is below 2^32")]
        let constant = |value: usize| value as f64;
        let form = |telemetry: f64| {
            let mut constants = vec![("QUADS", constant(quads)), ("TELEMETRY", telemetry)];
            if kernel == Kernel::Narrow {
                constants.push(("ROUNDS", constant(rounds)));
            }
            pipeline(device, &module, kernel.name(), &[&self.pass_layout, &self.fused_layout], &constants)
        };
        Fused { plain: form(0.0), telemetry: form(1.0) }
    }
}

fn module(device: &wgpu::Device, name: &str, source: &'static str) -> wgpu::ShaderModule {
    device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some(name),
        source: wgpu::ShaderSource::Wgsl(source.into()),
    })
}

fn pipeline(
    device: &wgpu::Device,
    module: &wgpu::ShaderModule,
    entry: &str,
    layouts: &[&wgpu::BindGroupLayout],
    constants: &[(&str, f64)],
) -> wgpu::ComputePipeline {
    let layouts: Vec<_> = layouts.iter().map(|layout| Some(*layout)).collect();
    let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some(entry),
        bind_group_layouts: &layouts,
        immediate_size: 0,
    });
    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(entry),
        layout: Some(&layout),
        module,
        entry_point: Some(entry),
        // Every kernel writes shared memory before it reads it.
        compilation_options: wgpu::PipelineCompilationOptions { constants, zero_initialize_workgroup_memory: false },
        cache: None,
    })
}

/// Bindings 0, 1, … of these types; `offset`: the uniform's place is given with each use.
fn layout(device: &wgpu::Device, offset: bool, types: &[wgpu::BufferBindingType]) -> wgpu::BindGroupLayout {
    let entries: Vec<_> = (0_u32..)
        .zip(types)
        .map(|(binding, &ty)| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: offset && ty == Uniform, min_binding_size: None },
            count: None,
        })
        .collect();
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries })
}

/// Bind whole buffers; the first alone is bound by `uniform` bytes of it where that is given.
pub(super) fn bind(
    device: &wgpu::Device,
    layout: &wgpu::BindGroupLayout,
    uniform: Option<u64>,
    buffers: &[&wgpu::Buffer],
) -> wgpu::BindGroup {
    let size = |binding: u32| uniform.filter(|_| binding == 0).and_then(wgpu::BufferSize::new);
    let entries: Vec<_> = (0_u32..)
        .zip(buffers)
        .map(|(binding, buffer)| wgpu::BindGroupEntry {
            binding,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset: 0, size: size(binding) }),
        })
        .collect();
    device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries })
}
