//! Runs the kernel.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use std::fmt;
use std::slice;
use std::sync::Arc;

use hicache_core::{Access, Error, ErrorKind, Lease, MemoryKind, PageMemory, Region, Result, hashing};

use super::parts::{Part, cut, powers, table};
use crate::GDS;
use crate::cuda::copies::Copying;
use crate::cuda::kernels::Kernels;
use crate::cuda::{Context, Queue, RawCopy};
use crate::staged::CopyFailure;

/// Bytes of a part: enough threads for a page, each with some hundred steps.
const PART_BYTES: u32 = 1024;
/// Parts of one launch, without those of the tables.
const MOST_PARTS: usize = 1 << 14;
/// Bytes of the two tables.
const TABLES: usize = (256 + 64) * 8;
/// Parts of the tables.
const TABLE_PARTS: usize = TABLES.div_ceil(PART_BYTES as usize);

/// Sums pages that lie in memory of one device, or in pinned memory.
///
/// Once the driver has lost a sum, nobody knows whether the kernel still reads: the pages of that sum, and what the kernel works
/// with, are then never used again, and whoever wants more sums makes another.
///
/// The tables are summed with every launch, as one more page: where that sum is not the known one, a kernel that the driver says
/// has ended did not do its work, and none of the sums counts.
pub struct Summer(Option<Working>);

/// Sums of pages, and their memory.
#[derive(Debug)]
pub struct Summed {
    /// A sum for each page.
    pub sums: Result<Vec<u64>>,
    /// The pages, or nothing where the device may still read them.
    pub pages: Option<Vec<PageMemory>>,
}

/// What the kernel works with.
struct Working {
    context: Arc<Context>,
    kernels: Arc<Kernels>,
    queue: Queue,
    /// The tables, on the device.
    tables: Lease,
    /// The checksum of the tables.
    known: u64,
    /// The list of parts, pinned.
    parts: Lease,
    /// The sums, on the device, where adding to them is cheap.
    device_sums: Lease,
    /// The sums, pinned.
    sums: Lease,
}

impl Summer {
    /// Loads the kernel and its tables.
    ///
    /// # Errors
    /// What the driver answers.
    pub fn new(context: &Arc<Context>) -> Result<Self> {
        Self::with(context, Arc::new(Kernels::load(context)?))
    }

    /// With kernels that are loaded: several may use them at one time.
    pub(super) fn with(context: &Arc<Context>, kernels: Arc<Kernels>) -> Result<Self> {
        let mut working = Working::new(context, kernels)?;
        match working.fill_tables() {
            Ok(()) => Ok(Self(Some(working))),
            Err(CopyFailure::Ended(error)) => Err(error),
            Err(CopyFailure::Lost(error)) => {
                std::mem::forget(working);
                Err(error)
            }
        }
    }

    /// CRC-64/NVMe of each page over its pieces in order, as [`PageMemory::checksum`] has it of host memory. Blocks until the
    /// device has done it; the pages come back then.
    ///
    /// Its `sums` are an error of kind `Config` for memory of another device, or of the host that is not pinned; `Abandoned` where
    /// the driver does not say that the kernel has ended; `Unexpected` where it says so and the kernel has not worked; else what
    /// the driver answers.
    pub fn sum(&mut self, pages: Vec<PageMemory>) -> Summed {
        match self.attempt(&pages) {
            Ok(sums) => Summed { sums: Ok(sums), pages: Some(pages) },
            Err(CopyFailure::Ended(error)) => Summed { sums: Err(error), pages: Some(pages) },
            Err(CopyFailure::Lost(error)) => {
                // For ever: the kernel may still read them.
                std::mem::forget(pages);
                tracing::error!(%error, "the memory that it was of is not used again");
                Summed { sums: Err(error), pages: None }
            }
        }
    }

