//! Tables of goals, and properties.

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Monday, 30 November 2026, 00:53 UTC.
const NOW: Millis = Millis(1_796_000_000_000);

/// A value in short.
fn short(value: &Value) -> String {
    let member = |name: &str| value.get(name).and_then(Value::as_str);
    if let (Some(from), Some(to)) = (member("from"), member("to")) {
        return format!("{from}..{to}");
    }
    let unit = member("currency").or(member("unit"));
    match (member("value"), unit) {
        (Some(value), Some(unit)) => format!("{value} {unit}"),
        (Some(value), None) => value.to_owned(),
        _ => value.as_str().unwrap_or_default().to_owned(),
    }
}

/// Runs a table, and returns what is wrong, and how many cases it has.
fn run(cases: &str) -> (Vec<String>, usize) {
    let lines = cases.lines().filter(|line| !line.starts_with("# "));
    let lines: Vec<&str> = lines.collect();
    let mut wrong = Vec::new();
    let mut count = 0;
    for case in lines.chunks(4) {
        let [goal, text, values, ..] = case else {
            panic!("an incomplete case: {case:?}");
        };
        count += 1;
        let found = template(goal, NOW);
        let slots: Vec<_> = found
            .slots
            .iter()
            .map(|slot| short(&slot.normalised))
            .collect();
        let slots = slots.join("; ");
        if found.text != *text || slots != *values {
            wrong.push(format!("{goal}\n  {}\n  {slots}", found.text));
        }
    }
    (wrong, count)
}

