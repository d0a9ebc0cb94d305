//! What labels teach: a threshold for each plan and entry, with a band of confidence.
//!
//! The model is that of vCache (arXiv 2502.03771), a logistic curve for each entry, in its Bayesian form, so that an entry without
//! labels has a curve too:
//!
//! ```text
//! P(right) = 1 / (1 + e^-(x + t + p + e))
//! ```
//!
//! `x` is the evidence ([`super::evidence`]). `t`, `p` and `e` are how much better or worse than the prior the cache does in this
//! tenant, for this plan (entries whose plans have the same shape) and for this entry. Each is normally distributed around 0 before
//! there are labels. Its posterior is approximated by a normal distribution around the mode (Laplace). A hit needs that the lower
//! end of the band, [`BAND`] standard deviations below the mode, is an error of at most δ.

/// Standard deviations of the effects before there are labels.
const TENANT_DEVIATION: f64 = 0.5;
const PLAN_DEVIATION: f64 = 1.0;
const ENTRY_DEVIATION: f64 = 0.5;
/// Width of the band in standard deviations: one-sided, 90 %.
const BAND: f64 = 1.282;

/// Bins of a [`Tally`].
const BINS: usize = 48;
/// The logit of its first bin, and their width. What is outside counts in the first or the last one.
const FIRST: f64 = -9.0;
const WIDTH: f64 = 0.5;

/// How many labels agreed and disagreed, by evidence. Labels can be taken out again, and their order does not matter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tally {
    bins: Box<[(u32, u32); BINS]>,
    agreed: u32,
    disagreed: u32,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            bins: Box::new([(0, 0); BINS]),
            agreed: 0,
            disagreed: 0,
        }
    }
}

fn bin(logit: f64) -> usize {
    (((logit - FIRST) / WIDTH).clamp(0.0, (BINS - 1) as f64)) as usize
}

impl Tally {
    /// Counts a label.
    pub fn add(&mut self, logit: f64, agrees: bool) {
        let (yes, no) = &mut self.bins[bin(logit)];
        let (count, sum) = if agrees {
            (yes, &mut self.agreed)
        } else {
            (no, &mut self.disagreed)
        };
        *count += 1;
        *sum += 1;
    }

    /// Takes out a label that was counted.
    pub fn remove(&mut self, logit: f64, agrees: bool) {
        let (yes, no) = &mut self.bins[bin(logit)];
        let (count, sum) = if agrees {
            (yes, &mut self.agreed)
        } else {
            (no, &mut self.disagreed)
        };
        *count = count.saturating_sub(1);
        *sum = sum.saturating_sub(1);
    }

    /// Labels that agreed.
    pub fn agreed(&self) -> u32 {
        self.agreed
    }

    /// Labels that disagreed.
    pub fn disagreed(&self) -> u32 {
        self.disagreed
    }

    /// Whether no label is counted.
    pub fn is_empty(&self) -> bool {
        self.agreed + self.disagreed == 0
    }
}

/// What is known of an effect: the mode and the variance of its posterior.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Effect {
    mode: f64,
    variance: f64,
}

impl Effect {
    /// The posterior of an effect with this standard deviation, given labels whose logits are `offset` more than their evidence.
    fn new(deviation: f64, labels: &Tally, offset: f64) -> Self {
        let precision = deviation.powi(-2);
        let mut mode = 0.0;
        let mut curvature = precision;
        if labels.is_empty() {
            return Self {
                mode,
                variance: 1.0 / curvature,
            };
        }
        // Newton's method on a concave function; the steps are limited because it starts far from the mode at times.
        for _ in 0..20 {
            let mut slope = -precision * mode;
            curvature = precision;
            for (n, &(yes, no)) in labels
                .bins
                .iter()
                .enumerate()
                .filter(|(_, counts)| **counts != (0, 0))
            {
                let middle = FIRST + WIDTH * (n as f64 + 0.5);
                let p = logistic(middle + offset + mode);
                slope += f64::from(yes) * (1.0 - p) - f64::from(no) * p;
                curvature += f64::from(yes + no) * p * (1.0 - p);
            }
            let step = (slope / curvature).clamp(-1.0, 1.0);
            mode += step;
            if step.abs() < 1e-3 {
                break;
            }
        }
        Self {
            mode,
            variance: 1.0 / curvature,
        }
    }
}

/// `1 / (1 + e^-x)`.
pub fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The `x` for which [`logistic`] is `p`.
pub fn logit(p: f64) -> f64 {
    (p / (1.0 - p)).ln()
}

