//! Who calls.

use crate::fault::Fault;
use serde::Serialize;

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Work as its actor.
    Agent,
    /// Change things, and see everything.
    Operator,
    /// See everything.
    Auditor,
}

impl Role {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Operator => "operator",
            Self::Auditor => "auditor",
        }
    }
}

/// Who calls, as whoever serves the kernel found out by the key that was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// For the record: the name of a key, `anyone` where there are no keys, `kernel:NAME` for another kernel of the fleet,
    /// `guardian` for Guardian.
    pub name: String,
    /// The one actor that it speaks for, if it is bound to one.
    pub actor: Option<String>,
    /// What it may do.
    pub roles: Vec<Role>,
}

impl Caller {
    /// Nobody known: it has no role.
    #[must_use]
    pub fn unknown() -> Self {
        Self { name: "unknown".to_owned(), actor: None, roles: Vec::new() }
    }

    /// Somebody who may do everything.
    #[must_use]
    pub fn trusted(name: impl Into<String>) -> Self {
        Self { name: name.into(), actor: None, roles: crate::ANY.to_vec() }
    }

    /// Who a message or a record is from: its actor, or else its name.
    #[must_use]
    pub fn sender(&self) -> &str {
        self.actor.as_deref().unwrap_or(&self.name)
    }

    /// Whether it is a part of the fleet.
    #[must_use]
    pub fn is_of_the_fleet(&self) -> bool {
        self.name == "guardian" || self.name.starts_with("kernel:")
    }

    /// Check that it has one of these roles.
    ///
    /// # Errors
    /// 401 for a caller without any role, 403 for one without these.
    pub fn require(&self, roles: &[Role]) -> Result<(), Fault> {
        if self.roles.is_empty() {
            return Err(Fault::unauthenticated());
        }
        if self.roles.iter().any(|role| roles.contains(role)) {
            return Ok(());
        }
        let wanted: Vec<&str> = roles.iter().map(|role| role.name()).collect();
        let wanted = wanted.join(" or ");
        Err(Fault::forbidden(format!("key '{}' has not the role {wanted} that this needs", self.name)))
    }
}
