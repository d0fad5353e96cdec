//! Requests by themselves: dropped in every phase, in a forked child too, what they keep, and what their errors say.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use hicache_core::{Access, Direction, ErrorKind, Lease, OwnerId, PageMemory, Region, Registration};
use hicache_testkit::fork::{forked, is_refused};

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
        self.read_into(0)
    }

    fn read_into(&self, slot: usize) -> Request<Kept> {
        let lease = self.region.lease(slot, 0, PAGE, Access::Write).unwrap();
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

/// The library's locks and threads are the parent's. Whoever drops a request in a child starts no reaper for it either.
#[test]
fn one_in_flight_is_the_parents_at_a_fork() {
    let Some(ground) = Ground::new() else { return };
    let (mut flying, prepared) = (ground.read_into(1), ground.read_into(2));
    flying.post().unwrap();
    let mut theirs = Some((flying, prepared));
    forked("a request", || {
        let (mut flying, mut prepared) = theirs.take().unwrap();
        is_refused("a question", flying.poll())?;
        is_refused("a post", prepared.post())?;
        is_refused("a look at a file", ground.backend.query(MemoryType::File, &["/"]))?;
        drop((flying, prepared));
        match std::fs::read_dir("/proc/self/task").map(Iterator::count) {
            Ok(1) => Ok(()),
            threads => Err(format!("threads of the child: {threads:?}")),
        }
    });
    let (mut flying, mut prepared) = theirs.expect("the parent has its own");
    assert!(flying.is_in_flight() && prepared.is_settled());
    prepared.post().unwrap();
    (0..2).for_each(|_| ground.feed());
    for request in [&mut flying, &mut prepared] {
        eventually("it ends", || request.poll().is_ok_and(|progress| progress == Progress::Done));
    }
    let (lease, ..) = flying.finish().unwrap();
    assert!(lease.bytes().unwrap() == bytes(1, PAGE));
    drop((lease, prepared));
    eventually("the leases end", || ground.region.leases() == 0);
}

/// A backend for objects that nothing is ever asked of.
fn objects_backend() -> Option<BackendHandle> {
    let agent = Agent::new(&library()?, "test").unwrap();
    let pairs = [
        ("bucket", "none"),
        ("endpoint_override", "http://127.0.0.1:9"),
        ("scheme", "http"),
        ("access_key", "a"),
        ("secret_key", "b"),
    ];
    let pairs: Vec<_> = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    Some(agent.create_backend("OBJ", &pairs).unwrap())
}

/// Memory is known to a backend by what `register_region` gave, which no page holds: so the request must.
#[test]
fn objects_keep_the_registration_of_their_memory() {
    let Some(backend) = objects_backend() else { return };
    let region = Region::allocate(4, PAGE).unwrap();
    // The page's own registration is of somebody else, and says nothing here.
    let registration = Registration::new(OwnerId::new(), Arc::clone(&region), Box::new(()));
    let page = |slot| registration.page(slot, PAGE, Access::Write).unwrap();
    let prepare = |memory: Vec<PageMemory>| {
        let keys: Vec<String> = (0..memory.len()).map(|number| format!("o{number}")).collect();
        backend.prepare_objects(Direction::Read, backend.register_objects(&keys).unwrap(), memory)
    };
    let (error, memory) = prepare(vec![page(0)]).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("is not registered with its backend"), "{error}");
    assert_eq!(memory.len(), 1, "it comes back");
    drop(memory);

    let base = region.base().as_ptr() as usize;
    let part = |slot: usize| Descriptor { address: base + slot * PAGE, bytes: PAGE, device: 0 };
    // The first half only: a request with a page beside it keeps nothing and is refused.
    let known = backend.register_range(&region, base, 2 * PAGE).unwrap();
    assert!(backend.registered(&part(1)).is_some() && backend.registered(&part(2)).is_none());
    let across = Descriptor { bytes: 2 * PAGE, ..part(1) };
    assert!(backend.registered(&across).is_none());
    let (error, memory) = prepare(vec![page(0), page(2)]).map(drop).unwrap_err();
    assert_eq!((error.kind(), memory.len()), (ErrorKind::Config, 2));
    drop(memory);

    let request = prepare(vec![page(0), page(1)]).map_err(|(error, _)| error).unwrap();
    drop(known);
    assert!(backend.registered(&part(0)).is_some(), "the request has it");
    let weak = Arc::downgrade(&region);
    drop((registration, region));
    let transfer = request.finish().unwrap();
    assert_eq!(transfer.memory.len(), 2);
    assert!(backend.registered(&part(0)).is_some() && weak.strong_count() > 0, "and then what it gives back");
    drop(transfer);
    assert!(backend.registered(&part(0)).is_none(), "nobody has it");
    assert_eq!(weak.strong_count(), 0);
}
