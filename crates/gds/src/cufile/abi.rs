//! The structures and codes of `cufile.h`, versions 1.0 to 1.20.
//!
//! Every code is an integer. An enum would make an answer that this source does not know undefined behaviour.

use std::ffi::{c_int, c_long, c_uint, c_void};

/// `CUfileError_t`: what most functions return, by value.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CUfileError {
    /// `CUfileOpError`; 0 is success.
    pub err: c_int,
    /// `CUresult`; says something only beside [`CU_FILE_CUDA_DRIVER_ERROR`].
    pub cu_err: c_int,
}

/// `CUfileHandle_t`.
pub type CUfileHandle = *mut c_void;
/// `CUfileBatchHandle_t`.
pub type CUfileBatchHandle = *mut c_void;
/// `CUstream`.
pub type CUstream = *mut c_void;

/// The union in [`CUfileDescr`].
#[repr(C)]
#[derive(Clone, Copy)]
pub union DescriptorHandle {
    /// A descriptor of Linux.
    pub fd: c_int,
    /// Anything else.
    pub handle: *mut c_void,
}

/// `CUfileDescr_t`: the file to register.
#[repr(C)]
pub struct CUfileDescr {
    /// [`CU_FILE_HANDLE_TYPE_OPAQUE_FD`].
    pub kind: c_uint,
    /// The descriptor.
    pub handle: DescriptorHandle,
    /// `CUfileFSOps_t` for file systems in user space; null for all others.
    pub fs_ops: *const c_void,
}

/// The first part of [`CUfileDrvProps`]: of the nvidia-fs kernel module.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct NvfsProps {
    /// Version of nvidia-fs.
    pub major_version: c_uint,
    /// Version of nvidia-fs.
    pub minor_version: c_uint,
    /// In KiB.
    pub poll_thresh_size: usize,
    /// In KiB.
    pub max_direct_io_size: usize,
    /// One bit for each kind of file system that is supported.
    pub dstatusflags: c_uint,
    /// One bit each for polling and compatibility mode.
    pub dcontrolflags: c_uint,
}

/// `CUfileDrvProps_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct CUfileDrvProps {
    /// Of nvidia-fs.
    pub nvfs: NvfsProps,
    /// One bit for each feature.
    pub fflags: c_uint,
    /// In KiB.
    pub max_device_cache_size: c_uint,
    /// In KiB.
    pub per_buffer_cache_size: c_uint,
    /// In KiB.
    pub max_device_pinned_mem_size: c_uint,
    /// Most operations in a batch.
    pub max_batch_io_size: c_uint,
    /// In milliseconds.
    pub max_batch_io_timeout_msecs: c_uint,
}

/// The member `batch` of the union in [`CUfileIOParams`], its only one.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct BatchParams {
    /// The memory.
    pub dev_ptr_base: *mut c_void,
    /// Where in the file.
    pub file_offset: c_long,
    /// Added to `dev_ptr_base`. Library 1.19.1 ignored it: it is always 0 here.
    pub dev_ptr_offset: c_long,
    /// How many bytes.
    pub size: usize,
}

/// `CUfileIOParams_t`: one operation of a batch.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CUfileIOParams {
    /// [`CUFILE_BATCH`].
    pub mode: c_uint,
    /// What to move.
    pub batch: BatchParams,
    /// The file.
    pub fh: CUfileHandle,
    /// [`CUFILE_READ`] or [`CUFILE_WRITE`].
    pub opcode: c_uint,
    /// Comes back in the event.
    pub cookie: *mut c_void,
}

/// `CUfileIOEvents_t`: what became of an operation of a batch.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CUfileIOEvents {
    /// The cookie of the operation.
    pub cookie: *mut c_void,
    /// One of `CUFILE_*`.
    pub status: c_uint,
    /// Bytes moved; as a signed number, the negative of a code.
    pub ret: usize,
}

/// `struct timespec`, as the batch calls take it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Timespec {
    /// Seconds.
    pub tv_sec: c_long,
    /// Nanoseconds.
    pub tv_nsec: c_long,
}

