//! Reads of what the page cache has, by the engine's own thread, a little at a time, and the sums of it: a page is then in
//! the processor's cache when it is summed, which costs a fraction of going over the memory later.
//!
//! An io_uring copies such pages in the submitting thread too, but all that were submitted, before it says a word.

use std::io::IoSliceMut;
use std::sync::Arc;

use hicache_core::{Direction, PieceSums, Result};
use hicache_hashing::Checksum;
use rustix::io::{ReadWriteFlags, preadv2};
use smallvec::SmallVec;

use crate::file::Through;
use crate::operation::Operation;

/// Bytes of one call. With their source they fit the second cache of processors in use.
const CHUNK_BYTES: usize = 128 << 10;
/// Fewer bytes are not worth a call of their own.
const LEAST_BYTES: usize = 32 << 10;
/// After a read of which the page cache had nothing, so many are not tried.
const REST: u32 = 15;

/// Tries reads, and rests from it while they fail.
#[derive(Debug, Default)]
pub(crate) struct Cached {
    resting: u32,
}

impl Cached {
    /// Reads from the page cache what it has of `operation`, which has not begun. The sums of its pieces if that was all
    /// of it; else the rest is left to be read.
    pub(crate) fn read(&mut self, operation: &mut Operation) -> Option<PieceSums> {
        let worth = operation.extent.memory.bytes() >= LEAST_BYTES && operation.done() == 0;
        if operation.direction != Direction::Read || operation.through != Through::Buffered || !worth {
            return None;
        }
        if self.resting > 0 {
            self.resting -= 1;
            return None;
        }
        let sums = read(operation);
        if operation.done() == 0 {
            self.resting = REST;
        }
        sums
    }
}

/// As [`Cached::read`], of what is worth it.
fn read(operation: &mut Operation) -> Option<PieceSums> {
    let file = Arc::clone(&operation.file);
    let (fd, _) = file.descriptor(Through::Buffered);
    let start = operation.extent.offset;
    // Leases of host memory, and to write, only get here.
    let mut pieces = operation.extent.memory.bytes_mut().collect::<Result<SmallVec<[_; 8]>>>().ok()?;
    let mut done = 0;
    let mut sums = PieceSums::new();
    let mut running = Checksum::new();
    // How much of the piece at `sums.len()` is there.
    let mut within = 0;
    while sums.len() < pieces.len() {
        let first = sums.len();
        let mut room = CHUNK_BYTES;
        let mut slices: SmallVec<[IoSliceMut<'_>; 8]> = SmallVec::new();
        for (position, piece) in pieces[first..].iter_mut().enumerate() {
            let from = if position == 0 { within } else { 0 };
            let bytes = (piece.len() - from).min(room);
            slices.push(IoSliceMut::new(&mut piece[from..from + bytes]));
            room -= bytes;
            if room == 0 {
                break;
            }
        }
        // Why there is less does not matter: the engine asks for the rest, and that answer counts.
        let got = preadv2(fd, &mut slices, start + done as u64, ReadWriteFlags::NOWAIT).unwrap_or(0);
        drop(slices);
        done += got;
        let mut left = CHUNK_BYTES - room;
        if got != left {
            break;
        }
        for piece in &pieces[first..] {
            let bytes = (piece.len() - within).min(left);
            running.update(&piece[within..within + bytes]);
            (within, left) = (within + bytes, left - bytes);
            if within < piece.len() {
                break;
            }
            sums.push(std::mem::take(&mut running).finish());
            within = 0;
        }
    }
    let whole = sums.len() == pieces.len();
    drop(pieces);
    if done > 0 {
        operation.advance(Ok(done));
    }
    whole.then_some(sums)
}
