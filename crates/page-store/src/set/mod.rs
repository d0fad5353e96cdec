//! The files of one set: one writer's segments, journal and snapshots, under its lock.

mod journal;
mod ledger;
mod names;
mod paths;
mod replay;
mod segments;
mod sequence;
mod set_lock;
mod snapshotter;

pub(crate) use journal::Journal;
pub(crate) use ledger::{Ledger, OpenLedger, physical_bytes};
pub(crate) use names::NamesLog;
pub(crate) use paths::{SegmentName, SetPaths};
pub(crate) use replay::{Replayed, replay};
pub(crate) use segments::{SegmentFile, create_segment, open_segment};
pub(crate) use sequence::Sequence;
pub(crate) use set_lock::{SetLock, existing_sets};
pub(crate) use snapshotter::{remove_older, write_snapshot};
