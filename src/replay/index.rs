//! Which stretches of a partition can hold an entity, a type or a tenant: a filter for each [`BLOCK`] records, in one file a
//! partition, appended to when a replay reads on from where it ends.
//!
//! ```text
//! file  = "OMNIDX1\n" hash of the topic's name and id(8), then blocks
//! block = length(4) first offset(8) next offset(8) time of the first record(8) filter, xxh3 of all that(8)     little-endian
//! ```
//!
//! A filter has two bytes an entity and one false positive in a thousand, so the file has about a hundredth of the log's size; it is read
//! through, never held in memory. It is derived: a file that is torn is cut, one that does not belong to this log is made anew.

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

/// Records of a block.
const BLOCK: usize = 1_024;
/// Stretches that are no farther apart than this are one: to read on is cheaper than to look elsewhere.
const NEAR: u64 = 2_048;
const MAGIC: &[u8; 8] = b"OMNIDX1\n";
const HEADER: u64 = 16;
/// Offsets and time in front of a block's filter.
const HEAD: usize = 24;
/// More than any filter of a block has.
const LONGEST: usize = 1 << 20;
/// Blocks that gather before they are written.
const GATHERED: usize = 1 << 20;

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

fn of_entity(kind: &str, external_id: &str) -> Hash {
    hash(b'e', &[kind, external_id])
}

fn of_tenant(tenant: &str) -> Hash {
    hash(b't', &[tenant])
}

fn of_type(kind: &str) -> Hash {
    hash(b'k', &[kind])
}

/// What a block must be able to hold to be read.
#[derive(Debug)]
pub(super) struct Wanted {
    all: Vec<Probe>,
    /// One of these, if there are any.
    any: Vec<Probe>,
}

impl Wanted {
    pub(super) fn of(query: &Query) -> Self {
        let mut all = Vec::new();
        all.extend(
            query
                .entity
                .as_ref()
                .map(|e| of_entity(&e.kind, &e.external_id)),
        );
        all.extend(query.tenant.as_ref().map(|t| of_tenant(t.as_str())));
        let exactly = |pattern: &TypePattern| match pattern {
            TypePattern::Exactly(kind) => Some(of_type(kind)),
            TypePattern::Begins(_) => None,
        };
        let any: Option<Vec<_>> = query.types.iter().map(exactly).collect();
        let probes = |hashes: Vec<Hash>| hashes.iter().map(Probe::of).collect();
        Self {
            all: probes(all),
            any: probes(any.unwrap_or_default()),
        }
    }

    fn may_be_in(&self, filter: &Filter) -> bool {
        self.all.iter().all(|probe| filter.may_contain(probe))
            && (self.any.is_empty() || self.any.iter().any(|probe| filter.may_contain(probe)))
    }
}

/// The index of one partition. `Default`: none.
#[derive(Default)]
pub(super) struct Index {
    path: PathBuf,
    /// Held while it may be extended: by one replay at a time.
    file: Option<File>,
    /// The blocks end here.
    end: u64,
    growing: Option<Growing>,
    blocks: Vec<u8>,
}

