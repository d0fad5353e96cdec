//! From files to a catalog: the newest whole snapshot, then the journals from there on.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};

use hicache_core::{Error, Result};
use hicache_hashing::{Digest, Fingerprint};

use super::paths::{SegmentName, SetPaths};
use crate::catalog::{Catalog, EvictionPolicy};
use crate::format::{FORMAT_VERSION, Place, RECORD_BYTES, Record, read_snapshot};

const BUFFER_BYTES: usize = RECORD_BYTES << 14;

/// What a set holds, as its files say.
#[derive(Debug)]
pub(crate) struct Replayed {
    pub(crate) catalog: Catalog,
    /// Segments that are there, with their lengths in bytes.
    pub(crate) segments: Vec<(SegmentName, u64)>,
    /// Generation of the last journal; 0 where there is none.
    pub(crate) generation: u64,
    /// Length of the whole records at the start of the last journal; `None` where there is none.
    pub(crate) journal_bytes: Option<u64>,
    /// Records that were torn, damaged or of no meaning, and were skipped.
    pub(crate) bad_records: u64,
    /// Pages whose segment is not there any more, or too short.
    pub(crate) lost_pages: u64,
    /// Snapshots that could not be used.
    pub(crate) bad_snapshots: u64,
    /// Whether the last journal ends with a seal: then the next generation was about to begin.
    pub(crate) sealed: bool,
    /// Highest sequence seen.
    pub(crate) sequence: u64,
}

/// Reads a set. Takes no lock and changes nothing: whoever holds the lock repairs.
///
/// # Errors
/// `Io` if the directory can't be read. What is wrong inside it is counted, not an error.
pub(crate) fn replay(
    paths: &SetPaths,
    fingerprint: Fingerprint,
    policy: fn() -> Box<dyn EvictionPolicy>,
) -> Result<Replayed> {
    let io = |error| Error::io("read", format!("set {}", paths.directory().display()), error);
    let segments = find_segments(paths).map_err(io)?;
    let mut snapshots = paths.generations(SetPaths::SNAPSHOT).map_err(io)?.into_iter();
    let journals = paths.generations(SetPaths::JOURNAL).map_err(io)?;
    let mut bad_snapshots = 0;
    let mut state = loop {
        let mut state = State::new(&segments, policy);
        let Some(generation) = snapshots.next() else { break state };
        let path = paths.snapshot(generation);
        if let Ok(metadata) = std::fs::metadata(&path) {
            state.catalog.reserve(usize::try_from(metadata.len()).unwrap_or(0) / RECORD_BYTES);
        }
        match read_snapshot(&path, generation, fingerprint, |record| state.apply(record)) {
            Ok(_) => {
                state.generation = generation;
                break state;
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "snapshot can't be used; falling back");
                bad_snapshots += 1;
            }
        }
    };
    // Without a snapshot every journal that is left counts; with one, those from its generation on.
    let first = state.generation;
    let mut generations: Vec<u64> = journals.into_iter().filter(|&generation| generation >= first).collect();
    generations.reverse();
    let mut journal_bytes = None;
    for &generation in &generations {
        state.sealed = false;
        let bytes = state.read_journal(paths, generation, fingerprint).map_err(io)?;
        state.generation = generation;
        journal_bytes = Some(bytes);
    }
    state.catalog.finish_replay();
    Ok(Replayed {
        catalog: state.catalog,
        segments,
        generation: state.generation,
        journal_bytes,
        bad_records: state.bad_records,
        lost_pages: state.lost.len() as u64,
        bad_snapshots,
        sealed: state.sealed,
        sequence: state.sequence,
    })
}

