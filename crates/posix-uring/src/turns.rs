//! Whose extent is started next: reads before writes, since somebody waits for what is read, and what is written only has
//! to arrive some time.

use std::collections::VecDeque;

use hicache_core::Direction;

/// While writes wait, so many reads go before the next one of them.
const READS_BEFORE_A_WRITE: u32 = 7;

/// Batches with extents that nobody has started, the oldest first, and what is under way.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    reads: Queue,
    writes: Queue,
    /// Reads that were started while writes waited.
    since_write: u32,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<usize>,
    under_way: usize,
}

impl Turns {
    fn queue(&mut self, direction: Direction) -> &mut Queue {
        match direction {
            Direction::Read => &mut self.reads,
            Direction::Write => &mut self.writes,
        }
    }

    /// A batch waits.
    pub(crate) fn push(&mut self, direction: Direction, batch: usize) {
        self.queue(direction).waiting.push_back(batch);
    }

    /// Whether nothing waits that may be started now, with a ring of this depth.
    pub(crate) fn is_empty(&self, depth: usize) -> bool {
        self.next(depth).is_none()
    }

    /// Whether no batch waits at all.
    pub(crate) fn nothing_waits(&self) -> bool {
        self.reads.waiting.is_empty() && self.writes.waiting.is_empty()
    }

    /// The batch that is next. While reads are under way writes take a quarter of the ring: a disk serves in turn what it
    /// was given, and what it was given before a read is what the read waits for.
    pub(crate) fn next(&self, depth: usize) -> Option<(Direction, usize)> {
        let read = self.reads.waiting.front().map(|&batch| (Direction::Read, batch));
        let write = self.writes.waiting.front().map(|&batch| (Direction::Write, batch));
        let writes_turn = self.since_write >= READS_BEFORE_A_WRITE;
        let may_write = self.reads.under_way == 0 || self.writes.under_way < (depth / 4).max(1);
        match (read, write) {
            (Some(_), Some(write)) if writes_turn => Some(write),
            (Some(read), _) => Some(read),
            (None, write) => write.filter(|_| may_write),
        }
    }

    /// An extent of the first batch was started.
    pub(crate) fn started(&mut self, direction: Direction) {
        self.queue(direction).under_way += 1;
        self.since_write = match direction {
            Direction::Read if !self.writes.waiting.is_empty() => self.since_write + 1,
            _ => 0,
        };
    }

    /// An extent has ended.
    pub(crate) fn ended(&mut self, direction: Direction) {
        let queue = self.queue(direction);
        queue.under_way = queue.under_way.saturating_sub(1);
    }

    /// The first batch has no more extents to start.
    pub(crate) fn pop(&mut self, direction: Direction) {
        self.queue(direction).waiting.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts as many extents as a ring of `depth` has room for, of batches without end; what they are.
    fn fill(turns: &mut Turns, depth: usize, free: usize) -> Vec<Direction> {
        let start = |_| {
            let (direction, _) = turns.next(depth)?;
            turns.started(direction);
            Some(direction)
        };
        (0..free).map_while(start).collect()
    }

    fn writes(started: &[Direction]) -> usize {
        started.iter().filter(|&&direction| direction == Direction::Write).count()
    }

    #[test]
    fn reads_pass_writes_and_do_not_starve_them() {
        let mut turns = Turns::default();
        turns.push(Direction::Write, 1);
        turns.push(Direction::Read, 2);
        let started = fill(&mut turns, 64, 64);
        assert_eq!((started[0], started.len(), writes(&started)), (Direction::Read, 64, 8));
        // However small the ring is.
        let mut turns = Turns::default();
        turns.push(Direction::Write, 1);
        turns.push(Direction::Read, 2);
        let mut written = 0;
        for _ in 0..80 {
            let started = fill(&mut turns, 1, 1);
            written += writes(&started);
            turns.ended(started[0]);
        }
        assert_eq!(written, 10);
    }

    #[test]
    fn beside_reads_writes_take_a_quarter() {
        let mut turns = Turns::default();
        turns.push(Direction::Write, 1);
        assert_eq!(writes(&fill(&mut turns, 64, 64)), 64, "alone they take all");
        (0..64).for_each(|_| turns.ended(Direction::Write));
        turns.push(Direction::Read, 2);
        turns.started(Direction::Read);
        turns.pop(Direction::Read);
        assert_eq!(writes(&fill(&mut turns, 64, 63)), 16);
        assert!(turns.is_empty(64) && !turns.nothing_waits());
        turns.ended(Direction::Read);
        assert!(!turns.is_empty(64));
    }
}
