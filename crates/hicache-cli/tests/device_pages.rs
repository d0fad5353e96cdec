//! Pages of a GPU through the facade: refused with the reason where there is none, and stored, loaded and verified with a library
//! that stands in for libcuda. It is loaded by its folder, so that test runs in a process of its own.

#![cfg(feature = "gds")]
#![allow(clippy::print_stdout, reason = "tests say what they went without")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use hicache::core::{
    Block, CopyBatch, CopyPlan, Device, PageCopy, PageLeases, Place, Region, Registration, Stream,
};
use hicache::gds::{Context, Cuda, CudaDevice};
use hicache::{Access, Config, ErrorKind, Outcome, PageKey, PageMemory, PageRequest, Storage, StoreOptions};
use serde_json::json;

#[path = "../../gds/tests/standins/mod.rs"]
mod standins;

const PAGE: usize = 64 << 10;
/// What the test prints that has run.
const RAN: &str = "ran with the library that stands in";

fn config(directory: &Path, device: Option<u32>) -> Config {
    let mut builder = Config::builder()
        .set("backend", "gds")
        .set("probe_helper", json!([env!("CARGO_BIN_EXE_hicache")]))
        .set("namespace.model", "m")
        .set("capacity_bytes", "64MiB")
        .set("segment_bytes", "1MiB")
        .storage_dir([directory]);
    if let Some(device) = device {
        builder = builder.set("device", device);
    }
    builder.build().unwrap()
}

#[tokio::test]
async fn a_name_that_can_not_be_served_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let error = hicache::open(&config(directory.path(), None)).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.to_string().contains("`device`"), "{error}");
    if Cuda::load().is_ok() {
        return println!("went without: a machine without a GPU");
    }
    let error = hicache::open(&config(directory.path(), Some(0))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("\"gds\"") && error.to_string().contains("CUDA"), "{error}");
    // `auto` says it of every backend that moves none of that memory.
    let auto = Config::builder().set("device", 0).set("namespace.model", "m").storage_dir([directory.path()]);
    let error = hicache::open(&auto.build().unwrap()).await.unwrap_err().to_string();
    assert!(error.contains("posix-uring was skipped") && error.contains("gds was skipped"), "{error}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is made");
}

#[test]
fn pages_of_a_device_are_stored_loaded_and_verified() {
    let Some(library) = standins::cuda() else { return };
    // Summed on the device; by a kernel that is always wrong, and by one that is at times; without one.
    for (variable, value) in [
        ("STANDIN_KERNELS", ""),
        ("STANDIN_KERNELS", "sums"),
        ("STANDIN_KERNELS", "long"),
        ("STANDIN_PTX", "0"),
    ] {
        let output = Command::new(std::env::current_exe().unwrap())
            .env_clear()
            .env("LD_LIBRARY_PATH", library.path())
            .env(variable, value)
            .args(["--ignored", "--exact", "inside", "--nocapture", "--test-threads", "1"])
            .output()
            .unwrap();
        let text =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(
            output.status.success() && text.contains(RAN),
            "{variable}={value}: {}: {text}",
            output.status
        );
    }
}

/// The bytes of page `number`.
fn pattern(number: u8) -> Vec<u8> {
    (0..PAGE).map(|i| (i as u8) ^ ((i >> 8) as u8).wrapping_mul(31) ^ number.wrapping_mul(97)).collect()
}

/// Memory of the device, and a way to look at it.
struct Ground {
    context: Arc<Context>,
    stream: Arc<dyn Stream>,
    device: Arc<Region>,
    host: Arc<Region>,
}

