//! An engine of one thread, with gates at which a test can stop an operation.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hicache_core::{
    Answer, Completes, Completion, Direction, Engine, EngineCapabilities, EngineFile, Error, ErrorKind,
    Extent, ExtentsDone, MemoryKind, OwnerId, PageMemory, Region, Registration, Result, Transfer,
};
use tokio::sync::oneshot;

/// Where an operation can be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Submitted, not yet begun.
    Queued,
    /// Begun; no byte has moved.
    Begun,
    /// Half of the bytes have moved.
    Moving,
    /// All bytes have moved; the memory still belongs to the engine.
    Moved,
    /// The batch is answered; the engine has let go.
    Answered,
}

impl Phase {
    /// All of them in order.
    pub const ALL: [Self; 5] = [Self::Queued, Self::Begun, Self::Moving, Self::Moved, Self::Answered];
}

/// Stops the engine's thread at one phase. Clones are the same gate, and outlive the engine's handle.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Debug, Default)]
struct GateState {
    held: Option<Phase>,
    standing: Option<Phase>,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next operation that reaches `phase` stops there, and everything behind it waits.
    pub fn hold(&self, phase: Phase) {
        *self.lock() = GateState { held: Some(phase), standing: None };
    }

    /// Lets everything go on.
    pub fn release(&self) {
        *self.lock() = GateState::default();
        self.0.1.notify_all();
    }

    /// Waits until an operation stands at the held phase; whether one came within `limit`.
    pub fn wait_reached(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut state = self.lock();
        while state.standing.is_none() {
            let Some(left) = until.checked_duration_since(Instant::now()) else { return false };
            state = self.0.1.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn pass(&self, phase: Phase) {
        let mut state = self.lock();
        while state.held == Some(phase) {
            state.standing = Some(phase);
            self.0.1.notify_all();
            state = self.0.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.standing = None;
    }
}

/// An [`Engine`] over plain reads and writes, done by one thread in the order of submission through a buffer of its
/// own. It is here to be stopped: see [`Gate`].
///
/// Its handle can be dropped while operations are under way; the thread finishes them and ends.
pub struct ThreadEngine {
    owner: OwnerId,
    capabilities: EngineCapabilities,
    gate: Gate,
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    filled: Condvar,
}

#[derive(Default)]
struct QueueState {
    jobs: VecDeque<Job>,
    closed: bool,
    orphaned: bool,
}

enum Job {
    Batch {
        direction: Direction,
        extents: Vec<(usize, Extent)>,
        done: ExtentsDone,
        completion: Completion<ExtentsDone>,
    },
    Drained(oneshot::Sender<()>),
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.orphaned {
                return None;
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl ThreadEngine {
    /// An engine that moves anything anywhere.
    ///
    /// # Errors
    /// `Unavailable` if no thread can be started.
    pub fn new() -> Result<Arc<Self>> {
        Self::with_capabilities(EngineCapabilities {
            name: "thread",
            alignment: 1,
            max_pieces: 64,
            max_extent_bytes: u64::MAX,
            max_in_flight: 1,
            memory: vec![MemoryKind::Host, MemoryKind::PinnedHost],
            completes: Completes::PerOperation,
            reports_lengths: true,
            proves_idle: true,
        })
    }

    /// An engine that says, and insists, that it can do less: to test who must work around that.
    ///
    /// # Errors
    /// `Unavailable` if no thread can be started.
    pub fn with_capabilities(capabilities: EngineCapabilities) -> Result<Arc<Self>> {
        let engine = Self {
            owner: OwnerId::new(),
            capabilities,
            gate: Gate::default(),
            queue: Arc::new(Queue::default()),
        };
        let (queue, gate) = (Arc::clone(&engine.queue), engine.gate.clone());
        std::thread::Builder::new()
            .name("thread-engine".to_owned())
            .spawn(move || work(&queue, &gate))
            .map_err(|source| {
                Error::new(ErrorKind::Unavailable, "no thread for the engine").with_source(source)
            })?;
        Ok(Arc::new(engine))
    }

    /// The gate of its thread.
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }

    fn closed() -> Error {
        Error::new(ErrorKind::Closed, "the engine is closed").with_backend("thread")
    }
}

impl Drop for ThreadEngine {
    fn drop(&mut self) {
        self.queue.lock().orphaned = true;
        self.queue.filled.notify_all();
    }
}

impl fmt::Debug for ThreadEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadEngine").field("owner", &self.owner).finish_non_exhaustive()
    }
}

#[async_trait]
impl Engine for ThreadEngine {
    fn capabilities(&self) -> &EngineCapabilities {
        &self.capabilities
    }

    fn register(&self, region: &Arc<Region>) -> Result<Registration> {
        if self.queue.lock().closed {
            return Err(Self::closed());
        }
        if !self.capabilities.moves(region.kind()) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("memory of {:?} can't be read", region.kind()),
            ));
        }
        Ok(Registration::new(self.owner, Arc::clone(region), Box::new(())))
    }

    fn attach(&self, file: Arc<File>, _path: &Path) -> Result<EngineFile> {
        if self.queue.lock().closed {
            return Err(Self::closed());
        }
        let token: Box<dyn Any + Send + Sync> = Box::new(());
        Ok(EngineFile::new(self.owner, file, token))
    }

    fn submit(&self, direction: Direction, extents: Vec<Extent>) -> Transfer<ExtentsDone> {
        let mut queue = self.queue.lock();
        let refusal = queue.closed.then(Self::closed);
        let mut done = ExtentsDone::abandoned(extents.len());
        let mut accepted = Vec::with_capacity(extents.len());
        for (i, extent) in extents.into_iter().enumerate() {
            let refusal = refusal.clone().map_or(Ok(()), Err);
            match refusal.and_then(|()| extent.validate(direction, self.owner, &self.capabilities)) {
                Ok(()) => accepted.push((i, extent)),
                Err(error) => {
                    done.outcomes[i] = Err(error);
                    done.extents[i] = Some(extent);
                }
            }
        }
        if accepted.is_empty() {
            return Transfer::ready(done);
        }
        let (completion, transfer) = Transfer::channel(done.outcomes.len());
        queue.jobs.push_back(Job::Batch { direction, extents: accepted, done, completion });
        drop(queue);
        self.queue.filled.notify_all();
        transfer
    }

    async fn close(&self) -> Result<()> {
        let (sender, drained) = oneshot::channel();
        {
            let mut queue = self.queue.lock();
            queue.closed = true;
            queue.jobs.push_back(Job::Drained(sender));
        }
        self.queue.filled.notify_all();
        drained.await.map_err(|_| Error::new(ErrorKind::Unexpected, "the engine's thread is gone"))
    }
}