/// The kind of file handle that is a descriptor of Linux.
pub const CU_FILE_HANDLE_TYPE_OPAQUE_FD: c_uint = 1;
/// The only mode of a batch.
pub const CUFILE_BATCH: c_uint = 1;
/// From file to memory.
pub const CUFILE_READ: c_uint = 0;
/// From memory to file.
pub const CUFILE_WRITE: c_uint = 1;

/// Enqueued, and nothing more is known.
pub const CUFILE_PENDING: c_uint = 0x02;
/// Not a request that could be enqueued.
pub const CUFILE_INVALID: c_uint = 0x04;
/// Cancelled.
pub const CUFILE_CANCELED: c_uint = 0x08;
/// Done.
pub const CUFILE_COMPLETE: c_uint = 0x10;
/// It took too long.
pub const CUFILE_TIMEOUT: c_uint = 0x20;
/// It failed.
pub const CUFILE_FAILED: c_uint = 0x40;

/// Codes from here on are cuFile's; below are the system's.
pub const CUFILEOP_BASE_ERR: c_int = 5000;
/// The driver has been opened before.
pub const CU_FILE_DRIVER_ALREADY_OPEN: c_int = 5026;
/// The memory has been registered before.
pub const CU_FILE_MEMORY_ALREADY_REGISTERED: c_int = 5023;
/// CUDA failed; its own code says why.
pub const CU_FILE_CUDA_DRIVER_ERROR: c_int = 5011;

/// Bit of `dcontrolflags`: files that GPUDirect can't serve go through host memory.
pub const CU_FILE_ALLOW_COMPAT_MODE: c_uint = 1;
/// Bit of `dstatusflags`: local NVMe disks through nvidia-fs.
pub const CU_FILE_NVME_SUPPORTED: c_uint = 4;
/// Bit of `dstatusflags`: local NVMe disks by the kernel's own PCI peer-to-peer transfers, without nvidia-fs. From 1.13 to 1.15;
/// 1.17 and later answer [`GetP2pFlags`].
pub const CU_FILE_NVME_P2P_SUPPORTED: c_uint = 11;
/// Bit of `cuFileDriverGetP2PFlags`: the kernel's own PCI peer-to-peer transfers.
pub const CUFILE_P2PDMA: c_uint = 0;
/// Bit of `cuFileDriverGetP2PFlags`: nvidia-fs.
pub const CUFILE_NVFS: c_uint = 1;
/// The parameter for compatibility mode of `cuFileGetParameterBool` and `cuFileSetParameterBool`.
pub const CUFILE_PARAM_PROPERTIES_ALLOW_COMPAT_MODE: c_uint = 1;

/// `cuFileDriverOpen` and others without arguments.
pub type Plain = unsafe extern "C" fn() -> CUfileError;
/// `cuFileGetVersion`.
pub type GetVersion = unsafe extern "C" fn(*mut c_int) -> CUfileError;
/// `cuFileDriverGetProperties`.
pub type GetProperties = unsafe extern "C" fn(*mut CUfileDrvProps) -> CUfileError;
/// `cuFileHandleRegister`.
pub type HandleRegister = unsafe extern "C" fn(*mut CUfileHandle, *mut CUfileDescr) -> CUfileError;
/// `cuFileHandleDeregister`.
pub type HandleDeregister = unsafe extern "C" fn(CUfileHandle);
/// `cuFileBufRegister`.
pub type BufRegister = unsafe extern "C" fn(*const c_void, usize, c_int) -> CUfileError;
/// `cuFileBufDeregister`.
pub type BufDeregister = unsafe extern "C" fn(*const c_void) -> CUfileError;
/// `cuFileRead`: handle, base, bytes, offset in the file, offset from the base.
pub type Read = unsafe extern "C" fn(CUfileHandle, *mut c_void, usize, c_long, c_long) -> isize;
/// `cuFileWrite`.
pub type Write = unsafe extern "C" fn(CUfileHandle, *const c_void, usize, c_long, c_long) -> isize;
/// `cuFileBatchIOSetUp`.
pub type BatchSetUp = unsafe extern "C" fn(*mut CUfileBatchHandle, c_uint) -> CUfileError;
/// `cuFileBatchIOSubmit`.
pub type BatchSubmit =
    unsafe extern "C" fn(CUfileBatchHandle, c_uint, *mut CUfileIOParams, c_uint) -> CUfileError;
