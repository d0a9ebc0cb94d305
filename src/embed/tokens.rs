//! Splits text into tokens, as sentence-transformers does.

use tokenizers::TruncationParams;

use super::{EmbedError, files::TOKENIZER};

/// Maximum number of tokens of a text, including `[CLS]` and `[SEP]`; further ones are dropped. The limit of
/// sentence-transformers for this model (`max_seq_length`).
pub const MAX_TOKENS: usize = 256;

/// Only this many bytes of a text are split, because splitting megabytes for the first 254 tokens would take seconds. A text with
/// fewer tokens in so many bytes consists of white space or of "words" of hundreds of letters.
const MAX_BYTES: usize = 64 * 1024;

/// The tokens of a text: from 2 (of an empty text) to [`MAX_TOKENS`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens(Vec<u32>);

impl Tokens {
    /// Their numbers in the vocabulary.
    pub fn ids(&self) -> &[u32] {
        &self.0
    }
}

/// Splits text into tokens.
pub(super) struct Tokenizer(tokenizers::Tokenizer);

impl Tokenizer {
    /// Reads the contents of `tokenizer.json`.
    pub(super) fn new(contents: &[u8]) -> Result<Self, EmbedError> {
        let load = |source| EmbedError::Tokenizer {
            file: TOKENIZER.name,
            source,
        };
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(contents).map_err(load)?;
        // The file cuts and pads to 128 tokens, which sentence-transformers overrides.
        let truncation = TruncationParams {
            max_length: MAX_TOKENS,
            ..TruncationParams::default()
        };
        tokenizer.with_truncation(Some(truncation)).map_err(load)?;
        tokenizer.with_padding(None);
        Ok(Self(tokenizer))
    }

    pub(super) fn split(&self, text: &str) -> Result<Tokens, EmbedError> {
        let text = &text[..text.floor_char_boundary(MAX_BYTES)];
        let encoding = self.0.encode_fast(text, true);
        let encoding = encoding.map_err(EmbedError::Tokens)?;
        Ok(Tokens(encoding.get_ids().to_vec()))
    }
}
