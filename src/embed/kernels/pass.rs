//! The forward pass.

use std::ops::Range;

use candle_core::{Result, Tensor};
use omnilink_kernels::{Block, Isa, Lane, WIDTH};
use rayon::prelude::*;

use super::attention;
use crate::embed::{DIMENSIONS, EPSILON, INTERMEDIATE, Vector, weights};

/// Panels of 384 floats.
const PANELS: usize = DIMENSIONS / WIDTH;

/// Rows (tokens) of one pass, unless a single text is longer. Their activations fit into the second-level cache.
const ROWS: usize = 128;
/// A batch with fewer texts per thread than this is one pass that all threads share. In larger batches each thread runs its own passes.
const TEXTS_OF_THREAD: usize = 3;

/// The model, its weights packed for [`Isa::panel`].
pub(in crate::embed) struct Kernels {
    isa: Isa,
    /// [tokens of the vocabulary, 384], in rows.
    words: Vec<Lane>,
    /// [512, 384], in rows.
    positions: Vec<Lane>,
    norm: Norm,
    layers: Vec<Layer>,
}

struct Dense {
    /// For each panel of outputs, one block for each panel of inputs.
    weights: Vec<Block>,
    /// Number of input panels.
    inputs: usize,
    /// One lane for each panel of outputs.
    bias: Vec<Lane>,
}

struct Norm {
    scale: Vec<Lane>,
    shift: Vec<Lane>,
}

struct Layer {
    qkv: Dense,
    out: Dense,
    attention_norm: Norm,
    up: Dense,
    down: Dense,
    norm: Norm,
}

/// How threads divide the work of a pass.
#[derive(Clone, Copy, PartialEq)]
enum Threads {
    /// All threads work on one pass: they divide the panels of each layer.
    Share,
    /// Each thread runs its own pass.
    Separate,
}

/// The floats of a tensor, in lanes.
fn lanes(tensor: &Tensor) -> Result<Vec<Lane>> {
    let floats: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
    Ok(floats.as_chunks().0.iter().copied().map(Lane).collect())
}

impl Dense {
    fn new(dense: &weights::Dense) -> Result<Self> {
        let inputs = dense.weight.dim(1)? / WIDTH;
        let rows = lanes(&dense.weight)?;
        let of_panel = |outputs: &[Lane]| {
            let mut blocks = vec![Block::ZERO; inputs];
            for (output, row) in outputs.chunks_exact(inputs).enumerate() {
                for (block, weights) in blocks.iter_mut().zip(row) {
                    for (lane, weight) in block.0.iter_mut().zip(weights.0) {
                        lane.0[output] = weight;
                    }
                }
            }
            blocks
        };
        Ok(Self {
            weights: rows
                .chunks_exact(WIDTH * inputs)
                .flat_map(of_panel)
                .collect(),
            inputs,
            bias: lanes(&dense.bias)?,
        })
    }
}

impl Norm {
    fn new(norm: &weights::Norm) -> Result<Self> {
        Ok(Self {
            scale: lanes(&norm.scale)?,
            shift: lanes(&norm.shift)?,
        })
    }
}

impl Layer {
    fn new(layer: &weights::Layer) -> Result<Self> {
        Ok(Self {
            qkv: Dense::new(&layer.qkv)?,
            out: Dense::new(&layer.out)?,
            attention_norm: Norm::new(&layer.attention_norm)?,
            up: Dense::new(&layer.up)?,
            down: Dense::new(&layer.down)?,
            norm: Norm::new(&layer.norm)?,
        })
    }
}

impl Threads {
    /// Calls `each` for every chunk of `size` lanes of `out`.
    fn run(self, out: &mut [Lane], size: usize, each: impl Fn(usize, &mut [Lane]) + Sync + Send) {
        match self {
            Self::Share => {
                let pieces = 2 * rayon::current_num_threads();
                let panels = out.len() / size;
                out.par_chunks_mut(size)
                    .enumerate()
                    .with_min_len((panels / pieces).max(1))
                    .for_each(|(n, out)| each(n, out));
            }
            Self::Separate => {
                for (n, out) in out.chunks_mut(size).enumerate() {
                    each(n, out);
                }
            }
        }
    }
}

impl Kernels {
    /// Packs the weights.
    pub(in crate::embed) fn new(weights: &weights::Weights, isa: Isa) -> Result<Self> {
        let layers = weights.layers.iter();
        Ok(Self {
            isa,
            words: lanes(&weights.words)?,
            positions: lanes(&weights.positions)?,
            norm: Norm::new(&weights.norm)?,
            layers: layers.map(Layer::new).collect::<Result<_>>()?,
        })
    }

