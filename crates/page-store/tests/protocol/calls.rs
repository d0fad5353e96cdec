//! Calls, step by step: store, load, delete, clear.

use crate::disk::{Content, Place, Put, Record, SLOTS, Version};
use crate::follow::Look;
use crate::model::World;
use crate::mutants::Mutant;
use crate::state::{AdoptStep, Call, OpenStep, Operation, Process, State, Step, Wrong};

/// How often a load looks again for a page that was there and could not be read.
const MOST_TRIES: u8 = 2;

impl World {
    /// Begins a call; `None` opens the store.
    pub(crate) fn call(&self, state: &mut State, number: usize, call: Option<Call>) {
        let promises = &mut state.promises;
        let mut operation = Operation {
            call,
            step: Step::Look,
            look: None,
            version: 0,
            records: Vec::new(),
            half: false,
            evicts: false,
            place: None,
            reading: None,
            tries: 0,
            dead_set: 0,
            stored_before: promises.stored,
            removed_before: promises.removed,
        };
        let others = || state.processes.iter().filter_map(|process| process.operation.as_ref());
        if let Some(call) = call {
            let removable = promises.removable(call);
            promises.leaving |= removable;
            promises.contested |= others().fold(0, |bits, other| bits | 1 << other.version) & removable;
        }
        if let Some(key) = call.and_then(Call::stores) {
            operation.version = promises.keys.len() as Version;
            promises.keys.push(key + 1);
            if others().filter_map(|other| other.call).any(|other| other.removes(key)) {
                promises.leaving |= 1 << operation.version;
                promises.contested |= 1 << operation.version;
            }
        }
        let process = &mut state.processes[number];
        let own = process.own();
        match call {
            None => operation.step = Step::Open(OpenStep::Lock),
            Some(Call::Adopt) => {
                let free = |(number, set): &(usize, &crate::disk::Set)| {
                    set.there && set.owner.is_none() && own != Some(*number)
                };
                let Some((dead, _)) = state.disk.sets.iter().enumerate().find(free) else { return };
                state.disk.sets[dead].owner = Some(number as u8);
                operation.dead_set = dead as u8;
                operation.step = Step::Adopt(AdoptStep::Look);
                operation.look = Look::begin(&state.disk, &mut process.view, own, true);
            }
            Some(_) => operation.look = Look::begin(&state.disk, &mut process.view, own, false),
        }
        let goes_on = operation.look.is_none();
        process.operation = Some(operation);
        if goes_on && call.is_some() {
            self.looked(state, number);
        }
    }

    /// Reads on in one of the other sets.
    pub(crate) fn look(&self, state: &mut State, number: usize, set: usize) {
        let State { disk, processes, .. } = state;
        let process = &mut processes[number];
        let own = process.own();
        let Some(operation) = &mut process.operation else { return };
        let Some(look) = operation.look else { return };
        operation.look = look.step(disk, &mut process.view, own, set, self.mutant);
        if operation.look.is_none() {
            self.looked(state, number);
        }
    }

    /// The look is at its end.
    fn looked(&self, state: &mut State, number: usize) {
        let Some(operation) = &state.processes[number].operation else { return };
        match operation.step {
            Step::Recheck => self.rechecked(state, number),
            Step::Adopt(_) => self.adopt_step(state, number),
            Step::Open(_) => self.open_step(state, number),
            _ => self.decide(state, number),
        }
    }

