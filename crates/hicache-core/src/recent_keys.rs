//! Keys of which something was learned of late.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::key::PageKey;

/// What was learned of keys, and how long ago: as many as there is room for, the oldest go first.
#[derive(Debug)]
pub struct RecentKeys<V> {
    most: usize,
    keys: HashMap<PageKey, (V, Instant)>,
    /// In the order in which they came. An entry whose time is not the key's own no longer counts.
    order: VecDeque<(Instant, PageKey)>,
}

impl<V: Copy> RecentKeys<V> {
    /// Room for `most` keys.
    pub fn new(most: usize) -> Self {
        Self { most, keys: HashMap::new(), order: VecDeque::new() }
    }

    /// Learns something of a key, in place of what was known.
    pub fn learn(&mut self, key: PageKey, value: V) {
        let now = Instant::now();
        self.keys.insert(key, (value, now));
        self.order.push_back((now, key));
        while self.order.len() > self.most {
            let Some((since, key)) = self.order.pop_front() else { break };
            if self.keys.get(&key).is_some_and(|entry| entry.1 == since) {
                self.keys.remove(&key);
            }
        }
    }

    /// What is known of a key, and for how long.
    pub fn get(&self, key: &PageKey) -> Option<(V, Duration)> {
        self.keys.get(key).map(|(value, since)| (*value, since.elapsed()))
    }

    /// Forgets a key.
    pub fn forget(&mut self, key: &PageKey) {
        self.keys.remove(key);
    }

    /// Forgets all keys.
    pub fn forget_all(&mut self) {
        self.keys.clear();
        self.order.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first_and_room_is_bounded() {
        let key = |number: u8| PageKey::kv([number; 32]);
        let mut recent = RecentKeys::new(3);
        for number in [1, 2, 1, 3, 4] {
            recent.learn(key(number), number);
        }
        // 1 came again before 3 and 4, so it is 2 that went.
        let known = [1, 2, 3, 4].map(|number| recent.get(&key(number)).map(|(value, _)| value));
        assert_eq!(known, [Some(1), None, Some(3), Some(4)]);
        std::thread::sleep(Duration::from_millis(5));
        assert!(recent.get(&key(1)).is_some_and(|(_, age)| age >= Duration::from_millis(5)));
        recent.forget(&key(1));
        assert!(recent.get(&key(1)).is_none());
        // What was forgotten leaves a place, which is taken again.
        for _ in 0..1000 {
            recent.learn(key(9), 9);
            recent.forget(&key(9));
        }
        assert!(recent.order.len() <= 3);
        recent.forget_all();
        assert!(recent.get(&key(4)).is_none());
    }
}
