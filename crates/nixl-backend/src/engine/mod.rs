//! Extents of files through one of NIXL's file plugins.
//!
//! | module | what is there |
//! |---|---|
//! | `config` | [`NixlEngineConfig`], [`IoMode`] |
//! | `batch` | what becomes of each extent, and the one answer |
//! | `file` | direct and buffered descriptors of one inode, and which of them an extent takes |
//! | `ranges` | memory, known to the library once however regions lie over each other |
//! | `flight` | requests being made up, and what they keep |
//! | `inbox`, `lane`, `pace` | the queue to an I/O thread, what it does, and how it sleeps between looks |
//!
//! `docs/nixl.md` says what of the library it works around, and how.

mod batch;
mod config;
mod file;
mod flight;
mod inbox;
mod lane;
mod pace;
mod ranges;

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use async_trait::async_trait;
use hicache_core::{
    Completes, Direction, Engine, EngineCapabilities, EngineFile, Error, ErrorKind, Extent, ExtentsDone,
    ForkMark, MemoryKind, OwnerId, Region, Registration, Result, Transfer,
};

pub use config::{IoMode, NixlEngineConfig};

use crate::agent::{Agent, BackendHandle, PluginParameters};
use crate::library::Library;
use crate::memory::MemoryType;
use batch::{Admission, Batch};
use file::{OpenFile, USUAL_ALIGNMENT};
use inbox::{Command, Inbox, Intake};
use lane::{FileToken, Lane, LaneConfig};

/// Most pieces of memory in one extent.
const MOST_PIECES: usize = 1024;
/// Most bytes of one extent: the library may make one system call of it.
const MOST_EXTENT_BYTES: u64 = 1 << 30;
const POOL_SIZE: &str = "ios_pool_size";
/// The plugin's limits for it; it moves what is beyond to the nearer one.
const POOL_SIZES: (usize, usize) = (64, 65_536);

/// Moves extents through a NIXL file plugin. Each I/O thread has an agent and a backend of its own, sleeps while there
/// is nothing to do, and looks after what is in flight in growing intervals, since the library tells nobody when a
/// transfer ends. Dropping the engine lets the threads finish what they have and go; [`Engine::close`] waits for that.
///
/// The plugins tell neither lengths nor causes: a batch goes in requests of several extents, one failure fails its
/// request, and the error says plugin, operation and sizes only. GDS calls requests done of which parts failed: whoever
/// reads must compare checksums, as the page store does.
///
/// ```no_run
/// use hicache_nixl_backend::{Library, LibrarySearch, NixlEngine, NixlEngineConfig};
///
/// let library = Library::open(&LibrarySearch::default())?;
/// let config = NixlEngineConfig::new("POSIX").with_parameter("use_uring", true);
/// let engine = NixlEngine::open(&library, config)?;
/// # Ok::<(), hicache_core::Error>(())
/// ```
pub struct NixlEngine {
    config: NixlEngineConfig,
    owner: OwnerId,
    capabilities: EngineCapabilities,
    parameters: PluginParameters,
    inboxes: Arc<[Arc<Inbox>]>,
    next: AtomicUsize,
    said_direct: AtomicBool,
    closed: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
    fork: Arc<ForkMark>,
}

