//! Numbers that mean a person: cards, accounts, social security, telephones. Each must have the form and the check
//! digits of its kind, and stand alone: not a part of a longer number, an identifier, or a date.

use super::{Hit, Scan};
use crate::kind::Kind;

impl Scan<'_, '_, '_> {
    /// The number that begins with this word.
    pub(super) fn number(&mut self, at: usize) -> Option<Hit> {
        if !self.is_digit(at) {
            return self.iban(at);
        }
        let end = self.word_end(at);
        let digits = self.digits_from(at, 20);
        // `41ab`, and the middle of `1.41` and `2024-41`.
        let is_alone = at + digits == end && !self.continues_before(at);
        if !is_alone {
            return None;
        }
        match digits {
            3 => self.ssn(at).or_else(|| self.north_american(at)).or_else(|| self.national(at, digits)),
            4 => self.card_in_groups(at).or_else(|| self.national(at, digits)),
            9 => self.ssn_without_signs(at),
            2 | 5 | 6 => self.national(at, digits),
            13..=19 => self.card_in_a_row(at, digits),
            _ => None,
        }
    }

    /// A card number without separators.
    fn card_in_a_row(&self, at: usize, digits: usize) -> Option<Hit> {
        let is =
            self.kinds.has(Kind::CreditCard) && self.ends_alone(at + digits) && is_card(&self.text[at..at + digits]);
        is.then_some((Kind::CreditCard, at + digits))
    }

    /// A card number in the groups that are printed: 4-4-4-4, of which the last may be shorter or followed by 3 more,
    /// 4-6-5 and 4-6-4.
    fn card_in_groups(&self, at: usize) -> Option<Hit> {
        const DIGITS_MAX: usize = 19;
        let separator = self.byte(at + 4);
        if !self.kinds.has(Kind::CreditCard)
            || issuer_lengths(&self.text[at..at + 4]).is_empty()
            || !matches!(separator, b' ' | b'-' | b'.')
        {
            return None;
        }
        // All groups at once, and only then is their form compared: the third can tell that it is none.
        let (mut digits, mut count, mut lengths, mut groups, mut place) = ([0; DIGITS_MAX], 0, [0; 5], 0, at);
        let mut found = None;
        while groups < lengths.len() {
            let length = self.digits_from(place, 7);
            if length == 0 || count + length > DIGITS_MAX {
                break;
            }
            digits[count..count + length].copy_from_slice(&self.text[place..place + length]);
            (count, lengths[groups], groups, place) = (count + length, length, groups + 1, place + length);
            let is_shape = matches!(lengths[..groups], [4, 4, 4, 1 | 4] | [4, 4, 4, 4, 3] | [4, 6, 4 | 5]);
            if is_shape && self.ends_alone(place) && is_card(&digits[..count]) {
                found = Some((Kind::CreditCard, place));
            }
            let goes_on = matches!(lengths[..groups], [4] | [4, 4 | 6] | [4, 4, 4] | [4, 4, 4, 4]);
            if !goes_on || self.byte(place) != separator {
                break;
            }
            place += 1;
        }
        found
    }

    fn ssn(&self, at: usize) -> Option<Hit> {
        let separator = self.byte(at + 3);
        if !self.kinds.has(Kind::UsSsn) || !matches!(separator, b'-' | b' ') {
            return None;
        }
        let end = self.groups(at, &[3, 2, 4], separator)?;
        let part = |from: usize, length: usize| &self.text[at + from..at + from + length];
        is_ssn(part(0, 3), part(4, 2), part(7, 4)).then_some((Kind::UsSsn, end))
    }

    /// Nine digits are one where the text before, or the field's name, says so.
    fn ssn_without_signs(&mut self, at: usize) -> Option<Hit> {
        const BEFORE: usize = 32;
        if !self.kinds.has(Kind::UsSsn) || !self.ends_alone(at + 9) {
            return None;
        }
        let before = &self.text[at.saturating_sub(BEFORE)..at];
        self.budget.take(BEFORE);
        let says = |text: &[u8], word: &[u8]| text.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word));
        let is_said = [before, self.key]
            .iter()
            .any(|text| says(text, b"ssn") || says(text, b"social security") || says(text, b"social_security"));
        let digits = &self.text[at..at + 9];
        (is_said && is_ssn(&digits[..3], &digits[3..5], &digits[5..])).then_some((Kind::UsSsn, at + 9))
    }

    /// Two letters, two check digits, and as many letters and digits as the country has; in groups of four or in a row.
    fn iban(&mut self, at: usize) -> Option<Hit> {
        if !self.kinds.has(Kind::Iban) || !self.is_digit(at + 2) || !self.is_digit(at + 3) {
            return None;
        }
        let country = [self.byte(at).to_ascii_uppercase(), self.byte(at + 1).to_ascii_uppercase()];
        let length = iban_length(country)?;
        self.budget.take(length);
        // The first four characters come last, letters are two digits, and all of it leaves 1 divided by 97.
        let (mut remainder, mut head, mut place, mut taken) = (0, [0; 4], at, 0);
        while taken < length {
            if taken > 0 && taken % 4 == 0 && matches!(self.byte(place), b' ' | b'-') {
                place += 1;
            }
            let byte = self.byte(place);
            if !byte.is_ascii_alphanumeric() {
                return None;
            }
            if taken < 4 {
                head[taken] = byte;
            } else {
                remainder = modulo_97(remainder, byte);
            }
            taken += 1;
            place += 1;
        }
        let remainder = head.into_iter().fold(remainder, modulo_97);
        (remainder == 1 && !self.is_alphanumeric(place)).then_some((Kind::Iban, place))
    }

    /// At `+` and `(`: a number as one writes it for abroad, or an area code in parentheses.
    pub(super) fn phone(&mut self, at: usize) -> Option<Hit> {
        if !self.kinds.has(Kind::Phone) || self.before(at).is_ascii_alphanumeric() {
            return None;
        }
        if self.text[at] == b'(' {
            let gap = usize::from(matches!(self.byte(at + 5), b' ' | b'-'));
            let is = self.digits_from(at + 1, 4) == 3 && self.byte(at + 4) == b')' && self.is_area(at + 1);
            let end = self.groups_of_any(at + 5 + gap, &[3, 4])?;
            return (is && self.is_area(at + 5 + gap)).then_some((Kind::Phone, end));
        }
        let (end, digits, _) = self.spoken(at + 1)?;
        ((8..=15).contains(&digits) && self.byte(at + 1) != b'0').then_some((Kind::Phone, end))
    }

    /// 212-555-0123: the area and the exchange begin with 2 and more, and both separators are the same.
    fn north_american(&self, at: usize) -> Option<Hit> {
        let separator = self.byte(at + 3);
        let is = self.kinds.has(Kind::Phone) && matches!(separator, b'-' | b'.' | b' ');
        let end = if is { self.groups(at, &[3, 3, 4], separator)? } else { return None };
        (self.is_area(at) && self.is_area(at + 4)).then_some((Kind::Phone, end))
    }

    /// A number that begins with 0: as one dials it, with its area code apart (030 / 1234567, 020 7946 0958), in
    /// pairs (01 23 45 67 89), or with 00 for abroad.
    fn national(&self, at: usize, first: usize) -> Option<Hit> {
        if !self.kinds.has(Kind::Phone) || self.text[at] != b'0' {
            return None;
        }
        if first == 2 {
            let separator = self.byte(at + 2);
            let is = self.byte(at + 1) != b'0' && matches!(separator, b' ' | b'.' | b'-');
            return if is { Some((Kind::Phone, self.groups(at, &[2, 2, 2, 2, 2], separator)?)) } else { None };
        }
        let (end, digits, groups) = self.spoken(at)?;
        let is_abroad = self.byte(at + 1) == b'0' && self.byte(at + 2) != b'0' && (10..=17).contains(&digits);
        let is_home = self.byte(at + 1) != b'0' && (10..=12).contains(&digits) && end > at + first;
        let is_dotted = self.byte(at + first) == b'.';
        (groups > 1 && groups <= 5 && !is_dotted && (is_abroad || is_home)).then_some((Kind::Phone, end))
    }

    /// Groups of digits with one sign, or a bracketed `(0)`, between them: where they end, how many digits and groups.
    fn spoken(&self, at: usize) -> Option<(usize, usize, usize)> {
        const DIGITS_MAX: usize = 18;
        let (mut place, mut digits, mut groups) = (at, 0, 0);
        loop {
            let group = self.digits_from(place, DIGITS_MAX + 1);
            (place, digits, groups) = (place + group, digits + group, groups + 1);
            if group == 0 || digits > DIGITS_MAX || self.is_alphanumeric(place) {
                return None;
            }
            let next = self.byte(place + 1);
            let gap = match self.byte(place) {
                b' ' | b'-' | b'.' | b'/' | b'(' | b')' if next.is_ascii_digit() => 1,
                b' ' | b')' if matches!(next, b'(' | b' ') && self.is_digit(place + 2) => 2,
                b' ' if self.is_at(place, b" / ") && self.is_digit(place + 3) => 3,
                _ => return Some((place, digits, groups)),
            };
            place += gap;
        }
    }

    fn is_area(&self, at: usize) -> bool {
        matches!(self.byte(at), b'2'..=b'9')
    }

    /// Groups of so many digits with this sign between them, and nothing that continues them: where they end.
    fn groups(&self, at: usize, lengths: &[usize], separator: u8) -> Option<usize> {
        let mut place = at;
        for (index, length) in lengths.iter().enumerate() {
            if index > 0 {
                if self.byte(place) != separator {
                    return None;
                }
                place += 1;
            }
            if self.digits_from(place, length + 1) != *length {
                return None;
            }
            place += length;
        }
        self.ends_alone(place).then_some(place)
    }

    /// The same with whatever sign of the usual ones comes first.
    fn groups_of_any(&self, at: usize, lengths: &[usize; 2]) -> Option<usize> {
        let separator = self.byte(at + lengths[0]);
        if matches!(separator, b'-' | b'.' | b' ') { self.groups(at, lengths, separator) } else { None }
    }

    /// How many digits stand here, counted up to a number.
    fn digits_from(&self, at: usize, most: usize) -> usize {
        (0..most).take_while(|offset| self.is_digit(at + offset)).count()
    }

    /// Is this the middle of `1.2`, `1-2` or `a_2`?
    fn continues_before(&self, at: usize) -> bool {
        match self.before(at) {
            b'-' | b'.' | b'/' => at > 1 && self.is_digit(at - 2),
            b'_' => true,
            _ => false,
        }
    }

    /// Does a number end here, so that neither a letter nor `-1` or `.1` continues it?
    fn ends_alone(&self, at: usize) -> bool {
        let byte = self.byte(at);
        !byte.is_ascii_alphanumeric() && byte != b'_' && !(matches!(byte, b'-' | b'.') && self.is_digit(at + 1))
    }
}

