//! Batches of extents, cut in parts that threads do one by one, and the one answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hicache_core::{
    Completion, Direction, EngineCapabilities, EngineFile, Error, ErrorKind, Extent, ExtentsDone, OwnerId,
    Registration, Result, Transfer,
};

/// Bytes of memory side by side: `bytes` of them, `skip` after the start of the region that they are in.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) registration: Registration,
    pub(crate) skip: usize,
    pub(crate) bytes: usize,
}

impl Segment {
    /// Where the region starts.
    pub(crate) fn base(&self) -> *mut u8 {
        self.registration.region().base().as_ptr()
    }

    /// Where the bytes start.
    pub(crate) fn address(&self) -> *mut u8 {
        // In range: a lease of these bytes was checked against the region.
        self.base().wrapping_add(self.skip)
    }
}

/// How extents are cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// Most bytes in a part.
    pub(crate) most_bytes: usize,
    /// Whether a part must lie in one piece.
    pub(crate) pieces_apart: bool,
}

/// A part of an extent: what a thread does at one time. The job holds the extent, with its leases, until every part of it has
/// been finished; a part that is dropped instead is lost, and then the memory of its extent is never used again.
pub(crate) struct Part {
    job: Arc<Job>,
    position: usize,
    /// Where in the extent it starts.
    skip: usize,
    pub(crate) direction: Direction,
    pub(crate) file: EngineFile,
    pub(crate) offset: u64,
    pub(crate) bytes: usize,
    pub(crate) segments: Vec<Segment>,
    finished: bool,
}

/// What became of a part.
#[derive(Debug)]
pub(crate) enum Ended {
    /// So many bytes have moved, or none for this reason; its memory is not in use.
    Done(Result<u64>),
    /// Nobody knows; its memory may be in use for ever.
    Lost(Error),
}

/// A batch.
pub(crate) struct Job(Mutex<State>);

struct State {
    extents: Vec<Option<Extent>>,
    progress: Vec<Progress>,
    /// Extents with parts that are not over.
    unfinished: usize,
    completion: Option<Completion<ExtentsDone>>,
}

struct Progress {
    parts: usize,
    /// Bytes up to the first that did not move, or the first error.
    outcome: Result<u64>,
    lost: bool,
}

/// What became of a batch at the door.
pub(crate) enum Admission {
    /// Nothing of it can be done; this is the answer.
    Answered(Transfer<ExtentsDone>),
    /// These parts are to be done.
    Accepted(Vec<Part>, Transfer<ExtentsDone>),
}

/// Checks each extent, and cuts those that are right.
pub(crate) fn admit(
    direction: Direction,
    extents: Vec<Extent>,
    owner: OwnerId,
    capabilities: &EngineCapabilities,
    cut: Cut,
) -> Admission {
    let validate = |extent: &Extent| {
        let bytes = extent.memory.bytes() as u64;
        extent.validate(direction, owner, capabilities).map(|()| bytes)
    };
    let mut progress: Vec<Progress> =
        extents.iter().map(|extent| Progress { parts: 0, outcome: validate(extent), lost: false }).collect();
    if progress.iter().all(|progress| progress.outcome.is_err()) {
        let outcomes = progress.into_iter().map(|progress| progress.outcome).collect();
        let extents = extents.into_iter().map(Some).collect();
        return Admission::Answered(Transfer::ready(ExtentsDone::new(outcomes, extents)));
    }
    let mut pieces = Vec::with_capacity(extents.len());
    for (position, (extent, progress)) in extents.iter().zip(&mut progress).enumerate() {
        if progress.outcome.is_ok() {
            let parts = cut_extent(extent, cut);
            progress.parts = parts.len();
            pieces.extend(parts.into_iter().map(|part| (position, extent.file.clone(), extent.offset, part)));
        }
    }
    let unfinished = progress.iter().filter(|progress| progress.parts > 0).count();
    let (completion, transfer) = Transfer::channel(extents.len());
    let extents = extents.into_iter().map(Some).collect();
    let state = State { extents, progress, unfinished, completion: Some(completion) };
    let job = Arc::new(Job(Mutex::new(state)));
    let part =
        |(position, file, offset, (skip, segments)): (usize, EngineFile, u64, (usize, Vec<Segment>))| Part {
            job: Arc::clone(&job),
            position,
            skip,
            direction,
            file,
            offset: offset + skip as u64,
            bytes: segments.iter().map(|segment| segment.bytes).sum(),
            segments,
            finished: false,
        };
    Admission::Accepted(pieces.into_iter().map(part).collect(), transfer)
}