/// `cuFileBatchIOGetStatus`.
pub type BatchGetStatus = unsafe extern "C" fn(
    CUfileBatchHandle,
    c_uint,
    *mut c_uint,
    *mut CUfileIOEvents,
    *mut Timespec,
) -> CUfileError;
/// `cuFileBatchIOCancel`.
pub type BatchCancel = unsafe extern "C" fn(CUfileBatchHandle) -> CUfileError;
/// `cuFileBatchIODestroy`.
pub type BatchDestroy = unsafe extern "C" fn(CUfileBatchHandle);
/// `cuFileReadAsync`, `cuFileWriteAsync`: handle, base, and pointers to bytes, offset in the file, offset from the base and
/// to the count, then the stream.
pub type Async = unsafe extern "C" fn(
    CUfileHandle,
    *mut c_void,
    *mut usize,
    *mut c_long,
    *mut c_long,
    *mut isize,
    CUstream,
) -> CUfileError;
/// `cuFileStreamRegister`.
pub type StreamRegister = unsafe extern "C" fn(CUstream, c_uint) -> CUfileError;
/// `cuFileStreamDeregister`.
pub type StreamDeregister = unsafe extern "C" fn(CUstream) -> CUfileError;
/// `cuFileGetParameterBool`.
pub type GetParameterBool = unsafe extern "C" fn(c_uint, *mut bool) -> CUfileError;
/// `cuFileSetParameterBool`.
pub type SetParameterBool = unsafe extern "C" fn(c_uint, bool) -> CUfileError;
/// `cuFileDriverGetP2PFlags`: the bit of `dstatusflags` that is asked about, and one bit for each way.
pub type GetP2pFlags = unsafe extern "C" fn(c_uint, *mut c_uint) -> CUfileError;
/// `cuFileUseCount`.
pub type UseCount = unsafe extern "C" fn() -> c_long;

