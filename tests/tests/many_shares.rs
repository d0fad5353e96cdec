//! How models and ranks share the space of one root: by the hits that each of them gets.

use std::path::Path;

use hicache_cli::workload::{Request, Summary, Synthetic, SyntheticConfig, TraceReader, summarize};
use hicache_tests::actor::ActorArguments;
use hicache_tests::ground::Watch;
use hicache_tests::process::Actor;
use hicache_tests::{number, say, trace};
use serde_json::Value;

/// A page with its metadata.
const BYTES_A_PAGE: u64 = 4096 + 256;
/// What a set takes before its first page.
const BYTES_A_SET: u64 = 192 << 10;
/// The made-up workload: 2,000 requests of so many conversations at once that with room for a fifth of its pages it has
/// 11,200 hits, with half of that room 6,900, and with all 14,600.
const SYNTHETIC: &str = "replay seed=1 conversations=200";

fn capacity(pages: u64) -> u64 {
    pages * BYTES_A_PAGE + BYTES_A_SET
}

fn synthetic() -> Summary {
    let config = SyntheticConfig { conversations: 200, ..SyntheticConfig::default() };
    let requests: Vec<Request> = Synthetic::new(config).unwrap().collect();
    summarize(&requests)
}

fn fifth_of_synthetic() -> u64 {
    synthetic().unique_pages / 5
}

fn arguments(root: &Path, namespace: &str, capacity: u64) -> ActorArguments {
    ActorArguments { capacity: Some(capacity), ..ActorArguments::new(root, namespace) }
}

/// Hits of a replay in which nothing went wrong.
fn hits(replayed: &Value) -> u64 {
    assert_eq!(number(replayed, "failed") + number(replayed, "corrupt"), 0, "{replayed}");
    number(replayed, "hit_pages")
}

/// Hits of a model that has a root of its own.
fn alone(capacity: u64, command: &str) -> u64 {
    let directory = tempfile::tempdir().unwrap();
    let mut actor = Actor::start(&arguments(directory.path(), "Y", capacity));
    let hits = hits(&actor.ask(command));
    assert!(actor.stat("evicted_pages") > 1000, "with so much room the hits say nothing");
    actor.end();
    hits
}

fn after_another(killed: bool) {
    let capacity = capacity(fifth_of_synthetic());
    let alone = alone(capacity, SYNTHETIC);
    let directory = tempfile::tempdir().unwrap();
    let mut x = Actor::start(&arguments(directory.path(), "X", capacity));
    let filled = x.ask("fill 0");
    if killed {
        drop(x.kill())
    } else {
        x.end()
    }
    let watch = Watch::new(directory.path(), capacity);
    let mut y = Actor::start(&arguments(directory.path(), "Y", capacity));
    let hits = hits(&y.ask(SYNTHETIC));
    say(&format!(
        "after X filled the root with {} pages and {}: {hits} hits, {alone} on an empty root",
        number(&filled, "pages"),
        if killed { "was killed" } else { "ended" },
    ));
    assert!(hits * 1000 >= alone * 995, "{hits} hits, {alone} on an empty root");
    y.end();
    watch.end();
}

#[test]
fn a_model_has_the_space_of_one_that_ended() {
    after_another(false);
}

#[test]
fn a_model_has_the_space_of_one_that_was_killed() {
    after_another(true);
}

