//! The index of vectors: an exact scan over a matrix. An index outside the process (Qdrant) may stand in for it.

use std::collections::HashMap;

use super::dot::{LANES, Lane, dots, lanes};

/// Finds the vectors nearest to another. The ids are those of the cache's entries within a tenant.
///
/// The cache looks at its own entry for every id that an index returns, so an index may lag behind: what is no entry any more is
/// left out, and the score of an entry is computed anew where its vector is known.
pub trait VectorIndex: Send + Sync {
    /// Adds or replaces the vector of an entry. It has length 1.
    fn insert(&mut self, id: u32, vector: &[f32]);
    /// Removes the vector of an entry, if there is one.
    fn remove(&mut self, id: u32);
    /// The entries nearest to `vector`, at most `most`, with their cosine similarity, the nearest first.
    fn search(&self, vector: &[f32], most: usize) -> Vec<(u32, f32)>;
    /// The similarity of one entry, if its vector is known.
    fn similarity(&self, id: u32, vector: &[f32]) -> Option<f32>;
}

/// An exact scan over a contiguous matrix.
#[derive(Default)]
pub struct Exact {
    /// A vector after the other.
    rows: Vec<Lane>,
    /// The entry of each row.
    ids: Vec<u32>,
    /// The row of each entry.
    places: HashMap<u32, usize>,
}

impl Exact {
    fn row(&self, at: usize) -> &[Lane] {
        &self.rows[at * LANES..(at + 1) * LANES]
    }

    /// The vector of an entry, if it is known.
    pub(super) fn vector(&self, id: u32) -> Option<&[Lane]> {
        Some(self.row(*self.places.get(&id)?))
    }
}

impl VectorIndex for Exact {
    fn insert(&mut self, id: u32, vector: &[f32]) {
        let vector = lanes(vector);
        if let Some(&at) = self.places.get(&id) {
            self.rows[at * LANES..(at + 1) * LANES].copy_from_slice(&vector);
            return;
        }
        self.places.insert(id, self.ids.len());
        self.ids.push(id);
        self.rows.extend_from_slice(&vector);
    }

    /// The last row takes the place of the removed one.
    fn remove(&mut self, id: u32) {
        let Some(at) = self.places.remove(&id) else {
            return;
        };
        let last = self.ids.len() - 1;
        if at < last {
            self.rows
                .copy_within(last * LANES..(last + 1) * LANES, at * LANES);
            self.ids[at] = self.ids[last];
            self.places.insert(self.ids[at], at);
        }
        self.ids.truncate(last);
        self.rows.truncate(last * LANES);
    }

    fn search(&self, vector: &[f32], most: usize) -> Vec<(u32, f32)> {
        /// Rows whose scores are computed before they are looked at.
        const BLOCK: usize = 256;
        let vector = lanes(vector);
        let mut scores = [0.0_f32; BLOCK];
        // Sorted, the nearest first. It is short, and few rows get into it.
        let mut nearest: Vec<(u32, f32)> = Vec::with_capacity(most + 1);
        let blocks = self.rows.chunks(BLOCK * LANES).zip(self.ids.chunks(BLOCK));
        for (rows, ids) in blocks {
            let scores = &mut scores[..ids.len()];
            dots(rows, &vector, scores);
            for (&id, &score) in ids.iter().zip(&*scores) {
                let full = nearest.len() == most;
                if full && nearest.last().is_none_or(|(_, worst)| score <= *worst) {
                    continue;
                }
                let at = nearest.partition_point(|(_, better)| *better >= score);
                nearest.insert(at, (id, score));
                nearest.truncate(most);
            }
        }
        nearest
    }

    fn similarity(&self, id: u32, vector: &[f32]) -> Option<f32> {
        let mut score = [0.0];
        dots(self.row(*self.places.get(&id)?), &lanes(vector), &mut score);
        Some(score[0])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plans::cache::dot::DIMENSIONS;

    fn vector(seed: u32) -> Vec<f32> {
        let mut state = u64::from(seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let vector: Vec<f32> = (0..DIMENSIONS).map(|_| next()).collect();
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        vector.into_iter().map(|x| x / length).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// After any inserts and removals the index finds what comparing with each vector finds.
        #[test]
        fn it_is_a_naive_scan(changes in prop::collection::vec((0..40_u32, any::<Option<u8>>()), 0..120), most in 1..20_usize) {
            let mut index = Exact::default();
            let mut naive = HashMap::new();
            for (id, change) in changes {
                if let Some(seed) = change {
                    index.insert(id, &vector(u32::from(seed)));
                    naive.insert(id, vector(u32::from(seed)));
                } else {
                    index.remove(id);
                    naive.remove(&id);
                }
            }
            let sought = vector(1_000);
            let dot = |of: &[f32]| of.iter().zip(&sought).map(|(x, y)| f64::from(x * y)).sum::<f64>();
            let mut expected: Vec<f64> = naive.values().map(|v| dot(v)).collect();
            expected.sort_by(|a, b| b.total_cmp(a));
            expected.truncate(most);
            let found = index.search(&sought, most);
            prop_assert_eq!(found.len(), expected.len());
            for ((id, score), expected) in found.into_iter().zip(expected) {
                prop_assert!((f64::from(score) - expected).abs() < 1e-5);
                prop_assert!((dot(&naive[&id]) - expected).abs() < 1e-5);
                prop_assert_eq!(index.similarity(id, &sought), Some(score));
            }
            prop_assert_eq!(index.similarity(1_000, &sought), None);
        }
    }
}
