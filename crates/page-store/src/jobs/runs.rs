//! Pages that lie side by side in a file and in the order of a batch move as one operation: a batch is mostly stored in
//! one stretch of slots, and read again as it was stored. What a disk, a kernel and a file system do for each operation is
//! then done once for several pages.

use hicache_core::{
    Completes, Direction, Engine, EngineCapabilities, Error, ErrorKind, Extent, PageMemory, Piece, PieceSums,
    Result,
};
use hicache_hashing::Joining;

/// Most bytes of a run. Disks gain little from more, and what is verified or freed together should not be too much.
const MOST_RUN_BYTES: u64 = 512 << 10;

/// What a page has in a run.
#[derive(Clone, Copy, Debug)]
struct Part {
    bytes: u64,
    pieces: usize,
}

/// Pages that move as one extent; most often one.
#[derive(Debug)]
struct Run {
    pages: usize,
    bytes: u64,
    pieces: usize,
}

/// A batch with those extents joined that lie side by side.
#[derive(Debug)]
struct Joined {
    /// One a run.
    extents: Vec<Extent>,
    runs: Vec<Run>,
    /// One a page.
    parts: Vec<Part>,
}

impl Run {
    /// Whether a page of `next` goes on where `open`, the extent of this run, ends.
    fn takes(&self, open: &Extent, next: &Extent, part: Part, can: &EngineCapabilities) -> bool {
        self.bytes.saturating_add(part.bytes) <= MOST_RUN_BYTES.min(can.max_extent_bytes)
            && self.pieces + part.pieces <= can.max_pieces
            && open.offset.checked_add(self.bytes) == Some(next.offset)
            && open.file.is(&next.file)
    }

    fn add(&mut self, part: Part) {
        self.pages += 1;
        self.bytes += part.bytes;
        self.pieces += part.pieces;
    }
}

impl Joined {
    fn new(extents: Vec<Extent>, can: &EngineCapabilities) -> Self {
        let count = extents.len();
        let mut joined = Self {
            extents: Vec::with_capacity(count),
            runs: Vec::with_capacity(count),
            parts: Vec::with_capacity(count),
        };
        for extent in extents {
            joined.push(extent, can);
        }
        joined
    }

    fn push(&mut self, mut extent: Extent, can: &EngineCapabilities) {
        let part = Part { bytes: extent.memory.bytes() as u64, pieces: extent.memory.pieces().len() };
        self.parts.push(part);
        if let (Some(run), Some(open)) = (self.runs.last_mut(), self.extents.last_mut())
            && run.takes(open, &extent, part, can)
        {
            match open.memory.append(extent.memory) {
                None => return run.add(part),
                Some(memory) => extent.memory = memory,
            }
        }
        self.runs.push(Run { pages: 1, bytes: part.bytes, pieces: part.pieces });
        self.extents.push(extent);
    }
}

/// The extents of the pages of a run; `Unexpected` where it is another run's.
fn split(parts: &[Part], extent: Extent) -> impl Iterator<Item = Result<Extent>> {
    let Extent { file, mut offset, memory } = extent;
    let mut pieces = memory.into_pieces().into_iter();
    parts.iter().map(move |part| {
        let memory = PageMemory::from_pieces(pieces.by_ref().take(part.pieces))?;
        if memory.bytes() as u64 != part.bytes {
            return Err(Error::new(ErrorKind::Unexpected, "an engine gave back other memory than it got"));
        }
        let page = Extent { file: file.clone(), offset, memory };
        offset += part.bytes;
        Ok(page)
    })
}

/// What an engine says of a page.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) outcome: Result<u64>,
    /// `None`: it was lost.
    pub(super) extent: Option<Extent>,
    /// The checksum of its bytes as they were read, where the engine has taken it.
    pub(super) sum: Option<u64>,
}

/// What an engine says of an extent.
type Answered = (Result<u64>, Option<Extent>, Option<PieceSums>);

/// Joins the sums of pieces; those of a batch mostly have one length.
#[derive(Default)]
struct Sums(Option<Joining>);

