//! Accounts: IBANs, and numbers of accounts, cards and telephones. Spaces, dashes and dots in them do not count.

use crate::config::Allow;
use crate::intent::{Intent, is_word_character};

/// Letters and digits that a number must have to be taken for an account, and digits among them.
const LENGTH_MIN: usize = 6;
const DIGITS_MIN: usize = 4;

/// Groups of four that an IBAN has at most.
pub(super) const GROUPS_MAX: usize = 9;

pub(super) fn has_ground(value: &str, allow: &Allow, intent: &Intent) -> bool {
    let Some(account) = normal(value) else { return false };
    allow.names_fit(&account) || is_in(&account, intent)
}

/// Letters in capitals and digits, nothing else.
pub(super) fn normal(value: &str) -> Option<String> {
    let value = value.trim();
    let value = value.strip_prefix('+').unwrap_or(value);
    let characters = value.chars().filter(|character| !is_separator(*character));
    let normal: String = characters.map(|character| character.to_ascii_uppercase()).collect();
    let digits = normal.bytes().filter(u8::is_ascii_digit).count();
    let reads =
        normal.len() >= LENGTH_MIN && digits >= DIGITS_MIN && normal.bytes().all(|byte| byte.is_ascii_alphanumeric());
    reads.then_some(normal)
}

fn is_separator(character: char) -> bool {
    matches!(character, ' ' | '-' | '.' | '(' | ')')
}

/// Does the intent have this account, whole, however its digits are grouped there?
pub(super) fn is_in(account: &str, intent: &Intent) -> bool {
    let text = intent.text();
    let starts = text.char_indices().filter(|(at, _)| begins_there(account, &text[..*at]));
    starts.into_iter().any(|(at, _)| {
        // An IBAN in one piece ends with the piece, whatever number follows.
        let in_one_piece =
            begins_iban(account) && text.get(at..at + account.len()).is_some_and(|t| t.eq_ignore_ascii_case(account));
        rest_after(account, &text[at..])
            .is_some_and(|after| ends_there(after) || in_one_piece && after.starts_with(' '))
    })
}

/// What follows `account` at the beginning of `text`, which may have a separator or two between its groups.
fn rest_after<'t>(account: &str, text: &'t str) -> Option<&'t str> {
    let mut wanted = account.bytes().peekable();
    let mut separators = 2; // none before the first
    for (at, character) in text.char_indices() {
        match wanted.peek() {
            None => return Some(&text[at..]),
            Some(byte) if character.to_ascii_uppercase() == char::from(*byte) => {
                wanted.next();
                separators = 0;
            }
            Some(_) if is_separator(character) && separators < 2 => separators += 1,
            Some(_) => return None,
        }
    }
    wanted.peek().is_none().then_some("")
}

/// A number that goes on to the left in another group is a longer number. So is what follows the first groups of an
/// IBAN, of which one may have letters only; but an account that begins with a letter begins there, after any number.
fn begins_there(account: &str, before: &str) -> bool {
    let Some(last) = before.chars().next_back() else { return true };
    if is_word_character(last) || "_@/\\=".contains(last) {
        return false;
    }
    if !is_separator(last) {
        return true;
    }
    let mut groups = before.trim_end_matches(is_separator).rsplit(is_separator).take(GROUPS_MAX);
    let after_a_number = groups.clone().next().is_some_and(|group| group.ends_with(|end: char| end.is_ascii_digit()));
    let is_group =
        |group: &&str| group.len() <= 4 && group.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase());
    let after_an_iban = groups.by_ref().take_while(is_group).any(|group| group.len() == 4 && begins_iban(group));
    !after_an_iban && (account.starts_with(|first: char| first.is_ascii_alphabetic()) || !after_a_number)
}

/// Does it begin with two letters and two digits, as IBANs do?
pub(super) fn begins_iban(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 4 && bytes[..2].iter().all(u8::is_ascii_alphabetic) && bytes[2..4].iter().all(u8::is_ascii_digit)
}

fn ends_there(after: &str) -> bool {
    let mut characters = after.chars();
    let Some(next) = characters.next() else { return true };
    if is_separator(next) {
        // If the next group has a digit, this is a longer number.
        let mut group = characters.take_while(|character| is_word_character(*character));
        return !group.any(|character| character.is_ascii_digit());
    }
    !is_word_character(next) && !"_@/\\=".contains(next)
}
