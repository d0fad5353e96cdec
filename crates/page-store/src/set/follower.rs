//! Following a set that somebody else writes: its snapshot once, then its journals from where they were left.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::SystemTime;

use hicache_hashing::Fingerprint;

use super::apply::{Applied, MOST_UNPLACED};
use super::paths::SetPaths;
use super::replay::{BUFFER_BYTES, find_segments};
use crate::catalog::{Catalog, Mask, Unordered};
use crate::format::{FORMAT_VERSION, RECORD_BYTES, Record};

/// A writer can remove files while they are looked for, so that a look has to begin again. More often than this in a
/// row, and what was found so far has to do until the next look.
const MOST_RESTARTS: usize = 8;

/// What is known of a set of somebody else.
#[derive(Debug)]
pub(crate) struct Follower {
    paths: SetPaths,
    fingerprint: Fingerprint,
    known: Applied,
    tail: Option<Tail>,
    /// Where no journal was found: how the directory was then, and how often that was so.
    without_journal: (Option<SystemTime>, usize),
}

/// Where a journal was left.
#[derive(Debug)]
struct Tail {
    file: File,
    generation: u64,
    at: u64,
    /// The last record that was read: if it is not there any more, its write had failed and was taken back.
    last: [u8; RECORD_BYTES],
    buffer: Vec<u8>,
}

/// How far a look at a journal came.
enum Reached {
    /// Its end, for now.
    End,
    /// A stretch of it, with pages whose segments are not known yet: before there are too many of these.
    Unplaced,
    /// Its seal.
    Seal(u64),
    /// It is not the journal any more that was read before.
    Changed,
}

impl Follower {
    pub(crate) fn new(directory: &Path, fingerprint: Fingerprint) -> Self {
        Self {
            paths: SetPaths::new(directory.to_owned()),
            fingerprint,
            known: Applied::new(&[], Unordered::boxed),
            tail: None,
            without_journal: (None, 0),
        }
    }

    pub(crate) fn paths(&self) -> &SetPaths {
        &self.paths
    }

    pub(crate) fn catalog(&self) -> &Catalog {
        &self.known.catalog
    }

    /// Removes a page from what is known: it is not what its record says.
    pub(crate) fn unpublish(&mut self, pool: u8, digest: &hicache_hashing::Digest) {
        self.known.catalog.unpublish(pool, digest);
    }

    /// What the records read since the last call hide, in every set.
    pub(crate) fn take_mask(&mut self) -> Mask {
        std::mem::take(&mut self.known.mask)
    }

    /// Highest number in the set.
    pub(crate) fn sequence(&self) -> u64 {
        self.known.sequence
    }

    /// Reads what is new. Answers whether it began again with a snapshot: what was read of other sets before may then be
    /// older than the snapshot supposes, and everybody must be read once more.
    ///
    /// # Errors
    /// `Io` where a file can't be read; what was known before stays known.
    pub(crate) fn look(&mut self) -> io::Result<bool> {
        let mut fresh = self.tail.is_none() && self.restart()?;
        let mut restarts = 0;
        while restarts < MOST_RESTARTS {
            let Some(tail) = &mut self.tail else { break };
            match tail.read(&mut self.known, self.fingerprint)? {
                Reached::End => break,
                Reached::Unplaced => self.look_for_segments()?,
                // However many there are. They lead upwards only, so there is an end.
                Reached::Seal(next) if next <= tail.generation => break,
                Reached::Seal(next) => match Tail::open(&self.paths, next)? {
                    Some(next) => self.tail = Some(next),
                    None if fresh => {
                        // Sealed to nothing, or already overtaken: the next look begins anew.
                        self.tail = None;
                        break;
                    }
                    None => {
                        fresh |= self.restart()?;
                        restarts += 1;
                    }
                },
                Reached::Changed => {
                    fresh |= self.restart()?;
                    restarts += 1;
                }
            }
        }
        self.look_for_segments()?;
        Ok(fresh)
    }

    /// Begins again with the newest snapshot. Answers whether it did.
    fn restart(&mut self) -> io::Result<bool> {
        let directory = std::fs::metadata(self.paths.directory())?.modified().ok();
        let (seen, times) = self.without_journal;
        if times > MOST_RESTARTS && seen == directory {
            return Ok(false);
        }
        self.without_journal = (directory, if seen == directory { times + 1 } else { 0 });
        for _ in 0..MOST_RESTARTS {
            self.known = Applied::new(&find_segments(&self.paths)?, Unordered::boxed);
            let mut first = None;
            for generation in self.paths.generations(SetPaths::SNAPSHOT)? {
                let path = self.paths.snapshot(generation);
                if self.known.apply_snapshot(&path, generation, self.fingerprint).is_ok() {
                    first = Some(generation);
                    break;
                }
                self.known = Applied::new(&find_segments(&self.paths)?, Unordered::boxed);
            }
            let lowest = || Ok::<_, io::Error>(self.paths.generations(SetPaths::JOURNAL)?.pop());
            let Some(first) = (match first {
                Some(first) => Some(first),
                None => lowest()?,
            }) else {
                // A set that was just made has neither.
                self.tail = None;
                return Ok(true);
            };
            self.tail = Tail::open(&self.paths, first)?;
            if self.tail.is_some() {
                self.without_journal = (None, 0);
                break;
            }
        }
        Ok(true)
    }

