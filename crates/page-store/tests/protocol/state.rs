//! The state of the model: the files, what each process has in memory, and what the properties need to know.

use crate::disk::{Content, Disk, Key, Place, Put, Record, Sum, Version};
use crate::follow::{Look, View};

/// What a process is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    Put(Key),
    Overwrite(Key),
    Load(Key),
    Delete(Key),
    Clear,
    /// Takes over the first free set.
    Adopt,
}

impl Call {
    pub(crate) fn stores(self) -> Option<Key> {
        match self {
            Self::Put(key) | Self::Overwrite(key) => Some(key),
            _ => None,
        }
    }

    /// Whether pages of this key that are there go with it.
    pub(crate) fn removes(self, key: Key) -> bool {
        match self {
            Self::Overwrite(other) | Self::Delete(other) => other == key,
            Self::Clear => true,
            Self::Put(_) | Self::Load(_) | Self::Adopt => false,
        }
    }
}

/// Where a call is. Each step is what happens in one instant as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// Looking at the other sets.
    Look,
    /// Takes numbers for records that make room, appends them, raises `published`.
    RetireNumber,
    RetireAppend,
    RetireRaise,
    Segment,
    /// The slot is half written, then whole.
    Half,
    Whole,
    Number,
    Append,
    /// An append failed after some of it was written.
    TakeBack,
    Raise,
    /// A clear gives its segments back.
    Cut,
    ReadEnd,
    /// What was read does not fit; it is looked once more.
    Recheck,
    Adopt(AdoptStep),
    Open(OpenStep),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum AdoptStep {
    Look,
    Append,
    Raise,
    Rename,
    RaiseAgain,
    RemoveJournals,
    RemoveSet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum OpenStep {
    Lock,
    Look,
    Make,
    Header,
    Seal,
    Raise,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Operation {
    /// `None`: the process is opening the store.
    pub(crate) call: Option<Call>,
    pub(crate) step: Step,
    pub(crate) look: Option<Look>,
    /// Of the page that is being stored; 0 otherwise.
    pub(crate) version: Version,
    /// To be appended.
    pub(crate) records: Vec<Record>,
    /// The append is on its way: its last record is half there.
    pub(crate) half: bool,
    /// Room is made for a page of this call; that is published with the page.
    pub(crate) evicts: bool,
    pub(crate) place: Option<Place>,
    /// The page that is being read: its set, its file, and what the slot held when the read began.
    pub(crate) reading: Option<(u8, Put, u8, Content)>,
    /// Looks that were made for a segment that was not there.
    pub(crate) tries: u8,
    /// The set that is being adopted.
    pub(crate) dead_set: u8,
    /// What had been answered when the call began: bits of versions stored, and removed.
    pub(crate) stored_before: u32,
    pub(crate) removed_before: u32,
}

/// A generation that begins, and its snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Rotation {
    pub(crate) step: RotationStep,
    pub(crate) next: u8,
    pub(crate) captured: Sum,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RotationStep {
    Make,
    Header,
    Seal,
    Raise,
    /// Pages of one slot are taken from memory.
    Capture(u8),
    Rename,
    ReadBack,
    RemoveJournals,
    RemoveSnapshots,
}

impl Rotation {
    /// No record is written meanwhile.
    pub(crate) fn holds_the_journal(&self) -> bool {
        matches!(self.step, RotationStep::Make | RotationStep::Header | RotationStep::Seal)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) alive: bool,
    /// Its set; `None` for a reader.
    pub(crate) own: Option<u8>,
    /// Of the journal that it appends to.
    pub(crate) generation: u8,
    pub(crate) next_segment: u8,
    pub(crate) view: View,
    pub(crate) operation: Option<Operation>,
    pub(crate) rotation: Option<Rotation>,
    /// How much of its script is done.
    pub(crate) at: u8,
    pub(crate) rotations_left: u8,
}

impl Process {
    pub(crate) fn own(&self) -> Option<usize> {
        self.own.map(usize::from)
    }
}

/// What was answered wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Wrong {
    /// With other bytes than were stored under the key.
    Bytes,
    /// `Corrupt`, where nothing is damaged.
    Corrupt,
    /// With a page that had been removed before.
    Removed,
    /// Missed, although stored before and never removed.
    Missed,
}

/// Known to nobody in the model: what was promised to callers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Promises {
    /// The key of each version, plus 1.
    pub(crate) keys: Vec<Key>,
    /// Stores that were answered, as bits of their versions.
    pub(crate) stored: u32,
    /// Those that some removal, replacement or eviction has at least begun to remove.
    pub(crate) leaving: u32,
    /// Those that were stored at the same moment as they were removed: either may be first, and for some time one reader
    /// may find what another does not.
    pub(crate) contested: u32,
    /// Those whose removal was answered.
    pub(crate) removed: u32,
    pub(crate) wrong: Option<Wrong>,
}

impl Promises {
    /// All versions of a key that were begun.
    pub(crate) fn of_key(&self, key: Key) -> u32 {
        let versions = self.keys.iter().enumerate().filter(|(_, other)| **other == key + 1);
        versions.fold(0, |bits, (version, _)| bits | 1 << version)
    }

    pub(crate) fn removable(&self, call: Call) -> u32 {
        let keys = (0..crate::disk::KEYS as Key).filter(|key| call.removes(*key));
        keys.fold(0, |bits, key| bits | self.of_key(key))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) disk: Disk,
    pub(crate) processes: Vec<Process>,
    pub(crate) promises: Promises,
    pub(crate) kills_left: u8,
    pub(crate) failures_left: u8,
}
