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

/// `from` and `time` after it; very late where that is no time at all.
pub(crate) fn later(from: Instant, time: Duration) -> Instant {
    const YEARS: Duration = Duration::from_secs(100 * 365 * 86_400);
    from.checked_add(time.min(YEARS)).unwrap_or(from)
}

/// Waits until `ready`, or for `timeout`.
pub(crate) fn wait_for<'a, T>(
    mut guard: MutexGuard<'a, T>,
    changed: &Condvar,
    timeout: Duration,
    mut ready: impl FnMut(&mut T) -> bool,
) -> MutexGuard<'a, T> {
    let until = later(Instant::now(), timeout);
    while !ready(&mut guard) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        guard = changed.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
    }
    guard
}
