//! Whether the far tier is asked at all.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hicache_core::{ErrorKind, Outcome};

/// Failed batches in a row after which the far tier is cut off.
const FAILURES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A breaker for the far tier. While it is open nobody waits for that tier; somebody is told, now and then, to try it in
/// the background.
#[derive(Debug, Default)]
pub(crate) struct Link(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// Since when it is open: when to try next, and how long was waited for that.
    open: Option<(Instant, Duration)>,
    trying: bool,
}

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
    /// Whether calls go to the far tier.
    pub(crate) fn is_up(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).open.is_none()
    }

    /// Whether it is time for somebody to try; whoever is told so must [`note`](Self::note) what came of it.
    pub(crate) fn trial_is_due(&self) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = !state.trying && state.open.is_some_and(|(next, _)| Instant::now() >= next);
        state.trying |= due;
        due
    }

    /// Takes note of what a call said; whether it cut the far tier off.
    pub(crate) fn note(&self, health: Health) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.trying = false;
        if health == Health::Good {
            *state = State::default();
            return false;
        }
        state.failures = if health == Health::Down { FAILURES } else { state.failures + 1 };
        if state.failures < FAILURES {
            return false;
        }
        let was_open = state.open.is_some();
        match state.open {
            // Calls that were under way when it was opened say nothing new.
            Some((next, _)) if Instant::now() < next => {}
            Some((_, pause)) => {
                let pause = (pause * 2).min(LONGEST_PAUSE);
                state.open = Some((Instant::now() + pause, pause));
            }
            None => state.open = Some((Instant::now() + FIRST_PAUSE, FIRST_PAUSE)),
        }
        !was_open
    }
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
        assert!(!link.is_up() && !link.trial_is_due());
        let link = Link::default();
        assert!(link.note(Health::Down) && !link.is_up());
        assert!(!link.note(Health::Down));
        std::thread::sleep(FIRST_PAUSE);
        assert!(link.trial_is_due() && !link.trial_is_due());
        link.note(Health::Good);
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
