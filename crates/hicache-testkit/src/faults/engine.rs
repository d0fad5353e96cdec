//! Faults of an engine.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hicache_core::{
    Answer, Completion, Direction, Engine, EngineCapabilities, EngineFile, Error, ErrorKind, Extent,
    ExtentsDone, OwnerId, Region, Registration, Result, Transfer,
};
use tokio::sync::watch;

use super::plan::FaultPlan;
use crate::thread_engine::{copy_in, copy_out, read_part};

/// What goes wrong with one operation.
///
/// A batch is answered once, so [`EngineFault::NeverSubmitted`], [`EngineFault::Dropped`] and
/// [`EngineFault::Swallowed`] take the answer of the whole batch with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineFault {
    /// Only the first `bytes` bytes move, and the count says so.
    Short {
        /// How many; at least the whole length means no fault.
        bytes: u64,
    },
    /// Begins after this time.
    LateStart(Duration),
    /// Is done in time and answered after this time.
    LateAnswer(Duration),
    /// Fails with an error of the operating system.
    Fail {
        /// Its number, e.g. 5 for `EIO`, 28 for `ENOSPC`.
        errno: i32,
        /// Whether the bytes have moved all the same.
        after_moving: bool,
    },
    /// Answers success, with one bit of what was read, or of what was written, turned over.
    Corrupt {
        /// Which bit of the page, modulo its length.
        bit: u64,
    },
    /// This operation alone answers `Abandoned` without its memory, which stays held until
    /// [`FaultyEngine::release_lost`]; the bytes have moved.
    Lost,
    /// The batch is dropped before this operation was begun: its answer is `Abandoned` at once. The other operations
    /// of the batch go on and hold their memory until they are done.
    NeverSubmitted,
    /// The answer is `Abandoned` at once, as when a worker panicked, but the operations go on, and their memory stays
    /// held until [`FaultyEngine::release_lost`].
    Dropped,
    /// The operations are done, and no answer comes until [`FaultyEngine::release_lost`] (then it is `Abandoned`) or
    /// [`FaultyEngine::answer_swallowed`].
    Swallowed,
}

/// How many faults of each kind were injected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the kinds of `EngineFault`")]
pub struct InjectedFaults {
    pub short: u64,
    pub late: u64,
    pub failed: u64,
    pub corrupted: u64,
    pub lost: u64,
    pub never_submitted: u64,
    pub dropped: u64,
    pub swallowed: u64,
}

impl InjectedFaults {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.short
            + self.late
            + self.failed
            + self.corrupted
            + self.lost
            + self.never_submitted
            + self.dropped
            + self.swallowed
    }

    fn count(&mut self, fault: EngineFault) {
        *match fault {
            EngineFault::Short { .. } => &mut self.short,
            EngineFault::LateStart(_) | EngineFault::LateAnswer(_) => &mut self.late,
            EngineFault::Fail { .. } => &mut self.failed,
            EngineFault::Corrupt { .. } => &mut self.corrupted,
            EngineFault::Lost => &mut self.lost,
            EngineFault::NeverSubmitted => &mut self.never_submitted,
            EngineFault::Dropped => &mut self.dropped,
            EngineFault::Swallowed => &mut self.swallowed,
        } += 1;
    }
}

/// An [`Engine`] that does what another one does, except where a [`FaultPlan`] says otherwise.
///
/// Short operations and corrupted writes are done by plain reads and writes of the same file, in host memory only.
/// Extents that the plan does not name, and those that fail validation, go to the inner engine as they are. A batch
/// with a fault is driven by a thread of its own; no runtime is needed.
#[derive(Debug)]
pub struct FaultyEngine {
    inner: Arc<dyn Engine>,
    capabilities: EngineCapabilities,
    owner: OnceLock<OwnerId>,
    plan: Mutex<FaultPlan<EngineFault>>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    injected: Mutex<InjectedFaults>,
    lost: Mutex<Vec<Held>>,
    driving: watch::Sender<u64>,
    closed: AtomicU64,
}

/// Memory that is held although its operation is over or was never begun.
#[derive(Debug)]
#[expect(dead_code, reason = "extents are held to hold their leases")]
enum Held {
    Extents(Vec<Extent>),
    Swallowed(Completion<ExtentsDone>, ExtentsDone),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FaultyEngine {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Engine>, plan: FaultPlan<EngineFault>) -> Arc<Self> {
        let capabilities = inner.capabilities().clone();
        Self::with_capabilities(inner, capabilities, plan)
    }

    /// Wraps `inner`, and says that it takes one piece of memory an operation: then a store does not join pages, and each
    /// page in one piece is an operation for the plan.
    pub fn page_by_page(inner: Arc<dyn Engine>, plan: FaultPlan<EngineFault>) -> Arc<Self> {
        let capabilities = EngineCapabilities { max_pieces: 1, ..inner.capabilities().clone() };
        Self::with_capabilities(inner, capabilities, plan)
    }

