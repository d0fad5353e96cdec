//! The two backends, and the probes that say whether they work here.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hicache_core::backend::round_trip;
use hicache_core::probing::{block_on, probe_on_a_thread};
use hicache_core::{
    Access, Backend, Check, Engine, Error, Offer, ProbeContext, ProbeReport, Region, Registration, Result,
};
use rustix::fs::{FallocateFlags, fallocate};

use crate::config::{IoMode, PreadConfig, UringConfig};
use crate::engine::UringEngine;
use crate::file::OpenFile;
use crate::huge_pages::HugePages;
use crate::pread::PreadEngine;
use crate::{PREAD, URING};

/// How long a probe may take before its device is given up.
const LONGEST_PROBE: Duration = Duration::from_secs(20);
/// How long a probe waits for the kernel to pin its memory.
const LONGEST_PINNING: Duration = Duration::from_millis(500);
/// Memory that a probe registers: a few huge pages.
const PROBE_BYTES: usize = 8 << 20;

/// io_uring.
#[derive(Clone, Debug, Default)]
pub struct UringBackend {
    /// What its engines are opened with.
    pub config: UringConfig,
}

/// pread and pwrite.
#[derive(Clone, Debug, Default)]
pub struct PreadBackend {
    /// What its engines are opened with.
    pub config: PreadConfig,
}

#[async_trait]
impl Backend for UringBackend {
    fn name(&self) -> &'static str {
        URING
    }

    fn offer(&self) -> Offer {
        Offer::Engine
    }

    fn summary(&self) -> &'static str {
        "local files through io_uring"
    }

    async fn probe(&self, context: &ProbeContext) -> ProbeReport {
        let (config, context) = (self.config.clone(), context.clone());
        probe_on_a_thread(URING, Offer::Engine, LONGEST_PROBE, move |checks| {
            probe_uring(&config, &context, checks)
        })
        .await
    }

    fn open_engine(&self) -> Result<Arc<dyn Engine>> {
        Ok(Arc::new(UringEngine::open(self.config.clone())?))
    }
}

#[async_trait]
impl Backend for PreadBackend {
    fn name(&self) -> &'static str {
        PREAD
    }

    fn offer(&self) -> Offer {
        Offer::Engine
    }

    fn summary(&self) -> &'static str {
        "local files through pread and pwrite on threads"
    }

    async fn probe(&self, context: &ProbeContext) -> ProbeReport {
        let (config, context) = (self.config.clone(), context.clone());
        probe_on_a_thread(PREAD, Offer::Engine, LONGEST_PROBE, move |checks| {
            probe_pread(&config, &context, checks)
        })
        .await
    }

    fn open_engine(&self) -> Result<Arc<dyn Engine>> {
        Ok(Arc::new(PreadEngine::open(self.config.clone())?))
    }
}

fn probe_uring(config: &UringConfig, context: &ProbeContext, checks: &mut Vec<Check>) -> Result<String> {
    check_memory(URING, context)?;
    let engine = UringEngine::open(config.clone())?;
    let ring = engine.rings().first().cloned();
    let flags = ring.as_ref().map_or("none", |ring| ring.flags);
    checks.push(Check::passed("io_uring", format!("{} in flight, flags: {flags}", config.depth)));
    let files = ring.as_ref().map_or(Ok(0), |ring| ring.files.clone());
    checks.push(check("registered files", files.map(|slots| format!("a table of {slots}"))));
    let region = Region::allocate(1, PROBE_BYTES)?;
    let registration = engine.register(&region)?;
    let buffers = ring.map_or(Ok(0), |ring| ring.buffers).and_then(|_| pinned(&engine, &registration));
    checks.push(check("registered memory", buffers));
    check_file_system(&engine, config.io, context, &region, checks)?;
    block_on(engine.close())?;
    Ok(format!("bytes were written, read and compared, with {flags}"))
}

fn probe_pread(config: &PreadConfig, context: &ProbeContext, checks: &mut Vec<Check>) -> Result<String> {
    check_memory(PREAD, context)?;
    let engine = PreadEngine::open(config.clone())?;
    let threads = engine.capabilities().max_in_flight;
    checks.push(Check::passed("threads", format!("{threads} in flight")));
    let region = Region::allocate(1, PROBE_BYTES)?;
    check_file_system(&engine, config.io, context, &region, checks)?;
    block_on(engine.close())?;
    Ok("bytes were written, read and compared".to_owned())
}

fn check_memory(name: &str, context: &ProbeContext) -> Result<()> {
    if context.memory.is_host() {
        return Ok(());
    }
    let message = format!("{name} moves host memory only, not {:?}", context.memory);
    Err(Error::new(hicache_core::ErrorKind::Unsupported, message))
}

/// What the file system and the memory allow, and the round trip.
fn check_file_system(
    engine: &dyn Engine,
    io: IoMode,
    context: &ProbeContext,
    region: &Arc<Region>,
    checks: &mut Vec<Check>,
) -> Result<()> {
    let directory = &context.directory;
    let file = tempfile::tempfile_in(directory)
        .map_err(|e| Error::io("probe", format!("no file can be made in {}", directory.display()), e))?;
    let file = Arc::new(file);
    checks.push(check("direct I/O", direct(&file, directory, io)));
    let allocated = fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1 << 20);
    let allocated = allocated.map(|()| "space can be reserved".to_owned()).map_err(|e| e.to_string());
    checks.push(check("fallocate", allocated));
    checks.push(check("huge pages", huge_pages(region)));
    checks.push(block_on(round_trip(engine, file, directory))?);
    Ok(())
}

fn check(name: &str, seen: Result<String, String>) -> Check {
    match seen {
        Ok(detail) => Check::passed(name, detail),
        Err(detail) => Check::failed(name, detail),
    }
}

fn direct(file: &Arc<File>, directory: &Path, io: IoMode) -> Result<String, String> {
    let open = OpenFile::new(Arc::clone(file), directory, io).map_err(|e| e.to_string())?;
    match (open.direct, open.no_direct) {
        (Some(direct), _) => Ok(format!(
            "offsets in multiples of {} bytes, memory of {}",
            direct.offset_alignment, direct.memory_alignment
        )),
        (None, reason) => Err(reason.unwrap_or_else(|| "refused".to_owned())),
    }
}

fn pinned(engine: &UringEngine, registration: &Registration) -> Result<String, String> {
    let start = Instant::now();
    while start.elapsed() < LONGEST_PINNING {
        let bytes = engine.registered_bytes(registration);
        if bytes >= PROBE_BYTES as u64 {
            return Ok(format!("{bytes} bytes pinned"));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err("the kernel does not pin memory for it; is the memlock limit (ulimit -l) low?".to_owned())
}

fn huge_pages(region: &Arc<Region>) -> Result<String, String> {
    let mut lease = region.lease(0, 0, PROBE_BYTES, Access::Write).map_err(|e| e.to_string())?;
    lease.bytes_mut().map_err(|e| e.to_string())?.fill(1);
    let seen = HugePages::of(region).map_err(|e| e.to_string())?;
    let detail = format!("{} of {} bytes", seen.huge_bytes, seen.bytes);
    if seen.huge_bytes > 0 { Ok(detail) } else { Err(detail) }
}
