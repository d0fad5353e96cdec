//! Sets of processes that are gone: continued by who opens the store, adopted by who needs their room.

use crate::calls::set_step;
use crate::disk::{Journal, Place, Put, Record, Sum};
use crate::follow::{Followed, Look};
use crate::model::World;
use crate::mutants::Mutant;
use crate::state::{AdoptStep, OpenStep, Rotation, RotationStep, State, Step};

impl World {
    /// What happens in each step, in the order of the protocol.
    fn adoption(&self) -> [AdoptStep; 6] {
        use AdoptStep::{Append, Raise, RaiseAgain, RemoveJournals, RemoveSet, Rename};
        match self.mutant {
            Some(Mutant::RenameBeforePuts) => [Rename, Append, Raise, RaiseAgain, RemoveJournals, RemoveSet],
            Some(Mutant::RemoveBeforePuts) => [Rename, RemoveJournals, RemoveSet, Append, Raise, RaiseAgain],
            _ => [Append, Raise, Rename, RaiseAgain, RemoveJournals, RemoveSet],
        }
    }

    pub(crate) fn adopt_step(&self, state: &mut State, number: usize) {
        let State { disk, processes, .. } = state;
        let process = &mut processes[number];
        let Some(own) = process.own() else { return };
        let Some(operation) = &mut process.operation else { return };
        let Step::Adopt(step) = operation.step else { return };
        let dead = usize::from(operation.dead_set);
        let order = self.adoption();
        match step {
            // The set is ours: what was read of it now is all that it will ever say.
            AdoptStep::Look => return self.plan_segment(state, number),
            AdoptStep::Append => self.append(state, number),
            AdoptStep::Raise => disk.published += 1,
            AdoptStep::Rename => {
                if !disk.sets[dead].segments.is_empty() {
                    let (_, file) = disk.sets[dead].segments.remove(0);
                    disk.sets[own].segments.push((process.next_segment, file));
                    process.next_segment += 1;
                }
            }
            AdoptStep::RaiseAgain => {
                disk.published += 1;
                if !disk.sets[dead].segments.is_empty() {
                    return self.plan_segment(state, number);
                }
            }
            AdoptStep::RemoveJournals => disk.sets[dead].journals.clear(),
            AdoptStep::RemoveSet => {
                disk.sets[dead] = Default::default();
                process.view.sets[dead] = Followed::default();
                disk.sets_changed += 1;
            }
        }
        let at = order.iter().position(|other| *other == step);
        match at.and_then(|at| order.get(at + 1)) {
            Some(next) => set_step(state, number, Step::Adopt(*next)),
            None => self.answer(state, number),
        }
    }

    /// What is to be written down about the next segment of the dead set.
    fn plan_segment(&self, state: &mut State, number: usize) {
        let State { disk, processes, promises, .. } = state;
        let process = &mut processes[number];
        let (Some(own), Some(operation)) = (process.own.map(usize::from), &mut process.operation) else {
            return;
        };
        let dead = usize::from(operation.dead_set);
        let (view, segment) = (&process.view, process.next_segment);
        let theirs = &view.sets[dead].sum;
        let next = disk.sets[dead].segments.first().map(|(segment, _)| *segment);
        let there = theirs.puts.iter().filter(|put| Some(put.place.segment) == next);
        let have = |put: &Put| view.sets[own].sum.puts.iter().any(|own| own.key == put.key);
        let (skipped, wanted): (Vec<&Put>, Vec<&Put>) = there.partition(|put| have(put));
        promises.leaving |= skipped.iter().fold(0, |bits, put| bits | 1 << put.version);
        let wanted = wanted.into_iter().filter(|put| view.is_visible(put) || self.is(Mutant::AdoptInvisible));
        let moved = |put: &Put| Record::Put(Put { place: Place { segment, slot: put.place.slot }, ..*put });
        let words = carried(theirs).filter(|_| !self.is(Mutant::AdoptWithoutForgets));
        operation.records = words.chain(wanted.map(moved)).collect();
        operation.step = Step::Adopt(self.adoption()[0]);
    }

    pub(crate) fn open_step(&self, state: &mut State, number: usize) {
        let State { disk, processes, .. } = state;
        let process = &mut processes[number];
        let Some(operation) = &mut process.operation else { return };
        let Step::Open(step) = operation.step else { return };
        if step == OpenStep::Lock {
            let free = |set: &crate::disk::Set| set.there && set.owner.is_none();
            process.own = disk.sets.iter().position(free).map(|set| set as u8);
        }
        let Some(own) = process.own.map(usize::from) else {
            // A reader.
            process.operation = None;
            return;
        };
        let files = &mut disk.sets[own];
        operation.step = Step::Open(match step {
            OpenStep::Lock => {
                files.owner = Some(number as u8);
                process.view.sets[own] = Followed { begun: true, sum: files.replay(), ..Followed::default() };
                process.next_segment = files.unused_segment(!self.is(Mutant::SegmentNumberAgain));
                operation.look = Look::begin(disk, &mut process.view, Some(own), true);
                operation.step = Step::Open(OpenStep::Look);
                if operation.look.is_none() {
                    self.open_step(state, number);
                }
                return;
            }
            OpenStep::Look => {
                let last = files.journals.last();
                let torn = last
                    .is_none_or(|last| !last.header || last.sealed() || last.records.contains(&Record::Torn));
                let open_ends = files.journals.iter().rev().skip(1).any(|journal| !journal.sealed());
                process.generation = files.highest();
                if !torn && (!open_ends || self.is(Mutant::ContinueHeedsLastOnly)) {
                    // Its writer may have been killed before it did this.
                    disk.published += u8::from(!self.is(Mutant::ContinueUnpublished));
                    process.operation = None;
                    return;
                }
                if let Some(last) = files.journals.last_mut() {
                    let whole = last.records.iter().rposition(|record| *record != Record::Torn);
                    last.records.truncate(whole.map_or(0, |last| last + 1));
                }
                process.generation += 1;
                OpenStep::Make
            }
            OpenStep::Make => {
                files.journals.push(Journal { generation: process.generation, ..Journal::default() });
                OpenStep::Header
            }
            OpenStep::Header => {
                if let Some(journal) = files.journal_mut(process.generation) {
                    journal.header = true;
                }
                OpenStep::Seal
            }
            OpenStep::Seal => {
                let next = process.generation;
                let unsealed = |journal: &&mut Journal| journal.generation < next && !journal.sealed();
                let seals = !self.is(Mutant::ContinueWithoutSealing);
                match files.journals.iter_mut().find(unsealed).filter(|_| seals) {
                    Some(journal) => {
                        journal.records.push(Record::Seal { next });
                        OpenStep::Seal
                    }
                    None => OpenStep::Raise,
                }
            }
            OpenStep::Raise => {
                disk.published += 1;
                process.rotation = Some(Rotation {
                    step: RotationStep::Capture(0),
                    next: process.generation,
                    captured: Sum::default(),
                });
                process.operation = None;
                return;
            }
        });
    }
}

/// What a dead writer said about pages of others, with its old numbers.
fn carried(sum: &Sum) -> impl Iterator<Item = Record> {
    let forgets = (0..).zip(sum.forgets).filter(|(_, number)| *number > 0);
    let forgets = forgets.map(|(key, number)| Record::Forget { number, key });
    let clear = (sum.clear > 0).then_some(Record::Clear { number: sum.clear });
    forgets.chain(clear)
}
