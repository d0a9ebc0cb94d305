//! The vector kernels of OmniLink's embeddings and of the search among them, for x86-64 with AVX2 or AVX-512.
//!
//! A separate crate, because dev builds optimise it (`profile.dev.package` in the root's Cargo.toml): without that a text takes
//! seconds instead of milliseconds.
//!
//! Activations are stored in panels of 16 columns: `x[panel * rows + row]` is a [`Lane`], so a block of rows of a panel is
//! contiguous. Weights are packed once, at the start, into [`Block`]s of 16 × 16. One kernel, [`Isa::panel`], reads both
//! sequentially and serves dense layers and attention alike.
#![cfg(target_arch = "x86_64")]

mod isa;
mod lane;

pub use isa::Isa;
pub use lane::{Block, Lane, WIDTH};
