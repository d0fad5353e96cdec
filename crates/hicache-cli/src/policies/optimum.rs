//! The optimum: what could be found by a store that knows the future.
//!
//! Between two requests a store holds some set of pages. A page is worth holding only until the next request that uses
//! it, so of all pages at hand the ones needed soonest are held (L. Belady, 1966). Where requests are chains, a page is
//! needed no later than those behind it; between equals the one nearer to the front is held. So the held pages have no
//! gaps, every one of them that a request uses is within the prefix that it finds, and the figure is both reached and
//! never beaten. For requests that are not chains it is merely what this rule gives.

use std::collections::BinaryHeap;

use super::simulation::{Policy, Traffic};

/// A request that never comes.
const NEVER: usize = usize::MAX;

/// Pages held, by when they are needed next.
#[derive(Debug)]
pub(super) struct Optimum {
    /// For each request, for each of its pages, the next request that uses the page.
    next_uses: Vec<Vec<usize>>,
    /// What is known of each page that is held.
    held: Vec<Option<Held>>,
    held_pages: usize,
    /// Held pages, needed last first; also what was true of a page before its last use, which is passed over.
    order: BinaryHeap<(Held, usize)>,
    slots: usize,
    /// Requests served.
    now: usize,
    traffic: Traffic,
}

/// When a page is needed; the greater is dropped first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    next_use: usize,
    /// Place in the request.
    depth: usize,
    /// The request that last used it, so that every use has an entry of its own.
    used: usize,
    /// The request that stored it, so that newcomers are known.
    stored: usize,
}

impl Optimum {
    pub(super) fn new(requests: &[Vec<usize>], pages: usize, slots: usize) -> Self {
        let mut next_use = vec![NEVER; pages];
        let mut next_uses: Vec<Vec<usize>> = requests
            .iter()
            .enumerate()
            .rev()
            .map(|(index, pages)| {
                let uses = pages.iter().map(|page| next_use[*page]).collect();
                pages.iter().for_each(|page| next_use[*page] = index);
                uses
            })
            .collect();
        next_uses.reverse();
        Self {
            next_uses,
            held: vec![None; pages],
            held_pages: 0,
            order: BinaryHeap::new(),
            slots,
            now: 0,
            traffic: Traffic::default(),
        }
    }

    /// Drops the pages that are needed last until the others have room.
    fn make_room(&mut self) {
        while self.held_pages > self.slots {
            let Some((entry, page)) = self.order.pop() else { return };
            if self.held[page] != Some(entry) {
                continue;
            }
            self.held[page] = None;
            self.held_pages -= 1;
            if entry.stored == self.now {
                // Never stored in the first place.
                self.traffic.stored -= 1;
            } else {
                self.traffic.evicted += 1;
            }
        }
    }
}

impl Policy for Optimum {
    fn holds(&self, page: usize) -> bool {
        self.held[page].is_some()
    }

    fn serve(&mut self, pages: &[usize], _found: usize) {
        let next_uses = std::mem::take(&mut self.next_uses[self.now]);
        for (depth, (page, next_use)) in pages.iter().zip(next_uses).enumerate() {
            let stored = self.held[*page].map_or(self.now, |held| held.stored);
            if self.held[*page].is_none() {
                self.held_pages += 1;
                self.traffic.stored += 1;
            }
            let entry = Held { next_use, depth, used: self.now, stored };
            self.held[*page] = Some(entry);
            self.order.push((entry, *page));
        }
        self.make_room();
        self.now += 1;
    }

    fn traffic(&self) -> Traffic {
        self.traffic
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use crate::policies::{Outcome, PolicyKind, simulate};
    use crate::workload::Request;

    /// The most hits of `requests` from the pages `held` on, by trying every set that could be held next.
    fn tried(requests: &[Request], held: u32, slots: u32) -> u64 {
        let Some((request, rest)) = requests.split_first() else { return 0 };
        let hits = request.blocks.iter().take_while(|block| held >> **block & 1 == 1).count() as u64;
        let at_hand = request.blocks.iter().fold(held, |all, block| all | 1 << block);
        // All subsets of what is at hand, from the whole downwards.
        let mut subset = at_hand;
        let mut most = 0;
        loop {
            if subset.count_ones() <= slots {
                most = most.max(tried(rest, subset, slots));
            }
            if subset == 0 {
                return hits + most;
            }
            subset = (subset - 1) & at_hand;
        }
    }

    #[test]
    fn nothing_finds_more() {
        // Prefixes of the chains 0-1-2, 0-1-3, 0-4 and 5.
        let prefixes: [&[u64]; 7] = [&[0], &[0, 1], &[0, 1, 2], &[0, 1, 3], &[0, 4], &[5], &[]];
        let mut random = 3_u64;
        let mut different = HashSet::new();
        for _ in 0..60 {
            let requests: Vec<Request> = (0..6)
                .map(|_| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let blocks = prefixes[(random >> 33) as usize % prefixes.len()].to_vec();
                    Request { blocks, ..Request::default() }
                })
                .collect();
            for slots in 1..4 {
                let hits = simulate(&requests, slots, PolicyKind::Optimum).hit_pages;
                assert_eq!(hits, tried(&requests, 0, slots as u32), "{slots} slots, {requests:?}");
                different.insert(hits);
            }
        }
        assert!(different.len() > 5, "{different:?}");
    }

    #[test]
    fn what_is_never_needed_is_not_stored() {
        let requests = [vec![1], vec![2, 3, 4], vec![1], vec![5, 6]]
            .map(|blocks| Request { blocks, ..Request::default() });
        let outcome = simulate(&requests, 1, PolicyKind::Optimum);
        assert_eq!(outcome, Outcome { hit_pages: 1, stored_pages: 1, evicted_pages: 0 });
    }
}
