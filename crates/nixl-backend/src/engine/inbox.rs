//! The queue of an I/O thread, and how it is woken.

use std::collections::VecDeque;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hicache_core::{ForkMark, Region, Result};
use tokio::sync::oneshot;

use super::batch::Batch;
use super::file::OpenFile;

/// What an I/O thread is asked to do, in the order of asking.
pub(crate) enum Command {
    /// Move these extents.
    Batch(Batch),
    /// Make the memory known, and say how it went.
    AddMemory(Arc<Region>, SyncSender<Result<()>>),
    /// One registration of it is gone.
    ForgetMemory(Arc<Region>),
    /// Make the file known, and say how it went.
    AddFile(Arc<OpenFile>, SyncSender<Result<()>>),
    /// Make it unknown.
    ForgetFile(Arc<OpenFile>),
    /// Panic, to see what becomes of everything.
    #[cfg(test)]
    Panic,
}

/// Whether commands are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intake {
    Open,
    Closed,
    /// The thread panicked.
    Failed,
    /// This is a child of the process that has the thread.
    Forked,
}

/// Between callers and one I/O thread.
///
/// In a forked child there is no such thread: nothing is taken and nobody waits, and the lock, which may have been held
/// at the fork, is not touched.
pub(crate) struct Inbox {
    fork: Arc<ForkMark>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    commands: VecDeque<Command>,
    intake: Intake,
    finished: bool,
    waiting_for_end: Vec<oneshot::Sender<()>>,
}

impl Inbox {
    pub(crate) fn new(fork: Arc<ForkMark>) -> Self {
        let (commands, waiting_for_end) = (VecDeque::new(), Vec::new());
        let state = State { commands, intake: Intake::Open, finished: false, waiting_for_end };
        Self { fork, state: Mutex::new(state), changed: Condvar::new() }
    }

    // No command is ever dropped under the lock: dropping one can drop memory whose token comes back here.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for something. Gives it back where nothing is taken any more.
    pub(crate) fn push(&self, command: Command) -> Result<(), (Command, Intake)> {
        if self.fork.is_child() {
            return Err((command, Intake::Forked));
        }
        let mut state = self.lock();
        if state.intake != Intake::Open {
            return Err((command, state.intake));
        }
        state.commands.push_back(command);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Takes no more commands; those that are queued are done.
    pub(crate) fn close(&self) {
        if self.fork.is_child() {
            return;
        }
        let mut state = self.lock();
        if state.intake == Intake::Open {
            state.intake = Intake::Closed;
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Resolves when the thread has ended; at once if it has.
    pub(crate) fn ended(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        if !state.finished {
            state.waiting_for_end.push(sender);
        }
        receiver
    }

    /// Whether commands are taken.
    pub(crate) fn intake(&self) -> Intake {
        if self.fork.is_child() { Intake::Forked } else { self.lock().intake }
    }

    /// For the thread: takes what is queued, and says whether there may be more.
    pub(crate) fn take(&self, into: &mut VecDeque<Command>) -> Intake {
        let mut state = self.lock();
        into.append(&mut state.commands);
        state.intake
    }

    /// For the thread: sleeps until there is a command, intake is not open any more, or `timeout` has passed.
    pub(crate) fn sleep(&self, timeout: Option<Duration>) {
        let state = self.lock();
        let nothing = |state: &mut State| state.commands.is_empty() && state.intake == Intake::Open;
        match timeout {
            None => drop(self.changed.wait_while(state, nothing)),
            // A closed inbox gets no commands; only time passes there.
            Some(timeout) if state.intake != Intake::Open => {
                drop(state);
                std::thread::sleep(timeout);
            }
            Some(timeout) => drop(self.changed.wait_timeout_while(state, timeout, nothing)),
        }
    }

    /// For the thread: takes no more, since it can't go on.
    pub(crate) fn fail(&self) {
        self.lock().intake = Intake::Failed;
    }

    /// For the thread: its last act.
    pub(crate) fn finish(&self) {
        let waiting = {
            let mut state = self.lock();
            state.finished = true;
            std::mem::take(&mut state.waiting_for_end)
        };
        for sender in waiting {
            let _ = sender.send(());
        }
    }
}
