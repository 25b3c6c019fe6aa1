//! Which device runs a layer.

use crate::Error;
use crate::backend::Backend;
use crate::cpu::Cpu;
use crate::gpu::{self, Gpu, Options};

/// What an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(tag = "device", rename_all = "snake_case", deny_unknown_fields)]
pub enum Preference {
    /// A GPU if there is one made of hardware, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// A GPU, or the error that tells why not; also one that is software, as Mesa's lavapipe.
    Gpu {
        /// Only one whose name contains this, in any case.
        #[serde(default)]
        adapter: Option<String>,
    },
}

/// Open the device that is asked for. `options` are the GPU's; its `adapter` and `software` follow the preference. With no
/// GPU, `Auto` takes the processor and says so in one line of the log. `threads`: of the processor; all if not given.
///
/// # Errors
/// If a GPU is asked for and none suits.
pub fn choose(preference: &Preference, threads: Option<usize>, options: &Options) -> Result<Box<dyn Backend>, Error> {
    match preference {
        Preference::Cpu => Ok(Box::new(Cpu::new(threads))),
        Preference::Gpu { adapter } => {
            Ok(Box::new(Gpu::new(Options { adapter: adapter.clone(), software: true, ..options.clone() })?))
        }
        Preference::Auto => match Gpu::new(Options { adapter: None, software: false, ..options.clone() }) {
            Ok(gpu) => Ok(Box::new(gpu)),
            Err(error) => {
                tracing::info!(reason = %error, "no gpu is used: the layer runs on the cpu");
                Ok(Box::new(Cpu::new(threads)))
            }
        },
    }
}

/// The GPUs of this machine, those made of software among them.
#[must_use]
pub fn list() -> Vec<gpu::Adapter> {
    gpu::list()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_there_for_whoever_asks() {
        let device = choose(&Preference::Cpu, Some(1), &Options::default()).unwrap().device();
        assert_eq!(device.backend, "cpu");
    }

    #[test]
    fn a_software_gpu_is_not_taken_unasked() {
        let hardware = list().iter().any(|adapter| adapter.hardware);
        let device = choose(&Preference::Auto, Some(1), &Options::default()).unwrap().device();
        assert_eq!(device.backend, if hardware { "wgpu" } else { "cpu" });
    }

    #[test]
    fn a_gpu_that_is_not_there_is_an_error_that_names_it() {
        let preference = Preference::Gpu { adapter: Some("Voodoo 2".to_owned()) };
        let Err(error) = choose(&preference, None, &Options::default()) else { panic!("there is none") };
        assert!(error.to_string().contains("`Voodoo 2`"), "{error}");
    }

    #[test]
    fn preferences_are_read_from_a_configuration() {
        let read = |json: &str| serde_json::from_str::<Preference>(json).unwrap();
        assert_eq!(read(r#"{"device":"auto"}"#), Preference::Auto);
        assert_eq!(read(r#"{"device":"gpu","adapter":"RTX"}"#), Preference::Gpu { adapter: Some("RTX".to_owned()) });
    }
}
