//! Threads that do parts of extents, as both engines of this crate have them.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};

use hicache_core::{Error, ErrorKind, ForkMark, Result};
use tokio::sync::oneshot;

use crate::jobs::Part;

/// What the threads do.
pub(crate) trait Work: Send + Sync + 'static {
    /// What each thread has for itself.
    type Own;

    /// Called on each thread before its first part.
    fn begin(&self) -> Result<Self::Own>;

    /// Most parts that a thread takes at one time.
    fn most_parts(&self) -> usize;

    /// Does the parts, all of one direction, and finishes each.
    fn run(&self, own: &mut Self::Own, parts: Vec<Part>);
}

/// The threads. They sleep while there is nothing to do; dropping the pool lets them finish what they have and go.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Between callers and the threads.
pub(crate) struct Shared {
    name: &'static str,
    state: Mutex<State>,
    changed: Condvar,
    /// In a forked child there are no threads: nothing is taken there and nobody waits, and the lock, which may have been
    /// held at the fork, is not touched.
    fork: ForkMark,
}

struct State {
    parts: VecDeque<Part>,
    /// What is to be dropped on a thread of the pool, since that may take a while.
    forgotten: VecDeque<Box<dyn Any + Send>>,
    /// What is known to the device: undone at the end.
    kept: Vec<Weak<dyn Undo>>,
    closed: bool,
    threads: usize,
    waiting_for_end: Vec<oneshot::Sender<()>>,
}

enum Next {
    Parts(Vec<Part>),
    Forget(Box<dyn Any + Send>),
}

impl Pool {
    /// Starts `threads` threads.
    ///
    /// # Errors
    /// `Unavailable` where not all can be started, and what [`Work::begin`] answers.
    pub(crate) fn start<W: Work>(name: &'static str, threads: usize, work: Arc<W>) -> Result<Self> {
        let state = State {
            parts: VecDeque::new(),
            forgotten: VecDeque::new(),
            kept: Vec::new(),
            closed: false,
            threads: 0,
            waiting_for_end: Vec::new(),
        };
        let shared = Arc::new(Shared {
            name,
            state: Mutex::new(state),
            changed: Condvar::new(),
            fork: ForkMark::new(),
        });
        // From here on, dropping the pool ends the threads that have been started.
        let pool = Self { shared, threads: Mutex::default() };
        for number in 0..threads.max(1) {
            pool.start_thread(number, Arc::clone(&work))?;
        }
        Ok(pool)
    }

