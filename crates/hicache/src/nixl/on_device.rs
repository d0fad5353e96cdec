//! The probe of a plugin with memory of a GPU, in a process that may hang or crash.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hicache_core::probing::{block_on, probe_on_a_thread};
use hicache_core::{Backend, Check, Offer, ProbeReport, Result};
use hicache_gds::{Context, Cuda, DeviceChecksums};
use hicache_nixl_backend::NixlFileBackend;
use hicache_nixl_backend::backend::gpu;

use crate::device_pages::{Summed, round_trip};

/// Whoever started the process gives up long before.
const LONGEST: Duration = Duration::from_secs(60);
/// How long memory of the device may take to be freed, before the process ends.
const LONGEST_END: Duration = Duration::from_secs(1);

/// Moves pages between a file and memory of the device, and compares them.
pub(super) async fn probe(backend: &NixlFileBackend, device: u32, directory: &Path) -> ProbeReport {
    let (own, directory) = (backend.clone(), directory.to_owned());
    let work = move |checks: &mut Vec<Check>| try_out(&own, device, &directory, checks);
    probe_on_a_thread(backend.name(), Offer::Engine, LONGEST, work).await
}

fn try_out(
    backend: &NixlFileBackend,
    device: u32,
    directory: &Path,
    checks: &mut Vec<Check>,
) -> Result<String> {
    gpu::device_node().inspect_err(|error| checks.push(Check::failed("GPU", error.message())))?;
    let opened = Cuda::load().and_then(|cuda| cuda.context(device));
    let context = opened.inspect_err(|error| checks.push(Check::failed("CUDA", error.message())))?;
    checks.push(Check::passed("CUDA", format!("device {device}, {}", context.name())));
    let seen = {
        // cuFile's driver is opened where a context is.
        let _bound = context.bind()?;
        backend.try_out(directory, checks, |engine, file| {
            let engine = Summed::new(Arc::clone(engine), &context, DeviceChecksums::Never);
            block_on(round_trip(&engine, &context, file, directory))
        })
    };
    // What is not freed in time is the process's end to free.
    let _ = Context::end(context, LONGEST_END);
    seen.map(|_| "bytes went from the GPU to a file and back, and were compared".to_owned())
}