/// A block that is being filled.
struct Growing {
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
    /// Opens what there is, or makes a new one; without a file, where none can be had. `reader` is used to see whether it
    /// belongs to this log.
    pub(super) fn open(
        history: &History<'_>,
        partition: u32,
        reader: &mut dyn Reader,
    ) -> Result<Self, LogError> {
        let topic = &*history.names.events;
        let marks = history.log.offset_range(topic, partition)?;
        let described = history.log.describe(topic)?;
        let id = described.and_then(|described| described.id);
        let path = history.index_dir.join(format!("{topic}-{partition}.index"));
        let opened = open_file(&history.index_dir, &path, topic_hash(topic, id));
        let (mut file, ours) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "there is no index: the log is read through");
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
            if next <= marks.end && first >= marks.start {
                read_ranges(reader, &[(partition, first, first + 1)], |record| {
                    found = Some(record.timestamp);
                    Ok(())
                })?;
            }
            // Where retention has passed it, there is nothing to compare with.
            if found == Some(time) || first < marks.start && next <= marks.end {
                index.end = next;
            } else {
                tracing::warn!(path = %index.path.display(), "the index is of another log; it is made anew");
            }
        }
        if ours {
            // What is torn, or of another log, is written again.
            let keep = if index.end == 0 { HEADER } else { good };
            if let Err(error) = file.set_len(keep) {
                tracing::warn!(%error, path = %index.path.display(), "the index cannot be cut; it is left alone");
                return Ok(Self::default());
            }
        }
        index.end = index.end.max(marks.start);
        index.file = ours.then_some(file);
        Ok(index)
    }

    /// Where its blocks end.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The stretches within `bounds` that can hold what is wanted, in order; neighbours are one.
    pub(super) fn stretches(
        &self,
        wanted: &Wanted,
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
            if from >= to || block.next > self.end || !wanted.may_be_in(&block.filter) {
                return;
            }
            match out.back_mut() {
                Some((_, end)) if from - *end <= NEAR => *end = to,
                _ => out.push_back((from, to)),
            }
        })
        .map_err(failed)?;
        Ok(())
    }

    /// Says from where on all records will be read. It goes on from its end or not at all: what would be left out may hold
    /// anything.
    pub(super) fn reads_from(&mut self, offset: u64) {
        if offset != self.end {
            self.file = None;
        }
    }

    /// Whether the record at this offset is one that the index lacks.
    pub(super) fn wants(&self, offset: u64) -> bool {
        let next = self
            .growing
            .as_ref()
            .map_or(self.end, |growing| growing.next);
        self.file.is_some() && offset >= next
    }

    /// Takes a record in. All records from the end on come, in order.
    pub(super) fn add(&mut self, record: &Fetched, event: Option<&Event<'_>>) {
        let growing = self.growing.get_or_insert_with(|| Growing {
            first: record.offset,
            time: record.timestamp,
            next: record.offset,
            records: 0,
            hashes: HashSet::with_capacity(BLOCK + 16),
        });
        growing.next = record.offset + 1;
        growing.records += 1;
        if let Some(event) = event {
            growing.hashes.insert(of_tenant(event.tenant.as_str()));
            growing.hashes.insert(of_type(&event.kind));
            if let Some(entity) = &event.entity {
                growing
                    .hashes
                    .insert(of_entity(&entity.kind, &entity.external_id));
            }
        }
        if growing.records == BLOCK
            && let Some(full) = self.growing.take()
        {
            self.end = full.next;
            full.write(&mut self.blocks);
            if self.blocks.len() >= GATHERED {
                self.save();
            }
        }
    }

    /// Writes the blocks that are full. One that is not is begun anew by the next replay.
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
            // A torn block is cut off by the next replay.
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

impl Growing {
    fn write(&self, out: &mut Vec<u8>) {
        let filter = Filter::for_keys(self.hashes.len());
        for hash in &self.hashes {
            filter.insert(hash);
        }
        let filter = filter.to_bytes();
        let start = out.len();
        out.extend_from_slice(&((HEAD + filter.len()) as u32).to_le_bytes());
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&self.next.to_le_bytes());
        out.extend_from_slice(&self.time.0.to_le_bytes());
        out.extend_from_slice(&filter);
        let sum = xxh3_64(&out[start..]);
        out.extend_from_slice(&sum.to_le_bytes());
    }
}

/// What tells a topic from others, and from those of its name before.
fn topic_hash(topic: &str, id: Option<TopicId>) -> [u8; 8] {
    let mut bytes = topic.as_bytes().to_vec();
    bytes.extend(id.into_iter().flat_map(TopicId::to_bytes));
    (xxh3_128(&bytes) as u64).to_le_bytes()
}

/// The file, its header checked or written, and whether it is ours to extend. What is of another topic, while another replay
/// writes it, is none.
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
    let ours = file.try_lock().is_ok();
    let mut header = [0; HEADER as usize];
    let known =
        file.read_exact(&mut header).is_ok() && header[..8] == *MAGIC && header[8..] == topic;
    if !known && !ours {
        return Err(std::io::ErrorKind::ResourceBusy.into());
    }
    if !known {
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(MAGIC)?;
        file.write_all(&topic)?;
    }
    Ok((file, ours))
}

/// Reads all blocks that are whole; answers with where they end in the file.
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
        if !(HEAD..LONGEST).contains(&length) {
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
        let Some(filter) = Filter::from_bytes(&body[4 + HEAD..]) else {
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
