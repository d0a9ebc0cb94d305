//! Reads topology files. Every value keeps its position in the file, so that all errors of all files are reported at once.

pub(crate) mod fields;
pub(crate) mod file;
pub(crate) mod model;
pub(crate) mod problem;
pub(crate) mod system;
pub(crate) mod trial;
mod validation;
pub(crate) mod yaml;
