//! Amounts: numbers that count something. `98.7`, `$98.70` and `1,200.00 EUR` are read, and numbers in English words.
//!
//! A number that is a part of something else counts nothing: of a date, a time, a percentage, an account, an ordinal
//! (`3rd`), a file's name. Amounts are compared exactly, as decimals; nothing here is a floating-point number.

use core::iter::Peekable;

use gavel_policy::json::{Json, Wrong};

use crate::config::Allow;
use crate::intent::Intent;

/// An amount in units of 10⁻¹².
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Amount(i128);

const DECIMALS: usize = 12;
const ONE: i128 = 10_i128.pow(12);
/// Digits before the decimal point: together with the decimals they fit 128 bits.
const DIGITS_MAX: usize = 24;

const CURRENCY_MARKS: &str = "$€£¥₹₩₽₿¢";
/// Marks that end a sentence or a part of one, or stand around a number.
const MARKS: [char; 8] = [',', '.', ':', '!', '?', '\'', '*', '…'];

const CURRENCY_WORDS: [&str; 12] =
    ["dollar", "dollars", "euro", "euros", "pound", "pounds", "franc", "francs", "yen", "bucks", "cents", "rupees"];

impl Amount {
    /// An amount of the configuration.
    pub(crate) fn read(value: &Json) -> Result<Self, Wrong> {
        let Json::Number(digits) = value else {
            return Err(Wrong::new(format!("expected a number, not {}", value.kind())));
        };
        Self::of_number(digits).ok_or_else(|| {
            Wrong::new(format!("{digits} has more than {DIGITS_MAX} digits, or more than {DECIMALS} after the point"))
        })
    }

    /// A JSON number, to the last digit.
    fn of_number(text: &str) -> Option<Self> {
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (negative, digits) = match mantissa.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, mantissa),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let fraction = if exponent == 0 { fraction.trim_end_matches('0') } else { fraction };
        let all = format!("{whole}{fraction}");
        // Where the decimal point is, counted from the end of the digits.
        let shift = i32::try_from(DECIMALS).ok()? + exponent - i32::try_from(fraction.len()).ok()?;
        let significant = all.trim_start_matches('0');
        if significant.len() > DIGITS_MAX + DECIMALS || !all.bytes().all(|byte| byte.is_ascii_digit()) || all.is_empty()
        {
            return None;
        }
        let mut units: i128 = if significant.is_empty() { 0 } else { significant.parse().ok()? };
        let factor = 10_i128.checked_pow(shift.unsigned_abs())?;
        if shift >= 0 {
            units = units.checked_mul(factor)?;
        } else if units % factor == 0 {
            units /= factor;
        } else {
            return None;
        }
        (units < 10_i128.pow(36)).then_some(Self(if negative { -units } else { units }))
    }

    fn times(self, factor: i128) -> Option<Self> {
        self.0.checked_mul(factor).map(Self)
    }
}

pub(super) fn has_ground(value: &str, at_most: Option<Amount>, allow: &Allow, intent: &Intent) -> bool {
    if allow.names_fit(value) {
        return true;
    }
    let Some(amount) = of_value(value) else { return false };
    at_most.is_some_and(|most| (Amount(0)..=most).contains(&amount)) || amounts(intent.text()).contains(&amount)
}

/// A value that is one amount and nothing else.
fn of_value(value: &str) -> Option<Amount> {
    let value = value.trim();
    Amount::of_number(value).or_else(|| {
        let mut written = value.split_whitespace().filter(|part| !is_currency(part));
        let amount = written.next().and_then(written_amounts)?;
        let [amount] = amount.as_slice() else { return None };
        written.next().is_none().then_some(*amount)
    })
}

fn is_currency(text: &str) -> bool {
    let code = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase());
    code || !text.is_empty() && text.chars().all(|mark| CURRENCY_MARKS.contains(mark))
        || CURRENCY_WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
}

/// All amounts in a text.
pub(super) fn amounts(text: &str) -> Vec<Amount> {
    let between = |character: char| character.is_whitespace() || "\"<>()[]{}|`;".contains(character);
    // A mark after a chunk stays as a chunk of its own: no number goes on past it.
    let parted = text.split(between).flat_map(|chunk| {
        let marked = chunk.ends_with(MARKS).then_some(",");
        [Some(chunk.trim_matches(MARKS)), marked].into_iter().flatten()
    });
    let mut chunks = parted.filter(|chunk| !chunk.is_empty()).peekable();
    let mut found = Vec::new();
    while let Some(chunk) = chunks.next() {
        if let Some(written) = written_amounts(chunk) {
            let next = chunks.peek().copied().unwrap_or_default();
            if is_one_of(next, &["%", "percent"]) {
                continue;
            }
            found.extend(written.iter().copied());
            if let Some(scaled) = scale(next).and_then(|scale| written.last()?.times(scale)) {
                found.pop();
                found.push(scaled);
            }
        } else if let Some(spelt) = spelt_amount(chunk, &mut chunks) {
            found.push(spelt);
        }
    }
    found
}

