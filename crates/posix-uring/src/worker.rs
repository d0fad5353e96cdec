//! What a ring thread does: starts operations, sleeps until enough have ended, answers batches.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hicache_core::{Error, ErrorKind, Result};
use rustix::io::Errno;

use crate::URING;
use crate::batch::Batch;
use crate::cached::Cached;
use crate::inbox::{Command, Inbox, Intake};
use crate::memory::{FileToken, Memory};
use crate::operation::{Operation, Step};
use crate::ring::{Event, Ring};
use crate::turns::Turns;

/// Rounds after which a part of memory is registered although there is other work.
const MOST_ROUNDS_BEFORE_REGISTERING: u32 = 256;
/// Bytes that are read from the page cache by this thread before it looks around.
const MOST_READ_HERE_BYTES: u64 = 8 << 20;
/// Limits of how long several completions are waited for at once.
const LEAST_PATIENCE: Duration = Duration::from_millis(2);
const MOST_PATIENCE: Duration = Duration::from_millis(50);

/// What is said once an engine, however many rings meet it.
#[derive(Debug, Default)]
pub(crate) struct Said {
    files: AtomicBool,
    buffers: AtomicBool,
}

/// The state of a ring thread.
pub(crate) struct Worker {
    ring: Ring,
    inbox: Arc<Inbox>,
    said: Arc<Said>,
    commands: VecDeque<Command>,
    batches: Batches,
    turns: Turns,
    cached: Cached,
    /// Operations that the kernel put off, and when to begin them again.
    paused: Vec<(Instant, Operation)>,
    /// Parts of memory that are to be registered.
    unregistered: VecDeque<(Arc<Memory>, usize)>,
    rounds_since_registering: u32,
    pace: Pace,
    intake: Intake,
}

/// Batches by number.
#[derive(Default)]
struct Batches {
    slots: Vec<Option<Batch>>,
    free: Vec<usize>,
}

/// How fast operations end, to tell how long it is worth to wait for several.
struct Pace {
    each: Duration,
    since: Instant,
    /// The last time that several were waited for, none came.
    stalled: bool,
}

impl Worker {
    pub(crate) fn new(ring: Ring, inbox: Arc<Inbox>, said: Arc<Said>) -> Self {
        Self {
            ring,
            inbox,
            said,
            commands: VecDeque::new(),
            batches: Batches::default(),
            turns: Turns::new(Instant::now()),
            cached: Cached::default(),
            paused: Vec::new(),
            unregistered: VecDeque::new(),
            rounds_since_registering: 0,
            pace: Pace { each: Duration::from_millis(1), since: Instant::now(), stalled: false },
            intake: Intake::Open,
        }
    }

