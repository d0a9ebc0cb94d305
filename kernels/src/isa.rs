//! The kernels for each instruction set.
//!
//! The only file with `unsafe`: functions compiled for instructions that not every processor has, and register loads and stores.
#![allow(
    unsafe_code,
    reason = "vector instructions; each block says why it is sound"
)]

use std::ops::Range;

use crate::{Block, Lane, lane};

type Panel = unsafe fn(&[Lane], usize, Range<usize>, &[Block], &Lane, bool, &mut [Lane]);
type AddNorm = unsafe fn(&mut [Lane], &[Lane], usize, &[Lane], &[Lane], f32);
type Dots = unsafe fn(&[Lane], &[Lane], &mut [f32]);
type ByteDots = unsafe fn(&[i8], &[i16], &mut [i32]);

/// The kernels compiled for an instruction set that this processor has.
///
/// They are `unsafe` to call without those instructions. Only [`Isa::avx512`] and [`Isa::avx2`] create an `Isa`, after a check.
#[derive(Clone, Copy)]
pub struct Isa {
    panel: Panel,
    softmax: unsafe fn(&mut [Lane], usize),
    add_norm: AddNorm,
    dots: Dots,
    byte_dots: ByteDots,
}

impl Isa {
    /// With AVX-512 (and AVX2), if this processor has it.
    pub fn avx512() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx2");
        has.then_some(Self {
            panel: avx512::panel,
            softmax: avx512::softmax,
            add_norm: avx512::add_norm,
            dots: avx512::dots,
            byte_dots: avx2::byte_dots,
        })
    }

    /// With AVX2 and FMA, if this processor has them.
    pub fn avx2() -> Option<Self> {
        let has = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        has.then_some(Self {
            panel: avx2::panel,
            softmax: avx2::softmax,
            add_norm: avx2::add_norm,
            dots: avx2::dots,
            byte_dots: avx2::byte_dots,
        })
    }

    /// A panel of 16 columns of `x · weights + bias`, with GELU if asked for: of the rows `rows` of `x`, which has panels of `stride` rows
    /// and a panel for each of `weights`. `out` has a lane for each row of `rows`.
    #[inline]
    pub fn panel(
        &self,
        (x, stride): (&[Lane], usize),
        rows: Range<usize>,
        weights: &[Block],
        bias: &Lane,
        gelu: bool,
        out: &mut [Lane],
    ) {
        // SAFETY: the constructor of this `Isa` has checked that the processor has the instructions.
        unsafe { (self.panel)(x, stride, rows, weights, bias, gelu, out) }
    }

    /// Softmax of each row of `scores`, which has `rows` rows and as many columns; those up to the end of the last panel become 0.
    #[inline]
    pub fn softmax(&self, scores: &mut [Lane], rows: usize) {
        // SAFETY: as in `panel`.
        unsafe { (self.softmax)(scores, rows) }
    }

    /// Layer norm of `x + other`, in place: both have `rows` rows and a panel for each lane of `scale`. `epsilon` is added to the variance.
    #[inline]
    pub fn add_norm(
        &self,
        x: &mut [Lane],
        other: &[Lane],
        rows: usize,
        (scale, shift): (&[Lane], &[Lane]),
        epsilon: f32,
    ) {
        // SAFETY: as in `panel`.
        unsafe { (self.add_norm)(x, other, rows, scale, shift, epsilon) }
    }

    /// The dot product of `vector` and each row of `rows`, which has rows of as many lanes, one after another.
    #[inline]
    pub fn dots(&self, rows: &[Lane], vector: &[Lane], out: &mut [f32]) {
        // SAFETY: as in `panel`.
        unsafe { (self.dots)(rows, vector, out) }
    }

    /// The dot product of `vector`, whose length is a multiple of 32, and each row of `rows`, which has rows of the same length, one after
    /// another. The sums must fit into `i32`.
    #[inline]
    pub fn byte_dots(&self, rows: &[i8], vector: &[i16], out: &mut [i32]) {
        // SAFETY: as in `panel`.
        unsafe { (self.byte_dots)(rows, vector, out) }
    }
}

