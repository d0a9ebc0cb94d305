//! IP addresses: four numbers up to 255, or an IPv6 address in one of its written forms.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Stretch;

/// The longest written form of an IPv6 address.
const LONGEST: usize = 45;

pub(super) fn end(stretch: Stretch<'_>, at: usize) -> Option<usize> {
    let before = stretch.before(at);
    if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '.' | ':' | '_')) {
        return None;
    }
    let mut text = String::new();
    let mut i = at;
    while let Some(c) = stretch
        .get(i)
        .filter(|c| c.is_ascii_hexdigit() || matches!(c, '.' | ':'))
    {
        text.push(c);
        i += 1;
        if text.len() > LONGEST {
            return None;
        }
    }
    if !stretch.ends_word(i) {
        return None;
    }
    // The end of a sentence, or of what comes before a colon.
    let written = text.trim_end_matches('.');
    let written = match written.strip_suffix(':') {
        Some(shorter) if !shorter.ends_with(':') => shorter,
        _ => written,
    };
    let is_v6 = || {
        let digits = written.bytes().filter(u8::is_ascii_hexdigit).count();
        digits > 0
            && written.bytes().filter(|b| *b == b':').count() >= 2
            && written.parse::<Ipv6Addr>().is_ok()
    };
    let with_port = || {
        let (address, port) = written.split_once(':')?;
        (port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit())).then_some(address)
    };
    if written.parse::<Ipv4Addr>().is_ok() || is_v6() {
        return Some(at + written.len());
    }
    let address = with_port()?;
    address.parse::<Ipv4Addr>().ok().map(|_| at + address.len())
}
