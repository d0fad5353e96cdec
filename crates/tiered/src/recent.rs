//! Keys that are remembered for a while.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hicache_core::{PageKey, RecentKeys};

/// A set of keys with a bound and an age; the oldest go first.
#[derive(Debug)]
pub(crate) struct Recent {
    age: Duration,
    keys: Mutex<RecentKeys<()>>,
}

impl Recent {
    pub(crate) fn new(most: usize, age: Duration) -> Self {
        Self { age, keys: Mutex::new(RecentKeys::new(most)) }
    }

    fn lock(&self) -> MutexGuard<'_, RecentKeys<()>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, key: PageKey) {
        if !self.age.is_zero() {
            self.lock().learn(key, ());
        }
    }

    pub(crate) fn has(&self, key: &PageKey) -> bool {
        self.lock().get(key).is_some_and(|((), age)| age < self.age)
    }

    pub(crate) fn forget(&self, key: &PageKey) {
        self.lock().forget(key);
    }

    pub(crate) fn forget_all(&self) {
        self.lock().forget_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> PageKey {
        PageKey::kv([number; 32])
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
