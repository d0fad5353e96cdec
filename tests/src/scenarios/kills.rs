//! Processes that work at random on one root, any of them killed at any instant.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::dice::Dice;
use crate::actor::{ActorArguments, EngineKind, Role};
use crate::ground::{Watch, present, sets, verify};
use crate::process::Actor;
use crate::{number, say};

/// Of which model.
const NAMESPACES: [&str; 2] = ["N", "M"];
/// Between two looks at everything.
const ROUNDS_A_CENSUS: u64 = 20;
/// Keys with a history, of each namespace.
const KEYS: u64 = 1024;

/// Who works on the root, and with how much room.
#[derive(Clone, Copy, Debug)]
pub struct Kills {
    /// How often some of them are killed.
    pub rounds: u64,
    /// Start of the random numbers.
    pub seed: u64,
    /// Writers of namespace N.
    pub writers: u64,
    /// Readers of namespace N.
    pub readers: u64,
    /// Limit on what is under the root.
    pub capacity: u64,
    /// Whether that is room for everything: then nothing that was answered may be missing.
    pub ample: bool,
}

/// A place in the cast: what a process is started with, and the process.
struct Part {
    arguments: ActorArguments,
    actor: Option<Actor>,
}

impl Kills {
    /// Plays it, and panics at the first thing that is not as it must be.
    pub fn play(self) {
        say(&format!("{self:?}"));
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (root, aside) = (directory.path().join("root"), directory.path().join("aside"));
        std::fs::create_dir_all(&aside).expect("a directory");
        let mut dice = Dice::new(self.seed);
        let mut cast = self.cast(&root, &aside);
        for part in &mut cast {
            part.actor = Some(Actor::start(&part.arguments));
            work(part, &mut dice);
        }
        let watch = Watch::new(&root, self.capacity);
        let mut killed = 0;
        for round in 1..=self.rounds {
            std::thread::sleep(Duration::from_micros(dice.below(250_000)));
            killed += self.kill_some(&mut cast, &mut dice);
            no_findings(&aside, round);
            if round % ROUNDS_A_CENSUS == 0 {
                self.census(&mut cast);
                cast.iter_mut().for_each(|part| work(part, &mut dice));
            }
        }
        self.census(&mut cast);
        say(&format!("{killed} kills in {} rounds", self.rounds));
        self.the_end(cast, &root, &aside);
        watch.end();
    }

    fn cast(&self, root: &Path, aside: &Path) -> Vec<Part> {
        let one = |namespace: &str, role, owner: Option<u64>, owners, engine| {
            let mut arguments = ActorArguments::new(root, namespace);
            arguments.role = role;
            arguments.capacity = Some(self.capacity);
            arguments.segment_bytes = 256 << 10;
            arguments.engine = engine;
            arguments.history = Some(history(aside, namespace));
            arguments.findings = Some(findings(aside));
            (arguments.keys, arguments.owners, arguments.owner) = (KEYS, owners, owner);
            arguments.may_lose = !self.ample;
            Part { arguments, actor: None }
        };
        let engine =
            |number: u64| if number.is_multiple_of(2) { EngineKind::Pread } else { EngineKind::Uring };
        let mut cast = Vec::new();
        for owner in 0..self.writers {
            cast.push(one("N", Role::Writer, Some(owner), self.writers, engine(owner)));
        }
        for number in 0..self.readers {
            cast.push(one("N", Role::Reader, None, self.writers, engine(number)));
        }
        cast.push(one("M", Role::Writer, Some(0), 1, EngineKind::Uring));
        cast
    }

    /// Kills some, at once or one after another, and starts them again; now and then one dies while it opens.
    fn kill_some(&self, cast: &mut [Part], dice: &mut Dice) -> u64 {
        let first = dice.below(cast.len() as u64) as usize;
        let all = dice.one_in(10);
        let mut killed = 0;
        for (number, part) in cast.iter_mut().enumerate() {
            if number == first || all || dice.one_in(4) {
                part.actor.take().expect("it was started").kill();
                killed += 1;
            }
        }
        let gone = cast.iter_mut().filter(|part| part.actor.is_none());
        let launched: Vec<(&mut Part, Actor)> = gone
            .map(|part| {
                if dice.one_in(5) {
                    let opening = Actor::launch(&part.arguments);
                    std::thread::sleep(Duration::from_micros(dice.below(20_000)));
                    opening.kill();
                    killed += 1;
                }
                let actor = Actor::launch(&part.arguments);
                (part, actor)
            })
            .collect();
        for (part, actor) in launched {
            let opened = actor.opened();
            part.actor = Some(opened.unwrap_or_else(|error| panic!("a store does not open: {error}")));
            work(part, dice);
        }
        killed
    }

