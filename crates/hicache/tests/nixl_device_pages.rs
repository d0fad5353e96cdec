//! Pages in memory of a GPU through NIXL's GDS plugins, without either: what stands in for the plugin moves memory of the device that
//! stands in for a GPU's, and can't look at it. The library that stands in for libcuda is loaded by its folder, so that part runs
//! in a process of its own.

#![cfg(all(feature = "nixl", feature = "gds"))]
#![allow(clippy::print_stdout, reason = "tests say what they went without")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use hicache::core::{
    Block, Completes, CopyBatch, CopyPlan, Device, Direction, EngineFile, Extent, ExtentsDone, OwnerId,
    PageCopy, PageLeases, Place, Stream,
};
use hicache::device_pages::{Summed, round_trip};
use hicache::gds::{Context, Cuda, CudaDevice, DeviceChecksums};
use hicache::open::open_with;
use hicache::{
    Access, Backend, Config, Engine, EngineCapabilities, ErrorKind, MemoryKind, Offer, Outcome, PageKey,
    PageMemory, PageRequest, ProbeContext, ProbeReport, Region, Registration, Result, Storage, StoreOptions,
    Transfer, Verdict, select,
};

#[path = "../../gds/tests/standins/mod.rs"]
mod standins;

const PAGE: usize = 64 << 10;
/// What the test prints that has run.
const RAN: &str = "ran with the library that stands in";

/// Stands in for a plugin: no lengths, an answer a request, no look at what it moves.
#[derive(Debug)]
struct Plugin {
    owner: OwnerId,
    capabilities: EngineCapabilities,
    /// Whether a bit of what is read is another.
    flips: AtomicBool,
}

impl Plugin {
    fn new(proves_idle: bool, memory: &[MemoryKind]) -> Arc<Self> {
        let capabilities = EngineCapabilities {
            name: "nixl:GDS_MT",
            alignment: 4096,
            max_pieces: 1024,
            max_extent_bytes: 1 << 30,
            max_in_flight: 64,
            memory: memory.to_vec(),
            completes: Completes::PerRequest,
            reports_lengths: false,
            proves_idle,
        };
        Arc::new(Self { owner: OwnerId::new(), capabilities, flips: AtomicBool::new(false) })
    }

    fn of_both(proves_idle: bool) -> Arc<Self> {
        Self::new(proves_idle, &[MemoryKind::Host, MemoryKind::PinnedHost, MemoryKind::Device(0)])
    }

    fn move_one(&self, direction: Direction, extent: &Extent) -> Result<u64> {
        extent.validate(direction, self.owner, &self.capabilities)?;
        let (file, mut at) = (extent.file.file(), extent.offset);
        for piece in extent.memory.pieces() {
            // SAFETY: the extent holds the lease; memory of the device that stands in is memory of the host.
            let bytes = unsafe { std::slice::from_raw_parts_mut(piece.lease().address(), piece.len()) };
            match direction {
                Direction::Write => file.write_all_at(bytes, at).unwrap(),
                Direction::Read => file.read_exact_at(bytes, at).unwrap(),
            }
            if direction == Direction::Read && self.flips.load(Ordering::Relaxed) {
                bytes[piece.len() / 2] ^= 4;
            }
            at += piece.len() as u64;
        }
        Ok(extent.memory.bytes() as u64)
    }
}

#[async_trait]
impl Engine for Plugin {
    fn capabilities(&self) -> &EngineCapabilities {
        &self.capabilities
    }

    fn register(&self, region: &Arc<Region>) -> Result<Registration> {
        assert!(self.capabilities.moves(region.kind()), "the store asks first");
        Ok(Registration::new(self.owner, Arc::clone(region), Box::new(())))
    }

    fn attach(&self, file: Arc<File>, _path: &Path) -> Result<EngineFile> {
        Ok(EngineFile::new(self.owner, file, Box::new(())))
    }

