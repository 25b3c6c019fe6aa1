//! Numbers of JSON, exactly: no digit is lost, and `1.0` is `1`.
//!
//! A number is compared and divided as decimal digits and an exponent. So a maximum beyond 2^53 holds to the last
//! digit, and 0.3 is a multiple of 0.1, which is not so with floating point.

use core::cmp::Ordering;

/// `±digits × 10^exponent`; the digits neither begin nor end with 0, and are empty for zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decimal {
    is_negative: bool,
    digits: Vec<u8>,
    exponent: i64,
}

impl Decimal {
    /// Read what JSON takes for a number.
    pub(crate) fn new(text: &str) -> Self {
        let (is_negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|digit| digit.wrapping_sub(b'0')).collect();
        let mut exponent = written_exponent(exponent).saturating_sub(i64::try_from(fraction.len()).unwrap_or(i64::MAX));
        while digits.last() == Some(&0) {
            digits.pop();
            exponent = exponent.saturating_add(1);
        }
        digits.drain(..digits.iter().position(|digit| *digit != 0).unwrap_or(digits.len()));
        if digits.is_empty() {
            return Self { is_negative: false, digits, exponent: 0 };
        }
        Self { is_negative, digits, exponent }
    }

    pub(crate) fn is_integer(&self) -> bool {
        self.exponent >= 0
    }

    pub(crate) fn is_positive(&self) -> bool {
        !self.is_negative && !self.digits.is_empty()
    }

    /// As a count, if it is one.
    pub(crate) fn to_usize(&self) -> Option<usize> {
        if self.is_negative || self.exponent < 0 || self.exponent > 20 {
            return None;
        }
        let zeros = core::iter::repeat_n(&0, usize::try_from(self.exponent).ok()?);
        self.digits
            .iter()
            .chain(zeros)
            .try_fold(0_usize, |value, digit| value.checked_mul(10)?.checked_add(usize::from(*digit)))
    }

    /// How many digits a divisor may have, so that a remainder times ten fits.
    pub(crate) const DIVISOR_DIGITS_MAX: usize = 18;

    /// The digits as a number, if there are few enough to divide by.
    fn divisor(&self) -> Option<u128> {
        (self.digits.len() <= Self::DIVISOR_DIGITS_MAX)
            .then(|| self.digits.iter().fold(0, |value, digit| value * 10 + u128::from(*digit)))
    }

    pub(crate) fn can_divide(&self) -> bool {
        self.is_positive() && self.divisor().is_some()
    }

    /// Is this a whole multiple of another, which [`Decimal::can_divide`]?
    pub(crate) fn is_multiple_of(&self, other: &Decimal) -> bool {
        let Some(divisor) = other.divisor() else { return false };
        if self.digits.is_empty() {
            return true;
        }
        // Both end with another digit than 0, so a smaller exponent leaves a fraction.
        let Some(zeros) = self.exponent.checked_sub(other.exponent).and_then(|zeros| u64::try_from(zeros).ok()) else {
            return false;
        };
        let remainder = self.digits.iter().fold(0, |remainder, digit| (remainder * 10 + u128::from(*digit)) % divisor);
        remainder * power_of_ten(zeros, divisor) % divisor == 0
    }

    /// The place of the first digit: 1 for 1 to 9, 0 for 0.1 to 0.9.
    fn magnitude(&self) -> i64 {
        self.exponent.saturating_add(i64::try_from(self.digits.len()).unwrap_or(i64::MAX))
    }

    /// A text that equal numbers share and others do not.
    pub(crate) fn canonical(&self, out: &mut String) {
        if self.is_negative {
            out.push('-');
        }
        out.extend(self.digits.iter().map(|digit| char::from(digit + b'0')));
        out.push('e');
        out.push_str(&self.exponent.to_string());
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let sign = |number: &Self| i8::from(!number.digits.is_empty()) * if number.is_negative { -1 } else { 1 };
        if sign(self) != sign(other) || self.digits.is_empty() {
            return sign(self).cmp(&sign(other));
        }
        // Digits compare like a fraction: the first that differs decides.
        let larger = self.magnitude().cmp(&other.magnitude()).then_with(|| self.digits.cmp(&other.digits));
        if self.is_negative { larger.reverse() } else { larger }
    }
}

fn written_exponent(text: &str) -> i64 {
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    // Saturated well within 64 bits, so that what is added to it does not matter.
    let value =
        digits.bytes().fold(0_i64, |value, digit| (value * 10 + i64::from(digit.wrapping_sub(b'0'))).min(1 << 50));
    if is_negative { -value } else { value }
}

/// 10^exponent modulo a divisor of at most [`Decimal::DIVISOR_DIGITS_MAX`] digits.
fn power_of_ten(mut exponent: u64, divisor: u128) -> u128 {
    let (mut power, mut base) = (1 % divisor, 10 % divisor);
    while exponent > 0 {
        if exponent & 1 == 1 {
            power = power * base % divisor;
        }
        base = base * base % divisor;
        exponent >>= 1;
    }
    power
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::new(text)
    }

    #[test]
    fn equal_numbers_are_equal_however_they_are_written() {
        for (left, right) in
            [("1", "1.0"), ("1e2", "100"), ("0", "-0.00"), ("0.1", "1E-1"), ("1200e-2", "12"), ("-5", "-0.5e+1")]
        {
            assert_eq!(decimal(left), decimal(right), "{left} {right}");
        }
        assert!(decimal("9007199254740993") > decimal("9007199254740992"));
        assert!(decimal("-9007199254740993") < decimal("-9007199254740992"));
        assert!(decimal("1e-400") > decimal("0"));
        assert!(decimal("1e99999999999999999999") > decimal("9e400"));
    }

    #[test]
    fn multiples_are_exact() {
        for (value, divisor, is) in [
            ("0.3", "0.1", true),
            ("0.35", "0.1", false),
            ("1e400", "3", false),
            ("3e400", "3", true),
            ("0", "7", true),
            ("7.5", "2.5", true),
            ("-9", "3", true),
            ("10", "20", false),
            ("4", "0.5", true),
            ("5", "10", false),
            ("0.5", "1", false),
        ] {
            assert_eq!(decimal(value).is_multiple_of(&decimal(divisor)), is, "{value} of {divisor}");
        }
    }

    proptest! {
        #[test]
        fn integers_are_as_the_machine_has_them(left in any::<i64>(), right in any::<i64>(), zeros in 0_usize..4) {
            let written = |value: i64| format!("{value}{}e-{zeros}", "0".repeat(zeros));
            let (a, b) = (decimal(&left.to_string()), decimal(&written(right)));
            prop_assert_eq!(a.cmp(&b), left.cmp(&right));
            let divisor = (right.unsigned_abs() % 1_000).max(1);
            prop_assert_eq!(a.is_multiple_of(&decimal(&divisor.to_string())), left.unsigned_abs() % divisor == 0);
            prop_assert_eq!(a.to_usize(), usize::try_from(left).ok());
        }
    }
}
