//! Dead letters, on both logs: listed, shown, and back on their topics in order, once past dedupe.

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
        lane::{self, Running, Setup},
    },
};

use crate::support::{Bed, append, on_both, read_all};

on_both!(
    newest_first_page_by_page,
    back_in_order_and_once_past_dedupe,
    items_of_batches_and_letters_without_a_home,
);

const PARTITIONS: u32 = 3;

struct World {
    log: Arc<dyn Log>,
    names: Names,
    secrets: Arc<SecretKeys>,
    _running: Running,
}

fn secrets(n: u8) -> SecretKeys {
    SecretKeys::new([&STANDARD.encode([n; 32])[..]]).unwrap()
}

fn world(bed: &Bed) -> World {
    let log = bed.open("a");
    let names = Names::new(&bed.prefix);
    log.provision(&names.specs(PARTITIONS), true).unwrap();
    let setup = Setup {
        log: Arc::clone(&log),
        dlq: Arc::clone(&names.dlq),
        clock: Arc::clone(&bed.clock),
        progress: Arc::default(),
    };
    let secrets = Arc::new(secrets(1));
    let admission = Admission::new(&names, PARTITIONS, 24 * 3_600_000, false)
        .with_secrets(Arc::clone(&secrets));
    World {
        _running: lane::start(Arc::new(admission), setup).unwrap(),
        log,
        names,
        secrets,
    }
}

impl World {
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

    /// Ids of events, in order, of one entity.
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

/// A letter as a processor would have written it.
fn letter(record: Record, topic: &str, offset: u64, code: &str) -> Record {
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

fn newest_first_page_by_page(bed: Bed) {
    let world = world(&bed);
    let World { log, names, .. } = &world;
    assert!(world.list(None, 10, None).items.is_empty());
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
    assert_eq!(offsets(&world.list(None, 1000, None)), whole);
    let mut pages = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let page = world.list(None, 7, cursor.as_deref());
        pages.extend(offsets(&page));
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(pages, whole);
    let rare = world.list(Some("rare"), 1000, None);
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
    let newest: Vec<Name> = world
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

fn back_in_order_and_once_past_dedupe(bed: Bed) {
    let world = world(&bed);
    let World { log, names, .. } = &world;
    let expected: Vec<String> = (0..700).map(|n| n.to_string()).collect();
    // All have been seen before.
    let seen = expected.iter().map(|id| event(id, "1")).collect();
    append(&**log, &names.ingress, seen).unwrap();
    assert_eq!(world.admitted(700, "1"), expected);
    for chunk in expected.chunks(100) {
        let letters = chunk
            .iter()
            .map(|id| letter(event(id, "1"), &names.ingress, id.parse().unwrap(), "code"));
        append(&**log, &names.dlq, letters.collect()).unwrap();
    }

    let done = world.redrive(&Pick::All);
    assert_eq!((done.redriven, done.left_out, done.homeless), (700, 0, 0));
    assert_eq!(done.done, done.total);
    let twice: Vec<_> = [&expected[..], &expected[..]].concat();
    assert_eq!(world.admitted(1400, "1"), twice);

    // They went back: neither all nor a code takes them again.
    let again = world.redrive(&Pick::All);
    assert_eq!((again.redriven, again.left_out), (0, 700));
    let again = world.redrive(&Pick::Code("code".into()));
    assert_eq!((again.redriven, again.left_out), (0, 700));
    assert_eq!(world.redrive(&Pick::Code("other".into())).redriven, 0);
    let listed = world.list(None, 1, None);
    assert_eq!(listed.items[0].redriven, 1);

    // A crash before the note: the same comes again under the same count, and passes no second time.
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
    // Nor does a mark that somebody made up, or one for other bytes.
    let mut forged = event("0", "1");
    redriven::mark(&secrets(2), &names.ingress, &mut forged, 7);
    let mut moved = event("3", "1");
    moved.headers.clone_from(&marked[0].headers);
    append(&**log, &names.ingress, vec![forged, moved]).unwrap();
    append(&**log, &names.ingress, vec![event("end", "1")]).unwrap();
    let mut with_end = twice.clone();
    with_end.push("end".into());
    assert_eq!(world.admitted(1401, "1"), with_end);

    // A name forces it, and counts on.
    let name = listed.items[0].name;
    let none = Name {
        offset: name.offset + 1_000,
        ..name
    };
    let forced = world.redrive(&Pick::Names([name, none].into()));
    assert_eq!((forced.redriven, forced.missing), (1, vec![none]));
    let mut with_forced = with_end;
    with_forced.push("699".into());
    assert_eq!(world.admitted(1402, "1"), with_forced);
    assert_eq!(world.list(None, 1, None).items[0].redriven, 2);
}

fn items_of_batches_and_letters_without_a_home(bed: Bed) {
    let world = world(&bed);
    let World { log, names, .. } = &world;
    let media = (
        "content-type".to_owned(),
        Some("application/cloudevents-batch+json".into()),
    );
    let mut item = event("item", "1");
    item.headers.push(media);
    // An item that was rejected for a reason that is gone, and one that is bad for good.
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
    let done = world.redrive(&Pick::All);
    assert_eq!((done.redriven, done.homeless), (2, 3));
    assert_eq!(world.admitted(1, "1"), ["item"]);
    // What is still bad comes back as a new letter that says how often it was here, and goes back under the next count.
    for round in 1..3 {
        let all = read_all(&**log, &names.dlq, 5 + round);
        let back: Vec<_> = all
            .iter()
            .filter(|f| header(&f.record.headers, "omnilink.dlq.stage") == Some(b"admission"))
            .collect();
        assert_eq!(back.len(), round);
        let newest = world.list(Some("missing_id"), 1, None).items.remove(0);
        assert_eq!(
            (&*newest.stage, newest.redriven),
            ("admission", round as u32)
        );
        assert_eq!(world.redrive(&Pick::Code("missing_id".into())).redriven, 1);
    }
    let topic = format!("{}nowhere", bed.prefix);
    append(
        &**log,
        &names.dlq,
        vec![letter(event("x", "1"), &topic, 5, "lost")],
    )
    .unwrap();
    let redrive = Redrive {
        log: &**log,
        names,
        secrets: &world.secrets,
    };
    let error = redrive
        .run(&Pick::Code("lost".into()), &mut |_| true)
        .unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
}
