//! The policy `cedar`: decides by Cedar policies that its configuration holds.
//!
//! It carries the engine (crate `cedar-policy`), so existing policy files run unchanged; how a request becomes Cedar's
//! principal, action, resource and context is configured too ([`mapping`]).
//!
//! Always, in doubt it denies: configuration that cannot be read, a request that cannot be mapped or does not fit the
//! schema, and any policy that fails to evaluate, even where Cedar itself would pass over it: a `forbid` that fails is
//! no permission. An instance that is kept keeps the policies, schema and entities, and nothing of a request: those are
//! values that [`judge`] makes and drops.

mod config;
mod mapping;
mod value;
mod verdict;

use gavel_engine_input::{Times, bounded, document};
use gavel_policy::{Configuration, Metadata, Policy, Request, Verdict, export_policy};

use config::Engine;

/// The policy, for [`export_policy!`].
pub struct Cedar;

export_policy!(Cedar);

static ENGINE: Configuration<Engine> = Configuration::new();

impl Policy for Cedar {
    fn describe() -> Metadata {
        Metadata {
            name: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: env!("CARGO_PKG_DESCRIPTION").into(),
            config_schema: Some(include_str!("../config.schema.json").into()),
        }
    }

    fn evaluate(request: Request) -> Verdict {
        match ENGINE.get(Engine::read) {
            Ok(engine) => judge(engine, &request),
            Err(broken) => Verdict::Deny(bounded(broken.to_string())),
        }
    }
}

fn judge(engine: &Engine, request: &Request) -> Verdict {
    if !engine.tools.are_asked(request) {
        return Verdict::Abstain;
    }
    let times = Times::of(request);
    let asked = document(request, &times)
        .and_then(|document| engine.mapping.request(&document, request, engine.schema.as_ref()));
    match asked {
        Ok(asked) => verdict::of(engine, &asked),
        Err(wrong) => Verdict::Deny(bounded(format!("the request cannot be put to Cedar: {wrong}"))),
    }
}

#[cfg(test)]
mod tests;