impl NixlEngine {
    /// Has the plugin make its backends and starts the threads. Plugins for GPUs may hang here where there is none: see
    /// the probe.
    ///
    /// # Errors
    /// `Config` for a bad setting; `Unsupported` for a plugin that moves no files; `Unavailable` if the plugin can't be
    /// loaded, or makes no backend.
    pub fn open(library: &Arc<Library>, config: NixlEngineConfig) -> Result<Self> {
        let mut config = config;
        config.validate()?;
        config.set_defaults();
        let fork = Arc::new(ForkMark::new());
        let announced = Agent::new(library, "hicache")?.plugin_parameters(&config.plugin)?;
        let depth = config.depth.min(pool_size(&mut config, &announced) - 1);
        let mut backends = Vec::with_capacity(config.threads);
        for _ in 0..config.threads {
            backends
                .push(Agent::new(library, "hicache")?.create_backend(&config.plugin, &config.parameters)?);
        }
        let parameters = backends[0].parameters()?;
        let capabilities = capabilities(library, &config, &parameters, depth)?;
        let inboxes = backends.iter().map(|_| Arc::new(Inbox::new(Arc::clone(&fork)))).collect();
        // From here on, dropping the engine ends the threads that have been started.
        let mut engine = Self {
            owner: OwnerId::new(),
            capabilities,
            parameters,
            inboxes,
            next: AtomicUsize::new(0),
            said_direct: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            threads: Mutex::default(),
            fork,
            config,
        };
        for (number, backend) in backends.into_iter().enumerate() {
            let thread = engine.start_lane(number, backend, depth)?;
            engine.threads.get_mut().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(engine)
    }

    fn start_lane(&self, number: usize, backend: BackendHandle, depth: usize) -> Result<JoinHandle<()>> {
        let inbox = Arc::clone(&self.inboxes[number]);
        let direct_only = config::needs_direct(&self.config.plugin);
        let config =
            LaneConfig { name: self.config.name, depth, direct_only, requests: self.config.requests() };
        let run = move || Lane::new(config, backend, inbox).run_to_the_end();
        thread::Builder::new().name(format!("hicache-nixl{number}")).spawn(run).map_err(|error| {
            self.error(ErrorKind::Unavailable, "an I/O thread can't be started").with_source(error)
        })
    }

    /// Kinds of memory and parameters of the plugin as they are in force.
    pub fn parameters(&self) -> &PluginParameters {
        &self.parameters
    }

    fn error(&self, kind: ErrorKind, what: &str) -> Error {
        Error::new(kind, what).with_backend(self.config.name)
    }

    fn refusal(&self, intake: Intake) -> Error {
        if intake == Intake::Forked {
            return ForkMark::refusal("engine").with_backend(self.config.name);
        }
        if intake == Intake::Failed && !self.closed.load(Ordering::SeqCst) {
            return self.error(ErrorKind::Unavailable, "the NIXL I/O thread was lost; open the engine again");
        }
        self.error(ErrorKind::Closed, "the engine is closed")
    }

    /// Has every lane do something, and waits until all have. What those have done that come before one that fails is
    /// undone by `undo`.
    fn on_all(
        &self,
        command: impl Fn(SyncSender<Result<()>>) -> Command,
        undo: impl Fn() -> Command,
    ) -> Result<()> {
        let mut waiting = Vec::with_capacity(self.inboxes.len());
        for inbox in self.inboxes.iter() {
            let (reply, answer) = mpsc::sync_channel(1);
            let pushed = inbox.push(command(reply)).map_err(|(_, why)| self.refusal(why));
            waiting.push((inbox, pushed.map(|()| answer)));
        }
        let answers = waiting.into_iter().map(|(inbox, answer)| {
            let lost = |_| self.refusal(inbox.intake());
            (inbox, answer.and_then(|answer| answer.recv().map_err(lost)?))
        });
        let answers: Vec<_> = answers.collect();
        let Some(first) = answers.iter().find_map(|(_, answer)| answer.as_ref().err().cloned()) else {
            return Ok(());
        };
        for (inbox, _) in answers.iter().filter(|(_, answer)| answer.is_ok()) {
            drop(inbox.push(undo()));
        }
        Err(first)
    }

    /// To the lanes in turn, past those that are lost.
    fn dispatch(&self, batch: Batch) {
        let (lanes, first) = (self.inboxes.len(), self.next.fetch_add(1, Ordering::Relaxed));
        let mut command = Command::Batch(batch);
        let mut intake = Intake::Closed;
        for step in 0..lanes {
            match self.inboxes[first.wrapping_add(step) % lanes].push(command) {
                Ok(()) => return,
                Err((refused, why)) => (command, intake) = (refused, why),
            }
        }
        if let Command::Batch(batch) = command {
            batch.refuse(self.refusal(intake));
        }
    }
}

#[async_trait]
impl Engine for NixlEngine {
    fn capabilities(&self) -> &EngineCapabilities {
        &self.capabilities
    }

    fn register(&self, region: &Arc<Region>) -> Result<Registration> {
        if !self.capabilities.moves(region.kind()) {
            let what = format!("{} moves no memory of {:?}", self.config.name, region.kind());
            return Err(self.error(ErrorKind::Unsupported, &what));
        }
        self.on_all(
            |reply| Command::AddMemory(Arc::clone(region), reply),
            || Command::ForgetMemory(Arc::clone(region)),
        )?;
        let token = MemoryToken { region: Arc::clone(region), inboxes: Arc::clone(&self.inboxes) };
        Ok(Registration::new(self.owner, Arc::clone(region), Box::new(token)))
    }

    fn attach(&self, file: Arc<File>, path: &Path) -> Result<EngineFile> {
        if self.fork.is_child() {
            return Err(self.refusal(Intake::Forked));
        }
        let open = Arc::new(OpenFile::new(&file, path, self.config.io)?);
        if let Some(reason) = &open.no_direct {
            if config::needs_direct(&self.config.plugin) {
                let what =
                    format!("{} takes direct I/O only, and {}: {reason}", self.config.plugin, path.display());
                return Err(self.error(ErrorKind::Unsupported, &what));
            }
            if self.config.io == IoMode::Direct && !self.said_direct.swap(true, Ordering::Relaxed) {
                tracing::warn!(path = %path.display(), %reason, "no direct I/O; going on through the page cache");
            }
        }
        self.on_all(
            |reply| Command::AddFile(Arc::clone(&open), reply),
            || Command::ForgetFile(Arc::clone(&open)),
        )?;
        let token = FileToken { open, inboxes: Arc::clone(&self.inboxes) };
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
        if self.inboxes.iter().any(|inbox| inbox.intake() == Intake::Failed) {
            return Err(self.error(ErrorKind::Unavailable, "a NIXL I/O thread was lost"));
        }
        Ok(())
    }
}

impl Drop for NixlEngine {
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

impl fmt::Debug for NixlEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NixlEngine").field("config", &self.config).finish_non_exhaustive()
    }
}