/// How sure it is that a plan is right.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Belief {
    /// The most likely probability.
    pub likely: f64,
    /// The lower end of the band.
    pub at_least: f64,
}

impl Belief {
    /// From the evidence of a look-up and the labels of the tenant, of the entries with the same plan, and of the entry.
    pub fn new(evidence: f64, tenant: &Tally, plan: &Tally, entry: &Tally) -> Self {
        let tenant = Effect::new(TENANT_DEVIATION, tenant, 0.0);
        let plan = Effect::new(PLAN_DEVIATION, plan, tenant.mode);
        let entry = Effect::new(ENTRY_DEVIATION, entry, tenant.mode + plan.mode);
        let likely = evidence + tenant.mode + plan.mode + entry.mode;
        let deviation = (tenant.variance + plan.variance + entry.variance).sqrt();
        Self {
            likely: logistic(likely),
            at_least: logistic(likely - BAND * deviation),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers from 0 to 1 (xorshift).
    struct Random(u64);

    impl Random {
        fn uniform(&mut self) -> f64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) as f64 / (1_u64 << 53) as f64
        }

        /// Normally distributed, by Box and Muller.
        fn normal(&mut self) -> f64 {
            let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
            radius * (std::f64::consts::TAU * self.uniform()).cos()
        }
    }

    #[test]
    fn without_labels_the_band_is_that_of_the_prior() {
        let none = Tally::default();
        let belief = Belief::new(3.0, &none, &none, &none);
        assert!((belief.likely - logistic(3.0)).abs() < 1e-12);
        let deviation =
            (TENANT_DEVIATION.powi(2) + PLAN_DEVIATION.powi(2) + ENTRY_DEVIATION.powi(2)).sqrt();
        assert!((belief.at_least - logistic(3.0 - BAND * deviation)).abs() < 1e-12);
    }

    #[test]
    fn labels_that_agree_lower_the_threshold_and_one_that_does_not_raises_it() {
        let none = Tally::default();
        let at_least = |labels: &Tally| Belief::new(5.0, &none, labels, labels).at_least;
        let mut labels = Tally::default();
        let mut before = at_least(&labels);
        for _ in 0..20 {
            labels.add(2.0, true);
            let now = at_least(&labels);
            assert!(now > before);
            before = now;
        }
        labels.add(4.0, false);
        assert!(at_least(&labels) < before);
        labels.remove(4.0, false);
        assert!((at_least(&labels) - before).abs() < 1e-12);
    }

    /// Plans that are better or worse than the prior, as it expects, and labels for all misses: of all hits at most δ are wrong.
    #[test]
    fn the_share_of_wrong_hits_stays_below_its_bound() {
        let (plans, goals) = (300, 60_000);
        for (seed, max_error) in [(1, 0.005), (2, 0.02), (3, 0.05)] {
            let mut random = Random(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed));
            let tenant_effect = TENANT_DEVIATION * random.normal();
            let effects: Vec<_> = (0..plans)
                .map(|_| tenant_effect + PLAN_DEVIATION * random.normal())
                .collect();
            let mut tenant = Tally::default();
            let mut of_plans = vec![Tally::default(); plans];
            let (mut hits, mut wrong) = (0_u32, 0_u32);
            let none = Tally::default();
            for _ in 0..goals {
                let plan = (random.uniform() * plans as f64) as usize;
                let evidence = 3.0 + 3.0 * random.normal();
                let right = random.uniform() < logistic(evidence + effects[plan]);
                let belief = Belief::new(evidence, &tenant, &of_plans[plan], &none);
                if belief.at_least >= 1.0 - max_error {
                    hits += 1;
                    wrong += u32::from(!right);
                } else {
                    of_plans[plan].add(evidence, right);
                    tenant.add(evidence, right);
                }
            }
            assert!(hits > 5_000, "{hits} hits");
            // Three standard deviations of the count, if the error were just δ.
            let most = f64::from(hits) * max_error;
            assert!(
                f64::from(wrong) <= most + 3.0 * most.sqrt(),
                "{wrong} of {hits} wrong at {max_error}"
            );
        }
    }

    /// A plan that the prior is far too sure of gets no hits any more after a few labels.
    #[test]
    fn a_plan_that_is_always_wrong_stops_to_hit() {
        let none = Tally::default();
        let mut labels = Tally::default();
        assert!(Belief::new(8.0, &none, &labels, &none).at_least > 0.995);
        labels.add(4.0, false);
        labels.add(5.0, false);
        assert!(Belief::new(8.0, &none, &labels, &labels).at_least < 0.995);
    }
}
