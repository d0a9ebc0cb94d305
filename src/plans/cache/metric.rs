//! How vectors of a tenant's goals are compared: with what varies between goals of one plan counting less.
//!
//! The covariance Σ of vectors within plans (pooled, as in linear discriminant analysis, and shrunk to a multiple of the identity) says
//! in which directions goals of one plan differ: wording, politeness, names. In the coordinates `L⁻¹x` with `L Lᵀ = Σ` these directions
//! are as short as all others, so the cosine there separates plans better. Fitted anew whenever the entries have grown by a quarter.

use super::dot::{DIMENSIONS, LANES, Lane, dots, lanes};

/// Entries beyond the first of their plan that a metric needs.
const FEWEST: usize = 64;
/// Most entries that the covariance is computed from.
const SAMPLE: usize = 4_096;
/// How much the identity counts: this share, and as much as this many entries.
const SHRINKAGE: f64 = 0.2;
const PRIOR: f64 = 200.0;

/// A vector in the coordinates of a metric, of length 1.
pub(super) type White = [Lane; LANES];

/// A fitted metric. Without one vectors stay as they are.
#[derive(Default)]
pub(super) struct Metric {
    /// The rows of `L⁻¹`.
    rows: Vec<Lane>,
    /// The size that it was fitted at.
    fitted: usize,
}

impl Metric {
    /// Whether it has to be fitted anew. `size`: entries beyond the first of their plan.
    pub(super) fn is_due(&self, size: usize) -> bool {
        if size < FEWEST {
            return self.fitted > 0;
        }
        self.fitted == 0 || size * 4 > self.fitted * 5 || size * 2 < self.fitted
    }

    /// Fitted to the differences of vectors from the mean of their plan. `size`: entries beyond the first of their plan.
    pub(super) fn fit<'a>(
        size: usize,
        of: impl Iterator<Item = (&'a [Lane], &'a [f32], usize)>,
    ) -> Self {
        if size < FEWEST {
            return Self::default();
        }
        let every = size.div_ceil(SAMPLE).max(1);
        let mut scatter = vec![0.0_f32; DIMENSIONS * DIMENSIONS];
        let mut degrees = 0.0;
        for (vector, sum, count) in of.step_by(every) {
            let vector = vector.iter().flat_map(|lane| lane.0);
            let difference: Vec<f32> = vector
                .zip(sum)
                .map(|(x, sum)| x - sum / count as f32)
                .collect();
            add_square(&mut scatter, &difference);
            degrees += 1.0 - 1.0 / count as f64;
        }
        let Some(inverse) = inverse_of_root(&covariance(&scatter, degrees)) else {
            return Self::default();
        };
        Self {
            rows: inverse.chunks(DIMENSIONS).flat_map(lanes).collect(),
            fitted: size,
        }
    }

    /// A vector in its coordinates.
    pub(super) fn white(&self, vector: &[Lane; LANES]) -> White {
        let mut out = [0.0_f32; DIMENSIONS];
        if self.rows.is_empty() {
            let floats = vector.iter().flat_map(|lane| lane.0);
            out.iter_mut().zip(floats).for_each(|(out, x)| *out = x);
        } else {
            dots(&self.rows, vector, &mut out);
        }
        let length = out.iter().map(|x| x * x).sum::<f32>().sqrt();
        for x in &mut out {
            *x /= length.max(f32::MIN_POSITIVE);
        }
        lanes(&out)
    }
}

/// Adds `x xᵀ`, lower triangle only.
fn add_square(matrix: &mut [f32], x: &[f32]) {
    for (n, (row, factor)) in matrix.chunks_exact_mut(DIMENSIONS).zip(x).enumerate() {
        for (sum, other) in row[..=n].iter_mut().zip(x) {
            *sum += factor * other;
        }
    }
}

/// The shrunk covariance of a scatter.
fn covariance(scatter: &[f32], degrees: f64) -> Vec<f64> {
    let trace: f64 = (0..DIMENSIONS)
        .map(|n| f64::from(scatter[n * DIMENSIONS + n]))
        .sum();
    let identity = trace / DIMENSIONS as f64 * (SHRINKAGE + PRIOR / degrees.max(1.0));
    let mut all: Vec<f64> = scatter.iter().map(|x| f64::from(*x)).collect();
    for n in 0..DIMENSIONS {
        all[n * DIMENSIONS + n] += identity;
    }
    all
}

