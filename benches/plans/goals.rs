//! Sentences as goals: their templates and vectors. Vectors are kept in `target/`, because computing them takes minutes.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use omnilink::{
    base::clock::Millis,
    embed::{DIMENSIONS, Model, Settings},
    plans::template::template,
};
use serde_json::Value;

/// 30 November 2026: what relative dates count from.
const NOW: Millis = Millis(1_796_000_000_000);
const BATCH: usize = 64;

/// A goal.
#[derive(Clone)]
pub struct Goal {
    pub text: String,
    pub key: String,
    pub slots: BTreeMap<String, Value>,
    /// Kinds and forms of the slots, sorted.
    pub kinds: Vec<String>,
    pub vector: Vec<f32>,
}

/// Computes templates and vectors.
pub struct Goals {
    model: Model,
    file: PathBuf,
    vectors: HashMap<String, Vec<f32>>,
}

impl Goals {
    pub fn new(model: &Path) -> Self {
        let target = std::env::var("CARGO_TARGET_DIR");
        let target =
            target.unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/target").into());
        let file = PathBuf::from(target).join("plans-vectors.bin");
        let vectors = fs::read(&file)
            .map(|bytes| read(&bytes))
            .unwrap_or_default();
        Self {
            model: Model::load(model, Settings::default()).unwrap(),
            file,
            vectors,
        }
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The folder of build outputs.
    pub fn target(&self) -> &Path {
        self.file.parent().unwrap()
    }

    /// The goal with its template and key computed again.
    pub fn anew(text: &str, goal: Goal) -> Goal {
        let template = template(text, NOW);
        Goal {
            key: template.key(),
            text: template.text,
            ..goal
        }
    }

    /// The goals of texts, in their order.
    pub fn of<T: AsRef<str>>(&mut self, texts: &[T]) -> Vec<Goal> {
        let templates: Vec<_> = texts
            .iter()
            .map(|text| template(text.as_ref(), NOW))
            .collect();
        let mut missing: Vec<&str> = templates.iter().map(|t| t.text.as_str()).collect();
        missing.retain(|text| !self.vectors.contains_key(*text));
        missing.sort_unstable_by_key(|text| text.len());
        missing.dedup();
        if !missing.is_empty() {
            for batch in missing.chunks(BATCH) {
                let tokens = batch.iter().map(|text| self.model.tokens(text).unwrap());
                let vectors = self.model.vectors(&tokens.collect::<Vec<_>>()).unwrap();
                let vectors = batch.iter().zip(vectors);
                self.vectors
                    .extend(vectors.map(|(text, vector)| ((*text).to_owned(), vector.to_vec())));
            }
            self.write();
        }
        let goals = templates.into_iter().map(|template| {
            let form = |form: &Option<String>| form.clone().unwrap_or_default();
            let kinds = template.slots.iter();
            let mut kinds: Vec<_> = kinds
                .map(|slot| format!("{}:{}", slot.kind.name(), form(&slot.form)))
                .collect();
            kinds.sort_unstable();
            Goal {
                vector: self.vectors[&template.text].clone(),
                key: template.key(),
                slots: template.values(),
                text: template.text,
                kinds,
            }
        });
        goals.collect()
    }

    fn write(&self) {
        fs::create_dir_all(self.file.parent().unwrap()).unwrap();
        let mut file = BufWriter::new(File::create(&self.file).unwrap());
        for (text, vector) in &self.vectors {
            file.write_all(&(text.len() as u32).to_le_bytes()).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            for x in vector {
                file.write_all(&x.to_le_bytes()).unwrap();
            }
        }
        file.flush().unwrap();
    }
}

fn read(bytes: &[u8]) -> HashMap<String, Vec<f32>> {
    let mut vectors = HashMap::new();
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let Some((text, after)) = after.split_at_checked(length) else {
            break;
        };
        let Some((floats, after)) = after.split_at_checked(4 * DIMENSIONS) else {
            break;
        };
        let floats = floats
            .as_chunks::<4>()
            .0
            .iter()
            .map(|x| f32::from_le_bytes(*x));
        vectors.insert(String::from_utf8_lossy(text).into_owned(), floats.collect());
        rest = after;
    }
    vectors
}
