//! One transfer: made, posted, polled until it is over, and let go of only then.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use hicache_core::{Access, Direction, Error, ErrorKind, PageMemory, Result};

use crate::agent::BackendHandle;
use crate::binding::{self, OperationCode, RawRequest, Status};
use crate::handles::{TransferList, failure};
use crate::memory::{MemoryType, ObjectRegistration, Registered};
use crate::reaper::Pending;

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It goes on: ask again.
    Moving,
    /// Every byte has been moved, as far as the plugin tells: it reports no lengths.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Prepared,
    InFlight,
    /// It has ended, well or not, and nothing of it moves any more.
    Over,
    /// It has failed, and the library does not say whether some of it still moves.
    Unsettled,
}

/// A transfer, and `K`: what must be there until it has ended. Dropped in flight, the agent's reaper waits for its end;
/// the library must not be told to release it before, which hangs, or tells of success before the bytes are there.
pub struct Request<K: Send + 'static> {
    handle: Option<RequestHandle>,
    kept: Option<K>,
}

/// The library's request. Whoever has it sees to it that it is over before it is dropped.
struct RequestHandle {
    raw: NonNull<RawRequest>,
    state: State,
    operation: &'static str,
    descriptors: usize,
    bytes: u64,
    // Last: the request belongs to a backend of its agent.
    backend: BackendHandle,
}

// SAFETY: the library's request is bound to no thread, and its agent takes a lock in every call.
unsafe impl Send for RequestHandle {}

/// One side of a descriptor: where it starts (an address, or an offset), how long it is, and which memory, file or
/// object it lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) address: usize,
    pub(crate) bytes: usize,
    pub(crate) device: u64,
}

impl<K: Send + 'static> Request<K> {
    /// Makes a request of descriptors, the local and the remote ones in pairs. What can be seen to be wrong, memory or a
    /// file that is not registered for one, is an error here, and nothing has moved.
    ///
    /// # Safety
    /// Until the request is over, or for ever if it never is, `kept` holds: the memory of the local descriptors, leased
    /// for writing if the direction is a read, and the registrations of both sides.
    ///
    /// # Errors
    /// `Io`, with the plugin, the operation and the sizes; `Closed` in a forked child. `kept` comes back.
    pub(crate) unsafe fn prepare(
        backend: &BackendHandle,
        direction: Direction,
        (memory, local): (MemoryType, &[Descriptor]),
        (storage, remote): (MemoryType, &[Descriptor]),
        kept: K,
    ) -> Result<Self, (Error, K)> {
        match RequestHandle::create(backend, direction, (memory, local), (storage, remote)) {
            Ok(handle) => Ok(Self { handle: Some(handle), kept: Some(kept) }),
            Err(error) => Err((error, kept)),
        }
    }

    /// Starts it. May block for as long as the plugin takes to queue it, milliseconds: not for executor threads.
    ///
    /// # Errors
    /// As [`Request::poll`]; `Unexpected` if it was posted before.
    pub fn post(&mut self) -> Result<Progress> {
        match &mut self.handle {
            Some(handle) => handle.post(),
            None => Err(finished()),
        }
    }

    /// Asks how far it is.
    ///
    /// # Errors
    /// `Io`, with the plugin, the operation and the sizes: some of it has failed, and the library does not say what.
    pub fn poll(&mut self) -> Result<Progress> {
        match &mut self.handle {
            Some(handle) => handle.poll(),
            None => Err(finished()),
        }
    }

    /// Whether nothing of it moves: it was not posted, or it has ended.
    pub fn is_settled(&self) -> bool {
        self.handle.as_ref().is_none_or(|handle| matches!(handle.state, State::Prepared | State::Over))
    }

    /// Whether it is being moved and should be polled.
    pub fn is_in_flight(&self) -> bool {
        self.handle.as_ref().is_some_and(|handle| handle.state == State::InFlight)
    }

    /// What was kept for it, once it is settled. Of one that is not, nothing comes back, and what it keeps is never let
    /// go of before its end is known.
    pub fn finish(mut self) -> Option<K> {
        if self.is_settled() { self.kept.take() } else { None }
    }
}

