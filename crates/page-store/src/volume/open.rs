//! Opening a root: manifest, lock, replay, repair.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use hicache_core::{Error, ErrorKind, Namespace, Result};
use tokio::sync::Notify;

use super::presence::Presence;
use super::{Counters, State, Volume};
use crate::catalog::EvictionPolicy;
use crate::config::Durability;
use crate::format::{Manifest, ManifestOpened, RECORD_BYTES};
use crate::set::{Journal, Ledger, NamesLog, Replayed, Sequence, SetLock, SetPaths, open_segment, replay};

/// What a volume needs of the configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VolumeOptions {
    /// Of this root.
    pub(crate) capacity_bytes: Option<u64>,
    /// How many roots the store has.
    pub(crate) roots: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) durability: Durability,
    pub(crate) page_bytes: Option<u64>,
    pub(crate) policy: fn() -> Box<dyn EvictionPolicy>,
}

impl Volume {
    /// Opens the namespace in `root`; makes both if they are not there. Blocks.
    ///
    /// # Errors
    /// `Config` for a contradicting manifest, a newer format, or a capacity below 16 pages; `Io`.
    pub(crate) fn open(root: &Path, namespace: &Namespace, options: VolumeOptions) -> Result<Arc<Self>> {
        let fingerprint = namespace.fingerprint();
        let directory = root.join(fingerprint.to_string());
        // Read before anything is made: bad configuration leaves nothing behind.
        if directory.is_dir() {
            Manifest::read(&directory)?;
        }
        let io = |error| Error::io("create", format!("directory {}", directory.display()), error);
        fs::create_dir_all(&directory).map_err(io)?;
        let ledger = Ledger::open(root, options.capacity_bytes)?;
        let manifest = Manifest::ensure(&directory, namespace)?;
        let lock = SetLock::claim(&directory)?;
        let paths = SetPaths::new(lock.directory().to_owned());
        for leftover in [paths.snapshot_aside(), paths.names_aside()] {
            let _ = fs::remove_file(leftover);
        }
        let presence = Presence::new(root, paths.lock())?;
        let mut replayed = replay(&paths, fingerprint, options.policy)?;
        let sequence = Sequence::open(&directory, replayed.sequence)?;
        if replayed.bad_records + replayed.bad_snapshots + replayed.lost_pages > 0 {
            tracing::warn!(
                set = %paths.directory().display(),
                bad_records = replayed.bad_records,
                bad_snapshots = replayed.bad_snapshots,
                lost_pages = replayed.lost_pages,
                "the set was damaged; what is left is served, and a new snapshot is made"
            );
        }
        let (journal, repair) = loop {
            match continue_journal(&paths, fingerprint, &replayed) {
                // A full disk must not keep a store from opening that has space of its own to give.
                Err(error) if error.kind() == ErrorKind::NoSpace && make_space(&paths, &mut replayed) => {}
                continued => break continued?,
            }
        };
        let Replayed { catalog, segments: found, .. } = replayed;
        let mut segments = BTreeMap::new();
        for (name, _) in &found {
            segments.insert(name.segment, Arc::new(open_segment(paths.segment(*name))?.0));
        }
        let next_segment = found.iter().map(|(name, _)| u32::from(name.segment) + 1).max().unwrap_or(0);
        let pages = catalog.pages();
        let names = NamesLog::open(paths.clone());
        let state = State {
            catalog,
            counters: Counters::default(),
            segments,
            journal,
            names_room: names.bytes(),
            names,
            next_segment,
            fits: false,
            full_since: None,
            evicted_since_look: 0,
            dropped_names: 0,
            changed: repair || manifest == ManifestOpened::Created,
        };
        let volume = Arc::new(Self {
            paths,
            fingerprint,
            options,
            ledger,
            sequence,
            state: Mutex::new(state),
            released: Notify::new(),
            snapshot_running: AtomicBool::new(false),
            snapshot_done: Notify::new(),
            lock: Mutex::new(Some(lock)),
            presence,
            journal_lost: AtomicBool::new(false),
        });
        if let Some(bytes) = options.page_bytes {
            volume.check_capacity(super::slot_bytes(bytes as u32))?;
        }
        if repair {
            // The generations before stay until the new one has been read back.
            let generation = volume.lock().journal.generation();
            match volume.write_snapshot(generation) {
                Err(error) if error.kind() == ErrorKind::NoSpace => {
                    tracing::warn!(set = %volume.paths.directory().display(), %error, "no snapshot; the journals stay");
                }
                written => written?,
            }
        }
        tracing::debug!(set = %volume.paths.directory().display(), pages, "set opened");
        Ok(volume)
    }
}

/// Gives up the coldest segment of a set that has just been replayed, as a store would for new pages. Its puts stay in
/// the journals: of a segment that is not there they are nothing.
fn make_space(paths: &SetPaths, replayed: &mut Replayed) -> bool {
    let Some((segment, _)) = replayed.catalog.coldest_segment(None) else { return false };
    let Some(at) = replayed.segments.iter().position(|(name, _)| name.segment == segment) else {
        return false;
    };
    let (name, _) = replayed.segments.remove(at);
    for put in replayed.catalog.pages_of_segment(segment) {
        replayed.catalog.unpublish(put.pool, &put.digest);
    }
    replayed.catalog.remove_segment(segment);
    tracing::warn!(segment = %name, "the disk is full: a segment is given up, so that the store opens");
    fs::remove_file(paths.segment(name)).is_ok()
}

/// Goes on with the last journal if it is whole, else begins a generation above everything seen. The second answer
/// tells that a snapshot of it is due.
fn continue_journal(
    paths: &SetPaths,
    fingerprint: hicache_hashing::Fingerprint,
    replayed: &Replayed,
) -> Result<(Journal, bool)> {
    let damaged = replayed.bad_records + replayed.bad_snapshots + replayed.lost_pages > 0;
    match replayed.journal_bytes {
        Some(bytes) if !damaged && !replayed.sealed && bytes >= RECORD_BYTES as u64 => {
            Ok((Journal::resume(paths, replayed.generation, bytes)?, false))
        }
        _ => {
            let io = |error| Error::io("list", format!("set {}", paths.directory().display()), error);
            let highest = [SetPaths::JOURNAL, SetPaths::SNAPSHOT]
                .into_iter()
                .map(|stem| paths.generations(stem))
                .collect::<std::io::Result<Vec<_>>>()
                .map_err(io)?
                .concat()
                .into_iter()
                .max();
            let next = highest.map_or(0, |generation| generation + 1);
            let mut journal = Journal::begin(paths, next, fingerprint)?;
            journal.append(super::snapshot::pool_records(&replayed.catalog))?;
            Ok((journal, highest.is_some()))
        }
    }
}
