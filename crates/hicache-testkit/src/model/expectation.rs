//! What is known of each key.

/// What a storage promises, beyond never giving wrong bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Semantics {
    /// Pages may be gone at any time. Once missed, a page stays gone until it is stored again.
    pub evicts: bool,
    /// Any page of any call may fail with an error of its own, as with injected faults.
    pub fails: bool,
    /// Everything is gone after the storage is closed and opened again.
    pub forgets_at_reopen: bool,
}

impl Semantics {
    /// Whether a page that was stored may be found missing.
    pub(super) fn may_lose(self) -> bool {
        self.evicts || self.fails
    }
}

/// One version of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) number: u64,
    pub(super) bytes: usize,
}

/// What a key may hold: one of these versions, or nothing if there is none or `may_be_absent`.
#[derive(Clone, Debug, Default)]
pub(super) struct Knowledge {
    pub(super) versions: Vec<Version>,
    pub(super) may_be_absent: bool,
}

impl Knowledge {
    /// It is this version for sure, unless the storage loses pages.
    pub(super) fn is(&mut self, version: Version, semantics: Semantics) {
        *self = Self { versions: vec![version], may_be_absent: semantics.may_lose() };
    }

    pub(super) fn is_absent(&mut self) {
        *self = Self::default();
    }

    /// It may have become this version.
    pub(super) fn may_be(&mut self, version: Version) {
        self.may_be_absent |= self.versions.is_empty();
        self.versions.push(version);
    }

    pub(super) fn must_be_absent(&self) -> bool {
        self.versions.is_empty()
    }

    pub(super) fn must_be_there(&self) -> bool {
        !self.versions.is_empty() && !self.may_be_absent
    }

    /// The length to ask for: that of the version stored last.
    pub(super) fn bytes(&self) -> Option<usize> {
        self.versions.last().map(|version| version.bytes)
    }
}
