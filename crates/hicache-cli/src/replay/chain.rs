//! The workload, with the keys of its pages.

use std::collections::HashSet;
use std::sync::Arc;

use hicache::PageKey;
use hicache_hashing::{Digest, page_hash};

use super::ReplayArguments;
use crate::exit::Failure;
use crate::workload::{Request, Synthetic, SyntheticConfig, TraceReader};

/// What is replayed.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    /// Where it comes from.
    pub(crate) source: String,
    /// Its requests in their order.
    pub(crate) requests: Arc<[Request]>,
    /// Pages over all requests.
    pub(crate) pages: u64,
    /// Different pages.
    pub(crate) unique_pages: u64,
    /// Hits of a store that is empty at first and forgets nothing.
    pub(crate) expected_hit_pages: u64,
    /// Pages of the longest request.
    pub(crate) longest_request_pages: usize,
}

impl Workload {
    /// Reads or makes it, all of it: a trace that is broken somewhere is refused before anything is stored.
    ///
    /// # Errors
    /// Bad input, with the number of the broken line.
    pub(crate) fn new(arguments: &ReplayArguments) -> Result<Self, Failure> {
        let (source, requests): (_, Vec<Request>) = match &arguments.trace {
            Some(path) => {
                let most = usize::try_from(arguments.requests.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
                let requests = TraceReader::open(path)?.take(most).collect::<Result<_, _>>()?;
                (path.display().to_string(), requests)
            }
            None => {
                let mut config = SyntheticConfig { seed: arguments.seed, ..SyntheticConfig::default() };
                config.requests = arguments.requests.unwrap_or(config.requests);
                (format!("synthetic, seed {}", config.seed), Synthetic::new(config)?.collect())
            }
        };
        Ok(Self::from_requests(source, requests))
    }

    fn from_requests(source: String, requests: Vec<Request>) -> Self {
        let (mut pages, mut expected_hit_pages, mut longest_request_pages) = (0, 0, 0);
        let mut stored: HashSet<Digest> = HashSet::new();
        for request in &requests {
            let digests: Vec<Digest> = chain(request).collect();
            pages += digests.len() as u64;
            longest_request_pages = longest_request_pages.max(digests.len());
            expected_hit_pages += digests.iter().take_while(|digest| stored.contains(*digest)).count() as u64;
            stored.extend(digests);
        }
        Self {
            source,
            requests: requests.into(),
            pages,
            unique_pages: stored.len() as u64,
            expected_hit_pages,
            longest_request_pages,
        }
    }

    /// Every different page once, in the order in which they first occur.
    pub(crate) fn unique_keys(&self) -> impl Iterator<Item = PageKey> {
        let mut seen: HashSet<Digest> = HashSet::with_capacity(self.unique_pages as usize);
        let new = move |digest: &Digest| seen.insert(*digest);
        self.requests.iter().flat_map(chain).filter(new).map(PageKey::kv)
    }
}

/// The keys of a request's pages.
pub(crate) fn keys(request: &Request) -> Vec<PageKey> {
    chain(request).map(PageKey::kv).collect()
}

/// Page hashes chained over the ids of the blocks: each block has one "token", its id.
fn chain(request: &Request) -> impl Iterator<Item = Digest> {
    request.blocks.iter().scan(None, |prior: &mut Option<Digest>, block| {
        Some(*prior.insert(page_hash(prior.as_ref(), std::slice::from_ref(block))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::summarize;

    #[test]
    fn equal_prefixes_have_equal_keys_and_nothing_else_has() {
        let request = |blocks: &[u64]| Request { blocks: blocks.to_vec(), ..Request::default() };
        let (a, b) = (keys(&request(&[1, 2, 3])), keys(&request(&[1, 2, 4, 3])));
        assert_eq!(a[..2], b[..2]);
        assert!(!a.contains(&b[2]) && !a.contains(&b[3]));
        assert_eq!(a[0].digest, page_hash(None, &[1_u64]));
        assert_eq!(a[1].digest, page_hash(Some(&a[0].digest), &[2_u64]));
        assert!(keys(&request(&[])).is_empty());
    }

    #[test]
    fn the_figures_are_those_of_the_ids_where_ids_are_chains() {
        let requests: Vec<Request> = Synthetic::new(SyntheticConfig::default()).unwrap().take(300).collect();
        let summary = summarize(&requests);
        let workload = Workload::from_requests(String::new(), requests);
        assert_eq!(workload.pages, summary.pages);
        assert_eq!(workload.unique_pages, summary.unique_pages);
        assert_eq!(workload.expected_hit_pages, summary.hit_pages);
        assert_eq!(workload.longest_request_pages, summary.longest_request_pages);
        assert_eq!(workload.unique_keys().count() as u64, summary.unique_pages);
    }
}