/// The inverse of the lower triangular `L` with `L Lᵀ = matrix` (Cholesky). `None`: the matrix is not positive definite.
fn inverse_of_root(matrix: &[f64]) -> Option<Vec<f32>> {
    let n = DIMENSIONS;
    let mut root = vec![0.0_f64; n * n];
    for i in 0..n {
        for j in 0..=i {
            let (a, b) = (&root[i * n..i * n + j], &root[j * n..j * n + j]);
            let rest = matrix[i * n + j] - a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            if i != j {
                root[i * n + j] = rest / root[j * n + j];
            } else if rest > 0.0 {
                root[i * n + i] = rest.sqrt();
            } else {
                return None;
            }
        }
    }
    let mut inverse = vec![0.0_f32; n * n];
    let mut column = vec![0.0_f64; n];
    for j in 0..n {
        column[j] = 1.0 / root[j * n + j];
        for i in j + 1..n {
            let row = &root[i * n + j..i * n + i];
            let sum: f64 = row.iter().zip(&column[j..i]).map(|(a, b)| a * b).sum();
            column[i] = -sum / root[i * n + i];
        }
        for i in j..n {
            inverse[i * n + j] = column[i] as f32;
        }
    }
    Some(inverse)
}

/// The cosine of two vectors in the coordinates of a metric.
pub(super) fn cosine(one: &White, other: &White) -> f64 {
    let mut score = [0.0];
    dots(one, other, &mut score);
    f64::from(score[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(seed: usize) -> Vec<f32> {
        let mut state = (seed as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..DIMENSIONS).map(|_| next()).collect()
    }

    #[test]
    fn without_a_fit_it_is_the_plain_cosine() {
        let (one, other) = (vector(1), vector(2));
        let dot =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        let plain = dot(&one, &other) / (dot(&one, &one) * dot(&other, &other)).sqrt();
        let metric = Metric::default();
        let white = cosine(&metric.white(&lanes(&one)), &metric.white(&lanes(&other)));
        assert!((white - plain).abs() < 1e-5, "{white} {plain}");
    }

    #[test]
    fn the_root_of_its_inverse_is_right() {
        let mut scatter = vec![0.0; DIMENSIONS * DIMENSIONS];
        (0..500).for_each(|seed| add_square(&mut scatter, &vector(seed)));
        let matrix = covariance(&scatter, 500.0);
        let inverse = inverse_of_root(&matrix).unwrap();
        let full = |i: usize, j: usize| matrix[i.max(j) * DIMENSIONS + i.min(j)];
        // L⁻¹ Σ L⁻ᵀ is the identity.
        for (i, j) in [(0, 0), (5, 3), (383, 383), (383, 0), (200, 199)] {
            let row = |n: usize| &inverse[n * DIMENSIONS..(n + 1) * DIMENSIONS];
            let sum: f64 = (0..DIMENSIONS)
                .flat_map(|a| (0..DIMENSIONS).map(move |b| (a, b)))
                .map(|(a, b)| f64::from(row(i)[a]) * full(a, b) * f64::from(row(j)[b]))
                .sum();
            assert!(
                (sum - f64::from(u8::from(i == j))).abs() < 1e-3,
                "{i} {j} {sum}"
            );
        }
    }

    /// Along an axis in which goals of one plan differ a difference counts less than along another one.
    #[test]
    fn what_varies_within_plans_counts_less() {
        let unit = |axis: usize, along: f32| {
            let mut vector = vec![0.0; DIMENSIONS];
            (vector[0], vector[axis]) = ((1.0 - along * along).sqrt(), along);
            lanes(&vector)
        };
        let entries: Vec<_> = (0..2_000).map(|n| unit(1, [0.6, -0.6][n % 2])).collect();
        let mut sum = vec![0.0; DIMENSIONS];
        sum[0] = 0.8 * 2_000.0;
        let none = Metric::default();
        assert!(none.is_due(1_999) && !none.is_due(FEWEST - 1));
        let metric = Metric::fit(
            1_999,
            entries.iter().map(|entry| (&entry[..], &sum[..], 2_000)),
        );
        assert!(
            !metric.is_due(2_100) && metric.is_due(2_600) && metric.is_due(900) && metric.is_due(3)
        );
        let base = metric.white(&unit(1, 0.0));
        let [within, between] = [1, 2].map(|axis| cosine(&base, &metric.white(&unit(axis, 0.6))));
        assert!(within > 0.95 && between < 0.85, "{within} {between}");
        assert!(!Metric::fit(3, std::iter::empty()).is_due(3));
    }
}
