//! Names of files. Everything that is built or parsed from a file name is here.

use std::path::{Path, PathBuf};

/// `seg-<slot bytes>-<segment>`: the name says all that a segment's header would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentName {
    pub(crate) slot_bytes: u32,
    pub(crate) segment: u16,
}

impl SegmentName {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (slot_bytes, segment) = name.strip_prefix("seg-")?.split_once('-')?;
        Some(Self { slot_bytes: slot_bytes.parse().ok()?, segment: segment.parse().ok()? })
    }
}

impl std::fmt::Display for SegmentName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seg-{}-{:05}", self.slot_bytes, self.segment)
    }
}

/// The generation in `journal-<g>` or `snapshot-<g>`.
pub(crate) fn parse_generation(name: &str, stem: &str) -> Option<u64> {
    name.strip_prefix(stem)?.strip_prefix('-')?.parse().ok()
}

/// The paths of a set.
#[derive(Clone, Debug)]
pub(crate) struct SetPaths {
    directory: PathBuf,
}

impl SetPaths {
    pub(crate) const JOURNAL: &'static str = "journal";
    pub(crate) const SNAPSHOT: &'static str = "snapshot";

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
        self.directory.join("names")
    }

    pub(crate) fn names_aside(&self) -> PathBuf {
        self.directory.join("names.new")
    }

    pub(crate) fn segment(&self, name: SegmentName) -> PathBuf {
        self.directory.join(name.to_string())
    }

    /// Every file name in the set.
    pub(crate) fn entries(&self) -> std::io::Result<Vec<String>> {
        std::fs::read_dir(&self.directory)?
            .filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).transpose())
            .collect()
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
        for bad in ["seg-", "seg-1", "seg-1-", "seg--1", "seg-1-70000", "journal-1", "seg-99999999999-1"] {
            assert_eq!(SegmentName::parse(bad), None, "{bad}");
        }
        assert_eq!(parse_generation("journal-0000000012", "journal"), Some(12));
        assert_eq!(parse_generation("journal.new", "journal"), None);
    }
}
