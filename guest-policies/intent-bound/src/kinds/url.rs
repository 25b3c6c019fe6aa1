//! Pages and sites of the web. `http` or `https` or neither, `www.` or not, the case of the host and a slash at the
//! end do not count; everything else does.

use crate::config::{Allow, Param};
use crate::intent::{Intent, is_word_character};

/// A page's address, its parts in normal form.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page<'t> {
    host: String,
    port: Option<&'t str>,
    /// Path, query and fragment; empty for the site itself, else it begins with `/`, `?` or `#`.
    path: &'t str,
}

pub(super) fn has_ground(value: &str, param: &Param, intent: &Intent) -> bool {
    Page::parse(value.trim()).is_some_and(|page| page.is_allowed(&param.allow) || page.is_in(intent, param.below))
}

impl<'t> Page<'t> {
    /// Read an address, with or without its scheme. One that programs read in different ways is none.
    pub(super) fn parse(text: &'t str) -> Option<Self> {
        if text.contains(|character: char| character.is_whitespace() || character.is_control() || character == '\\') {
            return None;
        }
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http") => rest,
            Some((before, _)) if !before.contains(['/', '?', '#']) => return None,
            _ => text,
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
                (host, Some(port).filter(|port| !["80", "443"].contains(port)))
            }
            Some(_) => return None,
            None => (authority, None),
        };
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let host = host.strip_prefix("www.").unwrap_or(&host).to_owned();
        let label =
            |label: &str| !label.is_empty() && label.chars().all(|c| is_word_character(c) || c == '-' || c == '_');
        let is_host = host.split('.').all(label) && (host.contains('.') || host == "localhost");
        let path = if path.contains(['?', '#']) { path } else { path.strip_suffix('/').unwrap_or(path) };
        is_host.then_some(Self { host, port, path })
    }

    /// Does the intent have this page or, with `below`, one that this is below?
    pub(super) fn is_in(&self, intent: &Intent, below: bool) -> bool {
        intent.chunks().filter_map(Page::parse).any(|said| said == *self || below && self.is_below(&said))
    }

    fn is_below(&self, said: &Self) -> bool {
        let (true, true) = (self.host == said.host, self.port == said.port) else { return false };
        let Some(rest) = self.path.strip_prefix(said.path) else { return false };
        !said.path.contains(['?', '#']) && rest.starts_with(['/', '?', '#']) && !climbs(self.path)
    }

    /// Does an entry fit: a host, or a host and a path?
    pub(super) fn is_allowed(&self, allow: &Allow) -> bool {
        let path = self.path.split(['?', '#']).next().unwrap_or_default();
        let path = if path.is_empty() { "/" } else { path };
        self.port.is_none()
            && self.host.is_ascii()
            && allow.pages.iter().any(|(host, below)| {
                host.matches(&self.host) && below.as_ref().is_none_or(|below| below.matches(path) && !climbs(path))
            })
    }
}

/// Might a server go up from a folder here?
fn climbs(path: &str) -> bool {
    path.contains("..") || path.contains('%')
}
