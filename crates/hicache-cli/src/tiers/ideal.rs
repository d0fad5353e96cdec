//! What three tiers of these sizes would find if everything worked and took no time: the yardstick of a replay.
//!
//! Each tier is an LRU list of single pages, in which a request's pages count as used from its last to its first. It
//! follows the rules of the controller, write-through: what is computed goes to all tiers; what is found in a lower
//! tier goes to those above; the host keeps what the device has; storage is asked only for what the host lacks.

use std::collections::HashMap;

use crate::policies::Queues;
use crate::workload::Request;

use super::TierSizes;

/// Pages found, by tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct TierHits {
    /// Found on the device.
    pub device_pages: u64,
    /// Found in host memory.
    pub host_pages: u64,
    /// Found in storage.
    pub storage_pages: u64,
}

/// One tier: its pages, the one used longest ago first.
struct Tier {
    queue: Queues<1>,
    slots: usize,
}

impl Tier {
    fn new(pages: usize, slots: usize) -> Self {
        Self { queue: Queues::new(pages), slots }
    }

    fn holds(&self, page: usize) -> bool {
        self.queue.queue_of(page).is_some()
    }

    /// Uses pages, the last one first, and takes in those that are not there.
    fn take(&mut self, pages: &[usize]) {
        for &page in pages.iter().rev() {
            self.queue.push(0, page);
        }
        while self.queue.len(0) > self.slots && self.queue.pop(0).is_some() {}
    }

    /// Uses those of `pages` that are there.
    fn touch(&mut self, pages: &[usize]) {
        for &page in pages.iter().rev() {
            if self.holds(page) {
                self.queue.push(0, page);
            }
        }
    }

    fn prefix(&self, pages: &[usize]) -> usize {
        pages.iter().take_while(|page| self.holds(**page)).count()
    }
}

/// Plays `requests` in their order through empty tiers of these sizes.
pub fn simulate_tiers(requests: &[Request], sizes: TierSizes) -> TierHits {
    let mut numbers: HashMap<u64, usize> = HashMap::new();
    let mut number = |block: &u64| {
        let next = numbers.len();
        *numbers.entry(*block).or_insert(next)
    };
    let requests: Vec<Vec<usize>> =
        requests.iter().map(|request| request.blocks.iter().map(&mut number).collect()).collect();
    let pages = numbers.len();
    let mut device = Tier::new(pages, sizes.device_pages);
    let mut host = Tier::new(pages, sizes.host_pages);
    let mut storage = Tier::new(pages, sizes.storage_pages);
    let mut hits = TierHits::default();
    for request in &requests {
        if request.len() > sizes.device_pages {
            continue;
        }
        let on_device = device.prefix(request);
        let on_host = host.prefix(&request[on_device..]);
        let known = on_device + on_host;
        // Asked in batches up to the first miss; asking counts as use.
        let mut stored = 0;
        for batch in request[known..].chunks(BATCH_PAGES) {
            storage.touch(batch);
            let found = storage.prefix(batch);
            stored += found;
            if found < batch.len() {
                break;
            }
        }
        storage.touch(&request[known..known + stored]);
        hits.device_pages += on_device as u64;
        hits.host_pages += on_host as u64;
        hits.storage_pages += stored as u64;
        device.take(request);
        host.take(request);
        storage.take(&request[known + stored..]);
    }
    hits
}

/// Pages of one question to storage.
const BATCH_PAGES: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_found_where_they_are() {
        let request = |blocks: &[u64]| Request { blocks: blocks.to_vec(), ..Request::default() };
        let sizes = TierSizes { device_pages: 2, host_pages: 4, storage_pages: 6 };
        let requests = [
            request(&[1, 2]),
            request(&[1, 2]),
            request(&[3, 4]),
            request(&[1, 2]),
            request(&[5, 6]),
            request(&[3, 4]),
            request(&[7, 8]),
            request(&[1, 2, 9]),
        ];
        let hits = simulate_tiers(&requests, sizes);
        // The last request is longer than the device, and 3 and 4 had left the host.
        assert_eq!(hits, TierHits { device_pages: 2, host_pages: 2, storage_pages: 2 });
    }
}
