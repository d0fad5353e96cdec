//! One batch: what becomes of each of its extents, and the one answer.

use hicache_core::{
    Completion, Direction, EngineCapabilities, Error, ErrorKind, Extent, ExtentsDone, OwnerId, Result,
    Transfer,
};

use crate::memory::MemoryType;

/// Extents that were submitted together, and their outcomes so far. Whoever has it answers once; dropped unanswered,
/// its transfer says `Abandoned`.
pub(crate) struct Batch {
    pub(crate) direction: Direction,
    /// Some of its memory is somebody else's.
    pub(crate) foreign: bool,
    outcomes: Vec<Option<Result<u64>>>,
    extents: Vec<Option<Extent>>,
    completion: Completion<ExtentsDone>,
    next: usize,
    unfinished: usize,
}

/// What became of a batch at the door.
pub(crate) enum Admission {
    /// Nothing of it can be done; this is the answer.
    Answered(Transfer<ExtentsDone>),
    /// It is to be worked on.
    Accepted(Batch, Transfer<ExtentsDone>),
}

impl Batch {
    /// Checks each extent. Those that are refused have their outcome at once; the others are left to be done.
    pub(crate) fn admit(
        direction: Direction,
        extents: Vec<Extent>,
        owner: OwnerId,
        capabilities: &EngineCapabilities,
    ) -> Admission {
        let valid = |extent: &Extent| {
            extent.validate(direction, owner, capabilities)?;
            one_kind(extent, capabilities)
        };
        let refused = |extent: &Extent| valid(extent).err().map(Err);
        let outcomes: Vec<_> = extents.iter().map(refused).collect();
        let unfinished = outcomes.iter().filter(|outcome| outcome.is_none()).count();
        let foreign = extents.iter().any(|extent| extent.memory.is_foreign());
        let extents: Vec<_> = extents.into_iter().map(Some).collect();
        if unfinished == 0 {
            let outcomes = outcomes.into_iter().flatten().collect();
            return Admission::Answered(Transfer::ready(ExtentsDone::new(outcomes, extents)));
        }
        let (completion, transfer) = Transfer::channel(extents.len());
        let batch = Self { direction, foreign, outcomes, extents, completion, next: 0, unfinished };
        Admission::Accepted(batch, transfer)
    }

    /// The next extent that is to be done, and its position, if `wanted` says so.
    pub(crate) fn take_next_if(&mut self, wanted: impl FnOnce(&Extent) -> bool) -> Option<(usize, Extent)> {
        while self.outcomes.get(self.next).is_some_and(Option::is_some) {
            self.next += 1;
        }
        let slot = self.extents.get_mut(self.next)?;
        if !slot.as_ref().is_some_and(wanted) {
            return None;
        }
        self.next += 1;
        slot.take().map(|extent| (self.next - 1, extent))
    }

    /// Whether every extent has been taken.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.outcomes[self.next..].iter().all(Option::is_some)
    }

    /// Takes an extent back with its outcome; `None` for one that is lost. True when it was the last one.
    pub(crate) fn finish(&mut self, position: usize, outcome: Result<u64>, extent: Option<Extent>) -> bool {
        self.outcomes[position] = Some(outcome);
        self.extents[position] = extent;
        self.unfinished -= 1;
        self.unfinished == 0
    }

    /// Answers. An extent without an outcome was lost.
    pub(crate) fn answer(self) {
        let lost = Error::new(ErrorKind::Abandoned, "the engine lost the operation");
        self.refuse(lost);
    }

    /// Answers `error` for every extent without an outcome.
    pub(crate) fn refuse(self, error: Error) {
        let outcomes =
            self.outcomes.into_iter().map(|known| known.unwrap_or_else(|| Err(error.clone()))).collect();
        // Nobody waits any more: the extents end here, where the device has finished with them.
        drop(self.completion.answer(ExtentsDone::new(outcomes, self.extents)));
    }
}

/// One side of a request of the library's is memory of one kind.
fn one_kind(extent: &Extent, capabilities: &EngineCapabilities) -> Result<()> {
    let mut kinds = extent.memory.pieces().iter().map(|piece| piece.lease().region().kind());
    let first = kinds.next();
    let known = |kind| MemoryType::of(kind);
    match kinds.find(|kind| first.is_some_and(|first| known(first) != known(*kind))) {
        None => Ok(()),
        Some(other) => Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "an extent has memory of {:?} and of {other:?}, and {} moves memory of one kind at a time; give it pieces \
                 of one",
                first.unwrap_or(other),
                capabilities.name
            ),
        )
        .with_backend(capabilities.name)),
    }
}

/// Batches by number.
#[derive(Default)]
pub(crate) struct Batches {
    slots: Vec<Option<Batch>>,
    free: Vec<usize>,
}

impl Batches {
    pub(crate) fn insert(&mut self, batch: Batch) -> usize {
        match self.free.pop() {
            Some(number) => {
                self.slots[number] = Some(batch);
                number
            }
            None => {
                self.slots.push(Some(batch));
                self.slots.len() - 1
            }
        }
    }

    pub(crate) fn get(&mut self, number: usize) -> Option<&mut Batch> {
        self.slots.get_mut(number)?.as_mut()
    }

    pub(crate) fn remove(&mut self, number: usize) -> Option<Batch> {
        let batch = self.slots.get_mut(number)?.take();
        self.free.extend(batch.is_some().then_some(number));
        batch
    }

    /// Takes one whose number is not given out again, since requests of it are still under way.
    pub(crate) fn retire(&mut self, number: usize) -> Option<Batch> {
        self.slots.get_mut(number)?.take()
    }

    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Batch> {
        self.free.clear();
        std::mem::take(&mut self.slots).into_iter().flatten()
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
