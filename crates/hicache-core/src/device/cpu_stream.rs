//! A stream of the CPU device: a queue and a worker.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::cpu::{CpuShared, DeviceFault};
use super::{Block, CopiesDone, CopyBatch, Event, PageCopy, Stream, buffer_of};
use crate::error::{Error, ErrorKind, Result};
use crate::transfer::{Completion, Transfer};

/// Jobs that wait in a stream; more are refused as `Busy`.
const QUEUED_JOBS: usize = 4096;
/// A stream that waits for an event gives up after this time, so that a forgotten event can't stop it for ever.
const LONGEST_EVENT_WAIT: Duration = Duration::from_secs(60);

enum Job {
    Copy(CopyBatch, Completion<CopiesDone>),
    Record(Arc<CpuEvent>),
    Wait(Arc<dyn Event>),
}

/// The queue of a worker. The worker ends when this is dropped and the queue is empty; nobody waits for it.
pub(super) struct CpuStream {
    name: &'static str,
    jobs: SyncSender<Job>,
}

impl fmt::Debug for CpuStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuStream").field("name", &self.name).finish_non_exhaustive()
    }
}

impl CpuStream {
    pub(super) fn start(name: &'static str, shared: Arc<CpuShared>) -> Result<Self> {
        let (jobs, queue) = sync_channel(QUEUED_JOBS);
        let work = move || {
            for job in queue {
                // A hook of the caller's may panic: its batch is then lost, and the stream goes on.
                let _ = catch_unwind(AssertUnwindSafe(|| run(job, name, &shared)));
            }
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(|source| {
            Error::new(ErrorKind::Unavailable, format!("no thread for the stream {name}")).with_source(source)
        })?;
        Ok(Self { name, jobs })
    }

    fn send(&self, job: Job) -> Result<(), (Job, Error)> {
        self.jobs.try_send(job).map_err(|refused| match refused {
            TrySendError::Full(job) => (
                job,
                Error::new(
                    ErrorKind::Busy,
                    format!("the stream {} has {QUEUED_JOBS} jobs queued", self.name),
                ),
            ),
            TrySendError::Disconnected(job) => (
                job,
                Error::new(ErrorKind::Closed, format!("the worker of the stream {} is gone", self.name)),
            ),
        })
    }
}

impl Stream for CpuStream {
    fn copy(&self, batch: CopyBatch) -> Transfer<CopiesDone> {
        let (completion, transfer) = Transfer::channel(batch.pages.len());
        if let Err((Job::Copy(batch, completion), error)) = self.send(Job::Copy(batch, completion)) {
            drop(completion.answer(CopiesDone::failed(batch.pages, &error)));
        }
        transfer
    }

    fn record(&self) -> Result<Arc<dyn Event>> {
        let event = Arc::new(CpuEvent::default());
        self.send(Job::Record(Arc::clone(&event))).map_err(|(_, error)| error)?;
        Ok(event)
    }

