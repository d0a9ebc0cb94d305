//! The cache from outside: records in, look-ups out.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const DAY: i64 = 24 * 60 * 60 * 1_000;

/// A unit vector with this cosine to the first axis; `axis` is that of the rest.
fn vector(cosine: f32, axis: usize) -> Vec<f32> {
    let mut vector = vec![0.0; DIMENSIONS];
    vector[0] = cosine;
    vector[1 + axis] = (1.0 - cosine * cosine).max(0.0).sqrt();
    vector
}

fn key(tenant: &str, entry: &str) -> Vec<u8> {
    format!("{tenant}\u{1f}{entry}").into_bytes()
}

fn label_key(tenant: &str, entry: &str, other: &str) -> Vec<u8> {
    format!("{tenant}\u{1f}{entry}\u{1f}{other}").into_bytes()
}

fn entry(template: &str) -> EntryRecord<u32> {
    EntryRecord {
        template: template.to_owned(),
        key: template.to_lowercase(),
        at: 0,
        hash: format!("plan of {template}"),
        shape: format!("plan of {template}"),
        family: String::new(),
        red: false,
        fixed: BTreeMap::new(),
        vector: Some(vector(1.0, 0)),
        payload: Arc::new(7),
    }
}

fn put(cache: &mut Cache<u32>, tenant: &str, id: &str, record: EntryRecord<u32>) {
    cache.apply(&key(tenant, id), Some(CacheRecord::Entry(record)));
}

fn label(key: &str, agrees: bool) -> LabelRecord {
    LabelRecord {
        key: key.to_owned(),
        at: 1,
        score: 0.8,
        evidence: Some(4.0),
        hash: None,
        agrees,
    }
}

fn ask(cache: &Cache<u32>, tenant: &str, text: &str, vector: Option<&[f32]>) -> Lookup {
    ask_with(cache, tenant, text, vector, &BTreeMap::new(), 1)
}

fn ask_with(
    cache: &Cache<u32>,
    tenant: &str,
    text: &str,
    vector: Option<&[f32]>,
    slots: &BTreeMap<String, Value>,
    now: i64,
) -> Lookup {
    cache.lookup(&Query {
        tenant,
        key: &text.to_lowercase(),
        text,
        slots,
        vector,
        candidates: None,
        now,
        allowed: &|_, _| Ok(()),
    })
}

fn hit(lookup: &Lookup) -> Option<&str> {
    lookup.hit.as_ref().map(|hit| hit.entry.as_str())
}

#[test]
fn the_same_template_hits_without_a_vector_until_it_expires() {
    let mut cache = Cache::new(Settings::default());
    put(&mut cache, "acme", "e", entry("Book flight to {LOCATION}"));
    let ask = |cache: &Cache<u32>, now| {
        ask_with(
            cache,
            "acme",
            "book flight to {location}",
            None,
            &BTreeMap::new(),
            now,
        )
    };
    let lookup = ask(&cache, DAY - 1);
    assert_eq!(hit(&lookup), Some("e"));
    assert_eq!(lookup.stages.len(), 1);
    let lookup = ask(&cache, DAY);
    assert_eq!(hit(&lookup), None);
    assert_eq!(lookup.stages[0].reason, Some("expired"));
    assert_eq!(lookup.stages[1].reason, Some("no_vector"));
    // A success writes it anew.
    put(
        &mut cache,
        "acme",
        "e",
        EntryRecord {
            at: DAY,
            ..entry("Book flight to {LOCATION}")
        },
    );
    assert_eq!(hit(&ask(&cache, DAY)), Some("e"));
    cache.expire(2 * DAY + 1);
    assert!(cache.get("acme", "e").is_none());
}

