//! From files to a catalog: the newest whole snapshot, then the journals from there on. For whoever holds the set's
//! lock, or wants to look once; [`Follower`](super::Follower) keeps looking.

use std::fs::File;
use std::io::{self, Read};

use hicache_core::{Error, Result};
use hicache_hashing::Fingerprint;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::apply::Applied;
use super::paths::{SegmentName, SetPaths};
use crate::catalog::{Catalog, EvictionPolicy, Mask};
use crate::format::{FORMAT_VERSION, RECORD_BYTES, Record};

pub(super) const BUFFER_BYTES: usize = RECORD_BYTES << 14;
/// For so many pages at most room is made before they are read.
const MOST_RESERVED: usize = 1 << 24;

/// What a set holds, as its files say.
#[derive(Debug)]
pub(crate) struct Replayed {
    pub(crate) catalog: Catalog,
    /// What its records hide in other sets.
    pub(crate) mask: Mask,
    /// Segments that are there, with their lengths in bytes.
    pub(crate) segments: Vec<(SegmentName, u64)>,
    /// Generation of the last journal; 0 where there is none.
    pub(crate) generation: u64,
    /// The journals that were read, in order.
    pub(crate) journals: Vec<JournalEnd>,
    /// Records that were torn, damaged or of no meaning, and were skipped.
    pub(crate) bad_records: u64,
    /// Pages whose segment is not there any more, or too short.
    pub(crate) lost_pages: u64,
    /// Snapshots that could not be used.
    pub(crate) bad_snapshots: u64,
    /// Highest sequence seen.
    pub(crate) sequence: u64,
    /// Highest segment that a record names.
    pub(crate) highest_segment: Option<u16>,
}

/// How a journal ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JournalEnd {
    pub(crate) generation: u64,
    /// Length of the whole records at its start.
    pub(crate) bytes: u64,
    /// Whether its last record is a seal.
    pub(crate) sealed: bool,
}

impl Replayed {
    /// Whether anything was not as a writer leaves it.
    pub(crate) fn damaged(&self) -> bool {
        self.bad_records + self.bad_snapshots + self.lost_pages > 0
    }
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
    let (mut state, first) = loop {
        let mut state = Applied::new(&segments, policy);
        let Some(generation) = snapshots.next() else { break (state, 0) };
        let path = paths.snapshot(generation);
        if let Ok(metadata) = std::fs::metadata(&path) {
            // However long somebody has made it.
            let records = usize::try_from(metadata.len()).unwrap_or(0) / RECORD_BYTES;
            state.catalog.reserve(records.min(MOST_RESERVED));
        }
        match state.apply_snapshot(&path, generation, fingerprint) {
            Ok(_) => break (state, generation),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "snapshot can't be used; falling back");
                bad_snapshots += 1;
            }
        }
    };
    // Without a snapshot every journal that is left counts; with one, those from its generation on.
    let mut generations: Vec<u64> = journals.into_iter().filter(|&generation| generation >= first).collect();
    generations.reverse();
    let mut ends = Vec::with_capacity(generations.len());
    let mut bad_records = 0;
    for &generation in &generations {
        let end = read_journal(&mut state, &mut bad_records, paths, generation, fingerprint).map_err(io)?;
        ends.push(end);
    }
    state.catalog.finish_replay();
    Ok(Replayed {
        catalog: state.catalog,
        mask: state.mask,
        segments,
        generation: generations.last().copied().unwrap_or(first),
        journals: ends,
        bad_records: bad_records + state.bad_records,
        lost_pages: state.unplaced.len() as u64,
        bad_snapshots,
        sequence: state.sequence,
        highest_segment: state.highest_segment,
    })
}

/// The segments of a set, with their lengths.
///
/// # Errors
/// `Io` if the directory can't be read.
pub(super) fn find_segments(paths: &SetPaths) -> io::Result<Vec<(SegmentName, u64)>> {
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

/// Applies a journal and answers how it ends.
fn read_journal(
    state: &mut Applied,
    bad_records: &mut u64,
    paths: &SetPaths,
    generation: u64,
    fingerprint: Fingerprint,
) -> io::Result<JournalEnd> {
    let mut end = JournalEnd { generation, bytes: 0, sealed: false };
    let mut file = match File::open(paths.journal(generation)) {
        Ok(file) => file,
        // Removed since it was listed: its snapshot had replaced it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(end),
        Err(error) => return Err(error),
    };
    let pages = usize::try_from(file.metadata()?.len()).unwrap_or(0) / RECORD_BYTES;
    state.catalog.reserve(pages.min(MOST_RESERVED));
    let mut buffer = vec![0; BUFFER_BYTES];
    let (mut at, mut held) = (0_u64, 0);
    loop {
        let read = file.read(&mut buffer[held..])?;
        held += read;
        let (records, _) = buffer[..held].as_chunks::<RECORD_BYTES>();
        for raw in records {
            let record = Record::decode(raw);
            let expected = Record::Header { version: FORMAT_VERSION, generation, fingerprint };
            if at == 0 && record != Some(expected) {
                // A journal without its header is another's, or torn at birth. Nothing in it is believed.
                *bad_records += 1;
                return Ok(end);
            }
            at += RECORD_BYTES as u64;
            match record {
                Some(record) => {
                    end.sealed = state.apply(&record).is_some();
                    end.bytes = at;
                }
                None => *bad_records += 1,
            }
        }
        let used = records.len() * RECORD_BYTES;
        if held == buffer.len() && buffer.iter().all(|&byte| byte == 0) {
            // A file that somebody made long without writing into it is not read to its end.
            match seek(&file, SeekFrom::Data(at)) {
                Ok(data) => at = data,
                Err(Errno::NXIO) => return Ok(end),
                Err(_) => {}
            }
        }
        buffer.copy_within(used..held, 0);
        held -= used;
        if read == 0 {
            *bad_records += u64::from(held > 0);
            return Ok(end);
        }
    }
}
