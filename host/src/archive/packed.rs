//! Files that may be packed: plain, gzip or zstd, told by how they begin and not by their names.

use flate2::read::MultiGzDecoder;
use std::io::{self, BufRead, BufReader, Read};

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const BUFFER_BYTES: usize = 1 << 20;

/// What `packed` holds, unpacked as it is read, in bounded memory. What begins as neither gzip nor zstd is plain.
///
/// # Errors
/// What reading its beginning said. A stream that breaks off is an error of the reader that is returned.
pub fn unpacked<'a>(packed: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut packed = BufReader::with_capacity(BUFFER_BYTES, packed);
    let begin = packed.fill_buf()?;
    if begin.starts_with(&GZIP) {
        return Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(packed))));
    }
    if begin.starts_with(&ZSTD) {
        let decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
        return Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder)));
    }
    Ok(Box::new(packed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn read(packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        unpacked(packed)?.read_to_end(&mut plain)?;
        Ok(plain)
    }

    #[test]
    fn all_three_forms_are_read_and_a_broken_one_is_an_error() {
        let plain = "{\"a\": [1, 2, 3]}\n".repeat(1_000).into_bytes();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let gzip = gzip.finish().unwrap();
        let zstd = zstd::encode_all(&plain[..], 3).unwrap();
        for packed in [&plain, &gzip, &zstd] {
            assert_eq!(read(packed).unwrap(), plain);
        }
        for packed in [&gzip, &zstd] {
            assert!(read(&packed[..packed.len() - 5]).is_err(), "cut short");
        }
        assert_eq!(read(b"").unwrap(), b"");
    }
}
