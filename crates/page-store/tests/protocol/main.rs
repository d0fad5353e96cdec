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

fn check(world: World, name: &str) {
    let begin = std::time::Instant::now();
    let checker = world.checker().spawn_bfs().join();
    println!("{name}: {} states, depth {}, {:?}", checker.unique_state_count(), checker.max_depth(), begin.elapsed());
    for (property, path) in checker.discoveries() {
        println!("{property}:");
        let last = path.last_state().clone();
        for action in path.into_actions() { println!("  {action:?}"); }
        println!("{last:#?}");
    }
    checker.assert_properties();
}

#[test]
fn reuse() {
    check(World {
        scripts: vec![vec![vec![Put(0)], vec![Put(1)], vec![Overwrite(0)], vec![Delete(1)]], vec![vec![Load(0), Load(1)]]],
        writers: 1,
        ..World::default()
    }, "reuse");
    let _ = (Adopt, Clear);
}
