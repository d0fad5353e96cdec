//! Names of files. Everything that is built or parsed from a file name is here.

use std::path::{Path, PathBuf};

use crate::format::SLOT_BYTES;

/// `seg-<slot bytes>-<segment>`: the name says all that a segment's header would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentName {
    pub(crate) slot_bytes: u32,
    pub(crate) segment: u16,
}

impl SegmentName {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (slot_bytes, segment) = name.strip_prefix("seg-")?.split_once('-')?;
        let parsed = Self { slot_bytes: slot_bytes.parse().ok()?, segment: segment.parse().ok()? };
        // No slots of ours have another size: whatever that file is, it is in nobody's way.
        let ours = parsed.slot_bytes > 0 && parsed.slot_bytes.is_multiple_of(SLOT_BYTES);
        ours.then_some(parsed)
    }
}

impl std::fmt::Display for SegmentName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seg-{}-{:05}", self.slot_bytes, self.segment)
    }
}

/// No set comes to so many generations: a file of a higher one is not ours, and counting on from it could overflow.
const MOST_GENERATIONS: u64 = 1 << 48;

/// The generation in `journal-<g>` or `snapshot-<g>`.
pub(crate) fn parse_generation(name: &str, stem: &str) -> Option<u64> {
    let generation = name.strip_prefix(stem)?.strip_prefix('-')?.parse().ok()?;
    (generation < MOST_GENERATIONS).then_some(generation)
}

/// The paths of a set.
#[derive(Clone, Debug)]
pub(crate) struct SetPaths {
    directory: PathBuf,
}

impl SetPaths {
    pub(crate) const JOURNAL: &'static str = "journal";
    pub(crate) const SNAPSHOT: &'static str = "snapshot";
    pub(crate) const NAMES: &'static str = "names";

    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.directory.join("LOCK")
    }

    pub(crate) fn journal(&self, generation: u64) -> PathBuf {
        self.directory.join(format!("{}-{generation:010}", Self::JOURNAL))
    }

    pub(crate) fn snapshot(&self, generation: u64) -> PathBuf {
        self.directory.join(format!("{}-{generation:010}", Self::SNAPSHOT))
    }

    pub(crate) fn snapshot_aside(&self) -> PathBuf {
        self.directory.join("snapshot.new")
    }

    pub(crate) fn names(&self) -> PathBuf {
        self.directory.join(Self::NAMES)
    }

    pub(crate) fn names_aside(&self) -> PathBuf {
        self.directory.join("names.new")
    }

    pub(crate) fn segment(&self, name: SegmentName) -> PathBuf {
        self.directory.join(name.to_string())
    }

    /// Removes what was being written when a process ended; answers what it was. A directory in that place would be in
    /// the way of every snapshot.
    pub(crate) fn remove_leftovers(&self) -> Vec<PathBuf> {
        let mut leftovers = vec![self.snapshot_aside(), self.names_aside()];
        leftovers.retain(|path| std::fs::remove_file(path).or_else(|_| std::fs::remove_dir(path)).is_ok());
        leftovers
    }

    /// Whether a file of this name in the directory of a set is one of its own.
    pub(crate) fn is_ours(name: &str) -> bool {
        const NAMES: [&str; 6] = ["LOCK", "STARVED", "bell", "names", "names.new", "snapshot.new"];
        NAMES.contains(&name)
            || SegmentName::parse(name).is_some()
            || [Self::JOURNAL, Self::SNAPSHOT].iter().any(|stem| parse_generation(name, stem).is_some())
    }

    /// Every file name in the set. What is no file is none, whatever its name: a directory can't be read, and a pipe
    /// would be waited for.
    pub(crate) fn entries(&self) -> std::io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            let file = entry.file_type().is_ok_and(|kind| kind.is_file() || kind.is_symlink());
            names.extend(entry.file_name().into_string().ok().filter(|_| file));
        }
        Ok(names)
    }

    /// The generations of a kind of file, the highest first.
    pub(crate) fn generations(&self, stem: &str) -> std::io::Result<Vec<u64>> {
        let mut found: Vec<u64> =
            self.entries()?.iter().filter_map(|name| parse_generation(name, stem)).collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let name = SegmentName { slot_bytes: 65_536, segment: 7 };
        assert_eq!(SegmentName::parse(&name.to_string()), Some(name));
        for bad in [
            "seg-",
            "seg-1",
            "seg-1-",
            "seg--1",
            "seg-1-70000",
            "journal-1",
            "seg-99999999999-1",
            "seg-0-1",
            "seg-1-1",
        ] {
            assert_eq!(SegmentName::parse(bad), None, "{bad}");
        }
        assert_eq!(parse_generation("journal-0000000012", "journal"), Some(12));
        for bad in ["journal.new", "journal-", "journal-x", "journal-18446744073709551615"] {
            assert_eq!(parse_generation(bad, "journal"), None, "{bad}");
        }
    }
}
