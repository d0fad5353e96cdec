//! Small worlds. Each is gone through whole, and is the place where some mutants must be found.

use crate::model::World;
use crate::state::Call::{self, Adopt, Clear, Delete, Load, Overwrite, Put};

type Script = Vec<Vec<Call>>;

fn once(calls: &[Call]) -> Script {
    calls.iter().map(|call| vec![*call]).collect()
}

fn loads(times: usize) -> Script {
    vec![vec![Load(0)]; times]
}

/// One writer fills its slots and writes them again; a reader reads.
pub(crate) fn reuse() -> World {
    World {
        scripts: vec![
            vec![vec![Put(1), Overwrite(0)], vec![Overwrite(0), Delete(0)], vec![Put(1)]],
            loads(2),
        ],
        setup: vec![(0, Put(0))],
        writers: 1,
        ..World::default()
    }
}

/// One writer begins a generation, whose snapshot may be bad, while it stores; a reader follows.
pub(crate) fn rotation() -> World {
    World {
        scripts: vec![once(&[Overwrite(0), Delete(0)]), loads(1)],
        setup: vec![(0, Put(0))],
        writers: 1,
        rotations: vec![2],
        bad_snapshots: true,
        ..World::default()
    }
}

/// Two writers store, replace and delete one key; a reader reads it.
pub(crate) fn two_writers() -> World {
    World {
        scripts: vec![
            vec![vec![Overwrite(0), Delete(0), Clear], vec![Put(0)]],
            vec![vec![Overwrite(0), Delete(0), Clear], vec![Load(0)]],
        ],
        writers: 2,
        setup: vec![(0, Put(0))],
        ..World::default()
    }
}

/// A writer removes what another has, who retires it, and begins a generation meanwhile.
fn forgetting(word: Call) -> World {
    World {
        scripts: vec![once(&[Delete(1)]), once(&[word, Load(1)]), loads(1)],
        writers: 2,
        setup: vec![(0, Put(0))],
        rotations: vec![0, 1],
        ..World::default()
    }
}

pub(crate) fn forgotten() -> World {
    forgetting(Delete(0))
}

pub(crate) fn cleared() -> World {
    forgetting(Clear)
}

/// A page is stored at the moment of a clear, whose writer begins a generation.
pub(crate) fn contested() -> World {
    World {
        scripts: vec![once(&[Put(1)]), once(&[Clear]), loads(1)],
        writers: 2,
        rotations: vec![0, 1],
        ..World::default()
    }
}

/// Two writers store while a reader looks at one after the other.
pub(crate) fn publishing() -> World {
    World { scripts: vec![once(&[Put(0)]), once(&[Put(1)]), loads(2)], writers: 2, ..World::default() }
}

/// A writer is killed at any instant, and another process continues its set.
pub(crate) fn continued() -> World {
    World {
        scripts: vec![vec![vec![Overwrite(0), Delete(0)], vec![Put(1)]], loads(1)],
        setup: vec![(0, Put(0))],
        writers: 1,
        rotations: vec![1],
        kills: 1,
        slow_appends: true,
        reopens: true,
        ..World::default()
    }
}

/// A dead set is adopted by a writer who also deletes; a reader reads.
pub(crate) fn adopted() -> World {
    World {
        scripts: vec![vec![], vec![vec![Adopt, Delete(0)], vec![Adopt]], loads(1)],
        writers: 2,
        setup: vec![(0, Put(0)), (0, Put(1))],
        dead: vec![0],
        rotations: vec![0, 1],
        any_order: true,
        ..World::default()
    }
}

/// Appends fail halfway.
pub(crate) fn failing() -> World {
    World {
        scripts: vec![once(&[Overwrite(0)]), once(&[Overwrite(0)]), loads(1)],
        setup: vec![(0, Put(0))],
        writers: 2,
        failures: 1,
        slow_appends: true,
        ..World::default()
    }
}

