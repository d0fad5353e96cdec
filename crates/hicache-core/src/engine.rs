//! Extents of open files: what hardware offers.

use std::any::Any;
use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use smallvec::SmallVec;

use crate::error::{Error, Result};
use crate::memory::{OwnerId, PageMemory, Registration};
use crate::region::{Access, MemoryKind, Region};
use crate::transfer::{Answer, Transfer};

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the file into memory; the memory is leased for writing.
    Read,
    /// From memory into the file; the memory is leased for reading or writing.
    Write,
}

impl Direction {
    /// `read` or `write`, for messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// When an engine knows that an operation is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Completes {
    /// Each operation by itself: the leases of each end by themselves.
    PerOperation,
    /// A request of several operations as a whole: all leases of the request end at its terminal status, one failure
    /// fails all, and the caller repeats a failed request page by page.
    PerRequest,
}

/// What an engine can and can't do. Callers ask; they don't assume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineCapabilities {
    /// Name of the engine, as `hicache probe` prints it.
    pub name: &'static str,
    /// Address, length and file offset of every piece must be multiples of this; 1 where anything goes. The page
    /// store stages what does not fit.
    pub alignment: usize,
    /// Most pieces of memory in one extent; the page store stages pages of more.
    pub max_pieces: usize,
    /// Most bytes in one extent.
    pub max_extent_bytes: u64,
    /// Pieces that the engine keeps in flight; more are queued by it, in order.
    pub max_in_flight: usize,
    /// Kinds of memory that it moves; for devices any ordinal stands for all.
    pub memory: Vec<MemoryKind>,
    /// When it knows that an operation is done.
    pub completes: Completes,
    /// Whether outcomes carry the count that the device reported. Where not, checksums can't be turned off.
    pub reports_lengths: bool,
    /// Whether the engine, when an operation is lost, can prove that nothing is in flight any more. One that can't
    /// must be given memory of ours to read into, never a caller's.
    pub proves_idle: bool,
}

impl EngineCapabilities {
    /// Whether memory of `kind` can be moved.
    pub fn moves(&self, kind: MemoryKind) -> bool {
        self.memory.iter().any(|own| match (own, kind) {
            (MemoryKind::Device(_), MemoryKind::Device(_)) => true,
            (own, kind) => *own == kind,
        })
    }
}

/// A file that an engine has opened its own way (direct, registered, by handle); undone when the last clone is gone.
#[derive(Clone)]
pub struct EngineFile(Arc<Attached>);

struct Attached {
    owner: OwnerId,
    // Before `file`: the engine forgets the file before it is closed.
    token: Box<dyn Any + Send + Sync>,
    file: Arc<File>,
}

impl EngineFile {
    /// For engines: ties what they know of `file` to it.
    pub fn new(owner: OwnerId, file: Arc<File>, token: Box<dyn Any + Send + Sync>) -> Self {
        Self(Arc::new(Attached { owner, token, file }))
    }

    /// Which engine made it.
    pub fn owner(&self) -> OwnerId {
        self.0.owner
    }

    /// Whether the two are clones of one another.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The file as it was attached, opened for buffered reading and writing.
    pub fn file(&self) -> &Arc<File> {
        &self.0.file
    }

    /// What the engine knows of it, if it is a `T`.
    pub fn token<T: Any>(&self) -> Option<&T> {
        self.0.token.downcast_ref()
    }
}

impl fmt::Debug for EngineFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineFile").field("owner", &self.0.owner).field("file", &self.0.file).finish()
    }
}

/// One operation: these pieces of memory, in order, to or from this offset of this file. Its length is the sum of the
/// pieces' lengths.
#[derive(Debug)]
pub struct Extent {
    /// The file.
    pub file: EngineFile,
    /// First byte in the file.
    pub offset: u64,
    /// The memory, registered with the engine.
    pub memory: PageMemory,
}

impl Extent {
    /// What every engine checks before it takes an extent.
    ///
    /// # Errors
    /// `Config` for a file or memory of another owner, a read into memory that is leased for reading, an offset that
    /// overflows, and what the capabilities exclude.
    pub fn validate(
        &self,
        direction: Direction,
        owner: OwnerId,
        capabilities: &EngineCapabilities,
    ) -> Result<()> {
        if self.file.owner() != owner || self.memory.owner() != owner {
            return Err(Error::config("the file or the memory of an extent belongs to another engine"));
        }
        if direction == Direction::Read && self.memory.access() != Access::Write {
            return Err(Error::config("a read needs memory leased for writing"));
        }
        let bytes = self.memory.bytes() as u64;
        if self.offset.checked_add(bytes).is_none_or(|end| end > i64::MAX as u64) {
            return Err(Error::config(format!(
                "{bytes} bytes at offset {} are beyond any file",
                self.offset
            )));
        }
        if bytes > capabilities.max_extent_bytes || self.memory.pieces().len() > capabilities.max_pieces {
            return Err(Error::config(format!(
                "an extent of {bytes} bytes in {} pieces is over the engine's {} bytes and {} pieces",
                self.memory.pieces().len(),
                capabilities.max_extent_bytes,
                capabilities.max_pieces
            )));
        }
        if let Some(piece) =
            self.memory.pieces().iter().find(|piece| !capabilities.moves(piece.lease().region().kind()))
        {
            return Err(Error::config(format!(
                "{} does not move memory of {:?}",
                capabilities.name,
                piece.lease().region().kind()
            )));
        }
        if !self.is_aligned(capabilities.alignment) {
            return Err(Error::config(format!(
                "the engine needs pieces aligned to {} bytes",
                capabilities.alignment
            )));
        }
        Ok(())
    }