    fn submit(&self, direction: Direction, extents: Vec<Extent>) -> Transfer<ExtentsDone> {
        let outcomes = extents.iter().map(|extent| self.move_one(direction, extent)).collect();
        Transfer::ready(ExtentsDone::new(outcomes, extents.into_iter().map(Some).collect()))
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// Stands in for a backend: usable for the memory that its engine moves.
#[derive(Debug)]
struct Stand {
    name: &'static str,
    engine: Arc<Plugin>,
}

#[async_trait]
impl Backend for Stand {
    fn name(&self) -> &'static str {
        self.name
    }

    fn offer(&self) -> Offer {
        Offer::Engine
    }

    fn summary(&self) -> &'static str {
        "stands in"
    }

    async fn probe(&self, context: &ProbeContext) -> ProbeReport {
        let (verdict, reason) = match self.engine.capabilities.moves(context.memory) {
            true => (Verdict::Usable, "fine".to_owned()),
            false => (Verdict::Unavailable, format!("no memory of {:?}", context.memory)),
        };
        ProbeReport { backend: self.name, offer: Offer::Engine, verdict, reason, checks: Vec::new() }
    }

    fn open_engine(&self) -> Result<Arc<dyn Engine>> {
        Ok(Arc::clone(&self.engine) as Arc<dyn Engine>)
    }
}

/// POSIX, which moves memory of the host, the two that move both, and `gds`.
fn stands() -> Vec<Box<dyn Backend>> {
    let device = [MemoryKind::Device(0)];
    let host = [MemoryKind::Host];
    let stand = |name, engine| Box::new(Stand { name, engine }) as Box<dyn Backend>;
    vec![
        stand("gds", Plugin::new(true, &device)),
        stand("nixl:GDS", Plugin::of_both(false)),
        stand("nixl:GDS_MT", Plugin::of_both(true)),
        stand("nixl:POSIX", Plugin::new(true, &host)),
    ]
}

fn config(directory: &Path, fields: &[(&str, &str)]) -> Config {
    let builder = Config::builder()
        .set("namespace.model", "m")
        .set("capacity_bytes", "64MiB")
        .set("segment_bytes", "1MiB")
        .storage_dir([directory]);
    fields.iter().fold(builder, |builder, (name, value)| builder.set(name, *value)).build().unwrap()
}

#[tokio::test]
async fn the_order_is_that_of_those_which_move_memory_of_the_device() {
    let directory = tempfile::tempdir().unwrap();
    let chosen = async |fields: &[(&str, &str)]| {
        let selected = select(&config(directory.path(), fields), stands()).await.unwrap();
        let skipped: Vec<String> = selected.skipped.into_iter().map(|skipped| skipped.backend).collect();
        (selected.backend.name(), skipped)
    };
    let posix = || vec!["nixl:POSIX".to_owned()];
    assert_eq!(chosen(&[("device", "0")]).await, ("nixl:GDS_MT", posix()));
    let gds_first = "nixl:POSIX,nixl:GDS,nixl:GDS_MT,gds";
    assert_eq!(chosen(&[("device", "0"), ("order", gds_first)]).await, ("nixl:GDS", posix()));
    assert_eq!(chosen(&[("device", "0"), ("order", "gds,nixl:GDS_MT")]).await, ("gds", vec![]));
    // Without a device nothing is as it would be with one.
    assert_eq!(chosen(&[]).await, ("nixl:POSIX", vec![]));
    assert_eq!(chosen(&[("order", "gds,nixl:GDS_MT")]).await, ("nixl:GDS_MT", vec!["gds".to_owned()]));
}

#[tokio::test]
async fn without_a_device_of_the_driver_nothing_is_opened() {
    if Cuda::load().is_ok() {
        return println!("went without: a machine without a GPU");
    }
    let directory = tempfile::tempdir().unwrap();
    let error = open_with(&config(directory.path(), &[("device", "0")]), stands()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.to_string().contains("CUDA"), "{error}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    let opened = open_with(&config(directory.path(), &[]), stands()).await.unwrap();
    assert_eq!(opened.backend, "nixl:POSIX");
    opened.storage.close().await.unwrap();
}

#[test]
fn pages_of_a_device_go_through_a_plugin_and_are_verified() {
    let Some(library) = standins::cuda() else { return };
    let output = Command::new(std::env::current_exe().unwrap())
        .env_clear()
        .env("LD_LIBRARY_PATH", library.path())
        .env("STANDIN_DEVICES", "2")
        .args(["--ignored", "--exact", "inside", "--nocapture", "--test-threads", "1"])
        .output()
        .unwrap();
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && text.contains(RAN), "{}: {text}", output.status);
}