/// Luhn's check, and a beginning and length that an issuer has.
pub(crate) fn is_card(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| match (place % 2, u32::from(digit - b'0')) {
            (0, digit) => digit,
            (_, digit) => digit * 2 - if digit > 4 { 9 } else { 0 },
        })
        .sum();
    issuer_lengths(digits).contains(&digits.len()) && sum % 10 == 0
}

/// The lengths of the cards whose issuer has this beginning.
fn issuer_lengths(digits: &[u8]) -> &'static [usize] {
    let head = digits.iter().take(4).fold(0, |head, digit| head * 10 + u32::from(digit - b'0'));
    match head {
        4000..=4999 => &[13, 16, 19],
        5100..=5599 | 2221..=2720 => &[16],
        3400..=3499 | 3700..=3799 => &[15],
        3600..=3699 | 3800..=3999 | 3000..=3059 => &[14, 16],
        6011 | 6440..=6599 | 3528..=3589 | 6200..=6299 => &[16, 17, 18, 19],
        5018 | 5020 | 5038 | 5893 | 6304 | 6759 | 6761..=6763 => &[13, 14, 15, 16, 17, 18, 19],
        _ => &[],
    }
}

/// Not an area, group or serial number that is never given out, nor one that was printed in advertisements.
fn is_ssn(area: &[u8], group: &[u8], serial: &[u8]) -> bool {
    !matches!(area, b"000" | b"666")
        && area[0] != b'9'
        && group != b"00"
        && serial != b"0000"
        && !matches!((area, group, serial), (b"078", b"05", b"1120") | (b"219", b"09", b"9999"))
        && !(area == b"123" && group == b"45" && serial == b"6789")
}

