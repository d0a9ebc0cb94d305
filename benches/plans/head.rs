//! The baseline: a few-shot head, as in W5H2 (arXiv 2602.18922). A class is the mean of its examples' vectors; the nearest class answers
//! when it leads over the second by a threshold, which is chosen so that the error stays below its bound on the develop split.

use std::collections::BTreeMap;

use crate::goals::Goal;

pub struct Head {
    classes: Vec<(String, Vec<f32>)>,
}

pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    f64::from(a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>())
}

impl Head {
    /// From at most `shots` examples of each class.
    pub fn new<'a>(examples: impl Iterator<Item = (&'a str, &'a Goal)>, shots: usize) -> Self {
        let mut sums: BTreeMap<&str, (usize, Vec<f32>)> = BTreeMap::new();
        for (intent, goal) in examples {
            let (count, sum) = sums
                .entry(intent)
                .or_insert_with(|| (0, vec![0.0; goal.vector.len()]));
            if *count < shots {
                *count += 1;
                sum.iter_mut()
                    .zip(&goal.vector)
                    .for_each(|(sum, x)| *sum += x);
            }
        }
        let classes = sums.into_iter().map(|(intent, (_, mut sum))| {
            let length = dot(&sum, &sum).sqrt() as f32;
            for x in &mut sum {
                *x /= length;
            }
            (intent.to_owned(), sum)
        });
        Self {
            classes: classes.collect(),
        }
    }

    /// The nearest class, and its lead over the second.
    pub fn answer(&self, goal: &Goal) -> (&str, f64) {
        let (mut first, mut second) = (("", -1.0), -1.0_f64);
        for (intent, mean) in &self.classes {
            let score = dot(mean, &goal.vector);
            if score > first.1 {
                second = first.1;
                first = (intent.as_str(), score);
            } else {
                second = second.max(score);
            }
        }
        (first.0, first.1 - second)
    }
}
