//! Feature flags: what of the layer is used. A layer with some of them off is what a layer with all of them is rolled
//! out against.

use crate::layer;
use crate::lifecycle::Mode;
use serde::{Deserialize, Serialize};

/// What of the layer is used. All of it by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Flags {
    /// A seed for each chunk, and the lifecycle of eleven stages. Off: the legacy mode, one seed over the whole width
    /// and five stages; the two go together.
    pub chunks: bool,
    /// The grafting strategy that the configuration, or a command, names. Off: every seed has `fixed_ramp`.
    pub strategies: bool,
    /// A GPU, where there is one. Off: the CPU.
    pub gpu: bool,
    /// Health reports, field reports, and news of epochs and rollbacks go out on the bus. Off: whoever wants to know
    /// has to ask.
    pub messages: bool,
}

/// The strategy of layers that have no others.
const PLAIN: &str = "fixed_ramp";

impl Default for Flags {
    fn default() -> Self {
        Self { chunks: true, strategies: true, gpu: true, messages: true }
    }
}

impl Flags {
    /// Their names.
    pub const NAMES: [&'static str; 4] = ["chunks", "strategies", "gpu", "messages"];

    /// Turn one off. `false` if there is none of that name.
    pub fn turn_off(&mut self, name: &str) -> bool {
        let flag = match name {
            "chunks" => &mut self.chunks,
            "strategies" => &mut self.strategies,
            "gpu" => &mut self.gpu,
            "messages" => &mut self.messages,
            _ => return false,
        };
        *flag = false;
        true
    }

    /// A layer's configuration with these flags.
    #[must_use]
    pub fn configure(&self, mut config: layer::Config) -> layer::Config {
        if !self.chunks {
            (config.mode, config.seeds) = (Mode::Legacy, 1);
        }
        if !self.strategies {
            PLAIN.clone_into(&mut config.strategy);
        }
        config
    }

    /// The strategy that a command's choice becomes.
    #[must_use]
    pub fn strategy(&self, chosen: Option<String>) -> Option<String> {
        chosen.filter(|_| self.strategies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flag_has_a_name_and_turns_off_itself_only() {
        for name in Flags::NAMES {
            let mut flags = Flags::default();
            assert!(flags.turn_off(name));
            let written = serde_json::to_value(flags).unwrap();
            let off: Vec<&String> =
                written.as_object().unwrap().iter().filter(|at| at.1 == false).map(|at| at.0).collect();
            assert_eq!(off, [name]);
        }
        assert!(!Flags::default().turn_off("chunk"));
    }

    #[test]
    fn a_configuration_is_what_the_flags_leave_of_it() {
        let config = layer::Config { strategy: "drift_controlled".to_owned(), ..layer::Config::default() };
        let all = Flags::default();
        assert_eq!(all.configure(config.clone()), config);
        assert_eq!(all.strategy(Some("drift_controlled".to_owned())).as_deref(), Some("drift_controlled"));
        let legacy = Flags { chunks: false, ..all }.configure(config.clone());
        assert_eq!((legacy.mode, legacy.seeds), (Mode::Legacy, 1));
        assert!(legacy.check().is_ok());
        let plain = Flags { strategies: false, ..all };
        assert_eq!(plain.configure(config).strategy, PLAIN);
        assert_eq!(plain.strategy(Some("drift_controlled".to_owned())), None);
    }
}
