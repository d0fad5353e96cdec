//! The files of a set: its writer's segments, journal and snapshots under its lock, and how others follow them.

mod apply;
mod bell;
mod census;
mod follower;
mod journal;
mod ledger;
mod locks;
mod names;
mod paths;
mod remove;
mod renew;
mod replay;
mod segments;
mod sequence;
mod set_lock;
mod snapshotter;

pub(crate) use bell::{Bell, ring};
pub(crate) use census::{Neighbour, SetUse};
pub(crate) use follower::Follower;
pub(crate) use journal::Journal;
pub(crate) use ledger::{Ledger, OpenLedger, physical_bytes};
pub(crate) use locks::{FileId, lies_at};
pub(crate) use names::NamesLog;
pub(crate) use paths::{SegmentName, SetPaths};
pub(crate) use remove::{remove_segment_file, remove_set};
pub(crate) use renew::{highest_generation, mask_records, pool_records, renew, seal_all};
pub(crate) use replay::{Replayed, replay};
pub(crate) use segments::{SegmentFile, create_segment, open_segment, open_segment_to_read};
pub(crate) use sequence::Sequence;
pub(crate) use set_lock::{Life, SetLock, existing_sets};
pub(crate) use snapshotter::{remove_older, write_snapshot};
