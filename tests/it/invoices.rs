//! Real invoice lines, mixed with duplicates and garbage, through `examples/shop` on Kafka into Postgres: each line is one event,
//! the total of every invoice is exact, and each piece of garbage is a dead letter, byte for byte.
//! `OMNILINK_TEST_SEED` repeats a run.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use omnilink::log::{Cleanup, Fetched, Headers, Record, TopicSpec, header, topics::Names};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer},
    types::RDKafkaErrorCode,
    util::Timeout,
};
use serde_json::{Value, json};

use crate::{
    shop_example::topologies,
    support::{
        LogKind, TestLog,
        command::{Up, errors, omnilink, output},
        env_or_skip,
        projections::Database,
        read_all,
    },
};

const PARTITIONS: u32 = 4;
/// Percentages of the lines.
const DUPLICATES: usize = 3;
const GARBAGE: usize = 1;
/// How long the number of rows may stay the same.
const STALL_TIMEOUT: Duration = Duration::from_mins(3);
/// The header that identifies a piece of garbage.
const MARK: &str = "garbage";

/// A line of the file with its parsed values.
struct Line {
    order: String,
    number: usize,
    product: String,
    customer: String,
    quantity: i64,
    pence: i64,
    json: String,
}

fn data() -> Option<PathBuf> {
    let shared = std::env::var_os("OMNILINK_SHARED_DATA").unwrap_or("../shared/data".into());
    let dir = Path::new(&shared).join("online-retail");
    if dir.is_dir() {
        return Some(dir);
    }
    eprintln!(
        "SKIPPED: there is no {} (OMNILINK_SHARED_DATA)",
        dir.display()
    );
    None
}

/// The fields of a line of CSV, as RFC 4180 quotes them.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(char) = chars.next() {
        let last = fields.last_mut().unwrap();
        match char {
            '"' if quoted && chars.peek() == Some(&'"') => last.extend(chars.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            _ => last.push(char),
        }
    }
    assert!(!quoted, "a field goes over several lines: {line}");
    fields
}

/// "2.1" is 210. Without floats, to be exact.
fn pence(price: &str) -> i64 {
    let (pounds, rest) = price.split_once('.').unwrap_or((price, ""));
    assert!(rest.len() <= 2, "{price}");
    format!("{pounds}{rest:0<2}").parse().unwrap()
}

/// All lines of all files, each numbered within its invoice.
fn lines(dir: &Path) -> Vec<Line> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|x| x == "csv"))
        .collect();
    files.sort();
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    let mut lines = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).unwrap();
        let mut rows = text.lines();
        let columns = fields(rows.next().unwrap());
        for row in rows {
            let fields = fields(row);
            assert_eq!(fields.len(), columns.len(), "{row}");
            let mut json: serde_json::Map<String, Value> = columns
                .iter()
                .zip(&fields)
                .map(|(name, field)| (name.clone(), json!(field)))
                .collect();
            let of = |name: &str| json[name].as_str().unwrap().to_owned();
            let (order, quantity) = (of("InvoiceNo"), of("Quantity").parse().unwrap());
            let (product, customer) = (of("StockCode").to_uppercase(), of("CustomerID"));
            let pence = quantity * pence(&of("UnitPrice"));
            let number = numbers.entry(order.clone()).or_default();
            *number += 1;
            json.insert("Line".into(), json!(number));
            lines.push(Line {
                number: *number,
                product,
                customer: customer.trim_end_matches(".0").to_owned(),
                quantity,
                pence,
                json: Value::from(json).to_string(),
                order,
            });
        }
    }
    lines
}

