//! A store that fails is left alone for a while, then tried by one request; by itself for each kind of call, since a
//! store that answers questions may take no pages, and a bucket that takes none may give them.

use std::time::{Duration, Instant};

/// Failures in a row that open it.
const FAILURES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(crate) struct Breaker {
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
    /// Lets a request go: all while it is closed, one a pause while it is open.
    pub(crate) fn admit(&mut self, now: Instant) -> bool {
        let Some(open) = &mut self.open else { return true };
        if now < open.until {
            return false;
        }
        open.trying = true;
        open.until = now + open.pause;
        true
    }

    /// Whether it lets nothing go now.
    pub(crate) fn refuses(&self, now: Instant) -> bool {
        self.open.as_ref().is_some_and(|open| now < open.until)
    }

    /// The store answered, whatever it was.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
        self.open = None;
    }

    /// A request failed, or was not answered in time. The first one opens it if `others` have seen as much.
    pub(crate) fn failed(&mut self, now: Instant, others: bool) {
        self.failures += 1;
        let most = if others { 1 } else { FAILURES };
        match &mut self.open {
            Some(open) if open.trying => {
                open.pause = (open.pause * 2).min(LONGEST_PAUSE);
                open.until = now + open.pause;
                open.trying = false;
            }
            // Requests that were under way when it opened say nothing new.
            Some(_) => {}
            None if self.failures >= most => {
                self.open = Some(Open { until: now + FIRST_PAUSE, pause: FIRST_PAUSE, trying: false });
                self.opened += 1;
            }
            None => {}
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    pub(crate) fn opened(&self) -> u64 {
        self.opened
    }
}

/// One for each kind of call.
#[derive(Debug, Default)]
pub(crate) struct Breakers {
    pub(crate) questions: Breaker,
    pub(crate) loads: Breaker,
    pub(crate) stores: Breaker,
}

impl Breakers {
    /// A question failed, or was not answered in time.
    pub(crate) fn question_failed(&mut self, now: Instant) {
        self.questions.failed(now, self.loads.is_open());
    }

    /// A load failed, or had not ended in time.
    pub(crate) fn load_failed(&mut self, now: Instant) {
        self.loads.failed(now, self.questions.is_open());
    }

    /// A store failed, or had not ended in time. It says nothing of the others: a bucket may take no pages.
    pub(crate) fn store_failed(&mut self, now: Instant) {
        self.stores.failed(now, self.questions.is_open() || self.loads.is_open());
    }

    fn all(&self) -> [&Breaker; 3] {
        [&self.questions, &self.loads, &self.stores]
    }

    /// How many are open.
    pub(crate) fn open(&self) -> u64 {
        self.all().iter().filter(|breaker| breaker.is_open()).count() as u64
    }

    /// How often one of them opened.
    pub(crate) fn opened(&self) -> u64 {
        self.all().iter().map(|breaker| breaker.opened()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_tries_once_a_pause_and_closes() {
        let mut breaker = Breaker::default();
        let mut now = Instant::now();
        for _ in 1..FAILURES {
            breaker.failed(now, false);
            assert!(breaker.admit(now));
        }
        breaker.failed(now, false);
        breaker.failed(now, false); // Was under way.
        assert!(breaker.is_open() && !breaker.admit(now));
        now += FIRST_PAUSE;
        assert!(breaker.admit(now) && !breaker.admit(now), "one tries");
        breaker.failed(now, false);
        now += FIRST_PAUSE;
        assert!(!breaker.admit(now), "the pause is twice as long");
        now += FIRST_PAUSE;
        assert!(breaker.admit(now));
        breaker.succeeded();
        assert!(breaker.admit(now) && breaker.admit(now) && !breaker.is_open());
        assert_eq!(breaker.opened(), 1);
    }

    #[test]
    fn what_loads_have_seen_a_question_need_not_see_five_times() {
        let (mut breakers, now) = (Breakers::default(), Instant::now());
        (0..FAILURES).for_each(|_| breakers.store_failed(now));
        breakers.load_failed(now);
        breakers.question_failed(now);
        assert_eq!(breakers.open(), 1, "a bucket that takes no pages may give them");
        (1..FAILURES).for_each(|_| breakers.load_failed(now));
        assert_eq!(breakers.open(), 2);
        breakers.questions.succeeded();
        breakers.question_failed(now);
        assert_eq!((breakers.open(), breakers.opened()), (3, 3));
        breakers.questions.succeeded();
        assert_eq!(breakers.open(), 2, "an answer to a question is no page");
    }
}
