//! Mutations of bodies: of their bytes, and of the values in them.

use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use serde_json::Value;

/// The share of the bodies that are left as they are.
const WHOLE: f64 = 0.05;

/// What breaks parsers, as JSON values and as bytes.
const VALUES: &[&str] = &[
    "null",
    "true",
    "0",
    "-0",
    "-1",
    "1e400",
    "1e-400",
    "9007199254740993",
    "18446744073709551616",
    "0.1e-999999999",
    "\"\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"\\ufeff\"",
    "[]",
    "{}",
    "[[[[]]]]",
    "{\"\":\"\"}",
    "\"0000-00-00T00:00:00Z\"",
    "\"9999-12-31T23:59:60Z\"",
    "\"*\"",
    "\"topic:x\"",
    "\"../../etc/passwd\"",
    "\"a b\"",
];
const BYTES: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b":",
    b",",
    b"\\",
    b"\0",
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\\u0000",
    b"\\ud800",
    b"[[[[[[[[",
    b"1e999",
    b"\r\n\r\n",
    b"/*",
    b"NaN",
];

/// One mutation of the text.
fn damage(rng: &mut StdRng, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = rng.random_range(0..=bytes.len());
    let end = (at + rng.random_range(0..32)).min(bytes.len());
    match rng.random_range(0..8) {
        0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
        1 => bytes.truncate(at),
        2 => drop(bytes.drain(at..end)),
        3 => {
            let copy = bytes[at..end].to_vec();
            bytes.splice(at..at, copy.repeat(rng.random_range(1..4)));
        }
        4 => {
            let from = rng.random_range(0..=other.len());
            let to = (from + rng.random_range(0..256)).min(other.len());
            bytes.splice(at..end, other[from..to].iter().copied());
        }
        5 => drop(bytes.splice(at..end, VALUES.choose(rng).unwrap().bytes())),
        6 => {
            let depth = rng.random_range(1..2_000);
            bytes.splice(at..at, b"[".repeat(depth));
        }
        _ => drop(bytes.splice(at..at, BYTES.choose(rng).unwrap().iter().copied())),
    }
}

/// Another value in place of one somewhere in the document; a member may go, or come twice under a similar name.
fn replace(rng: &mut StdRng, value: &mut Value) {
    let odd = |rng: &mut StdRng| serde_json::from_str(VALUES.choose(rng).unwrap());
    match value {
        Value::Object(members) if !members.is_empty() && rng.random_range(0..6) > 0 => {
            let name = members
                .keys()
                .nth(rng.random_range(0..members.len()))
                .cloned()
                .unwrap();
            match rng.random_range(0..8) {
                0 => drop(members.remove(&name)),
                1 => {
                    let copy = members[&name].clone();
                    members.insert(format!("{name}x"), copy);
                }
                _ => replace(rng, members.get_mut(&name).unwrap()),
            }
        }
        Value::Array(items) if !items.is_empty() && rng.random_range(0..6) > 0 => {
            let at = rng.random_range(0..items.len());
            replace(rng, &mut items[at]);
        }
        value => {
            if let Ok(odd) = odd(rng) {
                *value = odd;
            }
        }
    }
}

/// One of the seeds, mostly with mutations; and whether it is whole.
pub fn mutated(rng: &mut StdRng, seeds: &[Vec<u8>]) -> (Vec<u8>, bool) {
    let seed = seeds.choose(rng).unwrap();
    if rng.random_bool(WHOLE) {
        return (seed.clone(), true);
    }
    let parsed = if rng.random_bool(0.4) {
        serde_json::from_slice::<Value>(seed).ok()
    } else {
        None
    };
    if let Some(mut value) = parsed {
        for _ in 0..rng.random_range(1..4) {
            replace(rng, &mut value);
        }
        return (value.to_string().into_bytes(), false);
    }
    let mut bytes = seed.clone();
    for _ in 0..rng.random_range(1..5) {
        let other = seeds.choose(rng).unwrap();
        damage(rng, &mut bytes, other);
    }
    (bytes, false)
}
