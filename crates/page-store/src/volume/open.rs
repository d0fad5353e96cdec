//! Opening a root: manifest, lock, replay, repair.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hicache_core::{Error, ErrorKind, Namespace, Result};
use hicache_hashing::Fingerprint;
use tokio::sync::Notify;

use super::capacity::extra_bytes;
use super::durable::{Durable, leading_to, sync_directories};
use super::neighbours::Neighbours;
use super::presence::Presence;
use super::reclaim::make_room_for_set;
use super::{Counters, State, Volume};
use crate::catalog::{Catalog, EvictionPolicy, Mask};
use crate::config::{Durability, Role};
use crate::format::{Manifest, ManifestOpened, RECORD_BYTES, slot_bytes};
use crate::set::{
    Follower, Journal, Ledger, NamesLog, Replayed, SegmentFile, Sequence, SetLock, SetPaths,
    highest_generation, open_segment, pool_records, remove_segment_file, replay, seal_all,
};

/// How long the root's lock is waited for when a store is opened.
const OPEN_WITHIN: Duration = Duration::from_secs(10);
/// A reader has no set; this is where it would be.
const NO_SET: &str = "reader";

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
    pub(crate) role: Role,
    pub(crate) policy: fn() -> Box<dyn EvictionPolicy>,
}

impl VolumeOptions {
    pub(crate) fn is_reader(&self) -> bool {
        self.role == Role::Reader
    }
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
            Manifest::find(&directory)?;
        }
        let mut leading = leading_to(&directory, root);
        fs::create_dir_all(root)
            .map_err(|error| Error::io("create", format!("root {}", root.display()), error))?;
        let ledger = Ledger::open(root, options.capacity_bytes)?;
        let (manifest, claimed) = {
            let open = ledger.lock(&directory, OPEN_WITHIN)?;
            if !options.is_reader() {
                make_room_for_set(&open, &directory);
            }
            let io = |error| Error::io("create", format!("directory {}", directory.display()), error);
            fs::create_dir_all(&directory).map_err(io)?;
            let manifest = Manifest::ensure(&directory, namespace)?;
            let claim = || SetLock::claim(&directory);
            (manifest, (!options.is_reader()).then(claim).transpose()?)
        };
        let (lock, free) = claimed.map_or((None, Vec::new()), |(own, free)| (Some(own), free));
        let paths = match &lock {
            Some(lock) => SetPaths::new(lock.directory().to_owned()),
            None => SetPaths::new(directory.join(NO_SET)),
        };
        let own = match &lock {
            Some(lock) => {
                lock.note(ledger.capacity_bytes());
                OwnSet::open(&paths, fingerprint, options)?
            }
            None => OwnSet::none(options),
        };
        let sequence = Sequence::open(&directory, own.sequence)?;
        // A reader has no lock; the counters are what it has open.
        let open_path = if lock.is_some() { paths.lock() } else { Sequence::path(&directory) };
        let presence = Presence::new(root, open_path)?;
        let mut neighbours =
            Neighbours::new(directory, paths.directory().to_owned(), fingerprint, own.mask.clone());
        neighbours.look(&sequence);
        sequence.raise(neighbours.followers().map(Follower::sequence).max().unwrap_or_default());
        let pages = own.catalog.pages();
        let names = NamesLog::open(paths.clone());
        let forgotten = own.mask.forgotten_keys() as u64;
        let state = State {
            catalog: own.catalog,
            counters: Counters {
                bad_manifests: u64::from(manifest == ManifestOpened::Rewritten),
                ..own.found
            },
            next_segment: own.next_segment,
            stranded: Vec::new(),
            segments: own.segments,
            journal: own.journal,
            extra_room: extra_bytes(names.bytes(), forgotten),
            names,
            forgotten,
            fits: false,
            full_since: None,
            full_for: Duration::ZERO,
            evicted_since_look: 0,
            dropped_names: 0,
            durable: Durable::default(),
            changed: lock.is_some() && (own.repair || manifest != ManifestOpened::Found),
        };
        let volume = Arc::new(Self {
            paths,
            fingerprint,
            options,
            capacity_now: AtomicU64::new(ledger.capacity_bytes()),
            ledger,
            sequence,
            state: Mutex::new(state),
            neighbours: Mutex::new(neighbours),
            alone_at: AtomicU64::new(u64::MAX),
            released: Notify::new(),
            snapshot_running: AtomicBool::new(false),
            snapshot_done: Notify::new(),
            lock: Mutex::new(lock),
            presence,
            journal_lost: AtomicBool::new(false),
        });
        if let Some(bytes) = options.page_bytes.filter(|_| !options.is_reader()) {
            volume.check_capacity(slot_bytes(bytes as u32))?;
        }
        if own.repair {
            // The generations before stay until the new one has been read back.
            let generation = volume.lock().journal.generation();
            match volume.write_snapshot(generation) {
                Err(error) if error.kind() == ErrorKind::NoSpace => {
                    tracing::warn!(set = %volume.paths.directory().display(), %error, "no snapshot; the journals stay");
                }
                written => written?,
            }
        }
        if volume.is_group() {
            leading.extend(volume.paths.directory().is_dir().then(|| volume.paths.directory().to_owned()));
            sync_directories(&leading)?;
        }
        volume.sequence.sets_changed();
        volume.catch_up();
        for set in free {
            let directory = set.directory().to_owned();
            // Whoever sums, opens or looks for sets must not see one that is half here and half there.
            let adopted = volume.ledger.lock_root(OPEN_WITHIN).and_then(|_held| volume.adopt(set));
            if let Err(error) = adopted {
                // It stays where it is, and is read like the set of another process.
                tracing::warn!(set = %directory.display(), %error, "a set that nobody writes was not adopted");
            }
        }
        tracing::debug!(set = %volume.paths.directory().display(), pages, "set opened");
        Ok(volume)
    }
}

