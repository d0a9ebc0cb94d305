//! Events as a Parquet file. Its columns are named and typed as those of the table `events` (`docs/postgres.md`), with the JSON
//! ones as text, and `display_name`, `tombstone` and `appended_at` beside them.
//!
//! Rows gather here, column by column; a thread of its own encodes, compresses and writes them, a batch behind.

use std::{
    io::Write,
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use arrow_array::{
    ArrayRef, RecordBatch,
    builder::{
        BinaryBuilder, BooleanBuilder, Int32Builder, Int64Builder, StringBuilder,
        StringDictionaryBuilder, TimestampMicrosecondBuilder,
    },
    types::Int32Type,
};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::properties::{EnabledStatistics, WriterProperties},
    schema::types::ColumnPath,
};

use super::{Sink, SinkError};
use crate::{
    base::clock::Millis,
    envelope::{Data, Event, TimeSource},
    log::Fetched,
};

/// Rows of a batch.
const ROWS: usize = 8_192;
/// Bytes of data of a batch.
const BYTES: usize = 8 << 20;
/// Batches that may wait to be written.
const WAITING: usize = 2;
/// Rows of a row group: what is in memory until it is written.
const GROUP_ROWS: usize = 256 * 1024;
/// Bytes of a row group.
const GROUP_BYTES: usize = 64 << 20;

/// Columns that say the same thing again and again.
type Repeated = StringDictionaryBuilder<Int32Type>;

fn utc() -> Arc<str> {
    "UTC".into()
}

fn schema() -> SchemaRef {
    let text = DataType::Utf8;
    let repeated = || DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let time = || DataType::Timestamp(TimeUnit::Microsecond, Some(utc()));
    Arc::new(Schema::new(vec![
        Field::new("tenant", repeated(), false),
        Field::new("id", text.clone(), false),
        Field::new("source", repeated(), false),
        Field::new("type", repeated(), false),
        Field::new("subject", text.clone(), true),
        Field::new("entity_type", repeated(), true),
        Field::new("entity_id", text.clone(), true),
        Field::new("display_name", text.clone(), true),
        Field::new("correlation_id", text.clone(), true),
        Field::new("causation_id", text.clone(), true),
        Field::new("time", time(), false),
        Field::new("time_source", repeated(), false),
        Field::new("received_at", time(), false),
        Field::new("appended_at", time(), false),
        Field::new("data", text.clone(), true),
        Field::new("data_base64", DataType::Binary, true),
        Field::new("extensions", repeated(), false),
        Field::new("tombstone", DataType::Boolean, false),
        Field::new("log_partition", DataType::Int32, false),
        Field::new("log_offset", DataType::Int64, false),
    ]))
}

/// The columns of a batch, in the order of the schema.
#[derive(Default)]
struct Columns {
    tenant: Repeated,
    id: StringBuilder,
    source: Repeated,
    kind: Repeated,
    subject: StringBuilder,
    entity_type: Repeated,
    entity_id: StringBuilder,
    display_name: StringBuilder,
    correlation_id: StringBuilder,
    causation_id: StringBuilder,
    time: TimestampMicrosecondBuilder,
    time_source: Repeated,
    received_at: TimestampMicrosecondBuilder,
    appended_at: TimestampMicrosecondBuilder,
    data: StringBuilder,
    data_base64: BinaryBuilder,
    extensions: Repeated,
    tombstone: BooleanBuilder,
    log_partition: Int32Builder,
    log_offset: Int64Builder,
}

impl Columns {
    fn push(
        &mut self,
        record: &Fetched,
        event: &Event<'_>,
        received_at: Millis,
    ) -> Result<(), ArrowError> {
        let entity = event.entity.as_ref();
        self.tenant.append(event.tenant.as_str())?;
        self.id.append_value(&event.id);
        self.source.append(&event.source)?;
        self.kind.append(&event.kind)?;
        self.subject.append_option(event.subject.as_deref());
        match entity {
            Some(entity) => drop(self.entity_type.append(&entity.kind)?),
            None => self.entity_type.append_null(),
        }
        self.entity_id
            .append_option(entity.map(|e| &*e.external_id));
        let name = entity.and_then(|e| e.display_name.as_deref());
        self.display_name.append_option(name);
        self.correlation_id
            .append_option(event.correlation_id.as_deref());
        self.causation_id
            .append_option(event.causation_id.as_deref());
        self.time.append_value(event.time);
        self.time_source.append(match event.time_source {
            TimeSource::Producer => "producer",
            TimeSource::Receiver => "receiver",
        })?;
        self.received_at
            .append_value(received_at.0.saturating_mul(1000));
        self.appended_at
            .append_value(record.timestamp.0.saturating_mul(1000));
        let (json, bytes) = match &event.data {
            Data::Absent => (None, None),
            Data::Json(text) => (Some(&**text), None),
            Data::Binary(bytes) => (None, Some(&**bytes)),
        };
        self.data.append_option(json);
        self.data_base64.append_option(bytes);
        let extensions = if event.extensions.is_empty() {
            "{}"
        } else {
            &event.extensions
        };
        self.extensions.append(extensions)?;
        self.tombstone.append_value(event.tombstone);
        self.log_partition.append_value(record.partition as i32);
        self.log_offset.append_value(record.offset as i64);
        Ok(())
    }

