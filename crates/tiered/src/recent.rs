//! Keys that are remembered for a while.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hicache_core::PageKey;

/// A set of keys with a bound and an age; the oldest go first.
#[derive(Debug)]
pub(crate) struct Recent {
    most: usize,
    age: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    since: HashMap<PageKey, Instant>,
    /// In the order in which they came. A key that came again, or was forgotten, leaves an entry that no longer counts.
    order: VecDeque<(Instant, PageKey)>,
}

impl Recent {
    pub(crate) fn new(most: usize, age: Duration) -> Self {
        Self { most, age, state: Mutex::default() }
    }

    pub(crate) fn add(&self, key: PageKey) {
        if self.age.is_zero() {
            return;
        }
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.since.insert(key, now);
        state.order.push_back((now, key));
        while state.order.len() > self.most {
            let Some((since, key)) = state.order.pop_front() else { break };
            if state.since.get(&key) == Some(&since) {
                state.since.remove(&key);
            }
        }
    }

    pub(crate) fn has(&self, key: &PageKey) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.since.get(key).is_some_and(|since| since.elapsed() < self.age)
    }

    pub(crate) fn forget(&self, key: &PageKey) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).since.remove(key);
    }

    pub(crate) fn forget_all(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> PageKey {
        PageKey::kv([number; 32])
    }

    #[test]
    fn the_oldest_go_first() {
        let recent = Recent::new(3, Duration::from_secs(3600));
        for number in [1, 2, 1, 3, 4] {
            recent.add(key(number));
        }
        // 1 came again before 3 and 4, so it is 2 that went.
        assert_eq!([1, 2, 3, 4].map(|number| recent.has(&key(number))), [true, false, true, true]);
        recent.forget(&key(1));
        assert!(!recent.has(&key(1)));
        recent.forget_all();
        assert!(!recent.has(&key(3)));
    }

    #[test]
    fn age_ends_it() {
        let recent = Recent::new(3, Duration::from_millis(20));
        recent.add(key(1));
        assert!(recent.has(&key(1)));
        std::thread::sleep(Duration::from_millis(25));
        assert!(!recent.has(&key(1)));
        let never = Recent::new(3, Duration::ZERO);
        never.add(key(1));
        assert!(!never.has(&key(1)));
    }
}
