//! An index of which offset ranges of a partition may contain an entity, a type or a tenant: a filter for each block of
//! [`BLOCK_RECORDS`] records, in one file for each partition. A replay that reads past the end of the index extends it.
//!
//! ```text
//! file  = "OMNIDX1\n" hash of the topic's name and id(8), then blocks
//! block = length(4) first offset(8) next offset(8) time of the first record(8) filter, xxh3 of all that(8)     little-endian
//! ```
//!
//! A filter takes two bytes per entity and has one false positive in a thousand, so the file has about a hundredth of the log's size. It
//! is read sequentially, never held in memory. It is derived data: a torn file is truncated, and a file of another log is replaced.

use std::{
    collections::{HashSet, VecDeque},
    fs::{File, OpenOptions},
    io::{BufReader, Read, Seek, SeekFrom, Write},
    path::PathBuf,
    sync::Arc,
};

use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_128};

use super::{History, Query, TypePattern};
use crate::{
    base::clock::Millis,
    envelope::Event,
    log::{Fetched, LogError, Reader, TopicId, read_ranges},
    state::{Filter, Probe},
};

/// The number of records in a block.
const BLOCK_RECORDS: usize = 1_024;
/// Ranges with at most this many records between them are merged: reading on is cheaper than seeking.
const MAX_GAP: u64 = 2_048;
const MAGIC: &[u8; 8] = b"OMNIDX1\n";
const HEADER: u64 = 16;
/// The size of the offsets and the time that precede a block's filter.
const BLOCK_HEADER: usize = 24;
/// An upper bound of a block's length; a larger one means that the file is damaged.
const MAX_BLOCK_BYTES: usize = 1 << 20;
/// Full blocks are written when the buffer has this size.
const BUFFER_BYTES: usize = 1 << 20;

type Hash = [u8; 16];

fn hash(what: u8, parts: &[&str]) -> Hash {
    let mut hasher = Xxh3::new();
    hasher.update(&[what]);
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.digest128().to_le_bytes()
}

fn entity_hash(kind: &str, external_id: &str) -> Hash {
    hash(b'e', &[kind, external_id])
}

fn tenant_hash(tenant: &str) -> Hash {
    hash(b't', &[tenant])
}

fn type_hash(kind: &str) -> Hash {
    hash(b'k', &[kind])
}

/// What a block must contain to be read.
#[derive(Debug)]
pub(super) struct Probes {
    /// All of these.
    all: Vec<Probe>,
    /// And at least one of these, unless the list is empty.
    any: Vec<Probe>,
}

impl Probes {
    pub(super) fn of(query: &Query) -> Self {
        let mut all = Vec::new();
        all.extend(
            query
                .entity
                .as_ref()
                .map(|e| entity_hash(&e.kind, &e.external_id)),
        );
        all.extend(query.tenant.as_ref().map(|t| tenant_hash(t.as_str())));
        let exact = |pattern: &TypePattern| match pattern {
            TypePattern::Exact(kind) => Some(type_hash(kind)),
            TypePattern::Prefix(_) => None,
        };
        let any: Option<Vec<_>> = query.types.iter().map(exact).collect();
        let probes = |hashes: Vec<Hash>| hashes.iter().map(Probe::of).collect();
        Self {
            all: probes(all),
            any: probes(any.unwrap_or_default()),
        }
    }

    fn may_match(&self, filter: &Filter) -> bool {
        self.all.iter().all(|probe| filter.may_contain(probe))
            && (self.any.is_empty() || self.any.iter().any(|probe| filter.may_contain(probe)))
    }
}

/// The index of one partition. The default is no index.
#[derive(Default)]
pub(super) struct Index {
    path: PathBuf,
    /// The locked file, if this replay may extend it. Only one replay at a time may.
    file: Option<File>,
    /// The next offset after the indexed records.
    end: u64,
    open_block: Option<OpenBlock>,
    blocks: Vec<u8>,
}

/// A block that is being filled.
struct OpenBlock {
    first: u64,
    time: Millis,
    next: u64,
    records: usize,
    hashes: HashSet<Hash>,
}

struct Block {
    first: u64,
    next: u64,
    time: Millis,
    filter: Filter,
}

