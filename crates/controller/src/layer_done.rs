//! Which layers of a load have arrived, so that a forward pass waits for a layer and not for the whole.
//!
//! Three sets rotate, since the next load is prepared while forward passes still wait for earlier ones. A set is used
//! again only when its load has ended and nobody waits for it any more. `tests/layer_done_model.rs` compiles this file
//! against loom's types, so it names them through `super::sync` only.

use super::sync::{Arc, Condvar, Duration, Mutex, MutexGuard, lock, wait_for};

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
}

#[derive(Debug)]
struct Shared {
    layers: usize,
    sets: [(Mutex<Set>, Condvar); LOAD_SETS],
    /// The set that was begun last.
    last: Mutex<usize>,
}

impl Shared {
    fn set(&self, number: usize) -> MutexGuard<'_, Set> {
        lock(&self.sets[number].0)
    }
}

/// The rotating sets.
#[derive(Debug)]
pub struct LayerDone(Arc<Shared>);

impl LayerDone {
    /// Sets for loads of `layers` layers.
    pub fn new(layers: usize) -> Self {
        let sets = std::array::from_fn(|_| (Mutex::new(Set::default()), Condvar::new()));
        Self(Arc::new(Shared { layers, sets, last: Mutex::new(LOAD_SETS - 1) }))
    }

    /// Takes the next set for a load: the end that counts, and one that waits. `None` while the set is still in use.
    pub fn begin(&self) -> Option<(LoadProducer, LoadWait)> {
        let mut last = lock(&self.0.last);
        let number = (*last + 1) % LOAD_SETS;
        let mut set = self.0.set(number);
        if set.users > 0 {
            return None;
        }
        *set = Set { users: 2, ..Set::default() };
        drop(set);
        *last = number;
        let end = |_| SetUser { shared: Arc::clone(&self.0), number };
        Some((LoadProducer(end(0)), LoadWait(end(1))))
    }
}

/// One use of a set.
#[derive(Debug)]
struct SetUser {
    shared: Arc<Shared>,
    number: usize,
}

impl Drop for SetUser {
    fn drop(&mut self) {
        self.shared.set(self.number).users -= 1;
    }
}

/// The end of the load: counts layers. Dropped before the last layer, the load has failed.
#[derive(Debug)]
pub struct LoadProducer(SetUser);

impl LoadProducer {
    /// One more layer has arrived; `whole` says whether for every page.
    pub fn layer_done(&self, whole: bool) {
        let mut set = self.0.shared.set(self.0.number);
        set.done += 1;
        set.failed |= !whole;
        drop(set);
        self.0.shared.sets[self.0.number].1.notify_all();
    }

    /// The load has failed, whatever arrives.
    pub fn fail(&self) {
        self.0.shared.set(self.0.number).failed = true;
        self.0.shared.sets[self.0.number].1.notify_all();
    }
}

impl Drop for LoadProducer {
    fn drop(&mut self) {
        let mut set = self.0.shared.set(self.0.number);
        set.failed |= set.done < self.0.shared.layers;
        drop(set);
        self.0.shared.sets[self.0.number].1.notify_all();
    }
}

/// The end of a forward pass: waits for layers. The set is not used again before this is dropped.
#[derive(Debug)]
pub struct LoadWait(SetUser);

impl Clone for LoadWait {
    fn clone(&self) -> Self {
        self.0.shared.set(self.0.number).users += 1;
        Self(SetUser { shared: Arc::clone(&self.0.shared), number: self.0.number })
    }
}

impl LoadWait {
    /// Blocks until `layer`, counted from 0, has arrived, for at most `timeout`.
    pub fn wait(&self, layer: usize, timeout: Duration) -> LayerWait {
        let wanted = layer.saturating_add(1).min(self.0.shared.layers);
        let (set, changed) = &self.0.shared.sets[self.0.number];
        let set = wait_for(lock(set), changed, timeout, |set| set.failed || set.done >= wanted);
        if set.failed {
            LayerWait::Failed
        } else if set.done >= wanted {
            LayerWait::Done
        } else {
            LayerWait::TimedOut
        }
    }

    /// Blocks until the whole load has arrived, for at most `timeout`.
    pub fn wait_all(&self, timeout: Duration) -> LayerWait {
        self.wait(usize::MAX, timeout)
    }

    /// Which of the sets it is.
    pub fn set(&self) -> usize {
        self.0.number
    }
}
