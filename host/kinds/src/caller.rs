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
    /// Said by nothing but the fleet's token: a name may be anybody's.
    of_the_fleet: bool,
}

impl Caller {
    /// Nobody known: it has no role.
    #[must_use]
    pub fn unknown() -> Self {
        Self::with_key("unknown", None, Vec::new())
    }

    /// Somebody who showed a key with these roles. It is no part of the fleet, whatever its name is.
    #[must_use]
    pub fn with_key(name: impl Into<String>, actor: Option<String>, roles: Vec<Role>) -> Self {
        Self { name: name.into(), actor, roles, of_the_fleet: false }
    }

    /// Somebody who may do everything.
    #[must_use]
    pub fn trusted(name: impl Into<String>) -> Self {
        Self::with_key(name, None, crate::ANY.to_vec())
    }

    /// A part of the fleet, which showed the fleet's token: it may do everything.
    #[must_use]
    pub fn of_the_fleet(name: impl Into<String>) -> Self {
        Self { of_the_fleet: true, ..Self::trusted(name) }
    }

    /// Who a message or a record is from: its actor, or else its name.
    #[must_use]
    pub fn sender(&self) -> &str {
        self.actor.as_deref().unwrap_or(&self.name)
    }

    /// Whether it is a part of the fleet.
    #[must_use]
    pub fn is_of_the_fleet(&self) -> bool {
        self.of_the_fleet
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_makes_nobody_a_part_of_the_fleet() {
        for name in ["guardian", "kernel:audit_trail"] {
            assert!(!Caller::with_key(name, None, crate::ANY.to_vec()).is_of_the_fleet());
            assert!(!Caller::trusted(name).is_of_the_fleet());
            assert!(Caller::of_the_fleet(name).is_of_the_fleet());
        }
    }
}
