//! A store of blobs: what is put comes back, what is erased is gone, and whatever else is told apart.

use super::*;
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

fn store() -> (TempDir, Blobs) {
    let root = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(root.path(), 1_000).unwrap();
    (root, blobs)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn what_is_put_comes_back_and_is_its_owners_alone() {
    let (root, blobs) = store();
    for payload in [&b""[..], b"x", &[7; 1_000]] {
        let id = blobs.put(payload, 5).unwrap();
        assert_eq!(blobs.get(id).unwrap(), payload);
        assert_eq!(id.to_string().parse::<BlobId>().unwrap(), id);
        let path = blobs.path(id);
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (FILE_MODE, DIR_MODE));
        let reader = Blobs::of_ledger(root.path());
        assert_eq!(reader.disclose(id).unwrap().id(), id);
    }
    let twice = [(); 2].map(|()| blobs.put(b"the same", 5).unwrap());
    assert_ne!(twice[0], twice[1], "a salt of its own");
    assert!(matches!(blobs.put(&[0; 1_001], 5), Err(BlobError::TooLarge { bytes: 1_001, limit: 1_000 })));
}

#[test]
fn the_digest_is_the_documented_one() {
    let blob = Blob { salt: [0xab; 32], payload: b"payload".to_vec(), stored_ms: 0 };
    let mut bytes = b"gavel-blob/1\n".to_vec();
    bytes.extend([0xab; 32]);
    bytes.extend(b"payload");
    assert_eq!(blob.id().to_string(), hex::encode(Sha256::digest(&bytes)));
    assert_eq!(blob.id().to_string(), "b1b76579345451459835cb03424b6355c84e0aab468365f98d5c14b8a8e3c549");
}

#[test]
fn missing_erased_and_damaged_are_told_apart() {
    let (_root, blobs) = store();
    let id = blobs.put(b"a secret of somebody", 5).unwrap();
    let never = "00".repeat(32).parse::<BlobId>().unwrap();
    let told = blobs.get(never).unwrap_err();
    assert!(matches!(told, BlobError::Missing { .. }) && told.to_string().contains(&never.to_string()), "{told}");
    assert!(matches!(blobs.erase(never, 9), Err(BlobError::Missing { .. })));

    let path = blobs.path(id);
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        fs::write(&path, changed).unwrap();
        let told = blobs.get(id).unwrap_err();
        assert!(matches!(told, BlobError::Damaged { .. }), "byte {at}: {told}");
    }
    for length in [0, 8, HEADER_BYTES, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(matches!(blobs.get(id), Err(BlobError::Damaged { .. })), "cut to {length}");
    }
    fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
    assert!(blobs.get(id).unwrap_err().to_string().contains("longer"));
    // Another blob under this name.
    let other = blobs.put(b"a secret of somebody else", 5).unwrap();
    fs::copy(blobs.path(other), &path).unwrap();
    assert!(blobs.get(id).unwrap_err().to_string().contains(&format!("digest to {other}")));
}

#[test]
fn an_erased_blob_leaves_nothing_but_a_tombstone() {
    let (_root, blobs) = store();
    let payload = b"a secret of somebody";
    let id = blobs.put(payload, 5).unwrap();
    let salt = blobs.disclose(id).unwrap().salt;
    blobs.erase(id, 9).unwrap();
    let left = fs::read(blobs.path(id)).unwrap();
    assert_eq!(left.len(), HEADER_BYTES);
    assert!(!left.windows(4).any(|window| payload.windows(4).any(|of| of == window)));
    assert!(!left.windows(4).any(|window| salt.windows(4).any(|of| of == window)));
    assert!(matches!(blobs.get(id), Err(BlobError::Erased { erased_ms: 9, .. })));
    blobs.erase(id, 11).unwrap();
    assert!(matches!(blobs.get(id), Err(BlobError::Erased { erased_ms: 9, .. })), "once is enough");
}

#[test]
fn an_erasure_that_a_crash_interrupted_is_finished() {
    let (_root, blobs) = store();
    let id = blobs.put(b"a secret of somebody", 5).unwrap();
    let path = blobs.path(id);
    let whole = fs::read(&path).unwrap();
    // Only the tombstone arrived.
    let tombstone = Header::tombstone(Header::decode(whole[..HEADER_BYTES].try_into().unwrap()).ok().as_ref(), 0, 9);
    fs::write(&path, [&tombstone.encode()[..], &whole[HEADER_BYTES..]].concat()).unwrap();
    let states = |blobs: &Blobs| blobs.entries().unwrap().map(|entry| entry.unwrap().state).collect::<Vec<_>>();
    assert_eq!(states(&blobs), [BlobState::HalfErased]);
    assert!(matches!(blobs.get(id), Err(BlobError::Erased { .. })));
    blobs.erase(id, 30).unwrap();
    assert_eq!((states(&blobs), fs::metadata(&path).unwrap().len()), (vec![BlobState::Erased], HEADER_BYTES as u64));
    // What is damaged can be erased too.
    let id = blobs.put(b"a secret", 5).unwrap();
    fs::write(blobs.path(id), b"garbage of a disk").unwrap();
    assert!(states(&blobs).contains(&BlobState::Damaged));
    blobs.erase(id, 31).unwrap();
    assert!(matches!(blobs.get(id), Err(BlobError::Erased { erased_ms: 31, .. })));
}

#[test]
fn the_list_has_every_blob_and_its_age() {
    let (root, blobs) = store();
    assert_eq!(Blobs::of_ledger(&root.path().join("elsewhere")).totals().unwrap(), BlobTotals::default());
    let mut put: Vec<_> = (0..20).map(|n| (blobs.put(&[1; 10], n).unwrap(), n)).collect();
    blobs.erase(put[3].0, 99).unwrap();
    // What is no blob is passed over.
    fs::write(root.path().join(BLOBS).join("README"), "x").unwrap();
    fs::write(blobs.path(put[0].0).with_file_name("notes.txt"), "x").unwrap();
    let mut listed: Vec<_> =
        blobs.entries().unwrap().map(|entry| entry.unwrap()).map(|entry| (entry.id, entry.stored_ms)).collect();
    put.sort_unstable();
    listed.sort_unstable();
    assert_eq!(listed, put);
    assert_eq!(blobs.totals().unwrap(), BlobTotals { whole: 19, bytes: 190, erased: 1 });
}

#[test]
fn what_a_crash_left_unfinished_goes_at_the_next_opening() {
    let (root, blobs) = store();
    let kept = blobs.put(b"kept", 5).unwrap();
    let unfinished = root.path().join(BLOBS).join(NEW).join("ab".repeat(32));
    fs::write(&unfinished, b"half a secret").unwrap();
    let blobs = Blobs::open(root.path(), 1_000).unwrap();
    assert!(!unfinished.exists());
    assert_eq!(blobs.get(kept).unwrap(), b"kept");
}

#[test]
fn a_name_is_64_digits_in_lower_case() {
    for text in ["", "ab", &"AB".repeat(32), &"zz".repeat(32), &"ab".repeat(33), "../../../../etc/passwd"] {
        assert!(text.parse::<BlobId>().is_err(), "{text}");
    }
}
