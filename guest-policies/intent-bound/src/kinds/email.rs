//! E-mail addresses: the whole address, whatever the case of its ASCII letters.

use crate::config::{Allow, Param};
use crate::intent::{Intent, is_word_character, same_word, words};

/// One address, or several with commas, semicolons or spaces between: each must have a ground. The first that has none
/// is given back.
pub(super) fn judge<'v>(value: &'v str, param: &Param, intent: &Intent) -> Result<(), &'v str> {
    let mut pieces = value.split([',', ';', ' ']).filter(|piece| !piece.is_empty()).peekable();
    if pieces.peek().is_none() {
        return Err(value);
    }
    match pieces.find(|piece| !is_grounded(piece, param, intent)) {
        Some(piece) => Err(piece),
        None => Ok(()),
    }
}

fn is_grounded(piece: &str, param: &Param, intent: &Intent) -> bool {
    is_address(piece)
        && (is_in(piece, intent)
            || is_allowed(piece, &param.allow)
            || param.named && is_of_a_named_person(piece, intent))
}

/// Is the whole text one address?
pub(super) fn is_address(text: &str) -> bool {
    addresses(text).eq([text])
}

/// Does the intent have this very address?
pub(super) fn is_in(address: &str, intent: &Intent) -> bool {
    addresses(intent.text()).any(|said| said.eq_ignore_ascii_case(address))
}

/// Does a pattern fit? Only an address that every mail system reads in one way: others know `"a@b"@c` and `a%b@c`.
pub(super) fn is_allowed(address: &str, allow: &Allow) -> bool {
    let plain = |character: char| character.is_ascii_alphanumeric() || ".@_+-".contains(character);
    address.chars().all(plain) && allow.names_fit(&address.to_ascii_lowercase())
}

/// Is it made of a person's first and last name that stand in the intent side by side? `sarah.baker@…` for
/// `Sarah Baker`. Not of one name alone: too many people share it.
fn is_of_a_named_person(address: &str, intent: &Intent) -> bool {
    let Some((local, _)) = address.split_once('@') else { return false };
    let names: Vec<&str> = local.split(['.', '_', '-']).collect();
    let are_names = names.iter().all(|name| name.len() >= 2 && name.bytes().all(|byte| byte.is_ascii_alphabetic()));
    let said: Vec<&str> = words(intent.text()).collect();
    names.len() >= 2
        && are_names
        && said.windows(names.len()).any(|window| window.iter().zip(&names).all(|(one, other)| same_word(one, other)))
}

/// The addresses in a text, each as long as it can be: `evil-a@x.com` is never `a@x.com`.
pub(super) fn addresses(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices('@').filter_map(move |(at, _)| {
        let (before, after) = (&text[..at], &text[at + 1..]);
        let local = before.trim_end_matches(|character| is_word_character(character) || "._%+-".contains(character));
        let start =
            local.len() + before[local.len()..].len() - before[local.len()..].trim_start_matches(['.', '-']).len();
        let domain = after.trim_start_matches(|character| is_word_character(character) || "._-".contains(character));
        let reach = &after[..after.len() - domain.len()];
        let reach = reach.trim_end_matches(['.', '-', '_']);
        let whole = start < at && is_domain(reach) && !goes_on_before(local) && !domain.starts_with(['@', '%', '!']);
        whole.then(|| &text[start..=at + reach.len()])
    })
}

/// Does an address go on to the left with a character that is rare in one, but may stand there?
fn goes_on_before(text: &str) -> bool {
    let mut characters = text.chars().rev();
    match characters.next() {
        Some('\'') => characters.next().is_some_and(is_word_character),
        Some(last) => "!#$&*/=?^{|}~@\\".contains(last),
        None => false,
    }
}

/// At least two labels, none of them empty.
fn is_domain(text: &str) -> bool {
    text.contains('.') && text.split('.').all(|label| !label.is_empty())
}
