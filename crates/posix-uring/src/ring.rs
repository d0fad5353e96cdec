//! The io_uring of one thread. It owns what the kernel was told of, for as long as the kernel may use it, so that all of
//! its functions are safe to call.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use hicache_core::{Direction, Result};
use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use rustix::io::Errno;

use crate::config::UringConfig;
use crate::file::OpenFile;
use crate::inbox::Inbox;
use crate::memory::{Memory, MemoryToken};
use crate::operation::{MOST_BYTES, Operation};
use crate::setup::{RingReport, set_up};

/// `user_data` of the read of the eventfd; operations have the number of their slot.
const WAKE: u64 = u64::MAX;
/// `user_data` of what nobody waits for.
const IGNORED: u64 = u64::MAX - 1;

/// An io_uring, and everything that the kernel may touch through it.
pub(crate) struct Ring {
    // First, so that it is closed before anything below is freed.
    uring: IoUring,
    number: usize,
    report: RingReport,
    slots: Vec<Option<Flight>>,
    free: Vec<usize>,
    /// Arrays of operations that have ended, for those that come.
    spare: Vec<Vec<Vector>>,
    registered: HashMap<u32, Arc<Memory>>,
    wake: WakeRead,
    ignored: usize,
}

/// An operation that the kernel has, with the array that its vectored form points to.
struct Flight {
    operation: Operation,
    vectors: Vec<Vector>,
}

/// `struct iovec`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Vector {
    base: *mut u8,
    bytes: usize,
}

/// The read of the eventfd that other threads wake this one with.
struct WakeRead {
    inbox: Arc<Inbox>,
    buffer: Box<[u8; 8]>,
    under_way: bool,
}

/// What the kernel reports.
#[expect(
    clippy::large_enum_variant,
    reason = "one at a time, on its way; a box would be an allocation a page"
)]
pub(crate) enum Event {
    /// Somebody wrote the eventfd.
    Woken,
    /// The kernel has finished with this operation and its memory.
    Done(Operation, Result<usize, Errno>),
}

