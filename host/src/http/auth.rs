//! Who is calling: keys, roles, and what holds where there are no keys.
//!
//! A key is 256 random bits, shown once by `gavel key` and sent as `Authorization: Bearer KEY`; the
//! configuration holds its SHA-256 only. Keys are looked up by that digest, so that no comparison
//! of secrets takes place whose time could tell anything.
//!
//! With no keys configured the server listens on loopback only and every caller has every role.
//! A web page in the operator's browser can reach loopback too; so then a request that a page made
//! (it has an `Origin`) or that came by another name (DNS rebinding) is refused.

use crate::config::{AuthFile, Role};
use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// The keys of a server.
#[derive(Debug, Default)]
pub struct Keys {
    by_digest: HashMap<[u8; 32], Arc<Key>>,
    /// What the parts of a fleet show each other.
    token: Option<[u8; 32]>,
}

/// What a key may do.
#[derive(Debug)]
pub struct Key {
    name: String,
    roles: Vec<Role>,
    actor: Option<String>,
    kernels: Option<Vec<String>>,
}

/// Who a request comes from.
#[derive(Debug, Clone)]
pub enum Caller {
    /// The holder of a key.
    Key(Arc<Key>),
    /// Anybody, on a server without keys: every role.
    Anyone,
    /// A part of the fleet that this server is of, by its name (`guardian`, `kernel:NAME`): every role.
    Fleet(String),
    /// Nobody known, on a server with keys: public routes only.
    Unknown,
}

/// Why a caller may not do what it asks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No key, or one that is not known.
    #[error("a valid key is needed: send `Authorization: Bearer KEY`")]
    Unauthenticated,
    /// The key is known and not enough.
    #[error("key '{key}' has not the role {role} that this needs")]
    Role {
        /// The key's name.
        key: String,
        /// The roles of which one is needed.
        role: String,
    },
    /// The key is for other kernels.
    #[error("key '{key}' is not for kernel '{kernel}'")]
    Kernel {
        /// The key's name.
        key: String,
        /// The kernel asked for.
        kernel: String,
    },
    /// An agent asks for what another actor asked for.
    #[error("key '{key}' sees the approvals of actor '{actor}' only")]
    Actor {
        /// The key's name.
        key: String,
        /// The actor that it speaks for.
        actor: String,
    },
    /// Who asked for an approval gives it.
    #[error("key '{key}' asked for approval {approval}: another must approve it (approvals.self_approval)")]
    OwnApproval {
        /// The key's name.
        key: String,
        /// The approval.
        approval: String,
    },
    /// A link that does not decide.
    #[error("this link decides nothing: its token is wrong, or it is too late")]
    Link,
    /// A browser's page, or a rebound name, on a server without keys.
    #[error("{0}")]
    Browser(&'static str),
}

impl Keys {
    /// The keys of a validated configuration.
    #[must_use]
    pub fn new(file: &AuthFile) -> Self {
        let digest = |hash: &str| hex::decode(hash.strip_prefix("sha256:")?).ok()?.try_into().ok();
        let by_digest = file.keys.iter().filter_map(|key| {
            let value = Key {
                name: key.name.clone(),
                roles: key.roles.clone(),
                actor: key.actor.clone(),
                kernels: key.kernels.clone(),
            };
            Some((digest(&key.hash)?, Arc::new(value)))
        });
        Self { by_digest: by_digest.collect(), token: None }
    }

    /// The same, and the token of a fleet. That it is there makes nobody else need a key.
    #[must_use]
    pub fn with_token(self, token: Option<&str>) -> Self {
        Self { token: token.map(digest_of), ..self }
    }

    /// Whether no key is configured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_digest.is_empty()
    }

    /// Who sent these headers.
    ///
    /// # Errors
    /// [`Refusal::Browser`] on a server without keys.
    pub fn caller(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        let sent = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let key =
            sent.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let digest = key.map(|(_, key)| digest_of(key.trim()));
        if digest.is_some() && digest == self.token {
            let kernel = headers.get(gavel_kinds::KERNEL_HEADER).and_then(|value| value.to_str().ok());
            return Ok(Caller::Fleet(kernel.map_or_else(|| GUARDIAN.to_owned(), |kernel| format!("kernel:{kernel}"))));
        }
        if self.is_empty() {
            check_local(headers)?;
            return Ok(Caller::Anyone);
        }
        let found = digest.and_then(|digest| self.by_digest.get(&digest));
        Ok(found.map_or(Caller::Unknown, |key| Caller::Key(Arc::clone(key))))
    }
}

