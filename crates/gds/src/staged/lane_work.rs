//! What a lane does with the parts that it has taken.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use std::sync::Arc;

use hicache_core::{
    Access, Direction, Engine, EngineFile, Error, ErrorKind, Extent, PageMemory, Registration, Result,
};

use super::config::StagedConfig;
use super::copier::{Copier, CopyFailure, Lane, StagedCopy};
use crate::STAGED;
use crate::jobs::{Ended, Part};
use crate::pool::Work;

/// How often a lane makes new staging memory after the engine below has lost an operation in it.
const MOST_LOSSES: u32 = 16;

/// What the lanes share.
pub(super) struct Lanes {
    pub(super) below: Arc<dyn Engine>,
    pub(super) copier: Arc<dyn Copier>,
    pub(super) config: StagedConfig,
}

/// In an attached file: the file of the engine below.
pub(super) struct FileToken(pub(super) EngineFile);

/// What a lane has for itself.
pub(super) struct Own {
    lane: Box<dyn Lane>,
    staging: Registration,
    losses: u32,
}

/// A part, its slot of the staging, and how much of it is right so far.
struct Staged {
    part: Part,
    memory: PageMemory,
}

impl Work for Lanes {
    type Own = Own;

    fn begin(&self) -> Result<Own> {
        Ok(Own { lane: self.copier.lane()?, staging: self.staging()?, losses: 0 })
    }

    fn most_parts(&self) -> usize {
        self.config.slots
    }

    fn run(&self, own: &mut Own, parts: Vec<Part>) {
        let direction = parts.first().map_or(Direction::Read, |part| part.direction);
        let mut staged = Vec::with_capacity(parts.len());
        for (slot, part) in parts.into_iter().enumerate() {
            match own.staging.page(slot, part.bytes, Access::Write) {
                Ok(memory) => staged.push(Staged { part, memory }),
                Err(error) => part.finish(Ended::Done(Err(error))),
            }
        }
        let lost = match direction {
            Direction::Read => self.read(own, staged),
            Direction::Write => self.write(own, staged),
        };
        if lost {
            self.restage(own);
        }
    }
}

impl Lanes {
    fn staging(&self) -> Result<Registration> {
        self.below.register(&self.copier.allocate_staging(self.config.slots, self.config.slot_bytes)?)
    }

    /// The engine below keeps memory that it has lost; the lane goes on with other memory.
    fn restage(&self, own: &mut Own) {
        own.losses += 1;
        if own.losses > MOST_LOSSES {
            return; // Slots that are leased for ever are `Busy`.
        }
        match self.staging() {
            Ok(staging) => own.staging = staging,
            Err(error) => tracing::warn!(%error, "no new staging memory for what was lost"),
        }
    }

    /// From the files into the staging, then to the callers. Whether staging memory was lost.
    fn read(&self, own: &mut Own, staged: Vec<Staged>) -> bool {
        let (read, lost) = self.move_staging(Direction::Read, staged);
        let copies: Vec<StagedCopy> = read.iter().flat_map(|(staged, moved)| staged.copies(*moved)).collect();
        // SAFETY: each part's job holds the lease of the caller's memory, a write lease, until the part is finished; the
        // staging is leased by `read`. Where the lane loses the copies, both are held for ever.
        match unsafe { own.lane.copy(Direction::Read, &copies) } {
            Ok(()) => read.into_iter().for_each(|(staged, moved)| staged.part.finish(Ended::Done(Ok(moved)))),
            Err(CopyFailure::Ended(error)) => {
                read.into_iter().for_each(|(staged, _)| staged.part.finish(Ended::Done(Err(error.clone()))));
            }
            Err(CopyFailure::Lost(error)) => {
                lose(read.into_iter().map(|(staged, _)| staged), &error);
                return true;
            }
        }
        lost
    }