    /// Everything is known that can be: what is to be done?
    fn decide(&self, state: &mut State, number: usize) {
        let process = &state.processes[number];
        let Some(operation) = &process.operation else { return };
        let Some(call) = operation.call else { return };
        if let Call::Load(key) = call {
            return self.read_begin(state, number, key);
        }
        let Some(own) = process.own() else { return self.answer(state, number) };
        let own_puts = &process.view.sets[own].sum.puts;
        let retired = |put: &Put| Record::Retire { number: 0, key: put.key, place: put.place };
        let outdated: Vec<Put> =
            own_puts.iter().filter(|put| !process.view.is_visible(put)).copied().collect();
        if !outdated.is_empty() && !self.is(Mutant::ClearNotFollowed) {
            return begin_retirement(state, number, outdated.iter().map(retired).collect(), false);
        }
        let elsewhere = |key| {
            let others = process.view.sets.iter().enumerate().filter(|(set, _)| *set != own);
            let mut puts = others.flat_map(|(_, followed)| &followed.sum.puts);
            puts.any(|put| put.key == key && process.view.is_visible(put))
        };
        let own_put = |key| own_puts.iter().find(|put| put.key == key && process.view.is_visible(put));
        let (mut records, mut step) = (Vec::new(), Step::Number);
        match call {
            Call::Delete(key) => {
                records.extend(own_put(key).map(retired));
                records.extend(elsewhere(key).then_some(Record::Forget { number: 0, key }));
                if records.is_empty() {
                    return self.answer(state, number);
                }
            }
            Call::Clear => records.push(Record::Clear { number: 0 }),
            Call::Put(key) if own_put(key).is_some() || elsewhere(key) => {
                // It is there: nothing is stored, and nothing is promised of this version.
                if let Some(operation) = &mut state.processes[number].operation {
                    operation.version = 0;
                }
                return self.answer(state, number);
            }
            Call::Put(key) | Call::Overwrite(key) => {
                let segments = process.segments(state).len();
                if segments == 0 || (self.grows && segments == 1) {
                    return set_step(state, number, Step::Segment);
                }
                let place = match process.free_place(state) {
                    Some(place) => place,
                    None => {
                        let Some(victim) = own_puts.iter().min_by_key(|put| put.number).copied() else {
                            return;
                        };
                        let record = retired(&victim);
                        state.promises.leaving |= 1 << victim.version;
                        if !self.is(Mutant::ReuseBeforeRetire) {
                            return begin_retirement(state, number, vec![record], true);
                        }
                        records.push(record);
                        victim.place
                    }
                };
                let forget = call == Call::Overwrite(key)
                    && elsewhere(key)
                    && !self.is(Mutant::OverwriteWithoutForget);
                records.extend(forget.then_some(Record::Forget { number: 0, key }));
                records.push(Record::Put(Put { number: 0, key, version: operation.version, place }));
                step = Step::Half;
            }
            Call::Load(_) | Call::Adopt => {}
        }
        let Some(operation) = &mut state.processes[number].operation else { return };
        operation.place = records.iter().find_map(|record| match record {
            Record::Put(put) => Some(put.place),
            _ => None,
        });
        operation.records = records;
        operation.step = step;
    }

    /// One step of a call that is not looking.
    pub(crate) fn step(&self, state: &mut State, number: usize) {
        let Some(operation) = &state.processes[number].operation else { return };
        let first = self.is(Mutant::PutBeforeWhole) && operation.place.is_some();
        if operation.appends() && self.slow_appends && !operation.half {
            return self.append_half(state, number);
        }
        match operation.step {
            Step::RetireNumber => self.take_numbers(state, number, Step::RetireAppend),
            Step::RetireAppend => {
                let evicts = operation.evicts;
                self.append(state, number);
                if evicts { self.decide(state, number) } else { set_step(state, number, Step::RetireRaise) }
            }
            Step::RetireRaise => {
                state.disk.published += 1;
                self.decide(state, number);
            }
            Step::Segment => {
                let file = state.disk.files.len() as u8;
                let process = &mut state.processes[number];
                let Some(own) = process.own() else { return };
                state.disk.sets[own].segments.push((process.next_segment, file));
                state.disk.files.push([Content::Nothing; SLOTS as usize]);
                process.next_segment += 1;
                self.decide(state, number);
            }
            Step::Half => {
                write(state, number, Content::Half);
                set_step(state, number, if first { Step::Number } else { Step::Whole });
            }
            Step::Whole => {
                write(state, number, Content::Page(operation.version));
                set_step(state, number, if first { Step::Raise } else { Step::Number });
            }
            Step::Number => self.take_numbers(state, number, Step::Append),
            Step::Append => {
                self.append(state, number);
                set_step(state, number, if first { Step::Whole } else { Step::Raise });
            }
            Step::TakeBack => self.take_back(state, number),
            Step::Raise => {
                if self.is(Mutant::NumberAfterAppend) {
                    state.disk.sequence += operation.records.len() as u8;
                }
                if !self.is(Mutant::PublishedBeforeAppend) {
                    state.disk.published += 1;
                }
                match operation.call {
                    Some(Call::Clear) => set_step(state, number, Step::Cut),
                    _ => self.answer(state, number),
                }
            }
            Step::Cut => {
                let segments = state.processes[number].segments(state);
                for (_, file) in &segments {
                    state.disk.files[usize::from(*file)] = [Content::Nothing; SLOTS as usize];
                }
                if let Some(own) = state.processes[number].own() {
                    state.disk.sets[own].segments.clear();
                }
                self.answer(state, number);
            }
            Step::ReadEnd => self.read_end(state, number),
            Step::Adopt(_) => self.adopt_step(state, number),
            Step::Open(_) => self.open_step(state, number),
            Step::Look | Step::Recheck => {}
        }
    }

