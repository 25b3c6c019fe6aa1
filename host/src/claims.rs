//! What a request claims to be, held against who sent it. Identity comes from the host, never from the payload.

use crate::bus::STATE_CHANGE;
use crate::decide::Principal;
use crate::http::auth::GUARDIAN;
use crate::kasmina::rollout::ROLLOUT;
use crate::kasmina::{RESTORE, TRANSITION};
use gavel_kernel::Request;

/// Tools that only the host itself calls, each with an effect.
const OWN_TOOLS: [&str; 4] = [TRANSITION, RESTORE, ROLLOUT, STATE_CHANGE];

/// Why the sender cannot ask for this, if so. `by_the_host`: it asks for something that the host itself does.
pub(crate) fn denial(request: &Request, principal: &Principal, by_the_host: bool) -> Option<String> {
    impersonation(request, principal).or_else(|| assumed(request, principal)).or_else(|| borrowed(request, by_the_host))
}

/// A caller that is bound to an actor and names another one.
fn impersonation(request: &Request, principal: &Principal) -> Option<String> {
    let bound = principal.actor.as_deref()?;
    let actor = request.actor();
    (actor != bound)
        .then(|| format!("Jurisdiction denied: Actor '{actor}' is not the actor of key '{}'", principal.name))
}

/// An actor that only the host says of itself, claimed by a caller that is bound to none.
fn assumed(request: &Request, principal: &Principal) -> Option<String> {
    let actor = request.actor();
    let own = principal.actor.is_none() && is_the_hosts(actor);
    own.then(|| format!("Jurisdiction denied: Actor '{actor}' is the host's to say, and no caller can claim it"))
}

/// Whether an actor is the sender of an event, which only the host knows and says: itself, a plugin, a client of the bus,
/// another host, or a part of a fleet.
pub(crate) fn is_the_hosts(actor: &str) -> bool {
    let kinds = ["plugin:", "client:", "peer:", "kernel:"];
    actor == "host" || actor == GUARDIAN || kinds.iter().any(|kind| actor.starts_with(kind))
}

/// A tool of the host's own, called by anybody else: an ALLOW for it means that the host has done it.
fn borrowed(request: &Request, by_the_host: bool) -> Option<String> {
    let tool = &request.tool_call()?.name;
    let own = !by_the_host && OWN_TOOLS.contains(&tool.as_str());
    own.then(|| format!("Jurisdiction denied: Tool '{tool}' is the host's own, and no caller can call it"))
}
