//! From a request to a report: every text of it, as it reads, and as it reads when it is decoded once.

use std::borrow::Cow;

use gavel_policy::{Request, ToolCall};

use crate::config::Config;
use crate::decode;
use crate::kind::{Actions, Kind, Kinds};
use crate::plain::plain;
use crate::report::{Place, Report, Source};
use crate::scan::{Budget, keyed, scan};
use crate::walk::{Event, NotJson, Segment, walk};

/// How often a text may be taken out of another: JSON in base64, but not base64 in JSON in base64.
const LAYERS_MAX: usize = 2;
/// Nothing that is looked for is shorter.
const TEXT_BYTES_MIN: usize = 6;

/// Looks through one request.
pub(crate) struct Inspection<'r> {
    config: &'r Config,
    tool: Option<&'r str>,
    actions: Actions,
    sought: Kinds,
    budget: Budget,
    report: Report,
}

/// What an inspection came to.
pub(crate) struct Outcome {
    pub(crate) report: Report,
    pub(crate) is_too_large: bool,
}

impl<'r> Inspection<'r> {
    pub(crate) fn new(config: &'r Config, tool: Option<&'r str>) -> Self {
        let actions = config.actions(tool);
        let sought = actions.sought();
        let budget = Budget::new(config.max_scan_bytes);
        Self { config, tool, actions, sought, budget, report: Report::default() }
    }

    /// Look through all that the configuration names.
    ///
    /// # Errors
    ///
    /// When parameters are not JSON, or nested too deep to be looked through: which ones, and where.
    pub(crate) fn run(mut self, request: &Request) -> Result<Outcome, (Source, NotJson)> {
        if !self.sought.is_empty() {
            if let Some(ToolCall { params, .. }) = &request.tool_call {
                self.params(params, Source::ToolParams)?;
            }
            if self.config.scan_request_params {
                self.params(&request.params, Source::RequestParams)?;
            }
            if self.config.scan_intent {
                let intent = Place {
                    source: Source::Intent,
                    path: &[],
                    is_key: false,
                    is_whole: false,
                    inner: None,
                    encoded: None,
                };
                self.text(&request.intent, "", &intent, 0);
            }
        }
        Ok(Outcome { report: self.report, is_too_large: self.budget.is_exceeded() })
    }

    fn params(&mut self, params: &str, source: Source) -> Result<(), (Source, NotJson)> {
        let visited = walk(params, &mut |path, event| {
            let (text, key, is_key) = read(path, event);
            let place = Place { source, path, is_key, is_whole: is_key, inner: None, encoded: None };
            self.text(text, key, &place, 0);
        });
        visited.map_err(|wrong| (source, wrong))
    }

    /// One text, in all the ways it is read. `key` is the name of the field that it is the value of.
    fn text(&mut self, raw: &str, key: &str, place: &Place<'_>, layer: usize) {
        if raw.len() < TEXT_BYTES_MIN || self.budget.is_exceeded() {
            return;
        }
        let text = plain(raw);
        let is_decoded = self.config.decode && layer < LAYERS_MAX;
        // All that is in JSON is in its texts, and the place within is named rather than the whole.
        if is_decoded && looks_like_json(&text) && self.json(&text, place, layer + 1) {
            return;
        }
        self.as_it_is(&text, key, place);
        if is_decoded {
            self.encoded(&text, key, place, layer + 1);
        }
    }

    fn as_it_is(&mut self, text: &str, key: &str, place: &Place<'_>) {
        let Self { config, tool, actions, sought, budget, report } = self;
        let mut is_found = false;
        let mut hit = |kind: Kind, value: Option<&str>| {
            // A value that is cut within a character stands in a text that is withheld as a whole.
            let value = value.unwrap_or(text);
            if is_excepted(config, *tool, kind, place, value) {
                return;
            }
            // What is left over of a key or of an encoded text would give the value away as well.
            report.withhold(if place.is_whole { text } else { value });
            report.add(kind, actions.of(kind), place);
        };
        scan(text, key, *sought, budget, &mut |kind, range| {
            is_found = true;
            hit(kind, text.get(range));
        });
        if is_found {
            return;
        }
        if let Some((kind, range)) = keyed(key, text, budget).filter(|(kind, _)| sought.has(*kind)) {
            hit(kind, text.get(range));
        }
    }

    /// The texts of a JSON text. False when it is no JSON after all: then it was looked at as far as it is.
    fn json(&mut self, text: &str, place: &Place<'_>, layer: usize) -> bool {
        let visited = walk(text, &mut |path, event| {
            let (text, key, is_key) = read(path, event);
            // The place that is named is the parameter's: whether it is a key of the text within is not said.
            let is_whole = is_key || place.is_key;
            self.text(text, key, &Place { inner: Some(path), is_whole, ..*place }, layer);
        });
        visited.is_ok()
    }

    fn encoded(&mut self, text: &str, key: &str, place: &Place<'_>, layer: usize) {
        if let Some(decoded) = decode::percent(text) {
            self.text(&decoded, key, &Place { encoded: Some("percent signs"), ..*place }, layer);
        }
        decode::runs(text, &mut |_, decoded, how| {
            self.text(decoded, key, &Place { encoded: Some(how), ..*place }, layer);
        });
    }
}

fn is_excepted(config: &Config, tool: Option<&str>, kind: Kind, place: &Place<'_>, value: &str) -> bool {
    if !config.has_exceptions() {
        return false;
    }
    let words: Vec<Cow<'_, str>> = place.path.iter().map(Segment::word).collect();
    let words: Vec<&str> = words.iter().map(|word| &**word).collect();
    let path = (place.source == Source::ToolParams).then_some(&words[..]);
    config.excepts(tool, kind, path, value.as_bytes())
}

/// The text of an event, the key that it is the value of, and whether it is a key itself.
fn read<'e>(path: &'e [Segment<'_>], event: Event<'e>) -> (&'e str, &'e str, bool) {
    let key = match path.last() {
        Some(Segment::Key(key)) => &**key,
        _ => "",
    };
    match event {
        Event::Key(text) => (text, "", true),
        Event::Text(text) | Event::Number(text) => (text, key, false),
    }
}

fn looks_like_json(text: &str) -> bool {
    let text = text.trim();
    text.starts_with('{') && text.ends_with('}') || text.starts_with('[') && text.ends_with(']')
}
