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

/// Writes the dot product of `vector` and each row to `out`.
pub(super) fn dots(rows: &[Lane], vector: &[Lane; LANES], out: &mut [f32]) {
    #[cfg(all(feature = "embed", target_arch = "x86_64"))]
    {
        use std::sync::LazyLock;

        use omnilink_kernels::Isa;

        static ISA: LazyLock<Option<Isa>> = LazyLock::new(|| Isa::avx512().or_else(Isa::avx2));
        if let Some(isa) = &*ISA {
            isa.dots(rows, vector, out);
            return;
        }
    }
    portable(rows, vector, out);
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
}
