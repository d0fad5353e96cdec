//! The library's objects, each owned by one value that destroys it, and calls that need no promise of the caller.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md). What holds for every call here: the functions come from
//! [`Library::table`], which outlives every handle; a handle is what its create function wrote, was checked not to be
//! null, is destroyed once, by its owner, and is not used after that; texts are terminated and outlive the call, since
//! the library copies what it keeps; out-parameters are ours and live on the stack.

use std::ffi::{CStr, CString, c_char};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use hicache_core::{Error, ErrorKind, Result};

use crate::NIXL;
use crate::binding::{
    self, MemoryCode, RawAgent, RawAgentConfig, RawAnswers, RawBackend, RawMemoryList, RawOptions,
    RawParameterIterator, RawParameters, RawRegistrationList, RawStrings, RawTransferList, Status, Table,
};
use crate::library::Library;

/// A list of names and values.
pub(crate) type Pairs = Vec<(String, String)>;

/// An error status as an error: what was tried and with what, since the library says little more than "failed".
pub(crate) fn failure(kind: ErrorKind, status: Status, what: impl Into<String>) -> Error {
    let what = what.into();
    Error::new(kind, format!("{what}: {} ({status})", binding::meaning(status))).with_backend(NIXL)
}

/// `Ok` for success, else an error of `kind` that says `what`.
pub(crate) fn check(status: Status, kind: ErrorKind, what: impl FnOnce() -> String) -> Result<()> {
    if status == binding::SUCCESS { Ok(()) } else { Err(failure(kind, status, what())) }
}

/// A text as the library wants it.
///
/// # Errors
/// `Config` for one with a zero byte in it.
pub(crate) fn c_text(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::config(format!("{text:?} has a zero byte in it")))
}

fn made<T>(raw: *mut T, status: Status, kind: ErrorKind, what: impl Fn() -> String) -> Result<NonNull<T>> {
    check(status, kind, &what)?;
    NonNull::new(raw)
        .ok_or_else(|| failure(ErrorKind::Unexpected, status, format!("{}: nothing was made", what())))
}

