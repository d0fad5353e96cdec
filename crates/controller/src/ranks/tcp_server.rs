//! The rank that decides: it collects the values of all, and answers each with the least.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::Read;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use hicache_core::{Error, ErrorKind, Result};

use super::frame::{HELLO_BYTES, VALUE_BYTES, read_hello, read_value, send, value};
use super::{RankGroup, Topic};
use crate::sync::{later, lock, wait_for};

/// Decisions that are kept for ranks that ask late.
const KEPT_DECISIONS: usize = 4096;
/// How often the worker looks for ranks that knock, and for topics whose time is over.
const TICK: Duration = Duration::from_millis(10);
/// Topics that may be open at once; what comes on top is decided at once, for 0.
const MOST_OPEN: usize = 4096;
/// Who knocks has so long to say who it is, and so many may knock at once.
const HELLO_TIMEOUT: Duration = Duration::from_secs(1);
const MOST_KNOCKING: usize = 64;
/// More ranks than any host has devices.
const MOST_RANKS: usize = 4096;

/// Rank 0 of a group of processes on one host.
#[derive(Debug)]
pub struct TcpCoordinator {
    shared: Arc<Shared>,
    address: SocketAddr,
}

#[derive(Debug)]
struct Shared {
    ranks: usize,
    timeout: Duration,
    table: Mutex<Table>,
    decided: Condvar,
    stopped: AtomicBool,
    knocking: AtomicUsize,
}

#[derive(Debug, Default)]
struct Table {
    open: HashMap<Topic, Open>,
    decisions: HashMap<Topic, u64>,
    /// Decided topics, the oldest first.
    order: VecDeque<Topic>,
    /// A connection for each rank but this one, with a number that tells it from earlier ones.
    connections: HashMap<usize, (u64, TcpStream)>,
    /// Ranks that were there once.
    known: Vec<usize>,
    /// Ranks that a topic was waited for in vain. They are not waited for again before they give a value.
    late: HashSet<usize>,
    next_connection: u64,
}

#[derive(Debug)]
struct Open {
    values: HashMap<usize, u64>,
    until: Instant,
}

impl Table {
    /// Takes a value, and decides if it was the last one or if one can't come.
    fn give(&mut self, shared: &Shared, rank: usize, topic: Topic, given: u64) {
        self.late.remove(&rank);
        if let Some(&decision) = self.decisions.get(&topic) {
            // Decided without this rank, or asked again by it.
            self.send(rank, &topic, decision);
            return;
        }
        let full = self.open.len() >= MOST_OPEN && !self.open.contains_key(&topic);
        let until = later(Instant::now(), shared.timeout);
        let open = self.open.entry(topic).or_insert_with(|| Open { values: HashMap::new(), until });
        open.values.insert(rank, given);
        let missing = |rank: &usize| !open.values.contains_key(rank);
        let lost = self.known.iter().any(|rank| !self.connections.contains_key(rank) && missing(rank));
        if full || lost || open.values.len() >= shared.ranks || self.late.iter().any(missing) {
            self.decide(shared, topic);
        }
    }

    fn decide(&mut self, shared: &Shared, topic: Topic) {
        let Some(open) = self.open.remove(&topic) else { return };
        let least = open.values.values().copied().min().unwrap_or(0);
        let decision = if open.values.len() >= shared.ranks { least } else { 0 };
        self.decisions.insert(topic, decision);
        self.order.push_back(topic);
        if self.order.len() > KEPT_DECISIONS
            && let Some(oldest) = self.order.pop_front()
        {
            self.decisions.remove(&oldest);
        }
        for rank in open.values.into_keys() {
            self.send(rank, &topic, decision);
        }
        shared.decided.notify_all();
    }

