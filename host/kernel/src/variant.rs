//! The four kinds of kernel: how much a request must bring along.
//!
//! A variant is chosen when a kernel is made and never changes; a policy may. What each demands is judged in
//! [`judge`](crate::judge()).

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What kind of kernel judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// Judges by policy alone, and refuses a tool without a name as ambiguous.
    Strict,
    /// For development: a longer intent is accepted, and its default policy allows everything.
    Permissive,
    /// Demands evidence with every request.
    EvidenceFirst,
    /// Demands the constraints `scope`, `non_goals` and `success_criteria` with every request.
    DualChannel,
}

/// A name that is no variant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown variant {0:?}, expected strict, permissive, evidence-first or dual-channel")]
pub struct UnknownVariant(
    /// The name.
    pub String,
);

impl Variant {
    /// Every variant.
    pub const ALL: [Self; 4] = [Self::Strict, Self::Permissive, Self::EvidenceFirst, Self::DualChannel];

    /// The name in configuration and bundles: `evidence-first`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Permissive => "permissive",
            Self::EvidenceFirst => "evidence-first",
            Self::DualChannel => "dual-channel",
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Variant {
    type Err = UnknownVariant;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let named = Self::ALL.into_iter().find(|variant| variant.as_str() == name);
        named.ok_or_else(|| UnknownVariant(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_agree_everywhere() {
        for variant in Variant::ALL {
            assert_eq!(variant.to_string().parse(), Ok(variant));
            assert_eq!(serde_json::json!(variant), variant.as_str());
        }
        let error = "Strict".parse::<Variant>().expect_err("case matters");
        assert_eq!(
            error.to_string(),
            "unknown variant \"Strict\", expected strict, permissive, evidence-first or dual-channel"
        );
    }
}
