//! Four processes on one root: writers A and B of namespace N, writer C of namespace M, reader R of N. What one is
//! answered, the others know at their next call.

use hicache_tests::actor::{ActorArguments, EngineKind, Role};
use hicache_tests::ground::{Watch, slots_and_pages};
use hicache_tests::number;
use hicache_tests::process::Actor;
use serde_json::Value;
use std::path::Path;

const CAPACITY: u64 = 24 << 20;

fn arguments(root: &Path, namespace: &str) -> ActorArguments {
    ActorArguments { capacity: Some(CAPACITY), ..ActorArguments::new(root, namespace) }
}

/// Versions that a load found; -1 for a page that is not there.
fn versions(actor: &mut Actor, from: u64, to: u64) -> Vec<i64> {
    let answer = actor.ask(&format!("load {from} {to}"));
    assert_eq!(number(&answer, "failed") + number(&answer, "corrupt"), 0, "{answer}");
    answer["versions"].as_array().unwrap().iter().map(|version| version.as_i64().unwrap()).collect()
}

fn done(answer: &Value) -> u64 {
    assert_eq!(number(answer, "failed"), 0, "{answer}");
    number(answer, "done")
}

struct Four {
    a: Actor,
    b: Actor,
    c: Actor,
    r: Actor,
    watch: Watch,
    directory: tempfile::TempDir,
}

impl Four {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (n, m) = (arguments(directory.path(), "N"), arguments(directory.path(), "M"));
        let a = Actor::start(&n);
        let r = Actor::start(&ActorArguments { role: Role::Reader, ..n.clone() });
        let b = Actor::start(&ActorArguments { engine: EngineKind::Uring, ..n });
        let c = Actor::start(&m);
        Self { a, b, c, r, watch: Watch::new(directory.path(), CAPACITY), directory }
    }

    /// What the three of namespace N see of these pages: the same.
    fn seen(&mut self, from: u64, to: u64) -> Vec<i64> {
        let seen = versions(&mut self.r, from, to);
        assert_eq!(versions(&mut self.b, from, to), seen, "B and R differ");
        assert_eq!(versions(&mut self.a, from, to), seen, "A and R differ");
        for actor in [&mut self.a, &mut self.b, &mut self.r] {
            let there = number(&actor.ask(&format!("exists {from} {to}")), "there");
            assert_eq!(there, seen.iter().filter(|version| **version != -1).count() as u64);
        }
        seen
    }

    fn end(self) {
        for actor in [self.a, self.b, self.c, self.r] {
            actor.end();
        }
        self.watch.end();
    }
}

#[test]
fn what_one_publishes_the_others_see() {
    let mut four = Four::new();
    assert_eq!(done(&four.a.ask("store 0 100 1")), 100);
    assert_eq!(versions(&mut four.r, 0, 100), [1; 100]);
    assert_eq!(versions(&mut four.b, 0, 100), [1; 100]);
    assert_eq!(done(&four.b.ask("store 100 200 2")), 100);
    assert_eq!(four.seen(0, 201), [&[1; 100][..], &[2; 100], &[-1]].concat());
    assert_eq!(versions(&mut four.c, 0, 200), [-1; 200]);
    assert_eq!((four.a.stat("pages"), four.a.stat("foreign_pages")), (100, 100));
    assert_eq!((four.r.stat("pages"), four.r.stat("foreign_pages")), (0, 200));
    assert_eq!(four.r.stat("foreign_hit_pages"), 300);
    for actor in [&mut four.a, &mut four.b, &mut four.r] {
        assert_eq!(number(&actor.ask("list"), "different"), 200);
    }
    // One page at a time, at once: no answer is too early to be seen.
    for page in 1000..1300 {
        assert_eq!(done(&four.a.ask(&format!("store {page} {} 3", page + 1))), 1);
        let reader = if page % 2 == 0 { &mut four.r } else { &mut four.b };
        assert_eq!(versions(reader, page, page + 1), [3], "page {page}");
    }
    four.end();
}

#[test]
fn what_another_has_is_not_written_again() {
    let mut four = Four::new();
    assert_eq!(done(&four.a.ask("store 0 200 1")), 200);
    let (before, stored) = (four.b.stat("physical_bytes"), four.b.stat("stored_pages"));
    assert_eq!(done(&four.b.ask("store 0 200 2")), 200);
    assert_eq!((four.b.stat("stored_pages"), stored), (0, 0));
    assert_eq!(four.b.stat("present_pages"), 200);
    assert_eq!((four.b.stat("physical_bytes"), four.b.stat("written_bytes")), (before, 0));
    assert_eq!(four.seen(0, 200), [1; 200]);
    // The other namespace has its own pages under the same keys.
    assert_eq!(done(&four.c.ask("store 0 200 4")), 200);
    assert_eq!(four.c.stat("stored_pages"), 200);
    assert_eq!(four.seen(0, 200), [1; 200]);
    four.end();
}