#[test]
fn other_words_hit_when_they_are_near_enough_and_the_gates_are_open() {
    let mut cache = Cache::new(Settings::default());
    put(&mut cache, "acme", "e", entry("Cancel the order {ID}"));
    let near = vector(0.97, 1);
    assert_eq!(
        hit(&ask(
            &cache,
            "acme",
            "Please cancel order {ID}",
            Some(&near)
        )),
        Some("e")
    );
    let reversed = ask(
        &cache,
        "acme",
        "Please don't cancel order {ID}",
        Some(&near),
    );
    assert_eq!(hit(&reversed), None);
    let gate = reversed
        .stages
        .iter()
        .find(|stage| stage.name == "gates")
        .unwrap();
    assert_eq!(
        (gate.verdict, gate.reason),
        (Verdict::Refused, Some("negation"))
    );
    assert_eq!(reversed.near_miss, None);
    let far = ask(
        &cache,
        "acme",
        "Please cancel order {ID}",
        Some(&vector(0.8, 1)),
    );
    assert_eq!(hit(&far), None);
    let threshold = far.stages.last().unwrap();
    assert_eq!(
        (threshold.name, threshold.reason),
        ("threshold", Some("below_threshold"))
    );
    assert_eq!(far.near_miss.unwrap().entry, "e");
}

#[test]
fn a_near_entry_with_another_plan_makes_it_uncertain() {
    let mut cache = Cache::new(Settings::default());
    put(
        &mut cache,
        "acme",
        "one",
        entry("Ship parcel {ID} by the blue carrier"),
    );
    let near = vector(0.93, 1);
    let goal = "Ship the parcel {ID} by blue carrier";
    assert_eq!(hit(&ask(&cache, "acme", goal, Some(&near))), Some("one"));
    let other = EntryRecord {
        vector: Some(vector(0.99, 2)),
        ..entry("Ship parcel {ID} by carrier")
    };
    put(&mut cache, "acme", "two", other.clone());
    let lookup = ask(&cache, "acme", goal, Some(&near));
    assert_eq!(
        (hit(&lookup), lookup.stages.last().unwrap().reason),
        (None, Some("uncertain"))
    );
    // Not when both plans have the same shape.
    put(
        &mut cache,
        "acme",
        "two",
        EntryRecord {
            shape: "plan of Ship parcel {ID} by the blue carrier".into(),
            ..other
        },
    );
    assert!(ask(&cache, "acme", goal, Some(&near)).hit.is_some());
}

#[test]
fn labels_that_agree_lower_the_threshold_of_a_plan_and_are_aliases() {
    let mut cache = Cache::new(Settings::default());
    put(&mut cache, "acme", "e", entry("Show open orders"));
    let goal = "List the open orders";
    let near = vector(0.82, 1);
    let before = ask(&cache, "acme", goal, Some(&near));
    assert_eq!(
        before.stages.last().unwrap().reason,
        Some("below_threshold")
    );
    for n in 0..30 {
        let record = label(&format!("open orders, please ({n})"), true);
        cache.apply(
            &label_key("acme", "e", &n.to_string()),
            Some(CacheRecord::Label(record)),
        );
    }
    let after = ask(&cache, "acme", goal, Some(&near));
    let score = |lookup: &Lookup| lookup.stages.last().unwrap().score.unwrap();
    assert!(score(&after) > score(&before));
    assert_ne!(after.stages.last().unwrap().reason, Some("below_threshold"));
    let alias = ask(&cache, "acme", "Open orders, please (3)", None)
        .hit
        .unwrap();
    assert_eq!((alias.entry.as_str(), alias.alias), ("e", true));
    assert_eq!(cache.labels("acme", "e"), (30, 0));
    // A label that disagrees is none, and neither is one about another plan.
    let record = label("open orders, please (3)", false);
    cache.apply(
        &label_key("acme", "e", "3"),
        Some(CacheRecord::Label(record)),
    );
    assert_eq!(
        hit(&ask(&cache, "acme", "Open orders, please (3)", None)),
        None
    );
    put(
        &mut cache,
        "acme",
        "e",
        EntryRecord {
            hash: "new".into(),
            ..entry("Show open orders")
        },
    );
    let record = LabelRecord {
        hash: Some("old".into()),
        ..label("what is open", true)
    };
    cache.apply(
        &label_key("acme", "e", "x"),
        Some(CacheRecord::Label(record)),
    );
    assert_eq!(hit(&ask(&cache, "acme", "What is open", None)), None);
    assert_eq!(cache.labels("acme", "e"), (29, 1));
}

