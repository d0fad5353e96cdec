//! Snapshots: the live pages of a set, the coldest first, as records.
//!
//! header, pools, puts, end. The end carries the count and a CRC-64/NVMe of all before it, so that half a snapshot is
//! none.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use hicache_hashing::{Checksum, Fingerprint};

use super::FORMAT_VERSION;
use super::record::{RECORD_BYTES, Record};

const BUFFER_BYTES: usize = RECORD_BYTES << 14;

/// Writes records and sums them.
pub(crate) struct SnapshotWriter {
    file: File,
    buffer: Vec<u8>,
    checksum: Checksum,
    records: u64,
}

impl SnapshotWriter {
    pub(crate) fn create(path: &Path, generation: u64, fingerprint: Fingerprint) -> io::Result<Self> {
        let file = File::create(path)?;
        let buffer = Vec::with_capacity(BUFFER_BYTES);
        let mut writer = Self { file, buffer, checksum: Checksum::new(), records: 0 };
        writer.push(&Record::Header { version: FORMAT_VERSION, generation, fingerprint })?;
        Ok(writer)
    }

    pub(crate) fn push(&mut self, record: &Record) -> io::Result<()> {
        self.buffer.extend_from_slice(&record.encode());
        self.records += 1;
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.checksum.update(&self.buffer);
        self.file.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Writes the end and brings all of it to the disk.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        let end = Record::SnapshotEnd { records: self.records, checksum: self.checksum.clone().finish() };
        self.file.write_all(&end.encode())?;
        self.file.sync_all()
    }
}

/// Why a snapshot can't be used.
#[derive(Debug)]
pub(crate) enum SnapshotError {
    /// The file can't be read.
    Io(io::Error),
    /// It is torn, damaged, or of another set or format.
    Bad(&'static str),
}

impl std::fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Bad(why) => f.write_str(why),
        }
    }
}

/// Reads a snapshot through: every record goes to `each`, which may see records of a snapshot that then turns out to
/// be bad. Memory stays constant.
pub(crate) fn read_snapshot(
    path: &Path,
    generation: u64,
    fingerprint: Fingerprint,
    each: impl FnMut(Record),
) -> Result<u64, SnapshotError> {
    let file = File::open(path).map_err(SnapshotError::Io)?;
    let length = file.metadata().map_err(SnapshotError::Io)?.len();
    read_records(file, length, generation, fingerprint, each)
}

/// As [`read_snapshot`], from the `length` bytes of a file.
pub(crate) fn read_records(
    mut file: impl Read,
    length: u64,
    generation: u64,
    fingerprint: Fingerprint,
    mut each: impl FnMut(Record),
) -> Result<u64, SnapshotError> {
    if length < 2 * RECORD_BYTES as u64 || !length.is_multiple_of(RECORD_BYTES as u64) {
        return Err(SnapshotError::Bad("its length is not that of whole records"));
    }
    let mut left = length;
    let mut buffer = vec![0; BUFFER_BYTES.min(usize::try_from(length).unwrap_or(BUFFER_BYTES))];
    let mut checksum = Checksum::new();
    let mut seen = 0_u64;
    while left > 0 {
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        file.read_exact(&mut buffer[..take]).map_err(SnapshotError::Io)?;
        left -= take as u64;
        let body = if left == 0 { take - RECORD_BYTES } else { take };
        checksum.update(&buffer[..body]);
        for raw in buffer[..body].as_chunks::<RECORD_BYTES>().0 {
            let record = Record::decode(raw).ok_or(SnapshotError::Bad("a record in it is damaged"))?;
            if seen == 0 && record != (Record::Header { version: FORMAT_VERSION, generation, fingerprint }) {
                return Err(SnapshotError::Bad("its header is of another generation, namespace or format"));
            }
            seen += 1;
            each(record);
        }
        if left == 0 {
            let end = buffer[body..take].first_chunk().and_then(Record::decode);
            if end != Some(Record::SnapshotEnd { records: seen, checksum: checksum.clone().finish() }) {
                return Err(SnapshotError::Bad("its end does not fit what is before it"));
            }
        }
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::{Place, Put};

    fn put(i: u32) -> Record {
        let place = Place::from_id(i);
        Record::Put(Put {
            pool: 0,
            place,
            bytes: i,
            checksum: 1,
            sequence: u64::from(i),
            digest: [i as u8; 32],
        })
    }

    #[test]
    fn whole_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("snapshot-3");
        let fingerprint = Fingerprint::from_bytes([1; 16]);
        let mut writer = SnapshotWriter::create(&path, 3, fingerprint).unwrap();
        for i in 0..100 {
            writer.push(&put(i)).unwrap();
        }
        writer.finish().unwrap();
        let mut seen = Vec::new();
        assert_eq!(read_snapshot(&path, 3, fingerprint, |record| seen.push(record)).unwrap(), 101);
        assert_eq!(seen[1..], (0..100).map(put).collect::<Vec<_>>());
        assert!(read_snapshot(&path, 4, fingerprint, drop).is_err());
        assert!(read_snapshot(&path, 3, Fingerprint::from_bytes([2; 16]), drop).is_err());
        let good = std::fs::read(&path).unwrap();
        for cut in [0, 1, 63, 64, 128, good.len() - 64, good.len() - 1] {
            std::fs::write(&path, &good[..cut]).unwrap();
            assert!(read_snapshot(&path, 3, fingerprint, drop).is_err(), "cut to {cut}");
        }
        for at in (0..good.len()).step_by(37) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            std::fs::write(&path, &bad).unwrap();
            assert!(read_snapshot(&path, 3, fingerprint, drop).is_err(), "flip at {at}");
        }
        let mut twice = good.clone();
        twice.splice(64..64, good[64..128].iter().copied());
        std::fs::write(&path, &twice).unwrap();
        assert!(read_snapshot(&path, 3, fingerprint, drop).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(raw in prop::collection::vec(any::<u8>(), 0..1000)) {
            crate::fuzzing::snapshot(&raw);
        }
    }
}
