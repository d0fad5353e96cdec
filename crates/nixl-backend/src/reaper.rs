//! Waits for the end of what was dropped in flight.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::ending;

const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Something in flight.
pub(crate) trait Pending: Send {
    /// Looks whether it has ended.
    fn is_over(&mut self) -> bool;

    /// Of one that has ended: whether nothing of it moves any more, so that it can be let go of.
    fn is_settled(&self) -> bool;
}

/// One an agent. Its thread is there while there is something to wait for.
#[derive(Default)]
pub(crate) struct Reaper(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    pending: Vec<Box<dyn Pending>>,
    running: bool,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reaper {
    /// Takes over. Never blocks for what is in flight.
    pub(crate) fn take(&self, pending: Box<dyn Pending>) {
        let mut state = lock(&self.0);
        state.pending.push(pending);
        if state.running {
            return;
        }
        let own = Arc::clone(&self.0);
        let spawned = thread::Builder::new().name("hicache-nixl-reap".to_owned()).spawn(move || reap(&own));
        match spawned {
            Ok(_) => state.running = true,
            Err(error) => {
                // The next one tries again; till then all of it stays where it is.
                tracing::warn!(%error, "no thread waits for a transfer that was dropped");
            }
        }
    }
}

fn reap(shared: &Mutex<State>) {
    let (mut mine, mut pause) = (Vec::new(), FIRST_PAUSE);
    loop {
        let inside = ending::enter();
        {
            let mut state = lock(shared);
            if !state.pending.is_empty() {
                pause = FIRST_PAUSE;
            }
            mine.append(&mut state.pending);
            if mine.is_empty() {
                state.running = false;
                return;
            }
        }
        // Outside the lock: what ends may be the last handle of an agent, or of memory whose owner has code to run.
        let mut waiting = Vec::new();
        for mut pending in mine.drain(..) {
            if !pending.is_over() {
                waiting.push(pending);
            } else if pending.is_settled() {
                drop(pending);
            } else {
                std::mem::forget(pending);
            }
        }
        mine = waiting;
        drop(inside);
        if !mine.is_empty() {
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // Only where no thread could be started: what is in flight stays.
        std::mem::forget(std::mem::take(&mut self.pending));
    }
}
