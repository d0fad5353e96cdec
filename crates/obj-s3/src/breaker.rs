//! A breaker for each endpoint: one that fails is left alone, and asked now and then whether it is well again. Nobody
//! waits for that question, so that it can be asked often: a store that is back is soon in use.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Failures in a row that open it.
const FAILURES: u32 = 5;
/// Pauses before questions: the first, and the longest. Each is a little shorter than that, by chance, so that a fleet
/// does not ask all at once.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

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
    /// The question that is under way.
    trying: Option<u64>,
}

/// The right to make a request: as one of many, or as the question to an endpoint that was left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pass(Option<u64>);

/// What may be asked of an endpoint now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Anything.
    Request(Pass),
    /// Whether it is well again, and nothing else.
    Question(Pass),
    /// Nothing.
    Nothing,
}

impl Breaker {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn admit(&self) -> Admission {
        let mut state = self.lock();
        let trial = state.trials + 1;
        let Some(open) = &mut state.open else { return Admission::Request(Pass(None)) };
        if open.trying.is_some() || Instant::now() < open.until {
            return Admission::Nothing;
        }
        open.trying = Some(trial);
        state.trials = trial;
        Admission::Question(Pass(Some(trial)))
    }

    /// A request was answered as it should be, whichever it was. Whether that closed it.
    pub(crate) fn succeeded(&self) -> bool {
        let mut state = self.lock();
        state.failures = 0;
        state.open.take().is_some()
    }

    /// A request failed because of the endpoint. Whether that opened it.
    pub(crate) fn failed(&self, pass: Pass) -> bool {
        let mut state = self.lock();
        state.failures += 1;
        let failures = state.failures;
        match &mut state.open {
            Some(open) if pass.0.is_some() && open.trying == pass.0 => {
                open.wait((open.pause * 2).min(LONGEST_PAUSE));
            }
            // Requests that were under way when it opened say nothing new.
            Some(_) => {}
            None if failures >= FAILURES => {
                let mut open = Open { until: Instant::now(), pause: FIRST_PAUSE, trying: None };
                open.wait(FIRST_PAUSE);
                state.open = Some(open);
                state.opened += 1;
                return true;
            }
            None => {}
        }
        false
    }

    /// A request that was let through ended without saying anything about the endpoint. A question is asked again, after
    /// as long a pause as before.
    pub(crate) fn undecided(&self, pass: Pass) {
        if let Some(open) = &mut self.lock().open
            && pass.0.is_some()
            && open.trying == pass.0
        {
            open.wait(open.pause);
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.lock().open.is_some()
    }

    pub(crate) fn opened(&self) -> u64 {
        self.lock().opened
    }
}

impl Open {
    fn wait(&mut self, pause: Duration) {
        self.pause = pause;
        self.until = Instant::now() + pause.mul_f64(rand::random_range(0.7..1.0));
        self.trying = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(breaker: &Breaker) -> bool {
        matches!(breaker.admit(), Admission::Request(_))
    }

    /// Waits for the next question, and says how long it took.
    fn question(breaker: &Breaker) -> (Pass, Duration) {
        let begun = Instant::now();
        loop {
            match breaker.admit() {
                Admission::Question(pass) => return (pass, begun.elapsed()),
                Admission::Request(_) => panic!("it is open"),
                Admission::Nothing => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    fn open() -> Breaker {
        let breaker = Breaker::default();
        let Admission::Request(before) = breaker.admit() else { panic!("it is closed") };
        for _ in 1..FAILURES {
            assert!(!breaker.failed(before) && passes(&breaker));
        }
        assert!(breaker.failed(before) && breaker.admit() == Admission::Nothing);
        breaker
    }

    #[test]
    fn it_opens_asks_once_and_closes_by_itself() {
        let breaker = open();
        let (trial, _) = question(&breaker);
        assert_eq!(breaker.admit(), Admission::Nothing, "one question at a time");
        // Requests from before it opened are not the question.
        let before = Pass(None);
        breaker.undecided(before);
        assert!(!breaker.failed(before) && breaker.admit() == Admission::Nothing);
        assert!(!breaker.failed(trial) && breaker.is_open());
        let (trial, _) = question(&breaker);
        // One that says nothing is not asked again at once.
        breaker.undecided(trial);
        assert_eq!(breaker.admit(), Admission::Nothing);
        assert!(breaker.succeeded() && !breaker.succeeded());
        assert!(passes(&breaker) && passes(&breaker) && breaker.opened() == 1);
    }

    /// However long an endpoint was down, it is asked about once a second.
    #[test]
    fn pauses_do_not_grow_beyond_a_second() {
        let breaker = open();
        for number in 0..4 {
            let (trial, waited) = question(&breaker);
            let least = if number == 0 { FIRST_PAUSE } else { LONGEST_PAUSE } / 2;
            assert!(waited > least && waited < Duration::from_millis(1300), "{number}: {waited:?}");
            breaker.failed(trial);
        }
    }
}