    fn take_numbers(&self, state: &mut State, number: usize, next: Step) {
        let Some(operation) = &mut state.processes[number].operation else { return };
        let first = state.disk.sequence + 1;
        for (number, record) in (first..).zip(&mut operation.records) {
            *record = record.numbered(number);
        }
        operation.step = next;
        if !self.is(Mutant::NumberAfterAppend) || next == Step::RetireAppend {
            state.disk.sequence += operation.records.len() as u8;
        }
        if self.is(Mutant::PublishedBeforeAppend) {
            state.disk.published += 1;
        }
    }

    /// The records of a call are on their way into the journal: all but the last are there, and half of that one.
    fn append_half(&self, state: &mut State, number: usize) {
        let process = &mut state.processes[number];
        let (Some(own), Some(operation)) = (process.own.map(usize::from), &mut process.operation) else {
            return;
        };
        let Some(journal) = state.disk.sets[own].journal_mut(process.generation) else { return };
        if let Some((_, whole)) = operation.records.split_last() {
            journal.records.extend(whole);
            journal.records.push(Record::Torn);
            operation.half = true;
        }
    }

    /// They are there, and in the index.
    pub(crate) fn append(&self, state: &mut State, number: usize) {
        let process = &mut state.processes[number];
        let (Some(own), Some(operation)) = (process.own.map(usize::from), &mut process.operation) else {
            return;
        };
        let Some(journal) = state.disk.sets[own].journal_mut(process.generation) else { return };
        if std::mem::take(&mut operation.half) {
            journal.records.pop();
            journal.records.extend(operation.records.last());
        } else {
            journal.records.extend(&operation.records);
        }
        for record in &operation.records {
            process.view.sets[own].sum.apply(*record);
        }
    }

    /// The append fails, after the records of this call were written and before some that came with them.
    pub(crate) fn fail(&self, state: &mut State, number: usize) {
        let process = &mut state.processes[number];
        let (Some(own), Some(operation)) = (process.own.map(usize::from), &mut process.operation) else {
            return;
        };
        let Some(journal) = state.disk.sets[own].journal_mut(process.generation) else { return };
        if !operation.half {
            journal.records.extend(&operation.records);
            journal.records.push(Record::Torn);
        }
        operation.step = Step::TakeBack;
    }

    /// Cuts what the failed append left; the call has failed.
    fn take_back(&self, state: &mut State, number: usize) {
        let process = &mut state.processes[number];
        let (Some(own), Some(operation)) = (process.own(), &process.operation) else { return };
        let written = operation.records.len() + usize::from(!operation.half);
        if let Some(journal) = state.disk.sets[own].journal_mut(process.generation) {
            journal.records.truncate(journal.records.len() - written);
        }
        process.operation = None;
        if !self.is(Mutant::TakenBackUnpublished) {
            state.disk.published += 1;
        }
    }

    fn read_begin(&self, state: &mut State, number: usize, key: u8) {
        let process = &mut state.processes[number];
        let own = process.own();
        let sets = process.view.sets.iter().enumerate();
        let mut candidates: Vec<(usize, Put)> = sets
            .flat_map(|(set, followed)| followed.sum.puts.iter().map(move |put| (set, *put)))
            .filter(|(_, put)| put.key == key && process.view.is_visible(put))
            .collect();
        candidates.sort_by_key(|(set, _)| (Some(*set) != own, *set));
        let found = candidates.iter().find_map(|(set, put)| {
            let file = state.disk.sets[*set].file(put.place.segment)?;
            Some((*set as u8, *put, file, state.disk.content(*set, put.place)?))
        });
        let Some(operation) = &mut process.operation else { return };
        if let Some(reading) = found {
            operation.reading = Some(reading);
            operation.step = Step::ReadEnd;
        } else if !candidates.is_empty() && operation.tries < MOST_TRIES {
            // A segment that is not there: it was given up, or it has moved to another set.
            operation.tries += 1;
            operation.look = Look::begin(&state.disk, &mut process.view, own, true);
            if operation.look.is_none() {
                self.answer(state, number);
            }
        } else {
            self.answer(state, number);
        }
    }