    fn finish(&mut self, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
        let zone = |mut builder: TimestampMicrosecondBuilder| -> ArrayRef {
            Arc::new(builder.finish().with_timezone(utc()))
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.tenant.finish()),
            Arc::new(self.id.finish()),
            Arc::new(self.source.finish()),
            Arc::new(self.kind.finish()),
            Arc::new(self.subject.finish()),
            Arc::new(self.entity_type.finish()),
            Arc::new(self.entity_id.finish()),
            Arc::new(self.display_name.finish()),
            Arc::new(self.correlation_id.finish()),
            Arc::new(self.causation_id.finish()),
            zone(std::mem::take(&mut self.time)),
            Arc::new(self.time_source.finish()),
            zone(std::mem::take(&mut self.received_at)),
            zone(std::mem::take(&mut self.appended_at)),
            Arc::new(self.data.finish()),
            Arc::new(self.data_base64.finish()),
            Arc::new(self.extensions.finish()),
            Arc::new(self.tombstone.finish()),
            Arc::new(self.log_partition.finish()),
            Arc::new(self.log_offset.finish()),
        ];
        RecordBatch::try_new(Arc::clone(schema), columns)
    }
}

/// Writes a Parquet file; without its end it is none, so only one that was finished can be read.
pub struct Parquet {
    schema: SchemaRef,
    columns: Columns,
    rows: usize,
    bytes: usize,
    /// The way to the writing thread, which ends the file when it is handed nothing.
    batches: Option<SyncSender<Option<RecordBatch>>>,
    writing: Option<JoinHandle<Result<(), SinkError>>>,
}

impl Parquet {
    /// Starts the thread that writes.
    pub fn new(out: impl Write + Send + 'static) -> Result<Self, SinkError> {
        let schema = schema();
        let column = |name: &str| ColumnPath::new(vec![name.to_owned()]);
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            // Each value is its own: a dictionary of them would be made and thrown away.
            .set_column_dictionary_enabled(column("id"), false)
            .set_column_dictionary_enabled(column("data"), false)
            .set_column_statistics_enabled(column("data"), EnabledStatistics::None)
            .set_column_statistics_enabled(column("extensions"), EnabledStatistics::None)
            .build();
        let mut writer = ArrowWriter::try_new(out, Arc::clone(&schema), Some(properties))?;
        let (batches, given) = sync_channel::<Option<RecordBatch>>(WAITING);
        let writing = std::thread::Builder::new()
            .name("parquet".into())
            .spawn(move || {
                for batch in given {
                    let Some(batch) = batch else {
                        let mut out = writer.into_inner()?;
                        return Ok(out.flush()?);
                    };
                    writer.write(&batch)?;
                    if writer.in_progress_size() >= GROUP_BYTES {
                        writer.flush()?;
                    }
                }
                // Nobody said that these were all: a file without an end is what it should be.
                Err("given up".into())
            })?;
        Ok(Self {
            schema,
            columns: Columns::default(),
            rows: 0,
            bytes: 0,
            batches: Some(batches),
            writing: Some(writing),
        })
    }

    fn send(&mut self) -> Result<(), SinkError> {
        if self.rows == 0 {
            return Ok(());
        }
        let batch = self.columns.finish(&self.schema)?;
        (self.rows, self.bytes) = (0, 0);
        self.hand_over(Some(batch))
    }

    fn hand_over(&mut self, batch: Option<RecordBatch>) -> Result<(), SinkError> {
        let taken = self
            .batches
            .as_ref()
            .is_some_and(|way| way.send(batch).is_ok());
        if taken { Ok(()) } else { self.ended() }
    }

    /// What the thread says when it is over.
    fn ended(&mut self) -> Result<(), SinkError> {
        self.batches = None;
        match self.writing.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err("the writing thread panicked".into()),
            None => Ok(()),
        }
    }
}

impl Sink for Parquet {
    fn event(
        &mut self,
        record: &Fetched,
        event: &Event<'_>,
        received_at: Millis,
    ) -> Result<(), SinkError> {
        self.columns.push(record, event, received_at)?;
        self.rows += 1;
        self.bytes += match &event.data {
            Data::Absent => 0,
            Data::Json(text) => text.len(),
            Data::Binary(bytes) => bytes.len(),
        };
        if self.rows >= ROWS || self.bytes >= BYTES {
            self.send()?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        self.send()?;
        self.hand_over(None)?;
        self.ended()
    }
}