#[test]
fn goals_have_their_templates() {
    let (wrong, count) = run(include_str!("cases.dev.txt"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count >= 60, "{count}");
}

#[test]
fn goals_held_out_have_their_templates() {
    let (wrong, count) = run(include_str!("cases.held.txt"));
    // What is wrong stays in the table: it shows what the rules cannot do.
    assert!(
        wrong.len() * 20 <= count,
        "{} of {count}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(count >= 60, "{count}");
}

#[test]
fn slots_have_positions_names_and_values() {
    let goal = "Überweise 500 EUR und 700 EUR an Anna";
    let template = template(goal, NOW);
    for slot in &template.slots {
        assert_eq!(slot.value, goal[slot.from..slot.to]);
    }
    let names: Vec<_> = template
        .slots
        .iter()
        .map(|slot| slot.name.as_str())
        .collect();
    assert_eq!(names, ["AMOUNT_1", "AMOUNT_2", "PERSON_1"]);
    let values = template.values();
    let names: Vec<_> = values.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["AMOUNT", "AMOUNT_1", "AMOUNT_2", "PERSON", "PERSON_1"]
    );
    assert_eq!(
        values["AMOUNT"],
        json!({ "value": "500", "number": 500, "currency": "EUR" })
    );
}

#[test]
fn numbers_are_exact_or_text() {
    let number = |goal: &str| template(goal, NOW).values()["NUMBER"].clone();
    assert_eq!(
        number("Take 12.50 units"),
        json!({ "value": "12.5", "number": 12.5 })
    );
    let large = number("Take 123456789012345678 units");
    assert_eq!(large, json!({ "value": "123456789012345678" }));
}

#[test]
fn keys_ignore_case_spaces_and_the_end() {
    let key = |goal: &str| template(goal, NOW).key();
    assert_eq!(
        key("Book  flight to Paris tomorrow."),
        "book flight to {location} {date}"
    );
    assert_eq!(
        key("Book flight to Rome today!"),
        key(" book flight\nto Oslo tomorrow")
    );
    // A range is no day, and another unit is another goal.
    assert_ne!(key("Book a hotel next week"), key("Book a hotel tomorrow"));
    assert_ne!(key("Wait 5 minutes"), key("Wait 5 hours"));
    // A text that looks like a slot is none.
    assert_ne!(key("Book {DATE}"), key("Book today"));
    // The same place twice is not two places.
    assert_ne!(key("From Rome to Rome"), key("From Rome to Oslo"));
}

#[test]
fn keys_have_question_marks_and_the_case_of_names() {
    let key = |goal: &str| template(goal, NOW).key();
    for (one, other) in [
        ("Delete the old backups?", "Delete the old backups"),
        ("Archive Report.pdf", "Archive report.pdf"),
        ("Send IT the list", "Send it the list"),
        ("Ask O'Neill again", "Ask o'neill again"),
        ("Order the iMac stand", "Order the imac stand"),
    ] {
        assert_ne!(key(one), key(other), "{one} / {other}");
    }
    for (one, other) in [
        ("Which orders are open?", "which orders are open"),
        ("Could you send it?", "could you send it"),
        ("Delete the old backups ?", "delete the old backups?!"),
        ("SEND IT THE LIST", "Send it the list"),
        ("Send The List", "send the list."),
        ("Follow-Up the List", "follow-up the list"),
        ("Archive Report.pdf.", "archive Report.pdf"),
    ] {
        assert_eq!(key(one), key(other), "{one} / {other}");
    }
}

#[test]
fn digits_of_other_scripts_are_values_and_keep_their_places() {
    let goal = "Send ٥٠٠ kg and ７ boxes to \"hall ३\" by level ٢ for €१,२००";
    let template = template(goal, NOW);
    assert_eq!(
        template.text,
        "Send {NUMBER_1} kg and {NUMBER_2} boxes to {QUOTED} by level 2 for {AMOUNT}"
    );
    let values = template.values();
    assert_eq!(values["NUMBER_1"]["value"], "500");
    assert_eq!(values["NUMBER_2"]["number"], 7);
    assert_eq!(values["AMOUNT"]["value"], "1200");
    assert_eq!(values["QUOTED"], "hall ३");
    for slot in &template.slots {
        assert_eq!(slot.value, goal[slot.from..slot.to]);
    }
    let key = |goal: &str| super::template(goal, NOW).key();
    assert_eq!(key("Ship ٥ boxes"), key("Ship 5 boxes"));
    assert_ne!(key("Move it to level ٢"), key("Move it to level ٣"));
    assert_eq!(
        example("move it to level ٢").key(),
        key("Move it to level 2")
    );
    // No placeholder of the guardian.
    let forged = super::template("Mail {EMAIL_١}", NOW);
    assert_eq!((&*forged.text, forged.slots.len()), ("Mail {{EMAIL_1}", 0));
}

#[test]
fn goals_match_examples() {
    let example = example("Book flight from {LOCATION} to {LOCATION_2} {DATE}");
    let matched = template("book flight from Rome to Oslo tomorrow!", NOW).matches(&example);
    let matched = matched.unwrap();
    assert_eq!(matched["LOCATION_1"], "Rome");
    assert_eq!(matched["LOCATION"], "Rome");
    assert_eq!(matched["LOCATION_2"], "Oslo");
    assert_eq!(matched["DATE"], "2026-12-01");
    // The names are those of the example.
    let swapped = super::example("Book flight from {LOCATION_2} to {LOCATION_1}");
    let matched = template("Book flight from Rome to Oslo", NOW)
        .matches(&swapped)
        .unwrap();
    assert_eq!(matched["LOCATION_1"], "Oslo");
    assert_eq!(matched["LOCATION"], "Oslo");
    // An example without a form takes every date, one with a form its own.
    let report = |text: &str| template("Report last week", NOW).matches(&super::example(text));
    assert_eq!(
        report("Report {DATE}").unwrap()["DATE"]["from"],
        "2026-11-23"
    );
    assert!(report("Report {DATE:range}").is_some());
    for other in [
        "Report {DATE:time}",
        "Report {NUMBER}",
        "Report it {DATE}",
        "Report",
        "Report {date",
    ] {
        assert!(report(other).is_none(), "{other}");
    }
    let same = super::example("From {LOCATION} to {LOCATION}");
    assert!(template("From Rome to Oslo", NOW).matches(&same).is_none());
    assert!(template("From Rome to Rome", NOW).matches(&same).is_some());
}

/// The minimal pairs for the cache: templates alone must not make a pair equal that means different things.
#[test]
fn pairs_that_mean_different_things_have_different_keys() {
    // Read when it runs, not included: the context of the image has no tests/.
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/plans/pairs.jsonl");
    let pairs = std::fs::read_to_string(path).unwrap();
    let (mut misses, mut hits, mut same_slots) = (0, 0, 0);
    for line in pairs.lines() {
        let pair: Value = serde_json::from_str(line).unwrap();
        let of = |side: &str| template(pair[side].as_str().unwrap(), NOW);
        let (a, b) = (of("a"), of("b"));
        if pair["hit"] == false {
            misses += 1;
            assert_ne!(a.key(), b.key(), "{line}");
        } else {
            hits += 1;
            let kinds = |template: &Template| {
                let mut kinds: Vec<_> = template.slots.iter().map(|slot| slot.kind).collect();
                kinds.sort();
                kinds
            };
            same_slots += usize::from(kinds(&a) == kinds(&b));
        }
    }
    assert!(misses >= 700 && hits >= 350, "{misses} and {hits}");
    // What else differs is a limit of the rules (docs/templates.md).
    assert!(same_slots * 100 >= hits * 97, "{same_slots} of {hits}");
}

fn hostile() -> impl Strategy<Value = String> {
    let pieces = proptest::sample::select(vec![
        "{",
        "}",
        "{{",
        "{EMAIL_1}",
        "{DATE",
        "\"",
        "'",
        "„",
        "“",
        "”",
        "«",
        "‘",
        "’",
        "`",
        "#",
        "-",
        "/",
        ".",
        ",",
        ":",
        "%",
        "€",
        "$",
        "°",
        "1",
        "12",
        "2026",
        "31",
        "99999999999999999999",
        "0",
        "st",
        "th",
        "k",
        "m",
        "pm",
        "T",
        "Z",
        "+",
        "in",
        "to",
        "from",
        "next",
        "last",
        "end of",
        "Monday",
        "March",
        "may",
        "Q3",
        "week",
        "days",
        "two",
        "twenty",
        "hundred",
        "million",
        "EUR",
        "kg",
        "Paris",
        "St",
        "New York",
        "Anna",
        "von",
        "Dr",
        "O",
        "für",
        "und",
        "morgen",
        "Ende",
        "http://",
        "www",
        "@",
        "\n",
        " ",
        "  ",
        "ä",
        "İ",
        "ß",
        "日本",
        "\u{301}",
        "٣",
        "flight",
        "invoice",
        "no",
        "ago",
        "vor",
        "Uhr",
        "of",
        "the",
        "29 February",
        "9999-12-31",
        "0001-01-01",
        "years",
        "900000 years",
    ]);
    proptest::collection::vec(pieces, 0..60).prop_map(|pieces| pieces.concat())
}

fn check(goal: &str, now: Millis) -> Result<(), TestCaseError> {
    let template = template(goal, now);
    prop_assert_eq!(&template, &super::template(goal, now));
    let mut end = 0;
    for slot in &template.slots {
        prop_assert!(end <= slot.from && slot.from < slot.to);
        prop_assert_eq!(&slot.value, &goal[slot.from..slot.to]);
        end = slot.to;
    }
    // Read back, it is the same.
    let read = example(&template.text);
    prop_assert_eq!(read.slots.len(), template.slots.len());
    for (read, slot) in read.slots.iter().zip(&template.slots) {
        prop_assert_eq!((read.kind, &read.form), (slot.kind, &slot.form));
    }
    prop_assert_eq!(read.key(), template.key());
    prop_assert_eq!(example(&template.key()).key(), template.key());
    prop_assert_eq!(template.matches(&read), Some(template.values()));
    Ok(())
}

proptest! {
    #[test]
    fn any_text_has_a_template(goal in "\\PC{0,200}", now in any::<i64>()) {
        check(&goal, Millis(now))?;
    }

    #[test]
    fn hostile_texts_have_templates(goal in hostile(), now in prop_oneof![Just(NOW.0), any::<i64>(), -62_135_596_800_000_i64..253_402_300_799_999]) {
        check(&goal, Millis(now))?;
    }
}

/// The time is proportional to the length: of 20,000 characters it is a fraction of a second even in a debug build, where a quadratic rule
/// would take minutes.
#[test]
fn long_texts_take_linear_time() {
    for piece in [
        "a",
        "1",
        "1 ",
        "1.",
        "1,234.",
        "\"",
        "„",
        "'a ",
        "{",
        "{EMAIL_1",
        "{EMAIL_1}",
        "#1-",
        "A1-",
        "http://",
        "www.",
        "a.",
        "a-",
        "Anna ",
        "Anna-",
        "von ",
        "to New ",
        "twenty-",
        "million ",
        "hundred ",
        "next ",
        "end of ",
        "in 3 ",
        "1 EUR ",
        "March ",
        "Mon, ",
        "EUR ",
        "- ",
        "3 March ",
        "Paris, ",
        "2026-",
        "12:",
        "\n",
        "日",
        "Dr. ",
        "the day ",
        "0-",
    ] {
        let goal: String = piece.repeat(20_000 / piece.chars().count());
        let begin = std::time::Instant::now();
        let template = template(&goal, NOW);
        let key = template.key();
        assert!(
            begin.elapsed().as_secs() < 5,
            "{piece:?}: {:?}",
            begin.elapsed()
        );
        assert!(
            !key.is_empty() || piece.trim_matches(['.', ' ', '\n']).is_empty(),
            "{piece:?}"
        );
    }
}
