//! The types that the model checker replaces by its own.

pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard};
pub(crate) use std::time::Duration;

use std::sync::PoisonError;
use std::time::Instant;

/// Nothing here panics between two changes that belong together.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `ready`, or for `timeout`.
pub(crate) fn wait_for<'a, T>(
    mut guard: MutexGuard<'a, T>,
    changed: &Condvar,
    timeout: Duration,
    mut ready: impl FnMut(&mut T) -> bool,
) -> MutexGuard<'a, T> {
    // A timeout that is not a time is a long one.
    let until = Instant::now().checked_add(timeout);
    while !ready(&mut guard) {
        let left =
            until.map_or(Duration::from_secs(3600), |until| until.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            break;
        }
        guard = changed.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
    }
    guard
}