fn modulo_97(remainder: u32, byte: u8) -> u32 {
    match byte.to_ascii_uppercase() {
        digit @ b'0'..=b'9' => (remainder * 10 + u32::from(digit - b'0')) % 97,
        letter => (remainder * 100 + u32::from(letter - b'A') + 10) % 97,
    }
}

/// The length of a country's IBAN, by the registry.
fn iban_length(country: [u8; 2]) -> Option<usize> {
    /// Lengths, and the countries that have them.
    const LENGTHS: [(usize, &str); 18] = [
        (15, "NO"),
        (16, "BE"),
        (18, "DKFIFKFOGLNLSD"),
        (19, "MKSI"),
        (20, "ATBAEEKZLTLUMNXK"),
        (21, "CHHRLILV"),
        (22, "BGBHCRDEGBGEIEMERSVA"),
        (23, "AEGIILIQOMSOTL"),
        (24, "ADCZESMDPKROSASESKTNVG"),
        (25, "LYPTST"),
        (26, "ISTR"),
        (27, "BIDJFRGRITMCMRSM"),
        (28, "ALAZBYCYDOGTHNHULBNIPLSV"),
        (29, "BREGPSQAUA"),
        (30, "JOKWMUYE"),
        (31, "MTSC"),
        (32, "LC"),
        (33, "RU"),
    ];
    LENGTHS
        .iter()
        .find(|(_, countries)| countries.as_bytes().chunks_exact(2).any(|is| is == country))
        .map(|(length, _)| *length)
}
