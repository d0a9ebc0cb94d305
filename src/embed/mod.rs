//! Sentence embeddings: all-MiniLM-L6-v2, 384 floats a text (`docs/embeddings.md`).
//!
//! The rest of the program uses [`Embedder`]: a bounded queue in front of a [`Model`], on threads of low priority. The forward
//! pass has two implementations with the same results: [`kernels`] for x86-64 processors with AVX2 or AVX-512, and [`tensors`],
//! written with candle, for all other processors and GPUs.

mod error;
pub mod files;
#[cfg(target_arch = "x86_64")]
mod kernels;
mod model;
mod queue;
mod tensors;
mod tokens;
mod weights;

pub use error::{Class, EmbedError};
pub use model::{Backend, Model, Settings};
pub use queue::{Embedder, QUEUE_TEXTS, TIMEOUT};
pub use tokens::{MAX_TOKENS, Tokens};

/// Floats of a vector.
pub const DIMENSIONS: usize = 384;

/// The embedding of a text: of length 1, so that the dot product of two is their cosine similarity.
pub type Vector = [f32; DIMENSIONS];

/// Layers of the model.
const LAYERS: usize = 6;
/// Attention heads of a layer.
const HEADS: usize = 12;
/// Floats of a head.
const HEAD: usize = DIMENSIONS / HEADS;
/// Floats between the two dense layers of a layer's feed-forward part.
const INTERMEDIATE: usize = 4 * DIMENSIONS;
/// Added to a variance before taking its root (`layer_norm_eps` in the model's config.json).
const EPSILON: f32 = 1e-12;
