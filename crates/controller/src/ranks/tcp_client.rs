//! A rank that asks the coordinator.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use hicache_core::{Error, ErrorKind, Result};

use super::frame::{VALUE_BYTES, hello, read_value, value};
use super::{RankGroup, Topic};
use crate::sync::{lock, wait_for};

/// After a connection could not be made it is not tried again for so long; values are not agreed on meanwhile.
const RETRY: Duration = Duration::from_millis(100);

/// A rank other than 0 of a group of processes on one host. It connects when it is first asked, and again whenever
/// the connection was lost.
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
    /// Raised with each connection: the reader of an earlier one must not end a later one.
    connection: u64,
    not_before: Option<Instant>,
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

    fn send(&self, state: &mut State, topic: &Topic, given: u64, timeout: Duration) -> Result<()> {
        if state.stream.is_none() {
            self.connect(state, timeout)?;
        }
        let Some(stream) = &mut state.stream else { return Err(self.unavailable()) };
        stream.write_all(&value(topic, given)).map_err(|source| {
            state.stream = None;
            self.unavailable().with_source(source)
        })
    }

    fn unavailable(&self) -> Error {
        Error::new(
            ErrorKind::Unavailable,
            format!("the coordinator of the ranks at {} can't be asked", self.address),
        )
    }

    fn connect(&self, state: &mut State, timeout: Duration) -> Result<()> {
        let now = Instant::now();
        if state.not_before.is_some_and(|then| now < then) {
            return Err(self.unavailable());
        }
        state.not_before = Some(now + RETRY);
        let open = || {
            let mut stream = TcpStream::connect_timeout(&self.address, timeout)?;
            stream.set_nodelay(true)?;
            stream.set_write_timeout(Some(timeout))?;
            stream.write_all(&hello(self.rank, self.ranks))?;
            let reader = stream.try_clone()?;
            Ok((stream, reader))
        };
        let (stream, reader) =
            open().map_err(|source: std::io::Error| self.unavailable().with_source(source))?;
        state.connection += 1;
        let (shared, connection) = (Arc::clone(&self.shared), state.connection);
        std::thread::Builder::new()
            .name("hicache-rank".to_owned())
            .spawn(move || read(reader, &shared, connection))
            .map_err(|source| self.unavailable().with_source(source))?;
        state.stream = Some(stream);
        Ok(())
    }
}

/// Hands answers to those who wait, until the connection ends.
fn read(mut stream: TcpStream, shared: &Shared, connection: u64) {
    let mut frame = [0; VALUE_BYTES];
    while stream.read_exact(&mut frame).is_ok() {
        let (topic, decision) = read_value(&frame);
        if let Some(answer) = lock(&shared.state).waited.get_mut(&topic) {
            *answer = Some(decision);
        }
        shared.changed.notify_all();
    }
    let mut state = lock(&shared.state);
    if state.connection == connection {
        state.stream = None;
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
        let mut state = lock(&self.shared.state);
        self.send(&mut state, &topic, value, timeout)?;
        let connection = state.connection;
        state.waited.insert(topic, None);
        // An answer, or an end of the connection, after which none comes.
        let over = |state: &mut State| {
            state.waited.get(&topic).is_none_or(Option::is_some)
                || state.stream.is_none()
                || state.connection != connection
        };
        let mut state = wait_for(state, &self.shared.changed, timeout, over);
        let ended = over(&mut state);
        match state.waited.remove(&topic).flatten() {
            Some(decision) => Ok(decision),
            None if ended => Err(self.unavailable()),
            None => Err(Error::new(
                ErrorKind::Timeout,
                format!("the ranks did not agree within {} ms", timeout.as_millis()),
            )),
        }
    }
}

impl Drop for TcpRank {
    fn drop(&mut self) {
        if let Some(stream) = &lock(&self.shared.state).stream {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