/// A cache whose plan has many entries, all with the first axis as their vector, and labels that agree.
fn learned(settings: Settings, templates: &[&str]) -> Cache<u32> {
    let mut cache = Cache::new(settings);
    for (n, template) in templates.iter().enumerate() {
        let record = EntryRecord {
            shape: "same".into(),
            ..entry(template)
        };
        put(&mut cache, "acme", &n.to_string(), record);
    }
    for n in 0..60 {
        let record = label(&format!("alias {n}"), true);
        cache.apply(
            &label_key("acme", "0", &n.to_string()),
            Some(CacheRecord::Label(record)),
        );
    }
    cache
}

const OPEN_ORDERS: [&str; 5] = [
    "Show open orders",
    "List open orders",
    "Display all open orders",
    "Find the open orders",
    "View open orders",
];

#[test]
fn learning_does_not_go_below_the_lowest_similarity() {
    let cache = learned(Settings::default(), &OPEN_ORDERS);
    let goal = "Get the open orders";
    let at = |similarity| ask(&cache, "acme", goal, Some(&vector(similarity, 1)));
    let reason = |lookup: &Lookup| lookup.stages.last().unwrap().reason;
    let above = at(SIMILARITY_MIN as f32 + 0.05);
    assert_ne!(reason(&above), Some("below_threshold"));
    let below = at(SIMILARITY_MIN as f32 - 0.05);
    assert_eq!(
        (hit(&below), reason(&below)),
        (None, Some("below_threshold"))
    );
    // Unless the base itself is lower.
    let settings = Settings {
        threshold: 0.4,
        ..Settings::default()
    };
    let cache = learned(settings, &OPEN_ORDERS);
    let lookup = ask(
        &cache,
        "acme",
        goal,
        Some(&vector(SIMILARITY_MIN as f32 - 0.05, 1)),
    );
    assert_ne!(reason(&lookup), Some("below_threshold"));
}

#[test]
fn a_threshold_of_1_leaves_the_same_words_alone() {
    let settings = Settings {
        threshold: 1.0,
        ..Settings::default()
    };
    let cache = learned(settings, &OPEN_ORDERS);
    let near = vector(1.0, 1);
    let lookup = ask(&cache, "acme", "Get the open orders", Some(&near));
    assert_eq!(
        (hit(&lookup), lookup.stages.last().unwrap().reason),
        (None, Some("below_threshold"))
    );
    for same in ["Show open orders", "alias 3"] {
        assert!(ask(&cache, "acme", same, Some(&near)).hit.is_some());
    }
}

#[test]
fn exchanged_words_and_negations_miss_however_many_entries_a_plan_has() {
    let templates = [
        "Pay {AMOUNT_1} for rent and {AMOUNT_2} for power",
        "Please pay {AMOUNT_1} for rent and {AMOUNT_2} for power",
        "Transfer {AMOUNT_1} for rent and {AMOUNT_2} for power",
        "Remit {AMOUNT_1} for rent and {AMOUNT_2} for power",
        "Settle {AMOUNT_1} for the rent and {AMOUNT_2} for power",
    ];
    let cache = learned(Settings::default(), &templates);
    let near = vector(0.99, 1);
    let refused = |text: &str| {
        let lookup = ask(&cache, "acme", text, Some(&near));
        assert_eq!(hit(&lookup), None, "{text}");
        let mut gates = lookup.stages.into_iter();
        gates
            .find(|stage| stage.name == "gates")
            .and_then(|s| s.reason)
    };
    let swapped = "Kindly pay {AMOUNT_1} for power and {AMOUNT_2} for rent";
    assert_eq!(refused(swapped), Some("direction"));
    let negated = "Bitte nicht pay {AMOUNT_1} for rent and {AMOUNT_2} for power";
    assert_eq!(refused(negated), Some("negation"));
}

