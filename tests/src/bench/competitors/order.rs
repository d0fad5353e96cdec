//! In which order pages are taken.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::bench::spec::Spec;

/// All numbers below a limit, again and again.
#[derive(Debug)]
pub(super) struct Order {
    numbers: Vec<u64>,
    at: usize,
}

impl Order {
    /// As `spec` has it.
    pub(super) fn new(spec: &Spec, limit: u64) -> Self {
        if spec.scattered { Self::shuffled(limit) } else { Self { numbers: (0..limit).collect(), at: 0 } }
    }

    pub(super) fn shuffled(limit: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(limit);
        let mut numbers: Vec<u64> = (0..limit).collect();
        for last in (1..numbers.len()).rev() {
            numbers.swap(last, (random.next_u64() % (last as u64 + 1)) as usize);
        }
        Self { numbers, at: 0 }
    }

    /// The next so many.
    pub(super) fn take(&mut self, count: usize) -> Vec<u64> {
        let taken = (0..count).map(|i| self.numbers[(self.at + i) % self.numbers.len()]).collect();
        self.at = (self.at + count) % self.numbers.len();
        taken
    }
}

/// Bytes that nothing compresses or shares.
pub(super) fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut noise);
    noise
}