    fn send(&mut self, rank: usize, topic: &Topic, decision: u64) {
        let Some((_, stream)) = self.connections.get_mut(&rank) else { return };
        if !send(stream, &value(topic, decision)) {
            // Its reader notices, and takes it out.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Decides what has waited long enough, and what waits for the same ranks.
    fn expire(&mut self, shared: &Shared) {
        let now = Instant::now();
        for open in self.open.values().filter(|open| open.until <= now) {
            self.late.extend((0..shared.ranks).filter(|rank| !open.values.contains_key(rank)));
        }
        let over = |(topic, open): (&Topic, &Open)| {
            let late = self.late.iter().any(|rank| !open.values.contains_key(rank));
            (open.until <= now || late).then_some(*topic)
        };
        for topic in self.open.iter().filter_map(over).collect::<Vec<_>>() {
            self.decide(shared, topic);
        }
    }

    /// A rank's connection has ended: what waits for its value is decided.
    fn leave(&mut self, shared: &Shared, rank: usize, connection: u64) {
        if self.connections.get(&rank).is_none_or(|(number, _)| *number != connection) {
            return; // It has come back by another one.
        }
        self.connections.remove(&rank);
        let waits = |(topic, open): (&Topic, &Open)| (!open.values.contains_key(&rank)).then_some(*topic);
        for topic in self.open.iter().filter_map(waits).collect::<Vec<_>>() {
            self.decide(shared, topic);
        }
    }
}

impl TcpCoordinator {
    /// Listens at `address` for the other `ranks - 1` ranks. A value that has not come `timeout` after the first of its
    /// topic is not waited for; and a rank that was waited for in vain costs no further wait before it gives a value.
    ///
    /// # Errors
    /// `Config` for no ranks, `Unavailable` if nothing can listen there.
    pub fn listen(address: SocketAddr, ranks: usize, timeout: Duration) -> Result<Self> {
        if ranks == 0 || ranks > MOST_RANKS {
            return Err(Error::config(format!("ranks is {ranks}; a group has 1 to {MOST_RANKS}")));
        }
        let unavailable = |source: std::io::Error| {
            Error::new(ErrorKind::Unavailable, format!("ranks can't be coordinated at {address}"))
                .with_source(source)
        };
        let listener = TcpListener::bind(address).map_err(unavailable)?;
        listener.set_nonblocking(true).map_err(unavailable)?;
        let address = listener.local_addr().map_err(unavailable)?;
        let shared = Arc::new(Shared {
            ranks,
            timeout,
            table: Mutex::default(),
            decided: Condvar::new(),
            stopped: AtomicBool::new(false),
            knocking: AtomicUsize::new(0),
        });
        let worker = Arc::clone(&shared);
        let work = move || {
            while !worker.stopped.load(Ordering::Acquire) {
                while let Ok((stream, _)) = listener.accept() {
                    if worker.knocking.load(Ordering::Acquire) >= MOST_KNOCKING {
                        continue; // Turned away; a rank tries again.
                    }
                    let knock = Knock::new(&worker);
                    let serve = move || drop(serve(stream, knock));
                    // Without a thread the rank is not served, and its values don't come.
                    let _ = std::thread::Builder::new().name("hicache-rank".to_owned()).spawn(serve);
                }
                lock(&worker.table).expire(&worker);
                std::thread::sleep(TICK);
            }
        };
        std::thread::Builder::new().name("hicache-ranks".to_owned()).spawn(work).map_err(unavailable)?;
        Ok(Self { shared, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ranks that are connected now, without this one.
    pub fn connected(&self) -> usize {
        lock(&self.shared.table).connections.len()
    }
}

/// Somebody who has not said who it is.
struct Knock(Arc<Shared>);

impl Knock {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.knocking.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(shared))
    }
}

impl Drop for Knock {
    fn drop(&mut self) {
        self.0.knocking.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Reads the values of one rank until its connection ends.
fn serve(mut stream: TcpStream, knock: Knock) -> std::io::Result<()> {
    let shared = &Arc::clone(&knock.0);
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(HELLO_TIMEOUT))?;
    let mut hello = [0; HELLO_BYTES];
    stream.read_exact(&mut hello)?;
    let Some((rank, ranks)) = read_hello(&hello) else { return Ok(()) };
    if ranks != shared.ranks || rank == 0 || rank >= ranks {
        tracing::warn!(rank, ranks, expected = shared.ranks, "a rank of another group was turned away");
        return stream.shutdown(Shutdown::Both);
    }
    stream.set_read_timeout(None)?;
    drop(knock);
    let connection = {
        let mut table = lock(&shared.table);
        table.next_connection += 1;
        let number = table.next_connection;
        let writer = stream.try_clone()?;
        if let Some((_, before)) = table.connections.insert(rank, (number, writer)) {
            let _ = before.shutdown(Shutdown::Both);
        }
        if !table.known.contains(&rank) {
            table.known.push(rank);
        }
        number
    };
    let mut frame = [0; VALUE_BYTES];
    let result = loop {
        if let Err(error) = stream.read_exact(&mut frame) {
            break Err(error);
        }
        let (topic, given) = read_value(&frame);
        lock(&shared.table).give(shared, rank, topic, given);
    };
    lock(&shared.table).leave(shared, rank, connection);
    result
}

impl RankGroup for TcpCoordinator {
    fn rank(&self) -> usize {
        0
    }

    fn ranks(&self) -> usize {
        self.shared.ranks
    }

    fn minimum(&self, topic: Topic, value: u64, timeout: Duration) -> Result<u64> {
        let mut table = lock(&self.shared.table);
        table.give(&self.shared, 0, topic, value);
        let decided = |table: &mut Table| table.decisions.contains_key(&topic);
        let table = wait_for(table, &self.shared.decided, timeout, decided);
        table.decisions.get(&topic).copied().ok_or_else(|| {
            Error::new(
                ErrorKind::Timeout,
                format!("the ranks did not agree within {} ms", timeout.as_millis()),
            )
        })
    }
}

impl Drop for TcpCoordinator {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        for (_, stream) in lock(&self.shared.table).connections.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
