//! Who commands a layer, by name. A component that decides is one more entry here.

use super::error::KasminaError;
use kasmina::govern::{Command, Tamiyo};
use kasmina::layer::Library;
use kasmina::observe::Observation;
use kasmina::tamiyo::{Policy, Standard};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

/// The Tamiyo that comes with the crate `kasmina`.
pub const STANDARD: &str = "standard";
/// Nobody: callers command by messages.
pub const NONE: &str = "none";

/// A Tamiyo for one layer.
pub type Made = Result<Box<dyn Tamiyo + Send>, String>;

type Make = Box<dyn Fn(&Arc<Mutex<Library>>) -> Made + Send + Sync>;

/// All that there are, each made anew for every layer.
pub struct Tamiyos {
    by_name: BTreeMap<String, Make>,
}

impl fmt::Debug for Tamiyos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.by_name.keys()).finish()
    }
}

/// Orders nothing.
#[derive(Debug, Clone, Copy)]
struct Nobody;

impl Tamiyo for Nobody {
    fn decide(&mut self, _: &Observation) -> Result<Vec<Command>, String> {
        Ok(Vec::new())
    }
}

impl Default for Tamiyos {
    fn default() -> Self {
        let mut tamiyos = Self { by_name: BTreeMap::new() };
        tamiyos.add(NONE, |_| Ok(Box::new(Nobody)));
        tamiyos.add(STANDARD, |library| Ok(Box::new(Standard::new(Policy::default(), Arc::clone(library)))));
        tamiyos
    }
}

impl Tamiyos {
    /// Add one, or put it in the place of the one with its name. It is made anew for each layer, with the library that all
    /// layers share.
    pub fn add(&mut self, name: &str, make: impl Fn(&Arc<Mutex<Library>>) -> Made + Send + Sync + 'static) {
        self.by_name.insert(name.to_owned(), Box::new(make));
    }

    /// One for a layer.
    ///
    /// # Errors
    /// When there is none of that name, or it cannot be made.
    pub(super) fn make(
        &self,
        name: &str,
        library: &Arc<Mutex<Library>>,
    ) -> Result<Box<dyn Tamiyo + Send>, KasminaError> {
        let known = || self.by_name.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let make = self.by_name.get(name);
        let shown: String = name.chars().take(64).collect();
        let make = make
            .ok_or_else(|| KasminaError::Invalid(format!("tamiyo `{shown}` is not known; known are: {}", known())))?;
        make(library).map_err(|why| KasminaError::Invalid(format!("tamiyo `{shown}`: {why}")))
    }
}