impl Ring {
    /// Makes a ring for this thread.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(crate) fn new(number: usize, config: &UringConfig, inbox: Arc<Inbox>) -> Result<Self> {
        let (uring, report) = set_up(config)?;
        let depth = config.depth as usize;
        Ok(Self {
            uring,
            number,
            report,
            slots: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            spare: Vec::with_capacity(depth),
            registered: HashMap::new(),
            wake: WakeRead { inbox, buffer: Box::new([0; 8]), under_way: false },
            ignored: 0,
        })
    }

    pub(crate) fn report(&self) -> &RingReport {
        &self.report
    }

    /// Most operations in flight.
    pub(crate) fn depth(&self) -> usize {
        self.slots.len()
    }

    /// Operations that the kernel has.
    pub(crate) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether another operation may be started.
    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// The operations that the kernel has.
    pub(crate) fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.slots.iter().flatten().map(|flight| &flight.operation)
    }

    /// Starts what is left of `operation`; gives it back if there is no room. The kernel hears of it at the next
    /// [`Ring::wait`].
    pub(crate) fn start(&mut self, operation: Operation) -> Option<Operation> {
        let Some(&key) = self.free.last() else { return Some(operation) };
        if !self.make_room() {
            return Some(operation);
        }
        let mut vectors = self.spare.pop().unwrap_or_default();
        vectors.clear();
        for (base, bytes) in operation.segments() {
            match vectors.last_mut() {
                // What lies side by side in memory is one buffer to the kernel, and may be a registered one.
                Some(last) if last.base.wrapping_add(last.bytes) == base => last.bytes += bytes,
                _ => vectors.push(Vector { base, bytes }),
            }
        }
        let flight = Flight { operation, vectors };
        let entry = flight.entry(self.number).user_data(key as u64);
        self.slots[key] = Some(flight);
        self.free.pop();
        // SAFETY: the entry points into memory that the operation has leased, or to the array in `vectors`, which points
        // there. Both are in `slots` and leave it only in `next`, with this operation's own completion; `drop` leaks
        // those whose completion never came. A read has write leases: submitting checked that.
        if unsafe { self.uring.submission().push(&entry) }.is_ok() {
            return None;
        }
        self.free.push(key);
        self.slots[key].take().map(|flight| flight.operation)
    }

    /// Sees to it that an entry fits the submission queue. It has one for each slot and two more, so this only matters
    /// if the kernel left some behind.
    fn make_room(&mut self) -> bool {
        if self.uring.submission().is_full() {
            // What went wrong will go wrong again in `wait`, and is handled there.
            let _ = self.uring.submit();
        }
        !self.uring.submission().is_full()
    }

    /// Tells the kernel what was started, and sleeps until `want` events are there, or `timeout` has passed. True if the
    /// time has passed.
    ///
    /// # Errors
    /// What the kernel answers; interruptions and shortages that pass are none.
    pub(crate) fn wait(&mut self, want: usize, timeout: Option<Duration>) -> io::Result<bool> {
        self.watch_eventfd();
        self.enter(want, timeout)
    }

    fn enter(&mut self, want: usize, timeout: Option<Duration>) -> io::Result<bool> {
        let submitter = self.uring.submitter();
        let result = match timeout {
            None => submitter.submit_and_wait(want),
            Some(timeout) => {
                let time = Timespec::from(timeout);
                submitter.submit_with_args(want, &SubmitArgs::new().timespec(&time))
            }
        };
        let Err(error) = result else { return Ok(false) };
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::TIME) => Ok(true),
            Some(Errno::INTR) => Ok(false),
            // Memory is short, or completions must be taken first; in either case it is not for long.
            Some(Errno::AGAIN | Errno::BUSY | Errno::NOMEM) => {
                std::thread::sleep(Duration::from_millis(1));
                Ok(false)
            }
            _ => Err(error),
        }
    }

    fn watch_eventfd(&mut self) {
        if self.wake.under_way || !self.make_room() {
            return;
        }
        let fd = Fd(self.wake.inbox.as_fd().as_raw_fd());
        let entry = opcode::Read::new(fd, self.wake.buffer.as_mut_ptr(), 8).build().user_data(WAKE);
        // SAFETY: the buffer has 8 bytes, lives in a box that `self` keeps and that nobody reads, and `drop` leaks it
        // while the read is under way. The inbox keeps the descriptor open.
        self.wake.under_way = unsafe { self.uring.submission().push(&entry) }.is_ok();
    }

    /// The next event that is there. An operation that has ended is out of the ring.
    pub(crate) fn next(&mut self) -> Option<Event> {
        loop {
            let entry = self.uring.completion().next()?;
            match entry.user_data() {
                WAKE => {
                    self.wake.under_way = false;
                    return Some(Event::Woken);
                }
                IGNORED => self.ignored = self.ignored.saturating_sub(1),
                key => {
                    let key = key as usize;
                    let Some(flight) = self.slots.get_mut(key).and_then(Option::take) else { continue };
                    self.free.push(key);
                    let result = usize::try_from(entry.result())
                        .map_err(|_| Errno::from_raw_os_error(entry.result().saturating_neg()));
                    self.spare.push(flight.vectors);
                    return Some(Event::Done(flight.operation, result));
                }
            }
        }
    }

    /// Asks the kernel to end everything early. It still reports each operation.
    pub(crate) fn cancel_all(&mut self) {
        if self.make_room() {
            let entry = opcode::AsyncCancel2::new(CancelBuilder::any()).build().user_data(IGNORED);
            // SAFETY: the entry points to nothing.
            let pushed = unsafe { self.uring.submission().push(&entry) };
            self.ignored += usize::from(pushed.is_ok());
        }
    }

    /// Puts the descriptors of `file` into the table. Without a place there, operations name the descriptor.
    ///
    /// # Errors
    /// What the kernel answers.
    pub(crate) fn attach(&mut self, file: &OpenFile) -> io::Result<()> {
        for (fd, slot) in file.slots() {
            self.uring.submitter().register_files_update(slot.index(), &[fd.as_raw_fd()])?;
            slot.set_filled(self.number);
        }
        Ok(())
    }

    /// Takes them out again. The kernel keeps an open file till then.
    pub(crate) fn detach(&mut self, file: &OpenFile) {
        for (_, slot) in file.slots().filter(|(_, slot)| slot.filled(self.number).is_some()) {
            // If it fails the file stays open in the table until the slot is used again, or the ring closed.
            let _ = self.uring.submitter().register_files_update(slot.index(), &[-1]);
        }
    }

    /// Registers part `part` of `memory`, which pins it.
    ///
    /// # Errors
    /// What the kernel answers, `ENOMEM` where the limit of locked memory is reached.
    pub(crate) fn register(&mut self, memory: &Arc<Memory>, part: usize) -> io::Result<()> {
        let Some(slot) = memory.slots().get(part) else { return Ok(()) };
        let (base, bytes) = memory.part(part);
        self.update_buffer(slot.index(), Vector { base, bytes })?;
        self.registered.insert(slot.index(), Arc::clone(memory));
        slot.set_filled(self.number);
        Ok(())
    }

    /// Undoes that for all of `memory`.
    pub(crate) fn unregister(&mut self, memory: &Memory) {
        for slot in memory.slots() {
            let none = Vector { base: std::ptr::null_mut(), bytes: 0 };
            if self.registered.contains_key(&slot.index()) && self.update_buffer(slot.index(), none).is_ok() {
                self.registered.remove(&slot.index());
            }
        }
    }

    fn update_buffer(&mut self, index: u32, vector: Vector) -> io::Result<()> {
        let vectors = [vector];
        // SAFETY: `Vector` has the layout of `struct iovec`. It is empty, or a part of a region that the caller puts into
        // `registered`, where it stays until the slot is empty again or the ring is closed.
        unsafe {
            let vectors = std::slice::from_raw_parts(vectors.as_ptr().cast(), vectors.len());
            self.uring.submitter().register_buffers_update(index, vectors, None)
        }
    }

    /// Ends the read of the eventfd, waits for whatever the kernel still has, and empties the tables, so that the ring can
    /// be closed. The kernel tears a closed ring down later, by itself: without this, files would still be open and memory
    /// pinned for a while after [`crate::UringEngine`]'s close.
    ///
    /// # Errors
    /// What the kernel answers.
    pub(crate) fn settle(&mut self) -> io::Result<()> {
        self.wake.inbox.write_eventfd();
        while self.in_flight() > 0 || self.ignored > 0 || self.wake.under_way {
            self.enter(1, None)?;
            while self.next().is_some() {}
        }
        // They fail where there is no table.
        let _ = self.uring.submitter().unregister_files();
        if self.uring.submitter().unregister_buffers().is_ok() {
            self.registered.clear();
        }
        Ok(())
    }
}

