//! What a store that forgets nothing would answer: the figures that a replay with room for everything must reproduce.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::Request;

/// Figures of a list of requests, played one after another into a store that forgets nothing.
///
/// A request asks for the longest prefix of its blocks that is stored (the hit), and afterwards all its blocks are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Requests.
    pub requests: u64,
    /// Pages over all requests, one a block.
    pub pages: u64,
    /// Different pages.
    pub unique_pages: u64,
    /// Pages that the store had, within the prefix that each request found.
    pub hit_pages: u64,
    /// Pages of the longest request: what a region for one request must hold.
    pub longest_request_pages: usize,
    /// Blocks that follow another block than where their id was first seen, so are not a prefix in common: 0 in a
    /// sound trace. Where it is not, keys that chain over the whole prefix differ although the ids are equal, and a
    /// replay will find fewer hits and more unique pages than these figures.
    pub chain_breaks: u64,
}

/// The [`Summary`] of `requests`, in their order.
pub fn summarize<'a>(requests: impl IntoIterator<Item = &'a Request>) -> Summary {
    let mut summary = Summary::default();
    // Each stored block and the one before it.
    let mut stored: HashMap<u64, Option<u64>> = HashMap::new();
    for request in requests {
        let hits = request.blocks.iter().take_while(|block| stored.contains_key(block)).count();
        summary.requests += 1;
        summary.pages += request.blocks.len() as u64;
        summary.hit_pages += hits as u64;
        summary.longest_request_pages = summary.longest_request_pages.max(request.blocks.len());
        let mut before = None;
        for block in &request.blocks {
            match stored.entry(*block) {
                Entry::Vacant(vacant) => {
                    vacant.insert(before);
                }
                Entry::Occupied(known) => summary.chain_breaks += u64::from(*known.get() != before),
            }
            before = Some(*block);
        }
    }
    summary.unique_pages = stored.len() as u64;
    summary
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::TraceReader;

    fn requests(lists: &[&[u64]]) -> Vec<Request> {
        lists.iter().map(|blocks| Request { blocks: blocks.to_vec(), ..Request::default() }).collect()
    }

    #[test]
    fn a_hit_is_the_longest_stored_prefix() {
        let summary = summarize(&requests(&[&[1, 2, 3], &[1, 2, 4], &[], &[1, 2, 4, 5], &[6]]));
        assert_eq!(
            summary,
            Summary {
                requests: 5,
                pages: 11,
                unique_pages: 6,
                hit_pages: 5,
                longest_request_pages: 4,
                chain_breaks: 0
            }
        );
        assert_eq!(summarize(&[]), Summary::default());
    }

    #[test]
    fn what_is_not_a_chain_is_counted() {
        // 9 is new, so the stored 2 behind it is no hit, and it follows 9 and not 1.
        let summary = summarize(&requests(&[&[1, 2], &[9, 2], &[7, 7]]));
        assert_eq!((summary.hit_pages, summary.unique_pages, summary.chain_breaks), (0, 4, 2));
    }

    #[test]
    fn the_recorded_hour_has_its_known_figures() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/traces/conversation_trace.jsonl");
        if !std::path::Path::new(path).exists() {
            eprintln!("went without: {path} is not there");
            return;
        }
        let requests: Vec<Request> = TraceReader::open(path).unwrap().map(Result::unwrap).collect();
        assert_eq!(
            summarize(&requests),
            Summary {
                requests: 12_031,
                pages: 288_500,
                unique_pages: 182_790,
                hit_pages: 105_710,
                longest_request_pages: 247,
                chain_breaks: 0
            }
        );
        assert!(requests.is_sorted_by_key(|request| request.timestamp_ms));
    }
}