    /// Stops all, and lets each load everything: those of one namespace see the same.
    fn census(&self, cast: &mut [Part]) {
        for actor in cast.iter_mut().filter_map(|part| part.actor.as_mut()) {
            actor.tell("nothing");
            let worked = actor.answer();
            actor.answer();
            self.judge(&worked);
        }
        for namespace in NAMESPACES {
            let of = cast.iter_mut().filter(|part| part.arguments.namespace == namespace);
            let seen: Vec<Value> =
                of.filter_map(|part| part.actor.as_mut()).map(|actor| actor.ask("census")).collect();
            for other in &seen[1..] {
                self.same(&seen[0], other);
            }
        }
    }

    fn judge(&self, worked: &Value) {
        for kind in ["loads", "changes"] {
            let (failed, corrupt) = (number(&worked[kind], "failed"), number(&worked[kind], "corrupt"));
            assert!(failed == 0 || !self.ample, "{worked}");
            assert_eq!(corrupt, 0, "{worked}");
            let missed = number(&worked[kind], "missed_for_a_moment");
            if missed > 0 {
                say(&format!("{missed} pages were missed for a moment"));
            }
        }
    }

    /// Two processes that see one namespace, nothing going on: what both hold they hold in the same version, and where
    /// nothing is evicted they hold the same. Of shared keys two copies may have been stored at the same moment.
    fn same(&self, one: &Value, other: &Value) {
        let differ = |(a, b): &(&Value, &Value)| a != b && (self.ample || **a != -1 && **b != -1);
        let list = |census: &Value, field: &str| census[field].as_array().cloned().unwrap_or_default();
        let (a, b) = (list(one, "owned"), list(other, "owned"));
        let different: Vec<_> =
            a.iter().zip(&b).enumerate().filter(|(_, pair)| differ(pair)).take(5).collect();
        assert!(different.is_empty(), "two processes see different pages: {different:?}");
        if self.ample {
            let (a, b) = (list(one, "shared"), list(other, "shared"));
            let there = |pages: &[Value]| pages.iter().map(|version| *version != -1).collect::<Vec<_>>();
            assert_eq!(there(&a), there(&b), "two processes see different shared pages");
        }
    }

    /// All end. Then one alone sees what they saw, in one set, and can have all the space.
    fn the_end(&self, mut cast: Vec<Part>, root: &Path, aside: &Path) {
        let mut arguments = Vec::new();
        let mut last: Vec<(String, Value)> = Vec::new();
        for part in &mut cast {
            let mut actor = part.actor.take().expect("it was started");
            last.push((part.arguments.namespace.clone(), actor.ask("census")));
            arguments.push(part.arguments.clone());
            // Half of them never get to close.
            if last.len().is_multiple_of(2) { drop(actor.kill()) } else { actor.end() }
        }
        say(&format!("{:?}", sets(root).values().map(Vec::len).collect::<Vec<_>>()));
        let mut good = 0;
        for namespace in NAMESPACES {
            let of = |(name, _): &&(String, Value)| name == namespace;
            let writer = arguments.iter().find(|one| one.namespace == namespace).expect("it has a writer");
            let mut alone = Actor::start(writer);
            let census = alone.ask("census");
            for (_, seen) in last.iter().filter(of) {
                self.same(seen, &census);
            }
            good += present(&census);
            alone.end();
        }
        for (namespace, sets) in sets(root) {
            assert_eq!(sets.len(), 1, "{namespace:?} has {sets:?}");
        }
        let verified = verify(root);
        say(&format!("{good} pages were seen by one process alone, {verified} verified"));
        assert!(verified >= good as u64, "{verified} pages are right, {good} were seen");
        no_findings(aside, self.rounds);
        self.all_the_space(&arguments[0]);
    }

    /// The space of the dead comes back: one writer can use the whole capacity.
    fn all_the_space(&self, writer: &ActorArguments) {
        let mut alone = Actor::start(writer);
        let filled = alone.ask("fill 0");
        let (pages, bytes) = (number(&filled, "pages"), writer.page_bytes as u64);
        let fit = self.capacity / (bytes + 256);
        say(&format!("one writer alone holds {pages} pages; the capacity is {fit}"));
        assert_eq!(number(&filled, "failed"), 0, "{filled}");
        assert!(pages * 100 >= fit * 85, "only {pages} pages of {fit}");
        alone.end();
    }
}

fn history(aside: &Path, namespace: &str) -> PathBuf {
    aside.join(format!("history-{namespace}"))
}

fn findings(aside: &Path) -> PathBuf {
    aside.join("findings")
}

fn no_findings(aside: &Path, round: u64) {
    let found = std::fs::read_to_string(findings(aside)).unwrap_or_default();
    assert!(found.is_empty(), "round {round}:\n{found}");
}

/// Random work until it is told otherwise.
fn work(part: &mut Part, dice: &mut Dice) {
    let actor = part.actor.as_mut().expect("it was started");
    actor.tell(&format!("random 3600 {} 2", dice.below(u64::MAX)));
}
