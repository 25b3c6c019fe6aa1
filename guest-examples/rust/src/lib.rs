//! The glue between Gavel and the rule: it holds what every policy in Rust needs. The rule is in `rule.rs`.

mod rule;

wit_bindgen::generate!({ path: "wit", world: "policy" });

/// The component that is exported.
struct GuardedTools;

impl Guest for GuardedTools {
    fn evaluate(request: Request) -> Verdict {
        report_panics();
        rule::evaluate(request)
    }

    fn describe() -> Metadata {
        report_panics();
        rule::describe()
    }
}

export!(GuardedTools);

/// From here on a panic's message and place reach the log before the trap.
fn report_panics() {
    use gavel::policy::log::{Level, write};
    std::panic::set_hook(Box::new(|panic| write(Level::Error, &panic.to_string())));
}
