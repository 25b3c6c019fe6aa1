//! What can go wrong in this crate. Every message says what happened, to which thing, with its values.

use crate::state::Lifecycle;

/// What went wrong. Whatever it is, the layer is as it was before the call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The chunks do not tile the layer.
    #[error(
        "{seeds} seeds cannot tile a layer of width {width}: a layer has from {least} seeds to as many as it is wide"
    )]
    Tiling {
        /// Width of the layer.
        width: usize,
        /// Seeds asked for.
        seeds: usize,
        /// The fewest that are allowed.
        least: usize,
    },
    /// A buffer is not as long as the shape demands.
    #[error("`{buffer}` holds {found} values where {rows} rows of {width} need {expected}")]
    Shape {
        /// Which buffer.
        buffer: &'static str,
        /// How many values it holds.
        found: usize,
        /// How many it should.
        expected: usize,
        /// Rows of the batch.
        rows: usize,
        /// Width of the layer.
        width: usize,
    },
    /// A value that is neither finite nor usable.
    #[error("`{buffer}` holds {value} at row {row}, column {column}: every value must be finite")]
    NotFinite {
        /// Which buffer.
        buffer: &'static str,
        /// The value.
        value: f32,
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
    },
    /// Weights for a seed that are not what its blueprint needs.
    #[error("weights of seed {seed}: {problem}")]
    Weights {
        /// Which seed.
        seed: usize,
        /// What is wrong with them.
        problem: String,
    },
    /// No seed of that number.
    #[error("layer `{layer}` has no seed {seed}: its seeds are 0 to {last}")]
    NoSeed {
        /// Which layer.
        layer: String,
        /// The number asked for.
        seed: usize,
        /// The last that exists.
        last: usize,
    },
    /// No blueprint of that name or id.
    #[error("blueprint `{asked}` is not registered; registered are: {known}")]
    NoBlueprint {
        /// What was asked for.
        asked: String,
        /// What there is.
        known: String,
    },
    /// A description of a blueprint that cannot be used.
    #[error("blueprint `{name}`: {problem}")]
    Blueprint {
        /// Which one.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Data that a network cannot be trained on, or that is not what was exported.
    #[error("data `{name}`: {problem}")]
    Data {
        /// Which data.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No grafting strategy of that name.
    #[error("grafting strategy `{asked}` is not registered; registered are: {known}")]
    NoStrategy {
        /// What was asked for.
        asked: String,
        /// What there is.
        known: String,
    },
    /// A command that the seed's state, or its gate, does not allow.
    #[error("seed {seed} cannot go from {from} to {to}: {reason}")]
    Transition {
        /// Which seed.
        seed: usize,
        /// Where it is.
        from: Lifecycle,
        /// Where it should go.
        to: Lifecycle,
        /// Why it cannot.
        reason: String,
    },
    /// A command's id that was used before for something else.
    #[error("command `{id}`: {problem}")]
    Command {
        /// The command's id.
        id: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A measurement that cannot be used.
    #[error("{signal}: {problem}")]
    Signal {
        /// Which one, and of what.
        signal: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A checkpoint that is not of this layer, or that is damaged.
    #[error("checkpoint: {0}")]
    Checkpoint(String),
    /// A configuration with a value out of its range.
    #[error("{key} = {value}: {problem}")]
    Config {
        /// Which key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The device has no memory left for this.
    #[error("the device `{device}` has no memory for {what} ({bytes} bytes): use a smaller batch, or the cpu backend")]
    OutOfMemory {
        /// Which device.
        device: String,
        /// What for.
        what: String,
        /// How many bytes.
        bytes: u64,
    },
    /// The device failed otherwise.
    #[error("the device `{device}`: {problem}")]
    Device {
        /// Which device.
        device: String,
        /// What happened.
        problem: String,
    },
}
