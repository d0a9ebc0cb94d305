//! Dead letters on both logs: they are listed, shown, and redriven in order, passing dedupe once.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use omnilink::{
    admission::Admission,
    base::clock::Millis,
    controls::SecretKeys,
    envelope::avro,
    log::{Fetched, Log, Record, header, topics::Names},
    stream::{
        dlq::{
            self,
            letters::{self, Listing, Shown, parse_cursor},
            name::Name,
            redrive::{Pick, Redrive, Redriven},
            redriven,
        },
        lane::Running,
    },
};

use crate::support::{TestLog, append, on_both_logs, read_all};

on_both_logs!(
    letters_are_listed_newest_first_in_pages,
    redriven_records_keep_their_order_and_pass_dedupe_once,
    batch_items_are_redriven_and_letters_without_a_topic_are_not,
);

const PARTITIONS: u32 = 3;

struct Fixture {
    log: Arc<dyn Log>,
    names: Names,
    secrets: Arc<SecretKeys>,
    _running: Running,
}

fn secrets(n: u8) -> SecretKeys {
    SecretKeys::new([&STANDARD.encode([n; 32])[..]]).unwrap()
}

fn fixture(test_log: &TestLog) -> Fixture {
    let log = test_log.open("a");
    let names = Names::new(&test_log.prefix);
    log.provision(&names.specs(PARTITIONS), true).unwrap();
    let secrets = Arc::new(secrets(1));
    let admission = Admission::new(&names, PARTITIONS, 24 * 3_600_000, false)
        .with_secrets(Arc::clone(&secrets));
    Fixture {
        _running: test_log.start_lane(&log, admission, &Arc::default()),
        log,
        names,
        secrets,
    }
}

impl Fixture {
    fn redrive(&self, pick: &Pick) -> Redriven {
        let redrive = Redrive {
            log: &*self.log,
            names: &self.names,
            secrets: &self.secrets,
        };
        redrive.run(pick, &mut |_| true).unwrap()
    }

    fn list(&self, code: Option<&str>, limit: usize, cursor: Option<&str>) -> letters::Letters {
        let listing = Listing {
            code: code.map(str::to_owned),
            limit,
            cursor: cursor.map(|c| parse_cursor(c).unwrap()),
        };
        letters::list(&*self.log, &self.names, &listing).unwrap()
    }

    /// The ids of one entity's events, in order.
    fn admitted(&self, at_least: usize, entity: &str) -> Vec<String> {
        let all = read_all(&*self.log, &self.names.events, at_least);
        let mut ids = Vec::new();
        for record in &all {
            let (event, _) = avro::decode_event(record.record.value.as_ref().unwrap()).unwrap();
            if event.entity.as_ref().unwrap().external_id == entity {
                ids.push(event.id.into_owned());
            }
        }
        ids
    }
}

fn envelope(id: &str, entity: &str) -> String {
    format!(
        r#"{{"specversion":"1.0","id":"{id}","source":"/shop","type":"order.paid","entitytype":"order","entityid":"{entity}","data":{{"n":1}}}}"#
    )
}

fn event(id: &str, entity: &str) -> Record {
    Record {
        key: Some(format!("acme/order/{entity}").into()),
        value: Some(envelope(id, entity).into()),
        headers: vec![("omnilink-tenant".into(), Some("acme".into()))],
    }
}

/// A dead letter as a processor writes it.
pub fn letter(record: Record, topic: &str, offset: u64, code: &str) -> Record {
    let rejected = Fetched {
        topic: 0,
        partition: 0,
        offset,
        timestamp: Millis(1_700_000_000_000),
        record,
    };
    let reason = dlq::Reason {
        topic,
        stage: "shop",
        code,
        message: "a message\nof two lines",
        failed_at: Millis(1_700_000_000_000 + offset as i64),
    };
    dlq::record(&rejected, None, &reason)
}

