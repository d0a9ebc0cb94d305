//! Events as a Parquet file. Its columns have the names and types of the table `events` (`docs/postgres.md`), with JSON as text, plus
//! `display_name`, `tombstone` and `appended_at`.
//!
//! Batches of rows are built column by column; a separate thread encodes, compresses and writes them.

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

/// A batch is complete at this many rows…
const BATCH_ROWS: usize = 8_192;
/// … or at this many bytes of data.
const BATCH_BYTES: usize = 8 << 20;
/// The most batches that wait for the writing thread.
const MAX_QUEUED: usize = 2;
/// A row group, which is in memory until it is written, is complete at this many rows…
const GROUP_ROWS: usize = 256 * 1024;
/// … or at this many encoded bytes.
const GROUP_BYTES: usize = 64 << 20;

/// A column with few distinct values.
type DictionaryColumn = StringDictionaryBuilder<Int32Type>;

fn utc() -> Arc<str> {
    "UTC".into()
}

fn schema() -> SchemaRef {
    let text = DataType::Utf8;
    let dictionary = || DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let time = || DataType::Timestamp(TimeUnit::Microsecond, Some(utc()));
    Arc::new(Schema::new(vec![
        Field::new("tenant", dictionary(), false),
        Field::new("id", text.clone(), false),
        Field::new("source", dictionary(), false),
        Field::new("type", dictionary(), false),
        Field::new("subject", text.clone(), true),
        Field::new("entity_type", dictionary(), true),
        Field::new("entity_id", text.clone(), true),
        Field::new("display_name", text.clone(), true),
        Field::new("correlation_id", text.clone(), true),
        Field::new("causation_id", text.clone(), true),
        Field::new("time", time(), false),
        Field::new("time_source", dictionary(), false),
        Field::new("received_at", time(), false),
        Field::new("appended_at", time(), false),
        Field::new("data", text.clone(), true),
        Field::new("data_base64", DataType::Binary, true),
        Field::new("extensions", dictionary(), false),
        Field::new("tombstone", DataType::Boolean, false),
        Field::new("log_partition", DataType::Int32, false),
        Field::new("log_offset", DataType::Int64, false),
    ]))
}

/// The columns of a batch, in the order of the schema.
#[derive(Default)]
struct Columns {
    tenant: DictionaryColumn,
    id: StringBuilder,
    source: DictionaryColumn,
    kind: DictionaryColumn,
    subject: StringBuilder,
    entity_type: DictionaryColumn,
    entity_id: StringBuilder,
    display_name: StringBuilder,
    correlation_id: StringBuilder,
    causation_id: StringBuilder,
    time: TimestampMicrosecondBuilder,
    time_source: DictionaryColumn,
    received_at: TimestampMicrosecondBuilder,
    appended_at: TimestampMicrosecondBuilder,
    data: StringBuilder,
    data_base64: BinaryBuilder,
    extensions: DictionaryColumn,
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

/// A sink that writes a Parquet file. The file is readable only after [`Sink::finish`], which writes the footer.
pub struct Parquet {
    schema: SchemaRef,
    columns: Columns,
    rows: usize,
    bytes: usize,
    /// The channel to the writing thread. `None` tells it to finish the file.
    batches: Option<SyncSender<Option<RecordBatch>>>,
    writer: Option<JoinHandle<Result<(), SinkError>>>,
}

impl Parquet {
    /// Starts the thread that writes to `out`.
    pub fn new(out: impl Write + Send + 'static) -> Result<Self, SinkError> {
        let schema = schema();
        let column = |name: &str| ColumnPath::new(vec![name.to_owned()]);
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            // Nearly all values are distinct, so a dictionary would be built in vain.
            .set_column_dictionary_enabled(column("id"), false)
            .set_column_dictionary_enabled(column("data"), false)
            .set_column_statistics_enabled(column("data"), EnabledStatistics::None)
            .set_column_statistics_enabled(column("extensions"), EnabledStatistics::None)
            .build();
        let mut writer = ArrowWriter::try_new(out, Arc::clone(&schema), Some(properties))?;
        let (batches, received) = sync_channel::<Option<RecordBatch>>(MAX_QUEUED);
        let thread = std::thread::Builder::new()
            .name("parquet".into())
            .spawn(move || {
                for batch in received {
                    let Some(batch) = batch else {
                        let mut out = writer.into_inner()?;
                        return Ok(out.flush()?);
                    };
                    writer.write(&batch)?;
                    if writer.in_progress_size() >= GROUP_BYTES {
                        writer.flush()?;
                    }
                }
                // The sink was dropped without `finish`: without a footer the file cannot be taken for a complete one.
                Err("the export was abandoned".into())
            })?;
        Ok(Self {
            schema,
            columns: Columns::default(),
            rows: 0,
            bytes: 0,
            batches: Some(batches),
            writer: Some(thread),
        })
    }

    fn flush_batch(&mut self) -> Result<(), SinkError> {
        if self.rows == 0 {
            return Ok(());
        }
        let batch = self.columns.finish(&self.schema)?;
        (self.rows, self.bytes) = (0, 0);
        self.send_to_writer(Some(batch))
    }

    fn send_to_writer(&mut self, batch: Option<RecordBatch>) -> Result<(), SinkError> {
        let sent = self
            .batches
            .as_ref()
            .is_some_and(|sender| sender.send(batch).is_ok());
        if sent { Ok(()) } else { self.join_writer() }
    }

    /// Waits for the writing thread and returns its result.
    fn join_writer(&mut self) -> Result<(), SinkError> {
        self.batches = None;
        match self.writer.take().map(JoinHandle::join) {
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
        if self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES {
            self.flush_batch()?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        self.flush_batch()?;
        self.send_to_writer(None)?;
        self.join_writer()
    }
}