/// Where each part starts in the extent, and its memory.
fn cut_extent(extent: &Extent, cut: Cut) -> Vec<(usize, Vec<Segment>)> {
    let most = cut.most_bytes.max(1);
    let mut parts: Vec<(usize, Vec<Segment>)> = Vec::new();
    let (mut at, mut room) = (0, 0);
    for piece in extent.memory.pieces() {
        let mut done = 0;
        if cut.pieces_apart {
            room = 0;
        }
        while done < piece.len() {
            if room == 0 {
                parts.push((at, Vec::new()));
                room = most;
            }
            let bytes = room.min(piece.len() - done);
            let segment = Segment {
                registration: piece.registration().clone(),
                skip: piece.lease().offset() + done,
                bytes,
            };
            if let Some((_, segments)) = parts.last_mut() {
                segments.push(segment);
            }
            (at, done, room) = (at + bytes, done + bytes, room - bytes);
        }
    }
    parts
}

impl Part {
    /// Takes it back with what became of it.
    pub(crate) fn finish(mut self, ended: Ended) {
        self.end(ended);
    }

    fn end(&mut self, ended: Ended) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        // Before the job hears of it: handles of registrations may be the last ones.
        self.segments.clear();
        let answer = self.job.end(self.position, self.skip, self.bytes, ended);
        // Not under the lock: whoever is woken may submit.
        if let Some((completion, done)) = answer {
            // Nobody waits any more: the leases end here, where the device has finished with them.
            drop(completion.answer(done));
        }
    }

    /// Ends each of these with the same error.
    pub(crate) fn refuse(parts: impl IntoIterator<Item = Self>, error: &Error) {
        for part in parts {
            part.finish(Ended::Done(Err(error.clone())));
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.end(Ended::Lost(Error::new(ErrorKind::Abandoned, "the engine lost the operation")));
    }
}

impl Job {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(
        &self,
        position: usize,
        skip: usize,
        bytes: usize,
        ended: Ended,
    ) -> Option<(Completion<ExtentsDone>, ExtentsDone)> {
        let mut state = self.lock();
        let progress = state.progress.get_mut(position)?;
        match ended {
            Ended::Done(Ok(moved)) => {
                if let Ok(end) = &mut progress.outcome
                    && moved < bytes as u64
                {
                    *end = (*end).min(skip as u64 + moved);
                }
            }
            Ended::Done(Err(error)) => {
                if progress.outcome.is_ok() {
                    progress.outcome = Err(error);
                }
            }
            Ended::Lost(error) => {
                progress.lost = true;
                progress.outcome = Err(abandoned(&error));
            }
        }
        progress.parts -= 1;
        if progress.parts > 0 {
            return None;
        }
        let lost = progress.lost;
        if lost {
            // For ever: whatever it is that still may write there.
            std::mem::forget(state.extents.get_mut(position).and_then(Option::take));
        }
        state.unfinished -= 1;
        if state.unfinished > 0 {
            return None;
        }
        let completion = state.completion.take()?;
        let outcomes =
            std::mem::take(&mut state.progress).into_iter().map(|progress| progress.outcome).collect();
        let extents = std::mem::take(&mut state.extents);
        Some((completion, ExtentsDone::new(outcomes, extents)))
    }
}

/// The same error with the kind that says that memory did not come back.
fn abandoned(error: &Error) -> Error {
    if error.kind() == ErrorKind::Abandoned {
        return error.clone();
    }
    Error::new(ErrorKind::Abandoned, format!("the operation was lost: {error}"))
}
