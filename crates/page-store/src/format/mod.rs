//! What stands on disk, byte by byte. `docs/on-disk-format.md` says the same in prose.
//!
//! Decoders take any bytes and answer; none of them can panic.

mod manifest;
mod names;
mod record;
mod snapshot;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use manifest::Parsed as ParsedManifest;
pub(crate) use manifest::{Found as FoundManifest, Manifest, Opened as ManifestOpened};
pub(crate) use names::{encode_name, name_bytes, parse_names};
pub(crate) use record::{NUMBERS_END, Place, Put, RECORD_BYTES, Record};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use snapshot::read_records;
pub(crate) use snapshot::{SnapshotError, SnapshotWriter, read_snapshot};

/// Version of everything under a namespace directory. A higher one in a manifest is refused.
pub(crate) const FORMAT_VERSION: u32 = 1;
/// Slots are multiples of this, so that direct I/O can use them.
pub(crate) const SLOT_BYTES: u32 = 4096;

/// Length of the slot that a page of `bytes` bytes is kept in.
pub(crate) fn slot_bytes(bytes: u32) -> u32 {
    bytes.next_multiple_of(SLOT_BYTES)
}
