//! What is known of keys, so that they need not be asked for.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hicache_core::PageKey;

/// What is known of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Present,
    Absent,
    /// There, and not what was stored: the next store replaces it.
    Bad,
}

/// A map with a bound and an age; the oldest go first.
#[derive(Debug)]
pub(crate) struct KnownKeys {
    most: usize,
    present_age: Duration,
    absent_age: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    keys: HashMap<PageKey, (Known, Instant)>,
    /// In the order in which they came. An entry whose time is not the key's own no longer counts.
    order: VecDeque<(Instant, PageKey)>,
}

impl KnownKeys {
    pub(crate) fn new(most: usize, present_age_ms: u64, absent_age_ms: u64) -> Self {
        Self {
            most,
            present_age: Duration::from_millis(present_age_ms),
            absent_age: Duration::from_millis(absent_age_ms),
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, key: PageKey, known: Known) {
        let now = Instant::now();
        let mut state = self.lock();
        state.keys.insert(key, (known, now));
        state.order.push_back((now, key));
        while state.order.len() > self.most {
            let Some((since, key)) = state.order.pop_front() else { break };
            if state.keys.get(&key).is_some_and(|entry| entry.1 == since) {
                state.keys.remove(&key);
            }
        }
    }

    pub(crate) fn get(&self, key: &PageKey) -> Option<Known> {
        let state = self.lock();
        let (known, since) = state.keys.get(key)?;
        let age = if *known == Known::Absent { self.absent_age } else { self.present_age };
        (since.elapsed() < age).then_some(*known)
    }

    pub(crate) fn forget_all(&self) {
        *self.lock() = State::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> PageKey {
        PageKey::kv([number; 32])
    }

    #[test]
    fn bound_and_ages_hold() {
        let known = KnownKeys::new(3, 3_600_000, 20);
        for number in 1..=4 {
            known.set(key(number), Known::Present);
        }
        known.set(key(4), Known::Absent);
        assert_eq!(known.get(&key(1)), None);
        assert_eq!(known.get(&key(3)), Some(Known::Present));
        assert_eq!(known.get(&key(4)), Some(Known::Absent));
        std::thread::sleep(Duration::from_millis(25));
        assert_eq!(known.get(&key(4)), None);
        assert_eq!(known.get(&key(3)), Some(Known::Present));
        known.forget_all();
        assert_eq!(known.get(&key(3)), None);
    }
}
