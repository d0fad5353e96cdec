//! The engine for machines without io_uring: threads that call `preadv` and `pwritev`.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use async_trait::async_trait;
use hicache_core::{
    Direction, Engine, EngineCapabilities, EngineFile, Error, ErrorKind, Extent, ExtentsDone, ForkMark,
    OwnerId, PieceSums, Region, Registration, Result, Transfer,
};
use rustix::io::{Errno, preadv, pwritev};
use tokio::sync::oneshot;

use crate::PREAD;
use crate::batch::{Admission, Batch};
use crate::cached::Cached;
use crate::config::PreadConfig;
use crate::engine::{capabilities, check_kind, warn_of_no_direct};
use crate::file::OpenFile;
use crate::huge_pages;
use crate::operation::{Operation, Step};

/// Moves extents with blocking calls on threads of its own. The threads sleep while there is nothing to do; dropping the
/// engine lets them finish what they have and go, [`Engine::close`] waits for that.
pub struct PreadEngine {
    config: PreadConfig,
    owner: OwnerId,
    capabilities: EngineCapabilities,
    shared: Arc<Shared>,
    said_direct: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Between callers and the threads.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// In a forked child there are no threads: nothing is taken there and nobody waits, and the lock, which may have been
    /// held at the fork, is not touched.
    fork: ForkMark,
}

struct State {
    /// Batches with extents that nobody works on yet.
    waiting: VecDeque<Arc<Job>>,
    closed: bool,
    threads: usize,
    waiting_for_end: Vec<oneshot::Sender<()>>,
}

/// A batch; `None` when it has been answered.
struct Job(Mutex<Option<Batch>>);

impl PreadEngine {
    /// Starts the threads.
    ///
    /// # Errors
    /// `Config` for a bad setting; `Unavailable` if not one thread can be started.
    pub fn open(config: PreadConfig) -> Result<Self> {
        config.validate()?;
        let state =
            State { waiting: VecDeque::new(), closed: false, threads: 0, waiting_for_end: Vec::new() };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), fork: ForkMark::new() });
        let mut threads = Vec::new();
        for number in 0..config.threads {
            let own = Arc::clone(&shared);
            shared.lock().threads += 1;
            let spawned =
                thread::Builder::new().name(format!("hicache-pread{number}")).spawn(move || own.work());
            match spawned {
                Ok(thread) => threads.push(thread),
                Err(error) if threads.is_empty() => {
                    return Err(Error::new(ErrorKind::Unavailable, "not one thread can be started")
                        .with_backend(PREAD)
                        .with_source(error));
                }
                Err(error) => {
                    tracing::warn!(%error, threads = threads.len(), "fewer threads than were asked for");
                    shared.lock().threads -= 1;
                    break;
                }
            }
        }
        Ok(Self {
            owner: OwnerId::new(),
            capabilities: capabilities(PREAD, threads.len()),
            shared,
            said_direct: AtomicBool::new(false),
            threads: Mutex::new(threads),
            config,
        })
    }

    fn check_open(&self) -> Result<()> {
        if self.shared.fork.is_child() {
            return Err(forked());
        }
        if self.shared.lock().closed { Err(closed()) } else { Ok(()) }
    }
}

#[async_trait]
impl Engine for PreadEngine {
    fn capabilities(&self) -> &EngineCapabilities {
        &self.capabilities
    }

    fn register(&self, region: &Arc<Region>) -> Result<Registration> {
        check_kind(PREAD, region)?;
        self.check_open()?;
        if self.config.huge_pages {
            huge_pages::ask(region);
        }
        huge_pages::report(region);
        Ok(Registration::new(self.owner, Arc::clone(region), Box::new(())))
    }

    fn attach(&self, file: Arc<File>, path: &Path) -> Result<EngineFile> {
        self.check_open()?;
        let open = OpenFile::new(Arc::clone(&file), path, self.config.io)?;
        warn_of_no_direct(&open, self.config.io, &self.said_direct);
        Ok(EngineFile::new(self.owner, file, Box::new(Arc::new(open))))
    }

    fn submit(&self, direction: Direction, extents: Vec<Extent>) -> Transfer<ExtentsDone> {
        match Batch::admit(direction, extents, self.owner, &self.capabilities) {
            Admission::Answered(transfer) => transfer,
            Admission::Accepted(batch, transfer) => {
                self.shared.push(batch);
                transfer
            }
        }
    }

    async fn close(&self) -> Result<()> {
        if self.shared.fork.is_child() {
            return Ok(()); // Its threads are the parent's, and so is what they do.
        }
        let (sender, end) = oneshot::channel();
        {
            let mut state = self.shared.lock();
            state.closed = true;
            state.waiting_for_end.push(sender);
            if state.threads == 0 {
                state.waiting_for_end.clear();
            }
        }
        self.shared.changed.notify_all();
        // An error where all threads had ended before.
        let _ = end.await;
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // They are past their last act, and catch the panics of what they do.
            let _ = thread.join();
        }
        Ok(())
    }
}

