//! What is counted of layers.

use kasmina::state::Lifecycle;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Labels of what belongs to one layer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LayerLabels {
    /// The layer.
    pub layer: String,
}

/// Labels of seeds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StageLabels {
    /// The layer.
    pub layer: String,
    /// The stage, as `TRAINING`.
    pub stage: &'static str,
}

/// Labels of transitions.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TransitionLabels {
    /// The layer.
    pub layer: String,
    /// Where to.
    pub to: &'static str,
    /// `allowed` or `denied`.
    pub ruling: &'static str,
}

/// Labels of components.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ComponentLabels {
    /// `strategy` or `tamiyo`.
    pub kind: &'static str,
    /// Its name.
    pub component: String,
}

/// The counters of layers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LayerMetrics {
    /// Layers that are served.
    pub layers: Gauge,
    /// Seeds, by layer and stage.
    pub seeds: Family<StageLabels, Gauge>,
    /// Time of forward passes.
    pub forward_seconds: Family<LayerLabels, Histogram, fn() -> Histogram>,
    /// Transitions, by ruling.
    pub transitions: Family<TransitionLabels, Counter>,
    /// How often components were asked.
    pub component_calls: Family<ComponentLabels, Counter>,
    /// How often they gave no usable answer.
    pub component_failures: Family<ComponentLabels, Counter>,
    /// How often a strategy was not asked, because it rested after failures.
    pub component_unasked: Family<ComponentLabels, Counter>,
}

impl Default for LayerMetrics {
    fn default() -> Self {
        Self {
            layers: Gauge::default(),
            seeds: Family::default(),
            forward_seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(1e-5, 2.0, 20))),
            transitions: Family::default(),
            component_calls: Family::default(),
            component_failures: Family::default(),
            component_unasked: Family::default(),
        }
    }
}

impl LayerMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("kasmina_layers", "Layers that are served", self.layers.clone());
        registry.register("kasmina_seeds", "Seeds, by layer and stage", self.seeds.clone());
        let (text, family) = ("Time of forward passes", self.forward_seconds.clone());
        registry.register_with_unit("kasmina_forward", text, Unit::Seconds, family);
        registry.register("kasmina_transitions", "Transitions judged, by ruling", self.transitions.clone());
        for (name, text, family) in [
            ("calls", "How often a component was asked", &self.component_calls),
            ("failures", "How often a component gave no usable answer", &self.component_failures),
            ("unasked", "Steps for which a strategy was not asked, after failures", &self.component_unasked),
        ] {
            registry.register(format!("kasmina_component_{name}"), text, family.clone());
        }
    }

    /// How many seeds of a layer are in each stage.
    pub(super) fn observe(&self, layer: &str, counts: &[usize; 11]) {
        for (stage, count) in Lifecycle::ALL.into_iter().zip(counts) {
            let labels = StageLabels { layer: layer.to_owned(), stage: stage.name() };
            self.seeds.get_or_create(&labels).set(i64::try_from(*count).unwrap_or(i64::MAX));
        }
    }

    /// A layer is gone.
    pub(super) fn forget(&self, layer: &str) {
        let layer = layer.to_owned();
        for stage in Lifecycle::ALL {
            self.seeds.remove(&StageLabels { layer: layer.clone(), stage: stage.name() });
            for ruling in ["allowed", "denied"] {
                self.transitions.remove(&TransitionLabels { layer: layer.clone(), to: stage.name(), ruling });
            }
        }
        self.forward_seconds.remove(&LayerLabels { layer });
    }
}