/// The name of a fleet's main process, among its parts.
pub(crate) const GUARDIAN: &str = "guardian";

/// SHA-256 of a key as it is sent.
#[must_use]
pub fn digest_of(key: &str) -> [u8; 32] {
    Sha256::digest(key).into()
}

fn check_local(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers.contains_key(header::ORIGIN) {
        return Err(Refusal::Browser("requests of web pages are refused while no keys are configured"));
    }
    let Some(host) = headers.get(header::HOST) else { return Ok(()) };
    let name = host.to_str().unwrap_or_default();
    let name = name
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
        .map_or(name, |(name, _)| name);
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    if name.eq_ignore_ascii_case("localhost") || address.is_ok() {
        return Ok(());
    }
    Err(Refusal::Browser("while no keys are configured the server answers only as localhost or by address"))
}

impl Caller {
    /// The name for the record.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Key(key) => &key.name,
            Self::Fleet(name) => name,
            Self::Anyone => "anyone",
            Self::Unknown => "unknown",
        }
    }

    /// The roles of its key; none where it has no key.
    #[must_use]
    pub fn roles(&self) -> &[Role] {
        match self {
            Self::Key(key) => &key.roles,
            Self::Fleet(_) | Self::Anyone | Self::Unknown => &[],
        }
    }

    /// The actor that the caller is bound to; `None` when it is bound to none.
    #[must_use]
    pub fn actor(&self) -> Option<&str> {
        match self {
            Self::Key(key) => key.actor.as_deref(),
            Self::Fleet(_) | Self::Anyone | Self::Unknown => None,
        }
    }

    /// Check that the caller has one of `roles`, and may reach `kernel` if one is named.
    ///
    /// # Errors
    /// [`Refusal`], which says what is missing.
    pub fn require(&self, roles: &[Role], kernel: Option<&str>) -> Result<(), Refusal> {
        let key = match self {
            Self::Anyone | Self::Fleet(_) => return Ok(()),
            Self::Unknown => return Err(Refusal::Unauthenticated),
            Self::Key(key) => key,
        };
        if !roles.iter().any(|role| key.roles.contains(role)) {
            let role = roles.iter().map(|role| format!("{role:?}").to_lowercase()).collect::<Vec<_>>().join(" or ");
            return Err(Refusal::Role { key: key.name.clone(), role });
        }
        match (kernel, &key.kernels) {
            (Some(kernel), Some(allowed)) if !allowed.iter().any(|id| id == kernel) => {
                Err(Refusal::Kernel { key: key.name.clone(), kernel: kernel.to_owned() })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KeyFile;

    fn keys() -> Keys {
        let hash = format!("sha256:{}", hex::encode(digest_of("s3cret")));
        let key = KeyFile {
            name: "a".into(),
            hash,
            roles: vec![Role::Agent],
            actor: Some("agent-1".into()),
            kernels: Some(vec!["k".into()]),
        };
        Keys::new(&AuthFile { keys: vec![key] })
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_key_has_its_roles_its_actor_and_its_kernels() {
        let caller = keys().caller(&headers(&[("authorization", "Bearer s3cret")])).unwrap();
        assert_eq!((caller.name(), caller.actor()), ("a", Some("agent-1")));
        assert_eq!(caller.require(&[Role::Agent], Some("k")), Ok(()));
        assert_eq!(
            caller.require(&[Role::Operator, Role::Auditor], None).unwrap_err().to_string(),
            "key 'a' has not the role operator or auditor that this needs"
        );
        assert!(matches!(caller.require(&[Role::Agent], Some("other")), Err(Refusal::Kernel { .. })));
    }

    #[test]
    fn a_wrong_key_is_nobody() {
        for sent in ["Bearer wrong", "Basic s3cret", "s3cret", "Bearer "] {
            let caller = keys().caller(&headers(&[("authorization", sent)])).unwrap();
            assert_eq!(caller.require(&[Role::Agent], None), Err(Refusal::Unauthenticated), "{sent}");
        }
    }

    #[test]
    fn without_keys_browsers_and_other_names_are_refused() {
        let open = Keys::default();
        assert!(open.caller(&headers(&[("host", "localhost:8080")])).is_ok());
        assert!(open.caller(&headers(&[("host", "127.0.0.1:8080")])).is_ok());
        assert!(open.caller(&headers(&[("host", "[::1]:8080")])).is_ok());
        assert!(open.caller(&headers(&[("host", "evil.test:8080")])).is_err());
        assert!(open.caller(&headers(&[("host", "localhost"), ("origin", "null")])).is_err());
    }
}