/// `$98.70`, `-5`, `10k`, `1,200EUR`, `50€/month`, `1-hour`, and both of `50-60`. `None` when the chunk is no such thing.
fn written_amounts(chunk: &str) -> Option<Vec<Amount>> {
    let (negative, rest) = match chunk.strip_prefix(['-', '+']) {
        Some(rest) => (chunk.starts_with('-'), rest),
        None => (false, chunk),
    };
    let (amount, unit) = leading_amount(rest)?;
    let amount = if negative { amount.times(-1)? } else { amount };
    if let Some(amount) = with_unit(amount, unit) {
        return Some(vec![amount]);
    }
    // A range of two; three numbers with dashes are a date, or no amounts in any case.
    let (other, unit) = leading_amount(unit.strip_prefix('-')?)?;
    Some(vec![amount, with_unit(other, unit)?])
}

/// The amount at the beginning, perhaps after its currency, and what follows it.
fn leading_amount(text: &str) -> Option<(Amount, &str)> {
    let text = text.trim_start_matches(|mark| CURRENCY_MARKS.contains(mark));
    let text = if text.get(..3).is_some_and(is_currency) { &text[3..] } else { text };
    let end = text.find(|c: char| !c.is_ascii_digit() && !".,'".contains(c)).unwrap_or(text.len());
    Some((of_digits(&text[..end])?, &text[end..]))
}

/// The amount that is meant with what follows it, if that makes an amount.
fn with_unit(amount: Amount, unit: &str) -> Option<Amount> {
    let unit = unit.trim_start_matches(|mark| CURRENCY_MARKS.contains(mark));
    if unit.is_empty() || is_currency(unit) || unit.strip_prefix(['-', '/']).is_some_and(is_letters) {
        return Some(amount);
    }
    amount.times(scale(unit)?)
}

fn is_letters(text: &str) -> bool {
    !text.is_empty() && text.chars().all(char::is_alphabetic)
}

fn is_one_of(text: &str, words: &[&str]) -> bool {
    words.iter().any(|word| word.eq_ignore_ascii_case(text))
}

fn scale(word: &str) -> Option<i128> {
    const SCALES: [(&[&str], i128); 4] = [
        (&["hundred"], 100),
        (&["k", "thousand", "grand"], 1_000),
        (&["m", "mn", "mio", "million"], 1_000_000),
        (&["bn", "billion"], 1_000_000_000),
    ];
    SCALES.iter().find(|(words, _)| is_one_of(word, words)).map(|(_, scale)| *scale)
}

/// Digits with separators as they are written here and there: `1,200.50`, `1.200,50`, `1'200`, `10,5`. A single comma
/// before three digits parts thousands, a single full stop is a decimal point.
fn of_digits(text: &str) -> Option<Amount> {
    if !text.starts_with(|first: char| first.is_ascii_digit()) || !text.ends_with(|last: char| last.is_ascii_digit()) {
        return None;
    }
    let point = match (text.rfind('.'), text.rfind(',')) {
        (Some(dot), Some(comma)) => Some(dot.max(comma)),
        (Some(dot), None) if text.matches('.').count() == 1 => Some(dot),
        (None, Some(comma)) if text.matches(',').count() == 1 && text.len() - comma != 4 => Some(comma),
        _ => None,
    };
    let (whole, fraction) = point.map_or((text, ""), |at| (&text[..at], &text[at + 1..]));
    if point.is_some_and(|at| whole.contains(&text[at..=at])) {
        return None;
    }
    let mut groups = whole.split(['.', ',', '\'']);
    let first = groups.next()?;
    let rest: Vec<&str> = groups.collect();
    let are_thousands = first.len() <= 3 && rest.iter().all(|group| group.len() == 3);
    if !rest.is_empty() && !are_thousands {
        return None;
    }
    Amount::of_number(&format!("{first}{}{}{fraction}", rest.concat(), if point.is_some() { "." } else { "" }))
}

/// A number in words that begins with `first`: `twenty-five`, `two hundred and fifty`, `a thousand`.
fn spelt_amount<'t>(first: &'t str, rest: &mut Peekable<impl Iterator<Item = &'t str>>) -> Option<Amount> {
    let a_scale =
        is_one_of(first, &["a", "an"]) && rest.peek().is_some_and(|next| next.len() > 2 && scale(next).is_some());
    let first = if a_scale { 1 } else { spelt(first)? };
    let (mut total, mut group) = (0_i128, i128::from(first));
    while let Some(next) = rest.peek() {
        // `twenty` takes `five` after it, `hundred` anything below, `five` nothing.
        let takes_more = group % 100 == 0 || group % 10 == 0 && group % 100 >= 20;
        if let Some(scale) = scale(next) {
            if scale == 100 {
                group = group.checked_mul(scale)?;
            } else {
                total = total.checked_add(group.checked_mul(scale)?)?;
                group = 0;
            }
        } else if let Some(more) = spelt(next).filter(|_| takes_more) {
            group = group.checked_add(i128::from(more))?;
        } else if !next.eq_ignore_ascii_case("and") || group == 0 || group % 100 != 0 {
            break;
        }
        rest.next();
    }
    Amount(ONE).times(total.checked_add(group)?)
}

fn spelt(word: &str) -> Option<u8> {
    const SMALL: [&str; 20] = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
    ];
    const TENS: [&str; 8] = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
    let place =
        |words: &[&str]| words.iter().position(|is| is.eq_ignore_ascii_case(word)).and_then(|at| u8::try_from(at).ok());
    if let Some((tens, ones)) = word.split_once('-') {
        return spelt(tens).filter(|tens| *tens >= 20)?.checked_add(spelt(ones).filter(|ones| (1..10).contains(ones))?);
    }
    place(&SMALL).or_else(|| place(&TENS).map(|at| 20 + 10 * at))
}
