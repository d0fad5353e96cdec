//! The decoders on arbitrary bytes, for the targets in `fuzz/` and for property tests: each takes any input, and panics
//! where it finds a decoder to be wrong. No part of the interface.

use std::fs;
use std::path::Path;

use hicache_core::PoolName;
use hicache_hashing::{Checksum, Fingerprint, record_check};

use crate::audit::Audit;
use crate::format::SLOT_BYTES;
use crate::format::{
    FORMAT_VERSION, Manifest, NUMBERS_END, ParsedManifest, RECORD_BYTES, Record, encode_name, name_bytes,
    parse_names, read_records,
};
use crate::set::{NamesLog, SegmentName, SetPaths};

const GENERATION: u64 = 3;

fn fingerprint() -> Fingerprint {
    Fingerprint::from_bytes([7; 16])
}

/// `raw` as records, as they are and with checks that fit.
pub fn records(raw: &[u8]) {
    let (records, _) = raw.as_chunks::<RECORD_BYTES>();
    for record in records {
        record_is_itself(record);
        let mut sealed = *record;
        seal(&mut sealed);
        record_is_itself(&sealed);
    }
}

fn record_is_itself(raw: &[u8; RECORD_BYTES]) {
    if let Some(record) = Record::decode(raw) {
        assert_eq!(Record::decode(&record.encode()), Some(record));
    }
}

fn seal(record: &mut [u8; RECORD_BYTES]) {
    let check = record_check(&record[..60]);
    record[60..].copy_from_slice(&check.to_le_bytes());
}

/// `raw` as a snapshot, and as what is between the header and the end of one.
pub fn snapshot(raw: &[u8]) {
    for bytes in [raw.to_vec(), whole_snapshot(raw, GENERATION)] {
        let mut seen = 0;
        let read = read_records(&bytes[..], bytes.len() as u64, GENERATION, fingerprint(), |_| seen += 1);
        match read {
            Ok(records) => {
                assert_eq!((records, (records + 1) * RECORD_BYTES as u64), (seen, bytes.len() as u64))
            }
            Err(error) => drop(error.to_string()),
        }
    }
}

/// A journal of `generation` with these records behind its header and two pools, their checks made to fit. Their fields
/// are made small, so that they mean something to each other; any fields at all are for [`records`].
fn journal(raw: &[u8], generation: u64) -> Vec<u8> {
    let header = Record::Header { version: FORMAT_VERSION, generation, fingerprint: fingerprint() };
    let pools = [(0, PoolName::KV), (1, PoolName::TEXT)].map(|(id, name)| Record::Pool { id, name });
    let mut bytes = header.encode().to_vec();
    bytes.extend(pools.iter().flat_map(Record::encode));
    let (records, rest) = raw.as_chunks::<RECORD_BYTES>();
    for record in records {
        let mut sealed = *record;
        sealed[0] = 1 + sealed[0] % 7;
        (sealed[1], sealed[2], sealed[3], sealed[5]) = (sealed[1] % 3, sealed[2] % 5, 0, 0);
        (sealed[9], sealed[10], sealed[11], sealed[27]) = (sealed[9] % 0x24, 0, 0, 0);
        let digest = sealed[28] % 16;
        sealed[28..60].fill(digest);
        seal(&mut sealed);
        bytes.extend_from_slice(&sealed);
    }
    bytes.extend_from_slice(rest);
    bytes
}

fn whole_snapshot(raw: &[u8], generation: u64) -> Vec<u8> {
    let mut bytes = journal(&raw[..raw.len() / RECORD_BYTES * RECORD_BYTES], generation);
    let mut checksum = Checksum::new();
    checksum.update(&bytes);
    let records = (bytes.len() / RECORD_BYTES) as u64;
    bytes.extend_from_slice(&Record::SnapshotEnd { records, checksum: checksum.finish() }.encode());
    bytes
}

/// `raw` as a names log.
pub fn names(raw: &[u8]) {
    let entries = parse_names(raw);
    let mut again = Vec::new();
    let mut bytes = 0;
    for entry in &entries {
        bytes += name_bytes(&entry.text);
        encode_name(&entry.digest, &entry.text, &mut again);
    }
    assert!(bytes <= raw.len() as u64, "entries of more bytes than there are");
    assert_eq!(parse_names(&again), entries);
}

