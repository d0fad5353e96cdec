//! A store that fails is left alone for a while, then tried by one request.

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

    /// A request failed, or was not answered in time.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.failures += 1;
        match &mut self.open {
            Some(open) if open.trying => {
                open.pause = (open.pause * 2).min(LONGEST_PAUSE);
                open.until = now + open.pause;
                open.trying = false;
            }
            // Requests that were under way when it opened say nothing new.
            Some(_) => {}
            None if self.failures >= FAILURES => {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_tries_once_a_pause_and_closes() {
        let mut breaker = Breaker::default();
        let mut now = Instant::now();
        for _ in 1..FAILURES {
            breaker.failed(now);
            assert!(breaker.admit(now));
        }
        breaker.failed(now);
        breaker.failed(now); // Was under way.
        assert!(breaker.is_open() && !breaker.admit(now));
        now += FIRST_PAUSE;
        assert!(breaker.admit(now) && !breaker.admit(now), "one tries");
        breaker.failed(now);
        now += FIRST_PAUSE;
        assert!(!breaker.admit(now), "the pause is twice as long");
        now += FIRST_PAUSE;
        assert!(breaker.admit(now));
        breaker.succeeded();
        assert!(breaker.admit(now) && breaker.admit(now) && !breaker.is_open());
        assert_eq!(breaker.opened(), 1);
    }
}
