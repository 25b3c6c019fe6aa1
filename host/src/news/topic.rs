//! What events are about.

/// A layer's health at the end of an epoch.
pub const SEED_HEALTH: &str = "telemetry.seed.health";
/// What is ordered of seeds.
pub const COMMANDS: &str = "control.kasmina.commands";
/// What came of an order.
pub const RESPONSES: &str = "control.kasmina.responses";
/// How a blueprint fared, for Karn.
pub const FIELD_REPORTS: &str = "innovation.field_reports";
/// The end of an epoch.
pub const EPOCH: &str = "system.events.epoch";
/// A seed was put back to a checkpoint.
pub const ROLLBACK: &str = "system.events.rollback";

/// All of them.
pub const ALL: [&str; 6] = [SEED_HEALTH, COMMANDS, RESPONSES, FIELD_REPORTS, EPOCH, ROLLBACK];

/// The topic of this name.
///
/// # Errors
/// If there is none; the text names all.
pub fn find(name: &str) -> Result<&'static str, String> {
    let found = ALL.into_iter().find(|topic| *topic == name);
    let shown: String = name.chars().take(64).collect();
    found.ok_or_else(|| format!("there is no topic `{shown}`; topics are: {}", ALL.join(", ")))
}