#[test]
fn labels_may_come_before_their_entry_and_are_bounded() {
    let settings = Settings {
        labels: 2,
        entries: 2,
        ..Settings::default()
    };
    let mut cache = Cache::new(settings);
    for n in 0..3 {
        let record = LabelRecord {
            at: n,
            ..label(&format!("alias {n}"), true)
        };
        cache.apply(
            &label_key("acme", "e", &n.to_string()),
            Some(CacheRecord::Label(record)),
        );
    }
    assert_eq!(hit(&ask(&cache, "acme", "alias 2", None)), None);
    put(&mut cache, "acme", "e", entry("Show open orders"));
    assert_eq!(hit(&ask(&cache, "acme", "alias 2", None)), Some("e"));
    assert_eq!(hit(&ask(&cache, "acme", "alias 0", None)), None);
    cache.apply(&label_key("acme", "e", "2"), None);
    assert_eq!(hit(&ask(&cache, "acme", "alias 2", None)), None);
    // The oldest entry makes room.
    put(
        &mut cache,
        "acme",
        "f",
        EntryRecord {
            at: 5,
            ..entry("Show closed orders")
        },
    );
    put(
        &mut cache,
        "acme",
        "g",
        EntryRecord {
            at: 6,
            ..entry("Show late orders")
        },
    );
    assert_eq!(cache.entries("acme").count(), 2);
    assert_eq!(
        hit(&ask(
            &cache,
            "acme",
            "Show open orders",
            Some(&vector(1.0, 0))
        )),
        None
    );
}

#[test]
fn red_plans_need_more_certainty() {
    let mut cache = Cache::new(Settings::default());
    let goal = "Please pay invoice {ID}";
    let near = vector(0.89, 1);
    put(
        &mut cache,
        "acme",
        "e",
        EntryRecord {
            red: true,
            ..entry("Pay invoice {ID}")
        },
    );
    let lookup = ask(&cache, "acme", goal, Some(&near));
    assert_eq!(
        (hit(&lookup), lookup.stages.last().unwrap().reason),
        (None, Some("below_threshold"))
    );
    put(&mut cache, "acme", "e", entry("Pay invoice {ID}"));
    let lookup = ask(&cache, "acme", goal, Some(&near));
    assert_ne!(
        lookup.stages.last().unwrap().reason,
        Some("below_threshold")
    );
}

#[test]
fn values_that_are_written_in_the_plan_must_be_the_same() {
    let mut cache = Cache::new(Settings::default());
    let fixed = BTreeMap::from([("NUMBER".to_owned(), json!(5))]);
    put(
        &mut cache,
        "acme",
        "e",
        EntryRecord {
            fixed,
            ..entry("Show the top {NUMBER} customers")
        },
    );
    let ask = |text: &str, number: Value| {
        ask_with(
            &cache,
            "acme",
            text,
            Some(&vector(0.98, 1)),
            &BTreeMap::from([("NUMBER".to_owned(), number)]),
            1,
        )
    };
    for text in [
        "Show the top {NUMBER} customers",
        "Please show the top {NUMBER} customers",
    ] {
        assert_eq!(hit(&ask(text, json!(5))), Some("e"));
        assert_eq!(hit(&ask(text, json!({ "value": "5" }))), None);
        let other = ask(text, json!(10));
        assert_eq!(hit(&other), None);
        assert!(
            other
                .stages
                .iter()
                .any(|stage| stage.reason == Some("fixed_values"))
        );
    }
}

#[test]
fn an_entry_that_is_not_allowed_is_left_out_and_the_reason_is_recorded() {
    let mut cache = Cache::new(Settings::default());
    put(&mut cache, "acme", "e", entry("Show open orders"));
    let lookup = cache.lookup(&Query {
        tenant: "acme",
        key: "show open orders",
        text: "Show open orders",
        slots: &BTreeMap::new(),
        vector: Some(&vector(1.0, 0)),
        candidates: None,
        now: 1,
        allowed: &|id, payload| {
            assert_eq!((id, *payload), ("e", 7));
            Err("tool_changed")
        },
    });
    assert_eq!(
        (hit(&lookup), lookup.stages[0].reason),
        (None, Some("tool_changed"))
    );
    assert_eq!(
        (lookup.stages[1].name, lookup.stages[1].verdict),
        ("search", Verdict::Miss)
    );
    let json = serde_json::to_value(&lookup.stages[0]).unwrap();
    assert_eq!(
        json,
        json!({ "name": "template", "verdict": "miss", "reason": "tool_changed" })
    );
}

