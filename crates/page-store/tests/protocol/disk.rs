//! What is on the medium and in the mapped page: all that processes share.

/// Keys of the model.
pub(crate) const KEYS: usize = 2;
/// Slots of a segment; a set has one segment at a time of its own, and those that it adopts.
pub(crate) const SLOTS: u8 = 2;

pub(crate) type Key = u8;
/// A number taken from `sequence`.
pub(crate) type Number = u8;
/// Which call of `store` wrote a page: its bytes, as it were. Never 0.
pub(crate) type Version = u8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) segment: u8,
    pub(crate) slot: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Put {
    pub(crate) number: Number,
    pub(crate) key: Key,
    /// Stands for length and checksum of the page.
    pub(crate) version: Version,
    pub(crate) place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Record {
    Put(Put),
    Retire {
        number: Number,
        key: Key,
        place: Place,
    },
    Forget {
        number: Number,
        key: Key,
    },
    Clear {
        number: Number,
    },
    Seal {
        next: u8,
    },
    /// Does not decode: half of a record.
    Torn,
}

impl Record {
    /// The same with a number, where it takes one of its own.
    pub(crate) fn numbered(self, number: Number) -> Self {
        match self {
            Self::Put(put) => Self::Put(Put { number, ..put }),
            Self::Retire { key, place, .. } => Self::Retire { number, key, place },
            Self::Forget { key, .. } => Self::Forget { number, key },
            Self::Clear { .. } => Self::Clear { number },
            Self::Seal { .. } | Self::Torn => self,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Content {
    #[default]
    Nothing,
    /// Partly old, partly new bytes.
    Half,
    Page(Version),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Journal {
    pub(crate) generation: u8,
    /// Header and pools are there.
    pub(crate) header: bool,
    pub(crate) records: Vec<Record>,
}

impl Journal {
    pub(crate) fn sealed(&self) -> bool {
        matches!(self.records.last(), Some(Record::Seal { .. }))
    }
}

/// What a set comes to: its live pages, and what its writer said about those of others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Sum {
    /// In the order of their places.
    pub(crate) puts: Vec<Put>,
    pub(crate) forgets: [Number; KEYS],
    pub(crate) clear: Number,
}

impl Sum {
    pub(crate) fn apply(&mut self, record: Record) {
        match record {
            Record::Put(put) => {
                self.puts.retain(|old| old.key != put.key && old.place != put.place);
                self.puts.push(put);
                self.puts.sort_by_key(|put| put.place);
            }
            Record::Retire { key, place, .. } => self.puts.retain(|put| put.key != key || put.place != place),
            Record::Forget { number, key } => {
                let forget = &mut self.forgets[usize::from(key)];
                *forget = number.max(*forget);
            }
            Record::Clear { number } => {
                self.clear = number.max(self.clear);
                self.puts.retain(|put| put.number > number);
            }
            Record::Seal { .. } | Record::Torn => {}
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Snapshot {
    pub(crate) generation: u8,
    /// Its end fits what is before it.
    pub(crate) good: bool,
    pub(crate) sum: Sum,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Set {
    pub(crate) there: bool,
    /// Who holds its lock.
    pub(crate) owner: Option<u8>,
    /// Numbers of segments, and which of the root's files each is.
    pub(crate) segments: Vec<(u8, u8)>,
    /// Ascending.
    pub(crate) journals: Vec<Journal>,
    pub(crate) snapshots: Vec<Snapshot>,
}

impl Set {
    pub(crate) fn journal(&self, generation: u8) -> Option<&Journal> {
        self.journals.iter().find(|journal| journal.generation == generation)
    }

    pub(crate) fn journal_mut(&mut self, generation: u8) -> Option<&mut Journal> {
        self.journals.iter_mut().find(|journal| journal.generation == generation)
    }

    pub(crate) fn newest_snapshot(&self) -> Option<&Snapshot> {
        self.snapshots.iter().filter(|snapshot| snapshot.good).max_by_key(|snapshot| snapshot.generation)
    }

    /// The highest generation of any file.
    pub(crate) fn highest(&self) -> u8 {
        let journals = self.journals.iter().map(|journal| journal.generation);
        journals.chain(self.snapshots.iter().map(|snapshot| snapshot.generation)).max().unwrap_or(0)
    }

    /// Which file a segment is.
    pub(crate) fn file(&self, segment: u8) -> Option<u8> {
        self.segments.iter().find(|(number, _)| *number == segment).map(|(_, file)| *file)
    }

    /// What whoever opens the set now would find: the newest whole snapshot, and every journal from there on.
    pub(crate) fn replay(&self) -> Sum {
        let snapshot = self.newest_snapshot();
        let mut sum = snapshot.map(|snapshot| snapshot.sum.clone()).unwrap_or_default();
        let first = snapshot.map_or(0, |snapshot| snapshot.generation);
        let journals = self.journals.iter().filter(|journal| journal.header && journal.generation >= first);
        for record in journals.flat_map(|journal| &journal.records) {
            sum.apply(*record);
        }
        sum
    }

    /// A segment number above all that a file or a record names.
    pub(crate) fn unused_segment(&self, records_count: bool) -> u8 {
        let files = self.segments.iter().map(|(number, _)| *number);
        let puts =
            self.journals.iter().flat_map(|journal| &journal.records).filter_map(|record| match record {
                Record::Put(put) => Some(put.place.segment),
                _ => None,
            });
        let kept = self.snapshots.iter().flat_map(|snapshot| &snapshot.sum.puts).map(|put| put.place.segment);
        let named = puts.chain(kept).filter(|_| records_count);
        files.chain(named).max().map_or(0, |segment| segment + 1)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Disk {
    pub(crate) sequence: Number,
    pub(crate) published: u8,
    /// Raised when a set was made or removed.
    pub(crate) sets_changed: u8,
    pub(crate) sets: Vec<Set>,
    /// Segment files, under whatever name, by the order in which they were made.
    pub(crate) files: Vec<[Content; SLOTS as usize]>,
}

impl Disk {
    pub(crate) fn content(&self, set: usize, place: Place) -> Option<Content> {
        let file = self.sets[set].file(place.segment)?;
        Some(self.files[usize::from(file)][usize::from(place.slot)])
    }
}

/// Whether a page is found, as far as these sums of all sets know.
pub(crate) fn is_visible<'a>(mut sums: impl Iterator<Item = &'a Sum>, put: &Put) -> bool {
    sums.all(|sum| put.number > sum.clear && put.number > sum.forgets[usize::from(put.key)])
}