    /// Finds the segments of pages that have none yet, and forgets those that are gone.
    fn look_for_segments(&mut self) -> io::Result<()> {
        if self.known.unplaced.is_empty() {
            return Ok(());
        }
        let there = find_segments(&self.paths)?;
        let catalog = &mut self.known.catalog;
        let gone = |segment: &u16| there.iter().all(|(name, _)| name.segment != *segment);
        for segment in catalog.segment_ids().filter(gone).collect::<Vec<_>>() {
            // Stays as long as it has pages that were not retired; reading them fails, which is a miss.
            catalog.remove_segment(segment);
        }
        for (name, bytes) in there {
            if self.known.catalog.slot_bytes(name.segment).is_none() {
                self.known.add_segment(name, bytes);
            }
        }
        self.known.place_waiting();
        Ok(())
    }
}

impl Tail {
    fn open(paths: &SetPaths, generation: u64) -> io::Result<Option<Self>> {
        match File::open(paths.journal(generation)) {
            Ok(file) => {
                Ok(Some(Self { file, generation, at: 0, last: [0; RECORD_BYTES], buffer: Vec::new() }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read(&mut self, known: &mut Applied, set: Fingerprint) -> io::Result<Reached> {
        let mut any = false;
        loop {
            let from = self.at.saturating_sub(RECORD_BYTES as u64);
            self.fill(from)?;
            let (mut records, _) = self.buffer.as_chunks::<RECORD_BYTES>();
            if self.at > 0 {
                match records.split_first() {
                    Some((last, rest)) if *last == self.last => records = rest,
                    _ => return Ok(Reached::Changed),
                }
            }
            let whole =
                records.iter().rposition(|raw| Record::decode(raw).is_some()).map_or(0, |last| last + 1);
            if whole == 0 {
                return self.ended(any);
            }
            if records[..whole].iter().any(|raw| Record::decode(raw).is_none()) {
                // Something behind it is whole: its writer has passed it. Read once more it is whole too, or damaged.
                self.fill(from)?;
                records = self.buffer.as_chunks::<RECORD_BYTES>().0;
                records = records.get(usize::from(self.at > 0)..).unwrap_or_default();
            }
            any = true;
            let mut at = self.at;
            let mut last = self.last;
            let mut seal = None;
            for raw in records.iter().take(whole) {
                let record = Record::decode(raw);
                let header =
                    Record::Header { version: FORMAT_VERSION, generation: self.generation, fingerprint: set };
                if at == 0 && record != Some(header) {
                    // Another's journal: nothing in it is believed.
                    return Ok(Reached::End);
                }
                at += RECORD_BYTES as u64;
                last = *raw;
                // One that does not decode is damage, which its writer counts when it next opens the set.
                seal = record.and_then(|record| known.apply(&record));
                if seal.is_some() {
                    break;
                }
            }
            (self.at, self.last) = (at, last);
            if let Some(next) = seal {
                return Ok(Reached::Seal(next));
            }
            if known.unplaced.len() > MOST_UNPLACED / 4 {
                return Ok(Reached::Unplaced);
            }
        }
    }

    /// There is nothing new. A journal that was removed without a seal has one that can't be read.
    fn ended(&self, any: bool) -> io::Result<Reached> {
        let gone = !any && self.file.metadata()?.nlink() == 0;
        Ok(if gone { Reached::Changed } else { Reached::End })
    }

    /// Reads a stretch of the journal.
    fn fill(&mut self, from: u64) -> io::Result<()> {
        // Small at first: mostly there is nothing new, or a batch.
        let mut length = 16 << 10;
        loop {
            self.buffer.resize(length, 0);
            let mut held = 0;
            while held < length {
                match self.file.read_at(&mut self.buffer[held..], from + held as u64) {
                    Ok(0) => break,
                    Ok(read) => held += read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            if held < length || length >= BUFFER_BYTES {
                self.buffer.truncate(held);
                return Ok(());
            }
            length = BUFFER_BYTES;
        }
    }
}
