//! The one public error: what happened, to what, and what to do.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use crate::key::PageKey;

/// Shorthand for results of this workspace.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about an error. Few on purpose: a cause is told in the message, a kind says how to react.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller's input or configuration is wrong: change it. Nothing was opened or changed.
    Config,
    /// This backend can't do that, ever: use another one.
    Unsupported,
    /// The backend can't be used on this machine or right now: fall back, or try later.
    Unavailable,
    /// Somebody else holds what is needed (a slot, a lock): try again.
    Busy,
    /// The device or the file system failed.
    Io,
    /// No room, and nothing that could be evicted.
    NoSpace,
    /// The bytes are not the bytes that were stored. The page is gone; treat it as a miss.
    Corrupt,
    /// The deadline has passed. The memory is no longer in use.
    Timeout,
    /// The operation was lost. Memory of ours that it used is never given out again.
    Abandoned,
    /// The object was closed, or the process forked.
    Closed,
    /// A defect in hicache or in a library that it uses.
    Unexpected,
}

impl ErrorKind {
    /// The kind as one lower-case word, as metrics and JSON spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Unsupported => "unsupported",
            Self::Unavailable => "unavailable",
            Self::Busy => "busy",
            Self::Io => "io",
            Self::NoSpace => "no-space",
            Self::Corrupt => "corrupt",
            Self::Timeout => "timeout",
            Self::Abandoned => "abandoned",
            Self::Closed => "closed",
            Self::Unexpected => "unexpected",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error, one word wide and cheap to clone, since one cause can answer every page of a batch.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    retryable: bool,
    backend: Option<&'static str>,
    operation: Option<&'static str>,
    key: Option<PageKey>,
    bytes: Option<(u64, u64)>,
    errno: Option<i32>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; the message names the thing, the value and the mend.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let retryable = matches!(kind, ErrorKind::Busy | ErrorKind::Timeout);
        Self(Arc::new(Inner {
            kind,
            message: message.into(),
            retryable,
            backend: None,
            operation: None,
            key: None,
            bytes: None,
            errno: None,
            source: None,
        }))
    }

    /// Bad input or configuration.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Config, message)
    }

    /// An error of the operating system during `operation`; `ENOSPC`, `EDQUOT` and `EFBIG` become
    /// [`ErrorKind::NoSpace`], everything else is [`ErrorKind::Io`].
    pub fn io(operation: &'static str, what: impl Into<String>, source: std::io::Error) -> Self {
        // The three errno values are the same on every Linux architecture; the core links no libc to name them.
        const NO_SPACE: [i32; 3] = [28, 122, 27];
        let errno = source.raw_os_error();
        let kind = match errno {
            Some(code) if NO_SPACE.contains(&code) => ErrorKind::NoSpace,
            _ => ErrorKind::Io,
        };
        let mut error = Self::new(kind, what).with_operation(operation).with_source(source);
        if let Some(inner) = Arc::get_mut(&mut error.0) {
            inner.errno = errno;
        }
        error
    }

    fn edit(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        // Builders run before an error is shared. On a shared one the detail is dropped rather than the error.
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            change(inner);
        }
        self
    }

    /// Names the backend. Call before the error is cloned.
    pub fn with_backend(self, backend: &'static str) -> Self {
        self.edit(|inner| inner.backend = Some(backend))
    }

    /// Names the operation. Call before the error is cloned.
    pub fn with_operation(self, operation: &'static str) -> Self {
        self.edit(|inner| inner.operation = Some(operation))
    }

    /// Names the page. Call before the error is cloned.
    pub fn with_key(self, key: PageKey) -> Self {
        self.edit(|inner| inner.key = Some(key))
    }

    /// How many bytes were wanted and how many there were. Call before the error is cloned.
    pub fn with_bytes(self, expected: u64, actual: u64) -> Self {
        self.edit(|inner| inner.bytes = Some((expected, actual)))
    }

    /// Whether the same call can succeed later. Call before the error is cloned.
    pub fn with_retryable(self, retryable: bool) -> Self {
        self.edit(|inner| inner.retryable = retryable)
    }

    /// The operating system's error number, where the cause is told without [`Error::io`]. Call before the error is
    /// cloned.
    pub fn with_errno(self, errno: i32) -> Self {
        self.edit(|inner| inner.errno = Some(errno))
    }

    /// What caused it. Call before the error is cloned.
    pub fn with_source(self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.edit(|inner| inner.source = Some(source.into()))
    }

    /// What to do about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call can succeed later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// The message without its context.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The backend that reported it.
    pub fn backend(&self) -> Option<&'static str> {
        self.0.backend
    }

    /// What was being done.
    pub fn operation(&self) -> Option<&'static str> {
        self.0.operation
    }

    /// The page concerned.
    pub fn key(&self) -> Option<PageKey> {
        self.0.key
    }

    /// Bytes wanted and bytes there, where lengths differed.
    pub fn bytes(&self) -> Option<(u64, u64)> {
        self.0.bytes
    }

    /// The operating system's error number.
    pub fn errno(&self) -> Option<i32> {
        self.0.errno
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        write!(f, "{}", inner.message)?;
        let mut context = vec![inner.kind.to_string()];
        context.extend(inner.backend.map(str::to_owned));
        context.extend(inner.operation.map(str::to_owned));
        context.extend(inner.key.map(|key| format!("page {key}")));
        context.extend(inner.bytes.map(|(want, have)| format!("{have} of {want} bytes")));
        write!(f, " [{}]", context.join(", "))?;
        if let Some(source) = &inner.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({self})")
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_wide() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
        assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
    }

    #[test]
    fn a_full_disk_is_told_from_a_failing_one() {
        let full = Error::io("write", "segment", std::io::Error::from_raw_os_error(28));
        let failing = Error::io("write", "segment", std::io::Error::from_raw_os_error(5));
        assert_eq!(full.kind(), ErrorKind::NoSpace);
        assert_eq!(failing.kind(), ErrorKind::Io);
        assert_eq!(failing.errno(), Some(5));
    }

    #[test]
    fn the_text_names_what_is_known() {
        let error = Error::new(ErrorKind::Io, "short read").with_backend("posix-uring").with_bytes(4096, 512);
        assert_eq!(error.to_string(), "short read [io, posix-uring, 512 of 4096 bytes]");
    }
}