/// The functions of an instruction set around its `tile`, which computes up to `$most` rows of a panel in registers.
macro_rules! kernels {
    ($features:literal, $most:literal: $($rows:literal)*) => {
        #[target_feature(enable = $features)]
        pub(super) fn panel(
            x: &[Lane],
            stride: usize,
            rows: Range<usize>,
            weights: &[Block],
            bias: &Lane,
            gelu: bool,
            out: &mut [Lane],
        ) {
            // Tiles of nearly equal size: a small remainder would use few registers.
            let tiles = rows.len().div_ceil($most);
            let mut first = rows.start;
            let mut out = out;
            for tile_number in 0..tiles {
                let count = (rows.end - first).div_ceil(tiles - tile_number);
                let (of_tile, rest) = out.split_at_mut(count);
                match count {
                    $($rows => tile::<$rows>(x, stride, first, weights, bias, of_tile),)*
                    _ => unreachable!("a tile has 1 to {} rows", $most),
                }
                if gelu {
                    for lane in of_tile {
                        *lane = lane.map(lane::gelu);
                    }
                }
                first += count;
                out = rest;
            }
        }

        #[target_feature(enable = $features)]
        pub(super) fn softmax(scores: &mut [Lane], rows: usize) {
            lane::softmax(scores, rows);
        }

        #[target_feature(enable = $features)]
        pub(super) fn add_norm(x: &mut [Lane], other: &[Lane], rows: usize, scale: &[Lane], shift: &[Lane], epsilon: f32) {
            lane::add_norm(x, other, rows, scale, shift, epsilon);
        }
    };
}

/// Repeats a body for each of the numbers below a constant. The compiler would not unroll a long loop, and would keep the sums in memory.
macro_rules! unrolled {
    ($row:ident < $rows:ident: $($number:literal)* => $body:block) => {
        $(if $number < $rows {
            let $row: usize = $number;
            $body
        })*
    };
}

/// Sums of a dot product that are added up side by side, because each addition waits for the one before it.
const SUMS: usize = 4;

/// 24 of the 32 registers hold sums.
mod avx512 {
    use std::arch::x86_64::{
        __m512, _mm512_add_ps, _mm512_fmadd_ps, _mm512_load_ps, _mm512_set1_ps, _mm512_setzero_ps,
        _mm512_store_ps,
    };

    use super::{Block, Lane, Range, SUMS, lane};

    kernels!("avx512f", 24: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24);

    #[target_feature(enable = "avx512f")]
    fn load(lane: &Lane) -> __m512 {
        // SAFETY: a lane is 16 floats, aligned to 64 bytes.
        unsafe { _mm512_load_ps(lane.0.as_ptr()) }
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn dots(rows: &[Lane], vector: &[Lane], out: &mut [f32]) {
        for (row, out) in rows.chunks_exact(vector.len()).zip(out) {
            let mut sums = [_mm512_setzero_ps(); SUMS];
            for (row, vector) in row.chunks(SUMS).zip(vector.chunks(SUMS)) {
                unrolled!(n < SUMS: 0 1 2 3 => {
                    if let (Some(x), Some(y)) = (row.get(n), vector.get(n)) {
                        sums[n] = _mm512_fmadd_ps(load(x), load(y), sums[n]);
                    }
                });
            }
            let [a, b, c, d] = sums;
            let sum = _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d));
            let mut lane = Lane::ZERO;
            // SAFETY: as in `load`.
            unsafe { _mm512_store_ps(lane.0.as_mut_ptr(), sum) };
            *out = lane.fold(|x, y| x + y);
        }
    }

    #[target_feature(enable = "avx512f")]
    fn tile<const ROWS: usize>(
        x: &[Lane],
        stride: usize,
        first: usize,
        weights: &[Block],
        bias: &Lane,
        out: &mut [Lane],
    ) {
        let mut sums = [_mm512_setzero_ps(); ROWS];
        for (panel, block) in x.chunks_exact(stride).zip(weights) {
            let rows = &panel[first..].as_chunks::<ROWS>().0[0];
            for (input, weights) in block.0.iter().enumerate() {
                let weights = load(weights);
                unrolled!(row < ROWS: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 => {
                    let value = _mm512_set1_ps(rows[row].0[input]);
                    sums[row] = _mm512_fmadd_ps(value, weights, sums[row]);
                });
            }
        }
        for (sum, out) in sums.into_iter().zip(out) {
            let sum = _mm512_add_ps(sum, load(bias));
            // SAFETY: as in `load`.
            unsafe { _mm512_store_ps(out.0.as_mut_ptr(), sum) };
        }
    }
}

/// Two registers a lane: 12 of the 16 registers hold sums.
mod avx2 {
    use std::arch::x86_64::{
        __m256, _MM_HINT_T0, _mm_prefetch, _mm256_add_ps, _mm256_fmadd_ps, _mm256_load_ps,
        _mm256_set1_ps, _mm256_setzero_ps, _mm256_store_ps,
    };

