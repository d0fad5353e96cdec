//! Journal records: 64 bytes each, little-endian.
//!
//! | bytes | field |
//! |---|---|
//! | 0 | kind |
//! | 1 | pool id |
//! | 2–3 | segment |
//! | 4–5 | slot |
//! | 6–7 | reserved, 0 |
//! | 8–11 | page length in bytes, or the format version |
//! | 12–19 | CRC-64/NVMe of the page |
//! | 20–27 | sequence, or a generation |
//! | 28–59 | page digest, or a pool name |
//! | 60–63 | check over bytes 0–59 |

use hicache_core::PoolName;
use hicache_hashing::{Digest, Fingerprint, record_check};

/// Length of every record.
pub(crate) const RECORD_BYTES: usize = 64;

/// Sequences, generations and counts are below this. What says otherwise is damage that fits its check, and counting on
/// from it would overflow.
pub(crate) const NUMBERS_END: u64 = 1 << 62;

const PUT: u8 = 1;
const RETIRE: u8 = 2;
const CLEAR: u8 = 3;
const SEAL: u8 = 4;
const POOL: u8 = 5;
const HEADER: u8 = 6;
const SNAPSHOT_END: u8 = 7;
const FORGET: u8 = 8;

/// Where a page is: slot `slot` of segment `segment`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) segment: u16,
    pub(crate) slot: u16,
}

impl Place {
    /// Both numbers in one, as the index keeps them.
    pub(crate) fn id(self) -> u32 {
        u32::from(self.segment) << 16 | u32::from(self.slot)
    }

    pub(crate) fn from_id(id: u32) -> Self {
        Self { segment: (id >> 16) as u16, slot: id as u16 }
    }
}

/// A page that was wholly written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Put {
    pub(crate) pool: u8,
    pub(crate) place: Place,
    pub(crate) bytes: u32,
    pub(crate) checksum: u64,
    pub(crate) sequence: u64,
    pub(crate) digest: Digest,
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// First of every journal and snapshot.
    Header { version: u32, generation: u64, fingerprint: Fingerprint },
    /// Gives a pool name its id in this set. Before the first record that uses it.
    Pool { id: u8, name: PoolName },
    /// The page is in its slot. A key that had another place has it no longer.
    Put(Put),
    /// The page is no longer in its slot, which may be written next.
    Retire { pool: u8, place: Place, sequence: u64, digest: Digest },
    /// Every page put under a lower number is gone, in whatever set of the namespace it is.
    Clear { sequence: u64 },
    /// A page of this key put under a lower number is gone, in whatever set of the namespace it is.
    Forget { pool: u8, sequence: u64, digest: Digest },
    /// The last record of a generation: what follows is in that one.
    Seal { next: u64 },
    /// The last record of a snapshot: how many records came before it, and the CRC-64/NVMe over them.
    SnapshotEnd { records: u64, checksum: u64 },
}

struct Fields {
    kind: u8,
    pool: u8,
    place: Place,
    bytes: u32,
    checksum: u64,
    sequence: u64,
    digest: Digest,
}

impl Fields {
    const EMPTY: Self = Self {
        kind: 0,
        pool: 0,
        place: Place { segment: 0, slot: 0 },
        bytes: 0,
        checksum: 0,
        sequence: 0,
        digest: [0; 32],
    };
}

