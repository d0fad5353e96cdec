//! What a thread does with a part.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use std::io::ErrorKind::{Interrupted, WouldBlock};
use std::sync::Arc;
use std::time::Duration;

use hicache_core::{Direction, Error, ErrorKind, Result};

use super::config::Calls;
use crate::CUFILE;
use crate::cuda::Context;
use crate::cufile::batch::BatchOperation;
use crate::cufile::{BatchQueue, Buffer, Driver, Handle};
use crate::jobs::{Ended, Part, Segment};
use crate::pool::{Kept, Work};

/// How often a call that the system only asks to repeat is repeated.
const TRIES: u32 = 16;

/// What the threads of an engine share.
pub(super) struct Moves {
    pub(super) driver: Arc<Driver>,
    pub(super) context: Option<Arc<Context>>,
    pub(super) calls: Calls,
}

/// In an attached file.
pub(super) struct FileToken(pub(super) Kept<Handle>);

/// In a registration: `None` where the memory is not registered with cuFile.
pub(super) struct MemoryToken(pub(super) Option<Kept<Buffer>>);

/// What a thread has for itself.
pub(super) struct Own {
    queue: Option<BatchQueue>,
}

impl Work for Moves {
    type Own = Own;

    fn begin(&self) -> Result<Own> {
        if let Some(context) = &self.context {
            context.bind_thread()?;
        }
        let queue = match self.calls {
            Calls::Threads => None,
            Calls::Batches { depth } => Some(BatchQueue::new(&self.driver, depth)?),
        };
        Ok(Own { queue })
    }

    fn most_parts(&self) -> usize {
        match self.calls {
            Calls::Threads => 1,
            Calls::Batches { depth } => depth,
        }
    }

    fn run(&self, own: &mut Own, parts: Vec<Part>) {
        if own.queue.is_some() {
            return run_batch(own, parts);
        }
        for part in parts {
            let outcome = handle_of(&part).and_then(|handle| move_rest(&handle, &part, 0));
            part.finish(Ended::Done(outcome));
        }
    }
}

fn handle_of(part: &Part) -> Result<Arc<Handle>> {
    let token = part.file.token::<FileToken>().and_then(|token| token.0.get());
    token.ok_or_else(|| {
        Error::new(ErrorKind::Unexpected, "a file without what its engine knows of it").with_backend(CUFILE)
    })
}

/// Moves what is left of a part after its first `done` bytes, call by call. Fewer bytes than the part has means the end of the
/// file, or that the device takes no more.
fn move_rest(handle: &Handle, part: &Part, mut done: u64) -> Result<u64> {
    let mut before = 0;
    for segment in &part.segments {
        let end = before + segment.bytes as u64;
        while done < end {
            let moved = call(handle, part, segment, (done - before) as usize, done)?;
            done += moved;
            if moved == 0 || done < end && is_at_end(part, done) {
                return Ok(done);
            }
        }
        before = end;
    }
    Ok(done)
}

/// One call for what is left of a segment after its first `skip` bytes.
fn call(handle: &Handle, part: &Part, segment: &Segment, skip: usize, done: u64) -> Result<u64> {
    let (bytes, offset) = (segment.bytes - skip, part.offset + done);
    // cuFile finds registered memory by the address that was registered.
    let registered = segment.registration.token::<MemoryToken>().is_some_and(|token| token.0.is_some());
    let (base, base_offset) = match registered {
        true => (segment.base(), segment.skip + skip),
        false => (segment.address().wrapping_add(skip), 0),
    };
    let mut tries = 0;
    loop {
        // SAFETY: the part's job holds the extent with its leases until the part is finished, which is after this: a write
        // lease where the call reads the file (`Extent::validate`), and the range was checked against the region.
        let moved = unsafe { handle.transfer(part.direction, base, base_offset, bytes, offset) };
        match moved {
            Ok(moved) if moved <= bytes as u64 => return Ok(moved),
            Ok(moved) => {
                let message = format!("cuFile says that it moved {moved} of {bytes} bytes");
                return Err(Error::new(ErrorKind::Unexpected, message).with_backend(CUFILE));
            }
            Err(error) if tries < TRIES && is_passing(&error) => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_passing(error: &Error) -> bool {
    let kind = error.errno().map(|code| std::io::Error::from_raw_os_error(code).kind());
    matches!(kind, Some(Interrupted | WouldBlock))
}

/// Whether the file ends where the bytes after `done` would be: then there is nothing to repeat.
fn is_at_end(part: &Part, done: u64) -> bool {
    let length = part.file.file().metadata().map(|metadata| metadata.len());
    part.direction == Direction::Read && length.is_ok_and(|length| part.offset + done >= length)
}

/// All parts with one batch; what is short goes on by itself.
fn run_batch(own: &mut Own, parts: Vec<Part>) {
    let mut operations = Vec::with_capacity(parts.len());
    let mut submitted = Vec::with_capacity(parts.len());
    for part in parts {
        let prepared = handle_of(&part);
        match (prepared, part.segments.as_slice()) {
            (Ok(handle), [segment]) => {
                operations.push(BatchOperation {
                    handle,
                    direction: part.direction,
                    address: segment.address(),
                    bytes: segment.bytes,
                    offset: part.offset,
                });
                submitted.push(part);
            }
            (Err(error), _) => part.finish(Ended::Done(Err(error))),
            (Ok(handle), _) => {
                let outcome = move_rest(&handle, &part, 0);
                part.finish(Ended::Done(outcome));
            }
        }
    }
    let Some(queue) = own.queue.as_mut().filter(|_| !operations.is_empty()) else { return };
    // SAFETY: as in `call`. Where the library loses them, the parts say so, and their jobs never let go of the leases.
    match unsafe { queue.run(&operations) } {
        Ok(outcomes) => {
            for ((part, operation), outcome) in submitted.into_iter().zip(&operations).zip(outcomes) {
                let bytes = operation.bytes as u64;
                let outcome = match outcome {
                    Ok(moved) if moved > bytes => {
                        let message = format!("cuFile says that it moved {moved} of {bytes} bytes");
                        Err(Error::new(ErrorKind::Unexpected, message).with_backend(CUFILE))
                    }
                    Ok(0) => Ok(0),
                    Ok(moved) if moved < bytes && is_at_end(&part, moved) => Ok(moved),
                    Ok(moved) => move_rest(&operation.handle, &part, moved),
                    Err(error) => Err(error),
                };
                part.finish(Ended::Done(outcome));
            }
        }
        Err(lost) => {
            tracing::error!(error = %lost.0, "cuFile lost a batch; this thread makes synchronous calls from now on");
            own.queue = None;
            // The file's handles stay for ever, and so do the registrations of the memory: closing the engine undoes neither.
            std::mem::forget(operations);
            let segments = submitted.iter().flat_map(|part| &part.segments);
            let buffers =
                segments.filter_map(|segment| segment.registration.token::<MemoryToken>()?.0.as_ref()?.get());
            buffers.for_each(std::mem::forget);
            for part in submitted {
                part.finish(Ended::Lost(lost.0.clone()));
            }
        }
    }
}
