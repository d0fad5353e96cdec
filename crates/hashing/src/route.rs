//! Which of several roots (one a disk) holds a page.

use crate::Digest;
use sha2::{Digest as _, Sha256};

/// Keeps root ids apart from all other digests.
const DOMAIN: &[u8] = b"hicache-root-v1";

/// Who a root is, whatever its place in the list: pages stay where they are when roots are listed in another
/// order, and follow a root that keeps its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootId(u64);

impl RootId {
    /// The id of the root with this name: the first 8 bytes, little-endian, of SHA-256 over `"hicache-root-v1"`
    /// and the name's UTF-8.
    ///
    /// The name has to outlive restarts, so it is one that is kept on the root or in the configuration.
    /// Two names have the same id by accident with a probability of 2⁻⁶⁴; then the first of the two in the list
    /// gets the pages of both.
    pub fn of(name: &str) -> Self {
        let digest: Digest = Sha256::new_with_prefix(DOMAIN).chain_update(name).finalize().into();
        Self(u64::from_le_bytes(*digest.first_chunk().expect("a digest is longer than 8 bytes")))
    }

    /// The root with this id, for one that was kept as a number. Ids should look random, as those of
    /// [`of`](Self::of) do.
    pub const fn from_u64(id: u64) -> Self {
        Self(id)
    }

    /// The id as a number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// The index in `roots` of the root that holds the page with this digest.
///
/// Rendezvous hashing: each root gets a weight from its id and the digest, and the heaviest holds the page. So
/// a new root takes its share, 1/n of the pages, from the others and moves nothing between them; a root that
/// goes gives its pages to the others evenly. The order of `roots` makes no difference to which root it is.
///
/// The weight is the 64-bit finaliser of SplitMix64 over the last 8 bytes of the digest, little-endian, xor the
/// id. The *last* bytes, so that a hash table of one root that takes the first ones still sees all their values.
///
/// O(roots), one to two nanoseconds each; with one root nothing is computed. With none the answer is 0: whoever
/// opens a store refuses an empty list, so there is nothing to index with it.
///
/// Source: Thaler and Ravishankar, "A name-based mapping scheme for rendezvous", 1996; Steele, Lea and Flood,
/// "Fast splittable pseudorandom number generators", 2014.
///
/// ```
/// use hicache_hashing::{RootId, page_hash, route};
///
/// let mut roots = vec![RootId::of("disk-0"), RootId::of("disk-1"), RootId::of("disk-2")];
/// let page = page_hash(None, &[1u32, 2, 3, 4]);
/// let before = roots[route(&page, &roots)];
///
/// roots.reverse();
/// assert_eq!(roots[route(&page, &roots)], before);
/// ```
pub fn route(digest: &Digest, roots: &[RootId]) -> usize {
    let Some((first, others)) = roots.split_first().filter(|(_, others)| !others.is_empty()) else {
        return 0;
    };
    let key = u64::from_le_bytes(*digest.last_chunk().expect("a digest is longer than 8 bytes"));
    let (mut heaviest, mut most) = (0, mix(key ^ first.0));
    for (at, root) in others.iter().enumerate() {
        let weight = mix(key ^ root.0);
        if weight > most {
            (heaviest, most) = (at + 1, weight);
        }
    }
    heaviest
}

/// The finaliser of SplitMix64: a bijection in which every input bit reaches every output bit.
const fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text_key_digest;

    const KEYS: u64 = 20_000;

    fn roots(count: usize) -> Vec<RootId> {
        (0..count).map(|n| RootId::of(&format!("disk-{n}"))).collect()
    }

    fn keys() -> impl Iterator<Item = Digest> {
        (0..KEYS).map(|n| Sha256::digest(n.to_le_bytes()).into())
    }

    /// Computed in Python. Pages are on disk where these say: for ever.
    #[test]
    fn vectors() {
        let ids: Vec<u64> = roots(4).iter().map(|root| root.get()).collect();
        let expected =
            [0x562b_36b1_767e_d299, 0xdaf2_2062_f340_129d, 0x2d39_4777_da67_13cc, 0xb082_2f22_42bd_3bdc];
        assert_eq!(ids, expected);

        let routed: Vec<usize> = keys().take(16).map(|key| route(&key, &roots(4))).collect();
        assert_eq!(routed, [0, 1, 3, 2, 2, 3, 3, 2, 2, 0, 2, 1, 0, 0, 1, 0]);
    }

    #[test]
    fn one_root_none_and_the_same_twice() {
        let key = text_key_digest("any");
        assert_eq!(route(&key, &[]), 0);
        assert_eq!(route(&key, &roots(1)), 0);
        for key in keys().take(100) {
            assert_eq!(route(&key, &[RootId::of("twin"); 3]), 0);
        }
    }

    /// Shares within 5 standard deviations of even.
    #[test]
    fn pages_are_spread_evenly() {
        for count in [2, 3, 4, 8, 16] {
            let roots = roots(count);
            let mut held = vec![0u64; count];
            keys().for_each(|key| held[route(&key, &roots)] += 1);
            let mean = KEYS as f64 / count as f64;
            let deviation = (mean * (1.0 - 1.0 / count as f64)).sqrt();
            for share in held {
                assert!(
                    (share as f64 - mean).abs() < 5.0 * deviation,
                    "{share} of {mean} with {count} roots"
                );
            }
        }
    }

    /// A root more: nothing moves but to it, and what moves is its share.
    #[test]
    fn a_new_root_takes_only_its_share() {
        for count in [1, 2, 4, 8] {
            let (before, after) = (roots(count), roots(count + 1));
            let mut moved = 0;
            for key in keys() {
                let (old, new) = (route(&key, &before), route(&key, &after));
                if old != new {
                    assert_eq!(new, count);
                    moved += 1;
                }
            }
            let share = KEYS as f64 / (count + 1) as f64;
            assert!((moved as f64 - share).abs() < 0.05 * share, "{moved} moved of {share}");
        }
    }

    /// A root less: only its own pages move, and to all others evenly.
    #[test]
    fn a_lost_root_gives_its_pages_to_all_others() {
        let before = roots(4);
        let after = &before[..3];
        let mut taken = [0u64; 3];
        for key in keys() {
            let (old, new) = (route(&key, &before), route(&key, after));
            if old == 3 {
                taken[new] += 1;
            } else {
                assert_eq!(new, old);
            }
        }
        let share = KEYS as f64 / 12.0;
        for pages in taken {
            assert!((pages as f64 - share).abs() < 0.15 * share, "{pages} taken of {share}");
        }
    }

    #[test]
    fn order_makes_no_difference() {
        let (forward, mut backward) = (roots(5), roots(5));
        backward.reverse();
        for key in keys().take(1000) {
            assert_eq!(forward[route(&key, &forward)], backward[route(&key, &backward)]);
        }
    }
}
