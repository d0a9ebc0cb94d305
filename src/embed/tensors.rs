//! The forward pass with candle's tensors, for all devices that candle supports: GPUs, and CPUs without kernels in [`super::kernels`].

use candle_core::{D, Device, Result, Tensor};

use super::{DIMENSIONS, EPSILON, HEAD, HEADS, Vector, weights};

/// Maximum number of texts in a pass.
const BATCH: usize = 64;

/// The model on a device.
pub(super) struct Tensors {
    device: Device,
    words: Tensor,
    positions: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
}

struct Dense {
    /// [inputs, outputs].
    weight: Tensor,
    bias: Tensor,
}

struct Norm {
    scale: Tensor,
    shift: Tensor,
}

struct Layer {
    qkv: Dense,
    out: Dense,
    attention_norm: Norm,
    up: Dense,
    down: Dense,
    norm: Norm,
}

impl Dense {
    fn new(dense: &weights::Dense, device: &Device) -> Result<Self> {
        Ok(Self {
            weight: dense.weight.t()?.contiguous()?.to_device(device)?,
            bias: dense.bias.to_device(device)?,
        })
    }

    /// [rows, inputs] to [rows, outputs].
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        x.matmul(&self.weight)?.broadcast_add(&self.bias)
    }
}

impl Norm {
    fn new(norm: &weights::Norm, device: &Device) -> Result<Self> {
        Ok(Self {
            scale: norm.scale.to_device(device)?,
            shift: norm.shift.to_device(device)?,
        })
    }

    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let deviation = (variance + f64::from(EPSILON))?.sqrt()?;
        let scaled = centred.broadcast_div(&deviation)?;
        scaled
            .broadcast_mul(&self.scale)?
            .broadcast_add(&self.shift)
    }
}

impl Layer {
    fn new(layer: &weights::Layer, device: &Device) -> Result<Self> {
        Ok(Self {
            qkv: Dense::new(&layer.qkv, device)?,
            out: Dense::new(&layer.out, device)?,
            attention_norm: Norm::new(&layer.attention_norm, device)?,
            up: Dense::new(&layer.up, device)?,
            down: Dense::new(&layer.down, device)?,
            norm: Norm::new(&layer.norm, device)?,
        })
    }

    /// `x`: [texts × tokens, 384]. `mask`, only where a text is padded: [texts, 1, 1, tokens], 0 or -∞.
    fn apply(
        &self,
        x: &Tensor,
        texts: usize,
        tokens: usize,
        mask: Option<&Tensor>,
    ) -> Result<Tensor> {
        let qkv = self
            .qkv
            .apply(x)?
            .reshape((texts, tokens, 3, HEADS, HEAD))?;
        let qkv = qkv.permute((2, 0, 3, 1, 4))?.contiguous()?;
        let (q, k, v) = (qkv.get(0)?, qkv.get(1)?, qkv.get(2)?);
        let mut scores = q.matmul(&k.t()?)?;
        if let Some(mask) = mask {
            scores = scores.broadcast_add(mask)?;
        }
        let scores = scores
            .broadcast_sub(&scores.max_keepdim(D::Minus1)?)?
            .exp()?;
        let scores = scores.broadcast_div(&scores.sum_keepdim(D::Minus1)?)?;
        let context = scores.matmul(&v)?.transpose(1, 2)?.contiguous()?;
        let context = context.reshape((texts * tokens, DIMENSIONS))?;
        let x = self
            .attention_norm
            .apply(&(x + self.out.apply(&context)?)?)?;
        let up = self.up.apply(&x)?.gelu_erf()?;
        self.norm.apply(&(&x + self.down.apply(&up)?)?)
    }
}

impl Tensors {
    /// Moves the weights to `device`.
    pub(super) fn new(weights: &weights::Weights, device: Device) -> Result<Self> {
        let layers = weights.layers.iter();
        Ok(Self {
            words: weights.words.to_device(&device)?,
            positions: weights.positions.to_device(&device)?,
            norm: Norm::new(&weights.norm, &device)?,
            layers: layers
                .map(|layer| Layer::new(layer, &device))
                .collect::<Result<_>>()?,
            device,
        })
    }

    /// The vectors of texts, in their order. Texts of similar length share a pass, so that little is padded.
    pub(super) fn vectors(&self, texts: &[&[u32]]) -> Result<Vec<Vector>> {
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&n| texts[n].len());
        let mut vectors = vec![[0.0; DIMENSIONS]; texts.len()];
        for batch in order.chunks(BATCH) {
            let tokens: Vec<&[u32]> = batch.iter().map(|&n| texts[n]).collect();
            let pooled = self.pass(&tokens)?.to_vec2::<f32>()?;
            for (&n, vector) in batch.iter().zip(&pooled) {
                vectors[n].copy_from_slice(vector);
            }
        }
        Ok(vectors)
    }

    /// [texts, 384].
    fn pass(&self, batch: &[&[u32]]) -> Result<Tensor> {
        let texts = batch.len();
        let tokens = batch.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let padded = batch.iter().any(|ids| ids.len() < tokens);
        let of_each = |of_token: &dyn Fn(&[u32], usize) -> f32| {
            let of_text = |ids: &&[u32]| (0..tokens).map(|n| of_token(ids, n)).collect::<Vec<_>>();
            let all: Vec<f32> = batch.iter().flat_map(of_text).collect();
            Tensor::from_vec(all, (texts, tokens), &self.device)
        };
        let ids = batch
            .iter()
            .flat_map(|ids| (0..tokens).map(|n| ids.get(n).copied().unwrap_or(0)));
        let ids = Tensor::from_vec(ids.collect::<Vec<u32>>(), texts * tokens, &self.device)?;
        let words = self.words.index_select(&ids, 0)?;
        let words = words.reshape((texts, tokens, DIMENSIONS))?;
        let x = words.broadcast_add(&self.positions.narrow(0, 0, tokens)?)?;
        let mut x = self.norm.apply(&x.reshape((texts * tokens, DIMENSIONS))?)?;
        let mask = if padded {
            let mask = of_each(&|ids, n| {
                if n < ids.len() {
                    0.0
                } else {
                    f32::NEG_INFINITY
                }
            })?;
            Some(mask.reshape((texts, 1, 1, tokens))?)
        } else {
            None
        };
        for layer in &self.layers {
            x = layer.apply(&x, texts, tokens, mask.as_ref())?;
        }
        // The division of the mean is omitted, because normalising cancels it.
        let weights = of_each(&|ids, n| if n < ids.len() { 1.0 } else { 0.0 })?;
        let x = x.reshape((texts, tokens, DIMENSIONS))?;
        let sum = x.broadcast_mul(&weights.unsqueeze(2)?)?.sum(1)?;
        let length = sum.sqr()?.sum_keepdim(1)?.sqrt()?;
        sum.broadcast_div(&length)
    }
}
