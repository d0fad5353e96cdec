//! The io_uring engine: batches in, transfers out.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use async_trait::async_trait;
use hicache_core::{
    Completes, Direction, Engine, EngineCapabilities, EngineFile, Error, ErrorKind, Extent, ExtentsDone,
    ForkMark, MemoryKind, OwnerId, Region, Registration, Result, Transfer,
};

use crate::URING;
use crate::batch::{Admission, Batch};
use crate::config::{IoMode, UringConfig};
use crate::file::OpenFile;
use crate::huge_pages::{self, HugePages};
use crate::inbox::{Command, Inbox, Intake};
use crate::memory::{FileToken, Memory, MemoryToken};
use crate::ring::Ring;
use crate::setup::{BUFFER_SLOTS, RingReport};
use crate::table::Table;
use crate::worker::{Said, Worker};

/// Most pieces of memory in one operation: `IOV_MAX`.
pub(crate) const MOST_PIECES: usize = 1024;

/// Moves extents through io_uring. Each ring has a thread that sleeps while there is nothing to do; dropping the engine
/// lets the threads finish what they have and go, [`Engine::close`] waits for that.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use hicache_core::{Access, Direction, Engine, Extent, Region};
/// use hicache_posix_uring::{PreadConfig, PreadEngine, UringConfig, UringEngine};
///
/// let engine: Arc<dyn Engine> = match UringEngine::open(UringConfig::default()) {
///     Ok(engine) => Arc::new(engine),
///     Err(refused) => {
///         eprintln!("{refused}");
///         Arc::new(PreadEngine::open(PreadConfig::default())?)
///     }
/// };
/// let region = Region::allocate(1, 4096)?;
/// let registration = engine.register(&region)?;
/// let path = std::path::Path::new("unnamed");
/// let file = engine.attach(Arc::new(tempfile::tempfile().unwrap()), path)?;
/// let memory = registration.page(0, 4096, Access::Read)?;
/// let done = engine.submit(Direction::Write, vec![Extent { file, offset: 0, memory }]).wait();
/// assert_eq!(*done.outcomes[0].as_ref().unwrap(), 4096);
/// # Ok::<(), hicache_core::Error>(())
/// ```
pub struct UringEngine {
    config: UringConfig,
    owner: OwnerId,
    capabilities: EngineCapabilities,
    inboxes: Arc<[Arc<Inbox>]>,
    reports: Vec<RingReport>,
    files: Arc<Table>,
    buffers: Arc<Table>,
    next: AtomicUsize,
    said_direct: AtomicBool,
    /// [`Engine::close`] was called; the inboxes of lost rings do not remember.
    closed: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
    fork: Arc<ForkMark>,
}

impl UringEngine {
    /// Sets the rings up and starts their threads.
    ///
    /// # Errors
    /// `Config` for a bad setting; `Unavailable` where the kernel, a seccomp filter, a sysctl or a limit refuses
    /// io_uring, saying which.
    pub fn open(config: UringConfig) -> Result<Self> {
        config.validate()?;
        let fork = Arc::new(ForkMark::new());
        let inbox = |_| Inbox::new(Arc::clone(&fork)).map(Arc::new);
        let inboxes: Vec<_> = (0..config.rings).map(inbox).collect::<Result<_>>()?;
        // From here on, dropping the engine ends the threads that have been started.
        let mut engine = Self {
            owner: OwnerId::new(),
            capabilities: capabilities(URING, config.depth as usize * config.rings),
            inboxes: inboxes.into(),
            reports: Vec::new(),
            files: Table::new(config.registered_files),
            buffers: Table::new(if config.register_buffers { BUFFER_SLOTS } else { 0 }),
            next: AtomicUsize::new(0),
            said_direct: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            threads: Mutex::default(),
            fork,
            config,
        };
        let said = Arc::new(Said::default());
        for number in 0..engine.inboxes.len() {
            let (thread, report) = engine.start_ring(number, Arc::clone(&said))?;
            engine.threads.get_mut().unwrap_or_else(PoisonError::into_inner).push(thread);
            engine.reports.push(report);
        }
        engine.report_missing_tables();
        Ok(engine)
    }

