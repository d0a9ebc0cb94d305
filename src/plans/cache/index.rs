//! The index of vectors: an exact scan over a matrix. An index outside the process (Qdrant) may stand in for it.
//!
//! The scan waits for memory more than for sums, so it reads a copy of a quarter of the size first (`bytes`), and of the matrix only the
//! rows that can be among the nearest. What it finds is what reading all rows would find.

use std::collections::HashMap;

use super::{
    bytes::Bytes,
    dot::{LANES, Lane, dot, lanes},
};

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
    /// The same vectors.
    bytes: Bytes,
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
            self.bytes.set(at, &vector);
            return;
        }
        self.places.insert(id, self.ids.len());
        self.ids.push(id);
        self.rows.extend_from_slice(&vector);
        self.bytes.push(&vector);
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
        self.bytes.swap_remove(at);
    }

    fn search(&self, vector: &[f32], most: usize) -> Vec<(u32, f32)> {
        let vector = lanes(vector);
        // Sorted, the nearest first; of equal ones the first row. It is short, and few rows get into it.
        let mut nearest: Vec<(u32, f32)> = Vec::with_capacity(most + 1);
        for (at, highest) in self.bytes.candidates(&vector, most) {
            let worst = nearest.get(most - 1).map(|(_, worst)| *worst);
            if worst.is_some_and(|worst| highest < worst) {
                continue;
            }
            let score = dot(self.row(at), &vector);
            if worst.is_some_and(|worst| score <= worst) {
                continue;
            }
            let place = nearest.partition_point(|(_, better)| *better >= score);
            nearest.insert(place, (self.ids[at], score));
            nearest.truncate(most);
        }
        nearest
    }

    fn similarity(&self, id: u32, vector: &[f32]) -> Option<f32> {
        let at = *self.places.get(&id)?;
        Some(dot(self.row(at), &lanes(vector)))
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

    /// A vector near one of three others: `apart` is the length of the difference.
    fn near(centre: u32, seed: u32, apart: f32) -> Vec<f32> {
        let pairs = vector(centre % 3).into_iter().zip(vector(seed));
        pairs.map(|(x, y)| x + apart * y).collect()
    }

    /// What a scan of all floats finds: of rows with the same score the first.
    fn scan(rows: &[(u32, Vec<f32>)], sought: &[f32], most: usize) -> Vec<(u32, f32)> {
        let score = |row: &[f32]| dot(&lanes(row), &lanes(sought));
        let mut all: Vec<_> = rows.iter().map(|(id, row)| (*id, score(row))).collect();
        all.sort_by(|(_, one), (_, other)| other.partial_cmp(one).unwrap());
        all.truncate(most);
        all
    }

    #[test]
    fn zeros_are_found_in_the_order_of_their_rows() {
        let mut index = Exact::default();
        let zeros = vec![0.0; DIMENSIONS];
        for id in [7, 3, 9, 5] {
            index.insert(id, &zeros);
        }
        index.insert(3, &vector(1));
        let found = index.search(&vector(1), 3);
        assert_eq!(found[0].0, 3);
        assert_eq!(found[1..], [(7, 0.0), (9, 0.0)]);
        assert_eq!(index.search(&zeros, 2), [(7, 0.0), (3, 0.0)]);
        assert_eq!(index.search(&zeros, 0), []);
        index.insert(5, &[f32::NAN; DIMENSIONS]);
        index.remove(7);
        let found = index.search(&vector(1), 9);
        assert_eq!(found.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [3, 9]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Also where many scores are nearly equal, or equal, and whatever the lengths: the same entries, scores and order.
        #[test]
        fn it_is_a_scan_of_all_floats(
            changes in prop::collection::vec((0..300_u32, any::<Option<u8>>(), 0..4_usize, 0..8_usize), 0..400),
            (centre, seed, of_apart) in (0..3_u32, 0..300_u32, 0..4_usize),
            most in 0..40_usize,
        ) {
            const APART: [f32; 4] = [0.0, 1e-3, 0.05, 1.0];
            const LENGTHS: [f32; 8] = [1.0, 1.0, 1.0, 1.0, 1.0, 0.999, 1e-20, 0.0];
            let mut index = Exact::default();
            let mut rows: Vec<(u32, Vec<f32>)> = Vec::new();
            for (id, change, apart, length) in changes {
                let known = rows.iter().position(|(other, _)| *other == id);
                if let Some(seed) = change {
                    let row = near(seed.into(), u32::from(seed) / 3, APART[apart]);
                    let row: Vec<f32> = row.into_iter().map(|x| x * LENGTHS[length]).collect();
                    index.insert(id, &row);
                    match known {
                        Some(at) => rows[at].1 = row,
                        None => rows.push((id, row)),
                    }
                } else {
                    index.remove(id);
                    known.map(|at| rows.swap_remove(at));
                }
            }
            for length in [1.0, 20.0, 1e-20] {
                let sought: Vec<f32> = near(centre, seed, APART[of_apart]).iter().map(|x| x * length).collect();
                prop_assert_eq!(index.search(&sought, most), scan(&rows, &sought, most));
            }
        }

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
