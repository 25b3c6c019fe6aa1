//! The glue between Gavel and the strategy: it holds what every strategy in Rust needs. The rule is in `ramp.rs`.

mod ramp;

wit_bindgen::generate!({ path: "../wit", world: "gavel:kasmina/strategy", generate_all });

/// The component that is exported.
struct PatientRamp;

impl Guest for PatientRamp {
    fn step(input: StrategyInput) -> StrategyStep {
        report_panics();
        ramp::step(&input)
    }

    fn describe() -> Metadata {
        report_panics();
        ramp::describe()
    }
}

export!(PatientRamp);

/// From here on a panic's message and place reach the log before the trap.
fn report_panics() {
    use gavel::policy::log::{Level, write};
    std::panic::set_hook(Box::new(|panic| write(Level::Error, &panic.to_string())));
}
