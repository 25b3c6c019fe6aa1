//! Packages from real components, and what is made of files that are none.

use super::*;
use crate::policies::builtin;
use crate::signing::SigningKey;

fn component() -> Vec<u8> {
    builtin::find("business-hours").unwrap().to_vec()
}

fn manifest() -> Manifest {
    let text = "name: business-hours\nversion: 0.1.0\ndescription: é\nlanguage: rust\nbuild: ./build\ncomponent: a.wasm\nneeds: {deadline_ms: 20}\nreasons: [\"a*\"]\n";
    Manifest::from_yaml(Path::new("policy.yaml"), text).unwrap()
}

fn suite(name: &str) -> Suite {
    Suite::from_text(Path::new("tests.yaml"), &format!("cases: [{{name: {name}, expect: allow}}]")).unwrap()
}

fn packaged() -> Package {
    Package::read(&component()).unwrap().with_manifest_and_tests(&manifest(), Some(&suite("one"))).unwrap()
}

fn key() -> SigningKey {
    SigningKey::create(&tempfile::tempdir().unwrap().path().join("key")).unwrap()
}

fn told(bytes: &[u8]) -> String {
    Package::read(bytes).unwrap_err().to_string()
}

fn with(mut bytes: Vec<u8>, name: &str, content: &[u8]) -> Vec<u8> {
    append(&mut bytes, name, content);
    bytes
}

#[test]
fn a_plain_component_is_a_package() {
    let package = Package::read(&component()).unwrap();
    assert_eq!(package.component, component());
    assert_eq!(package.digest, digest_of(&component()));
    assert!(package.manifest.is_none() && package.tests.is_none() && package.signatures.is_empty());
    assert_eq!(package.to_bytes(), component());
}

#[test]
fn a_package_carries_its_manifest_and_tests() {
    let package = packaged();
    assert!(package.component.starts_with(&component()), "appended, nothing moved");
    let read = Package::read(&package.to_bytes()).unwrap();
    assert_eq!(read.manifest.as_ref(), Some(&manifest()));
    assert_eq!(read.tests.as_ref(), Some(&suite("one")));
    assert_eq!(read.digest, package.digest);
    let again = read.with_manifest_and_tests(&manifest(), Some(&suite("two"))).unwrap();
    assert_eq!(again.tests, Some(suite("two")), "replaced, not added");
    assert_eq!(again.component.len(), package.component.len());
    let without = again.with_manifest_and_tests(&manifest(), None).unwrap();
    assert!(without.tests.is_none());
}

#[test]
fn signing_does_not_change_the_digest() {
    let (one, two) = (key(), key());
    let mut package = packaged();
    let digest = package.digest.clone();
    for key in [&one, &two, &one] {
        package.add_signature(key.sign(&digest)).unwrap();
        package = Package::read(&package.to_bytes()).unwrap();
    }
    assert_eq!(package.digest, digest);
    assert_eq!(
        package.signatures.iter().map(|signature| signature.key).collect::<Vec<_>>(),
        [two.public(), one.public()]
    );
    for signature in &package.signatures {
        signature.verify(&package.digest).unwrap();
    }
    assert!(package.with_manifest_and_tests(&manifest(), None).unwrap().signatures.is_empty());
    while package.signatures.len() < SIGNATURES_MAX {
        package.add_signature(key().sign(&digest)).unwrap();
    }
    assert_eq!(package.add_signature(key().sign(&digest)).unwrap_err().to_string(), "more than 16 signatures");
}

#[test]
fn nothing_unsigned_follows_a_signature() {
    let mut package = packaged();
    package.add_signature(key().sign(&package.digest)).unwrap();
    let signed = package.to_bytes();
    let at = signed.len();
    let late = told(&with(signed.clone(), TESTS, b"{}"));
    assert_eq!(
        late,
        format!(
            "a section `gavel:tests` at byte {at}, after a signature: nothing but signatures may follow one; build the package and sign it again"
        )
    );
    // A section of the component itself, of kind 8.
    let code = told(&[&signed[..], &[8, 0]].concat());
    assert!(code.starts_with(&format!("a section of kind 8 at byte {at}, after a signature")), "{code}");
}

#[test]
fn what_is_no_component_is_said() {
    for (bytes, why) in [
        (&b""[..], "not WebAssembly: the 0 bytes do not begin with \\0asm"),
        (b"#!/bin/sh\necho", "not WebAssembly: the 14 bytes"),
        (
            b"\0asm\x01\0\0\0",
            "a core WebAssembly module, not a component: make one of it with `gavel policy componentize",
        ),
        (b"\0asm\x0e\0\x01\0", "WebAssembly of an unknown version (0e 00 01 00)"),
        (b"\0asm\x0d", "truncated: the section at byte 0 goes beyond the end, byte 5"),
    ] {
        let told = told(bytes);
        assert!(told.contains(why), "{told}");
    }
    let component = component();
    let told = told(&component[..component.len() - 1]);
    assert!(told.starts_with("truncated: the section at byte "), "{told}");
}

/// No cut of a package, nor any one byte changed in its last sections, does anything but read or fail.
#[test]
fn no_bytes_make_it_panic() {
    let mut package = packaged();
    package.add_signature(key().sign(&package.digest)).unwrap();
    let bytes = package.to_bytes();
    let tail = component().len();
    for end in (0..bytes.len()).filter(|end| *end < 200 || *end > tail - 50) {
        let _ = Package::read(&bytes[..end]);
    }
    for at in tail..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= flip;
            if let Ok(read) = Package::read(&changed) {
                let same = read.digest == package.digest;
                assert!(
                    !same
                        || read.signatures.iter().all(|signature| signature.verify(&read.digest).is_err())
                        || read.signatures.is_empty()
                );
            }
        }
    }
}

#[test]
fn sections_of_ours_are_read_strictly() {
    let twice = told(&with(packaged().to_bytes(), MANIFEST, b"{}"));
    assert_eq!(twice, "two sections gavel:manifest: build the package again with `gavel policy build`");
    let large = told(&with(component(), MANIFEST, &vec![b' '; MANIFEST_BYTES_MAX + 1]));
    assert_eq!(large, "section gavel:manifest: 65537 bytes, it may have 65536");
    for (section, content, why) in [
        (MANIFEST, "{", "section gavel:manifest: "),
        (MANIFEST, "{\"nam\": \"x\"}", "section gavel:manifest: unknown key `nam`; the nearest known key is `name`"),
        (TESTS, "[]", "section gavel:tests: "),
        (TESTS, "{\"cases\": []}", "section gavel:tests: `cases` is empty"),
        (SIGNATURE, "{}", "gavel policy sign"),
        (SIGNATURE, "{\"key\": \"x\", \"signature\": \"\"}", "`x` is no public key"),
    ] {
        let told = told(&with(component(), section, content.as_bytes()));
        assert!(told.contains(why), "{told}");
    }
}