#[test]
fn deletions_and_replacements_are_seen_wherever_the_page_is() {
    let mut four = Four::new();
    four.a.ask("store 0 100 1");
    four.b.ask("store 100 200 1");
    assert_eq!(four.seen(0, 200), [1; 200]);
    // A's own, and B's by A's hand.
    assert_eq!(done(&four.a.ask("delete 50 150")), 100);
    assert_eq!(four.seen(0, 200), [&[1; 50][..], &[-1; 100], &[1; 50]].concat());
    assert_eq!(number(&four.b.ask("delete 50 150"), "absent"), 100);
    assert_eq!(done(&four.a.ask("overwrite 0 200 2")), 200);
    assert_eq!(four.seen(0, 200), [2; 200]);
    for version in 3..23 {
        let writer = if version % 2 == 0 { &mut four.a } else { &mut four.b };
        assert_eq!(done(&writer.ask(&format!("overwrite 0 200 {version}"))), 200);
        assert_eq!(four.seen(0, 200), [version; 200]);
    }
    assert_eq!(done(&four.b.ask("delete 0 200")), 200);
    assert_eq!(four.seen(0, 200), [-1; 200]);
    assert_eq!(done(&four.a.ask("store 0 200 5")), 200);
    assert_eq!(four.seen(0, 200), [5; 200]);
    four.end();
}

#[test]
fn a_clear_takes_the_pages_of_all_sets_and_of_no_other_namespace() {
    let mut four = Four::new();
    four.a.ask("store 0 300 1");
    four.b.ask("store 300 600 1");
    four.c.ask("store 0 600 1");
    assert_eq!(four.seen(0, 600), [1; 600]);
    four.a.ask("clear");
    assert_eq!(four.seen(0, 600), [-1; 600]);
    assert_eq!(versions(&mut four.c, 0, 600), [1; 600]);
    assert_eq!(done(&four.b.ask("store 0 600 2")), 600);
    assert_eq!(four.seen(0, 600), [2; 600]);
    four.b.ask("clear");
    four.b.ask("store 0 1 3");
    assert_eq!(four.seen(0, 2), [3, -1]);
    assert_eq!(versions(&mut four.c, 0, 600), [1; 600]);
    four.end();
}

#[test]
fn a_reader_changes_nothing() {
    let mut four = Four::new();
    four.a.ask("store 0 10 1");
    for command in ["delete 0 10", "clear"] {
        let refused = four.r.try_ask(command);
        assert!(refused["error"].is_string(), "{command}: {refused}");
    }
    let refused = four.r.ask("store 10 20");
    assert_eq!((number(&refused, "failed"), number(&refused, "done")), (10, 0), "{refused}");
    assert_eq!(four.seen(0, 20), [&[1; 10][..], &[-1; 10]].concat());
    four.end();
}

/// Everybody stores far more than fits, side by side.
#[test]
fn the_capacity_holds_for_the_sum() {
    let mut four = Four::new();
    for round in 0..8 {
        for (number, actor) in [&mut four.a, &mut four.b, &mut four.c].into_iter().enumerate() {
            let first = (round * 3 + number as u64) * 1500;
            actor.tell(&format!("store {first} {}", first + 1500));
        }
        for actor in [&mut four.a, &mut four.b, &mut four.c] {
            assert_eq!(done(&actor.answer()), 1500);
        }
    }
    let (_, pages) = slots_and_pages(four.directory.path());
    assert!(pages * 4096 * 100 >= CAPACITY * 75, "only {pages} pages are left in {CAPACITY} bytes");
    four.end();
}

/// What holds without processes knowing of each other: each has its pages, and the sum is below the limit.
#[test]
fn the_capacity_holds_for_writers_of_two_namespaces() {
    let directory = tempfile::tempdir().unwrap();
    let mut actors = ["N", "M"].map(|name| Actor::start(&arguments(directory.path(), name)));
    let watch = Watch::new(directory.path(), CAPACITY);
    for round in 0..6 {
        let first = round * 1000;
        for actor in &mut actors {
            actor.tell(&format!("store {first} {} 1", first + 1000));
        }
        for actor in &mut actors {
            assert_eq!(done(&actor.answer()), 1000);
            assert_eq!(versions(actor, first, first + 1000), [1; 1000]);
        }
    }
    assert!(actors.iter_mut().map(|actor| actor.stat("evicted_pages")).sum::<u64>() > 1000);
    actors[0].ask("clear");
    assert_eq!(versions(&mut actors[1], 5000, 6000), [1; 1000]);
    actors.into_iter().for_each(Actor::end);
    watch.end();
}
