//! Everything at once for some time: random work, kills, clears, damage to the sets of the dead, a full disk, slow and
//! failing engines. Then the books are closed: every page is accounted for, and nothing has leaked.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::damage::Damage;
use super::dice::Dice;
use super::flat::Samples;
use super::medium::Medium;
use crate::actor::{ActorArguments, EngineKind, FaultKind, Role};
use crate::ground::{Watch, slots_and_pages, verify};
use crate::process::Actor;
use crate::{number, say};

/// Keys with a history, of each namespace.
const KEYS: u64 = 2048;
/// Limit on what is under the root; less than what all keys take.
const CAPACITY: u64 = 12 << 20;
/// What the medium has room for: a little more.
const MEDIUM: u64 = 16 << 20;

/// How long, and who.
#[derive(Clone, Copy, Debug)]
pub struct Mixed {
    /// For how long.
    pub seconds: u64,
    /// Start of the random numbers.
    pub seed: u64,
    /// Whether a namespace has two writers and a reader, or one process each.
    pub sharing: bool,
}

/// A process, and whether it may be killed.
struct Part {
    arguments: ActorArguments,
    actor: Option<Actor>,
    lasting: bool,
    samples: Samples,
}

/// What happened.
#[derive(Debug, Default)]
struct Happened {
    kills: u64,
    restarts: u64,
    full_disks: u64,
    refused_by_full_disk: u64,
    damage: Damage,
    steps: u64,
    loaded: u64,
    changed: u64,
    corrupt: u64,
    failed: u64,
}

impl Happened {
    fn add(&mut self, worked: &Value) {
        // An actor that had no work yet has answered something else.
        let Some(steps) = worked["steps"].as_u64() else { return };
        self.steps += steps;
        self.loaded += number(&worked["loads"], "done");
        self.changed += number(&worked["changes"], "done");
        self.corrupt += number(&worked["loads"], "corrupt");
        self.failed += number(&worked["loads"], "failed") + number(&worked["changes"], "failed");
    }
}

struct Play {
    medium: Medium,
    aside: tempfile::TempDir,
    dice: Dice,
    cast: Vec<Part>,
    happened: Happened,
}

impl Mixed {
    /// Plays it, and panics at the first thing that is not as it must be.
    pub fn play(self) {
        say(&format!("{self:?}"));
        let (medium, aside) = (Medium::new(MEDIUM), tempfile::tempdir().expect("a temporary directory"));
        let cast = self.cast(&medium.root(), aside.path());
        let mut play =
            Play { medium, aside, dice: Dice::new(self.seed), cast, happened: Happened::default() };
        play.cast.iter_mut().for_each(|part| part.actor = Some(Actor::start(&part.arguments)));
        play.work_all();
        let watch = Watch::new(&play.medium.root(), CAPACITY);
        let end = Instant::now() + Duration::from_secs(self.seconds);
        while Instant::now() < end {
            play.step();
        }
        play.books();
        watch.end();
    }

    fn cast(&self, root: &Path, aside: &Path) -> Vec<Part> {
        let one = |namespace: &str, role, owner, owners, lasting| {
            let mut arguments = ActorArguments::new(root, namespace);
            arguments.role = role;
            arguments.capacity = Some(CAPACITY);
            arguments.segment_bytes = 256 << 10;
            arguments.history = Some(aside.join(format!("history-{namespace}")));
            arguments.findings = Some(findings(aside));
            (arguments.keys, arguments.owners, arguments.owner) = (KEYS, owners, owner);
            arguments.may_lose = true;
            // The sets of namespace L are never dead, so never damaged.
            arguments.may_be_stale = namespace != "L";
            Part { arguments, actor: None, lasting, samples: Samples::default() }
        };
        let mut cast = vec![
            one("L", Role::Writer, Some(0), 1, true),
            one("M", Role::Writer, Some(0), 1, false),
            one("N", Role::Writer, Some(0), 1 + u64::from(self.sharing), false),
        ];
        if self.sharing {
            cast.push(one("N", Role::Writer, Some(1), 2, false));
            cast.push(one("N", Role::Reader, None, 2, true));
        }
        cast
    }
}

impl Play {
    /// Something happens.
    fn step(&mut self) {
        std::thread::sleep(Duration::from_micros(self.dice.below(300_000)));
        match self.dice.below(10) {
            0..6 => self.kill_and_restart(),
            6 => {
                self.medium.fill();
                self.happened.full_disks += u64::from(self.medium.is_full());
            }
            7 | 8 => self.medium.empty(),
            _ => self.end_and_restart(),
        }
        for part in self.cast.iter_mut().filter(|part| part.lasting) {
            part.samples.take(part.actor.as_ref().expect("it lasts"));
        }
        let found = std::fs::read_to_string(findings(self.aside.path())).unwrap_or_default();
        assert!(found.is_empty(), "{found}\n{:?}", self.happened);
    }

    fn kill_and_restart(&mut self) {
        let mortal: Vec<usize> = (0..self.cast.len()).filter(|&i| !self.cast[i].lasting).collect();
        let first = mortal[self.dice.below(mortal.len() as u64) as usize];
        for i in mortal {
            if i == first || self.dice.one_in(3) {
                self.cast[i].actor.take().expect("it was started").kill();
                self.happened.kills += 1;
            }
        }
        if self.dice.below(3) > 0 {
            self.happened.damage.strike(&self.medium.root(), &mut self.dice);
        }
        self.restart();
    }