    fn start_ring(&self, number: usize, said: Arc<Said>) -> Result<(JoinHandle<()>, RingReport)> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let inbox = Arc::clone(&self.inboxes[number]);
        let config = self.config.clone();
        let run = move || match Ring::new(number, &config, Arc::clone(&inbox)) {
            Err(error) => {
                inbox.finish();
                drop(sender.send(Err(error)));
            }
            Ok(ring) => {
                let report = ring.report().clone();
                if sender.send(Ok(report)).is_ok() {
                    Worker::new(ring, inbox, said).run_to_the_end();
                }
            }
        };
        let lost = |message: &str| Error::new(ErrorKind::Unavailable, message).with_backend(URING);
        let thread = thread::Builder::new()
            .name(format!("hicache-uring{number}"))
            .spawn(run)
            .map_err(|error| lost("a ring thread can't be started").with_source(error))?;
        let report = receiver.recv().map_err(|_| lost("a ring thread ended at once"))??;
        Ok((thread, report))
    }

    fn report_missing_tables(&self) {
        let Some(report) = self.reports.first() else { return };
        tracing::debug!(rings = self.reports.len(), flags = report.flags, "io_uring is set up");
        if let (Err(reason), true) = (&report.files, self.config.registered_files > 0) {
            tracing::warn!(%reason, "io_uring has no table of files; going on with plain descriptors");
        }
        if let (Err(reason), true) = (&report.buffers, self.config.register_buffers) {
            tracing::warn!(%reason, "io_uring has no table of buffers; going on with plain reads and writes");
        }
    }

    /// What each ring was given.
    pub fn rings(&self) -> &[RingReport] {
        &self.reports
    }

    /// Bytes of a registration that the kernel has pinned for some ring by now. That happens in parts, after
    /// [`Engine::register`] has returned; until then plain reads and writes are used.
    pub fn registered_bytes(&self, registration: &Registration) -> u64 {
        let token = registration.token::<MemoryToken>();
        token.and_then(|token| token.memory.as_ref()).map_or(0, |memory| memory.registered_bytes())
    }

    /// How much of a registration's region is in huge pages by now.
    ///
    /// # Errors
    /// As [`HugePages::of`].
    pub fn huge_pages(&self, registration: &Registration) -> Result<HugePages> {
        HugePages::of(registration.region())
    }

    fn check_open(&self) -> Result<()> {
        let mut intake = Intake::Closed;
        for inbox in self.inboxes.iter() {
            intake = inbox.intake();
            if intake == Intake::Open {
                return Ok(());
            }
        }
        Err(self.refusal(intake))
    }

    /// Why nothing is taken, given what an inbox says.
    fn refusal(&self, intake: Intake) -> Error {
        let closed = self.closed.load(Ordering::SeqCst) && intake != Intake::Forked;
        refusal(if closed { Intake::Closed } else { intake })
    }

    fn push_to_all(&self, command: impl Fn() -> Command) {
        for inbox in self.inboxes.iter() {
            // One that takes nothing more has no use for it.
            drop(inbox.push(command()));
        }
    }

    /// To the rings in turn, past those that are lost, and past those that are full while others are not.
    fn dispatch(&self, batch: Batch) {
        let rings = self.inboxes.len();
        let mut first = self.next.fetch_add(1, Ordering::Relaxed);
        if rings > 1 {
            let with_room =
                (0..rings).find(|&step| self.inboxes[first.wrapping_add(step) % rings].has_room());
            first = first.wrapping_add(with_room.unwrap_or(0));
        }
        let mut command = Command::Batch(batch);
        let mut intake = Intake::Closed;
        for step in 0..rings {
            match self.inboxes[first.wrapping_add(step) % rings].push(command) {
                Ok(()) => return,
                Err((refused, why)) => (command, intake) = (refused, why),
            }
        }
        if let Command::Batch(batch) = command {
            batch.refuse(self.refusal(intake));
        }
    }

    #[cfg(test)]
    pub(crate) fn inboxes(&self) -> &[Arc<Inbox>] {
        &self.inboxes
    }
}

#[async_trait]
impl Engine for UringEngine {
    fn capabilities(&self) -> &EngineCapabilities {
        &self.capabilities
    }

    fn register(&self, region: &Arc<Region>) -> Result<Registration> {
        check_kind(URING, region)?;
        self.check_open()?;
        if self.config.huge_pages {
            huge_pages::ask(region);
        }
        let memory = Memory::new(region, &self.buffers);
        if let Some(memory) = &memory {
            self.push_to_all(|| Command::RegisterMemory(Arc::clone(memory)));
        } else if self.config.register_buffers {
            tracing::debug!(
                bytes = region.bytes(),
                "no room in the table of buffers; plain reads and writes"
            );
        }
        huge_pages::report(region);
        let token = MemoryToken { memory, inboxes: Arc::clone(&self.inboxes) };
        Ok(Registration::new(self.owner, Arc::clone(region), Box::new(token)))
    }

