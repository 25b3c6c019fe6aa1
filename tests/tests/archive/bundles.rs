//! Evidence bundles that were packed: `gavel restore BUNDLE`.

use gavel_tests::{Config, Server, gavel, intent, path};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Pack with the tools that an auditor would use; `None` where this machine has none.
fn packed(tool: &str, plain: &[u8]) -> Option<Vec<u8>> {
    let mut child = Command::new(tool).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
    let mut stdin = child.stdin.take().unwrap();
    let plain = plain.to_vec();
    let writing = std::thread::spawn(move || stdin.write_all(&plain).unwrap());
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap();
    Some(output.stdout)
}

fn restore(bundle: &Path, out: &Path, code: i32) -> String {
    let output = gavel(["restore", path(bundle), "--out", path(out)]).code(code);
    format!("{}{}", output.stdout, output.stderr)
}

#[test]
fn a_bundle_is_verified_and_written_out_whatever_it_was_packed_with() {
    let server = Server::start(&Config::open());
    (0..5).for_each(|n| drop(server.submit(&intent(&format!("r-{n}")))));
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("evidence.json");
    drop(gavel(["evidence", "--out", path(&plain), "--url", &server.url]).code(0));
    let bytes = fs::read(&plain).unwrap();
    let mut forms = vec![("plain".to_owned(), bytes.clone())];
    forms.extend(["gzip", "zstd"].into_iter().filter_map(|tool| Some((tool.to_owned(), packed(tool, &bytes)?))));
    for (name, form) in forms {
        let (bundle, out) = (folder.path().join(&name), folder.path().join(format!("{name}.out")));
        fs::write(&bundle, &form).unwrap();
        let told = restore(&bundle, &out, 0);
        assert!(told.contains("5 entries of kernel k, verified"), "{told}");
        assert_eq!(fs::read(&out).unwrap(), bytes, "{name}");
        let told = restore(&bundle, &out, 2);
        assert!(told.contains("nothing is overwritten"), "{told}");

        // Cut short: named, and nothing is written.
        let cut = folder.path().join("cut");
        fs::write(&bundle, &form[..form.len() - 9]).unwrap();
        let told = restore(&bundle, &cut, 2);
        assert!(told.contains(path(&bundle)) && !cut.exists(), "{told}");
    }
    let bundle = folder.path().join("tampered");
    fs::write(&bundle, String::from_utf8(bytes).unwrap().replacen("r-2", "r-X", 1)).unwrap();
    let told = restore(&bundle, &folder.path().join("never"), 2);
    assert!(told.contains("entry 2") && !folder.path().join("never").exists(), "{told}");
    let told = gavel(["restore", path(&bundle), "--out", "-", "--max-bytes", "10"]).code(2).stderr;
    assert!(told.contains("more than 10 bytes"), "{told}");
}
