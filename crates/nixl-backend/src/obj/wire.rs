//! What a store does, one object at a time: the seam between what happens to pages and who moves the bytes.

use std::sync::Arc;

use hicache_core::{Direction, Error, PageMemory, Region, Registration, Result};

/// Why an object could not begin to move, and its memory, unless some of that may be in use.
#[derive(Debug)]
pub(crate) struct NotBegun {
    pub(crate) error: Error,
    pub(crate) memory: Option<PageMemory>,
}

/// Moves objects.
pub(crate) trait Wire: Send {
    /// Makes memory known, once.
    fn register(&mut self, region: &Arc<Region>) -> Result<Registration>;

    /// Begins to move `memory` to or from the object of this name, whole. May block for milliseconds.
    ///
    /// # Errors
    /// Why it could not begin, with the memory.
    fn begin(
        &mut self,
        direction: Direction,
        object: &str,
        memory: PageMemory,
    ) -> Result<Box<dyn Flight>, Box<NotBegun>>;
}

/// An object on its way.
pub(crate) trait Flight: Send {
    /// How it ended; `None` while it moves. Success says nothing of how many bytes came.
    fn poll(&mut self) -> Option<Result<()>>;

    /// The memory; `None` where it may still be in use. Not before it has ended.
    fn finish(self: Box<Self>) -> Option<PageMemory>;
}

/// Asks which objects are there. Blocks.
pub(crate) trait Heads: Send {
    /// One answer an object.
    ///
    /// # Errors
    /// One of them failed; which one is not known.
    fn heads(&mut self, objects: &[String]) -> Result<Vec<bool>>;
}

/// Makes one more who asks. Blocks.
pub(crate) type MoreHeads = Arc<dyn Fn() -> Result<Box<dyn Heads>> + Send + Sync>;

/// What a store is opened with.
pub(crate) struct Wires {
    pub(crate) wire: Box<dyn Wire>,
    /// As many can be asked at a time.
    pub(crate) heads: Vec<Box<dyn Heads>>,
    /// For those who hang.
    pub(crate) more_heads: MoreHeads,
}