/// In a registration: dropped when neither a handle nor a lease of the region is left.
struct MemoryToken {
    region: Arc<Region>,
    inboxes: Arc<[Arc<Inbox>]>,
}

impl Drop for MemoryToken {
    fn drop(&mut self) {
        for inbox in self.inboxes.iter() {
            drop(inbox.push(Command::ForgetMemory(Arc::clone(&self.region))));
        }
    }
}

/// How many descriptors the plugin has room for, and one; as many as we like where it has no such limit. Where it takes
/// the number and nobody gave one, it is told what `depth` needs.
fn pool_size(config: &mut NixlEngineConfig, announced: &PluginParameters) -> usize {
    let asked = |config: &NixlEngineConfig, name: &str| {
        let value = config.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.trim());
        value.and_then(|value| value.parse::<usize>().ok())
    };
    let (least, most) = POOL_SIZES;
    let takes_it = announced.parameters.iter().any(|(name, _)| name == POOL_SIZE);
    match asked(config, POOL_SIZE) {
        Some(size) if takes_it => size.clamp(least, most),
        None if takes_it => {
            let size = (config.depth + 1).clamp(least, most);
            config.parameters.push((POOL_SIZE.to_owned(), size.to_string()));
            size
        }
        // Before 1.5.0 the plugin names none, and hangs or fails with more than it has room for: in its pool, and in the
        // kernel's queue, which it fills before it has the kernel look.
        _ if config.plugin == config::POSIX => {
            asked(config, "kernel_queue_size").map_or(least, |queue| least.min(queue + 1))
        }
        _ => most,
    }
}

fn capabilities(
    library: &Library,
    config: &NixlEngineConfig,
    parameters: &PluginParameters,
    depth: usize,
) -> Result<EngineCapabilities> {
    if !parameters.memory.contains(&MemoryType::File) {
        let what = format!("the plugin {} moves no files", config.plugin);
        return Err(Error::new(ErrorKind::Unsupported, what).with_backend(config.name));
    }
    let mut memory = Vec::new();
    if parameters.memory.contains(&MemoryType::Dram) {
        memory.extend([MemoryKind::Host, MemoryKind::PinnedHost]);
    }
    if parameters.memory.contains(&MemoryType::Vram) {
        memory.push(MemoryKind::Device(0));
    }
    Ok(EngineCapabilities {
        name: config.name,
        alignment: if config::needs_direct(&config.plugin) { USUAL_ALIGNMENT } else { 1 },
        max_pieces: MOST_PIECES.min(depth).min(config.most_pieces()),
        max_extent_bytes: MOST_EXTENT_BYTES,
        max_in_flight: depth * config.threads,
        memory,
        completes: Completes::PerRequest,
        reports_lengths: false,
        // As `BackendHandle::settles`.
        proves_idle: library.is_since_1_5_0() && matches!(config.plugin.as_str(), "POSIX" | "GDS_MT"),
    })
}

#[cfg(test)]
mod lane_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_is_what_the_plugin_makes_of_what_it_is_told() {
        let announced = |names: &[&str]| PluginParameters {
            memory: vec![MemoryType::Dram, MemoryType::File],
            // 1.5.1 says no default.
            parameters: names.iter().map(|name| ((*name).to_owned(), String::new())).collect(),
        };
        let (new, old) = (announced(&["ios_pool_size"]), announced(&[]));
        let plain = NixlEngineConfig::new("POSIX");
        let pool = |config: &NixlEngineConfig, known: &PluginParameters| {
            let mut told = config.clone();
            let size = pool_size(&mut told, known);
            (size, told.parameters.iter().find(|(name, _)| name == POOL_SIZE).map(|(_, value)| value.clone()))
        };
        let with = |name: &str, value: usize| plain.clone().with_parameter(name, value);
        assert_eq!(pool(&plain, &new), (1025, Some("1025".into())));
        assert_eq!(pool(&NixlEngineConfig { depth: 5, ..plain.clone() }, &new), (64, Some("64".into())));
        let deep = NixlEngineConfig { depth: NixlEngineConfig::MAX_DEPTH, ..plain.clone() };
        assert_eq!(pool(&deep, &new).0, 65_536);
        assert_eq!(pool(&with(POOL_SIZE, 100), &new), (100, Some("100".into())));
        assert_eq!(pool(&with(POOL_SIZE, 3), &new).0, 64);
        // One that names none: of the POSIX plugin an old one, of others because they have no such limit.
        assert_eq!(pool(&plain, &old), (64, None));
        assert_eq!(pool(&with(POOL_SIZE, 1000), &old).0, 64);
        assert_eq!(pool(&with("kernel_queue_size", 16), &old), (17, None));
        assert_eq!(pool(&with("kernel_queue_size", 256), &old).0, 64);
        assert_eq!(pool(&NixlEngineConfig::new("GDS_MT"), &old), (65_536, None));
    }
}
