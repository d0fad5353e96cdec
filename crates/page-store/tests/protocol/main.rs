//! The protocol of docs/many-processes.md as a small model that a checker goes through.
mod calls;
mod disk;
mod follow;
mod generations;
mod model;
mod mutants;
mod properties;
mod state;
mod takeover;

use model::World;
use state::Call::{Adopt, Clear, Delete, Load, Overwrite, Put};
use stateright::{Checker, Model};

fn check(world: World, name: &str) -> Vec<&'static str> {
    let begin = std::time::Instant::now();
    let checker = world.checker().finish_when(stateright::HasDiscoveries::Any).spawn_bfs().join();
    let mut found: Vec<_> = checker.discoveries().into_iter().collect();
    found.sort_by_key(|(_, path)| path.clone().into_actions().len());
    println!("{name}: {} states, depth {}, {:?} FOUND {:?}", checker.unique_state_count(), checker.max_depth(), begin.elapsed(), found.iter().map(|f| f.0).collect::<Vec<_>>());
    for (property, path) in &found[..found.len().min(1)] {
        println!("{property}:");
        let last = path.last_state().clone();
        for action in path.clone().into_actions() { println!("  {action:?}"); }
        println!("disk {:?}", last.disk); println!("wrong {:?}", last.promises); properties::explain(checker.model(), &last);
    }
    found.into_iter().map(|f| f.0).collect()
}
mod worlds;
macro_rules! w { ($($n:ident),*) => { $(#[test] fn $n() { assert!(check(worlds::$n(), stringify!($n)).is_empty()); })* } }
mod all { use super::*; w!(reuse, rotation, two_writers, forgetting, continued, adopted, failing, adopted_again, adopted_forget, adopted_clear, killed); }

macro_rules! m { ($($m:ident $w:ident),*) => { $(#[test] #[allow(non_snake_case)] fn $m() { assert!(!check(World { mutant: Some(mutants::Mutant::$m), ..worlds::$w() }, concat!(stringify!($m), " ", stringify!($w))).is_empty()); })* } }
mod mutant { use super::*; m!(ReuseBeforeRetire reuse, PutBeforeWhole reuse, NumberAfterAppend killed, PublishedBeforeAppend two_writers, NoChecksum reuse, RecheckTrustsPublished reuse,
PublishedReadAfter two_writers, TornTailSkipped failing, TakenBackUnnoticed failing, GoneIsTheEnd rotation, RestartLooksOnce forgetting, GoneLooksOnce adopted, SealAfterFirstRecord rotation, SealBeforeNext rotation,
RemoveBeforeReadBack rotation, SnapshotWithoutForgets forgetting, SnapshotWithoutClear forgetting, OverwriteWithoutForget two_writers, ClearNotFollowed forgetting, RenameBeforePuts adopted, RemoveBeforePuts adopted,
AdoptInvisible adopted, AdoptWithoutForgets adopted_forget, ContinueWithoutSealing continued, ContinueHeedsLastOnly continued, SegmentNumberAgain adopted_again); }
