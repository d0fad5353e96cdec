//! One batch: what becomes of each of its extents, and the one answer.

use hicache_core::{
    Completion, Direction, EngineCapabilities, Error, ErrorKind, Extent, ExtentsDone, OwnerId, PieceSums,
    Result, Transfer,
};

/// Extents that were submitted together, and their outcomes so far. Whoever has it answers once, by
/// [`Batch::answer`]; dropped unanswered, its transfer says `Abandoned`.
pub(crate) struct Batch {
    pub(crate) direction: Direction,
    outcomes: Vec<Option<Result<u64>>>,
    extents: Vec<Option<Extent>>,
    /// Empty as long as there are none.
    sums: Vec<Option<PieceSums>>,
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
        let outcomes: Vec<_> = extents
            .iter()
            .map(|extent| extent.validate(direction, owner, capabilities).err().map(Err))
            .collect();
        let unfinished = outcomes.iter().filter(|outcome| outcome.is_none()).count();
        let extents: Vec<_> = extents.into_iter().map(Some).collect();
        if unfinished == 0 {
            let outcomes = outcomes.into_iter().flatten().collect();
            return Admission::Answered(Transfer::ready(ExtentsDone::new(outcomes, extents)));
        }
        let (completion, transfer) = Transfer::channel(extents.len());
        let sums = Vec::new();
        let batch = Self { direction, outcomes, extents, sums, completion, next: 0, unfinished };
        Admission::Accepted(batch, transfer)
    }

    /// The next extent that nobody works on yet, and its position.
    pub(crate) fn take_next(&mut self) -> Option<(usize, Extent)> {
        while let Some(slot) = self.extents.get_mut(self.next) {
            let position = self.next;
            self.next += 1;
            if self.outcomes[position].is_none()
                && let Some(extent) = slot.take()
            {
                return Some((position, extent));
            }
        }
        None
    }

    /// Whether every extent has been taken.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.outcomes[self.next..].iter().all(Option::is_some)
    }

    /// Extents without an outcome.
    pub(crate) fn unfinished(&self) -> usize {
        self.unfinished
    }

    /// Takes an extent back with its outcome. True when it was the last one.
    pub(crate) fn finish(&mut self, position: usize, outcome: Result<u64>, extent: Extent) -> bool {
        self.outcomes[position] = Some(outcome);
        self.extents[position] = Some(extent);
        self.unfinished -= 1;
        self.unfinished == 0
    }

    /// Keeps the sums of an extent that has not come back yet.
    pub(crate) fn keep(&mut self, position: usize, sums: PieceSums) {
        if self.sums.is_empty() {
            self.sums.resize(self.extents.len(), None);
        }
        self.sums[position] = Some(sums);
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
        let done = ExtentsDone { sums: self.sums, ..ExtentsDone::new(outcomes, self.extents) };
        drop(self.completion.answer(done));
    }
}
