//! Shares with their intervals, and curves of precision over hits.

/// A share of a count.
#[derive(Clone, Copy, Default, Debug)]
pub struct Share {
    pub of: usize,
    pub count: usize,
}

impl Share {
    pub fn add(&mut self, counts: bool) {
        self.of += 1;
        self.count += usize::from(counts);
    }

    pub fn value(self) -> f64 {
        self.count as f64 / self.of.max(1) as f64
    }

    /// The interval of Wilson, 95 %.
    pub fn interval(self) -> (f64, f64) {
        if self.of == 0 {
            return (0.0, 1.0);
        }
        let (z, n, p) = (1.96_f64, self.of as f64, self.value());
        let middle = p + z * z / (2.0 * n);
        let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
        let below = 1.0 + z * z / n;
        (
            ((middle - half) / below).max(0.0),
            ((middle + half) / below).min(1.0),
        )
    }

    /// `12 of 600 = 2.0 % (1.1 to 3.5 %)`.
    pub fn text(self) -> String {
        let (low, high) = self.interval();
        format!(
            "{} of {} = {:.2} % ({:.2} to {:.2} %)",
            self.count,
            self.of,
            100.0 * self.value(),
            100.0 * low,
            100.0 * high
        )
    }
}

/// A goal that a method answers when its score reaches a threshold.
#[derive(Clone, Copy)]
pub struct Scored {
    pub score: f64,
    pub right: bool,
}

/// A point of a curve.
#[derive(Clone, Copy)]
pub struct Point {
    pub hit_ratio: f64,
    pub precision: Share,
}

/// The curve of all thresholds. `goals`: how many could be hit.
pub fn curve(mut scored: Vec<Scored>, goals: usize) -> Vec<Point> {
    scored.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut right = Share::default();
    let step = (scored.len() / 200).max(1);
    let mut points = Vec::new();
    for (n, goal) in scored.iter().enumerate() {
        right.add(goal.right);
        let last_of_score = scored.get(n + 1).is_none_or(|next| next.score < goal.score);
        if last_of_score && (n % step == 0 || n + 1 == scored.len()) && n >= 20 {
            points.push(Point {
                hit_ratio: right.count as f64 / goals.max(1) as f64,
                precision: right,
            });
        }
    }
    points
}

/// The most right hits at a precision of at least `precision`, as a share of `goals`.
pub fn hit_ratio_at(points: &[Point], precision: f64) -> f64 {
    let good = points
        .iter()
        .filter(|point| point.precision.value() >= precision);
    good.map(|point| point.hit_ratio).fold(0.0, f64::max)
}
