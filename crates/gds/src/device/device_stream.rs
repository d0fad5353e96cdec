//! A stream: one thread that queues copies, one that waits for them.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use hicache_core::{
    Completion, CopiesDone, CopyBatch, Error, ErrorKind, Event, ForkMark, PageCopy, Result, Stream, Transfer,
};

use super::run_kernel::{RunKernel, RunList};
use super::runs::runs_of;
use crate::GDS;
use crate::cuda::copies::Copying;
use crate::cuda::{Context, Mark, Queue, RawCopy};

/// Jobs that wait in a stream; more are refused as `Busy`.
const QUEUED_JOBS: usize = 4096;
/// A stream that waits for an event gives up after this time, so that a forgotten event can't stop it for ever.
const LONGEST_EVENT_WAIT: Duration = Duration::from_secs(60);

enum Job {
    Copy(CopyBatch, Completion<CopiesDone>),
    Record(Arc<DeviceEvent>),
    Wait(Arc<dyn Event>),
}

/// What is on its way.
enum Queued {
    Copies(InFlight),
    Event(Arc<DeviceEvent>, Result<Mark>),
}

/// A batch whose copies may be moving: dropped before it is known that they don't, its memory is never used again. Its hook is
/// let go of all the same: who waits for the steps learns from that, too, that they don't come.
struct InFlight {
    batch: Option<(CopyBatch, Completion<CopiesDone>)>,
    outcomes: Vec<Result<()>>,
    /// Up to the first that could not be queued.
    steps: Vec<Step>,
    /// Why the rest was not queued.
    failed: Option<Error>,
    /// What a part of the first that could not be queued may still read.
    loose: Vec<RunList>,
}

/// What was queued of a step: where the stream is past it, and what the kernel reads until then.
struct Step {
    mark: Mark,
    lists: Vec<RunList>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some((batch, completion)) = self.batch.take() {
            let CopyBatch { pages, plan, step_done, .. } = batch;
            std::mem::forget(pages);
            for step in self.steps.drain(..) {
                std::mem::forget(step.lists);
            }
            std::mem::forget(std::mem::take(&mut self.loose));
            // The hook is the caller's, and may panic as it goes.
            let _ = catch_unwind(AssertUnwindSafe(|| drop((plan, step_done))));
            // Its transfer answers `Abandoned`.
            drop(completion);
        }
    }
}

/// The queue of a stream. Its threads end when this is dropped and what was queued is done; nobody waits for them.
pub(super) struct DeviceStream {
    name: &'static str,
    jobs: SyncSender<Job>,
    fork: ForkMark,
}

impl fmt::Debug for DeviceStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceStream").field("name", &self.name).finish_non_exhaustive()
    }
}

impl DeviceStream {
    pub(super) fn start(
        name: &'static str,
        context: &Arc<Context>,
        copying: Copying,
        kernel: &Arc<RunKernel>,
    ) -> Result<Self> {
        let queue = Arc::new(Queue::new(context)?);
        let (jobs, todo) = sync_channel(QUEUED_JOBS);
        // Bounded as well, or the first bound is none.
        let (sender, queued) = sync_channel(QUEUED_JOBS);
        let spawn = |work: Box<dyn FnOnce() + Send>| {
            thread::Builder::new().name(name.to_owned()).spawn(work).map_err(|source| {
                let message = format!("no thread for the stream {name}");
                Error::new(ErrorKind::Unavailable, message).with_backend(GDS).with_source(source)
            })
        };
        let (own, own_kernel) = (Arc::clone(&queue), Arc::clone(kernel));
        spawn(Box::new(move || wait_for_all(&own, &own_kernel, &queued)))?;
        let ways = Ways { copying, kernel: Arc::clone(kernel) };
        spawn(Box::new(move || queue_all(&queue, &ways, &todo, &sender)))?;
        Ok(Self { name, jobs, fork: ForkMark::new() })
    }

    fn send(&self, job: Job) -> Result<(), (Job, Error)> {
        if self.fork.is_child() {
            return Err((job, ForkMark::refusal("stream").with_backend(GDS)));
        }
        self.jobs.try_send(job).map_err(|refused| match refused {
            TrySendError::Full(job) => {
                let message = format!("the stream {} has {QUEUED_JOBS} jobs queued", self.name);
                (job, Error::new(ErrorKind::Busy, message))
            }
            TrySendError::Disconnected(job) => {
                let message = format!("the threads of the stream {} are gone", self.name);
                (job, Error::new(ErrorKind::Closed, message))
            }
        })
    }
}

