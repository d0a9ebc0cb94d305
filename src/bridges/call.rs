//! A request to a source, with the source's data.

use super::{
    headers::Headers,
    refusal::Refusal,
    secrets::Secrets,
    signature::{self, Algorithm, Encoding},
};
use crate::base::clock::Millis;

/// A request and its source.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'r> {
    pub(super) headers: Headers<'r>,
    /// The body as received.
    pub(super) body: &'r [u8],
    pub(super) now: Millis,
    /// The source's name.
    pub(super) source: &'r str,
    pub(super) secrets: &'r Secrets,
}

impl Call<'_> {
    /// Refuses the request unless a header of this name has `sha256={hex}` of the body.
    pub(super) fn verify_body(&self, header: &str) -> Result<(), Refusal> {
        let signatures = self.headers.signatures(header)?;
        let given: Vec<_> = signatures
            .iter()
            .filter_map(|text| text.strip_prefix("sha256="))
            .collect();
        if !self.is_signed(&[self.body], &given) {
            return Err(Refusal::invalid_signature());
        }
        Ok(())
    }

    /// Whether one of the given texts is the HMAC-SHA256 of the parts in hexadecimal, with a secret used as text.
    pub(super) fn is_signed(&self, parts: &[&[u8]], given: &[&str]) -> bool {
        let keys = self.secrets.at(self.now).map(str::as_bytes);
        signature::verify(Algorithm::Sha256, Encoding::Hex, keys, parts, given)
    }
}
