//! What an I/O thread does: posts requests, looks how far they are, sleeps in between, answers batches.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hicache_core::{Direction, Error, ErrorKind, Extent, Result};

use super::batch::Batches;
use super::file::OpenFile;
use super::flight::{Fit, Kept, KnownFile, Load};
use super::inbox::{Command, Inbox, Intake};
use super::pace::Pace;
use super::ranges::Ranges;
use crate::agent::BackendHandle;
use crate::ending;
use crate::memory::MemoryRegistration;
use crate::request::{Progress, Request};

/// Reads are held back for a write that has waited so long.
const PATIENCE_OF_WRITES: Duration = Duration::from_millis(50);

/// How a lane is set up.
#[derive(Clone, Debug)]
pub(crate) struct LaneConfig {
    pub(crate) name: &'static str,
    /// Descriptors in flight.
    pub(crate) depth: usize,
    /// The plugin takes files opened for direct I/O only.
    pub(crate) direct_only: bool,
    /// Requests in flight.
    pub(crate) requests: usize,
}

/// The state of an I/O thread. It alone calls the library with its agent, but for what the reaper waits for.
pub(crate) struct Lane {
    config: LaneConfig,
    inbox: Arc<Inbox>,
    commands: VecDeque<Command>,
    batches: Batches,
    reads: VecDeque<usize>,
    writes: VecDeque<usize>,
    flights: Vec<Flight>,
    flying_reads: usize,
    flying_writes: usize,
    writes_wait_since: Option<Instant>,
    pace: Pace,
    // What the library knows, then the backend, in the order in which they must go.
    files: HashMap<usize, KnownFile>,
    ranges: Ranges<MemoryRegistration>,
    backend: BackendHandle,
}

/// A request that is posted.
struct Flight {
    request: Request<Kept>,
    batch: usize,
    direction: Direction,
    descriptors: usize,
    /// All of it goes past the page cache.
    direct: bool,
    /// One extent, past the page cache: if it fails it is tried through it.
    alone_and_direct: bool,
    /// It is the second try of such a one.
    again: bool,
}

impl Lane {
    pub(crate) fn new(config: LaneConfig, backend: BackendHandle, inbox: Arc<Inbox>) -> Self {
        Self {
            config,
            inbox,
            commands: VecDeque::new(),
            batches: Batches::default(),
            reads: VecDeque::new(),
            writes: VecDeque::new(),
            flights: Vec::new(),
            flying_reads: 0,
            flying_writes: 0,
            writes_wait_since: None,
            pace: Pace::new(),
            files: HashMap::new(),
            ranges: Ranges::default(),
            backend,
        }
    }

    /// Works until the inbox is closed and all is done. Whatever happens, nothing is in flight when this returns, and
    /// every batch has been answered, but for those of which the library never told the end.
    pub(crate) fn run_to_the_end(mut self) {
        let inbox = Arc::clone(&self.inbox);
        let panicked = catch_unwind(AssertUnwindSafe(|| self.run())).is_err();
        if panicked {
            inbox.fail();
            // Nothing below may be reached while something is in flight.
            while catch_unwind(AssertUnwindSafe(|| self.drain())).is_err() {}
        }
        // What the callers own may panic as it is dropped; the thread still has to say that it is gone.
        let _ = catch_unwind(AssertUnwindSafe(move || {
            let _inside = ending::enter();
            let mut lane = self;
            if panicked {
                tracing::error!("a NIXL I/O thread panicked; its batches are answered Abandoned");
                lane.abandon();
            }
            lane.files.clear();
            lane.ranges.clear();
        }));
        inbox.finish();
    }

