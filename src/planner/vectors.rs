//! Vectors of texts, from the embedder. The model is loaded in the background, and again later if it was missing: `omnilink model fetch`
//! needs no restart.

use std::{path::PathBuf, sync::Arc};

use parking_lot::RwLock;
use tokio::sync::Semaphore;

#[cfg(feature = "embed")]
use crate::embed::Embedder;

/// The number of texts of a call, so that calls of others are not held up.
const TEXTS: usize = 64;
/// The number of goals that wait for the embedder at the same time: half of its queue. The others wait here, where they are neither
/// refused nor have a deadline, so that a burst of goals is slow and not without plans.
const GOALS: usize = 512;

/// The vector of a text, of length 1.
pub type Vector = Arc<[f32]>;

/// There are no vectors at the moment.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoVectors(String);

/// The source of vectors. Cheap to clone.
#[derive(Clone)]
pub struct Vectors(Arc<Inner>);

struct Inner {
    /// `None`: the model is never loaded.
    folder: Option<PathBuf>,
    model: RwLock<Model>,
    turns: Semaphore,
}

enum Model {
    #[cfg(feature = "embed")]
    Loaded(Embedder),
    Missing(String),
}

impl Vectors {
    /// From the model in this folder, once [`Vectors::load`] has loaded it. Without a folder there are none.
    pub fn new(folder: Option<PathBuf>) -> Self {
        let why = if folder.is_none() {
            "the model of the embeddings is not used here"
        } else if cfg!(feature = "embed") {
            "the model of the embeddings is being loaded"
        } else {
            "this binary was built without embeddings"
        };
        Self(Arc::new(Inner {
            folder,
            model: RwLock::new(Model::Missing(why.to_owned())),
            turns: Semaphore::new(GOALS),
        }))
    }

    /// Why there are no vectors; `None` if there are.
    pub fn missing(&self) -> Option<String> {
        match &*self.0.model.read() {
            #[cfg(feature = "embed")]
            Model::Loaded(_) => None,
            Model::Missing(why) => Some(why.clone()),
        }
    }

    /// Loads the model, if it is not loaded and its files are there. Blocks for about 0.2 s. Returns whether there are vectors now that
    /// there were not before.
    #[cfg(feature = "embed")]
    pub fn load(&self) -> bool {
        let Some(folder) = &self.0.folder else {
            return false;
        };
        if self.missing().is_none() {
            return false;
        }
        match Embedder::load(folder) {
            Ok(embedder) => {
                *self.0.model.write() = Model::Loaded(embedder);
                true
            }
            Err(error) => {
                *self.0.model.write() = Model::Missing(error.to_string());
                false
            }
        }
    }

    /// This binary has no embeddings.
    #[cfg(not(feature = "embed"))]
    pub fn load(&self) -> bool {
        let _ = &self.0.folder;
        false
    }

    /// The vectors of texts, in their order.
    #[cfg(feature = "embed")]
    pub async fn of(&self, texts: &[&str]) -> Result<Vec<Vector>, NoVectors> {
        let embedder = match &*self.0.model.read() {
            Model::Loaded(embedder) => embedder.clone(),
            Model::Missing(why) => return Err(NoVectors(why.clone())),
        };
        let mut vectors = Vec::with_capacity(texts.len());
        for texts in texts.chunks(TEXTS) {
            let embedded = embedder.embed(texts).await;
            let embedded = embedded.map_err(|error| NoVectors(error.to_string()))?;
            vectors.extend(embedded.iter().map(|vector| Vector::from(&vector[..])));
        }
        Ok(vectors)
    }

    /// This binary has no embeddings.
    #[cfg(not(feature = "embed"))]
    #[expect(clippy::unused_async, reason = "as with embeddings")]
    pub async fn of(&self, texts: &[&str]) -> Result<Vec<Vector>, NoVectors> {
        let _ = texts.chunks(TEXTS);
        Err(NoVectors(self.missing().unwrap_or_default()))
    }

    /// The vector of a goal's text. Goals that come at the same time share batches, and wait for their turn if they are many.
    pub async fn one(&self, text: &str) -> Result<Vector, NoVectors> {
        let turn = self.0.turns.acquire().await;
        let _turn = turn.map_err(|error| NoVectors(error.to_string()))?;
        let vectors = self.of(&[text]).await?;
        let one = vectors.into_iter().next();
        one.ok_or_else(|| NoVectors("the embedder gave no vector".to_owned()))
    }
}

/// The cosine similarity of two vectors of length 1.
pub(super) fn similarity(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
