//! Pages that lie side by side in a file and in the order of a batch move as one operation: a batch is mostly stored in
//! one stretch of slots, and read again as it was stored. What a disk, a kernel and a file system do for each operation is
//! then done once for several pages.

use hicache_core::{
    Completes, Direction, Engine, EngineCapabilities, Error, ErrorKind, Extent, PageMemory, Result,
};
use smallvec::SmallVec;

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
    parts: SmallVec<[Part; 1]>,
    bytes: u64,
    pieces: usize,
}

impl Part {
    fn of(extent: &Extent) -> Self {
        Self { bytes: extent.memory.bytes() as u64, pieces: extent.memory.pieces().len() }
    }
}

impl Run {
    fn new(first: Part) -> Self {
        Self { parts: SmallVec::from_iter([first]), bytes: first.bytes, pieces: first.pieces }
    }

    /// Whether a page of `next` goes on where `open`, the extent of this run, ends.
    fn takes(&self, open: &Extent, next: &Extent, part: Part, can: &EngineCapabilities) -> bool {
        self.bytes.saturating_add(part.bytes) <= MOST_RUN_BYTES.min(can.max_extent_bytes)
            && self.pieces + part.pieces <= can.max_pieces
            && open.offset.checked_add(self.bytes) == Some(next.offset)
            && open.file.is(&next.file)
    }

    fn add(&mut self, part: Part) {
        self.parts.push(part);
        self.bytes += part.bytes;
        self.pieces += part.pieces;
    }

    /// The extents of its pages.
    ///
    /// # Errors
    /// `Unexpected` for the extent of another run.
    fn split(&self, extent: Extent) -> Result<Vec<Extent>> {
        let Extent { file, mut offset, memory } = extent;
        let mut pieces = memory.into_pieces().into_iter();
        let each = self.parts.iter().map(|part| {
            let memory = PageMemory::from_pieces(pieces.by_ref().take(part.pieces))?;
            if memory.bytes() as u64 != part.bytes {
                return Err(Error::new(
                    ErrorKind::Unexpected,
                    "an engine gave back other memory than it got",
                ));
            }
            let page = Extent { file: file.clone(), offset, memory };
            offset += part.bytes;
            Ok(page)
        });
        each.collect()
    }
}

/// Joins the extents of a batch that lie side by side; what each of those that are left is made of.
fn join(extents: Vec<Extent>, can: &EngineCapabilities) -> (Vec<Extent>, Vec<Run>) {
    let mut runs: Vec<Run> = Vec::with_capacity(extents.len());
    let mut joined: Vec<Extent> = Vec::with_capacity(extents.len());
    for mut extent in extents {
        let part = Part::of(&extent);
        if let (Some(run), Some(open)) = (runs.last_mut(), joined.last_mut())
            && run.takes(open, &extent, part, can)
        {
            match open.memory.append(extent.memory) {
                None => {
                    run.add(part);
                    continue;
                }
                Some(memory) => extent.memory = memory,
            }
        }
        runs.push(Run::new(part));
        joined.push(extent);
    }
    (joined, runs)
}

/// What an engine says of an extent; without the extent it was lost.
type Answer = (Result<u64>, Option<Extent>);

/// Moves the extents of pages, those that lie side by side as one. A run that fails or stops short is repeated page by page:
/// one bad page costs only itself.
pub(super) async fn submit(engine: &dyn Engine, direction: Direction, extents: Vec<Extent>) -> Vec<Answer> {
    let count = extents.len();
    let (joined, runs) = join(extents, engine.capabilities());
    let answers = request(engine, direction, joined).await;
    if runs.len() == count {
        return answers;
    }
    let mut pages: Vec<Answer> = Vec::with_capacity(count);
    let (mut again, mut places) = (Vec::new(), Vec::new());
    for (run, (outcome, extent)) in runs.iter().zip(answers) {
        let count = run.parts.len();
        let split = match extent {
            Some(extent) if count > 1 => run.split(extent),
            extent => {
                pages.extend((1..count).map(|_| (outcome.clone(), None)));
                pages.push((outcome, extent));
                continue;
            }
        };
        let alone =
            outcome.as_ref().map_or_else(|error| error.kind() == ErrorKind::Io, |&all| all != run.bytes);
        match split {
            Ok(extents) if alone => {
                places.extend(pages.len()..pages.len() + count);
                pages.extend((0..count).map(|_| (outcome.clone(), None)));
                again.extend(extents);
            }
            Ok(extents) => {
                let outcomes = run.parts.iter().map(|part| outcome.clone().map(|_| part.bytes));
                pages.extend(outcomes.zip(extents.into_iter().map(Some)));
            }
            Err(error) => pages.extend((0..count).map(|_| (Err(error.clone()), None))),
        }
    }
    if !again.is_empty() {
        for (place, answer) in places.into_iter().zip(request(engine, direction, again).await) {
            pages[place] = answer;
        }
    }
    pages
}

/// One engine batch. A request that fails as a whole is repeated extent by extent.
async fn request(engine: &dyn Engine, direction: Direction, extents: Vec<Extent>) -> Vec<Answer> {
    let count = extents.len();
    let done = engine.submit(direction, extents).await;
    let mut results: Vec<_> = done.outcomes.into_iter().zip(done.extents).collect();
    if engine.capabilities().completes == Completes::PerRequest && count > 1 {
        // All repeats are under way at once, each a request of its own.
        let failed = |error: &Error| error.kind() == ErrorKind::Io;
        let repeats = results.iter_mut().filter_map(|(outcome, extent)| {
            outcome
                .as_ref()
                .is_err_and(failed)
                .then(|| extent.take())
                .flatten()
                .map(|taken| (outcome, extent, taken))
        });
        let repeats = repeats.map(|(outcome, extent, taken)| async move {
            let mut again = engine.submit(direction, vec![taken]).await;
            if let (Some(second), Some(back)) = (again.outcomes.pop(), again.extents.pop()) {
                (*outcome, *extent) = (second, back);
            }
        });
        futures::future::join_all(repeats).await;
    }
    results
}