    /// As [`Summer::sum`], of a page that stays with its owner. After a loss the memory of the page is never freed; but its lease
    /// ends, and it may be written while the kernel still reads: nobody sees what that makes of the sum.
    pub(super) fn sum_borrowed(&mut self, page: &PageMemory) -> Result<u64> {
        match self.attempt(slice::from_ref(page)) {
            Ok(sums) => sums.first().copied().ok_or_else(|| {
                Error::new(ErrorKind::Unexpected, "a page was summed to nothing").with_backend(GDS)
            }),
            Err(CopyFailure::Ended(error)) => Err(error),
            Err(CopyFailure::Lost(error)) => {
                let regions = page.pieces().iter().map(|piece| Arc::clone(piece.lease().region()));
                std::mem::forget(regions.collect::<Vec<Arc<Region>>>());
                Err(error)
            }
        }
    }

    /// After a loss nothing that the kernel works with is used again; what becomes of the pages is the caller's to see to.
    fn attempt(&mut self, pages: &[PageMemory]) -> Result<Vec<u64>, CopyFailure> {
        let Some(working) = &mut self.0 else {
            let message = "an earlier sum was lost in the device, with what it was summed with";
            return Err(Error::new(ErrorKind::Closed, message).with_backend(GDS).into());
        };
        // Where nothing can be begun nothing is lost either: in a forked child, say.
        working.context.bind().map(drop)?;
        working.sum(pages).map_err(|failure| match failure {
            CopyFailure::Lost(error) => {
                // For ever: the kernel may still read the list of parts, and write the sums.
                std::mem::forget(self.0.take());
                let message = format!("a sum was lost: {error}");
                CopyFailure::Lost(Error::new(ErrorKind::Abandoned, message).with_backend(GDS))
            }
            ended => ended,
        })
    }
}

impl Working {
    fn new(context: &Arc<Context>, kernels: Arc<Kernels>) -> Result<Self> {
        let queue = Queue::new(context)?;
        let lease = |region: Arc<Region>, bytes| region.lease(0, 0, bytes, Access::Write);
        let tables = lease(context.allocate(1, 1, TABLES)?, TABLES)?;
        let parts_bytes = (MOST_PARTS + TABLE_PARTS) * size_of::<Part>();
        let parts = lease(context.allocate_pinned(1, 1, parts_bytes)?, parts_bytes)?;
        let sums_bytes = (MOST_PARTS + 1) * 8;
        let sums = lease(context.allocate_pinned(1, 1, sums_bytes)?, sums_bytes)?;
        let device_sums = lease(context.allocate(1, 1, sums_bytes)?, sums_bytes)?;
        Ok(Self { context: Arc::clone(context), kernels, queue, tables, known: 0, parts, device_sums, sums })
    }

    fn fill_tables(&mut self) -> Result<(), CopyFailure> {
        let numbers = table().into_iter().chain(powers());
        let bytes = self.parts.bytes_mut()?;
        for (place, number) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(numbers) {
            *place = number.to_ne_bytes();
        }
        self.known = hashing::checksum(&bytes[..TABLES]);
        let (from, to) = (self.parts.address() as u64, self.tables.address() as u64);
        // SAFETY: both are leased for writing until the stream is past the copy, or for ever.
        let queued =
            unsafe { Copying::one_by_one().queue(&self.queue, &[RawCopy { from, to, bytes: TABLES }]) };
        self.ended(queued)
    }

    /// What was queued, once nothing of it moves any more.
    fn ended(&self, queued: Result<()>) -> Result<(), CopyFailure> {
        // Also after a failure: a part of it may be queued.
        self.queue.synchronize().map_err(CopyFailure::Lost)?;
        Ok(queued?)
    }

