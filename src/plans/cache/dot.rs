//! Dot products of a vector with each row of a matrix: by the vector kernels where this processor and build have them.

#[cfg(all(feature = "embed", target_arch = "x86_64"))]
pub(super) use omnilink_kernels::Lane;

/// Floats of a vector.
pub const DIMENSIONS: usize = 384;
const WIDTH: usize = 16;
/// Lanes of a vector.
pub(super) const LANES: usize = DIMENSIONS / WIDTH;

/// Sixteen floats. Aligned to a cache line.
#[cfg(not(all(feature = "embed", target_arch = "x86_64")))]
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Lane(pub(super) [f32; WIDTH]);

/// A vector in lanes. What is missing is 0, what is too much is left out.
pub(super) fn lanes(vector: &[f32]) -> [Lane; LANES] {
    let mut lanes = [Lane([0.0; WIDTH]); LANES];
    let floats = lanes.iter_mut().flat_map(|lane| &mut lane.0);
    for (to, from) in floats.zip(vector) {
        *to = *from;
    }
    lanes
}

/// The floats of a vector.
pub(super) fn floats(vector: &[Lane]) -> impl Iterator<Item = f32> {
    vector.iter().flat_map(|lane| lane.0)
}

/// The kernels that this processor has.
#[cfg(all(feature = "embed", target_arch = "x86_64"))]
fn isa() -> Option<&'static omnilink_kernels::Isa> {
    use std::sync::LazyLock;

    use omnilink_kernels::Isa;

    static ISA: LazyLock<Option<Isa>> = LazyLock::new(|| Isa::avx512().or_else(Isa::avx2));
    ISA.as_ref()
}

/// Writes the dot product of `vector` and each row to `out`.
pub(super) fn dots(rows: &[Lane], vector: &[Lane; LANES], out: &mut [f32]) {
    #[cfg(all(feature = "embed", target_arch = "x86_64"))]
    if let Some(isa) = isa() {
        isa.dots(rows, vector, out);
        return;
    }
    portable(rows, vector, out);
}

/// The dot product of two vectors.
pub(super) fn dot(one: &[Lane], other: &[Lane; LANES]) -> f32 {
    let mut product = [0.0];
    dots(one, other, &mut product);
    product[0]
}

/// Writes the dot product of `vector` and each row of bytes to `out`. No sum may overflow.
pub(super) fn byte_dots(rows: &[i8], vector: &[i16; DIMENSIONS], out: &mut [i32]) {
    #[cfg(all(feature = "embed", target_arch = "x86_64"))]
    if let Some(isa) = isa() {
        isa.byte_dots(rows, vector, out);
        return;
    }
    portable_bytes(rows, vector, out);
}

/// In plain code that the compiler turns into the vector instructions of every processor.
fn portable(rows: &[Lane], vector: &[Lane; LANES], out: &mut [f32]) {
    for (row, out) in rows.chunks_exact(LANES).zip(out) {
        let mut sums = [0.0_f32; WIDTH];
        for (x, y) in row.iter().zip(vector) {
            for ((sum, x), y) in sums.iter_mut().zip(x.0).zip(y.0) {
                *sum += x * y;
            }
        }
        *out = sums.iter().sum();
    }
}

/// Like [`portable`]: 32 sums side by side become the instructions that multiply and add pairs.
fn portable_bytes(rows: &[i8], vector: &[i16; DIMENSIONS], out: &mut [i32]) {
    const SUMS: usize = 32;
    for (row, out) in rows.chunks_exact(DIMENSIONS).zip(out) {
        let mut sums = [0_i32; SUMS];
        for (row, vector) in row.chunks_exact(SUMS).zip(vector.chunks_exact(SUMS)) {
            for ((sum, x), y) in sums.iter_mut().zip(row).zip(vector) {
                *sum += i32::from(*x) * i32::from(*y);
            }
        }
        *out = sums.iter().sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_code_and_kernels_agree() {
        let rows: Vec<f32> = (0..5 * DIMENSIONS)
            .map(|n| ((n * 37 % 101) as f32 - 50.0) / 500.0)
            .collect();
        let rows: Vec<Lane> = rows.chunks(DIMENSIONS).flat_map(lanes).collect();
        let vector: Vec<f32> = (0..DIMENSIONS)
            .map(|n| ((n * 53 % 97) as f32 - 48.0) / 400.0)
            .collect();
        let (mut one, mut other) = ([0.0; 5], [0.0; 5]);
        dots(&rows, &lanes(&vector), &mut one);
        portable(&rows, &lanes(&vector), &mut other);
        for (one, other) in one.iter().zip(other) {
            assert!((one - other).abs() < 1e-5);
        }
        assert!(one.iter().any(|x| x.abs() > 1e-3));
    }

    #[test]
    fn plain_code_and_kernels_have_the_same_sums_of_bytes() {
        let row = |seed: usize| (0..DIMENSIONS).map(move |n| (n * seed % 255) as i16 - 127);
        let mut rows: Vec<i8> = (1..5).flat_map(row).map(|x| x as i8).collect();
        rows.extend([i8::MAX; DIMENSIONS]);
        let mut vector = [i16::MAX; DIMENSIONS];
        for _ in 0..2 {
            let (mut one, mut other) = ([0; 5], [0; 5]);
            byte_dots(&rows, &vector, &mut one);
            portable_bytes(&rows, &vector, &mut other);
            assert_eq!(one, other);
            for (row, product) in rows.chunks_exact(DIMENSIONS).zip(one) {
                let products = row
                    .iter()
                    .zip(vector)
                    .map(|(x, y)| i64::from(*x) * i64::from(y));
                assert_eq!(products.sum::<i64>(), i64::from(product));
            }
            vector
                .iter_mut()
                .zip(row(7))
                .for_each(|(y, x)| *y = 101 * x);
        }
    }
}
