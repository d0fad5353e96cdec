//! Threads that ask which objects are there: the plugin blocks until it knows.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use hicache_core::{Error, ErrorKind, Result};

use super::driver::Message;
use super::wire::{Heads, MoreHeads};
use crate::ending;

/// Threads at most, for each one at first: those that hang are replaced up to here.
const MOST: usize = 3;

type Questions = Arc<Mutex<Receiver<(u64, String)>>>;

/// A question that a thread has taken.
struct Asked {
    since: Instant,
    until: Instant,
    overdue: bool,
}

/// How a question ended.
pub(crate) struct Ended {
    pub(crate) took: Duration,
    /// It was given up before.
    pub(crate) overdue: bool,
}

/// The threads. They end when this is dropped, each after what it is asking.
pub(crate) struct HeadThreads {
    questions: Sender<(u64, String)>,
    waiting: Questions,
    answers: Sender<Message>,
    more: MoreHeads,
    /// As many are to be there that do not hang.
    wanted: usize,
    threads: usize,
    under_way: HashMap<u64, Asked>,
}

impl HeadThreads {
    pub(crate) fn start(
        heads: Vec<Box<dyn Heads>>,
        more: MoreHeads,
        answers: &Sender<Message>,
    ) -> Result<Self> {
        let (questions, receiver) = channel();
        let mut own = Self {
            questions,
            waiting: Arc::new(Mutex::new(receiver)),
            answers: answers.clone(),
            more,
            wanted: heads.len(),
            threads: 0,
            under_way: HashMap::new(),
        };
        heads.into_iter().try_for_each(|heads| own.spawn(Some(heads)))?;
        Ok(own)
    }

    /// Starts a thread; one without a backend makes it when it is asked first, since that may block too.
    fn spawn(&mut self, mut heads: Option<Box<dyn Heads>>) -> Result<()> {
        let (waiting, answers, more) =
            (Arc::clone(&self.waiting), self.answers.clone(), Arc::clone(&self.more));
        let ask = move || {
            while let Some((number, object)) = next(&waiting) {
                let inside = ending::enter();
                let answer = there(&mut heads, &more, object);
                drop(inside);
                if answers.send(Message::Head { number, answer }).is_err() {
                    break;
                }
            }
            let _inside = ending::enter();
            drop(heads);
        };
        thread::Builder::new().name("hicache-nixl-head".into()).spawn(ask).map_err(|error| {
            Error::new(ErrorKind::Unavailable, "no threads for the object store").with_source(error)
        })?;
        self.threads += 1;
        Ok(())
    }

    /// How many questions can be asked at once.
    pub(crate) fn free(&self) -> usize {
        self.threads.saturating_sub(self.under_way.len())
    }

    /// Whether all threads hang, as many as there may be.
    pub(crate) fn are_stuck(&self) -> bool {
        self.hanging() == self.threads
    }

    fn hanging(&self) -> usize {
        self.under_way.values().filter(|asked| asked.overdue).count()
    }

    /// Asks, if one is free; answered by `until`, or overdue.
    pub(crate) fn ask(&mut self, number: u64, object: String, since: Instant, until: Instant) {
        self.under_way.insert(number, Asked { since, until, overdue: false });
        // They end only after this.
        let _ = self.questions.send((number, object));
    }

    pub(crate) fn answered(&mut self, number: u64) -> Ended {
        match self.under_way.remove(&number) {
            Some(asked) => Ended { took: asked.since.elapsed(), overdue: asked.overdue },
            None => Ended { took: Duration::ZERO, overdue: true },
        }
    }

    /// Questions whose time is over, each once. Threads that hang with them are replaced.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<u64> {
        let mut over = Vec::new();
        for (number, asked) in &mut self.under_way {
            if !asked.overdue && now >= asked.until {
                asked.overdue = true;
                over.push(*number);
            }
        }
        if !over.is_empty() {
            while self.threads - self.hanging() < self.wanted && self.threads < self.wanted * MOST {
                if let Err(error) = self.spawn(None) {
                    tracing::warn!(%error, "a thread that hangs in the object store's plugin is not replaced");
                    break;
                }
            }
        }
        over
    }
}

fn there(heads: &mut Option<Box<dyn Heads>>, more: &MoreHeads, object: String) -> Result<bool> {
    if heads.is_none() {
        *heads = Some(more()?);
    }
    let lost = || Error::new(ErrorKind::Unexpected, "an answer is missing");
    let heads = heads.as_mut().ok_or_else(lost)?;
    heads.heads(&[object])?.first().copied().ok_or_else(lost)
}

fn next(waiting: &Mutex<Receiver<(u64, String)>>) -> Option<(u64, String)> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}
