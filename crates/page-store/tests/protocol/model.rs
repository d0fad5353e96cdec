//! The checker's view: which steps are possible in a state, and what each leads to.

use stateright::{Model, Property};

use crate::disk::{Content, Disk, Journal, KEYS, SLOTS, Set};
use crate::follow::{Followed, View};
use crate::mutants::Mutant;
use crate::properties;
use crate::state::{AdoptStep, Call, OpenStep, Operation, Process, Promises, RotationStep, State, Step};

/// A small world, and what may happen in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) mutant: Option<Mutant>,
    /// Calls of each process, one after the other, each one of some. The first `writers` have a set of their own.
    pub(crate) scripts: Vec<Vec<Vec<Call>>>,
    pub(crate) writers: u8,
    /// What is done before anything else, one call after the other.
    pub(crate) setup: Vec<(usize, Call)>,
    /// Processes that are killed after the setup, and never come back.
    pub(crate) dead: Vec<usize>,
    /// Generations that each process may begin, at any time.
    pub(crate) rotations: Vec<u8>,
    /// Kills, of any process at any time.
    pub(crate) kills: u8,
    /// Whether another process opens the store in place of one that was killed.
    pub(crate) reopens: bool,
    /// Appends that fail halfway.
    pub(crate) failures: u8,
    /// Snapshots may turn out bad.
    pub(crate) bad_snapshots: bool,
    /// Appends take two steps, of which the first leaves half a record at the end.
    pub(crate) slow_appends: bool,
    /// A look takes the other sets in any order; otherwise one after the other.
    pub(crate) any_order: bool,
    /// A set gets a second segment before it evicts.
    pub(crate) grows: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Call(usize, Call),
    /// Reads on in the files of a set.
    Look(usize, usize),
    Step(usize),
    /// The append fails after its records were written.
    Fail(usize),
    Rotate(usize),
    RotationStep(usize),
    /// The snapshot is written, and can't be read back.
    BadSnapshot(usize),
    Kill(usize),
    Open(usize),
}

impl World {
    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    fn fresh(&self) -> State {
        let processes = self.scripts.len();
        let writers = usize::from(self.writers);
        let disk = Disk {
            sets: (0..self.writers)
                .map(|set| Set {
                    there: true,
                    owner: Some(set),
                    segments: vec![(0, set)],
                    journals: vec![Journal { header: true, ..Journal::default() }],
                    snapshots: Vec::new(),
                })
                .collect(),
            files: vec![[Content::Nothing; SLOTS as usize]; writers],
            ..Disk::default()
        };
        let process = |number: usize| {
            let own = (number < writers).then_some(number as u8);
            let mut view = View { sets: vec![Followed::default(); writers], seen: None };
            if let Some(own) = own {
                view.sets[usize::from(own)].begun = true;
            }
            Process {
                alive: true,
                own,
                generation: 0,
                next_segment: 1,
                view,
                operation: None,
                rotation: None,
                at: 0,
                rotations_left: self.rotations.get(number).copied().unwrap_or(0),
            }
        };
        State {
            disk,
            processes: (0..processes).map(process).collect(),
            promises: Promises { keys: vec![0], ..Promises::default() },
            kills_left: self.kills,
            failures_left: self.failures,
        }
    }

    /// Runs a process until its call is answered, always the first way that there is.
    fn run_through(&self, state: &mut State, process: usize) {
        while let Some(operation) = &state.processes[process].operation {
            match operation.look {
                Some(look) => self.look(state, process, look.left.trailing_zeros() as usize),
                None => self.step(state, process),
            }
        }
    }

    pub(crate) fn kill(&self, state: &mut State, process: usize) {
        for set in state.disk.sets.iter_mut().filter(|set| set.owner == Some(process as u8)) {
            set.owner = None;
        }
        let sets = state.disk.sets.len();
        let process = &mut state.processes[process];
        *process = Process {
            alive: false,
            own: None,
            generation: 0,
            next_segment: 0,
            view: View { sets: vec![Followed::default(); sets], seen: None },
            operation: None,
            rotation: None,
            at: process.at,
            rotations_left: process.rotations_left,
        };
    }

