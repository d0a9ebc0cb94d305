//! Replay into Parquet files.

use std::time::Duration;

use omnilink::{
    base::clock::Millis,
    envelope::{Data, avro},
    log::Record,
    replay::{Parquet, Query, replay},
};
use serde_json::Value;

use crate::{
    replay::{event, fixture},
    support::{LogKind, TestLog},
};

#[test]
fn replay_into_parquet() {
    use arrow_array::{
        Array,
        cast::AsArray,
        types::{Int64Type, TimestampMicrosecondType},
    };
    let test_log = TestLog::new(LogKind::Local).unwrap();
    let fixture = fixture(&test_log);
    let mut records: Vec<_> = (0..20_000_u64)
        .map(|n| {
            event(
                "acme",
                n,
                "t",
                Some(&(n % 100).to_string()),
                &format!("{{\"n\":{n}}}"),
            )
        })
        .collect();
    records.push(event("acme", 20_000, "t", None, "null"));
    for chunk in records.chunks(1_000) {
        fixture.add(chunk.to_vec());
    }
    let path = test_log.dir.path().join("events.parquet");
    let mut sink = Parquet::new(std::fs::File::create(&path).unwrap()).unwrap();
    let done = replay(
        &fixture.history(),
        &Query::default(),
        &mut sink,
        &mut |_| true,
    )
    .unwrap();
    assert_eq!(done.events, 20_001);
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(
        std::fs::File::open(&path).unwrap(),
    )
    .unwrap();
    let names: Vec<_> = reader
        .schema()
        .fields()
        .iter()
        .map(|f| f.name().clone())
        .collect();
    assert_eq!(names.len(), 20);
    assert_eq!(
        (&*names[0], &*names[14], &*names[19]),
        ("tenant", "data", "log_offset")
    );
    let mut seen = 0;
    for batch in reader.build().unwrap() {
        let batch = batch.unwrap();
        let column = |name| batch.column_by_name(name).unwrap();
        let ids = column("id").as_string::<i32>();
        let data = column("data").as_string::<i32>();
        let times = column("time").as_primitive::<TimestampMicrosecondType>();
        let entities = column("entity_id").as_string::<i32>();
        assert_eq!(
            column("log_offset")
                .as_primitive::<Int64Type>()
                .null_count(),
            0
        );
        for row in 0..batch.num_rows() {
            let n: u64 = ids.value(row).parse().unwrap();
            assert_eq!(times.value(row), 1_700_000_000_000_000 + n as i64);
            if n == 20_000 {
                assert!(entities.is_null(row));
                assert_eq!(data.value(row), "null");
            } else {
                assert_eq!(data.value(row), format!("{{\"n\":{n}}}"));
            }
            seen += 1;
        }
    }
    assert_eq!(seen, 20_001);

    // An aborted replay leaves no valid file.
    let path = test_log.dir.path().join("part.parquet");
    let mut sink = Parquet::new(std::fs::File::create(&path).unwrap()).unwrap();
    let mut times = 0;
    replay(
        &fixture.history(),
        &Query::default(),
        &mut sink,
        &mut |_| {
            times += 1;
            times < 12
        },
    )
    .unwrap();
    drop(sink);
    std::thread::sleep(Duration::from_millis(200));
    let part = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(
        std::fs::File::open(&path).unwrap(),
    );
    assert!(part.is_err());
}

/// Table, JSON lines and Parquet agree, for years 1 to 9999, absent data and null.
#[test]
fn extreme_values_are_the_same_in_lines_and_parquet() {
    use arrow_array::{Array, cast::AsArray, types::TimestampMicrosecondType};
    let test_log = TestLog::new(LogKind::Local).unwrap();
    let fixture = fixture(&test_log);
    let times = [
        (-62_135_596_800_000_000, "0001-01-01T00:00:00Z"),
        (253_402_214_400_000_000, "9999-12-31T00:00:00Z"),
        (253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z"),
    ];
    for (n, (time, _)) in times.iter().enumerate() {
        let plain = event("acme", n as u64, "t", None, "null");
        let (mut event, _) = avro::decode_event(plain.value.as_ref().unwrap()).unwrap();
        event.time = *time;
        if n == 0 {
            event.data = Data::Absent;
        }
        let mut value = Vec::new();
        avro::encode_event(&event, Millis(1), &mut value);
        let value = Some(value.into());
        fixture.add(vec![Record {
            value,
            ..plain.clone()
        }]);
    }
    let (lines, _) = fixture.run(&Query::default());
    for (line, (_, text)) in lines.iter().zip(times) {
        assert_eq!(line["time"], text);
    }
    let members: Vec<_> = lines.iter().map(|line| line.get("data")).collect();
    assert_eq!(members, [None, Some(&Value::Null), Some(&Value::Null)]);

    let path = test_log.dir.path().join("ends.parquet");
    let mut sink = Parquet::new(std::fs::File::create(&path).unwrap()).unwrap();
    replay(
        &fixture.history(),
        &Query::default(),
        &mut sink,
        &mut |_| true,
    )
    .unwrap();
    let file = std::fs::File::open(&path).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file);
    let batch = reader.unwrap().build().unwrap().next().unwrap().unwrap();
    let column = |name| batch.column_by_name(name).unwrap();
    let found = column("time").as_primitive::<TimestampMicrosecondType>();
    assert_eq!(found.values().to_vec(), times.map(|(time, _)| time));
    let data = column("data").as_string::<i32>();
    assert!(data.is_null(0) && data.value(1) == "null" && data.value(2) == "null");
}
