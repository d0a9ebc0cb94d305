//! A split-block Bloom filter (as in Parquet's specification) over 16-byte hashes: 16 bits a key, one
//! cache line touched a look-up, about one false positive in a thousand.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

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

/// A filter over hashes that are already uniform. Several threads may fill it; their inserts are seen by whoever synchronizes with
/// their end.
pub(crate) struct Filter(Vec<[AtomicU32; 8]>);

/// A prepared look-up of a hash, for any number of filters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    high: u32,
    mask: [u32; 8],
}

impl Probe {
    pub(crate) fn of(id: &[u8; 16]) -> Self {
        let low = u32::from_le_bytes([id[12], id[13], id[14], id[15]]);
        Self {
            high: u32::from_le_bytes([id[8], id[9], id[10], id[11]]),
            mask: SALT.map(|salt| 1 << (low.wrapping_mul(salt) >> 27)),
        }
    }
}

impl Filter {
    /// A filter for about `keys` keys.
    pub(crate) fn for_keys(keys: usize) -> Self {
        let blocks = (keys * 2).div_ceil(BLOCK_BYTES).max(1);
        Self(
            std::iter::repeat_with(Default::default)
                .take(blocks)
                .collect(),
        )
    }

    fn block(&self, probe: &Probe) -> usize {
        // The high half of a product maps 32 uniform bits evenly onto the blocks.
        ((u64::from(probe.high) * self.0.len() as u64) >> 32) as usize
    }

    pub(crate) fn insert(&self, id: &[u8; 16]) {
        let probe = Probe::of(id);
        let block = self.block(&probe);
        for (word, bit) in self.0[block].iter().zip(probe.mask) {
            word.fetch_or(bit, Relaxed);
        }
    }

    pub(crate) fn may_contain(&self, probe: &Probe) -> bool {
        let block = &self.0[self.block(probe)];
        // All words at once, without a branch for each.
        let missing = block
            .iter()
            .zip(probe.mask)
            .fold(0, |missing, (word, bit)| {
                missing | (bit & !word.load(Relaxed))
            });
        missing == 0
    }

    pub(crate) fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.0.len() * BLOCK_BYTES);
        for word in self.0.iter().flatten() {
            out.put_u32_le(word.load(Relaxed));
        }
        out.freeze()
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() || !bytes.len().is_multiple_of(BLOCK_BYTES) {
            return None;
        }
        let word = |b: &[u8]| AtomicU32::new(u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        Some(Self(
            bytes
                .chunks_exact(BLOCK_BYTES)
                .map(|block| std::array::from_fn(|i| word(&block[i * 4..])))
                .collect(),
        ))
    }
}
