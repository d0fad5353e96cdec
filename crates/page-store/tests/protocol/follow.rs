//! How a process learns what the others wrote: tailing, and one look at all of them.

use crate::disk::{Disk, Put, Record, Sum, is_visible};
use crate::mutants::Mutant;

/// What a process has read of one set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Followed {
    /// It has begun: with a snapshot, or with the oldest journal where there is none.
    pub(crate) begun: bool,
    pub(crate) generation: u8,
    /// Records read of this generation's journal.
    pub(crate) at: u8,
    /// The last of them.
    pub(crate) last: Option<Record>,
    pub(crate) sum: Sum,
}

/// Stands for the generation of a set whose journals are gone.
const EMPTIED: u8 = u8::MAX;

/// What became of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tailed {
    /// There may be more.
    More,
    /// It began anew: what was read of other sets before that does not go with it.
    Restarted,
    /// All that is there has been read.
    End,
    /// The set is not there any more.
    Gone,
}

impl Followed {
    /// One read of a file.
    pub(crate) fn tail(&mut self, disk: &Disk, set: usize, mutant: Option<Mutant>) -> Tailed {
        let files = &disk.sets[set];
        if !files.there {
            *self = Self::default();
            return Tailed::Gone;
        }
        if !self.begun {
            self.begun = true;
            let snapshot = files.newest_snapshot();
            if let Some(snapshot) = snapshot {
                self.sum = snapshot.sum.clone();
                self.generation = snapshot.generation;
            } else {
                self.generation = files.journals.first().map_or(0, |oldest| oldest.generation);
            }
            // Who has all that the set ever said lacks nothing.
            return if self.generation == 0 { Tailed::More } else { Tailed::Restarted };
        }
        let Some(journal) = files.journal(self.generation) else {
            if mutant == Some(Mutant::GoneIsTheEnd) {
                return Tailed::End;
            }
            // A set that is being removed has no journals any more, and may stay like that.
            if files.journals.is_empty() {
                let emptied = Self { begun: true, generation: EMPTIED, ..Self::default() };
                let known = *self == emptied;
                *self = emptied;
                return if known { Tailed::End } else { Tailed::Gone };
            }
            *self = Self::default();
            return Tailed::More;
        };
        if !journal.header {
            return Tailed::End;
        }
        let at = usize::from(self.at);
        let replaced = self.last.is_some() && journal.records.get(at - 1).copied() != self.last;
        if journal.records.len() < at || (replaced && mutant != Some(Mutant::TakenBackUnnoticed)) {
            if mutant == Some(Mutant::TakenBackUnnoticed) {
                self.at = journal.records.len() as u8;
                return Tailed::End;
            }
            *self = Self::default();
            return Tailed::More;
        }
        let rest = &journal.records[at..];
        let decodes = |record: &Record| *record != Record::Torn;
        let readable = match mutant {
            Some(Mutant::TornTailSkipped) => rest.len(),
            _ => rest.iter().rposition(decodes).map_or(0, |last| last + 1),
        };
        for record in &rest[..readable] {
            self.sum.apply(*record);
            // The mutant has nothing that it could compare later.
            self.last = Some(*record).filter(decodes);
            self.at += 1;
            if let Record::Seal { next } = record {
                *self = Self {
                    begun: true,
                    generation: *next,
                    sum: std::mem::take(&mut self.sum),
                    at: 0,
                    last: None,
                };
                return Tailed::More;
            }
        }
        Tailed::End
    }
}

/// All that a process knows of all sets, its own included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct View {
    pub(crate) sets: Vec<Followed>,
    /// `published` and the count of sets, as they were before the last look that came to its end.
    pub(crate) seen: Option<(u8, u8)>,
}

impl View {
    pub(crate) fn sums(&self) -> impl Iterator<Item = &Sum> {
        self.sets.iter().map(|followed| &followed.sum)
    }

    pub(crate) fn is_visible(&self, put: &Put) -> bool {
        is_visible(self.sums(), put)
    }
}

/// A look at the other sets that is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Look {
    counters: (u8, u8),
    /// Sets to be tailed yet, a bit each.
    pub(crate) left: u8,
    /// Something began anew: all are tailed once more.
    again: bool,
}

fn listed(disk: &Disk, own: Option<usize>) -> u8 {
    let others = disk.sets.iter().enumerate().filter(|(set, files)| files.there && Some(*set) != own);
    others.fold(0, |bits, (set, _)| bits | 1 << set)
}

impl Look {
    /// `published` is read before anything else. `None`: nothing is new.
    pub(crate) fn begin(disk: &Disk, view: &mut View, own: Option<usize>, always: bool) -> Option<Self> {
        let counters = (disk.published, disk.sets_changed);
        if !always && view.seen == Some(counters) {
            return None;
        }
        let mut left = listed(disk, own);
        // Sets that are known and not listed are looked at too: that finds them gone.
        for (set, followed) in view.sets.iter().enumerate() {
            if followed.begun && Some(set) != own {
                left |= 1 << set;
            }
        }
        Look { counters, left, again: false }.done(view)
    }

    fn done(self, view: &mut View) -> Option<Self> {
        if self.left == 0 {
            view.seen = Some(self.counters);
            return None;
        }
        Some(self)
    }

    /// One step with one of the sets that are left. `None`: the look is at its end.
    pub(crate) fn step(
        mut self,
        disk: &Disk,
        view: &mut View,
        own: Option<usize>,
        set: usize,
        mutant: Option<Mutant>,
    ) -> Option<Self> {
        match view.sets[set].tail(disk, set, mutant) {
            Tailed::More => {}
            Tailed::Restarted => self.again |= mutant != Some(Mutant::RestartLooksOnce),
            Tailed::End => self.left &= !(1 << set),
            Tailed::Gone => {
                self.left &= !(1 << set);
                self.again |= mutant != Some(Mutant::GoneLooksOnce);
            }
        }
        if self.left == 0 && self.again {
            self = Self { left: listed(disk, own), again: false, ..self };
        }
        if self.left == 0 && mutant == Some(Mutant::PublishedReadAfter) {
            self.counters = (disk.published, disk.sets_changed);
        }
        self.done(view)
    }
}