impl Stream for DeviceStream {
    fn copy(&self, batch: CopyBatch) -> Transfer<CopiesDone> {
        let (completion, transfer) = Transfer::channel(batch.pages.len());
        if let Err((Job::Copy(batch, completion), error)) = self.send(Job::Copy(batch, completion)) {
            drop(completion.answer(CopiesDone::failed(batch.pages, &error)));
        }
        transfer
    }

    fn record(&self) -> Result<Arc<dyn Event>> {
        let event = Arc::new(DeviceEvent::default());
        self.send(Job::Record(Arc::clone(&event))).map_err(|(_, error)| error)?;
        Ok(event)
    }

    fn wait_event(&self, event: Arc<dyn Event>) -> Result<()> {
        self.send(Job::Wait(event)).map_err(|(_, error)| error)
    }
}

/// Who copies.
struct Ways {
    copying: Copying,
    kernel: Arc<RunKernel>,
}

/// The thread that queues.
fn queue_all(queue: &Queue, ways: &Ways, todo: &Receiver<Job>, sender: &SyncSender<Queued>) {
    let mut order = Order::default();
    for job in todo {
        let queued = match job {
            Job::Copy(batch, completion) => match order.broken() {
                Some(error) => {
                    // What the copies had to come after may still write to what they read.
                    refuse(batch, completion, &error);
                    continue;
                }
                None => Queued::Copies(queue_copies(queue, ways, batch, completion)),
            },
            Job::Record(event) => {
                order.restore();
                Queued::Event(event, queue.mark())
            }
            Job::Wait(event) => {
                // Any event may be waited for, of other devices too; so on this thread, not by the driver.
                order.wait(&*event, LONGEST_EVENT_WAIT);
                continue;
            }
        };
        // The other thread ends after this one.
        let _ = sender.send(queued);
    }
}

/// Whether the waits of a stream were kept: after one that was not, its copies fail until the next event is recorded, which is
/// where the next piece of work begins.
#[derive(Debug, Default)]
struct Order {
    broken: Option<Error>,
}

impl Order {
    fn broken(&self) -> Option<Error> {
        self.broken.clone()
    }

    fn restore(&mut self) {
        self.broken = None;
    }

    fn wait(&mut self, event: &dyn Event, longest: Duration) {
        let failed = match catch_unwind(AssertUnwindSafe(|| event.wait(longest))) {
            Ok(true) => return,
            Ok(false) => format!("was not done after {} s", longest.as_secs_f64()),
            Err(_) => "panicked".to_owned(),
        };
        let message = format!("an event that the copies had to wait for {failed}; they were not begun");
        let error = Error::new(ErrorKind::Timeout, message).with_backend(GDS);
        tracing::error!(%error, "copies of a stream fail until its next event");
        self.broken = Some(error);
    }
}

/// Fails a batch of which nothing was begun.
fn refuse(batch: CopyBatch, completion: Completion<CopiesDone>, error: &Error) {
    let CopyBatch { pages, plan, step_done, .. } = batch;
    let _ = catch_unwind(AssertUnwindSafe(|| {
        if let Some(hook) = &step_done {
            (0..plan.steps().len()).for_each(|number| hook(number, false));
        }
        drop(step_done);
    }));
    drop(completion.answer(CopiesDone::failed(pages, error)));
}

fn queue_copies(
    queue: &Queue,
    ways: &Ways,
    batch: CopyBatch,
    completion: Completion<CopiesDone>,
) -> InFlight {
    let plan = Arc::clone(&batch.plan);
    let outcomes: Vec<Result<()>> = batch.pages.iter().map(|page| page.check(&plan)).collect();
    let reached = batch.pages.iter().all(|page| ways.reach(page));
    let mut in_flight = InFlight {
        batch: Some((batch, completion)),
        outcomes,
        steps: Vec::new(),
        failed: None,
        loose: Vec::new(),
    };
    let mut copies: Vec<RawCopy> = Vec::new();
    for step in plan.steps() {
        copies.clear();
        let pages = in_flight.batch.iter().flat_map(|(batch, _)| &batch.pages).zip(&in_flight.outcomes);
        let listed = pages
            .filter(|(_, outcome)| outcome.is_ok())
            .try_for_each(|(page, _)| runs_of(page, step, &mut copies));
        let mut lists = Vec::new();
        // SAFETY: the runs lie in the buffers of pages that were checked against the plan; `in_flight` holds their leases,
        // write leases where the bytes go, and the lists, until the stream is past them, or for ever.
        let queued = listed
            .and_then(|()| unsafe { ways.queue(queue, &copies, reached, &mut lists) })
            .and_then(|()| queue.mark());
        match queued {
            Ok(mark) => in_flight.steps.push(Step { mark, lists }),
            Err(error) => {
                (in_flight.failed, in_flight.loose) = (Some(error), lists);
                break;
            }
        }
    }
    in_flight
}