impl Index {
    /// Opens the index of a partition, or creates it. If that fails, returns no index. `reader` is used to check that the index belongs to
    /// this log.
    pub(super) fn open(
        history: &History<'_>,
        partition: u32,
        reader: &mut dyn Reader,
    ) -> Result<Self, LogError> {
        let topic = &*history.names.events;
        let range = history.log.offset_range(topic, partition)?;
        let described = history.log.describe(topic)?;
        let id = described.and_then(|described| described.id);
        let path = history.index_dir.join(format!("{topic}-{partition}.index"));
        let opened = open_file(&history.index_dir, &path, topic_hash(topic, id));
        let (mut file, writable) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "the index cannot be opened; the log is read in full");
                return Ok(Self::default());
            }
        };
        let mut last = None;
        let good = read_blocks(&mut file, |block| {
            last = Some((block.first, block.next, block.time));
        })
        .unwrap_or(0);
        let mut index = Self::default();
        index.path = path;
        if let Some((first, next, time)) = last {
            let mut found = None;
            if next <= range.end && first >= range.start {
                read_ranges(reader, &[(partition, first, first + 1)], |record| {
                    found = Some(record.timestamp);
                    Ok(())
                })?;
            }
            // If retention has deleted the record, there is nothing to compare with.
            if found == Some(time) || first < range.start && next <= range.end {
                index.end = next;
            } else {
                tracing::warn!(path = %index.path.display(), "the index belongs to another log; it is replaced");
            }
        }
        if writable {
            // Remove torn blocks, or all blocks if they belong to another log.
            let keep = if index.end == 0 { HEADER } else { good };
            if let Err(error) = file.set_len(keep) {
                tracing::warn!(%error, path = %index.path.display(), "the index cannot be truncated; it is not used");
                return Ok(Self::default());
            }
        }
        index.end = index.end.max(range.start);
        index.file = writable.then_some(file);
        Ok(index)
    }

    /// The next offset after the indexed records.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Appends to `out`, in order, the offset ranges within `bounds` that may match. Close neighbours are merged.
    pub(super) fn ranges(
        &self,
        probes: &Probes,
        bounds: (u64, u64),
        out: &mut VecDeque<(u64, u64)>,
    ) -> Result<(), LogError> {
        if self.path.as_os_str().is_empty() {
            return Ok(());
        }
        let failed = |error: std::io::Error| LogError::File {
            what: "the index",
            path: self.path.clone(),
            source: Arc::new(error),
        };
        let mut file = File::open(&self.path).map_err(failed)?;
        read_blocks(&mut file, |block| {
            let (from, to) = (block.first.max(bounds.0), block.next.min(bounds.1));
            if from >= to || block.next > self.end || !probes.may_match(&block.filter) {
                return;
            }
            match out.back_mut() {
                Some((_, end)) if from - *end <= MAX_GAP => *end = to,
                _ => out.push_back((from, to)),
            }
        })
        .map_err(failed)?;
        Ok(())
    }

    /// Declares the offset from which all records will be read. The index is extended only if that is its end, because a gap could not be
    /// indexed.
    pub(super) fn scan_starts_at(&mut self, offset: u64) {
        if offset != self.end {
            self.file = None;
        }
    }

    /// Whether the record at this offset must be added to the index.
    pub(super) fn lacks(&self, offset: u64) -> bool {
        let next = self
            .open_block
            .as_ref()
            .map_or(self.end, |open_block| open_block.next);
        self.file.is_some() && offset >= next
    }

    /// Adds a record. Every record from [`Index::end`] on must be added, in order.
    pub(super) fn add(&mut self, record: &Fetched, event: Option<&Event<'_>>) {
        let open_block = self.open_block.get_or_insert_with(|| OpenBlock {
            first: record.offset,
            time: record.timestamp,
            next: record.offset,
            records: 0,
            hashes: HashSet::with_capacity(BLOCK_RECORDS + 16),
        });
        open_block.next = record.offset + 1;
        open_block.records += 1;
        if let Some(event) = event {
            open_block.hashes.insert(tenant_hash(event.tenant.as_str()));
            open_block.hashes.insert(type_hash(&event.kind));
            if let Some(entity) = &event.entity {
                open_block
                    .hashes
                    .insert(entity_hash(&entity.kind, &entity.external_id));
            }
        }
        if open_block.records == BLOCK_RECORDS
            && let Some(full) = self.open_block.take()
        {
            self.end = full.next;
            full.write(&mut self.blocks);
            if self.blocks.len() >= BUFFER_BYTES {
                self.save();
            }
        }
    }

    /// Writes the full blocks. The next replay starts the incomplete block again.
    pub(super) fn save(&mut self) {
        let Some(file) = &mut self.file else { return };
        if self.blocks.is_empty() {
            return;
        }
        let written = file
            .seek(SeekFrom::End(0))
            .and_then(|_| file.write_all(&self.blocks));
        self.blocks.clear();
        if let Err(error) = written {
            // The next replay removes a torn block.
            tracing::warn!(%error, path = %self.path.display(), "the index cannot be extended");
            self.file = None;
        }
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        self.save();
    }
}

