//! The kinds of values, and whether a value has a ground.
//!
//! Each kind knows how people write such a value, and brings the value and the intent to one form. A ground is an
//! occurrence as a whole: never a part of a longer word, number, address or path. What a kind cannot read has none.

mod account;
pub(crate) mod amount;
mod day;
mod email;
mod file;
mod id;
mod prose;
mod text;
mod url;

use gavel_policy::json::{Json, Wrong};

use crate::config::{Allow, Param};
use crate::intent::{Intent, is_invisible};
use crate::params::Found;
use crate::shown::shown;

/// The longest value that can have a ground. It bounds the work; nobody types a longer one into a prompt.
const VALUE_BYTES_MAX: usize = 1_024;

/// What a value is, and so how it is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Anything: not judged.
    Any,
    /// A name, a title, a postal address: the same words in a row.
    Text,
    /// A title or a subject: each of its words, in any order.
    Words,
    /// E-mail addresses.
    Email,
    /// An account: an IBAN, the number of a card or a telephone.
    Account,
    /// A number that counts something, money above all.
    Amount,
    /// A day.
    Date,
    /// A time of day.
    Time,
    /// A page or a site.
    Url,
    /// A file by its name or path.
    File,
    /// An identifier, code or password, compared to the letter.
    Id,
    /// Free text, of which only the links, addresses and accounts in it are judged.
    Prose,
    /// One of `allow`, whatever the intent says.
    Listed,
}

const KINDS: [(&str, Kind); 13] = [
    ("any", Kind::Any),
    ("text", Kind::Text),
    ("words", Kind::Words),
    ("email", Kind::Email),
    ("account", Kind::Account),
    ("amount", Kind::Amount),
    ("date", Kind::Date),
    ("time", Kind::Time),
    ("url", Kind::Url),
    ("file", Kind::File),
    ("id", Kind::Id),
    ("prose", Kind::Prose),
    ("listed", Kind::Listed),
];

impl Kind {
    pub(crate) fn read(word: &Json) -> Result<Self, Wrong> {
        let word = word.text()?;
        KINDS.iter().find(|(name, _)| *name == word).map(|(_, kind)| *kind).ok_or_else(|| {
            let names: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
            Wrong::new(format!("'{word}' is no kind of value: one of {}", names.join(", ")))
        })
    }

    pub(crate) fn name(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    /// Whether a value that can be read and is not blank has a ground; if not, what in it has none.
    fn judge<'v>(self, value: &'v str, param: &Param, intent: &Intent) -> Result<(), &'v str> {
        let allow = &param.allow;
        let has_ground = match self {
            Kind::Any => true,
            Kind::Text => allow.names_fit(value) || text::has_ground(value, &param.optional, intent),
            Kind::Words => allow.names_fit(value) || text::words_have_ground(value, &param.optional, intent),
            Kind::Email => return email::judge(value, param, intent),
            Kind::Account => account::has_ground(value, allow, intent),
            Kind::Amount => amount::has_ground(value, param.at_most, allow, intent),
            Kind::Date => allow.names_fit(value) || day::date_has_ground(value, intent),
            Kind::Time => allow.names_fit(value) || day::time_has_ground(value, intent),
            Kind::Url => url::has_ground(value, param, intent),
            Kind::File => file::has_ground(value, allow, intent),
            Kind::Id => allow.names_fit(value) || id::has_ground(value, &param.labels, intent),
            Kind::Prose => return prose::judge(value, param, intent),
            Kind::Listed => allow.names_fit(value),
        };
        if has_ground { Ok(()) } else { Err(value) }
    }
}

impl Param {
    /// Why what was found may not pass, as the end of a sentence that begins with the parameter. `inside` an object
    /// that is itself refused nothing more is said.
    pub(crate) fn judge(&self, found: &Found, inside: bool, intent: &Intent) -> Result<(), String> {
        if self.kinds.contains(&Kind::Any) {
            return Ok(());
        }
        let free = self.kinds.contains(&Kind::Prose);
        match found {
            Found::Object if !free => Err(format!("is an object, not of kind {}", self.kind_names())),
            Found::Object => Ok(()),
            Found::Value(_) | Found::Name(_) if inside && !free => Ok(()),
            Found::Name(_) if !free => Ok(()),
            Found::Value(value) | Found::Name(value) => self.judge_value(value, free, intent),
        }
    }

    fn judge_value(&self, value: &str, free: bool, intent: &Intent) -> Result<(), String> {
        if value.trim().is_empty() {
            return if free || self.allow.blank { Ok(()) } else { Err("is blank".into()) };
        }
        if !free && value.len() > VALUE_BYTES_MAX {
            return Err(format!("is longer than {VALUE_BYTES_MAX} bytes: '{}'", shown(value)));
        }
        if !free && value.chars().any(|character| character.is_control() || is_invisible(character)) {
            return Err(format!("has characters that are not seen: '{}'", shown(value)));
        }
        let mut ungrounded = value;
        for kind in &self.kinds {
            match kind.judge(value, self, intent) {
                Ok(()) => return Ok(()),
                Err(part) => ungrounded = part,
            }
        }
        Err(format!("{} '{}' is neither in the intent nor allowed", self.kind_names(), shown(ungrounded)))
    }

    fn kind_names(&self) -> String {
        let name = |kind: &Kind| if *kind == Kind::Prose { "link or address" } else { kind.name() };
        self.kinds.iter().map(name).collect::<Vec<_>>().join(" or ")
    }
}

impl Allow {
    fn names_fit(&self, value: &str) -> bool {
        self.names.iter().any(|pattern| pattern.matches(value))
    }
}
