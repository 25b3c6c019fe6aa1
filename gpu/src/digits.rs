//! Real data: scikit-learn's handwritten digits (`gpu/data/ATTRIBUTION.md`), embedded, and split once and for all.
//!
//! A row's part follows from the SHA-256 of its own bytes: no order, no random generator and no version of one can change
//! the split, and equal rows always fall into the same part. The training rows train; the validation rows decide when
//! training stops and what a seed is worth; the held-out rows decide nothing, so what they say is what counts.

use crate::Error;
use sha2::{Digest, Sha256};

/// Pixels of an image.
pub const PIXELS: usize = 64;
/// Digits to tell apart.
pub const CLASSES: usize = 10;

const IMAGES: usize = 1797;
const PIXEL_MAX: u8 = 16;
/// Pixels are counted in half their range, so that most features lie in [-1, 1].
const PIXEL_UNIT: f32 = 8.0;
const ROW_BYTES: usize = PIXELS + 1;
const SHA256: &str = "68aea062d35a127749050fa0e52dca09d6569ac08092c925610e0954e172dde2";
const PACKED: &[u8] = include_bytes!("../data/digits.bin");

/// A row whose digest's first byte is below this is for training: 60 % of them.
const TRAINING_BELOW: u8 = 154;
/// One below this, and not for training, is for validation: 20 %. The rest is held out.
const VALIDATION_BELOW: u8 = 205;

/// Rows of features with their labels.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Split {
    /// Features, row-major.
    pub x: Vec<f32>,
    /// The class of each row.
    pub labels: Vec<u8>,
}

impl Split {
    /// How many rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.labels.len()
    }
}

/// A task of classification.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// What it is, for titles.
    pub name: String,
    /// Features of a row.
    pub features: usize,
    /// Classes; labels are below it.
    pub classes: usize,
    /// What trains.
    pub training: Split,
    /// What decides.
    pub validation: Split,
    /// What decides nothing.
    pub held_out: Split,
}

impl Dataset {
    /// Check shapes, labels and values of all three parts.
    ///
    /// # Errors
    /// Names the part and the row that is wrong.
    pub fn check(&self) -> Result<(), Error> {
        let parts = [("training", &self.training), ("validation", &self.validation), ("held-out", &self.held_out)];
        for (part, split) in parts {
            let wrong = |problem: String| Err(self.problem(format!("{part} rows: {problem}")));
            if split.rows() == 0 || split.x.len() != split.rows() * self.features {
                return wrong(format!(
                    "{} labels and {} values, where each label has {} values and there is one at least",
                    split.rows(),
                    split.x.len(),
                    self.features
                ));
            }
            if let Some(row) = split.labels.iter().position(|&label| usize::from(label) >= self.classes) {
                return wrong(format!("row {row} has label {}, of {} classes", split.labels[row], self.classes));
            }
            if let Some(at) = split.x.iter().position(|value| !value.is_finite()) {
                return wrong(format!("row {} holds {}", at / self.features, split.x[at]));
            }
        }
        Ok(())
    }

    fn problem(&self, problem: String) -> Error {
        Error::Data { name: self.name.clone(), problem }
    }
}

/// The digits: 64 features, each a pixel in half its range less its mean over the training rows; ten classes; 1067 rows
/// for training, 371 for validation, 359 held out.
///
/// # Errors
/// If the embedded file is not the one that was exported.
pub fn load() -> Result<Dataset, Error> {
    read(PACKED)
}

fn read(packed: &[u8]) -> Result<Dataset, Error> {
    let wrong = |problem: String| Err(Error::Data { name: "digits".to_owned(), problem });
    if packed.len() != IMAGES * ROW_BYTES {
        return wrong(format!("{} bytes, where {IMAGES} images take {}", packed.len(), IMAGES * ROW_BYTES));
    }
    for (row, bytes) in packed.chunks_exact(ROW_BYTES).enumerate() {
        if bytes[..PIXELS].iter().any(|&pixel| pixel > PIXEL_MAX) || usize::from(bytes[PIXELS]) >= CLASSES {
            return wrong(format!("image {row} has a pixel above {PIXEL_MAX} or a label above {}", CLASSES - 1));
        }
    }
    let found = hex::encode(Sha256::digest(packed));
    if found != SHA256 {
        return wrong(format!("SHA-256 {found}, where {SHA256} was exported: write it again with data/export.py"));
    }
    let mut parts = [Split::default(), Split::default(), Split::default()];
    for bytes in packed.chunks_exact(ROW_BYTES) {
        let part = &mut parts[part_of(bytes)];
        part.x.extend(bytes[..PIXELS].iter().map(|&pixel| f32::from(pixel) / PIXEL_UNIT));
        part.labels.push(bytes[PIXELS]);
    }
    centre(&mut parts);
    let [training, validation, held_out] = parts;
    let name = "digits".to_owned();
    Ok(Dataset { name, features: PIXELS, classes: CLASSES, training, validation, held_out })
}

/// Take from every pixel its mean over the training rows: what is true of all digits tells none apart.
fn centre(parts: &mut [Split; 3]) {
    let rows = parts[0].rows();
    for pixel in 0..PIXELS {
        let sum: f64 = parts[0].x.iter().skip(pixel).step_by(PIXELS).map(|&value| f64::from(value)).sum();
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a thousand rows, as f32")]
        let mean = (sum / rows as f64) as f32;
        for split in parts.iter_mut() {
            split.x.iter_mut().skip(pixel).step_by(PIXELS).for_each(|value| *value -= mean);
        }
    }
}

fn part_of(row: &[u8]) -> usize {
    match Sha256::digest(row)[0] {
        byte if byte < TRAINING_BELOW => 0,
        byte if byte < VALIDATION_BELOW => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digits_are_all_there_and_split_as_documented() {
        let digits = load().unwrap();
        digits.check().unwrap();
        let rows = [&digits.training, &digits.validation, &digits.held_out].map(Split::rows);
        assert_eq!(rows, [1067, 371, 359]);
        let mean = digits.training.x.iter().sum::<f32>() / 1067.0;
        assert!(mean.abs() < 1e-3, "{mean}");
        for split in [&digits.training, &digits.validation, &digits.held_out] {
            assert!((0..10).all(|digit| split.labels.contains(&digit)));
            assert!(split.x.iter().all(|&value| (-2.0..=2.0).contains(&value)));
        }
    }

    #[test]
    fn a_damaged_file_is_refused_with_its_reason() {
        let damaged = |at: usize, byte: u8| {
            let mut bytes = PACKED.to_vec();
            bytes[at] = byte;
            read(&bytes).unwrap_err().to_string()
        };
        assert!(read(&PACKED[1..]).unwrap_err().to_string().contains("116804 bytes"));
        assert!(damaged(65 * 7 + 3, 17).contains("image 7 has a pixel above 16"));
        assert!(damaged(64, 10).contains("image 0"));
        assert!(damaged(3, PACKED[3] ^ 1).contains("SHA-256"));
    }

    #[test]
    fn a_dataset_that_does_not_fit_itself_is_refused() {
        let digits = load().unwrap();
        let refused = |change: fn(&mut Dataset)| {
            let mut data = digits.clone();
            change(&mut data);
            data.check().unwrap_err().to_string()
        };
        assert!(refused(|data| data.validation.x.truncate(5)).contains("validation rows"));
        assert!(refused(|data| data.training.labels[3] = 10).contains("row 3 has label 10"));
        assert!(refused(|data| data.held_out.x[130] = f32::NAN).contains("row 2 holds NaN"));
    }
}