    fn read_end(&self, state: &mut State, number: usize) {
        let process = &mut state.processes[number];
        let own = process.own();
        let Some(operation) = &mut process.operation else { return };
        let Some((set, put, file, before)) = operation.reading else { return };
        let after = state.disk.files[usize::from(file)][usize::from(put.place.slot)];
        if before == after && after == Content::Page(put.version) {
            return self.answer(state, number);
        }
        if own == Some(usize::from(set)) || self.is(Mutant::NoChecksum) {
            state.promises.wrong = Some(Wrong::Bytes);
            return;
        }
        operation.step = Step::Recheck;
        let always = !self.is(Mutant::RecheckTrustsPublished);
        operation.look = Look::begin(&state.disk, &mut process.view, own, always);
        if operation.look.is_none() {
            self.rechecked(state, number);
        }
    }

    fn rechecked(&self, state: &mut State, number: usize) {
        let process = &mut state.processes[number];
        let Some(operation) = &mut process.operation else { return };
        let Some((set, put, ..)) = operation.reading.take() else { return };
        if process.view.sets[usize::from(set)].sum.puts.contains(&put) && process.view.is_visible(&put) {
            state.promises.wrong = Some(Wrong::Corrupt);
            return;
        }
        // It was replaced, or it moved to another set, while it was read.
        operation.step = Step::Look;
        let Some(Call::Load(key)) = operation.call else { return };
        operation.tries += 1;
        if operation.tries > MOST_TRIES || self.is(Mutant::MovedPageIsAMiss) {
            return self.answer(state, number);
        }
        self.read_begin(state, number, key);
    }

    /// The call is answered: what was promised by that?
    pub(crate) fn answer(&self, state: &mut State, number: usize) {
        let Some(operation) = state.processes[number].operation.take() else { return };
        let promises = &mut state.promises;
        let Some(call) = operation.call else { return };
        if operation.version != 0 {
            promises.stored |= 1 << operation.version;
        }
        promises.removed |= promises.removable(call) & operation.stored_before;
        if let Call::Load(key) = call {
            let missed = promises.of_key(key) & operation.stored_before & !promises.leaving;
            match operation.reading {
                Some((_, put, ..)) if operation.removed_before & (1 << put.version) != 0 => {
                    promises.wrong = Some(Wrong::Removed);
                }
                None if missed != 0 => promises.wrong = Some(Wrong::Missed),
                _ => {}
            }
        }
    }
}

impl Process {
    fn segments(&self, state: &State) -> Vec<(u8, u8)> {
        self.own().map(|own| state.disk.sets[own].segments.clone()).unwrap_or_default()
    }

    fn free_place(&self, state: &State) -> Option<Place> {
        let own = self.own()?;
        let taken = |place: &Place| self.view.sets[own].sum.puts.iter().any(|put| put.place == *place);
        let segments = state.disk.sets[own].segments.iter();
        let places = segments.flat_map(|&(segment, _)| (0..SLOTS).map(move |slot| Place { segment, slot }));
        places.into_iter().find(|place| !taken(place))
    }
}

fn begin_retirement(state: &mut State, number: usize, records: Vec<Record>, evicts: bool) {
    if let Some(operation) = &mut state.processes[number].operation {
        operation.records = records;
        operation.evicts = evicts;
        operation.step = Step::RetireNumber;
    }
}

pub(crate) fn set_step(state: &mut State, number: usize, step: Step) {
    if let Some(operation) = &mut state.processes[number].operation {
        operation.step = step;
    }
}

fn write(state: &mut State, number: usize, content: Content) {
    let process = &state.processes[number];
    let Some((own, place)) =
        process.own().zip(process.operation.as_ref().and_then(|operation| operation.place))
    else {
        return;
    };
    if let Some(file) = state.disk.sets[own].file(place.segment) {
        state.disk.files[usize::from(file)][usize::from(place.slot)] = content;
    }
}
