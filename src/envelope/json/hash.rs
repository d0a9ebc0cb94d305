//! The canonical hash of a JSON value: 128 bits, the same for all ways to write a value.
//!
//! Strings hash their unescaped content (xxh3-128), numbers their exact decimal value, arrays a chain of their items, and objects a sum
//! over their members, so that their order does not matter. The hash is stored with idempotency keys: changing it would make every retry
//! across an upgrade look like a different body. It need not resist attacks: a sender who constructs a collision only affects its own
//! retries.

use xxhash_rust::xxh3::xxh3_128;

const K: [u64; 4] = [
    0x9e37_79b9_7f4a_7c15,
    0xd1b5_4a32_d192_ed03,
    0xabc9_8388_fb8f_ac03,
    0x8bb8_4b93_962e_acc9,
];

const STRING: u128 = 0x5a8a_58f3_6a1c_96b5_2d35_8dcc_aa6c_78a5;
const NUMBER: u128 = 0x1405_7b7e_f767_814f_f7c2_ebc0_8f67_f2b5;
const DIGITS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const ARRAY: u128 = 0x2545_f491_4f6c_dd1d_a409_3822_299f_31d0;
const OBJECT: u128 = 0x082e_fa98_ec4e_6c89_4528_21e6_38d0_1377;
const BYTES: u128 = 0x3bd3_9e10_cb0e_f593_c0ac_f169_b5f1_8a8c;

pub(super) const NULL: u128 = 0xbe54_66cf_34e9_0c6c_c97c_50dd_3f84_d5b5;
pub(super) const TRUE: u128 = 0xb547_0917_9216_d5d9_8979_fb1b_d131_0ba6;
pub(super) const FALSE: u128 = 0x98df_b5ac_2ffd_72db_d01a_dfb7_b8e1_afed;

fn folded(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    (wide as u64) ^ ((wide >> 64) as u64)
}

fn mix(a: u128, b: u128) -> u128 {
    let low = folded(a as u64 ^ K[0], b as u64 ^ K[1]);
    let high = folded((a >> 64) as u64 ^ K[2], (b >> 64) as u64 ^ K[3]);
    (u128::from(high) << 64) | u128::from(low)
}

fn twice(a: u64) -> u128 {
    (u128::from(a) << 64) | u128::from(a)
}

/// The hash of a member's name.
pub(crate) fn key(text: &[u8]) -> u128 {
    xxh3_128(text)
}

/// The hash of a string.
pub(crate) fn string(text: &[u8]) -> u128 {
    key(text).wrapping_add(STRING)
}

/// The hash of bytes that are not JSON.
pub(crate) fn bytes(bytes: &[u8]) -> u128 {
    xxh3_128(bytes).wrapping_add(BYTES)
}

/// The hash of the number `mantissa × 10^exponent`. `mantissa` must not end in a zero; for the number 0 all arguments are 0.
pub(super) fn number(negative: bool, mantissa: u64, exponent: i64) -> u128 {
    let scale = ((exponent as u64) << 1) | u64::from(negative);
    mix(twice(mantissa), twice(scale)).wrapping_add(NUMBER)
}

/// Like [`number`], for digits that do not fit into a `u64`, without zeros at either end.
pub(super) fn digits(negative: bool, digits: &[u8], exponent: i64) -> u128 {
    let scale = ((exponent as u64) << 1) | u64::from(negative);
    mix(xxh3_128(digits), twice(scale)).wrapping_add(DIGITS)
}

/// Hashes an array from its items, in order.
#[derive(Default)]
pub(super) struct Array {
    chain: u128,
    count: u64,
}

impl Array {
    pub(super) fn push(&mut self, value: u128) {
        self.chain = mix(self.chain, value).wrapping_add(self.chain);
        self.count += 1;
    }

    pub(super) fn finish(&self) -> u128 {
        mix(self.chain, twice(self.count)).wrapping_add(ARRAY)
    }
}

/// Hashes an object from its members, in any order.
#[derive(Default)]
pub(crate) struct Object {
    sum: u128,
    count: u64,
}

impl Object {
    pub(crate) fn insert(&mut self, key: u128, value: u128) {
        self.sum = self.sum.wrapping_add(mix(key, value));
        self.count += 1;
    }

    /// The object without some of its members.
    pub(crate) fn without(&self, members: &Self) -> Self {
        Self {
            sum: self.sum.wrapping_sub(members.sum),
            count: self.count - members.count,
        }
    }

    pub(crate) fn finish(&self) -> u128 {
        mix(self.sum, twice(self.count)).wrapping_add(OBJECT)
    }
}
