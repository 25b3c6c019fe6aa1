//! Tamiyo, as she comes with the crate: follows open gates, culls what failed, puts back what is unstable, releases what
//! has waited out its embargo, and germinates the most promising seeds with the blueprints that Karn ranks first.
//!
//! She keeps no state: what she orders follows from the observation and the library alone, and a command's id from the
//! layer, the epoch, the seed and the order. So the same observation twice gives the same commands twice, which a layer takes once.

use crate::blueprint::Function;
use crate::chunks::Chunks;
use crate::govern::{Command, Order, Tamiyo};
use crate::karn::{self, Ranked, Ranking};
use crate::layer::Library;
use crate::observe::{Gate, Observation, SeedView};
use crate::state::Lifecycle;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};

/// How [`Standard`] decides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// How many seeds she germinates in one epoch at most.
    pub germinations_max: usize,
    /// How many seeds may be on their way at once (neither dormant nor at an end nor under embargo).
    pub growing_max: usize,
    /// From which epoch on she germinates no more.
    pub germinate_until: Option<u64>,
    /// Names or ids of the blueprints that she uses; none means all in the library.
    pub blueprints: Vec<String>,
    /// The grafting strategy that she names; the layer's own by default.
    pub strategy: Option<String>,
    /// How blueprints are ranked.
    pub ranking: Ranking,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            germinations_max: 4,
            growing_max: 64,
            germinate_until: None,
            blueprints: Vec::new(),
            strategy: None,
            ranking: Ranking::default(),
        }
    }
}

/// The Tamiyo that comes with the crate.
#[derive(Debug, Clone)]
pub struct Standard {
    policy: Policy,
    library: Arc<Mutex<Library>>,
}

impl Standard {
    /// One that reads the blueprints' records in this library.
    #[must_use]
    pub fn new(policy: Policy, library: Arc<Mutex<Library>>) -> Self {
        Self { policy, library }
    }

    /// How she decides.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    fn germinations(&self, observation: &Observation) -> Vec<Command> {
        let growing = observation.seeds.iter().filter(|seed| is_growing(seed.stage)).count();
        let room = self.policy.growing_max.saturating_sub(growing).min(self.policy.germinations_max);
        if room == 0
            || observation.candidates.is_empty()
            || self.policy.germinate_until.is_some_and(|last| observation.epoch >= last)
        {
            return Vec::new();
        }
        let chunks = Chunks::new(observation.width, observation.seed_count).ok();
        let mut chosen = self.choice(observation);
        let with_blueprint = |&seed: &usize| {
            // Without a tiling nothing is known of widths, and nothing is kept back for them.
            let width = chunks.filter(|chunks| seed < chunks.seeds()).map_or(0, |chunks| chunks.width_of(seed));
            let (id, reason) = chosen.next(width)?;
            let command = command(observation, seed, Order::Germinate, reason);
            Some(Command { blueprint: Some(id), strategy: self.policy.strategy.clone(), ..command })
        };
        observation.candidates.iter().filter_map(with_blueprint).take(room).collect()
    }

    fn choice(&self, observation: &Observation) -> Choice {
        let library = self.library.lock().unwrap_or_else(PoisonError::into_inner);
        let ranked = karn::rank(&library.blueprints, &self.policy.blueprints, &self.policy.ranking);
        let option = |ranked: Ranked| {
            let function = library.blueprints.find(&ranked.id).ok()?.function;
            Some(Candidate { tried: karn::tried(&ranked.record), function, ranked })
        };
        Choice {
            all: ranked.into_iter().filter_map(option).collect(),
            tries: self.policy.ranking.tries,
            seed_weights_max: observation.seed_weights_max,
            weights_free: observation.weights_free,
        }
    }
}

impl Tamiyo for Standard {
    fn decide(&mut self, observation: &Observation) -> Result<Vec<Command>, String> {
        let mut slots = observation.training_slots_free;
        let mut commands: Vec<Command> =
            observation.seeds.iter().filter_map(|seed| follow(observation, seed, &mut slots)).collect();
        commands.extend(self.germinations(observation));
        Ok(commands)
    }
}

