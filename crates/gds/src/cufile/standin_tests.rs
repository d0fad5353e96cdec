//! Functions with the signatures of cuFile's that move bytes of host memory with pread and pwrite, and fail when they are told
//! to. What is told is told of a file, by its inode, so that tests can run side by side.

use std::collections::{HashMap, HashSet};
use std::ffi::{c_int, c_long, c_uint, c_void};
use std::fs::File;
use std::os::fd::{FromRawFd, IntoRawFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::abi::{
    self, CUfileBatchHandle, CUfileDescr, CUfileDrvProps, CUfileError, CUfileHandle, CUfileIOEvents,
    CUfileIOParams, CUstream, Timespec,
};
use super::library::{Functions, Library};

/// What goes wrong with a file.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// A call moves no more than so many bytes.
    Short(usize),
    /// Calls answer the negative of this code.
    Code(i32),
    /// Calls answer -1, with this errno, so many times.
    Errno(i32, usize),
    /// Calls claim to have moved one byte more than they were asked to.
    TooMany,
    /// It can't be registered, for this code.
    NotRegistered(c_int),
    /// Calls wait until the gate opens.
    Waits(Arc<Gate>),
    /// Questions about a batch in which it is are not answered any more.
    BatchesGetLost,
    /// A batch in which it is answers that this operation took too long.
    BatchesTimeOut,
    /// A batch in which it is never says anything of this operation.
    BatchesStaySilent,
    /// The library takes a batch in which it is, and answers that it does not.
    BatchesAreTakenAllTheSame,
    /// The library does not take a batch in which it is.
    BatchesAreRefused,
}

/// Closed until it is opened.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
    pub(crate) waiting: AtomicUsize,
}

