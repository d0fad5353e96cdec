//! cuFile, the library of GPUDirect Storage, bound by hand.
//!
//! | module | what is there |
//! |---|---|
//! | [`abi`] | the structures and codes of `cufile.h`, as integers |
//! | [`status`] | what the codes mean, and the error that a caller gets |
//! | [`library`] | [`Library`]: `libcufile.so.0` and its functions, the newer ones optional |
//! | [`driver`] | [`Driver`]: opened once; versions and properties |
//! | [`handle`] | [`Handle`]: a file that cuFile knows |
//! | [`buffer`] | [`Buffer`]: memory that cuFile knows |
//! | [`batch`] | [`BatchQueue`]: several operations with one call |
//! | [`on_stream`] | [`OnStream`]: an operation that a stream of CUDA does in its turn |
//!
//! Codes that the library answers stay integers: a newer library knows more of them than this source. Functions that came
//! later are looked up one by one, and who needs one that is missing gets an error that names it.

pub mod abi;
pub mod batch;
pub mod buffer;
pub mod driver;
pub mod handle;
pub mod library;
pub mod on_stream;
pub mod status;

#[cfg(test)]
mod calls_tests;
#[cfg(test)]
pub(crate) mod standin_tests;

pub use batch::BatchQueue;
pub use buffer::Buffer;
pub use driver::{Driver, Properties, Version};
pub use handle::Handle;
pub use library::Library;
pub use on_stream::OnStream;
