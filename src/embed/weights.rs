//! The weights of the model, in the form that both implementations of the forward pass read.

use candle_core::{Device, Result, Shape, Tensor, safetensors::BufferedSafetensors};

use super::{DIMENSIONS, HEAD, INTERMEDIATE, LAYERS};

/// A dense layer: `x · weightᵀ + bias`.
pub(super) struct Dense {
    /// [outputs, inputs].
    pub(super) weight: Tensor,
    /// [outputs].
    pub(super) bias: Tensor,
}

/// A layer norm over the last dimension, of 384.
pub(super) struct Norm {
    pub(super) scale: Tensor,
    pub(super) shift: Tensor,
}

/// A layer of the transformer.
pub(super) struct Layer {
    /// Queries, keys and values in one: 384 to 3 × 384. The queries' part is already divided by the root of a head's size.
    pub(super) qkv: Dense,
    /// After attention: 384 to 384.
    pub(super) out: Dense,
    pub(super) attention_norm: Norm,
    /// 384 to 1,536; GELU follows.
    pub(super) up: Dense,
    /// 1,536 to 384.
    pub(super) down: Dense,
    pub(super) norm: Norm,
}

/// All weights, on the CPU.
pub(super) struct Weights {
    /// The embedding of each token: [30522, 384].
    pub(super) words: Tensor,
    /// The embedding of each position, plus that of the segment, which is always the first: [512, 384].
    pub(super) positions: Tensor,
    pub(super) norm: Norm,
    pub(super) layers: Vec<Layer>,
}

impl Weights {
    /// Reads the contents of `model.safetensors`.
    pub(super) fn new(contents: Vec<u8>) -> Result<Self> {
        let file = File(BufferedSafetensors::new(contents)?);
        let segments = file.tensor("embeddings.token_type_embeddings.weight", (2, DIMENSIONS))?;
        let positions = file.tensor("embeddings.position_embeddings.weight", (512, DIMENSIONS))?;
        let words = file.tensor("embeddings.word_embeddings.weight", (30_522, DIMENSIONS))?;
        let layers = 0..LAYERS;
        Ok(Self {
            words,
            positions: positions.broadcast_add(&segments.get(0)?)?,
            norm: file.norm("embeddings.LayerNorm")?,
            layers: layers.map(|n| file.layer(n)).collect::<Result<_>>()?,
        })
    }
}

struct File(BufferedSafetensors);

impl File {
    fn tensor(&self, name: &str, shape: impl Into<Shape>) -> Result<Tensor> {
        let tensor = self.0.load(name, &Device::Cpu)?;
        let shape = shape.into();
        if *tensor.shape() != shape {
            candle_core::bail!("{name} has the shape {:?}, not {shape:?}", tensor.shape());
        }
        Ok(tensor)
    }

    fn dense(&self, name: &str, outputs: usize, inputs: usize) -> Result<Dense> {
        Ok(Dense {
            weight: self.tensor(&format!("{name}.weight"), (outputs, inputs))?,
            bias: self.tensor(&format!("{name}.bias"), outputs)?,
        })
    }

    fn norm(&self, name: &str) -> Result<Norm> {
        Ok(Norm {
            scale: self.tensor(&format!("{name}.weight"), DIMENSIONS)?,
            shift: self.tensor(&format!("{name}.bias"), DIMENSIONS)?,
        })
    }

    fn layer(&self, n: usize) -> Result<Layer> {
        let name = |part: &str| format!("encoder.layer.{n}.{part}");
        let [q, k, v] = ["query", "key", "value"].map(|part| {
            self.dense(
                &name(&format!("attention.self.{part}")),
                DIMENSIONS,
                DIMENSIONS,
            )
        });
        let (q, k, v) = (q?, k?, v?);
        let scale = 1.0 / (HEAD as f64).sqrt();
        Ok(Layer {
            qkv: Dense {
                weight: Tensor::cat(&[&(q.weight * scale)?, &k.weight, &v.weight], 0)?,
                bias: Tensor::cat(&[&(q.bias * scale)?, &k.bias, &v.bias], 0)?,
            },
            out: self.dense(&name("attention.output.dense"), DIMENSIONS, DIMENSIONS)?,
            attention_norm: self.norm(&name("attention.output.LayerNorm"))?,
            up: self.dense(&name("intermediate.dense"), INTERMEDIATE, DIMENSIONS)?,
            down: self.dense(&name("output.dense"), DIMENSIONS, INTERMEDIATE)?,
            norm: self.norm(&name("output.LayerNorm"))?,
        })
    }
}