impl OpenBlock {
    fn write(&self, out: &mut Vec<u8>) {
        let filter = Filter::for_keys(self.hashes.len());
        for hash in &self.hashes {
            filter.insert(hash);
        }
        let filter = filter.to_bytes();
        let start = out.len();
        out.extend_from_slice(&((BLOCK_HEADER + filter.len()) as u32).to_le_bytes());
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&self.next.to_le_bytes());
        out.extend_from_slice(&self.time.0.to_le_bytes());
        out.extend_from_slice(&filter);
        let sum = xxh3_64(&out[start..]);
        out.extend_from_slice(&sum.to_le_bytes());
    }
}

/// Distinguishes a topic from other topics, and from earlier topics with the same name.
fn topic_hash(topic: &str, id: Option<TopicId>) -> [u8; 8] {
    let mut bytes = topic.as_bytes().to_vec();
    bytes.extend(id.into_iter().flat_map(TopicId::to_bytes));
    (xxh3_128(&bytes) as u64).to_le_bytes()
}

/// Opens the file and checks or writes its header. The bool says whether this replay may extend it. Fails if the file belongs to another
/// topic and another replay is writing to it.
fn open_file(
    dir: &std::path::Path,
    path: &std::path::Path,
    topic: [u8; 8],
) -> std::io::Result<(File, bool)> {
    std::fs::create_dir_all(dir)?;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    let writable = file.try_lock().is_ok();
    let mut header = [0; HEADER as usize];
    let known =
        file.read_exact(&mut header).is_ok() && header[..8] == *MAGIC && header[8..] == topic;
    if !known && !writable {
        return Err(std::io::ErrorKind::ResourceBusy.into());
    }
    if !known {
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(MAGIC)?;
        file.write_all(&topic)?;
    }
    Ok((file, writable))
}

/// Reads all intact blocks; returns the position in the file at which they end.
fn read_blocks(file: &mut File, mut each: impl FnMut(Block)) -> std::io::Result<u64> {
    file.seek(SeekFrom::Start(HEADER))?;
    let mut reader = BufReader::with_capacity(256 << 10, file);
    let mut at = HEADER;
    let mut bytes = vec![0; 4];
    loop {
        bytes.truncate(4);
        if reader.read_exact(&mut bytes).is_err() {
            return Ok(at);
        }
        let length = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        if !(BLOCK_HEADER..MAX_BLOCK_BYTES).contains(&length) {
            return Ok(at);
        }
        bytes.resize(4 + length + 8, 0);
        if reader.read_exact(&mut bytes[4..]).is_err() {
            return Ok(at);
        }
        let (body, sum) = bytes.split_at(4 + length);
        if xxh3_64(body).to_le_bytes() != sum {
            return Ok(at);
        }
        let number = |from: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&body[from..from + 8]);
            u64::from_le_bytes(number)
        };
        let Some(filter) = Filter::from_bytes(&body[4 + BLOCK_HEADER..]) else {
            return Ok(at);
        };
        each(Block {
            first: number(4),
            next: number(12),
            time: Millis(number(20) as i64),
            filter,
        });
        at += bytes.len() as u64;
    }
}