    fn attach(&self, file: Arc<File>, path: &Path) -> Result<EngineFile> {
        self.check_open()?;
        let mut open = OpenFile::new(Arc::clone(&file), path, self.config.io)?;
        warn_of_no_direct(&open, self.config.io, &self.said_direct);
        let mut slots = self.files.take(1 + usize::from(open.direct.is_some()));
        open.buffered.slot = slots.pop();
        if let Some(direct) = &mut open.direct {
            direct.descriptor.slot = slots.pop();
        }
        let open = Arc::new(open);
        if open.slots().next().is_some() {
            self.push_to_all(|| Command::AttachFile(Arc::clone(&open)));
        }
        let token = FileToken { file: open, inboxes: Arc::clone(&self.inboxes) };
        Ok(EngineFile::new(self.owner, file, Box::new(token)))
    }

    fn submit(&self, direction: Direction, extents: Vec<Extent>) -> Transfer<ExtentsDone> {
        match Batch::admit(direction, extents, self.owner, &self.capabilities) {
            Admission::Answered(transfer) => transfer,
            Admission::Accepted(batch, transfer) => {
                self.dispatch(batch);
                transfer
            }
        }
    }

    async fn close(&self) -> Result<()> {
        if self.fork.is_child() {
            return Ok(()); // Its threads are the parent's, and so is what they do.
        }
        self.closed.store(true, Ordering::SeqCst);
        let ends: Vec<_> = self.inboxes.iter().map(|inbox| inbox.ended()).collect();
        self.inboxes.iter().for_each(|inbox| inbox.close());
        for end in ends {
            // Either way the thread has ended: it says so, or it had.
            let _ = end.await;
        }
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // They are past their last act, so this takes no time; and they catch their panics.
            let _ = thread.join();
        }
        let failed = self.inboxes.iter().any(|inbox| inbox.intake() == Intake::Failed);
        if failed { Err(refusal(Intake::Failed)) } else { Ok(()) }
    }
}

impl Drop for UringEngine {
    fn drop(&mut self) {
        if self.fork.is_child() {
            // Not ours to detach: they are threads of the parent.
            let threads = self.threads.get_mut().unwrap_or_else(PoisonError::into_inner);
            threads.drain(..).for_each(std::mem::forget);
            return;
        }
        self.inboxes.iter().for_each(|inbox| inbox.close());
    }
}

impl fmt::Debug for UringEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UringEngine")
            .field("config", &self.config)
            .field("rings", &self.reports)
            .finish_non_exhaustive()
    }
}

/// What both engines can do.
pub(crate) fn capabilities(name: &'static str, max_in_flight: usize) -> EngineCapabilities {
    EngineCapabilities {
        name,
        alignment: 1,
        max_pieces: MOST_PIECES,
        max_extent_bytes: i64::MAX as u64,
        max_in_flight,
        memory: vec![MemoryKind::Host, MemoryKind::PinnedHost],
        completes: Completes::PerOperation,
        reports_lengths: true,
        proves_idle: true,
    }
}

pub(crate) fn check_kind(name: &'static str, region: &Region) -> Result<()> {
    if region.kind().is_host() {
        return Ok(());
    }
    let message = format!("{name} moves host memory only, not {:?}", region.kind());
    Err(Error::new(ErrorKind::Unsupported, message).with_backend(name))
}

/// Says, once an engine, that direct I/O was asked for and can't be had.
pub(crate) fn warn_of_no_direct(file: &OpenFile, io: IoMode, said: &AtomicBool) {
    let Some(reason) = &file.no_direct else { return };
    if io == IoMode::Direct && !said.swap(true, Ordering::Relaxed) {
        tracing::warn!(path = %file.path.display(), %reason, "no direct I/O; going on through the page cache");
    }
}

fn refusal(intake: Intake) -> Error {
    match intake {
        Intake::Failed => {
            Error::new(ErrorKind::Unavailable, "the io_uring thread was lost; open the engine again")
        }
        Intake::Forked => ForkMark::refusal("engine"),
        Intake::Open | Intake::Closed => Error::new(ErrorKind::Closed, "the engine is closed"),
    }
    .with_backend(URING)
}