    /// Works until the inbox is closed and all is done. Whatever happens, the kernel has finished with every operation
    /// when this returns, and every batch has been answered.
    pub(crate) fn run_to_the_end(mut self) {
        let inbox = Arc::clone(&self.inbox);
        let reason = match catch_unwind(AssertUnwindSafe(|| self.run())) {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("its ring failed: {error}")),
            Err(_) => Some("it panicked".to_owned()),
        };
        if reason.is_some() {
            self.inbox.fail();
            // Nothing below may be reached while the kernel has an operation.
            while catch_unwind(AssertUnwindSafe(|| self.drain())).is_err() {}
        }
        // What the callers own may panic as it is dropped; the thread still has to say that it is gone.
        let _ = catch_unwind(AssertUnwindSafe(move || {
            if let Some(reason) = reason {
                tracing::error!(%reason, "an io_uring thread is lost; its batches are answered Abandoned");
                self.abandon();
            }
            if let Err(error) = self.ring.settle() {
                tracing::error!(%error, "an io_uring could not be emptied");
            }
        }));
        inbox.finish();
    }

    fn run(&mut self) -> io::Result<()> {
        loop {
            self.intake = self.inbox.intake();
            self.inbox.take(&mut self.commands);
            while let Some(command) = self.commands.pop_front() {
                self.obey(command);
            }
            if self.start_what_can_be() {
                // There is more, but others get their turn: what has ended, and what came meanwhile.
                self.ring.wait(1, Some(Duration::ZERO))?;
                self.take_events();
                continue;
            }
            if self.intake == Intake::Closed && self.is_idle() {
                return Ok(());
            }
            if self.register_a_part() {
                continue;
            }
            if !self.inbox.fall_asleep(self.intake, !self.ring.has_room()) {
                continue;
            }
            let (want, timeout) = self.how_long();
            let timed_out = self.ring.wait(want, timeout)?;
            self.inbox.stay_awake();
            let ended = self.take_events();
            self.pace.note(ended, timed_out);
        }
    }

    fn is_idle(&self) -> bool {
        self.ring.in_flight() == 0 && self.paused.is_empty() && self.turns.nothing_waits()
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Batch(batch) => {
                let direction = batch.direction;
                self.turns.push(direction, self.batches.insert(batch));
            }
            Command::AttachFile(file) => {
                if let Err(error) = self.ring.attach(&file)
                    && !self.said.files.swap(true, Ordering::Relaxed)
                {
                    tracing::warn!(%error, "files can't be registered with io_uring; going on without");
                }
            }
            Command::ForgetFile(file) => {
                self.ring.detach(&file);
                quietly(move || drop(file));
            }
            Command::RegisterMemory(memory) => {
                if self.ring.report().buffers.is_ok() {
                    self.unregistered
                        .extend((0..memory.slots().len()).map(|part| (Arc::clone(&memory), part)));
                }
            }
            Command::ForgetMemory(memory) => {
                self.unregistered.retain(|(other, _)| !Arc::ptr_eq(other, &memory));
                self.ring.unregister(&memory);
                quietly(move || drop(memory));
            }
            #[cfg(test)]
            #[expect(clippy::panic, reason = "the point of it")]
            Command::Panic => panic!("asked to"),
        }
    }

    /// True if there is more to start: much has been read here meanwhile.
    fn start_what_can_be(&mut self) -> bool {
        if !self.paused.is_empty() {
            let now = Instant::now();
            for (due, operation) in std::mem::take(&mut self.paused) {
                if due <= now { self.start(operation) } else { self.paused.push((due, operation)) }
            }
        }
        let (depth, now) = (self.ring.depth(), Instant::now());
        let mut read_here = 0;
        while self.ring.has_room()
            && let Some((direction, number)) = self.turns.next(depth, now)
        {
            let Some((position, extent)) = self.batches.get(number).and_then(Batch::take_next) else {
                self.turns.pop(direction);
                continue;
            };
            let Some(token) = extent.file.token::<FileToken>() else {
                let error = Error::new(ErrorKind::Unexpected, "a file without what its engine knows of it");
                self.finish(number, position, Err(error), extent);
                continue;
            };
            let file = Arc::clone(&token.file);
            self.turns.started(direction, now);
            let mut operation = Operation::new(URING, direction, (number, position), extent, file);
            match self.cached.read(&mut operation) {
                None => self.start(operation),
                Some(sums) => {
                    self.turns.ended(direction, now);
                    read_here += operation.done();
                    if let Some(batch) = self.batches.get(number) {
                        batch.keep(position, sums);
                    }
                    self.finish(number, position, Ok(operation.done()), operation.extent);
                }
            }
            // So that nothing seems to wait when all has been started.
            if self.batches.get(number).is_none_or(|batch| batch.is_exhausted()) {
                self.turns.pop(direction);
            }
            if read_here >= MOST_READ_HERE_BYTES {
                return !self.turns.nothing_waits();
            }
        }
        false
    }

    fn start(&mut self, operation: Operation) {
        if self.ring.in_flight() == 0 {
            self.pace.since = Instant::now();
        }
        if let Some(operation) = self.ring.start(operation) {
            self.paused.push((Instant::now() + LEAST_PATIENCE, operation));
        }
    }

    /// Registers one part of memory, if there is one and nothing better to do, or it has waited for long. True if so.
    fn register_a_part(&mut self) -> bool {
        self.rounds_since_registering = self.rounds_since_registering.saturating_add(1);
        if self.unregistered.is_empty()
            || (self.ring.in_flight() > 0 && self.rounds_since_registering < MOST_ROUNDS_BEFORE_REGISTERING)
        {
            return false;
        }
        self.rounds_since_registering = 0;
        let Some((memory, part)) = self.unregistered.pop_front() else { return false };
        if let Err(error) = self.ring.register(&memory, part) {
            if !self.said.buffers.swap(true, Ordering::Relaxed) {
                tracing::warn!(%error, "memory can't be registered with io_uring (is the memlock limit low?); \
                    going on with plain reads and writes");
            }
            // Where the limit is reached more of it is refused too. Other memory may still be taken.
            let all = matches!(
                error.raw_os_error().map(Errno::from_raw_os_error),
                Some(Errno::NOMEM | Errno::PERM)
            );
            self.unregistered.retain(|(other, _)| !all && !Arc::ptr_eq(other, &memory));
        }
        true
    }

    /// How many events to sleep for, and how long at most.
    ///
    /// A full ring is filled again when seven eighths of it have ended; a batch that ends sooner is not kept waiting. To
    /// wait for several at once saves system calls, but the eventfd is then one event of several, and does not end the
    /// wait: a new batch is seen when the wait ends. So it is limited, to [`LEAST_PATIENCE`] where the ring has room for
    /// what may arrive, and to [`MOST_PATIENCE`] where it is full, since one operation may hang.
    fn how_long(&mut self) -> (usize, Option<Duration>) {
        let flying = self.ring.in_flight();
        let until_due =
            self.paused.iter().map(|(due, _)| due.saturating_duration_since(Instant::now())).min();
        if flying == 0 {
            return (1, until_due);
        }
        let batches = &mut self.batches;
        let nearest = self.ring.operations().filter_map(|op| Some(batches.get(op.batch)?.unfinished()));
        let nearest = nearest.min().unwrap_or(1);
        let (depth, now) = (self.ring.depth(), Instant::now());
        let low = depth / 8;
        // With nothing to refill it with, there is nothing to get up for before the end. What is held back beside reads
        // waits until those have ended, or hang.
        let refills = self.turns.next(depth, now).is_some();
        let until_free = self.turns.held_for(depth, now);
        let many = if refills && flying > low { flying - low } else { flying };
        let want = if self.pace.stalled { 1 } else { many.min(nearest).max(1) };
        let may_start_more = self.ring.has_room() && self.intake == Intake::Open;
        let most = if may_start_more { LEAST_PATIENCE } else { MOST_PATIENCE };
        let patience = (want > 1).then(|| self.pace.patience(want).min(most));
        (want, patience.into_iter().chain(until_due).chain(until_free).min())
    }

    /// Handles every event that is there; the number of operations among them.
    fn take_events(&mut self) -> usize {
        let (mut ended, now) = (0, Instant::now());
        while let Some(event) = self.ring.next() {
            match event {
                Event::Woken => self.pace.stalled = false,
                Event::Done(mut operation, result) => {
                    ended += 1;
                    match operation.advance(result) {
                        Step::Again => self.start(operation),
                        Step::After(pause) => self.paused.push((Instant::now() + pause, operation)),
                        Step::Finished(outcome) => {
                            let Operation { batch, position, direction, extent, .. } = operation;
                            self.turns.ended(direction, now);
                            self.finish(batch, position, outcome, extent);
                        }
                    }
                }
            }
        }
        ended
    }

    fn finish(&mut self, number: usize, position: usize, outcome: Result<u64>, extent: hicache_core::Extent) {
        if let Some(batch) = self.batches.get(number)
            && batch.finish(position, outcome, extent)
            && let Some(batch) = self.batches.remove(number)
        {
            quietly(move || batch.answer());
        }
    }

    /// Waits until the kernel has finished with everything.
    fn drain(&mut self) {
        self.ring.cancel_all();
        while self.ring.in_flight() > 0 {
            if self.ring.wait(1, None).is_err() {
                // There is nothing better to do than to try again: memory in use can't be given back.
                std::thread::sleep(Duration::from_millis(100));
            }
            while let Some(event) = self.ring.next() {
                if let Event::Done(operation, _) = event {
                    self.paused.push((Instant::now(), operation));
                }
            }
        }
    }

    /// Answers whatever has no outcome `Abandoned`, with its memory, which is no longer in use.
    fn abandon(&mut self) {
        let lost = || Error::new(ErrorKind::Abandoned, "the io_uring thread was lost").with_backend(URING);
        for (_, operation) in std::mem::take(&mut self.paused) {
            self.finish(operation.batch, operation.position, Err(lost()), operation.extent);
        }
        self.inbox.take(&mut self.commands);
        let queued = self.commands.drain(..).filter_map(|command| match command {
            Command::Batch(batch) => Some(batch),
            _ => None,
        });
        for batch in self.batches.slots.drain(..).flatten().chain(queued) {
            batch.refuse(lost());
        }
    }
}

