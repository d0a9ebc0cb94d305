//! The files of the model, identified by their checksums.

use std::{fs, io, path::Path};

use sha2::{Digest, Sha256};

use super::EmbedError;
use crate::base::hex::hex;

/// Where the model is published: the folder of its files at the hub.
pub const HUB: &str = "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2/resolve/main";

/// A file of the model.
#[derive(Clone, Copy, Debug)]
pub struct ModelFile {
    /// Its name, on the hub and in the folder.
    pub name: &'static str,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: &'static str,
}

/// The weights, float32.
pub const WEIGHTS: ModelFile = ModelFile {
    name: "model.safetensors",
    bytes: 90_868_376,
    sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
};

/// The vocabulary, and the rules for splitting text.
pub const TOKENIZER: ModelFile = ModelFile {
    name: "tokenizer.json",
    bytes: 466_247,
    sha256: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
};

/// All files of the model.
pub const FILES: [ModelFile; 2] = [TOKENIZER, WEIGHTS];

/// Contents that are not those of the model's file.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("SHA-256 {found}, expected {expected}")]
pub struct OtherContents {
    /// The checksum that the file has, in hexadecimal.
    pub expected: &'static str,
    /// The checksum of these contents.
    pub found: String,
}

impl ModelFile {
    /// Checks the contents of the file.
    pub fn check(&self, contents: &[u8]) -> Result<(), OtherContents> {
        let found = hex(&Sha256::digest(contents));
        if found == self.sha256 {
            return Ok(());
        }
        let expected = self.sha256;
        Err(OtherContents { expected, found })
    }

    /// Reads the file in `folder`, and checks it.
    pub fn read(&self, folder: &Path) -> Result<Vec<u8>, EmbedError> {
        let file = folder.join(self.name);
        let contents = fs::read(&file).map_err(|cause| match cause.kind() {
            io::ErrorKind::NotFound => EmbedError::Missing(file.clone()),
            _ => EmbedError::Unreadable {
                file: file.clone(),
                cause,
            },
        })?;
        match self.check(&contents) {
            Ok(()) => Ok(contents),
            Err(OtherContents { expected, found }) => Err(EmbedError::Corrupt {
                file,
                expected,
                found,
            }),
        }
    }
}
