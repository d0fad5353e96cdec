//! Which operation meets which fault.

use std::fmt;

use hicache_core::{Direction, PageKey};

use crate::content::mix;

/// One operation of a wrapped engine, or one page of a wrapped storage, as a plan sees it.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// Which one it is in its direction since the plan was set, from 0.
    pub number: u64,
    /// Read (a load) or write (a store).
    pub direction: Direction,
    /// Where in the file; 0 for a page.
    pub offset: u64,
    /// How long.
    pub bytes: u64,
    /// The page; `None` for an extent.
    pub key: Option<PageKey>,
}

type Decide<F> = Box<dyn FnMut(&Operation) -> Option<F> + Send>;

/// Says for each operation whether a fault of type `F` is injected.
pub struct FaultPlan<F> {
    decide: Decide<F>,
    reads: u64,
    writes: u64,
}

impl<F> fmt::Debug for FaultPlan<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultPlan")
            .field("reads", &self.reads)
            .field("writes", &self.writes)
            .finish_non_exhaustive()
    }
}

impl<F: Clone + Send + 'static> FaultPlan<F> {
    /// No faults.
    pub fn none() -> Self {
        Self::custom(|_| None)
    }

    /// Whatever the closure says.
    pub fn custom(decide: impl FnMut(&Operation) -> Option<F> + Send + 'static) -> Self {
        Self { decide: Box::new(decide), reads: 0, writes: 0 }
    }

    /// These faults and no others: (direction, number of the operation in that direction from 0, fault).
    ///
    /// ```
    /// use hicache_core::Direction;
    /// use hicache_testkit::{EngineFault, FaultPlan};
    /// // The third write finds the disk full; the first read comes back with ten bytes.
    /// let plan = FaultPlan::script([
    ///     (Direction::Write, 2, EngineFault::Fail { errno: 28, after_moving: false }),
    ///     (Direction::Read, 0, EngineFault::Short { bytes: 10 }),
    /// ]);
    /// # drop(plan);
    /// ```
    pub fn script(faults: impl IntoIterator<Item = (Direction, u64, F)>) -> Self {
        let faults: Vec<_> = faults.into_iter().collect();
        Self::custom(move |operation| {
            let found = faults
                .iter()
                .find(|(way, number, _)| (*way, *number) == (operation.direction, operation.number));
            found.map(|(_, _, fault)| fault.clone())
        })
    }

    /// Every operation of `direction`.
    pub fn every(direction: Direction, fault: F) -> Self {
        Self::custom(move |operation| (operation.direction == direction).then(|| fault.clone()))
    }

    /// One of `faults` in about `per_mille` of 1,000 operations, the same ones for the same seed and order.
    pub fn random(seed: u64, per_mille: u64, faults: impl IntoIterator<Item = F>) -> Self {
        let faults: Vec<_> = faults.into_iter().collect();
        let mut state = mix(seed);
        Self::custom(move |_| {
            state = mix(state);
            if faults.is_empty() || state % 1000 >= per_mille {
                return None;
            }
            Some(faults[(mix(state) % faults.len() as u64) as usize].clone())
        })
    }

    pub(super) fn next(
        &mut self,
        direction: Direction,
        offset: u64,
        bytes: u64,
        key: Option<PageKey>,
    ) -> Option<F> {
        let count = match direction {
            Direction::Read => &mut self.reads,
            Direction::Write => &mut self.writes,
        };
        let operation = Operation { number: *count, direction, offset, bytes, key };
        *count += 1;
        (self.decide)(&operation)
    }
}
