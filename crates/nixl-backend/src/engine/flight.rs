//! Requests of an I/O thread: extents on their way in, and what comes back.

use std::sync::Arc;

use hicache_core::{Direction, Error, ErrorKind, Extent, Result};

use super::file::OpenFile;
use super::ranges::Ranges;
use crate::agent::BackendHandle;
use crate::memory::{FileRegistration, MemoryRegistration, MemoryType};
use crate::request::{Descriptor, Request};

/// Most descriptors in one request, unless one extent has more: small enough that reads and writes take turns.
pub(crate) const MOST_DESCRIPTORS: usize = 128;
/// Most bytes in one request. The library joins what lies side by side, and one system call moves less than 2 GiB.
pub(crate) const MOST_BYTES: usize = 256 << 20;

/// A file as one backend knows it.
pub(crate) struct KnownFile {
    pub(crate) open: Arc<OpenFile>,
    pub(crate) buffered: Option<Arc<FileRegistration>>,
    pub(crate) direct: Option<Arc<FileRegistration>>,
}

impl KnownFile {
    /// Makes the descriptors of `open` known: the direct one alone where the plugin takes no other.
    ///
    /// # Errors
    /// As the backend's.
    pub(crate) fn new(backend: &BackendHandle, open: Arc<OpenFile>, direct_only: bool) -> Result<Self> {
        let register = |file: &Arc<_>| backend.register_file(Arc::clone(file)).map(Arc::new);
        let buffered = if direct_only { None } else { Some(register(&open.buffered)?) };
        let direct = open.direct.as_ref().map(|direct| register(&direct.file)).transpose()?;
        Ok(Self { open, buffered, direct })
    }
}

/// Extents, each with its place in its batch.
pub(crate) type Placed = Vec<(usize, Extent)>;

/// Everything that must be there until a request has ended.
pub(crate) struct Kept {
    pub(crate) extents: Placed,
    _memory: Vec<Arc<MemoryRegistration>>,
    _files: Vec<Arc<FileRegistration>>,
}

/// A request that is being made up.
pub(crate) struct Load {
    kind: Option<MemoryType>,
    local: Vec<Descriptor>,
    remote: Vec<Descriptor>,
    extents: Placed,
    memory: Vec<Arc<MemoryRegistration>>,
    files: Vec<Arc<FileRegistration>>,
    bytes: usize,
    /// Extents in it that go past the page cache.
    direct: usize,
}

/// What came of an extent that was offered to a load.
pub(crate) enum Fit {
    /// Its descriptors are in the load, and the extent must follow by [`Load::put`].
    Fits,
    /// It goes with a later request.
    Later,
    /// It can't be done.
    Refused(Error),
}

impl Load {
    pub(crate) fn new() -> Self {
        Self {
            kind: None,
            local: Vec::new(),
            remote: Vec::new(),
            extents: Vec::new(),
            memory: Vec::new(),
            files: Vec::new(),
            bytes: 0,
            direct: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    pub(crate) fn descriptors(&self) -> usize {
        self.local.len()
    }

    /// Extents in it.
    pub(crate) fn len(&self) -> usize {
        self.extents.len()
    }

    /// Whether all of it goes past the page cache.
    pub(crate) fn is_direct(&self) -> bool {
        self.direct == self.extents.len()
    }

    /// Takes the descriptors of `extent`, if they are `room` at most and go with those that are there.
    pub(crate) fn offer(
        &mut self,
        extent: &Extent,
        file: &KnownFile,
        ranges: &Ranges<MemoryRegistration>,
        (room, depth): (usize, usize),
        buffered: bool,
    ) -> Fit {
        let pieces = extent.memory.pieces();
        let (kind, _) = MemoryType::of(pieces[0].lease().region().kind());
        let (before, memory) = (self.local.len(), self.memory.len());
        let described = pieces.iter().try_for_each(|piece| {
            let range = (piece.lease().address() as usize, piece.len());
            ranges.describe(piece.lease().region(), range, &mut self.local, &mut self.memory)
        });
        let added = self.local.len() - before;
        let joins = self.is_empty()
            || (self.kind == Some(kind)
                && self.local.len() <= MOST_DESCRIPTORS
                && self.bytes + extent.memory.bytes() <= MOST_BYTES);
        let verdict = match described {
            Err(error) => Fit::Refused(error),
            Ok(()) if added > depth => Fit::Refused(Error::config(format!(
                "an extent is {added} descriptors, and {depth} is the most in flight; raise depth and ios_pool_size"
            ))),
            Ok(()) if !joins || self.local.len() > room => Fit::Later,
            Ok(()) => match self.choose(file, extent.offset, before, buffered) {
                Some(registration) => {
                    self.add_remote(extent.offset, before, registration);
                    Fit::Fits
                }
                None => Fit::Refused(no_direct(file)),
            },
        };
        if !matches!(verdict, Fit::Fits) {
            self.local.truncate(before);
            self.memory.truncate(memory);
        }
        verdict
    }

    /// The descriptor by which the extent, whose local descriptors begin at `first`, gets at the file.
    fn choose<'f>(
        &mut self,
        file: &'f KnownFile,
        offset: u64,
        first: usize,
        buffered: bool,
    ) -> Option<&'f Arc<FileRegistration>> {
        let direct = file.direct.as_ref().filter(|_| {
            !(buffered && file.buffered.is_some()) && file.open.takes_direct(offset, &self.local[first..])
        });
        self.direct += usize::from(direct.is_some());
        direct.or(file.buffered.as_ref())
    }

    fn add_remote(&mut self, offset: u64, first: usize, registration: &Arc<FileRegistration>) {
        let mut at = offset as usize;
        for piece in &self.local[first..] {
            self.remote.push(Descriptor { address: at, bytes: piece.bytes, device: registration.device() });
            at += piece.bytes;
        }
        if !self.files.last().is_some_and(|last| Arc::ptr_eq(last, registration)) {
            self.files.push(Arc::clone(registration));
        }
    }

    /// Adds the extent whose descriptors were taken last.
    pub(crate) fn put(&mut self, position: usize, extent: Extent) {
        self.kind = Some(MemoryType::of(extent.memory.pieces()[0].lease().region().kind()).0);
        self.bytes += extent.memory.bytes();
        self.extents.push((position, extent));
    }

    /// Makes the request.
    ///
    /// # Errors
    /// As the library's; the extents come back.
    pub(crate) fn prepare(
        self,
        backend: &BackendHandle,
        direction: Direction,
    ) -> Result<Request<Kept>, (Error, Placed)> {
        let local = (self.kind.unwrap_or(MemoryType::Dram), self.local.as_slice());
        let remote = (MemoryType::File, self.remote.as_slice());
        let kept = Kept { extents: self.extents, _memory: self.memory, _files: self.files };
        // SAFETY: the extents keep their leases, which were checked to be for writing where this is a read; what both
        // sides are registered by is kept beside them.
        let request = unsafe { Request::prepare(backend, direction, local, remote, kept) };
        request.map_err(|(error, kept)| (error, kept.extents))
    }
}

fn no_direct(file: &KnownFile) -> Error {
    let reason = file.open.no_direct.as_deref().unwrap_or("the extent is not aligned to its blocks");
    let what = format!("the plugin takes direct I/O only, and {}: {reason}", file.open.path.display());
    Error::new(ErrorKind::Unsupported, what)
}