    /// From the callers into the staging, then to the files. Whether staging memory was lost.
    fn write(&self, own: &mut Own, staged: Vec<Staged>) -> bool {
        let copies: Vec<StagedCopy> =
            staged.iter().flat_map(|staged| staged.copies(staged.part.bytes as u64)).collect();
        // SAFETY: as in `read`; the caller's memory is leased for reading at least.
        match unsafe { own.lane.copy(Direction::Write, &copies) } {
            Ok(()) => {}
            Err(CopyFailure::Ended(error)) => {
                Part::refuse(staged.into_iter().map(|staged| staged.part), &error);
                return false;
            }
            Err(CopyFailure::Lost(error)) => {
                lose(staged, &error);
                return true;
            }
        }
        let (written, lost) = self.move_staging(Direction::Write, staged);
        written.into_iter().for_each(|(staged, moved)| staged.part.finish(Ended::Done(Ok(moved))));
        lost
    }

    /// Moves between the files and the staging. What did not fail comes back with its count, what did is finished. Whether an
    /// operation was lost, and its staging memory with it.
    fn move_staging(&self, direction: Direction, staged: Vec<Staged>) -> (Vec<(Staged, u64)>, bool) {
        let mut parts = Vec::with_capacity(staged.len());
        let mut extents = Vec::with_capacity(staged.len());
        for Staged { part, memory } in staged {
            match part.file.token::<FileToken>().map(|token| token.0.clone()) {
                Some(file) => {
                    extents.push(Extent { file, offset: part.offset, memory });
                    parts.push(part);
                }
                None => {
                    let error =
                        Error::new(ErrorKind::Unexpected, "a file without what its engine knows of it");
                    part.finish(Ended::Done(Err(error.with_backend(STAGED))));
                }
            }
        }
        if extents.is_empty() {
            return (Vec::new(), false);
        }
        let done = self.below.submit(direction, extents).wait();
        let mut outcomes = done.outcomes.into_iter();
        let mut extents = done.extents.into_iter();
        let (mut moved, mut lost) = (Vec::with_capacity(parts.len()), false);
        for part in parts {
            match (outcomes.next(), extents.next().flatten()) {
                (Some(Ok(count)), Some(extent)) if count <= part.bytes as u64 => {
                    moved.push((Staged { part, memory: extent.memory }, count));
                }
                (Some(Err(error)), Some(_)) => part.finish(Ended::Done(Err(error))),
                (outcome, extent) => {
                    lost |= extent.is_none();
                    let cause =
                        outcome.and_then(Result::err).map_or_else(String::new, |error| format!(": {error}"));
                    let message = format!("{} lost the operation{cause}", self.below.capabilities().name);
                    let error = Error::new(ErrorKind::Io, message).with_backend(STAGED);
                    part.finish(match (direction, extent) {
                        // The bytes may still reach the file: whoever owns that place must not give it to anybody else.
                        (Direction::Write, None) => Ended::Lost(error),
                        // The caller's memory was not in it, so it goes back.
                        _ => Ended::Done(Err(error)),
                    });
                }
            }
        }
        (moved, lost)
    }
}

impl Staged {
    /// The copies of its first `bytes` bytes.
    fn copies(&self, bytes: u64) -> Vec<StagedCopy> {
        let start = self.memory.pieces()[0].lease().address();
        let mut left = usize::try_from(bytes).unwrap_or(usize::MAX);
        let mut at = 0;
        let mut copies = Vec::with_capacity(self.part.segments.len());
        for segment in &self.part.segments {
            let bytes = segment.bytes.min(left);
            if bytes == 0 {
                break;
            }
            // In range: the slot was leased for all bytes of the part.
            copies.push(StagedCopy { staging: start.wrapping_add(at), memory: segment.address(), bytes });
            (at, left) = (at + bytes, left - bytes);
        }
        copies
    }
}

/// Ends parts of which nobody knows whether their memory is still used: both sides stay leased for ever.
fn lose(staged: impl IntoIterator<Item = Staged>, error: &Error) {
    for Staged { part, memory } in staged {
        std::mem::forget(memory);
        part.finish(Ended::Lost(error.clone()));
    }
}