    fn run(&mut self) {
        loop {
            let inside = ending::enter();
            let intake = self.inbox.take(&mut self.commands);
            while let Some(command) = self.commands.pop_front() {
                self.obey(command);
            }
            let started = self.start_what_can_be();
            if self.flights.is_empty() {
                if started {
                    continue; // All of it ended as it was posted.
                }
                if intake != Intake::Open && self.reads.is_empty() && self.writes.is_empty() {
                    return;
                }
                drop(inside);
                self.inbox.sleep(None);
                continue;
            }
            if started {
                self.pace.quicken();
            }
            let looked = self.pace.begin();
            if self.look() {
                self.pace.quicken();
            } else {
                let pause = self.pace.pause(looked);
                drop(inside);
                self.inbox.sleep(Some(pause));
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Batch(batch) => {
                let direction = batch.direction;
                let number = self.batches.insert(batch);
                self.queue(direction).push_back(number);
                self.pace.quicken();
            }
            Command::AddMemory(region, reply) => {
                let added = self.ranges.add(&self.backend, &region);
                // If nobody waits for it, they have forgotten it already, and say so.
                let _ = reply.send(added);
            }
            Command::ForgetMemory(region) => {
                let unused = self.ranges.remove(&region);
                quietly(move || drop((unused, region)));
            }
            Command::AddFile(open, reply) => {
                let known = KnownFile::new(&self.backend, Arc::clone(&open), self.config.direct_only);
                let _ = reply.send(known.map(|known| drop(self.files.insert(key(&open), known))));
            }
            Command::ForgetFile(open) => {
                let known = self.files.remove(&key(&open));
                quietly(move || drop((known, open)));
            }
            #[cfg(test)]
            #[expect(clippy::panic, reason = "the point of it")]
            Command::Panic => panic!("asked to"),
        }
    }

    fn queue(&mut self, direction: Direction) -> &mut VecDeque<usize> {
        match direction {
            Direction::Read => &mut self.reads,
            Direction::Write => &mut self.writes,
        }
    }

    fn flying(&mut self, direction: Direction) -> &mut usize {
        match direction {
            Direction::Read => &mut self.flying_reads,
            Direction::Write => &mut self.flying_writes,
        }
    }

    /// Descriptors that may be posted now. Somebody waits for reads, and nobody for writes: beside reads, writes take a
    /// quarter, which is kept free for them, and one that has waited for long goes first.
    fn room(&self, direction: Direction) -> usize {
        let depth = self.config.depth;
        let free = depth - (self.flying_reads + self.flying_writes).min(depth);
        let share = depth / 4;
        let late = self.writes_wait_since.is_some_and(|since| since.elapsed() > PATIENCE_OF_WRITES);
        let nothing_flies = self.flights.is_empty();
        match direction {
            Direction::Read if self.writes.is_empty() => free,
            Direction::Read if late => 0,
            // However wide it is: nothing will land that could make room.
            _ if nothing_flies => free,
            Direction::Read => free.saturating_sub(share.saturating_sub(self.flying_writes)),
            Direction::Write if late || (self.reads.is_empty() && self.flying_reads == 0) => free,
            Direction::Write => share.saturating_sub(self.flying_writes).min(free),
        }
    }

    /// Posts what there is room for. True if anything was.
    fn start_what_can_be(&mut self) -> bool {
        let mut any = false;
        loop {
            let started = self.start_one(Direction::Read) || self.start_one(Direction::Write);
            any |= started;
            if self.writes.is_empty() {
                self.writes_wait_since = None;
            } else if self.writes_wait_since.is_none() {
                self.writes_wait_since = Some(Instant::now());
            }
            if !started {
                return any;
            }
        }
    }

    fn start_one(&mut self, direction: Direction) -> bool {
        let room = self.room(direction);
        let Some(&number) = self.queue(direction).front() else { return false };
        if room == 0 || self.flights.len() >= self.config.requests {
            return false;
        }
        let (mut load, mut refused) = (Load::new(), Vec::new());
        let limits = (room, self.config.depth);
        let Some(batch) = self.batches.get(number) else {
            self.queue(direction).pop_front();
            return true;
        };
        loop {
            let mut refusal = None;
            let files = &self.files;
            let taken = batch.take_next_if(|extent| {
                let Some(file) = extent.file.token::<FileToken>().and_then(|token| files.get(&token.key()))
                else {
                    refusal =
                        Some(Error::new(ErrorKind::Unexpected, "a file that its backend does not know"));
                    return true;
                };
                match load.offer(extent, file, &self.ranges, limits, false) {
                    Fit::Fits => true,
                    Fit::Later => false,
                    Fit::Refused(error) => {
                        refusal = Some(error);
                        true
                    }
                }
            });
            match (taken, refusal) {
                (None, _) => break,
                (Some((position, extent)), None) => load.put(position, extent),
                (Some((position, extent)), Some(error)) => refused.push((position, extent, error)),
            }
        }
        if batch.is_exhausted() {
            self.queue(direction).pop_front();
        }
        let done = !load.is_empty() || !refused.is_empty();
        for (position, extent, error) in refused {
            self.finish(number, position, Err(error.with_backend(self.config.name)), Some(extent));
        }
        if !load.is_empty() {
            if direction == Direction::Write {
                self.writes_wait_since = None;
            }
            self.launch(number, direction, load, false);
        }
        done
    }

    fn launch(&mut self, batch: usize, direction: Direction, load: Load, again: bool) {
        let descriptors = load.descriptors();
        let direct = load.is_direct();
        let alone_and_direct = load.len() == 1 && direct && !self.config.direct_only;
        let mut request = match load.prepare(&self.backend, direction) {
            Ok(request) => request,
            Err((error, extents)) => {
                for (position, extent) in extents {
                    self.finish(batch, position, Err(error.clone()), Some(extent));
                }
                return;
            }
        };
        *self.flying(direction) += descriptors;
        let posted = request.post();
        let flight = Flight { request, batch, direction, descriptors, direct, alone_and_direct, again };
        match posted {
            Ok(Progress::Moving) => self.flights.push(flight),
            ended => self.land(flight, ended.map(drop)),
        }
    }

    /// Asks after everything in flight. True if anything has ended.
    fn look(&mut self) -> bool {
        let (mut at, mut any) = (0, false);
        while at < self.flights.len() {
            match self.flights[at].request.poll() {
                Ok(Progress::Moving) => at += 1,
                ended => {
                    let flight = self.flights.remove(at);
                    self.land(flight, ended.map(drop));
                    any = true;
                }
            }
        }
        any
    }

    /// A request has ended: so have its extents.
    fn land(&mut self, flight: Flight, result: Result<()>) {
        let Flight { request, batch, direction, descriptors, direct, alone_and_direct, again } = flight;
        *self.flying(direction) -= descriptors;
        let Some(kept) = request.finish() else {
            self.lose(batch, result.err());
            return;
        };
        if result.is_err() && alone_and_direct && !again {
            self.try_buffered(batch, direction, kept, result);
            return;
        }
        for (position, extent) in kept.extents {
            match extent.file.token::<FileToken>() {
                Some(token) if result.is_ok() && direct => token.open.direct_works(),
                Some(token) if result.is_ok() && again => token.open.refuse_direct(),
                _ => {}
            }
            let outcome = result.clone().map(|()| extent.memory.bytes() as u64);
            self.finish(batch, position, outcome, Some(extent));
        }
    }

    /// The library does not say why something failed. Some file systems refuse direct I/O that is aligned as they ask.
    fn try_buffered(&mut self, batch: usize, direction: Direction, kept: Kept, result: Result<()>) {
        for (position, extent) in kept.extents {
            let mut load = Load::new();
            let file = extent.file.token::<FileToken>().and_then(|token| self.files.get(&token.key()));
            let limits = (self.config.depth, self.config.depth);
            let fits = file.is_some_and(|file| {
                matches!(load.offer(&extent, file, &self.ranges, limits, true), Fit::Fits)
            });
            if fits {
                load.put(position, extent);
                self.launch(batch, direction, load, true);
            } else {
                let outcome = result.clone().map(|()| 0);
                self.finish(batch, position, outcome, Some(extent));
            }
        }
    }

    fn finish(&mut self, number: usize, position: usize, outcome: Result<u64>, extent: Option<Extent>) {
        let Some(batch) = self.batches.get(number) else {
            return quietly(move || drop(extent));
        };
        if batch.finish(position, outcome, extent)
            && let Some(batch) = self.batches.remove(number)
        {
            quietly(move || batch.answer());
        }
    }

    /// A request of the batch has no end that could be seen. Of our own memory the batch is answered as lost, and so
    /// are its slots. With memory of somebody else it is never answered: they would use it again.
    fn lose(&mut self, number: usize, cause: Option<Error>) {
        // Its other requests land in a batch that is not there, and their memory is free then.
        let Some(batch) = self.batches.retire(number) else { return };
        self.reads.retain(|&waiting| waiting != number);
        self.writes.retain(|&waiting| waiting != number);
        let why = cause.map(|error| error.to_string()).unwrap_or_default();
        tracing::error!(engine = self.config.name, foreign = batch.foreign, %why, "a request has no end");
        if batch.foreign {
            std::mem::forget(batch);
            return;
        }
        let lost = Error::new(ErrorKind::Abandoned, format!("the plugin does not tell an end: {why}"));
        quietly(move || batch.refuse(lost.with_backend(self.config.name)));
    }

    /// Waits until nothing is in flight. What lands keeps its outcome.
    fn drain(&mut self) {
        while !self.flights.is_empty() {
            let inside = ending::enter();
            let some_ended = self.look();
            drop(inside);
            if !some_ended {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Answers whatever has no outcome `Abandoned`, with its memory, which is not in use.
    fn abandon(&mut self) {
        self.inbox.take(&mut self.commands);
        let queued = self.commands.drain(..).filter_map(|command| match command {
            Command::Batch(batch) => Some(batch),
            _ => None,
        });
        for batch in self.batches.drain().chain(queued) {
            let lost =
                Error::new(ErrorKind::Abandoned, "the I/O thread was lost").with_backend(self.config.name);
            batch.refuse(lost);
        }
    }
}

/// Runs what may end in a caller's code, a waker or the drop of memory of theirs: its panics are theirs too.
fn quietly(then: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(then)).is_err() {
        tracing::error!("a waker, or the owner of foreign memory, panicked on a NIXL I/O thread");
    }
}

fn key(open: &Arc<OpenFile>) -> usize {
    Arc::as_ptr(open) as usize
}

/// In an attached file: dropped when neither a handle nor an operation of it is left.
pub(crate) struct FileToken {
    pub(crate) open: Arc<OpenFile>,
    pub(crate) inboxes: Arc<[Arc<Inbox>]>,
}

impl FileToken {
    fn key(&self) -> usize {
        key(&self.open)
    }
}

impl Drop for FileToken {
    fn drop(&mut self) {
        for inbox in self.inboxes.iter() {
            // A lane that takes no more commands forgets everything when it goes, and holds the file till then.
            drop(inbox.push(Command::ForgetFile(Arc::clone(&self.open))));
        }
    }
}
