//! From a file that somebody gave to a policy that may judge: signature, grant, compilation,
//! inspection, shipped tests. None of it happens on the way of a request, and a candidate that
//! fails any of it leaves everything as it was.

use super::builtin;
use super::cases;
use super::catalogue::Catalogue;
use super::document::{Member, SetDocument};
use super::health::Health;
use super::life::Deployed;
use super::package::Package;
use super::shadow::ShadowLimits;
use crate::config::{File, SignaturesFile};
use anyhow::{Context, Result, bail, ensure};
use gavel_runtime::{Limits, Policy, PolicySource, Sandbox};
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;

/// What stands between a file and a policy that judges. One for a host.
#[derive(Debug)]
pub struct Admission {
    sandbox: Sandbox,
    catalogue: Catalogue,
    signatures: SignaturesFile,
    max_component_bytes: u64,
    max_policies: usize,
    shadow: ShadowLimits,
}

impl Admission {
    /// By the rules of `file`, keeping what is admitted in `catalogue`.
    #[must_use]
    pub fn new(file: &File, sandbox: Sandbox, catalogue: Catalogue) -> Self {
        Self {
            sandbox,
            catalogue,
            signatures: file.signatures.clone(),
            max_component_bytes: file.limits.max_component_bytes,
            max_policies: file.limits.max_policies,
            shadow: ShadowLimits {
                max_in_flight: file.limits.max_shadow_in_flight,
                max_differences: file.limits.max_differences,
                max_counter_keys: file.limits.max_counter_keys,
            },
        }
    }

    /// What a candidate in the shadow may use.
    #[must_use]
    pub fn shadow(&self) -> ShadowLimits {
        self.shadow
    }

    /// Where components and sets are kept.
    #[must_use]
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// Only what it kept.
    #[must_use]
    pub fn into_catalogue(self) -> Catalogue {
        self.catalogue
    }

    /// Bytes that a component may have.
    #[must_use]
    pub fn max_component_bytes(&self) -> u64 {
        self.max_component_bytes
    }

    /// Policies that may judge one request.
    #[must_use]
    pub fn max_policies(&self) -> usize {
        self.max_policies
    }

    /// Where they are compiled.
    #[must_use]
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// Take a component into the catalogue: it is read, and its signatures are checked. `what` names
    /// it in messages.
    ///
    /// # Errors
    /// When it is no package, too large, or not signed as the configuration demands.
    pub fn keep(&self, what: &str, bytes: &[u8]) -> Result<Package> {
        let (size, limit) = (bytes.len(), self.max_component_bytes);
        ensure!(
            size as u64 <= limit,
            "{what}: {size} bytes, a component may have {limit} (limits.max_component_bytes)"
        );
        let package = Package::read(bytes).with_context(|| what.to_owned())?;
        self.signers(&package).with_context(|| what.to_owned())?;
        self.catalogue.put(&package)?;
        Ok(package)
    }

