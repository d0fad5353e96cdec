//! Opening a root: manifest, lock, replay, repair.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use hicache_core::{Error, Namespace, Result};
use tokio::sync::Notify;

use super::durable::{Durable, leading_to, sync_directories};
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
        let mut leading = leading_to(&directory, root);
        let io = |error| Error::io("create", format!("directory {}", directory.display()), error);
        fs::create_dir_all(&directory).map_err(io)?;
        let ledger = Ledger::open(root, options.capacity_bytes)?;
        let manifest = Manifest::ensure(&directory, namespace)?;
        let lock = SetLock::claim(&directory)?;
        let paths = SetPaths::new(lock.directory().to_owned());
        for leftover in [paths.snapshot_aside(), paths.names_aside()] {
            let _ = fs::remove_file(leftover);
        }
        let replayed = replay(&paths, fingerprint, options.policy)?;
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
        let (journal, repair) = continue_journal(&paths, fingerprint, &replayed)?;
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
            durable: Durable::default(),
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
        });
        if let Some(bytes) = options.page_bytes {
            volume.check_capacity(super::slot_bytes(bytes as u32))?;
        }
        if repair {
            // The generations before stay until the new one has been read back.
            let generation = volume.lock().journal.generation();
            volume.write_snapshot(generation)?;
        }
        if volume.is_group() {
            leading.push(volume.paths.directory().to_owned());
            sync_directories(&leading)?;
        }
        tracing::debug!(set = %volume.paths.directory().display(), pages, "set opened");
        Ok(volume)
    }
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