    fn with_capabilities(
        inner: Arc<dyn Engine>,
        capabilities: EngineCapabilities,
        plan: FaultPlan<EngineFault>,
    ) -> Arc<Self> {
        Arc::new(Self {
            inner,
            capabilities,
            owner: OnceLock::new(),
            plan: Mutex::new(plan),
            shared: Arc::new(Shared {
                injected: Mutex::default(),
                lost: Mutex::default(),
                driving: watch::Sender::new(0),
                closed: AtomicU64::new(0),
            }),
        })
    }

    /// Goes on by another plan, which counts operations from 0.
    pub fn set_plan(&self, plan: FaultPlan<EngineFault>) {
        *lock(&self.plan) = plan;
    }

    /// What was injected so far.
    pub fn injected(&self) -> InjectedFaults {
        *lock(&self.shared.injected)
    }

    /// How many batches and operations hold memory that no answer gives back.
    pub fn held(&self) -> usize {
        lock(&self.shared.lost).len()
    }

    /// Lets go of the memory of all operations that were lost so far; swallowed batches answer `Abandoned`.
    pub fn release_lost(&self) {
        // Taken out first: what is woken by this may come back here.
        let held = std::mem::take(&mut *lock(&self.shared.lost));
        drop(held);
    }

    /// Answers, late but right, the batches that were swallowed so far.
    pub fn answer_swallowed(&self) {
        let held = std::mem::take(&mut *lock(&self.shared.lost));
        for held in held {
            match held {
                Held::Swallowed(completion, done) => drop(completion.answer(done)),
                extents @ Held::Extents(_) => lock(&self.shared.lost).push(extents),
            }
        }
    }

    fn fault_for(&self, direction: Direction, extent: &Extent) -> Option<EngineFault> {
        let bytes = extent.memory.bytes() as u64;
        let fault = lock(&self.plan).next(direction, extent.offset, bytes, None)?;
        let owner = *self.owner.get()?;
        extent.validate(direction, owner, self.inner.capabilities()).ok()?;
        if matches!(fault, EngineFault::Short { bytes: moved } if moved >= bytes) {
            return None;
        }
        lock(&self.shared.injected).count(fault);
        Some(fault)
    }
}

#[async_trait]
impl Engine for FaultyEngine {
    fn capabilities(&self) -> &EngineCapabilities {
        &self.capabilities
    }

    fn register(&self, region: &Arc<Region>) -> Result<Registration> {
        let registration = self.inner.register(region)?;
        self.owner.get_or_init(|| registration.owner());
        Ok(registration)
    }

    fn attach(&self, file: Arc<File>, path: &Path) -> Result<EngineFile> {
        let file = self.inner.attach(file, path)?;
        self.owner.get_or_init(|| file.owner());
        Ok(file)
    }

    fn submit(&self, direction: Direction, extents: Vec<Extent>) -> Transfer<ExtentsDone> {
        if self.shared.closed.load(Ordering::Acquire) > 0 {
            return self.inner.submit(direction, extents);
        }
        let faults: Vec<_> = extents.iter().map(|extent| self.fault_for(direction, extent)).collect();
        if faults.iter().all(Option::is_none) {
            return self.inner.submit(direction, extents);
        }
        let (completion, transfer) = Transfer::channel(extents.len());
        let (inner, shared) = (Arc::clone(&self.inner), Arc::clone(&self.shared));
        shared.driving.send_modify(|count| *count += 1);
        let batch = extents.into_iter().zip(faults).collect();
        let drive = move || {
            Batch { inner, direction, shared: &shared }.drive(batch, completion);
            shared.driving.send_modify(|count| *count -= 1);
        };
        // Where no thread can be started the completion is dropped, and the batch is lost as it would be for real.
        if std::thread::Builder::new().name("faulty-engine".to_owned()).spawn(drive).is_err() {
            self.shared.driving.send_modify(|count| *count -= 1);
        }
        transfer
    }

    async fn close(&self) -> Result<()> {
        self.shared.closed.fetch_add(1, Ordering::AcqRel);
        // The sender is ours, so this ends when the last batch with a fault is driven.
        let _ = self.shared.driving.subscribe().wait_for(|count| *count == 0).await;
        self.inner.close().await
    }
}

struct Batch<'a> {
    inner: Arc<dyn Engine>,
    direction: Direction,
    shared: &'a Shared,
}