    use super::{Block, Lane, Range, SUMS, lane};

    kernels!("avx2,fma", 6: 1 2 3 4 5 6);

    #[target_feature(enable = "avx2,fma")]
    fn load(lane: &Lane) -> [__m256; 2] {
        let (halves, _) = lane.0.as_chunks::<8>();
        // SAFETY: each half is 8 floats; the lane is aligned to 64 bytes, so each half is to 32.
        [0, 1].map(|half: usize| unsafe { _mm256_load_ps(halves[half].as_ptr()) })
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn dots(rows: &[Lane], vector: &[Lane], out: &mut [f32]) {
        for (row, out) in rows.chunks_exact(vector.len()).zip(out) {
            let mut sums = [[_mm256_setzero_ps(); 2]; SUMS];
            for (row, vector) in row.chunks(SUMS).zip(vector.chunks(SUMS)) {
                unrolled!(n < SUMS: 0 1 2 3 => {
                    if let (Some(x), Some(y)) = (row.get(n), vector.get(n)) {
                        let ([x_low, x_high], [y_low, y_high]) = (load(x), load(y));
                        sums[n][0] = _mm256_fmadd_ps(x_low, y_low, sums[n][0]);
                        sums[n][1] = _mm256_fmadd_ps(x_high, y_high, sums[n][1]);
                    }
                });
            }
            let mut lane = Lane::ZERO;
            let (halves, _) = lane.0.as_chunks_mut::<8>();
            for half in 0..2 {
                let low = _mm256_add_ps(sums[0][half], sums[1][half]);
                let high = _mm256_add_ps(sums[2][half], sums[3][half]);
                // SAFETY: as in `load`.
                unsafe { _mm256_store_ps(halves[half].as_mut_ptr(), _mm256_add_ps(low, high)) };
            }
            *out = lane.fold(|x, y| x + y);
        }
    }

    /// Wider registers gain nothing: it waits for memory. And the compiler does not use them here without AVX-512BW.
    #[target_feature(enable = "avx2")]
    pub(super) fn byte_dots(rows: &[i8], vector: &[i16], out: &mut [i32]) {
        /// Rows between the one that is multiplied and the one that is asked for. The processor by itself asks too late.
        const AHEAD: usize = 8;
        for (row, out) in rows.chunks_exact(vector.len()).zip(out) {
            for line in row.chunks(64) {
                // There may be no such row: a prefetch does not fault, whatever the address.
                _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().wrapping_add(AHEAD * row.len()));
            }
            *out = lane::byte_dot(row, vector);
        }
    }

