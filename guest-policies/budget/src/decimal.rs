//! Amounts of money and other decimals, exactly: digits in, a whole number of the smallest units out. No floats.
//!
//! Read as JSON writes numbers, but without exponents: `12`, `12.5`, `12.50`. What two programs could read differently
//! (`1e3`, `1,000`, `012`, `+1`, ` 1`) is no amount.

use core::fmt;

/// Digits after the point, at most; the smallest unit is then 10^-12.
pub(crate) const SCALE_MAX: u8 = 12;

/// The largest amount, in smallest units. Sums of amounts are checked against it, and the host's sums saturate far
/// above it, so a limit can always be told from more than it.
pub(crate) const UNITS_MAX: u64 = 999_999_999_999_999_999;

/// How many decimal digits the smallest unit lies after the point: 2 for cents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scale(pub(crate) u8);

impl Scale {
    /// The smallest units in an amount.
    pub(crate) fn units(self, text: &str) -> Result<u64, NoAmount> {
        let (whole, fraction) = match text.split_once('.') {
            Some((_, "")) => return Err(NoAmount::NotDecimal),
            Some((whole, fraction)) => (whole, fraction),
            None => (text, ""),
        };
        Self::check(text, whole, fraction)?;
        // Zeros at the end say nothing; more digits than the scale would be lost.
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > usize::from(self.0) {
            return Err(NoAmount::TooFine(self));
        }
        let zeros = core::iter::repeat_n(b'0', usize::from(self.0) - fraction.len());
        let mut units = 0_u64;
        for digit in whole.bytes().chain(fraction.bytes()).chain(zeros) {
            let next = units.checked_mul(10).and_then(|units| units.checked_add(u64::from(digit - b'0')));
            units = next.filter(|units| *units <= UNITS_MAX).ok_or(NoAmount::TooLarge(self))?;
        }
        Ok(units)
    }

    /// Refuse what is not written plainly, with the reason that helps most.
    fn check(text: &str, whole: &str, fraction: &str) -> Result<(), NoAmount> {
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let is_plain = !whole.is_empty() && digits(whole) && digits(fraction);
        if is_plain && (whole == "0" || !whole.starts_with('0')) {
            return Ok(());
        }
        if text.strip_prefix('-').is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit())) {
            return Err(NoAmount::Negative);
        }
        let is_exponent = text.split_once(['e', 'E']).is_some_and(|(mantissa, exponent)| {
            let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            !mantissa.is_empty() && digits(&mantissa.replacen('.', "", 1)) && !exponent.is_empty() && digits(exponent)
        });
        Err(if is_exponent { NoAmount::Exponent } else { NoAmount::NotDecimal })
    }

    /// So many smallest units as an amount, to be shown.
    pub(crate) fn show(self, units: u64) -> Shown {
        Shown { units, scale: self }
    }
}

/// Why a text is no amount, as the end of a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoAmount {
    Negative,
    Exponent,
    NotDecimal,
    TooFine(Scale),
    TooLarge(Scale),
}

impl fmt::Display for NoAmount {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Negative => out.write_str("is negative"),
            Self::Exponent => out.write_str("is written with an exponent; write all its digits"),
            Self::NotDecimal => out.write_str("is not a decimal number like 12.50"),
            Self::TooFine(scale) => write!(out, "has more than {} digits after the point", scale.0),
            Self::TooLarge(scale) => write!(out, "is more than {}, the largest amount", scale.show(UNITS_MAX)),
        }
    }
}

/// An amount as a reason shows it, with all its digits after the point: `12.50`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown {
    units: u64,
    scale: Scale,
}

impl fmt::Display for Shown {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = 10_u64.pow(u32::from(self.scale.0));
        match self.scale.0 {
            0 => write!(out, "{}", self.units),
            digits => write!(out, "{}.{:0>2$}", self.units / one, self.units % one, usize::from(digits)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts() {
        for (text, scale, expected) in [
            ("0", 0, Ok(0)),
            ("0", 2, Ok(0)),
            ("0.00", 2, Ok(0)),
            ("12", 2, Ok(1_200)),
            ("12.5", 2, Ok(1_250)),
            ("12.50", 2, Ok(1_250)),
            ("12.5000000000000000000000000000", 2, Ok(1_250)),
            ("0.1", 2, Ok(10)),
            ("0.29", 2, Ok(29)),
            ("12.505", 2, Err("has more than 2 digits after the point")),
            ("1.1", 0, Err("has more than 0 digits after the point")),
            ("0.000000000001", 12, Ok(1)),
            ("999999999999999999", 0, Ok(UNITS_MAX)),
            ("9999999999999999.99", 2, Ok(UNITS_MAX)),
            ("10000000000000000", 2, Err("is more than 9999999999999999.99, the largest amount")),
            ("99999999999999999999999999999999", 2, Err("is more than 9999999999999999.99, the largest amount")),
            ("-1", 2, Err("is negative")),
            ("-0", 2, Err("is negative")),
            ("-0.00", 2, Err("is negative")),
            ("-99999999999999999999999", 2, Err("is negative")),
            ("-1e3", 2, Err("is negative")),
            ("-12.505", 2, Err("is negative")),
            ("-1,000", 2, Err("is negative")),
            ("1e3", 2, Err("is written with an exponent; write all its digits")),
            ("1.5E-7", 2, Err("is written with an exponent; write all its digits")),
            ("1e+400", 2, Err("is written with an exponent; write all its digits")),
        ] {
            assert_eq!(
                Scale(scale).units(text).map_err(|why| why.to_string()),
                expected.map_err(str::to_owned),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_decimal() {
        for text in [
            "",
            " ",
            ".",
            "1.",
            ".5",
            "+1",
            " 1",
            "1 ",
            "01",
            "00",
            "-",
            "--1",
            "-x",
            "1,000",
            "1.000.000",
            "1_000",
            "0x10",
            "$12",
            "12 EUR",
            "١٢",
            "１２",
            "NaN",
            "Infinity",
            "e3",
            "twelve",
            "1\u{200b}2",
            "½",
        ] {
            assert_eq!(Scale(2).units(text), Err(NoAmount::NotDecimal), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(units in 0..=UNITS_MAX, scale in 0..=SCALE_MAX) {
            let text = Scale(scale).show(units).to_string();
            prop_assert_eq!(Scale(scale).units(&text), Ok(units), "{}", text);
        }

        #[test]
        fn sums_of_decimals_are_exact(amounts in prop::collection::vec((0_u64..1_000_000, 0_u64..100), 1..40)) {
            let units = amounts.iter().map(|(whole, cents)| Scale(2).units(&format!("{whole}.{cents:02}")).expect("an amount"));
            prop_assert_eq!(units.sum::<u64>(), amounts.iter().map(|(whole, cents)| whole * 100 + cents).sum::<u64>());
        }

        #[test]
        fn no_text_panics_or_passes_by_accident(text in "[-+0-9.eE ]{0,6}") {
            if let Ok(units) = Scale(2).units(&text) {
                let expected = text.parse::<f64>().expect("a number") * 100.0;
                prop_assert_eq!(units.to_string(), format!("{expected:.0}"));
            }
        }
    }
}
