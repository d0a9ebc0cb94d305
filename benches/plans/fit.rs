//! Fits the weights of the evidence: logistic regression by Newton's method.

/// An observation: the values of the evidence, whether the candidate was right, and how much it counts.
pub struct Observation {
    pub values: Vec<f64>,
    pub right: bool,
    pub weight: f64,
}

/// Held to 0 by a normal prior of this standard deviation.
const DEVIATION: f64 = 10.0;

fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The weights, the intercept first.
pub fn fit(observations: &[Observation]) -> Vec<f64> {
    let count = 1 + observations.first().map_or(0, |o| o.values.len());
    let mut weights = vec![0.0; count];
    for _ in 0..50 {
        let mut slope = vec![0.0; count];
        let mut curvature = vec![vec![0.0; count]; count];
        for n in 1..count {
            slope[n] -= weights[n] / (DEVIATION * DEVIATION);
            curvature[n][n] += 1.0 / (DEVIATION * DEVIATION);
        }
        for observation in observations {
            let x = with_intercept(observation);
            let p = logistic(x.iter().zip(&weights).map(|(x, w)| x * w).sum());
            let error = f64::from(u8::from(observation.right)) - p;
            for i in 0..count {
                slope[i] += observation.weight * error * x[i];
                for j in 0..count {
                    curvature[i][j] += observation.weight * p * (1.0 - p) * x[i] * x[j];
                }
            }
        }
        let step = solve(curvature, slope);
        weights.iter_mut().zip(&step).for_each(|(w, s)| *w += s);
        if step.iter().all(|s| s.abs() < 1e-6) {
            break;
        }
    }
    weights
}

fn with_intercept(observation: &Observation) -> Vec<f64> {
    let mut x = vec![1.0];
    x.extend(&observation.values);
    x
}

/// Gauss's elimination.
fn solve(mut rows: Vec<Vec<f64>>, mut right: Vec<f64>) -> Vec<f64> {
    let count = right.len();
    for column in 0..count {
        let pivot = (column..count)
            .max_by(|a, b| rows[*a][column].abs().total_cmp(&rows[*b][column].abs()));
        let pivot = pivot.unwrap_or(column);
        rows.swap(column, pivot);
        right.swap(column, pivot);
        for row in 0..count {
            if row == column {
                continue;
            }
            let factor = rows[row][column] / rows[column][column];
            let of_pivot = rows[column].clone();
            rows[row]
                .iter_mut()
                .zip(&of_pivot)
                .for_each(|(x, p)| *x -= factor * p);
            right[row] -= factor * right[column];
        }
    }
    (0..count).map(|n| right[n] / rows[n][n]).collect()
}

/// Predicted and observed errors, by bins of the logit, for observations that were not fitted.
pub fn calibration(weights: &[f64], observations: &[Observation]) {
    println!("   logit    count   predicted   observed errors");
    for low in -4..12 {
        let low = f64::from(low);
        let logit = |o: &Observation| {
            with_intercept(o)
                .iter()
                .zip(weights)
                .map(|(x, w)| x * w)
                .sum::<f64>()
        };
        let inside: Vec<_> = observations
            .iter()
            .map(|o| (logit(o), o.right))
            .filter(|(x, _)| (low..low + 1.0).contains(x))
            .collect();
        if inside.is_empty() {
            continue;
        }
        let count = inside.len() as f64;
        let predicted: f64 = inside.iter().map(|(x, _)| 1.0 - logistic(*x)).sum::<f64>() / count;
        let wrong = inside.iter().filter(|(_, right)| !right).count() as f64;
        println!(
            "{low:>8} {count:>8} {:>10.2} % {:>8.2} %",
            100.0 * predicted,
            100.0 * wrong / count
        );
    }
}