/// `raw` as a manifest.
pub fn manifest(raw: &[u8]) {
    if let ParsedManifest::Manifest(manifest) = Manifest::parse(raw) {
        let _ = (manifest.namespace.validate(), manifest.namespace.fingerprint());
    }
}

/// `raw` as the files of a set, laid down in `directory`, which is emptied before. The set must then be replayed, its
/// pages lie in slots that are there, and no slot be handed out that has one.
pub fn set(directory: &Path, raw: &[u8]) {
    let _ = fs::remove_dir_all(directory);
    if fs::create_dir_all(directory).is_err() {
        return;
    }
    let paths = SetPaths::new(directory.to_owned());
    let mut rest = raw;
    while let Some(([kind, number, low, high], behind)) =
        rest.split_first_chunk().map(|(head, behind)| (*head, behind))
    {
        let length = usize::from(u16::from_le_bytes([low, high]) % 2048).min(behind.len());
        let (body, behind) = behind.split_at(length);
        rest = behind;
        lay_down(&paths, kind, number, body);
    }
    let Ok(audit) = Audit::of(paths.clone(), fingerprint()) else { return };
    check(audit);
    let names = NamesLog::open(paths);
    let _ = (names.read(), names.bad_bytes());
}

fn lay_down(paths: &SetPaths, kind: u8, number: u8, body: &[u8]) {
    let generation = u64::from(number % 4);
    let slots = SegmentName {
        slot_bytes: SLOT_BYTES * (1 + u32::from(number / 4 % 2)),
        segment: u16::from(number % 4),
    };
    let written = match kind % 8 {
        0 => fs::write(paths.journal(generation), journal(body, generation)),
        1 => fs::write(paths.snapshot(generation), whole_snapshot(body, generation)),
        2 => fs::write(paths.journal(generation), body),
        3 => fs::write(paths.snapshot(generation), body),
        // Long enough for slots, without their bytes.
        4 => fs::File::create(paths.segment(slots)).and_then(|file| file.set_len(body.len() as u64 * 1000)),
        5 => fs::write(paths.names(), body),
        6 => fs::create_dir(paths.journal(generation)),
        _ => {
            let name: String = body.iter().take(20).map(|&byte| char::from(b'!' + byte % 90)).collect();
            let name = ["seg-", "journal-", "snapshot-", ""][usize::from(number % 4)].to_owned() + &name;
            fs::write(paths.directory().join(name.replace('/', "-")), body)
        }
    };
    drop(written); // Two of one name; a name that can't be.
}

fn check(mut audit: Audit) {
    let puts: Vec<_> = audit.puts().collect();
    let mut reader = audit.reader();
    for put in &puts {
        drop(reader.look(put));
    }
    drop(reader);
    if let Ok(naming) = audit.naming() {
        puts.iter().for_each(|put| drop(naming.listed(put)));
    }
    assert_eq!(audit.replayed.catalog.coldest_first().count(), puts.len());
    assert!(audit.replayed.sequence < NUMBERS_END && audit.replayed.generation < NUMBERS_END);
    let catalog = &mut audit.replayed.catalog;
    assert_eq!(catalog.pages(), puts.len() as u64);
    assert_eq!(catalog.page_bytes(), puts.iter().map(|put| u64::from(put.bytes)).sum::<u64>());
    for put in &puts {
        let slot_bytes = catalog.slot_bytes(put.place.segment);
        assert!(slot_bytes.is_some_and(|slot_bytes| put.bytes <= slot_bytes), "{put:?} lies in no slot");
        assert_eq!(catalog.peek(put.pool, &put.digest), Some(*put));
    }
    let sizes: Vec<u32> = catalog.classes().keys().copied().collect();
    for size in sizes {
        let free = catalog.class(size).map_or(0, |class| class.free());
        let taken: Vec<_> = std::iter::from_fn(|| catalog.take(size)).collect();
        assert_eq!(taken.len() as u64, free);
        assert!(
            taken.iter().all(|slot| puts.iter().all(|put| put.place.id() != *slot)),
            "a slot with a page"
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn any_set_is_replayed(files in prop::collection::vec(
            (any::<u8>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..1500)),
            0..8,
        )) {
            let directory = tempfile::tempdir().unwrap();
            let mut raw = Vec::new();
            for (kind, number, body) in files {
                raw.extend_from_slice(&[kind, number]);
                raw.extend_from_slice(&(body.len() as u16).to_le_bytes());
                raw.extend_from_slice(&body);
            }
            set(&directory.path().join("set-0000"), &raw);
        }
    }
}
