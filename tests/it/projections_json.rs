//! Postgres can store all JSON that the port accepts; the port refuses the rest.

use omnilink::{envelope::canonical_hash, store::storable_json};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};
use sqlx::{Connection, PgConnection};

use crate::support::projections::Database;

/// Numbers around the limits of `numeric`, text with all kinds of escapes, and some structure.
fn json() -> impl Strategy<Value = String> {
    let digits = prop_oneof![
        "[0-9]{1,8}",
        Just("9".repeat(131_072)),
        Just("0".repeat(20_000))
    ];
    let exponent = prop_oneof![
        Just(String::new()),
        (
            prop_oneof![Just(""), Just("-"), Just("+")],
            prop_oneof![0_i64..400, 16_370_i64..16_395, 131_050_i64..131_080]
        )
            .prop_map(|(sign, n)| format!("e{sign}{n}")),
    ];
    let number = (
        any::<bool>(),
        "(0|[1-9][0-9]{0,6})",
        prop::option::of(digits),
        exponent,
    )
        .prop_map(|(negative, whole, fraction, exponent)| {
            let fraction = fraction.map(|f| format!(".{f}")).unwrap_or_default();
            format!(
                "{}{whole}{fraction}{exponent}",
                if negative { "-" } else { "" }
            )
        });
    let part = prop_oneof![
        Just(r"\u0000".to_owned()),
        Just(r"\\".to_owned()),
        Just(r"\ud83d\ude00".to_owned()),
        Just(r"\ud83d".to_owned()),
        Just(r"\ude00".to_owned()),
        Just(r"\/\b\f\n\r\t".to_owned()),
        "[a-zé\u{1f600}\u{fffd}\u{7f}]{0,3}",
    ];
    let text =
        prop::collection::vec(part, 0..5).prop_map(|parts| format!("\"{}\"", parts.concat()));
    let leaf = prop_oneof![
        number,
        text,
        Just("null".to_owned()),
        Just("true".to_owned())
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4)
                .prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::btree_map("[a-c]|\\\\\\\\u0000", inner, 0..4).prop_map(|members| {
                let members: Vec<String> = members
                    .iter()
                    .map(|(k, v)| format!("\"{k}\": {v}"))
                    .collect();
                format!("{{{}}}", members.join(" ,"))
            }),
        ]
    })
}

#[test]
fn accepted_json_is_storable() {
    let Some(database) = Database::empty() else {
        return;
    };
    let mut runner = TestRunner::new(Config::default());
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let mut texts = vec![
        deep(128),
        deep(129),
        "1e131071".into(),
        "1e131072".into(),
        "1e-16383".into(),
        "1e-16384".into(),
    ];
    texts.extend((0..500).map(|_| json().new_tree(&mut runner).unwrap().current()));
    database.runtime.block_on(async {
        let mut connection = PgConnection::connect_with(&database.options).await.unwrap();
        let mut accepted = 0;
        for text in texts {
            if canonical_hash(text.as_bytes()).is_err() {
                continue;
            }
            accepted += 1;
            let stored = storable_json(&text);
            let kept = sqlx::query_scalar::<_, bool>("SELECT $1::jsonb IS NOT NULL")
                .bind(&*stored)
                .fetch_one(&mut connection)
                .await;
            assert!(kept.is_ok(), "{}: {kept:?}", &text[..text.len().min(300)]);
        }
        assert!(accepted > 100, "{accepted}");
    });
}