/// Runs what may end in a caller's code, a waker or the drop of memory of theirs: its panics are theirs too.
fn quietly(then: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(then)).is_err() {
        tracing::error!("a waker, or the owner of foreign memory, panicked on an io_uring thread");
    }
}

impl Batches {
    fn insert(&mut self, batch: Batch) -> usize {
        match self.free.pop() {
            Some(number) => {
                self.slots[number] = Some(batch);
                number
            }
            None => {
                self.slots.push(Some(batch));
                self.slots.len() - 1
            }
        }
    }

    fn get(&mut self, number: usize) -> Option<&mut Batch> {
        self.slots.get_mut(number)?.as_mut()
    }

    fn remove(&mut self, number: usize) -> Option<Batch> {
        let batch = self.slots.get_mut(number)?.take();
        self.free.extend(batch.is_some().then_some(number));
        batch
    }
}

impl Pace {
    fn note(&mut self, ended: usize, timed_out: bool) {
        let now = Instant::now();
        if ended > 0 {
            let each = now.duration_since(self.since) / u32::try_from(ended).unwrap_or(u32::MAX);
            self.each = (self.each * 3 + each) / 4;
            self.since = now;
            self.stalled = false;
        } else if timed_out {
            self.stalled = true;
        }
    }

    /// Twice as long as it should take.
    fn patience(&self, operations: usize) -> Duration {
        let expected = self.each.saturating_mul(u32::try_from(operations).unwrap_or(u32::MAX));
        expected.saturating_mul(2).clamp(LEAST_PATIENCE, MOST_PATIENCE)
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