impl Drop for PreadEngine {
    fn drop(&mut self) {
        if self.shared.fork.is_child() {
            // Not ours to detach: they are threads of the parent.
            let threads = self.threads.get_mut().unwrap_or_else(PoisonError::into_inner);
            threads.drain(..).for_each(std::mem::forget);
            return;
        }
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

impl fmt::Debug for PreadEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreadEngine").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, batch: Batch) {
        if self.fork.is_child() {
            return batch.refuse(forked());
        }
        let mut state = self.lock();
        if state.closed {
            drop(state);
            return batch.refuse(closed());
        }
        let several = batch.unfinished() > 1;
        state.waiting.push_back(Arc::new(Job(Mutex::new(Some(batch)))));
        drop(state);
        if several { self.changed.notify_all() } else { self.changed.notify_one() }
    }

    /// A thread's life.
    fn work(&self) {
        let mut cached = Cached::default();
        while let Some((job, direction, position, extent)) = self.next() {
            // What a caller owns may panic as it is dropped or woken; the thread goes on with the next.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                let (outcome, extent, sums) = perform(direction, extent, &mut cached);
                job.finish(position, outcome, extent, sums);
            }));
        }
        let waiting = {
            let mut state = self.lock();
            state.threads -= 1;
            if state.threads == 0 { std::mem::take(&mut state.waiting_for_end) } else { Vec::new() }
        };
        for sender in waiting {
            let _ = sender.send(());
        }
    }

    /// The next extent; `None` when the engine is closed and nothing is left.
    fn next(&self) -> Option<(Arc<Job>, Direction, usize, Extent)> {
        let mut state = self.lock();
        loop {
            let Some(job) = state.waiting.front() else {
                if state.closed {
                    return None;
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            if let Some((direction, position, extent)) = job.take_next() {
                return Some((Arc::clone(job), direction, position, extent));
            }
            let spent = state.waiting.pop_front();
            drop(state);
            // It may be the last handle of what a caller owns, whose drop may come back here, or panic.
            let _ = catch_unwind(AssertUnwindSafe(move || drop(spent)));
            state = self.lock();
        }
    }
}

impl Job {
    fn lock(&self) -> MutexGuard<'_, Option<Batch>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_next(&self) -> Option<(Direction, usize, Extent)> {
        let mut batch = self.lock();
        let batch = batch.as_mut()?;
        batch.take_next().map(|(position, extent)| (batch.direction, position, extent))
    }

    fn finish(&self, position: usize, outcome: Result<u64>, extent: Extent, sums: Option<PieceSums>) {
        let answered = {
            let mut batch = self.lock();
            if let (Some(batch), Some(sums)) = (batch.as_mut(), sums) {
                batch.keep(position, sums);
            }
            let last = batch.as_mut().is_some_and(|batch| batch.finish(position, outcome, extent));
            if last { batch.take() } else { None }
        };
        // Not under the lock: whoever is woken may submit.
        if let Some(batch) = answered {
            batch.answer();
        }
    }
}

/// Moves one extent to its end. With the sums of its pieces where they were taken on the way.
fn perform(
    direction: Direction,
    extent: Extent,
    cached: &mut Cached,
) -> (Result<u64>, Extent, Option<PieceSums>) {
    let Some(file) = extent.file.token::<Arc<OpenFile>>().map(Arc::clone) else {
        let error = Error::new(ErrorKind::Unexpected, "a file without what its engine knows of it");
        return (Err(error.with_backend(PREAD)), extent, None);
    };
    let mut operation = Operation::new(PREAD, direction, (0, 0), extent, file);
    if let Some(sums) = cached.read(&mut operation) {
        return (Ok(operation.done()), operation.extent, Some(sums));
    }
    loop {
        let result = call(&mut operation);
        match operation.advance(result) {
            Step::Again => {}
            Step::After(pause) => thread::sleep(pause),
            Step::Finished(outcome) => return (outcome, operation.extent, None),
        }
    }
}

/// One call for what is left.
fn call(operation: &mut Operation) -> Result<usize, Errno> {
    let (offset, done, direction) = (operation.offset(), operation.done() as usize, operation.direction);
    let (fd, _) = operation.file.descriptor(operation.through);
    // Leases of host memory only get here, and write leases where it is read; otherwise this is the kernel's answer too.
    let fault = |_| Errno::FAULT;
    match direction {
        Direction::Read => {
            let slices = operation.extent.memory.bytes_mut().map(|bytes| bytes.map(IoSliceMut::new));
            let mut slices = slices.collect::<Result<Vec<_>>>().map_err(fault)?;
            let mut left = slices.as_mut_slice();
            IoSliceMut::advance_slices(&mut left, done);
            preadv(fd, left, offset)
        }
        Direction::Write => {
            let pieces = operation.extent.memory.pieces().iter();
            let slices = pieces.map(|piece| piece.lease().bytes().map(IoSlice::new));
            let mut slices = slices.collect::<Result<Vec<_>>>().map_err(fault)?;
            let mut left = slices.as_mut_slice();
            IoSlice::advance_slices(&mut left, done);
            pwritev(fd, left, offset)
        }
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the engine is closed").with_backend(PREAD)
}

fn forked() -> Error {
    ForkMark::refusal("engine").with_backend(PREAD)
}
