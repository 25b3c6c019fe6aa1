//! Bringing components in, and making versions ready: through the same gate as for a kernel's policies.
//!
//! None of it happens on the way of an evaluation by the active version.

use super::book::{Book, Reason, Version};
use super::engine::{Engine, Live, Ready, named};
use crate::policies::document::{Member, SetDocument};
use crate::policies::keep_component;
use crate::policies::package::Package;
use gavel_kinds::{Caller, Fault};
use gavel_runtime::{Isolation, Limits, Policy};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::{Arc, PoisonError};

/// What a new version is made of.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Upload {
    /// `builtin:NAME`, or `sha256:` and a digest that was brought here before.
    pub(super) component: String,
    pub(super) config: Value,
    pub(super) limits: Limits,
    pub(super) why: String,
    /// The component itself, if it came as bytes.
    #[serde(skip)]
    pub(super) bytes: Option<Vec<u8>>,
}

impl Engine {
    /// Add a version to a policy, which may be its first. The same once more is no new version.
    pub(super) async fn upload(self: Arc<Self>, name: &str, upload: Upload, by: Caller) -> Result<Value, Fault> {
        named(name)?;
        self.check(&upload)?;
        let reason = self.reason(&by, &upload.why)?;
        let (member, package) = self.admit(name, upload).await?;
        let set = SetDocument { policies: vec![member] };
        let engine = Arc::clone(&self);
        let kept = aside(name, move || engine.admission.catalogue().put_set(&set)).await?;
        let digest = kept.map_err(|why| Fault::unavailable(format!("policy {name}: it cannot be kept: {why:#}")))?;
        let _changing = self.changing.lock().await;
        let live = self.live();
        let known = live.get(name);
        let book = known.map_or_else(|| Book::new(name), |known| known.book.clone());
        if let Some(version) = book.versions.iter().find(|version| version.digest == digest) {
            return Ok(told(&book, version, &package, false));
        }
        self.room_for(known.map(|live| &**live), live.len())?;
        let version = self.version(&book, &digest, &package, reason);
        let (number, first) = (version.number, known.is_none());
        let book = book.added(version, self.settings.steps_max);
        let ready = match known {
            Some(known) => known.ready.clone(),
            None => Ok(self.ready(&book, number).await?),
        };
        let live = self.take(book, ready, "added").await?;
        let version = live.book.version(number)?;
        tracing::info!(policy = name, version = number, digest, first, "a version was added");
        Ok(told(&live.book, version, &package, true))
    }

    fn check(&self, upload: &Upload) -> Result<(), Fault> {
        let bytes = upload.config.to_string().len();
        if bytes > self.settings.config_bytes_max {
            let most = self.settings.config_bytes_max;
            return Err(Fault::not_accepted(format!("config has {bytes} bytes, at most {most} (config_bytes_max)")));
        }
        if upload.limits.isolation != Isolation::Fresh {
            let why = "limits.isolation: every evaluation here has a fresh instance: leave it out";
            return Err(Fault::not_accepted(why));
        }
        Ok(())
    }

    /// Read, verify, compile, and run the tests that it ships.
    async fn admit(self: &Arc<Self>, name: &str, upload: Upload) -> Result<(Member, Package), Fault> {
        let _one = self.admitting.lock().await;
        let (engine, owned) = (Arc::clone(self), name.to_owned());
        let kept = aside(name, move || {
            let package = match &upload.bytes {
                Some(bytes) => engine.admission.keep(&format!("policy {owned}"), bytes),
                None => keep_named(&engine, &owned, &upload.component),
            };
            package.map(|package| {
                let member = Member::new(owned, package.digest.clone());
                (Member { config: upload.config, limits: upload.limits, ..member }, package)
            })
        });
        let (member, package) = kept.await?.map_err(|why| Fault::not_accepted(format!("{why:#}")))?;
        self.compile(member.clone()).await?.map_err(|why| Fault::not_accepted(format!("{why:#}")))?;
        Ok((member, package))
    }

    /// A member that is kept here, admitted again and compiled. It reads the catalogue, and tests what is not tested yet.
    async fn compile(&self, member: Member) -> Result<anyhow::Result<Policy>, Fault> {
        let (admission, runtime) = (Arc::clone(&self.admission), tokio::runtime::Handle::current());
        let name = member.name.clone();
        aside(&name, move || runtime.block_on(admission.load(&member))).await
    }

    fn room_for(&self, known: Option<&Live>, policies: usize) -> Result<(), Fault> {
        let (policies_max, versions_max) = (self.settings.policies_max, self.settings.versions_max);
        match known {
            None if policies >= policies_max => {
                Err(Fault::conflict(format!("there are {policies} policies, as many as there may be (policies_max)")))
            }
            Some(live) if live.book.versions.len() >= versions_max => Err(Fault::conflict(format!(
                "policy {} has {versions_max} versions, as many as it may have (versions_max)",
                live.book.policy
            ))),
            _ => Ok(()),
        }
    }