/// Invalid records, each kind in turn.
fn garbage(n: usize, line: &Line) -> Option<Vec<u8>> {
    let changed = |name: &str, value: Value| {
        let mut json: Value = serde_json::from_str(&line.json).unwrap();
        json[name] = value;
        Some(json.to_string().into_bytes())
    };
    match n % 12 {
        0 => Some(line.json.as_bytes()[..line.json.len() / 2].to_vec()),
        1 => Some(b"\xff\xfe\x00garbage\x80".to_vec()),
        2 => Some(b"536365,85123A,LANTERN,6,2010-12-01 08:26:00,2.55,17850.0,Spain".to_vec()),
        3 => Some(Vec::new()),
        4 => None,
        5 => changed("UnitPrice", json!("2,55")),
        6 => changed("UnitPrice", json!("-1.00")),
        7 => changed("Quantity", json!("six")),
        8 => changed("InvoiceDate", json!("2010-12-01T08:26:00")),
        9 => changed("InvoiceNo", json!("A563185")),
        10 => changed("Line", Value::Null),
        _ => Some(format!("{} {}", line.json, line.json).into_bytes()),
    }
}

/// A record to send, and its partition.
struct Sent {
    partition: i32,
    key: Option<String>,
    value: Option<Vec<u8>>,
    mark: Option<String>,
}

/// Every line once, some of them twice, and garbage, over all partitions.
fn records(lines: &[Line], random: &mut StdRng) -> Vec<Sent> {
    let mut any = || random.random_range(0..PARTITIONS as i32);
    let sent = |line: &Line, partition| Sent {
        partition,
        // A producer's own key, or none.
        key: line.number.is_multiple_of(2).then(|| line.order.clone()),
        value: Some(line.json.clone().into_bytes()),
        mark: None,
    };
    let mut records: Vec<Sent> = lines.iter().map(|line| sent(line, any())).collect();
    let mut more = Vec::new();
    for n in 0..lines.len() * DUPLICATES / 100 {
        more.push(sent(&lines[n * 100 / DUPLICATES], any()));
    }
    for n in 0..lines.len() * GARBAGE / 100 {
        more.push(Sent {
            partition: any(),
            key: (n % 3 > 0).then(|| format!("garbage {n}")),
            value: garbage(n, &lines[n * 100 / GARBAGE]),
            mark: Some(n.to_string()),
        });
    }
    for one in more {
        let at = random.random_range(0..=records.len());
        records.insert(at, one);
    }
    records
}

fn produce(brokers: &str, topic: &str, records: &[Sent]) {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .create()
        .unwrap();
    for sent in records {
        let mut record: BaseRecord<'_, String, Vec<u8>> =
            BaseRecord::to(topic).partition(sent.partition);
        record.key = sent.key.as_ref();
        record.payload = sent.value.as_ref();
        if let Some(mark) = &sent.mark {
            let value = Some(mark.as_bytes());
            let bytes = Some(&b"\x00\xff"[..]);
            let headers = OwnedHeaders::new()
                .insert(Header { key: MARK, value })
                .insert(Header {
                    key: "bytes",
                    value: bytes,
                });
            record.headers = Some(headers);
        }
        let mut next = record;
        while let Err((error, back)) = producer.send(next) {
            assert_eq!(
                error.rdkafka_error_code(),
                Some(RDKafkaErrorCode::QueueFull)
            );
            std::thread::sleep(Duration::from_millis(20));
            next = back;
        }
    }
    producer.flush(Timeout::After(STALL_TIMEOUT)).unwrap();
}

