//! Pages in memory of a GPU through an engine that moves them and can't look at them, as NIXL's GDS plugins do.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use hicache_core::{
    Access, Backend, Block, Check, CopyBatch, CopyPlan, Device, Direction, Engine, EngineCapabilities,
    EngineFile, Error, ErrorKind, Extent, ExtentsDone, MemoryKind, PageCopy, PageLeases, PageMemory, Place,
    Region, Registration, Result, Stream, Transfer, hashing,
};
use hicache_gds::staged::Sums;
use hicache_gds::{Context, Cuda, CudaCopier, CudaDevice, DeviceChecksums};

use crate::config::Config;
use crate::gpu::device_checksums;

/// Bytes of a page of [`round_trip`].
const PAGE: usize = 64 << 10;
/// Pages of it; they differ.
const PAGES: usize = 2;

/// Opens the engine of `backend` for pages in memory of `device`.
pub(crate) fn open_engine(backend: &dyn Backend, device: u32, config: &Config) -> Result<Arc<dyn Engine>> {
    let context = Cuda::load()?.context(device)?;
    // cuFile's driver is opened where a context is.
    let _bound = context.bind()?;
    Ok(Arc::new(Summed::new(backend.open_engine()?, &context, device_checksums(config.settings()))))
}

/// An engine whose pages in memory of a GPU are summed as those of the backend `gds` are: by a kernel, or by way of pinned memory
/// of the host.
/// All else is the engine's own.
#[derive(Debug)]
pub struct Summed {
    inner: Arc<dyn Engine>,
    device: u32,
    sums: Sums,
}

impl Summed {
    /// `inner`, which is closed with it, for memory of the host and of the device of `context`.
    pub fn new(inner: Arc<dyn Engine>, context: &Arc<Context>, checksums: DeviceChecksums) -> Self {
        let sums = Sums::new(Arc::new(CudaCopier::new(Arc::clone(context))), checksums);
        Self { inner, device: context.ordinal(), sums }
    }

    fn refuse(&self, what: &str) -> Error {
        Error::new(ErrorKind::Unsupported, what).with_backend(self.inner.capabilities().name)
    }
}

#[async_trait]
impl Engine for Summed {
    fn capabilities(&self) -> &EngineCapabilities {
        self.inner.capabilities()
    }

    fn register(&self, region: &Arc<Region>) -> Result<Registration> {
        if let MemoryKind::Device(other) = region.kind() {
            if other != self.device {
                let what =
                    format!("memory of device {other}; the pages are in that of device {}", self.device);
                return Err(self.refuse(&what));
            }
            // It would go through staging memory, which is the host's, and nothing copies between the two.
            if region.is_foreign() && !self.capabilities().proves_idle {
                let what = "memory that somebody else allocated on the device: this engine can't prove that nothing moves \
                            in it any more; take nixl:GDS_MT from NIXL 1.5.0 on, or gds";
                return Err(self.refuse(what));
            }
        }
        self.inner.register(region)
    }

    fn attach(&self, file: Arc<File>, path: &Path) -> Result<EngineFile> {
        self.inner.attach(file, path)
    }

    fn submit(&self, direction: Direction, extents: Vec<Extent>) -> Transfer<ExtentsDone> {
        self.inner.submit(direction, extents)
    }

    fn checksum(&self, memory: &PageMemory) -> Result<u64> {
        self.sums.sum(memory)
    }

    async fn close(&self) -> Result<()> {
        let closed = self.inner.close().await;
        self.sums.end().await;
        closed
    }
}

