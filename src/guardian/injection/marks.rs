//! Tokens of chat templates, which only the caller of a model writes.

/// Lower-case tokens, matched anywhere in a text.
const ANYWHERE: [&str; 18] = [
    "<|im_start|>",
    "<|im_end|>",
    "<|system|>",
    "<|assistant|>",
    "<|user|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "[inst]",
    "[/inst]",
    "<<sys>>",
    "<</sys>>",
    "<system>",
    "</system>",
    "[system]",
    "<start_of_turn>",
    "### system",
    "### assistant",
];
/// Tokens matched at the beginning of a line.
const LINES: [&str; 5] = [
    "assistant:",
    "system prompt:",
    "system message:",
    "### instruction",
    "system override",
];

/// Whether the text contains such a token.
pub(super) fn are_in(text: &str) -> bool {
    let small = text.to_ascii_lowercase();
    let mut lines = small.lines().map(str::trim_start);
    ANYWHERE.iter().any(|mark| small.contains(mark))
        || lines.any(|line| LINES.iter().any(|mark| line.starts_with(mark)))
}
