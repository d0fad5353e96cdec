//! The device.

use std::sync::Arc;

use hicache_core::{Device, MemoryKind, Region, Result, Stream};

use super::device_stream::DeviceStream;
use super::run_kernel::RunKernel;
use crate::cuda::Context;
use crate::cuda::copies::Copying;

/// Who copies the runs of a step that are many and short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShortCopies {
    /// A kernel, where it has copied known bytes right, until it fails; else as [`Self::Engines`].
    #[default]
    Auto,
    /// The copy engines, with a command a run.
    Engines,
}

/// Memory of one GPU. Pages are copied by its copy engines: with one call a step where the driver copies in batches and the runs
/// are long, else with a call a run. Steps of many short runs are copied by a kernel where that is right, and reaches the memory:
/// the device's, and pinned memory that the driver has allocated for us.
#[derive(Debug)]
pub struct CudaDevice {
    context: Arc<Context>,
    kernel: Arc<RunKernel>,
}

impl CudaDevice {
    /// The device of a context. The kernel for short runs is tried: that takes the driver's compiler, and some MiB of the device for
    /// a moment.
    pub fn new(context: Arc<Context>) -> Arc<Self> {
        Self::with(context, ShortCopies::Auto)
    }

    /// As [`CudaDevice::new`], and who copies short runs.
    pub fn with(context: Arc<Context>, short_copies: ShortCopies) -> Arc<Self> {
        let kernel = Arc::new(RunKernel::open(&context, short_copies));
        Arc::new(Self { context, kernel })
    }

    /// How often the kernel for short runs was launched, its trial among that, and why it is not used, or not any more.
    pub fn short_copies(&self) -> (u64, Option<String>) {
        self.kernel.counts()
    }

    /// Its context.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }
}

impl Device for CudaDevice {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn memory(&self) -> MemoryKind {
        MemoryKind::Device(self.context.ordinal())
    }

    fn allocate(&self, planes: usize, slots: usize, slot_bytes: usize) -> Result<Arc<Region>> {
        self.context.allocate(planes, slots, slot_bytes)
    }

    fn allocate_host(&self, planes: usize, slots: usize, slot_bytes: usize) -> Result<Arc<Region>> {
        self.context.allocate_pinned(planes, slots, slot_bytes)
    }

    fn stream(&self, name: &'static str) -> Result<Arc<dyn Stream>> {
        let copying = Copying::of(&self.context);
        Ok(Arc::new(DeviceStream::start(name, &self.context, copying, &self.kernel)?))
    }
}
