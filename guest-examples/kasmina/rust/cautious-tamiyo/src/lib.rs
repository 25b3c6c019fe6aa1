//! The glue between Gavel and Tamiyo: it holds what every Tamiyo in Rust needs. The rule is in `rule.rs`.

mod rule;

wit_bindgen::generate!({ path: "../wit", world: "gavel:kasmina/tamiyo", generate_all });

/// The component that is exported.
struct CautiousTamiyo;

impl Guest for CautiousTamiyo {
    fn decide(observation: Observation) -> Vec<Command> {
        report_panics();
        rule::decide(&observation)
    }

    fn describe() -> Metadata {
        report_panics();
        rule::describe()
    }
}

export!(CautiousTamiyo);

/// From here on a panic's message and place reach the log before the trap.
fn report_panics() {
    use gavel::policy::log::{Level, write};
    std::panic::set_hook(Box::new(|panic| write(Level::Error, &panic.to_string())));
}