    /// A built-in policy, taken into the catalogue like any other, so that its digest leads back to
    /// it when a later version of Gavel has another one.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn keep_builtin(&self, name: &str) -> Result<Package> {
        let bytes = builtin::find(name).with_context(|| format!("no builtin policy is named {name}"))?;
        let package = Package::read(bytes).with_context(|| format!("builtin:{name}"))?;
        self.catalogue.put(&package)?;
        Ok(package)
    }

    /// The names of the trusted keys that signed it.
    ///
    /// # Errors
    /// When a signature does not hold, or none is of a trusted key and one is required.
    pub fn signers(&self, package: &Package) -> Result<Vec<String>> {
        if is_builtin(&package.digest) {
            let optional = SignaturesFile { required: false, ..self.signatures.clone() };
            return trusted_signers(&optional, package, "signatures.keys");
        }
        trusted_signers(&self.signatures, package, "signatures.keys")
    }

    /// Load the policies of a set. What is the same in one of `warm` is taken from there.
    ///
    /// # Errors
    /// The first policy that is not admitted, and why.
    pub async fn deploy(&self, document: SetDocument, warm: &[&Deployed]) -> Result<Arc<Deployed>> {
        let (count, limit) = (document.policies.len(), self.max_policies);
        ensure!(count <= limit, "a set of {count} policies, at most {limit} are allowed (limits.max_policies)");
        let mut names = HashSet::new();
        let mut policies = Vec::with_capacity(count);
        for member in &document.policies {
            ensure!(names.insert(&member.name), "policy {} is in the set twice: give each its own name", member.name);
            policies.push(match loaded(member, warm) {
                Some(policy) => policy,
                None => (self.load(member).await?, Arc::default()),
            });
        }
        let digest = self.catalogue.put_set(&document)?;
        Ok(Arc::new(Deployed::new(&digest, document, policies)))
    }

    /// Make one policy ready to judge.
    ///
    /// # Errors
    /// Why it is not admitted.
    pub async fn load(&self, member: &Member) -> Result<Policy> {
        let name = &member.name;
        let package = self.catalogue.component(&member.component).with_context(|| format!("policy {name}"))?;
        self.signers(&package).with_context(|| format!("policy {name}"))?;
        if let Some(quarantine) = member.quarantine {
            quarantine.validate(name).map_err(anyhow::Error::msg)?;
        }
        if let Some(manifest) = &package.manifest {
            manifest.needs.check(name, &member.limits).map_err(anyhow::Error::msg)?;
        }
        let source = PolicySource {
            name: name.clone(),
            bytes: package.component.clone(),
            config: member.config.clone(),
            limits: member.limits.clone(),
        };
        let policy = self.compile(source.clone()).await?;
        if let Some(manifest) = &package.manifest {
            manifest.check(policy.metadata()).map_err(|why| anyhow::anyhow!("policy {name}: {why}"))?;
        }
        self.test(&package, source).await?;
        Ok(policy)
    }

    /// Compiling takes up to seconds of processor time: not on a thread that serves requests.
    async fn compile(&self, source: PolicySource) -> Result<Policy> {
        let (sandbox, runtime) = (self.sandbox.clone(), tokio::runtime::Handle::current());
        let compiled = tokio::task::spawn_blocking(move || runtime.block_on(sandbox.load(source)));
        Ok(compiled.await.context("the compiler panicked")??)
    }

    /// Run the tests that a package ships, unless they passed here before under the same limits.
    async fn test(&self, package: &Package, source: PolicySource) -> Result<()> {
        let Some(suite) = &package.tests else { return Ok(()) };
        let circumstances = circumstances(&source.limits);
        if is_builtin(&package.digest) || self.catalogue.is_tested(&package.digest, &circumstances) {
            return Ok(());
        }
        let report = cases::run(suite, &self.sandbox, &source).await?;
        if let Some(failed) = report.cases.iter().find(|case| !case.passed) {
            bail!(
                "policy {}: {} of the {} tests that it ships fail, the first `{}`: {}; `gavel policy test FILE` shows them all",
                source.name,
                report.failed,
                report.cases.len(),
                failed.name,
                failed.problem.as_deref().unwrap_or("no reason given"),
            );
        }
        self.catalogue.note_tested(&package.digest, &circumstances)
    }
}

/// The names of the trusted keys that signed a component; `keys` is where the configuration has them.
///
/// # Errors
/// When a signature does not hold, or none is of a trusted key and one is required.
pub(crate) fn trusted_signers(signatures: &SignaturesFile, package: &Package, keys: &str) -> Result<Vec<String>> {
    let mut signers = Vec::new();
    for signature in &package.signatures {
        signature.verify(&package.digest)?;
        signers.extend(signatures.keys.iter().filter(|(_, key)| **key == signature.key).map(|(name, _)| name));
    }
    if !signatures.required || !signers.is_empty() {
        return Ok(signers.into_iter().cloned().collect());
    }
    let by: Vec<String> = package.signatures.iter().map(|signature| signature.key.to_string()).collect();
    let trusted: Vec<&str> = signatures.keys.keys().map(String::as_str).collect();
    let found =
        if by.is_empty() { "it is not signed".to_owned() } else { format!("it is signed by {}", by.join(", ")) };
    bail!(
        "signatures are required and {found}, which is none of the trusted keys ({}): sign it with `gavel policy sign FILE --key KEY`, or add the key under `{keys}`",
        trusted.join(", ")
    )
}

/// What the outcome of shipped tests may depend on beside the component.
fn circumstances(limits: &Limits) -> String {
    json!({"gavel": env!("CARGO_PKG_VERSION"), "limits": limits}).to_string()
}

fn is_builtin(digest: &str) -> bool {
    builtin::by_digest(digest).is_some()
}

/// The same policy as it is loaded already, with its health.
fn loaded(member: &Member, warm: &[&Deployed]) -> Option<(Policy, Arc<Health>)> {
    let mut known = warm.iter().flat_map(|deployed| deployed.members());
    known.find(|(known, ..)| *known == member).map(|(_, policy, health)| (policy.clone(), Arc::clone(health)))
}