#[tokio::test]
#[ignore = "a part of the others, which run it in a process of its own"]
async fn inside() {
    let Ok(cuda) = Cuda::load() else { return };
    let context = cuda.context(0).unwrap();
    if context.name() != "stand-in" {
        return println!("went without: the library that stands in for CUDA's");
    }
    println!("{RAN}");
    what_the_probe_moves_is_compared(&context).await;
    the_sums_are_those_of_the_device(&context, &cuda.context(1).unwrap());
    pages_are_stored_loaded_and_verified(&context).await;
}

async fn what_the_probe_moves_is_compared(context: &Arc<Context>) {
    let moved = async |plugin: Arc<Plugin>| {
        let file = Arc::new(tempfile::tempfile().unwrap());
        round_trip(&Summed::new(plugin, context, DeviceChecksums::Auto), context, file, Path::new("x")).await
    };
    let check = moved(Plugin::of_both(true)).await.unwrap();
    assert!(check.passed && check.detail.contains("of the device"), "{check:?}");
    let wrong = Plugin::of_both(true);
    wrong.flips.store(true, Ordering::Relaxed);
    let error = moved(wrong).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("byte 32768"), "{error}");
    // The plugin by itself sums nothing there.
    let bare = Plugin::of_both(true);
    let file = Arc::new(tempfile::tempfile().unwrap());
    let error = round_trip(&*bare, context, file, Path::new("x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
}

fn the_sums_are_those_of_the_device(context: &Arc<Context>, other: &Arc<Context>) {
    let (proves, can_not) = (Plugin::of_both(true), Plugin::of_both(false));
    let engine = |plugin: &Arc<Plugin>| {
        Summed::new(Arc::clone(plugin) as Arc<dyn Engine>, context, DeviceChecksums::Auto)
    };
    let error = engine(&proves).register(&other.allocate(1, 1, PAGE).unwrap()).unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("device 1"), "{error}");
    let tensor = context.allocate(1, 1, PAGE).unwrap();
    // SAFETY: the owner keeps the memory, and nobody else uses it in this test.
    let foreign = unsafe {
        context.foreign(tensor.base().as_ptr() as u64, PAGE, Box::new(Arc::clone(&tensor))).unwrap()
    };
    engine(&proves).register(&foreign).unwrap();
    let error = engine(&can_not).register(&foreign).unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("nixl:GDS_MT"), "{error}");
    // A region of ours, and memory of the host.
    engine(&can_not).register(&tensor).unwrap();
    let host = engine(&can_not).register(&Region::allocate(1, PAGE).unwrap()).unwrap();
    let page = host.page(0, PAGE, Access::Read).unwrap();
    assert_eq!(engine(&can_not).checksum(&page).unwrap(), page.checksum().unwrap());
}

/// Memory of the device, and a way to look at it.
struct Ground {
    stream: Arc<dyn Stream>,
    device: Arc<Region>,
    host: Arc<Region>,
}

impl Ground {
    fn new(context: &Arc<Context>) -> Self {
        Self {
            stream: CudaDevice::new(Arc::clone(context)).stream("test").unwrap(),
            device: context.allocate(1, 4, PAGE).unwrap(),
            host: context.allocate_pinned(1, 1, PAGE).unwrap(),
        }
    }

    fn copy(&self, from: (&Arc<Region>, usize), to: (&Arc<Region>, usize)) {
        let leases = |(region, slot): (&Arc<Region>, usize), access| {
            PageLeases::from_iter([region.lease(slot, 0, PAGE, access).unwrap()])
        };
        let place = Place { buffer: 0, offset: 0, strides: [0, 0] };
        let block = Block { from: place, to: place, bytes: PAGE, counts: [1, 1] };
        let plan = Arc::new(CopyPlan::new(vec![vec![block]], vec![PAGE], vec![PAGE]).unwrap());
        let pages = vec![PageCopy { from: leases(from, Access::Read), to: leases(to, Access::Write) }];
        let done = self.stream.copy(CopyBatch { pages, plan, step_done: None }).wait();
        assert!(done.outcomes[0].is_ok(), "{:?}", done.outcomes);
    }

