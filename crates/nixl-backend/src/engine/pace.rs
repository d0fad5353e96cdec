//! How long to sleep between two looks at what is in flight.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

const SHORTEST: Duration = Duration::from_micros(30);
const LONGEST: Duration = Duration::from_micros(250);
/// A sleep is no longer than this part of the time since something has last happened: so much is lost at most.
const LOST: u32 = 16;
/// What it costs to fall asleep and to wake, which the clock of a look does not see.
const WAKING: Duration = Duration::from_micros(10);
/// Looking takes one part in so many of a core.
const SHARE: u32 = 13;
/// Time on the CPU that a look may take ahead of its share.
const BURST: Duration = Duration::from_micros(500);

/// The library tells nobody when a transfer ends: it must be asked. Sleeps grow while nothing ends; and asking is paid
/// for, wake-ups included, out of a share of the time that passes.
pub(crate) struct Pace {
    /// When something last ended, or began.
    since: Instant,
    looked: Instant,
    /// Time on the CPU at the end of the last look, if nothing but sleeping and looking came after.
    idle_since: Option<Duration>,
    credit: Duration,
    debt: Duration,
}

/// Time of this thread on a CPU.
fn on_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

impl Pace {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self { since: now, looked: now, idle_since: None, credit: BURST, debt: Duration::ZERO }
    }

    /// Something has ended, or begun: look again soon.
    pub(crate) fn quicken(&mut self) {
        self.since = Instant::now();
        self.idle_since = None;
    }

    /// Before a look: what [`Pace::pause`] is told.
    pub(crate) fn begin(&self) -> Duration {
        on_cpu()
    }

    /// How long to sleep after a look that found nothing new. One that found something was no waste and is not paid for.
    pub(crate) fn pause(&mut self, began: Duration) -> Duration {
        let now = on_cpu();
        let cost = match self.idle_since.replace(now) {
            Some(before) => now.saturating_sub(before),
            None => now.saturating_sub(began) + WAKING,
        };
        self.pause_at(Instant::now(), cost)
    }

    fn pause_at(&mut self, now: Instant, cost: Duration) -> Duration {
        let earned = now.saturating_duration_since(self.looked) / SHARE;
        self.looked = now;
        let (had, owed) = (self.credit + earned, self.debt + cost);
        self.credit = had.saturating_sub(owed).min(BURST);
        self.debt = owed.saturating_sub(had);
        let natural = (now.saturating_duration_since(self.since) / LOST).clamp(SHORTEST, LONGEST);
        natural.max(self.debt * SHARE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The share of a core that looks take which cost `look` each, over `time`, after a start.
    fn share(look: Duration, time: Duration) -> f64 {
        let mut pace = Pace::new();
        let start = pace.looked;
        let (mut now, mut on_cpu, mut before) = (start, Duration::ZERO, Duration::ZERO);
        while now < start + time {
            on_cpu += look;
            now += look;
            let pause = pace.pause_at(now, look);
            assert!(pause >= SHORTEST);
            now += pause;
            if now < start + time / 10 {
                before = on_cpu;
            }
        }
        (on_cpu - before).as_secs_f64() / (time * 9 / 10).as_secs_f64()
    }

    #[test]
    fn asking_takes_less_than_a_tenth_of_a_core() {
        for look_us in [1, 5, 20, 50, 200, 400, 600, 2000] {
            let share = share(Duration::from_micros(look_us), Duration::from_secs(1));
            assert!(share < 0.09, "{share} with {look_us} µs a look");
        }
    }

    #[test]
    fn what_has_just_begun_is_looked_at_soon_and_sleeps_grow() {
        let mut pace = Pace::new();
        let start = pace.looked;
        let mut at = |us: u64, cpu_us: u64| {
            pace.pause_at(start + Duration::from_micros(us), Duration::from_micros(cpu_us))
        };
        assert_eq!(at(10, 5), SHORTEST);
        assert_eq!(at(1600, 5), Duration::from_micros(100));
        assert_eq!(at(100_000, 5), LONGEST);
        pace.since = start + Duration::from_micros(110_000);
        assert_eq!(pace.pause_at(pace.since, Duration::from_micros(5)), SHORTEST);
    }
}