    fn start_thread<W: Work>(&self, number: usize, work: Arc<W>) -> Result<()> {
        let (begun, beginning) = sync_channel(1);
        let shared = Arc::clone(&self.shared);
        let run = move || {
            match catch_unwind(AssertUnwindSafe(|| work.begin())) {
                Ok(Ok(mut own)) => {
                    if begun.send(Ok(())).is_ok() {
                        shared.work(&*work, &mut own);
                    }
                }
                Ok(Err(error)) => drop(begun.send(Err(error))),
                Err(_) => drop(begun),
            }
            shared.leave();
        };
        let name = self.shared.name;
        self.shared.lock().threads += 1;
        let started = thread::Builder::new().name(format!("hicache-{name}{number}")).spawn(run);
        let thread = started.map_err(|source| {
            self.shared.lock().threads -= 1;
            let message = format!("thread {number} of the engine can't be started");
            Error::new(ErrorKind::Unavailable, message).with_backend(name).with_source(source)
        })?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        beginning.recv().unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Unavailable, "a thread of the engine ended at once").with_backend(name))
        })
    }

    /// For what lives longer than the pool.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Queues parts; they are refused where the pool takes none any more.
    pub(crate) fn push(&self, parts: Vec<Part>) {
        if let Err(error) = self.shared.check_fork() {
            return Part::refuse(parts, &error);
        }
        let mut state = self.shared.lock();
        if state.closed || state.threads == 0 {
            drop(state);
            return Part::refuse(parts, &self.shared.closed());
        }
        let several = parts.len() > 1;
        state.parts.extend(parts);
        drop(state);
        if several { self.shared.changed.notify_all() } else { self.shared.changed.notify_one() }
    }

    /// Stops intake, waits for what is under way, and undoes what the device knows.
    pub(crate) async fn close(&self) {
        if self.shared.fork.is_child() {
            return; // Its threads are the parent's, and so is what they do.
        }
        let (sender, end) = oneshot::channel();
        {
            let mut state = self.shared.lock();
            state.closed = true;
            state.waiting_for_end.push(sender);
            if state.threads == 0 {
                state.waiting_for_end.clear();
            }
        }
        self.shared.changed.notify_all();
        // An error where all threads had ended before.
        let _ = end.await;
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // They are past their last act, and catch the panics of what they do.
            let _ = thread.join();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.shared.fork.is_child() {
            // Not ours to detach: they are threads of the parent.
            let threads = self.threads.get_mut().unwrap_or_else(PoisonError::into_inner);
            threads.drain(..).for_each(std::mem::forget);
            return;
        }
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn closed(&self) -> Error {
        Error::new(ErrorKind::Closed, "the engine is closed").with_backend(self.name)
    }

    fn check_fork(&self) -> Result<()> {
        if self.fork.is_child() {
            return Err(ForkMark::refusal("engine").with_backend(self.name));
        }
        Ok(())
    }

    /// Whether anything is taken.
    pub(crate) fn check_open(&self) -> Result<()> {
        self.check_fork()?;
        if self.lock().closed { Err(self.closed()) } else { Ok(()) }
    }

    /// A thread's life.
    fn work<W: Work>(&self, work: &W, own: &mut W::Own) {
        while let Some(next) = self.next(work.most_parts()) {
            // What a caller owns may panic as it is dropped or woken; the thread goes on with the next.
            let _ = catch_unwind(AssertUnwindSafe(|| match next {
                Next::Parts(parts) => work.run(own, parts),
                Next::Forget(forgotten) => drop(forgotten),
            }));
        }
    }

    /// The last one undoes what is left, and says that the pool has ended.
    fn leave(&self) {
        let (kept, left) = {
            let mut state = self.lock();
            state.threads -= 1;
            if state.threads > 0 {
                return;
            }
            state.closed = true;
            (std::mem::take(&mut state.kept), std::mem::take(&mut state.parts))
        };
        Part::refuse(left, &self.closed());
        for kept in kept.iter().filter_map(Weak::upgrade) {
            let _ = catch_unwind(AssertUnwindSafe(|| kept.undo()));
        }
        let waiting = std::mem::take(&mut self.lock().waiting_for_end);
        for sender in waiting {
            let _ = sender.send(());
        }
    }

    /// The next thing to do; `None` when the pool is closed and nothing is left.
    fn next(&self, most: usize) -> Option<Next> {
        let mut state = self.lock();
        loop {
            if let Some(first) = state.parts.pop_front() {
                let direction = first.direction;
                let mut parts = vec![first];
                while parts.len() < most
                    && state.parts.front().is_some_and(|next| next.direction == direction)
                {
                    parts.extend(state.parts.pop_front());
                }
                return Some(Next::Parts(parts));
            }
            if let Some(forgotten) = state.forgotten.pop_front() {
                return Some(Next::Forget(forgotten));
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Drops `value` on a thread of the pool, or, when there is none any more, on one of its own.
    fn forget(&self, value: Box<dyn Any + Send>) {
        let mut state = self.lock();
        if state.threads > 0 && !state.closed {
            state.forgotten.push_back(value);
            drop(state);
            return self.changed.notify_one();
        }
        drop(state);
        let dropping = move || drop(value);
        if let Err(error) = thread::Builder::new().name("hicache-forget".to_owned()).spawn(dropping) {
            // The closure is gone with the error, so it has happened here.
            tracing::debug!(%error, "no thread to make something unknown to the device; it took place on the caller's");
        }
    }
}

/// Something that the device knows, until it is undone.
trait Undo: Send + Sync {
    fn undo(&self);
}

/// What the device knows of a region or a file. Dropping it undoes that on a thread of the pool; closing the pool does so at
/// once. In a forked child nothing is undone, since the parent goes on using it.
pub(crate) struct Kept<T: Send + Sync + 'static> {
    slot: Arc<Slot<T>>,
    shared: Arc<Shared>,
}

struct Slot<T>(Mutex<Option<Arc<T>>>);

impl<T: Send + Sync> Undo for Slot<T> {
    fn undo(&self) {
        let taken = self.take();
        drop(taken);
    }
}

impl<T> Slot<T> {
    fn take(&self) -> Option<Arc<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<T: Send + Sync + 'static> Kept<T> {
    /// Keeps `value` until it is dropped or the pool is closed.
    pub(crate) fn new(value: Arc<T>, shared: &Arc<Shared>) -> Self {
        let slot = Arc::new(Slot(Mutex::new(Some(value))));
        let mut state = shared.lock();
        if state.kept.len() == state.kept.capacity() {
            state.kept.retain(|kept| kept.strong_count() > 0);
        }
        let weak: Weak<Slot<T>> = Arc::downgrade(&slot);
        state.kept.push(weak);
        drop(state);
        Self { slot, shared: Arc::clone(shared) }
    }

    /// The value, until it is undone.
    pub(crate) fn get(&self) -> Option<Arc<T>> {
        self.slot.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<T: Send + Sync + 'static> Drop for Kept<T> {
    fn drop(&mut self) {
        if self.shared.fork.is_child() {
            // The lock may be held by a thread that is not here.
            std::mem::forget(Arc::clone(&self.slot));
            return;
        }
        if let Some(value) = self.slot.take() {
            self.shared.forget(Box::new(value));
        }
    }
}
