//! What a saved layer says of itself before anything of it is restored: enough to make a layer that it fits.

use super::Config;
use super::save::{authentic, damaged};
use crate::Error;
use crate::checkpoint::codec::Reader;
use crate::lifecycle::Mode;
use crate::observe::TaskSignals;

/// The head of a saved layer.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Head {
    /// The layer's id.
    pub id: String,
    /// Its columns.
    pub width: usize,
    /// Its seeds.
    pub seeds: usize,
    /// Its lifecycle.
    pub mode: Mode,
    /// Epochs that had ended.
    pub epoch: u64,
    /// What the last boundary was told of the task.
    pub task: TaskSignals,
    /// Ids of the blueprints that its seeds have or had.
    pub blueprint_ids: Vec<String>,
    /// Names of the strategies that it knew.
    pub strategies: Vec<String>,
}

impl Head {
    /// Read the head of what [`crate::Layer::save`] wrote. The digest of the whole is checked.
    ///
    /// # Errors
    /// If the bytes are damaged, of another version, or no saved layer.
    pub fn read(bytes: &[u8]) -> Result<Self, Error> {
        let mut from = Reader::new(authentic(bytes)?);
        let mut read = || {
            Some(Self {
                id: from.text()?,
                width: from.size()?,
                seeds: from.size()?,
                mode: if from.u32()? == 0 { Mode::Full } else { Mode::Legacy },
                epoch: from.u64()?,
                task: {
                    let _lessons = from.u64()?;
                    TaskSignals { loss: from.f64()?, metric: from.f64()? }
                },
                blueprint_ids: from.list(Reader::text)?,
                strategies: from.list(Reader::text)?,
            })
        };
        read().ok_or_else(|| damaged("it ends within its head"))
    }

    /// The configuration of a layer that it fits; what it does not say is the default.
    #[must_use]
    pub fn config(&self) -> Config {
        let (id, blueprints_max) = (self.id.clone(), self.blueprint_ids.len().max(Config::default().blueprints_max));
        Config { id, width: self.width, seeds: self.seeds, mode: self.mode, blueprints_max, ..Config::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Plain;
    use crate::{Layer, Library};

    fn layer(config: Config) -> Layer {
        Layer::new(config, Library::standard().shared(), Box::<Plain>::default(), Box::<Plain>::default()).unwrap()
    }

    #[test]
    fn a_layer_made_by_a_head_takes_what_the_head_is_of() {
        for config in [Config { id: "a".to_owned(), width: 21, seeds: 5, ..Config::default() }, Config::legacy("b", 3)]
        {
            let saved = layer(config.clone()).save();
            let head = Head::read(&saved).unwrap();
            assert_eq!(
                (head.id.as_str(), head.width, head.seeds, head.mode),
                (&*config.id, config.width, config.seeds, config.mode)
            );
            assert_eq!(head.epoch, 0);
            layer(head.config()).restore(&saved).unwrap();
        }
    }

    #[test]
    fn what_is_no_saved_layer_is_refused() {
        let mut saved = layer(Config::default()).save();
        assert_eq!(
            Head::read(b"no").unwrap_err().to_string(),
            "checkpoint: it is damaged: it is shorter than its digest"
        );
        let error = Head::read(&[7; 100]).unwrap_err().to_string();
        assert_eq!(error, "checkpoint: it does not begin as a saved layer does");
        saved[20] ^= 1;
        assert_eq!(Head::read(&saved).unwrap_err().to_string(), "checkpoint: it is damaged: its digest does not match");
    }
}
