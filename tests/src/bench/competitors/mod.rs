//! Those that take turns.

mod computing;
mod files;
mod fio;
#[cfg(feature = "foyer")]
mod foyer;
mod idle;
mod index;
mod latency;
mod linked_files;
mod memory;
mod order;
mod raw_ring;
mod reading;
mod store;

use super::Problem;
use super::measure::Measure;
use super::spec::{Kind, Spec, Work};

pub(super) use fio::is_installed as has_fio;

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
        (Kind::Store, Work::Idle) => Box::new(idle::Idle::prepare(spec)?),
        (Kind::Store, _) => Box::new(store::Store::prepare(spec)?),
        (Kind::RawRing, _) => Box::new(raw_ring::RawRing::prepare(spec)?),
        (Kind::Files, _) => Box::new(files::Files::prepare(spec)?),
        (Kind::LinkedFiles, _) => Box::new(linked_files::LinkedFiles::prepare(spec)?),
        (Kind::Fio, _) => Box::new(fio::Fio::prepare(spec)?),
        #[cfg(feature = "foyer")]
        (Kind::Foyer, _) => Box::new(foyer::Foyer::prepare(spec)?),
        (Kind::Checksum | Kind::Reading, _) => Box::new(reading::Reading::prepare(spec)?),
        (Kind::Cat, _) => Box::new(index::Cat::prepare(spec)?),
        (Kind::PageHash | Kind::Sha256, _) => Box::new(computing::Computing::prepare(spec)),
    })
}