impl Flight {
    fn entry(&self, ring: usize) -> squeue::Entry {
        let operation = &self.operation;
        let (fd, slot) = operation.file.descriptor(operation.through);
        let (fd, flags) = match slot.and_then(|slot| slot.filled(ring)) {
            Some(index) => (Fd(index as i32), squeue::Flags::FIXED_FILE),
            None => (Fd(fd.as_raw_fd()), squeue::Flags::empty()),
        };
        let offset = operation.offset();
        let entry = match (self.vectors.as_slice(), operation.direction) {
            (&[Vector { base, bytes }], direction) => {
                let bytes = bytes.min(MOST_BYTES) as u32;
                match (self.buffer(ring), direction) {
                    (Some(index), Direction::Read) => {
                        opcode::ReadFixed::new(fd, base, bytes, index).offset(offset).build()
                    }
                    (Some(index), Direction::Write) => {
                        opcode::WriteFixed::new(fd, base, bytes, index).offset(offset).build()
                    }
                    (None, Direction::Read) => opcode::Read::new(fd, base, bytes).offset(offset).build(),
                    (None, Direction::Write) => opcode::Write::new(fd, base, bytes).offset(offset).build(),
                }
            }
            (vectors, Direction::Read) => {
                opcode::Readv::new(fd, vectors.as_ptr().cast(), vectors.len() as u32).offset(offset).build()
            }
            (vectors, Direction::Write) => {
                opcode::Writev::new(fd, vectors.as_ptr().cast(), vectors.len() as u32).offset(offset).build()
            }
        };
        entry.flags(flags)
    }

    /// The table index of the buffer that a single piece is in.
    fn buffer(&self, ring: usize) -> Option<u16> {
        let [Vector { base, bytes }] = *self.vectors.as_slice() else { return None };
        // What is left in one segment is in the last piece.
        let piece = self.operation.extent.memory.pieces().last()?;
        let memory = piece.registration().token::<MemoryToken>()?.memory.as_ref()?;
        memory.index_of(base, bytes, ring).and_then(|index| u16::try_from(index).ok())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.in_flight() > 0 || self.wake.under_way {
            // Closing a ring does not wait for the kernel. The memory stays leased for ever rather than be used twice.
            tracing::error!(operations = self.in_flight(), "a ring was lost with operations in flight");
            std::mem::forget(std::mem::take(&mut self.slots));
            std::mem::forget(std::mem::replace(&mut self.wake.buffer, Box::new([0; 8])));
        }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("number", &self.number)
            .field("report", &self.report)
            .finish_non_exhaustive()
    }
}
