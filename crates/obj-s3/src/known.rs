//! What is known of keys, so that they need not be asked for.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hicache_core::{PageKey, RecentKeys};

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
    present_age: Duration,
    absent_age: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    keys: RecentKeys<Known>,
    /// Keys of which somebody waits for an answer: by how many, and how often each has changed meanwhile.
    asked: HashMap<PageKey, (usize, u64)>,
    /// How often all keys changed.
    cleared: u64,
}

/// A store is being asked about a key, or told to change it.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    known: &'a KnownKeys,
    key: PageKey,
    changes: u64,
}

impl Asked<'_> {
    /// Remembers what the store said, unless the key has changed since it was asked: then the answer may be an old one.
    pub(crate) fn learn(&self, known: Known) {
        let mut state = self.known.lock();
        if state.changes(&self.key) == self.changes {
            state.keys.learn(self.key, known);
        }
    }

    /// The store did as it was told to, so that now the key is as `known` says. If the key has changed since it was
    /// told, nobody knows which came last.
    pub(crate) fn changed(&self, known: Known) {
        let mut state = self.known.lock();
        let is_last = state.changes(&self.key) == self.changes;
        state.forget(&self.key);
        if is_last {
            state.keys.learn(self.key, known);
        }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let mut state = self.known.lock();
        if let Some((askers, _)) = state.asked.get_mut(&self.key) {
            *askers -= 1;
            if *askers == 0 {
                state.asked.remove(&self.key);
            }
        }
    }
}

impl State {
    fn changes(&self, key: &PageKey) -> u64 {
        self.cleared + self.asked.get(key).map_or(0, |(_, changes)| *changes)
    }

    fn forget(&mut self, key: &PageKey) {
        if let Some((_, changes)) = self.asked.get_mut(key) {
            *changes += 1;
        }
        self.keys.forget(key);
    }
}

impl KnownKeys {
    pub(crate) fn new(most: usize, present_age_ms: u64, absent_age_ms: u64) -> Self {
        Self {
            present_age: Duration::from_millis(present_age_ms),
            absent_age: Duration::from_millis(absent_age_ms),
            state: Mutex::new(State { keys: RecentKeys::new(most), asked: HashMap::new(), cleared: 0 }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called before the store is asked about the key, or told to change it.
    pub(crate) fn ask(&self, key: &PageKey) -> Asked<'_> {
        let mut state = self.lock();
        state.asked.entry(*key).or_default().0 += 1;
        Asked { known: self, key: *key, changes: state.changes(key) }
    }

    /// The keys change, or may have.
    pub(crate) fn forget(&self, keys: &[PageKey]) {
        let mut state = self.lock();
        keys.iter().for_each(|key| state.forget(key));
    }

    pub(crate) fn get(&self, key: &PageKey) -> Option<Known> {
        let state = self.lock();
        let (known, age) = state.keys.get(key)?;
        let most = if known == Known::Absent { self.absent_age } else { self.present_age };
        (age < most).then_some(known)
    }

    /// Every key changes, or may have.
    pub(crate) fn forget_all(&self) {
        let mut state = self.lock();
        state.cleared += 1;
        state.keys.forget_all();
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
            known.ask(&key(number)).learn(Known::Present);
        }
        known.ask(&key(4)).learn(Known::Absent);
        assert_eq!(known.get(&key(1)), None);
        assert_eq!(known.get(&key(3)), Some(Known::Present));
        assert_eq!(known.get(&key(4)), Some(Known::Absent));
        std::thread::sleep(Duration::from_millis(25));
        assert_eq!(known.get(&key(4)), None);
        assert_eq!(known.get(&key(3)), Some(Known::Present));
        known.forget_all();
        assert_eq!(known.get(&key(3)), None);
        assert!(known.lock().asked.is_empty());
    }

    #[test]
    fn an_answer_from_before_a_change_is_not_remembered() {
        let known = KnownKeys::new(100, 3_600_000, 3_600_000);
        let (one, other) = (key(1), key(2));
        let asked = known.ask(&one);
        known.forget(&[one]);
        asked.learn(Known::Present);
        assert_eq!(known.get(&one), None, "it was deleted meanwhile");
        let asked = (known.ask(&one), known.ask(&other));
        known.ask(&one).changed(Known::Present);
        asked.0.learn(Known::Absent);
        asked.1.learn(Known::Absent);
        assert_eq!((known.get(&one), known.get(&other)), (Some(Known::Present), Some(Known::Absent)));
        // A store and a deletion at a time: nobody knows which came last.
        let (stored, deleted) = (known.ask(&one), known.ask(&one));
        stored.changed(Known::Present);
        deleted.changed(Known::Absent);
        assert_eq!(known.get(&one), None);
        let asked = known.ask(&other);
        known.forget_all();
        asked.learn(Known::Present);
        assert_eq!(known.get(&other), None);
    }
}
