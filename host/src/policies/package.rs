//! A policy package: one self-contained file.
//!
//! It is a WebAssembly component with custom sections at its top level, which no engine looks at: `gavel:manifest` and
//! `gavel:tests` (JSON, once each at most), then any number of `gavel:signature`. A plain component is a package too: one
//! that needs nothing and ships no tests.
//!
//! What always holds: the digest is SHA-256 over every byte before the first signature section, so signing does not
//! change it; nothing but signatures follows the first one, so nothing runs that is not signed. The digest is therefore
//! that of the component as the sandbox loads it.
//!
//! It reads sections and does not validate what is in them: whether the component is one is the sandbox's to say. It
//! does not check signatures either: see [`crate::signing`].

use super::manifest::{MANIFEST_BYTES_MAX, Manifest};
use super::suite::{SUITE_BYTES_MAX, Suite};
use crate::config::ConfigError;
use crate::signing::Signature;
use gavel_kernel::json;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::ops::Range;
use std::path::Path;

/// The section that holds the manifest.
pub const MANIFEST: &str = "gavel:manifest";
/// The section that holds the tests.
pub const TESTS: &str = "gavel:tests";
/// A section that holds a signature.
pub const SIGNATURE: &str = "gavel:signature";

/// Bytes of a package. The largest component that toolchains make, a Python runtime, is 18 MB.
pub const PACKAGE_BYTES_MAX: u64 = 64 << 20;
/// Signatures of a package.
pub const SIGNATURES_MAX: usize = 16;
const SIGNATURE_BYTES_MAX: usize = 1 << 10;

/// `\0asm` and what a component (version 13, layer 1) and a core module (version 1, layer 0) have after it.
const MAGIC: &[u8] = b"\0asm";
const COMPONENT: [u8; 4] = [0x0d, 0, 1, 0];
const CORE_MODULE: [u8; 4] = [1, 0, 0, 0];
const HEADER_BYTES: usize = 8;
/// The id of a custom section.
const CUSTOM: u8 = 0;

/// A policy component and what its file says about it.
#[derive(Debug, Clone)]
pub struct Package {
    /// The component: the bytes before the first signature section.
    pub component: Vec<u8>,
    /// `sha256:` and the hex digest of them.
    pub digest: String,
    /// What its author says of it.
    pub manifest: Option<Manifest>,
    /// The tests it ships.
    pub tests: Option<Suite>,
    /// Who signed it; not checked.
    pub signatures: Vec<Signature>,
}

/// Why a file is no package.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// Too large to be one.
    #[error("{bytes} bytes, a policy package may have {PACKAGE_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Another kind of file.
    #[error(
        "not WebAssembly: the {bytes} bytes do not begin with \\0asm; give the component that the project's build makes"
    )]
    NotWasm {
        /// Its size.
        bytes: usize,
    },
    /// A core module, which nothing has made a component of yet.
    #[error("a core WebAssembly module, not a component: make one of it with `gavel policy componentize FILE`")]
    CoreModule,
    /// A binary format of another time.
    #[error("WebAssembly of an unknown version ({0}): a component has 0d 00 01 00; update Gavel or the toolchain")]
    UnknownVersion(String),
    /// The file ends before a section does.
    #[error("truncated: the section at byte {at} goes beyond the end, byte {end}; copy or build the file again")]
    Truncated {
        /// Where the section begins.
        at: usize,
        /// The file's size.
        end: usize,
    },
    /// A section that may be there once.
    #[error("two sections {0}: build the package again with `gavel policy build`")]
    Duplicate(&'static str),
    /// Bytes that no signature covers.
    #[error(
        "{what} at byte {at}, after a signature: nothing but signatures may follow one; build the package and sign it again"
    )]
    AfterSignature {
        /// What is there.
        what: String,
        /// Where.
        at: usize,
    },
    /// A section of ours that is too large.
    #[error("section {section}: {bytes} bytes, it may have {max}")]
    SectionTooLarge {
        /// Its name.
        section: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// More signatures than are read.
    #[error("more than {SIGNATURES_MAX} signatures")]
    TooManySignatures,
    /// A section of ours that does not say what it should.
    #[error("section {section}: {why}; build the package again with `gavel policy build`")]
    Section {
        /// Its name.
        section: &'static str,
        /// What is wrong in it.
        why: String,
    },
    /// A signature that cannot be read.
    #[error("section {SIGNATURE} at byte {at}: {why}; sign the package again with `gavel policy sign`")]
    Signature {
        /// Where.
        at: usize,
        /// What is wrong in it.
        why: String,
    },
}