impl Batch<'_> {
    fn drive(&self, batch: Vec<(Extent, Option<EngineFault>)>, completion: Completion<ExtentsDone>) {
        let faults: Vec<_> = batch.iter().map(|(_, fault)| *fault).collect();
        let has = |fault| faults.contains(&Some(fault));
        if has(EngineFault::NeverSubmitted) {
            drop(completion);
            drop(self.run(batch));
        } else if has(EngineFault::Dropped) {
            drop(completion);
            let extents = self.run(batch).extents.into_iter().flatten().collect();
            lock(&self.shared.lost).push(Held::Extents(extents));
        } else {
            let done = self.run(batch);
            let late = faults.iter().filter_map(|fault| match fault {
                Some(EngineFault::LateAnswer(delay)) => Some(*delay),
                _ => None,
            });
            std::thread::sleep(late.max().unwrap_or_default());
            if has(EngineFault::Swallowed) {
                lock(&self.shared.lost).push(Held::Swallowed(completion, done));
            } else {
                drop(completion.answer(done));
            }
        }
    }

    /// Ends when nothing moves any more.
    fn run(&self, batch: Vec<(Extent, Option<EngineFault>)>) -> ExtentsDone {
        let mut done = ExtentsDone::abandoned(batch.len());
        let (mut now, mut later, mut delay) = (Vec::new(), Vec::new(), Duration::ZERO);
        let mut own = Vec::new();
        for (i, (extent, fault)) in batch.into_iter().enumerate() {
            match fault {
                Some(EngineFault::NeverSubmitted) => drop(extent),
                Some(EngineFault::LateStart(wait)) => {
                    delay = delay.max(wait);
                    later.push((i, extent, fault));
                }
                Some(EngineFault::Short { .. }) => own.push((i, extent, fault)),
                Some(EngineFault::Corrupt { .. }) if self.direction == Direction::Write => {
                    own.push((i, extent, fault))
                }
                Some(EngineFault::Fail { errno, after_moving: false }) => {
                    done.outcomes[i] = Err(self.failure(errno));
                    done.extents[i] = Some(extent);
                }
                _ => now.push((i, extent, fault)),
            }
        }
        let begun = self.submit(now);
        for (i, mut extent, fault) in own {
            done.outcomes[i] = match fault {
                Some(EngineFault::Short { bytes }) => self.move_plainly(&mut extent, bytes as usize, None),
                Some(EngineFault::Corrupt { bit }) => {
                    let bytes = extent.memory.bytes();
                    self.move_plainly(&mut extent, bytes, Some(bit))
                }
                _ => Err(Error::new(ErrorKind::Unexpected, "not a fault of the wrapper's own")),
            };
            done.extents[i] = Some(extent);
        }
        self.collect(begun, &mut done);
        if !later.is_empty() {
            std::thread::sleep(delay);
            self.collect(self.submit(later), &mut done);
        }
        done
    }

    fn submit(&self, operations: Vec<(usize, Extent, Option<EngineFault>)>) -> Begun {
        let marks = operations.iter().map(|(i, _, fault)| (*i, *fault)).collect();
        let extents = operations.into_iter().map(|(_, extent, _)| extent).collect();
        (marks, self.inner.submit(self.direction, extents))
    }

    fn collect(&self, (marks, transfer): Begun, done: &mut ExtentsDone) {
        let answer = transfer.wait();
        let answers = answer.outcomes.into_iter().zip(answer.extents);
        for ((i, fault), (outcome, extent)) in marks.into_iter().zip(answers) {
            done.outcomes[i] = outcome;
            done.extents[i] = extent;
            match fault {
                Some(EngineFault::Fail { errno, .. }) => done.outcomes[i] = Err(self.failure(errno)),
                Some(EngineFault::Corrupt { bit }) => {
                    if let Some(Err(error)) = done.extents[i].as_mut().map(|extent| turn_bit(extent, bit)) {
                        done.outcomes[i] = Err(error);
                    }
                }
                Some(EngineFault::Lost) => {
                    done.outcomes[i] =
                        Err(Error::new(ErrorKind::Abandoned, "the operation was lost on purpose"));
                    let extents = done.extents[i].take().into_iter().collect();
                    lock(&self.shared.lost).push(Held::Extents(extents));
                }
                _ => {}
            }
        }
    }

    fn failure(&self, errno: i32) -> Error {
        Error::io(self.direction.as_str(), "injected", std::io::Error::from_raw_os_error(errno))
    }

    /// Moves the first `bytes` bytes without the engine; of a write, bit `wrong` is turned over on the way.
    fn move_plainly(&self, extent: &mut Extent, bytes: usize, wrong: Option<u64>) -> Result<u64> {
        let (file, offset) = (Arc::clone(extent.file.file()), extent.offset);
        if self.direction == Direction::Read {
            let mut staging = vec![0; bytes];
            let count = read_part(&file, offset, &mut staging)?;
            copy_in(&mut extent.memory, 0, &staging[..count])?;
            return Ok(count as u64);
        }
        let mut staging = copy_out(&extent.memory, 0, bytes)?;
        if let Some(bit) = wrong {
            let bit = (bit % (bytes as u64 * 8)) as usize;
            staging[bit / 8] ^= 1 << (bit % 8);
        }
        file.write_all_at(&staging, offset).map_err(|source| Error::io("write", "the file", source))?;
        Ok(bytes as u64)
    }
}

type Begun = (Vec<(usize, Option<EngineFault>)>, Transfer<ExtentsDone>);

fn turn_bit(extent: &mut Extent, bit: u64) -> Result<()> {
    let bit = (bit % (extent.memory.bytes() as u64 * 8)) as usize;
    let byte = copy_out(&extent.memory, bit / 8, bit / 8 + 1)?[0] ^ 1 << (bit % 8);
    copy_in(&mut extent.memory, bit / 8, &[byte])
}
