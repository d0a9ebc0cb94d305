use super::*;

fn batch(body: &str) -> Result<Vec<Item<'_>>, Invalid> {
    parse_batch(body.as_bytes(), Form::OmniLink, 50, &acme(), NOW)
}

#[test]
fn valid_items_are_accepted_beside_invalid_ones() {
    let good = minimal("");
    let deep = "[".repeat(5000) + &"]".repeat(5000);
    let bad = [
        ("{}", "missing_id"),
        (" 7 ", "invalid_payload"),
        ("\"}]\"", "invalid_payload"),
        ("[[]]", "invalid_payload"),
        (r#"{"a":[{"b":1,"b":2}],"id":"1"}"#, "invalid_payload"),
        (r#"{"data":"\ud800"}"#, "invalid_payload"),
        (r#"{"data":1e999999}"#, "invalid_payload"),
        (r#"{"id":"","data":"]"}"#, "missing_id"),
        (&deep, "invalid_payload"),
    ];
    let mut items = vec![good.as_str()];
    for (text, _) in &bad {
        items.extend([*text, &good]);
    }
    for body in [
        format!("[{}]", items.join(",")),
        format!(" {{ \"events\" : [ {} ] }} ", items.join(" ,\n")),
    ] {
        let found = batch(&body).unwrap();
        assert_eq!(found.len(), items.len());
        for (at, (item, text)) in found.into_iter().zip(&items).enumerate() {
            assert_eq!(item.raw, text.trim().as_bytes());
            if at % 2 == 0 {
                let alone = structured(text, Form::OmniLink).unwrap();
                assert_eq!(item.parsed.unwrap(), alone);
            } else {
                refused(item.parsed, bad[at / 2].1, text);
            }
        }
    }
}

#[test]
fn a_body_that_is_not_json_is_refused_as_a_whole() {
    let good = minimal("");
    for body in [
        format!("[{good}"),
        format!("[{good},]"),
        format!("[{good} {good}]"),
        format!("[{good},{{\"id\":1]"),
        format!("[{good},nope]"),
        format!("[{good}]]"),
        format!("[{good}]x"),
        format!("{{\"events\":[{good}]"),
        format!("{{\"events\":[{good}],\"events\":[]}}"),
        format!("{{\"events\":[{good}],\"more\":1}}"),
        format!("{{\"more\":1,\"events\":[{good}]}}"),
        "{\"events\":{}}".to_owned(),
        "7".to_owned(),
        String::new(),
    ] {
        refused(batch(&body), "invalid_payload", &body);
    }
    refused(batch("{}"), "missing_events", "{}");
    let strict = parse_batch(b"{\"events\":[]}", Form::CloudEvents, 50, &acme(), NOW);
    refused(strict, "invalid_payload", "a strict batch is an array");
}

#[test]
fn nesting_depth_is_counted_per_item() {
    let deepest = format!("{}1{}", "[".repeat(127), "]".repeat(127));
    let item = minimal("").replace("\"data\":1", &format!("\"data\":{deepest}"));
    for body in [
        format!("[{item},{item}]"),
        format!("{{\"events\":[{item}]}}"),
    ] {
        assert!(batch(&body).unwrap().iter().all(|item| item.parsed.is_ok()));
        let Ok(Body::Batch(items)) = parse(body.as_bytes(), 50, &acme(), NOW) else {
            panic!("no batch");
        };
        assert!(items.iter().all(|item| item.parsed.is_ok()));
    }
}

#[test]
fn the_number_of_items_is_limited() {
    let body = |count: usize| format!("[{}]", vec!["0"; count].join(","));
    assert_eq!(batch(&body(50)).unwrap().len(), 50);
    refused(batch(&body(51)), "batch_too_large", "51 items");
    assert_eq!(batch("[]").unwrap(), []);
}
