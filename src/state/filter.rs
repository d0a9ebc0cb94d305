//! A split-block Bloom filter (as in Parquet's specification) over 16-byte hashes: 16 bits a key, one
//! cache line touched a look-up, about one false positive in a thousand.

use bytes::{BufMut, Bytes, BytesMut};

/// Odd constants of the Parquet specification, one for each of a block's eight words.
const SALT: [u32; 8] = [
    0x47b6_137b,
    0x4497_4d91,
    0x8824_ad5b,
    0xa2b7_289d,
    0x7054_95c7,
    0x2df1_424b,
    0x9efc_4947,
    0x5c6b_fb31,
];
const BLOCK_BYTES: usize = 32;

/// A filter over hashes that are already uniform.
pub(crate) struct Filter(Vec<[u32; 8]>);

impl Filter {
    /// A filter for about `keys` keys.
    pub(crate) fn for_keys(keys: usize) -> Self {
        Self(vec![[0; 8]; (keys * 2).div_ceil(BLOCK_BYTES).max(1)])
    }

    fn block(&self, id: &[u8; 16]) -> usize {
        // The high half of a product maps 32 uniform bits evenly onto the blocks.
        let high = u32::from_le_bytes([id[8], id[9], id[10], id[11]]);
        ((u64::from(high) * self.0.len() as u64) >> 32) as usize
    }

    fn mask(id: &[u8; 16]) -> [u32; 8] {
        let low = u32::from_le_bytes([id[12], id[13], id[14], id[15]]);
        SALT.map(|salt| 1 << (low.wrapping_mul(salt) >> 27))
    }

    pub(crate) fn insert(&mut self, id: &[u8; 16]) {
        let block = self.block(id);
        for (word, bit) in self.0[block].iter_mut().zip(Self::mask(id)) {
            *word |= bit;
        }
    }

    pub(crate) fn may_contain(&self, id: &[u8; 16]) -> bool {
        let block = &self.0[self.block(id)];
        block
            .iter()
            .zip(Self::mask(id))
            .all(|(word, bit)| word & bit != 0)
    }

    pub(crate) fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.0.len() * BLOCK_BYTES);
        for word in self.0.iter().flatten() {
            out.put_u32_le(*word);
        }
        out.freeze()
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() || !bytes.len().is_multiple_of(BLOCK_BYTES) {
            return None;
        }
        let word = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        Some(Self(
            bytes
                .chunks_exact(BLOCK_BYTES)
                .map(|block| std::array::from_fn(|i| word(&block[i * 4..])))
                .collect(),
        ))
    }
}
