//! Where the bytes of a page are: pieces of registered memory.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use smallvec::SmallVec;

use crate::error::{Error, Result};
use crate::region::{Access, Lease, Region};

/// Tells whose registration, or whose file, something is. Every engine and every storage takes one when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OwnerId(u64);

impl OwnerId {
    /// An id that no other owner of this process has.
    #[expect(clippy::new_without_default, reason = "a default that differs each time would surprise")]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// A region made known to an engine or a storage: what the device needs to know of it (a buffer index, a key, a
/// handle), undone when the last clone and the last lease through it are gone.
#[derive(Clone)]
pub struct Registration(Arc<Registered>);

struct Registered {
    owner: OwnerId,
    // Before `region`, since fields drop in order: the memory is made unknown before it is freed.
    token: Box<dyn Any + Send + Sync>,
    region: Arc<Region>,
}

impl Registration {
    /// For engines and storages: ties what they know of `region` to it. `token`'s drop undoes the registration.
    pub fn new(owner: OwnerId, region: Arc<Region>, token: Box<dyn Any + Send + Sync>) -> Self {
        Self(Arc::new(Registered { owner, token, region }))
    }

    /// Who made it.
    pub fn owner(&self) -> OwnerId {
        self.0.owner
    }

    /// The memory.
    pub fn region(&self) -> &Arc<Region> {
        &self.0.region
    }

    /// What the owner knows of it, if it is a `T`.
    pub fn token<T: Any>(&self) -> Option<&T> {
        self.0.token.downcast_ref()
    }

    /// A page of `bytes` bytes in one slot of our own memory.
    ///
    /// # Errors
    /// As [`Region::lease`].
    pub fn page(&self, slot: usize, bytes: usize, access: Access) -> Result<PageMemory> {
        Ok(PageMemory::new(self.piece(slot, 0, bytes, access)?))
    }

    /// A piece of one slot of our own memory.
    ///
    /// # Errors
    /// As [`Region::lease`]; `Config` for memory of several planes, of which a slot is no single piece.
    pub fn piece(&self, slot: usize, offset: usize, bytes: usize, access: Access) -> Result<Piece> {
        if self.region().planes() > 1 {
            return Err(Error::config(format!(
                "the region has {} planes, and a piece lies in one; copy the page to a region of one plane",
                self.region().planes()
            )));
        }
        let lease = self.region().lease(slot, offset, bytes, access)?;
        Ok(Piece { lease, registration: self.clone() })
    }

    /// A piece of foreign memory.
    ///
    /// # Safety
    /// As [`Region::lease_range`].
    ///
    /// # Errors
    /// As [`Region::lease_range`].
    pub unsafe fn piece_of_range(&self, offset: usize, bytes: usize, access: Access) -> Result<Piece> {
        // SAFETY: the caller makes the same promise.
        let lease = unsafe { self.region().lease_range(offset, bytes, access) }?;
        Ok(Piece { lease, registration: self.clone() })
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("owner", &self.0.owner).field("region", &self.0.region).finish()
    }
}

/// A leased part of registered memory.
#[derive(Debug)]
pub struct Piece {
    // Before `registration`: the lease ends before the memory can be made unknown.
    lease: Lease,
    registration: Registration,
}

impl Piece {
    /// The lease.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The bytes, to be changed. There is no `&mut Lease` to be had: safe code could swap it for another one, and the
    /// device would then write where nobody let it.
    ///
    /// # Errors
    /// As [`Lease::bytes_mut`].
    pub fn bytes_mut(&mut self) -> Result<&mut [u8]> {
        self.lease.bytes_mut()
    }

    /// The registration of its region.
    pub fn registration(&self) -> &Registration {
        &self.registration
    }

    /// The same lease under the registration that another owner has of the same region: a storage hands a caller's
    /// piece to its engine so.
    ///
    /// # Errors
    /// `Unexpected`, with the piece lost, if the registration is of another region.
    pub fn with_registration(self, registration: &Registration) -> Result<Self> {
        if !Arc::ptr_eq(registration.region(), self.lease.region()) {
            return Err(Error::new(
                crate::ErrorKind::Unexpected,
                "a piece was given another region's registration",
            ));
        }
        Ok(Self { lease: self.lease, registration: registration.clone() })
    }

    /// Length in bytes; never 0.
    pub fn len(&self) -> usize {
        self.lease.len()
    }

    /// Always false: empty leases are refused.
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// The memory of one page: its pieces in order. One page is one extent on disk, and its checksum runs over the pieces
/// in order, so K and V, or the layers of a page, need not lie side by side.
#[derive(Debug)]
pub struct PageMemory {
    pieces: SmallVec<[Piece; 2]>,
}

impl PageMemory {
    /// A page in one piece.
    pub fn new(piece: Piece) -> Self {
        Self { pieces: SmallVec::from_iter([piece]) }
    }

    /// A page in several pieces.
    ///
    /// # Errors
    /// `Config` if there is none, if their accesses differ, or if their registrations have different owners.
    pub fn from_pieces(pieces: impl IntoIterator<Item = Piece>) -> Result<Self> {
        let pieces: SmallVec<[Piece; 2]> = pieces.into_iter().collect();
        let Some(first) = pieces.first() else {
            return Err(Error::config("a page needs at least one piece of memory"));
        };
        if pieces.iter().any(|piece| piece.lease.access() != first.lease.access()) {
            return Err(Error::config("all pieces of a page must be leased for the same access"));
        }
        if pieces.iter().any(|piece| piece.registration.owner() != first.registration.owner()) {
            return Err(Error::config("all pieces of a page must be registered with the same owner"));
        }
        Ok(Self { pieces })
    }

