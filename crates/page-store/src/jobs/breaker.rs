//! Cutting a root off while its medium does not work: calls fail at once instead of queueing behind what fails or
//! hangs. One breaker for each root and direction, looked at on call; no timer and no thread.
//!
//! Closed, everything passes. Open, nothing does, until its back-off is over. Then exactly one batch is let through as
//! a trial: its success closes the breaker, its failure opens it again for twice as long.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hicache_core::{Direction, Error, ErrorKind, StorageStat};
use rustix::io::Errno;

/// So many batches in a row must fail.
const FAILED_BATCHES: u32 = 3;
/// The first back-off; a shorter deadline for stuck batches shortens it. It doubles with every trial that fails.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// The breakers of a store: two for each root.
#[derive(Debug)]
pub(crate) struct Breakers(Vec<[Breaker; 2]>);

impl Breakers {
    pub(crate) fn new<'a>(roots: impl Iterator<Item = &'a Path>, io_timeout: Duration) -> Self {
        let both = |root: &Path| {
            [Direction::Read, Direction::Write].map(|direction| Breaker::new(root, direction, io_timeout))
        };
        Self(roots.map(both).collect())
    }

    pub(crate) fn of(&self, volume: usize, direction: Direction) -> &Breaker {
        &self.0[volume][usize::from(direction == Direction::Write)]
    }

    pub(crate) fn add_stat(&self, stat: &mut StorageStat) {
        for state in self.0.iter().flatten().map(Breaker::lock) {
            stat.breaker_opened += state.opened;
            stat.breakers_open += u64::from(!matches!(state.phase, Phase::Closed));
            stat.refused_pages += state.refused_pages;
        }
    }
}

/// Whether a root takes batches of one direction.
#[derive(Debug)]
pub(crate) struct Breaker {
    root: PathBuf,
    direction: Direction,
    io_timeout: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Batches that failed since the last one that did not.
    failed: u32,
    backoff: Duration,
    /// Raised with every change of phase: what a batch from before it comes to says nothing about the phase now.
    epoch: u64,
    cause: Option<Cause>,
    opened: u64,
    refused_pages: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Open {
        until: Instant,
    },
    /// A trial is under way.
    HalfOpen,
}

#[derive(Clone, Debug)]
enum Cause {
    Stuck,
    Failing(Error),
    /// The root is not where it was.
    Gone(Error),
}

impl Breaker {
    fn new(root: &Path, direction: Direction, io_timeout: Duration) -> Self {
        let state = State {
            phase: Phase::Closed,
            failed: 0,
            backoff: FIRST_BACKOFF.min(io_timeout),
            epoch: 0,
            cause: None,
            opened: 0,
            refused_pages: 0,
        };
        Self { root: root.to_owned(), direction, io_timeout, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a batch with `pages` pages of this root through, or says why not.
    ///
    /// # Errors
    /// `Unavailable`, naming the root, the cause, and when the next batch is let through.
    pub(crate) fn admit(&self, pages: usize) -> Result<Permit<'_>, Error> {
        self.admit_at(Instant::now(), pages)
    }

    fn admit_at(&self, now: Instant, pages: usize) -> Result<Permit<'_>, Error> {
        let mut state = self.lock();
        if let Some(error) = self.refusal_of(&state, now) {
            state.refused_pages += pages as u64;
            return Err(error);
        }
        let trial = state.phase != Phase::Closed;
        if trial {
            state.enter(Phase::HalfOpen);
        }
        Ok(Permit { breaker: self, trial, epoch: state.epoch, seen: Mutex::default() })
    }

    /// Why a batch would be refused now; `None` if it would be let through. Begins no trial.
    pub(crate) fn refusal(&self) -> Option<Error> {
        self.refusal_of(&self.lock(), Instant::now())
    }

    /// Whether a batch would be refused now. Begins no trial.
    pub(crate) fn refuses(&self) -> bool {
        match self.lock().phase {
            Phase::Closed => false,
            Phase::Open { until } => Instant::now() < until,
            Phase::HalfOpen => true,
        }
    }

    fn refusal_of(&self, state: &State, now: Instant) -> Option<Error> {
        let next = match state.phase {
            Phase::Closed => return None,
            Phase::Open { until } if now >= until => return None,
            Phase::Open { until } => format!("the next trial is in {} ms", (until - now).as_millis() + 1),
            Phase::HalfOpen => "a trial is under way".to_owned(),
        };
        let (direction, root) = (self.direction.as_str(), self.root.display());
        let cause = match &state.cause {
            Some(Cause::Failing(_)) => "batch after batch failed".to_owned(),
            Some(Cause::Gone(_)) => "it is not where it was".to_owned(),
            _ => format!("a batch was without progress for {} ms", self.io_timeout.as_millis()),
        };
        let error = Error::new(
            ErrorKind::Unavailable,
            format!("root {root} takes no {direction} now: {cause}; {next}, it goes on by itself"),
        );
        let error = error.with_backend("page-store").with_operation(direction).with_retryable(true);
        Some(match &state.cause {
            Some(Cause::Failing(last) | Cause::Gone(last)) => match last.errno() {
                Some(errno) => error.with_errno(errno).with_source(last.clone()),
                None => error.with_source(last.clone()),
            },
            _ => error,
        })
    }

