//! Whose extent is started next: reads before writes, since somebody waits for what is read, and what is written only has
//! to arrive some time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hicache_core::Direction;

/// While writes wait, so many reads go before the next one of them.
const READS_BEFORE_A_WRITE: u32 = 7;

/// Operations of which none has ended for so long hang, on one disk of several: nobody waits his turn for them.
const HUNG: Duration = Duration::from_secs(1);

/// Batches with extents that nobody has started, the oldest first, and what is under way.
#[derive(Debug)]
pub(crate) struct Turns {
    reads: Queue,
    writes: Queue,
    /// Reads that were started while writes waited.
    since_write: u32,
}

#[derive(Debug)]
struct Queue {
    waiting: VecDeque<usize>,
    under_way: usize,
    /// When one of those under way ended last, or the first of them was started.
    moved: Instant,
}

impl Queue {
    fn new(now: Instant) -> Self {
        Self { waiting: VecDeque::new(), under_way: 0, moved: now }
    }

    /// What is under way and does not hang.
    fn moving(&self, now: Instant) -> usize {
        if now.duration_since(self.moved) < HUNG { self.under_way } else { 0 }
    }
}

impl Turns {
    pub(crate) fn new(now: Instant) -> Self {
        Self { reads: Queue::new(now), writes: Queue::new(now), since_write: 0 }
    }

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

    /// Whether no batch waits at all.
    pub(crate) fn nothing_waits(&self) -> bool {
        self.reads.waiting.is_empty() && self.writes.waiting.is_empty()
    }

    /// The batch that is next. While reads are under way writes take a quarter of the ring: a disk serves in turn what it
    /// was given, and what it was given before a read is what the read waits for.
    pub(crate) fn next(&self, depth: usize, now: Instant) -> Option<(Direction, usize)> {
        let read = self.reads.waiting.front().map(|&batch| (Direction::Read, batch));
        let write = self.writes.waiting.front().map(|&batch| (Direction::Write, batch));
        let few_writes = self.writes.moving(now) < (depth / 4).max(1);
        let writes_turn = self.since_write >= READS_BEFORE_A_WRITE && few_writes;
        match (read, write) {
            (Some(_), Some(write)) if writes_turn => Some(write),
            (Some(read), _) => Some(read),
            (None, write) => write.filter(|_| few_writes || self.reads.moving(now) == 0),
        }
    }

    /// How long until what waits may be started even if nothing ends; `None` where nothing is held back.
    pub(crate) fn held_for(&self, depth: usize, now: Instant) -> Option<Duration> {
        if self.nothing_waits() || self.next(depth, now).is_some() {
            return None;
        }
        let moving = [&self.reads, &self.writes].into_iter().filter(|queue| queue.moving(now) > 0);
        moving.map(|queue| (queue.moved + HUNG).duration_since(now)).min()
    }

    /// An extent of the first batch was started.
    pub(crate) fn started(&mut self, direction: Direction, now: Instant) {
        self.since_write = match direction {
            Direction::Read if !self.writes.waiting.is_empty() => self.since_write.saturating_add(1),
            _ => 0,
        };
        let queue = self.queue(direction);
        if queue.under_way == 0 {
            queue.moved = now;
        }
        queue.under_way += 1;
    }

    /// An extent has ended.
    pub(crate) fn ended(&mut self, direction: Direction, now: Instant) {
        let queue = self.queue(direction);
        queue.under_way = queue.under_way.saturating_sub(1);
        queue.moved = now;
    }

    /// The first batch has no more extents to start.
    pub(crate) fn pop(&mut self, direction: Direction) {
        self.queue(direction).waiting.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts as many extents as there is room for, of batches without end; what they are.
    fn fill(turns: &mut Turns, depth: usize, free: usize, now: Instant) -> Vec<Direction> {
        let start = |_| {
            let (direction, _) = turns.next(depth, now)?;
            turns.started(direction, now);
            Some(direction)
        };
        (0..free).map_while(start).collect()
    }

    fn writes(started: &[Direction]) -> usize {
        started.iter().filter(|&&direction| direction == Direction::Write).count()
    }

    /// Turns with a batch to write.
    fn writing() -> (Turns, Instant) {
        let now = Instant::now();
        let mut turns = Turns::new(now);
        turns.push(Direction::Write, 1);
        (turns, now)
    }

    #[test]
    fn reads_pass_writes_and_do_not_starve_them() {
        let (mut turns, now) = writing();
        turns.push(Direction::Read, 2);
        let started = fill(&mut turns, 64, 64, now);
        assert_eq!((started[0], started.len(), writes(&started)), (Direction::Read, 64, 8));
        // However small the ring is.
        let (mut turns, now) = writing();
        turns.push(Direction::Read, 2);
        let mut written = 0;
        for _ in 0..80 {
            let started = fill(&mut turns, 1, 1, now);
            written += writes(&started);
            turns.ended(started[0], now);
        }
        assert_eq!(written, 10);
    }

    #[test]
    fn slow_writes_take_no_more_than_a_quarter() {
        let (mut turns, now) = writing();
        turns.push(Direction::Read, 2);
        let mut written = 0;
        // Only reads end.
        for _ in 0..100 {
            let started = fill(&mut turns, 16, 16, now);
            written += writes(&started);
            (0..started.len() - writes(&started)).for_each(|_| turns.ended(Direction::Read, now));
        }
        assert_eq!(written, 4);
    }

    #[test]
    fn beside_reads_writes_take_a_quarter() {
        let (mut turns, now) = writing();
        assert_eq!(writes(&fill(&mut turns, 64, 64, now)), 64, "alone they take all");
        (0..64).for_each(|_| turns.ended(Direction::Write, now));
        turns.started(Direction::Read, now);
        assert_eq!(writes(&fill(&mut turns, 64, 63, now)), 16);
        assert!(turns.next(64, now).is_none() && !turns.nothing_waits());
        turns.ended(Direction::Read, now);
        assert!(turns.next(64, now).is_some());
    }

    #[test]
    fn what_hangs_holds_nobody_back() {
        let (mut turns, now) = writing();
        turns.started(Direction::Read, now);
        assert_eq!(writes(&fill(&mut turns, 64, 63, now)), 16);
        assert_eq!(turns.held_for(64, now), Some(HUNG));
        let later = now + HUNG;
        assert_eq!(turns.held_for(64, later), None);
        assert_eq!(writes(&fill(&mut turns, 64, 47, later)), 47);
    }
}
