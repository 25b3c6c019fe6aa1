//! What a kernel is made of: its part of a configuration, and the policies that its custom rules may name.
//!
//! A definition stands by itself: its components are built in or named by digest, never by path, so that a kernel can
//! be put back after the file it came from has changed.

use crate::config::{DIGEST_PREFIX, File, KernelFile, PolicyFile};
use crate::kernel::jurisdiction_of;
use crate::policies::admit::Admission;
use crate::policies::builtin;
use crate::policies::document::SetDocument;
use crate::policies::{keep_component, of_rules};
use anyhow::{Context, Result};
use gavel_kernel::Jurisdiction;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The definition of a kernel. Its `kernel.id` is the name that clients use, not the id of one that serves under it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// The kernel.
    pub kernel: KernelFile,
    /// Policies by the name that its custom rules refer to.
    #[serde(default)]
    pub policies: BTreeMap<String, PolicyFile>,
}

impl Definition {
    /// What `file` says of `kernel`. Components are taken into the catalogue.
    ///
    /// # Errors
    /// When a component cannot be read or is not accepted.
    pub fn declared(file: &File, kernel: &KernelFile, admission: &Admission) -> Result<Self> {
        let mut kernel = kernel.clone();
        if let Some(watch) = &mut kernel.watch {
            watch.folder = std::path::absolute(&watch.folder).context("watch.folder")?;
        }
        let mut policies = file.policies.clone();
        for (name, policy) in &mut policies {
            let Some(component) = &policy.component else { continue };
            if !component.starts_with(builtin::PREFIX) {
                policy.component = Some(keep_component(name, component, admission)?.digest);
            }
        }
        Ok(Self { kernel, policies })
    }

    /// The same kernel under the same policies: those that no custom rule names do not count.
    #[must_use]
    pub fn means_the_same(&self, other: &Self) -> bool {
        self.kernel == other.kernel && self.used().eq(other.used())
    }

    fn used(&self) -> impl Iterator<Item = (&String, &PolicyFile)> {
        let rules = self.kernel.policy.as_ref().map_or(&[][..], |policy| &policy.custom_rules);
        self.policies.iter().filter(|(name, _)| rules.contains(name))
    }

    /// What must hold in it.
    ///
    /// # Errors
    /// What does not.
    pub fn validate(&self) -> Result<(), String> {
        self.policies.iter().try_for_each(|(name, policy)| policy.validate(name))?;
        self.kernel.validate(&self.policies)
    }

    /// What must hold in one that came over the network in place of `current`: it makes the server look into no folder
    /// and no file.
    ///
    /// # Errors
    /// What does not.
    pub fn validate_sent(&self, current: Option<&Self>) -> Result<(), String> {
        for (name, policy) in &self.policies {
            let component = policy.component.as_deref().unwrap_or(builtin::PREFIX);
            if !component.starts_with(builtin::PREFIX) && !component.starts_with(DIGEST_PREFIX) {
                return Err(format!(
                    "policy `{name}`: component `{component}` is a path; upload it (`/policies/components`) and name it by its digest, sha256:…"
                ));
            }
        }
        if self.kernel.watch.is_some() && self.kernel.watch != current.and_then(|current| current.kernel.watch.clone())
        {
            return Err("`watch` can be set in the server's configuration file only".into());
        }
        self.validate()
    }

    /// The jurisdiction that it names.
    #[must_use]
    pub fn jurisdiction(&self) -> Jurisdiction {
        jurisdiction_of(&self.kernel)
    }

    /// The same with another jurisdiction.
    #[must_use]
    pub fn with_jurisdiction(&self, jurisdiction: Jurisdiction) -> Self {
        let mut changed = self.clone();
        changed.kernel.policy = Some(jurisdiction);
        changed
    }

    /// The same for a kernel of this name or id.
    #[must_use]
    pub fn named(&self, id: &str) -> Self {
        let mut changed = self.clone();
        id.clone_into(&mut changed.kernel.id);
        changed
    }

    /// The set that its custom rules name.
    ///
    /// # Errors
    /// When a component is not to be had.
    pub fn document(&self, admission: &Admission) -> Result<SetDocument> {
        of_rules(&self.jurisdiction().custom_rules, &self.policies, admission)
    }
}
