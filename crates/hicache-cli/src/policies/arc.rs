//! Adaptive replacement cache, as published: N. Megiddo and D. Modha, "ARC: a self-tuning, low overhead replacement
//! cache", FAST '03, figure 4. Pages are used one at a time, in the order of the request.

use super::queues::Queues;
use super::simulation::{Policy, Traffic};

/// Pages used once of late, stored.
const ONCE: usize = 0;
/// Pages used again, stored.
const AGAIN: usize = 1;
/// Pages evicted from `ONCE`, remembered.
const GONE_ONCE: usize = 2;
/// Pages evicted from `AGAIN`, remembered.
const GONE_AGAIN: usize = 3;

/// Two recency lists that share the slots, and one list of ghosts for each, whose hits shift the share.
#[derive(Debug)]
pub(super) struct Arc {
    queues: Queues<4>,
    slots: usize,
    /// Slots meant for `ONCE`.
    target: usize,
    traffic: Traffic,
}

impl Arc {
    pub(super) fn new(pages: usize, slots: usize) -> Self {
        Self { queues: Queues::new(pages), slots, target: 0, traffic: Traffic::default() }
    }

    fn use_page(&mut self, page: usize) {
        let [once, again, gone_once, gone_again] = std::array::from_fn(|queue| self.queues.len(queue));
        match self.queues.queue_of(page) {
            Some(ONCE | AGAIN) => return self.queues.push(AGAIN, page),
            Some(GONE_ONCE) => {
                let step = (gone_again / gone_once).max(1);
                self.target = (self.target + step).min(self.slots);
                self.make_room(false);
                self.queues.push(AGAIN, page);
            }
            Some(_) => {
                let step = (gone_once / gone_again).max(1);
                self.target = self.target.saturating_sub(step);
                self.make_room(true);
                self.queues.push(AGAIN, page);
            }
            None => {
                if once + gone_once >= self.slots {
                    if once < self.slots {
                        self.queues.pop(GONE_ONCE);
                        self.make_room(false);
                    } else {
                        // `ONCE` has all slots; its oldest page goes without a trace.
                        self.queues.pop(ONCE);
                        self.traffic.evicted += 1;
                    }
                } else {
                    if once + again + gone_once + gone_again >= self.slots.saturating_mul(2) {
                        self.queues.pop(GONE_AGAIN);
                    }
                    self.make_room(false);
                }
                self.queues.push(ONCE, page);
            }
        }
        self.traffic.stored += 1;
    }

    /// Evicts a page if all slots are taken. `for_gone_again` says that the page to come was evicted from `AGAIN`.
    fn make_room(&mut self, for_gone_again: bool) {
        let once = self.queues.len(ONCE);
        if once + self.queues.len(AGAIN) < self.slots {
            return;
        }
        let from_once = once > 0 && (once > self.target || (for_gone_again && once == self.target));
        let (queue, ghosts) = if from_once { (ONCE, GONE_ONCE) } else { (AGAIN, GONE_AGAIN) };
        if let Some(page) = self.queues.pop(queue) {
            self.queues.push(ghosts, page);
            self.traffic.evicted += 1;
        }
    }
}

impl Policy for Arc {
    fn holds(&self, page: usize) -> bool {
        matches!(self.queues.queue_of(page), Some(ONCE | AGAIN))
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
    fn after(slots: usize, pages: impl IntoIterator<Item = usize>) -> Arc {
        let mut policy = Arc::new(1000, slots);
        for page in pages {
            policy.use_page(page);
            let [once, again, gone_once, gone_again] = std::array::from_fn(|queue| policy.queues.len(queue));
            assert!(once + again <= slots && once + gone_once <= slots, "{policy:?}");
            assert!(once + again + gone_once + gone_again <= 2 * slots, "{policy:?}");
        }
        policy
    }

    #[test]
    fn what_was_used_twice_outlives_a_scan() {
        let policy = after(10, [1, 1, 2].into_iter().chain(100..200));
        assert!(policy.holds(1) && !policy.holds(2));
    }

    #[test]
    fn a_ghost_that_comes_back_shifts_the_share() {
        // 1 and 2 are used again, so newcomers have 8 slots; the oldest of 10 leaves a ghost.
        let start = || [1, 1, 2, 2].into_iter().chain(100..110);
        let policy = after(10, start());
        assert_eq!((policy.target, policy.queues.queue_of(100)), (0, Some(GONE_ONCE)));
        let policy = after(10, start().chain([100]));
        assert_eq!((policy.target, policy.queues.queue_of(100)), (1, Some(AGAIN)));
    }

    #[test]
    fn a_ghost_of_the_other_list_shifts_it_back() {
        // Ten pages used twice fill the store, the eleventh pushes one of them out, and that one comes back.
        let twice = (0..10).flat_map(|page| [page; 2]);
        let policy = after(10, twice.clone().chain([100]));
        assert_eq!(policy.queues.queue_of(0), Some(GONE_AGAIN));
        let policy = after(10, twice.chain([100, 0]));
        assert_eq!((policy.target, policy.queues.queue_of(0)), (0, Some(AGAIN)));
        assert_eq!(policy.queues.queue_of(100), Some(GONE_ONCE), "newcomers lose their slot first");
    }

    #[test]
    fn one_slot_and_many_pages_keep_the_bounds() {
        let mut random = 5_u64;
        let mut pages = std::iter::repeat_with(|| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) as usize % 40
        });
        for slots in [1, 2, 7, 30] {
            after(slots, pages.by_ref().take(5_000));
        }
    }
}
