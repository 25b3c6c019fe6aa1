//! What operators bring: policy packages and configurations.

use crate::Target;
use gavel::config;
use gavel::policies::package::{Package, digest_of};
use std::path::Path;

/// A policy package: a component and the sections around it.
pub const PACKAGE: Target = Target {
    name: "package",
    seeds: packages,
    words: &["gavel:manifest", "gavel:signature", "gavel:tests", "\0asm", "{\"format\":1}", "\u{0}"],
    run: package,
    cost: 4,
};

/// A configuration file.
pub const CONFIG: Target = Target {
    name: "config",
    seeds: configurations,
    words: &[
        "kernels:",
        "  - id: ",
        "policies:",
        "limits:",
        "&a",
        "*a",
        "!!binary",
        "|",
        ">-",
        "{",
        "}",
        "[",
        "]",
        "\t",
        "---",
        "<<: *a",
        "\"\\x00\"",
        "auth:",
        "keys:",
        "policy:",
        "allowed_actors: ['*']",
        "~",
    ],
    run: configuration,
    cost: 10,
};

/// A section as WebAssembly has it: id 0, length, name, content. Nothing here is longer than 127 bytes.
fn custom(name: &str, content: &str) -> Vec<u8> {
    let byte = |count: usize| u8::try_from(count).unwrap();
    let mut bytes = vec![0, byte(1 + name.len() + content.len()), byte(name.len())];
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(content.as_bytes());
    bytes
}

fn packages() -> Vec<Vec<u8>> {
    let empty = b"\0asm\x0d\0\x01\0".to_vec();
    let signature = custom("gavel:signature", r#"{"algorithm":"ed25519","key":"k","signature":"00"}"#);
    let manifest = custom("gavel:manifest", r#"{"format":1,"name":"p"}"#);
    vec![
        empty.clone(),
        [empty.clone(), custom("producers", "x")].concat(),
        [empty.clone(), manifest.clone()].concat(),
        [empty.clone(), custom("gavel:tests", r#"{"format":1,"cases":[]}"#)].concat(),
        [empty.clone(), manifest, signature.clone()].concat(),
        [empty, signature].concat(),
        b"\0asm\x01\0\0\0".to_vec(),
    ]
}

fn package(input: &[u8]) {
    let Ok(package) = Package::read(input) else { return };
    assert!(input.starts_with(&package.component), "the component is the beginning of the file");
    assert_eq!(package.digest, digest_of(&package.component));
    let bytes = package.to_bytes();
    let again = Package::read(&bytes).expect("what was written can be read");
    assert_eq!((&again.digest, &again.component), (&package.digest, &package.component));
    assert_eq!(again.signatures.len(), package.signatures.len());
    assert_eq!(again.to_bytes(), bytes, "written again it is the same");
}

fn configurations() -> Vec<Vec<u8>> {
    [
        "",
        "kernels:\n  - id: k\n    policy: {allowed_actors: ['*'], allowed_tools: ['*']}\n",
        "kernels: [{id: a, variant: permissive}, {id: b}]\nlimits: {max_body_bytes: 1000, decision_deadline_ms: 2000}\n",
        "policies:\n  hours: {component: 'builtin:business-hours', config: {from: '09:00', to: '17:00'}}\nkernels:\n  - id: k\n    policy: {custom_rules: [hours]}\n",
        "auth: {keys: [{name: n, hash: 'sha256:00', roles: [operator]}]}\n",
        "kernel: {id: k}\n",
        include_str!("../../../host/assets/default.yaml"),
        include_str!("../../../host/assets/least-privilege.yaml"),
    ]
    .iter()
    .map(|seed| seed.as_bytes().to_vec())
    .collect()
}

fn configuration(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let read = || config::parse(Path::new("fuzz.yaml"), text);
    match (read(), read()) {
        (Ok(one), Ok(other)) => assert_eq!(format!("{one:?}"), format!("{other:?}")),
        (Err(one), Err(other)) => {
            let (one, other) = (one.to_string(), other.to_string());
            assert_eq!(one, other);
            assert!(one.contains("fuzz.yaml"), "the message names the file: {one}");
        }
        (one, other) => panic!("one text, two readings: {one:?} and {other:?}"),
    }
}
