//! From Cedar's answer to a verdict.

use cedar_policy::{AuthorizationError, Authorizer, Decision, Policy, PolicySet, Request, Response};
use gavel_engine_input::bounded;
use gavel_policy::Verdict;

use crate::config::{Engine, escalates};

/// Put the request to Cedar. Any error denies, also beside a permission: the policy that failed may be a `forbid`.
pub(crate) fn of(engine: &Engine, asked: &Request) -> Verdict {
    let response = ask(engine, &engine.policies, asked);
    if let Some(failed) = failed(&engine.policies, &response) {
        return Verdict::Deny(bounded(failed));
    }
    if response.decision() == Decision::Allow {
        return Verdict::Allow;
    }
    let mut forbids: Vec<&Policy> =
        response.diagnostics().reason().filter_map(|id| engine.policies.policy(id)).collect();
    if forbids.is_empty() {
        return Verdict::Deny(bounded(not_permitted(asked)));
    }
    forbids.sort_by_cached_key(|policy| name(policy));
    match &engine.unescalated {
        Some(rest) if forbids.iter().all(|policy| escalates(policy)) => escalated(engine, rest, asked, &forbids),
        _ => {
            forbids.retain(|policy| !escalates(policy));
            Verdict::Deny(bounded(format!("forbidden by {}", told(&forbids))))
        }
    }
}

/// A human may permit what the policies would permit but for those that escalate, and no more.
fn escalated(engine: &Engine, rest: &PolicySet, asked: &Request, forbids: &[&Policy]) -> Verdict {
    let response = ask(engine, rest, asked);
    match (failed(rest, &response), response.decision()) {
        (Some(failed), _) => Verdict::Deny(bounded(failed)),
        (None, Decision::Allow) => Verdict::Escalate(bounded(format!("a human must decide, by {}", told(forbids)))),
        (None, Decision::Deny) => Verdict::Deny(bounded(not_permitted(asked))),
    }
}

fn ask(engine: &Engine, policies: &PolicySet, asked: &Request) -> Response {
    Authorizer::new().is_authorized(asked, policies, &engine.entities)
}

fn failed(policies: &PolicySet, response: &Response) -> Option<String> {
    let mut errors: Vec<String> = response.diagnostics().errors().map(|error| told_error(policies, error)).collect();
    errors.sort();
    let first = errors.first()?;
    Some(match errors.len() {
        1 => first.clone(),
        count => format!("{first} (the first of {count} errors)"),
    })
}

fn told_error(policies: &PolicySet, error: &AuthorizationError) -> String {
    let AuthorizationError::PolicyEvaluationError(error) = error;
    let policy = policies.policy(error.policy_id()).map_or_else(|| error.policy_id().to_string(), name);
    format!("Cedar policy '{policy}' failed: {}", error.inner())
}

fn not_permitted(asked: &Request) -> String {
    let shown = |uid: Option<&cedar_policy::EntityUid>| uid.map(ToString::to_string).unwrap_or_default();
    let (principal, action, resource) = (shown(asked.principal()), shown(asked.action()), shown(asked.resource()));
    format!("no Cedar policy permits {action} on {resource} by {principal}")
}

/// `Cedar policy 'a': why; 'b'`
fn told(policies: &[&Policy]) -> String {
    let each = policies.iter().map(|policy| match reason(policy) {
        Some(reason) => format!("'{}': {reason}", name(policy)),
        None => format!("'{}'", name(policy)),
    });
    let noun = if policies.len() == 1 { "Cedar policy" } else { "Cedar policies" };
    format!("{noun} {}", each.collect::<Vec<_>>().join("; "))
}

/// The name that the author gave by `@id`, else Cedar's: its number in the text, or the id of the link.
fn name(policy: &Policy) -> String {
    let given = if policy.is_static() { policy.annotation("id") } else { None };
    given.map_or_else(|| policy.id().to_string(), str::to_owned)
}

fn reason(policy: &Policy) -> Option<&str> {
    ["reason", "description"].iter().find_map(|name| policy.annotation(name)).filter(|text| !text.is_empty())
}