    fn version(&self, book: &Book, digest: &str, package: &Package, reason: Reason) -> Version {
        let manifest = package.manifest.as_ref();
        Version {
            number: book.next(),
            digest: digest.to_owned(),
            component: package.digest.clone(),
            package: manifest.map(|manifest| format!("{} {}", manifest.name, manifest.version)),
            signed_by: self.admission.signers(package).unwrap_or_default(),
            added_ms: reason.at_ms,
            by: reason.who,
            why: reason.why,
        }
    }

    /// A version of a policy, compiled: from what is warm, else from the catalogue.
    ///
    /// # Errors
    /// Why it is not admitted now; the configuration's rules may have changed since it came.
    pub(super) async fn ready(&self, book: &Book, number: u32) -> Result<Arc<Ready>, Fault> {
        if let Some(warm) = self.warm_one(&book.policy, number) {
            return Ok(warm);
        }
        let _one = self.admitting.lock().await;
        match self.warm_one(&book.policy, number) {
            Some(warm) => Ok(warm),
            None => self.load(book, number).await,
        }
    }

    /// A version of a policy, compiled from the catalogue.
    async fn load(&self, book: &Book, number: u32) -> Result<Arc<Ready>, Fault> {
        let version = book.version(number)?;
        let refused = |why: anyhow::Error| {
            Fault::conflict(format!("policy {} version {number} cannot judge: {why:#}", book.policy))
        };
        let (admission, digest) = (Arc::clone(&self.admission), version.digest.clone());
        let set = aside(&book.policy, move || admission.catalogue().set(&digest)).await?.map_err(refused)?;
        let member = set.policies.first().ok_or_else(|| refused(anyhow::anyhow!("its document is empty")))?;
        let policy = self.compile(member.clone()).await?.map_err(refused)?;
        Ok(Arc::new(Ready { policy, version: number, digest: version.digest.clone() }))
    }

    /// The version that was asked for, or the active one.
    pub(super) async fn asked(&self, live: &Live, number: Option<u32>) -> Result<Arc<Ready>, Fault> {
        match number.filter(|number| *number != live.book.active) {
            Some(number) => {
                let name = &live.book.policy;
                if let Some(warm) = self.warm_one(name, number) {
                    return Ok(warm);
                }
                // Not the lock that changes take: whoever asks keeps nobody from swapping.
                let Ok(_room) = self.loading.try_acquire() else {
                    return Err(Fault::too_many(format!(
                        "policy {name} version {number} is not at hand, and another is on its way already: ask again"
                    )));
                };
                let ready = self.load(&live.book, number).await?;
                self.keep_warm(Arc::clone(&ready));
                Ok(ready)
            }
            None => live.ready.clone().map_err(Fault::unavailable),
        }
    }

    fn warm_one(&self, policy: &str, number: u32) -> Option<Arc<Ready>> {
        let warm = self.warm.lock().unwrap_or_else(PoisonError::into_inner);
        warm.iter().find(|ready| is(ready, policy, number)).cloned()
    }

    /// Keep a version compiled, as the one that was used last.
    pub(super) fn keep_warm(&self, ready: Arc<Ready>) {
        let mut warm = self.warm.lock().unwrap_or_else(PoisonError::into_inner);
        warm.retain(|other| !is(other, ready.policy.name(), ready.version));
        warm.push_back(ready);
        while warm.len() > self.settings.warm_max {
            warm.pop_front();
        }
    }
}

/// Do work with the disk, away from the threads that answer.
pub(super) async fn aside<T: Send + 'static>(
    policy: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|why| Fault::broken(format!("policy {policy}: it broke off: {why}")))
}

fn is(ready: &Ready, policy: &str, number: u32) -> bool {
    ready.version == number && ready.policy.name() == policy
}

/// A component that is here already. A path of this machine is nothing that a caller may name.
fn keep_named(engine: &Engine, name: &str, component: &str) -> anyhow::Result<Package> {
    use crate::config::DIGEST_PREFIX;
    use crate::policies::builtin::PREFIX;
    let named = component.starts_with(PREFIX) || component.starts_with(DIGEST_PREFIX);
    anyhow::ensure!(
        named,
        "policy {name}: `component` must be {PREFIX}NAME or {DIGEST_PREFIX}DIGEST; send a component of your own as the body"
    );
    keep_component(name, component, &engine.admission)
}

fn told(book: &Book, version: &Version, package: &Package, new: bool) -> Value {
    json!({
        "policy": book.policy,
        "version": version.number,
        "digest": version.digest,
        "component": version.component,
        "package": version.package,
        "bytes": package.component.len(),
        "tests": package.tests.as_ref().map_or(0, |suite| suite.cases.len()),
        "signed_by": version.signed_by,
        "active": version.number == book.active,
        "new": new,
    })
}
