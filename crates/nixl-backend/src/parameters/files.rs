//! Parameters of the plugins that move files.

use std::path::PathBuf;

use hicache_core::{Error, Result};

use super::{Pairs, text, within};
use crate::Plugin;

/// By what the POSIX plugin hands its operations to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PosixQueue {
    /// Linux AIO: the plugin's own default.
    #[default]
    Aio,
    /// io_uring.
    Uring,
}

/// Parameters of `POSIX`. Its third queue, POSIX AIO, is not among them: after one request that failed every later one
/// does, and the process ends with a segmentation fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PosixParameters {
    /// The queue.
    pub queue: PosixQueue,
    /// Descriptors that may be in flight, over all requests: 64 to 65,536.
    pub ios_pool_size: u32,
    /// Entries of the kernel's queue: 16 to 1,024.
    pub kernel_queue_size: u32,
}

impl PosixParameters {
    /// Fewest descriptors in flight.
    pub const LEAST_IOS: u32 = 64;
    /// Most descriptors in flight.
    pub const MOST_IOS: u32 = 65_536;
    /// Fewest entries of the kernel's queue.
    pub const LEAST_ENTRIES: u32 = 16;
    /// Most entries of the kernel's queue.
    pub const MOST_ENTRIES: u32 = 1024;

    /// The queue that NIXL's three flags ask for; none of them, or each `Some(false)`, is AIO.
    ///
    /// # Errors
    /// `Config` for more than one, for POSIX AIO, and where the only one that is left is refused.
    pub fn queue_of(
        use_aio: Option<bool>,
        use_uring: Option<bool>,
        use_posix_aio: Option<bool>,
    ) -> Result<PosixQueue> {
        if use_posix_aio == Some(true) {
            return Err(Error::config(
                "use_posix_aio = true of NIXL's POSIX: after one request that fails, every later one does, and the \
                 process ends with a segmentation fault; write use_aio = true or use_uring = true",
            ));
        }
        match (use_aio, use_uring) {
            (Some(true), Some(true)) => Err(Error::config(
                "use_aio and use_uring of NIXL's POSIX are both true; leave one of them out",
            )),
            (Some(false), Some(false)) => Err(Error::config(
                "use_aio and use_uring of NIXL's POSIX are both false; one of them must be left",
            )),
            (_, Some(true)) | (Some(false), _) => Ok(PosixQueue::Uring),
            _ => Ok(PosixQueue::Aio),
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        let range = |name, value: u32, least: u32, most: u32| {
            within(Plugin::Posix, name, value.into(), least.into(), most.into())
        };
        range("ios_pool_size", self.ios_pool_size, Self::LEAST_IOS, Self::MOST_IOS)?;
        range("kernel_queue_size", self.kernel_queue_size, Self::LEAST_ENTRIES, Self::MOST_ENTRIES)
    }

    pub(super) fn write(&self, pairs: &mut Pairs) {
        // Said always: which one is the default is NIXL's to change.
        match self.queue {
            PosixQueue::Aio => pairs.push("use_aio", true),
            PosixQueue::Uring => pairs.push("use_uring", true),
        }
        let default = Self::default();
        pairs.push_unless_default("ios_pool_size", self.ios_pool_size, default.ios_pool_size);
        pairs.push_unless_default("kernel_queue_size", self.kernel_queue_size, default.kernel_queue_size);
    }
}

impl Default for PosixParameters {
    fn default() -> Self {
        Self { queue: PosixQueue::Aio, ios_pool_size: Self::MOST_IOS, kernel_queue_size: 256 }
    }
}

/// Parameters of `GDS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GdsParameters {
    /// Batches that are kept ready.
    pub batch_pool_size: u32,
    /// Most operations of a batch.
    pub batch_limit: u32,
    /// Most bytes of an operation.
    pub max_request_size: u64,
}

impl GdsParameters {
    pub(super) fn validate(&self) -> Result<()> {
        within(Plugin::Gds, "batch_pool_size", self.batch_pool_size.into(), 1, 65_536)?;
        within(Plugin::Gds, "batch_limit", self.batch_limit.into(), 1, 65_536)?;
        within(Plugin::Gds, "max_request_size", self.max_request_size, 4096, 1 << 40)
    }

    pub(super) fn write(&self, pairs: &mut Pairs) {
        let default = Self::default();
        pairs.push_unless_default("batch_pool_size", self.batch_pool_size, default.batch_pool_size);
        pairs.push_unless_default("batch_limit", self.batch_limit, default.batch_limit);
        pairs.push_unless_default("max_request_size", self.max_request_size, default.max_request_size);
    }
}

impl Default for GdsParameters {
    fn default() -> Self {
        Self { batch_pool_size: 16, batch_limit: 128, max_request_size: 16 << 20 }
    }
}

/// Parameters of `GDS_MT`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GdsMtParameters {
    /// Threads; `None` for half of the processors.
    pub thread_count: Option<u32>,
}

impl GdsMtParameters {
    pub(super) fn validate(&self) -> Result<()> {
        self.thread_count
            .map_or(Ok(()), |threads| within(Plugin::GdsMt, "thread_count", threads.into(), 1, 1024))
    }

    pub(super) fn write(&self, pairs: &mut Pairs) {
        pairs.push_given("thread_count", self.thread_count);
    }
}

