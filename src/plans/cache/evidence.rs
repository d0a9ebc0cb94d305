//! What speaks for a candidate, as one number: the logit of the probability that its plan is the right one.
//!
//! The weights are the prior that all entries share. They were fitted by logistic regression on the develop split
//! (`docs/plan-cache.md` says how), and are constants: what a tenant's goals teach is added by [`super::belief`].

/// Lowest similarity that counts for a competitor: unknown plans may be as near as that, even in an empty cache.
const COMPETITOR_MIN: f64 = 0.6;
/// Largest lead over a competitor that counts.
const LEAD_MAX: f64 = 0.2;
/// Most candidates with the same plan that count.
const SUPPORT_MAX: f64 = 5.0;
/// Most words that count.
const WORDS_MAX: f64 = 4.0;

/// The weights of the prior.
const INTERCEPT: f64 = -13.0;
const SIMILARITY: f64 = 18.0;
const LEAD: f64 = 14.0;
const SUPPORT: f64 = 1.0;
const UNKNOWN_WORDS: f64 = -0.9;
const MISSING_WORDS: f64 = -0.5;

/// What a look-up found out about a candidate.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Evidence {
    /// The cosine similarity of goal and entry.
    pub similarity: f64,
    /// The similarity of the nearest entry with another plan, if there is one.
    pub competitor: Option<f64>,
    /// How many of the other near candidates have the same plan.
    pub support: usize,
    /// Words of the goal that no near candidate with this plan has.
    pub unknown_words: usize,
    /// Words of the entry that the goal does not have.
    pub missing_words: usize,
}

impl Evidence {
    /// Of a label that says the similarity alone.
    pub fn of_similarity(similarity: f64) -> Self {
        Self {
            similarity,
            competitor: None,
            support: 0,
            unknown_words: 0,
            missing_words: 0,
        }
    }

    /// The values that the weights are for: similarity, lead, support, unknown and missing words.
    pub fn values(&self) -> [f64; 5] {
        let competitor = self.competitor.unwrap_or_default().max(COMPETITOR_MIN);
        [
            self.similarity,
            (self.similarity - competitor).clamp(-LEAD_MAX, LEAD_MAX),
            (self.support as f64).min(SUPPORT_MAX).ln_1p(),
            (self.unknown_words as f64).min(WORDS_MAX),
            (self.missing_words as f64).min(WORDS_MAX),
        ]
    }

    /// The logit of the probability that the plan is right, before anything is learned.
    pub fn logit(&self) -> f64 {
        let weights = [SIMILARITY, LEAD, SUPPORT, UNKNOWN_WORDS, MISSING_WORDS];
        let sum: f64 = weights.iter().zip(self.values()).map(|(w, x)| w * x).sum();
        INTERCEPT + sum
    }
}
