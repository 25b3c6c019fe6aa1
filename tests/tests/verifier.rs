//! Evidence in an auditor's hands: `gavel verify` with a key, and the page `docs/verify.html` in a real browser.
//!
//! Here belongs what is done with a bundle or a proof file far away from the server that it came from. The browser is
//! driven over its own protocol, through two pipes: the page is the one that is published, unchanged, opened from a
//! file, and a file is put into its input as a person would. Where there is no Chromium these tests say so; in CI
//! (the variable `CI`) that is a failure.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a test that was not made must be seen")]

use gavel_tests::{Config, PATIENCE, Server, call, file, gavel, path, repository};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use tempfile::TempDir;

fn vector(name: &str) -> PathBuf {
    repository().join("docs/formats/vectors").join(name)
}

/// The key in a bundle or a proof file, which here stands for the one that the operator published.
fn key_of(path: &Path) -> String {
    let value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    value["key"].as_str().unwrap().to_owned()
}

// --- gavel verify ---

#[test]
fn a_bundle_with_records_is_exported_and_holds_under_the_key_of_its_kernel() {
    let server = Server::start(&Config::open());
    for number in 0..5 {
        let _ = server.submit(&call(&format!("r{number}"), "echo", json!({"text": "x"})));
    }
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole.json");
    let _ = gavel(["evidence", "--url", &server.url, "--records", "--out", path(&whole)]).code(0);
    let key = key_of(&whole);
    for name in ["again.json", "again.json.gz", "again.json.zst"] {
        let again = folder.path().join(name);
        let _ = gavel(["evidence", "--url", &server.url, "--records", "--out", path(&again)]).code(0);
        let report = gavel(["verify", "--json", "--key", &key, path(&again)]).code(0).json();
        let held = report["checks"].as_array().unwrap().iter().filter(|check| check["outcome"] == "holds").count();
        assert_eq!((&report["verified"], &report["entries"], held), (&json!(true), &json!(5), 8), "{report}");
        assert_eq!(report["signed_by"], key);
    }
    let part = folder.path().join("part.json");
    let bounds = ["--from", "3", "--to", "7"];
    let _ =
        gavel(["evidence", "--url", &server.url, "--records", "--out", path(&part)].into_iter().chain(bounds)).code(0);
    let report = gavel(["verify", "--json", "--key", &key, path(&part)]).code(0).json();
    assert_eq!(report["records"], json!([3, 7]));
    let refused = server.get("/evidence?records=true&from=5&to=4");
    assert_eq!(refused.status, 400);
    assert_eq!(server.get("/evidence?from=1").status, 400);
    assert_eq!(server.get("/evidence?record=true").status, 400);

    let ledger = server.site().ledger("k");
    let _ = gavel(["verify", "--key", &key, path(&ledger)]).code(0);
    let stranger = key_of(&vector("bundle.json"));
    let refused = gavel(["verify", "--key", &stranger, path(&whole)]).code(1);
    assert!(refused.stdout.contains("the checkpoint is that of another log"), "{}", refused.stdout);
    let _ = gavel(["verify", "--key", &stranger, path(&ledger)]).code(1);
}

#[test]
fn a_key_is_a_text_or_a_file_and_what_it_would_add_is_told() {
    let bundle = vector("bundle.json");
    let key = key_of(&bundle);
    let (_folder, kept) = file(format!("# of the operator\n{key}\n"));
    for key in [key.as_str(), path(&kept)] {
        let told = gavel(["verify", "--key", key, path(&bundle)]).code(0).stdout;
        assert!(told.contains(": verified") && !told.contains("came with the file"), "{told}");
    }
    let told = gavel(["verify", path(&bundle)]).code(0).stdout;
    assert!(told.contains("not covered: whose key that is: it came with the file"), "{told}");
    for bad in ["no-such-file", "ed25519:00", &key[1..]] {
        let refused = gavel(["verify", "--key", bad, path(&bundle)]).code(2);
        assert!(refused.stderr.contains("is neither a key nor a file"), "{}", refused.stderr);
    }
    let (_folder, empty) = file("");
    assert!(gavel(["verify", "--key", path(&empty), path(&bundle)]).code(2).stderr.contains("it is empty"));
}

#[test]
fn proof_files_and_what_is_wrong_with_them_are_recognised() {
    let proof = vector("proof.json");
    let report = gavel(["verify", "--json", "--key", &key_of(&proof), path(&proof)]).code(0).json();
    assert_eq!((&report["subject"], &report["verified"]), (&json!("proof_file"), &json!(true)));
    let cases: Value = serde_json::from_slice(&fs::read(vector("evidence.json")).unwrap()).unwrap();
    for case in cases.as_array().unwrap().iter().filter(|case| case["holds"] == false) {
        let (_folder, packed_file) = file(case["content"].as_str().unwrap());
        let key = case["key"].as_str().filter(|key| !key.is_empty()).map(|key| ["--key", key]);
        let arguments = ["verify", path(&packed_file)].into_iter().chain(key.into_iter().flatten());
        let told = gavel(arguments).code(1).stdout;
        assert!(told.contains("NOT VERIFIED: ") && told.contains(case["message"].as_str().unwrap()), "{told}");
    }
}

