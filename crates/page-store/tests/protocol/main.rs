//! The protocol of `docs/many-processes.md` as a model: small worlds of two or three processes that stateright goes
//! through whole, every order of every step, and mutants of the protocol in each of which it must find a fault.
//!
//! # What is modelled
//!
//! The files of each set (slots, journals, snapshots), the counters in the mapped page, and what each process has in
//! memory. A step is what happens in one instant as others see it: a number is taken, records are appended (in two
//! steps where a world says so, the first of which leaves half a record), `published` is raised, a slot is half and then
//! wholly written, one read of a journal, one end of a read of a slot, a file is made, sealed, renamed or removed. A
//! snapshot is taken slot by slot while records go on. Between any two steps a process may be killed; another
//! continues its set, adopts it, or nobody comes.
//!
//! Left out: bytes (a page is the number of its `store`), pools and names, sizes, room and its sharing, power loss,
//! damage. Number and record, a generation's beginning, and what a look has learned are under one lock of the process,
//! so a process does one call at a time here, beside its snapshot.
//!
//! # What must hold
//!
//! See `properties.rs`. A page without a checksum is trusted in the own set: after a kill at any instant the journals name
//! no slot that holds anything else. Promises are those of real time: what was answered before a call began is known
//! to that call.
//!
//! # What is accepted
//!
//! - Two stores of a key at the same moment may leave both pages, so neither of them must be found.
//! - A store at the same moment as a removal of the same key may be before or after it; and if the removal's record is
//!   dropped from a snapshot before the store's is written, who has read it misses the page for as long as it follows, while
//!   who comes later finds it. Such pages are `contested`: followers need not agree on them.
//! - A page that a killed process had not answered may be there or not.
//! - A load tries a page that moves while it is read three times; then it is a miss.

mod calls;
mod disk;
mod follow;
mod generations;
mod model;
mod mutants;
mod properties;
mod state;
mod takeover;
mod worlds;

use std::time::Instant;

use model::{Action, World};
use mutants::Mutant;
use stateright::{Checker, HasDiscoveries, Model};

/// A property that does not hold, and steps that lead there.
#[derive(Debug)]
struct Fault {
    property: &'static str,
    steps: Vec<Action>,
}

/// Goes through a world until a fault is found, or to its end. Says how large it is.
#[allow(clippy::print_stdout, reason = "sizes belong in the output of a test")]
fn explore(name: &str, world: World) -> Option<Fault> {
    let begin = Instant::now();
    let checker = world.checker().finish_when(HasDiscoveries::Any).spawn_bfs().join();
    println!("{name}: {} states, {} ms", checker.unique_state_count(), begin.elapsed().as_millis());
    let faults = checker.discoveries().into_iter();
    let faults = faults.map(|(property, path)| Fault { property, steps: path.into_actions() });
    faults.min_by_key(|fault| fault.steps.len())
}

macro_rules! holds {
    ($($world:ident),*; slow: $($slow:ident),* $(,)?) => {
        mod holds {
            $(holds!(test $world);)*
            $(holds!(test $slow #[ignore = "a long round"]);)*
        }
    };
    (test $world:ident $(#[$ignored:meta])?) => {
            #[test]
            $(#[$ignored])?
            fn $world() {
                if let Some(fault) = super::explore(stringify!($world), super::worlds::$world()) {
                    panic!("{}: {:#?}", fault.property, fault.steps);
                }
            }
    };
}

holds!(
    reuse,
    rotation,
    two_writers,
    publishing,
    forgotten,
    cleared,
    contested,
    failing,
    killed,
    continued,
    adopted,
    adopted_again,
    half_adopted,
    adopted_forget,
    adopted_clear,
    adopted_words_on_own,
    adopted_meanwhile,
    forgotten_and_continued;
    slow: wide_writers, wide_continued, wide_adopted,
);

/// In the world named, the checker must find that the mutant is wrong.
macro_rules! found {
    ($($name:ident: $mutant:ident in $world:ident),* $(,)?) => {
        mod found {
            $(#[test]
            fn $name() {
                let mutant = Some(super::Mutant::$mutant);
                let world = super::World { mutant, ..super::worlds::$world() };
                match super::explore(stringify!($name), world) {
                    Some(fault) => println!("  {}: {:?}", fault.property, fault.steps),
                    None => panic!("{:?} does no harm here", super::Mutant::$mutant),
                }
            })*
        }
    };
}

found!(
    reuse_before_retire: ReuseBeforeRetire in reuse,
    put_before_whole: PutBeforeWhole in reuse,
    no_checksum: NoChecksum in reuse,
    recheck_trusts_published: RecheckTrustsPublished in reuse,
    number_after_append: NumberAfterAppend in killed,
    published_before_append: PublishedBeforeAppend in two_writers,
    published_read_after: PublishedReadAfter in publishing,
    torn_tail_skipped: TornTailSkipped in failing,
    taken_back_unnoticed: TakenBackUnnoticed in failing,
    taken_back_unpublished: TakenBackUnpublished in failing,
    gone_is_the_end: GoneIsTheEnd in rotation,
    restart_looks_once: RestartLooksOnce in forgotten,
    gone_looks_once: GoneLooksOnce in adopted,
    gone_looks_once_then_forgets: GoneLooksOnce in adopted_meanwhile,
    seal_after_first_record: SealAfterFirstRecord in rotation,
    seal_before_next: SealBeforeNext in rotation,
    remove_before_read_back: RemoveBeforeReadBack in rotation,
    snapshot_without_forgets: SnapshotWithoutForgets in forgotten,
    snapshot_without_clear: SnapshotWithoutClear in cleared,
    own_pages_dont_count: OwnPagesDontCount in adopted_words_on_own,
    overwrite_without_forget: OverwriteWithoutForget in two_writers,
    clear_not_followed: ClearNotFollowed in cleared,
    rename_before_puts: RenameBeforePuts in adopted,
    remove_before_puts: RemoveBeforePuts in adopted,
    adopt_invisible: AdoptInvisible in adopted,
    adopt_without_forgets: AdoptWithoutForgets in adopted_forget,
    adopt_without_clear: AdoptWithoutForgets in adopted_clear,
    continue_without_sealing: ContinueWithoutSealing in continued,
    continue_heeds_last_only: ContinueHeedsLastOnly in continued,
    continue_unpublished: ContinueUnpublished in continued,
    segment_number_again: SegmentNumberAgain in adopted_again,
    moved_page_is_a_miss: MovedPageIsAMiss in half_adopted,
);
