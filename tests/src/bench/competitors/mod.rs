//! Those that take turns.

mod computing;
mod files;
mod index;
mod latency;
mod linked_files;
mod memory;
mod order;
mod raw_ring;
mod store;

use super::Problem;
use super::measure::Measure;
use super::spec::{Kind, Spec, Work};

/// Plays rounds.
pub(super) trait Competitor {
    fn round(&mut self) -> Result<Measure, Problem>;
}

/// Makes one, with its pool.
pub(super) fn prepare(spec: &Spec) -> Result<Box<dyn Competitor>, Problem> {
    Ok(match (spec.kind, spec.work) {
        (Kind::Store, Work::Exists) => Box::new(index::Exists::prepare(spec)?),
        (Kind::Store, Work::Open) => Box::new(index::Open::prepare(spec)?),
        (Kind::Store, Work::Latency | Work::LatencyUnderWrites) => Box::new(latency::Latency::prepare(spec)?),
        (Kind::Store, _) => Box::new(store::Store::prepare(spec)?),
        (Kind::RawRing, _) => Box::new(raw_ring::RawRing::prepare(spec)?),
        (Kind::Files, _) => Box::new(files::Files::prepare(spec)?),
        (Kind::LinkedFiles, _) => Box::new(linked_files::LinkedFiles::prepare(spec)?),
        (Kind::Cat, _) => Box::new(index::Cat::prepare(spec)?),
        (Kind::PageHash | Kind::Sha256, _) => Box::new(computing::Computing::prepare(spec)),
    })
}