/// Waits until `number` is `expected`, as long as it changes.
fn grows_to(expected: i64, number: impl Fn() -> i64, trouble: impl Fn() -> String) {
    let mut last = (-1, Instant::now());
    loop {
        let now = number();
        if now >= expected {
            assert_eq!(now, expected);
            return;
        }
        if now != last.0 {
            last = (now, Instant::now());
        }
        assert!(
            last.1.elapsed() < STALL_TIMEOUT,
            "{now} of {expected}\n{}",
            trouble()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The lag of each processor, as the command line reads it from Kafka.
fn lags(dir: &Path) -> BTreeMap<String, u64> {
    let (code, text, error) = output(&mut omnilink(dir, &["lag", "--json"]));
    assert_eq!(code, 0, "{error}");
    let lag: Value = serde_json::from_str(&text).unwrap();
    let mut lags = BTreeMap::new();
    for item in lag["items"].as_array().unwrap() {
        let processor = item["processor"].as_str().unwrap().to_owned();
        *lags.entry(processor).or_default() += item["records"].as_u64().unwrap();
    }
    lags
}

/// Sums the numbers of each name, as texts `name number number`.
fn sums<'a>(of: impl Iterator<Item = (&'a str, [i64; 2])>) -> Vec<String> {
    let mut sums: BTreeMap<&str, [i64; 2]> = BTreeMap::new();
    for (name, [a, b]) in of {
        let sum = sums.entry(name).or_default();
        *sum = [sum[0] + a, sum[1] + b];
    }
    let mut texts: Vec<String> = sums
        .iter()
        .map(|(name, [a, b])| format!("{name} {a} {b}"))
        .collect();
    texts.sort();
    texts
}

fn assert_letters(letters: &[Fetched], records: &[Sent], topic: &str) {
    let mut expected: BTreeMap<&str, &Sent> = records
        .iter()
        .filter_map(|sent| Some((sent.mark.as_deref()?, sent)))
        .collect();
    assert_eq!(letters.len(), expected.len());
    for letter in letters {
        let Record {
            key,
            value,
            headers,
        } = &letter.record;
        let mark = std::str::from_utf8(header(headers, MARK).unwrap()).unwrap();
        let sent = expected
            .remove(mark)
            .expect("each piece of garbage is one letter");
        assert_eq!(key.as_deref(), sent.key.as_deref().map(str::as_bytes));
        assert_eq!(value.as_deref(), sent.value.as_deref(), "garbage {mark}");
        let theirs: Headers = vec![
            (MARK.into(), Some(Bytes::from(mark.to_owned()))),
            ("bytes".into(), Some(Bytes::from_static(b"\x00\xff"))),
        ];
        assert_eq!(headers[..2], theirs);
        let said = |name: &str| {
            let value = header(headers, &format!("omnilink.dlq.{name}")).unwrap();
            std::str::from_utf8(value).unwrap().to_owned()
        };
        assert_eq!(
            (said("topic"), said("stage"), said("partition")),
            (
                topic.into(),
                "topology.lines".into(),
                sent.partition.to_string()
            )
        );
    }
    assert!(expected.is_empty());
}

#[test]
fn each_line_is_one_event_and_every_invoice_adds_up() {
    let (Some(data), Some(test_log)) = (data(), TestLog::new(LogKind::Kafka)) else {
        return;
    };
    let Some(database) = Database::new() else {
        return;
    };
    let brokers = env_or_skip("OMNILINK_TEST_KAFKA").unwrap();
    let seed = std::env::var("OMNILINK_TEST_SEED")
        .map_or_else(|_| rand::random_range(0..1_000_000), |s| s.parse().unwrap());
    let mut random = StdRng::seed_from_u64(seed);
    let lines = lines(&data);
    assert_eq!(lines.len(), 25_281);
    let records = records(&lines, &mut random);
    println!(
        "seed {seed}: {} lines in {} records",
        lines.len(),
        records.len()
    );

    // The example, with another topic name, because tests share the broker.
    let topic = format!("f{}shop.lines", test_log.prefix);
    let dir = test_log.dir.path();
    topologies(dir, &topic);
    let config = json!({
        "kafka": { "brokers": [brokers] }, "topics": { "prefix": test_log.prefix, "partitions": PARTITIONS },
        "postgres": { "url": database.url() }, "secret_key": ["c2hvcCBzaG9wIHNob3Agc2hvcCBzaG9wIHNob3Agc2g="],
    });
    std::fs::write(dir.join("omnilink.yaml"), config.to_string()).unwrap();
    let log = test_log.open("test");
    let spec = TopicSpec {
        name: topic.as_str().into(),
        partitions: PARTITIONS,
        cleanup: Cleanup::Keep,
    };
    log.provision(&[spec], true).unwrap();
    produce(&brokers, &topic, &records);

    let began = Instant::now();
    let up = Up::start_with(dir, &[]);
    let with_customer: BTreeSet<&str> = lines
        .iter()
        .filter(|line| !line.customer.is_empty())
        .map(|line| line.order.as_str())
        .collect();
    let expected = 2 * lines.len() + with_customer.len();
    grows_to(
        expected as i64,
        || database.number("SELECT count(*) FROM omnilink.events"),
        || errors(dir),
    );
    let took = began.elapsed();
    println!(
        "{} records in, {expected} events in Postgres, in {took:.1?}: {:.0} lines/s",
        records.len(),
        lines.len() as f64 / took.as_secs_f64()
    );
    // Nothing is in flight any more.
    let deadline = Instant::now() + STALL_TIMEOUT;
    let lags = loop {
        let lags = lags(dir);
        if lags.values().all(|records| *records == 0) {
            break lags;
        }
        assert!(Instant::now() < deadline, "{lags:?}");
    };
    let processors: Vec<&str> = lags.keys().map(String::as_str).collect();
    let all = [
        "admission",
        "audit",
        "events",
        "odoo",
        "odoo.dlq",
        "odoo.ingress",
        "planner",
        "runs",
        "saga",
        "tasks",
        "topology.customers",
        "topology.lines",
        "topology.lines.2",
        "topology.posted",
        "topology.products",
        "workers",
    ];
    assert_eq!(processors, all);
    drop(up);

    let number = |sql: &str| database.number(sql);
    assert_eq!(
        number("SELECT count(*) FROM omnilink.events"),
        expected as i64
    );
    let of_orders = "FROM omnilink.events WHERE entity_type = 'order'";
    let distinct = lines.len() as i64;
    assert_eq!(number(&format!("SELECT count(*) {of_orders}")), distinct);
    assert_eq!(
        number(&format!("SELECT count(DISTINCT id) {of_orders}")),
        distinct
    );

    // In events and in entities, the lines and the total of each invoice are those of the file.
    let invoices = sums(lines.iter().map(|line| (&*line.order, [1, line.pence])));
    for source in [
        "SELECT entity_id AS id, data AS state FROM omnilink.events WHERE entity_type = 'order'",
        "SELECT external_id AS id, state FROM omnilink.entities WHERE entity_type = 'order'",
    ] {
        let sql = format!(
            "SELECT concat_ws(' ', id, count(*), sum((line->>'pence')::bigint)) FROM ({source}) AS o, \
             jsonb_each(state->'lines') AS l(number, line) GROUP BY id"
        );
        let mut found = database.texts(&sql);
        found.sort();
        assert_eq!(found, invoices, "{source}");
    }
    // The version of a product is the number of its lines; a customer has each order once.
    let products = sums(
        lines
            .iter()
            .map(|line| (&*line.product, [1, line.quantity])),
    );
    let mut found = database.texts(
        "SELECT concat_ws(' ', p.external_id, p.version, q.quantity) FROM omnilink.entities p JOIN \
         (SELECT line->>'product' AS id, sum((line->>'quantity')::bigint) AS quantity FROM omnilink.entities o, \
          jsonb_each(o.state->'lines') AS l(number, line) WHERE o.entity_type = 'order' GROUP BY 1) q \
         ON q.id = p.external_id WHERE p.entity_type = 'product'",
    );
    found.sort();
    assert_eq!(found, products);
    let theirs: BTreeSet<String> = lines
        .iter()
        .filter(|line| !line.customer.is_empty())
        .map(|line| format!("{} {}", line.customer, line.order))
        .collect();
    let found = database.texts(
        "SELECT external_id || ' ' || placed FROM omnilink.entities, jsonb_object_keys(state->'orders') AS o(placed) \
         WHERE entity_type = 'customer'",
    );
    assert_eq!(found.len(), theirs.len());
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), theirs);

    let dlq = Names::new(&test_log.prefix).dlq;
    let garbage = records.iter().filter(|sent| sent.mark.is_some()).count();
    assert!(garbage > 12, "not every kind of garbage: {garbage}");
    assert_letters(&read_all(&*log, &dlq, garbage), &records, &topic);
}