/// Moves two pages between memory of the device and a file through `engine`, and compares every byte, once it is back in memory of
/// the host, and the engine's sums. The caller makes the file (empty, readable and writable) and removes it.
///
/// # Errors
/// What went wrong first; the message says at which step.
pub async fn round_trip(
    engine: &dyn Engine,
    context: &Arc<Context>,
    file: Arc<File>,
    path: &Path,
) -> Result<Check> {
    let table = Table::new(context)?;
    let registration = engine.register(&table.device)?;
    let file = engine.attach(file, path)?;
    for page in 0..PAGES {
        table.put(page, |i| byte(page, i)).await?;
        // So that what was there before is not taken for what was read.
        table.put(PAGES + page, |_| 0x5a).await?;
    }
    let extent = |slot: usize, page: usize, access| -> Result<Extent> {
        let memory = registration.page(slot, PAGE, access)?;
        Ok(Extent { file: file.clone(), offset: (page * PAGE) as u64, memory })
    };
    // In one batch, so that an engine that mixes offsets up is found out, and read in the other order.
    let written: Result<_> = (0..PAGES).map(|page| extent(page, page, Access::Read)).collect();
    complete(engine.submit(Direction::Write, written?).await, "write")?;
    let read: Result<_> =
        (0..PAGES).map(|page| extent(PAGES + page, PAGES - 1 - page, Access::Write)).collect();
    complete(engine.submit(Direction::Read, read?).await, "read")?;
    for page in 0..PAGES {
        let (slot, expected) = (PAGES + page, PAGES - 1 - page);
        table.expect(slot, |i| byte(expected, i)).await?;
        let bytes: Vec<u8> = (0..PAGE).map(|i| byte(expected, i)).collect();
        let sum = engine.checksum(&registration.page(slot, PAGE, Access::Read)?)?;
        if sum != hashing::checksum(&bytes) {
            return Err(Error::new(ErrorKind::Corrupt, "the checksum of a page on the device is wrong"));
        }
    }
    Ok(Check::passed("write, read, compare", format!("{PAGES} pages of {PAGE} bytes of the device")))
}

/// Byte `i` of page `page`.
fn byte(page: usize, i: usize) -> u8 {
    (i as u8) ^ ((i >> 8) as u8) ^ (page as u8 + 1).wrapping_mul(37)
}

fn complete(done: ExtentsDone, operation: &'static str) -> Result<()> {
    for outcome in done.outcomes {
        let bytes = outcome?;
        if bytes != PAGE as u64 {
            return Err(Error::new(ErrorKind::Io, "short transfer")
                .with_operation(operation)
                .with_bytes(PAGE as u64, bytes));
        }
    }
    match done.extents.iter().all(Option::is_some) {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::Abandoned, "an operation was lost").with_operation(operation)),
    }
}

/// Memory of the device, and of the host a page to look at it through.
struct Table {
    device: Arc<Region>,
    host: Arc<Region>,
    stream: Arc<dyn Stream>,
}

impl Table {
    fn new(context: &Arc<Context>) -> Result<Self> {
        Ok(Self {
            device: context.allocate(1, 2 * PAGES, PAGE)?,
            host: context.allocate_pinned(1, 1, PAGE)?,
            stream: CudaDevice::new(Arc::clone(context)).stream("probe")?,
        })
    }

    async fn put(&self, slot: usize, fill: impl Fn(usize) -> u8) -> Result<()> {
        let mut host = self.host.lease(0, 0, PAGE, Access::Write)?;
        host.bytes_mut()?.iter_mut().enumerate().for_each(|(i, byte)| *byte = fill(i));
        drop(host);
        self.copy((&self.host, 0), (&self.device, slot)).await
    }

    async fn expect(&self, slot: usize, fill: impl Fn(usize) -> u8) -> Result<()> {
        self.copy((&self.device, slot), (&self.host, 0)).await?;
        let host = self.host.lease(0, 0, PAGE, Access::Read)?;
        match host.bytes()?.iter().enumerate().position(|(i, &byte)| byte != fill(i)) {
            None => Ok(()),
            Some(at) => {
                let message = format!("byte {at} that was read is not the one that was written");
                Err(Error::new(ErrorKind::Corrupt, message))
            }
        }
    }

    async fn copy(&self, from: (&Arc<Region>, usize), to: (&Arc<Region>, usize)) -> Result<()> {
        let leased = |(region, slot): (&Arc<Region>, usize), access| -> Result<PageLeases> {
            Ok(PageLeases::from_iter([region.lease(slot, 0, PAGE, access)?]))
        };
        let place = Place { buffer: 0, offset: 0, strides: [0, 0] };
        let block = Block { from: place, to: place, bytes: PAGE, counts: [1, 1] };
        let plan = Arc::new(CopyPlan::new(vec![vec![block]], vec![PAGE], vec![PAGE])?);
        let pages = vec![PageCopy { from: leased(from, Access::Read)?, to: leased(to, Access::Write)? }];
        let done = self.stream.copy(CopyBatch { pages, plan, step_done: None }).await;
        done.outcomes.into_iter().collect()
    }
}
