//! What chrono takes from `js-sys`, where there is no JavaScript: types without a clock behind them.
//!
//! It stands in for the crate of that name (`[patch.crates-io]` in the workspace), because chrono's default features
//! import JavaScript's `Date` on wasm32, regorus wants those features, and a policy that imports anything but Gavel's
//! world is refused. Asking for the time panics, which denies: `time.now_ns` of Rego is answered from the request,
//! before regorus would ask. The local time zone is UTC, as everywhere in a policy.

use wasm_bindgen::JsValue;

/// A date that JavaScript would hold: here only the milliseconds that it was made of.
#[derive(Debug, Clone)]
pub struct Date(f64);

impl Date {
    /// The date of a number of milliseconds since 1970.
    #[must_use]
    pub fn new(millis: &JsValue) -> Self {
        Self(millis.0)
    }

    /// The date of a calendar's day and time, of which only the time zone's offset is ever asked.
    #[must_use]
    pub fn new_with_year_month_day_hr_min_sec(_: u32, _: i32, _: i32, _: i32, _: i32, _: i32) -> Self {
        Self(0.0)
    }

    /// What the clock says.
    ///
    /// # Panics
    ///
    /// Always: there is none.
    #[must_use]
    pub fn new_0() -> Self {
        panic!("a policy has no clock: the time is in the request")
    }

    /// Its milliseconds since 1970.
    #[must_use]
    pub fn get_time(&self) -> f64 {
        self.0
    }

    /// How far the local time zone is behind UTC, in minutes.
    #[must_use]
    pub fn get_timezone_offset(&self) -> f64 {
        0.0
    }
}