/// A section at the top level of a component.
struct Section<'a> {
    /// Where it begins, its id included, and where it ends.
    span: Range<usize>,
    id: u8,
    /// A custom section's name and content; of any other section nothing is read.
    custom: Option<(&'a [u8], &'a [u8])>,
}

impl Package {
    /// Read a package from the bytes of its file.
    ///
    /// # Errors
    /// [`PackageError`], which says what would mend it.
    pub fn read(bytes: &[u8]) -> Result<Self, PackageError> {
        let sections = sections(bytes)?;
        let first = sections.iter().position(|section| section.name() == Some(SIGNATURE));
        let (body, signed) = sections.split_at(first.unwrap_or(sections.len()));
        let component = &bytes[..signed.first().map_or(bytes.len(), |section| section.span.start)];
        Ok(Self {
            digest: digest_of(component),
            manifest: section_of(body, MANIFEST, MANIFEST_BYTES_MAX, Manifest::from_value)?,
            tests: section_of(body, TESTS, SUITE_BYTES_MAX, Suite::from_value)?,
            signatures: signatures(signed)?,
            component: component.to_owned(),
        })
    }

    /// The bytes of its file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.component.clone();
        for signature in &self.signatures {
            append(&mut bytes, SIGNATURE, canonical(signature).as_bytes());
        }
        bytes
    }

    /// The same component with this manifest and these tests instead of what it had. Its signatures are gone: they are
    /// over other bytes.
    ///
    /// # Errors
    /// [`PackageError`] when they are too large.
    pub fn with_manifest_and_tests(&self, manifest: &Manifest, tests: Option<&Suite>) -> Result<Self, PackageError> {
        let sections = sections(&self.component)?;
        let mut bytes = self.component[..HEADER_BYTES].to_vec();
        let kept = |section: &&Section| !matches!(section.name(), Some(MANIFEST | TESTS));
        for section in sections.iter().filter(kept) {
            bytes.extend_from_slice(&self.component[section.span.clone()]);
        }
        append(&mut bytes, MANIFEST, canonical(manifest).as_bytes());
        if let Some(tests) = tests {
            append(&mut bytes, TESTS, canonical(tests).as_bytes());
        }
        // Read back, so that what is written is what will be read.
        Self::read(&bytes)
    }

    /// Add a signature, in the place of an earlier one by the same key.
    ///
    /// # Errors
    /// [`PackageError::TooManySignatures`].
    pub fn add_signature(&mut self, signature: Signature) -> Result<(), PackageError> {
        self.signatures.retain(|earlier| earlier.key != signature.key);
        if self.signatures.len() >= SIGNATURES_MAX {
            return Err(PackageError::TooManySignatures);
        }
        self.signatures.push(signature);
        Ok(())
    }
}

/// `sha256:` and the hex digest of `bytes`.
#[must_use]
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// The sections at the top level, in order.
fn sections(bytes: &[u8]) -> Result<Vec<Section<'_>>, PackageError> {
    check_header(bytes)?;
    let mut sections = Vec::new();
    let mut at = HEADER_BYTES;
    while at < bytes.len() {
        let truncated = || PackageError::Truncated { at, end: bytes.len() };
        let (size, content) = leb128(bytes, at + 1).ok_or_else(truncated)?;
        let end = content.checked_add(size).filter(|end| *end <= bytes.len()).ok_or_else(truncated)?;
        let custom = if bytes[at] == CUSTOM { Some(custom(&bytes[content..end]).ok_or_else(truncated)?) } else { None };
        sections.push(Section { span: at..end, id: bytes[at], custom });
        at = end;
    }
    Ok(sections)
}

