//! The forward pass on x86-64 processors with AVX2 or AVX-512, around the kernels of `omnilink-kernels`.
//!
//! Texts of a batch lie one after another without padding, so nothing is masked.

mod attention;
mod pass;

pub(super) use pass::Kernels;
