//! The policy `rego`: decides by Rego policies, as the Open Policy Agent runs them, that its configuration holds.
//!
//! It carries the interpreter (crate `regorus`), so existing policy files run unchanged; which rule decides, what its
//! result means, and what `input` looks like is configured or follows OPA's conventions ([`verdict`]).
//!
//! Always, in doubt it denies: configuration that cannot be read, a result that is undefined or of another kind than
//! expected, a policy that fails. Nothing is asked of the world: `time.now_ns` is the kernel's clock in the request,
//! and what would differ when a decision is judged again (`http.send`, `rand.intn`, `uuid.rfc4122`, `opa.runtime`)
//! does not exist. An instance that is kept keeps the parsed policies and data; each decision evaluates in a copy of
//! the interpreter, which shares them and is dropped with all it knows of the request.

mod builtins;
mod config;
mod input;
mod verdict;

use gavel_engine_input::{Times, bounded, document};
use gavel_policy::{Configuration, Metadata, Policy, Request, Verdict, export_policy, log};

use config::Engine;

/// The policy, for [`export_policy!`].
pub struct Rego;

export_policy!(Rego);

static ENGINE: Configuration<Engine> = Configuration::new();

impl Policy for Rego {
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
            Ok(engine) => {
                let (verdict, printed) = judge(engine, &request);
                for line in &printed {
                    log::write(log::Level::Info, line);
                }
                verdict
            }
            Err(broken) => Verdict::Deny(bounded(broken.to_string())),
        }
    }
}

/// The verdict, and what the policies printed on the way.
fn judge(engine: &Engine, request: &Request) -> (Verdict, Vec<String>) {
    if !engine.tools.are_asked(request) {
        return (Verdict::Abstain, Vec::new());
    }
    let times = Times::of(request);
    let input = document(request, &times).and_then(|document| engine.input.of(&document));
    let input = match input {
        Ok(input) => input,
        Err(wrong) => {
            return (Verdict::Deny(bounded(format!("the request cannot be put to Rego: {wrong}"))), Vec::new());
        }
    };
    let mut interpreter = engine.interpreter.clone();
    let result = builtins::add(&mut interpreter, request.now_ms).and_then(|()| {
        interpreter.set_input(input);
        interpreter.eval_query(engine.query.clone(), false)
    });
    // Only where the policies print nothing at all can this fail: then there is nothing to say.
    let printed = interpreter.take_prints().unwrap_or_default();
    let verdict = match result {
        Ok(results) => verdict::of(&engine.query, results),
        Err(error) => Verdict::Deny(bounded(format!("Rego failed: {}", config::one_line(&error)))),
    };
    (verdict, printed)
}

#[cfg(test)]
mod tests;
