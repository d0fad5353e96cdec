//! Moving pages through engines: choice of the engine, staging, lengths, and requests repeated page by page.

use std::collections::BTreeMap;
use std::sync::Arc;

use hicache_core::{
    Direction, Engine, EngineCapabilities, Error, ErrorKind, Extent, PageMemory, Piece, Registration, Result,
};

use smallvec::SmallVec;

use super::runs::{Answer, submit};
use super::{EngineRegistrations, Progress, Shared};
use crate::set::SegmentFile;

/// One for each piece of a page, of which there mostly are one or two: no allocation for those.
type OfPieces<T> = SmallVec<[T; 2]>;

/// A page to be moved.
#[derive(Debug)]
pub(crate) struct Move {
    /// The caller's number for it.
    pub(crate) tag: usize,
    pub(crate) segment: Arc<SegmentFile>,
    pub(crate) offset: u64,
    pub(crate) memory: PageMemory,
}

/// A page that was moved, or not.
#[derive(Debug)]
pub(crate) struct Moved {
    pub(crate) tag: usize,
    pub(crate) result: Result<()>,
    /// `None` where the memory may still be in use.
    pub(crate) memory: Option<PageMemory>,
    /// The checksum of its bytes as they were read into its memory, where the engine has taken it.
    pub(crate) sum: Option<u64>,
    /// Whether the device may still be at it: in the page's memory, or in the place in the file.
    pub(crate) lost: bool,
}

impl Moved {
    /// A page that never went to a device.
    fn refused(page: Move, error: Error) -> Self {
        Self { tag: page.tag, result: Err(error), memory: Some(page.memory), sum: None, lost: false }
    }
}

impl Shared {
    /// The engine for a page: the first that moves all kinds of its memory.
    fn engine_for(&self, memory: &PageMemory) -> Result<usize> {
        self.engines.iter().position(|engine| takes(&**engine, memory)).ok_or_else(|| {
            let kind = memory.pieces()[0].lease().region().kind();
            Error::new(ErrorKind::Unsupported, format!("no engine of this store moves memory of {kind:?}"))
        })
    }

    /// The engine that moves a page: of those for its memory the first that takes the page as it lies, else the first. Memory that
    /// the CPU can't reach could not be staged here.
    fn engine_to_move(&self, page: &Move) -> Result<usize> {
        let fits = |engine: &Arc<dyn Engine>| {
            takes(&**engine, &page.memory) && !needs_staging(engine.capabilities(), page)
        };
        self.engines.iter().position(fits).map_or_else(|| self.engine_for(&page.memory), Ok)
    }

    /// The checksum of a page, by the engine that moves it.
    pub(crate) fn checksum(&self, memory: &PageMemory) -> Result<u64> {
        self.engines[self.engine_for(memory)?].checksum(memory)
    }

    /// Whether loads through an engine of this memory must be verified whatever the configuration says.
    pub(crate) fn must_verify(&self, memory: &PageMemory) -> bool {
        let mut engines = self.engines.iter().filter(|engine| takes(&***engine, memory));
        engines.any(|engine| !engine.capabilities().reports_lengths)
    }

    /// Moves pages. Each comes back, in any order.
    pub(crate) async fn move_pages(
        &self,
        direction: Direction,
        moves: Vec<Move>,
        progress: &Progress,
    ) -> Vec<Moved> {
        let mut moved = Vec::with_capacity(moves.len());
        let mut plain: BTreeMap<usize, Vec<Move>> = BTreeMap::new();
        let mut staged: BTreeMap<(usize, u32), Vec<Move>> = BTreeMap::new();
        for page in moves {
            match self.engine_to_move(&page) {
                Ok(number) if needs_staging(self.engines[number].capabilities(), &page) => {
                    let slot_bytes = crate::format::slot_bytes(page.memory.bytes() as u32);
                    staged.entry((number, slot_bytes)).or_default().push(page);
                }
                Ok(number) => plain.entry(number).or_default().push(page),
                Err(error) => moved.push(Moved::refused(page, error)),
            }
        }
        for (number, pages) in plain {
            self.move_plain(number, direction, pages, &mut moved).await;
            progress.mark();
        }
        for ((number, slot_bytes), pages) in staged {
            self.move_staged(number, slot_bytes, direction, pages, &mut moved, progress).await;
        }
        moved
    }

    async fn move_plain(
        &self,
        number: usize,
        direction: Direction,
        pages: Vec<Move>,
        moved: &mut Vec<Moved>,
    ) {
        let engine = &*self.engines[number];
        let mut tickets = Vec::with_capacity(pages.len());
        let mut extents = Vec::with_capacity(pages.len());
        for page in pages {
            // Everything that can fail before the memory is taken apart.
            let prepared = registrations(&page.memory, number)
                .and_then(|lowered| Ok((lowered, page.segment.for_engine(number, engine)?)));
            let (lowered, file) = match prepared {
                Ok(prepared) => prepared,
                Err(error) => {
                    moved.push(Moved::refused(page, error));
                    continue;
                }
            };
            let pieces = page.memory.pieces().iter();
            let originals = pieces.map(|piece| piece.registration().clone()).collect();
            match under(page.memory, &lowered) {
                Ok(memory) => {
                    tickets.push(Ticket { tag: page.tag, bytes: memory.bytes() as u64, originals });
                    extents.push(Extent { file, offset: page.offset, memory });
                }
                Err(error) => moved.push(Moved {
                    tag: page.tag,
                    result: Err(error),
                    memory: None,
                    sum: None,
                    lost: false,
                }),
            }
        }
        for (ticket, answer) in tickets.into_iter().zip(submit(engine, direction, extents).await) {
            let result = answer.outcome.and_then(|bytes| ticket.whole(bytes, direction));
            let lost = answer.extent.is_none();
            let memory = answer.extent.and_then(|extent| under(extent.memory, &ticket.originals).ok());
            moved.push(Moved { tag: ticket.tag, result, memory, sum: answer.sum, lost });
        }
    }

