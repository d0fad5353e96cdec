//! What a store was found to lack when it was opened.

use hicache::StorageStat;
use serde::Serialize;

use crate::exit::Failure;
use crate::output::{Output, count};

/// Counts of damage, since the storage was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Damage {
    bad_records: u64,
    bad_snapshots: u64,
    bad_manifests: u64,
    lost_pages: u64,
}

impl From<&StorageStat> for Damage {
    fn from(stat: &StorageStat) -> Self {
        Self {
            bad_records: stat.bad_records,
            bad_snapshots: stat.bad_snapshots,
            bad_manifests: stat.bad_manifests,
            lost_pages: stat.lost_pages,
        }
    }
}

impl Damage {
    /// Writes a line, if there is anything to say.
    pub(crate) fn show(&self, output: &mut Output) -> Result<(), Failure> {
        if *self == Self::default() {
            return Ok(());
        }
        let Self { bad_records, bad_snapshots, bad_manifests, lost_pages } = *self;
        output.line(format_args!(
            "found damaged when it was opened: {} records, {} snapshots, {} manifests; {} pages lost",
            count(bad_records),
            count(bad_snapshots),
            count(bad_manifests),
            count(lost_pages)
        ))
    }
}