/// # Safety
/// `text` is null or a terminated string that nothing changes meanwhile.
unsafe fn copied(text: *const c_char) -> Option<String> {
    // SAFETY: the caller's promise.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

/// Declares a handle that is destroyed by one function of the table.
macro_rules! handle {
    ($(#[$doc:meta])* $name:ident, $raw:ty, $destroy:ident) => {
        $(#[$doc])*
        pub(crate) struct $name {
            library: Arc<Library>,
            raw: NonNull<$raw>,
        }

        // SAFETY: the library's object is plain memory of it, bound to no thread; one thread at a time has the handle.
        unsafe impl Send for $name {}

        impl $name {
            pub(crate) fn raw(&self) -> *mut $raw {
                self.raw.as_ptr()
            }

            #[allow(dead_code, reason = "not every handle is asked")]
            fn table(&self) -> &Table {
                self.library.table()
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: ours, and not used again.
                unsafe { (self.library.table().$destroy)(self.raw.as_ptr()) };
            }
        }
    };
}

handle!(
    /// An agent, which owns its backends.
    AgentHandle, RawAgent, destroy_agent
);
handle!(
    /// The name of a backend in calls. Destroying it leaves the backend to its agent.
    BackendName, RawBackend, destroy_backend
);
handle!(
    /// Optional arguments: here always the one backend that is meant.
    Options, RawOptions, destroy_options
);
handle!(Parameters, RawParameters, destroy_parameters);
handle!(ParameterIterator, RawParameterIterator, destroy_parameter_iterator);
handle!(MemoryList, RawMemoryList, destroy_memory_list);
handle!(Strings, RawStrings, destroy_strings);
handle!(
    /// Descriptors that are to be registered, queried or deregistered.
    RegistrationList, RawRegistrationList, destroy_registration_list
);
handle!(
    /// One side of a transfer.
    TransferList, RawTransferList, destroy_transfer_list
);
handle!(Answers, RawAnswers, destroy_answers);

// SAFETY: agents are made with the strict mode of synchronisation: every call takes the agent's own lock.
unsafe impl Sync for AgentHandle {}
// SAFETY: what it points to is never changed after it was made.
unsafe impl Sync for BackendName {}
// SAFETY: as above; the library only reads the options of a call.
unsafe impl Sync for Options {}
// SAFETY: as above; it is filled before it is shared, by `&mut self`, and the library only reads it.
unsafe impl Sync for RegistrationList {}

impl AgentHandle {
    pub(crate) fn create(library: &Arc<Library>, name: &CStr) -> Result<Self> {
        let config = RawAgentConfig {
            enable_progress_thread: false,
            enable_listen_thread: false,
            listen_port: 0,
            thread_sync: binding::SYNC_STRICT,
            workers: 1,
            progress_delay_us: 0,
            listen_delay_us: 0,
            capture_telemetry: false,
        };
        let mut raw = ptr::null_mut();
        // SAFETY: see the head of this file.
        let status = unsafe { (library.table().create_agent)(name.as_ptr(), &config, &mut raw) };
        let raw = made(raw, status, ErrorKind::Unavailable, || format!("the agent {name:?} can't be made"))?;
        Ok(Self { library: Arc::clone(library), raw })
    }

    pub(crate) fn library(&self) -> &Arc<Library> {
        &self.library
    }

    pub(crate) fn plugins(&self) -> Result<Vec<String>> {
        let mut raw = ptr::null_mut();
        let what = || "the plugins can't be listed".to_owned();
        // SAFETY: see the head of this file; a list is destroyed by its handle.
        let status = unsafe { (self.table().available_plugins)(self.raw(), &mut raw) };
        let raw = made(raw, status, ErrorKind::Unavailable, what)?;
        let list = Strings { library: Arc::clone(&self.library), raw };
        let mut len = 0;
        // SAFETY: see the head of this file.
        check(unsafe { (self.table().strings_len)(list.raw(), &mut len) }, ErrorKind::Unexpected, what)?;
        let mut plugins = Vec::with_capacity(len);
        for index in 0..len {
            let mut text = ptr::null();
            // SAFETY: see the head of this file; the text belongs to the list, which lives.
            let text = unsafe {
                check((self.table().strings_get)(list.raw(), index, &mut text), ErrorKind::Unexpected, what)?;
                copied(text)
            };
            plugins.extend(text);
        }
        Ok(plugins)
    }

    /// Kinds of memory and default parameters of a plugin, which is loaded for it.
    pub(crate) fn plugin_parameters(&self, plugin: &CStr) -> Result<(Vec<MemoryCode>, Pairs)> {
        let (mut memory, mut parameters) = (ptr::null_mut(), ptr::null_mut());
        let what = || format!("the plugin {} can't be loaded", plugin.to_string_lossy());
        // SAFETY: see the head of this file; both lists are destroyed by their handles.
        let status = unsafe {
            (self.table().plugin_parameters)(self.raw(), plugin.as_ptr(), &mut memory, &mut parameters)
        };
        self.described(status, ErrorKind::Unavailable, memory, parameters, what)
    }

    /// Kinds of memory and parameters of a backend.
    pub(crate) fn backend_parameters(&self, backend: &BackendName) -> Result<(Vec<MemoryCode>, Pairs)> {
        let (mut memory, mut parameters) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: see the head of this file; both lists are destroyed by their handles.
        let status = unsafe {
            (self.table().backend_parameters)(self.raw(), backend.raw(), &mut memory, &mut parameters)
        };
        let what = || "a backend does not tell its parameters".to_owned();
        self.described(status, ErrorKind::Unexpected, memory, parameters, what)
    }

    fn described(
        &self,
        status: Status,
        kind: ErrorKind,
        memory: *mut RawMemoryList,
        parameters: *mut RawParameters,
        what: impl Fn() -> String,
    ) -> Result<(Vec<MemoryCode>, Pairs)> {
        let memory =
            MemoryList { library: Arc::clone(&self.library), raw: made(memory, status, kind, &what)? };
        let parameters =
            Parameters { library: Arc::clone(&self.library), raw: made(parameters, status, kind, &what)? };
        let mut len = 0;
        // SAFETY: see the head of this file.
        let status = unsafe { (self.table().memory_list_len)(memory.raw(), &mut len) };
        check(status, ErrorKind::Unexpected, &what)?;
        let mut kinds = Vec::with_capacity(len);
        for index in 0..len {
            let mut code = 0;
            // SAFETY: see the head of this file.
            let status = unsafe { (self.table().memory_list_get)(memory.raw(), index, &mut code) };
            check(status, ErrorKind::Unexpected, &what)?;
            kinds.push(code);
        }
        Ok((kinds, parameters.pairs()?))
    }

    pub(crate) fn create_backend(&self, plugin: &CStr, parameters: &Parameters) -> Result<BackendName> {
        let mut raw = ptr::null_mut();
        // SAFETY: see the head of this file.
        let status =
            unsafe { (self.table().create_backend)(self.raw(), plugin.as_ptr(), parameters.raw(), &mut raw) };
        let what = || format!("the plugin {} makes no backend", plugin.to_string_lossy());
        let raw = made(raw, status, ErrorKind::Unavailable, what)?;
        Ok(BackendName { library: Arc::clone(&self.library), raw })
    }

    /// What the backend of `options` knows of each descriptor; `None` for what is not there.
    pub(crate) fn query(&self, list: &RegistrationList, options: &Options) -> Result<Vec<Option<Pairs>>> {
        let mut raw = ptr::null_mut();
        let what = || "a query failed".to_owned();
        // SAFETY: see the head of this file.
        let status = unsafe { (self.table().create_answers)(&mut raw) };
        let raw = made(raw, status, ErrorKind::Unexpected, what)?;
        let answers = Answers { library: Arc::clone(&self.library), raw };
        // SAFETY: see the head of this file; the addresses in the list are names of things here, not looked behind.
        let status =
            unsafe { (self.table().query_memory)(self.raw(), list.raw(), answers.raw(), options.raw()) };
        check(status, ErrorKind::Io, what)?;
        answers.read()
    }
}

impl Options {
    /// Options that name `backend`.
    pub(crate) fn of(backend: &BackendName) -> Result<Self> {
        let library = Arc::clone(&backend.library);
        let what = || "options can't be made".to_owned();
        let mut raw = ptr::null_mut();
        // SAFETY: see the head of this file.
        let status = unsafe { (library.table().create_options)(&mut raw) };
        let options = Self { raw: made(raw, status, ErrorKind::Unexpected, what)?, library };
        // SAFETY: see the head of this file; the options keep what the name stands for, which is the agent's.
        let status = unsafe { (options.table().options_add_backend)(options.raw(), backend.raw()) };
        check(status, ErrorKind::Unexpected, what)?;
        Ok(options)
    }
}

impl Parameters {
    pub(crate) fn new(library: &Arc<Library>, pairs: &[(String, String)]) -> Result<Self> {
        let what = || "parameters can't be made".to_owned();
        let mut raw = ptr::null_mut();
        // SAFETY: see the head of this file.
        let status = unsafe { (library.table().create_parameters)(&mut raw) };
        let raw = made(raw, status, ErrorKind::Unexpected, what)?;
        let parameters = Self { library: Arc::clone(library), raw };
        for (key, value) in pairs {
            let (key, value) = (c_text(key)?, c_text(value)?);
            // SAFETY: see the head of this file.
            let status = unsafe {
                (parameters.table().parameters_add)(parameters.raw(), key.as_ptr(), value.as_ptr())
            };
            check(status, ErrorKind::Unexpected, what)?;
        }
        Ok(parameters)
    }

    fn pairs(&self) -> Result<Pairs> {
        let what = || "parameters can't be read".to_owned();
        let mut empty = true;
        // SAFETY: see the head of this file.
        let status = unsafe { (self.table().parameters_is_empty)(self.raw(), &mut empty) };
        check(status, ErrorKind::Unexpected, what)?;
        if empty {
            return Ok(Vec::new());
        }
        let mut raw = ptr::null_mut();
        // SAFETY: see the head of this file; the iterator is dropped before the parameters.
        let status = unsafe { (self.table().create_parameter_iterator)(self.raw(), &mut raw) };
        let raw = made(raw, status, ErrorKind::Unexpected, what)?;
        let iterator = ParameterIterator { library: Arc::clone(&self.library), raw };
        let mut pairs = Vec::new();
        loop {
            let (mut key, mut value, mut more) = (ptr::null(), ptr::null(), false);
            // SAFETY: see the head of this file; the texts are the iterator's until its next step, and copied before.
            let pair = unsafe {
                let status =
                    (self.table().parameter_iterator_next)(iterator.raw(), &mut key, &mut value, &mut more);
                check(status, ErrorKind::Unexpected, what)?;
                copied(key).zip(copied(value))
            };
            pairs.extend(pair);
            if !more {
                return Ok(pairs);
            }
        }
    }
}

impl RegistrationList {
    pub(crate) fn new(library: &Arc<Library>, kind: MemoryCode) -> Result<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: see the head of this file.
        let status = unsafe { (library.table().create_registration_list)(kind, &mut raw) };
        let what = || "a list of descriptors can't be made".to_owned();
        Ok(Self { raw: made(raw, status, ErrorKind::Unexpected, what)?, library: Arc::clone(library) })
    }

    pub(crate) fn add(&mut self, address: usize, len: usize, device: u64, metadata: &[u8]) -> Result<()> {
        // SAFETY: see the head of this file; the metadata is copied, the address is a number here.
        let status = unsafe {
            let metadata = (metadata.as_ptr().cast(), metadata.len());
            (self.table().registration_list_add)(self.raw(), address, len, device, metadata.0, metadata.1)
        };
        check(status, ErrorKind::Unexpected, || "a descriptor can't be added".to_owned())
    }
}

impl TransferList {
    pub(crate) fn new(library: &Arc<Library>, kind: MemoryCode) -> Result<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: see the head of this file.
        let status = unsafe { (library.table().create_transfer_list)(kind, &mut raw) };
        let what = || "a list of descriptors can't be made".to_owned();
        Ok(Self { raw: made(raw, status, ErrorKind::Unexpected, what)?, library: Arc::clone(library) })
    }

    pub(crate) fn add(&mut self, address: usize, len: usize, device: u64) -> Result<()> {
        // SAFETY: see the head of this file; the address is a number here.
        let status = unsafe { (self.table().transfer_list_add)(self.raw(), address, len, device) };
        check(status, ErrorKind::Unexpected, || "a descriptor can't be added".to_owned())
    }
}

impl Answers {
    fn read(&self) -> Result<Vec<Option<Pairs>>> {
        let what = || "the answer of a query can't be read".to_owned();
        let mut len = 0;
        // SAFETY: see the head of this file.
        check(unsafe { (self.table().answers_len)(self.raw(), &mut len) }, ErrorKind::Unexpected, what)?;
        let mut found = Vec::with_capacity(len);
        for index in 0..len {
            let mut there = false;
            // SAFETY: see the head of this file.
            let status = unsafe { (self.table().answers_has_value)(self.raw(), index, &mut there) };
            check(status, ErrorKind::Unexpected, what)?;
            if !there {
                found.push(None);
                continue;
            }
            let mut raw = ptr::null_mut();
            // SAFETY: see the head of this file; what comes back is a copy, destroyed by its handle.
            let status = unsafe { (self.table().answers_get)(self.raw(), index, &mut raw) };
            let raw = made(raw, status, ErrorKind::Unexpected, what)?;
            found.push(Some(Parameters { library: Arc::clone(&self.library), raw }.pairs()?));
        }
        Ok(found)
    }
}
