//! Requests by themselves: dropped in every phase, and what their errors say.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use hicache_core::{Access, Direction, ErrorKind, Lease, Region};

use crate::agent::{Agent, BackendHandle};
use crate::fixture::{bytes, eventually, library};
use crate::memory::{FileRegistration, MemoryRegistration, MemoryType};
use crate::request::{Descriptor, Progress, Request};

const PAGE: usize = 4096;

/// A backend with memory and the reading end of a pipe, and a read that ends when the pipe is written to.
struct Ground {
    backend: BackendHandle,
    region: Arc<Region>,
    memory: Arc<MemoryRegistration>,
    pipe: Arc<FileRegistration>,
    writing: OwnedFd,
}

type Kept = (Lease, Arc<MemoryRegistration>, Arc<FileRegistration>);

impl Ground {
    fn new() -> Option<Self> {
        let agent = Agent::new(&library()?, "test").unwrap();
        let backend = agent.create_backend("POSIX", &[("use_uring".to_owned(), "true".to_owned())]).unwrap();
        let region = Region::allocate(4, PAGE).unwrap();
        let memory = Arc::new(backend.register_region(&region).unwrap());
        let (reading, writing) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let pipe = Arc::new(backend.register_file(Arc::new(File::from(reading))).unwrap());
        Some(Self { backend, region, memory, pipe, writing })
    }

    fn read(&self) -> Request<Kept> {
        let lease = self.region.lease(0, 0, PAGE, Access::Write).unwrap();
        let local = [Descriptor { address: lease.address() as usize, bytes: PAGE, device: 0 }];
        let remote = [Descriptor { address: 0, bytes: PAGE, device: self.pipe.device() }];
        let kept = (lease, Arc::clone(&self.memory), Arc::clone(&self.pipe));
        // SAFETY: the lease and both registrations are kept.
        let request = unsafe {
            Request::prepare(
                &self.backend,
                Direction::Read,
                (MemoryType::Dram, &local),
                (MemoryType::File, &remote),
                kept,
            )
        };
        request.map_err(|(error, _)| error).unwrap()
    }

    fn feed(&self) {
        assert_eq!(rustix::io::write(&self.writing, &bytes(1, PAGE)), Ok(PAGE));
    }
}

#[test]
fn one_that_was_never_posted_is_let_go_at_once() {
    let Some(ground) = Ground::new() else { return };
    for _ in 0..100 {
        drop(ground.read());
        assert_eq!(ground.region.leases(), 0);
    }
    let (lease, ..) = ground.read().finish().unwrap();
    drop(lease);
}

#[test]
fn one_dropped_in_flight_is_waited_for() {
    let Some(ground) = Ground::new() else { return };
    let mut request = ground.read();
    assert_eq!(request.post().unwrap(), Progress::Moving);
    assert!(request.is_in_flight() && !request.is_settled());
    drop(request);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(ground.region.leases(), 1, "the plugin may write there at any time");
    ground.feed();
    eventually("the lease ends", || ground.region.leases() == 0);
    assert!(ground.region.lease(0, 0, PAGE, Access::Read).unwrap().bytes().unwrap() == bytes(1, PAGE));
    // The thread that waited has gone, and another one comes when it is needed.
    for _ in 0..3 {
        let mut request = ground.read();
        request.post().unwrap();
        drop(request);
        ground.feed();
        eventually("the lease ends", || ground.region.leases() == 0);
    }
}

#[test]
fn everything_dropped_in_flight_is_waited_for() {
    let Some(ground) = Ground::new() else { return };
    let mut request = ground.read();
    request.post().unwrap();
    let Ground { backend, region, memory, pipe, writing } = ground;
    let weak = Arc::downgrade(&region);
    drop((memory, pipe, backend, request, region));
    std::thread::sleep(Duration::from_millis(50));
    assert!(weak.strong_count() > 0);
    assert_eq!(rustix::io::write(&writing, &bytes(1, PAGE)), Ok(PAGE));
    eventually("the memory ends", || weak.strong_count() == 0);
}

#[test]
fn one_that_is_over_gives_back_what_it_kept() {
    let Some(ground) = Ground::new() else { return };
    let mut request = ground.read();
    assert!(request.poll().is_err(), "it was not posted");
    request.post().unwrap();
    assert!(request.post().is_err(), "it was posted");
    ground.feed();
    eventually("it ends", || request.poll().is_ok_and(|progress| progress == Progress::Done));
    assert!(request.is_settled());
    let (lease, ..) = request.finish().unwrap();
    assert!(lease.bytes().unwrap() == bytes(1, PAGE));
}

#[test]
fn memory_that_is_not_registered_is_refused_with_plugin_operation_and_sizes() {
    let Some(ground) = Ground::new() else { return };
    let other = Region::allocate(1, PAGE).unwrap();
    let lease = other.lease(0, 0, PAGE, Access::Write).unwrap();
    let local = [Descriptor { address: lease.address() as usize, bytes: PAGE, device: 0 }];
    let remote = [Descriptor { address: 0, bytes: PAGE, device: ground.pipe.device() }];
    let sides = ((MemoryType::Dram, &local[..]), (MemoryType::File, &remote[..]));
    // SAFETY: the lease is kept; what is not registered is refused before anything moves.
    let refused = unsafe { Request::prepare(&ground.backend, Direction::Read, sides.0, sides.1, lease) };
    let (error, lease) = refused.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert_eq!(error.operation(), Some("read"));
    let text = error.to_string();
    assert!(text.contains("POSIX: a read of 4096 bytes in 1 descriptors can't be made"), "{text}");
    drop(lease);
    assert_eq!(other.leases(), 0);
}