impl<K: Send + 'static> Drop for Request<K> {
    fn drop(&mut self) {
        let (Some(handle), kept) = (self.handle.take(), self.kept.take()) else { return };
        if handle.backend.agent().0.fork.is_child() {
            // The parent's, and the reaper's lock may have been held at the fork.
            std::mem::forget((handle, kept));
            return;
        }
        match handle.state {
            State::Prepared | State::Over => drop((handle, kept)),
            State::Unsettled => std::mem::forget((handle, kept)),
            State::InFlight => {
                let agent = handle.backend.agent().clone();
                agent.0.reaper.take(Box::new(Orphan { handle, _kept: kept }));
            }
        }
    }
}

impl<K: Send + 'static> fmt::Debug for Request<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Request");
        if let Some(handle) = &self.handle {
            debug
                .field("operation", &handle.operation)
                .field("bytes", &handle.bytes)
                .field("state", &handle.state);
        }
        debug.finish_non_exhaustive()
    }
}

/// A request that was dropped in flight, with what it needs.
struct Orphan<K> {
    handle: RequestHandle,
    _kept: Option<K>,
}

impl<K: Send> Pending for Orphan<K> {
    fn is_over(&mut self) -> bool {
        let _ = self.handle.poll();
        self.handle.state != State::InFlight
    }

    fn is_settled(&self) -> bool {
        self.handle.state == State::Over
    }
}

impl RequestHandle {
    fn create(
        backend: &BackendHandle,
        direction: Direction,
        (memory, local): (MemoryType, &[Descriptor]),
        (storage, remote): (MemoryType, &[Descriptor]),
    ) -> Result<Self> {
        let agent = &backend.agent().0;
        agent.refuse_fork()?;
        let (descriptors, bytes) = (local.len(), local.iter().map(|each| each.bytes as u64).sum());
        let code: OperationCode = match direction {
            Direction::Read => binding::READ,
            Direction::Write => binding::WRITE,
        };
        let lists = [(memory, local), (storage, remote)].map(|(kind, descriptors)| {
            let mut list = TransferList::new(agent.handle.library(), kind.code())?;
            descriptors.iter().try_for_each(|each| list.add(each.address, each.bytes, each.device))?;
            Ok(list)
        });
        let [local, remote] = lists;
        let (local, remote): (TransferList, TransferList) = (local?, remote?);
        let table = *agent.handle.library().table();
        let mut raw = ptr::null_mut();
        // SAFETY: agent, lists, name and options live; the library copies both lists. Nothing moves yet.
        let status = unsafe {
            (table.create_request)(
                agent.handle.raw(),
                code,
                local.raw(),
                remote.raw(),
                agent.name.as_ptr(),
                &mut raw,
                backend.0.options.raw(),
            )
        };
        let operation = direction.as_str();
        let raw = if status == binding::SUCCESS { NonNull::new(raw) } else { None };
        let Some(raw) = raw else {
            let what = format!("a {operation} of {bytes} bytes in {descriptors} descriptors can't be made");
            return Err(said(backend, operation, &failure(ErrorKind::Io, status, what)));
        };
        Ok(Self { raw, state: State::Prepared, operation, descriptors, bytes, backend: backend.clone() })
    }

    fn post(&mut self) -> Result<Progress> {
        let agent = &self.backend.agent().0;
        agent.refuse_fork()?;
        if self.state != State::Prepared {
            return Err(Error::new(ErrorKind::Unexpected, "a request is posted once"));
        }
        let table = *agent.handle.library().table();
        // SAFETY: agent, request and options live. What moves from here on is kept until the end is known: by the
        // promise of `Request::prepare`, and because the state says that it is in flight.
        let status = unsafe {
            (table.post_request)(agent.handle.raw(), self.raw.as_ptr(), self.backend.0.options.raw())
        };
        self.take(status, true)
    }

    fn poll(&mut self) -> Result<Progress> {
        if self.state != State::InFlight {
            let what = format!("a {} that is {:?} is not polled", self.operation, self.state);
            return Err(Error::new(ErrorKind::Unexpected, what));
        }
        let agent = &self.backend.agent().0;
        agent.refuse_fork()?;
        // SAFETY: agent and request live.
        let status =
            unsafe { (agent.handle.library().table().request_status)(agent.handle.raw(), self.raw.as_ptr()) };
        self.take(status, false)
    }

