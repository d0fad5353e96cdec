//! Moving pages through engines: choice of the engine, staging, lengths, and requests repeated page by page.

use std::collections::BTreeMap;
use std::sync::Arc;

use hicache_core::{
    Completes, Direction, Engine, EngineCapabilities, Error, ErrorKind, Extent, PageMemory, Piece, Registration, Result,
};

use super::{EngineRegistrations, Progress, Shared};
use crate::set::SegmentFile;

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
}

impl Shared {
    /// The engine for a page: the first that moves all kinds of its memory.
    fn engine_for(&self, memory: &PageMemory) -> Result<usize> {
        let takes = |engine: &Arc<dyn Engine>| {
            memory.pieces().iter().all(|piece| engine.capabilities().moves(piece.lease().region().kind()))
        };
        self.engines.iter().position(takes).ok_or_else(|| {
            let kind = memory.pieces()[0].lease().region().kind();
            Error::new(ErrorKind::Unsupported, format!("no engine of this store moves memory of {kind:?}"))
        })
    }

    /// Whether loads through the engine of this memory must be verified whatever the configuration says.
    pub(crate) fn must_verify(&self, memory: &PageMemory) -> bool {
        self.engine_for(memory).is_ok_and(|number| !self.engines[number].capabilities().reports_lengths)
    }

