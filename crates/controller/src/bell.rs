//! Wakes the thread that drives a controller when something has come to an end.

use std::sync::{Arc, Condvar, Mutex};
use std::task::Wake;
use std::time::Duration;

use crate::sync::{lock, wait_for};

#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    pub(crate) fn ring(&self) {
        *lock(&self.rung) = true;
        self.changed.notify_all();
    }

    /// Forgets that it rang, before looking at what there is.
    pub(crate) fn still(&self) {
        *lock(&self.rung) = false;
    }

    /// Waits until it rings, for at most `timeout`.
    pub(crate) fn wait(&self, timeout: Duration) {
        drop(wait_for(lock(&self.rung), &self.changed, timeout, |rung: &mut bool| *rung));
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}
