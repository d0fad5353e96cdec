//! How much is asked of an endpoint: as many requests at a time as it answers, and, once it has said that it is too much,
//! as many a second.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Refusals of one event come within this time; only the first of them slows down.
const ONE_EVENT: Duration = Duration::from_millis(100);
/// What was answered well is counted over this time: while a store refuses, that is what it can.
const COUNTED: Duration = Duration::from_millis(250);
/// After a slowdown the rate is this part of what was answered well.
const BACK: f64 = 0.95;
/// How much the rate grows a second, soon after a slowdown and when it is long past.
const GROWTH: f64 = 0.03;
const MOST_GROWTH: f64 = 1.0;
/// The same between the first slowdown and the second: what was counted before the first says little.
const FIRST_GROWTH: f64 = 6.0;
/// Requests a second that are always tried.
const LEAST_RATE: f64 = 4.0;
/// The rate is looked at again after this time.
const LONGEST_WAIT: Duration = Duration::from_millis(20);
/// Longest that the growth of one step stands for, in seconds.
const LONGEST_STEP: f64 = 0.5;

/// Bounds concurrency and rate.
#[derive(Debug)]
pub(crate) struct Limiter {
    permits: Arc<Semaphore>,
    turns: tokio::sync::Mutex<()>,
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Requests at a time now; at most `most`.
    window: f64,
    /// Permits that are kept back.
    held: usize,
    rate: Option<Rate>,
    /// When answers were good, of late.
    good: VecDeque<Instant>,
    slowdowns: u64,
}

#[derive(Clone, Copy, Debug)]
struct Rate {
    a_second: f64,
    /// When the next request may go.
    next: Instant,
    cut: Instant,
    grown: Instant,
}

/// The right to make one request.
#[derive(Debug)]
pub(crate) struct Permit {
    permit: Option<OwnedSemaphorePermit>,
    /// When it was its turn.
    begun: Instant,
    limiter: Arc<Limiter>,
}