    fn wait_event(&self, event: Arc<dyn Event>) -> Result<()> {
        self.send(Job::Wait(event)).map_err(|(_, error)| error)
    }
}

fn run(job: Job, name: &'static str, shared: &CpuShared) {
    match job {
        Job::Record(event) => event.set(),
        Job::Wait(event) => drop(event.wait(LONGEST_EVENT_WAIT)),
        Job::Copy(batch, completion) => run_copy(completion, batch, name, shared),
    }
}

/// The completion comes before the batch, so that after a panic the leases end before anybody is told.
fn run_copy(
    completion: Completion<CopiesDone>,
    mut batch: CopyBatch,
    name: &'static str,
    shared: &CpuShared,
) {
    let fault = shared.fault(name, batch.pages.len());
    match fault {
        Some(DeviceFault::NeverSubmitted) => return drop((batch, completion)),
        Some(DeviceFault::LateStart(delay)) => std::thread::sleep(delay),
        _ => {}
    }
    let outcomes = copy_pages(&mut batch, fault);
    if fault == Some(DeviceFault::Swallowed) {
        return shared.swallow((completion, batch));
    }
    let pages = batch.pages.into_iter().map(Some).collect();
    // Nobody waits any more: the leases end here.
    drop(completion.answer(CopiesDone { outcomes, pages }));
}

fn copy_pages(batch: &mut CopyBatch, fault: Option<DeviceFault>) -> Vec<Result<()>> {
    let plan = Arc::clone(&batch.plan);
    let mut outcomes: Vec<Result<()>> = batch.pages.iter().map(|page| page.check(&plan)).collect();
    let injected = || Error::new(ErrorKind::Io, "injected").with_backend("cpu").with_operation("copy");
    if fault == Some(DeviceFault::Fail) {
        outcomes.iter_mut().for_each(|outcome| *outcome = Err(injected()));
    }
    for (number, step) in plan.steps().iter().enumerate() {
        match fault {
            Some(DeviceFault::LateSteps(delay)) => std::thread::sleep(delay),
            Some(DeviceFault::FailPage { page, step }) if step <= number && !outcomes.is_empty() => {
                let page = page % outcomes.len();
                outcomes[page] = Err(injected());
            }
            _ => {}
        }
        for (page, outcome) in batch.pages.iter_mut().zip(&mut outcomes) {
            if outcome.is_ok() {
                *outcome = copy_step(page, step);
            }
        }
        if let Some(hook) = &batch.step_done {
            hook(number, outcomes.iter().all(Result::is_ok));
        }
    }
    outcomes
}

/// Bytes that are copied of a block before the next block has its turn.
const TURN_BYTES: usize = 4096;

/// Inner runs of a block that make a turn: all of them where they are written one after the other.
fn runs_a_turn(block: &Block) -> usize {
    if block.to.strides[1] == block.bytes {
        block.counts[1].max(1)
    } else {
        TURN_BYTES.div_ceil(block.bytes.max(1))
    }
}

/// Copies the blocks of a step in turns. Short runs of one block are written far apart where its neighbours' lie between
/// them: a whole block at once would come back to each of those places as many times as there are blocks.
fn copy_step(page: &mut PageCopy, step: &[Block]) -> Result<()> {
    let turns = step.iter().map(|block| block.counts[1].div_ceil(runs_a_turn(block))).max().unwrap_or(0);
    (0..turns).try_for_each(|turn| step.iter().try_for_each(|block| copy_turn(page, block, turn)))
}

fn copy_turn(page: &mut PageCopy, block: &Block, turn: usize) -> Result<()> {
    let missing = || Error::config("the page has fewer buffers than the copy plan");
    let first = turn * runs_a_turn(block);
    let end = block.counts[1].min(first + runs_a_turn(block));
    if first >= end {
        return Ok(());
    }
    let (lease, plane) = buffer_of(&page.from, block.from.buffer).ok_or_else(missing)?;
    let from = page.from[lease].plane(plane)?;
    let (lease, plane) = buffer_of(&page.to, block.to.buffer).ok_or_else(missing)?;
    let to = page.to[lease].plane_mut(plane)?;
    for outer in 0..block.counts[0] {
        let mut source = block.from.offset + outer * block.from.strides[0] + first * block.from.strides[1];
        let mut target = block.to.offset + outer * block.to.strides[0] + first * block.to.strides[1];
        for _ in first..end {
            // In range, since the plan was checked against these lengths.
            to[target..target + block.bytes].copy_from_slice(&from[source..source + block.bytes]);
            source += block.from.strides[1];
            target += block.to.strides[1];
        }
    }
    Ok(())
}

#[derive(Debug, Default)]
struct CpuEvent {
    done: Mutex<bool>,
    changed: Condvar,
}

impl CpuEvent {
    fn set(&self) {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }
}

impl Event for CpuEvent {
    fn is_done(&self) -> bool {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, timeout: Duration) -> bool {
        // A timeout that reaches beyond the end of time is waited for in parts.
        let until = Instant::now().checked_add(timeout);
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        while !*done {
            let left =
                until.map_or(Some(LONGEST_EVENT_WAIT), |until| until.checked_duration_since(Instant::now()));
            let Some(left) = left else { return false };
            let waited = self.changed.wait_timeout(done, left);
            done = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}
