//! What chrono takes from `wasm-bindgen`, where there is no JavaScript: a value that is a number. See `js-sys` beside it.

/// A value of JavaScript: here a number only.
#[derive(Debug, Clone)]
pub struct JsValue(pub f64);

impl JsValue {
    /// The value of a number.
    #[must_use]
    pub fn from_f64(number: f64) -> Self {
        Self(number)
    }
}
