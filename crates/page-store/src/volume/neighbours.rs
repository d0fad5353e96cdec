//! The sets of others in this namespace: followed on call, read by anybody, changed by their writers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hicache_core::{PageKey, Result};
use hicache_hashing::Fingerprint;

use crate::catalog::Mask;
use crate::format::Put;
use crate::set::{Follower, SegmentFile, SegmentName, Sequence, existing_sets, open_segment_to_read};

/// So many segments of others are kept open. More than a batch mostly needs; each is two descriptors.
const MOST_OPEN_SEGMENTS: usize = 64;

/// And so long: what its writer has removed meanwhile is not kept open by whoever sleeps.
pub(crate) const SEGMENTS_STAY_OPEN: Duration = Duration::from_secs(1);

/// A look at which some set began again with a snapshot is repeated for all, at most so often.
const MOST_ROUNDS: usize = 4;

/// Everything known of the other sets.
#[derive(Debug)]
pub(super) struct Neighbours {
    namespace: PathBuf,
    own: PathBuf,
    fingerprint: Fingerprint,
    sets: Vec<Other>,
    /// What `published` and `sets` were when everything was last read.
    seen: Option<(u64, u64)>,
    /// What any set hides, the own one included.
    pub(super) mask: Mask,
    /// What other sets hide and the own set has not retired yet.
    pub(super) pending: Mask,
    open: HashMap<(u32, u16), Arc<SegmentFile>>,
    /// When the oldest of those was opened.
    opened: Instant,
}

#[derive(Debug)]
struct Other {
    number: u32,
    follower: Follower,
}

/// A page of another set.
#[derive(Debug)]
pub(crate) struct Elsewhere {
    pub(crate) set: u32,
    pub(crate) put: Put,
    pub(crate) segment: Arc<SegmentFile>,
    pub(crate) offset: u64,
}

/// What came of opening a page of another set.
enum Opened {
    /// No other set has it.
    Missing,
    /// Its segment is not where its record says.
    Moved,
    Page(Elsewhere),
}

impl Neighbours {
    pub(super) fn new(namespace: PathBuf, own: PathBuf, fingerprint: Fingerprint, mask: Mask) -> Self {
        Self {
            namespace,
            own,
            fingerprint,
            sets: Vec::new(),
            seen: None,
            mask,
            pending: Mask::default(),
            open: HashMap::new(),
            opened: Instant::now(),
        }
    }

    /// Reads everything that was published since the last look. What can't be read is as it was, and is tried again.
    pub(super) fn look(&mut self, sequence: &Sequence) {
        let now = (sequence.published(), sequence.sets());
        if self.seen == Some(now) {
            return;
        }
        let mut whole = self.seen.is_some_and(|(_, sets)| sets == now.1) || self.list_again();
        for _ in 0..MOST_ROUNDS {
            let mut again = false;
            for other in &mut self.sets {
                match other.follower.look() {
                    Ok(anew) => again |= anew,
                    Err(error) => {
                        let set = other.follower.paths().directory().display();
                        tracing::debug!(%set, %error, "a set of another process can't be read on");
                        whole = false;
                    }
                }
                let hidden = other.follower.take_mask();
                self.pending.merge(&hidden);
                self.mask.merge(&hidden);
            }
            // A set that is adopted meanwhile is in neither place for whoever looked at the adopter too early.
            if !whole {
                whole = self.list_again();
                again = true;
            }
            if !again {
                break;
            }
        }
        self.mask.prune(self.sets.iter().map(|other| other.follower.catalog()));
        self.seen = whole.then_some(now);
    }

    /// Reads everything, also if nothing was published: a retirement is in the journal before that, and its slot is written
    /// soon after.
    pub(super) fn look_anew(&mut self, sequence: &Sequence) {
        self.seen = None;
        self.look(sequence);
    }

