//! A rank that asks the coordinator.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use hicache_core::{Error, ErrorKind, Result};

use super::frame::{VALUE_BYTES, hello, read_value, send, value};
use super::{RankGroup, Topic};
use crate::sync::{later, lock, wait_for};

/// After a connection could not be made it is not tried again for so long; values are not agreed on meanwhile.
const RETRY: Duration = Duration::from_millis(100);
/// A coordinator that has not answered in time is waited for only so long before it is heard of again.
const SILENT: Duration = Duration::from_millis(20);

/// A rank other than 0 of a group of processes on one host. It connects when it is first asked, and again whenever
/// the connection was lost. What was asked when that happened is asked once more: the coordinator keeps its decisions.
#[derive(Debug)]
pub struct TcpRank {
    rank: usize,
    ranks: usize,
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stream: Option<TcpStream>,
    /// Somebody connects, without the lock: the others wait, each as long as it may.
    connecting: bool,
    /// Raised with each connection: the reader of an earlier one must not end a later one.
    connection: u64,
    not_before: Option<Instant>,
    /// It was waited for in vain, and has said nothing since.
    silent: bool,
    /// Topics that are waited for, and their answers.
    waited: HashMap<Topic, Option<u64>>,
}

impl TcpRank {
    /// Rank `rank` of `ranks`, whose coordinator listens at `address`.
    ///
    /// # Errors
    /// `Config` for rank 0, which coordinates, and for one that the group does not have.
    pub fn new(address: SocketAddr, rank: usize, ranks: usize) -> Result<Self> {
        if rank == 0 || rank >= ranks {
            return Err(Error::config(format!(
                "rank is {rank} of {ranks}; the others than the coordinator are 1 to {}",
                ranks.saturating_sub(1)
            )));
        }
        Ok(Self { rank, ranks, address, shared: Arc::default() })
    }

    fn unavailable(&self) -> Error {
        Error::new(
            ErrorKind::Unavailable,
            format!("the coordinator of the ranks at {} can't be asked", self.address),
        )
    }

    fn late(timeout: Duration) -> Error {
        let text = format!("the ranks did not agree within {} ms", timeout.as_millis());
        Error::new(ErrorKind::Timeout, text)
    }

    /// The state with a connection, which is made if there is none, until then.
    fn connected(&self, until: Instant, timeout: Duration) -> Result<MutexGuard<'_, State>> {
        let left = || until.saturating_duration_since(Instant::now());
        let mut state = lock(&self.shared.state);
        if state.connecting {
            state = wait_for(state, &self.shared.changed, left(), |state: &mut State| !state.connecting);
        }
        if state.stream.is_some() {
            return Ok(state);
        }
        if state.connecting || left().is_zero() {
            return Err(Self::late(timeout));
        }
        if state.not_before.is_some_and(|then| Instant::now() < then) {
            return Err(self.unavailable());
        }
        state.connecting = true;
        drop(state);
        let opened = self.open(left());
        let mut state = lock(&self.shared.state);
        state.connecting = false;
        self.shared.changed.notify_all();
        let begun = opened.and_then(|(stream, reader)| {
            state.connection += 1;
            let (shared, connection) = (Arc::clone(&self.shared), state.connection);
            let read = move || read(reader, &shared, connection);
            std::thread::Builder::new().name("hicache-rank".to_owned()).spawn(read)?;
            Ok(stream)
        });
        match begun {
            Ok(stream) => state.stream = Some(stream),
            Err(source) => {
                state.not_before = Some(Instant::now() + RETRY);
                return Err(self.unavailable().with_source(source));
            }
        }
        Ok(state)
    }

    fn open(&self, timeout: Duration) -> std::io::Result<(TcpStream, TcpStream)> {
        let mut stream = TcpStream::connect_timeout(&self.address, timeout.max(Duration::from_millis(1)))?;
        stream.set_nodelay(true)?;
        // Into an empty buffer: it is never waited for.
        stream.write_all(&hello(self.rank, self.ranks))?;
        let reader = stream.try_clone()?;
        Ok((stream, reader))
    }

    /// Asks once. `None` if the connection was lost before the answer.
    fn ask(&self, topic: Topic, given: u64, until: Instant, timeout: Duration) -> Result<Option<u64>> {
        let mut state = self.connected(until, timeout)?;
        let sent = state.stream.as_ref().is_some_and(|stream| send(stream, &value(&topic, given)));
        if !sent {
            // It does not read: nothing can be asked of it.
            if let Some(stream) = state.stream.take() {
                let _ = stream.shutdown(Shutdown::Both);
            }
            return Ok(None);
        }
        let connection = state.connection;
        state.waited.insert(topic, None);
        // An answer, or an end of the connection, after which none comes.
        let over = |state: &mut State| {
            state.waited.get(&topic).is_none_or(Option::is_some)
                || state.stream.is_none()
                || state.connection != connection
        };
        let mut left = until.saturating_duration_since(Instant::now());
        if state.silent {
            left = left.min(SILENT);
        }
        let mut state = wait_for(state, &self.shared.changed, left, over);
        let ended = over(&mut state);
        state.silent |= !ended;
        match state.waited.remove(&topic).flatten() {
            Some(decision) => Ok(Some(decision)),
            None if ended => Ok(None),
            None => Err(Self::late(timeout)),
        }
    }
}

/// Hands answers to those who wait, until the connection ends.
fn read(mut stream: TcpStream, shared: &Shared, connection: u64) {
    let mut frame = [0; VALUE_BYTES];
    while stream.read_exact(&mut frame).is_ok() {
        let (topic, decision) = read_value(&frame);
        let mut state = lock(&shared.state);
        state.silent = false;
        if let Some(answer) = state.waited.get_mut(&topic) {
            *answer = Some(decision);
        }
        drop(state);
        shared.changed.notify_all();
    }
    let mut state = lock(&shared.state);
    if state.connection == connection {
        state.stream = None;
        state.silent = false;
    }
    drop(state);
    shared.changed.notify_all();
}

impl RankGroup for TcpRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn minimum(&self, topic: Topic, value: u64, timeout: Duration) -> Result<u64> {
        let until = later(Instant::now(), timeout);
        // The second time it may be told what was decided when the connection was lost.
        for _ in 0..2 {
            if let Some(decision) = self.ask(topic, value, until, timeout)? {
                return Ok(decision);
            }
        }
        Err(self.unavailable())
    }
}

impl Drop for TcpRank {
    fn drop(&mut self) {
        if let Some(stream) = &lock(&self.shared.state).stream {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
