//! What speaks for a candidate, as one number: the logit of the probability that its plan is the right one.
//!
//! The weights are the prior that all entries share: a logistic regression on the develop splits (`docs/plan-cache.md`). They are constants:
//! what a tenant's goals teach is added by [`super::belief`].

/// Lowest similarity that counts for a competitor: unknown plans may be as near as that, even in an empty cache.
const COMPETITOR_MIN: f64 = 0.6;
/// The same for the mean of a plan.
const MEAN_COMPETITOR_MIN: f64 = 0.2;
/// Largest lead over a competitor that counts.
const LEAD_MAX: f64 = 0.2;
const MEAN_LEAD_MAX: f64 = 0.5;
/// Most candidates with the same plan that count.
const SUPPORT_MAX: f64 = 31.0;
/// Most entries of a plan that count.
const MEMBERS_MAX: f64 = 100.0;
/// Most words that count.
const WORDS_MAX: f64 = 4.0;

/// The weights of the prior, in the order of [`Evidence::values`].
const INTERCEPT: f64 = 1.08;
const WEIGHTS: [f64; 10] = [
    -4.01, 8.60, 0.42, -0.12, 0.17, 0.88, 2.05, 11.56, 0.36, -4.94,
];
/// Added where goal and entry say the same in the same phrases and no other plan is near. Set by the pairs, whose caches hold one entry.
const ALONE: f64 = 12.0;

/// What a look-up found out about a candidate.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Evidence {
    /// The cosine similarity of goal and entry.
    pub similarity: f64,
    /// The similarity of the nearest entry with another plan, if there is one.
    pub competitor: Option<f64>,
    /// How many more of the other near candidates have the same plan than have another one.
    pub support: usize,
    /// Words of the goal that no near candidate with this plan has.
    pub unknown_words: usize,
    /// Words of the entry that the goal does not have.
    pub missing_words: usize,
    /// Whether goal and entry say the same in the same phrases.
    pub same_phrases: bool,
    /// The similarity of the goal and the mean of the plan's entries, by the metric of the tenant.
    pub mean: f64,
    /// That of the most similar other plan near, if there is one.
    pub mean_competitor: Option<f64>,
    /// Entries of the plan.
    pub members: usize,
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
            same_phrases: false,
            mean: similarity,
            mean_competitor: None,
            members: 1,
        }
    }

    /// The values that the weights are for: similarity, lead, support, unknown and missing words, 1 if there are none of both, similarity
    /// and lead of the plan's mean, its entries, and 1 if it has one entry.
    pub fn values(&self) -> [f64; 10] {
        let one_if = |yes: bool| f64::from(u8::from(yes));
        let competitor = self.competitor.unwrap_or_default().max(COMPETITOR_MIN);
        let of_means = self.mean_competitor.unwrap_or_default();
        let mean_lead = self.mean - of_means.max(MEAN_COMPETITOR_MIN);
        [
            self.similarity,
            (self.similarity - competitor).clamp(-LEAD_MAX, LEAD_MAX),
            (self.support as f64).min(SUPPORT_MAX).ln_1p(),
            (self.unknown_words as f64).min(WORDS_MAX),
            (self.missing_words as f64).min(WORDS_MAX),
            one_if(self.unknown_words + self.missing_words == 0),
            self.mean,
            mean_lead.clamp(-MEAN_LEAD_MAX, MEAN_LEAD_MAX),
            (self.members as f64).min(MEMBERS_MAX).ln(),
            one_if(self.members == 1),
        ]
    }

    /// The same by the nearest vectors alone, where there are no means of plans: for examples of workflows.
    pub fn logit_of_neighbours(&self) -> f64 {
        let [similarity, lead, _, unknown, missing, same, ..] = self.values();
        let support = (self.support as f64).min(15.0).ln_1p();
        let values = [similarity, lead, support, unknown, missing, same];
        let weights = [0.53, 9.9, 1.41, -0.46, 0.28, 0.74];
        let sum: f64 = weights.iter().zip(values).map(|(w, x)| w * x).sum();
        let alone = same > 0.0 && lead >= LEAD_MAX;
        0.7 + sum + if alone { 3.5 } else { 0.0 }
    }

    /// The logit of the probability that the plan is right, before anything is learned.
    pub fn logit(&self) -> f64 {
        let values = self.values();
        let sum: f64 = WEIGHTS.iter().zip(values).map(|(w, x)| w * x).sum();
        let alone = self.same_phrases && values[1] >= LEAD_MAX;
        INTERCEPT + sum + if alone { ALONE } else { 0.0 }
    }
}