fn find_segments(paths: &SetPaths) -> io::Result<Vec<(SegmentName, u64)>> {
    let mut segments = Vec::new();
    for name in paths.entries()?.iter().filter_map(|name| SegmentName::parse(name)) {
        match std::fs::metadata(paths.segment(name)) {
            Ok(metadata) => segments.push((name, metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    segments.sort_unstable_by_key(|(name, bytes)| (name.segment, std::cmp::Reverse(*bytes), name.slot_bytes));
    // Two files of one number: somebody put one there. The longer is taken; the other one is in nobody's way.
    segments.dedup_by_key(|(name, _)| name.segment);
    Ok(segments)
}

struct State {
    catalog: Catalog,
    generation: u64,
    bad_records: u64,
    /// Pages that were put where no slot is. A segment that was given back has had its pages retired: what is left in
    /// the end was lost.
    lost: HashMap<(u8, Digest), Place>,
    sealed: bool,
    sequence: u64,
}

impl State {
    fn new(segments: &[(SegmentName, u64)], policy: fn() -> Box<dyn EvictionPolicy>) -> Self {
        let mut catalog = Catalog::new(policy);
        for (name, bytes) in segments {
            let slots = (bytes / u64::from(name.slot_bytes.max(1))).min(1 << 16) as u32;
            if slots > 0 {
                catalog.add_segment(name.segment, name.slot_bytes, slots);
            }
        }
        Self { catalog, generation: 0, bad_records: 0, lost: HashMap::new(), sealed: false, sequence: 0 }
    }

    fn apply(&mut self, record: Record) {
        match record {
            Record::Header { .. } | Record::SnapshotEnd { .. } => {}
            Record::Pool { id, name } => {
                if !self.catalog.replay_pool(id, name) {
                    self.bad_records += 1;
                }
            }
            Record::Put(put) => {
                self.sequence = self.sequence.max(put.sequence);
                let known_pool = usize::from(put.pool) < self.catalog.pools().len();
                let fits = self
                    .catalog
                    .slot_bytes(put.place.segment)
                    .is_some_and(|slot_bytes| put.bytes <= slot_bytes);
                if !known_pool || put.bytes == 0 {
                    self.bad_records += 1;
                } else if !fits || !self.catalog.has_slot(put.place.id()) {
                    // The segment is gone, or its number has gone to one of smaller slots. The key's older page is
                    // superseded all the same.
                    self.catalog.unpublish(put.pool, &put.digest);
                    self.lost.insert((put.pool, put.digest), put.place);
                } else {
                    self.lost.remove(&(put.pool, put.digest));
                    self.catalog.publish(&put);
                }
            }
            Record::Retire { pool, place, sequence, digest } => {
                self.sequence = self.sequence.max(sequence);
                // Only if the page is still where the record says: it may have been put elsewhere since.
                if self.catalog.peek(pool, &digest).is_some_and(|put| put.place == place) {
                    self.catalog.unpublish(pool, &digest);
                }
                if self.lost.get(&(pool, digest)) == Some(&place) {
                    self.lost.remove(&(pool, digest));
                }
            }
            Record::Clear { sequence } => {
                self.sequence = self.sequence.max(sequence);
                self.catalog.clear();
                self.lost.clear();
            }
            Record::Seal { .. } => self.sealed = true,
        }
    }

    /// Applies a journal and answers the length of the whole records at its start.
    fn read_journal(
        &mut self,
        paths: &SetPaths,
        generation: u64,
        fingerprint: Fingerprint,
    ) -> io::Result<u64> {
        let mut file = match File::open(paths.journal(generation)) {
            Ok(file) => file,
            // Removed since it was listed: its snapshot had replaced it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        let pages = usize::try_from(file.metadata()?.len()).unwrap_or(0) / RECORD_BYTES;
        self.catalog.reserve(pages.min(1 << 24));
        let mut buffer = vec![0; BUFFER_BYTES];
        let (mut whole, mut at, mut held) = (0, 0_u64, 0);
        loop {
            let read = file.read(&mut buffer[held..])?;
            held += read;
            let (records, _) = buffer[..held].as_chunks::<RECORD_BYTES>();
            for raw in records {
                let record = Record::decode(raw);
                let expected = Record::Header { version: FORMAT_VERSION, generation, fingerprint };
                if at == 0 && record != Some(expected) {
                    // A journal without its header is another's, or torn at birth. Nothing in it is believed.
                    self.bad_records += 1;
                    return Ok(0);
                }
                at += RECORD_BYTES as u64;
                match record {
                    Some(record) => {
                        self.apply(record);
                        whole = at;
                    }
                    None => self.bad_records += 1,
                }
            }
            let used = records.len() * RECORD_BYTES;
            buffer.copy_within(used..held, 0);
            held -= used;
            if read == 0 {
                self.bad_records += u64::from(held > 0);
                return Ok(whole);
            }
        }
    }
}
