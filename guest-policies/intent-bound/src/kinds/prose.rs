//! Free text that others will read: what is written is the agent's affair, but where it sends its readers is not.
//!
//! Found in it and judged: links (with a scheme, `www.`, or a bare host), e-mail addresses, IBANs, telephone numbers
//! that begin with `+`. It looks for them harder than the kinds themselves do, since a mail program or a chat may make
//! a link of more than the norms allow: full-width letters and dots count as plain ones.

use super::{account, email, url};
use crate::config::Param;
use crate::intent::{Intent, is_invisible, is_word_character};

/// Last parts of hosts that make a bare `name.part` a link. Countries' parts that are also endings of files, or words
/// that follow a full stop, are links only with a path or `www.`.
const TOP_LEVELS: &str = " com org net edu gov mil int info biz name pro app dev page xyz top site online shop store \
    club link click live life world space website tech cloud digital email news blog art fun icu vip win bid loan work \
    host press group agency zone today one ru cn uk de fr nl eu us ca au br jp kr io ai co gg ly cc tv pw tk ga cf gq \
    ch se dk pl cz ua ro hu gr pt za mx ar cl pe ng ke ph vn th sg hk tw ir il ae sa tr kz ";

const IBAN_LENGTH: core::ops::RangeInclusive<usize> = 15..=34;
const IBAN_DIGITS_MIN: usize = 8;
const TELEPHONE_DIGITS_MIN: usize = 8;
const TELEPHONE_CHARS_MAX: usize = 32;

/// The first link or address without a ground is given back: the piece of the text in which it stands.
pub(super) fn judge<'v>(value: &'v str, param: &Param, intent: &Intent) -> Result<(), &'v str> {
    let mut from = 0;
    for piece in value.split(|character: char| is_space(character) || "\"<>()[]{}|`,;，；".contains(character)) {
        let at = from;
        from += piece.len() + value[at + piece.len()..].chars().next().map_or(0, char::len_utf8);
        let plain = plain(piece);
        if !plain.is_empty()
            && (!links_pass(&plain, param, intent) || !accounts_pass(&value[at..], &plain, param, intent))
        {
            return Err(piece);
        }
    }
    Ok(())
}

fn is_space(character: char) -> bool {
    character.is_whitespace() || character.is_control()
}

/// A piece as a reader's program may take it.
fn plain(piece: &str) -> String {
    let narrow = |character: char| match character {
        '\u{3002}' | '\u{ff61}' | '\u{2024}' => '.',
        '\u{ff01}'..='\u{ff5e}' => {
            u32::from(character).checked_sub(0xfee0).and_then(char::from_u32).unwrap_or(character)
        }
        other => other,
    };
    let seen = piece.chars().filter(|character| !is_invisible(*character)).map(narrow).collect::<String>();
    seen.trim_matches(|character: char| ".,:;!?'*_~…".contains(character)).to_owned()
}

fn links_pass(piece: &str, param: &Param, intent: &Intent) -> bool {
    let grounded = |link: &str| {
        url::Page::parse(link).is_some_and(|page| page.is_allowed(&param.allow) || page.is_in(intent, param.below))
    };
    if let Some(at) = piece.find("://") {
        let before = piece[..at].trim_end_matches(|character: char| character.is_ascii_alphanumeric());
        return grounded(&piece[before.len()..]);
    }
    if piece.contains('@') {
        let mut found = email::addresses(piece).peekable();
        // `@name` is no address, nor is `a @ b`; but what is like one and cannot be read is not let pass.
        let readable = found.peek().is_some() || !piece.split('@').skip(1).any(|after| after.contains('.'));
        return readable
            && found.all(|address| email::is_in(address, intent) || email::is_allowed(address, &param.allow));
    }
    let mut rest = piece;
    while let Some(start) = rest.find(is_word_character) {
        let candidate = &rest[start..];
        let end = candidate.find(|c| !is_word_character(c) && !".-_".contains(c)).unwrap_or(candidate.len());
        let (host, after) = candidate.split_at(end);
        if is_linked(host, after) && !grounded(candidate) {
            return false;
        }
        rest = after;
    }
    true
}

/// Would a mail program or a chat make a link of `host`, given what follows?
fn is_linked(host: &str, after: &str) -> bool {
    let host = host.trim_end_matches(['.', '-', '_']).to_ascii_lowercase();
    let Some((before, top)) = host.rsplit_once('.') else { return false };
    if before.is_empty() || before.contains("..") {
        return false;
    }
    let numeric = host.split('.').count() == 4 && host.split('.').all(|part| part.parse::<u8>().is_ok());
    let lettered = top.chars().count() >= 2 && top.chars().all(char::is_alphabetic);
    let followed = after.starts_with(['/', '?', '#'])
        || after.starts_with(':') && after[1..].starts_with(|c: char| c.is_ascii_digit());
    let known = TOP_LEVELS.split(' ').any(|known| known == top) || top.starts_with("xn--") || !top.is_ascii();
    host.starts_with("www.") || numeric || lettered && (followed || known)
}

/// Judges the account that begins with the first piece of `text`, if one does.
fn accounts_pass(text: &str, piece: &str, param: &Param, intent: &Intent) -> bool {
    let passes = |number: &str| {
        account::normal(number)
            .is_some_and(|account| param.allow.names_fit(&account) || account::is_in(&account, intent))
    };
    if let Some(number) = piece.strip_prefix('+') {
        let reach = text.char_indices().nth(TELEPHONE_CHARS_MAX).map_or(text, |(end, _)| &text[..end]);
        let line = reach.split(|c: char| !c.is_ascii_digit() && !" +-.()".contains(c)).next().unwrap_or(number);
        let digits = line.bytes().filter(u8::is_ascii_digit).count();
        return digits < TELEPHONE_DIGITS_MIN || passes(line);
    }
    let mut runs = piece.split(|character: char| !is_word_character(character)).filter(|run| !run.is_empty());
    if !runs.all(|run| !is_iban(run) || passes(run)) {
        return false;
    }
    // In groups of four, as banks print it.
    let groups = text.split(is_space).take_while(|group| group.len() <= 4 && !group.is_empty());
    let groups: Vec<&str> = groups.take(account::GROUPS_MAX).collect();
    let grouped = groups.concat();
    !(piece.len() == 4 && account::begins_iban(piece) && grouped.len() >= *IBAN_LENGTH.start())
        || passes_grouped(&groups, &passes)
}

/// Words after the account may be short too, so some number of groups must be one that has a ground.
fn passes_grouped(groups: &[&str], passes: &impl Fn(&str) -> bool) -> bool {
    let ibans = (1..=groups.len()).map(|count| groups[..count].concat()).filter(|joined| is_iban(joined));
    let mut ibans = ibans.peekable();
    ibans.peek().is_none() || ibans.any(|joined| passes(&joined))
}

fn is_iban(run: &str) -> bool {
    account::begins_iban(run)
        && IBAN_LENGTH.contains(&run.len())
        && run.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && run.bytes().filter(u8::is_ascii_digit).count() >= IBAN_DIGITS_MIN
}
