//! What it costs to look at every byte of memory that no cache holds: the part of a verified page that no store can avoid.

use hicache_hashing::checksum;

use super::Competitor;
use super::memory::Memory;
use crate::bench::Problem;
use crate::bench::measure::{Measure, Stopwatch};
use crate::bench::spec::{Kind, Spec};

/// Pages one behind the other, many times what the caches of a processor hold.
pub(super) struct Reading {
    spec: Spec,
    memory: Memory,
}

impl Reading {
    pub(super) fn prepare(spec: &Spec) -> Result<Self, Problem> {
        let whole = Spec { batch: spec.pages as usize, in_flight: 1, ..spec.clone() };
        Ok(Self { spec: spec.clone(), memory: Memory::new(&whole)? })
    }
}

/// All words of it in one, as fast as the memory comes.
fn fold(page: &[u8]) -> u64 {
    let mut sums = [0_u64; 32];
    for words in page.chunks_exact(256) {
        for (sum, word) in sums.iter_mut().zip(words.chunks_exact(8)) {
            *sum ^= u64::from_le_bytes(word.try_into().unwrap_or_default());
        }
    }
    sums.iter().fold(0, |all, sum| all ^ sum)
}

impl Competitor for Reading {
    fn round(&mut self) -> Result<Measure, Problem> {
        let Spec { kind, page_bytes, pages, .. } = self.spec;
        let bytes = self.memory.lease.bytes()?;
        let watch = Stopwatch::start();
        for page in bytes.chunks_exact(page_bytes) {
            std::hint::black_box(if kind == Kind::Checksum { checksum(page) } else { fold(page) });
        }
        Ok(watch.stop(pages * page_bytes as u64, pages))
    }
}
