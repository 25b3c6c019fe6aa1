//! Files by name or path. Case does not count; folders do: `report.txt` is not `secret/report.txt`.

use gavel_policy::glob::Case;

use super::text::are_significant;
use crate::config::Allow;
use crate::intent::{Intent, folded, is_quoted, whole, words};

pub(super) fn has_ground(value: &str, allow: &Allow, intent: &Intent) -> bool {
    let value = value.trim();
    let Some(segments) = segments(value) else { return false };
    let absolute = value.starts_with('/');
    if allow.paths.iter().any(|pattern| pattern.is_absolute() == absolute && pattern.matches(&segments, Case::Kept)) {
        return true;
    }
    let (said, wanted) = (folded(intent.text()), folded(value.strip_prefix("./").unwrap_or(value)));
    let significant = are_significant(&words(value).collect::<Vec<_>>());
    whole(&said, &wanted).any(|place| significant || is_quoted(place))
}

/// A path's parts, if it can be read in one way only: no way up, no backslash, no home folder, no drive or scheme.
fn segments(path: &str) -> Option<Vec<&str>> {
    let ambiguous =
        path.contains(['\\', ':']) || path.starts_with('~') || path.split('/').any(|segment| segment == "..");
    let segments: Vec<&str> = path.split('/').filter(|segment| !matches!(*segment, "" | ".")).collect();
    (!ambiguous && !segments.is_empty()).then_some(segments)
}