    #[target_feature(enable = "avx2,fma")]
    fn tile<const ROWS: usize>(
        x: &[Lane],
        stride: usize,
        first: usize,
        weights: &[Block],
        bias: &Lane,
        out: &mut [Lane],
    ) {
        let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
        for (panel, block) in x.chunks_exact(stride).zip(weights) {
            let rows = &panel[first..].as_chunks::<ROWS>().0[0];
            for (input, weights) in block.0.iter().enumerate() {
                let [low, high] = load(weights);
                unrolled!(row < ROWS: 0 1 2 3 4 5 => {
                    let value = _mm256_set1_ps(rows[row].0[input]);
                    sums[row][0] = _mm256_fmadd_ps(value, low, sums[row][0]);
                    sums[row][1] = _mm256_fmadd_ps(value, high, sums[row][1]);
                });
            }
        }
        let bias = load(bias);
        for (sum, out) in sums.into_iter().zip(out) {
            let (halves, _) = out.0.as_chunks_mut::<8>();
            for half in 0..2 {
                let sum = _mm256_add_ps(sum[half], bias[half]);
                // SAFETY: as in `load`.
                unsafe { _mm256_store_ps(halves[half].as_mut_ptr(), sum) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::WIDTH;

    fn all() -> Vec<Isa> {
        [Isa::avx512(), Isa::avx2()].into_iter().flatten().collect()
    }

    /// `count` lanes of numbers from -1 to 1, made up from `seed`.
    fn lanes(seed: u64, count: usize) -> Vec<Lane> {
        let mut state = seed;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count)
            .map(|_| Lane([0.0; WIDTH].map(|_| next())))
            .collect()
    }

    proptest! {
        #[test]
        fn a_panel_is_the_product_whatever_its_rows(seed: u64, stride in 1..70_usize, from in 0..70_usize, to in 0..70_usize, panels in 1..4_usize) {
            let (from, to) = (from.min(to).min(stride), from.max(to).min(stride));
            let x = lanes(seed, panels * stride);
            let weights: Vec<Block> = lanes(!seed, panels * WIDTH)
                .as_chunks()
                .0
                .iter()
                .map(|lanes| Block(*lanes))
                .collect();
            let bias = lanes(seed ^ 7, 1)[0];
            for isa in all() {
                let mut out = vec![Lane::ZERO; to - from];
                isa.panel((&x, stride), from..to, &weights, &bias, false, &mut out);
                for (row, out) in (from..to).zip(&out) {
                    for column in 0..WIDTH {
                        let mut expected = f64::from(bias.0[column]);
                        for (panel, block) in weights.iter().enumerate() {
                            for (input, weight) in x[panel * stride + row].0.iter().zip(&block.0) {
                                expected += f64::from(*input) * f64::from(weight.0[column]);
                            }
                        }
                        prop_assert!((f64::from(out.0[column]) - expected).abs() < 1e-4);
                    }
                }
            }
        }

        #[test]
        fn a_dot_product_is_a_sum_whatever_its_length(seed: u64, count in 0..9_usize, width in 1..30_usize) {
            let (rows, vector) = (lanes(seed, count * width), lanes(!seed, width));
            let floats = |lanes: &[Lane]| lanes.iter().flat_map(|lane| lane.0).map(f64::from).collect::<Vec<_>>();
            let vector_floats = floats(&vector);
            for isa in all() {
                let mut out = vec![0.0; count];
                isa.dots(&rows, &vector, &mut out);
                for (row, out) in rows.chunks_exact(width).zip(out) {
                    let expected: f64 = floats(row).iter().zip(&vector_floats).map(|(x, y)| x * y).sum();
                    prop_assert!((f64::from(out) - expected).abs() < 1e-3);
                }
            }
        }

        #[test]
        fn a_dot_product_of_bytes_is_exact(rows in prop::collection::vec(any::<[i8; 64]>(), 0..20), vector: [i16; 64], double: bool) {
            // Rows of 64, or half as many of 128.
            let rows = &rows.as_flattened()[..rows.len() / 2 * 128];
            let vector = vector.repeat(1 + usize::from(double));
            let rows_of = rows.chunks_exact(vector.len());
            let expected: Vec<i32> = rows_of
                .map(|row| row.iter().zip(&vector).map(|(x, y)| i32::from(*x) * i32::from(*y)).sum())
                .collect();
            for isa in all() {
                let mut out = vec![0; expected.len()];
                isa.byte_dots(rows, &vector, &mut out);
                prop_assert_eq!(&out, &expected);
            }
        }

        #[test]
        fn a_norm_has_mean_0_and_variance_1(seed: u64, rows in 1..30_usize) {
            let (x, other) = (lanes(seed, 3 * rows), lanes(!seed, 3 * rows));
            let (scale, shift) = (vec![Lane([1.0; WIDTH]); 3], vec![Lane::ZERO; 3]);
            for isa in all() {
                let mut x = x.clone();
                isa.add_norm(&mut x, &other, rows, (&scale, &shift), 1e-12);
                for row in 0..rows {
                    let row: Vec<f32> = (0..3).flat_map(|panel| x[panel * rows + row].0).collect();
                    let mean = row.iter().sum::<f32>() / row.len() as f32;
                    let variance = row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32;
                    prop_assert!(mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-4);
                }
            }
        }
    }

    #[test]
    fn gelu_is_that_of_the_error_function() {
        // x · (1 + erf(x / √2)) / 2, from Python.
        let expected = [
            (-6.0_f32, 0.0),
            (-2.0, -0.045_500_264),
            (-0.5, -0.154_268_77),
            (0.0, 0.0),
            (0.5, 0.345_731_23),
            (1.0, 0.841_344_7),
            (3.0, 2.995_950_3),
            (20.0, 20.0),
        ];
        for isa in all() {
            for (x, gelu) in expected {
                let mut out = [Lane::ZERO];
                let weights = [Block::ZERO];
                isa.panel(
                    (&[Lane::ZERO], 1),
                    0..1,
                    &weights,
                    &Lane([x; WIDTH]),
                    true,
                    &mut out,
                );
                assert!(
                    (out[0].0[3] - gelu).abs() < 1e-6 * x.abs().max(1.0),
                    "gelu({x}) = {}",
                    out[0].0[3]
                );
            }
        }
    }
}
