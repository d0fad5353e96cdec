//! What was done to numbered keys, in a file beside the store that several processes share and that survives their
//! kills. From it any of them can say which versions of a page a load may find.
//!
//! A key has one **owner**, the only process that stores and deletes it; each of its changes takes the next version.
//! The owner notes a version before the change begins and again after it was answered. Everybody may clear, and notes
//! for each key up to which version that takes pages away.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Set in an answered version that took the page away.
const DELETED: u32 = 1 << 31;
const PAIR: usize = 8;

/// The file.
#[derive(Debug)]
pub struct History {
    file: File,
    keys: u64,
    owners: u64,
}

/// What is known of one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Highest version whose change has begun.
    pub begun: u32,
    /// Highest version whose change was answered.
    pub answered: u32,
    /// Whether that change was a deletion.
    pub deleted: bool,
    /// Highest version that a clear which was begun may have taken away.
    pub may_be_cleared: u32,
    /// Highest version that a clear which was answered has taken away.
    pub cleared: u32,
}

impl Known {
    /// The lowest version that a load may find which begins now.
    pub fn floor(&self) -> u32 {
        (self.answered + u32::from(self.deleted))
            .max(if self.cleared > 0 { self.cleared + 1 } else { 0 })
            .max(1)
    }

    /// Whether the page must be there, if nothing was evicted or damaged, and this is also known after the load.
    pub fn must_be_there(&self) -> bool {
        self.answered > 0
            && self.begun == self.answered
            && !self.deleted
            && self.answered > self.may_be_cleared
    }
}

/// The two numbers that one process keeps of one key.
type Pair = (u32, u32);

impl History {
    /// Opens or makes the history of `keys` keys that belong to `owners` processes.
    ///
    /// # Errors
    /// What the system reports.
    pub fn open(path: &Path, keys: u64, owners: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        file.set_len((1 + owners) * keys * PAIR as u64)?;
        Ok(Self { file, keys, owners })
    }

    /// How many keys there are.
    pub fn keys(&self) -> u64 {
        self.keys
    }