/// What a seed's gate leads to.
fn follow(observation: &Observation, seed: &SeedView, slots: &mut usize) -> Option<Command> {
    match &seed.gate {
        Gate::Open { to: Lifecycle::Training } => {
            *slots = slots.checked_sub(1)?;
            Some(command(observation, seed.seed, Order::Train, "a training slot is free".to_owned()))
        }
        Gate::Open { to } => {
            let reason = format!("its gate is open after {} epochs in {}", seed.epochs_in_state, seed.stage);
            Some(command(observation, seed.seed, Order::to(*to), reason))
        }
        Gate::Failed { reason } => Some(command(observation, seed.seed, Order::Cull, reason.clone())),
        Gate::Unstable { reason } => Some(command(observation, seed.seed, Order::Rollback, reason.clone())),
        Gate::Shut { .. } => None,
    }
}

/// Which blueprint the next seed gets, of those whose weights the layer would take: the untried in turn, each as often
/// as is still to be tried; then the best.
struct Choice {
    all: Vec<Candidate>,
    tries: u64,
    seed_weights_max: usize,
    weights_free: usize,
}

struct Candidate {
    ranked: Ranked,
    function: Function,
    tried: u64,
}

impl Choice {
    /// For a chunk of `width` columns.
    fn next(&mut self, width: usize) -> Option<(String, String)> {
        let (tries, most) = (self.tries, self.seed_weights_max.min(self.weights_free));
        let fits = |one: &&mut Candidate| one.function.weights(width) <= most;
        let order = |one: &&mut Candidate| {
            let due = one.tried < tries;
            (!due, if due { one.tried } else { 0 })
        };
        let best = |a: &&mut Candidate, b: &&mut Candidate| {
            let score = || b.ranked.score.total_cmp(&a.ranked.score).then_with(|| a.ranked.name.cmp(&b.ranked.name));
            order(a).cmp(&order(b)).then_with(|| if a.tried < tries { std::cmp::Ordering::Equal } else { score() })
        };
        let found = self.all.iter_mut().filter(fits).min_by(best)?;
        self.weights_free -= found.function.weights(width);
        let Ranked { id, name, score, .. } = &found.ranked;
        let reason = if found.tried < tries {
            found.tried += 1;
            format!("blueprint {name} has had {} of {tries} tries", found.tried - 1)
        } else {
            format!("blueprint {name} ranks first with {score:.6}")
        };
        Some((id.clone(), reason))
    }
}

fn is_growing(stage: Lifecycle) -> bool {
    use Lifecycle as L;
    matches!(stage, L::Germinated | L::Training | L::Grafting | L::Stabilization | L::Evaluating | L::FineTuning)
}