/// The own set, as its files say it.
struct OwnSet {
    catalog: Catalog,
    mask: Mask,
    segments: BTreeMap<u16, Arc<SegmentFile>>,
    journal: Journal,
    sequence: u64,
    /// Above every segment that is there or that a record names.
    next_segment: u32,
    /// Whether a snapshot of the journal's generation is due.
    repair: bool,
    /// The damage that was found.
    found: Counters,
}

impl OwnSet {
    fn open(paths: &SetPaths, fingerprint: Fingerprint, options: VolumeOptions) -> Result<Self> {
        paths.remove_leftovers();
        let mut replayed = replay(paths, fingerprint, options.policy)?;
        if replayed.damaged() {
            tracing::warn!(
                set = %paths.directory().display(),
                bad_records = replayed.bad_records,
                bad_snapshots = replayed.bad_snapshots,
                lost_pages = replayed.lost_pages,
                "the set was damaged; what is left is served, and a new snapshot is made"
            );
        }
        let (journal, repair) = loop {
            match continue_journal(paths, fingerprint, &replayed) {
                // A full disk must not keep a store from opening that has space of its own to give.
                Err(error) if error.kind() == ErrorKind::NoSpace && make_space(paths, &mut replayed) => {}
                continued => break continued?,
            }
        };
        let mut segments = BTreeMap::new();
        for (name, bytes) in &replayed.segments {
            let path = paths.segment(*name);
            if *bytes == 0 {
                // Its removal was cut short.
                let _ = fs::remove_file(path);
                continue;
            }
            segments.insert(name.segment, Arc::new(open_segment(path)?.0));
        }
        let there = segments.keys().next_back().copied();
        let next_segment = there.max(replayed.highest_segment).map_or(0, |last| u32::from(last) + 1);
        let found = Counters {
            bad_records: replayed.bad_records,
            bad_snapshots: replayed.bad_snapshots,
            lost_pages: replayed.lost_pages,
            ..Counters::default()
        };
        let Replayed { catalog, mask, sequence, .. } = replayed;
        Ok(Self { catalog, mask, segments, journal, sequence, next_segment, repair, found })
    }

    /// That of a reader.
    fn none(options: VolumeOptions) -> Self {
        let mut catalog = Catalog::new(options.policy);
        catalog.finish_replay();
        let (mask, segments, journal) = (Mask::default(), BTreeMap::new(), Journal::none());
        Self {
            catalog,
            mask,
            segments,
            journal,
            sequence: 0,
            next_segment: 0,
            repair: false,
            found: Counters::default(),
        }
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
    remove_segment_file(&paths.segment(name)).is_ok()
}

/// Goes on with the last journal if it is whole and everything before it leads there, else begins a generation above
/// everything seen and leads those who follow there. The second answer tells that a snapshot of it is due.
fn continue_journal(
    paths: &SetPaths,
    fingerprint: Fingerprint,
    replayed: &Replayed,
) -> Result<(Journal, bool)> {
    if let Some((last, before)) = replayed.journals.split_last()
        && !replayed.damaged()
        && !last.sealed
        && last.bytes >= RECORD_BYTES as u64
        && before.iter().all(|journal| journal.sealed)
    {
        return Ok((Journal::resume(paths, last.generation, last.bytes)?, false));
    }
    let highest = highest_generation(paths)?;
    let next = highest.map_or(0, |generation| generation + 1);
    let mut journal = Journal::begin(paths, next, fingerprint)?;
    journal.append(pool_records(&replayed.catalog))?;
    seal_all(paths, &replayed.journals, next);
    Ok((journal, highest.is_some()))
}
