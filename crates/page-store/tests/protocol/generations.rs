//! Generations: the seal, the snapshot, and what it replaces.

use crate::disk::{Journal, Record, SLOTS, Snapshot, Sum};
use crate::follow::View;
use crate::model::{Action, World};
use crate::mutants::Mutant;
use crate::state::{Rotation, RotationStep, State};

impl World {
    pub(crate) fn rotation_actions(
        &self,
        state: &State,
        number: usize,
        held: bool,
        looking: bool,
        actions: &mut Vec<Action>,
    ) {
        let Some(rotation) = &state.processes[number].rotation else { return };
        let blocked = match rotation.step {
            RotationStep::Make | RotationStep::Header => held,
            RotationStep::Seal => held && !self.is(Mutant::SealAfterFirstRecord),
            // Memory is under one lock, and in the middle of a look it is not of one moment.
            RotationStep::Capture(_) => looking,
            _ => false,
        };
        if !blocked {
            actions.push(Action::RotationStep(number));
            if rotation.step == RotationStep::Rename && self.bad_snapshots {
                actions.push(Action::BadSnapshot(number));
            }
        }
    }

    pub(crate) fn rotate(&self, state: &mut State, number: usize) {
        let process = &mut state.processes[number];
        process.rotations_left -= 1;
        let step = if self.is(Mutant::SealBeforeNext) { RotationStep::Seal } else { RotationStep::Make };
        process.rotation = Some(Rotation { step, next: process.generation + 1, captured: Sum::default() });
    }

    pub(crate) fn rotation_step(&self, state: &mut State, number: usize, good: bool) {
        let process = &mut state.processes[number];
        let (Some(own), Some(rotation)) = (process.own(), &mut process.rotation) else { return };
        let files = &mut state.disk.sets[own];
        let next = rotation.next;
        let seal_first = self.is(Mutant::SealBeforeNext);
        rotation.step = match rotation.step {
            RotationStep::Make => {
                files.journals.push(Journal { generation: next, header: false, records: Vec::new() });
                RotationStep::Header
            }
            RotationStep::Header => {
                if let Some(journal) = files.journal_mut(next) {
                    journal.header = true;
                }
                if seal_first || self.is(Mutant::SealAfterFirstRecord) {
                    process.generation = next;
                }
                if seal_first { RotationStep::Raise } else { RotationStep::Seal }
            }
            RotationStep::Seal => {
                if let Some(journal) = files.journal_mut(next - 1) {
                    journal.records.push(Record::Seal { next });
                }
                if seal_first {
                    RotationStep::Make
                } else {
                    process.generation = next;
                    RotationStep::Raise
                }
            }
            RotationStep::Raise => {
                state.disk.published += 1;
                RotationStep::Capture(0)
            }
            RotationStep::Capture(slot) => {
                let sum = &process.view.sets[own].sum;
                let puts = sum.puts.iter().filter(|put| put.place.slot == slot);
                rotation.captured.puts.extend(puts);
                rotation.captured.puts.sort_by_key(|put| put.place);
                if slot + 1 < SLOTS {
                    RotationStep::Capture(slot + 1)
                } else {
                    let (forgets, clear) = self.kept(&process.view, own);
                    rotation.captured.forgets = forgets;
                    rotation.captured.clear = clear;
                    RotationStep::Rename
                }
            }
            RotationStep::Rename => {
                let sum = std::mem::take(&mut rotation.captured);
                files.snapshots.push(Snapshot { generation: next, good, sum });
                if self.is(Mutant::RemoveBeforeReadBack) {
                    RotationStep::RemoveJournals
                } else {
                    RotationStep::ReadBack
                }
            }
            RotationStep::ReadBack => {
                let whole = |snapshot: &Snapshot| snapshot.generation != next || snapshot.good;
                if !files.snapshots.iter().all(whole) {
                    files.snapshots.retain(whole);
                    process.rotation = None;
                    return;
                }
                RotationStep::RemoveJournals
            }
            RotationStep::RemoveJournals => {
                files.journals.retain(|journal| journal.generation >= next);
                RotationStep::RemoveSnapshots
            }
            RotationStep::RemoveSnapshots => {
                files.snapshots.retain(|snapshot| snapshot.generation >= next);
                process.rotation = None;
                return;
            }
        };
    }

    /// What the own set says about pages of others, as far as it still matters.
    fn kept(&self, view: &View, own: usize) -> ([u8; crate::disk::KEYS], u8) {
        let sum = &view.sets[own].sum;
        // The own pages count too: they may be outdated, and not retired yet.
        let only_others = self.is(Mutant::OwnPagesDontCount) || self.is(Mutant::AdoptInvisible);
        let holders = || {
            let sets = view.sets.iter().enumerate().filter(|(set, _)| !only_others || *set != own);
            sets.flat_map(|(_, followed)| &followed.sum.puts)
        };
        let mut forgets = sum.forgets;
        for (key, forget) in forgets.iter_mut().enumerate() {
            let matters = holders().any(|put| usize::from(put.key) == key && put.number < *forget);
            if !matters || self.is(Mutant::SnapshotWithoutForgets) {
                *forget = 0;
            }
        }
        let matters = holders().any(|put| put.number < sum.clear)
            && !self.is(Mutant::SnapshotWithoutClear)
            && !self.is(Mutant::ClearNotFollowed);
        (forgets, if matters { sum.clear } else { 0 })
    }
}
