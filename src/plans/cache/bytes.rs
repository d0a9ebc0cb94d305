//! The rows of an index with a byte for each float, a quarter of what there is to read, and how wrong they can be.
//!
//! A row is `s q + r`, with whole numbers `q` from -127 to 127, a step `s` and a rest `r`; the vector sought is `t p + u`, with whole
//! numbers of 16 bits. The product of both is `s t (q · p) + r · v + s q · u`. The first part is exact but for a few roundings, and the
//! others are bounded by the lengths of the vectors in them (Cauchy-Schwarz).

use super::dot::{DIMENSIONS, LANES, Lane, byte_dots, floats};

/// The largest whole numbers of a row and of the vector sought.
const BYTE: i16 = i8::MAX as i16;
const WORD: i16 = i16::MAX;
// No sum overflows.
const _: () = assert!(DIMENSIONS as i64 * BYTE as i64 * WORD as i64 <= i32::MAX as i64);

/// What rounding in f32 adds, for vectors of length 1: 384 additions, each with an error of at most 2⁻²⁴, and a few more operations.
const ROUNDING: f64 = 1e-4;

/// The copy of the rows.
#[derive(Default)]
pub(super) struct Bytes {
    rows: Vec<[i8; DIMENSIONS]>,
    scales: Vec<Scale>,
}

/// What the bytes of a row mean.
#[derive(Clone, Copy)]
struct Scale {
    /// The float that 1 stands for.
    step: f32,
    /// How wrong the product of the row and a vector of length 1 can be, with rounding.
    error: f32,
}

/// A vector in whole numbers.
struct Whole {
    step: f32,
    numbers: [i16; DIMENSIONS],
    /// The length of the vector, and that of what the numbers leave out of it.
    length: f64,
    rest: f64,
}

impl Whole {
    /// With numbers up to `most`. Whatever they are, `rest` is what they leave out.
    fn new(vector: &[Lane; LANES], most: i16) -> Self {
        let largest = floats(vector).fold(0.0_f32, |largest, x| largest.max(x.abs()));
        let most = f32::from(most);
        let step = largest / most;
        let mut numbers = [0; DIMENSIONS];
        let (mut length, mut rest) = (0.0, 0.0);
        for (number, x) in numbers.iter_mut().zip(floats(vector)) {
            *number = (x / step).round().clamp(-most, most) as i16;
            let left = f64::from(x) - f64::from(step) * f64::from(*number);
            length += f64::from(x) * f64::from(x);
            rest += left * left;
        }
        Self {
            step,
            numbers,
            length: length.sqrt(),
            rest: rest.sqrt(),
        }
    }
}

impl Bytes {
    /// The bytes of a row, and their scale.
    fn of(row: &[Lane; LANES]) -> ([i8; DIMENSIONS], Scale) {
        let whole = Whole::new(row, BYTE);
        let error = (whole.rest + ROUNDING * whole.length) * (1.0 + ROUNDING);
        let scale = Scale {
            step: whole.step,
            error: error as f32,
        };
        (whole.numbers.map(|number| number as i8), scale)
    }

    pub(super) fn push(&mut self, row: &[Lane; LANES]) {
        let (bytes, scale) = Self::of(row);
        self.rows.push(bytes);
        self.scales.push(scale);
    }

    pub(super) fn set(&mut self, at: usize, row: &[Lane; LANES]) {
        (self.rows[at], self.scales[at]) = Self::of(row);
    }

    /// The last row takes the place of the removed one.
    pub(super) fn swap_remove(&mut self, at: usize) {
        self.rows.swap_remove(at);
        self.scales.swap_remove(at);
    }

    /// The rows that can be among the `most` nearest to `vector`, in their order, with the highest product that each can have.
    pub(super) fn candidates(&self, vector: &[Lane; LANES], most: usize) -> Vec<(usize, f32)> {
        /// Rows whose products are computed before they are looked at.
        const BLOCK: usize = 256;
        let Some(last) = most.checked_sub(1) else {
            return Vec::new();
        };
        let vector = Whole::new(vector, WORD);
        let length = (vector.length * (1.0 + ROUNDING)) as f32;
        // A row's numbers are at most as long as if all were the largest.
        let longest = f64::from(BYTE) * (DIMENSIONS as f64).sqrt();
        let rest = (longest * vector.rest * (1.0 + ROUNDING)) as f32;
        let mut products = [0; BLOCK];
        // The highest of what rows have at least, sorted. The last bounds from below what is among the nearest.
        let mut lowest: Vec<f32> = Vec::with_capacity(most + 1);
        let mut bar = f32::NEG_INFINITY;
        let mut candidates = Vec::new();
        let blocks = self.rows.chunks(BLOCK).zip(self.scales.chunks(BLOCK));
        for (block, (rows, scales)) in blocks.enumerate() {
            let products = &mut products[..rows.len()];
            byte_dots(rows.as_flattened(), &vector.numbers, products);
            for (at, (product, scale)) in products.iter().zip(scales).enumerate() {
                let about = *product as f32 * scale.step * vector.step;
                // The last summand: products near 0 lose their last digits.
                let error = scale.error * length + scale.step * rest + f32::MIN_POSITIVE;
                let highest = about + error;
                // Never for what is no number.
                if highest >= bar {
                    candidates.push((block * BLOCK + at, highest));
                    let low = about - error;
                    if low > bar {
                        let place = lowest.partition_point(|other| *other >= low);
                        lowest.insert(place, low);
                        lowest.truncate(most);
                        bar = lowest.get(last).map_or(bar, |low| *low);
                    }
                }
            }
        }
        candidates.retain(|(_, highest)| *highest >= bar);
        candidates
    }
}

#[cfg(test)]
mod tests {
    use super::{super::dot::lanes, *};

    /// The rows that are read are few; otherwise the copy would only cost time.
    #[test]
    fn few_rows_are_candidates() {
        let mut bytes = Bytes::default();
        let mut state = 1_u64;
        let mut row = || {
            let mut next = || {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / (1 << 23) as f32 - 1.0
            };
            let row: Vec<f32> = (0..DIMENSIONS).map(|_| next()).collect();
            lanes(&row)
        };
        (0..1_000).for_each(|_| bytes.push(&row()));
        let candidates = bytes.candidates(&row(), 5);
        assert!((5..50).contains(&candidates.len()), "{}", candidates.len());
    }
}
