//! Least recently used, in the two orders in which a request's pages can count as used.

use super::queues::Queues;
use super::simulation::{Policy, Traffic};

/// The pages that are stored, the least recently used first, and the slots for them.
#[derive(Debug)]
struct Recency {
    queue: Queues<1>,
    slots: usize,
    traffic: Traffic,
}

impl Recency {
    fn new(pages: usize, slots: usize) -> Self {
        Self { queue: Queues::new(pages), slots, traffic: Traffic::default() }
    }

    fn holds(&self, page: usize) -> bool {
        self.queue.queue_of(page).is_some()
    }

    /// Uses `page` if it is stored.
    fn touch(&mut self, page: usize) {
        if self.holds(page) {
            self.queue.push(0, page);
        }
    }

    /// Uses `page`, storing it if it is not. The least recently used page makes room.
    fn store(&mut self, page: usize) {
        if !self.holds(page) {
            if self.queue.len(0) >= self.slots && self.queue.pop(0).is_some() {
                self.traffic.evicted += 1;
            }
            self.traffic.stored += 1;
        }
        self.queue.push(0, page);
    }
}

/// Plain LRU: a request uses its pages one after another from its first to its last, hits and others alike.
#[derive(Debug)]
pub(super) struct Lru(Recency);

impl Lru {
    pub(super) fn new(pages: usize, slots: usize) -> Self {
        Self(Recency::new(pages, slots))
    }
}

impl Policy for Lru {
    fn holds(&self, page: usize) -> bool {
        self.0.holds(page)
    }

    fn serve(&mut self, pages: &[usize], _found: usize) {
        pages.iter().for_each(|page| self.0.store(*page));
    }

    fn traffic(&self) -> Traffic {
        self.0.traffic
    }
}

/// LRU over the calls that a request makes to the store: `exists` with all pages, `load` with those found, `store` with
/// the rest; each uses its pages from its last to its first.
///
/// So when space is short the tail of a prompt goes before its head, without which the tail could not be found; and the
/// pages of one request are the last to go while it is served.
#[derive(Debug)]
pub(super) struct LruFromEnd(Recency);

impl LruFromEnd {
    pub(super) fn new(pages: usize, slots: usize) -> Self {
        Self(Recency::new(pages, slots))
    }
}

impl Policy for LruFromEnd {
    fn holds(&self, page: usize) -> bool {
        self.0.holds(page)
    }

    fn serve(&mut self, pages: &[usize], found: usize) {
        let (hits, rest) = pages.split_at(found);
        pages.iter().rev().for_each(|page| self.0.touch(*page));
        hits.iter().rev().for_each(|page| self.0.touch(*page));
        rest.iter().rev().for_each(|page| self.0.store(*page));
    }

    fn traffic(&self) -> Traffic {
        self.0.traffic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a policy holds after `requests`, the next page to go first.
    fn held<P: Policy>(
        mut policy: P,
        recency: fn(&mut P) -> &mut Recency,
        requests: &[&[usize]],
    ) -> Vec<usize> {
        for pages in requests {
            let found = pages.iter().take_while(|page| policy.holds(**page)).count();
            policy.serve(pages, found);
        }
        let queue = &mut recency(&mut policy).queue;
        std::iter::from_fn(|| queue.pop(0)).collect()
    }

    fn plain(slots: usize, requests: &[&[usize]]) -> Vec<usize> {
        held(Lru::new(10, slots), |lru| &mut lru.0, requests)
    }

    fn from_end(slots: usize, requests: &[&[usize]]) -> Vec<usize> {
        held(LruFromEnd::new(10, slots), |lru| &mut lru.0, requests)
    }

    #[test]
    fn heads_go_first_or_last() {
        assert_eq!(plain(9, &[&[1, 2, 3]]), [1, 2, 3]);
        assert_eq!(from_end(9, &[&[1, 2, 3]]), [3, 2, 1]);
        // 1 and 2 are found; 4 is new.
        assert_eq!(plain(9, &[&[1, 2, 3], &[1, 2, 4]]), [3, 1, 2, 4]);
        assert_eq!(from_end(9, &[&[1, 2, 3], &[1, 2, 4]]), [3, 2, 1, 4]);
    }

    #[test]
    fn the_least_recently_used_makes_room() {
        assert_eq!(plain(3, &[&[1, 2, 3], &[1, 4]]), [3, 1, 4]);
        assert_eq!(from_end(3, &[&[1, 2, 3], &[1, 4]]), [2, 1, 4]);
    }

    #[test]
    fn a_request_larger_than_the_store_keeps_its_head_only_from_the_end() {
        assert_eq!(plain(2, &[&[1, 2, 3, 4]]), [3, 4]);
        assert_eq!(from_end(2, &[&[1, 2, 3, 4]]), [2, 1]);
    }

    #[test]
    fn a_page_behind_a_gap_is_used_and_not_stored_again() {
        // 2 is stored, its head is not.
        let mut policy = Lru::new(10, 4);
        policy.serve(&[2, 5], 0);
        policy.serve(&[1, 2, 3], 0);
        assert_eq!((policy.traffic().stored, policy.traffic().evicted), (4, 0));
        let mut policy = LruFromEnd::new(10, 4);
        policy.serve(&[2, 5], 0);
        policy.serve(&[1, 2, 3], 0);
        assert_eq!((policy.traffic().stored, policy.traffic().evicted), (4, 0));
        policy.serve(&[6], 0);
        assert!(policy.holds(2) && !policy.holds(5));
    }
}