    /// Whether offset, addresses and lengths are multiples of `alignment`.
    pub fn is_aligned(&self, alignment: usize) -> bool {
        self.offset.is_multiple_of(alignment as u64)
            && self.memory.pieces().iter().all(|piece| {
                (piece.lease().address() as usize).is_multiple_of(alignment)
                    && piece.len().is_multiple_of(alignment)
            })
    }
}

/// A CRC-64/NVMe for each piece of an extent.
pub type PieceSums = SmallVec<[u64; 8]>;

/// The answer to a batch of extents, in the order of the batch.
#[derive(Debug)]
pub struct ExtentsDone {
    /// Bytes moved, or why not. Engines resubmit short results, so a count below the extent's length means the end
    /// of the file (a read) or that the device takes no more (a write): callers compare it.
    pub outcomes: Vec<Result<u64>>,
    /// The extents, with their leases; `None` where the operation was lost and its memory may still be in use.
    pub extents: Vec<Option<Extent>>,
    /// What an engine that had a read's bytes in hand as they arrived has summed, for whoever would go over the memory
    /// again: of an extent that was read whole, a sum for each piece. Empty, or `None`, where there is nothing.
    pub sums: Vec<Option<PieceSums>>,
}

impl ExtentsDone {
    /// An answer without sums.
    pub fn new(outcomes: Vec<Result<u64>>, extents: Vec<Option<Extent>>) -> Self {
        Self { outcomes, extents, sums: Vec::new() }
    }
}

impl Answer for ExtentsDone {
    fn abandoned(len: usize) -> Self {
        let error = Error::new(crate::ErrorKind::Abandoned, "the engine lost the operation");
        Self::new((0..len).map(|_| Err(error.clone())).collect(), (0..len).map(|_| None).collect())
    }
}

/// Moves extents between files and registered memory.
///
/// # Contract
/// - [`Engine::submit`] returns at once. It takes the leases; each comes back in the answer when the device has
///   finished with *that* memory, and not before. Dropping the transfer changes nothing.
/// - A batch is answered once, when all of its operations have ended. Operations of a batch have no order.
/// - An extent that fails [`Extent::validate`] is answered with that error; the others go on.
/// - After [`Engine::close`] every submit is answered `Closed`, and registrations and files that are dropped later are
///   already undone.
/// - Dropping a registration or a file never blocks. What is left to do is queued, with the memory or the descriptor in
///   it, so both live until the device has forgotten them.
/// - A region may be registered twice, or inside another one: views into one pool do both.
/// - A worker that fails neither answers nor drops what is in flight before it is known that nothing moves any more.
/// - Engines whose device tells no cause report `Io` where others say `NoSpace`; callers rely on neither.
#[async_trait]
pub trait Engine: Send + Sync + fmt::Debug + 'static {
    /// What it can do; constant for the life of the engine.
    fn capabilities(&self) -> &EngineCapabilities;

    /// Makes memory known to the device. Once a region, before its first transfer. May block for as long as an
    /// operation that is in flight: not for executor threads.
    ///
    /// # Errors
    /// `Unsupported` for a kind of memory that the engine does not move, `Closed`.
    fn register(&self, region: &Arc<Region>) -> Result<Registration>;

    /// Makes a file known to the device; may block, as [`Engine::register`]. `path` is for engines that open by name and for messages; the file may be
    /// gone from there.
    ///
    /// # Errors
    /// `Io`, `Closed`.
    fn attach(&self, file: Arc<File>, path: &Path) -> Result<EngineFile>;

    /// Moves the extents. An empty batch is answered at once.
    fn submit(&self, direction: Direction, extents: Vec<Extent>) -> Transfer<ExtentsDone>;

    /// CRC-64/NVMe of a page, as [`PageMemory::checksum`]; of memory of a device too where the engine moves that. Blocks until the
    /// device has done its part.
    ///
    /// # Errors
    /// `Config` for device memory that the engine can't read, and what the device reports.
    fn checksum(&self, memory: &PageMemory) -> Result<u64> {
        memory.checksum()
    }

    /// Stops intake, drains what is in flight, and frees what the engine holds.
    ///
    /// # Errors
    /// What the device reports; the engine is closed all the same.
    async fn close(&self) -> Result<()>;
}

const _: Option<&dyn Engine> = None; // The trait is dyn-compatible.
