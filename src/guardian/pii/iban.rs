//! IBANs: the length of the country, and the check digits (ISO 13616). In groups or not, in capitals or not.

use super::Stretch;

/// The length of each country's IBANs, from the register of SWIFT.
const LENGTHS: [(&str, usize); 89] = [
    ("AD", 24),
    ("AE", 23),
    ("AL", 28),
    ("AT", 20),
    ("AZ", 28),
    ("BA", 20),
    ("BE", 16),
    ("BG", 22),
    ("BH", 22),
    ("BI", 27),
    ("BR", 29),
    ("BY", 28),
    ("CH", 21),
    ("CR", 22),
    ("CY", 28),
    ("CZ", 24),
    ("DE", 22),
    ("DJ", 27),
    ("DK", 18),
    ("DO", 28),
    ("EE", 20),
    ("EG", 29),
    ("ES", 24),
    ("FI", 18),
    ("FK", 18),
    ("FO", 18),
    ("FR", 27),
    ("GB", 22),
    ("GE", 22),
    ("GI", 23),
    ("GL", 18),
    ("GR", 27),
    ("GT", 28),
    ("HN", 28),
    ("HR", 21),
    ("HU", 28),
    ("IE", 22),
    ("IL", 23),
    ("IQ", 23),
    ("IS", 26),
    ("IT", 27),
    ("JO", 30),
    ("KW", 30),
    ("KZ", 20),
    ("LB", 28),
    ("LC", 32),
    ("LI", 21),
    ("LT", 20),
    ("LU", 20),
    ("LV", 21),
    ("LY", 25),
    ("MC", 27),
    ("MD", 24),
    ("ME", 22),
    ("MK", 19),
    ("MN", 20),
    ("MR", 27),
    ("MT", 31),
    ("MU", 30),
    ("NI", 28),
    ("NL", 18),
    ("NO", 15),
    ("OM", 23),
    ("PK", 24),
    ("PL", 28),
    ("PS", 29),
    ("PT", 25),
    ("QA", 29),
    ("RO", 24),
    ("RS", 22),
    ("RU", 33),
    ("SA", 24),
    ("SC", 31),
    ("SD", 18),
    ("SE", 24),
    ("SI", 19),
    ("SK", 24),
    ("SM", 27),
    ("SO", 23),
    ("ST", 25),
    ("SV", 28),
    ("TL", 23),
    ("TN", 24),
    ("TR", 26),
    ("UA", 29),
    ("VA", 22),
    ("VG", 24),
    ("XK", 20),
    ("YE", 30),
];

pub(super) fn end(stretch: Stretch<'_>, at: usize) -> Option<usize> {
    let letter = |at: usize| {
        let c = stretch.get(at)?.to_ascii_uppercase();
        c.is_ascii_uppercase().then_some(c)
    };
    let country: String = [letter(at)?, letter(at + 1)?].iter().collect();
    let place = LENGTHS.binary_search_by(|(name, _)| (*name).cmp(&country));
    let length = LENGTHS[place.ok()?].1;
    let mut account = Vec::with_capacity(length);
    let (mut i, mut gap) = (at, false);
    while account.len() < length {
        match stretch.get(i)? {
            c if c.is_ascii_alphanumeric() => {
                account.push(c.to_ascii_uppercase());
                gap = false;
            }
            ' ' | '-' if !gap && account.len() >= 2 => gap = true,
            _ => return None,
        }
        i += 1;
    }
    let digits = account[2].is_ascii_digit() && account[3].is_ascii_digit();
    (digits && stretch.ends_word(i) && checks(&account)).then_some(i)
}

/// Whether the number, its first four characters moved to the end and its letters as two digits, is 1 modulo 97.
fn checks(account: &[char]) -> bool {
    let moved = account[4..].iter().chain(&account[..4]);
    let rest = moved.fold(0, |rest, c| {
        let value = c.to_digit(36).unwrap_or_default();
        let factor = if value < 10 { 10 } else { 100 };
        (rest * factor + value) % 97
    });
    rest == 1
}

#[cfg(test)]
mod tests {
    use super::LENGTHS;

    #[test]
    fn countries_are_sorted() {
        assert!(LENGTHS.is_sorted_by(|a, b| a.0 < b.0));
    }
}