fn work(queue: &Queue, gate: &Gate) {
    while let Some(job) = queue.next() {
        match job {
            Job::Drained(sender) => drop(sender.send(())),
            Job::Batch { direction, extents, mut done, completion } => {
                gate.pass(Phase::Queued);
                for (i, mut extent) in extents {
                    done.outcomes[i] = move_extent(direction, &mut extent, gate);
                    done.extents[i] = Some(extent);
                }
                // Nobody may be waiting any more; the bytes have stopped moving, so the leases may end either way.
                drop(completion.answer(done));
                gate.pass(Phase::Answered);
            }
        }
    }
}

fn move_extent(direction: Direction, extent: &mut Extent, gate: &Gate) -> Result<u64> {
    let (file, offset, bytes) = (Arc::clone(extent.file.file()), extent.offset, extent.memory.bytes());
    let half = bytes / 2;
    gate.pass(Phase::Begun);
    let mut moved = 0;
    for (from, to) in [(0, half), (half, bytes)] {
        let at = offset + from as u64;
        moved += match direction {
            Direction::Read => {
                let mut staging = vec![0; to - from];
                let count = read_part(&file, at, &mut staging)?;
                copy_in(&mut extent.memory, from, &staging[..count])?;
                count
            }
            Direction::Write => {
                let part = copy_out(&extent.memory, from, to)?;
                file.write_all_at(&part, at).map_err(|source| Error::io("write", "the file", source))?;
                part.len()
            }
        };
        if from == 0 {
            gate.pass(Phase::Moving);
        }
    }
    gate.pass(Phase::Moved);
    Ok(moved as u64)
}

/// Reads until `target` is full or the file ends.
pub(crate) fn read_part(file: &File, offset: u64, target: &mut [u8]) -> Result<usize> {
    let mut done = 0;
    while done < target.len() {
        match file.read_at(&mut target[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(source) if source.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Error::io("read", "the file", source)),
        }
    }
    Ok(done)
}

/// Copies `source` into the page from byte `from` on.
pub(crate) fn copy_in(page: &mut PageMemory, mut from: usize, mut source: &[u8]) -> Result<()> {
    for piece in page.bytes_mut() {
        let piece = piece?;
        let skip = from.min(piece.len());
        from -= skip;
        let (part, rest) = source.split_at(source.len().min(piece.len() - skip));
        piece[skip..skip + part.len()].copy_from_slice(part);
        source = rest;
    }
    Ok(())
}

/// Copies bytes `from..to` of the page.
pub(crate) fn copy_out(page: &PageMemory, from: usize, to: usize) -> Result<Vec<u8>> {
    let mut part = Vec::with_capacity(to - from);
    let mut start = 0;
    for piece in page.pieces() {
        let end = start + piece.len();
        if from < end && start < to {
            part.extend_from_slice(&piece.lease().bytes()?[from.max(start) - start..to.min(end) - start]);
        }
        start = end;
    }
    Ok(part)
}
