//! Which layers of a load have arrived, so that a forward pass waits for a layer and not for the whole.
//!
//! Three sets rotate, since the next load is prepared while forward passes still wait for earlier ones. A set is used
//! again only when its load has ended and nobody waits for it any more. `tests/layer_done_model.rs` compiles this file
//! against loom's types, so it names them through `super::sync` only.

use super::sync::{Arc, Condvar, Duration, Mutex, lock, wait_for};

/// Loads that can be under way at once.
pub const LOAD_SETS: usize = 3;

/// What waiting for a layer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerWait {
    /// The layer has arrived, for every page of the load.
    Done,
    /// The load failed for some page: its pages must be computed.
    Failed,
    /// The layer has not arrived in time.
    TimedOut,
}

#[derive(Debug, Default)]
struct Set {
    /// Layers that have arrived, from the first.
    done: usize,
    failed: bool,
    /// The producer and the consumers that use it. At 0 it can be used again.
    users: usize,
    /// The least that anybody waits for, 0 if nobody does: a waiter is not woken for each layer before its own.
    wanted: usize,
}

/// A set, and whoever waits for it.
#[derive(Debug)]
struct Cell {
    set: Mutex<Set>,
    changed: Condvar,
    number: usize,
    layers: usize,
}

impl Cell {
    fn new(number: usize, layers: usize) -> Arc<Self> {
        Arc::new(Self { set: Mutex::new(Set::default()), changed: Condvar::new(), number, layers })
    }

    fn change(&self, change: impl FnOnce(&mut Set)) {
        let mut set = lock(&self.set);
        change(&mut set);
        if set.wanted > 0 && (set.failed || set.done >= set.wanted) {
            set.wanted = 0; // Whoever goes on waiting says so again.
            drop(set);
            self.changed.notify_all();
        }
    }
}

/// The rotating sets.
#[derive(Debug)]
pub struct LayerDone {
    layers: usize,
    sets: Mutex<Rotation>,
}

#[derive(Debug)]
struct Rotation {
    cells: [Arc<Cell>; LOAD_SETS],
    /// The set that was begun last.
    last: usize,
}

impl LayerDone {
    /// Sets for loads of `layers` layers.
    pub fn new(layers: usize) -> Self {
        let cells = std::array::from_fn(|number| Cell::new(number, layers));
        Self { layers, sets: Mutex::new(Rotation { cells, last: LOAD_SETS - 1 }) }
    }

    /// Takes the next set for a load: the end that counts, and one that waits. `None` while the set is still in use.
    pub fn begin(&self) -> Option<(LoadProducer, LoadWait)> {
        let mut sets = lock(&self.sets);
        let number = (sets.last + 1) % LOAD_SETS;
        let cell = Arc::clone(&sets.cells[number]);
        let mut set = lock(&cell.set);
        if set.users > 0 {
            return None;
        }
        *set = Set { users: 2, ..Set::default() };
        drop(set);
        sets.last = number;
        Some((LoadProducer(SetUser(Arc::clone(&cell))), LoadWait(SetUser(cell))))
    }

    /// Gives up on a load whose end will perhaps never come: it has failed for those who wait, and its place in the
    /// rotation is free.
    pub fn give_up(&self, wait: &LoadWait) {
        let cell = &wait.0.0;
        let mut sets = lock(&self.sets);
        if Arc::ptr_eq(&sets.cells[cell.number], cell) {
            sets.cells[cell.number] = Cell::new(cell.number, self.layers);
        }
        drop(sets);
        cell.change(|set| set.failed = true);
    }
}

/// One use of a set.
#[derive(Debug)]
struct SetUser(Arc<Cell>);

impl Drop for SetUser {
    fn drop(&mut self) {
        lock(&self.0.set).users -= 1;
    }
}

/// The end of the load: counts layers. Dropped before the last layer, the load has failed.
#[derive(Debug)]
pub struct LoadProducer(SetUser);

impl LoadProducer {
    /// One more layer has arrived; `whole` says whether for every page.
    pub fn layer_done(&self, whole: bool) {
        self.0.0.change(|set| {
            set.done += 1;
            set.failed |= !whole;
        });
    }
}

impl Drop for LoadProducer {
    fn drop(&mut self) {
        let cell = &self.0.0;
        cell.change(|set| set.failed |= set.done < cell.layers);
    }
}

/// The end of a forward pass: waits for layers. The set is not used again before this is dropped.
#[derive(Debug)]
pub struct LoadWait(SetUser);

impl Clone for LoadWait {
    fn clone(&self) -> Self {
        lock(&self.0.0.set).users += 1;
        Self(SetUser(Arc::clone(&self.0.0)))
    }
}

impl LoadWait {
    /// Blocks until `layer`, counted from 0, has arrived, for at most `timeout`.
    pub fn wait(&self, layer: usize, timeout: Duration) -> LayerWait {
        let cell = &self.0.0;
        let wanted = layer.saturating_add(1).min(cell.layers);
        let over = |set: &mut Set| {
            let over = set.failed || set.done >= wanted;
            if !over {
                set.wanted = if set.wanted == 0 { wanted } else { set.wanted.min(wanted) };
            }
            over
        };
        let set = wait_for(lock(&cell.set), &cell.changed, timeout, over);
        match &*set {
            set if set.failed => LayerWait::Failed,
            set if set.done >= wanted => LayerWait::Done,
            _ => LayerWait::TimedOut,
        }
    }

    /// Blocks until the whole load has arrived, for at most `timeout`.
    pub fn wait_all(&self, timeout: Duration) -> LayerWait {
        self.wait(usize::MAX, timeout)
    }

    /// Which of the sets it is.
    pub fn set(&self) -> usize {
        self.0.0.number
    }
}
