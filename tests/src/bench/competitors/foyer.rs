//! foyer, a hybrid cache, as the tier on a disk: its memory part holds nothing, so every page comes from the disk. Its values
//! are its own, so a page is copied to where the reader wants it.

use foyer::{
    BlockEngineConfig, DeviceBuilder, FsDeviceBuilder, HybridCache, HybridCacheBuilder, IoEngineConfig,
    UringIoEngineConfig,
};
use futures::future::try_join_all;
use tokio::runtime::Runtime;

use super::Competitor;
use super::memory::Memory;
use super::order::{Order, noise};
use crate::bench::Problem;
use crate::bench::measure::{Measure, Stopwatch};
use crate::bench::spec::Spec;

/// Bytes of its blocks, which it evicts as a whole.
const BLOCK_BYTES: usize = 64 << 20;

/// A cache that was filled.
pub(super) struct Foyer {
    spec: Spec,
    runtime: Runtime,
    cache: HybridCache<u64, Vec<u8>>,
    memory: Memory,
    order: Order,
}

impl Foyer {
    pub(super) fn prepare(spec: &Spec) -> Result<Self, Problem> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let pool_bytes = spec.pages as usize * spec.page_bytes;
        let cache = runtime.block_on(async {
            let device = FsDeviceBuilder::new(spec.directory.join("foyer"))
                .with_capacity((pool_bytes * 3 / 2).next_multiple_of(BLOCK_BYTES) + 8 * BLOCK_BYTES)
                .with_direct(spec.direct)
                .build()?;
            let blocks = BlockEngineConfig::new(device)
                .with_block_size(BLOCK_BYTES)
                .with_buffer_pool_size(2 * BLOCK_BYTES)
                .with_submit_queue_size_threshold(2 * BLOCK_BYTES);
            let ring: Box<dyn IoEngineConfig> =
                UringIoEngineConfig::new().with_io_depth(spec.depth as usize).boxed();
            HybridCacheBuilder::new()
                .memory(1)
                .with_shards(1)
                .with_weighter(|_: &u64, value: &Vec<u8>| value.len())
                .storage()
                .with_io_engine_config(ring)
                .with_engine_config(blocks)
                .build()
                .await
        })?;
        let content = noise(spec.page_bytes, 1);
        // What it can't write at once it leaves out.
        let at_once = (BLOCK_BYTES / spec.page_bytes / 2).max(1);
        for number in 0..spec.pages {
            cache.storage_writer(number).force().insert(content.clone());
            if (number as usize + 1).is_multiple_of(at_once) {
                runtime.block_on(cache.storage().wait());
            }
        }
        runtime.block_on(cache.storage().wait());
        let (memory, order) = (Memory::new(spec)?, Order::shuffled(spec.pages));
        Ok(Self { spec: spec.clone(), runtime, cache, memory, order })
    }
}

impl Competitor for Foyer {
    fn round(&mut self) -> Result<Measure, Problem> {
        let Spec { batch, in_flight, page_bytes, round_pages, .. } = self.spec;
        let mut pages = 0;
        let watch = Stopwatch::start();
        while pages < round_pages {
            let numbers = self.order.take(batch * in_flight);
            let gets = numbers.iter().map(|number| self.cache.get(number));
            let found = self.runtime.block_on(try_join_all(gets))?;
            for (entry, place) in
                found.iter().zip(self.memory.lease.bytes_mut()?.chunks_exact_mut(page_bytes))
            {
                place.copy_from_slice(
                    entry.as_ref().ok_or("foyer does not have a page that it was given")?.value(),
                );
            }
            pages += (batch * in_flight) as u64;
        }
        Ok(watch.stop(pages * page_bytes as u64, pages))
    }
}
