//! What must hold in every state.

use stateright::Property;

use crate::disk::{Content, Disk, Put, Sum, is_visible};
use crate::follow::{Look, View};
use crate::model::World;
use crate::state::{Call, Process, State, Step, Wrong};

pub(crate) const RIGHT_BYTES: &str = "a page is answered with its own bytes or not at all";
pub(crate) const NO_FALSE_ALARM: &str = "nothing is called corrupt that is not";
pub(crate) const REMOVED_STAYS: &str = "what was removed is not found again";
pub(crate) const STORED_FOUND: &str = "what was stored is found";
pub(crate) const INDEX_FITS: &str = "every page that a journal names is in its slot";
pub(crate) const FOLLOWERS_ARRIVE: &str = "who looks finds what is there";

pub(crate) fn all() -> Vec<Property<World>> {
    vec![
        Property::always(RIGHT_BYTES, |_, state: &State| state.promises.wrong != Some(Wrong::Bytes)),
        Property::always(NO_FALSE_ALARM, |_, state: &State| state.promises.wrong != Some(Wrong::Corrupt)),
        Property::always(REMOVED_STAYS, |_, state: &State| {
            let removed = state.promises.removed;
            state.promises.wrong != Some(Wrong::Removed)
                && (removed == 0 || found(&state.disk) & removed == 0)
        }),
        Property::always(STORED_FOUND, |_, state: &State| {
            let due = state.promises.stored & !state.promises.leaving;
            state.promises.wrong != Some(Wrong::Missed) && (due == 0 || due & !found(&state.disk) == 0)
        }),
        Property::always(INDEX_FITS, |_, state: &State| index_fits(&state.disk)),
        Property::always(FOLLOWERS_ARRIVE, followers_arrive),
    ]
}

/// The versions that a process finds which opens the store now.
fn found(disk: &Disk) -> u32 {
    let sums: Vec<Sum> = disk.sets.iter().map(|set| set.replay()).collect();
    let sums: Vec<&Sum> = sums.iter().collect();
    bits(disk, &sums)
}

fn bits(disk: &Disk, sums: &[&Sum]) -> u32 {
    let mut bits = 0;
    for (set, sum) in sums.iter().enumerate() {
        for put in &sum.puts {
            if is_visible(sums.iter().copied(), put) && disk.content(set, put.place).is_some() {
                bits |= 1 << put.version;
            }
        }
    }
    bits
}

/// Who is killed now leaves an index that can be trusted without a checksum: no slot is written while a record that
/// counts names it.
fn index_fits(disk: &Disk) -> bool {
    let fits = |set: usize, put: &Put| {
        disk.content(set, put.place).is_none_or(|content| content == Content::Page(put.version))
    };
    disk.sets.iter().enumerate().all(|(set, files)| files.replay().puts.iter().all(|put| fits(set, put)))
}

/// Steps that a look may take alone.
const STEPS: usize = 40;

/// Every process that could look now would find what one finds that opens the store now; and whoever sees that
/// nothing was published since its last look, and is right, finds it without looking.
fn followers_arrive(world: &World, state: &State) -> bool {
    let mut expected = None;
    // What a process did not publish before it was killed, whoever continues its set does.
    let quiet = state.processes.iter().enumerate().all(|(number, process)| {
        process.operation.is_none()
            && process.rotation.is_none()
            && (process.alive || world.dead.contains(&number))
    });
    state.processes.iter().filter(|process| process.alive).all(|process| {
        let looking = match &process.operation {
            None => None,
            Some(operation) => match (operation.call, operation.step) {
                (Some(Call::Load(_)), Step::Look) => operation.look,
                _ => return true,
            },
        };
        let expected = *expected.get_or_insert_with(|| found(&state.disk));
        let mut view = process.view.clone();
        if let Some(look) = looking
            && !run(world, state, process, &mut view, Some(look))
        {
            return false;
        }
        let look = Look::begin(&state.disk, &mut view, process.own(), !quiet);
        run(world, state, process, &mut view, look)
            && (bits(&state.disk, &view.sums().collect::<Vec<_>>()) ^ expected) & !state.promises.contested
                == 0
    })
}

/// Ends a look alone. Answers whether it came to its end.
fn run(world: &World, state: &State, process: &Process, view: &mut View, mut look: Option<Look>) -> bool {
    for _ in 0..STEPS {
        let Some(now) = look else { return true };
        let set = now.left.trailing_zeros() as usize;
        look = now.step(&state.disk, view, process.own(), set, world.mutant);
    }
    false
}
