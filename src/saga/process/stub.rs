//! What is remembered of an ended run beside its identity.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The remembered value of an ended run: hashes of its tenant and of the request's body hash, 8 bytes each.
pub(super) fn stub(tenant: &str, body_hash: &[u8; 16]) -> [u8; 16] {
    let body = xxh3_64_with_seed(body_hash, 0);
    let mut stub = [0; 16];
    stub[..8].copy_from_slice(&xxh3_64(tenant.as_bytes()).to_be_bytes());
    stub[8..].copy_from_slice(&body.to_be_bytes());
    stub
}

/// Whether a stub belongs to a run of this tenant.
pub(super) fn is_of(stub: &[u8; 16], tenant: Option<&str>) -> bool {
    tenant.is_none_or(|tenant| stub[..8] == xxh3_64(tenant.as_bytes()).to_be_bytes())
}