impl Sums {
    /// The sum of a page with these pieces; nothing if there is not one for each.
    fn page(&mut self, pieces: &[Piece], sums: &[u64]) -> Option<u64> {
        let (&first, rest) = sums.split_first().filter(|_| sums.len() == pieces.len())?;
        Some(rest.iter().zip(&pieces[1..]).fold(first, |sum, (&next, piece)| {
            let bytes = piece.len() as u64;
            let behind = self.0.filter(|kept| kept.bytes() == bytes).unwrap_or_else(|| Joining::with(bytes));
            self.0 = Some(behind);
            behind.join(sum, next)
        }))
    }

    fn whole(&mut self, (outcome, extent, sums): Answered) -> Answer {
        let sum = extent.as_ref().zip(sums);
        let sum = sum.and_then(|(extent, sums)| self.page(extent.memory.pieces(), &sums));
        Answer { outcome, extent, sum }
    }
}

/// Moves the extents of pages, those that lie side by side as one. A run that fails or stops short is repeated page by page:
/// one bad page costs only itself.
pub(super) async fn submit(engine: &dyn Engine, direction: Direction, extents: Vec<Extent>) -> Vec<Answer> {
    let count = extents.len();
    let Joined { extents, runs, parts } = Joined::new(extents, engine.capabilities());
    let answers = request(engine, direction, extents).await;
    let mut joined = Sums::default();
    if runs.len() == count {
        return answers.into_iter().map(|answer| joined.whole(answer)).collect();
    }
    let mut pages: Vec<Answer> = Vec::with_capacity(count);
    let (mut again, mut places) = (Vec::new(), Vec::new());
    for (run, (outcome, extent, sums)) in runs.iter().zip(answers) {
        let extent = match extent {
            Some(extent) if run.pages > 1 => extent,
            extent => {
                let lost = || Answer { outcome: outcome.clone(), extent: None, sum: None };
                pages.extend((1..run.pages).map(|_| lost()));
                pages.push(joined.whole((outcome, extent, sums)));
                continue;
            }
        };
        let alone =
            outcome.as_ref().map_or_else(|error| error.kind() == ErrorKind::Io, |&all| all != run.bytes);
        let parts = &parts[pages.len()..][..run.pages];
        let sums = sums.filter(|sums| sums.len() == run.pieces).unwrap_or_default();
        let mut sums = sums.as_slice();
        for (part, page) in parts.iter().zip(split(parts, extent)) {
            let own = sums.split_off(..part.pieces.min(sums.len())).unwrap_or_default();
            match page {
                Ok(extent) if alone => {
                    places.push(pages.len());
                    again.push(extent);
                    pages.push(Answer { outcome: outcome.clone(), extent: None, sum: None });
                }
                Ok(extent) => {
                    let sum = joined.page(extent.memory.pieces(), own);
                    let outcome = outcome.clone().map(|_| part.bytes);
                    pages.push(Answer { outcome, extent: Some(extent), sum });
                }
                Err(error) => pages.push(Answer { outcome: Err(error), extent: None, sum: None }),
            }
        }
    }
    if !again.is_empty() {
        for (place, answer) in places.into_iter().zip(request(engine, direction, again).await) {
            pages[place] = joined.whole(answer);
        }
    }
    pages
}

/// One engine batch. A request that fails as a whole is repeated extent by extent.
async fn request(engine: &dyn Engine, direction: Direction, extents: Vec<Extent>) -> Vec<Answered> {
    let count = extents.len();
    let done = engine.submit(direction, extents).await;
    let sums = done.sums.into_iter().chain(std::iter::repeat(None));
    let answers = done.outcomes.into_iter().zip(done.extents).zip(sums);
    let mut results: Vec<Answered> =
        answers.map(|((outcome, extent), sums)| (outcome, extent, sums)).collect();
    if engine.capabilities().completes == Completes::PerRequest && count > 1 {
        // All repeats are under way at once, each a request of its own.
        let failed = |error: &Error| error.kind() == ErrorKind::Io;
        let repeats = results.iter_mut().filter_map(|answer| {
            let taken = answer.0.as_ref().is_err_and(failed).then(|| answer.1.take()).flatten();
            taken.map(|taken| (answer, taken))
        });
        let repeats = repeats.map(|(answer, taken)| async move {
            let mut again = engine.submit(direction, vec![taken]).await;
            if let (Some(second), Some(back)) = (again.outcomes.pop(), again.extents.pop()) {
                *answer = (second, back, again.sums.pop().flatten());
            }
        });
        futures::future::join_all(repeats).await;
    }
    results
}
