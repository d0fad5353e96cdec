//! Ranks that hold parts of the same pages and must use the same number of them.

mod tcp_client;
mod tcp_server;

use std::fmt;
use std::time::Duration;

use hicache_core::Result;
use hicache_hashing::Digest;

pub use tcp_client::TcpRank;
pub use tcp_server::TcpCoordinator;

/// What an agreement is about. Equal on all ranks, and different for each agreement.
pub type Topic = Digest;

/// A group of ranks, seen from one of them.
///
/// # Contract
/// Whatever other ranks do, [`RankGroup::minimum`] returns within its timeout, but for what threads take to wake up. If a rank fails, lags behind or
/// does not ask, the answer is 0 or an error, which callers take for 0: fewer pages are used, and nobody waits.
pub trait RankGroup: Send + Sync + fmt::Debug + 'static {
    /// This rank, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn ranks(&self) -> usize;

    /// The least `value` that any rank gives for `topic`. Blocks.
    ///
    /// # Errors
    /// `Timeout` and `Unavailable`: nothing was agreed.
    fn minimum(&self, topic: Topic, value: u64, timeout: Duration) -> Result<u64>;
}

const _: Option<&dyn RankGroup> = None; // The trait is dyn-compatible.

/// A group of one.
#[derive(Clone, Copy, Debug, Default)]
pub struct SingleRank;

impl RankGroup for SingleRank {
    fn rank(&self) -> usize {
        0
    }

    fn ranks(&self) -> usize {
        1
    }

    fn minimum(&self, _topic: Topic, value: u64, _timeout: Duration) -> Result<u64> {
        Ok(value)
    }
}

/// What ranks say to the coordinator: first who they are, then values.
mod frame {
    use std::net::TcpStream;

    use rustix::net::SendFlags;

    use super::Topic;

    /// Sends without waiting. False if the other side does not take it: it is of no use any more then.
    pub(super) fn send(stream: &TcpStream, frame: &[u8; VALUE_BYTES]) -> bool {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        rustix::net::send(stream, frame, flags).is_ok_and(|sent| sent == VALUE_BYTES)
    }

    pub(super) const GREETING: [u8; 8] = *b"hicache1";
    /// Greeting, rank, ranks.
    pub(super) const HELLO_BYTES: usize = 16;
    /// Topic, value. Both ways.
    pub(super) const VALUE_BYTES: usize = 40;

    pub(super) fn hello(rank: usize, ranks: usize) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..8].copy_from_slice(&GREETING);
        bytes[8..12].copy_from_slice(&(rank as u32).to_le_bytes());
        bytes[12..].copy_from_slice(&(ranks as u32).to_le_bytes());
        bytes
    }

    /// Rank and ranks; `None` for anything else than a greeting.
    pub(super) fn read_hello(bytes: &[u8; HELLO_BYTES]) -> Option<(usize, usize)> {
        let number = |at: usize| {
            let word: [u8; 4] = bytes[at..at + 4].try_into().ok()?;
            usize::try_from(u32::from_le_bytes(word)).ok()
        };
        (bytes[..8] == GREETING).then_some(())?;
        Some((number(8)?, number(12)?))
    }

    pub(super) fn value(topic: &Topic, value: u64) -> [u8; VALUE_BYTES] {
        let mut bytes = [0; VALUE_BYTES];
        bytes[..32].copy_from_slice(topic);
        bytes[32..].copy_from_slice(&value.to_le_bytes());
        bytes
    }

    pub(super) fn read_value(bytes: &[u8; VALUE_BYTES]) -> (Topic, u64) {
        let (mut topic, mut value) = ([0; 32], [0; 8]);
        topic.copy_from_slice(&bytes[..32]);
        value.copy_from_slice(&bytes[32..]);
        (topic, u64::from_le_bytes(value))
    }
}
