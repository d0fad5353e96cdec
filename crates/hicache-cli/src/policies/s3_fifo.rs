//! S3-FIFO, after J. Yang et al., "FIFO queues are all you need for cache eviction", SOSP '23, algorithm 1. Pages are
//! used one at a time, in the order of the request.

use super::queues::Queues;
use super::simulation::{Policy, Traffic};

/// Newcomers, a tenth of the slots.
const SMALL: usize = 0;
/// Pages that have proved themselves.
const MAIN: usize = 1;
/// Pages evicted from `SMALL`, remembered; as many as `MAIN` has slots.
const GHOST: usize = 2;

/// Uses that are counted; more change nothing.
const MOST_USES: u8 = 3;
/// Uses while in `SMALL`, beyond the one that stored it, that bring a page to `MAIN`.
const USES_TO_STAY: u8 = 2;

/// A short queue that newcomers must outlive, a long one, and ghosts.
#[derive(Debug)]
pub(super) struct S3Fifo {
    queues: Queues<3>,
    /// Uses of each page since it was stored.
    uses: Vec<u8>,
    slots: usize,
    small_slots: usize,
    traffic: Traffic,
}

impl S3Fifo {
    pub(super) fn new(pages: usize, slots: usize) -> Self {
        Self {
            queues: Queues::new(pages),
            uses: vec![0; pages],
            slots,
            small_slots: (slots / 10).max(1),
            traffic: Traffic::default(),
        }
    }

    fn use_page(&mut self, page: usize) {
        if self.holds(page) {
            self.uses[page] = (self.uses[page] + 1).min(MOST_USES);
            return;
        }
        while self.queues.len(SMALL) + self.queues.len(MAIN) >= self.slots {
            self.evict();
        }
        // Looked at after the eviction, which may have forgotten it.
        let queue = if self.queues.queue_of(page) == Some(GHOST) { MAIN } else { SMALL };
        self.queues.push(queue, page);
        self.uses[page] = 0;
        self.traffic.stored += 1;
    }

    /// Evicts one page, or moves some to `MAIN`.
    fn evict(&mut self) {
        if self.queues.len(SMALL) >= self.small_slots || self.queues.len(MAIN) == 0 {
            self.evict_from_small();
        } else {
            self.evict_from_main();
        }
    }

    fn evict_from_small(&mut self) {
        while let Some(page) = self.queues.pop(SMALL) {
            if self.uses[page] >= USES_TO_STAY {
                self.uses[page] = 0;
                self.queues.push(MAIN, page);
                continue;
            }
            let ghosts = self.slots - self.small_slots;
            if self.queues.len(GHOST) >= ghosts {
                self.queues.pop(GHOST);
            }
            if ghosts > 0 {
                self.queues.push(GHOST, page);
            }
            self.traffic.evicted += 1;
            return;
        }
    }

    fn evict_from_main(&mut self) {
        while let Some(page) = self.queues.pop(MAIN) {
            if self.uses[page] == 0 {
                self.traffic.evicted += 1;
                return;
            }
            self.uses[page] -= 1;
            self.queues.push(MAIN, page);
        }
    }
}

impl Policy for S3Fifo {
    fn holds(&self, page: usize) -> bool {
        matches!(self.queues.queue_of(page), Some(SMALL | MAIN))
    }

    fn serve(&mut self, pages: &[usize], _found: usize) {
        pages.iter().for_each(|page| self.use_page(*page));
    }

    fn traffic(&self) -> Traffic {
        self.traffic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uses pages one by one.
    fn after(slots: usize, pages: impl IntoIterator<Item = usize>) -> S3Fifo {
        let mut policy = S3Fifo::new(1000, slots);
        pages.into_iter().for_each(|page| policy.use_page(page));
        policy
    }

    #[test]
    fn what_was_used_twice_more_outlives_a_scan() {
        let policy = after(20, [1, 1, 1, 2, 2].into_iter().chain(100..200));
        assert!(policy.holds(1), "two more uses");
        assert!(!policy.holds(2), "one more use");
    }

    #[test]
    fn a_ghost_that_comes_back_goes_to_the_main_queue() {
        // The 21st page pushes 1 out; 18 ghosts after it are remembered.
        let policy = after(20, [1].into_iter().chain(100..120));
        assert_eq!(policy.queues.queue_of(1), Some(GHOST));
        let policy = after(20, [1].into_iter().chain(100..120).chain([1]));
        assert_eq!(policy.queues.queue_of(1), Some(MAIN));
        let forgotten = after(20, [1].into_iter().chain(100..200).chain([1]));
        assert_eq!(forgotten.queues.queue_of(1), Some(SMALL));
    }

    #[test]
    fn the_main_queue_gives_up_what_is_no_longer_used() {
        // 1 reaches the main queue; others do so after it, and it is not used again.
        let proven = (100..130).flat_map(|page| [page; 3]);
        let policy = after(20, [1, 1, 1].into_iter().chain(proven).chain(200..260));
        assert!(!policy.holds(1));
    }

    #[test]
    fn a_store_of_one_slot_holds_the_last_page() {
        let policy = after(1, [1, 1, 1, 1, 2, 3, 1]);
        assert!(policy.holds(1) && !policy.holds(3));
        assert_eq!(policy.traffic.stored - policy.traffic.evicted, 1);
    }
}