    async fn move_staged(
        &self,
        number: usize,
        slot_bytes: u32,
        direction: Direction,
        mut pages: Vec<Move>,
        moved: &mut Vec<Moved>,
        progress: &Progress,
    ) {
        let engine = &*self.engines[number];
        while !pages.is_empty() {
            let pool = match self.staging.pool(number, engine, slot_bytes) {
                Ok(pool) => pool,
                Err(error) => {
                    moved.extend(pages.into_iter().map(|page| Moved::refused(page, error.clone())));
                    return;
                }
            };
            // None: every slot of the pool was lost meanwhile, and the next look finds another pool.
            let mut staged = pool.take(pages.len(), slot_bytes as usize).await;
            let wave = pages.split_off(pages.len() - staged.len());
            let (mut waiting, mut extents) = (Vec::new(), Vec::new());
            for page in wave {
                // The whole slot moves, so that lengths are aligned whatever the page's is.
                let Some((slot, mut memory)) = staged.pop() else {
                    moved.push(Moved::refused(page, lost_staging()));
                    continue;
                };
                let prepared = match direction {
                    Direction::Read => Ok(()),
                    Direction::Write => memory
                        .bytes_mut()
                        .try_for_each(|room| page.memory.copy_to(&mut room?[..page.memory.bytes()])),
                };
                match prepared.and_then(|()| page.segment.for_engine(number, engine)) {
                    Ok(file) => {
                        extents.push(Extent { file, offset: page.offset, memory });
                        waiting.push((page, slot));
                    }
                    Err(error) => {
                        pool.give_back(slot, memory);
                        moved.push(Moved::refused(page, error));
                    }
                }
            }
            let done = submit(engine, direction, extents).await;
            for ((mut page, slot), Answer { outcome: result, extent, .. }) in waiting.into_iter().zip(done) {
                let ticket =
                    Ticket { tag: page.tag, bytes: page.memory.bytes() as u64, originals: OfPieces::new() };
                let mut result = result.and_then(|bytes| ticket.whole(bytes.min(ticket.bytes), direction));
                let lost = extent.is_none();
                if let Some(extent) = extent {
                    if result.is_ok() && direction == Direction::Read {
                        let bytes = page.memory.bytes();
                        result = extent.memory.pieces()[0]
                            .lease()
                            .bytes()
                            .and_then(|staged| page.memory.copy_from(&staged[..bytes]));
                    }
                    pool.give_back(slot, extent.memory);
                } else {
                    pool.lose();
                }
                // The caller's own memory was never with the device.
                moved.push(Moved { tag: page.tag, result, memory: Some(page.memory), sum: None, lost });
            }
            progress.mark();
        }
    }
}

/// What is remembered of a page while the engine has it.
struct Ticket {
    tag: usize,
    bytes: u64,
    originals: OfPieces<Registration>,
}

impl Ticket {
    fn whole(&self, bytes: u64, direction: Direction) -> Result<()> {
        if bytes == self.bytes {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Io, "short transfer")
            .with_operation(direction.as_str())
            .with_bytes(self.bytes, bytes))
    }
}

fn lost_staging() -> Error {
    Error::new(ErrorKind::Abandoned, "the staging memory was lost with an earlier operation")
}

/// Whether an engine moves all kinds of memory that a page is in.
fn takes(engine: &dyn Engine, memory: &PageMemory) -> bool {
    memory.pieces().iter().all(|piece| engine.capabilities().moves(piece.lease().region().kind()))
}

fn needs_staging(capabilities: &EngineCapabilities, page: &Move) -> bool {
    let aligned = |value: u64| value.is_multiple_of(capabilities.alignment as u64);
    let pieces = page.memory.pieces();
    pieces.len() > capabilities.max_pieces
        || (page.memory.is_foreign() && !capabilities.proves_idle)
        || !aligned(page.offset)
        || pieces.iter().any(|piece| !aligned(piece.lease().address() as u64) || !aligned(piece.len() as u64))
}

/// The engine's registrations of the pieces of a page that is registered with the store.
fn registrations(memory: &PageMemory, number: usize) -> Result<OfPieces<Registration>> {
    let of_piece = |piece: &Piece| {
        let engines = piece.registration().token::<EngineRegistrations>();
        engines.and_then(|engines| engines.0.get(number)?.clone()).ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "the memory is not registered with the engine that would move it",
            )
        })
    };
    memory.pieces().iter().map(of_piece).collect()
}

/// The page under other registrations of the same regions.
fn under(memory: PageMemory, registrations: &[Registration]) -> Result<PageMemory> {
    let pieces = memory.into_pieces().into_iter().zip(registrations);
    let moved: Result<OfPieces<Piece>> =
        pieces.map(|(piece, other)| piece.with_registration(other)).collect();
    PageMemory::from_pieces(moved?)
}
