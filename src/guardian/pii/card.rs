//! Numbers of payment cards: the ranges and lengths of the networks, and the check digit (Luhn). In groups of at least three digits, or not.

use super::Stretch;

/// The lengths that are tried, the usual ones first: digits behind a number may belong to something else.
const LENGTHS: [usize; 8] = [16, 15, 14, 19, 18, 17, 13, 12];
const LONGEST: usize = 19;

pub(super) fn end(stretch: Stretch<'_>, at: usize) -> Option<usize> {
    let mut digits = [0_u32; LONGEST];
    // Where a number with so many digits would end; 0: in the middle of a group.
    let mut ends = [0_usize; LONGEST + 1];
    let (mut i, mut count, mut group, mut grouped) = (at, 0, 0, false);
    loop {
        match stretch.get(i) {
            Some(c @ '0'..='9') => {
                if count == LONGEST {
                    break;
                }
                digits[count] = u32::from(c) - u32::from('0');
                count += 1;
                group += 1;
                let short = grouped && group < 3;
                if !short && stretch.ends_word(i + 1) {
                    ends[count] = i + 1;
                }
            }
            Some(' ' | '-') if group >= 3 => {
                group = 0;
                grouped = true;
            }
            _ => break,
        }
        i += 1;
    }
    LENGTHS.into_iter().find_map(|length| {
        let number = digits.get(..length).filter(|_| length <= count)?;
        let good = ends[length] > 0 && is_of_network(number) && checks(number);
        good.then_some(ends[length])
    })
}

fn is_of_network(number: &[u32]) -> bool {
    let prefix = number[..6].iter().fold(0, |n, digit| n * 10 + digit);
    let (two, three, four) = (prefix / 10_000, prefix / 1_000, prefix / 100);
    match number.len() {
        // American Express.
        15 => matches!(two, 34 | 37),
        // Diners Club.
        14 => matches!(three, 300..=305 | 309) || matches!(two, 36 | 38 | 39),
        // Visa; Maestro.
        13 => prefix / 100_000 == 4 || is_maestro(two),
        12 | 17 => is_maestro(two),
        16 | 18 | 19 => {
            let visa = prefix / 100_000 == 4 && number.len() != 18;
            let mastercard =
                number.len() == 16 && (matches!(two, 51..=55) || matches!(four, 2221..=2720));
            // Discover, JCB, UnionPay, Mir, Diners Club.
            let other = four == 6011
                || matches!(three, 644..=649 | 300..=305)
                || matches!(two, 36 | 38 | 39 | 62 | 65)
                || matches!(four, 3528..=3589 | 2200..=2204);
            visa || mastercard || other || is_maestro(two)
        }
        _ => false,
    }
}

fn is_maestro(two: u32) -> bool {
    matches!(two, 50 | 56..=58 | 61 | 63 | 66..=69)
}

/// The check of Luhn. A number of equal digits is none.
fn checks(number: &[u32]) -> bool {
    let sum: u32 = number
        .iter()
        .rev()
        .enumerate()
        .map(|(n, digit)| match (n % 2, digit * 2) {
            (0, _) => *digit,
            (_, doubled) if doubled > 9 => doubled - 9,
            (_, doubled) => doubled,
        })
        .sum();
    sum.is_multiple_of(10) && number.iter().any(|digit| *digit != number[0])
}