impl Limiter {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(most)),
            turns: tokio::sync::Mutex::new(()),
            most,
            state: Mutex::new(State {
                window: most as f64,
                held: 0,
                rate: None,
                good: VecDeque::new(),
                slowdowns: 0,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn.
    pub(crate) async fn acquire(self: &Arc<Self>) -> Permit {
        // The semaphore is never closed.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        let mut permit = Permit { permit, begun: Instant::now(), limiter: Arc::clone(self) };
        if self.lock().rate.is_none() {
            return permit;
        }
        // One after the other, each by the rate that there is when it is its turn.
        let _turn = self.turns.lock().await;
        loop {
            let wait = self.lock().turn(Instant::now());
            match wait {
                Some(wait) => tokio::time::sleep(wait.min(LONGEST_WAIT)).await,
                None => break,
            }
        }
        permit.begun = Instant::now();
        permit
    }

    /// The endpoint answered as it should.
    pub(crate) fn good(&self) {
        let mut state = self.lock();
        state.good(Instant::now(), self.most);
        let held = self.most - state.window as usize;
        if state.held > held {
            self.permits.add_permits(state.held - held);
            state.held = held;
        }
    }

    /// The endpoint said that a request was too much.
    pub(crate) fn slow_down(&self, permit: &Permit) {
        self.lock().slow_down(Instant::now(), permit.begun);
    }

    /// How often it was slowed down, and its rate now.
    #[cfg(test)]
    pub(crate) fn rate(&self) -> (u64, Option<f64>) {
        let state = self.lock();
        (state.slowdowns, state.rate.map(|rate| rate.a_second))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.limiter.lock();
        if self.limiter.most - state.held > state.window as usize
            && let Some(permit) = self.permit.take()
        {
            permit.forget();
            state.held += 1;
        }
    }
}

impl State {
    /// Takes the next turn, or says how long it is until then.
    fn turn(&mut self, now: Instant) -> Option<Duration> {
        let rate = self.rate.as_mut()?;
        if now < rate.next {
            return Some(rate.next - now);
        }
        // A turn that came a little late does not make the next one late.
        let gap = Duration::from_secs_f64(1.0 / rate.a_second);
        rate.next = rate.next.max(now.checked_sub(gap).unwrap_or(now)) + gap;
        None
    }

    fn good(&mut self, now: Instant, most: usize) {
        self.window = (self.window + 1.0 / self.window).min(most as f64);
        self.good.push_back(now);
        while self.good.front().is_some_and(|&at| now.duration_since(at) > COUNTED) {
            self.good.pop_front();
        }
        let Some(rate) = &mut self.rate else { return };
        let calm = now.duration_since(rate.cut).as_secs_f64();
        let passed = now.duration_since(rate.grown).as_secs_f64().min(LONGEST_STEP);
        // The longer nothing was refused, the faster: limits change.
        let growth =
            if self.slowdowns == 1 { FIRST_GROWTH } else { (GROWTH * (1.0 + calm * calm)).min(MOST_GROWTH) };
        rate.a_second *= 1.0 + growth * passed;
        rate.grown = now;
        // Far above what is asked for it bounds nothing any more.
        if calm > 10.0 && rate.a_second > 20.0 * self.good.len() as f64 / COUNTED.as_secs_f64() {
            self.rate = None;
            self.slowdowns = 0;
        }
    }

    fn slow_down(&mut self, now: Instant, begun: Instant) {
        let since = self.rate.map(|rate| now.duration_since(rate.cut));
        // One that was made before the rate was cut says nothing of the rate that there is now.
        let is_old = self.rate.is_some_and(|rate| begun <= rate.cut);
        if is_old || since.is_some_and(|since| since < ONE_EVENT) {
            return;
        }
        self.slowdowns += 1;
        self.window = (self.window * 0.7).max(2.0);
        let counted = since.unwrap_or(COUNTED).min(COUNTED);
        let good = self.good.iter().filter(|&&at| now.duration_since(at) <= counted).count();
        let answered = good as f64 / counted.as_secs_f64();
        let before = self.rate.map_or(f64::INFINITY, |rate| rate.a_second);
        let a_second = (before.min(answered) * BACK).max(LEAST_RATE);
        let next = now + Duration::from_secs_f64(1.0 / a_second);
        self.rate = Some(Rate { a_second, next, cut: now, grown: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store that answers `limit` requests a second and refuses the rest, with some burst, in made-up time.
    fn play(limit: f64, seconds: f64) -> (f64, f64) {
        let start = Instant::now();
        let limiter = Limiter::new(64);
        let mut state = limiter.lock();
        let (mut tokens, mut filled) = (limit / 10.0, start);
        let (mut now, mut good, mut refused) = (start, 0_u64, 0_u64);
        while now.duration_since(start).as_secs_f64() < seconds {
            // One caller that is never idle, over a line of a millisecond.
            while let Some(wait) = state.turn(now) {
                now += wait;
            }
            now += Duration::from_micros(500);
            tokens = (tokens + limit * now.duration_since(filled).as_secs_f64()).min(limit / 10.0);
            filled = now;
            if tokens >= 1.0 {
                tokens -= 1.0;
                good += 1;
                state.good(now, 64);
            } else {
                refused += 1;
                state.slow_down(now, now - Duration::from_micros(500));
            }
        }
        (good as f64 / seconds / limit, refused as f64 / (good + refused) as f64)
    }

    #[test]
    fn it_finds_the_limit_and_stays_below() {
        for limit in [100.0, 300.0, 1000.0] {
            let (goodput, refused) = play(limit, 20.0);
            assert!(
                goodput >= 0.9 && refused < 0.05,
                "limit {limit}: {goodput:.3} of it, {refused:.3} refused"
            );
        }
    }

    #[tokio::test]
    async fn permits_come_back() {
        let limiter = Limiter::new(8);
        let permits = futures::future::join_all((0..8).map(|_| limiter.acquire())).await;
        limiter.slow_down(&permits[0]);
        // Of the same storm, however late they come.
        std::thread::sleep(2 * ONE_EVENT);
        permits.iter().for_each(|permit| limiter.slow_down(permit));
        drop(permits);
        assert_eq!(limiter.permits.available_permits(), 5);
        assert_eq!(limiter.rate().0, 1);
        for _ in 0..200 {
            limiter.good();
        }
        assert_eq!(limiter.permits.available_permits(), 8);
    }
}