    /// A batch is stuck on this root. To be told once a batch: one that is stuck for ever must not keep the root shut.
    pub(crate) fn stuck(&self) {
        self.stuck_at(Instant::now());
    }

    fn stuck_at(&self, now: Instant) {
        let mut state = self.lock();
        self.open(&mut state, now, Cause::Stuck);
    }

    fn open(&self, state: &mut State, now: Instant, cause: Cause) {
        let least = if matches!(cause, Cause::Stuck) { self.io_timeout } else { Duration::ZERO };
        let lasting = match state.phase {
            Phase::Closed => FIRST_BACKOFF.min(self.io_timeout),
            Phase::Open { .. } => state.backoff,
            Phase::HalfOpen => (state.backoff * 2).min(LONGEST_BACKOFF),
        };
        state.backoff = lasting;
        let mut until = now + lasting.max(least);
        if let Phase::Open { until: before } = state.phase {
            until = until.max(before);
        } else {
            state.opened += 1;
        }
        tracing::error!(
            root = %self.root.display(),
            direction = self.direction.as_str(),
            ?cause,
            lasting_ms = (until - now).as_millis() as u64,
            "the root is cut off"
        );
        state.cause = Some(cause);
        state.enter(Phase::Open { until });
    }

    fn settle_at(&self, now: Instant, permit: &Permit<'_>, seen: Seen) {
        let mut state = self.lock();
        if state.epoch != permit.epoch {
            return;
        }
        if let Some(error) = seen.gone {
            self.open(&mut state, now, Cause::Gone(error));
            return;
        }
        match (seen.good, seen.bad) {
            (true, _) => {
                state.failed = 0;
                if permit.trial {
                    tracing::info!(root = %self.root.display(), direction = self.direction.as_str(), "the root works again");
                    state.cause = None;
                    state.enter(Phase::Closed);
                }
            }
            (false, Some(error)) => {
                state.failed += 1;
                if permit.trial || state.failed >= FAILED_BATCHES {
                    self.open(&mut state, now, Cause::Failing(error));
                }
            }
            // It never came to the medium: the next batch is the trial.
            (false, None) if permit.trial => state.enter(Phase::Open { until: now }),
            (false, None) => {}
        }
    }
}

impl State {
    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.epoch += 1;
        if phase == Phase::Closed {
            self.failed = 0;
        }
    }
}

/// A batch that was let through to a root. What it came to counts when this is dropped.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    breaker: &'a Breaker,
    trial: bool,
    epoch: u64,
    seen: Mutex<Seen>,
}

/// What became of the pages of a batch.
#[derive(Debug, Default)]
struct Seen {
    good: bool,
    bad: Option<Error>,
    gone: Option<Error>,
}

impl Permit<'_> {
    /// Whether the batch is let through to see whether the root works again.
    pub(crate) fn is_trial(&self) -> bool {
        self.trial
    }

    /// The root is not where it was: nothing more is to be tried on it before the next trial.
    pub(crate) fn root_is_gone(&self, error: &Error) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).gone = Some(error.clone());
    }

    /// What the medium did for one page, or several at once.
    pub(crate) fn saw(&self, result: Result<(), &Error>) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(()) => seen.good = true,
            // The device did read; what it read is another matter.
            Err(error) if error.kind() == ErrorKind::Corrupt => seen.good = true,
            Err(error) if is_of_medium(error) => seen.bad = Some(error.clone()),
            Err(_) => {}
        }
    }

    #[cfg(test)]
    fn settle_at(self, now: Instant) {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        self.breaker.settle_at(now, &self, seen);
        std::mem::forget(self);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        self.breaker.settle_at(Instant::now(), self, seen);
    }
}

