//! What it costs to bring memory that no cache holds to a processor: the part of a verified page that no store can avoid.

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

/// A word of each line that comes from memory: nothing that looks at all of it is faster.
fn touch(page: &[u8]) -> u64 {
    page.chunks_exact(64).fold(0, |sum, line| sum ^ u64::from(line[0]))
}

impl Competitor for Reading {
    fn round(&mut self) -> Result<Measure, Problem> {
        let Spec { kind, page_bytes, pages, .. } = self.spec;
        let bytes = self.memory.lease.bytes()?;
        let watch = Stopwatch::start();
        for page in bytes.chunks_exact(page_bytes) {
            std::hint::black_box(if kind == Kind::Checksum { checksum(page) } else { touch(page) });
        }
        Ok(watch.stop(pages * page_bytes as u64, pages))
    }
}
