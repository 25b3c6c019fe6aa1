//! What a saved layer says of itself before anything of it is restored: enough to make a layer that it fits.

use super::Config;
use super::save::{SEED_BYTES_MIN, authentic, damaged};
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
                mode: match from.u32()? {
                    0 => Mode::Full,
                    1 => Mode::Legacy,
                    _ => return None,
                },
                epoch: from.u64()?,
                task: {
                    let _lessons = from.u64()?;
                    TaskSignals { loss: from.f64()?, metric: from.f64()? }
                },
                blueprint_ids: from.list(Reader::text)?,
                strategies: from.list(Reader::text)?,
            })
        };
        let head = read().ok_or_else(|| damaged("it ends within its head, or has a mode that there is not"))?;
        let left = from.left();
        // Whoever makes a layer of so many seeds sets memory aside for each.
        if head.seeds.checked_mul(SEED_BYTES_MIN).is_none_or(|least| least > left) {
            return Err(damaged(&format!("{} seeds cannot lie in the {left} bytes after its head", head.seeds)));
        }
        Ok(head)
    }

    /// The configuration of a layer that it fits; what it does not say is the default.
    #[must_use]
    pub fn config(&self) -> Config {
        let (id, blueprints_max) = (self.id.clone(), self.blueprint_ids.len().max(Config::default().blueprints_max));
        Config {
            id,
            width: self.width,
            seeds: self.seeds,
            mode: self.mode,
            blueprints_max,
            // What it has was read already.
            seed_weights_max: usize::MAX,
            weights_max: usize::MAX,
            ..Config::default()
        }
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
    fn a_forged_head_sets_no_memory_aside() {
        use sha2::{Digest, Sha256};
        let saved = layer(Config { id: "a".to_owned(), ..Config::default() }).save();
        // After the magic, the version and the id of one byte: width, seeds, mode.
        let seeds = 8 + 4 + 8 + 1 + 8;
        for (at, forged, says) in [
            (seeds, &4_000_000_000_u64.to_le_bytes()[..], "4000000000 seeds cannot lie in the"),
            (seeds, &u64::MAX.to_le_bytes()[..], "seeds cannot lie in the"),
            (seeds + 8, &2_u32.to_le_bytes()[..], "a mode that there is not"),
        ] {
            let mut bytes = saved[..saved.len() - 32].to_vec();
            bytes[at..at + forged.len()].copy_from_slice(forged);
            let digest = Sha256::digest(&bytes);
            bytes.extend(digest);
            let error = Head::read(&bytes).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
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