#[test]
fn compressed_files_are_bounded_and_may_be_damaged() {
    let bundle = fs::read(vector("bundle.json")).unwrap();
    let packed = zstd::encode_all(&bundle[..], 3).unwrap();
    // The name says nothing.
    let (_folder, packed_file) = file(&packed);
    let _ = gavel(["verify", path(&packed_file)]).code(0);
    let told = gavel(["verify", "--max-bytes", "1000", path(&packed_file)]).code(1).stdout;
    assert!(told.contains("it unpacks to more than 1000 bytes (--max-bytes)"), "{told}");
    let (_folder, packed_file) = file(&packed[..packed.len() / 2]);
    assert!(gavel(["verify", path(&packed_file)]).code(1).stdout.contains("not an evidence bundle"));
    let (_folder, packed_file) = file(b"\x1f\x8b\x08 and no more");
    assert!(gavel(["verify", path(&packed_file)]).code(1).stdout.contains("not an evidence bundle"));
}

// --- the page ---

/// A browser with the page open.
struct Browser {
    process: Child,
    commands: ChildStdin,
    messages: Receiver<Value>,
    session: String,
    last_id: u64,
    /// Addresses that the page asked for.
    asked_for: Vec<String>,
    _profile: TempDir,
}

impl Browser {
    /// `None` where there is no Chromium.
    fn open(url: &str) -> Option<Self> {
        let name = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| {
            let found = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
            found.is_ok_and(|status| status.success())
        });
        let Some(name) = name else {
            assert!(std::env::var_os("CI").is_none(), "there is no Chromium; on Debian: apt-get install chromium");
            eprintln!("NOT TESTED: the page in a browser, because there is no Chromium on this machine");
            return None;
        };
        let profile = tempfile::tempdir().unwrap();
        // The browser reads commands from 3 and answers on 4.
        let mut process = Command::new("sh")
            .args(["-c", r#"exec "$@" 3<&0 4>&1 < /dev/null > /dev/null"#, "sh", name])
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--disable-background-networking", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .env("HOME", profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let commands = process.stdin.take().unwrap();
        let messages = messages_of(process.stdout.take().unwrap());
        let (session, asked_for) = (String::new(), Vec::new());
        let mut browser = Self { process, commands, messages, session, last_id: 0, asked_for, _profile: profile };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}))["targetId"].clone();
        let attached = browser.call("Target.attachToTarget", json!({"targetId": target, "flatten": true}));
        attached["sessionId"].as_str().unwrap().clone_into(&mut browser.session);
        for domain in ["Page", "Network", "DOM", "Runtime"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser.call("Page.navigate", json!({"url": url}));
        browser.wait_for("Page.loadEventFired");
        Some(browser)
    }

    #[allow(clippy::needless_pass_by_value, reason = "its callers make the value for it")]
    fn send(&mut self, method: &str, parameters: Value) -> u64 {
        self.last_id += 1;
        let mut message = json!({"id": self.last_id, "method": method, "params": parameters});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.commands.write_all(format!("{message}\0").as_bytes()).unwrap();
        self.last_id
    }

    fn call(&mut self, method: &str, parameters: Value) -> Value {
        let id = self.send(method, parameters);
        let mut answer = self.next(|message| message["id"] == id);
        assert!(answer["error"].is_null(), "{method}: {answer}");
        answer["result"].take()
    }

    fn wait_for(&mut self, event: &str) {
        self.next(|message| message["method"] == event);
    }

    fn next(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let message = self.messages.recv_timeout(PATIENCE).expect("the browser answers in time");
            if message["method"] == "Network.requestWillBeSent" {
                self.asked_for.push(message["params"]["request"]["url"].as_str().unwrap().to_owned());
            }
            assert_ne!(message["method"], "Runtime.exceptionThrown", "{message}");
            if wanted(&message) {
                return message;
            }
        }
    }

    fn evaluate(&mut self, expression: &str) -> Value {
        let wanted = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let mut answer = self.call("Runtime.evaluate", wanted);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].take()
    }

    /// What the page shows of a file: verdict, reason, and the names of the checks by how they ended.
    fn verify(&mut self, file: &Path, key: &str) -> Shown {
        self.evaluate(&format!(
            "delete document.documentElement.dataset.verdict; document.getElementById('key').value = {}; 0",
            json!(key)
        ));
        let document = self.call("DOM.getDocument", json!({}))["root"]["nodeId"].clone();
        let input = self.call("DOM.querySelector", json!({"nodeId": document, "selector": "#file"}));
        self.call("DOM.setFileInputFiles", json!({"nodeId": input["nodeId"], "files": [file]}));
        let shown = self.evaluate(
            "new Promise((resolve) => {
                const look = () => document.documentElement.dataset.verdict && resolve({
                    answer: document.getElementById('answer').textContent, why: document.getElementById('why').textContent,
                    checks: [...document.querySelectorAll('#checks li')].map((it) => `${it.className} ${it.children[1].textContent}`),
                    rows: document.querySelectorAll('#rows tr').length, text: document.body.innerText,
                });
                new MutationObserver(look).observe(document.documentElement, {attributes: true});
                look();
            })",
        );
        let word = |name: &str| shown[name].as_str().unwrap().to_owned();
        let checks = shown["checks"].as_array().unwrap().iter().map(|check| check.as_str().unwrap().to_owned());
        Shown {
            answer: word("answer"),
            why: word("why"),
            checks: checks.collect(),
            rows: shown["rows"].as_u64().unwrap(),
            text: word("text"),
        }
    }
}