impl Ways {
    fn reach(&self, page: &PageCopy) -> bool {
        self.kernel.reaches(&page.from) && self.kernel.reaches(&page.to)
    }

    /// Queues many short copies by the kernel, others by the copy engines.
    ///
    /// # Safety
    /// As [`Copying::queue`]; where `reached`, the kernels reach the memory. `lists` is to be held as long.
    unsafe fn queue(
        &self,
        queue: &Queue,
        copies: &[RawCopy],
        reached: bool,
        lists: &mut Vec<RunList>,
    ) -> Result<()> {
        let by_kernel = match reached && self.kernel.wants(copies) {
            // SAFETY: the caller's promise.
            true => unsafe { self.kernel.queue(queue, copies, lists) },
            false => 0,
        };
        // SAFETY: the caller's promise.
        unsafe { self.copying.queue(queue, &copies[by_kernel..]) }
    }
}

/// The thread that waits.
fn wait_for_all(queue: &Queue, kernel: &RunKernel, queued: &Receiver<Queued>) {
    for queued in queued {
        match queued {
            Queued::Copies(in_flight) => wait_for_copies(queue, kernel, in_flight),
            Queued::Event(event, mark) => {
                let reached = mark.and_then(|mark| mark.wait());
                if let Err(error) = &reached {
                    tracing::error!(%error, "an event of the device failed; whoever waits for it is told that it is not done");
                }
                event.end(reached.is_ok());
            }
        }
    }
}

fn wait_for_copies(queue: &Queue, kernel: &RunKernel, mut in_flight: InFlight) {
    let mut failed = None;
    let hook = in_flight.batch.as_ref().and_then(|(batch, _)| batch.step_done.clone());
    let pages_are_right = in_flight.outcomes.iter().all(Result::is_ok);
    let tell = |number: usize, whole: bool| {
        if let Some(hook) = &hook {
            // A hook of the caller's may panic; the copies are what they are.
            let _ = catch_unwind(AssertUnwindSafe(|| hook(number, whole)));
        }
    };
    let steps = in_flight.batch.as_ref().map_or(0, |(batch, _)| batch.plan.steps().len());
    for (number, step) in in_flight.steps.iter_mut().enumerate() {
        let launched = !step.lists.is_empty();
        let waited = step.mark.wait();
        if let (Err(error), true) = (&waited, launched) {
            kernel.give_up(error); // It may have been the kernel; it is easily done without.
        }
        if let Err(error) = waited.and_then(|()| kernel.take_back(std::mem::take(&mut step.lists))) {
            failed = Some(error);
            break;
        }
        tell(number, pages_are_right);
    }
    let done = if failed.is_some() { 0 } else { in_flight.steps.len() };
    if failed.is_some() || in_flight.failed.is_some() {
        // A part may be queued all the same. Where the stream can't be waited for nobody knows, and the memory is not used again.
        if let Err(error) = queue.synchronize() {
            tracing::error!(%error, "copies were lost");
            (done..steps).for_each(|number| tell(number, false));
            return;
        }
    }
    let error = failed.or(in_flight.failed.take());
    if let Some(error) = &error {
        (done..steps).for_each(|number| tell(number, false));
        for outcome in in_flight.outcomes.iter_mut().filter(|outcome| outcome.is_ok()) {
            *outcome = Err(error.clone());
        }
    }
    let outcomes = std::mem::take(&mut in_flight.outcomes);
    if let Some((batch, completion)) = in_flight.batch.take() {
        let pages = batch.pages.into_iter().map(Some).collect();
        // Nobody waits any more: the leases end here.
        drop(completion.answer(CopiesDone { outcomes, pages }));
    }
}

/// `None` until the stream is there, then whether it is known that everything before it is done.
#[derive(Debug, Default)]
struct DeviceEvent {
    reached: Mutex<Option<bool>>,
    changed: Condvar,
}

impl DeviceEvent {
    fn end(&self, reached: bool) {
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner) = Some(reached);
        self.changed.notify_all();
    }
}

impl Event for DeviceEvent {
    fn is_done(&self) -> bool {
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner) == Some(true)
    }

    fn wait(&self, timeout: Duration) -> bool {
        // A timeout that reaches beyond the end of time is waited for in parts.
        let until = Instant::now().checked_add(timeout);
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(reached) = *reached {
                return reached;
            }
            let left =
                until.map_or(Some(LONGEST_EVENT_WAIT), |until| until.checked_duration_since(Instant::now()));
            let Some(left) = left else { return false };
            reached = self.changed.wait_timeout(reached, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
