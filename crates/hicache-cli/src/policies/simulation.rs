//! Plays requests into a policy and counts.

use std::collections::HashMap;

use super::PolicyKind;
use super::arc::Arc;
use super::lru::{Lru, LruFromEnd};
use super::optimum::Optimum;
use super::s3_fifo::S3Fifo;
use crate::workload::Request;

/// What became of the requests under one policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Pages found, within the prefix that each request found stored.
    pub hit_pages: u64,
    /// Pages stored: written, each time that they were.
    pub stored_pages: u64,
    /// Pages evicted. `stored_pages - evicted_pages` are there at the end.
    pub evicted_pages: u64,
}

/// A policy with the pages that it holds.
///
/// Pages are numbered from 0 without gaps, so that what is known of them lies in plain vectors.
pub(super) trait Policy {
    /// Whether `page` is stored.
    fn holds(&self, page: usize) -> bool;

    /// Uses all `pages` of a request, whose first `found` ones were hits, and stores those that are not.
    fn serve(&mut self, pages: &[usize], found: usize);

    /// Pages stored and pages evicted so far.
    fn traffic(&self) -> Traffic;
}

/// How often pages came and went.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    pub(super) stored: u64,
    pub(super) evicted: u64,
}

/// Plays `requests` in their order into an empty store of `slots` pages under the policy of that kind.
///
/// With 0 slots nothing is ever stored. A million pages take some 0.1 s and 100 bytes of memory each.
pub fn simulate(requests: &[Request], slots: usize, kind: PolicyKind) -> Outcome {
    if slots == 0 {
        return Outcome::default();
    }
    let (requests, pages) = numbered(requests);
    match kind {
        PolicyKind::Lru => play(&requests, Lru::new(pages, slots)),
        PolicyKind::LruFromEnd => play(&requests, LruFromEnd::new(pages, slots)),
        PolicyKind::Arc => play(&requests, Arc::new(pages, slots)),
        PolicyKind::S3Fifo => play(&requests, S3Fifo::new(pages, slots)),
        PolicyKind::Optimum => play(&requests, Optimum::new(&requests, pages, slots)),
    }
}

/// The requests' pages by number, in the order in which they first occur, and how many different ones there are.
fn numbered(requests: &[Request]) -> (Vec<Vec<usize>>, usize) {
    let mut numbers = HashMap::new();
    let requests = requests
        .iter()
        .map(|request| {
            let mut number = |block: &u64| {
                let next = numbers.len();
                *numbers.entry(*block).or_insert(next)
            };
            request.blocks.iter().map(&mut number).collect()
        })
        .collect();
    (requests, numbers.len())
}

fn play(requests: &[Vec<usize>], mut policy: impl Policy) -> Outcome {
    let mut hit_pages = 0;
    for pages in requests {
        let found = pages.iter().take_while(|page| policy.holds(**page)).count();
        hit_pages += found as u64;
        policy.serve(pages, found);
    }
    let Traffic { stored, evicted } = policy.traffic();
    Outcome { hit_pages, stored_pages: stored, evicted_pages: evicted }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Synthetic, SyntheticConfig, TraceReader, summarize};

    fn synthetic(requests: u64) -> Vec<Request> {
        Synthetic::new(SyntheticConfig { requests, ..SyntheticConfig::default() }).unwrap().collect()
    }

    /// Asserts after each request that no more is held than there are slots, and that the traffic says so.
    struct Bounded<P> {
        policy: P,
        pages: usize,
        slots: usize,
    }

    impl<P: Policy> Policy for Bounded<P> {
        fn holds(&self, page: usize) -> bool {
            self.policy.holds(page)
        }

        fn serve(&mut self, pages: &[usize], found: usize) {
            self.policy.serve(pages, found);
            let held = (0..self.pages).filter(|page| self.holds(*page)).count();
            let Traffic { stored, evicted } = self.traffic();
            assert!(held <= self.slots, "{held} held in {} slots", self.slots);
            assert_eq!(held as u64, stored - evicted);
        }

        fn traffic(&self) -> Traffic {
            self.policy.traffic()
        }
    }

    #[test]
    fn no_policy_holds_more_than_its_slots() {
        let (requests, pages) = numbered(&synthetic(150));
        for slots in [1, 2, 3, 10, 50, 200, pages - 1, pages] {
            play(&requests, Bounded { policy: Lru::new(pages, slots), pages, slots });
            play(&requests, Bounded { policy: LruFromEnd::new(pages, slots), pages, slots });
            play(&requests, Bounded { policy: Arc::new(pages, slots), pages, slots });
            play(&requests, Bounded { policy: S3Fifo::new(pages, slots), pages, slots });
            play(&requests, Bounded { policy: Optimum::new(&requests, pages, slots), pages, slots });
        }
    }

    #[test]
    fn with_room_for_all_nothing_is_forgotten() {
        let requests = synthetic(2_000);
        let summary = summarize(&requests);
        let outcome =
            Outcome { hit_pages: summary.hit_pages, stored_pages: summary.unique_pages, evicted_pages: 0 };
        for kind in PolicyKind::ALL {
            for slots in [summary.unique_pages as usize, usize::MAX] {
                assert_eq!(simulate(&requests, slots, kind), outcome, "{kind}");
            }
        }
    }

    #[test]
    fn no_policy_beats_the_optimum() {
        let requests = synthetic(2_000);
        for slots in [1, 10, 100, 500, 1_000, 2_000, 5_000] {
            let most = simulate(&requests, slots, PolicyKind::Optimum).hit_pages;
            for kind in PolicyKind::ALL {
                let hits = simulate(&requests, slots, kind).hit_pages;
                assert!(hits <= most, "{kind} with {slots} slots: {hits}, the optimum {most}");
            }
        }
    }

    #[test]
    fn what_is_hardly_a_workload_is_played_too() {
        let list = |blocks: &[u64]| Request { blocks: blocks.to_vec(), ..Request::default() };
        let odd = [list(&[]), list(&[7, 7, 7]), list(&[u64::MAX, 7]), list(&[7, u64::MAX, 7]), list(&[])];
        for kind in PolicyKind::ALL {
            assert_eq!(simulate(&[], 5, kind), Outcome::default());
            assert_eq!(simulate(&odd, 0, kind), Outcome::default());
            let outcome = simulate(&odd, 5, kind);
            assert_eq!(outcome, Outcome { hit_pages: 3, stored_pages: 2, evicted_pages: 0 }, "{kind}");
            simulate(&odd, 1, kind);
        }
    }

    #[test]
    fn the_recorded_hour_has_its_known_figures() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/traces/conversation_trace.jsonl");
        if !std::path::Path::new(path).exists() {
            eprintln!("went without: {path} is not there");
            return;
        }
        let requests: Vec<Request> = TraceReader::open(path).unwrap().map(Result::unwrap).collect();
        // 5, 10, 20 and 40 % of the 182,790 different pages.
        let slots = [9_139, 18_279, 36_558, 73_116];
        let hits = |kind| slots.map(|slots| simulate(&requests, slots, kind).hit_pages);
        assert_eq!(hits(PolicyKind::Lru), [56_382, 80_323, 99_403, 103_947]);
        assert_eq!(hits(PolicyKind::LruFromEnd), [56_476, 80_462, 99_632, 103_968]);
        assert_eq!(hits(PolicyKind::Arc), [61_180, 81_969, 92_337, 103_717]);
        assert_eq!(hits(PolicyKind::S3Fifo), [53_994, 70_553, 94_502, 103_404]);
        assert_eq!(hits(PolicyKind::Optimum), [105_710; 4]);
    }
}
