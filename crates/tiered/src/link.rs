//! Whether the far tier is asked at all.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hicache_core::{ErrorKind, Outcome};

/// Failed batches in a row after which the far tier is cut off.
const FAILURES: u32 = 3;
/// Longest pause from one trial to the next. It does not grow: a trial is one question, nobody waits for it, and a far
/// tier that has a breaker of its own, with pauses of its own, answers it without asking anybody.
const PAUSE: Duration = Duration::from_millis(500);

/// Says when the far tier is not to be asked. Nobody waits for it then; somebody is told, now and then, to try it in the
/// background.
#[derive(Debug, Default)]
pub(crate) struct Link(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    open: Option<Open>,
    trials: u64,
}

#[derive(Debug)]
struct Open {
    /// When to try next.
    next: Instant,
    trying: Option<Trial>,
}

/// One trial of a far tier that is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trial(u64);

/// What a call of the far tier says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Good,
    Bad,
    /// It says of itself that it can't be used.
    Down,
}

impl Health {
    /// Of a batch: bad only if nothing in it was answered as it should be.
    pub(crate) fn of<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> Option<Self> {
        let mut health = None;
        for outcome in outcomes {
            let this = outcome.error().map_or(Self::Good, |error| Self::of_error(error.kind()));
            if this == Self::Good {
                return Some(this);
            }
            health = Some(this);
        }
        health
    }

    pub(crate) fn of_error(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Unavailable | ErrorKind::Closed => Self::Down,
            ErrorKind::Io | ErrorKind::Timeout | ErrorKind::Abandoned | ErrorKind::Unexpected => Self::Bad,
            // It answered; what it said was about the page.
            _ => Self::Good,
        }
    }
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether calls go to the far tier.
    pub(crate) fn is_up(&self) -> bool {
        self.lock().open.is_none()
    }

    /// The right to try, if it is time for that; whoever gets it must say what came of it with
    /// [`tried`](Self::tried).
    pub(crate) fn trial(&self) -> Option<Trial> {
        let mut state = self.lock();
        let trial = Trial(state.trials + 1);
        let open = state.open.as_mut()?;
        if open.trying.is_some() || Instant::now() < open.next {
            return None;
        }
        open.trying = Some(trial);
        state.trials = trial.0;
        Some(trial)
    }

    /// Takes note of what a call said that was no trial; whether it cut the far tier off.
    pub(crate) fn note(&self, health: Health) -> bool {
        let mut state = self.lock();
        if health == Health::Good {
            state.failures = 0;
            state.open = None;
            return false;
        }
        state.failures = if health == Health::Down { FAILURES } else { state.failures + 1 };
        // Calls that were under way when it was opened say nothing new.
        if state.failures < FAILURES || state.open.is_some() {
            return false;
        }
        state.open = Some(Open { next: next(), trying: None });
        true
    }

    /// Takes note of what a trial said.
    pub(crate) fn tried(&self, trial: Trial, health: Health) {
        let mut state = self.lock();
        let Some(open) = state.open.as_mut().filter(|open| open.trying == Some(trial)) else { return };
        if health == Health::Good {
            state.failures = 0;
            state.open = None;
            return;
        }
        open.next = next();
        open.trying = None;
    }
}

/// When to try next. By chance a little sooner or later, so that a fleet does not try all at once.
fn next() -> Instant {
    Instant::now() + PAUSE.mul_f64(rand::random_range(0.6..1.0))
}

#[cfg(test)]
mod tests {
    use hicache_core::Error;

    use super::*;

    #[test]
    fn three_bad_batches_or_one_refusal_cut_it_off() {
        let link = Link::default();
        assert!(!link.note(Health::Bad) && !link.note(Health::Bad) && link.is_up());
        assert!(!link.note(Health::Good));
        assert!(!link.note(Health::Bad) && !link.note(Health::Bad) && link.note(Health::Bad));
        assert!(!link.is_up() && link.trial().is_none());
        let link = Link::default();
        assert!(link.note(Health::Down) && !link.is_up());
        assert!(!link.note(Health::Down));
        std::thread::sleep(PAUSE);
        let trial = link.trial().unwrap();
        assert!(link.trial().is_none(), "one at a time");
        link.tried(trial, Health::Good);
        assert!(link.is_up());
    }

    #[test]
    fn only_a_trial_ends_itself_and_the_pause_stays() {
        let link = Link::default();
        link.note(Health::Down);
        for _ in 0..3 {
            assert!(link.trial().is_none(), "there is a pause");
            std::thread::sleep(PAUSE);
            let trial = link.trial().unwrap();
            // A call from before it was cut off.
            link.note(Health::Bad);
            assert!(link.trial().is_none(), "the trial is still under way");
            link.tried(trial, Health::Bad);
            // What it says twice has been said.
            link.tried(trial, Health::Good);
            assert!(!link.is_up());
        }
        std::thread::sleep(PAUSE);
        let last = link.trial().unwrap();
        link.tried(last, Health::Good);
        assert!(link.is_up());
    }

    #[test]
    fn a_batch_is_as_good_as_its_best_page() {
        let failed = |kind| Outcome::Failed(Error::new(kind, "x"));
        assert_eq!(Health::of(&[failed(ErrorKind::Io), Outcome::Absent]), Some(Health::Good));
        assert_eq!(Health::of(&[failed(ErrorKind::Corrupt)]), Some(Health::Good));
        assert_eq!(Health::of(&[failed(ErrorKind::Timeout)]), Some(Health::Bad));
        assert_eq!(Health::of(&[failed(ErrorKind::Unavailable)]), Some(Health::Down));
        assert_eq!(Health::of(&[]), None);
    }
}
