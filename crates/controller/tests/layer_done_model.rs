//! Model-checks the sets of the layer counter: loom runs every interleaving of a producer and its consumers.
//!
//! The source is compiled here once more, against loom's types. A wait that would go on for ever is a deadlock there,
//! and fails the model, so a wake-up that is missing is found. The mutants show that loom finds what it is there to find.

use loom::thread;

/// What the source calls `super::sync`.
mod sync {
    pub(crate) use core::time::Duration;
    pub(crate) use loom::sync::{Arc, Condvar, Mutex, MutexGuard};

    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap()
    }

    /// Without a bound: loom finds a wait that would need it.
    pub(crate) fn wait_for<'a, T>(
        mut guard: MutexGuard<'a, T>,
        changed: &Condvar,
        timeout: Duration,
        mut ready: impl FnMut(&mut T) -> bool,
    ) -> MutexGuard<'a, T> {
        while !ready(&mut guard) && !timeout.is_zero() {
            guard = changed.wait(guard).unwrap();
        }
        guard
    }
}

#[path = "../src/layer_done.rs"]
#[allow(dead_code, unreachable_pub, reason = "a part of it is enough here")]
mod layer_done;

use layer_done::{LOAD_SETS, LayerDone, LayerWait};
use loom::cell::UnsafeCell;
use loom::sync::Arc;

const LONG: core::time::Duration = core::time::Duration::from_secs(1);

/// Layers of a page. Loom fails the model if a layer is read while it may be written.
struct Layers([UnsafeCell<u32>; 2]);

impl Layers {
    fn put(&self, layer: usize) {
        // SAFETY: the producer writes a layer before it counts it; that this suffices is what loom checks.
        self.0[layer].with_mut(|value| unsafe { *value = 7 });
    }

    fn get(&self, layer: usize) -> u32 {
        // SAFETY: as above, after the wait.
        self.0[layer].with(|value| unsafe { *value })
    }
}

// SAFETY: as above.
unsafe impl Sync for Layers {}
// SAFETY: as above.
unsafe impl Send for Layers {}

/// All interleavings with at most three changes of thread that nobody asked for.
fn model(run: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(run);
}

/// A producer of two layers and a consumer that reads each as soon as it may.
fn a_layer_is_whole_when_it_is_told(count_first: bool) {
    model(move || {
        let done = LayerDone::new(2);
        let (producer, wait) = done.begin().unwrap();
        let layers = Arc::new(Layers([UnsafeCell::new(0), UnsafeCell::new(0)]));
        let written = Arc::clone(&layers);
        let worker = thread::spawn(move || {
            for layer in 0..2 {
                if count_first {
                    producer.layer_done(true);
                    written.put(layer);
                } else {
                    written.put(layer);
                    producer.layer_done(true);
                }
            }
        });
        for layer in 0..2 {
            assert_eq!(wait.wait(layer, LONG), LayerWait::Done);
            assert_eq!(layers.get(layer), 7);
        }
        worker.join().unwrap();
    });
}

#[test]
fn layers_are_seen_whole() {
    a_layer_is_whole_when_it_is_told(false);
}

#[test]
#[should_panic]
fn loom_finds_a_layer_that_is_told_too_early() {
    a_layer_is_whole_when_it_is_told(true);
}

#[test]
fn a_load_that_is_dropped_half_way_wakes_all_who_wait() {
    model(|| {
        let done = LayerDone::new(2);
        let (producer, wait) = done.begin().unwrap();
        let other = wait.clone();
        let worker = thread::spawn(move || {
            producer.layer_done(true);
            drop(producer);
        });
        let waiter = thread::spawn(move || other.wait_all(LONG));
        assert_eq!(wait.wait(1, LONG), LayerWait::Failed);
        assert_eq!(waiter.join().unwrap(), LayerWait::Failed);
        worker.join().unwrap();
    });
}

#[test]
fn a_load_that_is_given_up_fails_and_its_place_is_free() {
    model(|| {
        let done = LayerDone::new(1);
        let (producer, wait) = done.begin().unwrap();
        let late = thread::spawn(move || producer.layer_done(true));
        done.give_up(&wait);
        assert_eq!(wait.wait(0, LONG), LayerWait::Failed);
        for _ in 0..LOAD_SETS {
            let (producer, next) = done.begin().expect("a place in the rotation is free");
            assert_eq!(
                next.wait(0, core::time::Duration::ZERO),
                LayerWait::TimedOut,
                "the late end is another's"
            );
            drop(producer);
        }
        late.join().unwrap();
    });
}

#[test]
fn a_set_is_not_used_again_while_somebody_waits_for_it() {
    model(|| {
        let done = LayerDone::new(1);
        let mut held = Vec::new();
        for _ in 0..LOAD_SETS {
            let (producer, wait) = done.begin().unwrap();
            producer.layer_done(true);
            held.push(wait);
        }
        assert!(done.begin().is_none(), "all sets are waited for");
        let first = held.remove(0);
        let waiter = thread::spawn(move || {
            assert_eq!(first.wait(0, LONG), LayerWait::Done);
        });
        // The next load begins as soon as the first forward pass has let go, not before.
        if let Some((producer, wait)) = done.begin() {
            assert_eq!(
                wait.wait(0, core::time::Duration::ZERO),
                LayerWait::TimedOut,
                "a set is empty at first"
            );
            producer.layer_done(false);
            assert_eq!(wait.wait(0, LONG), LayerWait::Failed);
        }
        waiter.join().unwrap();
        drop(held);
        assert!(done.begin().is_some());
    });
}