    /// Puts the pieces of `next` behind those of this page. Gives `next` back if its access or its owner is another.
    pub fn append(&mut self, next: Self) -> Option<Self> {
        if next.access() != self.access() || next.owner() != self.owner() {
            return Some(next);
        }
        self.pieces.extend(next.pieces);
        None
    }

    /// The pieces in order; never empty.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The bytes of each piece in order, to be changed.
    ///
    /// # Errors
    /// Each as [`Lease::bytes_mut`].
    pub fn bytes_mut(&mut self) -> impl Iterator<Item = Result<&mut [u8]>> {
        self.pieces.iter_mut().map(Piece::bytes_mut)
    }

    /// Takes the pieces out.
    pub fn into_pieces(self) -> SmallVec<[Piece; 2]> {
        self.pieces
    }

    /// Length of the page in bytes.
    pub fn bytes(&self) -> usize {
        self.pieces.iter().map(Piece::len).sum()
    }

    /// What the leases allow.
    pub fn access(&self) -> Access {
        self.pieces[0].lease.access()
    }

    /// Whose registration the pieces are under.
    pub fn owner(&self) -> OwnerId {
        self.pieces[0].registration.owner()
    }

    /// Whether any piece is somebody else's memory.
    pub fn is_foreign(&self) -> bool {
        self.pieces.iter().any(|piece| piece.lease.region().is_foreign())
    }

    /// Whether the CPU can read all of it.
    pub fn is_host(&self) -> bool {
        self.pieces.iter().all(|piece| piece.lease.region().kind().is_host())
    }

    /// CRC-64/NVMe over the pieces in order.
    ///
    /// # Errors
    /// `Config` for device memory.
    pub fn checksum(&self) -> Result<u64> {
        let mut checksum = hicache_hashing::Checksum::new();
        for piece in &self.pieces {
            checksum.update(piece.lease.bytes()?);
        }
        Ok(checksum.finish())
    }

    /// Copies the page out of `source`, which must be as long as the page.
    ///
    /// # Errors
    /// `Config` for another length, a read lease and device memory.
    pub fn copy_from(&mut self, source: &[u8]) -> Result<()> {
        self.check_length(source.len())?;
        let mut rest = source;
        for piece in &mut self.pieces {
            let (part, after) = rest.split_at(piece.lease.len());
            piece.lease.bytes_mut()?.copy_from_slice(part);
            rest = after;
        }
        Ok(())
    }

    /// Copies the page to `target`, which must be as long as the page.
    ///
    /// # Errors
    /// `Config` for another length and for device memory.
    pub fn copy_to(&self, target: &mut [u8]) -> Result<()> {
        self.check_length(target.len())?;
        let mut rest = target;
        for piece in &self.pieces {
            let (part, after) = rest.split_at_mut(piece.lease.len());
            part.copy_from_slice(piece.lease.bytes()?);
            rest = after;
        }
        Ok(())
    }

    /// The bytes of a page in one piece of host memory, `None` for others.
    pub fn contiguous(&self) -> Option<&[u8]> {
        match self.pieces.as_slice() {
            [piece] => piece.lease.bytes().ok(),
            _ => None,
        }
    }

    fn check_length(&self, other: usize) -> Result<()> {
        if other == self.bytes() {
            return Ok(());
        }
        Err(Error::config("the page and the buffer differ in length")
            .with_bytes(self.bytes() as u64, other as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registered(slots: usize, bytes: usize) -> Registration {
        Registration::new(OwnerId::new(), Region::allocate(slots, bytes).unwrap(), Box::new(()))
    }

    #[test]
    fn pieces_are_one_page() {
        let registration = registered(2, 100);
        let pieces = [
            registration.piece(1, 10, 3, Access::Write).unwrap(),
            registration.piece(0, 0, 2, Access::Write).unwrap(),
        ];
        let mut page = PageMemory::from_pieces(pieces).unwrap();
        page.copy_from(b"abcde").unwrap();
        let mut out = [0; 5];
        page.copy_to(&mut out).unwrap();
        assert_eq!(&out, b"abcde");
        assert_eq!(page.checksum().unwrap(), hicache_hashing::checksum(b"abcde"));
        assert!(page.copy_from(b"abcd").is_err());
    }

    #[test]
    fn pieces_that_do_not_belong_together_are_refused() {
        let (one, other) = (registered(2, 1), registered(2, 1));
        let mixed = [one.piece(0, 0, 1, Access::Read).unwrap(), other.piece(0, 0, 1, Access::Read).unwrap()];
        assert!(PageMemory::from_pieces(mixed).is_err());
        let mixed = [one.piece(0, 0, 1, Access::Read).unwrap(), one.piece(1, 0, 1, Access::Write).unwrap()];
        assert!(PageMemory::from_pieces(mixed).is_err());
        assert!(PageMemory::from_pieces([]).is_err());
    }

    #[test]
    fn the_token_is_dropped_before_the_memory_and_after_the_last_lease() {
        struct Token(std::sync::Weak<Region>, Arc<AtomicU64>);
        impl Drop for Token {
            fn drop(&mut self) {
                assert!(self.0.upgrade().is_some());
                self.1.fetch_add(1, Ordering::Relaxed);
            }
        }
        let undone = Arc::new(AtomicU64::new(0));
        let region = Region::allocate(1, 1).unwrap();
        let token = Token(Arc::downgrade(&region), Arc::clone(&undone));
        let registration = Registration::new(OwnerId::new(), region, Box::new(token));
        let page = registration.page(0, 1, Access::Read).unwrap();
        drop(registration);
        assert_eq!(undone.load(Ordering::Relaxed), 0);
        drop(page);
        assert_eq!(undone.load(Ordering::Relaxed), 1);
    }
}
