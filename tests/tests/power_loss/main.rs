//! The power fails: what was not synced reached the disk in any order, or not at all. A workload is recorded, call by
//! call; then the disk is put together as a power failure at a random moment may have left it, again and again, and
//! the store in it is opened.
//!
//! `cargo test --package hicache-tests --test power_loss -- power rounds=1000` takes more images: arguments of the
//! form `name=value` that match no test are read here.

mod check;
mod disk;
mod history;
mod image;
mod pages;
mod record;
mod recorder;
mod strace;
mod workload;

use std::path::{Path, PathBuf};

use check::{Tally, check};
use hicache_tests::{argument, say};
use history::History;
use image::{Cut, below};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use recorder::{DISK, Note, Recording, record};
use workload::Plan;

/// Images a test, and of one recording. Longer rounds: `rounds=1000`.
const IMAGES: u64 = 75;
const IMAGES_OF_ONE: u64 = 25;

fn number(name: &str, usual: u64) -> u64 {
    argument(name)
        .map_or(usual, |value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}

/// Not on the disk, if that can be: thousands of images are synced.
fn temporary() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir()
        && let Ok(directory) = tempfile::tempdir_in(memory)
    {
        return directory;
    }
    tempfile::tempdir().unwrap()
}

/// A recording, and what was known when it began.
struct Run {
    plan: Plan,
    recording: Recording,
    before: History,
}

impl Run {
    fn new(plan: Plan, directory: &Path, before: History) -> Option<Self> {
        let child =
            ["--exact", "the_workload", "--ignored", "--test-threads=1", "--quiet"].map(str::to_owned);
        let place = format!("directory={}", directory.display());
        let arguments: Vec<String> = child.into_iter().chain(plan.arguments()).chain([place]).collect();
        // Syncs of this machine are too fast for much to happen meanwhile.
        let slow_us = [0, 1000, 3000][(plan.seed % 3) as usize];
        let recording = record(directory, &arguments, slow_us)?;
        let (files, directories) = recording.syncs;
        say(&format!(
            "{plan:?}: {} calls, {} notes, {files} syncs of files, {directories} of directories",
            recording.lines,
            recording.notes.len()
        ));
        Some(Self { plan, recording, before })
    }

    fn history(&self, cut: usize) -> History {
        let mut history = self.before.clone();
        for (_, note) in self.recording.notes.iter().filter(|&&(begun, _)| begun < cut) {
            history.apply(note);
        }
        history
    }

    fn cut(&self, random: &mut ChaCha8Rng) -> Cut {
        let done = |note: &Note| matches!(note, Note::Said(line) if line.starts_with("done"));
        let notes = self.recording.notes.iter();
        let mut answered: Vec<usize> =
            notes.filter(|(_, note)| done(note)).map(|&(begun, _)| begun).collect();
        answered.dedup();
        Cut::random(random, self.recording.lines + 1, &answered, self.plan.group)
    }
}

/// What the images of a plan come to.
fn images(plan: Plan, verify: bool) -> Option<Tally> {
    let images = number("rounds", IMAGES);
    let first_seed = number("seed", plan.seed);
    let mut tally = Tally::default();
    let mut run: Option<Run> = None;
    let mut problems = 0;
    for image in 0..images {
        let seed = first_seed * 1_000_000 + image;
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        if image % IMAGES_OF_ONE == 0 {
            let seed = first_seed + image / IMAGES_OF_ONE;
            run = Some(next_run(Plan { seed, ..plan }, run.take(), &mut random)?);
        }
        let run = run.as_ref().expect("made at the first image");
        let cut = run.cut(&mut random);
        let directory = temporary();
        let root = directory.path().join(DISK);
        std::fs::create_dir(&root).unwrap();
        image::write(&run.recording.disk, cut, &mut random, &root);
        let wrong = block_on(check(&root, plan, verify, &run.history(cut.at), &mut tally));
        if !wrong.is_empty() {
            problems += 1;
            if problems <= number("shown", 3) {
                let kept = keep(run, cut, seed);
                say(&format!(
                    "image {image}, seed {seed}, {cut:?}, before the store opened it: {}",
                    kept.display()
                ));
                wrong.iter().take(8).for_each(|problem| say(&format!("  {problem}")));
            }
        }
    }
    say(&format!("{tally:?}"));
    assert_eq!(problems, 0, "of {images} images so many are not right");
    Some(tally)
}

/// The next recording. Every other one goes on from what a power failure left of the one before.
fn next_run(plan: Plan, last: Option<Run>, random: &mut ChaCha8Rng) -> Option<Run> {
    let directory = temporary();
    let Some(last) = last.filter(|_| below(random, 2) == 0) else {
        return Run::new(plan, directory.path(), History::new());
    };
    let root = directory.path().join(DISK);
    std::fs::create_dir(&root).unwrap();
    let cut = last.cut(random);
    image::write(&last.recording.disk, cut, random, &root);
    let mut before = last.history(cut.at);
    before.restart();
    let first_version = last.plan.first_version + 100_000;
    Run::new(Plan { first_version, ..plan }, directory.path(), before)
}

/// The image once more, to be looked at.
fn keep(run: &Run, cut: Cut, seed: u64) -> PathBuf {
    let directory = tempfile::Builder::new().prefix("power-loss-").tempdir().unwrap().keep();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let _ = run.cut(&mut random);
    image::write(&run.recording.disk, cut, &mut random, &directory);
    directory
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
}

#[test]
fn power_fails_without_durability() {
    let plan = Plan { seed: 1, group: false, tight: true, first_version: 1 };
    let Some(tally) = images(plan, true) else { return };
    assert!(tally.found > 0 && tally.absent > 0 && tally.corrupt > 0, "the images show nothing: {tally:?}");
}

#[test]
fn power_fails_with_group_durability() {
    let plan = Plan { seed: 1001, group: true, tight: true, first_version: 1 };
    let Some(tally) = images(plan, true) else { return };
    assert!(tally.answered > 0 && tally.absent > 0, "the images show nothing: {tally:?}");
}

/// Where nothing is evicted or deleted, data are on the disk before their records even if nobody compares checksums.
#[test]
fn power_fails_with_group_durability_and_no_checksums() {
    let plan = Plan { seed: 2001, group: true, tight: false, first_version: 1 };
    let Some(tally) = images(plan, false) else { return };
    assert!(tally.answered > 0 && tally.wrong == 0, "the images show nothing: {tally:?}");
}

#[test]
#[ignore = "a part of the others, which run it under the recorder"]
fn the_workload() {
    let Some(plan) = Plan::of_this_process() else { return };
    let directory = argument("directory").expect("a plan comes with a directory");
    block_on(workload::run(plan, Path::new(&directory)));
}