impl Record {
    /// The record's bytes.
    pub(crate) fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut fields = Fields::EMPTY;
        match *self {
            Self::Header { version, generation, fingerprint } => {
                fields.kind = HEADER;
                fields.bytes = version;
                fields.sequence = generation;
                fields.digest[..16].copy_from_slice(&fingerprint.to_bytes());
            }
            Self::Pool { id, name } => {
                let name = name.as_str().as_bytes();
                fields.kind = POOL;
                fields.pool = id;
                fields.bytes = name.len() as u32;
                fields.digest[..name.len()].copy_from_slice(name);
            }
            Self::Put(put) => {
                fields = Fields {
                    kind: PUT,
                    pool: put.pool,
                    place: put.place,
                    bytes: put.bytes,
                    checksum: put.checksum,
                    sequence: put.sequence,
                    digest: put.digest,
                };
            }
            Self::Retire { pool, place, sequence, digest } => {
                fields = Fields { kind: RETIRE, pool, place, sequence, digest, ..Fields::EMPTY };
            }
            Self::Clear { sequence } => {
                fields.kind = CLEAR;
                fields.sequence = sequence;
            }
            Self::Forget { pool, sequence, digest } => {
                fields = Fields { kind: FORGET, pool, sequence, digest, ..Fields::EMPTY };
            }
            Self::Seal { next } => {
                fields.kind = SEAL;
                fields.sequence = next;
            }
            Self::SnapshotEnd { records, checksum } => {
                fields.kind = SNAPSHOT_END;
                fields.sequence = records;
                fields.checksum = checksum;
            }
        }
        let mut out = [0; RECORD_BYTES];
        out[0] = fields.kind;
        out[1] = fields.pool;
        out[2..4].copy_from_slice(&fields.place.segment.to_le_bytes());
        out[4..6].copy_from_slice(&fields.place.slot.to_le_bytes());
        out[8..12].copy_from_slice(&fields.bytes.to_le_bytes());
        out[12..20].copy_from_slice(&fields.checksum.to_le_bytes());
        out[20..28].copy_from_slice(&fields.sequence.to_le_bytes());
        out[28..60].copy_from_slice(&fields.digest);
        let check = record_check(&out[..60]);
        out[60..].copy_from_slice(&check.to_le_bytes());
        out
    }

    /// The record in 64 bytes; `None` where they are not one (torn, flipped, never written, of a later format).
    pub(crate) fn decode(raw: &[u8; RECORD_BYTES]) -> Option<Self> {
        let u16_at = |at: usize| u16::from_le_bytes([raw[at], raw[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if record_check(&raw[..60]) != u32_at(60) || u64_at(20) >= NUMBERS_END {
            return None;
        }
        let pool = raw[1];
        let place = Place { segment: u16_at(2), slot: u16_at(4) };
        let (bytes, checksum, sequence) = (u32_at(8), u64_at(12), u64_at(20));
        // Straight from where it is to where it goes: a copy on the way, written in halves and read across them, waits until
        // every write before it has reached the cache, a third of the time of opening a large index.
        let digest = || {
            let mut digest = [0; 32];
            digest.copy_from_slice(&raw[28..60]);
            digest
        };
        Some(match raw[0] {
            HEADER => {
                let mut fingerprint = [0; 16];
                fingerprint.copy_from_slice(&raw[28..44]);
                Self::Header {
                    version: bytes,
                    generation: sequence,
                    fingerprint: Fingerprint::from_bytes(fingerprint),
                }
            }
            POOL => {
                let name = raw[28..60].get(..bytes as usize)?;
                let name = std::str::from_utf8(name).ok()?;
                Self::Pool { id: pool, name: PoolName::new(name).ok()? }
            }
            PUT => Self::Put(Put { pool, place, bytes, checksum, sequence, digest: digest() }),
            RETIRE => Self::Retire { pool, place, sequence, digest: digest() },
            CLEAR => Self::Clear { sequence },
            SEAL => Self::Seal { next: sequence },
            FORGET => Self::Forget { pool, sequence, digest: digest() },
            SNAPSHOT_END => Self::SnapshotEnd { records: sequence, checksum },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn samples() -> Vec<Record> {
        let place = Place { segment: 3, slot: 65_535 };
        vec![
            Record::Header { version: 1, generation: 9, fingerprint: Fingerprint::from_bytes([5; 16]) },
            Record::Pool { id: 4, name: PoolName::new(&"p".repeat(31)).unwrap() },
            Record::Put(Put { pool: 1, place, bytes: u32::MAX, checksum: 7, sequence: 8, digest: [9; 32] }),
            Record::Retire { pool: 1, place, sequence: NUMBERS_END - 1, digest: [9; 32] },
            Record::Clear { sequence: 3 },
            Record::Forget { pool: 7, sequence: 11, digest: [3; 32] },
            Record::Seal { next: 4 },
            Record::SnapshotEnd { records: 12, checksum: 13 },
        ]
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for record in samples() {
            assert_eq!(Record::decode(&record.encode()), Some(record));
        }
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        for record in samples() {
            let good = record.encode();
            for bit in 0..RECORD_BYTES * 8 {
                let mut bad = good;
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Record::decode(&bad), None, "bit {bit} of {record:?}");
            }
        }
    }

    #[test]
    fn nothing_is_not_a_record() {
        assert_eq!(Record::decode(&[0; RECORD_BYTES]), None);
        assert_eq!(Record::decode(&[255; RECORD_BYTES]), None);
        for number in [NUMBERS_END, u64::MAX] {
            assert_eq!(Record::decode(&Record::Clear { sequence: number }.encode()), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(raw in prop::collection::vec(any::<u8>(), 0..4 * RECORD_BYTES)) {
            crate::fuzzing::records(&raw);
        }

        /// A few bytes in a record, so that every kind comes with every strange field.
        #[test]
        fn any_fields_are_answered(
            sample in 0..7_usize,
            changes in prop::collection::vec((0..60_usize, any::<u8>()), 0..6),
        ) {
            let mut raw = samples()[sample].encode();
            for (at, byte) in changes {
                raw[at] = byte;
            }
            crate::fuzzing::records(&raw);
        }
    }
}