    fn put(&self, slot: usize, bytes: &[u8]) {
        self.host.lease(0, 0, PAGE, Access::Write).unwrap().bytes_mut().unwrap().copy_from_slice(bytes);
        self.copy((&self.host, 0), (&self.device, slot));
    }

    fn get(&self, slot: usize) -> Vec<u8> {
        self.copy((&self.device, slot), (&self.host, 0));
        self.host.lease(0, 0, PAGE, Access::Read).unwrap().bytes().unwrap().to_vec()
    }
}

/// The bytes of page `number`.
fn pattern(number: u8) -> Vec<u8> {
    (0..PAGE).map(|i| (i as u8) ^ ((i >> 8) as u8).wrapping_mul(31) ^ number.wrapping_mul(97)).collect()
}

async fn load(storage: &dyn Storage, name: &str, memory: PageMemory) -> Outcome {
    let key = PageKey::from_text(name).unwrap();
    storage.load(vec![PageRequest::new(key, memory)]).await.outcomes.remove(0)
}

async fn pages_are_stored_loaded_and_verified(context: &Arc<Context>) {
    let directory = tempfile::tempdir().unwrap();
    let (backends, ground) = (stands(), Ground::new(context));
    let opened = open_with(&config(directory.path(), &[("device", "0")]), backends).await.unwrap();
    assert_eq!(opened.backend, "nixl:GDS_MT");
    let storage = opened.storage;
    let registered = storage.register(&ground.device).unwrap();
    let page = |slot, access| registered.page(slot, PAGE, access).unwrap();
    for (slot, name) in ["a", "b"].into_iter().enumerate() {
        ground.put(slot, &pattern(slot as u8));
        ground.put(slot + 2, &[0xee; PAGE]);
        let request = PageRequest::new(PageKey::from_text(name).unwrap(), page(slot, Access::Read));
        let done = storage.store(vec![request], StoreOptions::default()).await;
        assert!(done.outcomes[0].is_done(), "{:?}", done.outcomes);
    }
    assert!(load(&*storage, "a", page(3, Access::Write)).await.is_done());
    assert!(load(&*storage, "b", page(2, Access::Write)).await.is_done());
    assert!(ground.get(3) == pattern(0) && ground.get(2) == pattern(1));

    // The same page in memory of the host, by the same engine.
    let host = Region::allocate(1, PAGE).unwrap();
    let in_host = storage.register(&host).unwrap();
    assert!(load(&*storage, "b", in_host.page(0, PAGE, Access::Write).unwrap()).await.is_done());
    assert!(host.lease(0, 0, PAGE, Access::Read).unwrap().bytes().unwrap() == pattern(1));

    // A byte on the disk changes: that page is not served, and is gone; its neighbour is there.
    assert_eq!(damage(directory.path(), &pattern(1)), 1);
    let Outcome::Failed(error) = load(&*storage, "b", page(2, Access::Write)).await else { panic!("served") };
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(matches!(load(&*storage, "b", page(2, Access::Write)).await, Outcome::Absent));
    ground.put(2, &[0xee; PAGE]);
    assert!(load(&*storage, "a", page(2, Access::Write)).await.is_done());
    assert!(ground.get(2) == pattern(0));
    storage.close().await.unwrap();
}

/// Changes a byte of the page that holds these bytes; how often it was found.
fn damage(directory: &Path, wanted: &[u8]) -> usize {
    let mut changed = 0;
    for segment in walk(directory).into_iter().filter(|path| name_of(path).starts_with("seg-")) {
        let bytes = std::fs::read(&segment).unwrap();
        // Slots start at multiples of this.
        if let Some(at) = (0..bytes.len()).step_by(4096).find(|&at| bytes[at..].starts_with(wanted)) {
            let file = File::options().write(true).open(&segment).unwrap();
            file.write_all_at(&[bytes[at + 9] ^ 1], (at + 9) as u64).unwrap();
            changed += 1;
        }
    }
    changed
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
