//! Gavel's evidence verified in a browser: what the page `docs/verify.html` calls.
//!
//! There is no glue but these five functions and the module's memory. The page asks for room
//! ([`input`]), copies bytes there, and says what they are: a key ([`begin`]) or the next piece of the
//! file ([`push`]). [`finish`] leaves a report as JSON at [`output`]. One file at a time; nothing is
//! kept of it.

use gavel_proof::trust::TrustedKey;
use gavel_proof::verify::Verifier;
use serde_json::json;
use std::cell::RefCell;

/// Entries that the page shows in its table.
const ROWS_MAX: usize = 200;

#[derive(Default)]
struct Page {
    input: Vec<u8>,
    output: String,
    verifier: Option<Verifier>,
}

thread_local! {
    static PAGE: RefCell<Page> = RefCell::default();
}

/// Where the page may write `length` bytes, until the next call.
#[allow(unsafe_code, reason = "an exported name could clash with another; these five do not")]
#[unsafe(no_mangle)]
pub extern "C" fn input(length: usize) -> *mut u8 {
    PAGE.with_borrow_mut(|page| {
        page.input.clear();
        page.input.resize(length, 0);
        page.input.as_mut_ptr()
    })
}

/// Begins a file. The input is the text of the key that the auditor trusts, or empty. 1 if that is a
/// key; 0 if not, and then the output says why.
#[allow(unsafe_code, reason = "an exported name could clash with another; these five do not")]
#[unsafe(no_mangle)]
pub extern "C" fn begin() -> u32 {
    PAGE.with_borrow_mut(|page| {
        let text = String::from_utf8_lossy(&page.input);
        let key = if text.trim().is_empty() { Ok(None) } else { text.parse::<TrustedKey>().map(Some) };
        match key {
            Ok(key) => {
                page.verifier = Some(Verifier::new(key).rows_max(ROWS_MAX));
                1
            }
            Err(why) => {
                page.output = json!({"error": why.to_string()}).to_string();
                0
            }
        }
    })
}

/// Takes the input as the next piece of the file. 1 if the rest is of interest, 0 if a fault was found.
#[allow(unsafe_code, reason = "an exported name could clash with another; these five do not")]
#[unsafe(no_mangle)]
pub extern "C" fn push() -> u32 {
    PAGE.with_borrow_mut(|page| {
        let Page { input, verifier, .. } = page;
        u32::from(verifier.as_mut().is_some_and(|verifier| verifier.push(input)))
    })
}

/// Ends the file; gives the length of the report.
#[allow(unsafe_code, reason = "an exported name could clash with another; these five do not")]
#[unsafe(no_mangle)]
pub extern "C" fn finish() -> usize {
    PAGE.with_borrow_mut(|page| {
        if let Some(verifier) = page.verifier.take() {
            let report = serde_json::to_string(&verifier.finish());
            page.output = report.unwrap_or_else(|why| json!({"error": why.to_string()}).to_string());
        }
        page.output.len()
    })
}

/// Where the output lies, until the next call.
#[allow(unsafe_code, reason = "an exported name could clash with another; these five do not")]
#[unsafe(no_mangle)]
pub extern "C" fn output() -> *const u8 {
    PAGE.with_borrow(|page| page.output.as_ptr())
}
