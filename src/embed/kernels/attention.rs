//! Attention of one head.

use std::ops::Range;

use omnilink_kernels::{Block, Isa, Lane, WIDTH};

use crate::embed::{DIMENSIONS, HEAD};

/// Panels of a head.
pub(super) const PANELS: usize = HEAD / WIDTH;
/// Panels of the queries; the keys and then the values follow with as many.
const PART: usize = DIMENSIONS / WIDTH;

/// Buffers of the attention of a text, reused for the next text.
#[derive(Default)]
pub(super) struct Scratch {
    /// For each 16 tokens, the keys as weights: inputs are the head's floats, outputs the tokens.
    keys: Vec<Block>,
    /// For each panel of the head, the values as weights: inputs are the tokens, outputs the head's floats.
    values: Vec<Block>,
    /// [tokens, tokens].
    scores: Vec<Lane>,
}

/// Computes attention of `head` for the text in `rows`. Writes to `out`, which has the head's panels of `stride` rows. `qkv`
/// holds queries, keys and values in panels of as many rows.
pub(super) fn head(
    isa: Isa,
    qkv: &[Lane],
    stride: usize,
    head: usize,
    rows: Range<usize>,
    scratch: &mut Scratch,
    out: &mut [Lane],
) {
    let tokens = rows.len();
    let groups = tokens.div_ceil(WIDTH);
    let panel = |part: usize, n: usize| {
        let begin = (part * PART + head * PANELS + n) * stride;
        &qkv[begin..begin + stride]
    };
    scratch.keys.clear();
    scratch.keys.resize(groups * PANELS, Block::ZERO);
    scratch.values.clear();
    scratch.values.resize(PANELS * groups, Block::ZERO);
    scratch.scores.resize(groups * tokens, Lane::ZERO);
    for n in 0..PANELS {
        let keys = &panel(1, n)[rows.clone()];
        for (group, keys) in keys.chunks(WIDTH).enumerate() {
            let block = &mut scratch.keys[group * PANELS + n];
            for (token, key) in keys.iter().enumerate() {
                for (weights, x) in block.0.iter_mut().zip(key.0) {
                    weights.0[token] = x;
                }
            }
        }
        let values = &panel(2, n)[rows.clone()];
        for (group, values) in values.chunks(WIDTH).enumerate() {
            let block = &mut scratch.values[n * groups + group];
            block.0[..values.len()].copy_from_slice(values);
        }
    }
    let queries = head * PANELS * stride;
    let queries = &qkv[queries..queries + PANELS * stride];
    let of_groups = scratch.scores.chunks_exact_mut(tokens);
    for (keys, scores) in scratch.keys.chunks_exact(PANELS).zip(of_groups) {
        let x = (queries, stride);
        isa.panel(x, rows.clone(), keys, &Lane::ZERO, false, scores);
    }
    isa.softmax(&mut scratch.scores, tokens);
    let of_panels = out.chunks_exact_mut(stride);
    for (values, out) in scratch.values.chunks_exact(groups).zip(of_panels) {
        let x = (&*scratch.scores, tokens);
        isa.panel(
            x,
            0..tokens,
            values,
            &Lane::ZERO,
            false,
            &mut out[rows.clone()],
        );
    }
}