impl Gate {
    pub(crate) fn open(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn pass(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        while !*open {
            open = self
                .changed
                .wait_timeout(open, Duration::from_secs(30))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

type Inode = (u64, u64);

fn faults() -> MutexGuard<'static, HashMap<Inode, Fault>> {
    static MAP: OnceLock<Mutex<HashMap<Inode, Fault>>> = OnceLock::new();
    MAP.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

fn inode(file: &File) -> Inode {
    let metadata = file.metadata().unwrap();
    (metadata.dev(), metadata.ino())
}

/// Until this is dropped it goes wrong with the file. To be dropped before the file is closed: the next one may get its inode.
#[must_use]
pub(crate) struct Wrong(Inode);

impl Drop for Wrong {
    fn drop(&mut self) {
        faults().remove(&self.0);
    }
}

/// From now on this goes wrong with the file.
pub(crate) fn set_fault(file: &File, fault: Fault) -> Wrong {
    let inode = inode(file);
    faults().insert(inode, fault);
    Wrong(inode)
}

/// A file that was registered.
struct Registered {
    file: File,
    inode: Inode,
}

/// Memory that is registered, by its start. Like cuFile's own, one for the whole process.
fn buffers() -> MutexGuard<'static, HashMap<usize, usize>> {
    static BUFFERS: OnceLock<Mutex<HashMap<usize, usize>>> = OnceLock::new();
    BUFFERS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether memory with this start is registered.
pub(crate) fn is_registered(start: *const u8) -> bool {
    buffers().contains_key(&(start as usize))
}

fn code(err: c_int) -> CUfileError {
    CUfileError { err, cu_err: 0 }
}

unsafe extern "C" fn driver_open() -> CUfileError {
    code(0)
}

pub(crate) unsafe extern "C" fn driver_is_open() -> CUfileError {
    code(abi::CU_FILE_DRIVER_ALREADY_OPEN)
}

pub(crate) unsafe extern "C" fn driver_without_modules() -> CUfileError {
    code(5033)
}

unsafe extern "C" fn get_version(version: *mut c_int) -> CUfileError {
    // SAFETY: the caller's integer.
    unsafe { *version = 1140 };
    code(0)
}

unsafe extern "C" fn get_properties(properties: *mut CUfileDrvProps) -> CUfileError {
    let mut own = CUfileDrvProps { max_batch_io_size: 128, ..CUfileDrvProps::default() };
    own.nvfs.dcontrolflags = 1 << abi::CU_FILE_ALLOW_COMPAT_MODE;
    // SAFETY: the caller's structure.
    unsafe { *properties = own };
    code(0)
}

/// As a later version would: more than this source knows.
pub(crate) unsafe extern "C" fn get_longer_properties(properties: *mut CUfileDrvProps) -> CUfileError {
    // SAFETY: the driver gives room for more than the structure.
    unsafe {
        get_properties(properties);
        properties.add(1).cast::<u64>().write_bytes(0xff, 16);
    }
    code(0)
}

unsafe extern "C" fn handle_register(handle: *mut CUfileHandle, descriptor: *mut CUfileDescr) -> CUfileError {
    // SAFETY: the caller's structure, with a descriptor of the caller's; it is not closed here.
    let (descriptor, file) = unsafe { (&*descriptor, File::from_raw_fd((*descriptor).handle.fd)) };
    assert_eq!((descriptor.kind, descriptor.fs_ops.is_null()), (abi::CU_FILE_HANDLE_TYPE_OPAQUE_FD, true));
    let (inode, copy) = (inode(&file), file.try_clone().unwrap());
    let _: RawFd = file.into_raw_fd();
    if let Some(Fault::NotRegistered(why)) = faults().get(&inode) {
        return code(*why);
    }
    let registered = Box::new(Registered { file: copy, inode });
    // SAFETY: the caller's handle.
    unsafe { *handle = Box::into_raw(registered).cast() };
    code(0)
}

unsafe extern "C" fn handle_deregister(handle: CUfileHandle) {
    // SAFETY: from `handle_register`, and once.
    drop(unsafe { Box::from_raw(handle.cast::<Registered>()) });
}

unsafe extern "C" fn buf_register(base: *const c_void, bytes: usize, _flags: c_int) -> CUfileError {
    let mut buffers = buffers();
    if buffers.contains_key(&(base as usize)) {
        return code(abi::CU_FILE_MEMORY_ALREADY_REGISTERED);
    }
    buffers.insert(base as usize, bytes);
    code(0)
}

pub(crate) unsafe extern "C" fn buf_register_too_large(_: *const c_void, _: usize, _: c_int) -> CUfileError {
    code(5036)
}

unsafe extern "C" fn buf_deregister(base: *const c_void) -> CUfileError {
    code(if buffers().remove(&(base as usize)).is_some() { 0 } else { 5024 })
}

fn set_errno(errno: i32) {
    // SAFETY: the calling thread's own.
    unsafe { *libc::__errno_location() = errno };
}

/// What both directions share: the fault first, then the bytes.
fn call(
    handle: CUfileHandle,
    bytes: usize,
    go: impl FnOnce(&File, usize) -> std::io::Result<usize>,
) -> isize {
    // SAFETY: from `handle_register`, and not deregistered.
    let registered = unsafe { &*handle.cast::<Registered>() };
    let mut fault = faults().get(&registered.inode).cloned();
    if let Some(Fault::Errno(errno, times)) = &fault {
        let (errno, times) = (*errno, *times);
        let next = if times > 1 { Some(Fault::Errno(errno, times - 1)) } else { None };
        match next {
            Some(next) => drop(faults().insert(registered.inode, next)),
            None => drop(faults().remove(&registered.inode)),
        }
        set_errno(errno);
        return -1;
    }
    if let Some(Fault::Waits(gate)) = fault.take_if(|fault| matches!(fault, Fault::Waits(_))) {
        gate.pass();
    }
    let bytes = match fault {
        Some(Fault::Code(code)) => return -(code as isize),
        Some(Fault::TooMany) => return bytes as isize + 1,
        Some(Fault::Short(most)) => bytes.min(most),
        _ => bytes,
    };
    match go(&registered.file, bytes) {
        Ok(moved) => moved as isize,
        Err(error) => {
            set_errno(error.raw_os_error().unwrap_or(libc::EIO));
            -1
        }
    }
}

/// Direct I/O of odd lengths goes through a second descriptor: cuFile does so too.
fn plain(file: &File) -> File {
    use std::os::fd::AsRawFd;
    File::options().read(true).write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()
}

/// An offset counts from the start of registered memory, and stays within it.
fn is_outside(base: *const c_void, bytes: usize, skip: c_long) -> bool {
    let reaches = |&registered: &usize| skip as usize + bytes <= registered;
    skip != 0 && !buffers().get(&(base as usize)).is_some_and(reaches)
}

unsafe extern "C" fn read(
    handle: CUfileHandle,
    base: *mut c_void,
    bytes: usize,
    offset: c_long,
    skip: c_long,
) -> isize {
    if is_outside(base, bytes, skip) {
        return -5013;
    }
    call(handle, bytes, |file, bytes| {
        // SAFETY: the caller vouches for the memory.
        let target =
            unsafe { std::slice::from_raw_parts_mut(base.cast::<u8>().offset(skip as isize), bytes) };
        plain(file).read_at(target, offset as u64)
    })
}

unsafe extern "C" fn write(
    handle: CUfileHandle,
    base: *const c_void,
    bytes: usize,
    offset: c_long,
    skip: c_long,
) -> isize {
    if is_outside(base, bytes, skip) {
        return -5013;
    }
    call(handle, bytes, |file, bytes| {
        // SAFETY: the caller vouches for the memory.
        let source = unsafe { std::slice::from_raw_parts(base.cast::<u8>().offset(skip as isize), bytes) };
        plain(file).write_at(source, offset as u64)
    })
}

/// A batch: its operations are done when they are asked for, two an answer, from the middle on.
#[derive(Default)]
struct Batch {
    waiting: Vec<CUfileIOParams>,
}

/// # Safety
/// The handle is from `handle_register`.
unsafe fn fault_of(params: &CUfileIOParams) -> Option<Fault> {
    // SAFETY: the caller's promise.
    let inode = unsafe { (*params.fh.cast::<Registered>()).inode };
    faults().get(&inode).cloned()
}

/// Files of operations that were not over when their batch was destroyed.
fn destroyed() -> MutexGuard<'static, HashSet<Inode>> {
    static SET: OnceLock<Mutex<HashSet<Inode>>> = OnceLock::new();
    SET.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a batch was destroyed under an operation on the file.
pub(crate) fn is_destroyed_under(file: &File) -> bool {
    destroyed().contains(&inode(file))
}

unsafe extern "C" fn batch_set_up(handle: *mut CUfileBatchHandle, _depth: c_uint) -> CUfileError {
    // SAFETY: the caller's handle.
    unsafe { *handle = Box::into_raw(Box::<Batch>::default()).cast() };
    code(0)
}

unsafe extern "C" fn batch_submit(
    handle: CUfileBatchHandle,
    count: c_uint,
    params: *mut CUfileIOParams,
    _flags: c_uint,
) -> CUfileError {
    // SAFETY: from `batch_set_up`; as many parameters as the caller says.
    let (batch, params) =
        unsafe { (&mut *handle.cast::<Batch>(), std::slice::from_raw_parts(params, count as usize)) };
    // SAFETY: from `handle_register`.
    let fault = params.first().and_then(|first| unsafe { fault_of(first) });
    if matches!(fault, Some(Fault::BatchesAreRefused)) {
        return code(5030);
    }
    batch.waiting.extend_from_slice(params);
    code(if matches!(fault, Some(Fault::BatchesAreTakenAllTheSame)) { 5030 } else { 0 })
}

unsafe extern "C" fn batch_get_status(
    handle: CUfileBatchHandle,
    _least: c_uint,
    count: *mut c_uint,
    events: *mut CUfileIOEvents,
    _timeout: *mut Timespec,
) -> CUfileError {
    // SAFETY: from `batch_set_up`; room for as many events as the caller says.
    let (batch, room) = unsafe { (&mut *handle.cast::<Batch>(), *count as usize) };
    let mut answered = 0;
    while answered < room.min(2) {
        if batch.waiting.is_empty() {
            break;
        }
        // In no order that anybody could rely on.
        let next = batch.waiting.len() / 2;
        // SAFETY: from `handle_register`.
        match unsafe { fault_of(&batch.waiting[next]) } {
            Some(Fault::BatchesGetLost) => return code(5030),
            Some(Fault::BatchesStaySilent) => break,
            Some(Fault::BatchesTimeOut) => {
                let cookie = batch.waiting[next].cookie;
                // SAFETY: there is room, and the count is the caller's.
                unsafe {
                    *events.add(answered) = CUfileIOEvents { cookie, status: abi::CUFILE_TIMEOUT, ret: 0 };
                    *count = answered as c_uint + 1;
                }
                return code(0);
            }
            _ => {}
        }
        let params = batch.waiting.remove(next);
        let (base, bytes, offset) = (params.batch.dev_ptr_base, params.batch.size, params.batch.file_offset);
        // As version 1.19.1: whoever relies on the offset moves the wrong bytes.
        // SAFETY: the caller vouches for the memory.
        let moved = unsafe {
            match params.opcode {
                abi::CUFILE_READ => read(params.fh, base, bytes, offset, 0),
                _ => write(params.fh, base, bytes, offset, 0),
            }
        };
        let status = if moved < 0 { abi::CUFILE_FAILED } else { abi::CUFILE_COMPLETE };
        // SAFETY: there is room.
        unsafe {
            *events.add(answered) = CUfileIOEvents { cookie: params.cookie, status, ret: moved as usize }
        };
        answered += 1;
    }
    // SAFETY: the caller's count.
    unsafe { *count = answered as c_uint };
    code(0)
}

unsafe extern "C" fn batch_cancel(_: CUfileBatchHandle) -> CUfileError {
    code(0)
}

unsafe extern "C" fn batch_destroy(handle: CUfileBatchHandle) {
    // SAFETY: from `batch_set_up`, and once.
    let batch = unsafe { Box::from_raw(handle.cast::<Batch>()) };
    // SAFETY: from `handle_register`.
    let under = batch.waiting.iter().map(|params| unsafe { (*params.fh.cast::<Registered>()).inode });
    destroyed().extend(under);
}

/// An operation that waits for its stream's turn: what the library has of it.
struct Queued {
    handle: CUfileHandle,
    base: *mut c_void,
    bytes: *mut usize,
    offset: *mut c_long,
    skip: *mut c_long,
    moved: *mut isize,
}

// SAFETY: addresses, given from one test's thread to another.
unsafe impl Send for Queued {}

/// Streams, by number: what is queued in each.
fn streams() -> MutexGuard<'static, HashMap<usize, Vec<Queued>>> {
    static STREAMS: OnceLock<Mutex<HashMap<usize, Vec<Queued>>>> = OnceLock::new();
    STREAMS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

unsafe extern "C" fn read_async(
    handle: CUfileHandle,
    base: *mut c_void,
    bytes: *mut usize,
    offset: *mut c_long,
    skip: *mut c_long,
    moved: *mut isize,
    stream: CUstream,
) -> CUfileError {
    let queued = Queued { handle, base, bytes, offset, skip, moved };
    streams().entry(stream as usize).or_default().push(queued);
    code(0)
}

/// The stream's turn comes: whoever has freed the arguments of an operation is found out by whatever checks memory.
pub(crate) fn run_stream(stream: usize) {
    for queued in streams().remove(&stream).unwrap_or_default() {
        // SAFETY: the arguments live until the operation is over.
        unsafe {
            *queued.moved = read(queued.handle, queued.base, *queued.bytes, *queued.offset, *queued.skip)
        };
    }
}

/// All functions.
pub(crate) fn functions() -> Functions {
    Functions {
        driver_open,
        get_properties,
        handle_register,
        handle_deregister,
        buf_register,
        buf_deregister,
        read,
        write,
        get_version: Some(get_version),
        use_count: None,
        get_bool: None,
        set_bool: None,
        get_p2p_flags: None,
        batch_set_up: Some(batch_set_up),
        batch_submit: Some(batch_submit),
        batch_get_status: Some(batch_get_status),
        batch_cancel: Some(batch_cancel),
        batch_destroy: Some(batch_destroy),
        read_async: Some(read_async),
        write_async: None,
        stream_register: None,
        stream_deregister: None,
    }
}

/// A driver on these functions.
pub(crate) fn driver(functions: Functions) -> Arc<super::Driver> {
    super::Driver::open(Library::standing_in(functions)).unwrap()
}