#[derive(Debug)]
struct Shown {
    answer: String,
    why: String,
    checks: Vec<String>,
    rows: u64,
    text: String,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Messages end with a zero byte.
fn messages_of(pipe: impl Read + Send + 'static) -> Receiver<Value> {
    let (sender, receiver) = sync_channel(1024);
    thread::spawn(move || {
        for message in BufReader::new(pipe).split(0).map_while(Result::ok) {
            // Nobody listens any more when the browser is closed.
            let _ = sender.send(serde_json::from_slice(&message).expect("the browser writes JSON"));
        }
    });
    receiver
}

fn page_url() -> String {
    format!("file://{}", repository().join("docs/verify.html").display())
}

#[test]
fn the_page_shows_what_holds_and_what_does_not() {
    let Some(mut browser) = Browser::open(&page_url()) else { return };
    let bundle = vector("bundle.json");
    let key = key_of(&bundle);
    let good = browser.verify(&bundle, &key);
    assert_eq!((good.answer.as_str(), good.rows), ("It holds", 6), "{good:?}");
    assert_eq!(good.why, "The bundle is whole, and signed by the key that you gave.");
    assert_eq!(good.checks.iter().filter(|check| check.starts_with("holds ")).count(), 8, "{good:?}");
    assert!(good.text.contains("r3 ä🔑") && good.text.contains(&key), "{good:?}");

    let unkeyed = browser.verify(&bundle, "");
    assert!(
        unkeyed.answer == "It holds together" && unkeyed.why.contains("Whose it is, it does not prove"),
        "{unkeyed:?}"
    );
    assert!(unkeyed.checks.contains(&"not_covered Whose key".to_owned()), "{unkeyed:?}");

    let raw = fs::read_to_string(&bundle).unwrap();
    let (_folder, tampered) = file(raw.replace("\"error\":\"no\"", "\"error\":\"<b>yes</b>\""));
    let bad = browser.verify(&tampered, &key);
    assert_eq!(bad.answer, "It does not hold");
    assert!(bad.why.starts_with("entry 2 (request \"r2\"): entry_hash is"), "{bad:?}");
    assert!(bad.checks.contains(&"fails Chain of entries".to_owned()), "{bad:?}");
    assert!(bad.checks.contains(&"not_reached Signature".to_owned()), "{bad:?}");

    let other = browser.verify(&bundle, &key_of(&vector("rotated.json")));
    assert!(
        other.answer == "It does not hold" && other.why.contains("not signed by the key that you gave"),
        "{other:?}"
    );
    let unread = browser.verify(&bundle, "no key");
    assert!(unread.answer == "Not verified" && unread.why.contains("The key cannot be used"), "{unread:?}");

    let proof = browser.verify(&vector("proof.json"), &key);
    assert_eq!((proof.answer.as_str(), proof.rows), ("It holds", 2), "{proof:?}");
    assert_eq!(browser.asked_for, [page_url()], "the page asks nobody for anything");
}

#[test]
fn the_page_agrees_with_the_vectors_and_reads_compressed_files() {
    let Some(mut browser) = Browser::open(&page_url()) else { return };
    let cases: Value = serde_json::from_slice(&fs::read(vector("evidence.json")).unwrap()).unwrap();
    for case in cases.as_array().unwrap() {
        let content = match case["file"].as_str() {
            Some(file) => fs::read(vector(file)).unwrap(),
            None => case["content"].as_str().unwrap().as_bytes().to_vec(),
        };
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packed.write_all(&content).unwrap();
        let (_folder, plain) = file(&content);
        let (_folder, packed) = file(packed.finish().unwrap());
        for file in [plain, packed] {
            let shown = browser.verify(&file, case["key"].as_str().unwrap());
            assert_eq!(shown.answer == "It holds", case["holds"] == true, "{case}: {shown:?}");
            assert!(shown.why.contains(case["message"].as_str().unwrap_or_default()), "{case}: {shown:?}");
        }
    }
    let (_folder, zstd) = file(zstd::encode_all(&b"{}"[..], 3).unwrap());
    assert!(browser.verify(&zstd, "").why.contains("no browser reads zstd"));
}

#[test]
fn the_server_hands_out_the_same_page() {
    let server = Server::start(&Config::open());
    let page = server.get("/verify.html");
    assert_eq!(page.status, 200);
    assert_eq!(page.body, fs::read(repository().join("docs/verify.html")).unwrap());
    let Some(mut browser) = Browser::open(&format!("{}/verify.html", server.url)) else { return };
    let bundle = vector("bundle.json");
    assert_eq!(browser.verify(&bundle, &key_of(&bundle)).answer, "It holds");
}