#[test]
fn candidates_from_outside_are_checked_against_the_entries() {
    let mut cache = Cache::new(Settings::default());
    put(&mut cache, "acme", "e", entry("Cancel the order {ID}"));
    put(&mut cache, "bolt", "f", entry("Cancel the order {ID}"));
    let near = vector(0.97, 1);
    let ask = |candidates: &[(String, f32)]| {
        cache.lookup(&Query {
            tenant: "acme",
            key: "please cancel order {id}",
            text: "Please cancel order {ID}",
            slots: &BTreeMap::new(),
            vector: Some(&near),
            candidates: Some(candidates),
            now: 1,
            allowed: &|_, _| Ok(()),
        })
    };
    // Another tenant's, unknown ones, and scores that are not true.
    let lookup = ask(&[("f".into(), 1.0), ("gone".into(), 1.0), ("e".into(), 0.2)]);
    assert_eq!(hit(&lookup), Some("e"));
    assert!((lookup.hit.unwrap().score - 0.97).abs() < 1e-5);
    assert_eq!(hit(&ask(&[("f".into(), 1.0)])), None);
    // Many that are not known any more hide none.
    let gone = (0..20).map(|n| (format!("gone{n}"), 0.99));
    let many: Vec<_> = gone.chain([("e".to_owned(), 0.97)]).collect();
    assert_eq!(hit(&ask(&many)), Some("e"));
    assert_eq!(hit(&ask(&[])), None);
}

#[test]
fn what_varies_between_goals_of_a_plan_counts_less_after_a_fit() {
    let mut cache = Cache::new(Settings::default());
    for n in 0..100 {
        let mut vector = vector(0.8, 1);
        vector[2] *= [1.0, -1.0][n % 2];
        let record = EntryRecord {
            shape: "same".into(),
            vector: Some(vector),
            ..entry("Cancel the order {ID}")
        };
        put(&mut cache, "acme", &n.to_string(), record);
    }
    let mean = |cache: &Cache<u32>| {
        let (_, evidence) = cache
            .evidence(&Query {
                tenant: "acme",
                key: "please cancel order {id}",
                text: "Please cancel order {ID}",
                slots: &BTreeMap::new(),
                vector: Some(&vector(0.8, 1)),
                candidates: None,
                now: 1,
                allowed: &|_, _| Ok(()),
            })
            .unwrap();
        evidence.mean
    };
    assert!((mean(&cache) - 0.8).abs() < 1e-5);
    assert!(!cache.fits().is_empty());
    cache.fit();
    assert!(cache.fits().is_empty());
    assert!(mean(&cache) > 0.9, "{}", mean(&cache));
    // Too few are left.
    for n in 0..60 {
        cache.apply(&key("acme", &n.to_string()), None);
    }
    cache.fit();
    assert!((mean(&cache) - 0.8).abs() < 1e-5);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the records: a hit is an entry of the tenant that has been written and not been forgotten since.
    #[test]
    fn tenants_never_share_and_what_is_forgotten_never_hits(
        changes in prop::collection::vec((0..3_usize, 0..5_usize, 0..4_u8, 0..5_usize), 0..60),
        asked in prop::collection::vec((0..3_usize, 0..5_usize), 20),
    ) {
        let tenants = ["acme", "bolt", "core"];
        let texts = ["Show orders", "Cancel order {ID}", "List the orders", "Pay {AMOUNT}", "Please cancel order {ID}"];
        let mut cache = Cache::new(Settings::default());
        let mut alive = HashMap::new();
        for (tenant, id, change, other) in changes {
            let (tenant, name) = (tenants[tenant], format!("{tenant}-{id}"));
            match change {
                0 | 1 => {
                    put(&mut cache, tenant, &name, EntryRecord { shape: "same".into(), ..entry(texts[id]) });
                    alive.insert(name, tenant);
                }
                2 => {
                    cache.apply(&key(tenant, &name), None);
                    alive.remove(&name);
                }
                _ => {
                    let record = label(&texts[other].to_lowercase(), true);
                    cache.apply(&label_key(tenant, &name, &other.to_string()), Some(CacheRecord::Label(record)));
                }
            }
        }
        for (tenant, text) in asked {
            for vector in [None, Some(vector(0.99, 1))] {
                let lookup = ask(&cache, tenants[tenant], texts[text], vector.as_deref());
                if let Some(hit) = lookup.hit {
                    prop_assert_eq!(alive.get(&hit.entry), Some(&tenants[tenant]));
                }
                if alive.get(&format!("{tenant}-{text}")) == Some(&tenants[tenant]) {
                    prop_assert!(ask(&cache, tenants[tenant], texts[text], None).hit.is_some());
                }
            }
        }
    }
}
