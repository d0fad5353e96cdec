//! Who has sets under a root, whether they live, and what they take.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hicache_hashing::Fingerprint;

use super::ledger::{own_bytes, physical_bytes};
use super::paths::{SegmentName, SetPaths, parse_generation};
use super::set_lock::{Life, set_number};

/// What a set takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SetUse {
    pub(crate) segment_bytes: u64,
    pub(crate) slots: u64,
    /// Everything but the segments.
    pub(crate) metadata_bytes: u64,
    /// Length of the names log.
    pub(crate) name_bytes: u64,
    /// When the newest journal was last written.
    pub(crate) written: Option<SystemTime>,
}

/// A set of somebody else.
#[derive(Clone, Debug)]
pub(crate) struct Neighbour {
    pub(crate) namespace: PathBuf,
    pub(crate) directory: PathBuf,
    pub(crate) life: Life,
    pub(crate) takes: SetUse,
}

/// Everything under a root.
#[derive(Clone, Debug, Default)]
pub(crate) struct Census {
    /// The set that asked.
    pub(crate) own: SetUse,
    /// All others.
    pub(crate) sets: Vec<Neighbour>,
    /// What belongs to no set.
    pub(crate) other_bytes: u64,
}

impl Census {
    /// Counts. Under the root's lock, since asking who lives takes locks for a moment.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn take(root: &Path, own: &Path) -> io::Result<Self> {
        let mut census = Self { other_bytes: own_bytes(&fs::metadata(root)?), ..Self::default() };
        for (name, path) in entries(root)? {
            if name.parse::<Fingerprint>().is_err() || !path.is_dir() {
                census.other_bytes += physical_bytes(&path)?;
                continue;
            }
            census.other_bytes += fs::metadata(&path).map_or(0, |metadata| own_bytes(&metadata));
            for (name, directory) in entries(&path)? {
                if set_number(&name).is_none() || !directory.is_dir() {
                    census.other_bytes += physical_bytes(&directory)?;
                } else if directory == own {
                    census.own = SetUse::of(&directory)?;
                } else {
                    let (life, takes) = (Life::of(&directory)?, SetUse::of(&directory)?);
                    census.sets.push(Neighbour { namespace: path.clone(), directory, life, takes });
                }
            }
        }
        Ok(census)
    }

    /// What everything but the set that asked takes now.
    pub(crate) fn all_bytes(&self) -> u64 {
        let sets = self.sets.iter().map(|set| set.takes.segment_bytes + set.takes.metadata_bytes);
        self.other_bytes + sets.sum::<u64>()
    }

    pub(crate) fn living(&self) -> impl Iterator<Item = &Neighbour> {
        self.sets.iter().filter(|set| matches!(set.life, Life::Live { .. }))
    }

    /// The sets that nobody writes, the one that was written longest ago first.
    pub(crate) fn dead(&self) -> Vec<&Neighbour> {
        let mut dead: Vec<&Neighbour> = self.sets.iter().filter(|set| set.life == Life::Dead).collect();
        dead.sort_by_key(|set| set.takes.written);
        dead
    }

    pub(crate) fn starved(&self) -> impl Iterator<Item = &Neighbour> {
        self.sets.iter().filter(|set| matches!(set.life, Life::Live { starved: true, .. }))
    }

    /// The smallest limit of the living others.
    pub(crate) fn least_capacity(&self) -> Option<u64> {
        let limits = self.sets.iter().filter_map(|set| match set.life {
            Life::Live { capacity_bytes, .. } => capacity_bytes,
            Life::Dead => None,
        });
        limits.min()
    }
}

impl SetUse {
    /// What the set in `directory` takes. What disappears meanwhile counts nothing.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn of(directory: &Path) -> io::Result<Self> {
        let mut sum = Self::default();
        sum.metadata_bytes += fs::metadata(directory).map_or(0, |metadata| own_bytes(&metadata));
        for (name, path) in entries(directory)? {
            let metadata: Metadata = match fs::symlink_metadata(&path) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if metadata.is_dir() {
                sum.metadata_bytes += physical_bytes(&path)?;
                continue;
            }
            if let Some(segment) = SegmentName::parse(&name) {
                sum.segment_bytes += own_bytes(&metadata);
                sum.slots += metadata.len() / u64::from(segment.slot_bytes.max(1));
                continue;
            }
            sum.metadata_bytes += own_bytes(&metadata);
            if name == SetPaths::NAMES {
                sum.name_bytes = metadata.len();
            }
            if parse_generation(&name, SetPaths::JOURNAL).is_some() {
                sum.written = sum.written.max(metadata.modified().ok());
            }
        }
        Ok(sum)
    }
}

/// Names and paths in a directory; none in one that is gone, or that only others may read: what is in there does not
/// count.
fn entries(directory: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let named = |entry: fs::DirEntry| (entry.file_name().to_string_lossy().into_owned(), entry.path());
    entries.map(|entry| entry.map(named)).collect()
}
