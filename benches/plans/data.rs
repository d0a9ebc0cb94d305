//! The sentences: CLINC150, and minimal pairs.

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use serde::Deserialize;

/// A request, and what it asks for. Out of scope: `oos`.
#[derive(Clone, Debug)]
pub struct Sentence {
    pub text: String,
    pub intent: String,
}

/// The splits of CLINC150.
pub struct Clinc {
    splits: BTreeMap<String, Vec<(String, String)>>,
}

impl Clinc {
    /// `None`: the file is not there.
    pub fn read() -> Option<Self> {
        let folder = env::var("OMNILINK_SHARED_DATA").unwrap_or_else(|_| "../shared/data".into());
        let path = PathBuf::from(folder).join("clinc150/data_full.json");
        let text = fs::read_to_string(path).ok()?;
        let splits = serde_json::from_str(&text).unwrap();
        Some(Self { splits })
    }

    pub fn split(&self, name: &str) -> Vec<Sentence> {
        let sentences = self.splits[name].iter().cloned();
        sentences
            .map(|(text, intent)| Sentence { text, intent })
            .collect()
    }
}

/// Two goals, and whether the plan of `a` may serve `b`.
#[derive(Clone, Debug, Deserialize)]
pub struct Pair {
    pub kind: String,
    pub a: String,
    pub b: String,
    pub hit: bool,
    pub split: String,
}

/// The minimal pairs of a split.
pub fn pairs(split: &str) -> Vec<Pair> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/plans/pairs.jsonl");
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let pairs = lines.map(|line| serde_json::from_str::<Pair>(line).unwrap());
    pairs.filter(|pair| pair.split == split).collect()
}

/// Random numbers that are the same everywhere (SplitMix64).
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to 1.
    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub fn below(&mut self, count: usize) -> usize {
        ((self.uniform() * count as f64) as usize).min(count - 1)
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// Draws intents by a Zipf law of exponent 1.
pub struct Zipf(Vec<f64>);

impl Zipf {
    pub fn new(count: usize) -> Self {
        let mut sum = 0.0;
        let sums = (1..=count).map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        });
        Self(sums.collect())
    }

    pub fn draw(&self, random: &mut Random) -> usize {
        let all = self.0.last().copied().unwrap_or_default();
        let at = random.uniform() * all;
        self.0
            .partition_point(|sum| *sum < at)
            .min(self.0.len() - 1)
    }
}
