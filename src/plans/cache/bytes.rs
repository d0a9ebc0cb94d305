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
        let (mut products, mut bounds) = ([0; BLOCK], [(0.0, 0.0); BLOCK]);
        // The highest of what rows have at least, sorted. The last bounds from below what is among the nearest.
        let mut lowest: Vec<f32> = Vec::with_capacity(most + 1);
        let mut bar = f32::NEG_INFINITY;
        let mut candidates = Vec::new();
        let blocks = self.rows.chunks(BLOCK).zip(self.scales.chunks(BLOCK));
        for (block, (rows, scales)) in blocks.enumerate() {
            let (products, bounds) = (&mut products[..rows.len()], &mut bounds[..rows.len()]);
            byte_dots(rows.as_flattened(), &vector.numbers, products);
            // Apart from the comparisons, so that many are computed at once.
            for ((bounds, product), scale) in bounds.iter_mut().zip(products).zip(scales) {
                let about = *product as f32 * scale.step * vector.step;
                // The last summand: products near 0 lose their last digits.
                let error = scale.error * length + scale.step * rest + f32::MIN_POSITIVE;
                *bounds = (about - error, about + error);
            }
            for (at, &(low, high)) in bounds.iter().enumerate() {
                // Never for what is no number.
                if high >= bar {
                    candidates.push((block * BLOCK + at, high));
                    if low > bar {
                        let place = lowest.partition_point(|other| *other >= low);
                        lowest.insert(place, low);
                        lowest.truncate(most);
                        bar = lowest.get(last).map_or(bar, |low| *low);
                    }
                }
            }
        }
        candidates.retain(|(_, high)| *high >= bar);
        candidates
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::dot::{dot, lanes},
        *,
    };

    /// Whole numbers from `-most` to `most`, made up from `seed`; the first is `most`.
    fn numbers(seed: u64, most: f32) -> [f32; DIMENSIONS] {
        let mut state = seed;
        let mut numbers = [0.0; DIMENSIONS].map(|_: f32| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * most
        });
        numbers = numbers.map(f32::round);
        numbers[0] = most;
        numbers
    }

    /// The product of two vectors, and the highest one that their bytes leave possible.
    fn product(row: &[f32], vector: &[f32]) -> (f32, f32) {
        let (row, vector) = (lanes(row), lanes(vector));
        let mut bytes = Bytes::default();
        bytes.push(&row);
        let candidates = bytes.candidates(&vector, 1);
        (dot(&row, &vector), candidates[0].1)
    }

    /// The rows that are read are few; otherwise the copy would only cost time.
    #[test]
    fn few_rows_are_candidates() {
        let mut bytes = Bytes::default();
        (0..1_000).for_each(|seed| bytes.push(&lanes(&numbers(seed, 1e6))));
        let candidates = bytes.candidates(&lanes(&numbers(1_000, 1e6)), 5);
        assert!((5..50).contains(&candidates.len()), "{}", candidates.len());
    }

    /// A vector along what the bytes leave out of the row.
    #[test]
    fn no_product_is_higher_than_its_bound_for_what_bytes_leave_out() {
        for seed in 0..20 {
            let row = numbers(seed, 1e6);
            let whole = Whole::new(&lanes(&row), BYTE);
            let kept = whole.numbers.map(|number| f32::from(number) * whole.step);
            let left: Vec<f32> = row.iter().zip(kept).map(|(x, y)| x - y).collect();
            let (product, highest) = product(&row, &left);
            assert!(product <= highest, "{product} {highest}");
        }
    }

    /// Most of the vector is lost in its words.
    #[test]
    fn no_product_is_higher_than_its_bound_for_what_words_leave_out() {
        let mut vector = [0.49 / f32::from(WORD); DIMENSIONS];
        vector[0] = 1.0;
        let (product, highest) = product(&[0.05; DIMENSIONS], &vector);
        assert!(product <= highest, "{product} {highest}");
    }

    /// Bytes and words leave nothing out; only sums of floats are rounded. The second product is hardly more than the smallest float.
    #[test]
    fn no_product_is_higher_than_its_bound_for_rounding() {
        for seed in 0..100 {
            for (of_row, of_vector) in [(1.0, 1.0), (2.0_f32.powi(-80), 2.0_f32.powi(-90))] {
                let row = numbers(seed, BYTE.into()).map(|x| x * of_row);
                let vector = numbers(!seed, WORD.into()).map(|x| x * of_vector);
                let (product, highest) = product(&row, &vector);
                assert!(product <= highest, "{product} {highest}");
            }
        }
    }
}