    fn sum(&mut self, pages: &[PageMemory]) -> Result<Vec<u64>, CopyFailure> {
        let mut sums = Vec::with_capacity(pages.len());
        let mut parts = Vec::new();
        let mut from = 0;
        for (number, page) in pages.iter().enumerate() {
            self.check(page)?;
            let before = parts.len();
            let pieces: Vec<(u64, usize)> =
                page.pieces().iter().map(|piece| (piece.lease().address() as u64, piece.len())).collect();
            // Pages so long that their parts are too many for one launch have longer parts.
            let most = (page.bytes() / (MOST_PARTS / 2)).max(PART_BYTES as usize);
            cut((number - from) as u32, &pieces, u32::try_from(most).unwrap_or(u32::MAX), &mut parts);
            if parts.len() > MOST_PARTS && before > 0 {
                let mut own = parts.split_off(before);
                self.launch(&parts, number - from, &mut sums)?;
                own.iter_mut().for_each(|part| part.page = 0);
                (parts, from) = (own, number);
            }
        }
        self.launch(&parts, pages.len() - from, &mut sums)?;
        Ok(sums)
    }

    fn check(&self, page: &PageMemory) -> Result<()> {
        let own = MemoryKind::Device(self.context.ordinal());
        let reachable = |kind: MemoryKind| kind == own || kind == MemoryKind::PinnedHost;
        match page.pieces().iter().map(|piece| piece.lease().region().kind()).find(|kind| !reachable(*kind)) {
            None => Ok(()),
            Some(kind) => {
                Err(Error::config(format!("memory of {kind:?} can't be summed by {own:?}")).with_backend(GDS))
            }
        }
    }

    fn launch(&mut self, parts: &[Part], pages: usize, sums: &mut Vec<u64>) -> Result<(), CopyFailure> {
        if parts.is_empty() {
            return Ok(());
        }
        if parts.len() > MOST_PARTS || pages > MOST_PARTS {
            let message = format!("a page in {} pieces is too many", parts.len());
            return Err(Error::config(message).with_backend(GDS).into());
        }
        let mut known = Vec::with_capacity(TABLE_PARTS);
        cut(pages as u32, &[(self.tables.address() as u64, TABLES)], PART_BYTES, &mut known);
        let places = self.parts.bytes_mut()?.as_chunks_mut::<{ size_of::<Part>() }>().0;
        for (place, part) in places.iter_mut().zip(parts.iter().chain(&known)) {
            let numbers =
                [part.address, part.after, part.seed, u64::from(part.bytes) | u64::from(part.page) << 32];
            for (place, number) in place.as_chunks_mut::<8>().0.iter_mut().zip(numbers) {
                *place = number.to_le_bytes();
            }
        }
        // One for the tables.
        let bytes = (pages + 1) * 8;
        self.sums.bytes_mut()?[..bytes].fill(0);
        let (tables, parts_at) = (self.tables.address() as u64, self.parts.address() as u64);
        let (host, device) = (self.sums.address() as u64, self.device_sums.address() as u64);
        let copying = Copying::one_by_one();
        // SAFETY: the list, the tables and the sums are leased for as long as this lives, and nobody touches them before the
        // stream is past the launch; the pages are leased, and only read. All of it is held until then: this is where the stream
        // is waited for. Where it can't be, `Summer` keeps what the kernel works with, and the pages' memory, for ever.
        let launched = unsafe {
            let zeros = RawCopy { from: host, to: device, bytes };
            let results = RawCopy { from: device, to: host, bytes };
            copying
                .queue(&self.queue, &[zeros])
                .and_then(|()| {
                    let count = (parts.len() + known.len()) as u32;
                    self.kernels.sum_parts(&self.queue, parts_at, count, tables, tables + 256 * 8, device)
                })
                .and_then(|()| copying.queue(&self.queue, &[results]))
        };
        self.ended(launched)?;
        let words = self.sums.bytes()?.as_chunks::<8>().0.iter().take(pages + 1);
        let seen: Vec<u64> = words.map(|word| !u64::from_ne_bytes(*word)).collect();
        match seen.split_last() {
            Some((known, of_pages)) if *known == self.known => sums.extend(of_pages),
            _ => {
                let message =
                    "the kernel that sums did not sum what is known; the driver says that it has ended";
                return Err(Error::new(ErrorKind::Unexpected, message).with_backend(GDS).into());
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Summer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let context = self.0.as_ref().map(|working| &working.context);
        f.debug_struct("Summer").field("context", &context).finish_non_exhaustive()
    }
}
