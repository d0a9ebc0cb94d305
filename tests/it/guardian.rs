//! How well the guardian tells attacks from work, and finds personal data, on the sets of `tests/guardian`: the halves that were developed
//! with, and those that were not.

use std::collections::BTreeMap;

use omnilink::guardian::{Kind, Lines, Redactor, clean, score};

/// A generator of numbers that are the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % limit
    }

    fn of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    fn digits(&mut self, count: usize) -> String {
        (0..count)
            .map(|_| char::from(b'0' + self.below(10) as u8))
            .collect()
    }
}

fn lines(file: &str) -> Vec<String> {
    let text = std::fs::read_to_string(format!("tests/guardian/{file}.txt")).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn flagged(file: &str, above: bool) -> (usize, usize) {
    let lines = lines(file);
    let flag_at = Lines::default().flag_at;
    let mut right = 0;
    for line in &lines {
        let (score, met) = score(&clean(line));
        if (score >= flag_at) == above {
            right += 1;
        } else {
            println!("{file}: {score:.2} {met:?}: {line}");
        }
    }
    println!("{file}: {right} of {}", lines.len());
    (right, lines.len())
}

#[test]
fn attacks_are_flagged_and_work_is_not() {
    for half in ["dev", "held"] {
        let (right, all) = flagged(&format!("attacks.{half}"), true);
        assert!(right * 100 >= all * 80, "attacks.{half}: {right} of {all}");
        let (right, all) = flagged(&format!("business.{half}"), false);
        assert!(right * 100 >= all * 98, "business.{half}: {right} of {all}");
    }
}

/// Text in groups, with these separators between them.
fn grouped(text: &str, size: usize, separator: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let groups = characters
        .chunks(size)
        .map(|group| group.iter().collect::<String>());
    groups.collect::<Vec<_>>().join(separator)
}

fn iban(random: &mut Random) -> String {
    // Country, then letters (a), digits (0) or both (c), as in the register.
    let (country, shape) = random.of(&[
        ("DE", "000000000000000000"),
        ("GB", "aaaa00000000000000"),
        ("FR", "0000000000ccccccccccc00"),
        ("NL", "aaaa0000000000"),
        ("NO", "00000000000"),
        ("MT", "aaaa00000cccccccccccccccccc"),
        ("CH", "00000cccccccccccc"),
        ("ES", "00000000000000000000"),
        ("PL", "000000000000000000000000"),
        ("IT", "a0000000000cccccccccccc"),
    ]);
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let account: String = shape
        .chars()
        .map(|kind| match (kind, random.below(2)) {
            ('a', _) | ('c', 0) => char::from(random.of(letters)),
            _ => char::from(b'0' + random.below(10) as u8),
        })
        .collect();
    let digits = format!("{account}{country}00");
    let rest = digits.chars().fold(0, |rest: u32, c| {
        let value = c.to_digit(36).unwrap();
        (rest * if value < 10 { 10 } else { 100 } + value) % 97
    });
    let iban = format!("{country}{:02}{account}", 98 - rest);
    match random.below(4) {
        0 => iban,
        1 => iban.to_lowercase(),
        2 => grouped(&iban, 4, "-"),
        _ => grouped(&iban, 4, " "),
    }
}

fn card(random: &mut Random) -> String {
    let (prefix, length) = random.of(&[
        ("4", 16),
        ("51", 16),
        ("2221", 16),
        ("37", 15),
        ("6011", 16),
        ("3528", 16),
        ("36", 14),
        ("62", 16),
        ("4", 13),
    ]);
    let mut number = format!("{prefix}{}", random.digits(length - prefix.len() - 1));
    let sum: u32 = number
        .chars()
        .rev()
        .enumerate()
        .map(|(n, c)| {
            let doubled = c.to_digit(10).unwrap() * if n % 2 == 0 { 2 } else { 1 };
            doubled / 10 + doubled % 10
        })
        .sum();
    number.push_str(&((10 - sum % 10) % 10).to_string());
    match (length, random.below(3)) {
        (16, 0) => grouped(&number, 4, " "),
        (16, 1) => grouped(&number, 4, "-"),
        (15, 0) => format!("{} {} {}", &number[..4], &number[4..10], &number[10..]),
        _ => number,
    }
}

fn phone(random: &mut Random) -> String {
    let mut digits = |count| random.digits(count);
    let written = [
        format!("+49 30 {}", digits(7)),
        format!("+49 (0) 89 {} {}", digits(3), digits(4)),
        format!("+1 (415) 555-{}", digits(4)),
        format!("+1 212 555 {}", digits(4)),
        format!("+44 20 {} {}", digits(4), digits(4)),
        format!(
            "+33 1 {} {} {} {}",
            digits(2),
            digits(2),
            digits(2),
            digits(2)
        ),
        format!("+41 44 {} {} {}", digits(3), digits(2), digits(2)),
        format!("+31 6 {}", digits(8)),
        format!("+34 91 {} {}", digits(3), digits(4)),
        format!("+43-1-{}-{}", digits(3), digits(4)),
        format!("+4917{}", digits(9)),
        format!("0049 40 {}", digits(8)),
        format!("0171/{}", digits(7)),
        format!("040 - {} {}", digits(3), digits(4)),
        format!("(212) 555-{}", digits(4)),
        format!("646-555-{}", digits(4)),
        format!("020 7946 {}", digits(4)),
        format!("+81 3-{}-{}", digits(4), digits(4)),
        format!("+61 2 {} {}", digits(4), digits(4)),
        format!("+86 138 {} {}", digits(4), digits(4)),
    ];
    let place = random.below(written.len());
    written[place].clone()
}

fn email(random: &mut Random) -> String {
    let local = random.of(&[
        "ann", "j.smith", "o-brien", "sales+eu", "x_1", "müller", "a.b.c", "info2",
    ]);
    let domain = random.of(&[
        "example.com",
        "mail.example.co.uk",
        "acme-gmbh.de",
        "x.io",
        "münchen.example",
        "sub.a.b.museum",
    ]);
    format!("{local}@{domain}")
}

fn address(random: &mut Random) -> String {
    if random.below(3) == 0 {
        return random
            .of(&[
                "2001:db8::1",
                "fe80::a:b",
                "2001:db8:0:1:1:1:1:1",
                "::ffff:10.1.2.3",
            ])
            .to_owned();
    }
    let part = |random: &mut Random| random.below(256);
    format!(
        "{}.{}.{}.{}",
        part(random),
        part(random),
        part(random),
        part(random)
    )
}

/// Makes a value of a kind.
type Make = fn(&mut Random) -> String;

#[derive(Default)]
struct Counts {
    there: usize,
    found: usize,
    wrong: usize,
}

#[test]
fn personal_data_are_found_and_nothing_else() {
    for half in ["dev", "held"] {
        let mut counts: BTreeMap<&str, Counts> = BTreeMap::new();
        let mut random = Random(if half == "dev" { 1 } else { 2 });
        for line in lines(&format!("pii.{half}")).iter().cycle().take(20 * 200) {
            let (mut text, mut expected) = (line.clone(), Vec::new());
            let kinds: [(Kind, Make); 5] = [
                (Kind::Email, email),
                (Kind::Phone, phone),
                (Kind::Card, card),
                (Kind::Iban, iban),
                (Kind::Ip, address),
            ];
            for (kind, value) in kinds {
                let slot = format!("{{{}}}", kind.name());
                while text.contains(&slot) {
                    let value = value(&mut random);
                    text = text.replacen(&slot, &value, 1);
                    expected.push((kind.name(), value));
                }
            }
            let mut redactor = Redactor::default();
            redactor.redact(&text);
            let slots = redactor.into_slots();
            let found: Vec<_> = slots
                .iter()
                .map(|slot| (slot.kind.name(), slot.value.as_str().unwrap()))
                .collect();
            for (kind, value) in &expected {
                let of = counts.entry(*kind).or_default();
                of.there += 1;
                of.found += usize::from(found.contains(&(*kind, value.as_str())));
            }
            for (kind, value) in found {
                let right = expected.iter().any(|(k, v)| (*k, &**v) == (kind, value));
                if !right {
                    counts.entry(kind).or_default().wrong += 1;
                    println!("{half}: {kind} {value:?} in {text:?}");
                }
            }
        }
        for (kind, of) in &counts {
            let recall = of.found as f64 / of.there.max(1) as f64;
            let precision = of.found as f64 / (of.found + of.wrong).max(1) as f64;
            println!(
                "{half} {kind}: {} of {}, {} wrong",
                of.found, of.there, of.wrong
            );
            let (least_recall, least_precision) = match *kind {
                "PHONE" => (0.95, 0.95),
                _ => (0.99, 0.99),
            };
            assert!(of.there > 200, "{half} {kind}");
            assert!(recall >= least_recall, "{half} {kind}: recall {recall}");
            assert!(
                precision >= least_precision,
                "{half} {kind}: precision {precision}"
            );
        }
    }
}