    fn end_and_restart(&mut self) {
        self.medium.empty();
        let mortal: Vec<usize> = (0..self.cast.len()).filter(|&i| !self.cast[i].lasting).collect();
        let part = &mut self.cast[mortal[self.dice.below(mortal.len() as u64) as usize]];
        let mut actor = part.actor.take().expect("it was started");
        actor.tell("nothing");
        self.happened.add(&actor.answer());
        actor.answer();
        // What a failing engine has lost it may not have ended with.
        if part.arguments.faults == FaultKind::Failing {
            drop(actor.kill())
        } else {
            actor.end()
        }
        self.restart();
    }

    /// Starts those that are gone, with other engines and faults.
    fn restart(&mut self) {
        for part in self.cast.iter_mut().filter(|part| part.actor.is_none()) {
            let dice = &mut self.dice;
            part.arguments.engine = if dice.one_in(2) { EngineKind::Pread } else { EngineKind::Uring };
            part.arguments.synced = dice.one_in(4);
            part.arguments.seed = dice.below(u64::MAX);
            part.arguments.faults = match dice.below(6) {
                0 => FaultKind::Slow,
                1 => FaultKind::Failing,
                _ => FaultKind::None,
            };
            let opened = match Actor::launch(&part.arguments).opened() {
                Err(error) if self.medium.is_full() => {
                    assert!(error.contains("os error 28"), "a full disk is no reason for: {error}");
                    self.happened.refused_by_full_disk += 1;
                    self.medium.empty();
                    Actor::launch(&part.arguments).opened()
                }
                opened => opened,
            };
            let mut actor = opened.unwrap_or_else(|error| panic!("a store does not open: {error}"));
            work(&mut actor, dice);
            part.actor = Some(actor);
            self.happened.restarts += 1;
        }
    }

    fn work_all(&mut self) {
        for part in &mut self.cast {
            work(part.actor.as_mut().expect("it was started"), &mut self.dice);
        }
    }

    /// All end, and what is left is counted in every way there is.
    fn books(mut self) {
        self.medium.empty();
        for part in &mut self.cast {
            let mut actor = part.actor.take().expect("it was started");
            actor.tell("nothing");
            self.happened.add(&actor.answer());
            actor.answer();
            if part.lasting {
                part.samples.judge(&format!("{} of {}", role(part), part.arguments.namespace));
                // After a look at everything, with everybody else gone or idle.
                actor.ask("census");
                part.actor = Some(actor);
            } else {
                actor.kill();
            }
        }
        say(&format!("{:?}", self.happened));
        assert!(self.happened.loaded > 100 && self.happened.changed > 100, "nothing was done");
        self.no_open_files_left();
        self.pages_balance();
    }

    /// A process that has seen many others come and go holds as many files as one that has seen none.
    fn no_open_files_left(&mut self) {
        for part in self.cast.iter_mut().filter(|part| part.lasting) {
            let files = |mut actor: Actor| {
                actor.ask("census");
                // Segments of others are closed a second after their use.
                std::thread::sleep(Duration::from_millis(2500));
                let files = actor.holding().expect("it lives").files;
                actor.end();
                files
            };
            let old_files = files(part.actor.take().expect("it lasts"));
            let fresh_files = files(Actor::start(&part.arguments));
            say(&format!(
                "{} of {}: {old_files} open files, anew {fresh_files}",
                role(part),
                part.arguments.namespace
            ));
            assert!(old_files <= fresh_files + 8, "{old_files} open files, anew {fresh_files}");
        }
    }

    /// Pages that the store counts, lists, and that are right on the disk are the same; every slot has one when full.
    fn pages_balance(&mut self) {
        let mut counted = 0;
        let mut writer = None;
        for namespace in ["L", "M", "N"] {
            let of = |part: &&Part| part.arguments.namespace == namespace;
            let mut arguments = self.cast.iter().find(of).expect("it is in the cast").arguments.clone();
            arguments.faults = FaultKind::None;
            let mut actor = Actor::start(&arguments);
            // Damaged pages are found, and are gone from then on.
            actor.ask("census");
            let (pages, listed) = (actor.stat("pages"), number(&actor.ask("list"), "pages"));
            assert_eq!(pages, listed, "pages of {namespace} that are counted and listed");
            counted += pages;
            actor.end();
            writer = Some(arguments);
        }
        let root = self.medium.root();
        let (verified, (_, seen)) = (verify(&root), slots_and_pages(&root));
        say(&format!("{counted} pages are counted, {seen} on disk, {verified} right"));
        assert_eq!((counted, seen), (verified, verified));
        let mut actor = Actor::start(&writer.expect("there are writers"));
        actor.ask("clear");
        let filled = actor.ask("fill 0");
        assert_eq!(number(&filled, "failed"), 0, "{filled}");
        let pages = number(&filled, "pages");
        actor.end();
        let (slots, seen) = slots_of("N", &root);
        say(&format!("full: {pages} pages in {slots} slots"));
        assert_eq!((pages, pages), (seen, slots), "a slot is lost");
    }
}

fn slots_of(namespace: &str, root: &Path) -> (u64, u64) {
    let sets = hicache_page_store::inspect::sets(root).expect("the root is a store");
    let of = sets.iter().filter(|set| set.namespace.model == namespace).map(|set| set.stat());
    of.fold((0, 0), |(slots, pages), stat| (slots + stat.slots, pages + stat.pages))
}

fn role(part: &Part) -> &'static str {
    if part.arguments.role == Role::Reader { "reader" } else { "writer" }
}

fn findings(aside: &Path) -> PathBuf {
    aside.join("findings")
}

/// Random work until it is told otherwise.
fn work(actor: &mut Actor, dice: &mut Dice) {
    actor.tell(&format!("random 3600 {} 2", dice.below(u64::MAX)));
}