/// How the 3FS plugin uses memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ThreeFsMemory {
    /// As the plugin finds best.
    #[default]
    Auto,
    /// Through memory of 3FS.
    Dram,
    /// Straight from and to the pages.
    DramZeroCopy,
}

impl ThreeFsMemory {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Dram => "dram",
            Self::DramZeroCopy => "dram_zc",
        }
    }
}

/// Parameters of `3FS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreeFsParameters {
    /// Where 3FS is mounted.
    pub mount_point: PathBuf,
    /// How memory is used.
    pub mem_config: ThreeFsMemory,
    /// Size of its pool of operations: 64 to 1,048,576.
    pub iopool_size: u32,
}

impl ThreeFsParameters {
    pub(super) fn validate(&self) -> Result<()> {
        text(Plugin::ThreeFs, "mount_point", &self.mount_point.to_string_lossy())?;
        within(Plugin::ThreeFs, "iopool_size", self.iopool_size.into(), 64, 1 << 20)
    }

    pub(super) fn write(&self, pairs: &mut Pairs) {
        let default = Self::default();
        if self.mount_point != default.mount_point {
            pairs.push("mount_point", self.mount_point.display());
        }
        pairs.push_unless_default("mem_config", self.mem_config.as_str(), default.mem_config.as_str());
        pairs.push_unless_default("iopool_size", self.iopool_size, default.iopool_size);
    }
}

impl Default for ThreeFsParameters {
    fn default() -> Self {
        Self { mount_point: "/mnt/3fs/".into(), mem_config: ThreeFsMemory::Auto, iopool_size: 64 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Parameters;
    use super::*;

    fn pairs(parameters: &Parameters) -> Vec<(String, String)> {
        parameters.validate().unwrap();
        parameters.pairs().as_slice().to_vec()
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.into(), value.into())
    }

    #[test]
    fn what_differs_is_handed_on() {
        let posix = PosixParameters { queue: PosixQueue::Uring, ios_pool_size: 64, kernel_queue_size: 1024 };
        let expected =
            [pair("use_uring", "true"), pair("ios_pool_size", "64"), pair("kernel_queue_size", "1024")];
        assert_eq!(pairs(&Parameters::Posix(posix)), expected);
        let gds = GdsParameters { batch_pool_size: 1, batch_limit: 2, max_request_size: 4096 };
        let expected =
            [pair("batch_pool_size", "1"), pair("batch_limit", "2"), pair("max_request_size", "4096")];
        assert_eq!(pairs(&Parameters::Gds(gds)), expected);
        let threads = GdsMtParameters { thread_count: Some(3) };
        assert_eq!(pairs(&Parameters::GdsMt(threads)), [pair("thread_count", "3")]);
        let mount = ThreeFsParameters {
            mount_point: "/mnt/x".into(),
            mem_config: ThreeFsMemory::DramZeroCopy,
            iopool_size: 128,
        };
        let expected =
            [pair("mount_point", "/mnt/x"), pair("mem_config", "dram_zc"), pair("iopool_size", "128")];
        assert_eq!(pairs(&Parameters::ThreeFs(mount)), expected);
    }

    #[test]
    fn bounds_are_named() {
        let posix = PosixParameters::default();
        let bad = [
            (Parameters::Posix(PosixParameters { ios_pool_size: 63, ..posix.clone() }), "ios_pool_size = 63"),
            (Parameters::Posix(PosixParameters { kernel_queue_size: 1025, ..posix }), "from 16 to 1024"),
            (
                Parameters::Gds(GdsParameters { batch_limit: 0, ..GdsParameters::default() }),
                "batch_limit = 0",
            ),
            (Parameters::GdsMt(GdsMtParameters { thread_count: Some(0) }), "thread_count = 0"),
            (
                Parameters::ThreeFs(ThreeFsParameters { iopool_size: 1, ..ThreeFsParameters::default() }),
                "iopool_size = 1",
            ),
        ];
        for (parameters, words) in bad {
            let error = parameters.validate().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn the_three_flags_are_one_queue() {
        let queue =
            |aio, uring| PosixParameters::queue_of(aio, uring, None).map_err(|error| error.to_string());
        assert_eq!(queue(None, None), Ok(PosixQueue::Aio));
        assert_eq!(queue(Some(true), None), Ok(PosixQueue::Aio));
        assert_eq!(queue(Some(true), Some(false)), Ok(PosixQueue::Aio));
        assert_eq!(queue(None, Some(false)), Ok(PosixQueue::Aio));
        assert_eq!(queue(None, Some(true)), Ok(PosixQueue::Uring));
        assert_eq!(queue(Some(false), None), Ok(PosixQueue::Uring));
        assert!(queue(Some(true), Some(true)).unwrap_err().contains("both true"));
        assert!(queue(Some(false), Some(false)).unwrap_err().contains("both false"));
        let posix_aio = PosixParameters::queue_of(None, None, Some(true)).unwrap_err().to_string();
        assert!(
            posix_aio.contains("use_posix_aio") && posix_aio.contains("segmentation fault"),
            "{posix_aio}"
        );
        assert_eq!(PosixParameters::queue_of(None, Some(true), Some(false)).unwrap(), PosixQueue::Uring);
    }
}
