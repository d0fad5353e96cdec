//! The C ABI of libnixl, as a table of function pointers.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md): declarations only. Statuses, operations and kinds of memory are
//! integers here, whatever number a library answers; nothing is an enum before it has been compared.

mod dynamic;
#[cfg(feature = "nixl-sys")]
mod linked;

use std::ffi::{c_char, c_int, c_uint, c_void};

pub(crate) use dynamic::load;
#[cfg(feature = "nixl-sys")]
pub(crate) use linked::linked;

/// `nixl_capi_status_t`.
pub(crate) type Status = c_int;
pub(crate) const SUCCESS: Status = 0;
pub(crate) const IN_PROGRESS: Status = 1;

/// `nixl_capi_mem_type_t`.
pub(crate) type MemoryCode = c_uint;
/// `nixl_capi_xfer_op_t`.
pub(crate) type OperationCode = c_uint;
pub(crate) const READ: OperationCode = 0;
pub(crate) const WRITE: OperationCode = 1;

/// `NIXL_CAPI_THREAD_SYNC_STRICT`: the agent takes a lock of its own in every call.
pub(crate) const SYNC_STRICT: c_uint = 1;

/// Something of the library's, behind a pointer that only it looks behind.
macro_rules! opaque {
    ($($(#[$doc:meta])* $name:ident;)+) => {
        $($(#[$doc])* #[repr(C)] pub(crate) struct $name { _opaque: [u8; 0] })+
    };
}

opaque! {
    /// `nixl_capi_agent_s`.
    RawAgent;
    /// `nixl_capi_backend_s`: a name for a backend, which itself belongs to the agent.
    RawBackend;
    /// `nixl_capi_opt_args_s`.
    RawOptions;
    /// `nixl_capi_params_s`.
    RawParameters;
    /// `nixl_capi_param_iter_s`.
    RawParameterIterator;
    /// `nixl_capi_mem_list_s`.
    RawMemoryList;
    /// `nixl_capi_string_list_s`.
    RawStrings;
    /// `nixl_capi_reg_dlist_s`.
    RawRegistrationList;
    /// `nixl_capi_xfer_dlist_s`.
    RawTransferList;
    /// `nixl_capi_xfer_req_s`.
    RawRequest;
    /// `nixl_capi_query_resp_list_s`.
    RawAnswers;
}

/// `nixl_capi_agent_config_t`.
#[repr(C)]
pub(crate) struct RawAgentConfig {
    pub(crate) enable_progress_thread: bool,
    pub(crate) enable_listen_thread: bool,
    pub(crate) listen_port: c_int,
    pub(crate) thread_sync: c_uint,
    pub(crate) workers: c_uint,
    pub(crate) progress_delay_us: u64,
    pub(crate) listen_delay_us: u64,
    pub(crate) capture_telemetry: bool,
}

/// Declares the table, the list of its symbols, and the two ways to fill it.
macro_rules! table {
    ($($field:ident = $symbol:ident ( $($argument:ident : $type:ty),* );)+) => {
        /// Every function that this crate calls. All answer a status.
        #[derive(Clone, Copy)]
        pub(crate) struct Table {
            $(pub(crate) $field: unsafe extern "C" fn($($argument: $type),*) -> Status,)+
        }

        /// Names of the functions of [`Table`], for the loader's messages and the test of the list.
        pub(crate) const SYMBOLS: &[&str] = &[$(stringify!($symbol)),+];

        impl Table {
            /// Asks `find` for each function.
            ///
            /// # Safety
            /// The address that `find` answers for a name is that of the function which the header declares under it.
            pub(crate) unsafe fn from_symbols(library: &libloading::Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    // SAFETY: the caller vouches that the library's symbols of these names are NIXL's functions, and
                    // the types stand in its header.
                    $($field: *unsafe {
                        library.get::<unsafe extern "C" fn($($argument: $type),*) -> Status>(
                            concat!(stringify!($symbol), "\0").as_bytes(),
                        )
                    }?,)+
                })
            }
        }

        #[cfg(feature = "nixl-sys")]
        mod symbols {
            use super::*;

            unsafe extern "C" {
                $(pub(super) fn $symbol($($argument: $type),*) -> Status;)+
            }
        }

        #[cfg(feature = "nixl-sys")]
        impl Table {
            /// From the symbols that are linked with this program.
            pub(super) fn from_linked() -> Self {
                Self { $($field: symbols::$symbol,)+ }
            }
        }
    };
}

table! {
    create_agent = nixl_capi_create_configured_agent(
        name: *const c_char, config: *const RawAgentConfig, agent: *mut *mut RawAgent);
    destroy_agent = nixl_capi_destroy_agent(agent: *mut RawAgent);

    available_plugins = nixl_capi_get_available_plugins(agent: *mut RawAgent, list: *mut *mut RawStrings);
    destroy_strings = nixl_capi_destroy_string_list(list: *mut RawStrings);
    strings_len = nixl_capi_string_list_size(list: *mut RawStrings, len: *mut usize);
    strings_get = nixl_capi_string_list_get(list: *mut RawStrings, index: usize, text: *mut *const c_char);

    plugin_parameters = nixl_capi_get_plugin_params(
        agent: *mut RawAgent, plugin: *const c_char, memory: *mut *mut RawMemoryList,
        parameters: *mut *mut RawParameters);
    backend_parameters = nixl_capi_get_backend_params(
        agent: *mut RawAgent, backend: *mut RawBackend, memory: *mut *mut RawMemoryList,
        parameters: *mut *mut RawParameters);
    destroy_memory_list = nixl_capi_destroy_mem_list(list: *mut RawMemoryList);
    memory_list_len = nixl_capi_mem_list_size(list: *mut RawMemoryList, len: *mut usize);
    memory_list_get = nixl_capi_mem_list_get(list: *mut RawMemoryList, index: usize, kind: *mut MemoryCode);

    create_parameters = nixl_capi_create_params(parameters: *mut *mut RawParameters);
    destroy_parameters = nixl_capi_destroy_params(parameters: *mut RawParameters);
    parameters_add = nixl_capi_params_add(
        parameters: *mut RawParameters, key: *const c_char, value: *const c_char);
    parameters_is_empty = nixl_capi_params_is_empty(parameters: *mut RawParameters, empty: *mut bool);
    create_parameter_iterator = nixl_capi_params_create_iterator(
        parameters: *mut RawParameters, iterator: *mut *mut RawParameterIterator);
    parameter_iterator_next = nixl_capi_params_iterator_next(
        iterator: *mut RawParameterIterator, key: *mut *const c_char, value: *mut *const c_char,
        has_next: *mut bool);
    destroy_parameter_iterator = nixl_capi_params_destroy_iterator(iterator: *mut RawParameterIterator);

    create_backend = nixl_capi_create_backend(
        agent: *mut RawAgent, plugin: *const c_char, parameters: *mut RawParameters,
        backend: *mut *mut RawBackend);
    destroy_backend = nixl_capi_destroy_backend(backend: *mut RawBackend);

    create_options = nixl_capi_create_opt_args(options: *mut *mut RawOptions);
    destroy_options = nixl_capi_destroy_opt_args(options: *mut RawOptions);
    options_add_backend = nixl_capi_opt_args_add_backend(options: *mut RawOptions, backend: *mut RawBackend);

    create_registration_list = nixl_capi_create_reg_dlist(
        kind: MemoryCode, list: *mut *mut RawRegistrationList);
    destroy_registration_list = nixl_capi_destroy_reg_dlist(list: *mut RawRegistrationList);
    registration_list_add = nixl_capi_reg_dlist_add_desc(
        list: *mut RawRegistrationList, address: usize, len: usize, device: u64, metadata: *const c_void,
        metadata_len: usize);
    register_memory = nixl_capi_register_mem(
        agent: *mut RawAgent, list: *mut RawRegistrationList, options: *mut RawOptions);
    deregister_memory = nixl_capi_deregister_mem(
        agent: *mut RawAgent, list: *mut RawRegistrationList, options: *mut RawOptions);

    create_transfer_list = nixl_capi_create_xfer_dlist(kind: MemoryCode, list: *mut *mut RawTransferList);
    destroy_transfer_list = nixl_capi_destroy_xfer_dlist(list: *mut RawTransferList);
    transfer_list_add = nixl_capi_xfer_dlist_add_desc(
        list: *mut RawTransferList, address: usize, len: usize, device: u64);

    create_request = nixl_capi_create_xfer_req(
        agent: *mut RawAgent, operation: OperationCode, local: *mut RawTransferList,
        remote: *mut RawTransferList, remote_agent: *const c_char, request: *mut *mut RawRequest,
        options: *mut RawOptions);
    post_request = nixl_capi_post_xfer_req(
        agent: *mut RawAgent, request: *mut RawRequest, options: *mut RawOptions);
    request_status = nixl_capi_get_xfer_status(agent: *mut RawAgent, request: *mut RawRequest);
    release_request = nixl_capi_release_xfer_req(agent: *mut RawAgent, request: *mut RawRequest);
    destroy_request = nixl_capi_destroy_xfer_req(request: *mut RawRequest);

    create_answers = nixl_capi_create_query_resp_list(list: *mut *mut RawAnswers);
    destroy_answers = nixl_capi_destroy_query_resp_list(list: *mut RawAnswers);
    answers_len = nixl_capi_query_resp_list_size(list: *mut RawAnswers, len: *mut usize);
    answers_has_value = nixl_capi_query_resp_list_has_value(
        list: *mut RawAnswers, index: usize, has_value: *mut bool);
    answers_get = nixl_capi_query_resp_list_get_params(
        list: *mut RawAnswers, index: usize, parameters: *mut *mut RawParameters);
    query_memory = nixl_capi_query_mem(
        agent: *mut RawAgent, list: *mut RawRegistrationList, answers: *mut RawAnswers,
        options: *mut RawOptions);
}

/// A symbol that the library has from 1.5.0 on and not before: what tells them apart, since it does not say its version.
pub(crate) const SINCE_1_5_0: &str = "nixl_capi_prep_mem_view_local";

/// What a negative status means; the library says no more.
pub(crate) fn meaning(status: Status) -> &'static str {
    match status {
        -1 => "invalid parameter",
        -2 => "the backend failed",
        -3 => "invalid state",
        -4 => "an exception",
        -5 => "no telemetry",
        -6 => "not found",
        SUCCESS => "success",
        IN_PROGRESS => "in progress",
        _ => "unknown",
    }
}