    /// The vectors of texts, in their order. Runs on the current rayon pool.
    pub(in crate::embed) fn vectors(&self, texts: &[&[u32]]) -> Vec<Vector> {
        let threads = rayon::current_num_threads();
        let mut vectors = vec![[0.0; DIMENSIONS]; texts.len()];
        if threads > 1 && texts.len() < TEXTS_OF_THREAD * threads {
            self.pass(texts, Threads::Share, |n, vector| vectors[n] = vector);
            return vectors;
        }
        // Balances tokens: the longest text first, each to the thread with the fewest tokens.
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&n| usize::MAX - texts[n].len());
        let mut shares: Vec<(usize, Vec<usize>)> = vec![(0, Vec::new()); threads];
        for n in order {
            if let Some((tokens, share)) = shares.iter_mut().min_by_key(|(tokens, _)| *tokens) {
                *tokens += texts[n].len();
                share.push(n);
            }
        }
        let of_share = |(_, share): &(usize, Vec<usize>)| {
            let mut found = Vec::with_capacity(share.len());
            let mut rest = &share[..];
            while !rest.is_empty() {
                let mut rows = 0;
                let fits = |n: &&usize| {
                    rows += texts[**n].len();
                    rows <= ROWS
                };
                let (batch, after) = rest.split_at(rest.iter().take_while(fits).count().max(1));
                let tokens: Vec<&[u32]> = batch.iter().map(|&n| texts[n]).collect();
                self.pass(&tokens, Threads::Separate, |n, vector| {
                    found.push((batch[n], vector));
                });
                rest = after;
            }
            found
        };
        let found = shares.par_iter().with_max_len(1).flat_map_iter(of_share);
        for (n, vector) in found.collect::<Vec<_>>() {
            vectors[n] = vector;
        }
        vectors
    }

    /// One pass over `texts`; calls `found` with each text's index and vector.
    fn pass(&self, texts: &[&[u32]], threads: Threads, mut found: impl FnMut(usize, Vector)) {
        let rows: usize = texts.iter().map(|ids| ids.len()).sum();
        let mut ends = 0;
        let of_text = |ids: &&[u32]| {
            let begin = ends;
            ends += ids.len();
            begin..ends
        };
        let ranges: Vec<Range<usize>> = texts.iter().map(of_text).collect();

        let mut x = self.embedded(texts, rows);
        let mut qkv = vec![Lane::ZERO; 3 * PANELS * rows];
        let mut context = vec![Lane::ZERO; PANELS * rows];
        let mut up = vec![Lane::ZERO; INTERMEDIATE / WIDTH * rows];
        let mut added = vec![Lane::ZERO; PANELS * rows];
        for layer in &self.layers {
            self.dense(&layer.qkv, &x, rows, false, threads, &mut qkv);
            let head_lanes = attention::PANELS * rows;
            threads.run(&mut context, head_lanes, |head, out| {
                let mut scratch = attention::Scratch::default();
                for range in &ranges {
                    let range = range.clone();
                    attention::head(self.isa, &qkv, rows, head, range, &mut scratch, out);
                }
            });
            self.dense(&layer.out, &context, rows, false, threads, &mut added);
            self.add_norm(&mut x, &added, rows, &layer.attention_norm);
            self.dense(&layer.up, &x, rows, true, threads, &mut up);
            self.dense(&layer.down, &up, rows, false, threads, &mut added);
            self.add_norm(&mut x, &added, rows, &layer.norm);
        }
        for (n, range) in ranges.into_iter().enumerate() {
            found(n, pooled(&x, rows, &range));
        }
    }

    /// The embeddings of tokens and their positions, normalised.
    fn embedded(&self, texts: &[&[u32]], rows: usize) -> Vec<Lane> {
        let mut x = vec![Lane::ZERO; PANELS * rows];
        let mut positions = x.clone();
        let tokens = texts.iter().flat_map(|ids| ids.iter().enumerate());
        for (row, (position, &id)) in tokens.enumerate() {
            for panel in 0..PANELS {
                x[panel * rows + row] = self.words[id as usize * PANELS + panel];
                positions[panel * rows + row] = self.positions[position * PANELS + panel];
            }
        }
        self.add_norm(&mut x, &positions, rows, &self.norm);
        x
    }

    fn dense(
        &self,
        dense: &Dense,
        x: &[Lane],
        rows: usize,
        gelu: bool,
        threads: Threads,
        out: &mut [Lane],
    ) {
        threads.run(out, rows, |panel, out| {
            let weights = &dense.weights[panel * dense.inputs..][..dense.inputs];
            let bias = &dense.bias[panel];
            self.isa.panel((x, rows), 0..rows, weights, bias, gelu, out);
        });
    }

    fn add_norm(&self, x: &mut [Lane], added: &[Lane], rows: usize, norm: &Norm) {
        self.isa
            .add_norm(x, added, rows, (&norm.scale, &norm.shift), EPSILON);
    }
}

/// The mean of a text's rows, normalised. The division of the mean is omitted, because normalising cancels it.
fn pooled(x: &[Lane], rows: usize, range: &Range<usize>) -> Vector {
    let mut vector = [0.0; DIMENSIONS];
    let panels = x.chunks_exact(rows);
    for (out, panel) in vector.as_chunks_mut::<WIDTH>().0.iter_mut().zip(panels) {
        for row in &panel[range.clone()] {
            for (out, x) in out.iter_mut().zip(row.0) {
                *out += x;
            }
        }
    }
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    for x in &mut vector {
        *x /= length;
    }
    vector
}
