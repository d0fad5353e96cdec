//! An engine for host memory that has each move done in memory of a device: so the conformance suite, which looks at bytes with
//! the CPU, tests an engine for device memory.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use async_trait::async_trait;
use hicache_core::{
    Access, Direction, Engine, EngineCapabilities, EngineFile, Error, ErrorKind, Extent, ExtentsDone,
    MemoryKind, OwnerId, PageMemory, Piece, Region, Registration, Result, Transfer,
};
use hicache_gds::staged::{Copier, CopyFailure, StagedCopy};

/// Allocates memory of the device.
pub(crate) type Allocate = dyn Fn(usize) -> Result<Arc<Region>> + Send + Sync;

/// The engine.
pub(crate) struct Mirror {
    owner: OwnerId,
    capabilities: EngineCapabilities,
    inner: Arc<dyn Engine>,
    copier: Arc<dyn Copier>,
    allocate: Box<Allocate>,
    running: Arc<Running>,
}

/// Batches that are under way.
#[derive(Default)]
struct Running {
    count: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Running {
    /// Takes no more, and waits for what is under way: on this thread, since it is a test's.
    fn end(&self) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        count.1 = true;
        while count.0 > 0 {
            count = self.changed.wait(count).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// In a registration: the same bytes on the device, registered with the engine that is tested.
struct Twin(Registration);

struct FileToken(EngineFile);

impl Mirror {
    pub(crate) fn new(inner: Arc<dyn Engine>, copier: Arc<dyn Copier>, allocate: Box<Allocate>) -> Self {
        let capabilities =
            EngineCapabilities { memory: vec![MemoryKind::Host], ..inner.capabilities().clone() };
        Self { owner: OwnerId::new(), capabilities, inner, copier, allocate, running: Arc::default() }
    }

    fn closed() -> Error {
        Error::new(ErrorKind::Closed, "the mirror is closed")
    }

    fn check_open(&self) -> Result<()> {
        let count = self.running.count.lock().unwrap_or_else(PoisonError::into_inner);
        if count.1 { Err(Self::closed()) } else { Ok(()) }
    }
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror").field("inner", &self.inner).finish_non_exhaustive()
    }
}

#[async_trait]
impl Engine for Mirror {
    fn capabilities(&self) -> &EngineCapabilities {
        &self.capabilities
    }

    fn register(&self, region: &Arc<Region>) -> Result<Registration> {
        self.check_open()?;
        let owned = (self.allocate)(region.bytes())?;
        let (base, kind) = (owned.base(), owned.kind());
        // SAFETY: the owner keeps the memory, which nobody else has; what is leased of it is what is leased of the host's.
        let twin = unsafe { Region::foreign(base, region.bytes(), kind, Box::new(owned)) }?;
        let twin = Twin(self.inner.register(&twin)?);
        Ok(Registration::new(self.owner, Arc::clone(region), Box::new(twin)))
    }

    fn attach(&self, file: Arc<File>, path: &Path) -> Result<EngineFile> {
        self.check_open()?;
        let inner = self.inner.attach(Arc::clone(&file), path)?;
        Ok(EngineFile::new(self.owner, file, Box::new(FileToken(inner))))
    }

    fn submit(&self, direction: Direction, extents: Vec<Extent>) -> Transfer<ExtentsDone> {
        let refusal = self.check_open().err();
        let checked: Vec<Result<()>> = extents
            .iter()
            .map(|extent| match &refusal {
                Some(error) => Err(error.clone()),
                None => extent.validate(direction, self.owner, &self.capabilities),
            })
            .collect();
        if checked.iter().all(Result::is_err) {
            let outcomes = checked.into_iter().map(|checked| checked.map(|()| 0)).collect();
            return Transfer::ready(ExtentsDone::new(outcomes, extents.into_iter().map(Some).collect()));
        }
        let (completion, transfer) = Transfer::channel(extents.len());
        self.running.count.lock().unwrap_or_else(PoisonError::into_inner).0 += 1;
        let (inner, copier) = (Arc::clone(&self.inner), Arc::clone(&self.copier));
        let running = Arc::clone(&self.running);
        std::thread::spawn(move || {
            let done = run(&*inner, &*copier, direction, extents, checked);
            drop(completion.answer(done));
            running.count.lock().unwrap_or_else(PoisonError::into_inner).0 -= 1;
            running.changed.notify_all();
        });
        transfer
    }

    async fn close(&self) -> Result<()> {
        self.running.end();
        self.inner.close().await
    }
}

/// Host to device, the move that is tested, device to host.
fn run(
    inner: &dyn Engine,
    copier: &dyn Copier,
    direction: Direction,
    extents: Vec<Extent>,
    checked: Vec<Result<()>>,
) -> ExtentsDone {
    let mut outcomes: Vec<Result<u64>> = checked.into_iter().map(|checked| checked.map(|()| 0)).collect();
    let good: Vec<usize> = (0..outcomes.len()).filter(|&position| outcomes[position].is_ok()).collect();
    let mirrored = good.iter().map(|&position| twin_of(&extents[position])).collect::<Result<Vec<Extent>>>();
    let result = mirrored.and_then(|mirrored| {
        // The bytes that a read leaves alone are the host's too.
        copy(copier, Direction::Read, good.iter().map(|&position| &extents[position]).zip(&mirrored))?;
        let done = inner.submit(direction, mirrored).wait();
        for (place, &position) in good.iter().enumerate() {
            outcomes[position] = done.outcomes[place].clone();
            if direction == Direction::Read
                && let Some(extent) = &done.extents[place]
            {
                copy(copier, Direction::Write, [(&extents[position], extent)])?;
            }
        }
        Ok(())
    });
    if let Err(error) = result {
        good.iter().for_each(|&position| outcomes[position] = Err(error.clone()));
    }
    ExtentsDone::new(outcomes, extents.into_iter().map(Some).collect())
}

/// The same extent in memory of the device.
fn twin_of(extent: &Extent) -> Result<Extent> {
    let unknown = || Error::new(ErrorKind::Unexpected, "memory or a file without its twin");
    let pieces = extent.memory.pieces().iter().map(|piece| {
        let twin = piece.registration().token::<Twin>().ok_or_else(unknown)?;
        let lease = piece.lease();
        // Two reads of one piece may be under way; both copy the same bytes there, so no byte changes.
        // SAFETY: the lease of the host's piece keeps everybody else from this range.
        unsafe { twin.0.piece_of_range(lease.offset(), lease.len(), Access::Write) }
    });
    let memory = PageMemory::from_pieces(pieces.collect::<Result<Vec<Piece>>>()?)?;
    let file = extent.file.token::<FileToken>().ok_or_else(unknown)?.0.clone();
    Ok(Extent { file, offset: extent.offset, memory })
}

fn copy<'a>(
    copier: &dyn Copier,
    direction: Direction,
    pairs: impl IntoIterator<Item = (&'a Extent, &'a Extent)>,
) -> Result<()> {
    let mut copies = Vec::new();
    for (host, device) in pairs {
        for (host, device) in host.memory.pieces().iter().zip(device.memory.pieces()) {
            let (staging, memory) = (host.lease().address(), device.lease().address());
            copies.push(StagedCopy { staging, memory, bytes: host.len() });
        }
    }
    // SAFETY: both extents' leases are held until this returns; after a loss the test has failed, and its process ends.
    unsafe { copier.lane()?.copy(direction, &copies) }.map_err(|failure| match failure {
        CopyFailure::Ended(error) | CopyFailure::Lost(error) => error,
    })
}
