//! Cutting storage off while it does not work: a prefetch then ends at once, and a backup is given up, in place of
//! waiting behind what fails or hangs. One for each direction, looked at on call.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use hicache_core::{Error, ErrorKind, Result};

use crate::sync::{later, lock};

/// A trial that fails doubles the time, up to this.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// Lets batches through, or refuses them.
#[derive(Debug)]
pub(crate) struct Breaker {
    direction: &'static str,
    failures: u32,
    first_backoff: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Batches in a row that failed.
    failed: u32,
    backoff: Duration,
    /// Refuses until then; after it one batch at a time is let through.
    open_until: Option<Instant>,
    trial: bool,
}

impl Breaker {
    pub(crate) fn new(direction: &'static str, failures: u32, backoff: Duration) -> Self {
        let state = State { failed: 0, backoff, open_until: None, trial: false };
        Self { direction, failures, first_backoff: backoff, state: Mutex::new(state) }
    }

    /// Lets a batch through, which tells what became of it. One that is dropped without a word has failed.
    ///
    /// # Errors
    /// `Unavailable` while it is open.
    pub(crate) fn admit(&self) -> Result<Admitted<'_>> {
        self.check(true)?;
        Ok(Admitted(Some(self)))
    }

    /// Whether a batch would be let through now.
    ///
    /// # Errors
    /// As [`Breaker::admit`].
    pub(crate) fn check(&self, take: bool) -> Result<()> {
        let mut state = lock(&self.state);
        let Some(until) = state.open_until else { return Ok(()) };
        let now = Instant::now();
        if now >= until && !state.trial {
            state.trial = take;
            return Ok(());
        }
        let next = until.saturating_duration_since(now).as_millis();
        Err(Error::new(
            ErrorKind::Unavailable,
            format!("storage is cut off for {}; the next trial is in {next} ms", self.direction),
        ))
    }

    fn worked(&self) {
        let mut state = lock(&self.state);
        *state = State { failed: 0, backoff: self.first_backoff, open_until: None, trial: false };
    }

    /// A batch has failed; `lost` if it was not answered. True if that opened it.
    pub(crate) fn failed(&self, lost: bool) -> bool {
        let mut state = lock(&self.state);
        state.failed = state.failed.saturating_add(1);
        let was_open = state.open_until.is_some();
        if was_open && !state.trial {
            return false; // From before it opened.
        }
        if !was_open && !lost && state.failed < self.failures {
            return false;
        }
        if was_open {
            state.backoff = (state.backoff * 2).min(LONGEST_BACKOFF);
        }
        state.open_until = Some(later(Instant::now(), state.backoff));
        state.trial = false;
        !was_open
    }

    pub(crate) fn is_open(&self) -> bool {
        lock(&self.state).open_until.is_some()
    }
}

/// A batch that was let through.
#[derive(Debug)]
pub(crate) struct Admitted<'a>(Option<&'a Breaker>);

impl Admitted<'_> {
    /// It has worked.
    pub(crate) fn worked(mut self) {
        if let Some(breaker) = self.0.take() {
            breaker.worked();
        }
    }

    /// It has failed; `lost` if it was not answered. True if that opened the breaker.
    pub(crate) fn failed(mut self, lost: bool) -> bool {
        self.0.take().is_some_and(|breaker| breaker.failed(lost))
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        // A trial that ended in a panic must not be the last one.
        if let Some(breaker) = self.0.take() {
            breaker.failed(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_lets_one_trial_through_and_closes_again() {
        let breaker = Breaker::new("reading", 2, Duration::from_millis(30));
        assert!(!breaker.admit().unwrap().failed(false));
        assert!(breaker.admit().unwrap().failed(false));
        assert_eq!(breaker.admit().unwrap_err().kind(), ErrorKind::Unavailable);
        std::thread::sleep(Duration::from_millis(40));
        assert!(breaker.check(false).is_ok(), "asking is no trial");
        let trial = breaker.admit().unwrap();
        assert!(breaker.admit().is_err() && breaker.check(false).is_err(), "one at a time");
        trial.failed(false);
        assert!(breaker.admit().is_err() && breaker.is_open());
        std::thread::sleep(Duration::from_millis(70));
        drop(breaker.admit().unwrap());
        assert!(breaker.admit().is_err(), "a trial that was dropped has failed");
        std::thread::sleep(Duration::from_millis(140));
        breaker.admit().unwrap().worked();
        assert!(!breaker.is_open());
        let (one, other) = (breaker.admit().unwrap(), breaker.admit().unwrap());
        one.worked();
        other.worked();
        assert!(breaker.admit().unwrap().failed(true), "one that is lost suffices");
    }
}
