//! One SHA-256 message, laid out in place and compressed in long runs.
//!
//! `sha2::Sha256` takes byte slices, so tokens would be copied twice: into bytes, and behind the prior digest
//! into its block buffer. Writing each word straight to its place in the blocks, and padding there, leaves one
//! copy and mostly one call of the compression function a page. Measured on 64-token pages: 4.2 million a
//! second, against 3.6 million through `Sha256::update` and 3.9 million for `Sha256` over ready bytes.

use crate::Digest;
use sha2::block_api::compress256;

const BLOCK_BYTES: usize = 64;
/// Blocks that are collected before they are compressed: a page of up to 119 tokens is one run.
const RUN_BLOCKS: usize = 8;
const RUN_BYTES: usize = RUN_BLOCKS * BLOCK_BYTES;
const LENGTH_BYTES: usize = size_of::<u64>();

/// The initial state of SHA-256 (FIPS 180-4, section 5.3.3).
const INITIAL_STATE: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// A message being built. One value serves any number of messages, one after the other.
pub(crate) struct Message {
    state: [u32; 8],
    /// One block more than a run, because padding can spill over the last one.
    blocks: [[u8; BLOCK_BYTES]; RUN_BLOCKS + 1],
    /// Bytes of `blocks` in use; below `RUN_BYTES` between calls.
    used: usize,
    /// Bytes of the whole message so far.
    total: u64,
}

impl Message {
    pub(crate) fn new() -> Self {
        Self { state: INITIAL_STATE, blocks: [[0; BLOCK_BYTES]; RUN_BLOCKS + 1], used: 0, total: 0 }
    }

    /// Starts a new message, with the prior digest at its front if there is one.
    pub(crate) fn begin(&mut self, prior: Option<&Digest>) {
        self.state = INITIAL_STATE;
        self.used = 0;
        self.total = 0;
        if let Some(prior) = prior {
            self.blocks.as_flattened_mut()[..prior.len()].copy_from_slice(prior);
            self.used = prior.len();
            self.total = prior.len() as u64;
        }
    }

    /// Appends `count` items of `WIDTH` bytes. `write(first, slots)` writes the items from number `first` on,
    /// one a slot.
    ///
    /// All items of one message have the same width, a divisor of a digest's, so none straddles two runs.
    pub(crate) fn append<const WIDTH: usize>(
        &mut self,
        count: usize,
        mut write: impl FnMut(usize, &mut [[u8; WIDTH]]),
    ) {
        const { assert!(size_of::<Digest>().is_multiple_of(WIDTH)) };
        let mut first = 0;
        while first < count {
            let free = &mut self.blocks.as_flattened_mut()[self.used..RUN_BYTES];
            let (slots, _) = free.as_chunks_mut::<WIDTH>();
            let now = slots.len().min(count - first);
            write(first, &mut slots[..now]);
            first += now;
            self.used += now * WIDTH;
            if self.used == RUN_BYTES {
                compress256(&mut self.state, &self.blocks[..RUN_BLOCKS]);
                self.used = 0;
            }
        }
        self.total += (count * WIDTH) as u64;
    }

    /// Pads the message (FIPS 180-4, section 5.1.1) and returns its digest.
    pub(crate) fn finish(&mut self) -> Digest {
        let end = (self.used + 1 + LENGTH_BYTES).next_multiple_of(BLOCK_BYTES);
        let bytes = self.blocks.as_flattened_mut();
        bytes[self.used] = 0x80;
        bytes[self.used + 1..end - LENGTH_BYTES].fill(0);
        bytes[end - LENGTH_BYTES..end].copy_from_slice(&(self.total * 8).to_be_bytes());
        compress256(&mut self.state, &self.blocks[..end / BLOCK_BYTES]);

        let mut digest = [0; size_of::<Digest>()];
        for (bytes, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(self.state) {
            *bytes = word.to_be_bytes();
        }
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::Digest as _;

    /// Every length around the padding and run boundaries, with and without a prior, against `sha2::Sha256`.
    #[test]
    fn equals_sha256_at_every_length() {
        let prior = [0xa5; 32];
        let bytes: Vec<u8> = (0..4 * RUN_BYTES).map(|i| (i * 31 % 251) as u8).collect();
        let mut message = Message::new();
        for words in 0..bytes.len() / 4 {
            for prior in [None, Some(&prior)] {
                let input = &bytes[..words * 4];
                message.begin(prior);
                message.append::<4>(words, |first, slots| {
                    let bytes = slots.as_flattened_mut();
                    bytes.copy_from_slice(&input[first * 4..][..bytes.len()]);
                });
                let mut reference = sha2::Sha256::new();
                reference.update(prior.map_or(&[][..], |prior| prior));
                reference.update(input);
                assert_eq!(message.finish(), Digest::from(reference.finalize()), "{words} words");
            }
        }
    }
}
