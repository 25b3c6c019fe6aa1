//! The jurisdiction policy: who may ask for which tools, and how much.
//!
//! This is the part of the law that operators write down; it decides nothing itself
//! ([`judge`](crate::judge()) does). A key it does not know is refused when it is read, because a misspelt limit
//! would silently not limit.

use serde::{Deserialize, Serialize};

/// In a list of actors or tools: all of them.
pub const ANYTHING: &str = "*";

/// A jurisdiction policy, as configured.
///
/// The default allows no actor and no tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Jurisdiction {
    /// Who may ask; `*` allows all, an empty list none.
    pub allowed_actors: Vec<String>,
    /// Which tools may be called; `*` allows all, an empty list none.
    pub allowed_tools: Vec<String>,
    /// Whether a request without a tool call is denied.
    pub require_tool_call: bool,
    /// Kept because existing policies carry it; it decides nothing.
    ///
    /// The package reads it and never asks it: the recordings hold 155 requests without a tool call that were allowed
    /// under `false`, in all four variants. To deny them, set [`require_tool_call`](Self::require_tool_call).
    pub allow_intent_only: bool,
    /// Fields that must be present and not empty. A name that no request has denies every request.
    pub required_fields: Vec<String>,
    /// The most bytes that the canonical JSON of `params` may have. The tool call's own params do not count.
    pub max_param_bytes: usize,
    /// The most characters that an intent may have.
    pub max_intent_length: usize,
    /// Policy components by name, asked in this order.
    pub custom_rules: Vec<String>,
}

impl Jurisdiction {
    /// What a permissive kernel without a policy goes by: all actors, all tools, the other limits as always.
    #[must_use]
    pub fn permissive() -> Self {
        Self {
            allowed_actors: vec![ANYTHING.to_owned()],
            allowed_tools: vec![ANYTHING.to_owned()],
            allow_intent_only: true,
            ..Self::default()
        }
    }

    /// Whether `actor` may ask at all.
    #[must_use]
    pub fn allows_actor(&self, actor: &str) -> bool {
        allows(&self.allowed_actors, actor)
    }

    /// Whether the tool named `tool` may be called.
    #[must_use]
    pub fn allows_tool(&self, tool: &str) -> bool {
        allows(&self.allowed_tools, tool)
    }
}

impl Default for Jurisdiction {
    fn default() -> Self {
        Self {
            allowed_actors: Vec::new(),
            allowed_tools: Vec::new(),
            require_tool_call: false,
            allow_intent_only: false,
            required_fields: ["request_id", "actor", "intent"].map(str::to_owned).to_vec(),
            max_param_bytes: 65_536,
            max_intent_length: 4096,
            custom_rules: Vec::new(),
        }
    }
}

fn allows(allowed: &[String], name: &str) -> bool {
    allowed.iter().any(|entry| entry == ANYTHING || entry == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_allow_nothing_and_keep_the_limits() {
        let read: Jurisdiction = serde_json::from_value(json!({})).expect("all keys are optional");
        assert_eq!(read, Jurisdiction::default());
        assert!(!read.allows_actor("") && !read.allows_tool("*"));
        assert_eq!((read.max_param_bytes, read.max_intent_length), (65_536, 4096));
    }

    #[test]
    fn the_playbook_policy_is_read() {
        let policy: Jurisdiction = serde_json::from_value(json!({
            "allowed_actors": ["agent-001", "agent-002"],
            "allowed_tools": ["read_file", "write_file", "search"],
            "require_tool_call": true,
            "max_intent_length": 1000,
        }))
        .expect("as in the playbook");
        assert!(policy.require_tool_call && policy.allows_actor("agent-002"));
        assert!(!policy.allows_tool("delete_file"));
    }

    #[test]
    fn a_misspelt_key_is_refused() {
        let error = serde_json::from_value::<Jurisdiction>(json!({"allowed_actor": ["*"]}));
        assert!(error.expect_err("refused").to_string().contains("unknown field `allowed_actor`"));
    }

    #[test]
    fn permissive_allows_everyone_everything() {
        let policy = Jurisdiction::permissive();
        assert!(policy.allows_actor("anyone") && policy.allows_tool("anything"));
        assert!(policy.allow_intent_only && !policy.require_tool_call);
    }
}
