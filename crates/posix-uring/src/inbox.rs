//! The queue of a ring thread, and how it is woken.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hicache_core::{Error, ErrorKind, ForkMark, Result};
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::oneshot;

use crate::batch::Batch;
use crate::file::OpenFile;
use crate::memory::Memory;

/// What a ring thread is asked to do, in the order of asking.
pub(crate) enum Command {
    /// Move these extents.
    Batch(Batch),
    /// Put the file into the kernel's table.
    AttachFile(Arc<OpenFile>),
    /// Take it out.
    ForgetFile(Arc<OpenFile>),
    /// Register the memory, when there is nothing better to do.
    RegisterMemory(Arc<Memory>),
    /// Unregister it.
    ForgetMemory(Arc<Memory>),
    /// Panic, to see what becomes of everything.
    #[cfg(test)]
    Panic,
}

/// Whether commands are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intake {
    Open,
    Closed,
    /// The ring thread panicked, or its ring failed.
    Failed,
    /// This is a child of the process that has the ring thread.
    Forked,
}

/// Between callers and one ring thread. The eventfd is written only when the thread may be asleep.
///
/// In a forked child there is no such thread: nothing is taken and nobody waits, and the lock, which may have been held
/// at the fork, is not touched.
pub(crate) struct Inbox {
    fork: Arc<ForkMark>,
    state: Mutex<State>,
    eventfd: OwnedFd,
}

struct State {
    commands: VecDeque<Command>,
    asleep: bool,
    full: bool,
    intake: Intake,
    finished: bool,
    waiting_for_end: Vec<oneshot::Sender<()>>,
}

impl Inbox {
    /// # Errors
    /// `Unavailable` where there are no more file descriptors.
    pub(crate) fn new(fork: Arc<ForkMark>) -> Result<Self> {
        // Blocking: io_uring answers reads of a non-blocking one at once, with EAGAIN.
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC).map_err(|e| {
            Error::new(ErrorKind::Unavailable, "no eventfd for a ring thread")
                .with_source(std::io::Error::from(e))
        })?;
        let state = State {
            commands: VecDeque::new(),
            asleep: false,
            full: false,
            intake: Intake::Open,
            finished: false,
            waiting_for_end: Vec::new(),
        };
        Ok(Self { fork, state: Mutex::new(state), eventfd })
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
        // It will look when an operation has ended, and could start nothing before.
        let can_wait = state.full && matches!(command, Command::Batch(_));
        state.commands.push_back(command);
        if !can_wait {
            self.wake(state);
        }
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
        self.wake(state);
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        if std::mem::take(&mut state.asleep) {
            drop(state);
            self.write_eventfd();
        }
    }

    /// Ends a read of the eventfd, now or at the next one.
    pub(crate) fn write_eventfd(&self) {
        // It blocks only at 2^64 - 2 writes that nobody reads, and fails only if the descriptor is not one.
        let _ = rustix::io::write(&self.eventfd, &1_u64.to_ne_bytes());
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

    /// Whether a batch would be started soon: commands are taken, and when the thread last slept its ring was not full.
    pub(crate) fn has_room(&self) -> bool {
        if self.fork.is_child() {
            return false;
        }
        let state = self.lock();
        state.intake == Intake::Open && !state.full
    }

    /// For the thread: moves all commands to `into`.
    pub(crate) fn take(&self, into: &mut VecDeque<Command>) {
        into.append(&mut self.lock().commands);
    }

    /// For the thread: the next command will write the eventfd, unless it is a batch and the ring is `full`. False if
    /// there is a command already, or intake is no longer what was `seen`: the thread should look before it sleeps.
    pub(crate) fn fall_asleep(&self, seen: Intake, full: bool) -> bool {
        let mut state = self.lock();
        state.full = full;
        state.asleep = state.commands.is_empty() && state.intake == seen;
        state.asleep
    }

    /// For the thread: commands need not write the eventfd.
    pub(crate) fn stay_awake(&self) {
        self.lock().asleep = false;
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

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}
