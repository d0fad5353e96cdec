//! Processes on one root are killed at any instant: 0 wrong bytes, 0 stores that don't open, nothing stale, nothing
//! that was answered lost, and the space of the dead comes back. More rounds: `cargo xtask soak kills --rounds 200`.

use hicache_tests::scenarios::kills::Kills;

/// Each alone in its namespace: what holds without processes knowing of each other.
#[test]
fn lone_writers_of_two_namespaces() {
    Kills { rounds: 10, seed: 1, writers: 1, readers: 0, capacity: 64 << 20, ample: true }.play();
}

/// Two writers of one namespace, one of another, and a reader; nothing that was answered may be missing.
#[test]
fn writers_and_readers_with_room_for_everything() {
    Kills { rounds: 10, seed: 2, writers: 2, readers: 1, capacity: 64 << 20, ample: true }.play();
}

/// The same cast in so little room that they take it from each other and from the dead all the time.
#[test]
fn writers_and_readers_while_evicting() {
    Kills { rounds: 10, seed: 3, writers: 2, readers: 1, capacity: 6 << 20, ample: false }.play();
}