    /// Finds sets that were made and forgets those that are gone.
    fn list_again(&mut self) -> bool {
        // The number of one that is gone may have gone to another.
        self.open.clear();
        let listed = match existing_sets(&self.namespace) {
            Ok(listed) => listed,
            Err(error) => {
                tracing::debug!(namespace = %self.namespace.display(), %error, "can't be listed");
                return false;
            }
        };
        let there = |path: &Path| listed.iter().any(|(_, directory)| directory == path);
        self.sets.retain(|other| there(other.follower.paths().directory()));
        let kept: Vec<u32> = self.sets.iter().map(|other| other.number).collect();
        for (number, directory) in listed {
            if directory != self.own && !kept.contains(&number) {
                self.sets.push(Other { number, follower: Follower::new(&directory, self.fingerprint) });
            }
        }
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// Where a page is, if another set has it.
    pub(super) fn find(&self, key: &PageKey) -> Option<(u32, Put)> {
        let named = (key.pool, key.digest);
        let visible = |other: &Other| {
            let put = other.follower.catalog().peek_named(&named)?;
            self.mask.shows(&named, put.sequence).then_some((other.number, put))
        };
        self.sets.iter().find_map(visible)
    }

    /// The page, ready to be read.
    ///
    /// # Errors
    /// `Io` if its segment can't be opened.
    pub(super) fn open(&mut self, key: &PageKey, sequence: &Sequence) -> Result<Option<Elsewhere>> {
        match self.open_now(key)? {
            Opened::Missing => return Ok(None),
            Opened::Page(page) => return Ok(Some(page)),
            Opened::Moved => {}
        }
        // Its set was adopted, or gave the segment up: what was read of it is old.
        self.look_anew(sequence);
        match self.open_now(key)? {
            Opened::Page(page) => Ok(Some(page)),
            Opened::Missing | Opened::Moved => Ok(None),
        }
    }

    fn open_now(&mut self, key: &PageKey) -> Result<Opened> {
        self.close_old_segments();
        let named = (key.pool, key.digest);
        let mut answer = Opened::Missing;
        for other in &self.sets {
            let catalog = other.follower.catalog();
            let Some(put) = catalog.peek_named(&named) else { continue };
            let segment = put.place.segment;
            let Some(slot_bytes) = catalog.slot_bytes(segment) else { continue };
            if !self.mask.shows(&named, put.sequence) {
                continue;
            }
            let file = match self.open.get(&(other.number, segment)) {
                Some(file) => Arc::clone(file),
                None => {
                    let path = other.follower.paths().segment(SegmentName { slot_bytes, segment });
                    let Some(file) = open_segment_to_read(path)? else {
                        answer = Opened::Moved;
                        continue;
                    };
                    let file = Arc::new(file);
                    if self.open.len() >= MOST_OPEN_SEGMENTS {
                        self.open.clear();
                    }
                    if self.open.is_empty() {
                        self.opened = Instant::now();
                    }
                    self.open.insert((other.number, segment), Arc::clone(&file));
                    file
                }
            };
            let offset = u64::from(put.place.slot) * u64::from(slot_bytes);
            return Ok(Opened::Page(Elsewhere { set: other.number, put, segment: file, offset }));
        }
        Ok(answer)
    }

    /// A page of another set did not fit its checksum. Answers whether it is still said to be there: then it is not
    /// looked for again.
    pub(super) fn is_corrupt(&mut self, key: &PageKey, set: u32, put: &Put) -> bool {
        // The segment may have been given up and made anew meanwhile.
        self.open.remove(&(set, put.place.segment));
        let Some(other) = self.sets.iter_mut().find(|other| other.number == set) else { return false };
        let catalog = other.follower.catalog();
        if catalog.peek_named(&(key.pool, key.digest)) != Some(*put) {
            return false;
        }
        other.follower.unpublish(put.pool, &put.digest);
        true
    }

    /// Closes all files of segments that were opened for reading.
    pub(super) fn close_segments(&mut self) {
        self.open.clear();
    }

    /// Closes them if they have been open for long enough. Answers whether any are open after that.
    pub(super) fn close_old_segments(&mut self) -> bool {
        if self.opened.elapsed() >= SEGMENTS_STAY_OPEN {
            self.open.clear();
        }
        !self.open.is_empty()
    }

    /// The other sets by number, for listings.
    pub(super) fn numbers(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> = self.sets.iter().map(|other| other.number).collect();
        numbers.sort_unstable();
        numbers
    }

    pub(super) fn follower(&self, number: u32) -> Option<&Follower> {
        self.sets.iter().find(|other| other.number == number).map(|other| &other.follower)
    }

    pub(super) fn followers(&self) -> impl Iterator<Item = &Follower> + Clone {
        self.sets.iter().map(|other| &other.follower)
    }

    /// A set was adopted by this process, or removed.
    pub(super) fn drop_set(&mut self, directory: &Path) {
        self.sets.retain(|other| other.follower.paths().directory() != directory);
        let kept: Vec<u32> = self.sets.iter().map(|other| other.number).collect();
        self.open.retain(|(number, _), _| kept.contains(number));
    }
}
