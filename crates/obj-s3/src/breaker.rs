//! A breaker for each endpoint: one that fails is left alone for a while, then tried by one request.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Failures in a row that open it.
const FAILURES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(crate) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    open: Option<Open>,
    opened: u64,
}

#[derive(Debug)]
struct Open {
    until: Instant,
    pause: Duration,
    trying: bool,
}

impl Breaker {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request may go: all while it is closed, one at a time when it is time to try.
    pub(crate) fn admits(&self) -> bool {
        match &mut self.lock().open {
            None => true,
            Some(open) if open.trying || Instant::now() < open.until => false,
            Some(open) => {
                open.trying = true;
                true
            }
        }
    }

    pub(crate) fn succeeded(&self) {
        let mut state = self.lock();
        state.failures = 0;
        state.open = None;
    }

    /// A request failed because of the endpoint. Whether that opened it.
    pub(crate) fn failed(&self) -> bool {
        let mut state = self.lock();
        state.failures += 1;
        let (now, failures) = (Instant::now(), state.failures);
        match &mut state.open {
            Some(open) if open.trying => {
                open.pause = (open.pause * 2).min(LONGEST_PAUSE);
                open.until = now + open.pause;
                open.trying = false;
            }
            // Requests that were under way when it opened say nothing new.
            Some(_) => {}
            None if failures >= FAILURES => {
                state.open = Some(Open { until: now + FIRST_PAUSE, pause: FIRST_PAUSE, trying: false });
                state.opened += 1;
                return true;
            }
            None => {}
        }
        false
    }

    /// A request that was let through ended without saying anything about the endpoint.
    pub(crate) fn undecided(&self) {
        if let Some(open) = &mut self.lock().open {
            open.trying = false;
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.lock().open.is_some()
    }

    pub(crate) fn opened(&self) -> u64 {
        self.lock().opened
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_tries_once_and_closes_by_itself() {
        let breaker = Breaker::default();
        for _ in 1..FAILURES {
            assert!(!breaker.failed() && breaker.admits());
        }
        assert!(breaker.failed() && !breaker.admits());
        std::thread::sleep(FIRST_PAUSE);
        assert!(breaker.admits() && !breaker.admits(), "one request tries");
        breaker.undecided();
        assert!(breaker.admits());
        assert!(!breaker.failed() && !breaker.admits() && breaker.is_open());
        std::thread::sleep(2 * FIRST_PAUSE);
        assert!(breaker.admits());
        breaker.succeeded();
        assert!(breaker.admits() && breaker.admits() && breaker.opened() == 1);
    }
}
