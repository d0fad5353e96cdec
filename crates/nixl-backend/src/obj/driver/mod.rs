//! The storage's thread: takes calls, has objects moved and asked for, and answers each page when it has ended or its
//! time is over.
//!
//! Nothing here blocks but the wait for something to happen. What the plugin does not finish in time keeps its buffer,
//! which is the storage's own, and not the caller's memory.

mod batch;
mod exists;
mod job;
mod pages;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use hicache_core::{Completion, PageBatch, PageKey, PageRequest, Result, StoreOptions};
use tokio::sync::oneshot;

use self::batch::Batches;
use self::exists::Asking;
use self::job::{BadKeys, Chain, Job, Moving, Work};
use super::breaker::{Breaker, Breakers};
use super::heads::HeadThreads;
use super::shared::Shared;
use super::staging::Staging;
use super::wire::{Wire, Wires};
use crate::ending;

/// Pauses between looks at what is under way; the shortest after something has happened.
const FIRST_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(1);
/// The wait where only deadlines can come.
const IDLE: Duration = Duration::from_millis(20);

/// What the thread is told.
pub(crate) enum Message {
    Load(Vec<PageRequest>, Completion<PageBatch>),
    Store(Vec<PageRequest>, StoreOptions, Completion<PageBatch>),
    Exists {
        keys: Vec<PageKey>,
        prefix: bool,
        reply: oneshot::Sender<Result<Vec<bool>>>,
    },
    /// An answer of [`HeadThreads`].
    Head {
        number: u64,
        answer: Result<bool>,
    },
    /// Answer when nothing is under way; `None` where nobody waits.
    Close(Option<oneshot::Sender<()>>),
}

/// Why an object is asked for.
enum Purpose {
    /// Whether it need not be stored.
    BeforeStore(Job),
    /// Whether it failed or is missing.
    AfterLoad(Job, hicache_core::Error),
    /// Part of a call of exists.
    Exists { call: u64, index: usize },
}

pub(crate) struct Driver {
    shared: Arc<Shared>,
    wire: Box<dyn Wire>,
    inbox: Receiver<Message>,
    heads: HeadThreads,
    staging: Staging,
    breakers: Breakers,
    bad: BadKeys,
    batches: Batches,
    /// Pages that wait for a place among those that move.
    ready: VecDeque<Job>,
    moving: Vec<Moving>,
    /// Stores under way, by key, and those of the same key that wait for them.
    stores: HashMap<PageKey, Chain>,
    /// Objects that are asked for, by number.
    purposes: HashMap<u64, Purpose>,
    next_number: u64,
    /// Of those, the ones that no thread has taken yet.
    unasked: VecDeque<(u64, String)>,
    asking: HashMap<u64, Asking>,
    next_call: u64,
    closing: Option<Instant>,
    closers: Vec<oneshot::Sender<()>>,
}

impl Driver {
    pub(crate) fn new(
        shared: Arc<Shared>,
        wires: Wires,
        inbox: Receiver<Message>,
        sender: &Sender<Message>,
    ) -> Result<Self> {
        let heads = HeadThreads::start(wires.heads, wires.more_heads, sender)?;
        let most = usize::try_from(shared.config.staging_bytes).unwrap_or(usize::MAX);
        Ok(Self {
            wire: wires.wire,
            inbox,
            heads,
            staging: Staging::new(most),
            shared,
            breakers: Breakers::default(),
            bad: BadKeys::default(),
            batches: Batches::default(),
            ready: VecDeque::new(),
            moving: Vec::new(),
            stores: HashMap::new(),
            purposes: HashMap::new(),
            next_number: 0,
            unasked: VecDeque::new(),
            asking: HashMap::new(),
            next_call: 0,
            closing: None,
            closers: Vec::new(),
        })
    }

    /// Until it is closed and nothing is under way.
    pub(crate) fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let inside = ending::enter();
            self.pump();
            if self.is_over() {
                self.closers.drain(..).for_each(|closer| _ = closer.send(()));
                drop(self);
                return drop(inside);
            }
            drop(inside);
            let received = match (self.moving.is_empty(), self.has_deadlines()) {
                (false, _) => self.inbox.recv_timeout(pause),
                (true, true) => self.inbox.recv_timeout(IDLE),
                (true, false) => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let _inside = ending::enter();
            pause = (pause * 2).min(LONGEST_PAUSE);
            if let Ok(message) = received {
                self.take(message);
                while let Ok(message) = self.inbox.try_recv() {
                    self.take(message);
                }
                pause = FIRST_PAUSE;
            }
            if self.poll() {
                pause = FIRST_PAUSE;
            }
            self.expire(Instant::now());
            self.publish();
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Load(requests, completion) => self.take_load(requests, completion),
            Message::Store(requests, options, completion) => self.take_store(requests, options, completion),
            Message::Exists { keys, prefix, reply } => self.take_exists(keys, prefix, reply),
            Message::Head { number, answer } => self.take_head(number, answer),
            Message::Close(reply) => {
                self.closing.get_or_insert_with(Instant::now);
                self.closers.extend(reply);
            }
        }
    }

    /// Begins what can begin.
    fn pump(&mut self) {
        // What is over its time keeps its buffer, and no place: a store that hangs must not end this one. While the
        // store is left alone nothing waits for a place.
        while self.refuse_ready() {}
        while self.has_place() && self.begin_next() {}
        self.ask_next();
    }

    fn breaker(&mut self, work: Work) -> &mut Breaker {
        match work {
            Work::Load => &mut self.breakers.loads,
            Work::Store { .. } => &mut self.breakers.stores,
        }
    }

    /// Whether another page may move.
    fn has_place(&self) -> bool {
        let moving = self.moving.iter().filter(|moving| !moving.overdue).count();
        moving < self.shared.config.concurrency
    }

    fn has_deadlines(&self) -> bool {
        !(self.batches.is_empty() && self.asking.is_empty()) || self.closing.is_some()
    }

    /// Whether the thread can end: what the plugin does not finish is left to it after a while.
    fn is_over(&self) -> bool {
        let Some(since) = self.closing else { return false };
        let longest = Duration::from_millis(self.shared.config.store_timeout_ms);
        let answered = self.batches.is_empty() && self.asking.is_empty();
        answered && (self.moving.is_empty() || since.elapsed() > longest)
    }

    /// Answers what is over its time. What waits has none: those before it end, or are given up.
    fn expire(&mut self, now: Instant) {
        self.expire_pages(now);
        self.expire_questions(now);
    }

    fn publish(&self) {
        let counts = &self.shared.counts;
        counts.lost_bytes.store(self.staging.lost() as u64, Ordering::Relaxed);
        counts.breaker_opened.store(self.breakers.opened(), Ordering::Relaxed);
        counts.breakers_open.store(self.breakers.open(), Ordering::Relaxed);
    }
}
