//! An archive on S3: what is put is read back, a store that fails loses nothing, and evidence is rotated there.

use crate::s3::S3;
use gavel::archive::{Archive, ArchiveError};
use gavel::config::ArchiveFile;
use gavel_tests::{Config, Server, intent};
use serde_json::json;
use std::fs;
use tokio::runtime::Runtime;

fn archive(s3: &S3) -> (Runtime, Archive) {
    let file: ArchiveFile = serde_json::from_value(s3.archive("prod/eu")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    (runtime, Archive::open(&file).unwrap())
}

#[test]
fn objects_go_there_once_and_are_listed_page_by_page() {
    let s3 = S3::start();
    let (runtime, archive) = archive(&s3);
    runtime.block_on(async {
        for n in 0..20 {
            let stored = archive.put_bytes(&format!("k/l/{n:02}.json"), format!("{{\"n\":{n}}}").into()).await.unwrap();
            assert!(!stored.existed);
        }
        assert_eq!(archive.list("k/l").await.unwrap().len(), 20);
        assert_eq!(archive.list("k/other").await.unwrap(), [""; 0]);
        assert_eq!(archive.get_bytes("k/l/07.json").await.unwrap(), b"{\"n\":7}");
        let writes = s3.writes();
        assert!(archive.put_bytes("k/l/07.json", b"{\"n\":7}".to_vec()).await.unwrap().existed);
        assert_eq!(s3.writes(), writes, "what is there is not written again");
        let conflict = archive.put_bytes("k/l/07.json", b"{\"n\":8}".to_vec()).await.unwrap_err();
        assert!(matches!(conflict, ArchiveError::Conflict { .. }), "{conflict}");
        assert!(
            conflict.to_string().contains("s3://evidence/prod/eu/k/l/07.json exists with other bytes"),
            "{conflict}"
        );
    });
    assert_eq!(s3.names().len(), 20);
    assert_eq!(s3.object("prod/eu/k/l/07.json"), b"{\"n\":7}");
}

#[test]
fn a_large_file_goes_in_parts_and_comes_back_in_ranges() {
    let s3 = S3::start();
    let (runtime, archive) = archive(&s3);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("large");
    let bytes: Vec<u8> = (0..12_u32 << 20).map(|at| u8::try_from(at % 251).unwrap()).collect();
    fs::write(&file, &bytes).unwrap();
    runtime.block_on(async {
        archive.put_file("large", &file).await.unwrap();
        let mut back = Vec::new();
        archive.fetch("large", &mut back).await.unwrap();
        assert!(back == bytes, "what comes back is what went");
    });
    assert_eq!(s3.writes(), 5, "a beginning, three parts, an end");
}

#[test]
fn a_store_that_is_down_is_named_and_what_is_there_stays() {
    let s3 = S3::start();
    let (runtime, archive) = archive(&s3);
    runtime.block_on(async {
        archive.put_bytes("k/first", b"first".to_vec()).await.unwrap();
        s3.fail_after(0);
        let down = archive.put_bytes("k/second", b"second".to_vec()).await.unwrap_err().to_string();
        assert!(
            down.starts_with("cannot write s3://evidence/prod/eu/k/second: ") && down.contains("try again"),
            "{down}"
        );
        s3.recover();
        archive.put_bytes("k/second", b"second".to_vec()).await.unwrap();
        assert_eq!(archive.list("k").await.unwrap(), ["k/first", "k/second"]);
    });
    // Nobody listens there any more.
    let address = s3.address;
    drop(s3);
    let told = runtime.block_on(archive.put_bytes("k/third", b"third".to_vec())).unwrap_err().to_string();
    assert!(told.contains("cannot look for s3://evidence/prod/eu/k/third"), "{address}: {told}");
}

#[test]
fn evidence_is_rotated_into_the_archive() {
    let s3 = S3::start();
    let server = Server::start(&Config::open().with("archive", s3.archive("prod")));
    assert_eq!(server.submit(&intent("r"))["decision"], "ALLOW");
    let rotated = server.post("/evidence/rotate", &json!({})).expect(200);
    let url = rotated["archive_path"].as_str().unwrap();
    let name = url.strip_prefix("s3://evidence/").unwrap_or_else(|| panic!("{rotated}"));
    assert!(name.starts_with("prod/evidence/evidence_k_"), "{rotated}");
    let there = s3.object(name);
    let here = fs::read_dir(server.site().data().join("archive")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(there, fs::read(here).unwrap());
}