/// One writer fills everything before the other comes; the other then has 80 % of the hits of its fair share.
fn beside_a_greedy_one(goes_on: bool) {
    let capacity = 2 * capacity(fifth_of_synthetic());
    // At the pace of a server rather than of a loop: a share is given back within seconds, not within one.
    let command = format!("{SYNTHETIC} pause_us=3000");
    let alone = alone(capacity / 2, &command);
    let directory = tempfile::tempdir().unwrap();
    let mut greedy = Actor::start(&arguments(directory.path(), "X", capacity));
    greedy.ask("fill 0");
    let watch = Watch::new(directory.path(), capacity);
    if goes_on {
        greedy.tell("replay seed=7 for_ever=1 pause_us=1000");
    }
    let mut other = Actor::start(&arguments(directory.path(), "Y", capacity));
    let replayed = other.ask(&command);
    // Until the share comes there is room for nothing; nothing else may go wrong.
    assert_eq!(number(&replayed, "corrupt"), 0, "{replayed}");
    let errors = replayed["errors"].as_object().into_iter().flatten();
    assert!(errors.clone().all(|(error, _)| error.ends_with("[no-space]")), "{replayed}");
    let refused = number(&replayed, "failed");
    let hits = number(&replayed, "hit_pages");
    let pages = other.stat("pages");
    say(&format!(
        "beside a greedy writer that {}: {hits} hits, {alone} alone with half the capacity; {pages} pages at the end; \
         {refused} were refused before the share came",
        if goes_on { "goes on" } else { "is idle" },
    ));
    assert!(hits * 100 >= alone * 80, "{hits} hits, {alone} alone with half the capacity");
    if goes_on {
        greedy.tell("nothing");
        assert_eq!(number(&greedy.answer(), "corrupt"), 0);
        greedy.answer();
    }
    // Neither is starved: the greedy one still has about its half.
    let left = greedy.stat("pages");
    assert!(left * 100 >= fifth_of_synthetic() * 75, "{left} pages are left to the greedy writer");
    other.end();
    greedy.end();
    watch.end();
}

#[test]
fn a_greedy_writer_that_goes_on_gives_the_other_its_share() {
    beside_a_greedy_one(true);
}

#[test]
fn a_greedy_writer_that_is_idle_gives_the_other_its_share() {
    beside_a_greedy_one(false);
}

/// The recorded requests where they are, else made-up ones: how they are asked for, and what they are.
fn recorded() -> (String, Summary) {
    const REQUESTS: usize = 3000;
    let Some(path) = trace() else { return (SYNTHETIC.to_owned(), synthetic()) };
    let requests: Vec<Request> =
        TraceReader::open(&path).unwrap().take(REQUESTS).map(Result::unwrap).collect();
    (format!("replay trace={} requests={REQUESTS}", path.display()), summarize(&requests))
}

/// Two ranks of one model, each with a fifth of its pages. What both have is nearly what one has: a request that finds
/// its prefix in one rank only must be computed all the same.
#[test]
fn two_ranks_keep_the_same_prefixes() {
    let (command, workload) = recorded();
    let each = capacity(workload.unique_pages / 5);
    let alone = alone(each, &command);
    for (round, pause_us) in [0, 2000].into_iter().enumerate() {
        let directory = tempfile::tempdir().unwrap();
        let watch = Watch::new(directory.path(), 2 * each);
        let mut ranks = [0, 1].map(|rank| {
            let arguments = arguments(directory.path(), "Y", 2 * each);
            let seed = 10 * round as u64 + u64::from(rank);
            Actor::start(&ActorArguments { rank: Some(rank), seed, ..arguments })
        });
        for (number, rank) in ranks.iter_mut().enumerate() {
            // Each at its own random speed.
            rank.tell(&format!("{command} pause_us={}", pause_us * (1 + number)));
        }
        let replayed = ranks.each_mut().map(Actor::answer);
        let [one, other] = replayed.each_ref().map(|replayed| {
            hits(replayed);
            replayed["hits"].as_array().unwrap().iter().map(|hits| hits.as_u64().unwrap())
        });
        let common: u64 = one.zip(other).map(|(one, other)| one.min(other)).sum();
        let [first, second] = replayed.each_ref().map(hits);
        say(&format!(
            "{} pages, {} different, {} hits possible: two ranks have {common} hits in common ({first} and {second}); one \
             alone with half the capacity {alone}",
            workload.pages, workload.unique_pages, workload.hit_pages
        ));
        assert!(common * 100 >= alone * 97, "{common} common hits, one alone has {alone}");
        ranks.into_iter().for_each(Actor::end);
        watch.end();
    }
}
