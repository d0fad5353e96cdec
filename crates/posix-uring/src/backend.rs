//! The two backends, and the probes that say whether they work here.

use std::fs::File;
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hicache_core::backend::round_trip;
use hicache_core::{
    Access, Backend, Check, Engine, Error, Offer, ProbeContext, ProbeReport, Region, Registration, Result,
    Verdict,
};
use rustix::fs::{FallocateFlags, fallocate};
use tokio::sync::oneshot;

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
        on_a_thread(URING, LONGEST_PROBE, move |checks| probe_uring(&config, &context, checks)).await
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
        on_a_thread(PREAD, LONGEST_PROBE, move |checks| probe_pread(&config, &context, checks)).await
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

/// Runs a probe where it can neither hang nor panic its caller.
async fn on_a_thread(
    name: &'static str,
    longest: Duration,
    probe: impl FnOnce(&mut Vec<Check>) -> Result<String> + Send + 'static,
) -> ProbeReport {
    let report = move |verdict, reason: String, checks| {
        // One line, whatever the message of a library has.
        let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
        ProbeReport { backend: name, offer: Offer::Engine, verdict, reason, checks }
    };
    let (answer, answered) = oneshot::channel();
    let watch = move || {
        let (sender, receiver) = mpsc::channel();
        let work = move || {
            let mut checks = Vec::new();
            let (verdict, reason) = match probe(&mut checks) {
                Ok(reason) => (Verdict::Usable, reason),
                Err(error) => (Verdict::Unavailable, error.to_string()),
            };
            // Nobody listens when it took too long.
            let _ = sender.send(report(verdict, reason, checks));
        };
        let started = thread::Builder::new().name("hicache-probe".to_owned()).spawn(work);
        let failure = match (started, receiver.recv_timeout(longest)) {
            (Err(error), _) => format!("no thread for the probe: {error}"),
            (Ok(_), Ok(seen)) => return drop(answer.send(seen)),
            (Ok(_), Err(mpsc::RecvTimeoutError::Timeout)) => format!("no answer within {longest:?}"),
            (Ok(_), Err(mpsc::RecvTimeoutError::Disconnected)) => "the probe panicked".to_owned(),
        };
        drop(answer.send(report(Verdict::Unavailable, failure, Vec::new())));
    };
    if let Err(error) = thread::Builder::new().name("hicache-probe".to_owned()).spawn(watch) {
        return report(Verdict::Unavailable, format!("no thread for the probe: {error}"), Vec::new());
    }
    answered
        .await
        .unwrap_or_else(|_| report(Verdict::Unavailable, "the probe was lost".to_owned(), Vec::new()))
}

/// Drives a future on this thread, which sleeps in between.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_probe_that_panics_or_hangs_is_a_report() {
        let panicked = on_a_thread("x", LONGEST_PROBE, |_| std::panic::panic_any("on purpose")).await;
        assert_eq!(
            (panicked.verdict, panicked.reason.as_str()),
            (Verdict::Unavailable, "the probe panicked")
        );
        let short = Duration::from_millis(10);
        let hung = on_a_thread("x", short, |_| {
            thread::sleep(Duration::from_millis(200));
            Ok(String::new())
        });
        assert!(hung.await.reason.contains("no answer within 10ms"));
    }
}