    fn take(&mut self, status: Status, posted: bool) -> Result<Progress> {
        match status {
            binding::IN_PROGRESS => {
                self.state = State::InFlight;
                Ok(Progress::Moving)
            }
            binding::SUCCESS => {
                self.state = State::Over;
                Ok(Progress::Done)
            }
            status => {
                let settled = self.backend.settles(posted, self.descriptors);
                self.state = if settled { State::Over } else { State::Unsettled };
                let what = format!(
                    "a {} of {} bytes in {} descriptors failed{}",
                    self.operation,
                    self.bytes,
                    self.descriptors,
                    if posted { " as it was posted" } else { "" }
                );
                Err(said(&self.backend, self.operation, &failure(ErrorKind::Io, status, what)))
            }
        }
    }
}

impl Drop for RequestHandle {
    fn drop(&mut self) {
        let agent = &self.backend.agent().0;
        if agent.fork.is_child() || !matches!(self.state, State::Prepared | State::Over) {
            return; // Left where it is.
        }
        let table = *agent.handle.library().table();
        // SAFETY: agent and request live, nothing of it is in flight, and it is not used again. What could not be
        // released must not be destroyed.
        unsafe {
            if (table.release_request)(agent.handle.raw(), self.raw.as_ptr()) == binding::SUCCESS {
                (table.destroy_request)(self.raw.as_ptr());
            }
        }
    }
}

fn said(backend: &BackendHandle, operation: &'static str, error: &Error) -> Error {
    backend.error(error.kind(), error.message()).with_operation(operation)
}

fn finished() -> Error {
    Error::new(ErrorKind::Unexpected, "the request has been finished")
}

/// Objects and the memory that they come from or go to, each object with one piece of memory.
pub struct ObjectTransfer {
    /// The memory, in the order of the objects.
    pub memory: Vec<PageMemory>,
    _objects: ObjectRegistration,
    _registered: Vec<Arc<Registered>>,
}

impl fmt::Debug for ObjectTransfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectTransfer").field("memory", &self.memory).finish_non_exhaustive()
    }
}

impl BackendHandle {
    /// Makes a request that moves each page to or from the object in its place, whole. The memory stays registered until the
    /// request has ended, whoever drops its registration.
    ///
    /// # Errors
    /// `Config` if the numbers of objects and pages differ, for a page in more than one piece, and for a read into memory
    /// that is leased for reading; `Io` if the plugin refuses, for memory that is not registered with it for one. The
    /// memory comes back.
    pub fn prepare_objects(
        &self,
        direction: Direction,
        objects: ObjectRegistration,
        memory: Vec<PageMemory>,
    ) -> Result<Request<ObjectTransfer>, (Error, Vec<PageMemory>)> {
        if memory.len() != objects.len() {
            let what = format!("{} pages for {} objects", memory.len(), objects.len());
            return Err((Error::config(what), memory));
        }
        if memory.iter().any(|page| page.pieces().len() != 1) {
            return Err((Error::config("an object takes its bytes from one piece of memory"), memory));
        }
        if direction == Direction::Read && memory.iter().any(|page| page.access() != Access::Write) {
            return Err((Error::config("a read needs memory leased for writing"), memory));
        }
        let kinds = memory.iter().flat_map(PageMemory::pieces).map(|piece| piece.lease().region().kind());
        let (mut local, mut remote, mut kind) = (Vec::new(), Vec::new(), None);
        for (index, memory_kind) in kinds.enumerate() {
            let (this, device) = MemoryType::of(memory_kind);
            if *kind.get_or_insert(this) != this {
                return Err((Error::config("one request moves memory of one kind"), memory));
            }
            let piece = &memory[index].pieces()[0];
            local.push(Descriptor { address: piece.lease().address() as usize, bytes: piece.len(), device });
            remote.push(Descriptor { address: 0, bytes: piece.len(), device: objects.device(index) });
        }
        let local = (kind.unwrap_or(MemoryType::Dram), local.as_slice());
        let Some(registered) = local.1.iter().map(|each| self.registered(each)).collect() else {
            return Err((Error::config("memory of an object is not registered with its backend"), memory));
        };
        let kept = ObjectTransfer { memory, _objects: objects, _registered: registered };
        // SAFETY: the memory is leased by what is kept, for writing where it is read into, and both sides' registrations
        // are kept.
        let request =
            unsafe { Request::prepare(self, direction, local, (MemoryType::Object, &remote), kept) };
        request.map_err(|(error, kept)| (error, kept.memory))
    }
}