    /// Moves pages. Each comes back, in any order.
    pub(crate) async fn move_pages(&self, direction: Direction, moves: Vec<Move>, progress: &Progress) -> Vec<Moved> {
        let mut moved = Vec::with_capacity(moves.len());
        let mut plain: BTreeMap<usize, Vec<Move>> = BTreeMap::new();
        let mut staged: BTreeMap<(usize, u32), Vec<Move>> = BTreeMap::new();
        for page in moves {
            match self.engine_for(&page.memory) {
                Ok(number) if needs_staging(self.engines[number].capabilities(), &page) => {
                    let slot_bytes = crate::volume::slot_bytes(page.memory.bytes() as u32);
                    staged.entry((number, slot_bytes)).or_default().push(page);
                }
                Ok(number) => plain.entry(number).or_default().push(page),
                Err(error) => moved.push(Moved { tag: page.tag, result: Err(error), memory: Some(page.memory) }),
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

    async fn move_plain(&self, number: usize, direction: Direction, pages: Vec<Move>, moved: &mut Vec<Moved>) {
        let engine = &*self.engines[number];
        let mut tickets = Vec::with_capacity(pages.len());
        let mut extents = Vec::with_capacity(pages.len());
        for page in pages {
            match lower(page.memory, number).and_then(|(memory, originals)| {
                let file = page.segment.for_engine(number, engine)?;
                Ok((Extent { file, offset: page.offset, memory }, originals))
            }) {
                Ok((extent, originals)) => {
                    tickets.push(Ticket { tag: page.tag, bytes: extent.memory.bytes() as u64, originals });
                    extents.push(extent);
                }
                Err(error) => moved.push(Moved { tag: page.tag, result: Err(error), memory: None }),
            }
        }
        for (ticket, (result, extent)) in tickets.into_iter().zip(submit(engine, direction, extents).await) {
            let result = result.and_then(|bytes| ticket.whole(bytes, direction));
            let memory = extent.and_then(|extent| raise(extent.memory, &ticket.originals).ok());
            moved.push(Moved { tag: ticket.tag, result, memory });
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
        let pool = match self.staging.pool(number, engine, slot_bytes) {
            Ok(pool) => pool,
            Err(error) => {
                moved.extend(pages.into_iter().map(|page| Moved {
                    tag: page.tag,
                    result: Err(error.clone()),
                    memory: Some(page.memory),
                }));
                return;
            }
        };
        while !pages.is_empty() {
            let wave = pages.split_off(pages.len().saturating_sub(pool.slots()));
            let mut staged = pool.take(wave.len(), slot_bytes as usize).await;
            let (mut waiting, mut extents) = (Vec::new(), Vec::new());
            for page in wave {
                // The whole slot moves, so that lengths are aligned whatever the page's is.
                let prepared = staged.pop().ok_or_else(lost_staging).and_then(|(slot, mut memory)| {
                    if direction == Direction::Write {
                        let room = memory.pieces_mut()[0].lease_mut().bytes_mut()?;
                        page.memory.copy_to(&mut room[..page.memory.bytes()])?;
                    }
                    let file = page.segment.for_engine(number, engine)?;
                    Ok((slot, Extent { file, offset: page.offset, memory }))
                });
                match prepared {
                    Ok((slot, extent)) => {
                        waiting.push((page, slot));
                        extents.push(extent);
                    }
                    Err(error) => {
                        moved.push(Moved { tag: page.tag, result: Err(error), memory: Some(page.memory) });
                    }
                }
            }
            let done = submit(engine, direction, extents).await;
            for ((mut page, slot), (result, extent)) in waiting.into_iter().zip(done) {
                let ticket = Ticket { tag: page.tag, bytes: page.memory.bytes() as u64, originals: Vec::new() };
                let mut result = result.and_then(|bytes| ticket.whole(bytes.min(ticket.bytes), direction));
                if let Some(extent) = extent {
                    if result.is_ok() && direction == Direction::Read {
                        let bytes = page.memory.bytes();
                        result = extent.memory.pieces()[0].lease().bytes().and_then(|staged| {
                            page.memory.copy_from(&staged[..bytes])
                        });
                    }
                    pool.give_back(slot, extent.memory);
                }
                // The caller's own memory was never with the device.
                moved.push(Moved { tag: page.tag, result, memory: Some(page.memory) });
            }
            progress.mark();
        }
    }
}

/// What is remembered of a page while the engine has it.
struct Ticket {
    tag: usize,
    bytes: u64,
    originals: Vec<Registration>,
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

fn needs_staging(capabilities: &EngineCapabilities, page: &Move) -> bool {
    let aligned = |value: u64| value.is_multiple_of(capabilities.alignment as u64);
    let pieces = page.memory.pieces();
    pieces.len() > capabilities.max_pieces
        || (page.memory.is_foreign() && !capabilities.proves_idle)
        || !aligned(page.offset)
        || pieces.iter().any(|piece| !aligned(piece.lease().address() as u64) || !aligned(piece.len() as u64))
}

/// One engine batch. A request that fails as a whole is repeated page by page: one bad page costs only itself.
async fn submit(
    engine: &dyn Engine,
    direction: Direction,
    extents: Vec<Extent>,
) -> Vec<(Result<u64>, Option<Extent>)> {
    let count = extents.len();
    let done = engine.submit(direction, extents).await;
    let mut results: Vec<_> = done.outcomes.into_iter().zip(done.extents).collect();
    if engine.capabilities().completes == Completes::PerRequest && count > 1 {
        for result in &mut results {
            if let (Err(_), Some(extent)) = (&result.0, result.1.take_if(|_| true)) {
                let mut again = engine.submit(direction, vec![extent]).await;
                if let (Some(outcome), Some(extent)) = (again.outcomes.pop(), again.extents.pop()) {
                    *result = (outcome, extent);
                }
            }
        }
    }
    results
}

/// The page under the engine's registrations, and the store's own to put back.
fn lower(memory: PageMemory, number: usize) -> Result<(PageMemory, Vec<Registration>)> {
    let mut originals = Vec::with_capacity(memory.pieces().len());
    let mut lowered = Vec::with_capacity(memory.pieces().len());
    for piece in memory.into_pieces() {
        let registration = piece.registration().clone();
        let engines = registration.token::<EngineRegistrations>();
        let engine = engines.and_then(|engines| engines.0.get(number)?.as_ref()).ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "the memory is not registered with the engine that would move it")
        })?;
        lowered.push(piece.with_registration(engine)?);
        originals.push(registration);
    }
    Ok((PageMemory::from_pieces(lowered)?, originals))
}

/// Undoes [`lower`].
fn raise(memory: PageMemory, originals: &[Registration]) -> Result<PageMemory> {
    let pieces = memory.into_pieces().into_iter().zip(originals);
    let raised: Result<Vec<Piece>> = pieces.map(|(piece, original)| piece.with_registration(original)).collect();
    PageMemory::from_pieces(raised?)
}