fn check_header(bytes: &[u8]) -> Result<(), PackageError> {
    if bytes.len() as u64 > PACKAGE_BYTES_MAX {
        return Err(PackageError::TooLarge { bytes: bytes.len() });
    }
    let version = bytes.strip_prefix(MAGIC).ok_or(PackageError::NotWasm { bytes: bytes.len() })?;
    match version.first_chunk() {
        Some(&COMPONENT) => Ok(()),
        Some(&CORE_MODULE) => Err(PackageError::CoreModule),
        Some(other) => Err(PackageError::UnknownVersion(other.map(|byte| format!("{byte:02x}")).join(" "))),
        None => Err(PackageError::Truncated { at: 0, end: bytes.len() }),
    }
}

/// A custom section's name and content.
fn custom(content: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, at) = leb128(content, 0)?;
    content[at..].split_at_checked(length)
}

/// An unsigned number of at most 32 bits at `at`, and where what follows it begins.
fn leb128(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let mut number = 0_u64;
    for (index, byte) in bytes.get(at..)?.iter().take(5).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((u32::try_from(number).ok()? as usize, at + index + 1));
        }
    }
    None
}

impl Section<'_> {
    /// A custom section's name, where it is text.
    fn name(&self) -> Option<&str> {
        self.custom.and_then(|(name, _)| std::str::from_utf8(name).ok())
    }
}

/// What the one section `name` holds, read by `read`.
fn section_of<T>(
    sections: &[Section],
    name: &'static str,
    max: usize,
    read: impl Fn(&Path, Value) -> Result<T, ConfigError>,
) -> Result<Option<T>, PackageError> {
    let mut named = sections.iter().filter(|section| section.name() == Some(name));
    let Some((_, content)) = named.next().and_then(|section| section.custom) else { return Ok(None) };
    if named.next().is_some() {
        return Err(PackageError::Duplicate(name));
    }
    if content.len() > max {
        return Err(PackageError::SectionTooLarge { section: name, bytes: content.len(), max });
    }
    let told = |why: String| PackageError::Section { section: name, why };
    let value = json::parse(content).map_err(|why| told(why.to_string()))?;
    // The section's name says where it is; no path does.
    let read = read(Path::new(name), value);
    read.map(Some).map_err(|why| told(why.to_string().trim_start_matches(&format!("{name}: ")).to_owned()))
}

/// The signatures in the sections from the first of them on.
fn signatures(sections: &[Section]) -> Result<Vec<Signature>, PackageError> {
    if sections.len() > SIGNATURES_MAX && sections.iter().all(|section| section.name() == Some(SIGNATURE)) {
        return Err(PackageError::TooManySignatures);
    }
    sections.iter().map(signature).collect()
}

fn signature(section: &Section) -> Result<Signature, PackageError> {
    let at = section.span.start;
    let Some((SIGNATURE, (_, content))) = section.name().zip(section.custom) else {
        let what = section.name().map_or_else(
            || format!("a section of kind {}", section.id),
            |name| format!("a section `{}`", name.chars().take(100).collect::<String>().escape_debug()),
        );
        return Err(PackageError::AfterSignature { what, at });
    };
    if content.len() > SIGNATURE_BYTES_MAX {
        return Err(PackageError::SectionTooLarge {
            section: SIGNATURE,
            bytes: content.len(),
            max: SIGNATURE_BYTES_MAX,
        });
    }
    serde_json::from_slice(content).map_err(|why| PackageError::Signature { at, why: why.to_string() })
}

/// Append a custom section.
fn append(bytes: &mut Vec<u8>, name: &str, content: &[u8]) {
    let mut inner = Vec::with_capacity(content.len() + name.len() + 5);
    write_leb128(&mut inner, name.len());
    inner.extend_from_slice(name.as_bytes());
    inner.extend_from_slice(content);
    bytes.push(CUSTOM);
    write_leb128(bytes, inner.len());
    bytes.extend_from_slice(&inner);
}

fn write_leb128(bytes: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

fn canonical(value: &impl Serialize) -> String {
    // These types have text keys only and no failing parts: they always have a JSON form.
    json::canonical(&serde_json::to_value(value).unwrap_or_default())
}

#[cfg(test)]
mod tests;