/// Name and size of a structure, and name and offset of each of its fields.
pub type Layout = (&'static str, usize, &'static [(&'static str, usize)]);

/// Each structure, as a C compiler that has read `cufile.h` prints it.
pub const LAYOUTS: &[Layout] = {
    use std::mem::{offset_of, size_of};
    &[
        (
            "CUfileError_t",
            size_of::<CUfileError>(),
            &[("err", offset_of!(CUfileError, err)), ("cu_err", offset_of!(CUfileError, cu_err))],
        ),
        (
            "CUfileDescr_t",
            size_of::<CUfileDescr>(),
            &[
                ("type", offset_of!(CUfileDescr, kind)),
                ("handle", offset_of!(CUfileDescr, handle)),
                ("fs_ops", offset_of!(CUfileDescr, fs_ops)),
            ],
        ),
        (
            "CUfileDrvProps_t",
            size_of::<CUfileDrvProps>(),
            &[
                ("nvfs.major_version", offset_of!(CUfileDrvProps, nvfs.major_version)),
                ("nvfs.minor_version", offset_of!(CUfileDrvProps, nvfs.minor_version)),
                ("nvfs.poll_thresh_size", offset_of!(CUfileDrvProps, nvfs.poll_thresh_size)),
                ("nvfs.max_direct_io_size", offset_of!(CUfileDrvProps, nvfs.max_direct_io_size)),
                ("nvfs.dstatusflags", offset_of!(CUfileDrvProps, nvfs.dstatusflags)),
                ("nvfs.dcontrolflags", offset_of!(CUfileDrvProps, nvfs.dcontrolflags)),
                ("fflags", offset_of!(CUfileDrvProps, fflags)),
                ("max_device_cache_size", offset_of!(CUfileDrvProps, max_device_cache_size)),
                ("per_buffer_cache_size", offset_of!(CUfileDrvProps, per_buffer_cache_size)),
                ("max_device_pinned_mem_size", offset_of!(CUfileDrvProps, max_device_pinned_mem_size)),
                ("max_batch_io_size", offset_of!(CUfileDrvProps, max_batch_io_size)),
                ("max_batch_io_timeout_msecs", offset_of!(CUfileDrvProps, max_batch_io_timeout_msecs)),
            ],
        ),
        (
            "CUfileIOParams_t",
            size_of::<CUfileIOParams>(),
            &[
                ("mode", offset_of!(CUfileIOParams, mode)),
                ("u.batch.devPtr_base", offset_of!(CUfileIOParams, batch.dev_ptr_base)),
                ("u.batch.file_offset", offset_of!(CUfileIOParams, batch.file_offset)),
                ("u.batch.devPtr_offset", offset_of!(CUfileIOParams, batch.dev_ptr_offset)),
                ("u.batch.size", offset_of!(CUfileIOParams, batch.size)),
                ("fh", offset_of!(CUfileIOParams, fh)),
                ("opcode", offset_of!(CUfileIOParams, opcode)),
                ("cookie", offset_of!(CUfileIOParams, cookie)),
            ],
        ),
        (
            "CUfileIOEvents_t",
            size_of::<CUfileIOEvents>(),
            &[
                ("cookie", offset_of!(CUfileIOEvents, cookie)),
                ("status", offset_of!(CUfileIOEvents, status)),
                ("ret", offset_of!(CUfileIOEvents, ret)),
            ],
        ),
    ]
};

/// Constants of `cufile.h` that are used here, for the same comparison.
pub const CONSTANTS: &[(&str, i64)] = &[
    ("CU_FILE_HANDLE_TYPE_OPAQUE_FD", CU_FILE_HANDLE_TYPE_OPAQUE_FD as i64),
    ("CUFILE_BATCH", CUFILE_BATCH as i64),
    ("CUFILE_READ", CUFILE_READ as i64),
    ("CUFILE_WRITE", CUFILE_WRITE as i64),
    ("CUFILE_PENDING", CUFILE_PENDING as i64),
    ("CUFILE_INVALID", CUFILE_INVALID as i64),
    ("CUFILE_CANCELED", CUFILE_CANCELED as i64),
    ("CUFILE_COMPLETE", CUFILE_COMPLETE as i64),
    ("CUFILE_TIMEOUT", CUFILE_TIMEOUT as i64),
    ("CUFILE_FAILED", CUFILE_FAILED as i64),
    ("CUFILEOP_BASE_ERR", CUFILEOP_BASE_ERR as i64),
    ("CU_FILE_DRIVER_ALREADY_OPEN", CU_FILE_DRIVER_ALREADY_OPEN as i64),
    ("CU_FILE_MEMORY_ALREADY_REGISTERED", CU_FILE_MEMORY_ALREADY_REGISTERED as i64),
    ("CU_FILE_CUDA_DRIVER_ERROR", CU_FILE_CUDA_DRIVER_ERROR as i64),
    ("CU_FILE_ALLOW_COMPAT_MODE", CU_FILE_ALLOW_COMPAT_MODE as i64),
    ("CU_FILE_NVME_SUPPORTED", CU_FILE_NVME_SUPPORTED as i64),
];

/// The same of constants that not every version has.
pub const LATER_CONSTANTS: &[(&str, i64)] = &[
    ("CU_FILE_NVME_P2P_SUPPORTED", CU_FILE_NVME_P2P_SUPPORTED as i64),
    ("CUFILE_P2PDMA", CUFILE_P2PDMA as i64),
    ("CUFILE_NVFS", CUFILE_NVFS as i64),
    ("CUFILE_PARAM_PROPERTIES_ALLOW_COMPAT_MODE", CUFILE_PARAM_PROPERTIES_ALLOW_COMPAT_MODE as i64),
];