    fn read(&self, section: u64, keys: Range<u64>) -> io::Result<Vec<Pair>> {
        let mut raw = vec![0; (keys.end - keys.start) as usize * PAIR];
        self.file.read_exact_at(&mut raw, (section * self.keys + keys.start) * PAIR as u64)?;
        let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, &byte| sum << 8 | u32::from(byte));
        Ok(raw.chunks_exact(PAIR).map(|pair| (word(&pair[..4]), word(&pair[4..]))).collect())
    }

    fn write(&self, section: u64, first: u64, pairs: impl IntoIterator<Item = Pair>) -> io::Result<()> {
        let raw: Vec<u8> =
            pairs.into_iter().flat_map(|(a, b)| [a.to_le_bytes(), b.to_le_bytes()].concat()).collect();
        self.file.write_all_at(&raw, (section * self.keys + first) * PAIR as u64)
    }

    /// What is known of these keys.
    ///
    /// # Errors
    /// What the system reports.
    pub fn look(&self, keys: Range<u64>) -> io::Result<Vec<Known>> {
        let mut known: Vec<Known> = self
            .read(0, keys.clone())?
            .into_iter()
            .map(|(begun, answered)| Known {
                begun,
                answered: answered & !DELETED,
                deleted: answered & DELETED != 0,
                ..Known::default()
            })
            .collect();
        for owner in 0..self.owners {
            for (known, (may, did)) in known.iter_mut().zip(self.read(1 + owner, keys.clone())?) {
                known.may_be_cleared = known.may_be_cleared.max(may);
                known.cleared = known.cleared.max(did);
            }
        }
        Ok(known)
    }

    /// The owner begins a change of these keys: answers the versions that it gives them.
    ///
    /// # Errors
    /// What the system reports.
    pub fn begin(&self, keys: Range<u64>) -> io::Result<Vec<u32>> {
        let old = self.read(0, keys.clone())?;
        let versions: Vec<u32> = old.iter().map(|(begun, _)| begun + 1).collect();
        self.write(
            0,
            keys.start,
            old.iter().zip(&versions).map(|((_, answered), version)| (*version, *answered)),
        )?;
        Ok(versions)
    }

    /// The change of these keys was answered; `good` tells for which of them it was done.
    ///
    /// # Errors
    /// What the system reports.
    pub fn answered(&self, keys: Range<u64>, deleted: bool, good: &[bool]) -> io::Result<()> {
        let old = self.read(0, keys.clone())?;
        let mark = if deleted { DELETED } else { 0 };
        let new = old
            .iter()
            .zip(good)
            .map(|(&(begun, answered), good)| (begun, if *good { begun | mark } else { answered }));
        self.write(0, keys.start, new)
    }

    /// Process number `owner` begins to clear. What it hands back is for [`History::cleared`].
    ///
    /// # Errors
    /// What the system reports.
    pub fn begin_clear(&self, owner: u64) -> io::Result<Clearing> {
        let now = self.read(0, 0..self.keys)?;
        let old = self.read(1 + owner, 0..self.keys)?;
        // Whatever is begun by now, or begins while it goes on, may be taken: the owners' versions are read again.
        self.write(1 + owner, 0, now.iter().zip(&old).map(|(_, (_, did))| (u32::MAX >> 1, *did)))?;
        Ok(Clearing { owner, answered: now.iter().map(|(_, answered)| answered & !DELETED).collect() })
    }

    /// A process that may have been killed while it cleared begins anew: whatever its clear took is taken by now.
    ///
    /// # Errors
    /// What the system reports.
    pub fn settle(&self, owner: u64) -> io::Result<()> {
        let begun = self.read(0, 0..self.keys)?;
        let old = self.read(1 + owner, 0..self.keys)?;
        self.write(
            1 + owner,
            0,
            begun.iter().zip(&old).map(|((begun, _), &(may, did))| (may.min(*begun), did)),
        )
    }

    /// The clear was answered with success.
    ///
    /// # Errors
    /// What the system reports.
    pub fn cleared(&self, clearing: &Clearing) -> io::Result<()> {
        let begun = self.read(0, 0..self.keys)?;
        let old = self.read(1 + clearing.owner, 0..self.keys)?;
        let new = begun
            .iter()
            .zip(&clearing.answered)
            .zip(&old)
            .map(|(((begun, _), answered), (_, did))| (*begun, *answered.max(did)));
        self.write(1 + clearing.owner, 0, new)
    }
}

/// A clear under way.
#[derive(Debug)]
pub struct Clearing {
    owner: u64,
    /// What was answered before it began, and so is gone when it is answered.
    answered: Vec<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(history: &History) -> Known {
        history.look(3..4).unwrap()[0]
    }

    #[test]
    fn versions_go_up_and_deletions_and_clears_raise_the_floor() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let history = History::open(file.path(), 8, 2).unwrap();
        assert_eq!(history.begin(2..5).unwrap(), [1, 1, 1]);
        assert_eq!((one(&history).floor(), one(&history).must_be_there()), (1, false));
        history.answered(2..5, false, &[true, true, false]).unwrap();
        assert!(one(&history).must_be_there());
        assert!(!history.look(4..5).unwrap()[0].must_be_there());
        history.begin(3..4).unwrap();
        history.answered(3..4, true, &[true]).unwrap();
        assert_eq!((one(&history).floor(), one(&history).must_be_there()), (3, false));
        let history = History::open(file.path(), 8, 2).unwrap();
        assert_eq!(history.begin(3..4).unwrap(), [3]);
        history.answered(3..4, false, &[true]).unwrap();
        let clearing = history.begin_clear(1).unwrap();
        assert_eq!((one(&history).floor(), one(&history).must_be_there()), (3, false));
        history.cleared(&clearing).unwrap();
        assert_eq!((one(&history).floor(), one(&history).must_be_there()), (4, false));
        history.begin(3..4).unwrap();
        history.answered(3..4, false, &[true]).unwrap();
        assert_eq!((one(&history).floor(), one(&history).must_be_there()), (4, true));
    }
}