/// Whether an error says that the medium does not work. A full one does, and a process that has no file or memory left
/// says nothing about it.
fn is_of_medium(error: &Error) -> bool {
    let of_process = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::AGAIN, Errno::INTR];
    let of_process = |errno| of_process.iter().any(|known| known.raw_os_error() == errno);
    error.kind() == ErrorKind::Io && !error.errno().is_some_and(of_process)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn breaker(io_timeout: Duration) -> Breaker {
        Breaker::new(Path::new("/data/kv"), Direction::Write, io_timeout)
    }

    fn eio() -> Error {
        Error::io("append", "journal", std::io::Error::from_raw_os_error(5))
    }

    fn batch(breaker: &Breaker, now: Instant, result: Result<(), &Error>) -> Result<(), Error> {
        let permit = breaker.admit_at(now, 7)?;
        permit.saw(result);
        permit.settle_at(now);
        Ok(())
    }

    fn stat(breaker: Breaker) -> StorageStat {
        let mut stat = StorageStat::default();
        let other = Breaker::new(Path::new("/"), Direction::Read, SECOND);
        Breakers(vec![[other, breaker]]).add_stat(&mut stat);
        stat
    }

    #[test]
    fn three_failures_in_a_row_open_it_and_a_success_between_does_not() {
        let (breaker, now) = (breaker(30 * SECOND), Instant::now());
        for result in [Err(&eio()), Err(&eio()), Ok(()), Err(&eio()), Err(&eio())] {
            batch(&breaker, now, result).unwrap();
        }
        assert!(breaker.refusal_of(&breaker.lock(), now).is_none());
        batch(&breaker, now, Err(&eio())).unwrap();
        let refused = batch(&breaker, now, Ok(())).unwrap_err();
        assert_eq!((refused.kind(), refused.errno()), (ErrorKind::Unavailable, Some(5)));
        assert!(refused.is_retryable());
        let text = refused.to_string();
        assert!(text.contains("/data/kv") && text.contains("1001 ms") && text.contains("write"), "{text}");
        let stat = stat(breaker);
        assert_eq!((stat.breaker_opened, stat.breakers_open, stat.refused_pages), (1, 1, 7));
    }

    #[test]
    fn the_back_off_doubles_up_to_a_minute_and_begins_anew() {
        let (breaker, mut now) = (breaker(30 * SECOND), Instant::now());
        for _ in 0..FAILED_BATCHES {
            batch(&breaker, now, Err(&eio())).unwrap();
        }
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert!(breaker.admit_at(now + seconds * SECOND - SECOND / 10, 1).is_err(), "{seconds}");
            now += seconds * SECOND;
            batch(&breaker, now, Err(&eio())).unwrap();
        }
        now += 60 * SECOND;
        batch(&breaker, now, Ok(())).unwrap();
        assert_eq!(breaker.lock().phase, Phase::Closed);
        for _ in 0..FAILED_BATCHES {
            batch(&breaker, now, Err(&eio())).unwrap();
        }
        batch(&breaker, now + SECOND, Ok(())).unwrap();
        assert_eq!(stat(breaker).breaker_opened, 10);
    }

    #[test]
    fn one_trial_at_a_time() {
        let (breaker, now) = (breaker(30 * SECOND), Instant::now());
        breaker.stuck_at(now);
        assert!(breaker.admit_at(now + 29 * SECOND, 1).is_err(), "a stuck batch opens for the deadline");
        let due = now + 30 * SECOND;
        assert!(breaker.refusal_of(&breaker.lock(), due).is_none(), "looking begins no trial");
        let trial = breaker.admit_at(due, 1).unwrap();
        assert!(breaker.admit_at(due, 1).unwrap_err().to_string().contains("trial"));
        // It never came to the medium: the next one is the trial.
        trial.settle_at(due);
        let trial = breaker.admit_at(due, 1).unwrap();
        trial.saw(Ok(()));
        trial.settle_at(due);
        assert!(breaker.admit_at(due, 1).is_ok() && breaker.admit_at(due, 1).is_ok());
    }

    #[test]
    fn what_began_before_says_nothing() {
        let (breaker, now) = (breaker(SECOND / 4), Instant::now());
        let (early, late) = (breaker.admit_at(now, 1).unwrap(), breaker.admit_at(now, 1).unwrap());
        breaker.stuck_at(now);
        early.saw(Ok(()));
        early.settle_at(now);
        assert!(breaker.admit_at(now, 1).is_err(), "an older success closes nothing");
        let due = now + SECOND / 4;
        let trial = breaker.admit_at(due, 1).unwrap();
        late.saw(Err(&eio()));
        late.settle_at(due);
        trial.saw(Ok(()));
        trial.settle_at(due);
        assert_eq!(breaker.lock().phase, Phase::Closed);
    }

    #[test]
    fn a_trial_that_gets_stuck_opens_it_for_longer() {
        let (breaker, now) = (breaker(SECOND / 4), Instant::now());
        breaker.stuck_at(now);
        let due = now + SECOND / 4;
        let trial = breaker.admit_at(due, 1).unwrap();
        breaker.stuck_at(due);
        trial.saw(Ok(()));
        trial.settle_at(due);
        assert!(breaker.admit_at(due + SECOND / 2 - SECOND / 100, 1).is_err());
        assert!(breaker.admit_at(due + SECOND / 2, 1).is_ok());
    }

    #[test]
    fn a_full_disk_and_a_full_process_do_not_open_it() {
        let (breaker, now) = (breaker(SECOND), Instant::now());
        for errno in [28, 122, 27, 24, 23, 12] {
            for _ in 0..=FAILED_BATCHES {
                let error = Error::io("allocate", "segment", std::io::Error::from_raw_os_error(errno));
                batch(&breaker, now, Err(&error)).unwrap();
            }
        }
        // Nor do they count as successes.
        batch(&breaker, now, Err(&eio())).unwrap();
        batch(&breaker, now, Err(&eio())).unwrap();
        batch(&breaker, now, Err(&Error::new(ErrorKind::NoSpace, "full"))).unwrap();
        batch(&breaker, now, Err(&eio())).unwrap();
        assert!(breaker.admit_at(now, 1).is_err());
    }
}