impl Ground {
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

fn key(name: &str) -> PageKey {
    PageKey::from_text(name).unwrap()
}

async fn store(storage: &dyn Storage, name: &str, memory: PageMemory) -> Outcome {
    let mut done = storage.store(vec![PageRequest::new(key(name), memory)], StoreOptions::default()).await;
    done.outcomes.remove(0)
}

async fn load(storage: &dyn Storage, name: &str, memory: PageMemory) -> Outcome {
    storage.load(vec![PageRequest::new(key(name), memory)]).await.outcomes.remove(0)
}

#[tokio::test]
#[ignore = "a part of the others, which run it in a process of its own"]
async fn inside() {
    let Ok(context) = Cuda::load().and_then(|cuda| cuda.context(0)) else { return };
    if context.name() != "stand-in" {
        return println!("went without: the library that stands in for CUDA's");
    }
    println!("{RAN}");
    let directory = tempfile::tempdir().unwrap();
    let opened = hicache::open(&config(directory.path(), Some(0))).await.unwrap();
    assert_eq!(opened.backend, "gds");
    let storage = opened.storage;
    let device = CudaDevice::new(Arc::clone(&context));
    let ground = Ground {
        stream: device.stream("test").unwrap(),
        device: context.allocate(1, 4, PAGE).unwrap(),
        host: context.allocate_pinned(1, 1, PAGE).unwrap(),
        context,
    };
    let registered = storage.register(&ground.device).unwrap();
    let page = |slot, access| registered.page(slot, PAGE, access).unwrap();
    for (slot, name) in ["a", "b"].into_iter().enumerate() {
        ground.put(slot, &pattern(slot as u8));
        ground.put(slot + 2, &[0xee; PAGE]);
        assert!(store(&*storage, name, page(slot, Access::Read)).await.is_done());
    }
    assert!(load(&*storage, "a", page(3, Access::Write)).await.is_done());
    assert!(load(&*storage, "b", page(2, Access::Write)).await.is_done());
    assert!(ground.get(3) == pattern(0) && ground.get(2) == pattern(1));

    // The same page in memory of the host.
    let host = Region::allocate(1, PAGE).unwrap();
    let in_host = storage.register(&host).unwrap();
    assert!(load(&*storage, "b", in_host.page(0, PAGE, Access::Write).unwrap()).await.is_done());
    assert!(host.lease(0, 0, PAGE, Access::Read).unwrap().bytes().unwrap() == pattern(1));

    // A tensor: memory that somebody else allocated, and uses again as soon as a call returns.
    let tensor = ground.context.allocate(1, 1, PAGE).unwrap();
    // SAFETY: the owner keeps the memory, and nobody else uses it in this test.
    let foreign = unsafe {
        ground.context.foreign(tensor.base().as_ptr() as u64, PAGE, Box::new(Arc::clone(&tensor))).unwrap()
    };
    let foreign: Registration = storage.register(&foreign).unwrap();
    // SAFETY: one piece at a time.
    let piece = |access| unsafe { foreign.piece_of_range(0, PAGE, access) }.unwrap();
    let as_page = |access| PageMemory::from_pieces(vec![piece(access)]).unwrap();
    assert!(load(&*storage, "a", as_page(Access::Write)).await.is_done());
    ground.copy((&tensor, 0), (&ground.device, 2));
    assert!(ground.get(2) == pattern(0));
    assert!(store(&*storage, "c", as_page(Access::Read)).await.is_done());

    // A byte on the disk changes: the page is dropped, and its neighbours are not.
    let segments: Vec<_> =
        walk(directory.path()).into_iter().filter(|path| name_of(path).starts_with("seg-")).collect();
    let mut changed = 0;
    for segment in segments {
        let file = File::options().read(true).write(true).open(&segment).unwrap();
        let bytes = std::fs::read(&segment).unwrap();
        let wanted = pattern(1);
        // Slots start at multiples of this.
        if let Some(at) = (0..bytes.len()).step_by(4096).find(|&at| bytes[at..].starts_with(&wanted)) {
            file.write_all_at(&[bytes[at + 9] ^ 1], (at + 9) as u64).unwrap();
            changed += 1;
        }
    }
    assert_eq!(changed, 1);
    let Outcome::Failed(error) = load(&*storage, "b", page(2, Access::Write)).await else { panic!("served") };
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(matches!(load(&*storage, "b", page(2, Access::Write)).await, Outcome::Absent));
    for name in ["a", "c"] {
        ground.put(2, &[0xee; PAGE]);
        assert!(load(&*storage, name, page(2, Access::Write)).await.is_done());
        assert!(ground.get(2) == pattern(0), "{name}");
    }
    storage.close().await.unwrap();
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn walk(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
