//! The page store.

use std::sync::Arc;

use futures::future::join_all;
use hicache_core::{Access, Namespace, PageMemory, PageRequest, Region, Registration, Storage, StoreOptions};
use hicache_page_store::{PageStore, PageStoreConfig};
use hicache_posix_uring::{IoMode, UringConfig, UringEngine};
use hicache_testkit::numbered_key;
use tokio::runtime::Runtime;

use super::Competitor;
use super::order::{Order, noise};
use crate::bench::Problem;
use crate::bench::measure::{Measure, Stopwatch};
use crate::bench::spec::{Spec, Work};

/// What a page takes beside its bytes.
const METADATA_BYTES: u64 = 256;
/// What a set takes beside its pages.
const SET_BYTES: u64 = 4 << 20;

/// Room for pages where they are stored for the first time; not all of it is taken.
const FIRST_FILL_BYTES: u64 = 16 << 30;

/// A store, and memory for as many batches as are in flight.
pub(super) struct Bench {
    pub(super) spec: Spec,
    pub(super) runtime: Runtime,
    pub(super) store: Arc<PageStore>,
    pub(super) registration: Registration,
    /// The next page that was never stored.
    pub(super) next: u64,
}

/// What a batch does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Load,
    Store,
    Replace,
}

impl Bench {
    /// Opens a store with room for `room` pages.
    pub(super) fn open(spec: &Spec, room: u64) -> Result<Self, Problem> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let mut config = PageStoreConfig::new([spec.directory.join("store")], Namespace::new("bench"));
        let slot_bytes = (spec.page_bytes as u64).next_multiple_of(4096);
        config.capacity_bytes = Some(room * (slot_bytes + METADATA_BYTES) + SET_BYTES);
        config.verify = spec.verify;
        let io = if spec.direct { IoMode::Direct } else { IoMode::Buffered };
        let engine = UringEngine::open(UringConfig { io, depth: spec.depth, ..UringConfig::default() })?;
        let store = runtime.block_on(PageStore::open(config, vec![Arc::new(engine)]))?;
        // A slot for each piece: a page is scattered as a pool of one layer behind the other scatters it.
        let piece_bytes = spec.page_bytes / spec.pieces;
        let region =
            Region::allocate_with(spec.batch * spec.in_flight * spec.pieces, piece_bytes, spec.huge)?;
        let registration = store.register(&region)?;
        let content = noise(piece_bytes, 1);
        for slot in 0..region.slots() {
            registration.page(slot, piece_bytes, Access::Write)?.copy_from(&content)?;
        }
        Ok(Self { spec: spec.clone(), runtime, store, registration, next: 0 })
    }

    fn memory(&self, slot: usize) -> Result<PageMemory, Problem> {
        let Spec { pieces, page_bytes, batch, in_flight, .. } = self.spec;
        let bytes = page_bytes / pieces;
        let piece =
            |number| self.registration.piece(number * batch * in_flight + slot, 0, bytes, Access::Write);
        Ok(PageMemory::from_pieces((0..pieces).map(piece).collect::<hicache_core::Result<Vec<_>>>()?)?)
    }

    fn requests(&self, lane: usize, numbers: &[u64]) -> Result<Vec<PageRequest>, Problem> {
        let first = lane * self.spec.batch;
        let request =
            |(i, &number): (usize, &u64)| Ok(PageRequest::new(numbered_key(number), self.memory(first + i)?));
        numbers.iter().enumerate().map(request).collect()
    }

    /// One batch, in the memory of a lane. Every page must be done.
    pub(super) fn batch<'a>(
        &'a self,
        way: Way,
        lane: usize,
        numbers: &[u64],
    ) -> Result<impl Future<Output = Result<(), Problem>> + use<'a>, Problem> {
        let requests = self.requests(lane, numbers)?;
        let count = requests.len();
        let done = match way {
            Way::Load => self.store.load(requests),
            Way::Store => self.store.store(requests, StoreOptions::default()),
            Way::Replace => self.store.store(requests, StoreOptions { overwrite: true }),
        };
        Ok(async move {
            let batch = done.await;
            match batch.leading_done() {
                done if done == count => Ok(()),
                done => Err(format!("page {done} of {count}: {:?}", batch.outcomes[done]).into()),
            }
        })
    }

    /// As many batches at once as there are lists of pages.
    pub(super) fn batches(&self, lists: &[(Way, Vec<u64>)]) -> Result<(), Problem> {
        let batches: Vec<_> = lists
            .iter()
            .enumerate()
            .map(|(lane, (way, numbers))| self.batch(*way, lane, numbers))
            .collect::<Result<_, _>>()?;
        self.runtime.block_on(join_all(batches)).into_iter().collect()
    }

    /// Numbers of pages that were never stored.
    pub(super) fn fresh(&mut self, count: usize) -> Vec<u64> {
        self.next += count as u64;
        (self.next - count as u64..self.next).collect()
    }

    /// Stores so many pages that were never stored.
    pub(super) fn fill(&mut self, pages: u64) -> Result<(), Problem> {
        let end = self.next + pages;
        while self.next < end {
            let mut lists = Vec::with_capacity(self.spec.in_flight);
            while lists.len() < self.spec.in_flight && self.next < end {
                let count = (end - self.next).min(self.spec.batch as u64) as usize;
                lists.push((Way::Store, self.fresh(count)));
            }
            self.batches(&lists)?;
        }
        Ok(())
    }
}

/// Pages one way or the other.
pub(super) struct Store {
    bench: Bench,
    order: Order,
}

impl Store {
    pub(super) fn prepare(spec: &Spec) -> Result<Self, Problem> {
        let room = match spec.work {
            // A store of this size has segments of the usual length.
            Work::FirstFill => FIRST_FILL_BYTES / spec.page_bytes as u64,
            Work::Reuse => spec.pages,
            _ => spec.pages + spec.pages / 4,
        };
        let mut bench = Bench::open(spec, room)?;
        match spec.work {
            Work::FirstFill => {}
            // Until every slot has been written at least once.
            Work::Reuse => bench.fill(spec.pages * 3 / 2)?,
            _ => bench.fill(spec.pages)?,
        }
        Ok(Self { bench, order: Order::new(spec, spec.pages) })
    }

    fn lists(&mut self) -> Vec<(Way, Vec<u64>)> {
        let Spec { work, batch, in_flight, .. } = self.bench.spec;
        let mut lists = Vec::with_capacity(in_flight);
        for lane in 0..in_flight {
            lists.push(match work {
                Work::Reuse | Work::FirstFill => (Way::Store, self.bench.fresh(batch)),
                Work::Mixed if lane % 2 == 1 => (Way::Replace, self.order.take(batch)),
                _ => (Way::Load, self.order.take(batch)),
            });
        }
        lists
    }
}

impl Competitor for Store {
    fn round(&mut self) -> Result<Measure, Problem> {
        let Spec { work, batch, in_flight, page_bytes, round_pages, .. } = self.bench.spec;
        if work == Work::FirstFill {
            self.bench.runtime.block_on(self.bench.store.clear())?;
        }
        let mut pages = 0;
        let watch = Stopwatch::start();
        while pages < round_pages {
            let lists = self.lists();
            self.bench.batches(&lists)?;
            pages += (batch * in_flight) as u64;
        }
        Ok(watch.stop(pages * page_bytes as u64, pages))
    }
}
