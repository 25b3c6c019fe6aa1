//! What a seed leaves behind it: all that the gates and strategies must know of its past. Only seeds that are neither
//! dormant nor fossilised have a trail, so a layer of sleeping seeds costs nothing.

use crate::checkpoint::codec::{Reader, Writer};
use crate::observe::Evaluation;

/// One seed's past since its germination.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Trail {
    /// The epoch of its germination: tells checkpoints of this life from those of an earlier one.
    pub(crate) germinated: u64,
    /// Progress of the ramp, in [0, 1]: alpha before easing.
    pub(crate) progress: f32,
    /// Epochs for which the ramp still pauses.
    pub(crate) pause_left: u32,
    /// The task's loss when the strategy was first asked.
    pub(crate) baseline_loss: Option<f64>,
    /// The last epochs' drifts in this stage, newest last.
    pub(crate) drifts: Vec<f32>,
    /// The task's losses of the last epochs in which it contributed, newest last.
    pub(crate) losses: Vec<f64>,
    /// Gradient norm of the last batch that reached it.
    pub(crate) gradient_norm: f64,
    /// Of all batches.
    pub(crate) gradient_norms: Moments,
    /// Mean denoising loss of the last epoch in TRAINING.
    pub(crate) denoising_loss: Option<f64>,
    /// Denoising losses of the running epoch.
    pub(crate) denoising: Moments,
    /// What was measured of it in this stage.
    pub(crate) evaluation: Option<Evaluation>,
    /// The task's metric when it began to graft.
    pub(crate) pre_metric: Option<f64>,
    /// Bytes that it held, epoch by epoch.
    pub(crate) memory: Moments,
    /// What was unstable in the running epoch.
    pub(crate) unstable: Option<String>,
    /// A cull that was ruled and has not landed.
    pub(crate) withdrawal: Option<Withdrawal>,
}

/// Alpha on its way down.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Withdrawal {
    /// Alpha when the cull was ruled.
    pub(crate) from: f32,
    /// Steps still to go.
    pub(crate) left: u32,
    /// Steps in all.
    pub(crate) steps: u32,
    /// The task's metric when the cull was ruled.
    pub(crate) metric: f64,
}

impl Withdrawal {
    fn sound(&self) -> bool {
        (0.0..=1.0).contains(&self.from) && (1..=self.steps).contains(&self.left) && self.metric.is_finite()
    }
}

/// Counts of steps and epochs stay below this, up to which an f64 holds them exactly; no run comes near it.
pub(crate) const COUNTS_END: u64 = 1 << 52;

/// Count, mean and sum of squared deviations of a series (Welford).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Moments {
    count: u64,
    mean: f64,
    squares: f64,
}

impl Moments {
    pub(crate) fn push(&mut self, value: f64) {
        self.count += 1;
        let apart = value - self.mean;
        #[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let count = self.count as f64;
        self.mean += apart / count;
        self.squares += apart * (value - self.mean);
    }

    /// The mean, of one value at least.
    pub(crate) fn mean(&self) -> Option<f64> {
        (self.count > 0).then_some(self.mean)
    }

    /// Population variance; 0 of nothing.
    pub(crate) fn variance(&self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let count = self.count.max(1) as f64;
        self.squares / count
    }
}

/// Append, and forget the oldest beyond `most`.
pub(crate) fn push_recent<T>(list: &mut Vec<T>, value: T, most: usize) {
    list.push(value);
    if list.len() > most {
        list.drain(..list.len() - most);
    }
}

impl Trail {
    pub(crate) fn write(&self, out: &mut Writer) {
        out.u64(self.germinated);
        out.f32(self.progress);
        out.u32(self.pause_left);
        out.option(self.baseline_loss, Writer::f64);
        out.list(&self.drifts, |out, &drift| out.f32(drift));
        out.list(&self.losses, |out, &loss| out.f64(loss));
        out.f64(self.gradient_norm);
        self.gradient_norms.write(out);
        out.option(self.denoising_loss, Writer::f64);
        self.denoising.write(out);
        out.option(self.evaluation, |out, evaluation| {
            out.f64(evaluation.delta);
            out.f64(evaluation.improvement);
            out.f64(evaluation.error_rate);
        });
        out.option(self.pre_metric, Writer::f64);
        self.memory.write(out);
        out.option(self.unstable.as_deref(), Writer::text);
        out.option(self.withdrawal, |out, withdrawal| {
            out.f32(withdrawal.from);
            out.u32(withdrawal.left);
            out.u32(withdrawal.steps);
            out.f64(withdrawal.metric);
        });
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            germinated: from.u64()?,
            progress: from.f32()?,
            pause_left: from.u32()?,
            baseline_loss: from.option(Reader::f64)?,
            drifts: from.list(Reader::f32)?,
            losses: from.list(Reader::f64)?,
            gradient_norm: from.f64()?,
            gradient_norms: Moments::read(from)?,
            denoising_loss: from.option(Reader::f64)?,
            denoising: Moments::read(from)?,
            evaluation: from.option(|from| {
                Some(Evaluation { delta: from.f64()?, improvement: from.f64()?, error_rate: from.f64()? })
            })?,
            pre_metric: from.option(Reader::f64)?,
            memory: Moments::read(from)?,
            unstable: from.option(Reader::text)?,
            withdrawal: from.option(|from| {
                let (alpha, left, steps) = (from.f32()?, from.u32()?, from.u32()?);
                Some(Withdrawal { from: alpha, left, steps, metric: from.f64()? })
            })?,
        })
    }

    /// Whether it is a past that a seed can have. Drifts may be anything: a gate that looks at them refuses what is not
    /// finite.
    pub(crate) fn sound(&self) -> bool {
        let finite = |value: Option<f64>| value.is_none_or(f64::is_finite);
        let evaluation = self.evaluation.map(|found| [found.delta, found.improvement, found.error_rate]);
        self.germinated < COUNTS_END
            && (0.0..=1.0).contains(&self.progress)
            && [self.baseline_loss, self.denoising_loss, self.pre_metric].into_iter().all(finite)
            && self.losses.iter().all(|loss| loss.is_finite())
            && self.gradient_norm >= 0.0
            && self.gradient_norm.is_finite()
            && [&self.gradient_norms, &self.denoising, &self.memory].into_iter().all(Moments::sound)
            && evaluation.is_none_or(|values| values.iter().all(|value| value.is_finite()))
            && self.withdrawal.is_none_or(|withdrawal| withdrawal.sound())
    }
}

impl Moments {
    fn write(&self, out: &mut Writer) {
        out.u64(self.count);
        out.f64(self.mean);
        out.f64(self.squares);
    }

    fn sound(&self) -> bool {
        self.count < COUNTS_END && self.mean.is_finite() && self.squares.is_finite() && self.squares >= 0.0
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        Some(Self { count: from.u64()?, mean: from.f64()?, squares: from.f64()? })
    }
}
