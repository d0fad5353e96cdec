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
    trials: u64,
}

#[derive(Debug)]
struct Open {
    until: Instant,
    pause: Duration,
    /// The request that tries now.
    trying: Option<u64>,
}

/// The right to make a request: as one of many, or as the one that tries an endpoint that was left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pass(Option<u64>);

impl Breaker {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a request go: all while it is closed, one at a time when it is time to try.
    pub(crate) fn admit(&self) -> Option<Pass> {
        let mut state = self.lock();
        let trial = state.trials + 1;
        let Some(open) = &mut state.open else { return Some(Pass(None)) };
        if open.trying.is_some() || Instant::now() < open.until {
            return None;
        }
        open.trying = Some(trial);
        state.trials = trial;
        Some(Pass(Some(trial)))
    }

    /// A request was answered as it should be, whichever it was.
    pub(crate) fn succeeded(&self) {
        let mut state = self.lock();
        state.failures = 0;
        state.open = None;
    }

    /// A request failed because of the endpoint. Whether that opened it.
    pub(crate) fn failed(&self, pass: Pass) -> bool {
        let mut state = self.lock();
        state.failures += 1;
        let (now, failures) = (Instant::now(), state.failures);
        match &mut state.open {
            Some(open) if pass.0.is_some() && open.trying == pass.0 => {
                open.pause = (open.pause * 2).min(LONGEST_PAUSE);
                open.until = now + open.pause;
                open.trying = None;
            }
            // Requests that were under way when it opened say nothing new.
            Some(_) => {}
            None if failures >= FAILURES => {
                state.open = Some(Open { until: now + FIRST_PAUSE, pause: FIRST_PAUSE, trying: None });
                state.opened += 1;
                return true;
            }
            None => {}
        }
        false
    }

    /// A request that was let through ended without saying anything about the endpoint.
    pub(crate) fn undecided(&self, pass: Pass) {
        if let Some(open) = &mut self.lock().open
            && open.trying == pass.0
        {
            open.trying = None;
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
        let before = breaker.admit().unwrap();
        for _ in 1..FAILURES {
            assert!(!breaker.failed(before) && breaker.admit().is_some());
        }
        assert!(breaker.failed(before) && breaker.admit().is_none());
        std::thread::sleep(FIRST_PAUSE);
        let trial = breaker.admit().unwrap();
        assert!(breaker.admit().is_none(), "one request tries");
        // Requests from before it opened are not the one that tries.
        breaker.undecided(before);
        assert!(!breaker.failed(before) && breaker.admit().is_none());
        breaker.undecided(trial);
        let trial = breaker.admit().unwrap();
        assert!(!breaker.failed(trial) && breaker.admit().is_none() && breaker.is_open());
        std::thread::sleep(FIRST_PAUSE);
        assert!(breaker.admit().is_none(), "the pause is twice as long");
        std::thread::sleep(FIRST_PAUSE);
        assert!(breaker.admit().is_some());
        breaker.succeeded();
        assert!(breaker.admit().is_some() && breaker.admit().is_some() && breaker.opened() == 1);
    }
}