    fn operation_actions(&self, state: &State, number: usize, actions: &mut Vec<Action>) {
        let process = &state.processes[number];
        let Some(operation) = &process.operation else { return };
        if let Some(look) = operation.look {
            let sets = (0..state.disk.sets.len()).filter(|set| look.left & (1 << set) != 0);
            let sets = sets.take(if self.any_order { usize::MAX } else { 1 });
            actions.extend(sets.map(|set| Action::Look(number, set)));
            return;
        }
        let waits = process.rotation.as_ref().is_some_and(|rotation| {
            rotation.holds_the_journal()
                && !(self.is(Mutant::SealAfterFirstRecord) && rotation.step == RotationStep::Seal)
        });
        if waits && operation.wants_the_journal() {
            return;
        }
        actions.push(Action::Step(number));
        if operation.appends() && state.failures_left > 0 {
            actions.push(Action::Fail(number));
        }
    }
}

impl Operation {
    /// Appends next.
    pub(crate) fn appends(&self) -> bool {
        matches!(self.step, Step::RetireAppend | Step::Append | Step::Adopt(AdoptStep::Append))
    }

    /// Has numbers and will append, or has to take something back: nobody else writes to the journal meanwhile.
    pub(crate) fn holds_the_journal(&self) -> bool {
        matches!(
            self.step,
            Step::RetireAppend
                | Step::Append
                | Step::TakeBack
                | Step::Open(OpenStep::Make | OpenStep::Header | OpenStep::Seal)
        ) || self.half
    }

    fn wants_the_journal(&self) -> bool {
        self.appends() || matches!(self.step, Step::RetireNumber | Step::Number)
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = self.fresh();
        for &(process, call) in &self.setup {
            self.call(&mut state, process, Some(call));
            self.run_through(&mut state, process);
        }
        for &process in &self.dead {
            self.kill(&mut state, process);
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.promises.wrong.is_some() {
            return;
        }
        for (number, process) in state.processes.iter().enumerate() {
            if !process.alive {
                if self.reopens && !self.dead.contains(&number) {
                    actions.push(Action::Open(number));
                }
                continue;
            }
            if process.operation.is_some() {
                self.operation_actions(state, number, actions);
            } else if let Some(calls) = self.scripts[number].get(usize::from(process.at)) {
                actions.extend(calls.iter().map(|call| Action::Call(number, *call)));
            }
            if process.rotation.is_some() {
                let held = process.operation.as_ref().is_some_and(|operation| operation.holds_the_journal());
                let looking = process.operation.as_ref().is_some_and(|operation| operation.look.is_some());
                self.rotation_actions(state, number, held, looking, actions);
            } else if process.rotations_left > 0
                && process.own.is_some()
                && !process
                    .operation
                    .as_ref()
                    .is_some_and(|operation| operation.holds_the_journal() || operation.call.is_none())
            {
                actions.push(Action::Rotate(number));
            }
            if state.kills_left > 0 && process.own.is_some() {
                actions.push(Action::Kill(number));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Call(process, call) => {
                state.processes[process].at += 1;
                self.call(&mut state, process, Some(call));
            }
            Action::Look(process, set) => self.look(&mut state, process, set),
            Action::Step(process) => self.step(&mut state, process),
            Action::Fail(process) => {
                state.failures_left -= 1;
                self.fail(&mut state, process);
            }
            Action::Rotate(process) => self.rotate(&mut state, process),
            Action::RotationStep(process) => self.rotation_step(&mut state, process, true),
            Action::BadSnapshot(process) => self.rotation_step(&mut state, process, false),
            Action::Kill(process) => {
                state.kills_left -= 1;
                self.kill(&mut state, process);
            }
            Action::Open(process) => {
                state.processes[process].alive = true;
                self.call(&mut state, process, None);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}

const _: () = assert!(KEYS <= 8);
