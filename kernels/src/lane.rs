//! Sixteen floats, and elementwise functions on them. All functions are inlined into the functions of `isa`, where the compiler turns
//! their loops into vector instructions.

/// Floats of a [`Lane`].
pub const WIDTH: usize = 16;

/// Sixteen neighbouring columns of a row; one AVX-512 register. Aligned, because a load across two cache lines takes twice as long.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub struct Lane(pub [f32; WIDTH]);

/// Weights of 16 inputs and 16 outputs: for each input, the lane of its weights.
#[derive(Clone, Copy)]
pub struct Block(pub [Lane; WIDTH]);

impl Lane {
    /// All 0.
    pub const ZERO: Self = Self([0.0; WIDTH]);

    /// Combines two lanes float by float.
    #[inline(always)]
    pub(super) fn with(mut self, other: &Self, of: impl Fn(f32, f32) -> f32) -> Self {
        for (x, y) in self.0.iter_mut().zip(&other.0) {
            *x = of(*x, *y);
        }
        self
    }

    /// Changes each float.
    #[inline(always)]
    pub(super) fn map(mut self, of: impl Fn(f32) -> f32) -> Self {
        for x in &mut self.0 {
            *x = of(*x);
        }
        self
    }

    /// Combines all floats, in halves, to keep dependency chains short.
    #[inline(always)]
    pub(super) fn fold(mut self, of: impl Fn(f32, f32) -> f32) -> f32 {
        for half in [8, 4, 2, 1] {
            let (low, high) = self.0.split_at_mut(half);
            for (x, y) in low.iter_mut().zip(high) {
                *x = of(*x, *y);
            }
        }
        self.0[0]
    }
}

impl Block {
    /// All 0.
    pub const ZERO: Self = Self([Lane::ZERO; WIDTH]);
}

/// The maximum. A single instruction, unlike `f32::max`, which also handles NaN.
#[inline(always)]
fn larger(x: f32, y: f32) -> f32 {
    if x > y { x } else { y }
}

/// e^x for x ≤ 0, to about 1e-7 of it; below -87 about 1e-38.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Adding it to a float leaves the nearest whole number in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let power = larger(x, -87.0) * std::f32::consts::LOG2_E;
    let biased = power + ROUND;
    let f = power - (biased - ROUND);
    // The series of 2^f for |f| ≤ 1/2.
    let mut series = 1.540_353e-4_f32;
    for term in [
        1.333_355_8e-3,
        9.618_129e-3,
        5.550_411e-2,
        2.402_265_1e-1,
        6.931_472e-1,
        1.0,
    ] {
        series = series.mul_add(f, term);
    }
    let exponent = (biased.to_bits() << 23).wrapping_add(1.0_f32.to_bits());
    series * f32::from_bits(exponent)
}

/// The error function, to about 1e-7: the quotient of polynomials that Eigen and others use for float32.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let x = if x > 4.0 { 4.0 } else { larger(x, -4.0) };
    let square = x * x;
    let mut above = -2.726_142_3e-10_f32;
    for term in [
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906_3e-4,
        -2.954_599_8e-3,
        -1.609_603_3e-2,
    ] {
        above = above.mul_add(square, term);
    }
    let mut below = -1.456_607_2e-5_f32;
    for term in [
        -2.133_740_6e-4,
        -1.682_827e-3,
        -7.373_329e-3,
        -1.426_473_9e-2,
    ] {
        below = below.mul_add(square, term);
    }
    x * above / below
}

/// GELU by the error function, as BERT has it (not its approximation by tanh).
#[inline(always)]
pub(super) fn gelu(x: f32) -> f32 {
    let half = 0.5 * x;
    half.mul_add(erf(x * std::f32::consts::FRAC_1_SQRT_2), half)
}