/// The adopter is killed at any instant, and another process continues its set.
pub(crate) fn adopted_again() -> World {
    World {
        scripts: vec![vec![vec![Adopt], vec![Adopt, Put(1)]], vec![], loads(1)],
        writers: 2,
        setup: vec![(1, Put(0))],
        dead: vec![1],
        kills: 1,
        reopens: true,
        grows: true,
        ..World::default()
    }
}

/// The same where the dead set is the first to be continued, half adopted as it may be.
pub(crate) fn half_adopted() -> World {
    World {
        scripts: vec![vec![], vec![vec![Adopt], vec![Adopt, Put(1)]], loads(1)],
        setup: vec![(0, Put(0))],
        dead: vec![0],
        ..adopted_again()
    }
}

/// A page is removed by one writer while another adopts it.
pub(crate) fn adopted_meanwhile() -> World {
    World {
        scripts: vec![vec![], once(&[Adopt]), vec![vec![Delete(0), Clear], vec![Load(1)]]],
        writers: 3,
        setup: vec![(0, Put(0))],
        dead: vec![0],
        rotations: vec![0, 0, 1],
        any_order: true,
        ..World::default()
    }
}

/// A writer removes what another has; one of them is killed at any instant, and its set is continued.
pub(crate) fn forgotten_and_continued() -> World {
    World {
        scripts: vec![once(&[Delete(1)]), vec![vec![Delete(0), Clear]]],
        writers: 2,
        setup: vec![(0, Put(0))],
        rotations: vec![0, 1],
        kills: 1,
        reopens: true,
        ..World::default()
    }
}

/// The dead set has nothing but what its writer said about the page of another, who does not know it yet.
fn adopted_words(word: Call) -> World {
    World {
        scripts: vec![vec![vec![Load(1), Put(1)]], vec![], vec![vec![Adopt]], loads(1)],
        writers: 3,
        setup: vec![(0, Put(0)), (1, word)],
        dead: vec![1],
        ..World::default()
    }
}

/// A writer is killed and nobody comes in its place.
pub(crate) fn killed() -> World {
    World { scripts: vec![once(&[Clear]), once(&[Put(1)]), vec![]], writers: 2, kills: 1, ..World::default() }
}

pub(crate) fn adopted_forget() -> World {
    adopted_words(Delete(0))
}

pub(crate) fn adopted_clear() -> World {
    adopted_words(Clear)
}

/// The same, where the writer of that page is who adopts.
pub(crate) fn adopted_words_on_own() -> World {
    World {
        scripts: vec![once(&[Adopt]), vec![]],
        writers: 2,
        setup: vec![(0, Put(0)), (1, Delete(0))],
        dead: vec![1],
        rotations: vec![1],
        ..World::default()
    }
}

// Wider ones, for who has minutes.

/// Two writers do anything with one key, and begin generations; a reader reads it.
pub(crate) fn wide_writers() -> World {
    let anything = || vec![vec![Overwrite(0), Delete(0), Clear], vec![Put(0), Load(0)]];
    World {
        scripts: vec![anything(), anything(), loads(1)],
        writers: 2,
        setup: vec![(0, Put(0))],
        rotations: vec![0, 1],
        ..World::default()
    }
}

/// A writer stores, and is killed twice.
pub(crate) fn wide_continued() -> World {
    World {
        scripts: vec![vec![vec![Overwrite(0), Delete(0)]; 2], loads(1)],
        setup: vec![(0, Put(0)), (0, Put(1))],
        kills: 2,
        bad_snapshots: true,
        ..continued()
    }
}

/// An adopter is killed, while it begins a generation too.
pub(crate) fn wide_adopted() -> World {
    World {
        scripts: vec![vec![], vec![vec![Adopt, Delete(0)], vec![Adopt]], loads(1)],
        rotations: vec![0, 1],
        grows: false,
        any_order: true,
        ..half_adopted()
    }
}