fn command(observation: &Observation, seed: usize, order: Order, reason: String) -> Command {
    let id = format!("tamiyo-{}-{}-{seed}-{}", observation.layer_id, observation.epoch, order.target());
    Command { id, seed, order, blueprint: None, blueprint_ir: None, strategy: None, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::TaskSignals;
    use crate::telemetry::SeedTelemetry;

    fn view(seed: usize, stage: Lifecycle, gate: Gate) -> SeedView {
        SeedView {
            seed,
            stage,
            epochs_in_state: 7,
            blueprint_id: None,
            strategy: None,
            alpha: 0.0,
            gate,
            telemetry: SeedTelemetry::default(),
            gradient_norm: 0.0,
            denoising_loss: None,
            evaluation: None,
            stability: 1.0,
            errors: 0,
        }
    }

    fn observation(candidates: &[usize], seeds: Vec<SeedView>) -> Observation {
        Observation {
            layer_id: "hidden".to_owned(),
            epoch: 12,
            task: TaskSignals::default(),
            seed_count: 16,
            width: 64,
            seed_weights_max: 1_000,
            weights_free: 10_000,
            training_slots_free: 1,
            candidates: candidates.to_vec(),
            seeds,
        }
    }

    fn standard(policy: Policy) -> Standard {
        Standard::new(policy, Library::standard().shared())
    }

    #[test]
    fn gates_are_followed() {
        use Lifecycle as L;
        let open = |to| Gate::Open { to };
        let seeds = vec![
            view(0, L::Germinated, open(L::Training)),
            view(1, L::Germinated, open(L::Training)),
            view(2, L::Training, open(L::Grafting)),
            view(3, L::Evaluating, Gate::Failed { reason: "its delta is -0.2".to_owned() }),
            view(4, L::Grafting, Gate::Unstable { reason: "its output is not finite".to_owned() }),
            view(5, L::Culled, open(L::Dormant)),
            view(6, L::FineTuning, Gate::Shut { waits_for: "an improvement".to_owned() }),
            view(7, L::FineTuning, open(L::Fossilized)),
        ];
        let observation = observation(&[], seeds);
        let mut tamiyo = standard(Policy::default());
        let commands = tamiyo.decide(&observation).unwrap();
        let orders: Vec<_> = commands.iter().map(|command| (command.seed, command.order)).collect();
        // Of two seeds that may train, one slot lets one.
        let expected = [
            (0, Order::Train),
            (2, Order::Graft),
            (3, Order::Cull),
            (4, Order::Rollback),
            (5, Order::Release),
            (7, Order::Fossilize),
        ];
        assert_eq!(orders, expected);
        assert_eq!(commands[2].reason, "its delta is -0.2");
        assert_eq!(commands, tamiyo.decide(&observation).unwrap(), "what is seen twice is ordered twice alike");
    }

    #[test]
    fn germinations_are_bounded_and_try_every_blueprint() {
        let growing = vec![view(9, Lifecycle::Training, Gate::Shut { waits_for: "more epochs".to_owned() })];
        let ordered = |policy: Policy| standard(policy).decide(&observation(&[3, 1, 2], growing.clone())).unwrap();
        let commands = ordered(Policy { growing_max: 4, ..Policy::default() });
        let seeds: Vec<_> = commands.iter().map(|command| command.seed).collect();
        assert_eq!(seeds, [3, 1, 2], "in the order in which the layer names them");
        let mut blueprints: Vec<_> = commands.iter().map(|command| command.blueprint.clone().unwrap()).collect();
        blueprints.sort();
        blueprints.dedup();
        assert_eq!(blueprints.len(), 3, "three untried blueprints, one seed each");
        assert_eq!(ordered(Policy { growing_max: 2, ..Policy::default() }).len(), 1);
        assert_eq!(ordered(Policy { germinations_max: 2, ..Policy::default() }).len(), 2);
        assert!(ordered(Policy { germinate_until: Some(12), ..Policy::default() }).is_empty());
        assert!(ordered(Policy { blueprints: vec!["absent".to_owned()], ..Policy::default() }).is_empty());
    }

    #[test]
    fn nothing_is_ordered_that_the_layer_would_refuse() {
        // On chunks of 4 columns: an adapter of rank 16 has 148 weights, an mlp 428, a residual scale 8.
        let ordered = |seed_weights_max, weights_free| {
            let observation = Observation { seed_weights_max, weights_free, ..observation(&[3, 1, 2], Vec::new()) };
            let commands = standard(Policy::default()).decide(&observation).unwrap();
            let library = Library::standard();
            let name = |command: &Command| {
                library.blueprints.find(command.blueprint.as_deref().unwrap()).unwrap().name.clone()
            };
            commands.iter().map(name).collect::<Vec<_>>()
        };
        assert_eq!(ordered(147, 10_000), ["residual_scale"; 3]);
        assert_eq!(ordered(1_000, 164), ["adapter", "residual_scale", "residual_scale"]);
        assert_eq!(ordered(1_000, 15), ["residual_scale"]);
        assert!(ordered(7, 10_000).is_empty());
    }

    #[test]
    fn a_blueprint_that_never_lasts_is_given_up() {
        let policy = Policy { blueprints: vec!["mlp".to_owned()], ..Policy::default() };
        let mut tamiyo = standard(policy);
        let mut record = |culled: u64| {
            let mut library = tamiyo.library.lock().unwrap();
            let id = library.blueprints.find("mlp").unwrap().id();
            let record = library.blueprints.record_mut(&id).unwrap();
            (record.used, record.culled) = (culled, culled);
            drop(library);
            tamiyo.decide(&observation(&[0, 1], Vec::new())).unwrap().len()
        };
        assert_eq!((record(3), record(4)), (2, 0));
    }
}