/// Softmax of each row of `scores`, which has `rows` rows and as many columns; those up to the end of the last panel become 0.
#[inline(always)]
pub(super) fn softmax(scores: &mut [Lane], rows: usize) {
    let beyond = rows.next_multiple_of(WIDTH) - rows;
    for row in 0..rows {
        if let Some(last) = scores.iter_mut().skip(row).step_by(rows).last() {
            last.0[WIDTH - beyond..].fill(f32::NEG_INFINITY);
        }
        let mut most = Lane([f32::NEG_INFINITY; WIDTH]);
        for lane in scores[row..].iter().step_by(rows) {
            most = most.with(lane, larger);
        }
        let most = most.fold(larger);
        let mut sum = Lane::ZERO;
        for lane in scores[row..].iter_mut().step_by(rows) {
            *lane = lane.map(|x| exp(x - most));
            sum = sum.with(lane, |x, y| x + y);
        }
        let share = 1.0 / sum.fold(|x, y| x + y);
        for lane in scores[row..].iter_mut().step_by(rows) {
            *lane = lane.map(|x| x * share);
        }
    }
}

/// Layer norm of `x + other`, in place. Both have `rows` rows and a panel for each lane of `scale`.
#[inline(always)]
pub(super) fn add_norm(
    x: &mut [Lane],
    other: &[Lane],
    rows: usize,
    scale: &[Lane],
    shift: &[Lane],
    epsilon: f32,
) {
    let columns = (scale.len() * WIDTH) as f32;
    for row in 0..rows {
        let mut sum = Lane::ZERO;
        let others = other[row..].iter().step_by(rows);
        for (x, other) in x[row..].iter_mut().step_by(rows).zip(others) {
            *x = x.with(other, |x, y| x + y);
            sum = sum.with(x, |x, y| x + y);
        }
        let mean = sum.fold(|x, y| x + y) / columns;
        let mut squares = Lane::ZERO;
        for x in x[row..].iter_mut().step_by(rows) {
            *x = x.map(|x| x - mean);
            squares = squares.with(x, |sum, x| x.mul_add(x, sum));
        }
        let variance = squares.fold(|x, y| x + y) / columns;
        let factor = 1.0 / (variance + epsilon).sqrt();
        let lanes = x[row..].iter_mut().step_by(rows);
        for (x, (scale, shift)) in lanes.zip(scale.iter().zip(shift)) {
            *x = x.map(|x| x * factor);
            *x = x.with(scale, |x, y| x * y).with(shift, |x, y| x + y);
        }
    }
}

/// The dot product of two vectors, whose length is a multiple of 32.
#[inline(always)]
pub(super) fn byte_dot(row: &[i8], vector: &[i16]) -> i32 {
    /// So many sums side by side fill the registers, and the compiler multiplies and adds pairs with one instruction.
    const SUMS: usize = 32;
    let (vector, rest) = vector.as_chunks::<SUMS>();
    debug_assert!(rest.is_empty());
    let mut sums = [0_i32; SUMS];
    for (row, vector) in row.as_chunks::<SUMS>().0.iter().zip(vector) {
        for ((sum, x), y) in sums.iter_mut().zip(row).zip(vector) {
            *sum += i32::from(*x) * i32::from(*y);
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From Python's `math.erf` and `math.exp`.
    #[test]
    fn erf_and_exp_are_exact_to_a_few_bits() {
        for (x, expected) in [
            (0.0, 0.0),
            (1e-3, 0.001_128_378_8),
            (0.1, 0.112_462_916),
            (0.5, 0.520_499_9),
            (1.0, 0.842_700_8),
            (2.0, 0.995_322_26),
            (3.5, 0.999_999_26),
            (9.0, 1.0),
        ] {
            assert!((erf(x) - expected).abs() < 4e-7, "erf({x}) = {}", erf(x));
            assert!((erf(-x) + expected).abs() < 4e-7, "erf(-{x}) = {}", erf(-x));
        }
        for n in 0..=800 {
            let x = -0.1 * n as f32;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(error < 8e-6, "exp({x}) is off by {error:e}");
            assert!(x < -8.0 || error < 1e-6, "exp({x}) is off by {error:e}");
        }
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn softmax_ignores_columns_beyond_the_last() {
        let rows = 17;
        let mut scores = vec![Lane([3.0; WIDTH]); 2 * rows];
        softmax(&mut scores, rows);
        for row in 0..rows {
            let each = 1.0 / rows as f32;
            assert!((scores[row].0[5] - each).abs() < 1e-6);
            assert!((scores[rows + row].0[0] - each).abs() < 1e-6);
            assert!(scores[rows + row].0[1..].iter().all(|x| *x < 1e-30));
        }
    }
}
