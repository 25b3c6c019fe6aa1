//! What a metrics aggregator may be told, with its defaults and limits.

use crate::SettingsError;
use serde::Deserialize;

/// Its settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Settings {
    /// Between two scrapes. Default 15 s.
    pub(super) scrape_every_ms: u64,
    /// How long a kernel may take to answer. Default 3 s.
    pub(super) scrape_timeout_ms: u64,
    /// Bytes of an answer. Default 2 MiB.
    pub(super) scrape_bytes_max: usize,
    /// Kernels that are asked. Default 64.
    pub(super) targets_max: usize,
    /// Series. Default 5,000.
    pub(super) series_max: usize,
    /// How long a series was not seen before it makes room when room is needed. Default one day.
    pub(super) series_idle_ms: u64,
    /// How long numbers are kept as they were scraped. Default one hour.
    pub(super) raw_keep_ms: u64,
    /// How long minutes are kept. Default 12 hours.
    pub(super) minute_keep_ms: u64,
    /// How long hours are kept. Default 40 days.
    pub(super) hour_keep_ms: u64,
    /// How long days are kept. Default 400 days.
    pub(super) day_keep_ms: u64,
    /// Series of one query. Default 100.
    pub(super) query_series_max: usize,
    /// Steps of one query. Default 1,500.
    pub(super) points_max: u64,
    /// Objectives. Default 50.
    pub(super) objectives_max: usize,
}

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;

impl Default for Settings {
    fn default() -> Self {
        Self {
            scrape_every_ms: 15_000,
            scrape_timeout_ms: 3_000,
            scrape_bytes_max: 2 << 20,
            targets_max: 64,
            series_max: 5_000,
            series_idle_ms: DAY,
            raw_keep_ms: HOUR,
            minute_keep_ms: 12 * HOUR,
            hour_keep_ms: 40 * DAY,
            day_keep_ms: 400 * DAY,
            query_series_max: 100,
            points_max: 1_500,
            objectives_max: 50,
        }
    }
}

impl Settings {
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        let wide = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        crate::ranges::check(&[
            ("scrape_every_ms", self.scrape_every_ms, 1_000, HOUR),
            ("scrape_timeout_ms", self.scrape_timeout_ms, 100, 10_000),
            ("scrape_bytes_max", wide(self.scrape_bytes_max), 64 << 10, 16 << 20),
            ("targets_max", wide(self.targets_max), 1, 1_000),
            ("series_max", wide(self.series_max), 1, 100_000),
            ("series_idle_ms", self.series_idle_ms, 60_000, self.day_keep_ms),
            // Each must last until the next coarser is made of it, also after an outage.
            ("raw_keep_ms", self.raw_keep_ms, 10 * 60_000, DAY),
            ("minute_keep_ms", self.minute_keep_ms, 3 * HOUR, 30 * DAY),
            ("hour_keep_ms", self.hour_keep_ms, 3 * DAY, 400 * DAY),
            ("day_keep_ms", self.day_keep_ms, self.hour_keep_ms, 3_660 * DAY),
            ("query_series_max", wide(self.query_series_max), 1, 1_000),
            ("points_max", self.points_max, 10, 11_000),
            ("objectives_max", wide(self.objectives_max), 1, 1_000),
        ])
        .map_err(SettingsError)
    }

    /// For how long rows are kept, from the finest.
    pub(super) fn keep_ms(&self) -> [u64; 4] {
        [self.raw_keep_ms, self.minute_keep_ms, self.hour_keep_ms, self.day_keep_ms]
    }
}