fn letters_are_listed_newest_first_in_pages(test_log: TestLog) {
    let fixture = fixture(&test_log);
    let Fixture { log, names, .. } = &fixture;
    assert!(fixture.list(None, 10, None).items.is_empty());
    for n in 0..60 {
        let code = if n % 10 == 0 { "rare" } else { "usual" };
        let record = letter(
            event(&n.to_string(), &format!("e{}", n % 7)),
            &names.ingress,
            n,
            code,
        );
        append(&**log, &names.dlq, vec![record]).unwrap();
        // Append times order the partitions.
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let whole: Vec<u64> = (0..60).rev().collect();
    let offsets = |page: &letters::Letters| -> Vec<u64> {
        page.items.iter().map(|l| l.offset.unwrap()).collect()
    };
    assert_eq!(offsets(&fixture.list(None, 1000, None)), whole);
    let mut pages = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let page = fixture.list(None, 7, cursor.as_deref());
        pages.extend(offsets(&page));
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(pages, whole);
    let rare = fixture.list(Some("rare"), 1000, None);
    assert_eq!(offsets(&rare), [50, 40, 30, 20, 10, 0]);
    let first = &rare.items[0];
    assert_eq!((&*first.stage, &*first.code), ("shop", "rare"));
    assert_eq!((&*first.topic, first.partition), (&*names.ingress, Some(0)));
    assert_eq!(first.failed_at, "2023-11-14T22:13:20.05Z");

    let found = letters::show(&**log, names, first.name).unwrap().unwrap();
    let shown = serde_json::to_value(Shown::of(&found)).unwrap();
    assert_eq!(shown["name"], first.name.to_string());
    assert_eq!(shown["key"], "acme/order/e1");
    assert_eq!(shown["value"], envelope("50", "e1"));
    assert_eq!(
        shown["headers"][0],
        serde_json::json!(["omnilink-tenant", "acme"])
    );
    let newest: Vec<Name> = fixture
        .list(None, 30, None)
        .items
        .iter()
        .map(|l| l.name)
        .collect();
    let found = letters::show_all(&**log, names, &newest).unwrap();
    let order: Vec<_> = found.iter().map(|f| (f.partition, f.offset)).collect();
    let expected: Vec<_> = newest.iter().map(|n| (n.partition, n.offset)).collect();
    assert_eq!(order, expected);
    let beyond = Name {
        partition: first.name.partition,
        offset: 1_000_000,
    };
    assert!(letters::show(&**log, names, beyond).unwrap().is_none());
    let nowhere = Name {
        partition: 99,
        offset: 0,
    };
    assert!(letters::show(&**log, names, nowhere).unwrap().is_none());
}

fn redriven_records_keep_their_order_and_pass_dedupe_once(test_log: TestLog) {
    let fixture = fixture(&test_log);
    let Fixture { log, names, .. } = &fixture;
    let expected: Vec<String> = (0..700).map(|n| n.to_string()).collect();
    // Dedupe has seen all of them.
    let seen = expected.iter().map(|id| event(id, "1")).collect();
    append(&**log, &names.ingress, seen).unwrap();
    assert_eq!(fixture.admitted(700, "1"), expected);
    for chunk in expected.chunks(100) {
        let letters = chunk
            .iter()
            .map(|id| letter(event(id, "1"), &names.ingress, id.parse().unwrap(), "code"));
        append(&**log, &names.dlq, letters.collect()).unwrap();
    }

    let done = fixture.redrive(&Pick::All);
    assert_eq!((done.redriven, done.left_out, done.homeless), (700, 0, 0));
    assert_eq!(done.done, done.total);
    let twice: Vec<_> = [&expected[..], &expected[..]].concat();
    assert_eq!(fixture.admitted(1400, "1"), twice);

    // Neither `All` nor `Code` redrives them again.
    let again = fixture.redrive(&Pick::All);
    assert_eq!((again.redriven, again.left_out), (0, 700));
    let again = fixture.redrive(&Pick::Code("code".into()));
    assert_eq!((again.redriven, again.left_out), (0, 700));
    assert_eq!(fixture.redrive(&Pick::Code("other".into())).redriven, 0);
    let listed = fixture.list(None, 1, None);
    assert_eq!(listed.items[0].redriven, 1);

    // A crash before the redrive is recorded: the same records come again with the same count, and dedupe drops them.
    let marked: Vec<Record> = read_all(&**log, &names.ingress, 1400)
        .into_iter()
        .map(|fetched| fetched.record)
        .filter(|record| redriven::claimed(record) == Some(1))
        .collect();
    assert_eq!(marked.len(), 700);
    let headers: Vec<_> = marked[0].headers.iter().map(|(name, _)| &**name).collect();
    assert_eq!(
        headers,
        ["omnilink-tenant", redriven::COUNT, redriven::SIGNATURE]
    );
    append(&**log, &names.ingress, marked[..5].to_vec()).unwrap();
    // A forged mark, or one for other bytes, does not pass dedupe either.
    let mut forged = event("0", "1");
    redriven::mark(&secrets(2), &names.ingress, &mut forged, 7);
    let mut moved = event("3", "1");
    moved.headers.clone_from(&marked[0].headers);
    append(&**log, &names.ingress, vec![forged, moved]).unwrap();
    append(&**log, &names.ingress, vec![event("end", "1")]).unwrap();
    let mut with_end = twice.clone();
    with_end.push("end".into());
    assert_eq!(fixture.admitted(1401, "1"), with_end);

    // A name forces another redrive, with the next count.
    let name = listed.items[0].name;
    let none = Name {
        offset: name.offset + 1_000,
        ..name
    };
    let forced = fixture.redrive(&Pick::Names([name, none].into()));
    assert_eq!((forced.redriven, forced.missing), (1, vec![none]));
    let mut with_forced = with_end;
    with_forced.push("699".into());
    assert_eq!(fixture.admitted(1402, "1"), with_forced);
    assert_eq!(fixture.list(None, 1, None).items[0].redriven, 2);
}

fn batch_items_are_redriven_and_letters_without_a_topic_are_not(test_log: TestLog) {
    let fixture = fixture(&test_log);
    let Fixture { log, names, .. } = &fixture;
    let media = (
        "content-type".to_owned(),
        Some("application/cloudevents-batch+json".into()),
    );
    let mut item = event("item", "1");
    item.headers.push(media);
    // An item that is valid by now, and one that stays invalid.
    let mut bad = item.clone();
    bad.value = Some("{\"specversion\":\"1.0\",\"id\":\"\"}".into());
    let stranger = Record {
        key: Some("k".into()),
        value: Some("v".into()),
        headers: Vec::new(),
    };
    let letters = vec![
        letter(item, &names.ingress, 1, "throttled"),
        letter(bad, &names.ingress, 2, "missing_id"),
        letter(stranger.clone(), &names.controls, 3, "x"),
        letter(stranger.clone(), &names.state("admission"), 4, "x"),
        stranger,
    ];
    append(&**log, &names.dlq, letters).unwrap();
    let done = fixture.redrive(&Pick::All);
    assert_eq!((done.redriven, done.homeless), (2, 3));
    assert_eq!(fixture.admitted(1, "1"), ["item"]);
    // An item that is still invalid becomes a new letter with its redrive count, and can be redriven with the next count.
    for round in 1..3 {
        let all = read_all(&**log, &names.dlq, 5 + round);
        let back: Vec<_> = all
            .iter()
            .filter(|f| header(&f.record.headers, "omnilink.dlq.stage") == Some(b"admission"))
            .collect();
        assert_eq!(back.len(), round);
        let newest = fixture.list(Some("missing_id"), 1, None).items.remove(0);
        assert_eq!(
            (&*newest.stage, newest.redriven),
            ("admission", round as u32)
        );
        assert_eq!(
            fixture.redrive(&Pick::Code("missing_id".into())).redriven,
            1
        );
    }
    let topic = format!("{}nowhere", test_log.prefix);
    append(
        &**log,
        &names.dlq,
        vec![letter(event("x", "1"), &topic, 5, "lost")],
    )
    .unwrap();
    let redrive = Redrive {
        log: &**log,
        names,
        secrets: &fixture.secrets,
    };
    let error = redrive
        .run(&Pick::Code("lost".into()), &mut |_| true)
        .unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
}
