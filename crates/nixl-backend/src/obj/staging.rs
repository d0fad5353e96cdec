//! Memory through which pages go: an object is a head and a page in one piece, and pages come in as many as they like.

use std::collections::HashMap;

use hicache_core::{Access, Error, ErrorKind, PageMemory, Region, Registration, Result};

use super::wire::Wire;

/// Buffers are of multiples of this; longer ones of multiples of the second.
const STEP: usize = 4 << 10;
const LONG_STEP: usize = 64 << 10;

/// Registered memory for one object.
#[derive(Debug)]
pub(crate) struct Buffer {
    registration: Registration,
    bytes: usize,
}

impl Buffer {
    /// The first `bytes` of it.
    pub(crate) fn lease(&self, bytes: usize) -> Result<PageMemory> {
        self.registration.page(0, bytes, Access::Write)
    }
}

/// Buffers in use and idle ones, within a bound.
#[derive(Debug)]
pub(crate) struct Staging {
    most: usize,
    taken: usize,
    /// Of buffers that are never used again; at most as much as `most`.
    lost: usize,
    idle: HashMap<usize, Vec<Buffer>>,
}

fn class(bytes: usize) -> usize {
    bytes.next_multiple_of(if bytes <= LONG_STEP { STEP } else { LONG_STEP })
}

impl Staging {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, taken: 0, lost: 0, idle: HashMap::new() }
    }

    /// Whether an object of `bytes` could ever have a buffer.
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        bytes <= self.most && class(bytes) <= self.most
    }

    /// A buffer for `bytes`; `None` until others are given back.
    ///
    /// # Errors
    /// `Unavailable` if as much memory as there may be is lost; what the wire says.
    pub(crate) fn take(&mut self, bytes: usize, wire: &mut dyn Wire) -> Result<Option<Buffer>> {
        let class = class(bytes);
        if let Some(buffer) = self.idle.get_mut(&class).and_then(Vec::pop) {
            return Ok(Some(buffer));
        }
        while self.taken + class > self.most && self.drop_an_idle_one() {}
        if self.taken + class > self.most {
            return Ok(None);
        }
        if self.lost + class > self.most {
            let what = format!(
                "{} bytes are lost to transfers whose end nobody knows, as many as nixl_obj.staging_bytes = {} \
                 allows; open the storage again",
                self.lost, self.most
            );
            return Err(Error::new(ErrorKind::Unavailable, what));
        }
        let region = Region::allocate_with(1, class, false)?;
        let registration = wire.register(&region)?;
        self.taken += class;
        Ok(Some(Buffer { registration, bytes: class }))
    }

    /// A buffer whose memory is free again.
    pub(crate) fn give_back(&mut self, buffer: Buffer) {
        self.idle.entry(buffer.bytes).or_default().push(buffer);
    }

    /// A buffer whose memory may still be in use: it is never used again. It counts by itself, since a store
    /// that loses some must not come to a halt at once.
    pub(crate) fn lose(&mut self, buffer: Buffer) {
        self.taken -= buffer.bytes;
        self.lost += buffer.bytes;
    }

    /// Bytes of buffers that are never used again.
    pub(crate) fn lost(&self) -> usize {
        self.lost
    }

    fn drop_an_idle_one(&mut self) -> bool {
        let Some((&class, buffers)) = self.idle.iter_mut().find(|(_, buffers)| !buffers.is_empty()) else {
            return false;
        };
        buffers.pop();
        self.taken -= class;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hicache_core::{Direction, OwnerId};

    use super::super::wire::{Flight, NotBegun};
    use super::*;

    struct Nothing(OwnerId);

    impl Wire for Nothing {
        fn register(&mut self, region: &Arc<Region>) -> Result<Registration> {
            Ok(Registration::new(self.0, Arc::clone(region), Box::new(())))
        }

        fn begin(
            &mut self,
            _: Direction,
            _: &str,
            memory: PageMemory,
        ) -> Result<Box<dyn Flight>, Box<NotBegun>> {
            Err(Box::new(NotBegun { error: Error::config("moves nothing"), memory: Some(memory) }))
        }
    }

    #[test]
    fn it_stays_within_its_bound_and_makes_room_for_other_lengths() {
        let mut wire = Nothing(OwnerId::new());
        let mut staging = Staging::new(256 << 10);
        assert!(staging.fits(256 << 10) && !staging.fits((256 << 10) + 1) && !staging.fits(usize::MAX));
        let small: Vec<Buffer> = std::iter::from_fn(|| staging.take(100, &mut wire).unwrap()).collect();
        assert_eq!(small.len(), 64);
        assert!(staging.take(65_000, &mut wire).unwrap().is_none());
        small.into_iter().for_each(|buffer| staging.give_back(buffer));
        let long = staging.take(200 << 10, &mut wire).unwrap().unwrap();
        assert_eq!(long.lease(200 << 10).unwrap().bytes(), 200 << 10);
        assert!(staging.take(200 << 10, &mut wire).unwrap().is_none());
        staging.give_back(long);
        assert!(staging.take(200 << 10, &mut wire).unwrap().is_some());
    }

    #[test]
    fn what_is_lost_is_bounded() {
        let mut wire = Nothing(OwnerId::new());
        let mut staging = Staging::new(256 << 10);
        for _ in 0..4 {
            let buffer = staging.take(64 << 10, &mut wire).unwrap().unwrap();
            staging.lose(buffer);
        }
        let error = staging.take(64 << 10, &mut wire).unwrap_err();
        assert!(error.to_string().contains("262144 bytes are lost"), "{error}");
        assert_eq!(staging.lost(), 256 << 10);
    }
}
